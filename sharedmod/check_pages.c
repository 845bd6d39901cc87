/* Finding a module's pages; see check_pages.h. */
#include "sharedmod/check_pages.h"

#include <string.h>

#include "dedup/digest.h"

/* ---- presence ------------------------------------------------------------------------------------------------ */

static uint8_t presence_of(struct gmm__presence *presence, struct gmm__slot *slot, uint32_t page)
{
	static const struct gmm__scan_filter there = { .any = GMM__IS_PRESENT | GMM__IS_SWAPPED };
	uint32_t first = page - page % GMM__PRESENCE_PAGES;
	uint32_t k = (first / GMM__PRESENCE_PAGES + (uint32_t)((uintptr_t)slot >> 6)) % GMM__PRESENCE_ROWS;

	if (presence->row[k].slot != slot || presence->row[k].first != first) {
		uint32_t left = slot->pages - first;
		memset(presence->row[k].is, 0, GMM__PRESENCE_PAGES);
		presence->row[k].slot = slot;
		presence->row[k].first = first;
		if (presence->backend->scan(slot, first, left < GMM__PRESENCE_PAGES ? left : GMM__PRESENCE_PAGES, &there,
					    presence->row[k].is) < 0)
			presence->row[k].slot = NULL;
	}
	return presence->row[k].slot ? presence->row[k].is[page - first] : 0;
}

void gmm__presence_forget(struct gmm__presence *presence, const struct gmm_vm *vm)
{
	for (int k = 0; k < GMM__PRESENCE_ROWS; k++)
		if (presence->row[k].slot && presence->row[k].slot->vm == vm)
			presence->row[k].slot = NULL;
}

enum gmm__page_fit gmm__check_fit(struct gmm__presence *presence, struct gmm__slot *slot, uint32_t page)
{
	enum gmm_page_state state = gmm__slot_state(slot, page);

	if (slot->state[page] & GMM__FLAGS_REFUSED)
		return GMM__FIT_REFUSED;
	if (gmm__state_is_covered(state))
		return state == GMM_PAGE_BROKEN ? GMM__FIT_BROKEN : GMM__FIT_SHARED;
	uint8_t is = presence_of(presence, slot, page);
	if (!(is & GMM__IS_PRESENT) || is & GMM__IS_PFNZERO)
		return GMM__FIT_ABSENT;
	if (!(is & GMM__IS_WPALLOWED)) /* something else was mapped there */
		return GMM__FIT_NOT_RAM;
	if (is & GMM__IS_HUGE)
		return GMM__FIT_HUGE;
	return gmm__digest_is_fill(presence->backend->bytes(slot, page)) ? GMM__FIT_FILL : GMM__FIT_YES;
}

/* ---- translation --------------------------------------------------------------------------------------------- */

struct reader {
	struct gmm__presence *presence;
	const struct gmm_vm *vm;
};

/* A page of the guest's page tables. Pool pages may be read: their bytes are there. */
static const void *read_table(void *arg, uint64_t gfn)
{
	const struct reader *reader = arg;
	struct gmm__slot *slot = gmm__vm_find(reader->vm, gfn);

	if (!slot || slot->dead)
		return NULL;
	uint32_t page = (uint32_t)(gfn - slot->gfn);
	if (!gmm__state_is_shared(gmm__slot_state(slot, page)) &&
	    !(presence_of(reader->presence, slot, page) & GMM__IS_PRESENT))
		return NULL;
	return reader->presence->backend->bytes(slot, page);
}

static uint64_t linear_of(const struct gmm__module_record *record, uint32_t index)
{
	const struct gmm__module_key *key = &record->module->key;
	uint32_t region = 0;

	while (index >= key->region[region].pages)
		index -= key->region[region++].pages;
	return record->region_addr[region] + (uint64_t)index * GMM__PAGE_BYTES;
}

static enum gmm__page_fit translate(struct gmm__presence *presence, const struct gmm__module_record *record,
				    uint32_t index, uint64_t *ret_gfn)
{
	struct reader reader = { presence, record->vm };
	struct gmm__walk walk;

	if (gmm__walk(&record->cpu, linear_of(record, index), read_table, &reader, &walk) != GMM__WALK_OK)
		return GMM__FIT_ABSENT;
	if (walk.writable || walk.user_writable)
		return GMM__FIT_WRITABLE;
	*ret_gfn = walk.gpa / GMM__PAGE_BYTES;
	return GMM__FIT_YES;
}

static enum gmm__page_fit find_in_runs(const struct gmm__module_record *record, uint32_t index, uint64_t *ret_gfn)
{
	uint32_t low = 0, high = record->n_runs;

	while (high - low > 1) {
		uint32_t middle = (low + high) / 2;
		if (record->runs[middle].start <= index)
			low = middle;
		else
			high = middle;
	}
	if (record->runs[low].gfn == GMM__NO_GFN)
		return GMM__FIT_ABSENT;
	*ret_gfn = (uint64_t)record->runs[low].gfn + (index - record->runs[low].start);
	return GMM__FIT_YES;
}

enum gmm__page_fit gmm__check_locate(struct gmm__presence *presence, const struct gmm__module_record *record,
				     uint32_t index, struct gmm__slot **ret_slot, uint32_t *ret_page)
{
	uint64_t gfn = 0;
	enum gmm__page_fit fit = record->runs ? find_in_runs(record, index, &gfn) :
						translate(presence, record, index, &gfn);

	if (fit != GMM__FIT_YES)
		return fit;
	struct gmm__slot *slot = gmm__vm_find(record->vm, gfn);
	if (!slot || slot->dead)
		return GMM__FIT_NOT_RAM;
	*ret_slot = slot;
	*ret_page = (uint32_t)(gfn - slot->gfn);
	return gmm__check_fit(presence, slot, *ret_page);
}
