/* Huge pages: judging, breaking, and making them whole again. */
#include "dedup/huge.h"

#include <urcu/urcu-bp.h>

#include "dedup/effort.h"

/* A mapping costs about 376 bytes of the kernel: 11 of them a page. A huge page that could not be broken (pinned, or common
 * with a fork) is left alone until the fourth survey. Next to nothing: one sampled page in 64. */
enum { RUNS_PER_PAGE = 11, RETRY_SURVEYS = 4, NEWS_SHARE = 64, RESTORE_NS = 250000000 };

/* ---- the decision --------------------------------------------------------------------------------------------------- */

bool gmm__huge_is_worth_breaking(const struct gmm__huge_facts *facts, const struct gmm__huge_setting *setting)
{
	uint32_t least = setting->memory_short ? GMM__HUGE_SAVED_SHORT : GMM__HUGE_SAVED_MIN;
	/* What changes often is copied again after it was shared, and is where the guest feels the small pages. */
	uint32_t cost = facts->runs / RUNS_PER_PAGE + facts->changed;

	if (setting->policy != GMM_HUGE_PRESERVE)
		return setting->policy == GMM_HUGE_ALWAYS;
	return facts->runs <= setting->mappings_left && facts->saved >= least + cost;
}

/* ---- pace ------------------------------------------------------------------------------------------------------------ */

uint32_t gmm__huge_phase(const struct gmm__huge_pace *pace, bool survey)
{
	if (!gmm__huge_pace_judged(pace))
		return 1 + pace->passes % GMM__HUGE_ROUND;
	return survey ? 1 + pace->passes / GMM__SURVEY_PASSES % GMM__HUGE_ROUND : 0;
}

void gmm__huge_pace_conclude(struct gmm__huge_pace *pace, const struct gmm__progress *progress, uint64_t whole)
{
	bool rests = gmm__huge_pace_judged(pace), begins = pace->passes++ % GMM__SURVEY_PASSES == 0;

	/* The surveys of all regions take GMM__SURVEY_PASSES passes, and sample what else one pass does. */
	pace->news = (rests && !begins ? pace->news : 0) + progress->huge_news + progress->huge_new;
	if (whole == 0)
		pace->quiet = GMM__HUGE_ROUND;
	else if (pace->news * NEWS_SHARE > whole / GMM__HUGE_ROUND || (rests && progress->huge_new > 0))
		pace->quiet = 0;
	else if (!rests)
		pace->quiet++;
}

bool gmm__huge_pace_judged(const struct gmm__huge_pace *pace)
{
	return pace->quiet >= GMM__HUGE_ROUND;
}

/* ---- samples --------------------------------------------------------------------------------------------------------- */

static void set_flags(struct gmm__slot *slot, uint32_t page, uint8_t flags)
{
	uint8_t kept = slot->state[page] & ~(GMM__FLAG_FILL | GMM__FLAG_SAVED);

	__atomic_store_n(&slot->state[page], kept | flags, __ATOMIC_RELAXED);
}

/* An equal page is known in the domain; else others find this one. With the catalog's lock. */
static bool is_known(struct gmm__catalog *catalog, const struct gmm__finding *finding, gmm__page_id self)
{
	return (finding->word && gmm__fill_find(&catalog->fills, finding->word)) ||
	       gmm__catalog_sample(catalog, finding->fingerprint, self);
}

/* With the catalog's lock. */
static void note_sample(const struct gmm__merge *merge, uint32_t page, const struct gmm__finding *finding)
{
	struct gmm__slot *slot = merge->region->slot;
	struct gmm__catalog *catalog = merge->catalog;
	struct gmm__unit *unit = &slot->unit[gmm__slot_unit(slot, page)];
	uint32_t fingerprint = finding->fingerprint, before = slot->value[page];
	uint8_t flags = slot->state[page];
	bool zero = fingerprint == 0, was_zero = before == 0 && flags & GMM__FLAG_FILL;
	bool sampled = before != 0 || was_zero, same = zero ? was_zero : before == fingerprint;

	gmm__slot_set(slot, page, GMM_PAGE_HUGE, fingerprint);
	bool equal = zero || (merge->gmm->remote ? finding->equal : is_known(catalog, finding, gmm__slot_page_id(slot, page)));
	bool saved = same && equal;
	set_flags(slot, page, (zero || finding->word ? GMM__FLAG_FILL : 0) | (saved ? GMM__FLAG_SAVED : 0));
	if (sampled && !same && unit->changed < UINT8_MAX)
		unit->changed++;
	merge->progress->digested++;
	merge->progress->huge_news += !sampled || (saved && !(flags & GMM__FLAG_SAVED));
}

