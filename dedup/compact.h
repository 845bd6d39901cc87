/* Tidying up shared pages: neighbours that were shared at different times become one run, and sparse chunks of the pool
 * are emptied and given back. Both are sets of moves (dedup/rehome.h), at most GMM__MOVES pages at a time.
 */
#ifndef DEDUP_COMPACT_H
#define DEDUP_COMPACT_H

#include "dedup/rehome.h"

/* What an idle pass may do: one set of moves to join neighbours, found in a part of the guests that follows the last one
 * looked at; one to empty chunks, if a quarter of a pool is not in use. Leaves at once when another thread tidies up.
 * Not while holding any lock or claim. */
void gmm__tidy_idle(struct gmm *gmm, const struct gmm__backend *backend, struct gmm__waits *waits);

/* A settled engine's job: the above, and giving back mappings that longer runs need (dedup/shed.h). */
struct gmm__worker;
void gmm__tidy_engine(struct gmm__worker *worker);

/* The same for all that there is to do: joins, then compaction, a set of moves at a time, each by `run`: gmm__errand_call,
 * or a test's own. Returns how many chunks went back, or -1 without memory. Not while holding any lock or claim. */
typedef void gmm__tidy_run_fn(struct gmm *gmm, void (*work)(void *arg, const struct gmm__merge *merge), void *arg);
int64_t gmm__tidy_all(struct gmm *gmm, gmm__tidy_run_fn *run);

#endif
