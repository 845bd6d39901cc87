/* Opens the instance, late: a program that never asks for merging gets no thread and no descriptor from us. */
#include "preload/sharing.h"

#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include "preload/direct.h"
#include "preload/port.h"
#include "preload/raw.h"

static struct gmm *instance;
static struct gmm_vm *vm;
static bool tried;   /* to open the instance */
static bool started; /* the engine */
static bool ended;   /* the program exits: it is not started again */
static char reason[256]; /* what the library said last, while it was being opened */

static void write_line(int fd, const char *what, const char *why)
{
	struct iovec parts[] = {
		{ (void *)(uintptr_t) "gmm-dedup: ", 11 },
		{ (void *)(uintptr_t)what, strlen(what) },
		{ (void *)(uintptr_t) ": ", why ? 2 : 0 },
		{ (void *)(uintptr_t)why, why ? strlen(why) : 0 },
		{ (void *)(uintptr_t) "\n", 1 },
	};

	gmm__raw(SYS_writev, fd, parts, 5);
}

void gmm__sharing_tell(const char *what, const char *why)
{
	write_line(2, what, why);
}

/* From any thread: those of the library have other descriptors than the program (gmm_options.own_descriptors). */
static void tell_from_anywhere(const char *message)
{
	int process = (int)gmm__raw(SYS_pidfd_open, gmm__raw(SYS_getpid), 0);
	int fd = process >= 0 ? (int)gmm__raw(SYS_pidfd_getfd, process, 2, 0) : -1;

	if (fd >= 0) {
		write_line(fd, message, NULL);
		gmm__raw(SYS_close, fd);
	}
	if (process >= 0)
		gmm__raw(SYS_close, process);
}

static void log_message(void *arg, enum gmm_log_level level, const char *message)
{
	(void)arg;
	if (level == GMM_LOG_ERROR && !vm) {
		strncpy(reason, message, sizeof reason - 1);
		return;
	}
	if (getenv("GMM_DEDUP_LOG"))
		tell_from_anywhere(message);
}

/* A figure of the environment; what was there if it is none. */
static void read_figure(const char *name, uint32_t *figure)
{
	const char *text = getenv(name);
	char *end;
	unsigned long value = text ? strtoul(text, &end, 10) : 0;

	if (text && *text && *end == 0 && value <= UINT32_MAX)
		*figure = (uint32_t)value;
}

static enum gmm_huge_pages read_huge_pages(void)
{
	const char *text = getenv("GMM_DEDUP_HUGE_PAGES");

	if (text && strcmp(text, "always") == 0)
		return GMM_HUGE_ALWAYS;
	return text && strcmp(text, "never") == 0 ? GMM_HUGE_NEVER : GMM_HUGE_PRESERVE;
}

static int open_instance(void)
{
	struct gmm_options options;
	struct gmm_vm_options vm_options;

	gmm_options_init(&options);
	options.log = log_message;
	read_figure("GMM_DEDUP_CPU_PERCENT", &options.cpu_percent);
	read_figure("GMM_DEDUP_WINDOW_MS", &options.window_ms);
	if (options.window_ms > 0) /* a pass finds what has rested since the one before */
		options.pass_interval_ms = options.window_ms;
	options.repair = GMM_REPAIR_ASK;
	options.may_repair = gmm__direct_may_repair;
	options.huge_pages = read_huge_pages();
	options.own_descriptors = true;
	const char *socket = getenv("GMM_DEDUP_SOCKET");
	if (socket && *socket)
		options.socket = socket;
	int status = gmm_instance_open(&options, &instance);
	if (status != GMM_OK)
		return status;
	gmm_vm_options_init(&vm_options);
	const char *domain = getenv("GMM_DEDUP_DOMAIN");
	if (domain && *domain)
		vm_options.domain = domain;
	status = gmm_vm_create(instance, &vm_options, &vm);
	if (status != GMM_OK)
		gmm_instance_close(instance);
	return status;
}

struct gmm_vm *gmm__sharing_vm(void)
{
	if (!tried) {
		tried = true;
		int status = open_instance();
		if (status != GMM_OK)
			gmm__sharing_tell("the memory of this process is not shared",
					  reason[0] ? reason : gmm_status_text(status));
	}
	return vm;
}

void gmm__sharing_start(void)
{
	if (started || ended)
		return;
	int status = gmm_engine_start(instance);
	started = status == GMM_OK;
	if (!started)
		gmm__sharing_tell("the memory of this process is not shared", gmm_status_text(status));
	else
		gmm__port_start(vm);
}

void gmm__sharing_stop(void)
{
	gmm__port_stop();
	if (started)
		gmm_engine_stop(instance);
	started = false;
	ended = true;
}

void gmm__sharing_forget(void)
{
	tried = true;
	started = false;
	vm = NULL;
	gmm__port_forget();
}

bool gmm__sharing_huge_pages(void)
{
	const char *text = getenv("GMM_DEDUP_HUGE_PAGES");

	return !text || strcmp(text, "none") != 0;
}
