/* Settings of the whole host that a run changes: vm.max_map_count and /sys/kernel/mm/ksm. The program's first
 * process remembers what it found and puts it back after each run, when it ends and when a signal ends it. */
#ifndef BENCH_TUNABLES_H
#define BENCH_TUNABLES_H

#include <stdint.h>
#include <sys/types.h>

/* Arranges for signals and exit to put everything back. Call once, in the first process. */
void gmm__bench_tunables_init(void);

/* The child that works on the changed host: killed and reaped before a signal puts things back. 0: none. */
void gmm__bench_tunables_set_child(pid_t child);

/* Called in a forked child: signals end it as usual, and it puts nothing back. */
void gmm__bench_tunables_leave(void);

/* Remembers the present value of a file, to be put back later. Put back are the last remembered first. */
void gmm__bench_tunable_save(const char *path);

/* Has a fixed value written when things are put back, in the same order. */
void gmm__bench_tunable_restore_with(const char *path, uint64_t value);

void gmm__bench_tunable_write(const char *path, uint64_t value);

/* Puts everything back now. */
void gmm__bench_tunables_restore(void);

#endif
