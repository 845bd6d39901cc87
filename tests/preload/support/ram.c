#include "tests/preload/support/ram.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { WAIT_SECONDS = 60 };

void ram_check(bool condition, const char *text, const char *file, int line)
{
	if (condition)
		return;
	fprintf(stderr, "%s:%d: not so: %s\n", file, line, text);
	_Exit(1);
}

uint8_t *ram_map(size_t bytes)
{
	uint8_t *ram = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(ram != MAP_FAILED);
	CHECK(madvise(ram, bytes, MADV_NOHUGEPAGE) == 0);
	return ram;
}

static uint64_t word_of(size_t page)
{
	return 0x9e3779b97f4a7c15u * (page % 128 + 1);
}

void ram_fill(uint8_t *ram, size_t first_page, size_t pages)
{
	for (size_t page = first_page; page < first_page + pages; page++)
		for (size_t i = 0; i < PAGE / 8; i++)
			((uint64_t *)(ram + page * PAGE))[i] = word_of(page) + i;
}

bool ram_is_right(const uint8_t *ram, size_t first_page, size_t pages)
{
	for (size_t page = first_page; page < first_page + pages; page++)
		for (size_t i = 0; i < PAGE / 8; i++)
			if (((const volatile uint64_t *)(ram + page * PAGE))[i] != word_of(page) + i)
				return false;
	return true;
}

bool ram_is_zero(const uint8_t *ram, size_t first_page, size_t pages)
{
	for (size_t i = first_page * PAGE; i < (first_page + pages) * PAGE; i++)
		if (((const volatile uint8_t *)ram)[i] != 0)
			return false;
	return true;
}

size_t ram_pool_pages(const uint8_t *ram, size_t bytes)
{
	uintptr_t start = (uintptr_t)ram, end = start + bytes, from, to;
	char line[512];
	size_t pages = 0;
	FILE *maps = fopen("/proc/thread-self/maps", "re");

	CHECK(maps);
	while (fgets(line, sizeof line, maps)) {
		if (sscanf(line, "%lx-%lx", &from, &to) != 2 || !strstr(line, "gmm") || to <= start || from >= end)
			continue;
		pages += ((to < end ? to : end) - (from > start ? from : start)) / PAGE;
	}
	fclose(maps);
	return pages;
}

static void nap(void)
{
	nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
}

static time_t now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec;
}

static void wait_mapped(const uint8_t *ram, size_t bytes, size_t pages)
{
	time_t end = now() + WAIT_SECONDS;

	while (ram_pool_pages(ram, bytes) < pages) {
		CHECK(now() < end);
		nap();
	}
}

void ram_wait_shared(const uint8_t *ram, size_t bytes)
{
	wait_mapped(ram, bytes, bytes / PAGE * 3 / 4);
}

bool ram_is_own_copy(const uint8_t *at)
{
	uint64_t entry = 0;
	int fd = open("/proc/thread-self/pagemap", O_RDONLY | O_CLOEXEC);

	CHECK(fd >= 0 && pread(fd, &entry, 8, (off_t)((uintptr_t)at / PAGE * 8)) == 8);
	close(fd);
	return (entry >> 63 & 1 && !(entry >> 61 & 1)) || entry >> 62 & 1; /* present, and not of a file; or in swap */
}

static bool is_all_shared(const uint8_t *ram, size_t bytes)
{
	if (ram_pool_pages(ram, bytes) != bytes / PAGE)
		return false;
	for (size_t at = 0; at < bytes; at += PAGE)
		if (ram_is_own_copy(ram + at))
			return false;
	return true;
}

void ram_wait_all_shared(const uint8_t *ram, size_t bytes)
{
	time_t end = now() + WAIT_SECONDS;

	while (!is_all_shared(ram, bytes)) {
		CHECK(now() < end);
		nap();
	}
}

uint8_t *ram_shared(void)
{
	uint8_t *ram = ram_map(RAM_BYTES);

	ram_fill(ram, 0, RAM_PAGES);
	CHECK(madvise(ram, RAM_BYTES, MADV_MERGEABLE) == 0);
	wait_mapped(ram, RAM_BYTES, RAM_PAGES); /* nobody writes to it meanwhile */
	CHECK(ram_is_right(ram, 0, RAM_PAGES));
	return ram;
}
