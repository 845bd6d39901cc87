/* gmm-dedup: let virtual machines on one host share every page they have in common.
 *
 * An instance (struct gmm) owns the pools of shared pages, one for each trust domain, and the engine that
 * scans guest memory, finds equal pages and replaces them by one copy. A VM (struct gmm_vm) belongs to one
 * trust domain and has any number of RAM slots. Guest RAM is ordinary private anonymous memory of this
 * process: the library creates it or adopts what the caller has. After that the guest runs as before: it
 * reads shared pages at full speed and the kernel gives it a copy of its own when it writes to one.
 *
 * Words: a guest address is a guest-physical address in bytes; gfn = guest address / 4096. Shared page: a
 * read-only page of the pool used by one or more gfns. Zero page: a page of zero bytes that was turned into a
 * hole. Broken page: a gfn that was shared and has been written since.
 *
 * Units: sizes and addresses are bytes and multiples of GMM_PAGE_SIZE unless the name ends in _pages.
 *
 * Threads: every function may be called from any thread at any time, with these exceptions: gmm_instance_close
 * and gmm_vm_destroy must be the last call on their object. Functions that change a mapping (discard,
 * unshare, pin, remove, destroy) wait until the engine has finished the batch it works on in that VM, at
 * most a few milliseconds. No function may be called from a signal handler or from the log callback. After
 * fork the child must not call the library on objects of its parent: GMM_ERR_WRONG_PROCESS. While such a child lives
 * with guest RAM mapped (see MADV_DONTFORK), the pool gives no memory back.
 *
 * Errors: functions return GMM_OK (0) or a negative status and then changed nothing, unless stated otherwise;
 * results go to pointers named ret_*, untouched on failure. The library never prints, exits or aborts.
 */
#ifndef GMM_GMM_H
#define GMM_GMM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define GMM_PAGE_SIZE 4096u
#define GMM_NAME_MAX 63u /* bytes of a VM's or trust domain's name, without the final 0 */

struct gmm;    /* an instance */
struct gmm_vm; /* a virtual machine of an instance */

/* ---- statuses ------------------------------------------------------------------------------------------- */

