/* An engine that works on several VMs at once: all VMs are visited in every pass, all that is equal comes to be shared, no
 * byte of a guest that writes is lost, and the engine can be paused, stopped and told to settle at any time.
 */
#include "tests/support/guest.h"
#include "tests/support/suite.h"

#include <pthread.h>
#include <stdatomic.h>

enum { VMS = 8, EQUAL = 1024, OWN = 64, HOT = 64, OWN_AT = EQUAL, HOT_AT = OWN_AT + OWN, PAGES = HOT_AT + HOT, THREADS = 4 };

#define EQUAL_SEED 1000u
#define HOT_SEED 7000u

static struct gmm *gmm;
static struct gmm_vm *vm[VMS];
static char *ram[VMS];

static uint64_t own_seed(int v)
{
	return 100000u + (uint64_t)v * 1000u;
}

static void open_vm(int v)
{
	vm[v] = vm_create(gmm, NULL);
	ram[v] = vm_adopt_ram(vm[v], 0, PAGES);
	ram_fill(ram[v], EQUAL, EQUAL_SEED);
	ram_fill(ram[v] + OWN_AT * PAGE, OWN, own_seed(v));
	ram_fill(ram[v] + HOT_AT * PAGE, HOT, HOT_SEED);
}

static void open_all(uint32_t agent_threads, uint32_t cpu_percent)
{
	struct gmm_options options;

	gmm_options_init(&options);
	options.log = suite_log;
	options.window_ms = 0;
	options.pass_interval_ms = 1;
	options.cpu_percent = cpu_percent;
	options.agent_threads = agent_threads;
	assert_ok(gmm_instance_open(&options, &gmm));
	for (int v = 0; v < VMS; v++)
		open_vm(v);
}

static void close_all(void)
{
	assert_ok(gmm_instance_validate(gmm));
	for (int v = 0; v < VMS; v++) {
		if (vm[v])
			assert_ok(gmm_vm_destroy(vm[v], GMM_RAM_DISCARD));
		ram_unmap(ram[v], PAGES);
	}
	assert_ok(gmm_instance_close(gmm));
}

static void assert_bytes(int v)
{
	ck_assert_uint_eq(ram_wrong(ram[v], EQUAL, EQUAL_SEED), 0);
	ck_assert_uint_eq(ram_wrong(ram[v] + OWN_AT * PAGE, OWN, own_seed(v)), 0);
}

static void assert_all_shared(void)
{
	for (int v = 0; v < VMS; v++) {
		ck_assert_uint_eq(vm_state(vm[v], GMM_PAGE_UNIQUE), OWN);
		ck_assert_uint_eq(vm_state(vm[v], GMM_PAGE_SHARED), EQUAL + HOT);
		assert_bytes(v);
	}
}

/* Once the engine has settled, each content is shared by all, and once: all VMs have it at the same places, where workers come
 * to it in the same moment. */
static void share_all(uint32_t agent_threads)
{
	open_all(agent_threads, 0);
	engine_settle(gmm);
	assert_all_shared();
	ck_assert_uint_eq(stats_of(gmm).saved_pages, (uint64_t)(VMS - 1) * (EQUAL + HOT));
	close_all();
}

START_TEST(all_that_is_equal_is_shared)
{
	for (uint32_t threads = 1; threads <= THREADS; threads *= 2)
		share_all(threads);
}
END_TEST

/* ---- guests that write --------------------------------------------------------------------------------------------- */

static atomic_bool stop;
static uint64_t last[VMS][HOT];

/* Writes the number of its round into the hot pages of two VMs, which keep it in word 1. */
static void *write_main(void *arg)
{
	int first = *(int *)arg;
	uint64_t round = 0, state = 1 + (uint64_t)first;

	while (!atomic_load(&stop)) {
		round++;
		for (int v = first; v < first + 2; v++) {
			size_t page = random_next(&state) % HOT;
			guest_store(ram[v] + (HOT_AT + page) * PAGE, 1, round % 3);
			last[v][page] = round % 3 + 1;
		}
		if (round % 1024 == 0) /* scan threads run when nobody else does */
			sleep_ms(1);
	}
	return NULL;
}

