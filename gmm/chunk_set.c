/* Chunks of private pages and the sets they are in. */
#include "gmm/chunk_set.h"

#include <urcu/urcu-bp.h>

/* ---- chunks ---------------------------------------------------------------------------------------------- */

static void link_free(struct gmm__private_chunk *chunk, bool zeroed)
{
	for (uint32_t i = 0; i < GMM__CHUNK_PAGES; i++)
		gmm__record_set(&chunk->record[i],
				(struct gmm__private_record){ .next = (i + 1) & GMM__NEXT_MASK, .zeroed = zeroed });
	chunk->first_free = 0;
	chunk->free = GMM__CHUNK_PAGES;
}

struct gmm__private_chunk *gmm__private_chunk_new(struct gmm__chunk_source *source, struct gmm__chunk_set *set,
						  enum gmm__place_kind kind, uint8_t *bytes)
{
	struct gmm__private_chunk *chunk = gmm__mem_alloc(source->mem, sizeof *chunk);

	if (!chunk)
		return NULL;
	chunk->set = set;
	chunk->place.bytes = bytes;
	link_free(chunk, !bytes);
	if (!bytes && !gmm__arena_take(&source->arena, set->node, kind, &chunk->place)) {
		gmm__mem_free(source->mem, chunk, sizeof *chunk);
		return NULL;
	}
	if (!gmm__chunk_table_take_private(source->table, chunk, &chunk->id)) {
		if (!bytes)
			gmm__arena_give(&source->arena, chunk->place);
		gmm__mem_free(source->mem, chunk, sizeof *chunk);
		return NULL;
	}
	return chunk;
}

void gmm__private_chunks_free(struct gmm__chunk_source *source, struct gmm__private_chunk *chunks)
{
	if (!chunks)
		return;
	for (struct gmm__private_chunk *chunk = chunks; chunk; chunk = chunk->next) {
		gmm__chunk_table_give(source->table, chunk->id, 1);
		if (chunk->place.block)
			gmm__arena_give(&source->arena, chunk->place);
	}
	urcu_bp_synchronize_rcu();
	while (chunks) {
		struct gmm__private_chunk *next = chunks->next;
		gmm__mem_free(source->mem, chunks, sizeof *chunks);
		chunks = next;
	}
}

void gmm__private_chunk_fill(struct gmm__private_chunk *chunk, uint32_t vm, uint32_t pfn)
{
	for (uint32_t i = 0; i < GMM__CHUNK_PAGES; i++)
		gmm__record_set(&chunk->record[i], (struct gmm__private_record){
			.pfn = pfn <= GMM__PFN_MAX ? pfn + i : pfn, .vm = vm & 0xffff, .state = GMM__PRIVATE_USED });
	chunk->free = 0;
	chunk->first_free = GMM__CHUNK_PAGES;
}

void gmm__private_chunk_make_large(struct gmm__private_chunk *chunk, uint32_t vm)
{
	gmm__private_chunk_fill(chunk, vm, GMM__PFN_UNSHAREABLE);
	chunk->large = true;
}

void gmm__private_chunk_break_up(struct gmm__private_chunk *chunk, uint32_t pfn)
{
	for (uint32_t i = 0; i < GMM__CHUNK_PAGES; i++) {
		struct gmm__private_record r = chunk->record[i];
		r.pfn = pfn <= GMM__PFN_MAX ? pfn + i : pfn;
		gmm__record_set(&chunk->record[i], r);
	}
	chunk->large = false;
	gmm__private_chunk_wake(chunk);
}

void gmm__private_chunk_clear(struct gmm__private_chunk *chunk)
{
	chunk->large = false;
	link_free(chunk, false);
}

/* ---- lists ----------------------------------------------------------------------------------------------- */

static uint32_t list_of(uint32_t free_pages)
{
	if (free_pages == GMM__CHUNK_PAGES)
		return GMM__SET_UNUSED;
	return (free_pages + 15) / 16;
}

static bool counts_as_unused(const struct gmm__private_chunk *chunk)
{
	return chunk->free == GMM__CHUNK_PAGES && chunk->place.block;
}

static void link_chunk(struct gmm__chunk_set *set, struct gmm__private_chunk *chunk)
{
	uint32_t list = list_of(chunk->free);

	chunk->previous = NULL;
	chunk->next = set->list[list];
	if (chunk->next)
		chunk->next->previous = chunk;
	set->list[list] = chunk;
	set->not_empty |= 1ull << list;
}

