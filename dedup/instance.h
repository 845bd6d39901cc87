/* Opening an instance on a given host: the real one, or one that tests made. */
#ifndef DEDUP_INSTANCE_H
#define DEDUP_INSTANCE_H

#include "dedup/backend.h"
#include "gmm/instance.h"

int gmm__instance_open(const struct gmm_options *options, const struct gmm__sys *sys, struct gmm **ret_gmm);

/* The calls on a VM end the work of dedup/ram.c on its slots. */
int gmm__vm_end_ram(struct gmm_vm *vm, enum gmm_ram_end end);

/* Makes all pages of a VM private, as gmm_vm_unshare. A gmm_status. */
int gmm__vm_unshare_all(struct gmm_vm *vm);

#endif
