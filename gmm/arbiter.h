/* Arbitration under memory pressure: what to do now, as a function of plain values. It reads no clock and no file and calls
 * nobody; dedup/arbitrate.c does what it says.
 *
 *   CALM        nothing
 *   SCANNING    the engine may use GMM__ARBITER_CPU times its share: sharing costs no guest anything
 *   BALLOONING  and VMs are asked for pages, those of low priority first, a step at a time
 *   RELEASING   the pressure is over: VMs get their pages back, those of high priority first
 *
 * It must not swing. Stalls are smoothed; pressure begins at GMM__STALL_HIGH and is over below GMM__STALL_LOW, and between
 * the two nothing changes; pages are given back only after `hold_ms` of calm, in small steps, and that time doubles each
 * time when giving back brought the pressure back, until it has been calm for long.
 */
#ifndef GMM_ARBITER_H
#define GMM_ARBITER_H

#include <gmm/gmm.h>

enum {
	GMM__STALL_HIGH = 50,         /* thousandths of the time in which tasks wait for memory */
	GMM__STALL_LOW = 10,
	GMM__STALL_URGENT = 200,      /* balloons at once */
	GMM__SCAN_FIRST_MS = 10000,   /* so long more scanning has to do */
	GMM__HOLD_MIN_MS = 30000,
	GMM__HOLD_MAX_MS = 480000,
	GMM__ARBITER_CPU = 4,         /* times the engine's share of a core */
	GMM__ASK_PART = 64,           /* a step asks for this part of all RAM */
	GMM__RELEASE_PART = 16,       /* a step gives back this part of what was asked for at most */
	GMM__STEP_MIN_PAGES = 256,
	GMM__STALLED_STEPS = 10,      /* a VM that gave nothing for so long is not asked for more */
};

enum gmm__arbiter_phase { GMM__CALM, GMM__SCANNING, GMM__BALLOONING, GMM__RELEASING };

/* Begins all zero. */
struct gmm__arbiter {
	enum gmm__arbiter_phase phase;
	uint32_t stall;       /* smoothed, thousandths */
	uint64_t since_ms;    /* when the phase began */
	uint64_t calm_ms;     /* since when it is calm; 0: it is not */
	uint64_t hold_ms;
	uint64_t most;        /* pages asked for when releasing began */
};

struct gmm__arbiter_vm {
	enum gmm_priority priority;
	uint64_t pages;       /* of RAM */
	uint64_t given;       /* in its balloon now */
	uint64_t maximum;     /* never asked for more; 0: has no balloon */
	/* Kept by the caller from step to step. */
	uint64_t requested;   /* in its balloon when it has followed */
	uint64_t last_given;
	uint32_t idle_steps;  /* for which it gave nothing though asked */
};

struct gmm__arbiter_input {
	uint64_t now_ms;          /* not 0 */
	uint32_t stall_permille;  /* since the step before, the worst of all sources */
	uint64_t allocated_pages; /* memory that all VMs use */
	uint64_t max_pages;       /* may use; 0: no such limit. Above it is pressure, whatever the stalls */
};

/* One step, about once a second. VMs' `requested` change; returns the phase. */
enum gmm__arbiter_phase gmm__arbiter_step(struct gmm__arbiter *arbiter, const struct gmm__arbiter_input *input,
					  struct gmm__arbiter_vm *vms, uint32_t n);

/* The engine's share of a core in a phase; 0 (no limit) stays 0. */
uint32_t gmm__arbiter_cpu_percent(enum gmm__arbiter_phase phase, uint32_t percent);

#endif
