/* Page index: a bucketed open-addressing table, in fingerprint order but for overflow. */
#include "dedup/page_index.h"

#include <errno.h>
#include <string.h>

/* A neighbourhood is a bucket and the next ones; the last bucket has its own behind it, so that nothing wraps. With so many
 * the table can be filled to four fifths before one of them is full; with a quarter of them, to three. */
enum { PROBES = 64, PLACES = PROBES * GMM__BUCKET };
/* Entries in a row, from the first that a search looks at: so many are to be made fewer, but it costs too much where they are
 * so many that no end of them is near. */
enum { CROWDED = 2 * GMM__BUCKET, LONG_ROW = 4 * PLACES };

static size_t bytes_of(uint64_t buckets)
{
	return buckets ? (buckets + PROBES) * GMM__BUCKET * sizeof(struct gmm__index_entry) : 0;
}

/* What a peer says may be no fingerprint of ours. */
static uint32_t key_of(uint32_t fingerprint)
{
	uint32_t key = fingerprint & ~(uint32_t)GMM__INDEX_SHARED;

	return key ? key : GMM__INDEX_SHARED << 1;
}

/* The key of what an entry's `key` holds. */
static uint32_t key_in(uint32_t marked)
{
	return marked & ~(uint32_t)GMM__INDEX_SHARED;
}

static bool has_key(const struct gmm__index_entry *entry, uint32_t key)
{
	return key_in(entry->key) == key && entry->page != GMM__NIL;
}

static struct gmm__index_entry *neighbourhood(const struct gmm__page_index *index, uint32_t key)
{
	return index->entry + ((uint64_t)key * index->buckets >> 32) * GMM__BUCKET;
}

static size_t places_of(const struct gmm__page_index *index)
{
	return bytes_of(index->buckets) / sizeof *index->entry;
}

static const struct gmm__index_entry *end_of(const struct gmm__page_index *index)
{
	return index->entry + places_of(index);
}

void gmm__page_index_destroy(struct gmm__page_index *index)
{
	gmm__mem_unreserve(index->mem, index->entry, index->reserved_bytes);
	gmm__mem_count(index->mem, -(ptrdiff_t)bytes_of(index->buckets));
	index->entry = NULL;
	index->buckets = 0;
}

void gmm__page_index_prefetch(const struct gmm__page_index *index, uint32_t fingerprint)
{
	if (index->buckets)
		__builtin_prefetch(neighbourhood(index, key_of(fingerprint)));
}

/* The next entry with the key, from `entry` on to the end of the neighbourhood; NULL without one. */
static struct gmm__index_entry *find_from(struct gmm__index_entry *entry, const struct gmm__index_entry *end, uint32_t key)
{
	for (; entry < end && entry->key; entry++)
		if (has_key(entry, key))
			return entry;
	return NULL;
}

struct gmm__index_entry *gmm__page_index_find(const struct gmm__page_index *index, uint32_t fingerprint)
{
	uint32_t key = key_of(fingerprint);
	struct gmm__index_entry *start = index->buckets ? neighbourhood(index, key) : NULL;

	/* A candidate is only put where there is no entry, and a shared page takes a candidate's: the first one will do. */
	return start ? find_from(start, start + PLACES, key) : NULL;
}

static bool is_stale(const struct gmm__page_index *index, const struct gmm__index_entry *entry)
{
	return !gmm__index_is_shared(entry) && index->stale(index->stale_arg, entry);
}

/* The first place of the neighbourhood that is free, or stale when told to look for that; NULL without one. */
static struct gmm__index_entry *find_place(const struct gmm__page_index *index, uint32_t key, bool stale)
{
	struct gmm__index_entry *entry = neighbourhood(index, key);

	for (int i = 0; i < PLACES; i++)
		if (!entry[i].key || entry[i].page == GMM__NIL || (stale && is_stale(index, &entry[i])))
			return &entry[i];
	return NULL;
}

/* Where there is no place some candidate is forgotten, the next time another one. False if all are shared pages. */
static bool evict(struct gmm__index_entry *start, struct gmm__index_entry entry)
{
	struct gmm__index_entry *last = NULL;

	for (int i = 0; i < PLACES && (i < GMM__BUCKET || !last); i++) {
		if (gmm__index_is_shared(&start[i]))
			continue;
		if (last)
			*last = start[i];
		last = &start[i];
	}
	if (last)
		*last = entry;
	return last;
}

/* Takes an entry out. What lies behind it moves up, or a search for that would end at the gap. */
static void remove_entry(struct gmm__page_index *index, struct gmm__index_entry *gap)
{
	const struct gmm__index_entry *end = end_of(index);

	for (struct gmm__index_entry *entry = gap + 1; entry < end && entry->key; entry++) {
		if (neighbourhood(index, key_in(entry->key)) > gap)
			continue;
		*gap = *entry;
		gap = entry;
	}
	gap->key = 0;
	index->used--;
}

/* How many lie in a row, up to LONG_ROW. */
static uint32_t row_at(const struct gmm__page_index *index, const struct gmm__index_entry *entry)
{
	const struct gmm__index_entry *end = end_of(index);
	uint32_t n = 0;

	while (n < LONG_ROW && entry + n < end && entry[n].key)
		n++;
	return n;
}

/* A search ends at an empty place: if there were none left, each for what is not there would go through a whole neighbourhood.
 * So where a new entry comes to lie far from its bucket, that one is cleared of what is stale. */
static void sweep(struct gmm__page_index *index, uint32_t key)
{
	struct gmm__index_entry *entry = neighbourhood(index, key), *start = entry;
	uint32_t row = row_at(index, entry);

	if (row < CROWDED || row == LONG_ROW)
		return;
	while (entry < start + GMM__BUCKET) {
		if (entry->key && (entry->page == GMM__NIL || is_stale(index, entry)))
			remove_entry(index, entry);
		else
			entry++;
	}
}

