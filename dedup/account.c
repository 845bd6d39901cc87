/* Account stage: page states, counts, references and covers. */
#include "dedup/account.h"

#include "gmm/instance.h"

struct gmm__seams gmm__account_begin(const struct gmm__slot *slot, uint32_t first, uint32_t count)
{
	return gmm__slot_seams(slot, first, first + count);
}

void gmm__account_end(struct gmm__slot *slot, uint32_t first, uint32_t count, struct gmm__seams before)
{
	struct gmm__seams after = gmm__slot_seams(slot, first, first + count);

	gmm__count_add(&slot->vm->stats.mappings, (uint64_t)after.mappings - before.mappings);
	gmm__count_add(&slot->vm->stats.runs, (uint64_t)after.runs - before.runs);
	slot->vm->gmm->mappings += (uint64_t)after.mappings - before.mappings;
}

/* Drops what consecutive pages of equal kind hold, in as few calls as the ids allow. */
static void drop_all(struct gmm__slot *slot, uint32_t first, uint32_t count)
{
	struct gmm__pool *pool = &slot->vm->domain->pool;

	for (uint32_t i = first; i < first + count;) {
		enum gmm_page_state state = gmm__slot_state(slot, i);
		bool broken = state == GMM_PAGE_BROKEN;
		uint32_t n = 1;
		if (gmm__state_is_covered(state)) {
			while (i + n < first + count && gmm__state_is_covered(gmm__slot_state(slot, i + n)) &&
			       (gmm__slot_state(slot, i + n) == GMM_PAGE_BROKEN) == broken &&
			       slot->value[i + n] == slot->value[i] + n)
				n++;
			gmm__pool_drop(pool, slot->value[i], n, broken ? GMM__DROP_COVER : GMM__DROP_REFERENCE);
		}
		i += n;
	}
}

void gmm__account_uncovered(struct gmm__slot *slot, uint32_t first, uint32_t count, enum gmm_page_state state)
{
	struct gmm__seams before = gmm__account_begin(slot, first, count);

	slot->stale = true;
	gmm__slot_wake(slot, first, count);
	drop_all(slot, first, count);
	for (uint32_t i = first; i < first + count; i++) {
		uint8_t refused = slot->state[i] & GMM__FLAGS_REFUSED;
		gmm__slot_set(slot, i, refused ? gmm__state_refused(refused) : state, 0);
	}
	gmm__account_end(slot, first, count, before);
}

/* A guest wrote to a shared page: the reference goes, the cover stays. */
static void account_broken(struct gmm__slot *slot, uint32_t page)
{
	gmm__pool_drop(&slot->vm->domain->pool, slot->value[page], 1, GMM__DROP_BROKEN);
	gmm__slot_set(slot, page, GMM_PAGE_BROKEN, slot->value[page]);
	slot->vm->stats.cow_breaks++;
}

static void set_flag(struct gmm__slot *slot, uint32_t page, uint8_t flag, bool on)
{
	uint8_t old = slot->state[page];

	__atomic_store_n(&slot->state[page], on ? old | flag : old & ~flag, __ATOMIC_RELAXED);
}

static void account_digest(struct gmm__slot *slot, uint32_t page, const struct gmm__finding *finding,
			   struct gmm__progress *progress)
{
	bool fill = finding->found == GMM__FOUND_FILL;

	progress->digested++;
	slot->vm->stats.zero_breaks += gmm__slot_state(slot, page) == GMM_PAGE_ZERO;
	/* A page that just differed from its shared twin and did not change keeps that mark: see account_verdict. */
	if (finding->written || gmm__slot_state(slot, page) != GMM_PAGE_RACED || slot->value[page] != finding->fingerprint)
		gmm__slot_set(slot, page, GMM_PAGE_UNIQUE, finding->found == GMM__FOUND_ZERO ? 0 : finding->fingerprint);
	set_flag(slot, page, GMM__FLAG_FILL, fill); /* not before: an absent page with both flags is a ballooned one */
	set_flag(slot, page, GMM__FLAG_WHOLE, finding->whole);
}

static void account_finding(struct gmm__slot *slot, uint32_t page, const struct gmm__finding *finding)
{
	static const enum gmm_page_state states[] = {
		[GMM__FOUND_ABSENT] = GMM_PAGE_ABSENT, [GMM__FOUND_SWAPPED] = GMM_PAGE_SWAPPED,
		[GMM__FOUND_HUGE] = GMM_PAGE_HUGE, [GMM__FOUND_FOREIGN] = GMM_PAGE_FOREIGN,
		[GMM__FOUND_WRITTEN] = GMM_PAGE_VOLATILE, [GMM__FOUND_DUE] = GMM_PAGE_VOLATILE,
	};

	enum gmm__found found = finding->found;

	slot->vm->stats.zero_breaks += found == GMM__FOUND_WRITTEN && gmm__slot_state(slot, page) == GMM_PAGE_ZERO;
	set_flag(slot, page, GMM__FLAG_FILL | GMM__FLAG_WHOLE, false); /* what the digest said */
	gmm__slot_set(slot, page, states[found], found == GMM__FOUND_WRITTEN ? finding->fingerprint : 0);
}

