/* The client side of a sharing service: it shares what the service says only where the bytes are equal, and no answer of the
 * service, however wrong, harms the guest. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "dedup/errand.h"
#include "tests/support/guest.h"
#include "tests/support/suite.h"
#include "tests/unit/support/remote_world.h"

enum { PAGES = 512, SEED = 1000 };

/* Page 0 of both is of zeros. */
static struct remote_world *open_repairing(enum gmm_repair repair)
{
	struct remote_world *w = remote_world_open(PAGES, SEED, repair);

	for (int i = 0; i < 2; i++)
		page_repeat(w->ram[i], 0);
	return w;
}

static struct remote_world *open_world(void)
{
	return open_repairing(GMM_REPAIR_NEVER);
}

static void check_ram(const struct remote_world *w)
{
	for (int i = 0; i < 2; i++) {
		ck_assert(page_repeats(w->ram[i], 0));
		ck_assert_uint_eq(ram_wrong(w->ram[i] + PAGE, PAGES - 1, SEED + 1), 0);
	}
}

START_TEST(no_service_is_an_error)
{
	struct gmm_options options;
	struct gmm *gmm;

	gmm_options_init(&options);
	options.socket = "/nonexistent/socket";
	assert_status(gmm_instance_open(&options, &gmm), GMM_ERR_NO_SERVICE);
}
END_TEST

START_TEST(equal_pages_are_shared)
{
	struct remote_world *w = open_world();

	assert_ok(gmm_engine_start(w->gmm));
	assert_eventually(remote_world_shared(w) == 2 * (PAGES - 1));
	check_ram(w);
	assert_ok(gmm_engine_wait_settled(w->gmm, 60000));
	for (int i = 1; i < PAGES; i++)
		assert_eventually((w->service.state[i] & 15) == GMM_PAGE_SHARED);
	ck_assert_int_eq(w->service.state[0] & 15, GMM_PAGE_ZERO);
	remote_world_close(w);
}
END_TEST

/* What happens outside the engine is told at the next visit. */
START_TEST(changes_by_call_are_told)
{
	struct remote_world *w = open_world();

	assert_ok(gmm_engine_start(w->gmm));
	assert_eventually(remote_world_shared(w) == 2 * (PAGES - 1));
	assert_ok(gmm_vm_discard(w->vm[0], PAGE, 10 * PAGE));
	for (int i = 1; i <= 10; i++)
		assert_eventually((w->service.state[i] & 15) == GMM_PAGE_ABSENT);
	ck_assert_uint_eq(ram_not_zero(w->ram[0], 11), 0);
	ck_assert_uint_eq(ram_wrong(w->ram[1] + PAGE, PAGES - 1, SEED + 1), 0);
	remote_world_close(w);
}
END_TEST

START_TEST(a_write_is_told)
{
	struct remote_world *w = open_world();

	assert_ok(gmm_engine_start(w->gmm));
	assert_eventually(remote_world_shared(w) == 2 * (PAGES - 1));
	guest_store(w->ram[0] + 5 * PAGE, 0, 77);
	assert_eventually((w->service.state[5] & 15) == GMM_PAGE_BROKEN);
	ck_assert(page_is(w->ram[1] + 5 * PAGE, SEED + 5));
	ck_assert_uint_eq(guest_load(w->ram[0] + 5 * PAGE, 0), 77);
	remote_world_close(w);
}
END_TEST

START_TEST(a_written_page_is_shared_again)
{
	struct remote_world *w = open_repairing(GMM_REPAIR_PROMISED);

	assert_ok(gmm_engine_start(w->gmm));
	assert_eventually(remote_world_shared(w) == 2 * (PAGES - 1));
	guest_store(w->ram[0] + 5 * PAGE, 0, 77);
	assert_eventually((w->service.state[5] & 15) == GMM_PAGE_BROKEN);
	ck_assert_uint_eq(guest_load(w->ram[0] + 5 * PAGE, 0), 77);
	page_fill(w->ram[0] + 5 * PAGE, SEED + 5);
	page_fill(w->ram[0] + 6 * PAGE, SEED + 7);
	assert_eventually((w->service.state[5] & 15) == GMM_PAGE_SHARED);
	assert_eventually(remote_world_shared(w) == 2 * (PAGES - 1));
	ck_assert(page_is(w->ram[0] + 6 * PAGE, SEED + 7));
	page_fill(w->ram[0] + 6 * PAGE, SEED + 6);
	check_ram(w);
	remote_world_close(w);
}
END_TEST

