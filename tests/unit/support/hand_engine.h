/* An engine that is turned by hand: no threads, one gmm__engine_pass at a time. */
#ifndef TESTS_UNIT_SUPPORT_HAND_ENGINE_H
#define TESTS_UNIT_SUPPORT_HAND_ENGINE_H

#include "dedup/engine.h"

/* Of these only the first makes passes. While `workers` is raised, tests may have the others process regions. */
enum { HAND_WORKERS = 2 };

/* As gmm__engine_start sets it up. The instance does not know of it. */
struct gmm__engine *hand_engine_new(struct gmm *gmm, const struct gmm__backend *backend);
void hand_engine_free(struct gmm__engine *engine);

#endif
