/* The client side of a sharing service, turned by hand: what it tells while RAM is being removed, so that the service frees
 * nothing that is still mapped. */
#include <stdlib.h>
#include <string.h>

#include "dedup/mapped.h"
#include "dedup/remote.h"
#include "tests/support/guest.h"
#include "tests/support/suite.h"
#include "tests/unit/support/hand_engine.h"
#include "tests/unit/support/remote_world.h"

enum { PAGES = 64, SEED = 500 };

static struct remote_world *open_world(void)
{
	struct remote_world *w = remote_world_open(PAGES, SEED, GMM_REPAIR_NEVER);

	w->engine = hand_engine_new(w->gmm, gmm__backend_mapped());
	return w;
}

static struct gmm__slot *slot_of(const struct remote_world *w, int i)
{
	return w->vm[i]->slots->slot[0];
}

static void pass_until_shared(struct remote_world *w)
{
	for (int i = 0; i < 40 && remote_world_shared(w) < 2 * PAGES; i++)
		gmm__engine_pass(w->engine);
	ck_assert_uint_eq(remote_world_shared(w), 2 * PAGES);
}

static void close_world(struct remote_world *w)
{
	for (int i = 0; i < 2; i++)
		ck_assert_uint_eq(ram_wrong(w->ram[i], PAGES, SEED), 0);
	remote_world_close(w);
}

static bool any_gone(const struct remote_world *w)
{
	for (size_t i = 0; i < GMM__WIRE_SLOTS / 64; i++)
		if (w->gmm->remote->gone_slots[i] || (i < GMM__WIRE_VMS / 64 && w->gmm->remote->gone_vms[i]))
			return true;
	return false;
}

/* A slot on its way out has the number that an earlier service gave it; the one of today calls another slot by it, whose
 * pages would be given back. */
START_TEST(numbers_of_an_earlier_service_are_not_removed)
{
	struct remote_world *w = open_world();
	uint32_t slot = slot_of(w, 0)->remote, vm;

	pass_until_shared(w);
	slot = slot_of(w, 0)->remote;
	vm = w->vm[0]->remote;
	slot_of(w, 0)->remote = slot_of(w, 1)->remote;
	w->vm[0]->remote = w->vm[1]->remote;
	gmm__remote_slot_gone(slot_of(w, 0));
	gmm__remote_vm_gone(w->vm[0]);
	ck_assert(!any_gone(w));
	slot_of(w, 0)->remote = slot;
	w->vm[0]->remote = vm;
	gmm__remote_slot_gone(slot_of(w, 0));
	ck_assert_uint_eq(w->gmm->remote->gone_slots[(slot - 1) / 64], 1ull << (slot - 1) % 64);
	close_world(w);
}
END_TEST

/* What people read in `gmm-dedup status` is the client's own estimate. */
START_TEST(the_estimate_is_told)
{
	struct remote_world *w = open_world();

	for (int i = 0; i < 40 && !w->engine->settled; i++) {
		gmm__remote_begin_pass(&w->engine->worker[0]);
		ck_assert_uint_gt(w->service.settle_estimate_ms, 0);
		gmm__engine_pass(w->engine);
	}
	ck_assert(w->engine->settled);
	gmm__remote_begin_pass(&w->engine->worker[0]);
	ck_assert_uint_eq(w->service.settle_estimate_ms, 0);
	close_world(w);
}
END_TEST

/* Somebody has claimed a VM, and may be removing RAM that is in no list any more and still maps shared pages. */
START_TEST(not_all_is_reported_while_ram_is_removed)
{
	struct remote_world *w = open_world();

	pass_until_shared(w);
	gmm__remote_begin_pass(&w->engine->worker[0]);
	ck_assert(w->service.reported);
	ck_assert(gmm__vm_claim(w->vm[1], false));
	gmm__remote_begin_pass(&w->engine->worker[0]);
	ck_assert(!w->service.reported);
	gmm__vm_release(w->vm[1]);
	gmm__remote_begin_pass(&w->engine->worker[0]);
	ck_assert(w->service.reported);
	close_world(w);
}
END_TEST

