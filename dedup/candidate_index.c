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

/* The first entry of the neighbourhood that is empty, or stale when told to look for that; NULL without one. */
static struct gmm__candidate *find_place(const struct gmm__candidates *candidates, uint32_t fingerprint, bool stale)
{
	for (uint32_t probe = 0; probe < PROBES; probe++) {
		struct gmm__candidate *entry = bucket_at(candidates, fingerprint, probe);
		for (int i = 0; i < GMM__BUCKET; i++)
			if (!entry[i].fingerprint || (stale && candidates->stale(candidates->stale_arg, &entry[i])))
				return &entry[i];
	}
	return NULL;
}

/* Without a place the first bucket forgets its oldest entry. */
static void put_or_evict(struct gmm__candidates *candidates, struct gmm__candidate entry)
{
	struct gmm__candidate *place = find_place(candidates, entry.fingerprint, false);

	if (!place)
		place = find_place(candidates, entry.fingerprint, true);
	if (!place) {
		place = bucket_at(candidates, entry.fingerprint, 0);
		memmove(place, place + 1, (GMM__BUCKET - 1) * sizeof *place);
		place += GMM__BUCKET - 1;
	}
	*place = entry;
}

static int grow(struct gmm__candidates *candidates, uint64_t buckets)
{
	if (buckets > UINT32_MAX)
		return -ENOMEM;
	struct gmm__candidates grown = *candidates;
	grown.buckets = (uint32_t)buckets;
	grown.memory_bytes = buckets * GMM__BUCKET * sizeof(struct gmm__candidate) + LINE;
	grown.memory = gmm__mem_alloc(grown.mem, grown.memory_bytes);
	if (!grown.memory)
		return -ENOMEM;
	grown.entry = (void *)(((uintptr_t)grown.memory + LINE - 1) & ~(uintptr_t)(LINE - 1));
	for (size_t i = 0; i < (size_t)candidates->buckets * GMM__BUCKET; i++)
		if (candidates->entry[i].fingerprint)
			put_or_evict(&grown, candidates->entry[i]);
	gmm__candidates_destroy(candidates);
	*candidates = grown;
	return 0;
}

int gmm__candidates_reserve(struct gmm__candidates *candidates, uint64_t pages)
{
	uint64_t buckets = pages * 5 / 8 / GMM__BUCKET + PROBES;

	return buckets <= candidates->buckets ? 0 : grow(candidates, buckets);
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
	if (!candidates->buckets)
		return;
	if (!find_place(candidates, fingerprint, false) && !find_place(candidates, fingerprint, true))
		grow(candidates, (uint64_t)candidates->buckets * 3 / 2); /* else a hint is lost */
	put_or_evict(candidates, (struct gmm__candidate){ fingerprint, page });
}
