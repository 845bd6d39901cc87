/* Paged VMs: beginning, end, and the way into each call. */
#include "gmm/paged.h"

#include <urcu/urcu-bp.h>

/* ---- calls ------------------------------------------------------------------------------------------------- */

/* The handler of forks clears process_id, so no system call is needed here; a child does not have the memory anyway. */
static int check_vm(const struct gmm_vm *vm)
{
	if (!vm)
		return GMM_ERR_INVALID_PARAMETER;
	if (!vm->paged)
		return GMM_ERR_WRONG_KIND;
	return vm->gmm->process_id ? GMM_OK : GMM_ERR_WRONG_PROCESS;
}

int gmm__paged_enter_unreserved(struct gmm_vm *vm)
{
	int status = check_vm(vm);
	if (status != GMM_OK)
		return status;
	struct gmm *gmm = vm->gmm;
	for (;;) {
		gmm__lock_take(&vm->paged->lock);
		if (!gmm->snapshot)
			return GMM_OK;
		gmm__lock_give(&vm->paged->lock);
		gmm__lock_take(&gmm->lock);
		gmm__snapshot_await(gmm);
		gmm__lock_give(&gmm->lock);
	}
}

int gmm__paged_enter(struct gmm_vm *vm)
{
	int status = gmm__paged_enter_unreserved(vm);

	if (status == GMM_OK && !vm->paged->reserved)
		return gmm__paged_leave(vm, GMM_ERR_WRONG_ORDER);
	return status;
}

int gmm__paged_leave(struct gmm_vm *vm, int status)
{
	struct gmm__private_chunk *retired = vm->paged->retired;

	vm->paged->retired = NULL;
	gmm__lock_give(&vm->paged->lock);
	gmm__private_chunks_free(&vm->gmm->source, retired);
	return status;
}

void gmm__paged_drain(struct gmm *gmm)
{
	for (struct gmm_vm *vm = gmm->vms; vm; vm = vm->next) {
		if (!vm->paged)
			continue;
		gmm__lock_take(&vm->paged->lock);
		gmm__lock_give(&vm->paged->lock);
	}
}

/* ---- beginning --------------------------------------------------------------------------------------------- */

/* With gmm.lock. */
static uint32_t take_handle(struct gmm *gmm, struct gmm_vm *vm)
{
	uint32_t handle = gmm->lowest_handle ? gmm->lowest_handle : 1;

	while (handle < GMM__HANDLES && gmm->handles[handle])
		handle++;
	gmm->lowest_handle = handle;
	if (handle == GMM__HANDLES)
		return 0;
	if (handle > gmm->highest_handle)
		gmm->highest_handle = handle;
	rcu_set_pointer(&gmm->handles[handle], vm);
	gmm__mem_count(&gmm->mem, sizeof *gmm->handles);
	return handle;
}

static void give_handle(struct gmm *gmm, uint32_t handle)
{
	rcu_set_pointer(&gmm->handles[handle], NULL);
	gmm__mem_count(&gmm->mem, -(ptrdiff_t)sizeof *gmm->handles);
	if (handle < gmm->lowest_handle)
		gmm->lowest_handle = handle;
}

static void init_set(struct gmm__chunk_set *set, struct gmm__domain *domain, uint32_t node)
{
	set->domain = domain;
	set->node = node;
	gmm__lock_init(&set->lock, GMM__RANK_SET);
}

/* The table of handles comes with the first paged VM. */
static bool have_handles(struct gmm *gmm)
{
	size_t size = GMM__HANDLES * sizeof *gmm->handles;

	gmm__lock_take(&gmm->lock);
	bool have = gmm->handles != NULL;
	gmm__lock_give(&gmm->lock);
	struct gmm_vm **fresh = have ? NULL : gmm__mem_reserve(&gmm->mem, size);
	gmm__lock_take(&gmm->lock);
	if (!gmm->handles) {
		gmm->handles = fresh;
		fresh = NULL;
	}
	have = gmm->handles != NULL;
	gmm__lock_give(&gmm->lock);
	gmm__mem_unreserve(&gmm->mem, fresh, size);
	return have;
}

int gmm__paged_open(struct gmm_vm *vm, int node)
{
	struct gmm__paged *paged = have_handles(vm->gmm) ? gmm__mem_alloc(&vm->gmm->mem, sizeof *paged) : NULL;

	if (!paged)
		return GMM_ERR_NO_MEMORY;
	if (node < 0)
		node = gmm__sys_of(vm->gmm)->numa_node_here();
	paged->vm = vm;
	paged->node = (uint32_t)node < vm->gmm->source.arena.nodes ? (uint32_t)node : 0;
	paged->may_allocate = true;
	gmm__lock_init(&paged->lock, GMM__RANK_VM);
	vm->paged = paged;
	return GMM_OK;
}

