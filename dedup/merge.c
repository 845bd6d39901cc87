/* Merge: carries out one run, from reservation to accounts. This is the only place where guest pages are replaced.
 *
 * Between freeze and thaw there is no allocation, no log, and no lock but freeze_lock (which makes a fork wait).
 */
#include "dedup/merge.h"

#include <errno.h>
#include <urcu/urcu-bp.h>

#include "dedup/verify.h"

/* A part of a run that is frozen at once. */
struct piece {
	const struct gmm__merge *merge;
	const struct gmm__run *run;
	struct gmm__slot *slot;
	uint32_t first;              /* page of the slot */
	uint32_t count;
	gmm__page_id page;           /* shared page of the first; NIL for zero pages */
	bool fresh;                  /* the shared pages are reserved and get their bytes from this piece */
	bool equal[GMM__FREEZE_PAGES];
	bool filled[GMM__FREEZE_PAGES];
	struct gmm__freeze freeze;
};

/* ---- before the freeze --------------------------------------------------------------------------------------- */

static bool is_waiting(const struct piece *p, uint32_t page)
{
	return gmm__slot_state(p->slot, page) == GMM_PAGE_NOMINATED && !(p->slot->state[page] & GMM__FLAGS_REFUSED);
}

/* The slot of a twin, with its VM claimed unless it is the caller's own; NULL when it is gone or somebody else has the
 * claim. */
static struct gmm__slot *claim_twin(const struct gmm__merge *m, gmm__page_id twin, const struct gmm_vm *own)
{
	urcu_bp_read_lock();
	struct gmm__slot *slot = gmm__chunk_table_slot(&m->gmm->chunks, gmm__page_chunk(twin));
	if (slot && (slot->vm->domain->catalog != m->catalog || (slot->vm != own && !gmm__vm_try_claim(slot->vm))))
		slot = NULL;
	if (slot && slot->dead) { /* it may be freed as soon as we leave the section */
		if (slot->vm != own)
			gmm__vm_release(slot->vm);
		slot = NULL;
	}
	urcu_bp_read_unlock(); /* the claim keeps it from now on */
	return slot;
}

/* What a page and its twin are to each other while their guests run. */
enum twins { TWINS_EQUAL, TWINS_ALIKE, TWINS_GONE };

static bool was_written(const struct gmm__backend *backend, struct gmm__slot *slot, uint32_t page)
{
	struct gmm__scan_filter written = { .need = GMM__IS_WRITTEN };
	uint8_t is = 0;

	return backend->scan(slot, page, 1, &written, &is) != 0;
}

static enum twins compare_twins(const struct piece *p, uint32_t page, struct gmm__slot *slot, uint32_t twin)
{
	const struct gmm__backend *backend = p->merge->backend;
	enum gmm_page_state state = twin < slot->pages ? gmm__slot_state(slot, twin) : GMM_PAGE_ABSENT;

	if (slot->dead || !gmm__state_is_candidate(state))
		return TWINS_GONE;
	const uint8_t *other = backend->bytes(slot, twin);
	if (gmm__verify_twins(backend->bytes(p->slot, page), other))
		return TWINS_EQUAL;
	if (gmm__digest_sample(other, &p->merge->catalog->secret).fingerprint != p->slot->value[page])
		return TWINS_GONE;
	/* A page that is being written now says nothing about the samples. */
	return was_written(backend, p->slot, page) || was_written(backend, slot, twin) ? TWINS_GONE : TWINS_ALIKE;
}

/* A promotion needs a twin with equal bytes, or it costs a mapping for nothing. A page whose twin cannot be looked at
 * now waits for the next pass. */
static bool has_twin(const struct piece *p, uint32_t page)
{
	const struct gmm__merge *m = p->merge;
	gmm__page_id id = m->verdict[page - m->region->first].page;
	struct gmm__slot *slot = claim_twin(m, id, p->slot->vm);

	if (!slot)
		return false;
	uint32_t twin = id - gmm__slot_page_id(slot, 0);
	enum twins twins = compare_twins(p, page, slot, twin);
	/* A piece that got shorter asks again; what has no room finds its twin shared later. */
	if (twins == TWINS_EQUAL && gmm__slot_state(slot, twin) == GMM_PAGE_UNIQUE &&
	    m->nominations->n < sizeof m->nominations->page / sizeof *m->nominations->page)
		m->nominations->page[m->nominations->n++] = id;
	if (slot->vm != p->slot->vm)
		gmm__vm_release(slot->vm);
	if (twins != TWINS_EQUAL) /* alike in the sample only: to be digested whole */
		gmm__slot_set(p->slot, page, twins == TWINS_ALIKE ? GMM_PAGE_RACED : GMM_PAGE_UNIQUE,
			      p->slot->value[page]);
	return twins == TWINS_EQUAL;
}

