/* Merge: carries out one run, from reservation to accounts. This is the only place where guest pages are replaced.
 *
 * Between freeze and thaw there is no allocation, no log, and no lock but the staging's (which makes a fork wait).
 */
#include "dedup/merge.h"

#include <errno.h>
#include <urcu/urcu-bp.h>

#include "dedup/engine.h"
#include "dedup/verify.h"
#include "dedup/visit.h"

/* Pages of one run in a piece. */
struct part {
	const struct gmm__run *run;
	uint32_t at;                 /* its first page in the piece */
	uint32_t count;
	gmm__page_id page;           /* shared page of the first; NIL for zero pages */
	bool fresh;                  /* the shared pages are reserved and get their bytes from this piece */
};

/* Pages in a row that are frozen at once: one run, a part of one, or several that touch. To start and end a freeze costs
 * as much as a page or two, and most runs are short and lie side by side. */
struct piece {
	const struct gmm__merge *merge;
	struct gmm__slot *slot;
	uint32_t first;              /* page of the slot */
	uint32_t count;              /* sum of the parts */
	uint32_t parts;
	uint64_t mappings;           /* VMAs that it adds */
	struct gmm__slot *twins;     /* visited while promotions look at their twins in it */
	struct part part[GMM__FREEZE_PAGES];
	bool equal[GMM__FREEZE_PAGES];
	bool filled[GMM__FREEZE_PAGES];
	struct gmm__freeze freeze;
};

/* Runs to merge, and the page to go on with. */
struct cursor {
	const struct gmm__run *run;
	const struct gmm__run *end;
	uint32_t page;               /* of the slot */
};

/* A mapping takes about as long as so many pages of a long run. */
enum { PART_WEIGHT = 4 };

/* ---- before the freeze --------------------------------------------------------------------------------------- */

static bool is_waiting(const struct piece *p, uint32_t page)
{
	return gmm__slot_state(p->slot, page) == GMM_PAGE_NOMINATED && !(p->slot->state[page] & GMM__FLAGS_REFUSED);
}

/* The slot of a twin, by try_claim or visit; NULL when it is gone or could not be had. */
static struct gmm__slot *find_twin(const struct gmm__merge *m, gmm__page_id twin, bool (*take)(struct gmm__slot *slot))
{
	urcu_bp_read_lock();
	struct gmm__slot *slot = gmm__chunk_table_slot(&m->gmm->chunks, gmm__page_chunk(twin));
	if (slot && (slot->vm->domain->catalog != m->catalog || !take(slot)))
		slot = NULL;
	urcu_bp_read_unlock(); /* what was taken keeps it from now on */
	return slot;
}

static bool try_claim(struct gmm__slot *slot)
{
	if (!gmm__vm_try_claim(slot->vm))
		return false;
	bool dead = slot->dead; /* then it may be freed as soon as we leave the section */
	if (dead)
		gmm__vm_release(slot->vm);
	return !dead;
}

