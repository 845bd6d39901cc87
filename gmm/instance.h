/* The instance: what all modules share, and the lists of VMs and trust domains.
 *
 * gmm/lock.h has the ranks of all locks; none is held over a byte compare or a system call that can wait for the guest,
 * but gmm.ram_lock, which is for adding and removing RAM and starting and stopping the engine: whoever has it may read
 * every VM's array of slots. A staging's lock is held from freeze to thaw with nothing taken under it, so that a fork, which
 * takes those of all stagings, waits for the end of all freezes. The fork handlers take them before gmm.lock and pool.lock.
 */
#ifndef GMM_INSTANCE_H
#define GMM_INSTANCE_H

#include "gmm/admission.h"
#include "gmm/chunk_set.h"
#include "gmm/vm.h"

struct gmm__backend;
struct gmm__catalog;
struct gmm__engine;
struct gmm__merge;
struct gmm__registry;

/* What the layer of guest modules, which lies above the engine, has done at certain points. */
struct gmm__module_hooks {
	/* At the start of a pass: is there anything to check? */
	bool (*begin_pass)(struct gmm *gmm);
	/* A few milliseconds of the checks that are due for a VM, in the merge thread. True: there is more. */
	bool (*check_slice)(struct gmm_vm *vm, const struct gmm__merge *merge);
	/* The sharing service wants to know the modules of all VMs that it knows: tells it, in the merge thread. Returns how
	 * many records were not told whole. */
	uint32_t (*tell)(struct gmm *gmm, const struct gmm__backend *backend, uint32_t request);
	/* Pool pages of a domain have moved: goal tells where to, NIL for those that have not. References to both are held. */
	void (*moved)(struct gmm__domain *domain, gmm__page_id (*goal)(const void *moves, gmm__page_id page),
		      const void *moves);
	/* A VM whose RAM has ended is about to be freed; a domain that no VM is in; an instance without VMs. */
	void (*vm_end)(struct gmm_vm *vm);
	void (*domain_end)(struct gmm *gmm, struct gmm__domain *domain);
	void (*close)(struct gmm *gmm);
};

struct gmm__domain {
	struct gmm__domain *next;
	uint32_t vms;                 /* guarded by gmm.lock; the domain ends with its last VM */
	char name[GMM_NAME_MAX + 1];
	int node;                     /* NUMA node of all its VMs and its pool; -1: any. Domains of one name share nothing */
	struct gmm__pool pool;
	struct gmm__catalog *catalog; /* dedup/catalog.h */
	_Atomic uint64_t pages;       /* RAM of its VMs */
	_Atomic uint64_t paged_pages; /* private pages of its paged VMs when they were last looked at by the engine */
	struct gmm__chunk_set *common; /* chunks that paged VMs have in common, one set for each NUMA node; NULL: no paged VM yet */
	uint32_t remote_number;       /* at the sharing service; 0: not known yet. The engine's */
	_Atomic uint64_t module_bytes; /* of tables of its modules' pages (sharedmod/registry_pages.h) */
};

/* What an engine counts while it runs. */
struct gmm__engine_counts {
	uint64_t passes, cpu_ns, digested_pages, longest_freeze_ns, freezes[GMM_WAIT_BUCKETS];
	uint64_t late_freezes, thawed_freezes;
};

/* Consecutive pool pages on their way to another place. One reference to each page, old and new, is the mover's. */
struct gmm__move_row {
	gmm__page_id from;
	gmm__page_id to;     /* NIL: not moved */
	uint32_t count;
	uint32_t group;
	uint32_t offset;     /* in its group */
};

/* Where tidying up goes on; guarded by gmm.tidy_lock. */
struct gmm__tidy {
	struct gmm__domain *domain;   /* pages of which move while paged VMs are asked, with the lock given away; else NULL */
	const struct gmm__move_row *row;
	uint32_t n_rows;
	uint32_t vm;                  /* number of the VM looked at last */
	uint64_t gfn;                 /* where to go on in it; UINT64_MAX: it is done */
	uint32_t rounds;              /* over all VMs since something changed */
	uint64_t mappings;            /* when it did */
};

/* Where frozen pages are looked at: one freeze at a time is under way in a staging. */
enum { GMM__STAGINGS = 4 };
struct gmm__staging {
	struct gmm__lock lock;
	uint8_t *pages;
	uint32_t used;                /* pages at its start, whose frames are to be freed */
};

struct gmm {
	struct gmm__mem mem;
	int64_t process_id;
	struct gmm_options options;
	uint64_t max_mappings;
	int track_uffd;               /* asynchronous write-protect; MOVE */
	int freeze_uffd;              /* synchronous write-protect, for unsharing */
	int pagemap;
	int maps;                     /* to ask what is mapped; -1: not asked for, or the kernel cannot tell */
	struct gmm__chunk_table chunks;
	struct gmm__chunk_table remote_chunks; /* of the sharing service's pools, by its ids */
	struct gmm__remote *remote;   /* dedup/remote.h; NULL: catalog and pools are here */
	struct gmm__staging staging[GMM__STAGINGS]; /* freezes at once; a thread of the engine has its own */
	struct gmm__lock ram_lock;
	void *host_ranges;            /* host memory of all RAM slots, a tree of tsearch(3); guarded by ram_lock */
	struct gmm__lock tidy_turn;   /* whose turn it is to tidy up; held while VMs are asked */
	struct gmm__lock tidy_lock;   /* moving shared pages, which holds references outside of claims; snapshots have it too */
	struct gmm__tidy tidy;
	struct gmm__arbitration *arbitration; /* dedup/arbitrate.h; NULL while it does not run. Guarded by lock */
	_Atomic bool under_pressure;  /* of memory, as the arbitration says */
	bool unwitnessed;             /* a fork happened without memory for its witness; guarded by staging[0].lock */
	struct gmm__witness *witnesses; /* of forks whose child may still map pool pages; guarded by staging[0].lock */
	struct gmm *next_open;        /* list of open instances, for fork handlers */

