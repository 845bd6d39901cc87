/* The histogram: a time below 32 ns has its own bucket; above, the bucket is the position of the highest bit
 * and the five bits behind it. */
#include "bench/histogram.h"

enum { SUB_BITS = BENCH_HISTOGRAM_SUB_BITS, SUB_COUNT = 1 << SUB_BITS };

static unsigned bucket_of(uint64_t ns)
{
	unsigned shift;
	unsigned bucket;

	if (ns < SUB_COUNT)
		return (unsigned)ns;
	shift = 63u - SUB_BITS - (unsigned)__builtin_clzll(ns);
	bucket = (shift << SUB_BITS) + (unsigned)(ns >> shift);
	return bucket < BENCH_HISTOGRAM_BUCKETS ? bucket : BENCH_HISTOGRAM_BUCKETS - 1;
}

static uint64_t bucket_end(unsigned bucket)
{
	unsigned shift;

	if (bucket < 2 * SUB_COUNT)
		return bucket;
	shift = (bucket >> SUB_BITS) - 1;
	return (((uint64_t)(bucket & (SUB_COUNT - 1)) + SUB_COUNT + 1) << shift) - 1;
}

void gmm__bench_histogram_add(struct bench_histogram *histogram, uint64_t ns)
{
	histogram->buckets[bucket_of(ns)]++;
	histogram->count++;
	if (ns > histogram->max_ns)
		histogram->max_ns = ns;
}

void gmm__bench_histogram_merge(struct bench_histogram *into, const struct bench_histogram *from)
{
	for (unsigned i = 0; i < BENCH_HISTOGRAM_BUCKETS; i++)
		into->buckets[i] += from->buckets[i];
	into->count += from->count;
	if (from->max_ns > into->max_ns)
		into->max_ns = from->max_ns;
}

uint64_t gmm__bench_histogram_percentile(const struct bench_histogram *histogram, double part)
{
	uint64_t wanted = (uint64_t)(part * (double)histogram->count);
	uint64_t seen = 0;

	for (unsigned i = 0; i < BENCH_HISTOGRAM_BUCKETS; i++) {
		seen += histogram->buckets[i];
		if (seen > wanted || (seen == histogram->count && seen > 0))
			return bucket_end(i) < histogram->max_ns ? bucket_end(i) : histogram->max_ns;
	}
	return 0;
}
