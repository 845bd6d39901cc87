/* RAM slots: page states, counts and mapping seams. */
#include "gmm/slot.h"

#include "gmm/vm.h"

static size_t units_of(const struct gmm__slot *slot)
{
	return (size_t)gmm__slot_unit(slot, slot->pages - 1) + 1;
}

static size_t regions_of(const struct gmm__slot *slot)
{
	return (slot->pages + (size_t)GMM__REGION_PAGES - 1) / GMM__REGION_PAGES;
}

struct gmm__slot *gmm__slot_new(struct gmm__mem *mem, struct gmm_vm *vm, uint64_t gfn, uint32_t pages, uint8_t *host)
{
	struct gmm__slot *slot = gmm__mem_alloc(mem, sizeof *slot);
	if (!slot)
		return NULL;
	*slot = (struct gmm__slot){ .vm = vm, .gfn = gfn, .pages = pages, .host = host,
				    .range = { (uintptr_t)host, (uintptr_t)host + (uint64_t)pages * GMM__PAGE_BYTES },
				    .value = gmm__mem_alloc(mem, pages * sizeof *slot->value),
				    .state = gmm__mem_alloc(mem, pages) };
	slot->unit = gmm__mem_alloc(mem, units_of(slot) * sizeof *slot->unit);
	slot->effort = gmm__mem_alloc(mem, regions_of(slot) * sizeof *slot->effort);
	if (slot->value && slot->state && slot->unit && slot->effort)
		return slot;
	gmm__slot_free(mem, slot);
	return NULL;
}

void gmm__slot_free(struct gmm__mem *mem, struct gmm__slot *slot)
{
	gmm__mem_free(mem, slot->value, slot->pages * sizeof *slot->value);
	gmm__mem_free(mem, slot->state, slot->pages);
	gmm__mem_free(mem, slot->unit, units_of(slot) * sizeof *slot->unit);
	gmm__mem_free(mem, slot->effort, regions_of(slot) * sizeof *slot->effort);
	gmm__mem_free(mem, slot, sizeof *slot);
}

void gmm__slot_wake(struct gmm__slot *slot, uint32_t first, uint32_t count)
{
	for (uint32_t i = first / GMM__REGION_PAGES; count > 0 && i <= (first + count - 1) / GMM__REGION_PAGES; i++) {
		__atomic_store_n(&slot->effort[i].level, 0, __ATOMIC_RELAXED);
		__atomic_store_n(&slot->effort[i].rest, 0, __ATOMIC_RELAXED);
	}
}

void gmm__slot_set(struct gmm__slot *slot, uint32_t page, enum gmm_page_state state, uint32_t value)
{
	uint8_t old = slot->state[page];
	/* What flags an absent page has means nothing, unless it is ballooned. */
	uint8_t kept = old & (state == GMM_PAGE_ABSENT || state == GMM_PAGE_BALLOONED ||
			      gmm__state_of_byte(old) == GMM_PAGE_BALLOONED ? GMM__FLAGS_REFUSED : ~GMM__STATE_MASK);
	uint8_t bits = state == GMM_PAGE_BALLOONED ? GMM__BALLOONED : (uint8_t)state;

	gmm__count_add(&slot->vm->stats.state_pages[gmm__state_of_byte(old)], UINT64_MAX);
	gmm__count_add(&slot->vm->stats.state_pages[state], 1);
	__atomic_store_n(&slot->value[page], value, __ATOMIC_RELAXED);
	__atomic_store_n(&slot->state[page], kept | bits, __ATOMIC_RELAXED);
}

/* True when pages `left` and `left + 1` of the slot lie in different VMAs. */
static bool is_seam(const struct gmm__slot *slot, uint32_t left, bool left_covered, bool right_covered)
{
	if (left_covered != right_covered)
		return true;
	return left_covered && !gmm__page_follows(slot->value[left], slot->value[left + 1]);
}

uint32_t gmm__slot_mapping(const struct gmm__slot *slot, uint32_t page, uint32_t end)
{
	gmm__page_id last = GMM__NIL;
	uint32_t n = 0;

	for (; page + n < end && gmm__state_is_covered(gmm__slot_state(slot, page + n)); n++) {
		gmm__page_id here = __atomic_load_n(&slot->value[page + n], __ATOMIC_RELAXED);
		if (n > 0 && !gmm__page_follows(last, here))
			break;
		last = here;
	}
	return n;
}

struct gmm__seams gmm__slot_seams(const struct gmm__slot *slot, uint32_t first, uint32_t end)
{
	struct gmm__seams seams = { 0 };
	bool left = first > 0 && gmm__state_is_covered(gmm__slot_state(slot, first - 1));

	for (uint32_t page = first; page <= end && page < slot->pages; page++) {
		bool right = gmm__state_is_covered(gmm__slot_state(slot, page));
		bool seam = page > 0 && is_seam(slot, page - 1, left, right);
		seams.mappings += seam;
		seams.runs += gmm__state_is_shared(gmm__slot_state(slot, page)) &&
			      (seam || page == 0 || !gmm__state_is_shared(gmm__slot_state(slot, page - 1)));
		left = right;
	}
	return seams;
}

uint32_t gmm__slot_seams_added(const struct gmm__slot *slot, uint32_t first, uint32_t count, gmm__page_id page)
{
	uint32_t end = first + count;
	uint32_t before = gmm__slot_seams(slot, first, end).mappings, after = 0;

	if (first > 0)
		after += !(gmm__state_is_covered(gmm__slot_state(slot, first - 1)) &&
			   gmm__page_follows(slot->value[first - 1], page));
	if (end < slot->pages)
		after += !(gmm__state_is_covered(gmm__slot_state(slot, end)) &&
			   gmm__page_follows(page + count - 1, slot->value[end]));
	return after > before ? after - before : 0;
}
