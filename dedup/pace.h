/* Pace: how much effort a pass makes, by what the passes before yielded. */
#ifndef DEDUP_PACE_H
#define DEDUP_PACE_H

#include "dedup/engine.h"

/* This pass looks for written shared pages. */
bool gmm__pace_covers(const struct gmm__engine *engine);

/* What this pass asks of each region. */
struct gmm__scan_options gmm__pace_options(const struct gmm__engine *engine);

/* This pass shares written pages again where it can. */
bool gmm__pace_repairs(const struct gmm__engine *engine);

/* At the end of a pass: what the next one merges, and whether this one found next to nothing to do. */
void gmm__pace_conclude(struct gmm__engine *engine);

/* Between two passes: a window, so that what was found written then can be judged, and the interval once settled. */
void gmm__pace_rest(struct gmm__engine *engine);

#endif
