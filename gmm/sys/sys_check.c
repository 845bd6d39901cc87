/* What this host can do: kernel features, swap, limits. Each missing feature is named with the kernel version
 * that brought it, so that a user knows what to upgrade. */
#include "gmm/sys/sys.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "gmm/sys/kernel.h"

static int check_uffd(const struct gmm__sys *sys, char *why, size_t size)
{
	int fd = sys->uffd_open(GMM__UFFD_TRACK);

	if (fd == -ENOSYS)
		snprintf(why, size, "the kernel has no userfaultfd (CONFIG_USERFAULTFD, Linux 4.3)");
	else if (fd == -EPERM || fd == -EACCES)
		snprintf(why, size, "userfaultfd is not permitted: run as root, set vm.unprivileged_userfaultfd=1 or "
			 "give access to /dev/userfaultfd");
	else if (fd == -EOPNOTSUPP)
		snprintf(why, size, "the kernel lacks UFFDIO_MOVE (UFFD_FEATURE_MOVE, Linux 6.8) or asynchronous "
			 "write-protect (UFFD_FEATURE_WP_ASYNC, Linux 6.7)");
	else if (fd < 0)
		snprintf(why, size, "userfaultfd: %s", strerror(-fd));
	if (fd < 0)
		return fd;
	sys->file_close(fd);
	return 0;
}

static int check_pagemap(const struct gmm__sys *sys, char *why, size_t size)
{
	int fd = sys->pagemap_open();
	if (fd < 0) {
		snprintf(why, size, "/proc/self/pagemap cannot be opened: %s", strerror(-fd));
		return fd;
	}
	char *page = (char *)((uintptr_t)why & ~(uintptr_t)4095); /* any mapped page of ours */
	struct gmm__scan_filter filter = { .need = GMM__IS_PRESENT };
	struct gmm__scan_range range;
	int rc = sys->pagemap_scan(fd, page, page + 4096, &filter, &range, 1, NULL);
	sys->file_close(fd);
	if (rc >= 0)
		return 0;
	snprintf(why, size, "the kernel lacks the PAGEMAP_SCAN ioctl (Linux 6.7): %s", strerror(-rc));
	return rc == -ENOTTY || rc == -EINVAL ? -EOPNOTSUPP : rc;
}

int gmm__sys_check_features(const struct gmm__sys *sys, char *ret_why, size_t why_size)
{
	int rc = check_uffd(sys, ret_why, why_size);

	return rc ? rc : check_pagemap(sys, ret_why, why_size);
}

bool gmm__sys_swap_unsafe(const struct gmm__sys *sys)
{
	char text[4096];
	unsigned major = 0, minor = 0;

	if (sys->file_read("/proc/sys/kernel/osrelease", text, sizeof text) <= 0 ||
	    sscanf(text, "%u.%u", &major, &minor) != 2)
		return false;
	if (major > 6 || (major == 6 && minor >= 16))
		return false;
	/* A heading, then a line for each swap area. */
	ssize_t n = sys->file_read("/proc/swaps", text, sizeof text);
	char *heading_end = n > 0 ? strchr(text, '\n') : NULL;
	return heading_end && heading_end[1] != 0;
}

uint64_t gmm__sys_max_map_count(const struct gmm__sys *sys)
{
	char text[32];

	if (sys->file_read("/proc/sys/vm/max_map_count", text, sizeof text) <= 0)
		return 65530;
	return strtoull(text, NULL, 10);
}

/* The figure of a line "\nName:   123 kB" in bytes, or `missing`. */
static uint64_t read_kilobytes(const struct gmm__sys *sys, const char *path, const char *key, uint64_t missing)
{
	char text[8192];
	const char *line = sys->file_read(path, text, sizeof text) > 0 ? strstr(text, key) : NULL;

	return line ? strtoull(line + strlen(key), NULL, 10) * 1024 : missing;
}

uint64_t gmm__sys_pinned_bytes(const struct gmm__sys *sys)
{
	/* Of this thread: that of a main thread that has ended says nothing. Where it cannot be read any more, there may be some. */
	return read_kilobytes(sys, "/proc/thread-self/status", "\nVmPin:", UINT64_MAX);
}

uint64_t gmm__sys_available_bytes(const struct gmm__sys *sys)
{
	return read_kilobytes(sys, "/proc/meminfo", "\nMemAvailable:", UINT64_MAX);
}
