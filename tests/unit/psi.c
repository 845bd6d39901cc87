/* PSI files: what the kernel writes, what is none, and shares of time between two looks. */
#include "gmm/pressure.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "tests/unit/support/unit.h"

static char text[512], cgroups[256];
static const char *wanted_path;
static uint64_t now_ns;

static ssize_t file_read(const char *path, char *buf, size_t size)
{
	const char *from = strcmp(path, "/proc/self/cgroup") == 0 ? cgroups : text;

	if (from == text && wanted_path && strcmp(path, wanted_path) != 0)
		return -ENOENT;
	return *from ? snprintf(buf, size, "%s", from) : -ENOENT;
}

static uint64_t clock_ns(void)
{
	return now_ns;
}

static const struct gmm__sys sys = { .file_read = file_read, .clock_ns = clock_ns };

static void set(uint64_t some, uint64_t full)
{
	snprintf(text, sizeof text, "some avg10=0.07 avg60=1.82 avg300=1.58 total=%lu\n"
		 "full avg10=0.00 avg60=0.04 avg300=0.07 total=%lu\n", (unsigned long)some, (unsigned long)full);
}

START_TEST(the_kernels_text)
{
	struct gmm__psi psi;

	set(44545106, 11940091);
	ck_assert(gmm__psi_parse(text, &psi));
	ck_assert_uint_eq(psi.some_us, 44545106);
	ck_assert_uint_eq(psi.full_us, 11940091);
}
END_TEST

START_TEST(what_is_none)
{
	static const char *const texts[] = {
		"", "some", "some avg10=0.00\nfull avg10=0.00 total=1\n", "full avg10=0 total=1\nsome avg10=0 total=2\n",
		"some avg10=0.00 total=\nfull total=3\n", "some avg10=0.00 total=12\n", "total=12\n",
	};
	struct gmm__psi psi = { 1, 2 };

	for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
		ck_assert_msg(!gmm__psi_parse(texts[i], &psi), "%s", texts[i]);
	ck_assert_uint_eq(psi.some_us, 1);
}
END_TEST

START_TEST(share_of_the_time_between_looks)
{
	struct gmm__psi_watch watch = { .path = "/proc/pressure/memory" };

	now_ns = 5000000000;
	set(1000000, 0);
	ck_assert_uint_eq(gmm__psi_look(&sys, &watch), 0); /* since when, nobody knows */
	now_ns += 2000000000;
	set(1100000, 0);
	ck_assert_uint_eq(gmm__psi_look(&sys, &watch), 50);
	now_ns += 1000000;
	set(2100000, 0);
	ck_assert_uint_eq(gmm__psi_look(&sys, &watch), 1000);
	now_ns += 1000000;
	set(5, 0); /* another file, or a counter that began anew */
	ck_assert_uint_eq(gmm__psi_look(&sys, &watch), 0);
	text[0] = 0;
	now_ns += 1000000;
	ck_assert_uint_eq(gmm__psi_look(&sys, &watch), 0);
}
END_TEST

START_TEST(file_of_the_own_cgroup)
{
	char path[256];

	set(1, 1);
	strcpy(cgroups, "4:memory:/old\n0::/machine.slice/vm-7.scope\n");
	wanted_path = "/sys/fs/cgroup/machine.slice/vm-7.scope/memory.pressure";
	ck_assert(gmm__psi_own_cgroup(&sys, path, sizeof path));
	ck_assert_str_eq(path, wanted_path);
	ck_assert(!gmm__psi_own_cgroup(&sys, path, 20));
	wanted_path = "/sys/fs/cgroup/memory.pressure";
	ck_assert(!gmm__psi_own_cgroup(&sys, path, sizeof path));
	strcpy(cgroups, "0::/\n");
	ck_assert(gmm__psi_own_cgroup(&sys, path, sizeof path));
	ck_assert_str_eq(path, wanted_path);
	strcpy(cgroups, "4:memory:/old\n");
	ck_assert(!gmm__psi_own_cgroup(&sys, path, sizeof path));
	cgroups[0] = 0;
	ck_assert(!gmm__psi_own_cgroup(&sys, path, sizeof path));
	wanted_path = NULL;
}
END_TEST

int main(void)
{
	const TTest *const tests[] = { the_kernels_text, what_is_none, share_of_the_time_between_looks,
				       file_of_the_own_cgroup };

	return unit_main("psi", tests, sizeof tests / sizeof *tests);
}
