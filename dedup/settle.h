/* Settle: the state in which there is nothing left to share in memory that is quiet; waiting for it, telling of it, and
 * estimating when it will be reached. */
#ifndef DEDUP_SETTLE_H
#define DEDUP_SETTLE_H

#include "dedup/engine.h"

/* Tells the embedder when the state has changed. Scan thread, holding nothing. */
void gmm__settle_tell(struct gmm__engine *engine);

/* Milliseconds until the engine has settled if nobody writes meanwhile, by what it did until now; 0 when it has. stats: the
 * instance's, but for the figure asked for. With gmm.lock. */
uint64_t gmm__settle_estimate_ms(const struct gmm__engine *engine, const struct gmm_stats *stats);

/* The same from plain values. */
struct gmm__settle_work {
	uint64_t pages;       /* to be looked at */
	uint64_t merges;      /* pages to be merged, as far as known */
	uint64_t page_ns;     /* CPU time for each of them */
	uint32_t cpu_percent; /* 0: no limit */
	uint32_t passes;      /* that the engine will need at least */
	uint64_t rest_ms;     /* between two */
};
uint64_t gmm__settle_time_ms(const struct gmm__settle_work *work);

#endif
