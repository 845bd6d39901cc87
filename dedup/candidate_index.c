/* Candidate index: a bucketed open-addressing table of hints, in fingerprint order but for overflow. */
#include "dedup/candidate_index.h"

#include <errno.h>
#include <string.h>

/* A neighbourhood is a bucket and the next ones; the last bucket has its own behind it, so that nothing wraps. */
enum { PROBES = 16 };

static size_t bytes_of(uint64_t buckets)
{
	return buckets ? (buckets + PROBES) * GMM__BUCKET * sizeof(struct gmm__candidate) : 0;
}

static struct gmm__candidate *neighbourhood(const struct gmm__candidates *candidates, uint32_t fingerprint)
{
	return candidates->entry + ((uint64_t)fingerprint * candidates->buckets >> 32) * GMM__BUCKET;
}

void gmm__candidates_destroy(struct gmm__candidates *candidates)
{
	gmm__mem_unreserve(candidates->mem, candidates->entry, candidates->reserved_bytes);
	gmm__mem_count(candidates->mem, -(ptrdiff_t)bytes_of(candidates->buckets));
	candidates->entry = NULL;
	candidates->buckets = 0;
}

void gmm__candidates_prefetch(const struct gmm__candidates *candidates, uint32_t fingerprint)
{
	if (candidates->buckets)
		__builtin_prefetch(neighbourhood(candidates, fingerprint));
}

struct gmm__candidate *gmm__candidates_find(struct gmm__candidates *candidates, uint32_t fingerprint)
{
	struct gmm__candidate *entry = candidates->buckets ? neighbourhood(candidates, fingerprint) : NULL;

	for (int i = 0; entry && i < PROBES * GMM__BUCKET; i++) {
		if (entry[i].fingerprint == fingerprint)
			return &entry[i];
		if (!entry[i].fingerprint)
			return NULL;
	}
	return NULL;
}

/* The first place of the neighbourhood that is empty, or stale when told to look for that; NULL without one. */
static struct gmm__candidate *find_place(const struct gmm__candidates *candidates, uint32_t fingerprint, bool stale)
{
	struct gmm__candidate *entry = neighbourhood(candidates, fingerprint);

	for (int i = 0; i < PROBES * GMM__BUCKET; i++)
		if (!entry[i].fingerprint || (stale && candidates->stale(candidates->stale_arg, &entry[i])))
			return &entry[i];
	return NULL;
}

/* Without a place the first bucket forgets its oldest entry. */
static void put_or_evict(struct gmm__candidates *candidates, struct gmm__candidate entry)
{
	struct gmm__candidate *place = find_place(candidates, entry.fingerprint, false);

	if (!place)
		place = find_place(candidates, entry.fingerprint, true);
	if (!place) {
		place = neighbourhood(candidates, entry.fingerprint);
		memmove(place, place + 1, (GMM__BUCKET - 1) * sizeof *place);
		place += GMM__BUCKET - 1;
	}
	*place = entry;
}

static void put_again(struct gmm__candidates *candidates, struct gmm__candidate entry)
{
	if (entry.fingerprint && !candidates->stale(candidates->stale_arg, &entry))
		put_or_evict(candidates, entry);
}

enum { LOW = 1024, GROW_PART = 4 };

/* Spreads the entries over a quarter more buckets, or even more, in place and from the last one down. Neighbourhoods move
 * up by a quarter of their place: from entry LOW on, which is many times their size, each finds its new one free of
 * entries that have not moved yet. Those below wait aside. */
static void spread(struct gmm__candidates *candidates, uint32_t buckets)
{
	size_t old = bytes_of(candidates->buckets) / sizeof *candidates->entry, low = old < LOW ? old : LOW;
	struct gmm__candidate aside[LOW];

	gmm__mem_count(candidates->mem, (ptrdiff_t)(bytes_of(buckets) - bytes_of(candidates->buckets)));
	candidates->buckets = buckets;
	memcpy(aside, candidates->entry, low * sizeof *aside);
	memset(candidates->entry, 0, low * sizeof *aside);
	for (size_t i = old; i-- > low;) {
		struct gmm__candidate entry = candidates->entry[i];
		candidates->entry[i].fingerprint = 0;
		put_again(candidates, entry);
	}
	for (size_t i = 0; i < low; i++)
		put_again(candidates, aside[i]);
}

static uint64_t grown(const struct gmm__candidates *candidates)
{
	return candidates->buckets + candidates->buckets / GROW_PART + 1ull;
}

/* Moves the table to where it may grow to so many buckets. */
static int make_room(struct gmm__candidates *candidates, uint64_t most)
{
	struct gmm__candidates moved = *candidates;

	if (bytes_of(most) <= candidates->reserved_bytes)
		return 0;
	if (most > UINT32_MAX)
		return -ENOMEM;
	moved.reserved_bytes = bytes_of(most);
	moved.entry = gmm__mem_reserve(moved.mem, moved.reserved_bytes);
	if (!moved.entry)
		return -ENOMEM;
	if (candidates->buckets)
		memcpy(moved.entry, candidates->entry, bytes_of(candidates->buckets));
	gmm__mem_unreserve(candidates->mem, candidates->entry, candidates->reserved_bytes);
	*candidates = moved;
	return 0;
}

int gmm__candidates_reserve(struct gmm__candidates *candidates, uint64_t pages)
{
	uint64_t buckets = pages * 5 / 8 / GMM__BUCKET + 1;
	int rc = make_room(candidates, pages * 3 / 2 / GMM__BUCKET + 1);

	if (rc == 0 && buckets > candidates->buckets)
		spread(candidates, (uint32_t)(buckets > grown(candidates) ? buckets : grown(candidates)));
	return rc;
}

void gmm__candidates_put(struct gmm__candidates *candidates, uint32_t fingerprint, gmm__page_id page)
{
	if (!candidates->buckets)
		return;
	if (!find_place(candidates, fingerprint, false) && !find_place(candidates, fingerprint, true)) {
		if (bytes_of(grown(candidates)) <= candidates->reserved_bytes)
			spread(candidates, (uint32_t)grown(candidates)); /* else a hint is lost */
	}
	put_or_evict(candidates, (struct gmm__candidate){ fingerprint, page });
}
