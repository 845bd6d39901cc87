/* Opening an instance on a given host: the real one, or one that tests made. */
#ifndef DEDUP_INSTANCE_H
#define DEDUP_INSTANCE_H

#include "dedup/backend.h"
#include "gmm/instance.h"

int gmm__instance_open(const struct gmm_options *options, const struct gmm__sys *sys, struct gmm **ret_gmm);

/* An instance that keeps the tables of VMs in other processes: it needs no feature of the host, has no engine, and takes
 * shadow slots only. */
int gmm__instance_open_tables(const struct gmm_options *options, const struct gmm__sys *sys, struct gmm **ret_gmm);

/* The domain of that name, made if need be. It stays until it is put as often as it was got, VMs or not. NULL without
 * memory. */
struct gmm__domain *gmm__domain_get(struct gmm *gmm, const char *name);
void gmm__domain_put(struct gmm *gmm, struct gmm__domain *domain);

/* Adds a shadow slot: RAM of another process, all of it ABSENT. gmm_vm_remove_ram and gmm_vm_destroy end it, with
 * GMM_RAM_DISCARD. A gmm_status. */
int gmm__vm_add_shadow(struct gmm_vm *vm, uint64_t gfn, uint32_t pages, struct gmm__slot **ret_slot);

/* The calls on a VM end the work of dedup/ram.c on its slots. */
int gmm__vm_end_ram(struct gmm_vm *vm, enum gmm_ram_end end);

/* Makes all pages of a VM private, as gmm_vm_unshare. A gmm_status. */
int gmm__vm_unshare_all(struct gmm_vm *vm);

#endif
