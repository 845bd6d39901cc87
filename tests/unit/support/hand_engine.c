/* An engine without threads; see hand_engine.h. */
#include "tests/unit/support/hand_engine.h"

#include <stdlib.h>

struct gmm__engine *hand_engine_new(struct gmm *gmm, const struct gmm__backend *backend)
{
	struct gmm__engine *engine = calloc(1, sizeof *engine);

	engine->gmm = gmm;
	engine->backend = backend;
	engine->min_run = 1;
	engine->cover_interval = 1;
	engine->retry_budget = true;
	engine->cpu_percent = 100;
	engine->waits.bound_ns = 1000000;
	engine->waits.pages = GMM__FREEZE_PAGES;
	engine->waits.guard = &engine->guard;
	gmm__guard_init(&engine->guard);
	return engine;
}

void hand_engine_free(struct gmm__engine *engine)
{
	gmm__guard_destroy(&engine->guard);
	free(engine);
}
