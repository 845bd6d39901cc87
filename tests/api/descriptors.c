/* An instance with descriptors of its own: the program has none of them, may close what it likes, and a forked child gets
 * none.
 */
#include "tests/support/guest.h"
#include "tests/support/proc.h"
#include "tests/support/suite.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGES = 512 };

/* The thread sanitizer starts no threads after a fork. */
#ifdef __SANITIZE_THREAD__
enum { CHILD_MAY_START_THREADS = false };
#else
enum { CHILD_MAY_START_THREADS = true };
#endif

#define SEED 500u

struct host {
	struct gmm *gmm;
	struct gmm_vm *vm[2];
	char *ram[2];
};

static struct gmm *open_apart(void)
{
	struct gmm_options options;
	struct gmm *gmm;

	gmm_options_init(&options);
	options.window_ms = 0;
	options.pass_interval_ms = 1;
	options.cpu_percent = 0;
	options.own_descriptors = true;
	options.log = suite_log;
	assert_ok(gmm_instance_open(&options, &gmm));
	return gmm;
}

static struct host host_open(void)
{
	struct host host = { .gmm = open_apart() };

	for (int i = 0; i < 2; i++) {
		host.vm[i] = vm_create(host.gmm, NULL);
		host.ram[i] = i ? vm_create_ram(host.vm[i], 0, PAGES) : vm_adopt_ram(host.vm[i], 0, PAGES);
		ram_fill(host.ram[i], PAGES, SEED);
	}
	engine_settle(host.gmm);
	ck_assert_uint_eq(vm_state(host.vm[0], GMM_PAGE_SHARED), PAGES);
	return host;
}

static void host_close(struct host *host)
{
	assert_ok(gmm_instance_validate(host->gmm));
	assert_ok(gmm_vm_destroy(host->vm[0], GMM_RAM_KEEP));
	ck_assert_uint_eq(ram_wrong(host->ram[0], PAGES, SEED), 0);
	ram_unmap(host->ram[0], PAGES);
	assert_ok(gmm_vm_destroy(host->vm[1], GMM_RAM_DISCARD));
	assert_ok(gmm_instance_close(host->gmm));
}

START_TEST(nothing_is_in_the_programs_table_and_all_is_given_back)
{
	struct host warm_up = host_open(); /* whatever libc keeps */
	host_close(&warm_up);
	size_t fds = proc_fds(), threads = proc_threads();

	struct host host = host_open();
	struct gmm *second = open_apart(); /* in the same table */
	ck_assert_uint_eq(proc_fds(), fds);
	ck_assert_uint_gt(proc_threads(), threads);
	assert_ok(gmm_instance_close(second));
	host_close(&host);
	ck_assert_uint_eq(proc_fds(), fds);
	assert_eventually(proc_threads() <= threads); /* one of the warm-up may have been on its way out */
}
END_TEST

START_TEST(what_the_program_closes_is_its_own)
{
	int first = dup(2); /* what is below is the test's */
	struct host host = host_open();

	ck_assert_int_eq(close_range((unsigned)first, ~0u, 0), 0);
	for (int fd = first; fd < first + 64; fd++)
		ck_assert_int_eq(dup2(2, fd), fd);
	/* Each kind of call that needs descriptors. */
	assert_ok(gmm_vm_discard(host.vm[0], 0, 16 * PAGE));
	ck_assert_uint_eq(ram_not_zero(host.ram[0], 16), 0);
	ram_fill(host.ram[0], 16, SEED);
	assert_ok(gmm_vm_unshare(host.vm[0], 16 * PAGE, 64 * PAGE));
	assert_ok(gmm_vm_pin(host.vm[0], 100 * PAGE, PAGE));
	assert_ok(gmm_vm_unpin(host.vm[0], 100 * PAGE, PAGE));
	assert_ok(gmm_vm_set_unshareable(host.vm[1], 200 * PAGE, PAGE, true));
	assert_ok(gmm_vm_set_unshareable(host.vm[1], 200 * PAGE, PAGE, false));
	engine_settle(host.gmm);
	for (int i = 0; i < 2; i++) {
		ck_assert_uint_eq(ram_wrong(host.ram[i], PAGES, SEED), 0);
		ck_assert_uint_eq(vm_state(host.vm[i], GMM_PAGE_SHARED), PAGES);
	}
	assert_ok(gmm_engine_stop(host.gmm));
	assert_ok(gmm_engine_start(host.gmm));
	for (int fd = first; fd < first + 64; fd++)
		ck_assert_int_eq(close(fd), 0);
	host_close(&host);
}
END_TEST

START_TEST(a_child_has_none_and_may_open_its_own)
{
	struct host host = host_open();
	size_t fds = proc_fds();
	int status;

	pid_t child = fork();
	if (child == 0) {
		struct gmm_options options;
		struct gmm *own;
		gmm_options_init(&options);
		options.own_descriptors = CHILD_MAY_START_THREADS;
		bool good = proc_fds() == fds && ram_wrong(host.ram[0], PAGES, SEED) == 0 &&
			    gmm_instance_close(host.gmm) == GMM_ERR_WRONG_PROCESS &&
			    gmm_instance_open(&options, &own) == GMM_OK && gmm_instance_close(own) == GMM_OK;
		_exit(good ? 0 : 1);
	}
	ck_assert_int_gt(child, 0);
	ck_assert_int_eq(waitpid(child, &status, 0), child);
	ck_assert_int_eq(status, 0);
	/* The witness of the fork tells that the child is gone: what is discarded now gives its memory back. */
	assert_ok(gmm_vm_discard(host.vm[0], 0, PAGES * PAGE));
	assert_ok(gmm_vm_discard(host.vm[1], 0, PAGES * PAGE));
	ck_assert_uint_eq(proc_fds(), fds);
	assert_eventually(stats_of(host.gmm).pool_pages == 0);
	for (int i = 0; i < 2; i++)
		ram_fill(host.ram[i], PAGES, SEED);
	host_close(&host);
}
END_TEST

int main(void)
{
	const TTest *tests[] = {
		nothing_is_in_the_programs_table_and_all_is_given_back,
		what_the_program_closes_is_its_own,
		a_child_has_none_and_may_open_its_own,
	};

	return suite_main("descriptors", tests, sizeof tests / sizeof *tests);
}