static bool put_or_evict(struct gmm__page_index *index, struct gmm__index_entry entry)
{
	uint32_t key = key_in(entry.key);
	struct gmm__index_entry *place = find_place(index, key, false);

	if (!place)
		place = find_place(index, key, true);
	if (!place)
		return evict(neighbourhood(index, key), entry);
	index->used += place->key == 0;
	*place = entry;
	return true;
}

static void put_again(struct gmm__page_index *index, struct gmm__index_entry entry)
{
	if (entry.key && entry.page != GMM__NIL && !is_stale(index, &entry))
		put_or_evict(index, entry);
}

enum { GROW_PART = 4, LOW = (GROW_PART + 1) * PLACES };

/* Spreads the entries over a quarter more buckets, or even more, in place and from the last one down. Neighbourhoods move
 * up by a quarter of their place: from entry LOW on, each finds its new one free of entries that have not moved
 * yet, however far it lay from its old one's beginning. Those below wait aside. */
static void spread(struct gmm__page_index *index, uint32_t buckets)
{
	size_t old = places_of(index), low = old < LOW ? old : LOW;
	struct gmm__index_entry aside[LOW];

	gmm__mem_count(index->mem, (ptrdiff_t)(bytes_of(buckets) - bytes_of(index->buckets)));
	index->buckets = buckets;
	index->used = 0;
	memcpy(aside, index->entry, low * sizeof *aside);
	memset(index->entry, 0, low * sizeof *aside);
	for (size_t i = old; i-- > low;) {
		struct gmm__index_entry entry = index->entry[i];
		index->entry[i].key = 0;
		put_again(index, entry);
	}
	for (size_t i = 0; i < low; i++)
		put_again(index, aside[i]);
}

static uint64_t grown(const struct gmm__page_index *index)
{
	return index->buckets + index->buckets / GROW_PART + (uint64_t)PROBES;
}

/* Moves the table to where it may grow to so many buckets. */
static int make_room(struct gmm__page_index *index, uint64_t most)
{
	struct gmm__page_index moved = *index;

	if (bytes_of(most) <= index->reserved_bytes)
		return 0;
	if (most > UINT32_MAX)
		return -ENOMEM;
	moved.reserved_bytes = bytes_of(most);
	moved.entry = gmm__mem_reserve(moved.mem, moved.reserved_bytes);
	if (!moved.entry)
		return -ENOMEM;
	if (index->buckets)
		memcpy(moved.entry, index->entry, bytes_of(index->buckets));
	gmm__mem_unreserve(index->mem, index->entry, index->reserved_bytes);
	*index = moved;
	return 0;
}

int gmm__page_index_reserve(struct gmm__page_index *index, uint64_t pages)
{
	uint64_t buckets = pages * 5 / 8 / GMM__BUCKET + 1;
	int rc = make_room(index, pages * 3 / 2 / GMM__BUCKET + PROBES);

	if (rc == 0 && buckets > index->buckets)
		spread(index, (uint32_t)(buckets > grown(index) ? buckets : grown(index)));
	return rc;
}

static bool has_place(const struct gmm__page_index *index, uint32_t key)
{
	return index->buckets && (find_place(index, key, false) || find_place(index, key, true));
}

/* A neighbourhood is full of entries that are no more alike than chance will have it. One that is full in a table with room
 * all around has entries of one fingerprint, or nearly so, which no table keeps apart. */
static bool may_grow(const struct gmm__page_index *index)
{
	return index->used >= places_of(index) / 2;
}

/* Within the address space. */
static void grow(struct gmm__page_index *index)
{
	if (may_grow(index) && bytes_of(grown(index)) <= index->reserved_bytes)
		spread(index, (uint32_t)grown(index));
}

void gmm__page_index_put(struct gmm__page_index *index, uint32_t fingerprint, gmm__page_id page)
{
	uint32_t key = key_of(fingerprint);

	if (!index->buckets)
		return;
	sweep(index, key);
	if (!has_place(index, key))
		grow(index);
	put_or_evict(index, (struct gmm__index_entry){ key, page });
}

int gmm__page_index_share(struct gmm__page_index *index, uint32_t fingerprint, gmm__page_id page)
{
	enum { BUCKETS_MIN = 1024 }; /* of address space */
	uint32_t key = key_of(fingerprint);
	struct gmm__index_entry entry = { key | GMM__INDEX_SHARED, page };
	struct gmm__index_entry *there = gmm__page_index_find(index, fingerprint);

	if (there && !gmm__index_is_shared(there)) {
		*there = entry;
		return 0;
	}
	sweep(index, key);
	if (!has_place(index, key)) {
		/* A pool may be taken over before there is any VM to say how large the domain is. */
		if (may_grow(index) && bytes_of(grown(index)) > index->reserved_bytes)
			make_room(index, BUCKETS_MIN + 2ull * index->buckets);
		grow(index);
	}
	return index->buckets && put_or_evict(index, entry) ? 0 : -ENOMEM;
}

bool gmm__page_index_replace(struct gmm__page_index *index, uint32_t fingerprint, gmm__page_id page, gmm__page_id to)
{
	uint32_t key = key_of(fingerprint);
	struct gmm__index_entry *start = index->buckets ? neighbourhood(index, key) : NULL, *end = start + PLACES;
	struct gmm__index_entry *entry = start ? find_from(start, end, key) : NULL;

	while (entry && (entry->page != page || !gmm__index_is_shared(entry)))
		entry = find_from(entry + 1, end, key);
	if (entry)
		entry->page = to;
	return entry;
}
