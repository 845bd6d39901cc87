/* An instance that shares through a tiny service; see remote_world.h. */
#include "tests/unit/support/remote_world.h"

#include <check.h>
#include <stdlib.h>

#include "tests/support/guest.h"
#include "tests/support/suite.h"
#include "tests/unit/support/hand_engine.h"

void remote_world_add_vm(struct remote_world *w, int i)
{
	void *ram;

	assert_ok(gmm_vm_create(w->gmm, NULL, &w->vm[i]));
	assert_ok(gmm_vm_create_ram(w->vm[i], 0, (uint64_t)w->pages * PAGE, &ram));
	w->ram[i] = ram;
	ram_fill(w->ram[i], w->pages, w->seed);
}

struct remote_world *remote_world_open(uint32_t pages, uint64_t seed, enum gmm_repair repair)
{
	struct remote_world *w = calloc(1, sizeof *w);
	struct gmm_options options;

	ck_assert_ptr_nonnull(w);
	w->pages = pages;
	w->seed = seed;
	tiny_service_start(&w->service);
	gmm_options_init(&options);
	options.log = suite_log;
	options.window_ms = 0;
	options.pass_interval_ms = 1;
	options.cpu_percent = 0;
	options.socket = w->service.path;
	options.repair = repair;
	assert_ok(gmm_instance_open(&options, &w->gmm));
	for (int i = 0; i < 2; i++)
		remote_world_add_vm(w, i);
	return w;
}

void remote_world_close(struct remote_world *w)
{
	assert_ok(gmm_instance_validate(w->gmm));
	for (int i = 0; i < 2; i++)
		assert_ok(gmm_vm_destroy(w->vm[i], GMM_RAM_DISCARD));
	if (w->engine)
		hand_engine_free(w->engine);
	assert_ok(gmm_instance_close(w->gmm));
	tiny_service_stop(&w->service);
	free(w);
}

uint64_t remote_world_shared(struct remote_world *w)
{
	struct gmm_stats stats;

	assert_ok(gmm_instance_stats(w->gmm, &stats));
	return stats.total.references;
}

uint64_t remote_world_passes(struct remote_world *w)
{
	struct gmm_stats stats;

	assert_ok(gmm_instance_stats(w->gmm, &stats));
	return stats.passes;
}
