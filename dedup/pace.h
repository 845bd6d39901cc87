/* Pace: how much effort a pass makes, by what the passes before yielded. */
#ifndef DEDUP_PACE_H
#define DEDUP_PACE_H

#include "dedup/engine.h"

/* At the start of a pass. */
void gmm__pace_begin(struct gmm__engine *engine);

/* What a visit of this pass asks of a region. */
struct gmm__scan_options gmm__pace_options(const struct gmm__engine *engine, const struct gmm_vm *vm,
					   struct gmm__effort *effort);

/* At the end of a pass: what the next one merges, and whether this one found next to nothing to do. */
void gmm__pace_conclude(struct gmm__engine *engine);

/* After a follow-up. */
void gmm__pace_followed_up(struct gmm__engine *engine);

/* How long the engine rests now between two passes: a window, so that what was found written then can be judged, and the
 * interval once settled. With gmm.lock. */
uint64_t gmm__pace_rest_ms(const struct gmm__engine *engine);

void gmm__pace_rest(struct gmm__engine *engine);

/* With only_under_pressure waits until there is some. False: the engine stops. */
bool gmm__pace_await_pressure(struct gmm__engine *engine);

#endif
