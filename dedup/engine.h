/* The engine: puts the stages in order, with one worker or several (dedup/worker.h).
 *
 * A pass goes over all VMs. The scan thread of worker 0 leads it: it plans the pass, lets the other workers join, works
 * like them, waits for them and concludes. Each takes one VM after the other from the list, so that a VM has one worker
 * at a time. Errands, and all that asks a sharing service, are worker 0's.
 *
 * dedup/pass.c is the scan threads' part, dedup/process.c the merge threads', and dedup/pace.c says how much effort a pass
 * makes and when the next one begins.
 *
 * A VM that the engine visits is not freed: whoever destroys it, or removes a slot, waits for the visit to end, which
 * is at the end of the region.
 */
#ifndef DEDUP_ENGINE_H
#define DEDUP_ENGINE_H

#include "dedup/budget.h"
#include "dedup/effort.h"
#include "dedup/huge.h"
#include "dedup/worker.h"

struct gmm__engine {
	struct gmm *gmm;
	const struct gmm__backend *backend;

	/* Guarded by gmm.lock, signalled by gmm.changed. What is atomic is also looked at without the lock. */
	_Atomic bool stopping;
	_Atomic bool pausing;
	uint32_t callers;          /* threads that are about to hand over an errand, or wait for one */
	bool disturbed;            /* new RAM came during this pass */
	_Atomic bool hurry;        /* the next pass need not wait for more than the window */
	bool resting;              /* no worker is in a pass */
	_Atomic bool settled;
	_Atomic uint64_t passes;
	uint64_t settled_whole;    /* the last pass that visited all regions and found the engine settled */
	_Atomic uint64_t awaited;  /* the pass that somebody who waits for that needs; 0: none. Read without the lock */
	uint64_t digested_pages;
	_Atomic uint32_t cpu_percent; /* limit in force, for all threads together */

	/* The pass under way; guarded by gmm.lock, signalled by pass_changed. */
	pthread_cond_t pass_changed;
	uint64_t begun;            /* passes that workers may join */
	uint32_t invited;          /* workers from number 1 on that are to join this one */
	uint32_t scanning;         /* of these, not done yet */

	/* The watchdog looks at the guards of all workers. A lock of its own (a leaf) that no thread of idle priority takes. */
	struct gmm__lock watch_lock;
	pthread_cond_t watch_changed; /* wakes the watchdog, which sleeps while no merge thread has work */
	uintptr_t watchdog_thread;
	uint32_t working;          /* merge threads at a job or an errand */
	bool watchdog_sleeps;
	bool watchdog_stopping;

	/* A leaf: only scan threads take it. */
	struct gmm__lock budget_lock;
	struct gmm__budget budget;
	struct gmm__budget page_budget; /* of pages a second */

	/* Worker 0's scan thread's, and its merge thread's while a job is ready; constant while workers are in a pass. */
	bool told_settled;              /* the embedder knows */
	bool full;                      /* this pass visits all regions */
	struct gmm__effort_limits effort_limits; /* of this pass */
	uint64_t begun_ns;              /* when this pass began */
	struct gmm__progress progress;  /* of the last pass, all workers' */
	bool follows_up;                /* only what waits for its merge is visited */
	uint32_t min_run;               /* shortest run merged in this pass in any VM */
	bool retry_budget;              /* pages refused for the budget are tried again */
	uint32_t cover_interval;        /* passes between two looks for written shared pages; follows what they yield */
	uint32_t next_cover;            /* the pass of the next look */
	_Atomic uint32_t window_shift;  /* the window is 2^this times that of the options */
	_Atomic uint64_t lately_merged;
	uint64_t lately_broken;
	_Atomic uint64_t pass_cpu_ns;   /* of the last pass, and of what was done since the one before */
	uint64_t cpu_ns_before;         /* of all until the last pass */
	uint64_t rested_ms;             /* before this pass */
	uint64_t tidy_cpu_ns;           /* of the last time that shared pages were tidied up, and what there is for the next */
	uint64_t tidy_due_ns;
	_Atomic uint64_t nominated;     /* pages that waited for their merge when the last pass ended */
	struct gmm__huge_pace huge;
	_Atomic uint32_t quiet_passes;  /* passes in a row with next to nothing done */
	struct gmm__heat_clock heat_clock; /* of this pass */
	_Atomic uint32_t barren_passes; /* passes in a row that shared next to nothing, up to some number */

	uint32_t workers;
	struct gmm__worker worker[];
};

static inline size_t gmm__engine_bytes(uint32_t workers)
{
	return sizeof(struct gmm__engine) + workers * sizeof(struct gmm__worker);
}

/* Fills zeroed memory of that size with the defaults, for workers without threads. */
void gmm__engine_init(struct gmm__engine *engine, struct gmm *gmm, const struct gmm__backend *backend, uint32_t workers);
void gmm__engine_destroy(struct gmm__engine *engine);

/* Starts the threads. 0 or a gmm_status. backend: gmm__backend_mapped() but in tests. */
int gmm__engine_start(struct gmm *gmm, const struct gmm__backend *backend);
void gmm__engine_stop(struct gmm *gmm);

/* Scan threads have to leave what they do, at the next page they like. */
bool gmm__engine_must_leave(const struct gmm__engine *engine);

/* Around the work of a merge thread: the watchdog looks meanwhile. */
void gmm__engine_watch(struct gmm__engine *engine);
void gmm__engine_unwatch(struct gmm__engine *engine);

/* CPU time of all workers. */
uint64_t gmm__engine_cpu_ns(const struct gmm__engine *engine);

/* Adds what the engine and its workers have counted. With gmm.lock. */
void gmm__engine_count(const struct gmm__engine *engine, struct gmm__engine_counts *counts);

/* One pass over all VMs by the calling thread, and by the other workers where they have threads (dedup/pass.c). With the
 * engine's threads not running (tests) it merges, too. */
void gmm__engine_pass(struct gmm__engine *engine);

/* Right after a pass: merges what it has found, which need not wait for the next one. Nothing else is looked at. */
void gmm__engine_follow_up(struct gmm__engine *engine);

/* The part of a worker other than the first: joins passes until the engine stops. */
void gmm__engine_join_passes(struct gmm__worker *worker);

/* What the engine knows of new RAM: it is not settled any more. */
void gmm__engine_disturb(struct gmm *gmm);

/* Waits until the engine does not visit the VM. The VM or slot is marked dead, so that it leaves soon. */
void gmm__engine_wait_left(struct gmm_vm *vm);

#endif