static bool have_common(struct gmm *gmm, struct gmm__domain *domain)
{
	uint32_t nodes = gmm->source.arena.nodes;

	if (domain->common)
		return true;
	domain->common = gmm__mem_alloc(&gmm->mem, nodes * sizeof *domain->common);
	for (uint32_t node = 0; domain->common && node < nodes; node++)
		init_set(&domain->common[node], domain, node);
	return domain->common != NULL;
}

bool gmm__paged_join_domain(struct gmm_vm *vm, struct gmm__domain *domain)
{
	if (!have_common(vm->gmm, domain) || !(vm->paged->handle = take_handle(vm->gmm, vm)))
		return false;
	init_set(&vm->paged->set, domain, vm->paged->node);
	return true;
}

void gmm__paged_leave_domain(struct gmm_vm *vm)
{
	if (vm->paged)
		give_handle(vm->gmm, vm->paged->handle);
}

void gmm__paged_free(struct gmm_vm *vm)
{
	if (!vm->paged)
		return;
	gmm__lock_destroy(&vm->paged->lock);
	gmm__mem_free(&vm->gmm->mem, vm->paged, sizeof *vm->paged);
	vm->paged = NULL;
}

/* ---- end ---------------------------------------------------------------------------------------------------- */

static void drop_references(struct gmm__paged *paged)
{
	struct gmm__pool *pool = &paged->vm->domain->pool;

	for (uint32_t i = 0; i < paged->references.size; i++) {
		struct gmm__tally_entry held = gmm__tally_at(&paged->references, i);
		for (uint32_t n = 0; n < held.count; n++)
			gmm__pool_drop(pool, held.id, 1, GMM__DROP_REFERENCE);
	}
}

/* Pages in chunks that others use too. */
static void leave_common_chunks(struct gmm__paged *paged)
{
	struct gmm__chunk_set *common = gmm__paged_common(paged);

	for (uint32_t i = 0; i < paged->chunk_pages.size; i++) {
		struct gmm__tally_entry held = gmm__tally_at(&paged->chunk_pages, i);
		struct gmm__private_chunk *chunk =
			held.count ? gmm__chunk_table_private(paged->vm->gmm->source.table, held.id) : NULL;
		if (!chunk || chunk->set != common)
			continue;
		gmm__lock_take(&common->lock);
		for (uint32_t page = 0; page < GMM__CHUNK_PAGES; page++)
			if (chunk->record[page].state == GMM__PRIVATE_USED && chunk->record[page].vm == paged->handle)
				gmm__paged_retire(paged, gmm__set_put(chunk, page));
		gmm__lock_give(&common->lock);
	}
}

static void retire_own_chunks(struct gmm__paged *paged)
{
	for (uint32_t list = 0; list < GMM__SET_LISTS; list++) {
		while (paged->set.list[list]) {
			struct gmm__private_chunk *chunk = paged->set.list[list];
			gmm__set_remove(&paged->set, chunk);
			gmm__paged_retire(paged, chunk);
		}
	}
}

/* With ram_lock. Chunks that the embedder brought are the embedder's again. */
static void forget_seeded(struct gmm *gmm, const struct gmm__private_chunk *chunk)
{
	for (; chunk; chunk = chunk->next)
		if (chunk->seeded.end)
			gmm__host_ranges_remove(&gmm->host_ranges, &chunk->seeded);
}

/* With gmm.lock. All counters are 64 bits wide. */
static void keep_counters(struct gmm *gmm, const struct gmm_page_counters *counters)
{
	uint64_t *to = (uint64_t *)&gmm->ended_counters;
	const uint64_t *from = (const uint64_t *)counters;

	for (size_t i = 0; i < sizeof *counters / sizeof *to; i++)
		to[i] += from[i];
}

