/* Objects come and go: VMs end in the middle of a pass, the engine starts, rests and stops, instances are
 * opened and closed, and nothing of it is left behind: no descriptor, mapping, thread or pool page; and
 * memory that was the caller's is the caller's again, with its bytes and its attributes.
 */
#include "tests/support/guest.h"
#include "tests/support/proc.h"
#include "tests/support/suite.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>

#define SEED 5000u

/* Nothing of the library is left on the range: no pool file, no userfaultfd. */
static void assert_plain(const char *ram, size_t pages)
{
	ck_assert_uint_eq(proc_file_mappings(ram, pages * PAGE), 0);
	ck_assert_uint_eq(proc_mappings_with_flag(ram, pages * PAGE, "um"), 0);
	ck_assert_uint_eq(proc_mappings_with_flag(ram, pages * PAGE, "uw"), 0);
}

/* ---- the engine --------------------------------------------------------------------------------------- */

START_TEST(the_engine_starts_rests_and_stops)
{
	struct gmm *gmm = instance_open();
	size_t threads = proc_threads();

	assert_status(gmm_engine_pause(gmm), GMM_ERR_WRONG_ORDER);
	assert_status(gmm_engine_wait_settled(gmm, 10), GMM_ERR_WRONG_ORDER);
	assert_ok(gmm_engine_stop(gmm));
	for (int round = 0; round < 20; round++) {
		assert_ok(gmm_engine_start(gmm));
		assert_status(gmm_engine_start(gmm), GMM_ERR_WRONG_ORDER);
		ck_assert(stats_of(gmm).running);
		assert_ok(gmm_engine_wait_settled(gmm, 10000));
		assert_ok(gmm_engine_pause(gmm));
		ck_assert(!stats_of(gmm).running);
		assert_status(gmm_engine_pause(gmm), GMM_ERR_WRONG_ORDER);
		assert_status(gmm_engine_wait_settled(gmm, 10), GMM_ERR_WRONG_ORDER);
		assert_ok(gmm_engine_start(gmm));
		assert_ok(gmm_engine_stop(gmm));
		assert_ok(gmm_engine_stop(gmm));
		ck_assert(!stats_of(gmm).running);
	}
	assert_eventually(proc_threads() == threads);
	assert_ok(gmm_instance_close(gmm));
}
END_TEST

START_TEST(what_is_shared_stays_shared_at_rest)
{
	enum { PAGES = 200 };
	struct gmm *gmm = instance_open();
	struct gmm_vm *vm[2];
	char *ram[2];

	for (int i = 0; i < 2; i++) {
		vm[i] = vm_create(gmm, NULL);
		ram[i] = vm_create_ram(vm[i], 0, PAGES);
		ram_fill(ram[i], PAGES, SEED);
	}
	engine_settle(gmm);
	assert_ok(gmm_engine_pause(gmm));
	ck_assert_uint_eq(stats_of(gmm).saved_pages, PAGES);
	page_fill(ram[0], 1);
	assert_ok(gmm_engine_stop(gmm));
	ck_assert_uint_eq(ram_wrong(ram[1], PAGES, SEED), 0);
	ck_assert_uint_eq(ram_wrong(ram[0] + PAGE, PAGES - 1, SEED + 1), 0);
	ck_assert(page_is(ram[0], 1));
	assert_ok(gmm_engine_start(gmm));
	assert_eventually(vm_state(vm[0], GMM_PAGE_BROKEN) == 1);
	ck_assert_uint_eq(vm_state(vm[1], GMM_PAGE_SHARED), PAGES);
	for (int i = 0; i < 2; i++)
		assert_ok(gmm_vm_destroy(vm[i], GMM_RAM_KEEP));
	assert_ok(gmm_instance_close(gmm));
}
END_TEST

START_TEST(waiting_for_unfinished_work_times_out)
{
	enum { PAGES = 16384 };
	struct gmm *gmm = instance_open();
	struct gmm_vm *vm = vm_create(gmm, NULL);

	ram_fill(vm_create_ram(vm, 0, PAGES), PAGES, SEED);
	assert_ok(gmm_engine_start(gmm));
	assert_status(gmm_engine_wait_settled(gmm, 0), GMM_ERR_TIMEOUT); /* nobody reads 64 MiB in no time */
	assert_ok(gmm_engine_wait_settled(gmm, -1));
	assert_ok(gmm_vm_destroy(vm, GMM_RAM_DISCARD));
	assert_ok(gmm_instance_close(gmm));
}
END_TEST

