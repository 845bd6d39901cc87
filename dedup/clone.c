/* Clone: private pages of the source are promoted to the pool in runs, and the new VM maps what the source maps. Pages that
 * cannot be moved (pinned ones, copies over shared pages, huge pages) are copied. Holes stay holes.
 *
 * A piece is done in two steps with one claim each, first the source's, then the new VM's. Between the two the references
 * for the new VM are in no page table, so gmm.tidy_lock keeps snapshots away, as for all moves of shared pages.
 */
#include "dedup/clone.h"

#include <string.h>

#include "dedup/digest.h"
#include "dedup/errand.h"
#include "dedup/fork.h"
#include "dedup/visit.h"

struct piece {
	const struct gmm__merge *merge;
	struct gmm__slot *from;
	struct gmm__slot *to;
	struct gmm__domain *domain;
	uint32_t first;
	uint32_t count;
	gmm__page_id page[GMM__FREEZE_PAGES]; /* what the new VM is to map, with a reference for it */
	uint8_t there[GMM__FREEZE_PAGES];     /* the source has memory there: enum gmm__page_is */
};

/* ---- the source ------------------------------------------------------------------------------------------------- */

/* May be moved out: private, in memory, and nobody has said that it must stay. */
static bool may_promote(const struct piece *p, uint32_t i)
{
	uint8_t is = p->there[i];
	enum gmm_page_state state = gmm__slot_state(p->from, p->first + i);

	return is & GMM__IS_PRESENT && is & GMM__IS_WPALLOWED && !(is & (GMM__IS_HUGE | GMM__IS_PFNZERO)) &&
	       !gmm__state_is_covered(state) && state != GMM_PAGE_HUGE &&
	       !(p->from->state[p->first + i] & GMM__FLAGS_REFUSED);
}

static bool is_zero(const uint8_t *bytes)
{
	return gmm__digest_is_fill(bytes) && bytes[0] == 0 && memcmp(bytes, bytes + 1, 7) == 0;
}

/* Frozen pages that are not zero go into the pool; zero ones stay holes. */
static void fill(const struct piece *p, struct gmm__freeze *freeze, gmm__page_id to, bool *ret_filled)
{
	for (uint32_t i = 0; i < freeze->count; i++) {
		uint8_t *bytes = freeze->staging + (uint64_t)i * GMM__PAGE_BYTES;
		struct iovec part = { bytes, GMM__PAGE_BYTES };
		if (freeze->page[i] != GMM__FROZEN_YES || is_zero(bytes))
			continue;
		ret_filled[i] = gmm__pool_fill(&p->domain->pool, to + i, &part, 1) == 0;
		if (!ret_filled[i])
			p->merge->backend->restore(freeze, i, 1);
	}
}

static void share(const struct piece *p, struct gmm__freeze *freeze, gmm__page_id to, const bool *filled)
{
	for (uint32_t i = 0, n; i < freeze->count; i += n + 1) {
		for (n = 0; i + n < freeze->count && filled[i + n];)
			n++;
		if (n > 0 && p->merge->backend->share(freeze, i, n, to + i) != 0)
			p->merge->backend->restore(freeze, i, n);
	}
}

static int move_to_pool(const struct piece *p, struct gmm__freeze *freeze, gmm__page_id to, bool *ret_filled)
{
	const struct gmm__backend *backend = p->merge->backend;
	struct gmm *gmm = p->merge->gmm;

	freeze->in = gmm__staging_of(gmm, p->merge->worker);
	gmm__lock_take(&freeze->in->lock);
	uint64_t start_ns = gmm__sys_of(gmm)->clock_ns();
	int rc = backend->freeze(freeze);
	if (rc == 0) {
		fill(p, freeze, to, ret_filled);
		share(p, freeze, to, ret_filled);
		backend->thaw(freeze);
		gmm__waits_add(p->merge->waits, freeze->count, gmm__sys_of(gmm)->clock_ns() - start_ns);
	}
	gmm__lock_give(&freeze->in->lock);
	return rc;
}

/* The state of a page that was not shared. */
static enum gmm_page_state left_as(enum gmm__frozen frozen)
{
	return frozen == GMM__FROZEN_HOLE ? GMM_PAGE_ZERO : frozen == GMM__FROZEN_PINNED ? GMM_PAGE_PINNED : GMM_PAGE_VOLATILE;
}

static void account_promoted(const struct piece *p, const struct gmm__freeze *freeze, gmm__page_id to, const bool *filled)
{
	struct gmm__catalog *catalog = p->domain->catalog;
	struct gmm__seams before = gmm__account_begin(p->from, freeze->first, freeze->count);

	for (uint32_t i = 0; i < freeze->count; i++) {
		uint32_t page = freeze->first + i;
		if (freeze->page[i] == GMM__FROZEN_SHARED) {
			struct gmm__digest digest = gmm__digest_sample(gmm__pool_bytes(&p->domain->pool, to + i), &catalog->secret);
			bool repeats = digest.kind == GMM__DIGEST_FILL;
			gmm__slot_set(p->from, page, repeats ? GMM_PAGE_FILL : GMM_PAGE_SHARED, to + i);
			if (!repeats)
				gmm__catalog_publish(catalog, digest.fingerprint, to + i);
			continue;
		}
		gmm__pool_drop(&p->domain->pool, to + i, 1, filled[i] ? GMM__DROP_REFERENCE : GMM__DROP_UNFILLED);
		gmm__slot_set(p->from, page, left_as(freeze->page[i]), 0);
	}
	gmm__account_end(p->from, freeze->first, freeze->count, before);
	p->merge->backend->arm(p->from, freeze->first, freeze->count);
}