enum gmm_status {
	GMM_ALREADY_REGISTERED = 1, /* information: this very module was registered there (gmm/modules.h) */
	GMM_OK = 0,
	GMM_ERR_INVALID_PARAMETER = -1, /* NULL, unknown flag, empty range, name too long */
	GMM_ERR_NO_MEMORY = -2,         /* the host refused memory for our own tables, or for unsharing */
	GMM_ERR_WRONG_ORDER = -3,       /* e.g. starting a started engine, closing with VMs alive */
	GMM_ERR_WRONG_PROCESS = -4,     /* called in a fork of the process that opened the instance */
	GMM_ERR_NOT_FOUND = -5,         /* no RAM slot, pin or module there */
	GMM_ERR_TIMEOUT = -6,           /* the deadline passed first */
	GMM_ERR_UNSUPPORTED_KERNEL = -7, /* a kernel feature is missing; the log names it and its version */
	GMM_ERR_NO_PERMISSION = -8,     /* userfaultfd or pagemap may not be opened */
	GMM_ERR_SYSTEM = -9,            /* an unexpected failure of the kernel; the log has the errno */
	GMM_ERR_MISALIGNED = -10,       /* an address or size is not a multiple of GMM_PAGE_SIZE */
	GMM_ERR_OVERLAP = -11,          /* overlaps a RAM slot, in guest or host addresses */
	GMM_ERR_RAM_NOT_MAPPED = -12,   /* adopt: part of the range is not mapped */
	GMM_ERR_RAM_SHARED = -13,       /* adopt: MAP_SHARED memory (vhost-user, virtiofs): cannot be shared this way */
	GMM_ERR_RAM_FILE = -14,         /* adopt: a private mapping of a file */
	GMM_ERR_RAM_NOT_WRITABLE = -15, /* adopt: not mapped read and write */
	GMM_ERR_RAM_HUGETLB = -16,      /* adopt: hugetlbfs */
	GMM_ERR_RAM_LOCKED = -17,       /* adopt: mlock or mlockall */
	GMM_ERR_RAM_MERGEABLE = -18,    /* adopt: the kernel's KSM works on it (MADV_MERGEABLE) */
	GMM_ERR_RAM_WATCHED = -19,      /* adopt: another userfaultfd is registered (postcopy, snapshot) */
	GMM_ERR_RAM_SPECIAL = -20,      /* adopt: device memory, stack or another mapping that is not plain RAM */
	GMM_ERR_PINNED = -21,           /* pages that a device may write to cannot be made the caller's again */
	GMM_ERR_LIMIT = -22,            /* a limit of this library: VMs, pages, the mapping limit of the kernel */
	GMM_ERR_SWAP_UNSAFE = -23,      /* swap is on and this kernel's UFFDIO_MOVE is older than its swap fixes (6.16) */
	GMM_ERR_NO_SERVICE = -24,       /* nobody listens on the socket, or it speaks another version of the protocol */
	GMM_ERR_NO_DOMAIN = -25,        /* the service has no trust domain for this process: it may share with nobody */
	GMM_ERR_REFUSED = -26,          /* the service refused: not this user's to ask, or out of its limits */
	/* Of guest modules (gmm/modules.h). */
	GMM_ERR_ADDRESS_CLASH = -40,    /* another module is registered at that base */
	GMM_ERR_NAME_TOO_LONG = -41,
	GMM_ERR_VERSION_TOO_LONG = -42,
	GMM_ERR_TOO_MANY_REGIONS = -43,
	GMM_ERR_BAD_MODULE_SIZE = -44,
	GMM_ERR_BAD_REGIONS_SIZE = -45,
	GMM_ERR_TOO_MANY_PER_VM = -46,
	GMM_ERR_TOO_MANY_GLOBAL = -47,

	/* Of paged VMs, gmm/pages.h. */
	GMM_ERR_WRONG_KIND = -60,                   /* the call is for the other kind of VM: mapped or paged */
	GMM_ERR_MEMORY_RESERVATION_DECLINED = -61,  /* does not fit what may be promised, or is less than what is used */
	GMM_ERR_HIT_GLOBAL_LIMIT = -62,             /* the instance has no memory left to give, or not to this VM */
	GMM_ERR_HIT_VM_ACCOUNT_LIMIT = -63,         /* the VM has not reserved so much */
	GMM_ERR_PAGE_NOT_FOUND = -64,
	GMM_ERR_PAGE_NOT_PRIVATE = -65,
	GMM_ERR_PAGE_NOT_SHARED = -66,
	GMM_ERR_NOT_PAGE_OWNER = -67,               /* another VM's page, or one this VM has no reference to */
	GMM_ERR_PAGE_ALREADY_FREE = -68,
	GMM_ERR_PAGE_UNSHAREABLE = -69,
	GMM_ERR_ATTEMPT_TO_FREE_TOO_MUCH = -70,
	GMM_ERR_ATTEMPT_TO_DEFLATE_TOO_MUCH = -71,
	GMM_ERR_CHUNK_NOT_FOUND = -72,              /* no such chunk, or not for this VM */
	GMM_ERR_CHUNK_NOT_MAPPED = -73,
	GMM_ERR_TOO_MANY_CHUNK_MAPPINGS = -74,
};

/* The name ("GMM_ERR_OVERLAP") and a sentence. Never NULL; static storage. */
const char *gmm_status_name(int status);
const char *gmm_status_text(int status);

/* ---- instance ------------------------------------------------------------------------------------------- */

enum gmm_log_level { GMM_LOG_ERROR, GMM_LOG_WARNING, GMM_LOG_INFO, GMM_LOG_DEBUG };

/* Called from any thread, never while guest memory is frozen. Must not call the library. */
typedef void gmm_log_fn(void *arg, enum gmm_log_level level, const char *message);

