/* Hosts that lack something: opening an instance fails with the status that fits, holds nothing, and the log names the
 * feature and the kernel version that brought it.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "dedup/instance.h"
#include "tests/unit/support/unit.h"

static struct gmm__sys sys;
static int uffd_rc, pagemap_rc, scan_rc, descriptors;
static const char *release, *swaps;
static char log_text[512];

static int uffd_open(enum gmm__uffd_kind kind)
{
	(void)kind;
	if (uffd_rc < 0)
		return uffd_rc;
	descriptors++;
	return gmm__sys_linux()->file_create("fake-userfaultfd");
}

static int pagemap_open(void)
{
	if (pagemap_rc < 0)
		return pagemap_rc;
	descriptors++;
	return gmm__sys_linux()->file_create("fake-pagemap");
}

static void file_close(int fd)
{
	descriptors--;
	gmm__sys_linux()->file_close(fd);
}

static int pagemap_scan(int fd, void *start, void *end, const struct gmm__scan_filter *filter,
			struct gmm__scan_range *ranges, size_t max_ranges, void **ret_end)
{
	(void)fd, (void)start, (void)filter, (void)ranges, (void)max_ranges;
	if (ret_end)
		*ret_end = end;
	return scan_rc;
}

static int watch(int fd, void *addr, size_t size, enum gmm__watch mode)
{
	(void)fd, (void)addr, (void)size, (void)mode;
	return 0;
}

static ssize_t file_read(const char *path, char *buf, size_t size)
{
	const char *text = strcmp(path, "/proc/sys/kernel/osrelease") == 0 ? release :
			   strcmp(path, "/proc/swaps") == 0 ? swaps : NULL;

	return text ? snprintf(buf, size, "%s", text) : -ENOENT;
}

static void keep_log(void *arg, enum gmm_log_level level, const char *message)
{
	(void)arg;
	ck_assert_int_eq(level, GMM_LOG_ERROR);
	snprintf(log_text, sizeof log_text, "%s", message);
}

/* A host with everything, Linux 6.18 without swap. */
static void good_host(void)
{
	sys = *gmm__sys_linux();
	sys.uffd_open = uffd_open;
	sys.uffd_watch = watch;
	sys.pagemap_open = pagemap_open;
	sys.pagemap_scan = pagemap_scan;
	sys.file_close = file_close;
	sys.file_read = file_read;
	uffd_rc = pagemap_rc = scan_rc = descriptors = 0;
	release = "6.18.4-generic\n";
	swaps = "Filename\tType\tSize\tUsed\tPriority\n";
	log_text[0] = 0;
}

static int open_status(void)
{
	struct gmm *gmm = NULL;
	struct gmm_options options;

	gmm_options_init(&options);
	options.log = keep_log;
	int status = gmm__instance_open(&options, &sys, &gmm);
	if (status == GMM_OK)
		ck_assert_int_eq(gmm_instance_close(gmm), GMM_OK);
	else
		ck_assert_ptr_null(gmm);
	ck_assert_int_eq(descriptors, 0);
	return status;
}

/* The log must have all of the words, a '|' between them. */
static void assert_refused(int expected, const char *words)
{
	char copy[200];
	int status = open_status();

	ck_assert_msg(status == expected, "%s: %s", gmm_status_name(status), log_text);
	snprintf(copy, sizeof copy, "%s", words);
	for (char *word = strtok(copy, "|"); word; word = strtok(NULL, "|"))
		ck_assert_msg(strstr(log_text, word), "no \"%s\" in \"%s\"", word, log_text);
}

START_TEST(nothing_lacks)
{
	good_host();
	ck_assert_int_eq(open_status(), GMM_OK);
	ck_assert_str_eq(log_text, "");
}
END_TEST

START_TEST(no_userfaultfd)
{
	good_host();
	uffd_rc = -ENOSYS;
	assert_refused(GMM_ERR_UNSUPPORTED_KERNEL, "userfaultfd|CONFIG_USERFAULTFD|Linux 4.3");
}
END_TEST

