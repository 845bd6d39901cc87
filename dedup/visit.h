/* Visits: going over the VMs of an instance from a thread that holds nothing.
 *
 * A visited VM is not freed, and slots found in it are not either: whoever ends them marks them dead and waits until
 * all visitors have left. So visits are short; a visitor leaves a VM or slot that is dead.
 */
#ifndef DEDUP_VISIT_H
#define DEDUP_VISIT_H

#include "gmm/instance.h"

/* The VM with the lowest number above `after` that is of the domain (NULL: any) and not dead; NULL at the end. */
struct gmm_vm *gmm__visit_begin(struct gmm *gmm, const struct gmm__domain *domain, uint32_t after);
void gmm__visit_end(struct gmm_vm *vm);
/* Ends the visit and begins that of the next VM. */
struct gmm_vm *gmm__visit_next(struct gmm_vm *vm, const struct gmm__domain *domain);

/* The first slot that ends above gfn `from` and is not dead; looked up anew each time, since slots come and go. */
struct gmm__slot *gmm__visit_slot(struct gmm_vm *vm, uint64_t from);

/* Calls fn for each slot of the domain's VMs (NULL: of all), each visited meanwhile; fn leaves a slot that is dead. */
void gmm__visit_slots(struct gmm *gmm, const struct gmm__domain *domain, void (*fn)(void *arg, struct gmm__slot *slot),
		      void *arg);

#endif
