/* A histogram of times from 1 ns to hours: 32 buckets for each power of two, so that a percentile is true to
 * 3 %. */
#ifndef BENCH_HISTOGRAM_H
#define BENCH_HISTOGRAM_H

#include <stdint.h>

enum { BENCH_HISTOGRAM_SUB_BITS = 5, BENCH_HISTOGRAM_BUCKETS = 45 << BENCH_HISTOGRAM_SUB_BITS };

struct bench_histogram {
	uint64_t count;
	uint64_t max_ns;
	uint64_t buckets[BENCH_HISTOGRAM_BUCKETS];
};

void gmm__bench_histogram_add(struct bench_histogram *histogram, uint64_t ns);
void gmm__bench_histogram_merge(struct bench_histogram *into, const struct bench_histogram *from);

/* The time that the given part of all samples (0 to 1) did not exceed, rounded up to the end of its bucket.
 */
uint64_t gmm__bench_histogram_percentile(const struct bench_histogram *histogram, double part);

#endif
