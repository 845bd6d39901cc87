/* Repair of broken pages: look while the guest runs, then hold, compare, and let the pool page show again. */
#include "dedup/repair.h"

#include <string.h>

#include "dedup/digest.h"
#include "dedup/stretch.h"
#include "dedup/verify.h"
#include "dedup/worker.h"

struct repair {
	const struct gmm__merge *merge;
	struct gmm__slot *slot;
	uint8_t is[GMM__REGION_PAGES]; /* broken pages of the region that are present and the guest's own copies */
};

/* A shared page with a reference taken, to which a broken page seems equal now; NIL without one. The page under it comes
 * first: it costs no mapping. */
static gmm__page_id find_equal(const struct repair *r, uint32_t page)
{
	const struct gmm__verdict *verdict = &r->merge->verdict[page - r->merge->region->first];
	struct gmm__catalog *catalog = r->merge->catalog;
	const uint8_t *bytes = r->merge->backend->bytes(r->slot, page);
	gmm__page_id under = r->slot->value[page];
	gmm__page_id choices[2] = { under, GMM__NIL };

	if (r->merge->gmm->remote) /* the service was asked, and holds the reference */
		return verdict->kind == GMM__VERDICT_JOIN ? verdict->page : GMM__NIL;
	choices[1] = gmm__catalog_find_shared(catalog, gmm__digest_sample(bytes, &catalog->secret).fingerprint);
	if (choices[1] == GMM__ALIKE)
		choices[1] = gmm__catalog_find_shared(catalog, gmm__digest_whole(bytes, &catalog->secret).fingerprint);
	for (int i = 0; i < 2; i++) {
		if (choices[i] == GMM__NIL || (i > 0 && choices[i] == under) ||
		    gmm__pool_ref(catalog->pool, choices[i], 1) == 0)
			continue;
		if (gmm__verify_twins(bytes, gmm__pool_bytes(catalog->pool, choices[i])))
			return choices[i];
		gmm__pool_drop(catalog->pool, choices[i], 1, GMM__DROP_REFERENCE);
	}
	return GMM__NIL;
}

static bool within_budget(const struct repair *r, uint32_t page, gmm__page_id to)
{
	return gmm__vm_has_room(r->slot->vm, gmm__slot_seams_added(r->slot, page, 1, to));
}

/* Replaces a held page that is equal to `to`, to which a reference is held. */
static int replace_held(const struct repair *r, uint32_t page, gmm__page_id to)
{
	const struct gmm__backend *backend = r->merge->backend;

	if (!gmm__pins_excluded(r->merge->gmm) ||
	    !gmm__verify_twins(backend->bytes(r->slot, page), gmm__pool_bytes(r->merge->catalog->pool, to)))
		return -1;
	return to == r->slot->value[page] ? backend->show_pool(r->slot, page, 1) : backend->remap(r->slot, page, 1, to);
}

static bool share_again(const struct repair *r, uint32_t page, gmm__page_id to)
{
	const struct gmm__merge *m = r->merge;
	gmm__page_id under = r->slot->value[page];
	bool fill = gmm__digest_is_fill(gmm__pool_bytes(m->catalog->pool, to));

	struct gmm__staging *staging = gmm__staging_of(m->gmm, m->worker);

	gmm__lock_take(&staging->lock); /* a fork waits */
	uint64_t start_ns = gmm__sys_of(m->gmm)->clock_ns();
	int rc = m->backend->hold(r->slot, page, 1);
	if (rc == 0) {
		rc = replace_held(r, page, to);
		m->backend->let_go(r->slot, page, 1);
		gmm__waits_add(m->waits, 1, gmm__sys_of(m->gmm)->clock_ns() - start_ns);
	}
	gmm__lock_give(&staging->lock);
	if (rc != 0) {
		gmm__pool_drop(m->catalog->pool, to, 1, GMM__DROP_REFERENCE);
		return false;
	}
	struct gmm__seams before = gmm__account_begin(r->slot, page, 1);
	gmm__slot_set(r->slot, page, fill ? GMM_PAGE_FILL : GMM_PAGE_SHARED, to);
	gmm__account_end(r->slot, page, 1, before);
	gmm__pool_drop(m->catalog->pool, under, 1, GMM__DROP_COVER);
	return true;
}

