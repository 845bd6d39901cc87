/* Allocating and freeing private pages of paged VMs. */
#include <string.h>

#include "gmm/paged.h"

/* ---- taking pages ------------------------------------------------------------------------------------------- */

int gmm__paged_admit(struct gmm__paged *paged, enum gmm_account account, uint32_t n, uint64_t credit)
{
	uint64_t used = paged->used[account] - credit;

	if (account == GMM_ACCOUNT_BASE)
		used += paged->ballooned.total;
	if (used + n > paged->quota[account])
		return GMM_ERR_HIT_VM_ACCOUNT_LIMIT;
	if (paged->may_allocate && (paged->policy == GMM_OVERCOMMIT_NONE ||
				    gmm__admission_charge(&paged->vm->gmm->admission, n)))
		return GMM_OK;
	paged->counters.declined++;
	return GMM_ERR_HIT_GLOBAL_LIMIT;
}

void gmm__paged_uncharge(struct gmm__paged *paged, uint64_t pages)
{
	if (paged->policy != GMM_OVERCOMMIT_NONE)
		gmm__admission_uncharge(&paged->vm->gmm->admission, pages);
}

/* Within four chunks of all it has reserved: most of a chunk of its own would stay unused. */
static bool near_end(const struct gmm__paged *paged)
{
	uint64_t left = 0;

	for (int a = 0; a < GMM_ACCOUNTS; a++)
		left += paged->quota[a] - paged->used[a];
	return left <= GMM__NEAR_END_PAGES;
}

/* Makes chunks for `pages` more free pages, in a list by next. False: none were made. */
static bool new_chunks(struct gmm__paged *paged, struct gmm__chunk_set *set, uint64_t pages,
		       struct gmm__private_chunk **ret_chunks)
{
	struct gmm__private_chunk *chunks = NULL;
	uint64_t count = (pages + GMM__CHUNK_PAGES - 1) / GMM__CHUNK_PAGES;

	for (uint64_t i = 0; i < count; i++) {
		struct gmm__private_chunk *chunk =
			gmm__private_chunk_new(&paged->vm->gmm->source, set, GMM__PLACE_SMALL, NULL);
		if (!chunk) {
			while (chunks) {
				chunk = chunks;
				chunks = chunk->next;
				gmm__paged_retire(paged, chunk);
			}
			return false;
		}
		chunk->next = chunks;
		chunks = chunk;
		paged->counters.chunks_taken++;
	}
	*ret_chunks = chunks;
	return true;
}

static void insert_chunks(struct gmm__chunk_set *set, struct gmm__private_chunk *chunks)
{
	while (chunks) {
		struct gmm__private_chunk *next = chunks->next;
		gmm__set_insert(set, chunks);
		chunks = next;
	}
}

/* The set has the pages. chunk_pages has room. */
static void pop_pages(struct gmm__paged *paged, struct gmm__chunk_set *set, uint32_t n, const uint64_t *guest_addrs,
		      gmm__page_id *pages)
{
	while (n > 0) {
		struct gmm__private_chunk *chunk = gmm__set_pick(set);
		uint32_t from_this = chunk->free < n ? chunk->free : n;
		gmm__tally_add(&paged->chunk_pages, chunk->id, from_this);
		if (guest_addrs)
			gmm__private_chunk_wake(chunk);
		for (uint32_t i = 0; i < from_this; i++) {
			uint32_t pfn = GMM__PFN_UNKNOWN;
			if (guest_addrs)
				gmm__paged_pfn(*guest_addrs++, &pfn);
			*pages++ = gmm__set_pop(chunk, paged->handle, pfn);
		}
		n -= from_this;
	}
}

/* Takes n pages of the set that VMs of the domain have in common, whose lock is never held over a call of the host. */
static bool take_common(struct gmm__paged *paged, uint32_t n, const uint64_t *guest_addrs, gmm__page_id *pages)
{
	struct gmm__chunk_set *common = gmm__paged_common(paged);
	struct gmm__private_chunk *chunks = NULL;

	for (;;) {
		gmm__lock_take(&common->lock);
		insert_chunks(common, chunks);
		uint64_t has = common->free_pages;
		if (has >= n)
			break;
		gmm__lock_give(&common->lock);
		if (!new_chunks(paged, common, n - has, &chunks))
			return false;
	}
	pop_pages(paged, common, n, guest_addrs, pages);
	gmm__lock_give(&common->lock);
	return true;
}

