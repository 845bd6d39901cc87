/* Statistics of paged VMs, and the identities they must fulfil. */
#include <string.h>

#include "gmm/counts.h"
#include "gmm/paged.h"

enum { COUNTERS = sizeof(struct gmm_page_counters) / sizeof(uint64_t) };
_Static_assert(COUNTERS * sizeof(uint64_t) == sizeof(struct gmm_page_counters), "all counters have 64 bits");

static struct gmm_memory_stats memory_of(const struct gmm__paged *paged)
{
	struct gmm_memory_stats memory = { .private_pages = paged->chunk_pages.total,
					   .references = paged->references.total, .chunks = paged->set.chunks,
					   .free_pages = paged->set.free_pages, .chunk_mappings = paged->mapped.ids,
					   .balloon = paged->balloon, .counters = paged->counters };

	memcpy(memory.reserved_pages, paged->quota, sizeof paged->quota);
	memcpy(memory.used_pages, paged->used, sizeof paged->used);
	memory.balloon.ballooned = paged->ballooned.total;
	return memory;
}

int gmm_vm_memory_stats(struct gmm_vm *vm, struct gmm_vm_memory_stats *ret_stats)
{
	if (!ret_stats)
		return GMM_ERR_INVALID_PARAMETER;
	int status = gmm__paged_enter_unreserved(vm);
	if (status != GMM_OK)
		return status;
	const struct gmm__paged *paged = vm->paged;
	*ret_stats = (struct gmm_vm_memory_stats){ .memory = memory_of(paged), .overcommit = paged->policy,
						   .priority = paged->priority, .reserved = paged->reserved,
						   .may_allocate = paged->may_allocate };
	return gmm__paged_leave(vm, GMM_OK);
}

struct gmm_vm_stats gmm__paged_vm_stats(const struct gmm__paged *paged)
{
	struct gmm_vm_stats stats = { .merges = paged->counters.promoted + paged->counters.joined,
				      .cow_breaks = paged->counters.broken };

	stats.state_pages[GMM_PAGE_VOLATILE] = paged->chunk_pages.total;
	stats.state_pages[GMM_PAGE_SHARED] = paged->references.total;
	stats.pages = paged->chunk_pages.total + paged->references.total;
	return stats;
}

static void add_common_sets(const struct gmm *gmm, const struct gmm__domain *domain, struct gmm_memory_stats *memory)
{
	for (uint32_t node = 0; domain->common && node < gmm->source.arena.nodes; node++) {
		memory->chunks += domain->common[node].chunks;
		memory->free_pages += domain->common[node].free_pages;
	}
}

/* In a snapshot. */
static struct gmm_instance_memory_stats sum_up(struct gmm *gmm)
{
	struct gmm_instance_memory_stats stats = { .maximum_pages = gmm->admission.maximum,
						   .committed_pages = gmm->admission.committed };

	stats.memory.counters = gmm->ended_counters;
	for (const struct gmm_vm *vm = gmm->vms; vm; vm = vm->next) {
		if (!vm->paged)
			continue;
		struct gmm_memory_stats memory = memory_of(vm->paged);
		gmm__counts_add(&stats.memory, &memory, sizeof memory);
		stats.vms++;
	}
	for (const struct gmm__domain *domain = gmm->domains; domain; domain = domain->next) {
		add_common_sets(gmm, domain, &stats.memory);
		stats.shared_pages += domain->pool.used_pages;
	}
	stats.shared_pages -= gmm__accounts_on_the_way(gmm);
	stats.allocated_pages = stats.memory.private_pages + stats.shared_pages;
	return stats;
}

static int check_instance(const struct gmm *gmm, const void *argument)
{
	if (!gmm || !argument)
		return GMM_ERR_INVALID_PARAMETER;
	return gmm->process_id == gmm__sys_of(gmm)->process_id() ? GMM_OK : GMM_ERR_WRONG_PROCESS;
}

int gmm_instance_memory_stats(struct gmm *gmm, struct gmm_instance_memory_stats *ret_stats)
{
	int status = check_instance(gmm, ret_stats);
	if (status != GMM_OK)
		return status;
	gmm__snapshot_begin(gmm);
	gmm__lock_take(&gmm->lock);
	*ret_stats = sum_up(gmm);
	gmm__lock_give(&gmm->lock);
	gmm__snapshot_end(gmm);
	return GMM_OK;
}

/* ---- reset --------------------------------------------------------------------------------------------------- */

static void reset(struct gmm_page_counters *counters, const struct gmm_page_counters *which)
{
	uint64_t *to = (uint64_t *)counters;
	const uint64_t *named = (const uint64_t *)which;

	for (int i = 0; i < COUNTERS; i++)
		if (named[i])
			to[i] = 0;
}

int gmm_vm_reset_counters(struct gmm_vm *vm, const struct gmm_page_counters *which)
{
	int status = which ? gmm__paged_enter_unreserved(vm) : GMM_ERR_INVALID_PARAMETER;
	if (status != GMM_OK)
		return status;
	reset(&vm->paged->counters, which);
	return gmm__paged_leave(vm, GMM_OK);
}