/* What to do with shared pages that were written since (broken pages). */
enum gmm_repair {
	GMM_REPAIR_NEVER,    /* leave them alone: private until they are unshared or discarded */
	GMM_REPAIR_PROMISED, /* share them again where their bytes are equal again. The embedder promises that devices write to
	                      * guest RAM only where it is pinned with gmm_vm_pin: the kernel has no way to see a pin there */
	GMM_REPAIR_ASK,      /* the same, but instead of a promise gmm_options.may_repair is asked; and mappings
	                      * over adopted RAM that the library does not know of are left alone. From Linux 6.11 on; NEVER before */
};

/* Transparent huge pages in adopted RAM: their pages can be shared only after they are broken into small ones. */
enum gmm_huge_pages {
	GMM_HUGE_PRESERVE,   /* break one only if half of it would be saved, or a sixteenth while the host is short of memory */
	GMM_HUGE_ALWAYS,     /* break all */
	GMM_HUGE_NEVER,      /* break none; their pages are not shared */
};

enum gmm_event {
	GMM_EVENT_SETTLED,   /* nothing more is left to share in memory that is quiet */
	GMM_EVENT_UNSETTLED, /* there is work again: guests wrote, or RAM came */
};

/* Called by the engine's thread at the end of a pass, holding nothing; not called for a change that was undone before.
 * Must not call the library. */
typedef void gmm_event_fn(void *arg, enum gmm_event event);

enum { GMM_AGENT_THREADS_MAX = 64 };

struct gmm_options {
	size_t struct_size;           /* set by gmm_options_init; a caller built for another version is refused */
	gmm_log_fn *log;              /* NULL: silent */
	void *log_arg;
	uint64_t max_mappings;        /* VMAs that sharing may add to the process; 0: half of vm.max_map_count */
	uint32_t window_ms;           /* a page must be unwritten this long to be a candidate; 0: none. Default 2000. Up to eight
	                               * times as long while many shared pages are written soon after; a quarter of it for memory
	                               * that is new, and down to an eighth while pages come to be shared and passes are cheap.
	                               * A page that was written again for some seconds is left alone for about as long, up to 16 s */
	uint32_t pass_interval_ms;    /* time between two passes once settled; four times that when nothing has been found for
	                               * long; more, up to 8 s, where passes that share nothing would take more than one part in 16
	                               * of the time. Default 2000 */
	uint32_t cpu_percent;         /* of one core, for all threads of the engine together; 0: no limit. Default 20 */
	uint32_t wait_bound_us;       /* a guest access is to wait no longer because of us: sets how many pages are frozen
	                               * at once (INV-7). 20 to 100000. Default 200 */
	enum gmm_repair repair;       /* Default never */
	/* For GMM_REPAIR_ASK. True: no device is writing to guest RAM now, except where it is pinned with gmm_vm_pin. A
	 * transfer that begins later is no matter. Asked before pages are looked at and again while they are write-protected,
	 * by the engine and inside calls that make pages private; these answer GMM_ERR_PINNED where it is false. It must not
	 * touch guest RAM, allocate, log, call the library or take a lock that a thread holds that does so. */
	bool (*may_repair)(void *arg);
	void *may_repair_arg;
	const char *socket;           /* of a sharing service (gmm-dedup serve), which shares among the VMs of all its clients in
	                               * a trust domain; copied. NULL: share among the VMs of this instance. Default NULL */
	enum gmm_huge_pages huge_pages; /* Default preserve */
	gmm_event_fn *event;          /* NULL: none */
	void *event_arg;
	uint32_t pages_per_second;    /* pages whose bytes are looked at to find equal ones; 0: no limit. Default 0 */
	uint32_t agent_threads;       /* VMs that the engine works on at once, each with a scan and a merge thread; never more than
	                               * there are. Up to GMM_AGENT_THREADS_MAX; 0: one. With a socket, or paged VMs, it is one.
	                               * Default 0 */
	bool only_under_pressure;     /* the engine makes passes only while gmm_pressure_start finds memory pressure, and rests
	                               * otherwise: nothing is scanned on a host with memory to spare. Default false */
	bool own_descriptors;         /* the instance's descriptors are in a table that only its threads have: for programs that
	                               * may close descriptors which they have not opened. What is closed in the program, by
	                               * whatever call, does not meet them, and a forked child does not get them. Calls that need
	                               * one wait for one more thread to make it, about 10 us. Default false: the program closes no
	                               * descriptor that it does not know, or guests may lose memory */
	bool pool_per_node;           /* Each trust domain has a pool of shared pages on each NUMA node, for the VMs of that node:
	                               * no guest reads over the interconnect what is shared, and equal pages of VMs on different
	                               * nodes stay apart. Not with a socket (_INVALID_PARAMETER). Default false */
};