/* `list` is the one it is in, whatever its free count is by now. */
static void unlink_chunk(struct gmm__chunk_set *set, struct gmm__private_chunk *chunk, uint32_t list)
{
	*(chunk->previous ? &chunk->previous->next : &set->list[list]) = chunk->next;
	if (chunk->next)
		chunk->next->previous = chunk->previous;
	if (!set->list[list])
		set->not_empty &= ~(1ull << list);
}

static void free_count_changed(struct gmm__private_chunk *chunk, uint32_t before)
{
	if (list_of(before) == list_of(chunk->free))
		return;
	unlink_chunk(chunk->set, chunk, list_of(before));
	link_chunk(chunk->set, chunk);
}

void gmm__set_insert(struct gmm__chunk_set *set, struct gmm__private_chunk *chunk)
{
	link_chunk(set, chunk);
	set->chunks++;
	set->free_pages += chunk->free;
	set->unused += counts_as_unused(chunk);
}

void gmm__set_remove(struct gmm__chunk_set *set, struct gmm__private_chunk *chunk)
{
	unlink_chunk(set, chunk, list_of(chunk->free));
	chunk->next = chunk->previous = NULL;
	set->chunks--;
	set->free_pages -= chunk->free;
	set->unused -= counts_as_unused(chunk);
	if (set->last == chunk)
		set->last = NULL;
}

struct gmm__private_chunk *gmm__set_pick(struct gmm__chunk_set *set)
{
	uint64_t with_free = set->not_empty & ~1ull;

	if (set->last && set->last->free)
		return set->last;
	set->last = with_free ? set->list[__builtin_ctzll(with_free)] : NULL;
	return set->last;
}

gmm__page_id gmm__set_pop(struct gmm__private_chunk *chunk, uint32_t vm, uint32_t pfn)
{
	uint32_t index = chunk->first_free;
	struct gmm__private_record *r = &chunk->record[index];

	chunk->set->unused -= counts_as_unused(chunk);
	chunk->first_free = r->next;
	gmm__record_set(r, (struct gmm__private_record){ .pfn = pfn, .vm = vm & 0xffff, .zeroed = r->zeroed,
							.state = GMM__PRIVATE_USED });
	chunk->set->free_pages--;
	free_count_changed(chunk, chunk->free--);
	return gmm__page_make(chunk->id, index);
}

struct gmm__private_chunk *gmm__set_put(struct gmm__private_chunk *chunk, uint32_t index)
{
	struct gmm__chunk_set *set = chunk->set;

	gmm__record_set(&chunk->record[index], (struct gmm__private_record){ .next = chunk->first_free & GMM__NEXT_MASK });
	chunk->first_free = index;
	set->free_pages++;
	free_count_changed(chunk, chunk->free++);
	if (!counts_as_unused(chunk))
		return NULL;
	set->unused++;
	if (set->unused <= GMM__SET_UNUSED_KEPT)
		return NULL;
	gmm__set_remove(set, chunk);
	return chunk;
}

/* ---- validation ------------------------------------------------------------------------------------------ */

static const char *validate_chunk(const struct gmm__chunk_set *set, const struct gmm__private_chunk *chunk, uint32_t list)
{
	uint32_t listed = 0, used = 0;

	for (uint32_t i = chunk->first_free; i < GMM__CHUNK_PAGES && listed <= chunk->free; i = chunk->record[i].next) {
		if (chunk->record[i].state != GMM__PRIVATE_FREE)
			return "INV-4: a used page is in the list of free pages";
		listed++;
	}
	for (uint32_t i = 0; i < GMM__CHUNK_PAGES; i++)
		used += chunk->record[i].state != GMM__PRIVATE_FREE;
	if (listed != chunk->free || listed + used != GMM__CHUNK_PAGES)
		return "INV-4: a chunk's free and private pages do not add up to 512";
	if (chunk->set != set || list_of(chunk->free) != list)
		return "INV-4: a chunk is in a list of another free count";
	return NULL;
}

const char *gmm__set_validate(const struct gmm__chunk_set *set)
{
	const char *broken = NULL;
	uint64_t free_pages = 0;
	uint32_t chunks = 0, unused = 0;

	for (uint32_t list = 0; list < GMM__SET_LISTS; list++) {
		for (const struct gmm__private_chunk *c = set->list[list]; c && !broken; c = c->next) {
			broken = validate_chunk(set, c, list);
			free_pages += c->free;
			unused += counts_as_unused(c);
			chunks++;
		}
		if (!broken && !set->list[list] != !(set->not_empty >> list & 1))
			broken = "INV-4: a set forgot which lists are empty";
	}
	if (!broken && (chunks != set->chunks || free_pages != set->free_pages || unused != set->unused))
		broken = "INV-4: a set's sums are not those of its chunks";
	return broken;
}