int gmm_instance_reset_counters(struct gmm *gmm, const struct gmm_page_counters *which)
{
	int status = check_instance(gmm, which);
	if (status != GMM_OK)
		return status;
	gmm__snapshot_begin(gmm);
	gmm__lock_take(&gmm->lock);
	reset(&gmm->ended_counters, which);
	for (struct gmm_vm *vm = gmm->vms; vm; vm = vm->next)
		if (vm->paged)
			reset(&vm->paged->counters, which);
	gmm__lock_give(&gmm->lock);
	gmm__snapshot_end(gmm);
	return GMM_OK;
}

/* ---- validation ------------------------------------------------------------------------------------------------ */

/* Pages of each handle in the chunks of a set; they must be VMs of the set's domain. */
static const char *recount_set(const struct gmm *gmm, const struct gmm__chunk_set *set, const struct gmm__paged *owner,
			       uint64_t *pages_by_handle)
{
	const char *broken = gmm__set_validate(set);

	for (uint32_t list = 0; list < GMM__SET_LISTS; list++) {
		for (const struct gmm__private_chunk *c = set->list[list]; c && !broken; c = c->next) {
			for (uint32_t i = 0; i < GMM__CHUNK_PAGES && !broken; i++) {
				uint32_t handle = c->record[i].vm;
				if (c->record[i].state != GMM__PRIVATE_USED)
					continue;
				const struct gmm_vm *vm = gmm->handles[handle];
				if (!vm || vm->domain != set->domain)
					broken = "INV-6: a private page is in a chunk of another domain, or of a VM that ended";
				else if (owner && owner->handle != handle)
					broken = "INV-4: a VM's own chunk has pages of another";
				pages_by_handle[handle]++;
			}
		}
	}
	return broken;
}

static const char *check_account(const struct gmm__paged *paged, uint64_t pages)
{
	uint64_t used = 0;

	for (int a = 0; a < GMM_ACCOUNTS; a++) {
		used += paged->used[a];
		if (paged->used[a] + (a == GMM_ACCOUNT_BASE ? paged->ballooned.total : 0) > paged->quota[a])
			return "INV-4: a VM uses more than it reserved";
	}
	if (pages != paged->chunk_pages.total)
		return "INV-4: a VM's private pages are miscounted";
	if (used != paged->chunk_pages.total + paged->references.total)
		return "INV-4: a VM's accounts are not its private pages and references";
	if (paged->shared_chunks.total != paged->references.total)
		return "INV-3: a VM's references by chunk are miscounted";
	if (paged->ballooned.total != paged->ballooned.ids || paged->mapped.total != paged->mapped.ids)
		return "INV-4: a page is in the balloon twice, or a chunk mapped twice";
	return NULL;
}

/* committed, as gmm/admission.h defines it. */
static const char *check_committed(const struct gmm *gmm)
{
	uint64_t committed = 0;

	for (const struct gmm__domain *domain = gmm->domains; domain; domain = domain->next)
		committed += domain->pool.committed ? domain->pool.used_pages : 0;
	for (const struct gmm_vm *vm = gmm->vms; vm; vm = vm->next) {
		const struct gmm__paged *paged = vm->paged;
		if (!paged || !paged->reserved)
			continue;
		if (paged->policy != GMM_OVERCOMMIT_NONE)
			committed += paged->chunk_pages.total;
		for (int a = 0; a < GMM_ACCOUNTS && paged->policy == GMM_OVERCOMMIT_NONE; a++)
			committed += paged->quota[a];
	}
	return committed == gmm->admission.committed ? NULL : "INV-4: the committed pages are miscounted";
}

static const char *validate(const struct gmm *gmm, uint64_t *pages_by_handle)
{
	const char *broken = NULL;

	for (const struct gmm__domain *domain = gmm->domains; domain; domain = domain->next)
		for (uint32_t n = 0; domain->common && !broken && n < gmm->source.arena.nodes; n++)
			broken = recount_set(gmm, &domain->common[n], NULL, pages_by_handle);
	for (const struct gmm_vm *vm = gmm->vms; vm && !broken; vm = vm->next)
		if (vm->paged)
			broken = recount_set(gmm, &vm->paged->set, vm->paged, pages_by_handle);
	for (const struct gmm_vm *vm = gmm->vms; vm && !broken; vm = vm->next)
		if (vm->paged)
			broken = check_account(vm->paged, pages_by_handle[vm->paged->handle]);
	return broken ? broken : check_committed(gmm);
}

const char *gmm__paged_validate(struct gmm *gmm)
{
	size_t bytes = (gmm->highest_handle + 1) * sizeof(uint64_t);
	uint64_t *pages_by_handle = gmm->handles ? gmm__mem_alloc(&gmm->mem, bytes) : NULL;

	if (!gmm->handles)
		return check_committed(gmm);
	if (!pages_by_handle)
		return "no memory to recount";
	const char *broken = validate(gmm, pages_by_handle);
	gmm__mem_free(&gmm->mem, pages_by_handle, bytes);
	return broken;
}
