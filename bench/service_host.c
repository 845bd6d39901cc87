/* A service of the benchmark's own, with its mounts in a namespace that nobody else sees. */
#include "bench/service.h"

#include "bench/clock.h"
#include "bench/util.h"
#include "cmd/host.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define START_NS (90 * BENCH_NS_PER_S)

static struct service_host *running; /* for what is left at the exit */

static void clean_up(void)
{
	static const char *const mounts[] = { "pool-ro", "pool" };
	char path[128];
	pid_t pid = running->pid;

	running->pid = 0;
	if (pid > 0) {
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
	}
	for (int i = 0; i < 2; i++) {
		snprintf(path, sizeof path, "%s/%s", running->dir, mounts[i]);
		umount2(path, MNT_DETACH);
		rmdir(path);
	}
	unlink(running->config);
	unlink(running->socket);
	rmdir(running->dir);
}

static void find_command(char *path, size_t size)
{
	ssize_t n = readlink("/proc/self/exe", path, size - 16);

	if (n <= 0)
		gmm__bench_fail("/proc/self/exe: %s", strerror(errno));
	path[n] = 0;
	strcpy(strrchr(path, '/'), "/gmm-dedup");
	if (access(path, X_OK) != 0)
		gmm__bench_fail("%s: %s", path, strerror(errno));
}

/* In the new process. */
static void run_service(const struct service_host *host)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	execl(host->command, "gmm-dedup", "serve", "--socket", host->socket, "--runtime-dir", host->dir, "--config",
	      host->config, (char *)NULL);
	_exit(127);
}

static void write_config(const struct service_host *host)
{
	FILE *file = fopen(host->config, "we");

	if (!file || fprintf(file, "[limits]\nclients = 4096\nclients_per_user = 4096\n[domain bench]\nuser = %u\n",
			     geteuid()) < 0 || fclose(file) != 0)
		gmm__bench_fail("%s: %s", host->config, strerror(errno));
}

/* NULL: it does not answer. */
static json_t *ask_status(const struct service_host *host, const char *redirection)
{
	char command[sizeof host->command + sizeof host->socket + 64];

	snprintf(command, sizeof command, "'%s' status --json --check --socket '%s' %s", host->command, host->socket,
		 redirection);
	FILE *pipe = popen(command, "re");
	json_t *status = pipe ? json_loadf(pipe, JSON_DISABLE_EOF_CHECK, NULL) : NULL;
	/* The exit status says no more than "accounts" does. */
	if (pipe)
		pclose(pipe);
	return status;
}

/* Though nobody has waited for it. */
static bool has_ended(pid_t pid)
{
	siginfo_t info = { .si_pid = 0 };

	return waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid != 0;
}

void gmm__bench_service_start(struct service_host *host)
{
	*host = (struct service_host){ .dir = "/tmp/gmm-bench.XXXXXX" };
	if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
		gmm__bench_fail("no right to mount: %s", strerror(errno));
	if (!mkdtemp(host->dir))
		gmm__bench_fail("%s: %s", host->dir, strerror(errno));
	running = host;
	snprintf(host->socket, sizeof host->socket, "%s/socket", host->dir);
	snprintf(host->config, sizeof host->config, "%s/config", host->dir);
	find_command(host->command, sizeof host->command);
	write_config(host);
	host->pid = fork();
	if (host->pid == 0)
		run_service(host);
	atexit(clean_up);
	uint64_t end_ns = gmm__host_now_ns() + START_NS;
	json_t *status;
	while (!(status = ask_status(host, "2>/dev/null")) && gmm__host_now_ns() < end_ns && !has_ended(host->pid))
		gmm__bench_sleep_ns(20 * BENCH_NS_PER_MS);
	if (!status)
		gmm__bench_fail("the service does not start");
	json_decref(status);
}

json_t *gmm__bench_service_status(const struct service_host *host)
{
	json_t *status = ask_status(host, "");

	if (!json_is_object(status))
		gmm__bench_fail("the service does not answer");
	return status;
}

uint64_t gmm__bench_service_bytes(const struct service_host *host)
{
	char path[64];

	snprintf(path, sizeof path, "/proc/%d/status", (int)host->pid);
	return gmm__bench_read_field(path, "RssAnon:") * 1024;
}
