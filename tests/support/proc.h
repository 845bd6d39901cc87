/* What the kernel says about this process: descriptors, mappings, threads, the attributes of a range. */
#ifndef TESTS_SUPPORT_PROC_H
#define TESTS_SUPPORT_PROC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

size_t proc_fds(void);
size_t proc_threads(void);
size_t proc_maps(void);

/* Memory behind the open descriptors of this process that are files in memory, in kB. */
uint64_t proc_memory_files_kb(void);

/* The sum of a field of /proc/self/smaps ("AnonHugePages", "Swap") over the mappings that touch the range. */
uint64_t proc_smaps_kb(const void *addr, size_t size, const char *field);

/* How many mappings touch the range, and how many of these have the flag in their VmFlags ("dd"). */
size_t proc_mappings(const void *addr, size_t size);
size_t proc_mappings_with_flag(const void *addr, size_t size, const char *flag);

/* How many mappings that touch the range are of a file (pool mappings are). */
size_t proc_file_mappings(const void *addr, size_t size);

/* Pages of the range that are in swap, by /proc/self/pagemap. */
size_t proc_swapped_pages(const void *addr, size_t size);

/* A number in a file such as /proc/sys/vm/nr_hugepages; false if that is impossible. */
bool proc_read_number(const char *path, long *ret_value);
bool proc_write_number(const char *path, long value);

#endif