/* What was used before has old bytes. */
static void zero_pages(struct gmm__paged *paged, uint32_t n, const gmm__page_id *pages)
{
	struct gmm__private_chunk *chunk = NULL;

	for (uint32_t i = 0; i < n; i++) {
		uint32_t index = gmm__page_index(pages[i]);
		if (!chunk || chunk->id != gmm__page_chunk(pages[i]))
			chunk = gmm__chunk_table_private(paged->vm->gmm->source.table, gmm__page_chunk(pages[i]));
		if (!chunk->record[index].zeroed)
			memset(gmm__private_bytes(chunk, index), 0, GMM__PAGE_BYTES);
	}
}

int gmm__paged_take(struct gmm__paged *paged, uint32_t n, const uint64_t *guest_addrs, gmm__page_id *ret_pages)
{
	struct gmm__chunk_set *set = &paged->set;
	uint32_t own = near_end(paged) && n > set->free_pages ? (uint32_t)set->free_pages : n;
	uint64_t missing = own > set->free_pages ? own - set->free_pages : 0;
	uint64_t chunks_touched = set->chunks + missing / GMM__CHUNK_PAGES + 1 + (n - own);
	struct gmm__private_chunk *chunks = NULL;

	if (!gmm__tally_reserve(&paged->chunk_pages, &paged->vm->gmm->mem,
				(uint32_t)(chunks_touched < n ? chunks_touched : n)) ||
	    !new_chunks(paged, set, missing, &chunks))
		return GMM_ERR_NO_MEMORY;
	insert_chunks(set, chunks);
	if (own < n && !take_common(paged, n - own, guest_addrs ? guest_addrs + own : NULL, ret_pages + own))
		return GMM_ERR_NO_MEMORY;
	pop_pages(paged, set, own, guest_addrs, ret_pages);
	zero_pages(paged, n, ret_pages);
	paged->counters.allocated += n;
	return GMM_OK;
}

static int check_addresses(uint32_t count, const uint64_t *guest_addrs)
{
	uint32_t pfn;

	for (uint32_t i = 0; guest_addrs && i < count; i++)
		if (!gmm__paged_pfn(guest_addrs[i], &pfn))
			return GMM_ERR_INVALID_PARAMETER;
	return GMM_OK;
}

/* Nothing of these accounts is guest memory that could be shared. */
static void set_apart(struct gmm__paged *paged, uint32_t n, const gmm__page_id *pages)
{
	for (uint32_t i = 0; i < n; i++) {
		struct gmm__private_chunk *chunk =
			gmm__chunk_table_private(paged->vm->gmm->source.table, gmm__page_chunk(pages[i]));
		struct gmm__private_record r = chunk->record[gmm__page_index(pages[i])];
		r.apart = true;
		gmm__record_set(&chunk->record[gmm__page_index(pages[i])], r);
	}
}

int gmm_vm_allocate_pages(struct gmm_vm *vm, enum gmm_account account, uint32_t count, const uint64_t *guest_addrs,
			  gmm_page_id *ret_pages)
{
	if (!ret_pages || (unsigned)account >= GMM_ACCOUNTS || count == 0 || count > GMM_ALLOCATE_MAX ||
	    check_addresses(count, guest_addrs) != GMM_OK)
		return GMM_ERR_INVALID_PARAMETER;
	int status = gmm__paged_enter(vm);
	if (status != GMM_OK)
		return status;
	status = gmm__paged_admit(vm->paged, account, count, 0);
	if (status != GMM_OK)
		return gmm__paged_leave(vm, status);
	status = gmm__paged_take(vm->paged, count, guest_addrs, ret_pages);
	if (status == GMM_OK) {
		vm->paged->used[account] += count;
		if (account != GMM_ACCOUNT_BASE)
			set_apart(vm->paged, count, ret_pages);
	} else {
		gmm__paged_uncharge(vm->paged, count);
		vm->paged->counters.declined++;
	}
	return gmm__paged_leave(vm, status);
}

/* ---- freeing pages ------------------------------------------------------------------------------------------- */

void gmm__paged_retire(struct gmm__paged *paged, struct gmm__private_chunk *chunk)
{
	if (!chunk)
		return;
	chunk->next = paged->retired;
	paged->retired = chunk;
	paged->counters.chunks_returned++;
}

void gmm__paged_left_chunk(struct gmm__paged *paged, gmm__chunk_id chunk, uint32_t pages)
{
	if (gmm__tally_remove(&paged->chunk_pages, chunk, pages) == 0)
		gmm__paged_forget_mapping(paged, chunk);
}

