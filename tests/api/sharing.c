/* Two VMs with equal pages: what is shared, how every page is counted, and how sharing ends: by a write, by
 * unshare, by a declaration. Every count that the library documents is compared with an oracle.
 */
#include "tests/support/guest.h"
#include "tests/support/proc.h"
#include "tests/support/suite.h"

#include <sys/mman.h>

/* The RAM of a pair of VMs: the parts follow each other. */
enum {
	ABSENT = 64,  /* never touched */
	ZERO = 64,    /* written with zeros */
	FILL = 64,    /* one word repeated, the same in both */
	EQUAL = 256,  /* the same in both VMs */
	TWINS = 8,    /* all alike, also inside one VM */
	UNIQUE = 100, /* different everywhere */
	ZERO_AT = ABSENT,
	FILL_AT = ZERO_AT + ZERO,
	EQUAL_AT = FILL_AT + FILL,
	TWINS_AT = EQUAL_AT + EQUAL,
	UNIQUE_AT = TWINS_AT + TWINS,
	PAGES = UNIQUE_AT + UNIQUE,
};

#define FILL_WORD 0xccccccccccccccccu
#define EQUAL_SEED 1000u
#define TWIN_SEED 9000u

struct pair {
	struct gmm *gmm;
	struct gmm_vm *vm[2];
	char *ram[2]; /* 0: created by the library; 1: adopted */
};

static uint64_t unique_seed(int vm)
{
	return 100000u + (uint64_t)vm * 1000u;
}

static void fill_guest(char *ram, int vm)
{
	for (size_t i = 0; i < ZERO; i++)
		page_repeat(ram + (ZERO_AT + i) * PAGE, 0);
	for (size_t i = 0; i < FILL; i++)
		page_repeat(ram + (FILL_AT + i) * PAGE, FILL_WORD);
	ram_fill(ram + EQUAL_AT * PAGE, EQUAL, EQUAL_SEED);
	for (size_t i = 0; i < TWINS; i++)
		page_fill(ram + (TWINS_AT + i) * PAGE, TWIN_SEED);
	ram_fill(ram + UNIQUE_AT * PAGE, UNIQUE, unique_seed(vm));
}

static size_t guest_wrong(const char *ram, int vm)
{
	size_t wrong = 0;

	for (size_t i = 0; i < FILL; i++)
		wrong += !page_repeats(ram + (FILL_AT + i) * PAGE, FILL_WORD);
	for (size_t i = 0; i < TWINS; i++)
		wrong += !page_is(ram + (TWINS_AT + i) * PAGE, TWIN_SEED);
	wrong += ram_wrong(ram + EQUAL_AT * PAGE, EQUAL, EQUAL_SEED);
	wrong += ram_wrong(ram + UNIQUE_AT * PAGE, UNIQUE, unique_seed(vm));
	return wrong;
}

static struct pair pair_open(void)
{
	struct pair pair = { .gmm = instance_open() };

	for (int i = 0; i < 2; i++)
		pair.vm[i] = vm_create(pair.gmm, NULL);
	pair.ram[0] = vm_create_ram(pair.vm[0], 0, PAGES);
	pair.ram[1] = vm_adopt_ram(pair.vm[1], 0, PAGES);
	for (int i = 0; i < 2; i++)
		fill_guest(pair.ram[i], i);
	engine_settle(pair.gmm);
	return pair;
}

static void pair_close(struct pair *pair)
{
	assert_ok(gmm_instance_validate(pair->gmm));
	assert_ok(gmm_vm_destroy(pair->vm[0], GMM_RAM_KEEP));
	assert_ok(gmm_vm_destroy(pair->vm[1], GMM_RAM_KEEP));
	assert_ok(gmm_instance_close(pair->gmm));
	ram_unmap(pair->ram[1], PAGES);
}

static uint64_t pool_pages(struct gmm *gmm)
{
	return stats_of(gmm).pool_pages;
}