/* Moves p->first past pages that are not to be merged and cuts the piece before the next such page. False: none left. */
static bool cut_waiting(struct piece *p, uint32_t end)
{
	bool promote = p->run->kind == GMM__VERDICT_PROMOTE && !p->merge->hinted;

	while (p->first < end && !(is_waiting(p, p->first) && (!promote || has_twin(p, p->first))))
		p->first++;
	p->count = p->first < end;
	while (p->count && p->first + p->count < end && p->count < p->merge->waits->pages &&
	       is_waiting(p, p->first + p->count) && (!promote || has_twin(p, p->first + p->count)))
		p->count++;
	return p->count > 0;
}

static void reserve_fresh(struct piece *p, uint32_t count)
{
	p->fresh = true;
	p->count = gmm__pool_reserve(p->merge->catalog->pool, count, &p->page);
}

/* The extent of the word, or new pages that become its extent. */
static void reserve_fill(struct piece *p)
{
	struct gmm__catalog *catalog = p->merge->catalog;
	gmm__page_id first = GMM__NIL;
	uint32_t pages = 0;

	gmm__lock_take(&catalog->lock);
	const struct gmm__fill_extent *extent = gmm__fill_find(&catalog->fills, p->run->word);
	if (extent) {
		first = extent->first;
		pages = extent->pages;
	}
	gmm__lock_give(&catalog->lock);
	/* What is left of an extent may be too short for a long run to be worth joining. */
	if (pages >= GMM__FILL_RUN || pages >= p->count) {
		p->page = first;
		p->count = gmm__pool_ref(catalog->pool, first, pages < p->count ? pages : p->count);
	} else {
		reserve_fresh(p, p->count < GMM__FILL_EXTENT ? p->count : GMM__FILL_EXTENT);
	}
}

/* Takes a reference to each shared page of the piece; the piece may get shorter. False: nothing to share with. */
static bool reserve(struct piece *p)
{
	const struct gmm__merge *m = p->merge;

	p->fresh = false;
	p->page = GMM__NIL;
	switch (p->run->kind) {
	case GMM__VERDICT_JOIN:
		p->page = p->run->page + (p->first - p->run->first);
		p->count = gmm__pool_ref(m->catalog->pool, p->page, p->count);
		break;
	case GMM__VERDICT_PROMOTE:
		reserve_fresh(p, p->count);
		break;
	case GMM__VERDICT_FILL:
		reserve_fill(p);
		break;
	default:
		break;
	}
	return p->count > 0;
}

static bool within_budget(const struct piece *p)
{
	struct gmm *gmm = p->merge->gmm;

	return p->page == GMM__NIL ||
	       gmm->mappings + gmm__slot_seams_added(p->slot, p->first, p->count, p->page) <= gmm->max_mappings;
}

void gmm__waits_add(struct gmm__waits *waits, uint32_t pages, uint64_t ns)
{
	uint64_t us = ns / 1000;
	int bucket = us ? 63 - __builtin_clzll(us) : 0;

	waits->freezes[bucket < GMM_WAIT_BUCKETS ? bucket : GMM_WAIT_BUCKETS - 1]++;
	if (ns > waits->longest_ns)
		waits->longest_ns = ns;
	/* Half of the bound is aimed at: halve at once when above it, grow slowly while far below. */
	if (ns > waits->bound_ns / 2 && pages * 2 > waits->pages)
		waits->pages = waits->pages > 8 ? waits->pages / 2 : 4;
	else if (ns < waits->bound_ns / 4 && pages == waits->pages && waits->pages < GMM__FREEZE_PAGES)
		waits->pages += waits->pages / 4 + 1;
	if (waits->pages > GMM__FREEZE_PAGES)
		waits->pages = GMM__FREEZE_PAGES;
}

/* ---- from freeze to thaw --------------------------------------------------------------------------------------- */

/* Equal pages in a row from i on. */
static uint32_t equal_span(const struct piece *p, uint32_t i)
{
	uint32_t n = 0;

	while (i + n < p->count && p->equal[i + n])
		n++;
	return n;
}

static bool fill_pool(struct piece *p, uint32_t i, uint32_t n)
{
	struct iovec bytes = { (void *)(uintptr_t)(p->freeze.staging + (uint64_t)i * GMM__PAGE_BYTES),
			       (size_t)n * GMM__PAGE_BYTES };

	if (gmm__pool_fill(p->merge->catalog->pool, p->page + i, &bytes, 1) != 0)
		return false;
	for (uint32_t k = i; k < i + n; k++)
		p->filled[k] = true;
	return true;
}