/* The chunk's set, not the VM's counts. */
static void put_page(struct gmm__paged *paged, struct gmm__private_chunk *chunk, uint32_t index)
{
	bool common = chunk->set != &paged->set;

	if (common)
		gmm__lock_take(&chunk->set->lock);
	struct gmm__chunk_set *set = chunk->set; /* the chunk may be gone after the lock was given */
	struct gmm__private_chunk *unused = gmm__set_put(chunk, index);
	if (common)
		gmm__lock_give(&set->lock);
	gmm__paged_retire(paged, unused);
}

void gmm__paged_put(struct gmm__paged *paged, struct gmm__private_chunk *chunk, uint32_t index)
{
	gmm__chunk_id id = chunk->id;

	put_page(paged, chunk, index);
	gmm__paged_left_chunk(paged, id, 1);
}

void gmm__paged_park(struct gmm__paged *paged, struct gmm__private_chunk *chunk, uint32_t index)
{
	gmm__record_set(&chunk->record[index],
			(struct gmm__private_record){ .pfn = chunk->record[index].pfn, .vm = paged->handle & 0xffff,
						      .state = GMM__PRIVATE_PARKED });
	gmm__paged_left_chunk(paged, chunk->id, 1);
}

void gmm__paged_unpark(struct gmm__paged *paged, gmm__page_id page)
{
	/* A chunk with a parked page is not given back. */
	put_page(paged, gmm__chunk_table_private(paged->vm->gmm->source.table, gmm__page_chunk(page)),
		 gmm__page_index(page));
}

void gmm__paged_unref(struct gmm__paged *paged, gmm__page_id page)
{
	gmm__tally_remove(&paged->references, page, 1);
	if (gmm__tally_remove(&paged->shared_chunks, gmm__page_chunk(page), 1) == 0)
		gmm__paged_forget_mapping(paged, gmm__page_chunk(page));
	gmm__pool_drop(&paged->vm->domain->pool, page, 1, GMM__DROP_REFERENCE);
}

/* Freed pages of one chunk that are not yet taken off the VM's count. */
struct row {
	gmm__chunk_id chunk;
	uint32_t pages;
};

static void end_row(struct gmm__paged *paged, struct row *row)
{
	if (row->pages)
		gmm__paged_left_chunk(paged, row->chunk, row->pages);
	row->pages = 0;
}

static int free_shared(struct gmm__paged *paged, enum gmm_account account, gmm__page_id page)
{
	if (account != GMM_ACCOUNT_BASE)
		return GMM_ERR_PAGE_NOT_PRIVATE;
	if (!gmm__tally_count(&paged->references, page))
		return GMM_ERR_NOT_PAGE_OWNER;
	gmm__paged_unref(paged, page);
	return GMM_OK;
}

static int free_one(struct gmm__paged *paged, enum gmm_account account, gmm__page_id page, struct row *row,
		    uint32_t *private_pages)
{
	struct gmm__private_chunk *chunk;
	int status = gmm__paged_find(paged, page, &chunk);

	if (status == GMM_ERR_PAGE_NOT_PRIVATE)
		return free_shared(paged, account, page);
	if (status != GMM_OK)
		return status;
	if (chunk->large)
		gmm__private_chunk_break_up(chunk, GMM__PFN_UNKNOWN);
	if (row->chunk != chunk->id)
		end_row(paged, row);
	row->chunk = chunk->id;
	row->pages++;
	(*private_pages)++;
	put_page(paged, chunk, gmm__page_index(page));
	return GMM_OK;
}

int gmm_vm_free_pages(struct gmm_vm *vm, enum gmm_account account, uint32_t count, gmm_page_id *pages,
		      uint32_t *ret_freed)
{
	uint32_t named = 0, freed = 0, private_pages = 0;
	struct row row = { 0 };

	if (!pages || (unsigned)account >= GMM_ACCOUNTS || count == 0)
		return GMM_ERR_INVALID_PARAMETER;
	int status = gmm__paged_enter(vm);
	if (status != GMM_OK)
		return status;
	for (uint32_t i = 0; i < count; i++)
		named += pages[i] != GMM__NIL;
	if (named > vm->paged->used[account])
		status = GMM_ERR_ATTEMPT_TO_FREE_TOO_MUCH;
	for (uint32_t i = 0; status == GMM_OK && i < count; i++) {
		if (pages[i] == GMM__NIL)
			continue;
		status = free_one(vm->paged, account, pages[i], &row, &private_pages);
		if (status != GMM_OK)
			break;
		pages[i] = GMM__NIL;
		freed++;
	}
	end_row(vm->paged, &row);
	gmm__paged_uncharge(vm->paged, private_pages);
	vm->paged->used[account] -= freed;
	vm->paged->counters.freed += private_pages;
	if (ret_freed)
		*ret_freed = freed;
	return gmm__paged_leave(vm, status);
}