/* What was mapped in a region must be committed before anything else is offered, whoever removes the slot meanwhile: it
 * maps those pages until he is done. */
START_TEST(the_region_of_a_dying_slot_is_committed)
{
	struct remote_world *w = open_world();

	pass_until_shared(w);
	uint32_t commits = w->service.commits;
	w->engine->worker[0].job.region = (struct gmm__region){ slot_of(w, 0), 0, PAGES };
	memset(w->engine->worker[0].job.finding, 0, PAGES * sizeof *w->engine->worker[0].job.finding);
	slot_of(w, 0)->dead = true;
	gmm__remote_region(&w->engine->worker[0]);
	slot_of(w, 0)->dead = false;
	gmm__remote_begin_pass(&w->engine->worker[0]); /* the service has read all that was sent before it answers */
	ck_assert_uint_gt(w->service.commits, commits);
	close_world(w);
}
END_TEST

/* The VM is about to end while it is announced to a service that started again, and then does not: all of it has to be
 * told anew. */
START_TEST(a_slot_that_was_told_in_part_is_told_anew)
{
	struct remote_world *w = open_world();

	pass_until_shared(w);
	w->service.forget = true;
	gmm__remote_disconnect(w->gmm->remote, "the test ends it");
	w->gmm->remote->retry_ns = 0;
	w->service.set_on_slot_add = &w->vm[0]->dead;
	gmm__engine_pass(w->engine);
	ck_assert(w->vm[0]->dead);
	w->service.set_on_slot_add = NULL;
	w->vm[0]->dead = false;
	gmm__remote_begin_pass(&w->engine->worker[0]);
	ck_assert(!w->service.reported);
	gmm__engine_pass(w->engine);
	gmm__remote_begin_pass(&w->engine->worker[0]);
	ck_assert(w->service.reported);
	ck_assert_uint_ge(w->service.reports, 2);
	close_world(w);
}
END_TEST

/* A slot that a service has no room for has no number to speak of its regions by. */
START_TEST(nothing_is_said_of_a_slot_without_a_number)
{
	struct remote_world *w = open_world();

	w->service.lie_about = GMM__WIRE_SLOT_ADD;
	w->service.lie = LIE_REFUSE;
	for (int i = 0; i < 5; i++)
		gmm__engine_pass(w->engine);
	ck_assert_uint_gt(w->service.slots, 0);
	ck_assert_uint_eq(w->service.commits, 0);
	close_world(w);
}
END_TEST

/* A VM that is left alone for want of profit has to be announced to a service that started again, or that waits for ever. */
START_TEST(a_vm_that_rests_is_announced)
{
	struct remote_world *w = open_world();

	pass_until_shared(w);
	w->service.forget = true;
	for (int i = 0; i < 2; i++) {
		w->vm[i]->profit.resting = true;
		w->vm[i]->profit.passes = 1000;
		w->vm[i]->profit.ram_changes = w->gmm->ram_changes;
	}
	gmm__remote_disconnect(w->gmm->remote, "the test ends it");
	w->gmm->remote->retry_ns = 0;
	gmm__engine_pass(w->engine);
	gmm__remote_begin_pass(&w->engine->worker[0]);
	ck_assert(w->service.reported);
	ck_assert_uint_eq(w->service.reports, 2);
	close_world(w);
}
END_TEST

int main(void)
{
	const TTest *tests[] = {
		numbers_of_an_earlier_service_are_not_removed,
		the_estimate_is_told,
		not_all_is_reported_while_ram_is_removed,
		the_region_of_a_dying_slot_is_committed,
		a_slot_that_was_told_in_part_is_told_anew,
		nothing_is_said_of_a_slot_without_a_number,
		a_vm_that_rests_is_announced,
	};

	return suite_main("remote_order", tests, sizeof tests / sizeof *tests);
}
