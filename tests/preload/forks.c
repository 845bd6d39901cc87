/* Children of every kind see the memory as it was, may drop theirs, and the parent's stays shared and right. */
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/preload/support/ram.h"

static uint8_t *ram;

static int wait_for(pid_t child)
{
	int status;

	CHECK(child > 0);
	CHECK(waitpid(child, &status, 0) == child);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1000;
}

/* In the child: bytes are there; what is dropped is zero; the rest can be written. */
static int child_main(void *arg)
{
	(void)arg;
	CHECK(ram_is_right(ram, 0, RAM_PAGES));
	CHECK(madvise(ram, 16 * PAGE, MADV_DONTNEED) == 0);
	CHECK(ram_is_zero(ram, 0, 16) && ram_is_right(ram, 16, RAM_PAGES - 16));
	ram[20 * PAGE] ^= 1;
	CHECK(!ram_is_right(ram, 20, 1) && ram_is_right(ram, 21, RAM_PAGES - 21));
	CHECK(munmap(ram, RAM_BYTES / 2) == 0);
	CHECK(ram_is_right(ram, RAM_PAGES / 2, RAM_PAGES / 2));
	return 42;
}

static void check_parent(void)
{
	CHECK(ram_is_right(ram, 0, RAM_PAGES));
}

static void test_forks(void)
{
	for (int i = 0; i < 3; i++) {
		pid_t child = i == 0 ? fork() : i == 1 ? _Fork() : (pid_t)syscall(SYS_fork);
		if (child == 0)
			_exit(child_main(NULL));
		CHECK(wait_for(child) == 42);
		check_parent();
	}
	ram_wait_shared(ram, RAM_BYTES);
}

/* The parent drops and fills while a child looks: the child must not see it. */
static void test_fork_and_go_on(void)
{
	int stop[2];
	char c;

	CHECK(pipe(stop) == 0);
	pid_t child = fork();
	if (child == 0) {
		close(stop[1]);
		CHECK(read(stop[0], &c, 1) == 0);
		_exit(child_main(NULL));
	}
	for (int i = 0; i < 10; i++) {
		CHECK(madvise(ram, RAM_BYTES, MADV_DONTNEED) == 0);
		ram_fill(ram, i, RAM_PAGES - i);
		usleep(50000);
	}
	close(stop[0]);
	close(stop[1]);
	CHECK(wait_for(child) == 42);
	ram_fill(ram, 0, RAM_PAGES);
}

static void test_exec(void)
{
	char *argv[] = { (char *)(uintptr_t) "true", NULL };
	char *env[] = { NULL };
	pid_t child;

	CHECK(posix_spawn(&child, "/bin/true", NULL, NULL, argv, env) == 0);
	CHECK(wait_for(child) == 0);
	child = vfork();
	if (child == 0) {
		execv("/bin/true", argv);
		_exit(1);
	}
	CHECK(wait_for(child) == 0);
	check_parent();
}

static void test_dont_fork(void)
{
	unsigned char resident;

	CHECK(madvise(ram, RAM_BYTES, MADV_DONTFORK) == 0);
	ram_wait_shared(ram, RAM_BYTES);
	pid_t child = fork();
	if (child == 0) {
		CHECK(mincore(ram, PAGE, &resident) == -1);
		CHECK(madvise(ram, RAM_BYTES, MADV_DONTNEED) == -1);
		CHECK(mincore(ram, PAGE, &resident) == -1);
		_exit(42);
	}
	CHECK(wait_for(child) == 42);
	CHECK(madvise(ram, RAM_BYTES, MADV_DOFORK) == 0);
	ram_wait_shared(ram, RAM_BYTES);
}

/* clone does not run libc's fork handlers: the library gives the memory back before. */
static void test_clone(void)
{
	static uint8_t stack[64 << 10] __attribute__((aligned(16)));

	CHECK(wait_for(clone(child_main, stack + sizeof stack, SIGCHLD, NULL)) == 42);
	check_parent();
	CHECK(ram_pool_pages(ram, RAM_BYTES) == 0);
}

int main(void)
{
	ram = ram_shared();
	test_forks();
	test_fork_and_go_on();
	test_exec();
	test_dont_fork();
	test_clone();
	return 0;
}