static void *wait_until_refused(void *arg)
{
	int rc;

	do
		rc = gmm_engine_wait_settled(arg, -1);
	while (rc == GMM_OK);
	return (void *)(intptr_t)rc;
}

START_TEST(a_waiter_is_released_when_the_engine_stops)
{
	for (int round = 0; round < 20; round++) {
		struct gmm *gmm = instance_open();
		pthread_t waiter;
		void *rc;

		assert_ok(gmm_engine_start(gmm));
		ck_assert_int_eq(pthread_create(&waiter, NULL, wait_until_refused, gmm), 0);
		sleep_ms(3);
		assert_ok(round & 1 ? gmm_engine_stop(gmm) : gmm_engine_pause(gmm));
		pthread_join(waiter, &rc);
		ck_assert_int_eq((intptr_t)rc, GMM_ERR_WRONG_ORDER);
		assert_ok(gmm_instance_close(gmm));
	}
}
END_TEST

/* ---- VMs ---------------------------------------------------------------------------------------------- */

START_TEST(closing_is_refused_while_a_vm_is_alive)
{
	struct gmm *gmm = instance_open();
	struct gmm_vm *vm = vm_create(gmm, NULL);
	char *ram = vm_create_ram(vm, 0, 16);

	ram_fill(ram, 16, SEED);
	assert_status(gmm_instance_close(gmm), GMM_ERR_WRONG_ORDER);
	engine_settle(gmm); /* the instance is as good as before */
	assert_status(gmm_instance_close(gmm), GMM_ERR_WRONG_ORDER);
	ck_assert(stats_of(gmm).running);
	ck_assert_uint_eq(ram_wrong(ram, 16, SEED), 0);
	assert_ok(gmm_vm_destroy(vm, GMM_RAM_DISCARD));
	assert_ok(gmm_instance_close(gmm)); /* with the engine running */
}
END_TEST

enum { CHURNERS = 4, CHURN_PAGES = 300 };

struct churner {
	struct gmm *gmm;
	pthread_t thread;
	uint64_t random;
	atomic_bool *stop;
	_Atomic uint64_t vms; /* of this thread, like the others */
	uint64_t wrong, refused;
};

/* One life of a VM with adopted RAM: equal pages, a few written ones, and an end while passes go on. */
static void live_and_die(struct churner *self, char *ram)
{
	struct gmm_vm *vm;
	size_t written = random_next(&self->random) % CHURN_PAGES;
	bool keep = self->random >> 32 & 1;

	if (gmm_vm_create(self->gmm, NULL, &vm) != GMM_OK) {
		self->refused++;
		return;
	}
	ram_fill(ram, CHURN_PAGES, SEED);
	self->refused += gmm_vm_adopt_ram(vm, 1 << 20, ram, CHURN_PAGES * PAGE) != GMM_OK;
	sleep_ms((unsigned)(random_next(&self->random) % 12));
	page_fill(ram + written * PAGE, self->random);
	if (self->random & 64)
		sleep_ms(2);
	self->refused += gmm_vm_destroy(vm, keep ? GMM_RAM_KEEP : GMM_RAM_DISCARD) != GMM_OK;
	if (keep) {
		self->wrong += !page_is(ram + written * PAGE, self->random);
		page_fill(ram + written * PAGE, SEED + written);
		self->wrong += ram_wrong(ram, CHURN_PAGES, SEED);
	} else {
		self->wrong += ram_not_zero(ram, CHURN_PAGES);
	}
	self->vms++;
}

static void *churn(void *arg)
{
	struct churner *self = arg;
	size_t size = CHURN_PAGES * PAGE;
	char *ram = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	while (!atomic_load(self->stop) && !self->refused)
		live_and_die(self, ram);
	munmap(ram, size);
	return NULL;
}

static uint64_t lives(const struct churner *churners)
{
	uint64_t vms = 0;

	for (unsigned i = 0; i < CHURNERS; i++)
		vms += churners[i].vms;
	return vms;
}

