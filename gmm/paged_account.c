/* The account of a paged VM: reservations, the balloon, and the limits of the instance. */
#include "gmm/paged.h"

/* ---- limits ------------------------------------------------------------------------------------------------- */

static int check_instance(const struct gmm *gmm)
{
	if (!gmm)
		return GMM_ERR_INVALID_PARAMETER;
	return gmm->process_id == gmm__sys_of(gmm)->process_id() ? GMM_OK : GMM_ERR_WRONG_PROCESS;
}

int gmm_instance_set_limits(struct gmm *gmm, const struct gmm_limits *limits)
{
	if (!limits || limits->struct_size != sizeof *limits || limits->overcommit_percent < 100 ||
	    limits->overcommit_percent > 10000 || limits->chunk_mappings < 1 ||
	    limits->chunk_mappings > GMM__CHUNK_ID_MAX)
		return GMM_ERR_INVALID_PARAMETER;
	int status = check_instance(gmm);
	return status == GMM_OK ? gmm__admission_set_limits(&gmm->admission, gmm__sys_of(gmm), limits) : status;
}

int gmm_instance_limits(struct gmm *gmm, struct gmm_limits *ret_limits)
{
	int status = ret_limits ? check_instance(gmm) : GMM_ERR_INVALID_PARAMETER;
	if (status != GMM_OK)
		return status;
	gmm__lock_take(&gmm->admission.lock);
	*ret_limits = gmm->admission.limits;
	ret_limits->maximum_pages = gmm->admission.maximum;
	gmm__lock_give(&gmm->admission.lock);
	return GMM_OK;
}

/* ---- reservations ------------------------------------------------------------------------------------------- */

static uint64_t sum_of(const uint64_t pages[GMM_ACCOUNTS])
{
	return pages[GMM_ACCOUNT_BASE] + pages[GMM_ACCOUNT_SHADOW] + pages[GMM_ACCOUNT_FIXED];
}

static bool pages_valid(const uint64_t pages[GMM_ACCOUNTS])
{
	for (int a = 0; a < GMM_ACCOUNTS; a++)
		if (pages[a] == 0 || pages[a] > UINT32_MAX)
			return false;
	return true;
}

static void set_quota(struct gmm__paged *paged, const uint64_t pages[GMM_ACCOUNTS])
{
	for (int a = 0; a < GMM_ACCOUNTS; a++)
		paged->quota[a] = pages[a];
}

int gmm_vm_reserve(struct gmm_vm *vm, const struct gmm_reservation *reservation)
{
	if (!reservation || !pages_valid(reservation->pages) || (unsigned)reservation->overcommit >= GMM_OVERCOMMITS ||
	    (unsigned)reservation->priority > GMM_PRIORITY_HIGH)
		return GMM_ERR_INVALID_PARAMETER;
	int status = gmm__paged_enter_unreserved(vm);
	if (status != GMM_OK)
		return status;
	struct gmm__paged *paged = vm->paged;
	if (paged->reserved)
		return gmm__paged_leave(vm, GMM_ERR_WRONG_ORDER);
	status = gmm__admission_reserve(&vm->gmm->admission, reservation->overcommit, 0, sum_of(reservation->pages));
	if (status == GMM_OK) {
		paged->reserved = true;
		paged->policy = reservation->overcommit;
		paged->priority = reservation->priority;
		set_quota(paged, reservation->pages);
	} else {
		paged->counters.declined++;
	}
	return gmm__paged_leave(vm, status);
}

int gmm_vm_update_reservation(struct gmm_vm *vm, const uint64_t pages[GMM_ACCOUNTS])
{
	if (!pages || !pages_valid(pages))
		return GMM_ERR_INVALID_PARAMETER;
	int status = gmm__paged_enter(vm);
	if (status != GMM_OK)
		return status;
	struct gmm__paged *paged = vm->paged;
	for (int a = 0; a < GMM_ACCOUNTS; a++)
		if (pages[a] < paged->used[a] + (a == GMM_ACCOUNT_BASE ? paged->ballooned.total : 0))
			status = GMM_ERR_MEMORY_RESERVATION_DECLINED;
	if (status == GMM_OK)
		status = gmm__admission_reserve(&vm->gmm->admission, paged->policy, sum_of(paged->quota), sum_of(pages));
	if (status == GMM_OK)
		set_quota(paged, pages);
	else
		paged->counters.declined++;
	return gmm__paged_leave(vm, status);
}

int gmm_vm_allow_allocation(struct gmm_vm *vm, bool allow)
{
	int status = gmm__paged_enter_unreserved(vm);
	if (status != GMM_OK)
		return status;
	vm->paged->may_allocate = allow;
	return gmm__paged_leave(vm, GMM_OK);
}

/* ---- the balloon -------------------------------------------------------------------------------------------- */

static uint32_t pfn_of(uint64_t guest_addr)
{
	return (uint32_t)(guest_addr / GMM__PAGE_BYTES);
}

/* Adds the pages first and takes them out again when they are too many: addresses may be named twice, so how many are new
 * is not known before. Room was made. */
