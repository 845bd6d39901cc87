/* The settled state: its event, its estimate, and that whoever waits for it gets all there is to share, also from memory
 * that the engine has come to visit seldom.
 */
#include "tests/support/guest.h"
#include "tests/support/suite.h"

enum { PAGES = 16384, TOLD_MAX = 64 };

static enum gmm_event told[TOLD_MAX];
static _Atomic unsigned n_told;

static void note(void *arg, enum gmm_event event)
{
	ck_assert_ptr_eq(arg, &n_told);
	if (n_told < TOLD_MAX)
		told[n_told] = event;
	n_told++;
}

static struct gmm *open_noting(uint32_t window_ms, uint32_t cpu_percent)
{
	struct gmm_options options;
	struct gmm *gmm = NULL;

	gmm_options_init(&options);
	options.log = suite_log;
	options.window_ms = window_ms;
	options.pass_interval_ms = 5;
	options.cpu_percent = cpu_percent;
	options.event = note;
	options.event_arg = &n_told;
	n_told = 0;
	assert_ok(gmm_instance_open(&options, &gmm));
	return gmm;
}

static void close_all(struct gmm *gmm, struct gmm_vm *a, struct gmm_vm *b)
{
	assert_ok(gmm_engine_stop(gmm));
	assert_ok(gmm_instance_validate(gmm));
	assert_ok(gmm_vm_destroy(a, GMM_RAM_DISCARD));
	assert_ok(gmm_vm_destroy(b, GMM_RAM_DISCARD));
	assert_ok(gmm_instance_close(gmm));
}

START_TEST(events_come_in_turn)
{
	struct gmm *gmm = open_noting(0, 0);
	struct gmm_vm *a = vm_create(gmm, NULL), *b = vm_create(gmm, NULL);
	char *ram = vm_create_ram(a, 0, 1024);

	ram_fill(ram, 1024, 1);
	assert_ok(gmm_engine_start(gmm));
	assert_ok(gmm_engine_wait_settled(gmm, 60000));
	assert_eventually(n_told == 1);
	ck_assert_uint_eq(stats_of(gmm).settle_estimate_ms, 0);
	ram_fill(vm_create_ram(b, 0, 1024), 1024, 1); /* new RAM: there is work again */
	assert_eventually(n_told >= 2);
	assert_ok(gmm_engine_wait_settled(gmm, 60000));
	assert_eventually(told[n_told - 1] == GMM_EVENT_SETTLED);
	for (unsigned i = 0; i < n_told; i++)
		ck_assert_int_eq(told[i], i % 2 == 0 ? GMM_EVENT_SETTLED : GMM_EVENT_UNSETTLED);
	ck_assert_uint_eq(stats_of(gmm).saved_pages, 1024);
	close_all(gmm, a, b);
}
END_TEST

/* After so many passes most regions are visited once in 16. A wait sees what was written since all the same. */
START_TEST(waiting_finds_what_is_visited_seldom)
{
	struct gmm *gmm = open_noting(0, 0);
	struct gmm_vm *a = vm_create(gmm, NULL), *b = vm_create(gmm, NULL);
	char *ram[2] = { vm_create_ram(a, 0, PAGES), vm_create_ram(b, 0, PAGES) };

	ram_fill(ram[0], PAGES, 1);
	ram_fill(ram[1], PAGES, 1000000);
	engine_settle(gmm);
	engine_passes(gmm, 40);
	for (unsigned round = 0; round < 4; round++) {
		size_t first = 2048 + round * 2048;
		ram_fill(ram[0] + first * PAGE, 64, 5000000 + round * 100);
		ram_fill(ram[1] + first * PAGE, 64, 5000000 + round * 100);
		engine_passes(gmm, 2); /* which skip the region, or find the writes themselves */
		assert_ok(gmm_engine_wait_settled(gmm, 60000));
		ck_assert_uint_eq(stats_of(gmm).saved_pages, (round + 1) * 64);
	}
	close_all(gmm, a, b);
}
END_TEST

/* The engine has settled and rests for long: that says nothing about what is written then. */
START_TEST(waiting_finds_what_was_written_while_the_engine_rested)
{
	struct gmm_options options;
	struct gmm *gmm = NULL;

	gmm_options_init(&options);
	options.log = suite_log;
	options.window_ms = 1;
	options.pass_interval_ms = 5000;
	assert_ok(gmm_instance_open(&options, &gmm));
	struct gmm_vm *a = vm_create(gmm, NULL), *b = vm_create(gmm, NULL);
	char *ram[2] = { vm_create_ram(a, 0, 512), vm_create_ram(b, 0, 512) };
	engine_settle(gmm);
	ram_fill(ram[0], 256, 1);
	ram_fill(ram[1], 256, 1);
	assert_ok(gmm_engine_wait_settled(gmm, 60000));
	ck_assert_uint_eq(stats_of(gmm).saved_pages, 256);
	/* Short waits go on with each other. */
	ram_fill(ram[0] + 256 * PAGE, 256, 1000);
	ram_fill(ram[1] + 256 * PAGE, 256, 1000);
	int status;
	while ((status = gmm_engine_wait_settled(gmm, 0)) == GMM_ERR_TIMEOUT)
		sleep_ms(1);
	assert_ok(status);
	ck_assert_uint_eq(stats_of(gmm).saved_pages, 512);
	close_all(gmm, a, b);
}
END_TEST

/* The guess is made from what the engine knows and the limit it has: right within a factor. */
START_TEST(estimate_is_of_the_right_size)
{
	struct gmm *gmm = open_noting(100, 10);
	struct gmm_vm *a = vm_create(gmm, NULL), *b = vm_create(gmm, NULL);

	ram_fill(vm_create_ram(a, 0, PAGES), PAGES, 1);
	ram_fill(vm_create_ram(b, 0, PAGES), PAGES, 1);
	assert_ok(gmm_engine_start(gmm));
	uint64_t first = stats_of(gmm).settle_estimate_ms, start = now_ms();
	ck_assert_uint_gt(first, 0);
	assert_ok(gmm_engine_wait_settled(gmm, 60000));
	uint64_t took = now_ms() - start;
	ck_assert_msg(first < took * 10 && took < first * 10, "estimated %lu ms, took %lu ms", (unsigned long)first,
		      (unsigned long)took);
	ck_assert_uint_eq(stats_of(gmm).settle_estimate_ms, 0);
	close_all(gmm, a, b);
}
END_TEST

int main(void)
{
	const TTest *tests[] = { events_come_in_turn, waiting_finds_what_is_visited_seldom,
				 waiting_finds_what_was_written_while_the_engine_rested, estimate_is_of_the_right_size };

	return suite_main("settle", tests, sizeof tests / sizeof *tests);
}