/* Fills in the defaults. */
void gmm_options_init(struct gmm_options *options);

/* Opens an instance. options NULL: the defaults. Needs Linux 6.8 and the right to use userfaultfd. A fork of a process
 * that has an instance may open one of its own.
 * GMM_ERR_UNSUPPORTED_KERNEL, _NO_PERMISSION, _SWAP_UNSAFE, _NO_MEMORY, _INVALID_PARAMETER, _SYSTEM; with a socket
 * _NO_SERVICE, _REFUSED. */
int gmm_instance_open(const struct gmm_options *options, struct gmm **ret_gmm);

/* Stops the engine and gives everything back. GMM_ERR_WRONG_ORDER while a VM is alive. */
int gmm_instance_close(struct gmm *gmm);

/* ---- virtual machines ----------------------------------------------------------------------------------- */

enum gmm_priority { GMM_PRIORITY_LOW, GMM_PRIORITY_NORMAL, GMM_PRIORITY_HIGH };

/* Who translates guest addresses. */
enum gmm_vm_kind {
	GMM_VM_MAPPED, /* the kernel: guest RAM is memory of this process, in RAM slots */
	GMM_VM_PAGED,  /* the VMM, by its own table of page ids: gmm/pages.h */
};

struct gmm_vm_options {
	size_t struct_size;           /* set by gmm_vm_options_init */
	const char *name;             /* for people; need not be unique; copied; NULL: "vm" and a number */
	const char *domain;           /* trust domain: pages are shared inside it, never across; copied; NULL: "default" */
	enum gmm_priority priority;   /* scanned sooner when higher. Default normal */
	enum gmm_vm_kind kind;        /* Default mapped */
	int numa_node;                /* that the memory of a paged VM is to be on, and with gmm_options.pool_per_node the node
	                               * whose VMs any VM shares with; -1: that of the thread that creates it. Mapped RAM keeps the
	                               * policy that it has. Default -1 */
	uint64_t max_mappings;        /* VMAs that sharing may add for this VM, the longest runs first; 0: no limit but that of
	                               * the instance */
};

void gmm_vm_options_init(struct gmm_vm_options *options);

/* A VM without RAM (mapped) or without pages (paged). options NULL: the defaults. GMM_ERR_INVALID_PARAMETER, _NO_MEMORY, _LIMIT. */
int gmm_vm_create(struct gmm *gmm, const struct gmm_vm_options *options, struct gmm_vm **ret_vm);

/* What becomes of adopted RAM. Library-created RAM is always unmapped. */
enum gmm_ram_end {
	GMM_RAM_KEEP,    /* every page becomes private memory of the caller, bytes kept */
	GMM_RAM_DISCARD, /* the range becomes fresh zero memory: cheap */
};

/* Ends a VM. With GMM_RAM_KEEP it either succeeds or fails and the VM lives on with its bytes kept: _NO_MEMORY,
 * _LIMIT (the mapping limit), _PINNED (the process has pinned memory and pages of this VM were written since
 * they were shared: a device might write to a page that we would replace). With GMM_RAM_KEEP no direct I/O may
 * be in flight into RAM that is not pinned with gmm_vm_pin. */
int gmm_vm_destroy(struct gmm_vm *vm, enum gmm_ram_end end);