/* To look, no claim is needed: another worker may have it most of the time. */
static bool visit(struct gmm__slot *slot)
{
	struct gmm *gmm = slot->vm->gmm;

	gmm__lock_take(&gmm->lock);
	bool alive = !slot->dead && !slot->vm->dead;
	slot->vm->visits += alive;
	gmm__lock_give(&gmm->lock);
	return alive;
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

static void leave_twins(struct piece *p)
{
	if (p->twins)
		gmm__visit_end(p->twins->vm);
	p->twins = NULL;
}

/* The slot of a twin, visited until another one is asked for or the piece is complete. */
static struct gmm__slot *visit_twin(struct piece *p, gmm__page_id twin)
{
	if (p->twins && !p->twins->dead && twin - gmm__slot_page_id(p->twins, 0) < p->twins->pages)
		return p->twins;
	leave_twins(p);
	p->twins = find_twin(p->merge, twin, visit);
	return p->twins;
}

/* A page that got no room in the list finds its twin shared later. */
static void nominate(const struct piece *p, gmm__page_id page)
{
	struct gmm__nominations *nominations = p->merge->nominations;

	if (nominations->n < sizeof nominations->page / sizeof *nominations->page)
		nominations->page[nominations->n++] = page;
}

/* From the next verdict on the page goes by its whole digest, and so does whatever it was taken for. If its equal was shared
 * meanwhile, it goes on waiting. */
static void tell_apart(const struct piece *p, uint32_t page)
{
	uint32_t fingerprint = p->slot->value[page];
	gmm__page_id hint = GMM__NIL;

	/* Pages that repeat one word have no better digest: they go on finding each other by this one. */
	if (!(p->slot->state[page] & GMM__FLAG_FILL) && !gmm__catalog_tell_apart(p->merge->catalog, fingerprint, &hint))
		return;
	gmm__slot_set(p->slot, page, GMM_PAGE_RACED, fingerprint);
	if (hint != GMM__NIL)
		nominate(p, hint);
}

/* A promotion needs a twin with equal bytes, or it costs a mapping for nothing. A page whose twin was shared since the
 * verdict, by another worker, waits: the next verdict is to join it. */
static bool has_twin(struct piece *p, uint32_t page)
{
	const struct gmm__merge *m = p->merge;
	gmm__page_id id = m->verdict[page - m->region->first].page;
	struct gmm__slot *slot = visit_twin(p, id);

	if (!slot)
		return false;
	uint32_t twin = id - gmm__slot_page_id(slot, 0);
	if (twin < slot->pages && gmm__state_is_shared(gmm__slot_state(slot, twin)))
		return false;
	enum twins twins = compare_twins(p, page, slot, twin);
	if (twins != TWINS_GONE && gmm__slot_state(slot, twin) == GMM_PAGE_UNIQUE)
		nominate(p, id); /* a piece that got shorter asks again */
	if (twins == TWINS_ALIKE)
		tell_apart(p, page);
	else if (twins == TWINS_GONE)
		gmm__slot_set(p->slot, page, GMM_PAGE_UNIQUE, p->slot->value[page]);
	return twins == TWINS_EQUAL;
}

static bool is_ready(struct piece *p, const struct gmm__run *run, uint32_t page)
{
	return is_waiting(p, page) &&
	       (run->kind != GMM__VERDICT_PROMOTE || p->merge->hinted || has_twin(p, page));
}

static void reserve_fresh(const struct piece *p, struct part *part)
{
	const struct gmm__worker *worker = p->merge->worker;

	for (uint32_t i = 0; i < part->count; i++) /* they are published when their bytes have been copied */
		gmm__page_index_prefetch(&p->merge->catalog->index, p->slot->value[p->first + part->at + i]);

	part->fresh = true;
	part->count = gmm__pool_reserve_at(p->merge->catalog->pool, worker ? worker->number : 0, part->count, &part->page);
}

/* The extent of the word, or new pages that become its extent. */
static void reserve_fill(const struct piece *p, struct part *part)
{
	struct gmm__catalog *catalog = p->merge->catalog;
	gmm__page_id first = GMM__NIL;
	uint32_t pages = 0;

	gmm__lock_take(&catalog->lock);
	const struct gmm__fill_extent *extent = gmm__fill_find(&catalog->fills, part->run->word);
	if (extent) {
		first = extent->first;
		pages = extent->pages;
	}
	gmm__lock_give(&catalog->lock);
	/* What is left of an extent may be too short for a long run to be worth joining. */
	if (pages >= GMM__FILL_RUN || pages >= part->count) {
		part->page = first;
		part->count = gmm__pool_ref(catalog->pool, first, pages < part->count ? pages : part->count);
	} else {
		part->count = part->count < GMM__FILL_EXTENT ? part->count : GMM__FILL_EXTENT;
		reserve_fresh(p, part);
	}
}

/* Takes a reference to each shared page of the part; the part may get shorter. False: nothing to share with. */
static bool reserve(const struct piece *p, struct part *part)
{
	switch (part->run->kind) {
	case GMM__VERDICT_JOIN:
		part->page = part->run->page + (p->first + part->at - part->run->first);
		part->count = gmm__pool_ref(p->merge->catalog->pool, part->page, part->count);
		break;
	case GMM__VERDICT_PROMOTE:
		reserve_fresh(p, part);
		break;
	case GMM__VERDICT_FILL:
		reserve_fill(p, part);
		break;
	default:
		break;
	}
	return part->count > 0;
}

/* The VMAs that a part adds to those of the piece: two parts side by side have one seam between them, not two. */
static uint64_t mappings_of(const struct piece *p, const struct part *part)
{
	if (part->page == GMM__NIL)
		return 0;
	uint32_t added = gmm__slot_seams_added(p->slot, p->first + part->at, part->count, part->page);
	bool beside = p->parts > 0 && p->part[p->parts - 1].page != GMM__NIL;
	return added > 0 && beside ? added - 1 : added;
}

void gmm__waits_add(struct gmm__waits *waits, uint32_t pages, uint64_t ns)
{
	uint64_t us = ns / 1000;
	int bucket = us ? 63 - __builtin_clzll(us) : 0;

	waits->freezes[bucket < GMM_WAIT_BUCKETS ? bucket : GMM_WAIT_BUCKETS - 1]++;
	if (ns > waits->longest_ns)
		waits->longest_ns = ns;
	/* Half of the bound is aimed at: halve when above it twice in a row (once may be the scheduler's doing), grow slowly
	 * while below. */
	bool large = pages * 2 > waits->pages, slow = ns > waits->bound_ns / 2;
	if (large && slow && waits->slow)
		waits->pages = waits->pages > 8 ? waits->pages / 2 : 4;
	else if (ns < waits->bound_ns / 8 * 3 && pages == waits->pages && waits->pages < GMM__FREEZE_PAGES)
		waits->pages += waits->pages / 4 + 1;
	if (large)
		waits->slow = slow && !waits->slow;
	if (waits->pages > GMM__FREEZE_PAGES)
		waits->pages = GMM__FREEZE_PAGES;
}

/* ---- from freeze to thaw --------------------------------------------------------------------------------------- */

/* Equal pages in a row from i on, up to `end`. */
static uint32_t equal_span(const struct piece *p, uint32_t i, uint32_t end)
{
	uint32_t n = 0;

	while (i + n < end && p->equal[i + n])
		n++;
	return n;
}

static bool fill_pool(struct piece *p, gmm__page_id page, uint32_t i, uint32_t n)
{
	struct iovec bytes = { (void *)(uintptr_t)(p->freeze.staging + (uint64_t)i * GMM__PAGE_BYTES),
			       (size_t)n * GMM__PAGE_BYTES };

	if (gmm__pool_fill(p->merge->catalog->pool, page, &bytes, 1) != 0)
		return false;
	for (uint32_t k = i; k < i + n; k++)
		p->filled[k] = true;
	return true;
}

static void share_or_restore(struct piece *p, const struct part *part)
{
	const struct gmm__backend *backend = p->merge->backend;
	uint32_t end = part->at + part->count;

	for (uint32_t i = part->at; i < end;) {
		uint32_t n = equal_span(p, i, end);
		gmm__page_id page = part->page + (i - part->at);
		if (n == 0) {
			if (p->freeze.page[i] == GMM__FROZEN_YES)
				backend->restore(&p->freeze, i, 1);
			i++;
			continue;
		}
		if (part->page != GMM__NIL && ((part->fresh && !fill_pool(p, page, i, n)) ||
					       backend->share(&p->freeze, i, n, page) != 0))
			backend->restore(&p->freeze, i, n);
		i += n;
	}
}

/* Shared bytes that part k is to be compared with, or NULL. */
static const uint8_t *shared_bytes(const struct piece *p, uint32_t k)
{
	return k < p->parts && !p->part[k].fresh && p->part[k].page != GMM__NIL ?
	       gmm__pool_bytes(p->merge->catalog->pool, p->part[k].page) : NULL;
}

static uint32_t weight_of(const struct piece *p)
{
	return p->count + (p->parts - 1) * PART_WEIGHT;
}

static void verify(struct piece *p)
{
	for (uint32_t k = 0; k < p->parts; k++)
		gmm__verify_frozen(&p->freeze, p->part[k].at, p->part[k].count, p->part[k].run, shared_bytes(p, k),
				   shared_bytes(p, k + 1), p->equal);
}

/* The watchdog gave the pages back: nothing was found out about them. */
static void leave_all(struct piece *p)
{
	for (uint32_t i = 0; i < p->count; i++)
		if (p->freeze.page[i] == GMM__FROZEN_RESTORED)
			p->freeze.page[i] = GMM__FROZEN_NO;
}

static void finish(struct piece *p)
{
	for (uint32_t k = 0; k < p->parts; k++)
		share_or_restore(p, &p->part[k]);
	p->merge->backend->thaw(&p->freeze);
}

static int replace(struct piece *p)
{
	const struct gmm__merge *m = p->merge;
	struct gmm__guard *guard = m->waits->guard;

	p->freeze.in = gmm__staging_of(m->gmm, m->worker);
	gmm__lock_take(&p->freeze.in->lock);
	p->freeze.slot = p->slot;
	p->freeze.first = p->first;
	p->freeze.count = p->count;
	uint64_t start_ns = gmm__sys_of(m->gmm)->clock_ns();
	if (guard)
		gmm__guard_begin(guard, start_ns);
	int rc = m->backend->freeze(&p->freeze);
	if (rc == 0) {
		if (guard)
			gmm__guard_open(guard, m->backend, &p->freeze);
		verify(p);
		if (!guard || gmm__guard_close(guard))
			finish(p);
		else
			leave_all(p);
		gmm__waits_add(m->waits, weight_of(p), gmm__sys_of(m->gmm)->clock_ns() - start_ns);
	}
	if (guard)
		gmm__guard_end(guard);
	gmm__lock_give(&p->freeze.in->lock);
	return rc;
}

/* ---- accounts ---------------------------------------------------------------------------------------------------- */

/* Page i of the piece, which lies in the part. */
static void give_back(struct piece *p, const struct part *part, uint32_t i)
{
	if (part->page == GMM__NIL)
		return;
	gmm__pool_drop(p->merge->catalog->pool, part->page + (i - part->at), 1,
		       part->fresh && !p->filled[i] ? GMM__DROP_UNFILLED : GMM__DROP_REFERENCE);
}

static void give_back_all(struct piece *p, const struct part *part)
{
	for (uint32_t i = part->at; i < part->at + part->count; i++)
		give_back(p, part, i);
}

/* From now on others find the page. */
static void publish_page(const struct piece *p, uint32_t fingerprint, gmm__page_id page)
{
	struct gmm__catalog *catalog = p->merge->catalog;

	if (p->merge->hinted)
		fingerprint = gmm__digest_sample(gmm__pool_bytes(catalog->pool, page), &catalog->secret).fingerprint;
	gmm__catalog_publish(catalog, fingerprint, page);
}

static void account_page(struct piece *p, const struct part *part, uint32_t i)
{
	gmm__page_id shared = part->page + (i - part->at);
	uint32_t page = p->first + i, fingerprint = p->slot->value[page];
	struct gmm_vm_stats *stats = &p->slot->vm->stats;
	bool fill = p->slot->state[page] & GMM__FLAG_FILL;

	switch (p->freeze.page[i]) {
	case GMM__FROZEN_SHARED:
		if (part->fresh && part->run->kind == GMM__VERDICT_PROMOTE)
			publish_page(p, fingerprint, shared);
		gmm__slot_set(p->slot, page, fill ? GMM_PAGE_FILL : GMM_PAGE_SHARED, shared);
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

/* Returns how many pages of the part were merged. */
static uint32_t account_part(struct piece *p, const struct part *part)
{
	uint32_t merged = 0;

	for (uint32_t i = part->at; i < part->at + part->count; i++) {
		bool done = p->freeze.page[i] == GMM__FROZEN_SHARED || p->freeze.page[i] == GMM__FROZEN_HOLE;
		bool different = p->freeze.page[i] == GMM__FROZEN_RESTORED && !p->equal[i];
		if (different && part->run->kind == GMM__VERDICT_JOIN && !p->merge->hinted)
			gmm__catalog_doubt(p->merge->catalog, p->slot->value[p->first + i],
					   part->page + (i - part->at));
		account_page(p, part, i);
		if (!done)
			give_back(p, part, i);
		merged += done;
	}
	return merged;
}

/* A word's first run of pages is its extent from now on. */
static void publish_extent(const struct piece *p, const struct part *part)
{
	struct gmm__catalog *catalog = p->merge->catalog;
	uint32_t n = 0;

	while (n < part->count && p->freeze.page[part->at + n] == GMM__FROZEN_SHARED)
		n++;
	if (n == 0)
		return;
	gmm__lock_take(&catalog->lock);
	gmm__fill_set(&catalog->fills, part->run->word, part->page, n);
	gmm__lock_give(&catalog->lock);
}

static void account(struct piece *p)
{
	struct gmm__seams before = gmm__account_begin(p->slot, p->first, p->count);
	uint32_t merged = 0;

	for (uint32_t k = 0; k < p->parts; k++) {
		merged += account_part(p, &p->part[k]);
		if (p->part[k].fresh && p->part[k].run->kind == GMM__VERDICT_FILL)
			publish_extent(p, &p->part[k]);
	}
	gmm__account_end(p->slot, p->first, p->count, before);
	/* The freeze ended the dirty tracking of what stays: from now on a write is noticed again. */
	if (merged < p->count)
		p->merge->backend->arm(p->slot, p->first, p->count);
	p->slot->vm->stats.merges += merged;
	p->merge->progress->merged += merged;
}

/* Pages that were not frozen. Those that wait for budget keep their fingerprint. */
static void account_all(struct piece *p, uint32_t first, uint32_t count, enum gmm_page_state state)
{
	for (uint32_t i = first; i < first + count; i++)
		gmm__slot_set(p->slot, i, state, state == GMM_PAGE_BUDGET ? p->slot->value[i] : 0);
}

/* ---- pieces -------------------------------------------------------------------------------------------------------- */

/* Puts waiting pages of the cursor's run into a new part, which begins where the cursor is. */
static void cut_part(struct piece *p, const struct cursor *c, struct part *part)
{
	uint32_t used = p->parts ? p->count + p->parts * PART_WEIGHT : 0, room = p->merge->waits->pages;
	uint32_t end = c->run->first + c->run->count;

	*part = (struct part){ .run = c->run, .at = p->count, .count = 1, .page = GMM__NIL };
	while (c->page + part->count < end && used + part->count < room && is_ready(p, c->run, c->page + part->count))
		part->count++;
}

/* Where a part could not be made: the pages that were to be its first get the state that says why. */
static uint32_t refuse(struct piece *p, const struct part *part, uint32_t count, enum gmm_page_state state)
{
	/* Gone since the verdict, or listed though it is no more: to be looked at again. */
	if (state == GMM_PAGE_VOLATILE && part->run->kind == GMM__VERDICT_JOIN)
		gmm__catalog_doubt(p->merge->catalog, p->slot->value[p->first], part->page);
	account_all(p, p->first, count, state);
	return count;
}

/* Adds a part to the piece and moves the cursor behind it. False: the piece is complete; what could not be added is
 * tried again as the first of the next one, and refused if it cannot be added there either. */
static bool add_part(struct piece *p, struct cursor *c)
{
	struct part *part = &p->part[p->parts];

	if (p->parts == 0)
		p->first = c->page;
	cut_part(p, c, part);
	uint32_t wanted = part->count;
	if (!reserve(p, part)) {
		if (p->parts == 0)
			c->page += refuse(p, part, 1, GMM_PAGE_VOLATILE);
		return p->parts == 0;
	}
	for (uint32_t i = part->at; i < part->at + part->count; i++)
		p->filled[i] = p->equal[i] = false;
	uint64_t mappings = mappings_of(p, part);
	if (mappings > 0 && !gmm__vm_promise(p->slot->vm, p->mappings, mappings)) {
		give_back_all(p, part);
		if (p->parts == 0)
			c->page += refuse(p, part, part->count, GMM_PAGE_BUDGET);
		return p->parts == 0;
	}
	p->parts++;
	p->mappings += mappings;
	p->count += part->count;
	c->page += part->count;
	return part->count == wanted;
}

/* Fills the piece with what waits at the cursor or behind it. False: nothing is left. With the claim. */
static bool cut_piece(struct piece *p, struct cursor *c)
{
	p->parts = p->count = 0;
	p->mappings = 0;
	while (c->run < c->end) {
		if (c->page == c->run->first + c->run->count) {
			if (++c->run < c->end)
				c->page = c->run->first;
			continue;
		}
		if (p->parts > 0 && (c->page != p->first + p->count ||
				     p->count + p->parts * PART_WEIGHT >= p->merge->waits->pages))
			break;
		if (!is_ready(p, c->run, c->page))
			c->page++;
		else if (!add_part(p, c))
			break;
	}
	leave_twins(p);
	return p->parts > 0;
}

/* With the claim. True if pages were frozen: p->freeze says what became of them. */
static bool merge_piece(struct piece *p)
{
	int rc = replace(p);

	if (rc == 0)
		account(p);
	p->merge->gmm->promised -= p->mappings; /* those that came are counted now */
	if (rc == 0)
		return true;
	for (uint32_t k = 0; k < p->parts; k++)
		give_back_all(p, &p->part[k]);
	/* Of several parts it is not known which one is not ours any more: the next look at them tells. */
	account_all(p, p->first, p->count, rc == -ENOENT && p->parts == 1 ? GMM_PAGE_FOREIGN :
		    rc == -ENOMEM ? GMM_PAGE_BUDGET : GMM_PAGE_VOLATILE);
	return false;
}

/* Twins that lie in a row like the pages just promoted join at once, while the bytes of both are in the cache. Others do
 * when their own turn comes, together with the pages beside them. */
enum { JOIN_AT_ONCE = 8 };

static void join_row(const struct gmm__merge *m, gmm__page_id twin, uint32_t count, gmm__page_id page)
{
	struct gmm__slot *slot = find_twin(m, twin, try_claim);

	if (!slot)
		return;
	uint32_t first = twin - gmm__slot_page_id(slot, 0);
	if (first >= slot->pages) /* the id belongs to another slot by now */
		count = 0;
	else if (count > slot->pages - first)
		count = slot->pages - first;
	if (count < slot->vm->plan.min_run) { /* longer runs come first there */
		gmm__vm_release(slot->vm);
		return;
	}
	struct gmm__run run = { .kind = GMM__VERDICT_JOIN, .first = first, .count = count, .page = page };
	struct cursor cursor = { &run, &run + 1, first };
	struct piece twins = { .merge = m, .slot = slot };
	while (!slot->dead && cut_piece(&twins, &cursor))
		merge_piece(&twins);
	gmm__vm_release(slot->vm);
}

static void join_twins(const struct piece *p, const struct part *promoted)
{
	const struct gmm__merge *m = p->merge;
	const struct gmm__verdict *verdict = &m->verdict[p->first + promoted->at - m->region->first];
	const uint8_t *frozen = &p->freeze.page[promoted->at];

	for (uint32_t i = 0, n; i < promoted->count; i += n) {
		n = 1;
		if (frozen[i] != GMM__FROZEN_SHARED)
			continue;
		while (i + n < promoted->count && frozen[i + n] == GMM__FROZEN_SHARED &&
		       verdict[i + n].page == verdict[i].page + n)
			n++;
		if (n >= JOIN_AT_ONCE)
			join_row(m, verdict[i].page, n, promoted->page + i);
	}
}

void gmm__merge_claimed(const struct gmm__merge *merge, struct gmm__slot *slot, const struct gmm__run *run)
{
	struct cursor cursor = { run, run + 1, run->first };
	struct piece piece = { .merge = merge, .slot = slot };

	if (merge->catalog->pool->mirror) /* nobody took references at the service */
		return;
	while (!slot->dead && cut_piece(&piece, &cursor))
		merge_piece(&piece);
}

void gmm__merge_runs(const struct gmm__merge *merge, const struct gmm__run *run, uint32_t n)
{
	struct gmm__slot *slot = merge->region->slot;
	struct cursor cursor = { run, run + n, run->first };
	struct piece piece = { .merge = merge, .slot = slot };

	for (;;) {
		if (!gmm__vm_claim(slot->vm, false))
			return;
		bool more = !slot->dead && cut_piece(&piece, &cursor);
		bool shared = more && merge_piece(&piece);
		gmm__vm_release(slot->vm);
		if (!more)
			return;
		for (uint32_t k = 0; shared && k < piece.parts; k++)
			if (piece.part[k].run->kind == GMM__VERDICT_PROMOTE)
				join_twins(&piece, &piece.part[k]);
	}
}
