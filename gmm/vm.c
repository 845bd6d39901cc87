/* VMs: the claim and the array of slots. */
#include "gmm/vm.h"

#include <stdlib.h>
#include <string.h>
#include <urcu/urcu-bp.h>

#include "gmm/instance.h"

bool gmm__vm_claim(struct gmm_vm *vm, bool destroying)
{
	struct gmm *gmm = vm->gmm;
	bool ok;

	gmm__lock_take(&gmm->lock);
	vm->waiting++;
	gmm->snapshot_waiters++;
	while (vm->claimed || gmm->snapshot)
		gmm__lock_wait(&gmm->lock, &gmm->changed);
	gmm->snapshot_waiters--;
	vm->waiting--;
	ok = destroying || !vm->dead;
	if (ok) {
		vm->claimed = true;
		gmm->claims++;
	}
	gmm__lock_give(&gmm->lock);
	return ok;
}

void gmm__vm_release(struct gmm_vm *vm)
{
	struct gmm *gmm = vm->gmm;

	gmm__lock_take(&gmm->lock);
	vm->claimed = false;
	gmm->claims--;
	if (vm->waiting || gmm->snapshot)
		pthread_cond_broadcast(&gmm->changed);
	gmm__lock_give(&gmm->lock);
}

bool gmm__vm_try_claim(struct gmm_vm *vm)
{
	struct gmm *gmm = vm->gmm;

	gmm__lock_take(&gmm->lock);
	bool ok = !vm->claimed && !gmm->snapshot && !vm->dead;
	if (ok) {
		vm->claimed = true;
		gmm->claims++;
	}
	gmm__lock_give(&gmm->lock);
	return ok;
}

static size_t slots_bytes(uint32_t n)
{
	return sizeof(struct gmm__slots) + n * sizeof(struct gmm__slot *);
}

struct gmm__slots *gmm__vm_slots_change(struct gmm_vm *vm, struct gmm__slot *add, const struct gmm__slot *remove)
{
	struct gmm__slots *old = vm->slots;
	uint32_t n = old->n + (add != NULL) - (remove != NULL), to = 0;
	struct gmm__slots *slots = gmm__mem_alloc(&vm->gmm->mem, slots_bytes(n));

	if (!slots)
		return NULL;
	for (uint32_t i = 0; i < old->n; i++) {
		if (add && old->slot[i]->gfn > add->gfn) {
			slots->slot[to++] = add;
			add = NULL;
		}
		if (old->slot[i] != remove)
			slots->slot[to++] = old->slot[i];
	}
	if (add)
		slots->slot[to++] = add;
	slots->n = slots->room = to;
	rcu_set_pointer(&vm->slots, slots);
	return old;
}

void gmm__vm_slots_free(struct gmm_vm *vm, struct gmm__slots *slots)
{
	gmm__mem_free(&vm->gmm->mem, slots, slots_bytes(slots->room));
}

struct gmm__slot *gmm__vm_find(const struct gmm_vm *vm, uint64_t gfn)
{
	const struct gmm__slots *slots = rcu_dereference(vm->slots);
	uint32_t low = 0, high = slots->n;

	while (low < high) {
		uint32_t middle = (low + high) / 2;
		if (slots->slot[middle]->gfn <= gfn)
			low = middle + 1;
		else
			high = middle;
	}
	if (low == 0)
		return NULL;
	struct gmm__slot *slot = slots->slot[low - 1];
	return gfn - slot->gfn < slot->pages ? slot : NULL;
}

bool gmm__vm_part(const struct gmm_vm *vm, uint64_t gfn, uint64_t pages, struct gmm__part *ret_part)
{
	struct gmm__slot *slot = pages > 0 ? gmm__vm_find(vm, gfn) : NULL;

	if (!slot)
		return false;
	uint64_t left = slot->gfn + slot->pages - gfn;
	*ret_part = (struct gmm__part){ .slot = slot, .first = (uint32_t)(gfn - slot->gfn),
					.pages = (uint32_t)(left < pages ? left : pages) };
	return true;
}