/* Makes a VM that starts with all pages of the source, of its domain and priority; its RAM is created by the library, at the
 * same guest addresses. The caller has stopped the source's vCPUs for the call. Both use the same memory afterwards: private
 * pages of the source become shared; pages that are pinned or cannot be moved (huge ones, and those written since they
 * were shared) are copied. Pins and set_unshareable of the source are not those of the clone; RAM that somebody mapped over
 * is not cloned. name may be NULL. On failure there is no clone, and the source has its bytes: _NO_MEMORY, _LIMIT, _SYSTEM;
 * _INVALID_PARAMETER with a sharing service; _WRONG_KIND: a paged VM, see gmm_vm_clone_pages. */
int gmm_vm_clone(struct gmm_vm *source, const char *name, struct gmm_vm **ret_vm);

/* ---- RAM slots ------------------------------------------------------------------------------------------ */

/* Creates RAM: zero, private, anonymous, 2 MiB aligned, without transparent huge pages. *ret_addr is its
 * host address, valid until the slot is removed. _MISALIGNED, _OVERLAP, _NO_MEMORY, _LIMIT. */
int gmm_vm_create_ram(struct gmm_vm *vm, uint64_t guest_addr, uint64_t size, void **ret_addr);

/* Takes RAM that the caller has mapped: private, anonymous, readable and writable. It must stay mapped, and
 * the caller must not remap, protect, lock or discard it except through this library, until the slot is removed.
 * Its MADV_DONTFORK, MADV_DONTDUMP and memory policy are kept; transparent huge pages in it are treated as
 * gmm_options.huge_pages says.
 * Refused with the GMM_ERR_RAM_* that fits, _MISALIGNED, _OVERLAP, _NO_MEMORY, _LIMIT. */
int gmm_vm_adopt_ram(struct gmm_vm *vm, uint64_t guest_addr, void *addr, uint64_t size);

/* Where a byte of the guest's RAM lies in this process, as long as its slot is there. _NOT_FOUND. */
int gmm_vm_address(struct gmm_vm *vm, uint64_t guest_addr, void **ret_addr);

/* Removes the slot that starts at guest_addr; as gmm_vm_destroy does for all. _NOT_FOUND and its errors. */
int gmm_vm_remove_ram(struct gmm_vm *vm, uint64_t guest_addr, enum gmm_ram_end end);

/* The following take any range that lies in RAM slots, also across slots that touch; else _NOT_FOUND. */

/* unshareable true: pages of the range are never shared; those that are become private. False: lifted. */
int gmm_vm_set_unshareable(struct gmm_vm *vm, uint64_t guest_addr, uint64_t size, bool unshareable);

/* For both: pages that were written since they were shared are private already; while the process has pinned memory they
 * stay where they are. */

/* Promise that a device may write to the range (O_DIRECT, io_uring, VFIO): its pages become private and stay
 * where they are until unpinned. Call it before the device gets the address. Pins nest; unpin takes exactly a
 * range that was pinned (else _NOT_FOUND). Pages that the kernel knows as pinned are left alone without this. */
int gmm_vm_pin(struct gmm_vm *vm, uint64_t guest_addr, uint64_t size);
int gmm_vm_unpin(struct gmm_vm *vm, uint64_t guest_addr, uint64_t size);

/* The balloon's and reset's primitive: the range becomes a hole that reads zero, its memory goes back.
 * Use this, not MADV_DONTNEED, which would show pool pages again. _PINNED if part of it is pinned. */
int gmm_vm_discard(struct gmm_vm *vm, uint64_t guest_addr, uint64_t size);

/* Makes every page of the range private, bytes kept; huge pages that were broken are made whole again where all of it is
 * in the range or private, for at most a quarter of a second (KEEP does so, too). They are candidates again at the next pass unless the
 * engine is paused or the range unshareable. Same errors and rule for direct I/O as gmm_vm_destroy. */
int gmm_vm_unshare(struct gmm_vm *vm, uint64_t guest_addr, uint64_t size);

