/* What the host's kernel says about its memory, this process and time; see host.h. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cmd/host.h"

int gmm__host_memory(struct gmm__host_memory *ret_memory)
{
	struct gmm__host_memory memory = { 0 };
	const struct {
		const char *name;
		uint64_t *bytes;
	} fields[] = {
		{ "MemAvailable", &memory.available_bytes },
		{ "AnonPages", &memory.anonymous_bytes },
		{ "Shmem", &memory.shmem_bytes },
		{ "Slab", &memory.slab_bytes },
		{ "PageTables", &memory.page_tables_bytes },
	};
	const size_t field_count = sizeof(fields) / sizeof(fields[0]);

	FILE *file = fopen("/proc/meminfo", "re");
	if (!file)
		return -1;
	size_t found = 0;
	char line[256];
	while (fgets(line, sizeof(line), file)) {
		char name[64];
		uint64_t kib;
		if (sscanf(line, "%63[^:]: %" SCNu64 " kB", name, &kib) != 2)
			continue;
		for (size_t i = 0; i < field_count; i++) {
			if (strcmp(name, fields[i].name) == 0) {
				*fields[i].bytes = kib * 1024;
				found++;
			}
		}
	}
	fclose(file);
	if (found != field_count) {
		errno = ENODATA;
		return -1;
	}
	*ret_memory = memory;
	return 0;
}

uint64_t gmm__host_memory_used(const struct gmm__host_memory *memory)
{
	return memory->anonymous_bytes + memory->shmem_bytes + memory->slab_bytes + memory->page_tables_bytes;
}

int gmm__host_mappings(uint64_t *ret_count)
{
	int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	char buffer[16384];
	uint64_t count = 0;
	ssize_t got;
	while ((got = read(fd, buffer, sizeof(buffer))) > 0)
		for (ssize_t i = 0; i < got; i++)
			count += buffer[i] == '\n';
	int error = errno;
	close(fd);
	if (got < 0) {
		errno = error;
		return -1;
	}
	*ret_count = count;
	return 0;
}

int gmm__host_max_mappings(uint64_t *ret_count)
{
	FILE *file = fopen("/proc/sys/vm/max_map_count", "re");
	if (!file)
		return -1;
	int fields = fscanf(file, "%" SCNu64, ret_count);
	fclose(file);
	if (fields == 1)
		return 0;
	errno = ENODATA;
	return -1;
}

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec now;
	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

uint64_t gmm__host_cpu_ns(void)
{
	return clock_ns(CLOCK_PROCESS_CPUTIME_ID);
}

uint64_t gmm__host_now_ns(void)
{
	return clock_ns(CLOCK_MONOTONIC);
}
