/* The host refuses while huge pages are broken and made whole: the n-th call of a life of two VMs fails, for every n. No
 * byte is lost, the accounts hold, what was refused works the second time, and nothing is left behind. Also what the
 * kernel does with huge pages in watched memory, on which the design rests.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "dedup/instance.h"
#include "gmm/sys/sys.h"
#include "tests/support/guest.h"
#include "tests/support/proc.h"
#include "tests/support/suite.h"
#include "tests/unit/support/faulty_sys.h"
#include "tests/unit/support/hand_engine.h"

enum { PAGES = GMM__CHUNK_PAGES, EQUAL = 300, BYTES = GMM__CHUNK_BYTES };

static struct {
	struct gmm *gmm;
	struct gmm__engine *engine;
	struct gmm_vm *vm[2];
	char *ram[2];
	uint32_t n;
	struct gmm_vm_stats total;
} life;

/* One huge page; NULL when there is none to be had. */
static char *huge_map(void)
{
	char *reserve = mmap(NULL, 2 * BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *ram = (char *)(((uintptr_t)reserve + BYTES - 1) / BYTES * BYTES);

	if (ram > reserve)
		munmap(reserve, (size_t)(ram - reserve));
	if (ram < reserve + BYTES)
		munmap(ram + BYTES, (size_t)(reserve + BYTES - ram));
	madvise(ram, BYTES, MADV_HUGEPAGE);
	guest_store(ram, 0, 1);
	if (proc_smaps_kb(ram, BYTES, "AnonHugePages") == BYTES / 1024)
		return ram;
	munmap(ram, BYTES);
	return NULL;
}

static void check(void)
{
	faulty_pause(true);
	for (int i = 0; i < 2; i++) {
		ck_assert_msg(ram_wrong(life.ram[i], EQUAL, 7) == 0, "call %u: shared bytes are lost", life.n);
		ck_assert_msg(ram_wrong(life.ram[i] + EQUAL * PAGE, PAGES - EQUAL, 10000u * (1u + (unsigned)i)) == 0,
			      "call %u: bytes are lost", life.n);
	}
	if (life.gmm)
		ck_assert_msg(gmm_instance_validate(life.gmm) == GMM_OK, "call %u: %s", life.n, suite_last_log());
	faulty_pause(false);
}

/* Once more if it is refused. */
#define may_fail(call)                                                                                        \
	do {                                                                                                  \
		if ((call) != GMM_OK) {                                                                       \
			ck_assert_msg(faulty_failures() > 0, "%s was refused without a reason", #call);       \
			check();                                                                              \
			faulty_pause(true);                                                                   \
			ck_assert_msg((call) == GMM_OK, "call %u: %s is refused twice", life.n, #call);       \
			faulty_pause(false);                                                                  \
		}                                                                                             \
		check();                                                                                      \
	} while (0)

static void passes(uint32_t n)
{
	while (n-- > 0) {
		gmm__engine_pass(life.engine);
		check();
	}
}

static void begin(void)
{
	struct gmm_options options;

	gmm_options_init(&options);
	options.log = suite_log;
	options.window_ms = 0;
	options.huge_pages = GMM_HUGE_ALWAYS;
	for (int i = 0; i < 2; i++) {
		ram_fill(life.ram[i], EQUAL, 7);
		ram_fill(life.ram[i] + EQUAL * PAGE, PAGES - EQUAL, 10000u * (1u + (unsigned)i));
	}
	faulty_pause(true); /* opening is tested elsewhere */
	ck_assert_int_eq(gmm__instance_open(&options, faulty_sys(), &life.gmm), GMM_OK);
	life.engine = hand_engine_new(life.gmm, gmm__backend_mapped());
	for (int i = 0; i < 2; i++)
		ck_assert_int_eq(gmm_vm_create(life.gmm, NULL, &life.vm[i]), GMM_OK);
	faulty_pause(false);
	for (int i = 0; i < 2; i++)
		may_fail(gmm_vm_adopt_ram(life.vm[i], 0, life.ram[i], BYTES));
}

static void end(void)
{
	may_fail(gmm_vm_unshare(life.vm[0], 0, BYTES));
	passes(2);
	struct gmm_stats stats;
	faulty_pause(true);
	ck_assert_int_eq(gmm_instance_stats(life.gmm, &stats), GMM_OK);
	faulty_pause(false);
	life.total = stats.total;
	for (int i = 0; i < 2; i++)
		may_fail(gmm_vm_destroy(life.vm[i], GMM_RAM_KEEP));
	hand_engine_free(life.engine);
	ck_assert_int_eq(gmm_instance_close(life.gmm), GMM_OK);
	life.gmm = NULL;
	check();
	const char *leak = faulty_leak();
	ck_assert_msg(!leak, "call %u: %s", life.n, leak);
}

/* False when there was no n-th call, or no huge page. */
static bool live(uint32_t n)
{
	memset(&life, 0, sizeof life);
	for (int i = 0; i < 2; i++)
		life.ram[i] = huge_map();
	bool here = life.ram[0] && life.ram[1];
	life.n = n;
	faulty_begin(FAULTY_ANY, n, 1);
	if (here) {
		begin();
		passes(6);
		end();
	}
	for (int i = 0; i < 2; i++)
		if (life.ram[i])
			munmap(life.ram[i], BYTES);
	return here && faulty_failures() > 0;
}

/* Both are broken, and one is made whole again. The kernel's own daemon may come between, and huge pages that it has just
 * made again count as refused; a busy machine may stop us for longer than a call takes its time to make pages whole. So
 * there are several lives, and in most of them nothing comes between.
 */
START_TEST(without_a_fault)
{
	enum { LIVES = 9 };
	int as_expected = 0;

	for (int i = 0; i < LIVES; i++) {
		live(0);
		if (!life.ram[0] || !life.ram[1])
			skip_test("no transparent huge pages to be had");
		as_expected += life.total.huge_broken >= 2 && life.total.huge_collapsed == 1;
	}
	ck_assert_msg(as_expected > LIVES / 2, "in %d of %d lives; in the last %ju were met, %ju broken, %ju refused, %ju made whole",
		      as_expected, LIVES, (uintmax_t)life.total.huge_seen, (uintmax_t)life.total.huge_broken,
		      (uintmax_t)life.total.huge_refused, (uintmax_t)life.total.huge_collapsed);
}
END_TEST

START_TEST(any_call_fails)
{
	for (uint32_t n = 1; live(n); n++)
		;
}
END_TEST

/* ---- the kernel -------------------------------------------------------------------------------------------------------- */

static uint64_t kb_of(char *ram)
{
	return proc_smaps_kb(ram, BYTES, "AnonHugePages");
}

/* Watching splits nothing, nor do writes; arming does, at the first write; and cold advice of one page does at once. */
START_TEST(what_splits)
{
	const struct gmm__sys *sys = gmm__sys_linux();
	int uffd = sys->uffd_open(GMM__UFFD_TRACK), pagemap = sys->pagemap_open();
	char *ram = huge_map();

	if (!ram)
		skip_test("no transparent huge pages to be had");
	ram_fill(ram, PAGES, 1);
	ck_assert_int_eq(sys->uffd_watch(uffd, ram, BYTES, GMM__WATCH_WP), 0);
	guest_store(ram, 0, guest_load(ram, 0));
	ck_assert_uint_eq(kb_of(ram), BYTES / 1024);
	ck_assert_int_eq(sys->pagemap_arm(pagemap, ram, ram + BYTES), 0);
	ck_assert_uint_eq(kb_of(ram), BYTES / 1024);
	guest_store(ram, 0, guest_load(ram, 0));
	ck_assert_uint_eq(kb_of(ram), 0);
	munmap(ram, BYTES);

	ram = huge_map();
	ck_assert_ptr_nonnull(ram);
	ram_fill(ram, PAGES, 1);
	ck_assert_int_eq(sys->uffd_watch(uffd, ram, BYTES, GMM__WATCH_WP), 0);
	ck_assert_int_eq(sys->advise(ram + 5 * PAGE, PAGE, MADV_COLD), 0);
	ck_assert_uint_eq(kb_of(ram), 0);
	ck_assert_uint_eq(ram_wrong(ram, PAGES, 1), 0);
	munmap(ram, BYTES);
	sys->file_close(uffd);
	sys->file_close(pagemap);
}
END_TEST

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

/* Watched memory is collapsed when it is all there and nothing is armed. */
START_TEST(what_collapses)
{
	const struct gmm__sys *sys = gmm__sys_linux();
	int uffd = sys->uffd_open(GMM__UFFD_TRACK), pagemap = sys->pagemap_open();
	char *ram = huge_map();

	if (!ram)
		skip_test("no transparent huge pages to be had");
	ram_fill(ram, PAGES, 1);
	ck_assert_int_eq(sys->uffd_watch(uffd, ram, BYTES, GMM__WATCH_WP), 0);
	ck_assert_int_eq(sys->advise(ram, PAGE, MADV_COLD), 0);
	ck_assert_int_eq(sys->pagemap_arm(pagemap, ram, ram + PAGE), 0);
	ck_assert_int_lt(sys->advise(ram, BYTES, MADV_COLLAPSE), 0);
	guest_store(ram, 0, guest_load(ram, 0));
	ck_assert_int_eq(sys->advise(ram, BYTES, MADV_COLLAPSE), 0);
	ck_assert_uint_eq(kb_of(ram), BYTES / 1024);
	ck_assert_int_eq(sys->advise(ram, PAGE, MADV_DONTNEED), 0);
	ck_assert_int_lt(sys->advise(ram, BYTES, MADV_COLLAPSE), 0);
	ck_assert_int_eq(sys->uffd_unwatch(uffd, ram, BYTES), 0);
	ck_assert_int_eq(sys->advise(ram, BYTES, MADV_COLLAPSE), 0);
	ck_assert_uint_eq(kb_of(ram), BYTES / 1024);
	ck_assert_uint_eq(ram_wrong(ram + PAGE, PAGES - 1, 2), 0);
	munmap(ram, BYTES);
	sys->file_close(uffd);
	sys->file_close(pagemap);
}
END_TEST

int main(void)
{
	const TTest *tests[] = { without_a_fault, any_call_fails, what_splits, what_collapses };

	return suite_main("huge_faults", tests, sizeof tests / sizeof *tests);
}
