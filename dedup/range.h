/* Ranges: what the public calls on a part of a VM's RAM have in common. */
#ifndef DEDUP_RANGE_H
#define DEDUP_RANGE_H

#include "gmm/instance.h"

/* Pages of a VM's slots. */
struct gmm__range {
	struct gmm_vm *vm;
	uint64_t gfn;
	uint64_t pages;
};

/* The arguments of such a call, before anything is claimed. A gmm_status. */
int gmm__range_check(const struct gmm_vm *vm, uint64_t guest_addr, uint64_t size);

/* Checks the arguments and claims the VM, which the caller releases, if the whole range lies in RAM slots. A gmm_status. */
int gmm__range_begin(struct gmm_vm *vm, uint64_t guest_addr, uint64_t size, struct gmm__range *ret_range);

/* With the claim. */
bool gmm__range_any_pinned(const struct gmm__range *range);

#endif
