/* Cloning while the host refuses: for every n the n-th call fails. Either the clone is there with all bytes, or there is
 * none and nothing is left of it; the source keeps its bytes, and the same call succeeds when it is made again.
 */
#include <string.h>
#include <sys/mman.h>

#include "dedup/instance.h"
#include "tests/support/guest.h"
#include "tests/support/suite.h"
#include "tests/unit/support/faulty_sys.h"

enum { PAGES = 200 };

static struct gmm *gmm;
static struct gmm_vm *source;
static char *ram, expected[PAGES * PAGE];

static void open_source(void)
{
	struct gmm_options options;

	faulty_begin(FAULTY_ANY, 0, 0);
	gmm_options_init(&options);
	options.log = suite_log;
	ck_assert_int_eq(gmm__instance_open(&options, faulty_sys(), &gmm), GMM_OK);
	assert_ok(gmm_vm_create(gmm, NULL, &source));
	ram = vm_create_ram(source, 0, PAGES);
	ram_fill(ram, PAGES - 40, 5);
	for (size_t i = 20; i < 30; i++)
		page_repeat(ram + i * PAGE, 0);
	assert_ok(gmm_vm_pin(source, 50 * PAGE, 5 * PAGE));
	memcpy(expected, ram, sizeof expected);
}

static void check_clone(struct gmm_vm *clone, uint32_t n)
{
	void *addr;

	assert_ok(gmm_vm_address(clone, 0, &addr));
	ck_assert_msg(memcmp(addr, expected, sizeof expected) == 0, "the clone's bytes, call %u", n);
	ck_assert_msg(memcmp(ram, expected, sizeof expected) == 0, "the source's bytes, call %u", n);
	ck_assert_msg(gmm_instance_validate(gmm) == GMM_OK, "call %u: %s", n, suite_last_log());
	assert_ok(gmm_vm_destroy(clone, GMM_RAM_DISCARD));
}

/* False when there was no n-th call. */
static bool clone_with_fault(enum faulty_call call, uint32_t n, uint32_t times)
{
	struct gmm_vm *clone = NULL;
	struct gmm_stats stats;

	open_source();
	faulty_pause(false);
	faulty_begin(call, n, times);
	int status = gmm_vm_clone(source, NULL, &clone);
	bool failed = faulty_failures() > 0;
	faulty_pause(true);
	if (status == GMM_OK) {
		check_clone(clone, n);
	} else {
		ck_assert_msg(failed, "call %u: %s", n, gmm_status_name(status));
		ck_assert_ptr_null(clone);
		ck_assert_msg(memcmp(ram, expected, sizeof expected) == 0, "the source's bytes, call %u", n);
		assert_ok(gmm_instance_stats(gmm, &stats));
		ck_assert_uint_eq(stats.vms, 1);
		ck_assert_uint_eq(stats.total.pages, PAGES);
		ck_assert_msg(gmm_instance_validate(gmm) == GMM_OK, "call %u: %s", n, suite_last_log());
		assert_ok(gmm_vm_clone(source, NULL, &clone));
		check_clone(clone, n);
	}
	assert_ok(gmm_vm_unpin(source, 50 * PAGE, 5 * PAGE));
	assert_ok(gmm_vm_destroy(source, GMM_RAM_DISCARD));
	assert_ok(gmm_instance_close(gmm));
	return failed;
}

START_TEST(any_call_fails)
{
	uint32_t n = 1;

	while (clone_with_fault(FAULTY_ANY, n, 1))
		n++;
	ck_assert_uint_gt(n, 20);
}
END_TEST

START_TEST(calls_of_a_kind_fail)
{
	for (int call = 0; call < FAULTY_ANY; call++)
		for (uint32_t n = 1; clone_with_fault((enum faulty_call)call, n, 100); n += 3)
			;
}
END_TEST

/* The mapping budget is spent: all is copied. */
START_TEST(without_mappings)
{
	struct gmm_vm *clone;
	struct gmm_vm_stats stats;

	open_source();
	gmm->max_mappings = 0;
	assert_ok(gmm_vm_clone(source, NULL, &clone));
	assert_ok(gmm_vm_stats(clone, &stats));
	ck_assert_uint_eq(stats.references, 0);
	check_clone(clone, 0);
	assert_ok(gmm_vm_unpin(source, 50 * PAGE, 5 * PAGE));
	assert_ok(gmm_vm_destroy(source, GMM_RAM_DISCARD));
	assert_ok(gmm_instance_close(gmm));
}
END_TEST

int main(void)
{
	const TTest *tests[] = { any_call_fails, calls_of_a_kind_fail, without_mappings };

	return suite_main("clone", tests, sizeof tests / sizeof *tests);
}
