/* How often each content is in the VMs' memory: an open-addressing table of counts by trace word. */
#include "bench/tally.h"

#include "bench/util.h"

#include <stdlib.h>

/* A free entry has word 0, which is counted apart. */
struct bench_tally_entry {
	uint64_t word;
	uint64_t pages;
};

static struct bench_tally_entry *find(const struct bench_tally *tally, uint64_t word)
{
	uint64_t i = gmm__bench_mix(word) & (tally->capacity - 1);

	while (tally->entries[i].word != 0 && tally->entries[i].word != word)
		i = (i + 1) & (tally->capacity - 1);
	return &tally->entries[i];
}

static void add(struct bench_tally *tally, uint64_t word)
{
	struct bench_tally_entry *entry;

	if (word == 0) {
		tally->zero_pages++;
		tally->oracle_pages++;
		return;
	}
	entry = find(tally, word);
	entry->word = word;
	tally->oracle_pages += entry->pages++ > 0;
}

static void take(struct bench_tally *tally, uint64_t word)
{
	if (word == 0) {
		tally->zero_pages--;
		tally->oracle_pages--;
		return;
	}
	tally->oracle_pages -= --find(tally, word)->pages > 0;
}

struct bench_tally gmm__bench_tally_create(const struct bench_guests *guests, uint64_t more)
{
	struct bench_tally tally = { .capacity = 1 };

	while (tally.capacity < 2 * (gmm__bench_guests_pages(guests) + more))
		tally.capacity *= 2;
	tally.entries = gmm__bench_alloc(tally.capacity, sizeof(*tally.entries));
	for (unsigned i = 0; i < guests->count; i++)
		for (uint64_t page = 0; page < guests->vm_pages; page++)
			add(&tally, gmm__bench_vm_word(&guests->vms[i], page));
	return tally;
}

void gmm__bench_tally_rewrite(struct bench_tally *tally, uint64_t from, uint64_t to)
{
	take(tally, from);
	add(tally, to);
}

bool gmm__bench_tally_is_sharable(const struct bench_tally *tally, uint64_t word)
{
	return word == 0 || find(tally, word)->pages > 1;
}

void gmm__bench_tally_free(struct bench_tally *tally)
{
	free(tally->entries);
}
