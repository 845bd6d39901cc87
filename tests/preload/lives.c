/* How processes end and change: memory is as it was written in every handler that runs at exit, in threads that outlive the
 * main one, in daemons, behind another root and as another user. Each way is a process of its own: the test runs itself. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pthread.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/preload/support/ram.h"

extern char **environ;

enum { NOBODY = 65534, ENDED_WELL = 42 };

static uint8_t *ram;
static bool in_use; /* by the handlers at exit */
static bool main_ended;

/* Reads, writes, drops and changes memory as a program may at any time. */
static void use_ram(void)
{
	CHECK(ram_is_right(ram, 0, RAM_PAGES));
	memset(ram, 7, 16 * PAGE);
	CHECK(madvise(ram + 16 * PAGE, 16 * PAGE, MADV_DONTNEED) == 0 && ram_is_zero(ram, 16, 16));
	CHECK(madvise(ram, RAM_BYTES, MADV_DONTDUMP) == 0 && madvise(ram, RAM_BYTES, MADV_DODUMP) == 0);
	CHECK(ram[0] == 7 && ram[16 * PAGE - 1] == 7);
	ram_fill(ram, 0, 32);
	CHECK(ram_is_right(ram, 0, RAM_PAGES));
}

/* ---- exit ---------------------------------------------------------------------------------------------------------- */

static void at_exit(void)
{
	use_ram();
}

/* Runs after the library's own. */
__attribute__((destructor)) static void last(void)
{
	if (!in_use)
		return;
	use_ram();
	/* Without a main thread it cannot be seen what may be written to: what was written stays where it is. */
	int rc = munmap(ram + RAM_BYTES / 2, RAM_BYTES / 2);
	CHECK(rc == 0 || (main_ended && errno == ENOMEM));
	CHECK(ram_is_right(ram, 0, RAM_PAGES / 2));
	uint8_t *late = ram_map(RAM_BYTES);
	ram_fill(late, 0, RAM_PAGES);
	CHECK(madvise(late, RAM_BYTES, MADV_MERGEABLE) == 0);
	CHECK(ram_is_right(late, 0, RAM_PAGES) && munmap(late, RAM_BYTES) == 0);
}

static void by_exit(void)
{
	in_use = true;
	atexit(at_exit);
	exit(ENDED_WELL);
}

static void by_quick_exit(void)
{
	at_quick_exit(at_exit);
	quick_exit(ENDED_WELL);
}

static void *exit_here(void *unused)
{
	usleep(100000);
	by_exit();
	return unused;
}

/* While the main thread uses the memory. */
static void by_exit_of_a_thread(void)
{
	pthread_t thread;

	CHECK(pthread_create(&thread, NULL, exit_here, NULL) == 0);
	for (;;)
		for (size_t page = 64; page < RAM_PAGES / 2; page++)
			ram_fill(ram, page, 1);
}

static void *live_on(void *main_thread)
{
	CHECK(pthread_join(*(pthread_t *)main_thread, NULL) == 0);
	main_ended = true;
	use_ram();
	uint8_t *more = ram_shared();
	CHECK(ram_is_right(more, 0, RAM_PAGES) && munmap(more, RAM_BYTES) == 0);
	use_ram();
	by_exit();
	return NULL;
}

static void by_ending_main(void)
{
	static pthread_t main_thread;
	pthread_t thread;

	main_thread = pthread_self();
	CHECK(pthread_create(&thread, NULL, live_on, &main_thread) == 0);
	pthread_exit(NULL);
}

/* ---- other lives ------------------------------------------------------------------------------------------------------ */

/* As daemon(3) does, after the memory is shared; what is learnt of it comes through a pipe. */
static void by_daemon(void)
{
	int result[2];
	char good = 0;

	CHECK(pipe(result) == 0);
	pid_t child = fork();
	if (child == 0) { /* nothing new is shared in it, and what was shared is right */
		setsid();
		if (fork() > 0)
			_exit(0);
		for (int fd = 0; fd < 64; fd++)
			if (fd != result[1])
				close(fd);
		usleep(300000); /* its parents are gone */
		use_ram();
		for (int i = 0; i < 5; i++) {
			usleep(50000);
			use_ram();
		}
		_exit(write(result[1], "y", 1) == 1 ? 0 : 1);
	}
	CHECK(waitpid(child, NULL, 0) == child);
	CHECK(close(result[1]) == 0 && read(result[0], &good, 1) == 1 && good == 'y');
	use_ram();
	_exit(ENDED_WELL);
}

