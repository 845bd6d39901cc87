/* Clones of paged VMs: the new VM refers to the same shared pages, for which private pages of the source are shared first.
 *
 * The table goes through in pieces. A piece looks at the source, takes what is to be copied for the clone, takes references
 * and bytes from the source, and gives them to the clone: each step with one VM's lock, as two are never held. References that
 * were taken and not yet given are in no account, so gmm.tidy_lock keeps snapshots away from a piece.
 */
#include <gmm/pages.h>

#include <string.h>

#include "dedup/fork.h"
#include "dedup/paged_lookup.h"
#include "dedup/visit.h"
#include "gmm/paged.h"

enum { PIECE_PAGES = 256 };

enum kind { KIND_REFER, KIND_SHARE, KIND_COPY };

struct piece {
	struct gmm_vm *from;
	struct gmm_vm *to;
	struct gmm_clone_page *page;
	uint32_t n;
	uint32_t taken;            /* references for the clone: those of the first `taken` pages that are not copied */
	enum kind kind[PIECE_PAGES];
	gmm__page_id own[PIECE_PAGES]; /* of the clone, for a page that is copied */
};

/* ---- the table ---------------------------------------------------------------------------------------------------- */

/* With the source's lock. */
static int look_at(struct gmm__paged *from, const struct gmm_clone_page *page, enum kind *ret_kind)
{
	struct gmm__private_chunk *chunk;
	int status = gmm__paged_find(from, page->page, &chunk);

	if (status == GMM_ERR_PAGE_NOT_PRIVATE) {
		*ret_kind = KIND_REFER;
		return gmm__tally_count(&from->references, page->page) ? GMM_OK : GMM_ERR_NOT_PAGE_OWNER;
	}
	if (status != GMM_OK)
		return status;
	struct gmm__private_record r = gmm__record_get(&chunk->record[gmm__page_index(page->page)]);
	if (r.apart)
		return GMM_ERR_PAGE_UNSHAREABLE;
	bool stays = page->copy || chunk->large || r.pfn == GMM__PFN_UNSHAREABLE || from->vm->domain->pool.mirror;
	*ret_kind = stays ? KIND_COPY : KIND_SHARE;
	return GMM_OK;
}

/* No private page is named twice, and no shared page more often than the source refers to it. seen: how often each was. */
static int check_piece(struct gmm_vm *from, const struct gmm_clone_page *page, uint32_t n, struct gmm__tally *seen)
{
	enum kind kind;
	uint32_t pfn;

	int status = gmm__paged_enter(from);
	if (status != GMM_OK)
		return status;
	if (!gmm__tally_reserve(seen, &from->gmm->mem, n))
		status = GMM_ERR_NO_MEMORY;
	for (uint32_t i = 0; status == GMM_OK && i < n; i++) {
		status = gmm__paged_pfn(page[i].guest_addr, &pfn) && page[i].clone_page == GMM__NIL ?
			look_at(from->paged, &page[i], &kind) : GMM_ERR_INVALID_PARAMETER;
		if (status != GMM_OK)
			break;
		uint32_t allowed = kind == KIND_REFER ? gmm__tally_count(&from->paged->references, page[i].page) : 1;
		if (gmm__tally_count(seen, page[i].page) >= allowed)
			status = kind == KIND_REFER ? GMM_ERR_NOT_PAGE_OWNER : GMM_ERR_INVALID_PARAMETER;
		else
			gmm__tally_add(seen, page[i].page, 1);
	}
	return gmm__paged_leave(from, status);
}

static uint32_t piece_at(uint64_t done, uint64_t count)
{
	return count - done < PIECE_PAGES ? (uint32_t)(count - done) : PIECE_PAGES;
}

static int check_table(struct gmm_vm *from, uint64_t count, const struct gmm_clone_page *page)
{
	struct gmm__tally seen = { 0 };
	int status = GMM_OK;

	for (uint64_t i = 0; status == GMM_OK && i < count; i += PIECE_PAGES)
		status = check_piece(from, page + i, piece_at(i, count), &seen);
	gmm__tally_destroy(&seen, &from->gmm->mem);
	return status;
}

/* ---- one piece ---------------------------------------------------------------------------------------------------- */

static int look(struct piece *p)
{
	int status = gmm__paged_enter(p->from);

	if (status != GMM_OK)
		return status;
	for (uint32_t i = 0; status == GMM_OK && i < p->n; i++)
		status = look_at(p->from->paged, &p->page[i], &p->kind[i]);
	return gmm__paged_leave(p->from, status);
}

