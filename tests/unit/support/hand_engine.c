/* An engine without threads; see hand_engine.h. */
#include "tests/unit/support/hand_engine.h"

#include <check.h>
#include <stdlib.h>

struct gmm__engine *hand_engine_new(struct gmm *gmm, const struct gmm__backend *backend)
{
	struct gmm__engine *engine = calloc(1, gmm__engine_bytes(HAND_WORKERS));

	ck_assert_ptr_nonnull(engine);
	gmm__engine_init(engine, gmm, backend, HAND_WORKERS);
	engine->cpu_percent = 100;
	for (int i = 0; i < HAND_WORKERS; i++) {
		engine->worker[i].waits.bound_ns = 1000000;
		engine->worker[i].waits.pages = GMM__FREEZE_PAGES;
	}
	engine->workers = 1; /* passes are made by the first */
	return engine;
}

void hand_engine_free(struct gmm__engine *engine)
{
	engine->workers = HAND_WORKERS;
	gmm__engine_destroy(engine);
	free(engine);
}
