/* Broken pages under the embedder's promise: shared again where they are equal again, left alone where not, plain private
 * memory where a whole run decayed; never without the promise. */
#include "tests/support/guest.h"
#include "tests/support/suite.h"

#include <pthread.h>
#include <stdatomic.h>

enum { PAGES = 256, SEED = 4242 };

struct pair {
	struct gmm *gmm;
	struct gmm_vm *vm[2];
	char *ram[2];
};

static struct pair pair_open(struct gmm *gmm)
{
	struct pair pair = { .gmm = gmm };

	for (int i = 0; i < 2; i++) {
		pair.vm[i] = vm_create(gmm, NULL);
		pair.ram[i] = vm_create_ram(pair.vm[i], 0, PAGES);
		ram_fill(pair.ram[i], PAGES, SEED);
	}
	engine_settle(gmm);
	for (int i = 0; i < 2; i++)
		ck_assert_uint_eq(vm_state(pair.vm[i], GMM_PAGE_SHARED), PAGES);
	return pair;
}

static void pair_close(struct pair *pair)
{
	assert_ok(gmm_instance_validate(pair->gmm));
	for (int i = 0; i < 2; i++)
		assert_ok(gmm_vm_destroy(pair->vm[i], GMM_RAM_DISCARD));
	ck_assert_uint_eq(stats_of(pair->gmm).pool_pages, 0);
	assert_ok(gmm_instance_close(pair->gmm));
}

START_TEST(a_page_that_is_equal_again_is_shared_again)
{
	struct pair pair = pair_open(instance_open_repairing());

	for (size_t i = 0; i < PAGES; i += 2)
		guest_store(pair.ram[0] + i * PAGE, 300, 1);
	/* All have been seen; where a page is a mapping of its own, since a freeze was given up, it is plain memory again. */
	assert_eventually(vm_state(pair.vm[0], GMM_PAGE_BROKEN) + vm_state(pair.vm[0], GMM_PAGE_UNIQUE) == PAGES / 2);
	ram_fill(pair.ram[0], PAGES, SEED);
	assert_eventually(vm_state(pair.vm[0], GMM_PAGE_SHARED) == PAGES);
	ck_assert_uint_eq(vm_state(pair.vm[0], GMM_PAGE_BROKEN), 0);
	ck_assert_uint_ge(vm_stats_of(pair.vm[0]).repairs, PAGES / 2);
	ck_assert_uint_eq(stats_of(pair.gmm).pool_pages, PAGES);
	for (int i = 0; i < 2; i++)
		ck_assert_uint_eq(ram_wrong(pair.ram[i], PAGES, SEED), 0);
	pair_close(&pair);
}
END_TEST

START_TEST(a_page_that_is_equal_to_another_is_shared_with_that)
{
	struct pair pair = pair_open(instance_open_repairing());

	page_fill(pair.ram[0] + 10 * PAGE, SEED + 200); /* what page 200 holds */
	assert_eventually(vm_stats_of(pair.vm[0]).repairs == 1);
	assert_eventually(vm_state(pair.vm[0], GMM_PAGE_SHARED) == PAGES);
	ck_assert(page_is(pair.ram[0] + 10 * PAGE, SEED + 200));
	ck_assert(page_is(pair.ram[1] + 10 * PAGE, SEED + 10));
	pair_close(&pair);
}
END_TEST

START_TEST(a_decayed_run_is_plain_memory_again)
{
	struct pair pair = pair_open(instance_open_repairing());

	ram_fill(pair.ram[0], PAGES, SEED + 100000);
	assert_eventually(vm_state(pair.vm[0], GMM_PAGE_UNIQUE) == PAGES);
	ck_assert_uint_eq(vm_stats_of(pair.vm[0]).mappings, 0);
	ck_assert_uint_eq(ram_wrong(pair.ram[0], PAGES, SEED + 100000), 0);
	ram_fill(pair.ram[1], PAGES, SEED + 100000); /* and may be shared like any other */
	assert_eventually(vm_state(pair.vm[0], GMM_PAGE_SHARED) == PAGES);
	pair_close(&pair);
}
END_TEST

START_TEST(nothing_is_repaired_without_the_promise)
{
	struct pair pair = pair_open(instance_open());

	guest_store(pair.ram[0] + 3 * PAGE, 300, 1);
	assert_eventually(vm_state(pair.vm[0], GMM_PAGE_BROKEN) == 1);
	ram_fill(pair.ram[0] + 3 * PAGE, 1, SEED + 3);
	engine_passes(pair.gmm, 30);
	ck_assert_uint_eq(vm_state(pair.vm[0], GMM_PAGE_BROKEN), 1);
	ck_assert_uint_eq(vm_stats_of(pair.vm[0]).repairs, 0);
	pair_close(&pair);
}
END_TEST

