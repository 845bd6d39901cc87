/* Transparent huge pages in adopted RAM: which are broken, which stay whole whatever happens, that no write is lost while one
 * is broken, and that they are whole again when the RAM is given back.
 */
#include "tests/support/guest.h"
#include "tests/support/proc.h"
#include "tests/support/suite.h"

#include <liburing.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { UNIT = 2 << 20, UNIT_PAGES = UNIT / PAGE, UNIT_KB = UNIT / 1024 };

#define SEED 1000000u

/* RAM of huge pages; NULL when the host has none to give. */
static char *huge_map(size_t units, bool wanted)
{
	char *reserve = mmap(NULL, (units + 1) * UNIT, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *ram = (char *)(((uintptr_t)reserve + UNIT - 1) / UNIT * UNIT);

	ck_assert_ptr_ne(reserve, MAP_FAILED);
	if (ram > reserve)
		munmap(reserve, (size_t)(ram - reserve));
	munmap(ram + units * UNIT, (size_t)(reserve + UNIT - ram));
	madvise(ram, units * UNIT, wanted ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	for (size_t u = 0; u < units; u++)
		guest_store(ram + u * UNIT, 0, 1);
	if (!wanted || proc_smaps_kb(ram, units * UNIT, "AnonHugePages") == units * UNIT_KB)
		return ram;
	munmap(ram, units * UNIT);
	return NULL;
}

static uint64_t huge_kb(const char *ram, size_t units)
{
	return proc_smaps_kb(ram, units * UNIT, "AnonHugePages");
}

/* khugepaged may make a huge page of one that was broken, before its pages are shared: it is met and broken once more. */
static void assert_met(struct gmm_vm *vm, uint64_t met, uint64_t left_whole)
{
	struct gmm_vm_stats stats = vm_stats_of(vm);

	ck_assert_uint_ge(stats.huge_seen, met);
	ck_assert_uint_eq(stats.huge_seen - stats.huge_broken, left_whole);
}

struct host {
	struct gmm *gmm;
	struct gmm_vm *vm[2];
	char *ram[2];
	size_t units;
};

static struct gmm *open_with(enum gmm_huge_pages huge_pages)
{
	struct gmm_options options;
	struct gmm *gmm = NULL;

	gmm_options_init(&options);
	options.log = suite_log;
	options.window_ms = 0;
	options.cpu_percent = 0;
	options.pass_interval_ms = 1;
	options.huge_pages = huge_pages;
	assert_ok(gmm_instance_open(&options, &gmm));
	return gmm;
}

/* Two VMs; in VM 0 page p of unit u holds SEED + u * UNIT_PAGES + p. In VM 1 the first equal[u] pages of unit u hold the
 * same, and the others their own. False when there are no huge pages. */
static bool host_open(struct host *host, enum gmm_huge_pages huge_pages, size_t units, const size_t *equal)
{
	*host = (struct host){ .units = units };
	for (int i = 0; i < 2; i++) {
		host->ram[i] = huge_map(units, true);
		if (!host->ram[i]) {
			if (i)
				munmap(host->ram[0], units * UNIT);
			return false;
		}
		for (size_t p = 0; p < units * UNIT_PAGES; p++) {
			bool common = i == 0 || p % UNIT_PAGES < equal[p / UNIT_PAGES];
			page_fill(host->ram[i] + p * PAGE, SEED + p + (common ? 0 : SEED));
		}
	}
	host->gmm = open_with(huge_pages);
	for (int i = 0; i < 2; i++) {
		host->vm[i] = vm_create(host->gmm, NULL);
		assert_ok(gmm_vm_adopt_ram(host->vm[i], 0, host->ram[i], units * UNIT));
	}
	return true;
}

static void host_close(struct host *host)
{
	assert_ok(gmm_instance_validate(host->gmm));
	for (int i = 0; i < 2; i++)
		if (host->vm[i])
			assert_ok(gmm_vm_destroy(host->vm[i], GMM_RAM_DISCARD));
	assert_ok(gmm_instance_close(host->gmm));
	for (int i = 0; i < 2; i++)
		munmap(host->ram[i], host->units * UNIT);
}

static void host_check(const struct host *host, const size_t *equal)
{
	for (size_t p = 0; p < host->units * UNIT_PAGES; p++) {
		bool common = p % UNIT_PAGES < equal[p / UNIT_PAGES];
		ck_assert_msg(page_is(host->ram[0] + p * PAGE, SEED + p), "page %zu of VM 0 is wrong", p);
		ck_assert_msg(page_is(host->ram[1] + p * PAGE, SEED + p + (common ? 0 : SEED)), "page %zu of VM 1 is wrong", p);
	}
}

#define NO_HUGE_PAGES skip_test("no transparent huge pages to be had")

/* ---- which are broken --------------------------------------------------------------------------------------------------- */

START_TEST(broken_where_half_is_saved)
{
	static const size_t equal[] = { UNIT_PAGES, 0, 100, 300, 230 };
	struct host host;

	if (!host_open(&host, GMM_HUGE_PRESERVE, 5, equal))
		NO_HUGE_PAGES;
	engine_settle(host.gmm);
	host_check(&host, equal);
	for (int i = 0; i < 2; i++) {
		for (size_t u = 0; u < 5; u++) {
			uint64_t why[GMM_PAGE_STATES];
			assert_ok(gmm_vm_why(host.vm[i], u * UNIT, UNIT, why));
			ck_assert_uint_eq(why[GMM_PAGE_HUGE], u == 0 || u == 3 ? 0 : UNIT_PAGES);
		}
		ck_assert_uint_eq(huge_kb(host.ram[i], 5), 3 * UNIT_KB);
		ck_assert_uint_eq(vm_state(host.vm[i], GMM_PAGE_SHARED), UNIT_PAGES + 300);
		ck_assert_uint_eq(vm_state(host.vm[i], GMM_PAGE_HUGE), 3 * UNIT_PAGES);
		assert_met(host.vm[i], 5, 3);
	}
	/* What was left whole stays so, after many passes and writes to all of it. */
	for (int round = 0; round < 5; round++) {
		for (size_t p = UNIT_PAGES; p < 3 * UNIT_PAGES; p++)
			guest_store(host.ram[0] + p * PAGE, 7, (uint64_t)round);
		engine_passes(host.gmm, 20);
	}
	ck_assert_uint_eq(huge_kb(host.ram[0], 5), 3 * UNIT_KB);
	assert_met(host.vm[0], 5, 3);
	host_close(&host);
}
END_TEST

START_TEST(never_and_always)
{
	static const size_t equal[] = { UNIT_PAGES, 7 };
	struct host host;

	if (!host_open(&host, GMM_HUGE_NEVER, 2, equal))
		NO_HUGE_PAGES;
	engine_settle(host.gmm);
	engine_passes(host.gmm, 30);
	ck_assert_uint_eq(huge_kb(host.ram[0], 2), 2 * UNIT_KB);
	ck_assert_uint_eq(vm_state(host.vm[0], GMM_PAGE_HUGE), 2 * UNIT_PAGES);
	for (size_t p = 0; p < 2 * UNIT_PAGES; p += 10) /* a write does not split what was not armed */
		guest_store(host.ram[0] + p * PAGE, 3, p);
	engine_passes(host.gmm, 10);
	ck_assert_uint_eq(huge_kb(host.ram[0], 2), 2 * UNIT_KB);
	host_close(&host);

	ck_assert(host_open(&host, GMM_HUGE_ALWAYS, 2, equal));
	engine_settle(host.gmm);
	host_check(&host, equal);
	ck_assert_uint_eq(huge_kb(host.ram[0], 2), 0);
	ck_assert_uint_eq(vm_state(host.vm[0], GMM_PAGE_SHARED), UNIT_PAGES + 7);
	host_close(&host);
}
END_TEST

START_TEST(an_unknown_policy_is_refused)
{
	struct gmm_options options;
	struct gmm *gmm = NULL;

	gmm_options_init(&options);
	ck_assert_int_eq(options.huge_pages, GMM_HUGE_PRESERVE);
	options.huge_pages = (enum gmm_huge_pages)3;
	assert_status(gmm_instance_open(&options, &gmm), GMM_ERR_INVALID_PARAMETER);
}
END_TEST

/* RAM that begins and ends inside of a huge page. */
START_TEST(ram_that_begins_inside)
{
	enum { SKIP = 300 };
	struct gmm *gmm = open_with(GMM_HUGE_PRESERVE);
	char *ram = huge_map(6, true);
	size_t pages = 5 * UNIT_PAGES;

	if (!ram) {
		assert_ok(gmm_instance_close(gmm));
		NO_HUGE_PAGES;
	}
	struct gmm_vm *vm = vm_create(gmm, NULL), *twin = vm_create(gmm, NULL);
	assert_ok(gmm_vm_adopt_ram(vm, 0, ram + SKIP * PAGE, pages * PAGE));
	char *other = vm_create_ram(twin, 0, pages);
	ram_fill(ram + SKIP * PAGE, pages, SEED);
	ram_fill(other, pages, SEED);
	engine_settle(gmm);
	ck_assert_uint_eq(ram_wrong(ram + SKIP * PAGE, pages, SEED), 0);
	/* The kernel cannot watch a part of a huge page, so those at both ends are no more. */
	ck_assert_uint_eq(vm_state(vm, GMM_PAGE_SHARED), pages);
	assert_met(vm, 4, 0);
	assert_ok(gmm_vm_destroy(vm, GMM_RAM_KEEP));
	ck_assert_uint_eq(ram_wrong(ram + SKIP * PAGE, pages, SEED), 0);
	assert_ok(gmm_vm_destroy(twin, GMM_RAM_KEEP));
	assert_ok(gmm_instance_close(gmm));
	munmap(ram, (size_t)6 * UNIT);
}
END_TEST

/* ---- what the kernel does not break ------------------------------------------------------------------------------------- */

START_TEST(pinned_pages_stay_whole)
{
	static const size_t equal[] = { UNIT_PAGES, UNIT_PAGES };
	struct io_uring ring;
	struct host host;

	if (!host_open(&host, GMM_HUGE_ALWAYS, 2, equal))
		NO_HUGE_PAGES;
	struct iovec buffer = { host.ram[0] + 5 * PAGE, PAGE };
	if (io_uring_queue_init(4, &ring, 0) != 0) {
		host_close(&host);
		skip_test("no io_uring");
	}
	ck_assert_int_eq(io_uring_register_buffers(&ring, &buffer, 1), 0);
	assert_ok(gmm_engine_start(host.gmm));
	assert_eventually(huge_kb(host.ram[0], 2) == UNIT_KB); /* the other one is broken */
	assert_eventually(vm_stats_of(host.vm[0]).huge_refused >= 1);
	engine_passes(host.gmm, 60);
	ck_assert_uint_eq(huge_kb(host.ram[0], 2), UNIT_KB);
	ck_assert_uint_eq(vm_state(host.vm[0], GMM_PAGE_HUGE), UNIT_PAGES);
	host_check(&host, equal);
	io_uring_queue_exit(&ring);
	assert_eventually(huge_kb(host.ram[0], 2) == 0);
	engine_settle(host.gmm);
	host_check(&host, equal);
	host_close(&host);
}
END_TEST

/* A child has all in common with us. It sees the bytes of the fork. */
START_TEST(forked_pages_keep_their_bytes)
{
	static const size_t equal[] = { UNIT_PAGES, 50 };
	struct host host;
	int go[2], status;

	if (!host_open(&host, GMM_HUGE_PRESERVE, 2, equal))
		NO_HUGE_PAGES;
	ck_assert_int_eq(pipe(go), 0);
	pid_t child = fork();
	if (child == 0) {
		char byte;
		close(go[1]);
		if (read(go[0], &byte, 1) != 0)
			_exit(2);
		_exit(ram_wrong(host.ram[0], (size_t)2 * UNIT_PAGES, SEED) != 0);
	}
	close(go[0]);
	assert_ok(gmm_engine_start(host.gmm));
	engine_passes(host.gmm, 60);
	host_check(&host, equal);
	close(go[1]);
	ck_assert_int_eq(waitpid(child, &status, 0), child);
	ck_assert_int_eq(status, 0);
	host_check(&host, equal);
	host_close(&host);
}
END_TEST

/* ---- writes while one is broken ------------------------------------------------------------------------------------------- */

struct writer {
	struct host *host;
	_Atomic bool stop;
	uint64_t count[8 * UNIT_PAGES];
};

static void *write_all(void *arg)
{
	struct writer *writer = arg;
	uint64_t state = 88172645463325252u;

	for (uint64_t n = 1; !writer->stop; n++) {
		size_t page = random_next(&state) % (writer->host->units * UNIT_PAGES);
		guest_store(writer->host->ram[0] + page * PAGE, 0, ++writer->count[page]);
		if (n % 1024 == 0) /* scan threads run when nobody else does */
			sleep_ms(1);
	}
	return NULL;
}

static bool was_broken_and_whole(struct gmm_vm *vm)
{
	struct gmm_vm_stats stats = vm_stats_of(vm);

	return stats.huge_broken >= 8 && stats.huge_collapsed >= 1;
}

START_TEST(no_write_is_lost)
{
	static const size_t equal[8] = { UNIT_PAGES, UNIT_PAGES, 400, 300, UNIT_PAGES, 1, UNIT_PAGES, UNIT_PAGES };
	static struct writer writer;
	pthread_t thread;
	struct host host;

	if (!host_open(&host, GMM_HUGE_ALWAYS, 8, equal))
		NO_HUGE_PAGES;
	writer.host = &host;
	for (size_t p = 0; p < 8 * UNIT_PAGES; p++)
		guest_store(host.ram[0] + p * PAGE, 0, writer.count[p] = p << 32);
	ck_assert_int_eq(pthread_create(&thread, NULL, write_all, &writer), 0);
	assert_ok(gmm_engine_start(host.gmm));
	for (uint64_t round = 0, end = now_ms() + 60000; round < 4 || (!was_broken_and_whole(host.vm[0]) && now_ms() < end); round++) {
		engine_passes(host.gmm, 10);
		assert_ok(gmm_vm_unshare(host.vm[0], 0, host.units * UNIT)); /* which makes them whole again */
	}
	engine_passes(host.gmm, 10);
	writer.stop = true;
	pthread_join(thread, NULL);
	for (size_t p = 0; p < 8 * UNIT_PAGES; p++)
		ck_assert_uint_eq(guest_load(host.ram[0] + p * PAGE, 0), writer.count[p]);
	ck_assert(was_broken_and_whole(host.vm[0]));
	host_close(&host);
}
END_TEST

/* ---- whole again ------------------------------------------------------------------------------------------------------------ */

/* Huge pages of RAM of four, three of which were to be made whole by a call that began at start_ms. It gives up after a
 * quarter of a second, which a busy machine may have stopped it for. */
static void assert_whole(const struct host *host, int i, uint64_t start_ms)
{
	enum { BOUND_MS = 250 };
	uint64_t took_ms = now_ms() - start_ms, kb = huge_kb(host->ram[i], 4);

	ck_assert_msg(kb == 4 * UNIT_KB || (took_ms >= BOUND_MS && kb >= 2 * UNIT_KB), "%ju KiB are in huge pages after %ju ms",
		      (uintmax_t)kb, (uintmax_t)took_ms);
}

START_TEST(whole_again_when_kept)
{
	static const size_t equal[] = { UNIT_PAGES, 300, 20, 400 };
	struct host host;
	uint64_t start_ms;

	if (!host_open(&host, GMM_HUGE_PRESERVE, 4, equal))
		NO_HUGE_PAGES;
	engine_settle(host.gmm);
	for (int i = 0; i < 2; i++)
		ck_assert_uint_eq(huge_kb(host.ram[i], 4), UNIT_KB);
	start_ms = now_ms();
	assert_ok(gmm_vm_destroy(host.vm[0], GMM_RAM_KEEP));
	host.vm[0] = NULL;
	assert_whole(&host, 0, start_ms);
	host_check(&host, equal);
	start_ms = now_ms();
	assert_ok(gmm_vm_remove_ram(host.vm[1], 0, GMM_RAM_KEEP));
	assert_whole(&host, 1, start_ms);
	ck_assert_uint_eq(proc_mappings_with_flag(host.ram[1], host.units * UNIT, "hg"),
			  proc_mappings(host.ram[1], host.units * UNIT));
	host_check(&host, equal);
	host_close(&host);
}
END_TEST

START_TEST(whole_again_when_unshared)
{
	static const size_t equal[] = { UNIT_PAGES, 300, 20 };
	struct host host;

	if (!host_open(&host, GMM_HUGE_PRESERVE, 3, equal))
		NO_HUGE_PAGES;
	page_repeat(host.ram[0] + 2 * UNIT - PAGE, 0); /* a hole in what is made whole */
	engine_settle(host.gmm);
	assert_ok(gmm_engine_pause(host.gmm));
	/* The rest of the second unit is private. Where the machine stops a call for long it leaves some to the next. */
	assert_eventually(gmm_vm_unshare(host.vm[0], 0, UNIT + 300 * PAGE) == GMM_OK &&
			  vm_stats_of(host.vm[0]).huge_collapsed == 2);
	ck_assert_uint_eq(huge_kb(host.ram[0], 3), 3 * UNIT_KB);
	ck_assert_uint_eq(vm_stats_of(host.vm[1]).huge_collapsed, 0);
	ck_assert(page_repeats(host.ram[0] + 2 * UNIT - PAGE, 0));
	page_fill(host.ram[0] + 2 * UNIT - PAGE, SEED + 2 * UNIT_PAGES - 1);
	host_check(&host, equal);
	/* Judged anew, and broken again. */
	assert_ok(gmm_engine_start(host.gmm));
	engine_settle(host.gmm);
	host_check(&host, equal);
	ck_assert_uint_eq(huge_kb(host.ram[0], 3), UNIT_KB);
	assert_met(host.vm[0], 5, 1);
	host_close(&host);
}
END_TEST

/* New memory in the place of old: after a discard, and where a part is made private. */
START_TEST(the_advice_is_kept)
{
	static const size_t equal[] = { UNIT_PAGES, UNIT_PAGES };
	struct host host;

	if (!host_open(&host, GMM_HUGE_ALWAYS, 2, equal))
		NO_HUGE_PAGES;
	engine_settle(host.gmm);
	assert_ok(gmm_engine_pause(host.gmm));
	assert_ok(gmm_vm_discard(host.vm[0], 0, UNIT));
	assert_ok(gmm_vm_unshare(host.vm[0], UNIT, 10 * PAGE));
	ck_assert_uint_eq(proc_mappings_with_flag(host.ram[0], UNIT + 10 * PAGE, "hg"),
			  proc_mappings(host.ram[0], UNIT + 10 * PAGE));
	guest_store(host.ram[0], 0, 1); /* a first touch gets a huge page, though the memory is watched */
	ck_assert_uint_eq(huge_kb(host.ram[0], 1), UNIT_KB);
	ck_assert_uint_eq(ram_wrong(host.ram[0] + UNIT, UNIT_PAGES, SEED + UNIT_PAGES), 0);
	host_close(&host);
}
END_TEST

/* RAM that nobody wants huge pages in gets none. */
START_TEST(never_where_there_were_none)
{
	struct gmm *gmm = open_with(GMM_HUGE_PRESERVE);
	struct gmm_vm *vm = vm_create(gmm, NULL);
	char *ram = huge_map(1, false);

	ram_fill(ram, UNIT_PAGES, SEED);
	assert_ok(gmm_vm_adopt_ram(vm, 0, ram, UNIT));
	ram_fill(vm_create_ram(vm, 1 << 30, UNIT_PAGES), UNIT_PAGES, SEED);
	engine_settle(gmm);
	assert_ok(gmm_vm_unshare(vm, 0, UNIT));
	ck_assert_uint_eq(vm_stats_of(vm).huge_collapsed, 0);
	assert_ok(gmm_vm_destroy(vm, GMM_RAM_KEEP));
	ck_assert_uint_eq(huge_kb(ram, 1), 0);
	assert_ok(gmm_instance_close(gmm));
	munmap(ram, UNIT);
}
END_TEST

/* ---- real guests ------------------------------------------------------------------------------------------------------------- */

enum { TRACES = 2, TRACE_UNITS = 24 };

/* Every 8th block of 2 MiB of a real guest. */
static void load_trace(const char *name, char *ram)
{
	char path[512];
	uint64_t words[UNIT_PAGES];

	snprintf(path, sizeof path, "%s/tests/data/%s", getenv("SRC") ? getenv("SRC") : ".", name);
	FILE *file = fopen(path, "rb");
	ck_assert_msg(file, "no %s", path);
	for (size_t u = 0; u < TRACE_UNITS; u++) {
		ck_assert_int_eq(fseek(file, (long)(u * 8 * sizeof words), SEEK_SET), 0);
		ck_assert_uint_eq(fread(words, sizeof *words, UNIT_PAGES, file), UNIT_PAGES);
		for (size_t p = 0; p < UNIT_PAGES; p++) {
			if (words[p])
				page_fill(ram + (u * UNIT_PAGES + p) * PAGE, words[p]);
			else
				page_repeat(ram + (u * UNIT_PAGES + p) * PAGE, 0);
		}
	}
	fclose(file);
}

/* Pages saved, zero pages included; 0 without huge pages. */
static uint64_t saved_with(enum gmm_huge_pages huge_pages, uint64_t *ret_whole)
{
	static const char *const names[TRACES] = { "idle1_t0.u64", "python1_t0.u64" };
	struct gmm *gmm = open_with(huge_pages);
	struct gmm_vm *vm[TRACES];
	char *ram[TRACES];
	bool here = true;

	for (int i = 0; i < TRACES; i++) {
		ram[i] = huge_map(TRACE_UNITS, true);
		here &= ram[i] != NULL;
		vm[i] = vm_create(gmm, NULL);
		if (!here)
			continue;
		load_trace(names[i], ram[i]);
		assert_ok(gmm_vm_adopt_ram(vm[i], 0, ram[i], (uint64_t)TRACE_UNITS * UNIT));
	}
	if (here)
		engine_settle(gmm);
	struct gmm_stats stats = stats_of(gmm);
	assert_ok(gmm_instance_validate(gmm));
	for (int i = 0; i < TRACES; i++) {
		assert_ok(gmm_vm_destroy(vm[i], GMM_RAM_DISCARD));
		if (ram[i])
			munmap(ram[i], (size_t)TRACE_UNITS * UNIT);
	}
	assert_ok(gmm_instance_close(gmm));
	*ret_whole = stats.total.state_pages[GMM_PAGE_HUGE];
	return here ? stats.saved_pages + stats.total.state_pages[GMM_PAGE_ZERO] : 0;
}

START_TEST(nine_tenths_of_the_savings_remain)
{
	uint64_t whole, whole_always, preserved = saved_with(GMM_HUGE_PRESERVE, &whole);

	if (!preserved)
		NO_HUGE_PAGES;
	uint64_t always = saved_with(GMM_HUGE_ALWAYS, &whole_always);
	printf("saved %ju of %ju pages, %ju left whole\n", (uintmax_t)preserved, (uintmax_t)always, (uintmax_t)whole);
	ck_assert_uint_ge(preserved * 10, always * 9);
	ck_assert_uint_ge(whole, UNIT_PAGES);
	ck_assert_uint_eq(whole_always, 0);
}
END_TEST

int main(void)
{
	const TTest *tests[] = {
		broken_where_half_is_saved, never_and_always, an_unknown_policy_is_refused, ram_that_begins_inside,
		pinned_pages_stay_whole, forked_pages_keep_their_bytes, no_write_is_lost, whole_again_when_kept,
		whole_again_when_unshared, the_advice_is_kept, never_where_there_were_none, nine_tenths_of_the_savings_remain,
	};

	return suite_main("huge", tests, sizeof tests / sizeof *tests);
}
