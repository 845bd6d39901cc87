/* The client side of a sharing service: it shares what the service says only where the bytes are equal, and no answer of the
 * service, however wrong, harms the guest. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "tests/support/guest.h"
#include "tests/support/suite.h"
#include "tests/unit/support/tiny_service.h"

enum { PAGES = 512, SEED = 1000 };

struct world {
	struct tiny_service service;
	struct gmm *gmm;
	struct gmm_vm *vm[2];
	char *ram[2];
};

/* Two VMs with PAGES pages of equal content each. */
static struct world *open_repairing(enum gmm_repair repair)
{
	struct world *w = calloc(1, sizeof *w);
	struct gmm_options options;
	void *ram;

	ck_assert_ptr_nonnull(w);
	tiny_service_start(&w->service);
	gmm_options_init(&options);
	options.log = suite_log;
	options.window_ms = 0;
	options.pass_interval_ms = 1;
	options.cpu_percent = 0;
	options.socket = w->service.path;
	options.repair = repair;
	assert_ok(gmm_instance_open(&options, &w->gmm));
	for (int i = 0; i < 2; i++) {
		assert_ok(gmm_vm_create(w->gmm, NULL, &w->vm[i]));
		assert_ok(gmm_vm_create_ram(w->vm[i], 0, PAGES * PAGE, &ram));
		w->ram[i] = ram;
		ram_fill(w->ram[i], PAGES, SEED);
		page_repeat(w->ram[i], 0);
	}
	return w;
}

static struct world *open_world(void)
{
	return open_repairing(GMM_REPAIR_NEVER);
}

static void check_ram(const struct world *w)
{
	for (int i = 0; i < 2; i++) {
		ck_assert(page_repeats(w->ram[i], 0));
		ck_assert_uint_eq(ram_wrong(w->ram[i] + PAGE, PAGES - 1, SEED + 1), 0);
	}
}

static uint64_t shared_pages(struct world *w)
{
	struct gmm_stats stats;

	assert_ok(gmm_instance_stats(w->gmm, &stats));
	return stats.total.references;
}

static uint64_t passes(struct world *w)
{
	struct gmm_stats stats;

	assert_ok(gmm_instance_stats(w->gmm, &stats));
	return stats.passes;
}

static void close_world(struct world *w)
{
	assert_ok(gmm_instance_validate(w->gmm));
	for (int i = 0; i < 2; i++)
		assert_ok(gmm_vm_destroy(w->vm[i], GMM_RAM_DISCARD));
	assert_ok(gmm_instance_close(w->gmm));
	tiny_service_stop(&w->service);
	free(w);
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
	struct world *w = open_world();

	assert_ok(gmm_engine_start(w->gmm));
	assert_eventually(shared_pages(w) == 2 * (PAGES - 1));
	check_ram(w);
	assert_ok(gmm_engine_wait_settled(w->gmm, 20000));
	for (int i = 1; i < PAGES; i++)
		assert_eventually((w->service.state[i] & 15) == GMM_PAGE_SHARED);
	ck_assert_int_eq(w->service.state[0] & 15, GMM_PAGE_ZERO);
	close_world(w);
}
END_TEST

/* What happens outside the engine is told at the next visit. */
START_TEST(changes_by_call_are_told)
{
	struct world *w = open_world();

	assert_ok(gmm_engine_start(w->gmm));
	assert_eventually(shared_pages(w) == 2 * (PAGES - 1));
	assert_ok(gmm_vm_discard(w->vm[0], PAGE, 10 * PAGE));
	for (int i = 1; i <= 10; i++)
		assert_eventually((w->service.state[i] & 15) == GMM_PAGE_ABSENT);
	ck_assert_uint_eq(ram_not_zero(w->ram[0], 11), 0);
	ck_assert_uint_eq(ram_wrong(w->ram[1] + PAGE, PAGES - 1, SEED + 1), 0);
	close_world(w);
}
END_TEST

START_TEST(a_write_is_told)
{
	struct world *w = open_world();

	assert_ok(gmm_engine_start(w->gmm));
	assert_eventually(shared_pages(w) == 2 * (PAGES - 1));
	guest_store(w->ram[0] + 5 * PAGE, 0, 77);
	assert_eventually((w->service.state[5] & 15) == GMM_PAGE_BROKEN);
	ck_assert(page_is(w->ram[1] + 5 * PAGE, SEED + 5));
	ck_assert_uint_eq(guest_load(w->ram[0] + 5 * PAGE, 0), 77);
	close_world(w);
}
END_TEST

