/* The counting behind `gmm-dedup estimate`; estimate.h defines what is counted.
 *
 * The array of digests is all the memory there is, so each stage leaves in it what the next one needs:
 *   link    a digest stays only in the first page of its set; the others get that page's number instead
 *   number  pages of shared sets get their pool slot and the number of another page of the set (member)
 *   sets    walks the members of each set: which images have it
 *   runs    looks for consecutive slots, then adds up what each threshold keeps
 */
#include "cmd/estimate.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

const uint32_t gmm__estimate_thresholds[ESTIMATE_THRESHOLDS] = { 1, 2, 4, 8, 16, 64 };

/* Beside what gmm__image_read says about a page. */
#define KIND_MASK   0x03u
#define PAGE_LATER  0x10u /* not the first of its set */
#define PAGE_SHARED 0x20u /* in a set of two or more */

#define SLOT_IS_FILL 0x80000000u /* a fill word's number, not a pool slot */

/* A page of a shared set, in place of its digest. */
struct member {
	uint32_t slot; /* pool slot, or SLOT_IS_FILL and the number of the fill word */
	uint32_t next; /* from the set's first page to its last one, from there downwards; 0 at the end */
};

union page_word {
	uint64_t digest;
	uint64_t first; /* PAGE_LATER, between link and number */
	struct member member;
};

struct model {
	struct gmm__estimate *estimate;
	union page_word *words;
	uint8_t *kinds;
	/* The longest run that uses a slot, or the length of a fill word's extent; up to 64, which is all
	 * that the thresholds and extents ask for. */
	uint8_t *slot_longest;
	uint8_t *fill_longest;
	uint64_t slots;
	uint64_t fills; /* shared fill words */
};

_Static_assert(sizeof(union page_word) == sizeof(uint64_t), "a page must not cost more than its digest");

/* Spreads digests over the table. A trace may hold any words, so their bits cannot be trusted to be random.
 */
static uint64_t scramble(uint64_t x)
{
	x = (x ^ (x >> 32)) * 0x9e3779b97f4a7c15ull;
	x = (x ^ (x >> 29)) * 0xd6e8feb86659fd93ull;
	return x ^ (x >> 32);
}

static bool is_zero(const struct model *m, uint64_t page)
{
	return (m->kinds[page] & KIND_MASK) == IMAGE_PAGE_ZERO;
}

static bool is_fill(const struct model *m, uint64_t page)
{
	return (m->kinds[page] & KIND_MASK) == IMAGE_PAGE_FILL;
}

/* Finds the sets of equal pages. */
static int link_pages(struct model *m)
{
	uint64_t total = m->estimate->total_pages, nonzero = 0, capacity;
	uint32_t *table; /* page + 1 of the first page of each set; 0: free */

	for (uint64_t p = 0; p < total; p++)
		nonzero += !is_zero(m, p);
	capacity = nonzero + nonzero / 3 + 1;
	table = calloc(capacity, sizeof(*table));
	if (!table)
		return -1;
	for (uint64_t p = 0; p < total; p++) {
		uint64_t digest = m->words[p].digest, at;

		if (is_zero(m, p))
			continue;
		at = (uint64_t)(((unsigned __int128)scramble(digest) * capacity) >> 64);
		while (table[at] != 0 && m->words[table[at] - 1].digest != digest)
			at = at + 1 == capacity ? 0 : at + 1;
		if (table[at] == 0) {
			table[at] = (uint32_t)(p + 1);
			continue;
		}
		uint64_t first = table[at] - 1;

		/* An image of bytes knows every fill page, a trace only two: believe the one that knows. */
		if (is_fill(m, p) && !is_fill(m, first))
			m->kinds[first] |= IMAGE_PAGE_FILL; /* was plain or fill */
		m->kinds[first] |= PAGE_SHARED;
		m->kinds[p] |= PAGE_SHARED | PAGE_LATER;
		m->words[p].first = first;
	}
	free(table);
	return 0;
}

/* Gives out pool slots in the order of the first pages, and threads the pages of a set together. */
static void number_slots(struct model *m)
{
	for (uint64_t p = 0; p < m->estimate->total_pages; p++) {
		if (!(m->kinds[p] & PAGE_SHARED))
			continue;
		if (m->kinds[p] & PAGE_LATER) {
			uint64_t first = m->words[p].first;

			if (is_fill(m, first))
				m->kinds[p] |= IMAGE_PAGE_FILL; /* was plain or fill */
			m->words[p].member = m->words[first].member;
			m->words[first].member.next = (uint32_t)p;
		} else {
			m->words[p].member.next = 0;
			m->words[p].member.slot =
				(uint32_t)(is_fill(m, p) ? SLOT_IS_FILL | m->fills++ : m->slots++);
		}
	}
}