/* Pages of its own for the clone, and room for its references. */
static int prepare(struct piece *p)
{
	gmm_page_id own[PIECE_PAGES];
	uint64_t addrs[PIECE_PAGES];
	uint32_t copies = 0, next = 0;

	for (uint32_t i = 0; i < p->n; i++)
		if (p->kind[i] == KIND_COPY)
			addrs[copies++] = p->page[i].guest_addr;
	int status = copies ? gmm_vm_allocate_pages(p->to, GMM_ACCOUNT_BASE, copies, addrs, own) : GMM_OK;
	if (status != GMM_OK)
		return status;
	for (uint32_t i = 0; i < p->n; i++)
		p->own[i] = p->kind[i] == KIND_COPY ? own[next++] : GMM__NIL;
	status = gmm__paged_enter(p->to);
	if (status != GMM_OK)
		return status;
	struct gmm__paged *to = p->to->paged;
	if (to->used[GMM_ACCOUNT_BASE] + to->ballooned.total + p->n - copies > to->quota[GMM_ACCOUNT_BASE])
		status = GMM_ERR_HIT_VM_ACCOUNT_LIMIT;
	else if (!gmm__tally_reserve(&to->references, &p->to->gmm->mem, p->n) ||
		 !gmm__tally_reserve(&to->shared_chunks, &p->to->gmm->mem, p->n))
		status = GMM_ERR_NO_MEMORY;
	return gmm__paged_leave(p->to, status);
}

/* A private page of the source becomes a reference. With its lock. */
static int share(struct gmm__paged *from, gmm__page_id *page)
{
	struct gmm__catalog *catalog = from->vm->domain->catalog;
	struct gmm__private_chunk *chunk;
	gmm__page_id shared;
	bool joined;

	int status = gmm__paged_find_sharable(from, *page, &chunk);
	if (status != GMM_OK)
		return status;
	const uint8_t *bytes = gmm__private_bytes(chunk, gmm__page_index(*page));
	shared = gmm__paged_lookup_shared(catalog, bytes);
	if (shared != GMM__NIL && gmm__paged_join_to(from, chunk, *page, shared, false, &joined) == GMM_OK && joined) {
		*page = shared;
		return GMM_OK;
	}
	uint32_t fingerprint = gmm__digest_sample(bytes, &catalog->secret).fingerprint;
	status = gmm__paged_promote(from, chunk, *page, false, &shared);
	if (status != GMM_OK)
		return status;
	gmm__catalog_publish(catalog, fingerprint, shared);
	*page = shared;
	return GMM_OK;
}

static int copy(struct gmm__paged *from, gmm__page_id page, gmm__page_id to)
{
	const struct gmm__chunk_table *table = from->vm->gmm->source.table;
	struct gmm__private_chunk *chunk;
	int status = gmm__paged_find(from, page, &chunk);

	/* The clone's chunk stays, since its page lies in it; nobody else knows that page yet. */
	if (status == GMM_OK)
		memcpy(gmm__private_bytes(gmm__chunk_table_private(table, gmm__page_chunk(to)), gmm__page_index(to)),
		       gmm__private_bytes(chunk, gmm__page_index(page)), GMM__PAGE_BYTES);
	return status;
}

static int take(struct piece *p)
{
	struct gmm__paged *from = p->from->paged;

	int status = gmm__paged_enter(p->from);
	if (status != GMM_OK)
		return status;
	while (status == GMM_OK && p->taken < p->n) {
		gmm__page_id *page = &p->page[p->taken].page;
		if (p->kind[p->taken] == KIND_COPY)
			status = copy(from, *page, p->own[p->taken]);
		else if (p->kind[p->taken] == KIND_SHARE)
			status = share(from, page);
		if (status == GMM_OK && p->kind[p->taken] != KIND_COPY &&
		    (!gmm__tally_count(&from->references, *page) || gmm__pool_ref(&p->from->domain->pool, *page, 1) == 0))
			status = GMM_ERR_WRONG_ORDER; /* it was freed meanwhile */
		p->taken += status == GMM_OK;
	}
	return gmm__paged_leave(p->from, status);
}