/* Repairs one page. With the claim. */
static bool repair_page(const struct repair *r, uint32_t page)
{
	gmm__page_id to = find_equal(r, page);

	if (to == GMM__NIL)
		return false;
	if (to == r->slot->value[page] || within_budget(r, page, to))
		return share_again(r, page, to);
	gmm__pool_drop(r->merge->catalog->pool, to, 1, GMM__DROP_REFERENCE);
	return false;
}

/* A mapping of the pool. */
struct span {
	uint32_t pages;
	uint32_t broken;
	bool refused;  /* some of it must stay where it is */
};

static struct span span_at(const struct gmm__slot *slot, uint32_t page, uint32_t end)
{
	struct span span = { .pages = gmm__slot_mapping(slot, page, end) };

	for (uint32_t i = page; i < page + span.pages; i++) {
		span.broken += gmm__slot_state(slot, i) == GMM_PAGE_BROKEN;
		span.refused |= (slot->state[i] & GMM__FLAGS_REFUSED) != 0;
	}
	return span;
}

/* A mapping that serves at most one page in 16 is not worth its cost: its broken pages are neither watched nor found as
 * anybody's twins. What was shared still will be again, as a run of its own. */
enum { DECAYED_SHARE = 16 };

static bool has_decayed(const struct span *span)
{
	return span->broken > 0 && (span->pages - span->broken) * DECAYED_SHARE <= span->pages && !span->refused;
}

static uint32_t privatise(const struct repair *r, uint32_t page, uint32_t count)
{
	uint32_t done = 0;

	r->merge->backend->privatise(r->slot, page, count, &done);
	gmm__account_uncovered(r->slot, page, done, GMM_PAGE_VOLATILE);
	return done;
}

/* Returns how many pages it went through. With the claim. */
static uint32_t repair_span(const struct repair *r, uint32_t page, uint32_t end)
{
	struct span span = span_at(r->slot, page, end);
	uint32_t repaired = 0;

	for (uint32_t i = page; span.broken && i < page + span.pages; i++)
		if (gmm__slot_state(r->slot, i) == GMM_PAGE_BROKEN && r->is[i - r->merge->region->first] &&
		    !(r->slot->state[i] & GMM__FLAGS_REFUSED))
			repaired += repair_page(r, i);
	if (repaired == 0 && has_decayed(&span))
		repaired = privatise(r, page, span.pages);
	r->slot->vm->stats.repairs += repaired;
	r->merge->progress->repaired += repaired;
	return span.pages ? span.pages : 1;
}

bool gmm__repair_is_allowed(const struct gmm__merge *merge)
{
	return gmm__sys_pinned_bytes(gmm__sys_of(merge->gmm)) == 0 && gmm__pins_excluded(merge->gmm);
}

bool gmm__repair_find_copies(const struct gmm__merge *merge, uint8_t *ret_is)
{
	static const struct gmm__scan_filter copies = { .need = GMM__IS_PRESENT,
							.forbid = GMM__IS_FILE | GMM__IS_WPALLOWED };
	const struct gmm__region *region = merge->region;
	uint8_t broken[GMM__REGION_PAGES];
	struct gmm__stretch at = { 0 };
	bool any = false;

	for (uint32_t i = 0; i < region->count; i++)
		broken[i] = (gmm__slot_byte(region->slot, region->first + i) & GMM__STATE_MASK) == GMM_PAGE_BROKEN;
	while (gmm__stretch_next(broken, region->count, &at))
		any |= merge->backend->scan(region->slot, region->first + at.first, at.count, &copies, ret_is + at.first) > 0;
	return any;
}

void gmm__repair_region(const struct gmm__merge *merge)
{
	const struct gmm__region *region = merge->region;
	struct repair r = { .merge = merge, .slot = region->slot };
	uint32_t end = region->first + region->count;

	if (!gmm__repair_find_copies(merge, r.is) || !gmm__repair_is_allowed(merge))
		return;
	for (uint32_t page = region->first; page < end;) {
		if (!gmm__state_is_covered(gmm__slot_state(r.slot, page))) {
			page++;
			continue;
		}
		if (!gmm__vm_claim(r.slot->vm, false))
			return;
		if (!r.slot->dead)
			page += repair_span(&r, page, end);
		else
			page = end;
		gmm__vm_release(r.slot->vm);
	}
}
