/* The rest between two passes: with a window that became longer since guests write a lot it ends as soon as they do not, and
 * with one that became shorter since pages come to be shared it is as long as passes are cheap. */
#include <pthread.h>
#include <stdatomic.h>

#include "dedup/instance.h"
#include "dedup/pace.h"
#include "tests/support/suite.h"
#include "tests/unit/support/hand_engine.h"

enum { WINDOW_MS = 150, LONG_WINDOW_MS = 2000, SHIFT = 3, ENDLESS_SHIFT = 10 };

static struct gmm *gmm;
static struct gmm__engine *engine;
static struct gmm__sys sys;
static _Atomic bool ended;

/* What the guests use of the processors is said by the test: whoever else runs here may leave little for busy threads. */
static uint64_t one_processor_ns(void)
{
	return gmm__sys_linux()->clock_ns();
}

static uint64_t none_ns(void)
{
	return 0;
}

static void open_engine(void)
{
	struct gmm_options options;

	sys = *gmm__sys_linux();
	sys.process_cpu_ns = none_ns;
	gmm_options_init(&options);
	options.log = suite_log;
	options.window_ms = WINDOW_MS;
	assert_ok(gmm__instance_open(&options, &sys, &gmm));
	engine = hand_engine_new(gmm, gmm__backend_mapped());
	engine->window_shift = ENDLESS_SHIFT;
	engine->hurry = false;
}

static void close_engine(void)
{
	hand_engine_free(engine);
	assert_ok(gmm_instance_close(gmm));
}

static uint64_t rest_ms(void)
{
	uint64_t start_ms = now_ms();

	gmm__pace_rest(engine);
	return now_ms() - start_ms;
}

START_TEST(the_rest_ends_when_guests_are_quiet)
{
	open_engine();
	ck_assert_uint_ge(rest_ms(), WINDOW_MS);
	ck_assert_uint_eq(engine->window_shift, 0);
	engine->window_shift = ENDLESS_SHIFT;
	ck_assert_uint_lt(rest_ms(), (uint64_t)WINDOW_MS << (ENDLESS_SHIFT - 1));
	ck_assert_uint_ge(rest_ms(), WINDOW_MS); /* the window itself stays */
	close_engine();
}
END_TEST

static void *be_busy(void *arg)
{
	while (!ended)
		;
	return arg;
}

START_TEST(the_rest_lasts_while_guests_run)
{
	open_engine();
	sys.process_cpu_ns = one_processor_ns;
	engine->window_shift = SHIFT;
	ck_assert_uint_ge(rest_ms(), WINDOW_MS << SHIFT);
	ck_assert_uint_eq(engine->window_shift, SHIFT);
	close_engine();
}
END_TEST

/* The kernel's count, which the test does without above, is that of other threads, too. */
START_TEST(the_time_of_all_threads_counts)
{
	enum { NS = 20000000 };
	const struct gmm__sys *host = gmm__sys_linux();
	uint64_t start_ns = host->process_cpu_ns() - host->thread_cpu_ns();
	pthread_t thread;

	ck_assert_int_eq(pthread_create(&thread, NULL, be_busy, NULL), 0);
	assert_eventually(host->process_cpu_ns() - host->thread_cpu_ns() > start_ns + NS);
	ended = true;
	pthread_join(thread, NULL);
}
END_TEST

START_TEST(new_memory_rests_for_a_part_of_the_window)
{
	open_engine();
	gmm->options.window_ms = LONG_WINDOW_MS;
	engine->window_shift = 0;
	engine->hurry = true;
	ck_assert_uint_eq(gmm__pace_rest_ms(engine), LONG_WINDOW_MS / 4);
	gmm->options.window_ms = WINDOW_MS; /* short already */
	ck_assert_uint_eq(gmm__pace_rest_ms(engine), WINDOW_MS);
	rest_ms();
	gmm->options.window_ms = LONG_WINDOW_MS;
	ck_assert_uint_eq(gmm__pace_rest_ms(engine), LONG_WINDOW_MS); /* once */
	close_engine();
}
END_TEST

