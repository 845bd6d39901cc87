/* What the host's kernel says about its memory, this process and time: read from /proc, not from the library,
 * so that what the library claims can be checked against it.
 *
 * Functions that return int give 0, or -1 with errno set.
 */
#ifndef CMD_HOST_H
#define CMD_HOST_H

#include <stdint.h>

struct gmm__host_memory {
	uint64_t available_bytes;   /* MemAvailable */
	uint64_t anonymous_bytes;   /* AnonPages */
	uint64_t shmem_bytes;       /* Shmem: tmpfs, memfd */
	uint64_t slab_bytes;        /* Slab: VMAs and the like */
	uint64_t page_tables_bytes; /* PageTables */
};

int gmm__host_memory(struct gmm__host_memory *ret_memory);

/* The memory in use that sharing frees or costs: anonymous + shmem + slab + page tables. MemFree would
 * understate what was freed, since freed pages stay on lists of the CPUs for a while. */
uint64_t gmm__host_memory_used(const struct gmm__host_memory *memory);

/* The mappings (VMAs) of this process, and how many it may have (vm.max_map_count). */
int gmm__host_mappings(uint64_t *ret_count);
int gmm__host_max_mappings(uint64_t *ret_count);

/* CPU time of this process, user and system, all threads; and a clock that never goes back. */
uint64_t gmm__host_cpu_ns(void);
uint64_t gmm__host_now_ns(void);

#endif
