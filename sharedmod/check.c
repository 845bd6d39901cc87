/* Check of a module: finds equal pages and has them merged; see check.h. */
#include "sharedmod/check.h"

#include <urcu/urcu-bp.h>

#include "dedup/remote.h"
#include "dedup/verify.h"
#include "sharedmod/check_remote.h"
#include "sharedmod/tell.h"

/* A page of the module that may be shared, and what is to become of it. */
struct spot {
	uint32_t index;              /* in the module */
	struct gmm__slot *slot;
	uint32_t page;
	enum gmm__verdict_kind kind; /* NONE, JOIN or PROMOTE */
	gmm__page_id join;           /* pool page */
	uint32_t variant;            /* PROMOTE: where the module remembers the pool page */
	struct gmm__slot *twin_slot; /* PROMOTE: an equal page, NULL if none is known */
	uint32_t twin_page;
};

struct slice {
	struct gmm__merge merge;
	struct gmm__module_record *record;
	struct gmm__module_pages *pages;
	struct gmm_vm *vm;           /* claimed */
	struct gmm_vm *other;        /* claimed too, or NULL */
	unsigned flags;
	struct gmm_module_checked *counts;
	struct gmm__presence presence;
	uint32_t n;                  /* spots found that wait for their merge */
	struct spot spot[GMM__CHECK_PAGES];
};

/* ---- merging -------------------------------------------------------------------------------------------------- */

/* Two spots that name the same page may have been merged by the first. */
static bool is_free(const struct gmm__slot *slot, uint32_t page)
{
	return !gmm__state_is_covered(gmm__slot_state(slot, page)) && !(slot->state[page] & GMM__FLAGS_REFUSED);
}

/* The claims are held until the merge is over, so nobody else sees these marks. */
static void mark(struct gmm__slot *slot, uint32_t page)
{
	bool digested = gmm__state_is_candidate(gmm__slot_state(slot, page));

	gmm__slot_set(slot, page, GMM_PAGE_NOMINATED, digested ? slot->value[page] : 0);
	__atomic_store_n(&slot->state[page], slot->state[page] & ~GMM__FLAG_FILL, __ATOMIC_RELAXED);
}

/* A page that could not be merged and has no digest goes back to the scanner, as one it has not looked at. */
static void unmark(struct gmm__slot *slot, uint32_t page)
{
	enum gmm_page_state state = gmm__slot_state(slot, page);

	if (slot->value[page] == 0 &&
	    (state == GMM_PAGE_NOMINATED || state == GMM_PAGE_BUDGET || state == GMM_PAGE_RACED))
		gmm__slot_set(slot, page, GMM_PAGE_VOLATILE, 0);
}

static void merge_marked(struct slice *s, struct gmm__slot *slot, uint32_t first, uint32_t count,
			 enum gmm__verdict_kind kind, gmm__page_id join)
{
	struct gmm__run run = { .kind = kind, .first = first, .count = count, .page = join };

	gmm__merge_claimed(&s->merge, slot, &run);
	for (uint32_t page = first; page < first + count; page++)
		unmark(slot, page);
}

/* Spots in a row from `first` on that are one run. */
static uint32_t run_of_spots(const struct slice *s, uint32_t first)
{
	const struct spot *spot = &s->spot[first];
	uint32_t n = 0;

	while (first + n < s->n && spot[n].kind == spot->kind && spot[n].slot == spot->slot &&
	       spot[n].page == spot->page + n && is_free(spot[n].slot, spot[n].page) &&
	       (n == 0 || spot->kind == GMM__VERDICT_PROMOTE || gmm__page_follows(spot[n - 1].join, spot[n].join)))
		n++;
	return n;
}

static bool twin_can_join(const struct spot *spot)
{
	return spot->twin_slot && !spot->twin_slot->dead && is_free(spot->twin_slot, spot->twin_page) &&
	       gmm__slot_state(spot->slot, spot->page) == GMM_PAGE_SHARED;
}

/* The equal pages of the other guest join what was just promoted. */
static void join_twins(struct slice *s, const struct spot *spot, uint32_t count)
{
	for (uint32_t i = 0, n; i < count; i += n ? n : 1) {
		struct gmm__slot *slot = spot[i].twin_slot;
		for (n = 0; i + n < count && twin_can_join(&spot[i + n]) && spot[i + n].twin_slot == slot &&
			    spot[i + n].twin_page == spot[i].twin_page + n &&
			    (n == 0 || gmm__page_follows(spot[i + n - 1].slot->value[spot[i + n - 1].page],
							 spot[i + n].slot->value[spot[i + n].page])); n++)
			mark(slot, spot[i + n].twin_page);
		if (n == 0)
			continue;
		merge_marked(s, slot, spot[i].twin_page, n, GMM__VERDICT_JOIN, spot[i].slot->value[spot[i].page]);
		for (uint32_t k = 0; k < n; k++)
			s->counts->twins += gmm__slot_state(slot, spot[i].twin_page + k) == GMM_PAGE_SHARED;
	}
}