void gmm__account_findings(const struct gmm__region *region, const struct gmm__finding *finding,
			   struct gmm__progress *progress)
{
	struct gmm__slot *slot = region->slot;
	struct gmm__seams before;
	bool any_broken = false;

	for (uint32_t i = 0; i < region->count; i++) {
		uint32_t page = region->first + i;
		enum gmm__found found = finding[i].found;
		enum gmm_page_state state = gmm__slot_state(slot, page);
		if (found == GMM__FOUND_NOTHING || found == GMM__FOUND_AGAIN || found == GMM__FOUND_SAMPLE || slot->state[page] & GMM__FLAGS_REFUSED)
			continue;
		if (state == GMM_PAGE_BALLOONED) { /* the guest uses it after all */
			gmm__slot_set(slot, page, GMM_PAGE_ABSENT, 0);
			state = GMM_PAGE_ABSENT;
		}
		if (found == GMM__FOUND_BROKEN && gmm__state_is_shared(state)) {
			if (!any_broken) /* nothing else changes runs or mappings */
				before = gmm__account_begin(slot, region->first, region->count);
			any_broken = true;
			progress->found++;
			progress->broken++;
			account_broken(slot, page);
		} else if (!gmm__state_is_covered(state)) { /* else it was shared since the scan */
			progress->found += found != GMM__FOUND_DUE;
			progress->fresh += found >= GMM__FOUND_WRITTEN && state == GMM_PAGE_ABSENT;
			if (found >= GMM__FOUND_ZERO)
				account_digest(slot, page, &finding[i], progress);
			else
				account_finding(slot, page, &finding[i]);
		}
	}
	if (any_broken)
		gmm__account_end(slot, region->first, region->count, before);
}

static void account_verdict(struct gmm__slot *slot, uint32_t page, struct gmm__verdict *verdict,
			    struct gmm__progress *progress)
{
	enum gmm_page_state old = gmm__slot_state(slot, page);

	/* It differed from that shared page a moment ago and has the same fingerprint still: a collision. */
	if (old == GMM_PAGE_RACED)
		verdict->kind = GMM__VERDICT_UNIQUE;
	/* Nothing tells better than the whole digest. */
	if (verdict->kind == GMM__VERDICT_ALIKE && slot->state[page] & GMM__FLAG_WHOLE)
		verdict->kind = GMM__VERDICT_UNIQUE;
	if (verdict->kind == GMM__VERDICT_UNIQUE || verdict->kind == GMM__VERDICT_ALONE) {
		gmm__slot_set(slot, page, GMM_PAGE_UNIQUE, slot->value[page]);
	} else if (verdict->kind == GMM__VERDICT_ALIKE) {
		gmm__slot_set(slot, page, GMM_PAGE_RACED, slot->value[page]);
	} else {
		progress->nominated += old != GMM_PAGE_NOMINATED && verdict->kind == GMM__VERDICT_TWIN;
		gmm__slot_set(slot, page, GMM_PAGE_NOMINATED, slot->value[page]);
	}
}

void gmm__account_verdicts(const struct gmm__region *region, struct gmm__verdict *verdict,
			   struct gmm__progress *progress)
{
	for (uint32_t i = 0; i < region->count; i++) {
		uint8_t byte = region->slot->state[region->first + i];
		/* A service answers without the claim: meanwhile the page was pinned, or declared unshareable. */
		if (byte & GMM__FLAGS_REFUSED || gmm__state_is_covered(byte & GMM__STATE_MASK))
			verdict[i].kind = GMM__VERDICT_NONE;
		if (verdict[i].kind != GMM__VERDICT_NONE)
			account_verdict(region->slot, region->first + i, &verdict[i], progress);
	}
}

bool gmm__account_nominate(struct gmm__slot *slot, uint32_t page)
{
	if (slot->dead || gmm__slot_state(slot, page) != GMM_PAGE_UNIQUE || slot->state[page] & GMM__FLAGS_REFUSED)
		return false;
	gmm__slot_set(slot, page, GMM_PAGE_NOMINATED, slot->value[page]);
	gmm__slot_wake(slot, page, 1);
	return true;
}
