/* Errands: merges that are not found by scanning, such as those of guest modules. They are carried out by the merge
 * thread of worker 0 between two of its regions; while the engine does not run, by the caller.
 */
#ifndef DEDUP_ERRAND_H
#define DEDUP_ERRAND_H

#include "dedup/engine.h"

/* merge has everything but the catalog and the region; its runs are hinted ones. At most a few milliseconds of work. */
typedef void gmm__errand_fn(void *arg, const struct gmm__merge *merge);

struct gmm__errand {
	struct gmm__errand *next;
	gmm__errand_fn *run;
	void *arg;
	bool done;                /* guarded by the worker's job_lock */
};

/* For the engine's own threads; without a merge thread (tests) it is done here. Returns when it is done. */
void gmm__errand_do(struct gmm__engine *engine, gmm__errand_fn *run, void *arg);

/* For all others: while the engine does not run it is done by the calling thread, with its signals blocked meanwhile, as
 * a handler must not touch a page that this thread has frozen. Holding no lock and no claim. */
void gmm__errand_call(struct gmm *gmm, gmm__errand_fn *run, void *arg);

/* The merge thread's: carries out an errand it took from its list. */
void gmm__errand_run(struct gmm__worker *worker, struct gmm__errand *errand);

#endif