START_TEST(userfaultfd_not_permitted)
{
	good_host();
	uffd_rc = -EPERM;
	assert_refused(GMM_ERR_NO_PERMISSION, "userfaultfd|not permitted|vm.unprivileged_userfaultfd|/dev/userfaultfd");
	uffd_rc = -EACCES;
	assert_refused(GMM_ERR_NO_PERMISSION, "userfaultfd|not permitted");
}
END_TEST

START_TEST(old_userfaultfd)
{
	good_host();
	uffd_rc = -EOPNOTSUPP;
	assert_refused(GMM_ERR_UNSUPPORTED_KERNEL, "UFFDIO_MOVE|Linux 6.8|UFFD_FEATURE_WP_ASYNC|Linux 6.7");
}
END_TEST

START_TEST(too_many_descriptors)
{
	good_host();
	uffd_rc = -EMFILE;
	assert_refused(GMM_ERR_SYSTEM, "userfaultfd");
	uffd_rc = -ENOMEM;
	assert_refused(GMM_ERR_NO_MEMORY, "userfaultfd");
}
END_TEST

START_TEST(no_pagemap)
{
	good_host();
	pagemap_rc = -EACCES;
	assert_refused(GMM_ERR_NO_PERMISSION, "/proc/self/pagemap");
	pagemap_rc = -ENOENT;
	assert_refused(GMM_ERR_SYSTEM, "/proc/self/pagemap");
}
END_TEST

START_TEST(no_pagemap_scan)
{
	good_host();
	scan_rc = -ENOTTY;
	assert_refused(GMM_ERR_UNSUPPORTED_KERNEL, "PAGEMAP_SCAN|Linux 6.7");
	scan_rc = -EINVAL;
	assert_refused(GMM_ERR_UNSUPPORTED_KERNEL, "PAGEMAP_SCAN|Linux 6.7");
}
END_TEST

#define ONE_SWAP "Filename\tType\tSize\tUsed\tPriority\n/dev/vda2\tpartition\t1000\t0\t-2\n"

START_TEST(swap_on_an_old_kernel)
{
	static const char *const old[] = { "6.8.0\n", "6.12.41+deb13-amd64\n", "6.15\n", "5.10.0-30-amd64\n" };
	static const char *const fixed[] = { "6.16.0\n", "6.18.44-cloud\n", "7.0.0-rc1\n" };

	for (size_t i = 0; i < sizeof old / sizeof *old; i++) {
		good_host();
		release = old[i];
		ck_assert_int_eq(open_status(), GMM_OK);
		swaps = ONE_SWAP;
		assert_refused(GMM_ERR_SWAP_UNSAFE, "swap|UFFDIO_MOVE|Linux 6.16");
	}
	for (size_t i = 0; i < sizeof fixed / sizeof *fixed; i++) {
		good_host();
		release = fixed[i];
		swaps = ONE_SWAP;
		ck_assert_int_eq(open_status(), GMM_OK);
	}
}
END_TEST

/* A /proc that does not say: no reason to refuse. */
START_TEST(unreadable_proc)
{
	good_host();
	release = NULL;
	swaps = ONE_SWAP;
	ck_assert_int_eq(open_status(), GMM_OK);
	release = "linux\n";
	ck_assert_int_eq(open_status(), GMM_OK);
	release = "6.12.0\n";
	swaps = NULL;
	ck_assert_int_eq(open_status(), GMM_OK);
}
END_TEST

START_TEST(limits_of_the_host)
{
	good_host();
	ck_assert_uint_eq(gmm__sys_max_map_count(&sys), 65530);
	ck_assert_uint_eq(gmm__sys_available_bytes(&sys), UINT64_MAX);
	ck_assert_uint_gt(gmm__sys_pinned_bytes(&sys), 0); /* there may be some */
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		nothing_lacks, no_userfaultfd, userfaultfd_not_permitted, old_userfaultfd, too_many_descriptors, no_pagemap,
		no_pagemap_scan, swap_on_an_old_kernel, unreadable_proc, limits_of_the_host,
	};

	return unit_main("kernel_features", tests, sizeof tests / sizeof *tests);
}