START_TEST(the_service_pauses_and_unshares)
{
	struct remote_world *w = open_world();

	assert_ok(gmm_engine_start(w->gmm));
	assert_eventually(remote_world_shared(w) == 2 * (PAGES - 1));
	w->service.paused = true;
	w->service.unshare = 3;
	assert_eventually(w->service.unshared == 3);
	ck_assert_uint_eq(remote_world_shared(w), 0);
	check_ram(w);
	uint64_t now = remote_world_passes(w);
	assert_eventually(remote_world_passes(w) > now + 3);
	ck_assert_uint_eq(remote_world_shared(w), 0);
	w->service.paused = false;
	assert_eventually(remote_world_shared(w) > 0);
	check_ram(w);
	remote_world_close(w);
}
END_TEST

static struct remote_world *run_lie(enum lie lie, uint32_t about, uint64_t seed)
{
	struct remote_world *w = open_world();

	w->service.lie = lie;
	w->service.lie_about = about;
	w->service.seed = seed;
	assert_ok(gmm_engine_start(w->gmm));
	uint64_t end = now_ms() + 2000;
	while (w->service.lies_told < 1 && remote_world_passes(w) < 50 && now_ms() < end)
		sleep_ms(1);
	sleep_ms(10); /* what comes of it */
	check_ram(w);
	return w;
}

/* Every kind of lie about every kind of message. */
START_TEST(no_lie_harms_the_guest)
{
	static const uint32_t answered[] = { GMM__WIRE_VM_ADD, GMM__WIRE_SLOT_ADD, GMM__WIRE_OFFER, GMM__WIRE_PROMOTE,
					     GMM__WIRE_CHUNK, GMM__WIRE_POLL };

	for (enum lie lie = LIE_SHORT; lie < LIES; lie++)
		for (size_t i = 0; i < sizeof answered / sizeof *answered; i++)
			remote_world_close(run_lie(lie, answered[i], 0));
}
END_TEST

START_TEST(noise_does_not_harm_the_guest)
{
	for (uint64_t seed = 1; seed <= 20; seed++)
		remote_world_close(run_lie(LIE_NOISE, 0, seed * 12345));
}
END_TEST

/* Other bytes than the fingerprint says: the compare finds out. */
START_TEST(pages_with_other_bytes_are_not_mapped)
{
	struct remote_world *w = open_world();

	assert_ok(gmm_engine_start(w->gmm));
	assert_eventually(remote_world_shared(w) == 2 * (PAGES - 1));
	w->service.lie = LIE_CONTENT;
	assert_ok(gmm_vm_unshare(w->vm[0], 0, PAGES * PAGE));
	uint64_t now = remote_world_passes(w);
	assert_eventually(remote_world_passes(w) > now + 10);
	check_ram(w);
	remote_world_close(w);
}
END_TEST

/* A connection that broke comes back, and sharing goes on; a service that forgot the client is told all. */
static void renew(bool forget)
{
	struct remote_world *w = open_world();

	w->service.forget = forget;
	assert_ok(gmm_engine_start(w->gmm));
	assert_eventually(remote_world_shared(w) == 2 * (PAGES - 1));
	w->service.lie_about = GMM__WIRE_POLL;
	w->service.lie = LIE_CLOSE;
	assert_eventually(w->service.lies_told > 0);
	w->service.lie = LIE_NONE;
	check_ram(w);
	assert_eventually(w->service.connections > 1);
	guest_store(w->ram[0] + 5 * PAGE, 0, 77);
	assert_eventually((w->service.state[5] & 15) == GMM_PAGE_BROKEN);
	assert_ok(gmm_vm_unshare(w->vm[0], 0, PAGES * PAGE));
	assert_eventually(remote_world_shared(w) == 2 * (PAGES - 1) - 1);
	ck_assert(page_is(w->ram[1] + 5 * PAGE, SEED + 5));
	remote_world_close(w);
}

