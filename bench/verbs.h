/* The verbs of gmm-bench. Each takes its own arguments, with argv[0] "gmm-bench VERB", prints its result and
 * returns an exit code. A new verb is one line here, one file, and one line in the table in main.c. */
#ifndef BENCH_VERBS_H
#define BENCH_VERBS_H

#include "bench/run.h"

int bench_converge(int argc, char **argv);
int bench_steady(int argc, char **argv);
int bench_replay(int argc, char **argv);
int bench_alloc(int argc, char **argv);
int bench_footprint(int argc, char **argv);
int bench_cow(int argc, char **argv);
int bench_guest(int argc, char **argv);
int bench_kvm(int argc, char **argv);
int bench_vmcount(int argc, char **argv);
int bench_stages(int argc, char **argv);
int bench_huge(int argc, char **argv);
int bench_modules(int argc, char **argv);
int bench_service(int argc, char **argv);
int bench_qemu(int argc, char **argv);

/* What converge measures, for vmcount too. */
bench_measure_fn gmm__bench_converge_measure;

/* The mappings (VMAs) of this process. */
uint64_t gmm__bench_count_mappings(void);

#endif