/* Counts one set, whose first page belongs to image `first_image`. holders: room for all images. */
static void count_set(struct model *m, uint64_t first, size_t first_image, size_t *holders)
{
	struct gmm__estimate *e = m->estimate;
	size_t count = 0, image = e->image_count - 1;
	uint64_t members = 1;

	holders[count++] = first_image;
	e->images[first_image].shared_pages++;
	for (uint64_t p = m->words[first].member.next; p != 0; p = m->words[p].member.next) {
		while (p < e->images[image].first_page)
			image--;
		e->images[image].shared_pages++;
		members++;
		/* Pages come in descending order: those of one image are neighbours. */
		if (image != first_image && image != holders[count - 1])
			holders[count++] = image;
	}
	/* Ascending but for the first: holders[0] is the least, the others descend. */
	for (size_t i = 0; i < count; i++) {
		e->images[holders[i]].distinct_pages++;
		for (size_t j = i + 1; j < count; j++) {
			size_t low = holders[i == 0 ? 0 : j], high = holders[i == 0 ? j : i];

			e->common[low * e->image_count + high]++;
		}
	}
	if (count == 1)
		e->images[first_image].exclusive_pages++;
	e->shared_sets++;
	e->shared_pages += members;
	if (is_fill(m, first))
		e->fill_saved_pages += members - 1;
}

static int count_sets(struct model *m)
{
	struct gmm__estimate *e = m->estimate;
	size_t *holders = calloc(e->image_count, sizeof(*holders));

	if (!holders)
		return -1;
	for (size_t i = 0; i < e->image_count; i++) {
		struct gmm__estimate_image *image = &e->images[i];
		uint64_t end = image->first_page + image->total_pages;

		for (uint64_t p = image->first_page; p < end; p++) {
			bool later = m->kinds[p] & PAGE_LATER;

			if (is_zero(m, p)) {
				image->zero_pages++;
				continue;
			}
			if (is_fill(m, p)) {
				image->fill_pages++;
				e->fill_sets += !later;
			}
			e->distinct_pages += !later;
			if (!(m->kinds[p] & PAGE_SHARED)) {
				image->unique_pages++;
				image->distinct_pages++;
				image->exclusive_pages++;
			} else if (!later) {
				count_set(m, p, i, holders);
			}
		}
		e->zero_pages += image->zero_pages;
		e->fill_pages += image->fill_pages;
	}
	free(holders);
	e->saved_pages = e->total_pages - e->distinct_pages;
	return 0;
}

/* Counts the run of `length` pages that starts at page start. */
static void count_run(struct model *m, struct gmm__estimate_image *image, uint64_t start, uint64_t length)
{
	struct gmm__estimate *e = m->estimate;
	struct gmm__estimate_run_class *class = &e->run_classes[63 - __builtin_clzll(length)];
	uint32_t slot = m->words[start].member.slot;
	uint8_t longest = length < ESTIMATE_FILL_EXTENT ? (uint8_t)length : ESTIMATE_FILL_EXTENT;

	class->runs++;
	class->pages += length;
	e->runs++;
	e->run_pages += length;
	if (length > e->longest_run_pages)
		e->longest_run_pages = length;
	for (unsigned t = 0; t < ESTIMATE_THRESHOLDS && length >= gmm__estimate_thresholds[t]; t++) {
		image->mappings[t]++;
		e->thresholds[t].mappings++;
		e->thresholds[t].run_pages += length;
	}
	if (slot & SLOT_IS_FILL) {
		uint8_t *extent = &m->fill_longest[slot & ~SLOT_IS_FILL];

		e->fill_runs++;
		e->fill_run_pages += length;
		*extent = longest > *extent ? longest : *extent;
		return;
	}
	for (uint64_t i = slot; i < slot + length; i++)
		m->slot_longest[i] = longest > m->slot_longest[i] ? longest : m->slot_longest[i];
}

