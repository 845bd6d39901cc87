/* Candidate index: a bucketed open-addressing table of hints. */
#include "dedup/candidate_index.h"

#include <errno.h>
#include <string.h>

enum { PROBES = 4, LINE = 64 };

static uint32_t bucket_of(const struct gmm__candidates *candidates, uint32_t fingerprint)
{
	return (uint32_t)((uint64_t)fingerprint * candidates->buckets >> 32);
}

static struct gmm__candidate *bucket_at(const struct gmm__candidates *candidates, uint32_t fingerprint, uint32_t probe)
{
	uint32_t bucket = bucket_of(candidates, fingerprint) + probe;

	if (bucket >= candidates->buckets)
		bucket -= candidates->buckets;
	return candidates->entry + (size_t)bucket * GMM__BUCKET;
}

void gmm__candidates_destroy(struct gmm__candidates *candidates)
{
	gmm__mem_free(candidates->mem, candidates->memory, candidates->memory_bytes);
	candidates->memory = NULL;
	candidates->entry = NULL;
	candidates->buckets = 0;
}

int gmm__candidates_reserve(struct gmm__candidates *candidates, uint64_t pages)
{
	uint64_t buckets = pages / GMM__BUCKET + PROBES;

	if (buckets <= candidates->buckets)
		return 0;
	if (buckets > UINT32_MAX)
		buckets = UINT32_MAX;
	struct gmm__candidates grown = { .mem = candidates->mem, .buckets = (uint32_t)buckets,
					 .memory_bytes = buckets * GMM__BUCKET * sizeof(struct gmm__candidate) + LINE };
	grown.memory = gmm__mem_alloc(grown.mem, grown.memory_bytes);
	if (!grown.memory)
		return -ENOMEM;
	grown.entry = (void *)(((uintptr_t)grown.memory + LINE - 1) & ~(uintptr_t)(LINE - 1));
	for (size_t i = 0; i < (size_t)candidates->buckets * GMM__BUCKET; i++)
		if (candidates->entry[i].fingerprint)
			gmm__candidates_put(&grown, candidates->entry[i].fingerprint, candidates->entry[i].page);
	gmm__candidates_destroy(candidates);
	*candidates = grown;
	return 0;
}

void gmm__candidates_prefetch(const struct gmm__candidates *candidates, uint32_t fingerprint)
{
	if (candidates->buckets)
		__builtin_prefetch(bucket_at(candidates, fingerprint, 0));
}

struct gmm__candidate *gmm__candidates_find(struct gmm__candidates *candidates, uint32_t fingerprint)
{
	for (uint32_t probe = 0; candidates->buckets && probe < PROBES; probe++) {
		struct gmm__candidate *entry = bucket_at(candidates, fingerprint, probe);
		for (int i = 0; i < GMM__BUCKET; i++) {
			if (entry[i].fingerprint == fingerprint)
				return &entry[i];
			if (!entry[i].fingerprint)
				return NULL;
		}
	}
	return NULL;
}

void gmm__candidates_put(struct gmm__candidates *candidates, uint32_t fingerprint, gmm__page_id page)
{
	struct gmm__candidate put = { fingerprint, page };

	if (!candidates->buckets)
		return;
	for (uint32_t probe = 0; probe < PROBES; probe++) {
		struct gmm__candidate *entry = bucket_at(candidates, fingerprint, probe);
		for (int i = 0; i < GMM__BUCKET; i++) {
			if (!entry[i].fingerprint) {
				entry[i] = put;
				return;
			}
		}
	}
	/* All full: the first bucket forgets its oldest hint. */
	struct gmm__candidate *entry = bucket_at(candidates, fingerprint, 0);
	memmove(entry, entry + 1, (GMM__BUCKET - 1) * sizeof *entry);
	entry[GMM__BUCKET - 1] = put;
}
