/* The worked example of the accounting identities, line by line: two VMs with one equal page share it, and break it. */
#include <gmm/pages.h>

#include <string.h>

#include "tests/support/suite.h"
#include "tests/unit/support/unit.h"

enum { A, B, RESERVED = 1000, TAKEN = 128, X = 17 };

static struct gmm *gmm;
static struct gmm_vm *vm[2];
static gmm_page_id pages[2][TAKEN];

static void check_global(uint64_t alloc, uint64_t shared, uint64_t saved)
{
	struct gmm_instance_memory_stats stats;

	assert_ok(gmm_instance_memory_stats(gmm, &stats));
	ck_assert_uint_eq(stats.allocated_pages, alloc);
	ck_assert_uint_eq(stats.shared_pages, shared);
	ck_assert_uint_eq(stats.memory.references - stats.shared_pages, saved);
	ck_assert_uint_eq(stats.memory.used_pages[GMM_ACCOUNT_BASE], alloc + saved);
	assert_ok(gmm_instance_validate(gmm));
}

static void check_vm(int which, uint64_t base, uint64_t private_pages, uint64_t references)
{
	struct gmm_vm_memory_stats stats;

	assert_ok(gmm_vm_memory_stats(vm[which], &stats));
	ck_assert_uint_eq(stats.memory.used_pages[GMM_ACCOUNT_BASE], base);
	ck_assert_uint_eq(stats.memory.private_pages, private_pages);
	ck_assert_uint_eq(stats.memory.references, references);
}

/* Up to "B's x joins it". */
static void both_share_x(void)
{
	const struct gmm_reservation reservation = { .pages = { RESERVED, 1, 1 } };
	struct gmm_vm_options options;
	bool joined = false;

	assert_ok(gmm_instance_open(NULL, &gmm));
	gmm_vm_options_init(&options);
	options.kind = GMM_VM_PAGED;
	for (int v = A; v <= B; v++) {
		assert_ok(gmm_vm_create(gmm, &options, &vm[v]));
		assert_ok(gmm_vm_reserve(vm[v], &reservation));
	}
	check_global(0, 0, 0);
	assert_ok(gmm_vm_allocate_pages(vm[A], GMM_ACCOUNT_BASE, TAKEN, NULL, pages[A]));
	check_global(128, 0, 0);
	check_vm(A, 128, 128, 0);
	check_vm(B, 0, 0, 0);
	assert_ok(gmm_vm_allocate_pages(vm[B], GMM_ACCOUNT_BASE, TAKEN, NULL, pages[B]));
	check_global(256, 0, 0);
	memset(vm_page(vm[A], pages[A][X]), 'x', GMM_PAGE_SIZE);
	memset(vm_page(vm[B], pages[B][X]), 'x', GMM_PAGE_SIZE);
	assert_ok(gmm_vm_share_page(vm[A], pages[A][X], &pages[A][X]));
	check_global(256, 1, 0);
	check_vm(A, 128, 127, 1);
	check_vm(B, 128, 128, 0);
	assert_ok(gmm_vm_join_page(vm[B], pages[B][X], pages[A][X], &joined));
	ck_assert(joined);
	pages[B][X] = pages[A][X];
	check_global(255, 1, 1);
	check_vm(A, 128, 127, 1);
	check_vm(B, 128, 127, 1);
	ck_assert_uint_eq(vm_page(vm[B], pages[B][X])[4095], 'x');
}

/* The VM writes to x: a handy page, here page 0, takes its place, and the refill tells of it. */
static void write_x(int which)
{
	struct gmm_handy_page handy = { .guest_addr = X * GMM_PAGE_SIZE, .page = pages[which][0],
					.shared_page = pages[which][X] };

	pages[which][X] = handy.page;
	assert_ok(gmm_vm_refill_handy_pages(vm[which], 1, 1, &handy));
	ck_assert_uint_ne(handy.page, 0);
	ck_assert_uint_eq(handy.shared_page, 0);
	pages[which][0] = handy.page;
}

START_TEST(writes)
{
	both_share_x();
	write_x(A);
	check_global(256, 1, 0);
	check_vm(A, 128, 128, 0);
	check_vm(B, 128, 127, 1);
	write_x(B);
	check_global(256, 0, 0);
	check_vm(A, 128, 128, 0);
	check_vm(B, 128, 128, 0);
	assert_ok(gmm_vm_destroy(vm[A], GMM_RAM_DISCARD));
	assert_ok(gmm_vm_destroy(vm[B], GMM_RAM_DISCARD));
	check_global(0, 0, 0);
	assert_ok(gmm_instance_close(gmm));
}
END_TEST

START_TEST(death)
{
	both_share_x();
	assert_ok(gmm_vm_destroy(vm[A], GMM_RAM_DISCARD));
	check_global(128, 1, 0);
	check_vm(B, 128, 127, 1);
	ck_assert_uint_eq(vm_page(vm[B], pages[B][X])[0], 'x');
	assert_ok(gmm_vm_destroy(vm[B], GMM_RAM_DISCARD));
	check_global(0, 0, 0);
	assert_ok(gmm_instance_close(gmm));
}
END_TEST

int main(void)
{
	const TTest *const tests[] = { writes, death };

	return unit_main("paged_example", tests, sizeof tests / sizeof *tests);
}