static struct gmm__known known_pool_page(const struct slice *s, gmm__page_id page)
{
	return (struct gmm__known){ GMM__KNOWN_SHARED, gmm__pool_record(&s->pages->domain->pool, page).generation, page };
}

/* Counts what became of a spot, and remembers where it is now. */
static void conclude(struct slice *s, const struct spot *spot)
{
	enum gmm_page_state state = gmm__slot_state(spot->slot, spot->page);

	if (state == GMM_PAGE_PINNED) {
		s->counts->refused++;
	} else if (state != GMM_PAGE_SHARED) {
		s->counts->failed++;
	} else if (spot->kind == GMM__VERDICT_JOIN) {
		s->counts->joined++;
	} else {
		s->counts->promoted++;
		s->counts->variants += spot->variant > 0;
		gmm__pages_set(s->merge.gmm->registry->mem, s->pages, spot->index, spot->variant,
			       known_pool_page(s, spot->slot->value[spot->page]));
	}
}

/* Merges what was found so far. */
static void merge_spots(struct slice *s)
{
	for (uint32_t i = 0, n; i < s->n; i += n) {
		const struct spot *spot = &s->spot[i];
		n = run_of_spots(s, i);
		if (n == 0) { /* another spot was the same page */
			s->counts->shared++;
			n = 1;
			continue;
		}
		for (uint32_t k = 0; k < n; k++)
			mark(spot->slot, spot[k].page);
		merge_marked(s, spot->slot, spot->page, n, spot->kind, spot->join);
		if (spot->kind == GMM__VERDICT_PROMOTE)
			join_twins(s, spot, n);
		for (uint32_t k = 0; k < n; k++)
			conclude(s, &spot[k]);
	}
	s->n = 0;
}

/* ---- looking for equal pages ------------------------------------------------------------------------------------ */

static void release_other(struct slice *s)
{
	if (!s->other)
		return;
	gmm__presence_forget(&s->presence, s->other);
	gmm__vm_release(s->other);
	s->other = NULL;
}

enum twin { TWIN_FOUND, TWIN_GONE, TWIN_BUSY };

/* The slot of a private page, if it is in this domain; its VM is claimed, unless it is the slice's own. */
static enum twin claim_slot(struct slice *s, gmm__page_id page, struct gmm__slot **ret_slot)
{
	enum twin twin = TWIN_FOUND;

	urcu_bp_read_lock();
	struct gmm__slot *slot = gmm__chunk_table_slot(&s->merge.gmm->chunks, gmm__page_chunk(page));
	if (!slot || slot->vm->domain != s->pages->domain)
		twin = TWIN_GONE;
	else if (slot->vm != s->vm && slot->vm != s->other && (s->other || !gmm__vm_try_claim(slot->vm)))
		twin = TWIN_BUSY;
	else if (slot->vm != s->vm)
		s->other = slot->vm;
	if (twin == TWIN_FOUND && (slot->dead || page - gmm__slot_page_id(slot, 0) >= slot->pages))
		twin = TWIN_GONE;
	urcu_bp_read_unlock(); /* the claim keeps it from now on */
	*ret_slot = slot;
	return twin;
}

/* The same, and at most one other VM is claimed at a time: what was found with the one before is merged first. */
static enum twin find_twin(struct slice *s, gmm__page_id page, struct gmm__slot **ret_slot)
{
	enum twin twin = claim_slot(s, page, ret_slot);

	if (twin != TWIN_BUSY || !s->other)
		return twin;
	merge_spots(s);
	release_other(s);
	return claim_slot(s, page, ret_slot);
}

static bool equals_shared(const struct slice *s, const struct spot *spot, struct gmm__known known, bool *ret_gone)
{
	struct gmm__pool *pool = &s->pages->domain->pool;

	*ret_gone = !gmm__pool_ref_same(pool, known.page, known.generation);
	if (*ret_gone)
		return false;
	bool equal = gmm__verify_twins(s->merge.backend->bytes(spot->slot, spot->page), gmm__pool_bytes(pool, known.page));
	gmm__pool_drop(pool, known.page, 1, GMM__DROP_REFERENCE);
	return equal;
}