START_TEST(a_connection_is_renewed)
{
	renew(false);
}
END_TEST

START_TEST(a_service_that_forgot_is_told_all)
{
	renew(true);
}
END_TEST

/* ---- a service that does not move ------------------------------------------------------------------------------------ */

/* Until the engine waits for the answer to such a request. */
static struct remote_world *open_stuck(uint32_t type)
{
	struct remote_world *w = open_world();

	assert_ok(gmm_engine_start(w->gmm));
	assert_eventually(remote_world_shared(w) == 2 * (PAGES - 1));
	w->service.stuck_at = type;
	assert_ok(gmm_vm_unshare(w->vm[1], 0, PAGES * PAGE));
	assert_eventually(w->service.is_stuck);
	return w;
}

static void close_unstuck(struct remote_world *w, uint64_t start_ms)
{
	ck_assert_uint_lt(now_ms() - start_ms, 8000); /* 1 s, and the machine may be busy; 10 s while nobody waits */
	check_ram(w);
	w->service.stuck_at = 0;
	remote_world_close(w);
}

START_TEST(to_pause_does_not_wait_for_a_stuck_service)
{
	struct remote_world *w = open_stuck(GMM__WIRE_POLL);
	uint64_t start_ms = now_ms();

	assert_ok(gmm_engine_pause(w->gmm));
	close_unstuck(w, start_ms);
}
END_TEST

START_TEST(to_stop_does_not_wait_for_a_stuck_service)
{
	struct remote_world *w = open_stuck(GMM__WIRE_OFFER);
	uint64_t start_ms = now_ms();

	assert_ok(gmm_engine_stop(w->gmm));
	close_unstuck(w, start_ms);
}
END_TEST

/* The VM is visited. Another takes its place, and shares when the service moves again. */
START_TEST(to_end_a_vm_does_not_wait_for_a_stuck_service)
{
	struct remote_world *w = open_stuck(GMM__WIRE_OFFER);
	uint64_t start_ms = now_ms();

	ck_assert_uint_gt(w->vm[1]->visits, 0);
	assert_ok(gmm_vm_destroy(w->vm[1], GMM_RAM_DISCARD));
	remote_world_add_vm(w, 1);
	page_repeat(w->ram[1], 0);
	close_unstuck(w, start_ms);
}
END_TEST

/* Nobody waits: it is not given up so soon, and goes on where it was. */
START_TEST(a_slow_service_is_waited_for)
{
	enum { GIVEN_UP_MS = 10000 };
	uint64_t start_ms = now_ms(); /* before it is stuck */
	struct remote_world *w = open_stuck(GMM__WIRE_OFFER);

	sleep_ms(1500);
	w->service.stuck_at = 0;
	assert_eventually(remote_world_shared(w) == 2 * (PAGES - 1));
	if (now_ms() - start_ms < GIVEN_UP_MS) /* or the machine has stopped us for so long */
		ck_assert_uint_eq(w->service.connections, 1);
	remote_world_close(w);
}
END_TEST

/* ---- what the service's pool is not for ------------------------------------------------------------------- */

/* Neighbours that were shared at different times: there is something to be joined. */
static void share_odd_pages_later(struct remote_world *w)
{
	for (int i = 0; i < 2; i++)
		for (uint32_t k = 1; k < PAGES; k += 2)
			page_repeat(w->ram[i] + (size_t)k * PAGE, 0);
	assert_ok(gmm_engine_start(w->gmm));
	assert_eventually(remote_world_shared(w) == PAGES - 2);
	for (int i = 0; i < 2; i++)
		for (uint32_t k = 1; k < PAGES; k += 2)
			page_fill(w->ram[i] + (size_t)k * PAGE, SEED + k);
	assert_eventually(remote_world_shared(w) == 2 * (PAGES - 1));
	check_ram(w);
}

