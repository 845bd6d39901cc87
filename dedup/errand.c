/* Errands: who carries them out. */
#include "dedup/errand.h"

#include <signal.h>

void gmm__errand_run(struct gmm__worker *worker, struct gmm__errand *errand)
{
	struct gmm__progress progress = { 0 }; /* the pass under way has its own */
	struct gmm__merge merge = { .gmm = worker->gmm, .worker = worker, .backend = worker->backend, .hinted = true,
				    .progress = &progress, .waits = &worker->waits };

	errand->run(errand->arg, &merge);
	gmm__worker_flush(worker);
}

/* Gives it to the merge thread and waits. */
static void hand_over(struct gmm__worker *worker, struct gmm__errand *errand)
{
	gmm__lock_take(&worker->job_lock);
	struct gmm__errand **link = &worker->errands;
	while (*link)
		link = &(*link)->next;
	*link = errand;
	pthread_cond_broadcast(&worker->job_changed);
	while (!errand->done)
		gmm__lock_wait(&worker->job_lock, &worker->job_changed);
	gmm__lock_give(&worker->job_lock);
}

void gmm__errand_do(struct gmm__engine *engine, gmm__errand_fn *run, void *arg)
{
	struct gmm__errand errand = { .run = run, .arg = arg };
	struct gmm__worker *worker = &engine->worker[0];

	if (worker->merge_thread)
		hand_over(worker, &errand);
	else
		gmm__errand_run(worker, &errand);
}

/* What an engine counts while it runs. */
static void count_waits(struct gmm *gmm, const struct gmm__waits *waits)
{
	gmm__lock_take(&gmm->lock);
	for (int i = 0; i < GMM_WAIT_BUCKETS; i++)
		gmm->ended.freezes[i] += waits->freezes[i];
	if (waits->longest_ns > gmm->ended.longest_freeze_ns)
		gmm->ended.longest_freeze_ns = waits->longest_ns;
	gmm__lock_give(&gmm->lock);
}

static void run_here(struct gmm *gmm, gmm__errand_fn *run, void *arg)
{
	struct gmm__waits waits = { .bound_ns = gmm->options.wait_bound_us * 1000ull, .pages = GMM__FREEZE_PAGES / 2 };
	struct gmm__progress progress = { 0 };
	struct gmm__merge merge = { .gmm = gmm, .backend = gmm__backend_mapped(), .hinted = true, .progress = &progress,
				    .waits = &waits };
	sigset_t all, before;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	run(arg, &merge);
	merge.backend->flush(gmm, gmm__staging_of(gmm, NULL));
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	count_waits(gmm, &waits);
}

void gmm__errand_call(struct gmm *gmm, gmm__errand_fn *run, void *arg)
{
	struct gmm__errand errand = { .run = run, .arg = arg };

	gmm__lock_take(&gmm->lock);
	struct gmm__engine *engine = gmm->engine;
	if (engine)
		engine->callers++;
	gmm__lock_give(&gmm->lock);
	if (!engine) {
		run_here(gmm, run, arg);
		return;
	}
	hand_over(&engine->worker[0], &errand);
	gmm__lock_take(&gmm->lock);
	engine->callers--;
	pthread_cond_broadcast(&gmm->changed);
	gmm__lock_give(&gmm->lock);
}