/* ---- the engine ----------------------------------------------------------------------------------------- */

/* Starts scanning and sharing, or goes on after pause. _WRONG_ORDER when it runs; _NO_MEMORY, _SYSTEM. */
int gmm_engine_start(struct gmm *gmm);

/* Returns when the engine rests; what is shared stays shared. _WRONG_ORDER unless it runs. */
int gmm_engine_pause(struct gmm *gmm);

/* Ends the engine's threads; what is shared stays shared. OK when it does not run. */
int gmm_engine_stop(struct gmm *gmm);

/* Waits until a full pass found nothing more to share in memory that was quiet: the engine has settled. Regions of memory
 * that never shared anything are visited seldom; while somebody waits here all of them are, at every pass. The pass begins
 * after the call, so that it sees what was written before; where a wait timed out, the next one goes on with it.
 * timeout_ms < 0: no deadline. _TIMEOUT; _WRONG_ORDER if the engine does not run (or stops meanwhile). */
int gmm_engine_wait_settled(struct gmm *gmm, int64_t timeout_ms);

/* As gmm_engine_wait_settled, but until then the engine may use cpu_percent of one core (0: no limit) whatever the
 * options say: "settle within 60 s using at most half a core" is gmm_engine_settle(gmm, 60000, 50). */
int gmm_engine_settle(struct gmm *gmm, int64_t timeout_ms, uint32_t cpu_percent);

/* Tidies up the pools: guests' neighbouring pages that were shared at different times become one run where that saves
 * mappings, and pages of sparse chunks move together, so that emptied chunks can be given back. Guests may run; an access
 * waits no longer than the bound. The engine does the same bit by bit when there is little to share. *ret_chunks (may be
 * NULL): chunks given back. _NO_MEMORY and nothing was done, or GMM_OK. */
int gmm_instance_compact(struct gmm *gmm, uint64_t *ret_chunks);

/* ---- statistics ----------------------------------------------------------------------------------------- */

/* Every page of a VM's RAM is in exactly one state; the text says why it is not shared. */
enum gmm_page_state {
	GMM_PAGE_ABSENT,      /* never touched, or discarded */
	GMM_PAGE_SWAPPED,     /* in swap; left there */
	GMM_PAGE_ZERO,        /* was all zero bytes, is a hole now */
	GMM_PAGE_FILL,        /* shared; repeats one 8-byte word */
	GMM_PAGE_SHARED,      /* shared; any other content */
	GMM_PAGE_UNIQUE,      /* no equal page found in the domain */
	GMM_PAGE_VOLATILE,    /* written within the last window, or not looked at yet */
	GMM_PAGE_NOMINATED,   /* has an equal page; waits for its merge */
	GMM_PAGE_BROKEN,      /* was shared, written since */
	GMM_PAGE_PINNED,      /* the kernel refused to move it: pinned by a device, or still shared with a fork;
	                       * or pinned by gmm_vm_pin */
	GMM_PAGE_HUGE,        /* part of a transparent huge page, left whole: see gmm_options.huge_pages */
	GMM_PAGE_UNSHAREABLE, /* declared so */
	GMM_PAGE_BUDGET,      /* has an equal page, but its run is too short for the mapping budget */
	GMM_PAGE_RACED,       /* differed when it was compared, or looks like pages that differ: looked at again in the next pass */
	GMM_PAGE_FOREIGN,     /* the mapping is no longer ours: something else was mapped there */
	GMM_PAGE_BALLOONED,   /* the guest has given it back: see gmm/balloon.h */
	GMM_PAGE_STATES
};

/* "absent", "zero", ... Never NULL; static storage. */
const char *gmm_page_state_name(enum gmm_page_state state);

