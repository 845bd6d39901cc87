/* How often each content is in the VMs' memory, and so the most that sharing can save, kept up to date while pages are
 * rewritten. */
#ifndef BENCH_TALLY_H
#define BENCH_TALLY_H

#include "bench/guests.h"

#include <stdint.h>

struct bench_tally {
	struct bench_tally_entry *entries;
	uint64_t capacity; /* a power of two */
	uint64_t zero_pages;
	uint64_t oracle_pages; /* zero pages, and all copies of other contents but one */
};

/* Counts what the VMs contain. At most so many contents may come that none of them has now. */
struct bench_tally gmm__bench_tally_create(const struct bench_guests *guests, uint64_t more);

/* One page has another content now. */
void gmm__bench_tally_rewrite(struct bench_tally *tally, uint64_t from, uint64_t to);

/* Whether a page of this content can be saved, or share with one that is. */
bool gmm__bench_tally_is_sharable(const struct bench_tally *tally, uint64_t word);

void gmm__bench_tally_free(struct bench_tally *tally);

#endif