START_TEST(a_written_page_is_shared_again)
{
	struct world *w = open_repairing(GMM_REPAIR_PROMISED);

	assert_ok(gmm_engine_start(w->gmm));
	assert_eventually(shared_pages(w) == 2 * (PAGES - 1));
	guest_store(w->ram[0] + 5 * PAGE, 0, 77);
	assert_eventually((w->service.state[5] & 15) == GMM_PAGE_BROKEN);
	ck_assert_uint_eq(guest_load(w->ram[0] + 5 * PAGE, 0), 77);
	page_fill(w->ram[0] + 5 * PAGE, SEED + 5);
	page_fill(w->ram[0] + 6 * PAGE, SEED + 7);
	assert_eventually((w->service.state[5] & 15) == GMM_PAGE_SHARED);
	assert_eventually(shared_pages(w) == 2 * (PAGES - 1));
	ck_assert(page_is(w->ram[0] + 6 * PAGE, SEED + 7));
	page_fill(w->ram[0] + 6 * PAGE, SEED + 6);
	check_ram(w);
	close_world(w);
}
END_TEST

START_TEST(the_service_pauses_and_unshares)
{
	struct world *w = open_world();

	assert_ok(gmm_engine_start(w->gmm));
	assert_eventually(shared_pages(w) == 2 * (PAGES - 1));
	w->service.paused = true;
	w->service.unshare = 3;
	assert_eventually(w->service.unshared == 3);
	ck_assert_uint_eq(shared_pages(w), 0);
	check_ram(w);
	uint64_t now = passes(w);
	assert_eventually(passes(w) > now + 3);
	ck_assert_uint_eq(shared_pages(w), 0);
	w->service.paused = false;
	assert_eventually(shared_pages(w) > 0);
	check_ram(w);
	close_world(w);
}
END_TEST

static struct world *run_lie(enum lie lie, uint32_t about, uint64_t seed)
{
	struct world *w = open_world();

	w->service.lie = lie;
	w->service.lie_about = about;
	w->service.seed = seed;
	assert_ok(gmm_engine_start(w->gmm));
	uint64_t end = now_ms() + 2000;
	while (w->service.lies_told < 3 && passes(w) < 50 && now_ms() < end)
		sleep_ms(1);
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
			close_world(run_lie(lie, answered[i], 0));
}
END_TEST

START_TEST(noise_does_not_harm_the_guest)
{
	for (uint64_t seed = 1; seed <= 20; seed++)
		close_world(run_lie(LIE_NOISE, 0, seed * 12345));
}
END_TEST

/* Other bytes than the fingerprint says: the compare finds out. */
START_TEST(pages_with_other_bytes_are_not_mapped)
{
	struct world *w = open_world();

	assert_ok(gmm_engine_start(w->gmm));
	assert_eventually(shared_pages(w) == 2 * (PAGES - 1));
	w->service.lie = LIE_CONTENT;
	assert_ok(gmm_vm_unshare(w->vm[0], 0, PAGES * PAGE));
	uint64_t now = passes(w);
	assert_eventually(passes(w) > now + 10);
	check_ram(w);
	close_world(w);
}
END_TEST

/* A connection that broke comes back, and sharing goes on; a service that forgot the client is told all. */
static void renew(bool forget)
{
	struct world *w = open_world();

	w->service.forget = forget;
	assert_ok(gmm_engine_start(w->gmm));
	assert_eventually(shared_pages(w) == 2 * (PAGES - 1));
	w->service.lie_about = GMM__WIRE_POLL;
	w->service.lie = LIE_CLOSE;
	assert_eventually(w->service.lies_told > 0);
	w->service.lie = LIE_NONE;
	check_ram(w);
	assert_eventually(w->service.connections > 1);
	guest_store(w->ram[0] + 5 * PAGE, 0, 77);
	assert_eventually((w->service.state[5] & 15) == GMM_PAGE_BROKEN);
	assert_ok(gmm_vm_unshare(w->vm[0], 0, PAGES * PAGE));
	assert_eventually(shared_pages(w) == 2 * (PAGES - 1) - 1);
	ck_assert(page_is(w->ram[1] + 5 * PAGE, SEED + 5));
	close_world(w);
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
	};

	return suite_main("remote", tests, sizeof tests / sizeof *tests, 280);
}