/* ---- large pages ----------------------------------------------------------------------------------------------- */

static int take_large(struct gmm__paged *paged, gmm_page_id *ret_first)
{
	struct gmm *gmm = paged->vm->gmm;
	struct gmm__private_chunk *chunk = NULL;

	if (gmm__tally_reserve(&paged->chunk_pages, &gmm->mem, 1))
		chunk = gmm__private_chunk_new(&gmm->source, &paged->set, GMM__PLACE_LARGE, NULL);
	if (!chunk)
		return GMM_ERR_NO_MEMORY;
	gmm__private_chunk_make_large(chunk, paged->handle);
	gmm__set_insert(&paged->set, chunk);
	gmm__tally_add(&paged->chunk_pages, chunk->id, GMM__CHUNK_PAGES);
	paged->used[GMM_ACCOUNT_BASE] += GMM__CHUNK_PAGES;
	paged->counters.allocated += GMM__CHUNK_PAGES;
	paged->counters.chunks_taken++;
	*ret_first = gmm__page_make(chunk->id, 0);
	return GMM_OK;
}

int gmm_vm_allocate_large_page(struct gmm_vm *vm, gmm_page_id *ret_first)
{
	if (!ret_first)
		return GMM_ERR_INVALID_PARAMETER;
	int status = gmm__paged_enter(vm);
	if (status != GMM_OK)
		return status;
	status = gmm__paged_admit(vm->paged, GMM_ACCOUNT_BASE, GMM__CHUNK_PAGES, 0);
	if (status == GMM_OK && (status = take_large(vm->paged, ret_first)) != GMM_OK) {
		gmm__paged_uncharge(vm->paged, GMM__CHUNK_PAGES);
		vm->paged->counters.declined++;
	}
	return gmm__paged_leave(vm, status);
}

/* Enters a call on a large page of this VM. */
static int enter_large(struct gmm_vm *vm, gmm_page_id first, struct gmm__private_chunk **ret_chunk)
{
	int status = gmm__paged_enter(vm);
	if (status != GMM_OK)
		return status;
	status = gmm__paged_find(vm->paged, first, ret_chunk);
	if (status == GMM_OK && (!(*ret_chunk)->large || gmm__page_index(first) != 0))
		status = GMM_ERR_PAGE_NOT_FOUND;
	return status == GMM_OK ? GMM_OK : gmm__paged_leave(vm, status);
}

int gmm_vm_free_large_page(struct gmm_vm *vm, gmm_page_id first)
{
	struct gmm__private_chunk *chunk = NULL;
	int status = enter_large(vm, first, &chunk);
	if (status != GMM_OK)
		return status;
	gmm__set_remove(&vm->paged->set, chunk);
	gmm__private_chunk_clear(chunk);
	gmm__paged_left_chunk(vm->paged, chunk->id, GMM__CHUNK_PAGES);
	gmm__paged_retire(vm->paged, chunk);
	gmm__paged_uncharge(vm->paged, GMM__CHUNK_PAGES);
	vm->paged->used[GMM_ACCOUNT_BASE] -= GMM__CHUNK_PAGES;
	vm->paged->counters.freed += GMM__CHUNK_PAGES;
	return gmm__paged_leave(vm, GMM_OK);
}

int gmm_vm_break_up_large_page(struct gmm_vm *vm, gmm_page_id first, uint64_t guest_addr)
{
	struct gmm__private_chunk *chunk = NULL;
	uint32_t pfn;

	if (!gmm__paged_pfn(guest_addr, &pfn) ||
	    (pfn < GMM__PFN_MAX && !gmm__paged_pfn(guest_addr + GMM__CHUNK_BYTES - GMM__PAGE_BYTES, &pfn)))
		return GMM_ERR_INVALID_PARAMETER;
	int status = enter_large(vm, first, &chunk);
	if (status != GMM_OK)
		return status;
	gmm__paged_pfn(guest_addr, &pfn);
	gmm__private_chunk_break_up(chunk, pfn);
	return gmm__paged_leave(vm, GMM_OK);
}
