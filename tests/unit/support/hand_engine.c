/* An engine without threads; see hand_engine.h. */
#include "tests/unit/support/hand_engine.h"

#include <check.h>
#include <stdlib.h>

struct gmm__engine *hand_engine_new(struct gmm *gmm, const struct gmm__backend *backend)
{
	struct gmm__engine *engine = calloc(1, gmm__engine_bytes(1));

	ck_assert_ptr_nonnull(engine);
	gmm__engine_init(engine, gmm, backend, 1);
	engine->cpu_percent = 100;
	engine->worker[0].waits.bound_ns = 1000000;
	engine->worker[0].waits.pages = GMM__FREEZE_PAGES;
	return engine;
}

void hand_engine_free(struct gmm__engine *engine)
{
	gmm__engine_destroy(engine);
	free(engine);
}
