/* The registry of guest modules: global records, one for each module of a trust domain, and per-VM records, one for each
 * base address a VM has registered.
 *
 * Both are found in hash tables (cds_lfht) inside RCU sections, without locks, so lookups never wait. Everything else,
 * and all changes, take the registry's mutex; it is held for a few hash table operations and list links only.
 *
 * Life of a module: made by its first record; `users` counts its records. Without users it stays as long as one of its
 * pool pages is in use (it is idle), so that a guest that comes later still finds them; the idle one that became so first
 * is dropped when room is needed, and all of a domain when the domain ends. Life of a record: until it is unregistered,
 * replaced, reset, or its VM ends. `refs` keep either from being freed meanwhile; freeing waits for a grace period (INV-5).
 *
 *   refs of a module = its records that are not freed + those who work with it
 *   vm->modules->n = records in its list = records of that VM in the table
 *
 * A module belongs to one trust domain, which is part of its key (INV-6).
 */
#ifndef SHAREDMOD_REGISTRY_H
#define SHAREDMOD_REGISTRY_H

#include <urcu/urcu-bp.h>

#include <urcu/rculfhash.h>

#include "dedup/digest.h"
#include "sharedmod/registry_pages.h"
#include "sharedmod/walker.h"

/* What makes two registrations the same module; unused bytes are 0. */
struct gmm__module_key {
	uint64_t size;
	uint32_t os;
	uint32_t n_regions;
	struct {
		uint32_t offset; /* of its first byte in its page */
		uint32_t pages;
	} region[GMM_MODULE_REGIONS_MAX];
	char name[GMM_MODULE_NAME_MAX + 1];
	char version[GMM_MODULE_VERSION_MAX + 1];
};

struct gmm__module {
	struct cds_lfht_node node;
	struct gmm__module *retired;      /* next in the list of those to be freed */
	struct gmm__module_key key;
	struct gmm__module_pages pages;
	/* Guarded by the registry's lock. */
	uint32_t refs;
	_Atomic uint32_t users;           /* also read without the lock, as a hint */
	bool listed;                      /* in the hash table */
	struct gmm__module *idle_next, *idle_last; /* in the list of modules without users */
};

/* Pages [start, next run's start) of a module begin at gfn. */
struct gmm__module_run {
	uint32_t start;
	uint32_t gfn;                     /* GMM__NO_GFN: not in memory */
};
#define GMM__NO_GFN UINT32_MAX

struct gmm__module_record {
	struct cds_lfht_node node;
	struct gmm__module_record *retired; /* next in the list of those to be freed */
	struct gmm_vm *vm;
	uint64_t base;
	struct gmm__module *module;
	/* How its pages are found: runs, or the addresses of its regions' first pages. */
	struct gmm__walk_cpu cpu;
	struct gmm__module_run *runs;     /* NULL: by address */
	uint32_t n_runs;
	uint64_t region_addr[GMM_MODULE_REGIONS_MAX];
	/* Guarded by the registry's lock. */
	uint32_t refs;
	struct gmm__module_record *next, *last; /* in the VM's list */
	uint32_t next_page;               /* where the engine's check goes on */
	bool checked;                     /* by the engine, with another user there */
	bool incomplete;                  /* some of its pages could not be shared: try again now and then */
	bool missed;                      /* some were not looked at: try again in the next pass */
};

struct gmm__vm_modules {
	struct gmm__module_record *records;
	struct gmm__module_record *cursor;    /* the engine's, in this pass; NULL: at the end */
	uint64_t pass;                    /* it belongs to */
	uint64_t pages_left;              /* to be checked in this pass, so that no guest can hold it up for long */
	uint32_t n;
	uint64_t runs;                    /* of all records */
};

struct gmm__registry {
	struct gmm *gmm;
	struct gmm__mem *mem;
	uint8_t secret[GMM__SECRET_BYTES]; /* of the tables' hashes */
	struct gmm__lock lock;            /* guards what follows, and changes to the tables */
	struct cds_lfht *modules;
	struct cds_lfht *records;
	uint32_t n_modules;
	struct gmm__module *idle, *idle_end; /* the one that became idle first is the first */
	struct gmm__module *retired_modules;
	struct gmm__module_record *retired_records;
	uint32_t n_retired;

	/* The scan thread's, which takes no lock. */
	_Atomic uint32_t begun;           /* passes since the instance knows modules */
	_Atomic uint64_t pass;            /* number of those that had something to check */
	_Atomic bool retry;               /* this one tries incomplete records again */
	_Atomic bool due;                 /* a record waits for its first check */
};

/* With fewer records of a module there is nothing to be shared. Through a service others may be in other processes. */
static inline uint32_t gmm__registry_users_min(const struct gmm__registry *registry)
{
	return registry->gmm->remote ? 1 : 2;
}

/* The instance's registry, made if there is none yet; NULL without memory. */
struct gmm__registry *gmm__registry_make(struct gmm *gmm, const struct gmm__module_hooks *hooks);
/* When all VMs are gone. */
void gmm__registry_destroy(struct gmm__registry *registry);

/* Registers a record that the caller has filled in up to `region_addr`; the module is found or made. It takes the record
 * over, whatever the result. */
int gmm__registry_add(struct gmm__registry *registry, const struct gmm__module_key *key, struct gmm__module_record *record);
void gmm__registry_free_record(struct gmm__registry *registry, struct gmm__module_record *record);

/* 0 or _NOT_FOUND. */
int gmm__registry_remove(struct gmm__registry *registry, struct gmm_vm *vm, uint64_t base);
void gmm__registry_remove_all(struct gmm__registry *registry, struct gmm_vm *vm);
/* The same, and the VM's own table too. */
void gmm__registry_end_vm(struct gmm__registry *registry, struct gmm_vm *vm);
/* No VM is in the domain. */
void gmm__registry_end_domain(struct gmm__registry *registry, const struct gmm__domain *domain);

/* Inside an RCU section: the record at a base; NULL without one. */
struct gmm__module_record *gmm__registry_find(struct gmm__registry *registry, const struct gmm_vm *vm, uint64_t base);

/* The record at a base, which stays until it is let go. */
struct gmm__module_record *gmm__registry_hold(struct gmm__registry *registry, const struct gmm_vm *vm, uint64_t base);
void gmm__registry_let_go(struct gmm__registry *registry, struct gmm__module_record *record);

/* The bases of all records of a VM, GMM_MODULE_VM_MAX at most. Returns how many. */
uint32_t gmm__registry_bases(struct gmm__registry *registry, const struct gmm_vm *vm, uint64_t *ret_base);

/* The engine's checks (sharedmod/check.c). A pass begins: false if nothing is due. Takes no lock. */
bool gmm__registry_begin_pass(struct gmm__registry *registry);
/* The VM's next record that is due in this pass, held; NULL: no more. */
struct gmm__module_record *gmm__registry_hold_due(struct gmm__registry *registry, struct gmm_vm *vm);
/* A slice of it was done, up to next_page, and it is let go. complete: all pages of the slice are shared. again: it is to
 * be checked again in the next pass. */
void gmm__registry_set_checked(struct gmm__registry *registry, struct gmm__module_record *record, uint32_t next_page,
			       bool complete, bool again);

/* Drops idle modules of which no page is shared any more. */
void gmm__registry_sweep(struct gmm__registry *registry);

/* Calls `see` for each module, inside an RCU section. */
void gmm__registry_for_each(struct gmm__registry *registry, void (*see)(void *arg, struct gmm__module *module),
			    void *arg);

#endif
