/* Process: what is done with a region once it was scanned and digested. */
#ifndef DEDUP_PROCESS_H
#define DEDUP_PROCESS_H

#include "dedup/engine.h"

/* Judges and merges the region in engine->job. Not while holding any lock or claim. */
void gmm__process_region(struct gmm__engine *engine);

#endif