START_TEST(the_window_is_short_while_pages_come_to_be_shared)
{
	enum { NS_PER_MS = 1000000 };

	open_engine();
	gmm->options.window_ms = LONG_WINDOW_MS;
	engine->window_shift = 0;
	engine->lately_merged = 1000;
	engine->pass_cpu_ns = 0;
	ck_assert_uint_eq(gmm__pace_rest_ms(engine), LONG_WINDOW_MS / 8);
	engine->pass_cpu_ns = 2 * NS_PER_MS;
	ck_assert_uint_eq(gmm__pace_rest_ms(engine), LONG_WINDOW_MS / 8); /* cheap */
	engine->pass_cpu_ns = 20 * NS_PER_MS; /* one part in 24 of the time */
	ck_assert_uint_eq(gmm__pace_rest_ms(engine), 480);
	engine->quiet_passes = 9; /* too few for what is called work, and still worth a look */
	ck_assert_uint_lt(gmm__pace_rest_ms(engine), LONG_WINDOW_MS);
	engine->pass_cpu_ns = 1000 * NS_PER_MS;
	engine->quiet_passes = 0;
	ck_assert_uint_eq(gmm__pace_rest_ms(engine), LONG_WINDOW_MS);
	engine->pass_cpu_ns = 0;
	engine->lately_merged = 10;
	ck_assert_uint_eq(gmm__pace_rest_ms(engine), LONG_WINDOW_MS);
	engine->lately_merged = 1000;
	engine->window_shift = 1; /* shared pages are written soon after */
	ck_assert_uint_eq(gmm__pace_rest_ms(engine), 2 * LONG_WINDOW_MS);
	close_engine();
}
END_TEST

START_TEST(passes_that_share_nothing_rest_by_what_they_cost)
{
	enum { NS_PER_MS = 1000000 };

	open_engine();
	engine->window_shift = 0;
	engine->hurry = false;
	engine->pass_cpu_ns = 20 * NS_PER_MS;
	engine->barren_passes = 15;
	ck_assert_uint_eq(gmm__pace_rest_ms(engine), 15 * 20);
	engine->barren_passes = 1; /* less than a window */
	ck_assert_uint_eq(gmm__pace_rest_ms(engine), WINDOW_MS);
	engine->barren_passes = 15;
	engine->pass_cpu_ns = 100000 * (uint64_t)NS_PER_MS; /* there is a limit to it */
	ck_assert_uint_le(gmm__pace_rest_ms(engine), 8000);
	engine->awaited = 1; /* somebody waits */
	ck_assert_uint_eq(gmm__pace_rest_ms(engine), WINDOW_MS);
	engine->awaited = 0;
	engine->hurry = true; /* new memory */
	ck_assert_uint_eq(gmm__pace_rest_ms(engine), WINDOW_MS);
	close_engine();
}
END_TEST

static bool looks_at_covers(uint64_t passes, uint32_t window_shift, uint8_t level)
{
	static struct gmm_vm vm;
	struct gmm__effort effort = { .level = level };

	engine->passes = passes;
	engine->window_shift = window_shift;
	return gmm__pace_options(engine, &vm, &effort).covers;
}

START_TEST(written_shared_pages_are_looked_for_when_it_is_time)
{
	open_engine();
	engine->next_cover = 5;
	ck_assert(!looks_at_covers(4, 0, 0));
	ck_assert(looks_at_covers(5, 0, 0));
	ck_assert(looks_at_covers(4, 1, 0)); /* passes are seldom */
	ck_assert(looks_at_covers(4, 0, 1)); /* visits of the region are */
	close_engine();
}
END_TEST

static uint32_t shift_after(uint64_t merged, uint64_t broken)
{
	engine->progress = (struct gmm__progress){ .merged = merged, .broken = broken };
	gmm__pace_conclude(engine);
	return engine->window_shift;
}

START_TEST(the_window_follows_what_is_written_soon)
{
	open_engine();
	engine->window_shift = 0;
	ck_assert_uint_eq(shift_after(2000, 1000), 1);
	ck_assert_uint_eq(shift_after(2000, 1000), 2);
	for (int i = 0; i < 3; i++)
		ck_assert_uint_eq(shift_after(2000, 1000), 3);
	ck_assert_uint_eq(shift_after(0, 0), 1);
	ck_assert_uint_eq(shift_after(8000, 1000), 1); /* neither many nor few */
	ck_assert_uint_eq(shift_after(0, 0), 0);
	close_engine();
}
END_TEST

START_TEST(memory_that_came_in_a_pass_keeps_it_from_settling)
{
	open_engine();
	engine->window_shift = 0;
	engine->disturbed = true;
	shift_after(0, 0);
	ck_assert(!engine->settled);
	shift_after(0, 0);
	ck_assert(engine->settled);
	close_engine();
}
END_TEST

int main(void)
{
	const TTest *tests[] = { the_rest_ends_when_guests_are_quiet, the_rest_lasts_while_guests_run,
				 the_time_of_all_threads_counts,
				 new_memory_rests_for_a_part_of_the_window,
				 the_window_is_short_while_pages_come_to_be_shared,
				 passes_that_share_nothing_rest_by_what_they_cost,
				 written_shared_pages_are_looked_for_when_it_is_time,
				 the_window_follows_what_is_written_soon,
				 memory_that_came_in_a_pass_keeps_it_from_settling };

	return suite_main("pace", tests, sizeof tests / sizeof *tests);
}