START_TEST(every_page_is_in_the_expected_state)
{
	struct pair pair = pair_open();

	for (int i = 0; i < 2; i++) {
		struct gmm_vm_stats stats = vm_stats_of(pair.vm[i]);

		ck_assert_uint_eq(stats.pages, PAGES);
		ck_assert_uint_eq(stats.state_pages[GMM_PAGE_ABSENT], ABSENT);
		ck_assert_uint_eq(stats.state_pages[GMM_PAGE_ZERO], ZERO);
		ck_assert_uint_eq(stats.state_pages[GMM_PAGE_FILL], FILL);
		ck_assert_uint_eq(stats.state_pages[GMM_PAGE_SHARED], EQUAL + TWINS);
		ck_assert_uint_eq(stats.state_pages[GMM_PAGE_UNIQUE], UNIQUE);
		ck_assert_uint_eq(stats.private_pages, UNIQUE);
		ck_assert_uint_eq(stats.merges, ZERO + FILL + EQUAL + TWINS);
		ck_assert_uint_eq(stats.cow_breaks, 0);
		ck_assert_uint_gt(stats.mappings, 0);
	}
	/* The kernel agrees: pages of the pool are file pages, zero pages have no memory. */
	ck_assert_uint_gt(proc_file_mappings(pair.ram[0], PAGES * PAGE), 0);
	ck_assert_uint_gt(proc_file_mappings(pair.ram[1], PAGES * PAGE), 0);
	ck_assert_uint_eq(guest_wrong(pair.ram[0], 0) + guest_wrong(pair.ram[1], 1), 0);
	for (int i = 0; i < 2; i++)
		ck_assert_uint_eq(ram_not_zero(pair.ram[i], ABSENT + ZERO), 0);
	pair_close(&pair);
}
END_TEST

START_TEST(the_instance_counts_what_was_saved)
{
	struct pair pair = pair_open();
	struct gmm_stats stats = stats_of(pair.gmm);
	uint64_t copies = stats.pool_pages - EQUAL;

	ck_assert_uint_eq(stats.vms, 2);
	ck_assert_uint_eq(stats.total.references, 2 * (FILL + EQUAL + TWINS));
	/* Fill pages and twins side by side may use several equal copies, to make long runs. */
	ck_assert_uint_ge(copies, 2);
	ck_assert_uint_le(copies, FILL + TWINS);
	ck_assert_uint_ge(stats.saved_pages, EQUAL + TWINS + FILL);
	ck_assert_uint_eq(stats.allocated_pages, 2 * UNIQUE + stats.pool_pages);
	ck_assert(stats.running);
	ck_assert(stats.settled);
	ck_assert_uint_gt(stats.passes, 0);
	ck_assert_uint_gt(stats.cpu_ns, 0);
	ck_assert_uint_ge(stats.digested_pages, 2 * (EQUAL + TWINS));
	ck_assert_uint_gt(stats.metadata_bytes, 0);
	pair_close(&pair);
}
END_TEST

START_TEST(consecutive_pages_become_one_run)
{
	struct pair pair = pair_open();
	struct gmm_vm_stats stats = vm_stats_of(pair.vm[1]);

	/* The equal pages were consecutive in both guests. Some more runs: fill extents, twins, promotion. */
	ck_assert_uint_le(stats.runs, TWINS + FILL / 16 + 16);
	ck_assert_uint_le(proc_file_mappings(pair.ram[1], PAGES * PAGE), TWINS + FILL / 16 + 16);
	pair_close(&pair);
}
END_TEST

START_TEST(a_write_breaks_only_its_own_page)
{
	enum { BREAK = 40 };
	struct pair pair = pair_open();
	uint64_t before = pool_pages(pair.gmm);

	for (size_t i = 0; i < BREAK; i++) {
		char *page = pair.ram[0] + (EQUAL_AT + 3 * i) * PAGE;

		guest_store(page, i, 0x1234 + i);
		ck_assert_uint_eq(guest_load(page, i), 0x1234 + i);
		ck_assert(page_is(pair.ram[1] + (EQUAL_AT + 3 * i) * PAGE, EQUAL_SEED + 3 * i));
	}
	assert_eventually(vm_state(pair.vm[0], GMM_PAGE_BROKEN) == BREAK);
	ck_assert_uint_eq(vm_stats_of(pair.vm[0]).cow_breaks, BREAK);
	ck_assert_uint_eq(vm_stats_of(pair.vm[0]).private_pages, UNIQUE + BREAK);
	ck_assert_uint_eq(vm_stats_of(pair.vm[0]).references, FILL + EQUAL + TWINS - BREAK);
	ck_assert_uint_eq(vm_stats_of(pair.vm[1]).cow_breaks, 0);
	ck_assert_uint_eq(pool_pages(pair.gmm), before);
	ck_assert_uint_eq(guest_wrong(pair.ram[1], 1), 0);

	for (size_t i = 0; i < BREAK; i++) /* the other user leaves too: nobody needs the pool page */
		guest_store(pair.ram[1] + (EQUAL_AT + 3 * i) * PAGE, 0, i);
	assert_eventually(pool_pages(pair.gmm) == before - BREAK);
	ck_assert_uint_eq(vm_state(pair.vm[1], GMM_PAGE_BROKEN), BREAK);
	pair_close(&pair);
}
END_TEST

