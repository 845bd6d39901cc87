/* Signals: handlers may use the interposed calls at any time, our threads take none, and a cancelled thread leaves no
 * lock behind. */
#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <unistd.h>

#include "tests/preload/support/ram.h"

static uint8_t *ram, *other;
static atomic_int handled;

static void on_alarm(int number)
{
	(void)number;
	int error = errno;

	madvise(other, PAGE, MADV_DONTNEED);
	madvise(ram + RAM_BYTES / 2, PAGE, MADV_DONTNEED);
	mprotect(other + PAGE, PAGE, PROT_READ | PROT_WRITE);
	handled++;
	errno = error;
}

static void test_handler(void)
{
	struct itimerval soon = { .it_value = { 0, 1 } };
	int seen = -1;

	signal(SIGALRM, on_alarm);
	for (int i = 0; i < 3000 || handled < 300; i++) {
		/* The next signal when the last one has been handled, after 1 us to 1 ms: where a handler takes longer than
		 * that, signals at a fixed rate would leave no time for anything else. */
		if (seen != handled) {
			seen = handled;
			soon.it_value.tv_usec = 1 + i * 37 % 1000;
			setitimer(ITIMER_REAL, &soon, NULL);
		}
		CHECK(madvise(ram, 4 * PAGE, MADV_DONTNEED) == 0);
		errno = 77;
		CHECK(madvise(other + 2 * PAGE, PAGE, MADV_DONTNEED) == 0);
		CHECK(errno == 77);
	}
	signal(SIGALRM, SIG_IGN);
	CHECK(ram_is_zero(ram, 0, 4) && ram_is_right(ram, 4, RAM_PAGES / 2 - 4));
}

/* The threads of the library, by their names, block every signal that can be blocked. */
static void test_threads_block(void)
{
	char path[320], line[256], name[32];
	int threads = 0;
	DIR *tasks = opendir("/proc/self/task");
	struct dirent *task;

	CHECK(tasks);
	while ((task = readdir(tasks))) {
		unsigned long long blocked = 0;
		snprintf(path, sizeof path, "/proc/self/task/%s/status", task->d_name);
		FILE *status = task->d_name[0] == '.' ? NULL : fopen(path, "re");
		*name = 0;
		while (status && fgets(line, sizeof line, status)) {
			sscanf(line, "Name: %31s", name);
			sscanf(line, "SigBlk: %llx", &blocked);
		}
		if (status)
			fclose(status);
		if (strncmp(name, "gmm-", 4) != 0)
			continue;
		threads++;
		/* All but SIGKILL, SIGSTOP and the two that libc keeps for itself. */
		CHECK((blocked | 1ull << 8 | 1ull << 18 | 3ull << 31) == ~0ull);
	}
	closedir(tasks);
	CHECK(threads >= 2); /* and a watchdog */
}

static void *drop_for_ever(void *arg)
{
	for (;;) {
		madvise(arg, PAGE, MADV_DONTNEED);
		pthread_testcancel();
	}
	return NULL;
}

static void test_cancel(void)
{
	for (int i = 0; i < 50; i++) {
		pthread_t thread;
		CHECK(pthread_create(&thread, NULL, drop_for_ever, ram) == 0);
		usleep(1000);
		CHECK(pthread_cancel(thread) == 0 && pthread_join(thread, NULL) == 0);
	}
	CHECK(madvise(ram, RAM_BYTES, MADV_UNMERGEABLE) == 0);
}

int main(void)
{
	other = ram_map(RAM_BYTES);
	ram = ram_shared();
	test_threads_block();
	test_handler();
	test_cancel();
	return 0;
}