static int inflate(struct gmm__paged *paged, uint32_t count, const uint64_t *guest_addrs, uint32_t *ret_changed)
{
	uint64_t room = paged->quota[GMM_ACCOUNT_BASE] - paged->used[GMM_ACCOUNT_BASE];
	uint32_t changed = 0;

	if (!gmm__tally_reserve(&paged->ballooned, &paged->vm->gmm->mem, count))
		return GMM_ERR_NO_MEMORY;
	/* A count of 2 marks what this call added, until it is sure to stay. */
	for (uint32_t i = 0; i < count; i++) {
		if (gmm__tally_count(&paged->ballooned, pfn_of(guest_addrs[i])))
			continue;
		gmm__tally_add(&paged->ballooned, pfn_of(guest_addrs[i]), 2);
		changed++;
	}
	bool fits = paged->ballooned.total - changed <= room;
	for (uint32_t i = 0; i < count; i++)
		if (gmm__tally_count(&paged->ballooned, pfn_of(guest_addrs[i])) == 2)
			gmm__tally_remove(&paged->ballooned, pfn_of(guest_addrs[i]), fits ? 1 : 2);
	if (!fits)
		return GMM_ERR_ATTEMPT_TO_FREE_TOO_MUCH;
	uint64_t owed = paged->balloon.requested - paged->balloon.given;
	paged->balloon.given += changed < owed ? changed : owed;
	paged->counters.inflated += changed;
	*ret_changed = changed;
	return GMM_OK;
}

static int deflate(struct gmm__paged *paged, uint32_t count, const uint64_t *guest_addrs, uint32_t *ret_changed)
{
	uint32_t changed = 0;

	if (count > paged->ballooned.total)
		return GMM_ERR_ATTEMPT_TO_DEFLATE_TOO_MUCH;
	for (uint32_t i = 0; i < count; i++) {
		if (!gmm__tally_count(&paged->ballooned, pfn_of(guest_addrs[i])))
			continue;
		gmm__tally_remove(&paged->ballooned, pfn_of(guest_addrs[i]), 1);
		changed++;
	}
	gmm__tally_shrink(&paged->ballooned, &paged->vm->gmm->mem);
	paged->balloon.to_deflate -= changed < paged->balloon.to_deflate ? changed : paged->balloon.to_deflate;
	paged->counters.deflated += changed;
	*ret_changed = changed;
	return GMM_OK;
}

static int reset(struct gmm__paged *paged, uint32_t *ret_changed)
{
	*ret_changed = paged->ballooned.ids;
	paged->counters.deflated += paged->ballooned.ids;
	gmm__tally_destroy(&paged->ballooned, &paged->vm->gmm->mem);
	paged->balloon.requested = paged->balloon.given = paged->balloon.to_deflate = 0;
	return GMM_OK;
}

void gmm__paged_balloon_look(struct gmm_vm *vm, enum gmm_priority *ret_priority, uint64_t *ret_pages, uint64_t *ret_given)
{
	if (gmm__paged_enter_unreserved(vm) != GMM_OK)
		return;
	*ret_priority = vm->paged->priority;
	*ret_pages = vm->paged->quota[GMM_ACCOUNT_BASE];
	*ret_given = vm->paged->ballooned.total;
	gmm__paged_leave(vm, GMM_OK);
}

void gmm__paged_balloon_limit(struct gmm_vm *vm, uint64_t maximum)
{
	if (gmm__paged_enter_unreserved(vm) != GMM_OK)
		return;
	vm->paged->balloon.maximum = maximum;
	gmm__paged_leave(vm, GMM_OK);
}

void gmm__paged_balloon_ask(struct gmm_vm *vm, uint64_t target)
{
	if (gmm__paged_enter_unreserved(vm) != GMM_OK)
		return;
	struct gmm_page_balloon *balloon = &vm->paged->balloon;
	uint64_t holds = vm->paged->ballooned.total;
	balloon->requested = target > holds ? target - holds : 0;
	balloon->given = 0;
	balloon->to_deflate = holds > target ? holds - target : 0;
	gmm__paged_leave(vm, GMM_OK);
}

/* Nothing is asked of a guest that was reset until the next step of the arbitration. */
static void forget_request(struct gmm_vm *vm)
{
	gmm__lock_take(&vm->gmm->lock);
	vm->balloon.requested = vm->balloon.last_given = vm->balloon.idle_steps = 0;
	gmm__lock_give(&vm->gmm->lock);
}

static bool balloon_arguments_valid(enum gmm_balloon_action action, uint32_t count, const uint64_t *guest_addrs)
{
	if ((unsigned)action > GMM_BALLOON_RESET)
		return false;
	if (action == GMM_BALLOON_RESET)
		return count == 0;
	if (count == 0 || !guest_addrs)
		return false;
	for (uint32_t i = 0; i < count; i++)
		if (guest_addrs[i] % GMM__PAGE_BYTES || guest_addrs[i] > GMM_GUEST_MAX)
			return false;
	return true;
}

int gmm_vm_balloon_pages(struct gmm_vm *vm, enum gmm_balloon_action action, uint32_t count, const uint64_t *guest_addrs,
			 uint32_t *ret_changed)
{
	uint32_t changed = 0;

	if (!balloon_arguments_valid(action, count, guest_addrs))
		return GMM_ERR_INVALID_PARAMETER;
	int status = gmm__paged_enter(vm);
	if (status != GMM_OK)
		return status;
	if (action == GMM_BALLOON_INFLATE)
		status = inflate(vm->paged, count, guest_addrs, &changed);
	else if (action == GMM_BALLOON_DEFLATE)
		status = deflate(vm->paged, count, guest_addrs, &changed);
	else
		status = reset(vm->paged, &changed);
	if (status == GMM_OK && ret_changed)
		*ret_changed = changed;
	status = gmm__paged_leave(vm, status);
	if (status == GMM_OK && action == GMM_BALLOON_RESET)
		forget_request(vm);
	return status;
}