START_TEST(vms_end_in_the_middle_of_passes)
{
	struct gmm *gmm = instance_open();
	struct churner churners[CHURNERS];
	atomic_bool stop = false;
	uint64_t vms, end = now_ms() + 3000;

	assert_ok(gmm_engine_start(gmm));
	for (unsigned i = 0; i < CHURNERS; i++)
		churners[i] = (struct churner){ .gmm = gmm, .random = 77 + i, .stop = &stop };
	for (unsigned i = 0; i < CHURNERS; i++)
		ck_assert_int_eq(pthread_create(&churners[i].thread, NULL, churn, &churners[i]), 0);
	while (now_ms() < end || (lives(churners) <= CHURNERS && now_ms() < end + 60000)) {
		struct gmm_stats stats;

		assert_ok(gmm_instance_stats(gmm, &stats));
		assert_ok(gmm_instance_validate(gmm));
		sleep_ms(20);
	}
	atomic_store(&stop, true);
	for (unsigned i = 0; i < CHURNERS; i++) {
		pthread_join(churners[i].thread, NULL);
		ck_assert_uint_eq(churners[i].refused, 0);
		ck_assert_uint_eq(churners[i].wrong, 0);
	}
	vms = lives(churners);
	printf("%lu VMs lived and died\n", (unsigned long)vms);
	ck_assert_uint_gt(vms, CHURNERS);
	ck_assert_uint_eq(stats_of(gmm).vms, 0);
	ck_assert_uint_eq(stats_of(gmm).total.pages, 0);
	ck_assert_uint_eq(stats_of(gmm).pool_pages, 0);
	assert_ok(gmm_instance_close(gmm));
}
END_TEST

struct footprint {
	size_t fds, threads, maps;
	uint64_t memory_files_kb;
};

static struct footprint footprint(void)
{
	return (struct footprint){
		.fds = proc_fds(),
		.threads = proc_threads(),
		.maps = proc_maps(),
		.memory_files_kb = proc_memory_files_kb(),
	};
}

/* The C library may keep an arena or two, and the library a chunk of a pool. */
static void assert_same_footprint(struct footprint before, struct footprint after)
{
	ck_assert_uint_eq(after.fds, before.fds);
	/* A joined thread is listed a moment longer, and may have been counted before. */
	assert_eventually(proc_threads() <= before.threads);
	ck_assert_uint_le(after.maps, before.maps + 12);
	ck_assert_uint_le(after.memory_files_kb, before.memory_files_kb + 2048);
}

/* VMs in a ring: the new ones share with those that are about to end. */
static void pass_through(struct gmm *gmm, size_t vms)
{
	enum { ALIVE = 8, PAGES = 64 };
	struct gmm_vm *ring[ALIVE] = { 0 };

	for (size_t i = 0; i < vms + ALIVE; i++) {
		struct gmm_vm **slot = &ring[i % ALIVE];

		if (*slot)
			assert_ok(gmm_vm_destroy(*slot, GMM_RAM_DISCARD));
		*slot = NULL;
		if (i >= vms)
			continue;
		*slot = vm_create(gmm, i % 3 ? "a" : "b");
		ram_fill(vm_create_ram(*slot, 0, PAGES), PAGES, SEED + i / 100 * PAGES);
		if (i % 16 == 0)
			sleep_ms(4);
	}
}

START_TEST(a_thousand_vms_leave_nothing_behind)
{
	struct footprint closed = footprint(), open;
	struct gmm *gmm = instance_open();
	struct gmm_stats stats;

	assert_ok(gmm_engine_start(gmm));
	pass_through(gmm, 50);
	open = footprint();
	pass_through(gmm, 1000);
	assert_same_footprint(open, footprint());
	stats = stats_of(gmm);
	ck_assert_uint_gt(stats.passes, 0);
	ck_assert_uint_eq(stats.vms, 0);
	ck_assert_uint_eq(stats.total.pages, 0);
	ck_assert_uint_eq(stats.allocated_pages, 0);
	assert_ok(gmm_instance_validate(gmm));
	assert_ok(gmm_instance_close(gmm));
	assert_same_footprint(closed, footprint());
}
END_TEST

START_TEST(instances_leave_nothing_behind)
{
	struct footprint before = footprint();

	for (int round = 0; round < 50; round++) {
		struct gmm *one = instance_open();
		struct gmm *other = instance_open(); /* instances know nothing of each other */

		assert_ok(gmm_engine_start(other));
		pass_through(other, 10);
		assert_ok(gmm_instance_close(one));
		assert_ok(gmm_instance_close(other));
	}
	assert_same_footprint(before, footprint());
}
END_TEST

