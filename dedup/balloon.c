/* Balloons of mapped VMs: per page, and as often as the guest says so. */
#include <gmm/balloon.h>

#include <errno.h>

#include "dedup/account.h"
#include "dedup/balloon.h"
#include "dedup/fork.h"
#include "dedup/range.h"
#include "gmm/paged.h"

static bool is_ballooned(const struct gmm__slot *slot, uint32_t page)
{
	return gmm__slot_state(slot, page) == GMM_PAGE_BALLOONED;
}

/* True when something was mapped there since the page was ballooned: the guest uses it. */
static bool is_used(const struct gmm__backend *backend, struct gmm__slot *slot, uint32_t page)
{
	struct gmm__scan_filter there = { .any = GMM__IS_PRESENT | GMM__IS_SWAPPED };
	uint8_t is = 0;

	return backend->scan(slot, page, 1, &there, &is) != 0;
}

/* Pages in a row, up to `end`, that are to be emptied. */
static uint32_t span(const struct gmm__backend *backend, struct gmm__slot *slot, uint32_t page, uint32_t end)
{
	uint32_t n = 0;

	while (page + n < end && (!is_ballooned(slot, page + n) || is_used(backend, slot, page + n)))
		n++;
	return n;
}

int gmm__balloon_inflate(const struct gmm__backend *backend, const struct gmm__part *part, uint64_t *pages)
{
	struct gmm__slot *slot = part->slot;
	uint32_t end = part->first + part->pages;

	for (uint32_t page = part->first, n; page < end; page += n + 1) {
		n = span(backend, slot, page, end);
		int rc = n > 0 ? backend->discard(slot, page, n) : 0;
		if (rc != 0)
			return rc == -ENOMEM ? GMM_ERR_LIMIT : GMM_ERR_SYSTEM;
		for (uint32_t i = page; i < page + n; i++)
			*pages += !is_ballooned(slot, i);
		gmm__account_uncovered(slot, page, n, GMM_PAGE_ABSENT);
		for (uint32_t i = page; i < page + n; i++)
			gmm__slot_set(slot, i, GMM_PAGE_BALLOONED, 0);
	}
	return GMM_OK;
}

/* The pages are holes already. */
uint64_t gmm__balloon_deflate(const struct gmm__part *part)
{
	uint64_t pages = 0;

	for (uint32_t page = part->first; page < part->first + part->pages; page++) {
		if (!is_ballooned(part->slot, page))
			continue;
		uint8_t refused = part->slot->state[page] & GMM__FLAGS_REFUSED;
		gmm__slot_set(part->slot, page, refused ? gmm__state_refused(refused) : GMM_PAGE_ABSENT, 0);
		pages++;
	}
	return pages;
}

int gmm_vm_balloon_inflate(struct gmm_vm *vm, uint64_t guest_addr, uint64_t size, uint64_t *ret_pages)
{
	struct gmm__range range;
	struct gmm__part part;
	uint64_t ballooned = 0;

	int status = gmm__range_begin(vm, guest_addr, size, &range);
	if (status != GMM_OK)
		return status;
	if (gmm__range_any_pinned(&range))
		status = GMM_ERR_PINNED;
	for (uint64_t at = 0; status == GMM_OK && gmm__vm_part(vm, range.gfn + at, range.pages - at, &part); at += part.pages)
		status = gmm__balloon_inflate(gmm__backend_mapped(), &part, &ballooned);
	gmm__vm_release(vm);
	if (status == GMM_OK && ret_pages)
		*ret_pages = ballooned;
	return status;
}

int gmm_vm_balloon_deflate(struct gmm_vm *vm, uint64_t guest_addr, uint64_t size, uint64_t *ret_pages)
{
	struct gmm__range range;
	struct gmm__part part;
	uint64_t deflated = 0;

	int status = gmm__range_begin(vm, guest_addr, size, &range);
	if (status != GMM_OK)
		return status;
	for (uint64_t at = 0; gmm__vm_part(vm, range.gfn + at, range.pages - at, &part); at += part.pages)
		deflated += gmm__balloon_deflate(&part);
	gmm__vm_release(vm);
	if (ret_pages)
		*ret_pages = deflated;
	return GMM_OK;
}

int gmm_vm_balloon_reset(struct gmm_vm *vm)
{
	if (!vm)
		return GMM_ERR_INVALID_PARAMETER;
	if (!gmm__fork_is_home(vm->gmm))
		return GMM_ERR_WRONG_PROCESS;
	if (!gmm__vm_claim(vm, false))
		return GMM_ERR_WRONG_ORDER;
	for (uint32_t i = 0; i < vm->slots->n; i++)
		gmm__balloon_deflate(&(struct gmm__part){ vm->slots->slot[i], 0, vm->slots->slot[i]->pages });
	gmm__vm_release(vm);
	gmm__lock_take(&vm->gmm->lock);
	vm->balloon.requested = vm->balloon.last_given = vm->balloon.idle_steps = 0;
	gmm__lock_give(&vm->gmm->lock);
	return GMM_OK;
}

int gmm_vm_set_balloon(struct gmm_vm *vm, uint64_t max_pages, gmm_balloon_fn *fn, void *arg)
{
	if (!vm)
		return GMM_ERR_INVALID_PARAMETER;
	if (!gmm__fork_is_home(vm->gmm))
		return GMM_ERR_WRONG_PROCESS;
	gmm__lock_take(&vm->gmm->lock);
	vm->balloon.fn = fn;
	vm->balloon.arg = arg;
	vm->balloon.maximum = fn ? max_pages : 0;
	gmm__lock_give(&vm->gmm->lock);
	if (vm->paged)
		gmm__paged_balloon_limit(vm, fn ? max_pages : 0);
	return GMM_OK;
}

int gmm_vm_balloon_stats(struct gmm_vm *vm, struct gmm_balloon_stats *ret_stats)
{
	struct gmm_vm_stats stats;

	if (!ret_stats)
		return GMM_ERR_INVALID_PARAMETER;
	int status = gmm_vm_stats(vm, &stats);
	if (status != GMM_OK)
		return status;
	uint64_t given = stats.state_pages[GMM_PAGE_BALLOONED], pages;
	enum gmm_priority priority;
	if (vm->paged)
		gmm__paged_balloon_look(vm, &priority, &pages, &given);
	gmm__lock_take(&vm->gmm->lock);
	*ret_stats = (struct gmm_balloon_stats){ .requested_pages = vm->balloon.requested, .given_pages = given,
						 .max_pages = vm->balloon.maximum };
	gmm__lock_give(&vm->gmm->lock);
	if (given > ret_stats->requested_pages)
		ret_stats->to_deflate_pages = given - ret_stats->requested_pages;
	return GMM_OK;
}
