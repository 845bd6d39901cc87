/* Cloned VMs: they begin with every byte of the source, share its pages, and go their own ways; pinned pages are copied,
 * holes stay holes. */
#include "tests/support/guest.h"
#include "tests/support/proc.h"
#include "tests/support/suite.h"

#include <string.h>

enum { PAGES = 600, SEED = 31000, SECOND = 1 << 24 };

static struct gmm *gmm;
static struct gmm_vm *source, *cloned;
static char *ram, *second, *copy, *copied_second;

/* Pages of their own, zero pages, holes, a fill row, and a second slot. */
static void open_source(bool run)
{
	gmm = instance_open();
	source = vm_create(gmm, "clones");
	ram = vm_create_ram(source, 0, PAGES);
	second = vm_adopt_ram(source, SECOND, 100);
	ram_fill(ram, 400, SEED);
	for (size_t i = 400; i < 440; i++)
		page_repeat(ram + i * PAGE, 0);
	for (size_t i = 440; i < 500; i++)
		page_repeat(ram + i * PAGE, 0xcccccccccccccccc);
	ram_fill(second, 100, SEED + 50); /* equal to pages of the first */
	if (run)
		engine_settle(gmm);
}

static void clone_it(void)
{
	void *addr;

	assert_ok(gmm_vm_clone(source, "copy", &cloned));
	assert_ok(gmm_vm_address(cloned, 0, &addr));
	copy = addr;
	assert_ok(gmm_vm_address(cloned, SECOND + 5 * PAGE, &addr));
	copied_second = (char *)addr - 5 * PAGE;
	assert_ok(gmm_instance_validate(gmm));
}

static void close_all(void)
{
	assert_ok(gmm_instance_validate(gmm));
	assert_ok(gmm_vm_destroy(source, GMM_RAM_DISCARD));
	if (cloned)
		assert_ok(gmm_vm_destroy(cloned, GMM_RAM_DISCARD));
	cloned = NULL;
	ck_assert_uint_eq(stats_of(gmm).pool_pages, 0);
	assert_ok(gmm_instance_close(gmm));
}

static void check_bytes(const char *at, const char *its_second)
{
	ck_assert_uint_eq(ram_wrong(at, 400, SEED), 0);
	ck_assert_uint_eq(ram_not_zero(at + 400 * PAGE, 40), 0);
	for (size_t i = 440; i < 500; i++)
		ck_assert(page_repeats(at + i * PAGE, 0xcccccccccccccccc));
	ck_assert_uint_eq(ram_not_zero(at + 500 * PAGE, 100), 0);
	ck_assert_uint_eq(ram_wrong(its_second, 100, SEED + 50), 0);
}

static void all_is_there(bool run)
{
	open_source(run);
	clone_it();
	/* Nothing is there twice, and holes are holes. */
	struct gmm_vm_stats stats = vm_stats_of(cloned);
	ck_assert_uint_eq(stats.references, 560);
	ck_assert_uint_eq(stats.private_pages, 0);
	ck_assert_uint_eq(stats.state_pages[GMM_PAGE_ABSENT], 140);
	ck_assert_uint_eq(vm_stats_of(source).private_pages, 0);
	ck_assert_uint_le(stats.mappings, run ? 200 : 40);
	check_bytes(ram, second);
	check_bytes(copy, copied_second);
	close_all();
}

START_TEST(a_clone_has_all)
{
	all_is_there(false);
}
END_TEST

START_TEST(a_clone_of_shared_pages_has_all)
{
	all_is_there(true);
}
END_TEST

