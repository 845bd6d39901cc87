/* The host refuses: the n-th call of a whole life of two VMs fails, for every n. Whatever fails, the library says so by a
 * status it has promised, no guest byte is lost, the accounts hold, the same call works when it is made again, and in
 * the end nothing is left behind.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "dedup/instance.h"
#include "tests/support/guest.h"
#include "tests/support/proc.h"
#include "tests/support/suite.h"
#include "tests/unit/support/faulty_sys.h"
#include "tests/unit/support/hand_engine.h"

enum { PAGES = 96, SLOTS = 3 };

/* A life: VM 0 has two slots that the library created, VM 1 one that it adopted. */
static struct {
	struct gmm *gmm;
	struct gmm__engine *engine;
	struct gmm_vm *vm[2];
	char *ram[SLOTS];
	char *expected[SLOTS];
	const char *step;
	uint32_t n, last_failures;
} life;

static const char *where(void)
{
	static char text[120];

	snprintf(text, sizeof text, "call %u (%s) failed, step %s", life.n, faulty_name(faulty_first()), life.step);
	return text;
}

#define life_assert(condition) ck_assert_msg(condition, "%s: %s", where(), #condition)

/* ---- what must hold all the time -------------------------------------------------------------------------------------- */

/* A hole in memory that is watched for missing pages would make the guest wait for ever. */
static void check_waits(void)
{
	for (int i = 0; i < SLOTS; i++)
		if (life.ram[i])
			life_assert(proc_mappings_with_flag(life.ram[i], (size_t)PAGES * PAGE, "um") == 0);
}

static void check(void)
{
	faulty_pause(true);
	if (faulty_failures() != life.last_failures)
		check_waits();
	life.last_failures = faulty_failures();
	for (int i = 0; i < SLOTS; i++)
		if (life.ram[i])
			life_assert(memcmp(life.ram[i], life.expected[i], (size_t)PAGES * PAGE) == 0);
	if (life.gmm)
		ck_assert_msg(gmm_instance_validate(life.gmm) == GMM_OK, "%s: %s", where(), suite_last_log());
	faulty_pause(false);
}

/* Makes a call that may be refused, once more if it is. */
#define may_fail(call, allowed)                                                          \
	do {                                                                             \
		life.step = #call;                                                       \
		uint32_t failures_ = faulty_failures();                                  \
		int status_ = (call);                                                    \
		if (status_ != GMM_OK) {                                                 \
			ck_assert_msg(faulty_failures() > failures_, "%s: %s", where(),  \
				      gmm_status_name(status_));                         \
			ck_assert_msg((allowed) & 1u << -status_, "%s: %s", where(),     \
				      gmm_status_name(status_));                         \
			check();                                                         \
			faulty_pause(true);                                              \
			status_ = (call);                                                \
			faulty_pause(false);                                             \
			ck_assert_msg(status_ == GMM_OK, "%s, again: %s", where(),       \
				      gmm_status_name(status_));                         \
		}                                                                        \
		check();                                                                 \
	} while (0)

#define STATUS(name) (1u << -(GMM_ERR_##name))

/* ---- guests ------------------------------------------------------------------------------------------------------------- */

static void store(int slot, uint32_t page, uint32_t word, uint64_t value)
{
	guest_store(life.ram[slot] + (size_t)page * PAGE, word, value);
	memcpy(life.expected[slot] + (size_t)page * PAGE + word * 8, &value, 8);
}

/* Equal pages, zero pages, a run of fill pages, and pages of its own. */
static void fill(int slot)
{
	for (uint32_t i = 0; i < PAGES; i++) {
		char *page = life.ram[slot] + (size_t)i * PAGE;
		if (i < 40)
			page_fill(page, 100 + i);
		else if (i < 48)
			page_repeat(page, 0);
		else if (i < 80)
			page_repeat(page, 0xcccccccccccccccc);
		else if (i < 90)
			page_fill(page, 1000u * ((unsigned)slot + 1) + i);
	}
	memcpy(life.expected[slot], life.ram[slot], (size_t)PAGES * PAGE);
}