/* Promotes a row of private pages; those that do not move stay as they are. */
static void promote(const struct piece *p, uint32_t at, uint32_t count)
{
	struct gmm *gmm = p->merge->gmm;
	struct gmm__freeze freeze = { .slot = p->from, .first = p->first + at, .count = count };
	bool filled[GMM__FREEZE_PAGES] = { false };
	gmm__page_id to;

	if (!gmm__pool_reserve_row(&p->domain->pool, count, true, &to))
		return;
	/* The new VM needs as many mappings as the source. */
	if (gmm->mappings + 2 * gmm__slot_seams_added(p->from, freeze.first, count, to) <= gmm->max_mappings &&
	    move_to_pool(p, &freeze, to, filled) == 0)
		account_promoted(p, &freeze, to, filled);
	else
		gmm__pool_drop(&p->domain->pool, to, count, GMM__DROP_UNFILLED);
}

static void copy_page(const struct piece *p, uint32_t i)
{
	const volatile uint64_t *from = (const void *)gmm__slot_host(p->from, p->first + i);
	uint64_t *to = (void *)gmm__slot_host(p->to, p->first + i);

	for (uint32_t k = 0; k < GMM__PAGE_BYTES / sizeof *to; k++)
		to[k] = from[k];
}

/* Takes the references of shared pages for the new VM, and copies what has memory of its own still. */
static void take_or_copy(struct piece *p, uint32_t i)
{
	uint32_t page = p->first + i;
	gmm__page_id id = p->from->value[page];
	bool shared = gmm__state_is_shared(gmm__slot_state(p->from, page));
	bool written = shared && p->there[i] && !(p->there[i] & GMM__IS_WPALLOWED); /* a copy that nobody has noticed yet */

	if (shared && !written && gmm__pool_ref(&p->domain->pool, id, 1) == 1)
		p->page[i] = id;
	else if (shared || (p->there[i] && !(p->there[i] & GMM__IS_PFNZERO)))
		copy_page(p, i);
}

/* Where the source has memory of its own: pages of the pool are files' pages and do not count. */
static int look(struct piece *p)
{
	struct gmm__scan_filter own = { .forbid = GMM__IS_FILE, .any = GMM__IS_PRESENT | GMM__IS_SWAPPED };

	memset(p->there, 0, sizeof p->there);
	return p->merge->backend->scan(p->from, p->first, p->count, &own, p->there) < 0 ? GMM_ERR_SYSTEM : GMM_OK;
}

static int take_from_source(struct piece *p)
{
	if (!gmm__vm_claim(p->from->vm, false))
		return GMM_ERR_WRONG_ORDER;
	int status = p->from->dead ? GMM_ERR_WRONG_ORDER : look(p);
	for (uint32_t i = 0, n; status == GMM_OK && i < p->count; i += n ? n : 1) {
		for (n = 0; i + n < p->count && may_promote(p, i + n);)
			n++;
		if (n > 0)
			promote(p, i, n);
	}
	if (status == GMM_OK)
		status = look(p); /* again: what was moved is no memory of its own now */
	for (uint32_t i = 0; status == GMM_OK && i < p->count; i++)
		take_or_copy(p, i);
	gmm__vm_release(p->from->vm);
	return status;
}

/* ---- the new VM -------------------------------------------------------------------------------------------------- */

static uint32_t row_at(const struct piece *p, uint32_t i)
{
	uint32_t n = 1;

	while (i + n < p->count && p->page[i + n] != GMM__NIL && gmm__page_follows(p->page[i + n - 1], p->page[i + n]))
		n++;
	return n;
}

static bool map_row(const struct piece *p, uint32_t i, uint32_t n)
{
	struct gmm *gmm = p->merge->gmm;
	uint32_t page = p->first + i;

	if (gmm->mappings + gmm__slot_seams_added(p->to, page, n, p->page[i]) > gmm->max_mappings ||
	    p->merge->backend->remap(p->to, page, n, p->page[i]) != 0)
		return false;
	struct gmm__seams before = gmm__account_begin(p->to, page, n);
	for (uint32_t k = 0; k < n; k++) {
		bool repeats = gmm__digest_is_fill(gmm__pool_bytes(&p->domain->pool, p->page[i] + k));
		gmm__slot_set(p->to, page + k, repeats ? GMM_PAGE_FILL : GMM_PAGE_SHARED, p->page[i] + k);
	}
	gmm__account_end(p->to, page, n, before);
	return true;
}