/* How a spot stands to one of the known pages of its place. */
enum match { MATCH_YES, MATCH_NO, MATCH_GONE, MATCH_SELF, MATCH_BUSY };

static enum match match_shared(struct slice *s, struct spot *spot, struct gmm__known known)
{
	bool gone;

	if (!equals_shared(s, spot, known, &gone))
		return gone ? MATCH_GONE : MATCH_NO;
	spot->kind = GMM__VERDICT_JOIN;
	spot->join = known.page;
	return MATCH_YES;
}

static enum match match_private(struct slice *s, struct spot *spot, uint32_t variant, gmm__page_id page)
{
	const struct gmm__backend *backend = s->merge.backend;
	struct gmm__slot *slot;

	enum twin twin = find_twin(s, page, &slot);
	if (twin != TWIN_FOUND)
		return twin == TWIN_BUSY ? MATCH_BUSY : MATCH_GONE;
	uint32_t i = page - gmm__slot_page_id(slot, 0);
	if (slot == spot->slot && i == spot->page)
		return MATCH_SELF;
	enum gmm__page_fit fit = gmm__check_fit(&s->presence, slot, i);
	if (fit == GMM__FIT_SHARED) { /* the scanner was there first */
		struct gmm__known known = known_pool_page(s, slot->value[i]);
		gmm__pages_set(s->merge.gmm->registry->mem, s->pages, spot->index, variant, known);
		return match_shared(s, spot, known);
	}
	if (fit != GMM__FIT_YES)
		return MATCH_GONE;
	if (!gmm__verify_twins(backend->bytes(spot->slot, spot->page), backend->bytes(slot, i)))
		return MATCH_NO;
	spot->kind = GMM__VERDICT_PROMOTE;
	spot->variant = variant;
	spot->twin_slot = slot;
	spot->twin_page = i;
	return MATCH_YES;
}

/* Nobody has this page: others shall find it. Pool pages are not given up for it, private ones in turn. */
static void remember(struct slice *s, struct spot *spot, uint32_t variant)
{
	struct gmm__known self = { GMM__KNOWN_PRIVATE, 0, gmm__slot_page_id(spot->slot, spot->page) };

	if (variant < GMM_MODULE_VARIANTS &&
	    gmm__pages_set(s->merge.gmm->registry->mem, s->pages, spot->index, variant, self) &&
	    s->flags & GMM_CHECK_PROMOTE) {
		spot->kind = GMM__VERDICT_PROMOTE;
		spot->variant = variant;
	}
}

/* Decides what is to become of a page. False: its twin's VM is busy. */
static bool decide(struct slice *s, struct spot *spot)
{
	uint32_t room = GMM_MODULE_VARIANTS, old = spot->page % GMM_MODULE_VARIANTS;
	bool busy = false;

	for (uint32_t v = 0; v < GMM_MODULE_VARIANTS; v++) {
		struct gmm__known known = gmm__pages_get(s->pages, spot->index, v);
		enum match match = known.kind == GMM__KNOWN_SHARED ? match_shared(s, spot, known) :
				   known.kind == GMM__KNOWN_PRIVATE ? match_private(s, spot, v, known.page) : MATCH_GONE;
		if (match == MATCH_YES)
			return true;
		busy |= match == MATCH_BUSY;
		if (match == MATCH_SELF || (match == MATCH_GONE && room == GMM_MODULE_VARIANTS))
			room = v;
	}
	if (room == GMM_MODULE_VARIANTS && gmm__pages_get(s->pages, spot->index, old).kind == GMM__KNOWN_PRIVATE)
		room = old;
	if (!busy)
		remember(s, spot, room);
	return !busy;
}

/* A page that is shared already, by the scanner perhaps, is known from now on. */
static void remember_shared(struct slice *s, const struct spot *spot)
{
	gmm__page_id page = spot->slot->value[spot->page];
	uint32_t room = GMM_MODULE_VARIANTS;

	for (uint32_t v = 0; v < GMM_MODULE_VARIANTS; v++) {
		struct gmm__known known = gmm__pages_get(s->pages, spot->index, v);
		if (known.kind == GMM__KNOWN_SHARED && known.page == page &&
		    known.generation == known_pool_page(s, page).generation)
			return;
		if (known.kind != GMM__KNOWN_SHARED || gmm__pool_record(&s->pages->domain->pool, known.page).generation !=
						       known.generation)
			room = v;
	}
	if (room < GMM_MODULE_VARIANTS)
		gmm__pages_set(s->merge.gmm->registry->mem, s->pages, spot->index, room, known_pool_page(s, page));
}

/* ---- slices --------------------------------------------------------------------------------------------------------- */

