/* Balloons and memory pressure: taking pages back from guests, and letting the library say when.
 *
 * A ballooned page is a guest page that the guest has promised not to use: it has no memory, and no shared page shows
 * through. The VMM's balloon device tells the library of each page, as often as the guest does: a page that is told twice
 * counts once. A guest that uses a ballooned page all the same finds a zero page there, and it is no longer ballooned at
 * the engine's next look.
 *
 * Arbitration watches the kernel's pressure files and asks for pages when the host runs short: first the engine gets four
 * times its share of a core, since sharing costs no guest anything; then VMs are asked for pages, those of low priority
 * first; when the pressure has been over for a while they get them back, those of high priority first.
 * docs/pressure.md has the policy.
 *
 * Threads and errors are as in gmm.h.
 */
#ifndef GMM_BALLOON_H
#define GMM_BALLOON_H

#include <gmm/gmm.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- a VM's balloon ---------------------------------------------------------------------------------------- */

/* The pages of the range are ballooned from now on: their memory goes back to the host. The range must lie in RAM slots
 * (_NOT_FOUND). _PINNED, and nothing was done, if part of it is pinned; _LIMIT and _SYSTEM, and pages before the one that
 * failed are ballooned. *ret_pages (may be NULL): pages that were not ballooned before. */
int gmm_vm_balloon_inflate(struct gmm_vm *vm, uint64_t guest_addr, uint64_t size, uint64_t *ret_pages);

/* The guest uses the pages of the range again: they read zero. *ret_pages (may be NULL): pages that were ballooned. */
int gmm_vm_balloon_deflate(struct gmm_vm *vm, uint64_t guest_addr, uint64_t size, uint64_t *ret_pages);

/* The guest was reset: no page is ballooned, and nothing is asked of it until the next step of the arbitration. */
int gmm_vm_balloon_reset(struct gmm_vm *vm);

/* Tells the VMM how many pages the guest's balloon should hold in all: more or fewer than now. Called from a thread of the
 * library that holds nothing; may call the library, but must not destroy the VM, nor end the arbitration. */
typedef void gmm_balloon_fn(void *arg, struct gmm_vm *vm, uint64_t pages);

/* From now on the arbitration may ask for up to max_pages (at most the VM's RAM at that time; of a paged VM, what it reserved of
 * account BASE) through fn. A paged VM tells what it gave with gmm_vm_balloon_pages. NULL, or 0 pages:
 * no longer; what is ballooned stays. A call of the old fn may still be under way when this returns. */
int gmm_vm_set_balloon(struct gmm_vm *vm, uint64_t max_pages, gmm_balloon_fn *fn, void *arg);

struct gmm_balloon_stats {
	uint64_t requested_pages;  /* the guest's balloon should hold */
	uint64_t given_pages;      /* it holds: pages in state GMM_PAGE_BALLOONED */
	uint64_t to_deflate_pages; /* of them, more than requested: the guest may take them back */
	uint64_t max_pages;        /* of gmm_vm_set_balloon */
};

int gmm_vm_balloon_stats(struct gmm_vm *vm, struct gmm_balloon_stats *ret_stats);

/* ---- arbitration ------------------------------------------------------------------------------------------- */

struct gmm_pressure_options {
	size_t struct_size;        /* set by gmm_pressure_options_init */
	const char *host_path;     /* a PSI file; copied. Default /proc/pressure/memory */
	const char *cgroup_path;   /* another; copied. Default NULL: that of the process's cgroup, if there is one */
	uint32_t interval_ms;      /* between two steps under pressure. 10 to 60000, default 1000 */
	uint64_t max_bytes;        /* what all VMs may use (gmm_stats.allocated_pages): above it is pressure. 0: no limit */
};

void gmm_pressure_options_init(struct gmm_pressure_options *options);

/* Starts the arbitration. options NULL: the defaults. _WRONG_ORDER if it runs; _NO_MEMORY, _INVALID_PARAMETER; _NOT_FOUND:
 * there is neither a pressure file to read nor a max_bytes. */
int gmm_pressure_start(struct gmm *gmm, const struct gmm_pressure_options *options);

/* Ends it: the engine has its own share of a core again; what was asked of VMs stays. OK when it does not run. Closing the
 * instance ends it too. */
int gmm_pressure_stop(struct gmm *gmm);

enum gmm_pressure_phase {
	GMM_PRESSURE_CALM,
	GMM_PRESSURE_SCANNING,   /* more scanning */
	GMM_PRESSURE_BALLOONING, /* and balloons */
	GMM_PRESSURE_RELEASING,  /* over: pages are given back */
};

struct gmm_pressure_stats {
	bool running;
	enum gmm_pressure_phase phase;
	uint32_t stall_permille;   /* smoothed: thousandths of the time in which tasks waited for memory */
	uint64_t steps;
	uint64_t triggers;         /* times the kernel woke us */
	uint64_t requested_pages;  /* of all VMs, as given_pages */
	uint64_t given_pages;
};

int gmm_pressure_stats(struct gmm *gmm, struct gmm_pressure_stats *ret_stats);

#ifdef __cplusplus
}
#endif

#endif
