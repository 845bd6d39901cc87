/* Balloons on the real kernel: the memory leaves, no shared page shows through, pages told twice count once; arbitration
 * with pressure files of the test's own and with the kernel's; an engine that works only under pressure. */
#include <gmm/balloon.h>

#include "tests/support/guest.h"
#include "tests/support/proc.h"
#include "tests/support/suite.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PAGES = 512, SEED = 600 };

static struct gmm *gmm;
static struct gmm_vm *vm[2];
static char *ram[2];

static void open_pair(void)
{
	gmm = instance_open();
	for (int i = 0; i < 2; i++) {
		vm[i] = vm_create(gmm, NULL);
		ram[i] = i ? vm_adopt_ram(vm[i], 0, PAGES) : vm_create_ram(vm[i], 0, PAGES);
		ram_fill(ram[i], PAGES, SEED);
	}
}

static void close_pair(void)
{
	assert_ok(gmm_instance_validate(gmm));
	for (int i = 0; i < 2; i++)
		assert_ok(gmm_vm_destroy(vm[i], GMM_RAM_DISCARD));
	assert_ok(gmm_instance_close(gmm));
}

static uint64_t inflate(int i, size_t page, size_t pages)
{
	uint64_t count = 4711;

	assert_ok(gmm_vm_balloon_inflate(vm[i], page * PAGE, pages * PAGE, &count));
	return count;
}

START_TEST(the_memory_leaves)
{
	open_pair();
	engine_settle(gmm);
	assert_eventually(vm_state(vm[0], GMM_PAGE_SHARED) == PAGES && vm_state(vm[1], GMM_PAGE_SHARED) == PAGES);
	guest_store(ram[0] + 5 * PAGE, 7, 1); /* a copy over a shared page */
	for (int i = 0; i < 2; i++) {
		ck_assert_uint_eq(inflate(i, 0, 256), 256);
		ck_assert_uint_eq(inflate(i, 100, 256), 100); /* the guest tells some of them again */
		ck_assert_uint_eq(proc_smaps_kb(ram[i], 356 * PAGE, "Rss"), 0);
		ck_assert_uint_eq(ram_not_zero(ram[i], 356), 0);
		ck_assert_uint_eq(ram_wrong(ram[i] + 356 * PAGE, PAGES - 356, SEED + 356), 0);
	}
	ck_assert_uint_eq(stats_of(gmm).pool_pages, PAGES - 356);
	engine_passes(gmm, 20);
	struct gmm_balloon_stats stats;
	assert_ok(gmm_vm_balloon_stats(vm[0], &stats));
	ck_assert_uint_eq(stats.given_pages, 356);
	ck_assert_uint_eq(stats.requested_pages, 0);
	close_pair();
}
END_TEST

START_TEST(used_pages_come_back)
{
	uint64_t pages;

	open_pair();
	inflate(0, 0, PAGES);
	ram_fill(ram[0], 16, SEED); /* without a word */
	engine_settle(gmm);
	assert_eventually(vm_state(vm[0], GMM_PAGE_BALLOONED) == PAGES - 16);
	assert_ok(gmm_vm_balloon_deflate(vm[0], 16 * PAGE, 16 * PAGE, &pages));
	ck_assert_uint_eq(pages, 16);
	ram_fill(ram[0] + 16 * PAGE, 16, SEED + 16);
	assert_eventually(vm_state(vm[0], GMM_PAGE_SHARED) == 32);
	assert_ok(gmm_vm_balloon_reset(vm[0]));
	ck_assert_uint_eq(vm_state(vm[0], GMM_PAGE_BALLOONED), 0);
	ck_assert_uint_eq(ram_wrong(ram[0], 32, SEED), 0);
	close_pair();
}
END_TEST

START_TEST(pinned_pages_are_refused)
{
	uint64_t pages = 1;

	open_pair();
	assert_ok(gmm_vm_pin(vm[0], 10 * PAGE, 2 * PAGE));
	assert_status(gmm_vm_balloon_inflate(vm[0], 0, 16 * PAGE, &pages), GMM_ERR_PINNED);
	ck_assert_uint_eq(pages, 1);
	ck_assert_uint_eq(ram_wrong(ram[0], PAGES, SEED), 0);
	ck_assert_uint_eq(inflate(0, 0, 10), 10);
	assert_ok(gmm_vm_unpin(vm[0], 10 * PAGE, 2 * PAGE));
	close_pair();
}
END_TEST

START_TEST(bad_arguments)
{
	struct gmm_pressure_options options;

	open_pair();
	assert_status(gmm_vm_balloon_inflate(NULL, 0, PAGE, NULL), GMM_ERR_INVALID_PARAMETER);
	assert_status(gmm_vm_balloon_inflate(vm[0], 0, 0, NULL), GMM_ERR_INVALID_PARAMETER);
	assert_status(gmm_vm_balloon_inflate(vm[0], 1, PAGE, NULL), GMM_ERR_MISALIGNED);
	assert_status(gmm_vm_balloon_inflate(vm[0], (PAGES - 1) * PAGE, 2 * PAGE, NULL), GMM_ERR_NOT_FOUND);
	assert_status(gmm_vm_balloon_deflate(vm[0], PAGES * PAGE, PAGE, NULL), GMM_ERR_NOT_FOUND);
	assert_status(gmm_vm_balloon_reset(NULL), GMM_ERR_INVALID_PARAMETER);
	assert_status(gmm_vm_balloon_stats(vm[0], NULL), GMM_ERR_INVALID_PARAMETER);
	gmm_pressure_options_init(&options);
	options.interval_ms = 1;
	assert_status(gmm_pressure_start(gmm, &options), GMM_ERR_INVALID_PARAMETER);
	gmm_pressure_options_init(&options);
	options.host_path = options.cgroup_path = "/nonexistent";
	assert_status(gmm_pressure_start(gmm, &options), GMM_ERR_NOT_FOUND);
	assert_ok(gmm_pressure_stop(gmm));
	close_pair();
}
END_TEST

