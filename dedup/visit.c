/* Visits to VMs; see visit.h. */
#include "dedup/visit.h"

#include <urcu/urcu-bp.h>

struct gmm_vm *gmm__visit_begin(struct gmm *gmm, const struct gmm__domain *domain, uint32_t after)
{
	struct gmm_vm *found = NULL;

	gmm__lock_take(&gmm->lock);
	for (struct gmm_vm *vm = gmm->vms; vm; vm = vm->next)
		if (vm->number > after && !vm->dead && (!domain || vm->domain == domain) &&
		    (!found || vm->number < found->number))
			found = vm;
	if (found)
		found->visits++;
	gmm__lock_give(&gmm->lock);
	return found;
}

void gmm__visit_end(struct gmm_vm *vm)
{
	struct gmm *gmm = vm->gmm;

	gmm__lock_take(&gmm->lock);
	vm->visits--;
	if (gmm->leave_waiters > 0) /* counted before it looks at the visits */
		pthread_cond_broadcast(&gmm->changed);
	gmm__lock_give(&gmm->lock);
}

struct gmm_vm *gmm__visit_next(struct gmm_vm *vm, const struct gmm__domain *domain)
{
	struct gmm_vm *next = gmm__visit_begin(vm->gmm, domain, vm->number);

	gmm__visit_end(vm);
	return next;
}

struct gmm__slot *gmm__visit_slot(struct gmm_vm *vm, uint64_t from)
{
	struct gmm__slot *found = NULL;

	urcu_bp_read_lock();
	const struct gmm__slots *slots = rcu_dereference(vm->slots);
	for (uint32_t i = 0; !found && i < slots->n; i++)
		if (slots->slot[i]->gfn + slots->slot[i]->pages > from && !slots->slot[i]->dead)
			found = slots->slot[i];
	urcu_bp_read_unlock();
	return found;
}

void gmm__visit_slots(struct gmm *gmm, const struct gmm__domain *domain, void (*fn)(void *arg, struct gmm__slot *slot),
		      void *arg)
{
	struct gmm__slot *slot;

	for (struct gmm_vm *vm = gmm__visit_begin(gmm, domain, 0); vm; vm = gmm__visit_next(vm, domain))
		for (uint64_t from = 0; !vm->dead && (slot = gmm__visit_slot(vm, from)) != NULL; from = slot->gfn + slot->pages)
			fn(arg, slot);
}