START_TEST(both_go_their_own_ways)
{
	open_source(false);
	clone_it();
	for (size_t i = 0; i < PAGES; i += 3)
		guest_store(copy + i * PAGE, 17, 4711);
	for (size_t i = 1; i < PAGES; i += 3)
		guest_store(ram + i * PAGE, 17, 815);
	for (size_t i = 0; i < PAGES; i++) {
		ck_assert_uint_eq(guest_load(copy + i * PAGE, 17) == 4711, i % 3 == 0);
		ck_assert_uint_eq(guest_load(ram + i * PAGE, 17) == 815, i % 3 == 1);
	}
	engine_settle(gmm);
	assert_ok(gmm_instance_validate(gmm));
	assert_ok(gmm_vm_destroy(source, GMM_RAM_DISCARD)); /* the clone does not need it */
	source = cloned;
	cloned = NULL;
	for (size_t i = 1; i < 400; i += 3)
		ck_assert(page_is(copy + i * PAGE, SEED + i));
	close_all();
}
END_TEST

START_TEST(what_cannot_move_is_copied)
{
	open_source(true);
	assert_ok(gmm_vm_pin(source, 0, 20 * PAGE));
	assert_ok(gmm_vm_set_unshareable(source, 30 * PAGE, 10 * PAGE, true));
	for (size_t i = 60; i < 70; i++) /* copies over shared pages, which nobody has noticed */
		page_fill(ram + i * PAGE, SEED + i);
	guest_store(ram + 65 * PAGE, 3, 99);
	clone_it();
	ck_assert_uint_eq(guest_load(copy + 65 * PAGE, 3), 99);
	guest_store(copy + 65 * PAGE, 3, guest_load(copied_second + 15 * PAGE, 3)); /* as it was */
	guest_store(ram + 65 * PAGE, 3, guest_load(copied_second + 15 * PAGE, 3));
	check_bytes(copy, copied_second);
	guest_store(ram + 3 * PAGE, 9, 5); /* the device goes on writing to the source alone */
	ck_assert(page_is(copy + 3 * PAGE, SEED + 3));
	ck_assert_uint_eq(vm_state(source, GMM_PAGE_PINNED), 20);
	page_fill(ram + 3 * PAGE, SEED + 3);
	check_bytes(ram, second);
	assert_ok(gmm_vm_unpin(source, 0, 20 * PAGE));
	close_all();
}
END_TEST

/* A clone of a clone, and the engine beside it. */
START_TEST(many_clones)
{
	struct gmm_vm *clones[8];
	void *addr;

	open_source(true);
	for (int i = 0; i < 8; i++) {
		assert_ok(gmm_vm_clone(i % 2 ? clones[i - 1] : source, NULL, &clones[i]));
		assert_ok(gmm_vm_address(clones[i], 0, &addr));
		ck_assert_uint_eq(ram_wrong(addr, 400, SEED), 0);
		guest_store((char *)addr + (size_t)i * PAGE, 1, guest_load((char *)addr + (size_t)i * PAGE, 1));
	}
	ck_assert_uint_le(stats_of(gmm).pool_pages, 480);
	for (int i = 0; i < 8; i++)
		assert_ok(gmm_vm_destroy(clones[i], GMM_RAM_DISCARD));
	check_bytes(ram, second);
	close_all();
}
END_TEST

START_TEST(bad_arguments)
{
	void *addr = &addr;

	open_source(false);
	assert_status(gmm_vm_clone(NULL, NULL, &cloned), GMM_ERR_INVALID_PARAMETER);
	assert_status(gmm_vm_clone(source, NULL, NULL), GMM_ERR_INVALID_PARAMETER);
	assert_status(gmm_vm_address(source, SECOND + 100 * PAGE, &addr), GMM_ERR_NOT_FOUND);
	ck_assert_ptr_eq(addr, &addr);
	assert_ok(gmm_vm_address(source, SECOND + 7, &addr));
	ck_assert_ptr_eq(addr, second + 7);
	cloned = NULL;
	close_all();
}
END_TEST

int main(void)
{
	const TTest *tests[] = { a_clone_has_all, a_clone_of_shared_pages_has_all, both_go_their_own_ways,
				 what_cannot_move_is_copied, many_clones, bad_arguments };

	return suite_main("clone", tests, sizeof tests / sizeof *tests);
}