/* ---- arbitration --------------------------------------------------------------------------------------------------- */

static char path[] = "/tmp/gmm-pressure-XXXXXX";
static uint64_t stalled_us = 1;

/* Never seen half written: the file is replaced. */
static void set_stall(uint64_t us)
{
	char name[64];

	snprintf(name, sizeof name, "%s.new", path);
	FILE *file = fopen(name, "we");
	ck_assert(file != NULL);
	fprintf(file, "some avg10=0.00 avg60=0.00 avg300=0.00 total=%lu\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
		(unsigned long)us);
	fclose(file);
	ck_assert_int_eq(rename(name, path), 0);
}

static atomic_ulong target;

/* The guest's driver: it gives and takes at once. */
static void drive(void *arg, struct gmm_vm *its, uint64_t pages)
{
	(void)arg;
	atomic_store(&target, pages);
	ck_assert_int_eq(gmm_vm_balloon_deflate(its, 0, PAGES * PAGE, NULL), GMM_OK);
	if (pages)
		ck_assert_int_eq(gmm_vm_balloon_inflate(its, 0, pages * PAGE, NULL), GMM_OK);
}

static void start_arbitration(uint64_t max_bytes)
{
	struct gmm_pressure_options options;

	gmm_pressure_options_init(&options);
	options.host_path = path;
	options.cgroup_path = "";
	options.interval_ms = 10;
	options.max_bytes = max_bytes;
	assert_ok(gmm_pressure_start(gmm, &options));
	assert_status(gmm_pressure_start(gmm, &options), GMM_ERR_WRONG_ORDER);
}

START_TEST(an_engine_that_works_only_under_pressure)
{
	struct gmm_options options;
	struct gmm_pressure_stats stats;

	gmm_options_init(&options);
	options.log = suite_log;
	options.window_ms = options.pass_interval_ms = 0;
	options.only_under_pressure = true;
	assert_ok(gmm_instance_open(&options, &gmm));
	for (int i = 0; i < 2; i++) {
		vm[i] = vm_create(gmm, NULL);
		ram[i] = vm_create_ram(vm[i], 0, PAGES);
		ram_fill(ram[i], PAGES, SEED);
	}
	set_stall(stalled_us);
	start_arbitration(0);
	assert_ok(gmm_engine_start(gmm));
	sleep_ms(100);
	ck_assert_uint_eq(stats_of(gmm).passes, 0);
	assert_ok(gmm_engine_pause(gmm)); /* at rest at once */
	assert_ok(gmm_engine_start(gmm));
	/* Stalled for as long as it takes to be seen, which is over soon after the last stall. */
	assert_eventually((set_stall(stalled_us += 20000), stats_of(gmm).saved_pages == PAGES) &&
			  gmm_pressure_stats(gmm, &stats) == GMM_OK && stats.running &&
			  stats.phase != GMM_PRESSURE_CALM && stats.stall_permille > 50);
	assert_ok(gmm_pressure_stop(gmm));
	close_pair();
}
END_TEST

START_TEST(above_the_maximum_guests_are_asked)
{
	struct gmm_balloon_stats stats;

	open_pair();
	ram_fill(ram[1], PAGES, 900000); /* nothing to share */
	assert_ok(gmm_engine_start(gmm));
	assert_eventually(stats_of(gmm).allocated_pages == 2 * PAGES);
	set_stall(stalled_us);
	assert_ok(gmm_vm_set_balloon(vm[1], PAGES, drive, NULL));
	start_arbitration((uint64_t)(2 * PAGES - 100) * PAGE);
	assert_eventually(stats_of(gmm).allocated_pages <= 2 * PAGES - 100);
	ck_assert_uint_ge(atomic_load(&target), 100);
	assert_eventually(gmm_vm_balloon_stats(vm[1], &stats) == GMM_OK && stats.given_pages == stats.requested_pages);
	ck_assert_uint_eq(ram_wrong(ram[0], PAGES, SEED), 0);
	assert_ok(gmm_pressure_stop(gmm));
	close_pair();
}
END_TEST

START_TEST(the_kernels_own_files)
{
	struct gmm_pressure_stats stats;

	if (access("/proc/pressure/memory", R_OK) != 0)
		skip_test("the kernel tells no memory pressure (CONFIG_PSI)");
	open_pair();
	assert_ok(gmm_pressure_start(gmm, NULL));
	assert_eventually((gmm_pressure_stats(gmm, &stats), stats.steps > 0));
	ck_assert(stats.running);
	close_pair(); /* ends it too */
}
END_TEST

int main(void)
{
	const TTest *tests[] = {
		the_memory_leaves, used_pages_come_back, pinned_pages_are_refused, bad_arguments,
		an_engine_that_works_only_under_pressure, above_the_maximum_guests_are_asked, the_kernels_own_files,
	};
	int file = mkstemp(path);

	if (file < 0)
		return EXIT_FAILURE;
	close(file);
	int rc = suite_main("balloon", tests, sizeof tests / sizeof *tests);
	unlink(path);
	return rc;
}
