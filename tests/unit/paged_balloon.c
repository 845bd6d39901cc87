/* Paged VMs under memory pressure: low priority is asked first, the counters follow what guests give, and the instance's own
 * maximum is pressure before it is reached. */
#include <gmm/balloon.h>
#include <gmm/pages.h>

#include "dedup/arbitrate.h"
#include "tests/support/suite.h"
#include "tests/unit/support/unit.h"

enum { LOW, NORMAL, HIGH, VMS, RESERVED = 4096, USED = 2048, MAXIMUM = 6400 };

static struct gmm *gmm;
static struct gmm_vm *vm[VMS];
static gmm_page_id pages[VMS][USED];
static uint64_t asked[VMS];

static void ask(void *arg, struct gmm_vm *of, uint64_t target)
{
	uint64_t *mine = arg;

	ck_assert_ptr_eq(vm[mine - asked], of);
	*mine = target;
}

static struct gmm_page_balloon balloon(int i)
{
	struct gmm_vm_memory_stats stats;

	assert_ok(gmm_vm_memory_stats(vm[i], &stats));
	return stats.memory.balloon;
}

/* The guest gives up its last pages, so that its balloon holds what was asked for. */
static void give(int i)
{
	while (balloon(i).ballooned < asked[i]) {
		uint64_t n = balloon(i).ballooned, addr = (USED - 1 - n) * GMM_PAGE_SIZE;
		assert_ok(gmm_vm_free_pages(vm[i], GMM_ACCOUNT_BASE, 1, &pages[i][USED - 1 - n], NULL));
		assert_ok(gmm_vm_balloon_pages(vm[i], GMM_BALLOON_INFLATE, 1, &addr, NULL));
	}
}

START_TEST(low_before_normal_before_high)
{
	struct gmm_pressure_options options;
	struct gmm_limits limits;
	struct gmm__arbitration *arbitration;

	assert_ok(gmm_instance_open(NULL, &gmm));
	gmm_limits_init(&limits);
	limits.maximum_pages = MAXIMUM;
	assert_ok(gmm_instance_set_limits(gmm, &limits));
	for (int i = 0; i < VMS; i++) {
		struct gmm_reservation r = { .pages = { RESERVED, 1, 1 }, .overcommit = GMM_OVERCOMMIT_BEST_EFFORT,
					     .priority = (enum gmm_priority)i };
		struct gmm_vm_options vm_options;
		gmm_vm_options_init(&vm_options);
		vm_options.kind = GMM_VM_PAGED;
		assert_ok(gmm_vm_create(gmm, &vm_options, &vm[i]));
		assert_ok(gmm_vm_reserve(vm[i], &r));
		assert_ok(gmm_vm_set_balloon(vm[i], 100, ask, &asked[i]));
		ck_assert_uint_eq(balloon(i).maximum, 100);
		assert_ok(gmm_vm_allocate_pages(vm[i], GMM_ACCOUNT_BASE, USED, NULL, pages[i]));
	}
	gmm_pressure_options_init(&options);
	options.max_bytes = (uint64_t)MAXIMUM * 2 * GMM_PAGE_SIZE; /* more than the instance's maximum, which counts */
	assert_ok(gmm__arbitration_open(gmm, &options, &arbitration));
	gmm__arbitration_step(arbitration); /* 6144 of 6000 */
	ck_assert_uint_eq(asked[LOW], 100);
	ck_assert_uint_le(asked[HIGH], asked[NORMAL]);
	ck_assert_uint_eq(balloon(LOW).requested, 100);
	ck_assert_uint_eq(balloon(LOW).given, 0);
	give(LOW);
	ck_assert_uint_eq(balloon(LOW).given, 100);
	for (int i = 0; i < 20; i++) {
		give(NORMAL);
		gmm__arbitration_step(arbitration);
	}
	ck_assert_uint_eq(asked[LOW], 100); /* never more than its maximum */
	ck_assert_uint_eq(asked[NORMAL], 100);
	struct gmm_balloon_stats stats;
	assert_ok(gmm_vm_balloon_stats(vm[LOW], &stats));
	ck_assert_uint_eq(stats.given_pages, 100);
	ck_assert_uint_eq(stats.requested_pages, 100);
	assert_ok(gmm_vm_balloon_pages(vm[LOW], GMM_BALLOON_RESET, 0, NULL, NULL));
	assert_ok(gmm_vm_balloon_stats(vm[LOW], &stats));
	ck_assert_uint_eq(stats.given_pages + stats.requested_pages, 0);
	assert_ok(gmm_instance_validate(gmm));
	gmm__arbitration_close(arbitration);
	for (int i = 0; i < VMS; i++)
		assert_ok(gmm_vm_destroy(vm[i], GMM_RAM_DISCARD));
	assert_ok(gmm_instance_close(gmm));
}
END_TEST

int main(void)
{
	const TTest *const tests[] = { low_before_normal_before_high };

	return unit_main("paged_balloon", tests, sizeof tests / sizeof *tests);
}