START_TEST(a_written_zero_page_is_counted_and_private)
{
	enum { BREAK = 10 };
	struct pair pair = pair_open();

	for (size_t i = 0; i < BREAK; i++)
		page_fill(pair.ram[0] + (ZERO_AT + 2 * i) * PAGE, 500000 + i);
	assert_eventually(vm_stats_of(pair.vm[0]).zero_breaks == BREAK);
	assert_eventually(vm_state(pair.vm[0], GMM_PAGE_UNIQUE) == UNIQUE + BREAK);
	ck_assert_uint_eq(vm_state(pair.vm[0], GMM_PAGE_ZERO), ZERO - BREAK);
	for (size_t i = 0; i < BREAK; i++) {
		ck_assert(page_is(pair.ram[0] + (ZERO_AT + 2 * i) * PAGE, 500000 + i));
		ck_assert(page_repeats(pair.ram[0] + (ZERO_AT + 2 * i + 1) * PAGE, 0));
	}
	pair_close(&pair);
}
END_TEST

START_TEST(unshare_makes_private_and_keeps_bytes)
{
	struct pair pair = pair_open();
	uint64_t shared = EQUAL + TWINS;

	assert_ok(gmm_engine_pause(pair.gmm));
	assert_ok(gmm_vm_unshare(pair.vm[0], EQUAL_AT * PAGE, (EQUAL + TWINS) * PAGE));
	ck_assert_uint_eq(proc_file_mappings(pair.ram[0] + EQUAL_AT * PAGE, (EQUAL + TWINS) * PAGE), 0);
	ck_assert_uint_eq(guest_wrong(pair.ram[0], 0) + guest_wrong(pair.ram[1], 1), 0);
	ck_assert_uint_eq(vm_state(pair.vm[0], GMM_PAGE_SHARED), 0);
	ck_assert_uint_eq(vm_state(pair.vm[0], GMM_PAGE_FILL), FILL);
	ck_assert_uint_eq(vm_stats_of(pair.vm[0]).private_pages, UNIQUE + shared);
	ck_assert_uint_eq(vm_state(pair.vm[1], GMM_PAGE_SHARED), shared);
	assert_ok(gmm_instance_validate(pair.gmm));

	assert_ok(gmm_engine_start(pair.gmm)); /* candidates again */
	assert_eventually(vm_state(pair.vm[0], GMM_PAGE_SHARED) == shared);
	ck_assert_uint_eq(guest_wrong(pair.ram[0], 0) + guest_wrong(pair.ram[1], 1), 0);
	pair_close(&pair);
}
END_TEST

START_TEST(unshare_keeps_the_bytes_of_broken_and_zero_pages)
{
	struct pair pair = pair_open();
	char *ram = pair.ram[0];

	page_fill(ram + EQUAL_AT * PAGE, 777);
	page_fill(ram + (EQUAL_AT + 100) * PAGE, 778);
	assert_ok(gmm_vm_unshare(pair.vm[0], 0, PAGES * PAGE));
	ck_assert(page_is(ram + EQUAL_AT * PAGE, 777));
	ck_assert(page_is(ram + (EQUAL_AT + 100) * PAGE, 778));
	ck_assert_uint_eq(ram_not_zero(ram, ABSENT + ZERO), 0);
	page_fill(ram + EQUAL_AT * PAGE, EQUAL_SEED);
	page_fill(ram + (EQUAL_AT + 100) * PAGE, EQUAL_SEED + 100);
	ck_assert_uint_eq(guest_wrong(ram, 0), 0);
	/* Broken pages became ordinary ones, so equal bytes find each other again. */
	assert_eventually(vm_state(pair.vm[0], GMM_PAGE_SHARED) == EQUAL + TWINS);
	ck_assert_uint_eq(guest_wrong(ram, 0) + guest_wrong(pair.ram[1], 1), 0);
	pair_close(&pair);
}
END_TEST