static void passes(uint32_t n)
{
	life.step = "pass";
	while (n-- > 0) {
		gmm__engine_pass(life.engine);
		check();
	}
}

/* ---- a life --------------------------------------------------------------------------------------------------------------- */

static void begin(enum gmm_repair repair)
{
	struct gmm_options options;

	memset(&life, 0, sizeof life);
	for (int i = 0; i < SLOTS; i++)
		life.expected[i] = calloc(PAGES, PAGE);
	gmm_options_init(&options);
	options.log = suite_log;
	options.window_ms = 0;
	options.repair = repair;
	may_fail(gmm__instance_open(&options, faulty_sys(), &life.gmm),
		 STATUS(NO_MEMORY) | STATUS(SYSTEM) | STATUS(UNSUPPORTED_KERNEL));
	life.engine = hand_engine_new(life.gmm, gmm__backend_mapped());
}

static void add_ram(void)
{
	unsigned refused = STATUS(NO_MEMORY) | STATUS(LIMIT) | STATUS(SYSTEM);

	for (int i = 0; i < 2; i++)
		may_fail(gmm_vm_create(life.gmm, NULL, &life.vm[i]), STATUS(NO_MEMORY));
	may_fail(gmm_vm_create_ram(life.vm[0], 0, (uint64_t)PAGES * PAGE, (void **)&life.ram[0]), refused);
	may_fail(gmm_vm_create_ram(life.vm[0], 1 << 20, (uint64_t)PAGES * PAGE, (void **)&life.ram[1]), refused);
	life.ram[2] = ram_map(PAGES);
	madvise(life.ram[2], (size_t)PAGES * PAGE, MADV_DONTFORK);
	may_fail(gmm_vm_adopt_ram(life.vm[1], 1 << 20, life.ram[2], (uint64_t)PAGES * PAGE), refused);
	for (int i = 0; i < SLOTS; i++)
		fill(i);
	check();
}

/* Until it is done the bytes are the old ones. */
static void discard(uint64_t guest_addr, uint32_t pages)
{
	uint32_t failures = faulty_failures();

	life.step = "discard";
	if (gmm_vm_discard(life.vm[1], guest_addr, (uint64_t)pages * PAGE) != GMM_OK) {
		life_assert(faulty_failures() > failures);
		check();
		faulty_pause(true);
		life_assert(gmm_vm_discard(life.vm[1], guest_addr, (uint64_t)pages * PAGE) == GMM_OK);
		faulty_pause(false);
	}
	memset(life.expected[2] + (guest_addr - (1 << 20)), 0, (size_t)pages * PAGE);
	check();
}

/* The calls that end RAM, which is not looked at after that. */
static int remove_first(void)
{
	int status = gmm_vm_remove_ram(life.vm[0], 0, GMM_RAM_KEEP);

	if (status == GMM_OK)
		life.ram[0] = NULL;
	return status;
}

static int destroy_created(void)
{
	int status = gmm_vm_destroy(life.vm[0], GMM_RAM_DISCARD);

	if (status == GMM_OK)
		life.ram[1] = NULL;
	return status;
}

static void change(void)
{
	unsigned refused = STATUS(NO_MEMORY) | STATUS(LIMIT) | STATUS(SYSTEM);
	uint64_t at = 1 << 20;

	for (uint32_t i = 0; i < 60; i += 7)
		store(2, i, i, 0x77 + i);
	store(0, 50, 0, 1);
	passes(3);
	may_fail(gmm_vm_unshare(life.vm[1], at + 8 * PAGE, 12 * PAGE), refused | STATUS(PINNED));
	may_fail(gmm_vm_pin(life.vm[0], 20 * PAGE, 8 * PAGE), refused);
	may_fail(gmm_vm_set_unshareable(life.vm[0], at, 4 * PAGE, true), refused);
	discard(at + 30 * PAGE, 20);
	for (uint32_t i = 30; i < 50; i += 2)
		store(2, i, 5, i);
	passes(2);
	may_fail(gmm_vm_unpin(life.vm[0], 20 * PAGE, 8 * PAGE), 0);
	may_fail(gmm_vm_set_unshareable(life.vm[0], at, 4 * PAGE, false), 0);
	passes(2);
}