static void note_samples(const struct gmm__merge *merge, const struct gmm__finding *finding)
{
	const struct gmm__region *region = merge->region;

	urcu_bp_read_lock();
	gmm__lock_take(&merge->catalog->lock);
	for (uint32_t i = 0; i < region->count; i++) {
		if (gmm__slot_state(region->slot, region->first + i) != GMM_PAGE_HUGE)
			continue;
		if (finding[i].found == GMM__FOUND_SAMPLE)
			note_sample(merge, region->first + i, &finding[i]);
		merge->progress->huge_new += finding[i].found == GMM__FOUND_HUGE;
	}
	gmm__lock_give(&merge->catalog->lock);
	urcu_bp_read_unlock();
}

/* ---- breaking -------------------------------------------------------------------------------------------------------- */

/* Pages [*first, *first + count) of the slot lie in the unit. */
static uint32_t pages_of_unit(const struct gmm__slot *slot, uint32_t unit, uint32_t *first)
{
	/* Pages of unit 0 that are not ours. */
	uint32_t before = (uint32_t)((uintptr_t)slot->host / GMM__PAGE_BYTES % GMM__CHUNK_PAGES);
	uint64_t end = (uint64_t)(unit + 1) * GMM__CHUNK_PAGES - before;

	*first = unit ? unit * GMM__CHUNK_PAGES - before : 0;
	return (uint32_t)(end < slot->pages ? end : slot->pages) - *first;
}

/* False if no page of it is known to be in a huge page. *ret_page: one that is. */
static bool gather(const struct gmm__slot *slot, uint32_t first, uint32_t count, struct gmm__huge_facts *facts,
		   uint32_t *ret_page)
{
	bool whole = false, in_run = false;

	for (uint32_t page = first; page < first + count; page++) {
		uint8_t byte = gmm__slot_byte(slot, page);
		bool huge = (byte & GMM__STATE_MASK) == GMM_PAGE_HUGE, saved = huge && byte & GMM__FLAG_SAVED;
		bool mapped = saved && slot->value[page] != 0;
		facts->saved += saved;
		facts->runs += mapped && !in_run;
		in_run = mapped;
		if (huge && !whole)
			*ret_page = page;
		whole |= huge;
	}
	return whole;
}

/* Its pages are volatile now, but for pages of zeros that the kernel has left out (as it does since 6.12). */
static void account_broken(const struct gmm__merge *merge, uint32_t first, uint32_t count)
{
	static const struct gmm__scan_filter zero = { .need = GMM__IS_PFNZERO };
	struct gmm__slot *slot = merge->region->slot;
	uint8_t is[GMM__CHUNK_PAGES] = { 0 };

	merge->backend->scan(slot, first, count, &zero, is); /* on failure a survey finds them */
	for (uint32_t i = first; i < first + count; i++) {
		if (gmm__slot_state(slot, i) != GMM_PAGE_HUGE)
			continue;
		set_flags(slot, i, 0);
		gmm__slot_set(slot, i, is[i - first] ? GMM_PAGE_ZERO : GMM_PAGE_VOLATILE, 0);
		slot->vm->stats.merges += is[i - first] != 0;
		merge->progress->merged += is[i - first] != 0;
		merge->progress->found++;
	}
	merge->progress->huge_broken++;
}

static void break_unit(const struct gmm__merge *merge, struct gmm__unit *unit, uint32_t first, uint32_t count,
		       uint32_t page)
{
	struct gmm__slot *slot = merge->region->slot;
	const struct gmm__sys *sys = gmm__sys_of(merge->gmm);
	uint64_t start_ns = sys->clock_ns();
	int rc = merge->backend->split(slot, page);

	gmm__waits_add(merge->waits, 0, sys->clock_ns() - start_ns); /* the guest waits if it touches it meanwhile */
	if (rc != 0) {
		unit->wait = RETRY_SURVEYS;
		slot->vm->stats.huge_refused++;
		return;
	}
	account_broken(merge, first, count);
	slot->vm->stats.huge_broken++;
	unit->flags = GMM__UNIT_BROKEN;
	unit->changed = 0;
}