/* Does page p, the one after a run of `length` pages, go on with it? */
static bool run_goes_on(const struct model *m, uint64_t p, uint64_t length)
{
	if (length == 0 || !(m->kinds[p] & PAGE_SHARED) || m->kinds[p] & IMAGE_PAGE_BREAK)
		return false;
	uint32_t slot = m->words[p].member.slot, previous = m->words[p - 1].member.slot;

	if (slot & SLOT_IS_FILL)
		return slot == previous && length < ESTIMATE_FILL_EXTENT;
	return slot == previous + 1 && !(previous & SLOT_IS_FILL);
}

static void find_runs(struct model *m)
{
	struct gmm__estimate *e = m->estimate;

	for (size_t i = 0; i < e->image_count; i++) {
		struct gmm__estimate_image *image = &e->images[i];
		uint64_t end = image->first_page + image->total_pages, length = 0;

		for (uint64_t p = image->first_page; p < end; p++) {
			if (run_goes_on(m, p, length)) {
				length++;
				continue;
			}
			if (length > 0)
				count_run(m, image, p - length, length);
			length = m->kinds[p] & PAGE_SHARED ? 1 : 0;
		}
		if (length > 0)
			count_run(m, image, end - length, length);
	}
}

static void sum_thresholds(struct model *m)
{
	struct gmm__estimate *e = m->estimate;

	for (unsigned t = 0; t < ESTIMATE_THRESHOLDS; t++) {
		struct gmm__estimate_threshold *threshold = &e->thresholds[t];

		for (uint64_t slot = 0; slot < m->slots; slot++)
			threshold->pool_pages += m->slot_longest[slot] >= gmm__estimate_thresholds[t];
		for (uint64_t fill = 0; fill < m->fills; fill++)
			if (m->fill_longest[fill] >= gmm__estimate_thresholds[t])
				threshold->pool_pages += m->fill_longest[fill];
		threshold->saved_pages = e->zero_pages + threshold->run_pages - threshold->pool_pages;
		for (size_t i = 0; i < e->image_count; i++)
			if (e->images[i].mappings[t] > threshold->most_mappings)
				threshold->most_mappings = e->images[i].mappings[t];
	}
}

static int count_runs(struct model *m)
{
	/* One more than needed, since calloc(0) may be NULL. */
	m->slot_longest = calloc(m->slots + 1, 1);
	m->fill_longest = calloc(m->fills + 1, 1);
	bool ok = m->slot_longest && m->fill_longest;

	if (ok) {
		find_runs(m);
		sum_thresholds(m);
	}
	free(m->slot_longest);
	free(m->fill_longest);
	return ok ? 0 : -1;
}

int gmm__estimate_compute(uint64_t *digests, uint8_t *kinds, const uint64_t *image_pages, size_t image_count,
	struct gmm__estimate *ret_estimate)
{
	struct gmm__estimate e = { .image_count = image_count };
	struct model m = { .estimate = &e, .words = (union page_word *)digests, .kinds = kinds };

	e.images = calloc(image_count, sizeof(*e.images));
	e.common = calloc(image_count * image_count, sizeof(*e.common));
	if (!e.images || !e.common)
		goto fail;
	for (size_t i = 0; i < image_count; i++) {
		e.images[i].first_page = e.total_pages;
		e.images[i].total_pages = image_pages[i];
		e.total_pages += image_pages[i];
	}
	if (link_pages(&m) < 0)
		goto fail;
	number_slots(&m);
	if (count_sets(&m) < 0 || count_runs(&m) < 0)
		goto fail;
	*ret_estimate = e;
	return 0;
fail:
	gmm__estimate_free(&e);
	errno = ENOMEM;
	return -1;
}

void gmm__estimate_free(struct gmm__estimate *estimate)
{
	free(estimate->images);
	free(estimate->common);
}

uint64_t gmm__estimate_common(const struct gmm__estimate *estimate, size_t i, size_t j)
{
	return estimate->common[(i < j ? i : j) * estimate->image_count + (i < j ? j : i)];
}

uint64_t gmm__estimate_saved_alone(const struct gmm__estimate *estimate, size_t i)
{
	return estimate->images[i].total_pages - estimate->images[i].distinct_pages;
}

uint64_t gmm__estimate_saved_pair(const struct gmm__estimate *estimate, size_t i, size_t j)
{
	return gmm__estimate_saved_alone(estimate, i) + gmm__estimate_saved_alone(estimate, j) +
	       gmm__estimate_common(estimate, i, j);
}

uint64_t gmm__estimate_saved_marginal(const struct gmm__estimate *estimate, size_t i)
{
	return estimate->images[i].total_pages - estimate->images[i].exclusive_pages;
}