static void end(void)
{
	/* Pinned: it cannot be read whether anything is. */
	unsigned refused = STATUS(NO_MEMORY) | STATUS(LIMIT) | STATUS(SYSTEM) | STATUS(PINNED);

	may_fail(remove_first(), refused);
	passes(1);
	may_fail(gmm_vm_destroy(life.vm[1], GMM_RAM_KEEP), refused);
	store(2, 3, 3, 3); /* the caller's own again */
	check();
	may_fail(destroy_created(), refused);
	life.step = "close";
	hand_engine_free(life.engine);
	life_assert(gmm_instance_close(life.gmm) == GMM_OK);
	life.gmm = NULL;
	check();
	ram_unmap(life.ram[2], PAGES);
	const char *leak = faulty_leak();
	ck_assert_msg(!leak, "%s: %s", where(), leak);
	for (int i = 0; i < SLOTS; i++)
		free(life.expected[i]);
}

/* False when there was no n-th call. */
static bool live(enum faulty_call call, uint32_t n, uint32_t times, enum gmm_repair repair)
{
	faulty_begin(call, n, times);
	begin(repair);
	life.n = n;
	add_ram();
	passes(3);
	change();
	end();
	if (getenv("GMM_TEST_LOG"))
		fprintf(stderr, "%s %u: %s\n", faulty_name(call), n, faulty_name(faulty_first()));
	return faulty_failures() > 0;
}

START_TEST(without_a_fault)
{
	ck_assert(!live(FAULTY_ANY, 0, 1, GMM_REPAIR_NEVER));
	ck_assert(!live(FAULTY_ANY, 0, 1, GMM_REPAIR_PROMISED));
}
END_TEST

START_TEST(any_call_fails)
{
	for (uint32_t n = 1; live(FAULTY_ANY, n, 1, n % 2 ? GMM_REPAIR_NEVER : GMM_REPAIR_PROMISED); n++)
		;
}
END_TEST

/* Three calls of one kind in a row. */
START_TEST(calls_of_a_kind_fail)
{
	for (int call = 0; call < FAULTY_ANY; call++)
		for (uint32_t n = 1; live((enum faulty_call)call, n, 3, GMM_REPAIR_PROMISED); n += 2)
			;
}
END_TEST

/* ---- certain failures together ------------------------------------------------------------------------------------------- */

static struct gmm__sys sys;
static bool no_pool_mapping, no_way_back, half_watched;
static uint32_t copies_refused;

static bool in_ram(const void *p)
{
	for (int i = 0; i < SLOTS; i++)
		if (life.ram[i] && (const char *)p >= life.ram[i] && (const char *)p < life.ram[i] + (size_t)PAGES * PAGE)
			return true;
	return false;
}

static intptr_t map(void *addr, size_t size, int prot, int flags, int fd, uint64_t offset)
{
	if (no_pool_mapping && flags & MAP_FIXED && fd >= 0)
		return -ENOMEM;
	return gmm__sys_linux()->map(addr, size, prot, flags, fd, offset);
}

static int move(int fd, void *to, void *from, size_t size, size_t *ret_moved)
{
	if (no_way_back && in_ram(to)) {
		*ret_moved = 0;
		return -EBUSY;
	}
	return gmm__sys_linux()->uffd_move(fd, to, from, size, ret_moved);
}

static int copy(int fd, void *to, const void *from, size_t size)
{
	if (copies_refused) {
		copies_refused--;
		return -ENOMEM;
	}
	return gmm__sys_linux()->uffd_copy(fd, to, from, size);
}

/* What the kernel does when it runs out of mappings half way through a range. */
static int watch(int fd, void *addr, size_t size, enum gmm__watch mode)
{
	if (!half_watched || mode != GMM__WATCH_MISSING_WP || size < 2 * PAGE)
		return gmm__sys_linux()->uffd_watch(fd, addr, size, mode);
	ck_assert_int_eq(gmm__sys_linux()->uffd_watch(fd, addr, size / PAGE / 2 * PAGE, mode), 0);
	return -ENOMEM;
}

