/* The engine: puts the stages in order.
 *
 *   scan thread (SCHED_IDLE)    scan → digest, a region at a time; holds no lock and no claim; then waits for
 *   merge thread (normal)       index → account → plan → merge (freeze → verify → share → thaw → account)
 *
 * A thread of low priority that held frozen pages, a claim or a lock would make guests wait on a busy host. Both
 * threads block all signals: they must never take one meant for the VMM.
 *
 * dedup/pass.c is the scan thread's part, dedup/process.c the merge thread's, and dedup/pace.c says how much effort a pass
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
#include "dedup/merge.h"
#include "dedup/paged_scan.h"
#include "dedup/scan.h"

struct gmm__engine;

/* What the scan thread hands to the merge thread. */
struct gmm__job {
	void (*work)(struct gmm__engine *engine); /* what is to be done with it */
	struct gmm_vm *vm;                        /* of gmm__remote_visit */
	struct gmm__region region;
	struct gmm__scan_options options;         /* of the visit */
	struct gmm__finding finding[GMM__REGION_PAGES];
};

struct gmm__errand;

struct gmm__engine {
	struct gmm *gmm;
	const struct gmm__backend *backend;
	uintptr_t scan_thread;
	uintptr_t merge_thread;

	/* Guarded by gmm.lock, signalled by gmm.changed. */
	_Atomic bool stopping;
	_Atomic bool pausing;
	uint32_t callers;          /* threads that are about to hand over an errand, or wait for one */
	bool disturbed;            /* new RAM came during this pass */
	bool hurry;                /* the next pass need not wait for more than the window */
	bool resting;              /* the scan thread is between passes */
	bool settled;
	uint64_t passes;
	uint64_t settled_whole;    /* the last pass that visited all regions and found the engine settled */
	_Atomic uint64_t awaited;  /* the pass that somebody who waits for that needs; 0: none. Read without the lock */
	uint64_t digested_pages;
	_Atomic uint64_t cpu_ns[2]; /* of the scan and the merge thread */
	_Atomic uint32_t cpu_percent; /* limit in force */
	struct gmm__waits waits;
	struct gmm__guard guard;
	uintptr_t watchdog_thread;

	/* The job's handover. A mutex of its own (a leaf): the scan thread, at idle priority, may be stopped while it has it. */
	struct gmm__lock job_lock;
	pthread_cond_t job_changed;
	bool job_ready;                 /* the merge thread has work */
	pthread_cond_t watchdog_changed; /* wakes the watchdog, which sleeps while the merge thread has no work */
	bool watchdog_sleeps;
	bool working;                   /* the merge thread is at a job or an errand */
	struct gmm__errand *errands;    /* and this too; see dedup/errand.h */
	bool merge_stopping;

	/* The scan thread's, and the merge thread's while a job is ready. */
	bool told_settled;              /* the embedder knows */
	bool full;                      /* this pass visits all regions */
	struct gmm__job job;
	struct gmm__progress progress;  /* of this pass */
	uint32_t min_run;               /* shortest run merged in this pass in any VM */
	bool retry_budget;              /* pages refused for the budget are tried again */
	uint32_t cover_interval;        /* passes between two looks for written shared pages; follows what they yield */
	uint32_t next_cover;            /* the pass of the next look */
	uint32_t window_shift;          /* the window is 2^this times that of the options */
	uint64_t lately_merged;
	uint64_t lately_broken;
	struct gmm__huge_pace huge;
	struct gmm__budget budget;
	struct gmm__budget page_budget; /* of pages a second */
	uint32_t quiet_passes;          /* passes in a row with next to nothing done */
	struct gmm__verdict verdict[GMM__REGION_PAGES];
	struct gmm__run run[GMM__REGION_PAGES];
	struct gmm__nominations nominations;
	struct gmm__paged_batch paged; /* of the paged VM that the pass is at */
};

/* Starts the threads. 0 or a gmm_status. backend: gmm__backend_mapped() but in tests. */
int gmm__engine_start(struct gmm *gmm, const struct gmm__backend *backend);
void gmm__engine_stop(struct gmm *gmm);

/* The scan thread has to leave what it does, at the next page it likes. */
bool gmm__engine_must_leave(const struct gmm__engine *engine);

/* Hands engine->job to the merge thread and waits until it is done. Without threads (tests) it is done here. */
void gmm__engine_run_job(struct gmm__engine *engine);

/* One pass over all VMs by the calling thread (dedup/pass.c). With the engine's threads not running (tests) it merges,
 * too. */
void gmm__engine_pass(struct gmm__engine *engine);

/* The slot at or after gfn `from`; looked up anew each time, since slots come and go. While the engine visits the VM it is
 * not freed. */
struct gmm__slot *gmm__engine_next_slot(struct gmm_vm *vm, uint64_t from);

/* What the engine knows of new RAM: it is not settled any more. */
void gmm__engine_disturb(struct gmm *gmm);

/* Waits until the engine does not visit the VM. The VM or slot is marked dead, so that it leaves soon. */
void gmm__engine_wait_left(struct gmm_vm *vm);

#endif