START_TEST(the_pool_of_a_service_is_not_tidied_up)
{
	struct remote_world *w = open_world();
	uint64_t chunks = 99;
	struct gmm_stats stats;
	struct stat before, after;

	share_odd_pages_later(w);
	ck_assert_int_eq(fstat(w->service.pool, &before), 0);
	assert_ok(gmm_instance_compact(w->gmm, &chunks));
	ck_assert_uint_eq(chunks, 0);
	assert_ok(gmm_instance_stats(w->gmm, &stats));
	ck_assert_uint_eq(stats.total.rehomes, 0);
	ck_assert_int_eq(fstat(w->service.pool, &after), 0);
	ck_assert_int_eq(before.st_size, after.st_size);
	check_ram(w);
	remote_world_close(w);
}
END_TEST

/* An errand that names a page of the service's pool: nobody there counts its reference. */
static void join_without_reference(void *arg, const struct gmm__merge *merge)
{
	struct remote_world *w = arg;
	struct gmm__slot *from = w->vm[0]->slots->slot[0], *to = w->vm[1]->slots->slot[0];
	struct gmm__run run = { .kind = GMM__VERDICT_JOIN, .first = 5, .count = 1, .page = from->value[5] };
	struct gmm__merge with = *merge;

	with.catalog = w->vm[1]->domain->catalog;
	ck_assert(gmm__vm_claim(w->vm[1], false));
	gmm__slot_set(to, 5, GMM_PAGE_NOMINATED, 0);
	gmm__merge_claimed(&with, to, &run);
	ck_assert_int_eq(gmm__slot_state(to, 5), GMM_PAGE_NOMINATED);
	gmm__vm_release(w->vm[1]);
}

START_TEST(errands_merge_nothing)
{
	struct remote_world *w = open_world();

	assert_ok(gmm_engine_start(w->gmm));
	assert_eventually(remote_world_shared(w) == 2 * (PAGES - 1));
	assert_ok(gmm_engine_stop(w->gmm));
	assert_ok(gmm_vm_unshare(w->vm[1], 5 * PAGE, PAGE));
	gmm__errand_call(w->gmm, join_without_reference, w);
	check_ram(w);
	remote_world_close(w);
}
END_TEST

/* A limit of the embedder's own ends, and the service's is in force again. */
START_TEST(the_limit_of_the_service_comes_back)
{
	struct remote_world *w = open_world();

	w->service.cpu_percent = 70;
	w->service.limited = true;
	assert_ok(gmm_engine_start(w->gmm));
	assert_eventually(w->gmm->engine->cpu_percent == 70);
	assert_ok(gmm_engine_settle(w->gmm, 60000, 90));
	assert_eventually(w->gmm->engine->cpu_percent == 70);
	w->service.limited = false;
	assert_eventually(w->gmm->engine->cpu_percent == 0);
	remote_world_close(w);
}
END_TEST

int main(void)
{
	const TTest *tests[] = {
		no_service_is_an_error,
		equal_pages_are_shared,
		changes_by_call_are_told,
		a_write_is_told,
		a_written_page_is_shared_again,
		the_service_pauses_and_unshares,
		no_lie_harms_the_guest,
		noise_does_not_harm_the_guest,
		pages_with_other_bytes_are_not_mapped,
		a_connection_is_renewed,
		a_service_that_forgot_is_told_all,
		to_pause_does_not_wait_for_a_stuck_service,
		to_stop_does_not_wait_for_a_stuck_service,
		to_end_a_vm_does_not_wait_for_a_stuck_service,
		a_slow_service_is_waited_for,
		the_pool_of_a_service_is_not_tidied_up,
		errands_merge_nothing,
		the_limit_of_the_service_comes_back,
	};

	return suite_main("remote", tests, sizeof tests / sizeof *tests);
}