static void begin_certain(void)
{
	struct gmm_options options;

	faulty_begin(FAULTY_ANY, 0, 0);
	memset(&life, 0, sizeof life);
	sys = *gmm__sys_linux();
	sys.map = map;
	sys.uffd_move = move;
	sys.uffd_copy = copy;
	sys.uffd_watch = watch;
	no_pool_mapping = no_way_back = half_watched = false;
	copies_refused = 0;
	for (int i = 0; i < SLOTS; i++)
		life.expected[i] = calloc(PAGES, PAGE);
	gmm_options_init(&options);
	options.log = suite_log;
	options.window_ms = 0;
	ck_assert_int_eq(gmm__instance_open(&options, &sys, &life.gmm), GMM_OK);
	life.engine = hand_engine_new(life.gmm, gmm__backend_mapped());
	add_ram();
}

static void end_certain(void)
{
	struct gmm_stats stats;

	life.gmm->settle_waiters++; /* pages of which the watch was lost need not be quiet for long */
	passes(4);
	life.gmm->settle_waiters--;
	assert_ok(gmm_instance_stats(life.gmm, &stats));
	ck_assert_uint_ge(stats.total.references, 3 * 70);
	end();
}

/* Pages that were moved out and can be neither mapped nor moved back are copied back, when there is memory again. */
START_TEST(way_back_by_copy)
{
	begin_certain();
	passes(1);
	no_pool_mapping = no_way_back = true;
	copies_refused = 5;
	passes(2);
	ck_assert_uint_eq(copies_refused, 0);
	check_waits();
	no_pool_mapping = no_way_back = false;
	end_certain();
}
END_TEST

START_TEST(range_watched_by_half)
{
	begin_certain();
	passes(1);
	half_watched = true;
	passes(2);
	check_waits();
	half_watched = false;
	end_certain();
}
END_TEST

/* The address sanitizer makes mlockall do nothing. */
static bool lock_memory(int flags)
{
	mlockall(flags | MCL_FUTURE);
	char *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	bool locked = proc_mappings_with_flag(page, PAGE, "lo") > 0;

	munmap(page, PAGE);
	return locked;
}

/* The process locks its memory after the fact: staging cannot be emptied any more, and is full. */
START_TEST(locked_memory)
{
	begin_certain();
	passes(1);
	if (!lock_memory(MCL_CURRENT)) {
		end();
		skip_test("memory cannot be locked");
	}
	passes(4);
	for (uint32_t i = 0; i < PAGES; i++)
		store(i % SLOTS, i, 7, i % 5);
	passes(4);
	munlockall();
	passes(4);
	end();
}
END_TEST

/* While all new memory is locked, and hence there from the first moment on, no instance can be opened. */
START_TEST(memory_locked_while_opening)
{
	struct gmm *gmm = NULL;

	if (!lock_memory(MCL_FUTURE))
		skip_test("memory cannot be locked");
	int status = gmm_instance_open(NULL, &gmm);
	munlockall();
	ck_assert_int_eq(status, GMM_ERR_SYSTEM);
}
END_TEST

/* Something lies in staging: it must not be taken for a page that was moved there. */
START_TEST(staging_is_taken)
{
	begin_certain();
	for (int i = 0; i < SLOTS; i++) {
		for (uint32_t p = 40; p < PAGES; p++)
			page_fill(life.ram[i] + (size_t)p * PAGE, 100 + p); /* promoted without a compare */
		memcpy(life.expected[i], life.ram[i], (size_t)PAGES * PAGE);
	}
	passes(1);
	for (uint32_t i = 0; i < GMM__FREEZE_PAGES; i += 3)
		life.gmm->staging[0].pages[(size_t)i * PAGE] = 1;
	end_certain();
}
END_TEST

int main(void)
{
	const TTest *tests[] = {
		without_a_fault, any_call_fails, calls_of_a_kind_fail, way_back_by_copy, range_watched_by_half, locked_memory,
		memory_locked_while_opening, staging_is_taken,
	};

	return suite_main("faults", tests, sizeof tests / sizeof *tests);
}