START_TEST(unshareable_pages_stay_private)
{
	enum { PART = 50 };
	struct pair pair = pair_open();
	uint64_t shared = EQUAL + TWINS;

	assert_ok(gmm_vm_set_unshareable(pair.vm[1], EQUAL_AT * PAGE, PART * PAGE, true));
	ck_assert_uint_eq(proc_file_mappings(pair.ram[1] + EQUAL_AT * PAGE, PART * PAGE), 0);
	engine_passes(pair.gmm, 5);
	ck_assert_uint_eq(vm_state(pair.vm[1], GMM_PAGE_UNSHAREABLE), PART);
	ck_assert_uint_eq(vm_state(pair.vm[1], GMM_PAGE_SHARED), shared - PART);
	ck_assert_uint_eq(guest_wrong(pair.ram[1], 1), 0);

	assert_ok(gmm_vm_set_unshareable(pair.vm[1], EQUAL_AT * PAGE, PART * PAGE, false));
	assert_eventually(vm_state(pair.vm[1], GMM_PAGE_SHARED) == shared);
	ck_assert_uint_eq(vm_state(pair.vm[1], GMM_PAGE_UNSHAREABLE), 0);
	ck_assert_uint_eq(guest_wrong(pair.ram[1], 1), 0);
	pair_close(&pair);
}
END_TEST

START_TEST(a_late_vm_finds_what_is_shared)
{
	struct pair pair = pair_open();
	struct gmm_vm *late = vm_create(pair.gmm, "default"); /* what no name means */
	uint64_t before = pool_pages(pair.gmm);
	char *ram = vm_create_ram(late, 1u << 30, EQUAL);

	ram_fill(ram, EQUAL, EQUAL_SEED);
	assert_eventually(vm_state(late, GMM_PAGE_SHARED) == EQUAL);
	ck_assert_uint_eq(ram_wrong(ram, EQUAL, EQUAL_SEED), 0);
	ck_assert_uint_eq(pool_pages(pair.gmm), before);
	ck_assert_uint_le(vm_stats_of(late).runs, 8);
	assert_ok(gmm_vm_destroy(late, GMM_RAM_DISCARD));
	ck_assert_uint_eq(pool_pages(pair.gmm), before);
	pair_close(&pair);
}
END_TEST

/* Fills and drops other VMs so that the pool gives out slots again and again, as long as it may. */
static void churn_pool(struct gmm *gmm, unsigned round)
{
	struct gmm_vm *vm[2];

	for (int i = 0; i < 2; i++) {
		vm[i] = vm_create(gmm, NULL);
		ram_fill(vm_create_ram(vm[i], 0, 2 * EQUAL), 2 * EQUAL, 7000000 + round * 10000);
	}
	assert_eventually(vm_state(vm[0], GMM_PAGE_SHARED) == 2 * EQUAL);
	for (int i = 0; i < 2; i++)
		assert_ok(gmm_vm_destroy(vm[i], GMM_RAM_DISCARD));
}

START_TEST(dropped_copies_never_show_another_page)
{
	struct pair pair = pair_open();
	uint64_t before = pool_pages(pair.gmm);

	for (size_t i = EQUAL_AT; i < EQUAL_AT + EQUAL; i++) /* both break: the slots are free, but covered */
		for (int k = 0; k < 2; k++)
			guest_store(pair.ram[k] + i * PAGE, 7, 7 + (uint64_t)k);
	assert_eventually(pool_pages(pair.gmm) <= before - EQUAL);
	for (unsigned round = 0; round < 4; round++) {
		churn_pool(pair.gmm, round);
		/* What the header tells callers not to do: it must still not show them foreign bytes. */
		for (size_t i = round; i < EQUAL; i += 4) {
			char *page = pair.ram[0] + (EQUAL_AT + i) * PAGE;

			ck_assert_int_eq(madvise(page, PAGE, MADV_DONTNEED), 0);
			ck_assert_msg(page_repeats(page, 0) || page_is(page, EQUAL_SEED + i),
				      "page %zu shows bytes that never were its own", i);
		}
	}
	churn_pool(pair.gmm, 100);
	for (size_t i = 0; i < EQUAL; i++) {
		char *page = pair.ram[0] + (EQUAL_AT + i) * PAGE;

		ck_assert(page_repeats(page, 0) || page_is(page, EQUAL_SEED + i));
		page_fill(page, EQUAL_SEED + i);
		page_fill(pair.ram[1] + (EQUAL_AT + i) * PAGE, EQUAL_SEED + i);
	}
	ck_assert_uint_eq(guest_wrong(pair.ram[0], 0) + guest_wrong(pair.ram[1], 1), 0);
	pair_close(&pair);
}
END_TEST