/* No thread has a directory open through which the process could leave its root. */
static void check_no_folder(void)
{
	DIR *tasks = opendir("/proc/self/task"), *fds;
	struct dirent *task, *entry;
	char path[600];
	struct stat st;

	CHECK(tasks);
	while ((task = readdir(tasks))) {
		snprintf(path, sizeof path, "/proc/self/task/%s/fd", task->d_name);
		if (task->d_name[0] == '.' || !(fds = opendir(path)))
			continue;
		while ((entry = readdir(fds))) {
			if (entry->d_name[0] == '.' || atoi(entry->d_name) == dirfd(fds) || atoi(entry->d_name) == dirfd(tasks))
				continue;
			snprintf(path, sizeof path, "/proc/self/task/%s/fd/%s", task->d_name, entry->d_name);
			CHECK(stat(path, &st) != 0 || !S_ISDIR(st.st_mode));
		}
		closedir(fds);
	}
	closedir(tasks);
}

static void by_chroot(void)
{
	char folder[] = "root.XXXXXX";

	check_no_folder();
	CHECK(mkdtemp(folder));
	int rc = chroot(folder);
	CHECK(rmdir(folder) == 0);
	if (rc != 0)
		exit(ENDED_WELL); /* no right to */
	CHECK(chdir("/") == 0);
	ram_fill(ram, 0, RAM_PAGES);
	CHECK(ram_is_right(ram, 0, RAM_PAGES));
	CHECK(madvise(ram, 16 * PAGE, MADV_DONTNEED) == 0 && ram_is_zero(ram, 0, 16));
	usleep(500000);
	CHECK(ram_is_right(ram, 16, RAM_PAGES - 16));
	/* It cannot be seen any more what may be written to, so what was written stays where it is. */
	CHECK(munmap(ram, RAM_BYTES) == 0);
	uint8_t *more = ram_map(RAM_BYTES);
	ram_fill(more, 0, RAM_PAGES);
	madvise(more, RAM_BYTES, MADV_MERGEABLE);
	CHECK(ram_is_right(more, 0, RAM_PAGES));
	exit(ENDED_WELL);
}

static void by_setuid(void)
{
	if (getuid() == 0)
		CHECK(setgroups(0, NULL) == 0 && setgid(NOBODY) == 0 && setuid(NOBODY) == 0);
	use_ram();
	ram_wait_shared(ram, RAM_BYTES);
	uint8_t *more = ram_shared();
	CHECK(munmap(more, RAM_BYTES) == 0);
	by_exit();
}

/* ---- the test ----------------------------------------------------------------------------------------------------------- */

static const struct way {
	const char *name;
	void (*live)(void);
} ways[] = {
	{ "exit", by_exit }, { "quick_exit", by_quick_exit }, { "exit of a thread", by_exit_of_a_thread },
	{ "ending main", by_ending_main }, { "daemon", by_daemon }, { "chroot", by_chroot }, { "setuid", by_setuid },
};

enum { WAYS = sizeof ways / sizeof *ways };

int main(int argc, char **argv)
{
	int failures = 0, status;

	if (argc > 1) {
		ram = ram_shared();
		ways[atoi(argv[1])].live();
		return 1;
	}
	for (int i = 0; i < WAYS; i++) {
		char number[8];
		char *arguments[] = { argv[0], number, NULL };
		pid_t child;
		snprintf(number, sizeof number, "%d", i);
		CHECK(posix_spawn(&child, "/proc/self/exe", NULL, NULL, arguments, environ) == 0);
		CHECK(waitpid(child, &status, 0) == child);
		if (WIFEXITED(status) && WEXITSTATUS(status) == ENDED_WELL)
			continue;
		printf("%s: status %x\n", ways[i].name, (unsigned)status);
		failures++;
	}
	return failures > 0;
}
