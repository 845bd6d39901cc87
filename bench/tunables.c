/* Changing settings of the host and putting them back on every way out.
 *
 * A list of (path, text) is prepared beforehand, so that putting things back needs only calls that a signal
 * handler may make. Writing a value twice does no harm, so a signal in the middle of it needs no lock. */
#include "bench/tunables.h"

#include "bench/util.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { TUNABLES_MAX = 32, PATH_BYTES = 96, TEXT_BYTES = 32 };

static struct {
	char path[PATH_BYTES];
	char text[TEXT_BYTES];
} tunables[TUNABLES_MAX];

static volatile sig_atomic_t tunable_count;
static volatile pid_t working_child;
static pid_t owner;
static const int ending_signals[] = { SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGPIPE, SIGSEGV, SIGBUS, SIGABRT };

static int write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	ssize_t written;

	if (fd < 0)
		return -1;
	written = write(fd, text, strlen(text));
	close(fd);
	return written < 0 ? -1 : 0;
}

void gmm__bench_tunables_restore(void)
{
	if (getpid() != owner)
		return;
	while (tunable_count > 0) {
		int last = tunable_count - 1;

		write_text(tunables[last].path, tunables[last].text);
		tunable_count = last;
	}
}

static void end_by_signal(int number)
{
	pid_t child = working_child;

	if (child > 0) {
		kill(child, SIGKILL);
		while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
			;
	}
	gmm__bench_tunables_restore();
	signal(number, SIG_DFL);
	raise(number);
}

static void set_handlers(void (*handler)(int))
{
	struct sigaction action = { .sa_handler = handler };

	sigfillset(&action.sa_mask);
	for (size_t i = 0; i < sizeof(ending_signals) / sizeof(ending_signals[0]); i++)
		sigaction(ending_signals[i], &action, NULL);
}

void gmm__bench_tunables_init(void)
{
	owner = getpid();
	atexit(gmm__bench_tunables_restore);
	set_handlers(end_by_signal);
}

void gmm__bench_tunables_set_child(pid_t child)
{
	working_child = child;
}

void gmm__bench_tunables_leave(void)
{
	set_handlers(SIG_DFL);
	owner = 0;
	working_child = 0;
	tunable_count = 0;
}

void gmm__bench_tunable_restore_with(const char *path, uint64_t value)
{
	int index = tunable_count;

	if (index == TUNABLES_MAX)
		gmm__bench_fail("too many settings to put back");
	snprintf(tunables[index].path, PATH_BYTES, "%s", path);
	snprintf(tunables[index].text, TEXT_BYTES, "%" PRIu64, value);
	tunable_count = index + 1;
}

void gmm__bench_tunable_save(const char *path)
{
	uint64_t value = gmm__bench_read_number(path, UINT64_MAX);

	if (value == UINT64_MAX)
		gmm__bench_fail("cannot read %s", path);
	gmm__bench_tunable_restore_with(path, value);
}

void gmm__bench_tunable_write(const char *path, uint64_t value)
{
	char text[TEXT_BYTES];

	snprintf(text, sizeof(text), "%" PRIu64, value);
	if (write_text(path, text) != 0)
		gmm__bench_fail("cannot write %s to %s: %s", text, path, strerror(errno));
}