/* ---- RAM ---------------------------------------------------------------------------------------------- */

enum { PAGES = 256 };

struct shared_pair {
	struct gmm *gmm;
	struct gmm_vm *vm, *twin;
	char *ram;
};

/* Adopted RAM, prepared by the caller, that is all shared with a twin. */
static struct shared_pair share_ram(char *ram)
{
	struct shared_pair pair = { .gmm = instance_open(), .ram = ram };

	pair.vm = vm_create(pair.gmm, NULL);
	pair.twin = vm_create(pair.gmm, NULL);
	ram_fill(ram, PAGES, SEED);
	assert_ok(gmm_vm_adopt_ram(pair.vm, 0, ram, PAGES * PAGE));
	ram_fill(vm_create_ram(pair.twin, 0, PAGES), PAGES, SEED);
	engine_settle(pair.gmm);
	ck_assert_uint_eq(vm_state(pair.vm, GMM_PAGE_SHARED), PAGES);
	return pair;
}

static void end_pair(struct shared_pair *pair)
{
	assert_ok(gmm_vm_destroy(pair->twin, GMM_RAM_DISCARD));
	assert_ok(gmm_instance_close(pair->gmm));
	ram_unmap(pair->ram, PAGES);
}

START_TEST(kept_ram_is_plain_memory_with_its_bytes)
{
	struct shared_pair pair = share_ram(ram_map(PAGES));

	ck_assert_uint_gt(proc_file_mappings(pair.ram, PAGES * PAGE), 0);
	page_fill(pair.ram + 5 * PAGE, 1); /* one broken page among them */
	assert_ok(gmm_vm_destroy(pair.vm, GMM_RAM_KEEP));
	assert_plain(pair.ram, PAGES);
	ck_assert(page_is(pair.ram + 5 * PAGE, 1));
	page_fill(pair.ram + 5 * PAGE, SEED + 5);
	ck_assert_uint_eq(ram_wrong(pair.ram, PAGES, SEED), 0);
	end_pair(&pair);
}
END_TEST

START_TEST(discarded_ram_is_fresh_memory)
{
	struct shared_pair pair = share_ram(ram_map(PAGES));

	page_fill(pair.ram + 5 * PAGE, 1);
	assert_ok(gmm_vm_destroy(pair.vm, GMM_RAM_DISCARD));
	assert_plain(pair.ram, PAGES);
	ck_assert_uint_eq(ram_not_zero(pair.ram, PAGES), 0);
	end_pair(&pair);
}
END_TEST

START_TEST(removed_slots_are_the_callers_again)
{
	struct shared_pair pair = share_ram(ram_map(PAGES));

	assert_status(gmm_vm_remove_ram(pair.vm, PAGE, GMM_RAM_KEEP), GMM_ERR_NOT_FOUND); /* not its start */
	assert_ok(gmm_vm_remove_ram(pair.vm, 0, GMM_RAM_KEEP));
	assert_status(gmm_vm_remove_ram(pair.vm, 0, GMM_RAM_KEEP), GMM_ERR_NOT_FOUND);
	assert_plain(pair.ram, PAGES);
	ck_assert_uint_eq(ram_wrong(pair.ram, PAGES, SEED), 0);
	ck_assert_uint_eq(vm_stats_of(pair.vm).pages, 0);

	assert_ok(gmm_vm_adopt_ram(pair.vm, 1u << 30, pair.ram, PAGES * PAGE)); /* and back, elsewhere */
	assert_eventually(vm_state(pair.vm, GMM_PAGE_SHARED) == PAGES);
	assert_ok(gmm_vm_remove_ram(pair.vm, 1u << 30, GMM_RAM_DISCARD));
	ck_assert_uint_eq(ram_not_zero(pair.ram, PAGES), 0);
	assert_ok(gmm_vm_destroy(pair.vm, GMM_RAM_KEEP));
	end_pair(&pair);
}
END_TEST