	struct gmm__lock lock;        /* guards what follows */
	pthread_cond_t changed;       /* claims, snapshots, engine state */
	struct gmm_vm *vms;           /* highest priority first, older first */
	struct gmm_vm *last_vm[GMM_PRIORITY_HIGH + 1]; /* of each priority */
	struct gmm_vm *next_vm;       /* the first that no worker of the engine has taken in this pass; NULL: none is left */
	struct gmm__domain *domains;
	uint32_t n_vms;
	uint32_t next_vm_number;
	uint32_t claims;              /* VMs claimed now */
	_Atomic bool snapshot;        /* somebody reads all: no new claims, and calls on paged VMs wait */
	uint32_t snapshot_waiters;    /* who waits for its end: a snapshot of a resting engine does not wake it */
	struct gmm__engine *engine;   /* dedup/engine.h; NULL while it does not run */
	_Atomic uint32_t leave_waiters; /* threads that wait for the engine to leave a VM, or to end; read without the lock */
	_Atomic uint32_t settle_waiters; /* threads that wait for the engine to settle; it reads this without the lock */

	struct gmm__engine_counts ended; /* of engines that were stopped */

	/* Set with gmm.lock at the first registration of a module, and then for good: hooks after the registry. */
	struct gmm__registry *registry; /* sharedmod/registry.h */
	_Atomic(const struct gmm__module_hooks *) module_hooks;

	struct gmm__chunk_source source; /* memory of paged VMs */
	struct gmm__admission admission;
	struct gmm_vm **handles;      /* paged VMs by handle, GMM__HANDLES of them; changed with gmm.lock, read under RCU */
	uint32_t lowest_handle;       /* no lower one is unused; guarded by gmm.lock */
	uint32_t highest_handle;      /* no higher one was ever used; guarded by gmm.lock */
	struct gmm_page_counters ended_counters; /* of paged VMs that ended, since the reset; guarded by gmm.lock */

	_Atomic uint32_t ram_changes; /* how often RAM was added */
	_Atomic uint64_t mappings;    /* VMAs that sharing added, all VMs */
	_Atomic uint64_t promised;    /* that merges under way may add */
};

/* True if sharing may add so many VMAs to a VM: its own limit and that of the process. With the VM's claim; a hint
 * without. */
static inline bool gmm__vm_has_room(const struct gmm_vm *vm, uint64_t mappings)
{
	return vm->gmm->mappings + vm->gmm->promised + mappings <= vm->gmm->max_mappings &&
	       vm->stats.mappings + mappings <= vm->max_mappings;
}

/* Promises them, beside `before` promised already, so that several threads do not use the same room. The promise is taken
 * back (gmm.promised) once the mappings are counted or will not come. With the VM's claim. */
static inline bool gmm__vm_promise(struct gmm_vm *vm, uint64_t before, uint64_t mappings)
{
	struct gmm *gmm = vm->gmm;

	gmm->promised += mappings;
	if (gmm__vm_has_room(vm, 0) && vm->stats.mappings + before + mappings <= vm->max_mappings)
		return true;
	gmm->promised -= mappings;
	return false;
}

static inline const struct gmm__sys *gmm__sys_of(const struct gmm *gmm)
{
	return gmm->mem.sys;
}

/* Whether pages that are write-protected since before the call can be replaced though a pin of theirs
 * would not show: under GMM_REPAIR_ASK the embedder knows. Else the rules of gmm.h for callers must do. */
static inline bool gmm__pins_excluded(const struct gmm *gmm)
{
	return gmm->options.repair != GMM_REPAIR_ASK || gmm->options.may_repair(gmm->options.may_repair_arg);
}

void gmm__log(struct gmm *gmm, enum gmm_log_level level, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* Waits for gmm.changed until a time of the monotonic clock. With gmm.lock. False: the time has come. */
bool gmm__wait_until(struct gmm *gmm, uint64_t deadline_ns);

/* Waits until no VM is claimed, no call on a paged VM is under way and no shared pages are being moved (but for what waits
 * for answers of paged VMs: gmm.tidy), and keeps it so: one consistent view of all tables. */
void gmm__snapshot_begin(struct gmm *gmm);
/* Waits for the end of a snapshot under way. With gmm.lock. */
void gmm__snapshot_await(struct gmm *gmm);
void gmm__snapshot_end(struct gmm *gmm);

/* The accounting identities, recounted from page tables and records (INV-2, INV-3, INV-4). Inside a snapshot.
 * Returns NULL or the first broken rule. */
const char *gmm__accounts_validate(struct gmm *gmm);

/* Pages that only a set of moves under way refers to. Inside a snapshot. */
uint64_t gmm__accounts_on_the_way(struct gmm *gmm);

/* Completes the derived figures of a VM's statistics: private pages and references. */
void gmm__accounts_derive(struct gmm_vm_stats *stats);

#endif