/* Two stretches of content are promoted one after the other, the second into the place that memory of a slot
 * removed in between may have left free. A guest then has the second right before the first, so that what it
 * shares is consecutive for it, whatever lies between the stretches in the pool.
 */
START_TEST(a_run_may_join_what_was_promoted_apart)
{
	enum { STRETCH = 512, CUT = 100, BOTH = 2 * STRETCH };
	struct gmm *gmm = instance_open();
	struct gmm_vm *vm[3], *passing;
	char *ram[3];

	for (int i = 0; i < 3; i++) {
		vm[i] = vm_create(gmm, NULL);
		ram[i] = vm_create_ram(vm[i], 0, BOTH);
	}
	passing = vm_create(gmm, NULL);
	vm_create_ram(passing, 0, 1);
	for (int i = 0; i < 2; i++)
		ram_fill(ram[i], STRETCH, 1000000);
	engine_settle(gmm);
	ck_assert_uint_eq(stats_of(gmm).pool_pages, STRETCH);
	assert_ok(gmm_vm_destroy(passing, GMM_RAM_DISCARD));
	for (int i = 0; i < 2; i++)
		ram_fill(ram[i] + STRETCH * PAGE, STRETCH, 2000000);
	assert_eventually(stats_of(gmm).pool_pages == BOTH);

	ram_fill(ram[2], STRETCH - CUT, 2000000 + CUT);
	ram_fill(ram[2] + (STRETCH - CUT) * PAGE, STRETCH, 1000000);
	assert_eventually(vm_state(vm[2], GMM_PAGE_SHARED) == BOTH - CUT);
	ck_assert_uint_eq(ram_wrong(ram[2], STRETCH - CUT, 2000000 + CUT), 0);
	ck_assert_uint_eq(ram_wrong(ram[2] + (STRETCH - CUT) * PAGE, STRETCH, 1000000), 0);
	assert_ok(gmm_instance_validate(gmm));
	for (int i = 0; i < 3; i++)
		assert_ok(gmm_vm_destroy(vm[i], GMM_RAM_DISCARD));
	assert_ok(gmm_instance_close(gmm));
}
END_TEST

START_TEST(identities_hold_while_guests_write)
{
	struct pair pair = pair_open();
	uint64_t random = 4711;

	for (unsigned round = 0; round < 400; round++) {
		for (unsigned i = 0; i < 8; i++) {
			uint64_t page = EQUAL_AT + random_next(&random) % EQUAL;

			guest_store(pair.ram[random & 1] + page * PAGE, 0, random);
		}
		stats_of(pair.gmm); /* checks them */
		vm_stats_of(pair.vm[round & 1]);
		if (round % 100 == 99)
			assert_ok(gmm_vm_unshare(pair.vm[round / 100 & 1], 0, PAGES * PAGE));
	}
	pair_close(&pair);
}
END_TEST

int main(void)
{
	const TTest *tests[] = {
		every_page_is_in_the_expected_state,
		the_instance_counts_what_was_saved,
		consecutive_pages_become_one_run,
		a_write_breaks_only_its_own_page,
		a_written_zero_page_is_counted_and_private,
		unshare_makes_private_and_keeps_bytes,
		unshare_keeps_the_bytes_of_broken_and_zero_pages,
		unshareable_pages_stay_private,
		a_late_vm_finds_what_is_shared,
		dropped_copies_never_show_another_page,
		a_run_may_join_what_was_promoted_apart,
		identities_hold_while_guests_write,
	};

	return suite_main("sharing", tests, sizeof(tests) / sizeof(tests[0]));
}