void gmm__paged_end(struct gmm_vm *vm)
{
	struct gmm *gmm = vm->gmm;
	struct gmm__paged *paged = vm->paged;
	struct gmm__mem *mem = &gmm->mem;

	gmm__paged_enter_unreserved(vm);
	gmm__requests_destroy(paged);
	vm->domain->paged_pages -= paged->indexed_pages;
	drop_references(paged);
	leave_common_chunks(paged);
	retire_own_chunks(paged);
	gmm__paged_uncharge(paged, paged->chunk_pages.total);
	uint64_t quota = paged->quota[GMM_ACCOUNT_BASE] + paged->quota[GMM_ACCOUNT_SHADOW] + paged->quota[GMM_ACCOUNT_FIXED];
	if (paged->reserved)
		gmm__admission_reserve(&gmm->admission, paged->policy, quota, 0);
	gmm__tally_destroy(&paged->chunk_pages, mem);
	gmm__tally_destroy(&paged->references, mem);
	gmm__tally_destroy(&paged->shared_chunks, mem);
	gmm__tally_destroy(&paged->mapped, mem);
	gmm__tally_destroy(&paged->ballooned, mem);
	for (int a = 0; a < GMM_ACCOUNTS; a++)
		paged->quota[a] = paged->used[a] = 0;
	paged->reserved = false;
	struct gmm__private_chunk *retired = paged->retired;
	paged->retired = NULL;
	gmm__lock_give(&paged->lock);

	gmm__lock_take(&gmm->ram_lock);
	forget_seeded(gmm, retired);
	gmm__lock_give(&gmm->ram_lock);
	gmm__private_chunks_free(&gmm->source, retired);
	gmm__lock_take(&gmm->lock);
	keep_counters(gmm, &paged->counters);
	paged->counters = (struct gmm_page_counters){ 0 };
	gmm__lock_give(&gmm->lock);
}

void gmm__paged_free_common(struct gmm *gmm, struct gmm__domain *domain)
{
	for (uint32_t node = 0; domain->common && node < gmm->source.arena.nodes; node++) {
		struct gmm__chunk_set *set = &domain->common[node];
		while (set->list[GMM__SET_UNUSED]) {
			struct gmm__private_chunk *chunk = set->list[GMM__SET_UNUSED];
			gmm__set_remove(set, chunk);
			gmm__private_chunks_free(&gmm->source, chunk);
		}
		gmm__lock_destroy(&set->lock);
	}
	if (domain->common)
		gmm__mem_free(&gmm->mem, domain->common, gmm->source.arena.nodes * sizeof *domain->common);
	domain->common = NULL;
}

/* ---- pages ---------------------------------------------------------------------------------------------------- */

bool gmm__paged_pfn(uint64_t guest_addr, uint32_t *ret_pfn)
{
	if (guest_addr == GMM_GUEST_NIL)
		*ret_pfn = GMM__PFN_UNKNOWN;
	else if (guest_addr == GMM_GUEST_UNSHAREABLE)
		*ret_pfn = GMM__PFN_UNSHAREABLE;
	else if (guest_addr % GMM__PAGE_BYTES || guest_addr > GMM_GUEST_MAX)
		return false;
	else
		*ret_pfn = (uint32_t)(guest_addr / GMM__PAGE_BYTES);
	return true;
}

static int find(struct gmm__paged *paged, gmm__page_id page, struct gmm__private_chunk **ret_chunk)
{
	const struct gmm__chunk_table *table = paged->vm->gmm->source.table;
	struct gmm__private_chunk *chunk = gmm__chunk_table_private(table, gmm__page_chunk(page));

	if (!chunk)
		return gmm__chunk_table_chunk(table, gmm__page_chunk(page)) ? GMM_ERR_PAGE_NOT_PRIVATE :
									       GMM_ERR_PAGE_NOT_FOUND;
	struct gmm__private_record r = gmm__record_get(&chunk->record[gmm__page_index(page)]);
	if (r.state == GMM__PRIVATE_USED && r.vm == paged->handle) {
		*ret_chunk = chunk;
		return GMM_OK;
	}
	bool mine = chunk->set == &paged->set || chunk->set == gmm__paged_common(paged);
	return mine && r.state == GMM__PRIVATE_FREE ? GMM_ERR_PAGE_ALREADY_FREE : GMM_ERR_NOT_PAGE_OWNER;
}

int gmm__paged_find(struct gmm__paged *paged, gmm__page_id page, struct gmm__private_chunk **ret_chunk)
{
	urcu_bp_read_lock();
	int status = find(paged, page, ret_chunk);
	urcu_bp_read_unlock();
	return status;
}

int gmm__paged_find_shared(const struct gmm__paged *paged, gmm__page_id page)
{
	const struct gmm__chunk_table *table = paged->vm->gmm->source.table;
	int status = GMM_ERR_PAGE_NOT_FOUND;

	urcu_bp_read_lock();
	const struct gmm__chunk *chunk = gmm__chunk_table_chunk(table, gmm__page_chunk(page));
	if (chunk && chunk->pool == &paged->vm->domain->pool)
		status = GMM_OK;
	else if (gmm__chunk_table_private(table, gmm__page_chunk(page)))
		status = GMM_ERR_PAGE_NOT_SHARED;
	urcu_bp_read_unlock();
	return status;
}
