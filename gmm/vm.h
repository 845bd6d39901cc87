/* A VM: its slots, counts and claim.
 *
 * Claim: whoever changes the VM's mappings or page table owns it for that time. It is a flag with waiters, not a
 * mutex, because it is held over compares and system calls; whoever waits for it touches no guest memory. The
 * engine holds it for one batch at a time and gives way between batches.
 */
#ifndef GMM_VM_H
#define GMM_VM_H

#include "gmm/counts.h"
#include "gmm/slot.h"

struct gmm;
struct gmm__domain;

/* Published as a whole: readers inside an RCU section or with the claim see a sorted array (by gfn). */
struct gmm__slots {
	uint32_t n;
	uint32_t room;                /* slots there is memory for */
	struct gmm__slot *slot[];
};

struct gmm__pin {
	struct gmm__pin *next;
	uint64_t gfn;
	uint64_t pages;
};

/* Whom to ask for pages, and what was asked; guarded by the instance's lock. */
struct gmm__balloon {
	void (*fn)(void *arg, struct gmm_vm *vm, uint64_t pages);
	void *arg;
	uint64_t maximum;
	uint64_t requested;
	uint64_t last_given;          /* for the arbiter, as idle_steps */
	uint32_t idle_steps;
};

/* Which runs of a VM are worth a mapping now: dedup/plan.h. Of one pass. Changed by the worker that has the VM; others
 * find its pages to be twins and read min_run. */
struct gmm__vm_plan {
	_Atomic uint64_t waiting_runs;    /* that the next passes have to merge */
	uint64_t postponed_pages;         /* in runs shorter than min_run */
	_Atomic uint32_t min_run;         /* shortest run merged; 0 as 1 */
};

/* Whether sharing pays in a VM: dedup/profit.h. */
struct gmm__vm_profit {
	uint16_t passes;      /* until it is judged again */
	uint16_t rest_passes; /* how long it rested last */
	uint8_t losses;       /* judgements in a row that found a loss */
	bool resting;         /* it is not visited */
	uint32_t ram_changes; /* the instance's count when it was last judged anew */
};

struct gmm_vm {
	struct gmm *gmm;
	struct gmm__domain *domain;
	struct gmm_vm *next, *previous; /* in the instance's list; guarded by its lock */
	uint32_t number;
	enum gmm_priority priority;
	char name[GMM_NAME_MAX + 1];
	uint32_t remote;              /* its number at the sharing service + 1; 0: not announced. The engine's */
	bool refused;                 /* by the service, and logged. The engine's */
	struct gmm__vm_plan plan;     /* the engine's, as is the next */
	struct gmm__vm_profit profit;
	uint64_t max_mappings;        /* UINT64_MAX: no limit of its own */

	/* Guarded by the instance's lock. */
	bool claimed;
	_Atomic bool dead;            /* being destroyed: no new claims but the destroyer's */
	uint32_t visits;              /* by the engine, and by calls that work on several VMs: must not be freed */
	struct gmm__balloon balloon;
	uint32_t waiting;             /* threads that want the claim */

	/* Guarded by the claim; slots also readable under RCU. */
	struct gmm__slots *slots;
	struct gmm__pin *pins;
	struct gmm__paged *paged;     /* gmm/paged.h; NULL: a mapped VM. Fixed */
	struct gmm__vm_modules *modules; /* sharedmod/registry.h; guarded by the registry's lock */
	struct gmm_vm_stats stats;    /* pages, state_pages, mappings, runs and the counters; the rest is derived */
};

/* Takes or leaves the claim. take returns false for a VM that is being destroyed, unless `destroying`. */
bool gmm__vm_claim(struct gmm_vm *vm, bool destroying);
void gmm__vm_release(struct gmm_vm *vm);
/* Takes the claim if nobody has it and the VM is not being destroyed. */
bool gmm__vm_try_claim(struct gmm_vm *vm);

/* Publishes a new array with `add` in it and without `remove` (either may be NULL); the old one is freed after
 * a grace period by the caller's gmm__vm_slots_free. Returns the old array, or NULL without memory. */
struct gmm__slots *gmm__vm_slots_change(struct gmm_vm *vm, struct gmm__slot *add, const struct gmm__slot *remove);
void gmm__vm_slots_free(struct gmm_vm *vm, struct gmm__slots *slots);

/* The slot that holds gfn, or NULL. Needs the claim or an RCU section. */
struct gmm__slot *gmm__vm_find(const struct gmm_vm *vm, uint64_t gfn);

/* The part of gfns [gfn, gfn + pages) that lies in one slot. Returns false at the end or at a gap. */
struct gmm__part {
	struct gmm__slot *slot;
	uint32_t first;
	uint32_t pages;
};
bool gmm__vm_part(const struct gmm_vm *vm, uint64_t gfn, uint64_t pages, struct gmm__part *ret_part);

#endif