static void assert_last_writes(void)
{
	for (int v = 0; v < VMS; v++)
		for (size_t page = 0; page < HOT; page++)
			if (last[v][page])
				ck_assert_uint_eq(guest_load(ram[v] + (HOT_AT + page) * PAGE, 1), last[v][page] - 1);
}

START_TEST(no_byte_is_lost_under_writers)
{
	pthread_t writer[VMS / 2];
	int first[VMS / 2];

	atomic_store(&stop, false);
	open_all(THREADS, 0);
	assert_ok(gmm_engine_start(gmm));
	for (int i = 0; i < VMS / 2; i++) {
		first[i] = 2 * i;
		ck_assert_int_eq(pthread_create(&writer[i], NULL, write_main, &first[i]), 0);
	}
	engine_passes(gmm, 10);
	assert_ok(gmm_vm_unshare(vm[3], 0, EQUAL * (uint64_t)PAGE));
	assert_ok(gmm_instance_validate(gmm));
	assert_ok(gmm_engine_pause(gmm)); /* no worker is in a pass any more */
	uint64_t passes = stats_of(gmm).passes;
	sleep_ms(20);
	ck_assert_uint_eq(stats_of(gmm).passes, passes);
	assert_ok(gmm_engine_start(gmm));
	engine_passes(gmm, 5);
	assert_ok(gmm_vm_destroy(vm[VMS - 1], GMM_RAM_KEEP)); /* while others are scanned, and its guest writes */
	vm[VMS - 1] = NULL;
	engine_passes(gmm, 5);
	atomic_store(&stop, true);
	for (int i = 0; i < VMS / 2; i++)
		pthread_join(writer[i], NULL);
	engine_settle(gmm);
	ck_assert_uint_gt(stats_of(gmm).total.merges, (uint64_t)(VMS - 2) * EQUAL);
	for (int v = 0; v < VMS; v++)
		assert_bytes(v);
	assert_last_writes();
	close_all();
}
END_TEST

/* ---- limits ---------------------------------------------------------------------------------------------------------- */

/* The share of a core is that of all threads together. */
START_TEST(the_cpu_limit_covers_all_workers)
{
	enum { PERCENT = 20, MS = 500, SLACK_MS = 200 };

	open_all(THREADS, PERCENT);
	assert_ok(gmm_engine_start(gmm));
	uint64_t start = now_ms(), cpu_ns = stats_of(gmm).cpu_ns;
	while (now_ms() < start + MS) {
		for (int v = 0; v < VMS; v++)
			ram_fill(ram[v], EQUAL, EQUAL_SEED);
		sleep_ms(10);
	}
	ck_assert_uint_le((stats_of(gmm).cpu_ns - cpu_ns) / 1000000, (now_ms() - start) * PERCENT / 100 + SLACK_MS);
	close_all();
}
END_TEST

START_TEST(numbers_of_threads)
{
	struct gmm_options options;

	gmm_options_init(&options);
	ck_assert_uint_eq(options.agent_threads, 0);
	options.agent_threads = GMM_AGENT_THREADS_MAX + 1;
	gmm = NULL;
	assert_status(gmm_instance_open(&options, &gmm), GMM_ERR_INVALID_PARAMETER);
	open_all(GMM_AGENT_THREADS_MAX, 0); /* more than VMs: the others sleep */
	engine_settle(gmm);
	assert_ok(gmm_engine_stop(gmm));
	assert_ok(gmm_engine_start(gmm));
	engine_passes(gmm, 3);
	engine_settle(gmm);
	assert_all_shared();
	close_all();
}
END_TEST

int main(void)
{
	const TTest *tests[] = { all_that_is_equal_is_shared, no_byte_is_lost_under_writers,
				 the_cpu_limit_covers_all_workers, numbers_of_threads };

	return suite_main("agents", tests, sizeof tests / sizeof *tests);
}
