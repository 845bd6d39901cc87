/* Profit: what a VM's account is made of, and when a VM is left alone and tried again. */
#include "dedup/profit.h"

#include "tests/unit/support/twins.h"
#include "tests/unit/support/unit.h"

enum { MIB = 1 << 20 };

/* Passes of `passes` in which the VM is visited, with the same profit at each. */
static unsigned visits(struct gmm__vm_profit *profit, unsigned passes, int64_t bytes)
{
	unsigned n = 0;

	while (passes-- > 0) {
		if (!gmm__profit_visit(profit, false, 0))
			continue;
		gmm__profit_learn(profit, bytes);
		n++;
	}
	return n;
}

START_TEST(a_vm_that_pays_is_always_visited)
{
	struct gmm__vm_profit profit = { 0 };

	ck_assert_uint_eq(visits(&profit, 500, 1), 500);
	ck_assert_uint_eq(visits(&profit, 500, -MIB / 2), 500); /* a small loss is let pass */
}
END_TEST

START_TEST(a_loss_stops_the_visits_for_ever_longer)
{
	struct gmm__vm_profit profit = { 0 };
	unsigned grace = visits(&profit, 64, -2 * MIB);

	ck_assert_uint_ge(grace, 16);
	ck_assert_uint_lt(grace, 40);
	ck_assert(profit.resting);
	visits(&profit, 10000, -2 * MIB);
	ck_assert_uint_le(visits(&profit, 10400, -2 * MIB), 10 * 17); /* of 1,040 passes 16 or 17 are trials */
	ck_assert_uint_gt(visits(&profit, 10400, -2 * MIB), 0);
}
END_TEST

START_TEST(what_stops_at_one_level_goes_on_at_another)
{
	struct gmm__vm_profit profit = { 0 };

	visits(&profit, 64, -2 * MIB);
	ck_assert(profit.resting);
	visits(&profit, 64 + 16, -MIB * 3 / 4); /* would not have stopped it, but does not start it again */
	ck_assert(profit.resting);
	visits(&profit, 256, 0);
	ck_assert(!profit.resting);
	ck_assert_uint_eq(visits(&profit, 200, -MIB * 3 / 4), 200);
}
END_TEST

START_TEST(who_waits_visits_all)
{
	struct gmm__vm_profit profit = { 0 };

	visits(&profit, 64, -2 * MIB);
	ck_assert(profit.resting);
	ck_assert(gmm__profit_visit(&profit, true, 0));
	ck_assert(!gmm__profit_visit(&profit, false, 0));
}
END_TEST

START_TEST(account_of_a_vm)
{
	struct gmm__profit_facts facts = { .zero_pages = 10, .references = 100, .mappings = 7, .pages = 1000,
					   .pool_pages = 60, .pool_references = 300, .table_bytes = 50000,
					   .all_pages = 4000 };
	/* A third of the references, so a third of the pool; a quarter of the tables. */
	int64_t expected = (10 + 100 - 20) * 4096 - 12500 - 20 * GMM__PTE_BYTES - 7 * GMM__VMA_BYTES;

	ck_assert_int_eq(gmm__profit_bytes(&facts), expected);
	facts = (struct gmm__profit_facts){ .pages = 10, .all_pages = 10, .table_bytes = 160 };
	ck_assert_int_eq(gmm__profit_bytes(&facts), -160);
}
END_TEST

/* A large table stands for a VM whose pages have nothing in common with others. */
START_TEST(a_losing_vm_costs_no_scans_until_ram_comes)
{
	open_twins(8);
	fake_fill_range(a, 0, 8, 100);
	fake_fill_range(b, 0, 8, 200);
	world->gmm->mem.bytes += 64 * MIB;
	fake_passes(48);
	uint32_t scans = world->steps[FAKE_SCAN];
	fake_passes(40);
	ck_assert_uint_eq(world->steps[FAKE_SCAN], scans);
	world->gmm->mem.bytes -= 64 * MIB;
	c = fake_guest_new(NULL, 8);
	fake_fill_range(c, 0, 8, 100);
	fake_passes(24);
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_SHARED), 8);
	ck_assert_uint_eq(fake_count(c, GMM_PAGE_SHARED), 8);
	fake_close();
}
END_TEST

int main(void)
{
	const TTest *const tests[] = { a_vm_that_pays_is_always_visited, a_loss_stops_the_visits_for_ever_longer,
				       what_stops_at_one_level_goes_on_at_another, who_waits_visits_all, account_of_a_vm,
				       a_losing_vm_costs_no_scans_until_ram_comes };

	return unit_main("profit", tests, sizeof tests / sizeof *tests);
}
