/* Process: what is done with a region once it was scanned and digested. */
#ifndef DEDUP_PROCESS_H
#define DEDUP_PROCESS_H

#include "dedup/engine.h"

/* Judges and merges the region in worker->job. Not while holding any lock or claim. */
void gmm__process_region(struct gmm__worker *worker);

/* What merges of the region are done with. */
struct gmm__merge gmm__process_merge(struct gmm__worker *worker, const struct gmm__region *region);

/* Guest RAM that somebody mapped over is not ours to replace. The caller has the claim. */
void gmm__process_exclude_foreign(struct gmm__worker *worker, const struct gmm__region *region);

/* Merges what worker->verdict says, as far as the mapping budget goes in this pass. */
void gmm__process_merge_runs(struct gmm__worker *worker, const struct gmm__merge *merge);

/* Takes in what was sampled of the region's huge pages and breaks those that are worth it. Holding no claim. */
void gmm__process_huge(struct gmm__worker *worker, const struct gmm__merge *merge);

#endif
