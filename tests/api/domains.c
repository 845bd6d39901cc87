/* Trust domains: equal pages are shared inside a domain and never across, whatever finds them equal (INV-6).
 * Each domain must save exactly what it would save alone; zero pages are freed everywhere.
 */
#include "tests/support/guest.h"
#include "tests/support/suite.h"

enum { EQUAL = 300, ZERO = 50, PAGES = EQUAL + ZERO };

#define SEED 42u

struct member {
	struct gmm_vm *vm;
	char *ram;
};

static struct member member_add(struct gmm *gmm, const char *domain)
{
	struct member member = { .vm = vm_create(gmm, domain) };

	member.ram = vm_create_ram(member.vm, 0, PAGES);
	ram_fill(member.ram, EQUAL, SEED);
	for (size_t i = 0; i < ZERO; i++)
		page_repeat(member.ram + (EQUAL + i) * PAGE, 0);
	return member;
}

/* Pages with an equal in no domain but others: the library may or may not know why they are alone. */
static uint64_t alone(struct gmm_vm *vm)
{
	return vm_state(vm, GMM_PAGE_UNIQUE);
}

static void check_all(struct gmm *gmm, struct member *members, size_t count)
{
	assert_ok(gmm_instance_validate(gmm));
	for (size_t i = 0; i < count; i++) {
		ck_assert_uint_eq(ram_wrong(members[i].ram, EQUAL, SEED), 0);
		ck_assert_uint_eq(ram_not_zero(members[i].ram + EQUAL * PAGE, ZERO), 0);
	}
}

static void close_all(struct gmm *gmm, struct member *members, size_t count)
{
	for (size_t i = 0; i < count; i++)
		assert_ok(gmm_vm_destroy(members[i].vm, GMM_RAM_DISCARD));
	ck_assert_uint_eq(stats_of(gmm).pool_pages, 0);
	assert_ok(gmm_instance_close(gmm));
}

START_TEST(each_domain_saves_what_it_would_alone)
{
	static const char *const domains[] = {
		"red", "red", "red", "blue", "blue", "green", NULL, "default",
	};
	enum { COUNT = sizeof(domains) / sizeof(domains[0]), GREEN = 5, SHARING_DOMAINS = 3 };
	struct gmm *gmm = instance_open();
	struct member members[COUNT];
	struct gmm_stats stats;

	for (size_t i = 0; i < COUNT; i++)
		members[i] = member_add(gmm, domains[i]);
	engine_settle(gmm);
	stats = stats_of(gmm);
	ck_assert_uint_eq(stats.pool_pages, SHARING_DOMAINS * EQUAL);
	ck_assert_uint_eq(stats.total.references, (COUNT - 1) * EQUAL);
	ck_assert_uint_eq(stats.saved_pages, (2 + 1 + 1) * EQUAL);
	ck_assert_uint_eq(stats.total.state_pages[GMM_PAGE_ZERO], COUNT * ZERO);
	for (size_t i = 0; i < COUNT; i++) {
		ck_assert_uint_eq(vm_state(members[i].vm, GMM_PAGE_SHARED), i == GREEN ? 0 : EQUAL);
		ck_assert_uint_eq(alone(members[i].vm), i == GREEN ? EQUAL : 0);
	}
	check_all(gmm, members, COUNT);
	close_all(gmm, members, COUNT);
}
END_TEST

START_TEST(a_lone_domain_shares_nothing_until_it_has_company)
{
	struct gmm *gmm = instance_open();
	struct member members[4];

	members[0] = member_add(gmm, "a");
	members[1] = member_add(gmm, "b");
	members[2] = member_add(gmm, "A"); /* names are compared byte for byte */
	engine_settle(gmm);
	ck_assert_uint_eq(stats_of(gmm).pool_pages, 0);
	ck_assert_uint_eq(stats_of(gmm).total.references, 0);
	ck_assert_uint_eq(stats_of(gmm).total.state_pages[GMM_PAGE_ZERO], 3 * ZERO);

	members[3] = member_add(gmm, "b");
	assert_eventually(vm_state(members[3].vm, GMM_PAGE_SHARED) == EQUAL);
	assert_eventually(vm_state(members[1].vm, GMM_PAGE_SHARED) == EQUAL);
	ck_assert_uint_eq(stats_of(gmm).pool_pages, EQUAL);
	ck_assert_uint_eq(vm_state(members[0].vm, GMM_PAGE_SHARED), 0);
	ck_assert_uint_eq(vm_state(members[2].vm, GMM_PAGE_SHARED), 0);
	check_all(gmm, members, 4);
	close_all(gmm, members, 4);
}
END_TEST

START_TEST(a_write_in_one_domain_is_not_seen_in_another)
{
	struct gmm *gmm = instance_open();
	struct member members[4];

	for (size_t i = 0; i < 4; i++)
		members[i] = member_add(gmm, i < 2 ? "left" : "right");
	engine_settle(gmm);
	for (size_t i = 0; i < EQUAL; i++)
		page_fill(members[0].ram + i * PAGE, 1000000 + i);
	assert_eventually(vm_state(members[0].vm, GMM_PAGE_BROKEN) == EQUAL);
	ck_assert_uint_eq(ram_wrong(members[0].ram, EQUAL, 1000000), 0);
	check_all(gmm, members + 1, 3);
	ck_assert_uint_eq(vm_state(members[2].vm, GMM_PAGE_SHARED), EQUAL);
	ck_assert_uint_eq(vm_state(members[3].vm, GMM_PAGE_SHARED), EQUAL);
	close_all(gmm, members, 4);
}
END_TEST

/* Slots freed by one domain must not show their old bytes through another: fill, free, fill elsewhere. */
START_TEST(freed_pages_do_not_leak_into_another_domain)
{
	struct gmm *gmm = instance_open();
	struct member members[2];

	assert_ok(gmm_engine_start(gmm));
	for (unsigned round = 0; round < 6; round++) {
		for (size_t i = 0; i < 2; i++)
			members[i] = member_add(gmm, round & 1 ? "odd" : "even");
		assert_eventually(vm_state(members[0].vm, GMM_PAGE_SHARED) == EQUAL);
		check_all(gmm, members, 2);
		assert_ok(gmm_vm_destroy(members[0].vm, GMM_RAM_DISCARD));
		ck_assert_uint_eq(ram_wrong(members[1].ram, EQUAL, SEED), 0);
		assert_ok(gmm_vm_destroy(members[1].vm, GMM_RAM_DISCARD));
		ck_assert_uint_eq(stats_of(gmm).pool_pages, 0);
	}
	assert_ok(gmm_instance_close(gmm));
}
END_TEST

int main(void)
{
	const TTest *tests[] = {
		each_domain_saves_what_it_would_alone,
		a_lone_domain_shares_nothing_until_it_has_company,
		a_write_in_one_domain_is_not_seen_in_another,
		freed_pages_do_not_leak_into_another_domain,
	};

	return suite_main("domains", tests, sizeof(tests) / sizeof(tests[0]));
}