START_TEST(pinned_broken_pages_stay_where_they_are)
{
	struct pair pair = pair_open(instance_open_repairing());

	assert_ok(gmm_vm_pin(pair.vm[0], 5 * PAGE, PAGE));
	guest_store(pair.ram[0] + 5 * PAGE, 300, 1);
	page_fill(pair.ram[0] + 5 * PAGE, SEED + 5);
	engine_passes(pair.gmm, 30);
	ck_assert_uint_eq(vm_state(pair.vm[0], GMM_PAGE_PINNED), 1);
	assert_ok(gmm_vm_unpin(pair.vm[0], 5 * PAGE, PAGE));
	assert_eventually(vm_state(pair.vm[0], GMM_PAGE_SHARED) == PAGES);
	pair_close(&pair);
}
END_TEST

/* A guest that breaks pages and makes them equal again as fast as it can, and checks each word it wrote. */
struct writer {
	char *ram;
	atomic_bool stop;
	uint64_t lost;
	uint64_t writes;
};

static void *write_words(void *arg)
{
	struct writer *writer = arg;
	uint64_t random = 99, value[PAGES] = { 0 };
	uint64_t original[PAGES];

	for (size_t i = 0; i < PAGES; i++)
		original[i] = value[i] = guest_load(writer->ram + i * PAGE, 300);
	while (!atomic_load(&writer->stop)) {
		size_t i = random_next(&random) % PAGES;
		writer->lost += guest_load(writer->ram + i * PAGE, 300) != value[i];
		value[i] = value[i] == original[i] ? random : original[i];
		guest_store(writer->ram + i * PAGE, 300, value[i]);
		writer->writes++;
		if (writer->writes % 32 == 0)
			sleep_ms(1);
	}
	for (size_t i = 0; i < PAGES; i++)
		writer->lost += guest_load(writer->ram + i * PAGE, 300) != value[i];
	return NULL;
}

START_TEST(no_write_is_lost_while_pages_are_repaired)
{
	struct pair pair = pair_open(instance_open_repairing());
	struct writer writer[2] = { { .ram = pair.ram[0] }, { .ram = pair.ram[1] } };
	pthread_t thread[2];

	for (int i = 0; i < 2; i++)
		ck_assert_int_eq(pthread_create(&thread[i], NULL, write_words, &writer[i]), 0);
	sleep_ms(3000);
	assert_eventually(stats_of(pair.gmm).total.repairs > 10);
	for (int i = 0; i < 2; i++) {
		atomic_store(&writer[i].stop, true);
		pthread_join(thread[i], NULL);
		ck_assert_uint_eq(writer[i].lost, 0);
	}
	printf("%lu writes, %lu repairs\n", writer[0].writes + writer[1].writes,
	       stats_of(pair.gmm).total.repairs);
	pair_close(&pair);
}
END_TEST

static atomic_bool consent;

static bool may_repair(void *arg)
{
	(void)arg;
	return atomic_load(&consent);
}

/* Asked instead of promised: nothing is put in another place while the embedder says no. */
START_TEST(nothing_moves_without_consent)
{
	struct gmm_options options;
	struct gmm *gmm;

	gmm_options_init(&options);
	options.cpu_percent = 0;
	options.window_ms = 0;
	options.pass_interval_ms = 1;
	options.repair = GMM_REPAIR_ASK;
	ck_assert_int_eq(gmm_instance_open(&options, &gmm), GMM_ERR_INVALID_PARAMETER);
	options.may_repair = may_repair;
	assert_ok(gmm_instance_open(&options, &gmm));
	struct pair pair = pair_open(gmm);
	page_fill(pair.ram[0] + 10 * PAGE, SEED + 200);
	assert_eventually(vm_state(pair.vm[0], GMM_PAGE_BROKEN) == 1);
	engine_passes(gmm, 20);
	ck_assert_uint_eq(vm_state(pair.vm[0], GMM_PAGE_BROKEN), 1);
	ck_assert_int_eq(gmm_vm_unshare(pair.vm[0], 0, PAGES * PAGE), GMM_ERR_PINNED);
	ck_assert_uint_eq(vm_state(pair.vm[0], GMM_PAGE_SHARED), PAGES - 1);
	atomic_store(&consent, true);
	assert_eventually(vm_stats_of(pair.vm[0]).repairs == 1);
	assert_ok(gmm_engine_pause(gmm));
	assert_ok(gmm_vm_unshare(pair.vm[0], 0, PAGES * PAGE));
	ck_assert_uint_eq(vm_stats_of(pair.vm[0]).references, 0);
	ck_assert(page_is(pair.ram[0] + 10 * PAGE, SEED + 200));
	pair_close(&pair);
}
END_TEST

int main(void)
{
	const TTest *tests[] = {
		a_page_that_is_equal_again_is_shared_again,
		a_page_that_is_equal_to_another_is_shared_with_that,
		a_decayed_run_is_plain_memory_again,
		nothing_is_repaired_without_the_promise,
		pinned_broken_pages_stay_where_they_are,
		no_write_is_lost_while_pages_are_repaired,
		nothing_moves_without_consent,
	};

	return suite_main("repair", tests, sizeof tests / sizeof tests[0]);
}
