/* A worker: a scan thread, a merge thread, and what they hand to each other.
 *
 *   scan thread (SCHED_IDLE)    scan → digest, a region at a time; holds no lock and no claim; then waits for
 *   merge thread (normal)       index → account → plan → merge (freeze → verify → share → thaw → account)
 *
 * A thread of low priority that held frozen pages, a claim or a lock would make guests wait on a busy host. Both
 * threads block all signals: they must never take one meant for the VMM.
 *
 * The two never work at once, so what is theirs needs no lock. Several workers do: each works on a VM of its own, and what
 * lies in another one's VM is changed only with that VM's claim.
 */
#ifndef DEDUP_WORKER_H
#define DEDUP_WORKER_H

#include "dedup/merge.h"
#include "dedup/paged_scan.h"
#include "dedup/promotions.h"
#include "dedup/scan.h"

struct gmm__engine;
struct gmm__errand;
struct gmm__worker;

/* What the scan thread hands to the merge thread. */
struct gmm__job {
	void (*work)(struct gmm__worker *worker); /* what is to be done with it */
	struct gmm_vm *vm;                        /* of gmm__remote_visit */
	struct gmm__region region;
	struct gmm__scan_options options;         /* of the visit */
	struct gmm__finding finding[GMM__REGION_PAGES];
};

struct gmm__worker {
	struct gmm__engine *engine;
	struct gmm *gmm;                /* the engine's */
	const struct gmm__backend *backend;
	uint32_t number;                /* 0: the one that leads passes and does errands */
	uintptr_t scan_thread;
	uintptr_t merge_thread;         /* 0: jobs are done by the thread that hands them over (tests) */
	uint64_t passes;                /* of the engine's that it has joined; guarded by gmm.lock */
	_Atomic uint64_t cpu_ns[2];     /* of the scan and the merge thread */
	_Atomic uint64_t digested;      /* pages of this pass, as far as the scan thread knows */
	struct gmm__waits waits;
	struct gmm__guard guard;

	/* The job's handover. A mutex of its own (a leaf): the scan thread, at idle priority, may be stopped while it has it. */
	struct gmm__lock job_lock;
	pthread_cond_t job_changed;
	bool job_ready;                 /* the merge thread has work */
	struct gmm__errand *errands;    /* and this too; see dedup/errand.h */
	bool merge_stopping;

	/* The scan thread's, and the merge thread's while a job is ready. */
	struct gmm__job job;
	struct gmm__progress progress;  /* of this pass */
	struct gmm__verdict verdict[GMM__REGION_PAGES];
	struct gmm__run run[GMM__REGION_PAGES];
	struct gmm__nominations nominations;
	struct gmm__promotions promotions;
	struct gmm__paged_batch paged;  /* of the paged VM that the scan thread is at */
};

/* A worker without threads. */
void gmm__worker_init(struct gmm__worker *worker, struct gmm__engine *engine, uint32_t number);
void gmm__worker_destroy(struct gmm__worker *worker);

/* Starts the merge thread, then the scan thread with that main function. 0 or a negative errno, and some may run. */
int gmm__worker_start(struct gmm__worker *worker, void *(*scan_main)(void *worker));
/* After the scan thread was told to stop. */
void gmm__worker_join_scan(struct gmm__worker *worker);
void gmm__worker_stop_merge(struct gmm__worker *worker);

/* Hands worker->job to the merge thread and waits until it is done. */
void gmm__worker_run(struct gmm__worker *worker, void (*work)(struct gmm__worker *worker));

/* Where this worker freezes pages; NULL: where those do who are none. Several workers may have the same one. */
static inline struct gmm__staging *gmm__staging_of(struct gmm *gmm, const struct gmm__worker *worker)
{
	return &gmm->staging[worker ? worker->number % GMM__STAGINGS : 0];
}

/* Gives back the frames of the pages that this worker replaced. */
static inline void gmm__worker_flush(struct gmm__worker *worker)
{
	worker->backend->flush(worker->gmm, gmm__staging_of(worker->gmm, worker));
}

#endif