START_TEST(discard_makes_holes_that_read_zero)
{
	struct shared_pair pair = share_ram(ram_map(PAGES));
	char *next = vm_adopt_ram(pair.vm, PAGES * PAGE, PAGES); /* a slot that touches the first */

	ram_fill(next, PAGES, 1000000); /* private */
	assert_eventually(vm_state(pair.vm, GMM_PAGE_UNIQUE) == PAGES);
	page_fill(pair.ram + 200 * PAGE, 1); /* broken */
	assert_ok(gmm_vm_discard(pair.vm, 100 * PAGE, PAGES * PAGE)); /* across both slots */
	assert_ok(gmm_engine_pause(pair.gmm));
	ck_assert_uint_eq(vm_state(pair.vm, GMM_PAGE_ABSENT), PAGES);
	ck_assert_uint_eq(vm_state(pair.vm, GMM_PAGE_SHARED), 100);
	ck_assert_uint_eq(ram_not_zero(pair.ram + 100 * PAGE, PAGES - 100), 0);
	ck_assert_uint_eq(ram_not_zero(next, 100), 0);
	ck_assert_uint_eq(ram_wrong(pair.ram, 100, SEED), 0);
	ck_assert_uint_eq(ram_wrong(next + 100 * PAGE, PAGES - 100, 1000000 + 100), 0);
	ram_fill(pair.ram + 100 * PAGE, PAGES - 100, SEED + 100); /* used again */
	assert_ok(gmm_engine_start(pair.gmm));
	assert_eventually(vm_state(pair.vm, GMM_PAGE_SHARED) == PAGES);
	ck_assert_uint_eq(ram_wrong(pair.ram, PAGES, SEED), 0);
	assert_ok(gmm_vm_destroy(pair.vm, GMM_RAM_KEEP));
	ck_assert_uint_eq(ram_wrong(pair.ram, PAGES, SEED), 0);
	ram_unmap(next, PAGES);
	end_pair(&pair);
}
END_TEST

static void assert_attributes(const char *ram, bool set)
{
	size_t all = proc_mappings(ram, PAGES * PAGE);

	ck_assert_uint_gt(all, 0);
	ck_assert_uint_eq(proc_mappings_with_flag(ram, PAGES * PAGE, "dc"), set ? all : 0);
	ck_assert_uint_eq(proc_mappings_with_flag(ram, PAGES * PAGE, "dd"), set ? all : 0);
}

static void check_attributes(bool set)
{
	char *reserve = ram_map(PAGES + 2); /* so that no neighbour's mapping is merged with the RAM's */
	char *ram = reserve + PAGE;
	struct shared_pair pair;

	ck_assert_int_eq(munmap(reserve, PAGE) | munmap(ram + PAGES * PAGE, PAGE), 0);
	ck_assert_int_eq(madvise(ram, PAGES * PAGE, set ? MADV_DONTFORK : MADV_DOFORK), 0);
	ck_assert_int_eq(madvise(ram, PAGES * PAGE, set ? MADV_DONTDUMP : MADV_DODUMP), 0);
	pair = share_ram(ram);
	assert_ok(gmm_engine_pause(pair.gmm)); /* or it may be moving pages: a new mapping has no flags for a moment */
	assert_attributes(ram, set); /* mappings of the pool */
	assert_ok(gmm_vm_unshare(pair.vm, 10 * PAGE, 20 * PAGE));
	assert_attributes(ram, set); /* and of memory that replaced them */
	assert_ok(gmm_vm_discard(pair.vm, 50 * PAGE, 20 * PAGE));
	assert_attributes(ram, set);
	assert_ok(gmm_vm_destroy(pair.vm, GMM_RAM_KEEP));
	assert_attributes(ram, set);
	end_pair(&pair);
}

START_TEST(dontfork_and_dontdump_are_kept)
{
	check_attributes(true);
}
END_TEST

START_TEST(dontfork_and_dontdump_are_not_invented)
{
	check_attributes(false);
}
END_TEST

int main(void)
{
	const TTest *tests[] = {
		the_engine_starts_rests_and_stops,
		what_is_shared_stays_shared_at_rest,
		waiting_for_unfinished_work_times_out,
		a_waiter_is_released_when_the_engine_stops,
		closing_is_refused_while_a_vm_is_alive,
		vms_end_in_the_middle_of_passes,
		a_thousand_vms_leave_nothing_behind,
		instances_leave_nothing_behind,
		kept_ram_is_plain_memory_with_its_bytes,
		discarded_ram_is_fresh_memory,
		removed_slots_are_the_callers_again,
		discard_makes_holes_that_read_zero,
		dontfork_and_dontdump_are_kept,
		dontfork_and_dontdump_are_not_invented,
	};

	return suite_main("lifecycle", tests, sizeof(tests) / sizeof(tests[0]));
}