/* Maps what the piece has references for; without a mapping to spare, the bytes are copied. */
static int give_to_new(struct piece *p)
{
	struct gmm__pool *pool = &p->domain->pool;
	bool claimed = gmm__vm_claim(p->to->vm, false);

	for (uint32_t i = 0, n; i < p->count; i += n) {
		n = 1;
		if (p->page[i] == GMM__NIL)
			continue;
		n = row_at(p, i);
		if (claimed && map_row(p, i, n))
			continue;
		for (uint32_t k = 0; k < n; k++) {
			memcpy(gmm__slot_host(p->to, p->first + i + k), gmm__pool_bytes(pool, p->page[i + k]), GMM__PAGE_BYTES);
			gmm__pool_drop(pool, p->page[i + k], 1, GMM__DROP_REFERENCE);
		}
	}
	if (claimed)
		gmm__vm_release(p->to->vm);
	return claimed ? GMM_OK : GMM_ERR_WRONG_ORDER;
}

int gmm__clone_piece(const struct gmm__merge *merge, struct gmm__slot *from, struct gmm__slot *to, uint32_t first,
		     uint32_t count)
{
	struct piece p = { .merge = merge, .from = from, .to = to, .domain = from->vm->domain, .first = first,
			   .count = count };
	struct gmm *gmm = merge->gmm;

	gmm__lock_take(&gmm->tidy_lock);
	int status = take_from_source(&p);
	int given = give_to_new(&p); /* also on failure: references go where they belong */
	gmm__lock_give(&gmm->tidy_lock);
	return status != GMM_OK ? status : given;
}

/* ---- the public call ---------------------------------------------------------------------------------------------- */

/* A stretch of a slot, as an errand of the merge thread: it is short. */
struct stretch {
	struct gmm__slot *from;
	struct gmm__slot *to;
	uint32_t first;
	int status;
};

static void clone_stretch(void *arg, const struct gmm__merge *merge)
{
	struct stretch *s = arg;
	uint32_t left = s->from->pages - s->first, n = merge->waits->pages;

	n = n < left ? n : left;
	s->status = gmm__clone_piece(merge, s->from, s->to, s->first, n);
	merge->backend->flush(merge->gmm, gmm__staging_of(merge->gmm, merge->worker));
	s->first += n;
}

static int clone_slot(struct gmm_vm *vm, struct gmm__slot *from)
{
	struct stretch s = { .from = from };
	void *addr;

	int status = gmm_vm_create_ram(vm, from->gfn * GMM__PAGE_BYTES, (uint64_t)from->pages * GMM__PAGE_BYTES, &addr);
	if (status != GMM_OK)
		return status;
	s.to = gmm__visit_slot(vm, from->gfn);
	while (s.status == GMM_OK && s.first < from->pages)
		gmm__errand_call(vm->gmm, clone_stretch, &s);
	return s.status;
}

/* The source is visited: it stays until the visit ends. */
static int clone_all(struct gmm_vm *source, struct gmm_vm *vm)
{
	struct gmm__slot *slot;
	int status = GMM_OK;

	for (uint64_t from = 0; status == GMM_OK && (slot = gmm__visit_slot(source, from)) != NULL;
	     from = slot->gfn + slot->pages)
		status = clone_slot(vm, slot);
	return status;
}

int gmm_vm_clone(struct gmm_vm *source, const char *name, struct gmm_vm **ret_vm)
{
	struct gmm_vm_options options;
	struct gmm_vm *vm;

	if (!source || !ret_vm || source->gmm->remote)
		return GMM_ERR_INVALID_PARAMETER;
	struct gmm *gmm = source->gmm;
	if (!gmm__fork_is_home(gmm))
		return GMM_ERR_WRONG_PROCESS;
	if (source->paged)
		return GMM_ERR_WRONG_KIND;
	gmm_vm_options_init(&options);
	options.name = name;
	options.domain = source->domain->name;
	options.priority = source->priority;
	options.numa_node = source->domain->node;
	int status = gmm_vm_create(gmm, &options, &vm);
	if (status != GMM_OK)
		return status;
	gmm__lock_take(&gmm->lock);
	source->visits++;
	gmm__lock_give(&gmm->lock);
	status = clone_all(source, vm);
	gmm__visit_end(source);
	if (status != GMM_OK)
		gmm_vm_destroy(vm, GMM_RAM_DISCARD);
	else
		*ret_vm = vm;
	return status;
}

int gmm_vm_address(struct gmm_vm *vm, uint64_t guest_addr, void **ret_addr)
{
	if (!vm || !ret_addr)
		return GMM_ERR_INVALID_PARAMETER;
	if (!gmm__fork_is_home(vm->gmm))
		return GMM_ERR_WRONG_PROCESS;
	if (!gmm__vm_claim(vm, false))
		return GMM_ERR_WRONG_ORDER;
	struct gmm__slot *slot = gmm__vm_find(vm, guest_addr / GMM__PAGE_BYTES);
	if (slot)
		*ret_addr = slot->host + (guest_addr - slot->gfn * GMM__PAGE_BYTES);
	gmm__vm_release(vm);
	return slot ? GMM_OK : GMM_ERR_NOT_FOUND;
}