static int give(struct piece *p)
{
	struct gmm__paged *to = p->to->paged;

	int status = gmm__paged_enter(p->to);
	if (status != GMM_OK)
		return status;
	for (uint32_t i = 0; i < p->taken; i++) {
		p->page[i].clone_page = p->kind[i] == KIND_COPY ? p->own[i] : p->page[i].page;
		if (p->kind[i] == KIND_COPY)
			continue;
		gmm__paged_refer(to, p->page[i].page, 1);
		to->used[GMM_ACCOUNT_BASE]++;
	}
	return gmm__paged_leave(p->to, GMM_OK);
}

static int clone_piece(struct piece *p)
{
	struct gmm *gmm = p->from->gmm;

	gmm__lock_take(&gmm->tidy_lock);
	int status = look(p);
	if (status == GMM_OK)
		status = prepare(p);
	if (status == GMM_OK) {
		status = take(p);
		give(p); /* also on failure: references go where they belong */
	}
	gmm__lock_give(&gmm->tidy_lock);
	return status;
}

/* ---- the call ------------------------------------------------------------------------------------------------------ */

/* What the guest has given up stays given up. */
static int copy_balloon(struct gmm_vm *from, struct gmm_vm *to)
{
	struct gmm__tally *ours = &from->paged->ballooned;
	struct gmm__tally copy = { 0 };

	int status = gmm__paged_enter(from);
	if (status != GMM_OK)
		return status;
	if (!gmm__tally_reserve(&copy, &from->gmm->mem, ours->ids))
		status = GMM_ERR_NO_MEMORY;
	for (uint32_t i = 0; status == GMM_OK && i < ours->size; i++)
		if (gmm__tally_at(ours, i).count)
			gmm__tally_add(&copy, gmm__tally_at(ours, i).id, 1);
	gmm__paged_leave(from, status);
	if (status == GMM_OK && (status = gmm__paged_enter(to)) == GMM_OK) {
		to->paged->ballooned = copy;
		return gmm__paged_leave(to, GMM_OK);
	}
	gmm__tally_destroy(&copy, &from->gmm->mem);
	return status;
}

static int begin_clone(struct gmm_vm *from, const char *name, struct gmm_vm **ret_vm)
{
	struct gmm_vm_options options;
	struct gmm_reservation reservation;

	gmm_vm_options_init(&options);
	options.name = name;
	options.domain = from->domain->name;
	options.priority = from->priority;
	options.kind = GMM_VM_PAGED;
	options.numa_node = (int)from->paged->node;
	int status = gmm__paged_enter(from);
	if (status != GMM_OK)
		return status;
	reservation.overcommit = from->paged->policy;
	reservation.priority = from->paged->priority;
	memcpy(reservation.pages, from->paged->quota, sizeof reservation.pages);
	gmm__paged_leave(from, GMM_OK);
	status = gmm_vm_create(from->gmm, &options, ret_vm);
	return status == GMM_OK ? gmm_vm_reserve(*ret_vm, &reservation) : status;
}

static int clone_table(struct gmm_vm *from, struct gmm_vm *to, uint64_t count, struct gmm_clone_page *pages)
{
	int status = copy_balloon(from, to);

	for (uint64_t i = 0; status == GMM_OK && i < count; i += PIECE_PAGES) {
		struct piece p = { .from = from, .to = to, .page = pages + i, .n = piece_at(i, count) };
		status = from->dead ? GMM_ERR_WRONG_ORDER : clone_piece(&p);
	}
	return status;
}

int gmm_vm_clone_pages(struct gmm_vm *source, const char *name, uint64_t count, struct gmm_clone_page *pages,
		       struct gmm_vm **ret_vm)
{
	struct gmm_vm *vm = NULL;

	if (!source || !ret_vm || (count > 0 && !pages))
		return GMM_ERR_INVALID_PARAMETER;
	struct gmm *gmm = source->gmm;
	if (!gmm__fork_is_home(gmm))
		return GMM_ERR_WRONG_PROCESS;
	if (!source->paged)
		return GMM_ERR_WRONG_KIND;
	gmm__lock_take(&gmm->lock);
	source->visits++;
	gmm__lock_give(&gmm->lock);
	int status = check_table(source, count, pages);
	if (status == GMM_OK && (status = begin_clone(source, name, &vm)) == GMM_OK)
		status = clone_table(source, vm, count, pages);
	gmm__visit_end(source);
	if (status == GMM_OK) {
		*ret_vm = vm;
		return GMM_OK;
	}
	for (uint64_t i = 0; vm && i < count; i++)
		pages[i].clone_page = GMM__NIL;
	if (vm)
		gmm_vm_destroy(vm, GMM_RAM_DISCARD);
	return status;
}
