/* An instance that shares through a tiny service, with two VMs of equal RAM; no engine runs yet. */
#ifndef TESTS_UNIT_SUPPORT_REMOTE_WORLD_H
#define TESTS_UNIT_SUPPORT_REMOTE_WORLD_H

#include "tests/unit/support/tiny_service.h"

#include <gmm/gmm.h>

struct gmm__engine;

struct remote_world {
	struct tiny_service service;
	struct gmm *gmm;
	struct gmm_vm *vm[2];
	char *ram[2];
	uint32_t pages;
	uint64_t seed;
	struct gmm__engine *engine; /* NULL; or one that is turned by hand, of the test */
};

/* Page i of each VM is filled from seed + i. */
struct remote_world *remote_world_open(uint32_t pages, uint64_t seed, enum gmm_repair repair);
/* Makes VM i, also in place of one that has ended. */
void remote_world_add_vm(struct remote_world *w, int i);
/* Checks the accounts. */
void remote_world_close(struct remote_world *w);

/* References of both VMs, and passes of the engine. */
uint64_t remote_world_shared(struct remote_world *w);
uint64_t remote_world_passes(struct remote_world *w);

#endif
