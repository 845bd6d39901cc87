/* Making, filling and checking the VMs' memory. */
#include "bench/guests.h"

#include "bench/util.h"
#include "cmd/host.h"
#include "cmd/trace.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { BLOCK_PAGES = 512, RAM_ALIGN = 2 << 20 };

static struct gmm__trace open_trace(const char *path)
{
	struct gmm__trace trace;
	const char *reason;

	if (gmm__trace_open(path, &trace, &reason) != 0)
		gmm__bench_refuse("%s: %s", path, reason);
	return trace;
}

/* Of a trace that is larger than the VM, blocks of 2 MiB are taken that lie spread over all of it, so that
 * every kind of memory stays in. All traces give the same blocks. */
static uint64_t trace_page(uint64_t page, uint64_t vm_pages, uint64_t trace_pages)
{
	uint64_t block = page / BLOCK_PAGES;
	uint64_t blocks = vm_pages / BLOCK_PAGES;

	if (vm_pages == trace_pages)
		return page;
	return block * (trace_pages / BLOCK_PAGES) / blocks * BLOCK_PAGES + page % BLOCK_PAGES;
}

uint64_t *gmm__bench_guests_read_trace(const struct bench_guests *guests, const char *path)
{
	uint64_t *words = gmm__bench_alloc(guests->vm_pages, sizeof(*words));
	struct gmm__trace trace = open_trace(path);

	if (trace.pages < guests->vm_pages)
		gmm__bench_refuse("%s has fewer pages than the other traces", path);
	for (uint64_t page = 0; page < guests->vm_pages; page++)
		words[page] = trace.words[trace_page(page, guests->vm_pages, trace.pages)];
	gmm__trace_close(&trace);
	return words;
}

/* The smallest trace decides, so that all VMs have one size; then the limit, in whole blocks. */
static uint64_t choose_vm_pages(const struct bench_options *options)
{
	uint64_t pages = UINT64_MAX;

	for (unsigned i = 0; i < options->trace_count && i < options->vms; i++) {
		struct gmm__trace trace = open_trace(options->traces[i]);

		if (trace.pages < pages)
			pages = trace.pages;
		gmm__trace_close(&trace);
	}
	if (options->vm_pages_max > 0 && pages > options->vm_pages_max)
		pages = options->vm_pages_max;
	return pages > BLOCK_PAGES ? pages / BLOCK_PAGES * BLOCK_PAGES : pages;
}

static void check_memory(uint64_t pages)
{
	struct gmm__host_memory memory;
	uint64_t wanted_bytes = pages * GMM_PAGE_SIZE;

	if (gmm__host_memory(&memory) != 0)
		gmm__bench_fail("cannot read /proc/meminfo");
	if (wanted_bytes > memory.available_bytes / 10 * 9)
		gmm__bench_fail("the VMs need %" PRIu64 " MiB and the host has %" PRIu64, wanted_bytes >> 20,
			memory.available_bytes >> 20);
}

static unsigned char *map_ram(uint64_t pages, bool huge)
{
	uint64_t size = pages * GMM_PAGE_SIZE;
	unsigned char *base = mmap(NULL, size + RAM_ALIGN, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	unsigned char *ram;

	if (base == MAP_FAILED)
		gmm__bench_fail("cannot map %" PRIu64 " MiB of RAM", size >> 20);
	ram = (unsigned char *)(((uintptr_t)base + RAM_ALIGN - 1) & ~(uintptr_t)(RAM_ALIGN - 1));
	if (ram > base)
		munmap(base, (size_t)(ram - base));
	if (ram < base + RAM_ALIGN)
		munmap(ram + size, (size_t)(base + RAM_ALIGN - ram));
	if (madvise(ram, size, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE) != 0)
		gmm__bench_fail("cannot say whether the RAM is of huge pages");
	return ram;
}

struct bench_guests *gmm__bench_guests_create(const struct bench_options *options)
{
	struct bench_guests *guests = gmm__bench_alloc(1, sizeof(*guests));

	guests->count = options->vms;
	guests->vm_pages = choose_vm_pages(options);
	guests->vms = gmm__bench_alloc(guests->count, sizeof(*guests->vms));
	check_memory(gmm__bench_guests_pages(guests));
	for (unsigned i = 0; i < guests->count; i++) {
		struct bench_vm *vm = &guests->vms[i];

		vm->ram = map_ram(guests->vm_pages, options->huge_ram);
		vm->words = gmm__bench_guests_read_trace(guests, options->traces[i % options->trace_count]);
		for (uint64_t page = 0; page < guests->vm_pages; page++)
			gmm__trace_fill(gmm__bench_vm_page(vm, page), gmm__bench_vm_word(vm, page));
	}
	return guests;
}

uint64_t gmm__bench_vm_word(const struct bench_vm *vm, uint64_t page)
{
	return le64toh(vm->words[page]);
}

void gmm__bench_vm_rewrite(struct bench_vm *vm, uint64_t page, uint64_t word)
{
	vm->words[page] = htole64(word);
	gmm__trace_fill(gmm__bench_vm_page(vm, page), word);
}

void gmm__bench_guests_add_tags(struct bench_guests *guests)
{
	for (unsigned i = 0; i < guests->count; i++)
		guests->vms[i].tags = gmm__bench_alloc(guests->vm_pages, sizeof(uint64_t));
}

uint64_t gmm__bench_guests_oracle(const struct bench_guests *guests)
{
	struct gmm__trace *traces = gmm__bench_alloc(guests->count, sizeof(*traces));
	const struct gmm__trace **pointers = gmm__bench_alloc(guests->count, sizeof(*pointers));
	uint64_t pages;

	for (unsigned i = 0; i < guests->count; i++) {
		traces[i] = (struct gmm__trace){ .words = guests->vms[i].words, .pages = guests->vm_pages };
		pointers[i] = &traces[i];
	}
	if (gmm__trace_oracle(pointers, guests->count, &pages) != 0)
		gmm__bench_fail("out of memory for the oracle");
	free(pointers);
	free(traces);
	return pages;
}

static bool page_is_right(const struct bench_vm *vm, uint64_t page)
{
	_Alignas(8) unsigned char expected[GMM_PAGE_SIZE];

	if (!vm->tags || vm->tags[page] == 0)
		return gmm__trace_matches(gmm__bench_vm_page(vm, page), gmm__bench_vm_word(vm, page));
	gmm__trace_fill(expected, gmm__bench_vm_word(vm, page));
	memcpy(expected + GMM_PAGE_SIZE - sizeof(uint64_t), &vm->tags[page], sizeof(uint64_t));
	return memcmp(gmm__bench_vm_page(vm, page), expected, GMM_PAGE_SIZE) == 0;
}

bool gmm__bench_guests_verify(const struct bench_guests *guests)
{
	uint64_t wrong = 0;

	for (unsigned i = 0; i < guests->count; i++) {
		for (uint64_t page = 0; page < guests->vm_pages; page++) {
			if (page_is_right(&guests->vms[i], page))
				continue;
			if (wrong++ == 0)
				fprintf(stderr, "gmm-bench: VM %u page %" PRIu64 " has wrong bytes\n", i,
					page);
		}
	}
	if (wrong > 0)
		fprintf(stderr, "gmm-bench: %" PRIu64 " pages have wrong bytes\n", wrong);
	return wrong == 0;
}