static void share_or_restore(struct piece *p)
{
	const struct gmm__backend *backend = p->merge->backend;

	for (uint32_t i = 0; i < p->count;) {
		uint32_t n = equal_span(p, i);
		if (n == 0) {
			if (p->freeze.page[i] == GMM__FROZEN_YES)
				backend->restore(&p->freeze, i, 1);
			i++;
			continue;
		}
		if (p->page != GMM__NIL && ((p->fresh && !fill_pool(p, i, n)) ||
					    backend->share(&p->freeze, i, n, p->page + i) != 0))
			backend->restore(&p->freeze, i, n);
		i += n;
	}
}

static int replace(struct piece *p)
{
	const struct gmm__merge *m = p->merge;

	gmm__lock_take(&m->gmm->freeze_lock);
	p->freeze.slot = p->slot;
	p->freeze.first = p->first;
	p->freeze.count = p->count;
	uint64_t start_ns = gmm__sys_of(m->gmm)->clock_ns();
	int rc = m->backend->freeze(&p->freeze);
	if (rc == 0) {
		gmm__verify_frozen(&p->freeze, m->catalog->pool, p->run, p->fresh ? GMM__NIL : p->page, p->equal);
		share_or_restore(p);
		m->backend->thaw(&p->freeze);
		gmm__waits_add(m->waits, p->count, gmm__sys_of(m->gmm)->clock_ns() - start_ns);
	}
	gmm__lock_give(&m->gmm->freeze_lock);
	return rc;
}

/* ---- accounts ---------------------------------------------------------------------------------------------------- */

static void give_back(struct piece *p, uint32_t i)
{
	if (p->page == GMM__NIL)
		return;
	gmm__pool_drop(p->merge->catalog->pool, p->page + i, 1,
		       p->fresh && !p->filled[i] ? GMM__DROP_UNFILLED : GMM__DROP_REFERENCE);
}

/* From now on others find the page. */
static void publish_page(const struct piece *p, uint32_t fingerprint, gmm__page_id page)
{
	struct gmm__catalog *catalog = p->merge->catalog;

	if (p->merge->hinted)
		fingerprint = gmm__digest_sample(gmm__pool_bytes(catalog->pool, page), &catalog->secret).fingerprint;
	gmm__catalog_publish(catalog, fingerprint, page);
}

static void account_page(struct piece *p, uint32_t i)
{
	uint32_t page = p->first + i, fingerprint = p->slot->value[page];
	struct gmm_vm_stats *stats = &p->slot->vm->stats;
	bool fill = p->slot->state[page] & GMM__FLAG_FILL;

	switch (p->freeze.page[i]) {
	case GMM__FROZEN_SHARED:
		if (p->fresh && p->run->kind == GMM__VERDICT_PROMOTE)
			publish_page(p, fingerprint, p->page + i);
		gmm__slot_set(p->slot, page, fill ? GMM_PAGE_FILL : GMM_PAGE_SHARED, p->page + i);
		break;
	case GMM__FROZEN_HOLE:
		gmm__slot_set(p->slot, page, GMM_PAGE_ZERO, 0);
		break;
	case GMM__FROZEN_PINNED:
		stats->refused_pinned++;
		gmm__slot_set(p->slot, page, GMM_PAGE_PINNED, 0);
		break;
	case GMM__FROZEN_RESTORED:
		if (p->equal[i]) { /* the mapping limit of the kernel, or no memory for the pool */
			gmm__slot_set(p->slot, page, GMM_PAGE_BUDGET, fingerprint);
		} else {
			stats->raced++;
			gmm__slot_set(p->slot, page, GMM_PAGE_RACED, fingerprint);
		}
		break;
	default:
		gmm__slot_set(p->slot, page, GMM_PAGE_VOLATILE, 0);
		break;
	}
}

static void account(struct piece *p)
{
	struct gmm__seams before = gmm__account_begin(p->slot, p->first, p->count);
	uint32_t merged = 0;

	for (uint32_t i = 0; i < p->count; i++) {
		bool done = p->freeze.page[i] == GMM__FROZEN_SHARED || p->freeze.page[i] == GMM__FROZEN_HOLE;
		bool different = p->freeze.page[i] == GMM__FROZEN_RESTORED && !p->equal[i];
		if (different && p->run->kind == GMM__VERDICT_JOIN && !p->merge->hinted)
			gmm__catalog_doubt(p->merge->catalog, p->slot->value[p->first + i], p->page + i);
		account_page(p, i);
		if (!done)
			give_back(p, i);
		merged += done;
	}
	gmm__account_end(p->slot, p->first, p->count, before);
	/* The freeze ended the dirty tracking of what stays: from now on a write is noticed again. */
	if (merged < p->count)
		p->merge->backend->arm(p->slot, p->first, p->count);
	p->slot->vm->stats.merges += merged;
	p->merge->progress->merged += merged;
}

