/* A tally of ids, as an open hash table. */
#include "gmm/tally.h"

#include <string.h>

enum { SIZE_MIN = 8 };

/* The table is at most this full. */
static uint32_t room_of(uint32_t size)
{
	return size - size / 8 - size / 64 - 1;
}

/* Home of an id: the upper part of a product spreads over any size, not powers of two alone. */
static uint32_t home_of(const struct gmm__tally *tally, uint32_t id)
{
	uint32_t mixed = (id ^ id >> 15) * 0x9e3779b1u;

	mixed ^= mixed >> 13;
	return (uint32_t)((uint64_t)(mixed * 0x85ebca6bu) * tally->size >> 32);
}

static uint32_t next_of(const struct gmm__tally *tally, uint32_t i)
{
	return i + 1 == tally->size ? 0 : i + 1;
}

/* Where the id is, or the empty entry where it would be. */
static uint32_t find(const struct gmm__tally *tally, uint32_t id)
{
	uint32_t i = home_of(tally, id);

	while (tally->entry[i].count && tally->entry[i].id != id)
		i = next_of(tally, i);
	return i;
}

static bool resize(struct gmm__tally *tally, struct gmm__mem *mem, uint64_t size)
{
	struct gmm__tally larger = { .size = (uint32_t)size, .ids = tally->ids, .total = tally->total };

	if (size > UINT32_MAX || !(larger.entry = gmm__mem_alloc(mem, size * sizeof *larger.entry)))
		return false;
	for (uint32_t i = 0; i < tally->size; i++)
		if (tally->entry[i].count)
			larger.entry[find(&larger, tally->entry[i].id)] = tally->entry[i];
	gmm__tally_destroy(tally, mem);
	*tally = larger;
	return true;
}

bool gmm__tally_reserve(struct gmm__tally *tally, struct gmm__mem *mem, uint32_t more)
{
	uint64_t need = (uint64_t)tally->ids + more, size = tally->size ? tally->size : SIZE_MIN;

	if (tally->size && need <= room_of(tally->size))
		return true;
	while (need > room_of((uint32_t)size)) {
		size += size / 2;
		if (size > UINT32_MAX)
			return false;
	}
	return resize(tally, mem, size);
}

void gmm__tally_destroy(struct gmm__tally *tally, struct gmm__mem *mem)
{
	gmm__mem_free(mem, tally->entry, tally->size * sizeof *tally->entry);
	*tally = (struct gmm__tally){ 0 };
}

uint32_t gmm__tally_count(const struct gmm__tally *tally, uint32_t id)
{
	return tally->size ? tally->entry[find(tally, id)].count : 0;
}

void gmm__tally_add(struct gmm__tally *tally, uint32_t id, uint32_t count)
{
	struct gmm__tally_entry *entry = &tally->entry[find(tally, id)];

	tally->ids += entry->count == 0;
	entry->id = id;
	entry->count += count;
	tally->total += count;
}

/* Closes the gap at `gap`: entries behind it that would not be found across an empty one move up. */
static void close_gap(struct gmm__tally *tally, uint32_t gap)
{
	for (uint32_t i = next_of(tally, gap); tally->entry[i].count; i = next_of(tally, i)) {
		uint32_t home = home_of(tally, tally->entry[i].id);
		bool stays = gap < i ? home > gap && home <= i : home > gap || home <= i;
		if (stays)
			continue;
		tally->entry[gap] = tally->entry[i];
		tally->entry[i].count = 0;
		gap = i;
	}
}

uint32_t gmm__tally_remove(struct gmm__tally *tally, uint32_t id, uint32_t count)
{
	uint32_t i = find(tally, id), left = tally->entry[i].count - count;

	tally->total -= count;
	tally->entry[i].count = left;
	if (left == 0) {
		tally->ids--;
		close_gap(tally, i);
	}
	return left;
}

void gmm__tally_shrink(struct gmm__tally *tally, struct gmm__mem *mem)
{
	if (tally->ids == 0)
		gmm__tally_destroy(tally, mem);
	else if (tally->size > 1024 && tally->ids < tally->size / 4)
		resize(tally, mem, tally->size / 2); /* without memory it stays as it is */
}
