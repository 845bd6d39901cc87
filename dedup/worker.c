/* Worker: its two threads and the handover between them. */
#include "dedup/worker.h"

#include "dedup/engine.h"
#include "dedup/errand.h"

void gmm__worker_run(struct gmm__worker *worker, void (*work)(struct gmm__worker *worker))
{
	worker->job.work = work;
	if (!worker->merge_thread) {
		work(worker);
		return;
	}
	gmm__lock_take(&worker->job_lock);
	worker->job_ready = true;
	pthread_cond_broadcast(&worker->job_changed);
	while (worker->job_ready)
		gmm__lock_wait(&worker->job_lock, &worker->job_changed);
	gmm__lock_give(&worker->job_lock);
}

static void *merge_main(void *arg)
{
	struct gmm__worker *worker = arg;

	gmm__lock_take(&worker->job_lock);
	for (;;) {
		while (!worker->job_ready && !worker->errands && !worker->merge_stopping)
			gmm__lock_wait(&worker->job_lock, &worker->job_changed);
		struct gmm__errand *errand = worker->errands;
		if (!worker->job_ready && !errand)
			break;
		if (errand)
			worker->errands = errand->next;
		gmm__lock_give(&worker->job_lock);
		gmm__engine_watch(worker->engine);
		if (errand)
			gmm__errand_run(worker, errand);
		else
			worker->job.work(worker);
		gmm__engine_unwatch(worker->engine);
		worker->cpu_ns[1] = gmm__sys_of(worker->gmm)->thread_cpu_ns();
		gmm__lock_take(&worker->job_lock);
		if (errand)
			errand->done = true;
		else
			worker->job_ready = false;
		pthread_cond_broadcast(&worker->job_changed);
	}
	gmm__lock_give(&worker->job_lock);
	return NULL;
}

void gmm__worker_init(struct gmm__worker *worker, struct gmm__engine *engine, uint32_t number)
{
	worker->engine = engine;
	worker->gmm = engine->gmm;
	worker->backend = engine->backend;
	worker->number = number;
	worker->waits = (struct gmm__waits){ .bound_ns = engine->gmm->options.wait_bound_us * 1000ull,
					     .pages = GMM__FREEZE_PAGES / 2, .guard = &worker->guard };
	gmm__guard_init(&worker->guard);
	gmm__lock_init(&worker->job_lock, GMM__RANK_LEAF);
	pthread_cond_init(&worker->job_changed, NULL);
}

void gmm__worker_destroy(struct gmm__worker *worker)
{
	pthread_cond_destroy(&worker->job_changed);
	gmm__lock_destroy(&worker->job_lock);
	gmm__guard_destroy(&worker->guard);
}

int gmm__worker_start(struct gmm__worker *worker, void *(*scan_main)(void *worker))
{
	const struct gmm__sys *sys = gmm__sys_of(worker->gmm);
	int rc = sys->thread_start(&worker->merge_thread, "gmm-merge", false, merge_main, worker);

	if (rc != 0) {
		worker->merge_thread = 0;
		return rc;
	}
	rc = sys->thread_start(&worker->scan_thread, "gmm-scan", true, scan_main, worker);
	if (rc != 0)
		worker->scan_thread = 0;
	return rc;
}

void gmm__worker_join_scan(struct gmm__worker *worker)
{
	if (worker->scan_thread)
		gmm__sys_of(worker->gmm)->thread_join(worker->scan_thread);
}

void gmm__worker_stop_merge(struct gmm__worker *worker)
{
	gmm__lock_take(&worker->job_lock);
	worker->merge_stopping = true;
	pthread_cond_broadcast(&worker->job_changed);
	gmm__lock_give(&worker->job_lock);
	if (worker->merge_thread)
		gmm__sys_of(worker->gmm)->thread_join(worker->merge_thread);
}
