/* The process forks while its memory is being shared. Parent and child must both see the bytes of the moment
 * of the fork, whatever was frozen then; the child must not use the library on its parent's objects; and
 * memory that a child still has in common with its parent is left alone, not lost.
 */
#include "tests/support/guest.h"
#include "tests/support/suite.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { VMS = 3, PAGES = 512, ROUNDS = 20 };

#define SEED 40000u

enum child_result {
	CHILD_OK,
	CHILD_WRONG_BYTES = 1,
	CHILD_NOT_REFUSED = 2, /* + the number of the call */
	CHILD_OWN_INSTANCE = 50,
};

struct host {
	struct gmm *gmm;
	struct gmm_vm *vm[VMS];
	char *ram[VMS];
	uint64_t seed[VMS][PAGES]; /* what every page holds */
};

static void put(struct host *host, size_t vm, size_t page, uint64_t seed)
{
	page_fill(host->ram[vm] + page * PAGE, seed);
	host->seed[vm][page] = seed;
}

static size_t wrong_pages(const struct host *host)
{
	size_t wrong = 0;

	for (size_t i = 0; i < VMS; i++)
		for (size_t k = 0; k < PAGES; k++)
			wrong += !page_is(host->ram[i] + k * PAGE, host->seed[i][k]);
	return wrong;
}

static void host_open(struct host *host)
{
	host->gmm = instance_open();
	for (size_t i = 0; i < VMS; i++) {
		host->vm[i] = vm_create(host->gmm, NULL);
		host->ram[i] = i ? vm_create_ram(host->vm[i], 0, PAGES) : vm_adopt_ram(host->vm[i], 0, PAGES);
		for (size_t k = 0; k < PAGES; k++)
			put(host, i, k, SEED + k);
	}
}

static void host_close(struct host *host)
{
	assert_ok(gmm_instance_validate(host->gmm));
	ck_assert_uint_eq(wrong_pages(host), 0);
	for (size_t i = 0; i < VMS; i++)
		assert_ok(gmm_vm_destroy(host->vm[i], i ? GMM_RAM_DISCARD : GMM_RAM_KEEP));
	for (size_t k = 0; k < PAGES; k++)
		ck_assert(page_is(host->ram[0] + k * PAGE, host->seed[0][k]));
	assert_ok(gmm_instance_close(host->gmm));
	ram_unmap(host->ram[0], PAGES);
}