uint64_t *gmm__check_count(struct gmm_module_checked *counts, enum gmm__page_fit fit)
{
	switch (fit) {
	case GMM__FIT_SHARED:
		return &counts->shared;
	case GMM__FIT_WRITABLE:
		return &counts->writable;
	case GMM__FIT_NOT_RAM:
		return &counts->not_ram;
	case GMM__FIT_REFUSED:
		return &counts->refused;
	case GMM__FIT_HUGE:
		return &counts->huge;
	case GMM__FIT_FILL:
		return &counts->fill;
	case GMM__FIT_BROKEN:
		return &counts->broken;
	default:
		return &counts->absent;
	}
}

static void check_page(struct slice *s, uint32_t index)
{
	struct spot spot = { .index = index, .kind = GMM__VERDICT_NONE };
	enum gmm__page_fit fit = gmm__check_locate(&s->presence, s->record, index, &spot.slot, &spot.page);

	s->counts->pages++;
	if (fit == GMM__FIT_YES) {
		if (!decide(s, &spot))
			s->counts->busy++;
		else if (spot.kind == GMM__VERDICT_NONE)
			s->counts->different++;
		else
			s->spot[s->n++] = spot;
		return;
	}
	if (fit == GMM__FIT_SHARED)
		remember_shared(s, &spot);
	++*gmm__check_count(s->counts, fit);
}

bool gmm__check_slice(const struct gmm__merge *merge, struct gmm__module_record *record, uint32_t first, unsigned flags,
		      struct gmm_module_checked *counts)
{
	struct slice s = { .merge = *merge, .record = record, .pages = &record->module->pages, .vm = record->vm,
			   .flags = flags, .counts = counts, .presence.backend = merge->backend };
	uint32_t end = first + GMM__CHECK_PAGES < s.pages->pages ? first + GMM__CHECK_PAGES : s.pages->pages;

	if (merge->gmm->remote)
		return gmm__check_slice_remote(merge, record, first, counts);
	s.merge.catalog = s.vm->domain->catalog;
	if (!gmm__vm_claim(s.vm, false))
		return false;
	for (uint32_t index = first; index < end; index++)
		check_page(&s, index);
	merge_spots(&s);
	release_other(&s);
	gmm__vm_release(s.vm);
	return true;
}

/* ---- the engine's checks ----------------------------------------------------------------------------------------------- */

static bool begin_pass(struct gmm *gmm)
{
	return gmm__registry_begin_pass(gmm->registry);
}

static bool check_due(struct gmm_vm *vm, const struct gmm__merge *merge)
{
	struct gmm__registry *registry = vm->gmm->registry;

	if (!gmm__remote_shares(vm)) { /* not yet */
		registry->due = true;
		return false;
	}
	struct gmm__module_record *record = gmm__registry_hold_due(registry, vm);
	struct gmm_module_checked counts = { 0 };

	if (!record) {
		gmm__registry_sweep(registry);
		return false;
	}
	uint32_t first = record->next_page;
	bool here = gmm__check_slice(merge, record, first, 0, &counts);
	bool complete = counts.absent + counts.different + counts.refused + counts.huge + counts.failed == 0;
	gmm__registry_set_checked(registry, record, first + GMM__CHECK_PAGES, complete, !here || counts.busy > 0);
	return here;
}

struct moved {
	const struct gmm__domain *domain;
	gmm__page_id (*goal)(const void *moves, gmm__page_id page);
	const void *moves;
};

static void follow(void *arg, struct gmm__module *module)
{
	const struct moved *moved = arg;

	if (module->pages.domain == moved->domain)
		gmm__pages_follow(&module->pages, moved->goal, moved->moves);
}

static void follow_moves(struct gmm__domain *domain, gmm__page_id (*goal)(const void *moves, gmm__page_id page),
			 const void *moves)
{
	struct moved moved = { domain, goal, moves };

	gmm__registry_for_each(domain->catalog->gmm->registry, follow, &moved);
}

static void end_vm(struct gmm_vm *vm)
{
	gmm__registry_end_vm(vm->gmm->registry, vm);
}

static void end_domain(struct gmm *gmm, struct gmm__domain *domain)
{
	gmm__registry_end_domain(gmm->registry, domain);
}

static void close_instance(struct gmm *gmm)
{
	gmm__registry_destroy(gmm->registry);
}

const struct gmm__module_hooks gmm__check_hooks = {
	.begin_pass = begin_pass, .check_slice = check_due, .tell = gmm__modules_tell, .moved = follow_moves,
	.vm_end = end_vm, .domain_end = end_domain, .close = close_instance,
};
