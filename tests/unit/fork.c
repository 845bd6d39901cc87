/* A fork in the middle of a freeze: it waits for the thaw, and parent and child see the right bytes. */
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "dedup/instance.h"
#include "tests/support/guest.h"
#include "tests/support/suite.h"
#include "tests/unit/support/hand_engine.h"

enum { PAGES = 64, VMS = 2 };

static struct gmm__sys sys;
static char *ram[VMS];
static struct gmm_vm *vm[VMS];
static struct gmm *gmm;
static struct gmm__engine *engine;

/* The child's view of `frozen` is that of the moment of the fork. */
static _Atomic bool frozen, forked;
static _Atomic pid_t forker;
static pid_t child;
static pthread_t thread;
static bool wanted;

static bool ram_is_right(void)
{
	for (int i = 0; i < VMS; i++)
		for (uint32_t p = 0; p < PAGES; p++)
			if (!page_is(ram[i] + (size_t)p * PAGE, 1 + p))
				return false;
	return true;
}

enum { CHILD_RIGHT, CHILD_FROZEN, CHILD_WRONG_BYTES, CHILD_NOT_REFUSED };

static void *fork_now(void *arg)
{
	(void)arg;
	forker = (pid_t)syscall(SYS_gettid);
	child = fork();
	if (child == 0)
		_exit(frozen ? CHILD_FROZEN : !ram_is_right() ? CHILD_WRONG_BYTES :
		      gmm_vm_destroy(vm[0], GMM_RAM_KEEP) != GMM_ERR_WRONG_PROCESS ? CHILD_NOT_REFUSED : CHILD_RIGHT);
	forked = true;
	return NULL;
}

static bool sleeps(pid_t tid)
{
	char path[64], text[256] = "";
	snprintf(path, sizeof path, "/proc/self/task/%d/stat", (int)tid);
	FILE *file = fopen(path, "re");
	size_t n = file ? fread(text, 1, sizeof text - 1, file) : 0;

	if (file)
		fclose(file);
	const char *state = n ? strrchr(text, ')') : NULL;
	return state && strncmp(state, ") S", 3) == 0;
}

/* Called while pages are frozen. Goes on once the other thread has forked, which would be wrong, or waits. */
static void fork_meanwhile(void)
{
	wanted = false;
	frozen = true;
	ck_assert_int_eq(pthread_create(&thread, NULL, fork_now, NULL), 0);
	while (!forker || (!forked && !sleeps(forker)))
		sched_yield();
	ck_assert_msg(!forked, "the process forked while pages were frozen");
}

static ssize_t file_write(int fd, const struct iovec *parts, int n, uint64_t offset)
{
	if (wanted)
		fork_meanwhile();
	return gmm__sys_linux()->file_write(fd, parts, n, offset);
}

/* The first call of a thaw: what was frozen is in place again or shared. */
static int uffd_wake(int fd, void *addr, size_t size)
{
	frozen = false;
	return gmm__sys_linux()->uffd_wake(fd, addr, size);
}

static void open_host(void)
{
	struct gmm_options options;

	sys = *gmm__sys_linux();
	sys.file_write = file_write;
	sys.uffd_wake = uffd_wake;
	gmm_options_init(&options);
	options.window_ms = 0;
	options.log = suite_log;
	ck_assert_int_eq(gmm__instance_open(&options, &sys, &gmm), GMM_OK);
	engine = hand_engine_new(gmm, gmm__backend_mapped());
	for (int i = 0; i < VMS; i++) {
		vm[i] = vm_create(gmm, NULL);
		ram[i] = vm_create_ram(vm[i], 0, PAGES);
		for (uint32_t p = 0; p < PAGES; p++)
			page_fill(ram[i] + (size_t)p * PAGE, 1 + p);
	}
	frozen = forked = false;
	forker = 0;
}

static void close_host(void)
{
	for (int i = 0; i < VMS; i++)
		assert_ok(gmm_vm_destroy(vm[i], GMM_RAM_DISCARD));
	hand_engine_free(engine);
	assert_ok(gmm_instance_close(gmm));
}

static void assert_child_is_right(void)
{
	int status;

	pthread_join(thread, NULL);
	ck_assert_int_gt(child, 0);
	ck_assert_int_eq(waitpid(child, &status, 0), child);
	ck_assert(WIFEXITED(status));
	ck_assert_int_eq(WEXITSTATUS(status), CHILD_RIGHT);
}

START_TEST(fork_waits_for_the_thaw)
{
	open_host();
	gmm__engine_pass(engine);
	wanted = true;
	gmm__engine_pass(engine);
	ck_assert_msg(!wanted, "nothing was promoted");
	assert_child_is_right();
	ck_assert(ram_is_right());
	assert_ok(gmm_instance_validate(gmm));
	/* Its child gone, nothing is deferred any more; what it kept from being moved is shared when it is written again. */
	for (int i = 0; i < VMS; i++)
		for (uint32_t p = 0; p < PAGES; p++)
			page_fill(ram[i] + (size_t)p * PAGE, 1 + p);
	for (int i = 0; i < 20; i++)
		gmm__engine_pass(engine);
	ck_assert(!vm[0]->domain->pool.defer);
	ck_assert(ram_is_right());
	assert_ok(gmm_instance_validate(gmm));
	close_host();
}
END_TEST

/* The pages that the child maps keep their bytes, whatever the parent does, until the child is gone. */
START_TEST(child_keeps_what_the_parent_gives_up)
{
	int go[2], status;

	open_host();
	for (int i = 0; i < 4; i++)
		gmm__engine_pass(engine);
	ck_assert_uint_gt(vm_stats_of(vm[0]).references, 0);
	ck_assert_int_eq(pipe(go), 0);
	pid_t pid = fork();
	if (pid == 0) {
		char byte;
		_exit(read(go[0], &byte, 1) == 1 && ram_is_right() ? CHILD_RIGHT : CHILD_WRONG_BYTES);
	}
	for (int i = 0; i < VMS; i++)
		assert_ok(gmm_vm_discard(vm[i], 0, (uint64_t)PAGES * PAGE));
	struct gmm__pool *pool = &vm[0]->domain->pool;
	ck_assert_uint_eq(pool->references, 0);
	ck_assert_uint_gt(pool->deferred_pages, 0);
	/* Other pages are promoted meanwhile: not into the child's slots. */
	for (int i = 0; i < VMS; i++)
		for (uint32_t p = 0; p < PAGES; p++)
			page_fill(ram[i] + (size_t)p * PAGE, 1000 + p);
	for (int i = 0; i < 4; i++)
		gmm__engine_pass(engine);
	ck_assert_uint_gt(pool->references, 0);
	ck_assert_int_eq(write(go[1], "", 1), 1);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == CHILD_RIGHT);
	gmm__engine_pass(engine);
	ck_assert_uint_eq(pool->deferred_pages, 0);
	assert_ok(gmm_instance_validate(gmm));
	close(go[0]);
	close(go[1]);
	close_host();
}
END_TEST

int main(void)
{
	const TTest *tests[] = { fork_waits_for_the_thaw, child_keeps_what_the_parent_gives_up };

	return suite_main("fork", tests, sizeof tests / sizeof *tests);
}