/* The child's exit status; a child that waits for ever is killed, and counts as -1. */
static int child_wait(pid_t child)
{
	uint64_t deadline = now_ms() + 60000;
	int status;

	while (waitpid(child, &status, WNOHANG) == 0) {
		if (now_ms() > deadline) {
			kill(child, SIGKILL);
			waitpid(child, &status, 0);
			return -1;
		}
		sleep_ms(1);
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* Every call of the interface that takes an object; the child has only copies. */
static int child_calls(struct gmm *gmm, struct gmm_vm *vm)
{
	struct gmm_stats stats;
	struct gmm_vm_stats vm_stats;
	struct gmm_vm *created;
	void *ram = &stats;
	const int results[] = {
		gmm_vm_create(gmm, NULL, &created),
		gmm_vm_create_ram(vm, 1 << 30, PAGE, &ram),
		gmm_vm_adopt_ram(vm, 1 << 30, ram, PAGE),
		gmm_vm_remove_ram(vm, 0, GMM_RAM_KEEP),
		gmm_vm_set_unshareable(vm, 0, PAGE, true),
		gmm_vm_pin(vm, 0, PAGE),
		gmm_vm_unpin(vm, 0, PAGE),
		gmm_vm_discard(vm, 0, PAGE),
		gmm_vm_unshare(vm, 0, PAGE),
		gmm_engine_start(gmm),
		gmm_engine_pause(gmm),
		gmm_engine_wait_settled(gmm, 100),
		gmm_engine_stop(gmm),
		gmm_instance_stats(gmm, &stats),
		gmm_vm_stats(vm, &vm_stats),
		gmm_instance_validate(gmm),
		gmm_vm_destroy(vm, GMM_RAM_KEEP),
		gmm_instance_close(gmm),
	};

	for (size_t i = 0; i < sizeof(results) / sizeof(results[0]); i++)
		if (results[i] != GMM_ERR_WRONG_PROCESS)
			return CHILD_NOT_REFUSED + (int)i;
	return CHILD_OK;
}

/* In the child: its whole copy, at once and again after its own writes and its parent's. */
static _Noreturn void child_run(struct host *host)
{
	int calls;

	if (wrong_pages(host))
		_exit(CHILD_WRONG_BYTES);
	calls = child_calls(host->gmm, host->vm[0]);
	if (calls)
		_exit(calls);
	for (size_t i = 0; i < VMS; i++)
		for (size_t k = i; k < PAGES; k += 7)
			put(host, i, k, 999);
	usleep(20000);
	_exit(wrong_pages(host) ? CHILD_WRONG_BYTES : CHILD_OK);
}

/* Work for the engine: new equal pages in holes, broken pages, pages made private to be shared again. */
static void stir(struct host *host, uint64_t *random)
{
	size_t at = random_next(random) % (PAGES - 100);

	for (size_t i = 0; i < VMS; i++) {
		assert_ok(gmm_vm_discard(host->vm[i], at * PAGE, 50 * PAGE));
		for (size_t k = at; k < at + 50; k++)
			put(host, i, k, SEED + k + *random % 3);
		for (size_t k = at + 50; k < at + 70; k++)
			put(host, i, k, SEED + 100000 + k);
		assert_ok(gmm_vm_unshare(host->vm[i], (at + 60) * PAGE, 20 * PAGE));
	}
}

/* Writes all pages, equal in all VMs: a page that was in common with a child is the parent's own again after a write only. */
static void write_all(struct host *host)
{
	assert_ok(gmm_engine_pause(host->gmm)); /* or it may share a page that is being rewritten */
	for (size_t i = 0; i < VMS; i++)
		for (size_t k = 0; k < PAGES; k++)
			put(host, i, k, SEED + k);
	assert_ok(gmm_engine_start(host->gmm));
}

START_TEST(forks_while_the_engine_works)
{
	struct host *host = calloc(1, sizeof(*host));
	uint64_t random = 31337;

	host_open(host);
	assert_ok(gmm_engine_start(host->gmm));
	for (int round = 0; round < ROUNDS; round++) {
		pid_t child;

		stir(host, &random);
		sleep_ms((unsigned)(random % 7)); /* fork at various moments of a pass */
		child = fork();
		ck_assert_int_ge(child, 0);
		if (child == 0)
			child_run(host);
		ck_assert_uint_eq(wrong_pages(host), 0);
		stir(host, &random);
		ck_assert_uint_eq(wrong_pages(host), 0);
		ck_assert_int_eq(child_wait(child), CHILD_OK);
		ck_assert_uint_eq(wrong_pages(host), 0);
	}
	write_all(host); /* a slow engine may not have come to share much between the forks */
	assert_eventually(stats_of(host->gmm).total.merges > PAGES);
	host_close(host);
	free(host);
}
END_TEST

/* A child that does nothing but live, so that all pages of the moment stay common to both. */
static pid_t fork_sleeper(int *ret_release)
{
	int ends[2];
	char byte;
	pid_t child;

	ck_assert_int_eq(pipe(ends), 0);
	child = fork();
	ck_assert_int_ge(child, 0);
	if (child == 0) {
		close(ends[1]);
		_exit(read(ends[0], &byte, 1) == 0 ? CHILD_OK : CHILD_WRONG_BYTES);
	}
	close(ends[0]);
	*ret_release = ends[1];
	return child;
}

START_TEST(pages_in_common_with_a_child_are_refused_not_lost)
{
	struct host *host = calloc(1, sizeof(*host));
	int release;
	pid_t child;

	host_open(host);
	child = fork_sleeper(&release);
	assert_ok(gmm_engine_start(host->gmm));
	engine_settle(host->gmm);
	ck_assert_uint_gt(stats_of(host->gmm).total.refused_pinned, 0);
	ck_assert_uint_gt(stats_of(host->gmm).total.state_pages[GMM_PAGE_PINNED], 0);
	ck_assert_uint_eq(stats_of(host->gmm).total.references, 0); /* none of them is the parent's alone */
	ck_assert_uint_eq(wrong_pages(host), 0);
	close(release);
	ck_assert_int_eq(child_wait(child), CHILD_OK);
	ck_assert_uint_eq(wrong_pages(host), 0);

	write_all(host);
	assert_eventually(stats_of(host->gmm).total.references == VMS * PAGES);
	host_close(host);
	free(host);
}
END_TEST

START_TEST(shared_pages_stay_shared_over_a_fork)
{
	struct host *host = calloc(1, sizeof(*host));
	int release;
	pid_t child;

	host_open(host);
	engine_settle(host->gmm);
	ck_assert_uint_eq(stats_of(host->gmm).total.references, VMS * PAGES);
	child = fork_sleeper(&release);
	for (size_t k = 0; k < PAGES; k += 5)
		put(host, 1, k, 5555 + k);
	assert_eventually(vm_state(host->vm[1], GMM_PAGE_BROKEN) == (PAGES + 4) / 5);
	ck_assert_uint_eq(vm_state(host->vm[0], GMM_PAGE_SHARED), PAGES);
	ck_assert_uint_eq(wrong_pages(host), 0);
	assert_ok(gmm_vm_unshare(host->vm[1], 0, PAGES * PAGE)); /* while the child has the pool mapped */
	ck_assert_uint_eq(wrong_pages(host), 0);
	close(release);
	ck_assert_int_eq(child_wait(child), CHILD_OK);
	host_close(host);
	free(host);
}
END_TEST

/* A child that sees the parent's shared pages must go on seeing them, even when the parent ends its VMs. */
START_TEST(a_child_keeps_the_bytes_its_parent_gives_up)
{
	struct host *host = calloc(1, sizeof(*host));
	int ends[2];
	pid_t child;
	char byte;

	host_open(host);
	engine_settle(host->gmm);
	ck_assert_int_eq(pipe(ends), 0);
	child = fork();
	ck_assert_int_ge(child, 0);
	if (child == 0) {
		close(ends[1]);
		if (read(ends[0], &byte, 1) != 0)
			_exit(CHILD_OWN_INSTANCE);
		_exit(wrong_pages(host) ? CHILD_WRONG_BYTES : CHILD_OK);
	}
	close(ends[0]);
	for (size_t i = 0; i < VMS; i++) {
		assert_ok(gmm_vm_discard(host->vm[i], 0, PAGES * PAGE));
		for (size_t k = 0; k < PAGES; k++)
			put(host, i, k, 77000 + k); /* wants pool pages of its own */
	}
	assert_eventually(stats_of(host->gmm).total.references == VMS * PAGES);
	close(ends[1]);
	ck_assert_int_eq(child_wait(child), CHILD_OK);
	host_close(host);
	free(host);
}
END_TEST

/* In the child: the library works there with objects of its own, or says that it does not. */
static _Noreturn void child_own_instance(void)
{
	struct gmm_options options;
	struct gmm_vm *vm;
	struct gmm *gmm;
	void *ram;
	int rc;

	gmm_options_init(&options);
	options.window_ms = 0;
	options.cpu_percent = 0;
	options.pass_interval_ms = 1;
	rc = gmm_instance_open(&options, &gmm);
	if (rc == GMM_ERR_WRONG_PROCESS)
		_exit(CHILD_OK);
	if (rc || gmm_vm_create(gmm, NULL, &vm) || gmm_vm_create_ram(vm, 0, 64 * PAGE, &ram))
		_exit(CHILD_OWN_INSTANCE);
	for (size_t i = 0; i < 64; i++)
		page_fill((char *)ram + i * PAGE, i / 2);
	if (gmm_engine_start(gmm) || gmm_engine_wait_settled(gmm, 60000))
		_exit(CHILD_OWN_INSTANCE + 1);
	for (size_t i = 0; i < 64; i++)
		if (!page_is((char *)ram + i * PAGE, i / 2))
			_exit(CHILD_WRONG_BYTES);
	if (gmm_vm_destroy(vm, GMM_RAM_KEEP) || gmm_instance_close(gmm))
		_exit(CHILD_OWN_INSTANCE + 2);
	_exit(CHILD_OK);
}

START_TEST(a_childs_own_instance_works_or_is_refused)
{
	struct host *host = calloc(1, sizeof(*host));
	pid_t child;

	host_open(host);
	engine_settle(host->gmm);
#ifdef __SANITIZE_ADDRESS__
	/* The sanitizer's allocator has no fork handlers: a child may find its locks taken by a thread of the engine. */
	assert_ok(gmm_engine_pause(host->gmm));
#endif
	child = fork();
	ck_assert_int_ge(child, 0);
	if (child == 0)
		child_own_instance();
	ck_assert_int_eq(child_wait(child), CHILD_OK);
	host_close(host);
	free(host);
}
END_TEST

int main(void)
{
	const TTest *tests[] = {
		forks_while_the_engine_works,
		pages_in_common_with_a_child_are_refused_not_lost,
		shared_pages_stay_shared_over_a_fork,
		a_child_keeps_the_bytes_its_parent_gives_up,
		a_childs_own_instance_works_or_is_refused,
	};

	return suite_main("forks", tests, sizeof(tests) / sizeof(tests[0]));
}