struct gmm_vm_stats {
	uint64_t pages;                         /* guest pages of all slots */
	uint64_t state_pages[GMM_PAGE_STATES];  /* they add up to pages */
	uint64_t private_pages;                 /* pages with memory of their own */
	uint64_t references;                    /* gfns that use a shared page: FILL + SHARED */
	uint64_t mappings;                      /* VMAs that sharing added, as counted by the engine */
	uint64_t runs;                          /* runs: consecutive gfns that use consecutive shared pages */
	uint64_t cow_breaks;                    /* shared pages found written, since the VM was created */
	uint64_t repairs;                       /* broken pages that were shared again, or made plain private memory again */
	uint64_t rehomes;                       /* pages moved to another shared page with the same bytes */
	uint64_t zero_breaks;                   /* zero pages found written */
	uint64_t merges;                        /* pages made shared or zero, since the VM was created */
	uint64_t raced;                         /* merges given up because the bytes differed */
	uint64_t refused_pinned;                /* merges refused by the kernel: pinned or not exclusive */
	int64_t profit_bytes;                   /* memory given back, net: zero and saved pages less the VM's part of our tables
	                                         * and of the kernel's memory for mappings and page tables. Where it stays below
	                                         * -1 MiB the engine leaves the VM alone for a while (docs/architecture.md) */
	uint64_t huge_seen;                     /* huge pages met, since the VM was created */
	uint64_t huge_broken;                   /* of these broken to be shared */
	uint64_t huge_refused;                  /* attempts at that which the kernel refused: pinned or common with a fork */
	uint64_t huge_collapsed;                /* made huge pages again when they were unshared or kept */
};

/* Freezes by their length: bucket k counts those of 2^k to 2^(k+1) - 1 microseconds, bucket 0 shorter ones too, the last
 * one all longer ones. No guest access waited longer for us than the freeze it met. */
#define GMM_WAIT_BUCKETS 20

struct gmm_stats {
	uint64_t vms;
	struct gmm_vm_stats total;              /* the sum over VMs */
	uint64_t allocated_pages;               /* private pages of all VMs + pool_pages */
	uint64_t pool_pages;                    /* shared pages in use */
	uint64_t pool_chunks;                   /* chunks of 2 MiB that hold them; what is not in use has no memory */
	uint64_t saved_pages;                   /* references - pool_pages */
	uint64_t metadata_bytes;                /* our own tables now */
	uint64_t metadata_peak_bytes;           /* and at their largest */
	uint64_t kernel_overhead_bytes;         /* estimate: VMAs and page tables that sharing added */
	int64_t profit_bytes;                   /* memory given back, net: zero and saved pages - metadata - overhead */
	uint64_t passes;                        /* full passes since the instance was opened */
	uint64_t cpu_ns;                        /* CPU time of the engine's threads, user and system */
	uint64_t digested_pages;                /* pages read by the digest stage */
	uint64_t freezes[GMM_WAIT_BUCKETS];
	uint64_t longest_freeze_ns;
	uint64_t late_freezes;                  /* that the watchdog found to be longer than 100 wait bounds and 20 ms; it */
	uint64_t thawed_freezes;                /* gave back the pages of these, unmerged. The others it only logged */
	uint64_t settle_estimate_ms;            /* until the engine has settled if guests write nothing meanwhile: a guess from the
	                                         * work it knows of, its speed until now and its CPU limit. 0: settled, or not
	                                         * running */
	bool running;
	bool settled;
};

/* Why are pages not shared? The states of the pages of a range, which must lie in RAM slots (_NOT_FOUND). */
int gmm_vm_why(struct gmm_vm *vm, uint64_t guest_addr, uint64_t size, uint64_t ret_state_pages[GMM_PAGE_STATES]);

/* One consistent snapshot. */
int gmm_instance_stats(struct gmm *gmm, struct gmm_stats *ret_stats);
int gmm_vm_stats(struct gmm_vm *vm, struct gmm_vm_stats *ret_stats);

/* Recounts everything from the page tables and checks the accounting identities (INV-2, INV-3, INV-4, INV-6). GMM_OK, or
 * _SYSTEM with the first broken identity in the log. The engine waits meanwhile. */
int gmm_instance_validate(struct gmm *gmm);

#ifdef __cplusplus
}
#endif

#endif
