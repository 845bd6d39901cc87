/* The harness's clocks beside those of cmd/host.h: all in nanoseconds. */
#ifndef BENCH_CLOCK_H
#define BENCH_CLOCK_H

#include <stdint.h>
#include <time.h>

#define BENCH_NS_PER_MS 1000000u
#define BENCH_NS_PER_S  1000000000u

/* CPU time of the calling thread, user and system. */
static inline uint64_t gmm__bench_thread_cpu_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	return (uint64_t)now.tv_sec * BENCH_NS_PER_S + (uint64_t)now.tv_nsec;
}

static inline void gmm__bench_sleep_ns(uint64_t ns)
{
	struct timespec left = { (time_t)(ns / BENCH_NS_PER_S), (long)(ns % BENCH_NS_PER_S) };

	while (nanosleep(&left, &left) != 0)
		;
}

static inline double gmm__bench_seconds(uint64_t ns)
{
	return (double)ns / BENCH_NS_PER_S;
}

#endif