static void account_all(struct piece *p, enum gmm_page_state state)
{
	for (uint32_t i = p->first; i < p->first + p->count; i++)
		gmm__slot_set(p->slot, i, state, p->slot->value[i]);
}

/* A word's first run of pages is its extent from now on. */
static void publish_extent(struct piece *p)
{
	struct gmm__catalog *catalog = p->merge->catalog;
	uint32_t n = 0;

	while (n < p->count && p->freeze.page[n] == GMM__FROZEN_SHARED)
		n++;
	if (n == 0)
		return;
	gmm__lock_take(&catalog->lock);
	gmm__fill_set(&catalog->fills, p->run->word, p->page, n);
	gmm__lock_give(&catalog->lock);
}

/* ---- pieces -------------------------------------------------------------------------------------------------------- */

/* With the claim. True if pages were frozen: p->freeze says what became of them. */
static bool merge_piece(struct piece *p)
{
	if (!reserve(p)) {
		/* Gone since the verdict, or listed though it is no more: to be looked at again. */
		if (p->run->kind == GMM__VERDICT_JOIN)
			gmm__catalog_doubt(p->merge->catalog, p->slot->value[p->first], p->page);
		p->count = 1;
		account_all(p, GMM_PAGE_VOLATILE);
		return false;
	}
	bool fits = within_budget(p);
	for (uint32_t i = 0; i < p->count; i++)
		p->filled[i] = p->equal[i] = false;
	int rc = fits ? replace(p) : 0;
	if (fits && rc == 0) {
		account(p);
		if (p->fresh && p->run->kind == GMM__VERDICT_FILL)
			publish_extent(p);
		return true;
	}
	for (uint32_t i = 0; i < p->count; i++)
		give_back(p, i);
	account_all(p, !fits ? GMM_PAGE_BUDGET : rc == -ENOENT ? GMM_PAGE_FOREIGN :
		       rc == -ENOMEM ? GMM_PAGE_BUDGET : GMM_PAGE_VOLATILE);
	return false;
}

/* Twins of pages that were just promoted join at once, while the bytes of both are in the cache. What does not work out
 * here is done when the twin's own turn comes. */
static void join_twins(const struct piece *promoted)
{
	const struct gmm__merge *m = promoted->merge;
	const struct gmm__verdict *verdict = &m->verdict[promoted->first - m->region->first];

	for (uint32_t i = 0, n; i < promoted->count; i += n) {
		n = 1;
		if (promoted->freeze.page[i] != GMM__FROZEN_SHARED)
			continue;
		while (i + n < promoted->count && promoted->freeze.page[i + n] == GMM__FROZEN_SHARED &&
		       verdict[i + n].page == verdict[i].page + n)
			n++;
		struct gmm__slot *slot = claim_twin(m, verdict[i].page, NULL);
		if (!slot)
			continue;
		struct gmm__run run = { .kind = GMM__VERDICT_JOIN, .first = verdict[i].page - gmm__slot_page_id(slot, 0),
					.count = n, .page = promoted->page + i };
		struct piece twins = { .merge = m, .run = &run, .slot = slot, .first = run.first };
		uint32_t end = run.first + n < slot->pages ? run.first + n : slot->pages;
		for (; !slot->dead && cut_waiting(&twins, end); twins.first += twins.count)
			merge_piece(&twins);
		gmm__vm_release(slot->vm);
	}
}

void gmm__merge_claimed(const struct gmm__merge *merge, struct gmm__slot *slot, const struct gmm__run *run)
{
	struct piece piece = { .merge = merge, .run = run, .slot = slot, .first = run->first };
	uint32_t end = run->first + run->count;

	for (; !slot->dead && cut_waiting(&piece, end); piece.first += piece.count)
		merge_piece(&piece);
}

void gmm__merge_run(const struct gmm__merge *merge, const struct gmm__run *run)
{
	struct gmm__slot *slot = merge->region->slot;
	struct piece piece = { .merge = merge, .run = run, .slot = slot, .first = run->first };
	uint32_t end = run->first + run->count;

	for (;;) {
		if (!gmm__vm_claim(slot->vm, false))
			return;
		bool more = !slot->dead && cut_waiting(&piece, end);
		bool shared = more && merge_piece(&piece);
		gmm__vm_release(slot->vm);
		if (!more)
			return;
		if (shared && run->kind == GMM__VERDICT_PROMOTE)
			join_twins(&piece);
		piece.first += piece.count;
	}
}