static void judge_unit(const struct gmm__merge *merge, uint32_t index, const struct gmm__scan_options *options,
		       bool memory_short)
{
	struct gmm__slot *slot = merge->region->slot;
	struct gmm__unit *unit = &slot->unit[index];
	struct gmm *gmm = merge->gmm;
	uint64_t mappings = gmm->mappings;
	struct gmm__huge_facts facts = { .changed = unit->changed };
	struct gmm__huge_setting setting = {
		.policy = gmm->options.huge_pages, .memory_short = memory_short,
		.mappings_left = mappings < gmm->max_mappings ? gmm->max_mappings - mappings : 0,
	};
	uint32_t first, page = 0, count = pages_of_unit(slot, index, &first);

	if (!gather(slot, first, count, &facts, &page))
		return;
	slot->vm->stats.huge_seen += !(unit->flags & GMM__UNIT_WHOLE);
	unit->flags |= GMM__UNIT_WHOLE;
	if (options->huge_phase == 1) /* a round begins */
		unit->changed /= 2;
	if (options->survey)
		unit->wait -= unit->wait > 0;
	if (unit->wait == 0 && gmm__huge_is_worth_breaking(&facts, &setting))
		break_unit(merge, unit, first, count, page);
}

void gmm__huge_region(const struct gmm__merge *merge, const struct gmm__finding *finding,
		      const struct gmm__scan_options *options, bool memory_short)
{
	const struct gmm__region *region = merge->region;
	struct gmm__slot *slot = region->slot;
	uint32_t end = region->first + region->count;

	note_samples(merge, finding);
	for (uint32_t unit = gmm__slot_unit(slot, region->first); unit <= gmm__slot_unit(slot, end - 1); unit++) {
		uint32_t first, count = pages_of_unit(slot, unit, &first);
		if (first + count <= end)
			judge_unit(merge, unit, options, memory_short);
	}
}

/* ---- making whole again ---------------------------------------------------------------------------------------- */

/* Nothing of it is shared, elsewhere, or to stay where it is; and nothing was given back by the guest. */
static bool is_plain(const struct gmm__slot *slot, uint32_t first)
{
	for (uint32_t i = first; i < first + GMM__CHUNK_PAGES; i++) {
		enum gmm_page_state state = gmm__slot_state(slot, i);
		if (gmm__state_is_covered(state) || state == GMM_PAGE_SWAPPED || state == GMM_PAGE_ABSENT ||
		    state == GMM_PAGE_PINNED || state == GMM_PAGE_FOREIGN || slot->state[i] & GMM__FLAG_PINNED)
			return false;
	}
	return true;
}

void gmm__huge_restore(const struct gmm__backend *backend, struct gmm__slot *slot, uint32_t first, uint32_t count)
{
	const struct gmm__sys *sys = gmm__sys_of(slot->vm->gmm);
	uint64_t deadline = sys->clock_ns() + RESTORE_NS;
	bool checked = false;

	for (uint32_t u = gmm__slot_unit(slot, first); u <= gmm__slot_unit(slot, first + count - 1); u++) {
		uint32_t at;
		if (!(slot->unit[u].flags & GMM__UNIT_BROKEN) || pages_of_unit(slot, u, &at) < GMM__CHUNK_PAGES ||
		    !is_plain(slot, at))
			continue;
		if (!checked && (gmm__sys_pinned_bytes(sys) > 0 ||
				 gmm__sys_available_bytes(sys) < (uint64_t)count * GMM__PAGE_BYTES))
			return;
		checked = true;
		if (sys->clock_ns() > deadline)
			return; /* the kernel's own daemon may do the rest */
		if (backend->collapse(slot, at) != 0)
			continue;
		slot->unit[u].flags = 0;
		slot->vm->stats.huge_collapsed++;
	}
}
