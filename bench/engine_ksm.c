/* The kernel's KSM as an engine, at full speed: the VMs' RAM is made mergeable and ksmd works without pause.
 *
 * KSM has no signal for being settled. It counts as settled when the saved pages did not grow during two
 * complete scans. What a page costs is counted for it only until it first reached its final figure, in its
 * favour. */
#include "bench/engine.h"

#include "bench/clock.h"
#include "bench/tunables.h"
#include "bench/util.h"

#include <gmm/gmm.h>

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define KSM    "/sys/kernel/mm/ksm/"
#define VMSTAT "/proc/vmstat"

enum { RMAP_ITEM_BYTES = 64, KPAGEFLAGS_KSM = 21, MAX_PAGE_SHARING = 256 };

static char schedstat_path[64];
static int sharing_fd, zero_fd, scans_fd, schedstat_fd;
static uint64_t cpu_before_ns, scans_before, breaks_before, most_saved, scans_at_growth;

static bool is_number(const char *text)
{
	while (isdigit((unsigned char)*text))
		text++;
	return *text == '\0';
}

static void find_ksmd(void)
{
	DIR *dir = opendir("/proc");
	struct dirent *entry;

	while (dir && (entry = readdir(dir)) && schedstat_path[0] == '\0') {
		char path[64], name[32] = "";
		FILE *file;

		if (!is_number(entry->d_name))
			continue;
		snprintf(path, sizeof(path), "/proc/%.16s/comm", entry->d_name);
		file = fopen(path, "re");
		if (!file)
			continue;
		if (fgets(name, sizeof(name), file) && strcmp(name, "ksmd\n") == 0)
			snprintf(schedstat_path, sizeof(schedstat_path), "/proc/%.16s/schedstat",
				entry->d_name);
		fclose(file);
	}
	if (dir)
		closedir(dir);
	if (schedstat_path[0] == '\0')
		gmm__bench_fail("this host has no ksmd");
}

static void set(const char *path, uint64_t value)
{
	gmm__bench_tunable_save(path);
	gmm__bench_tunable_write(path, value);
}

/* What is put back last is saved first; before all of it, run 2 takes apart what is still merged, since
 * max_page_sharing cannot be changed while pages are shared. */
static void prepare(const struct bench_options *options)
{
	if (gmm__bench_read_number(KSM "run", UINT64_MAX) != 0 ||
		gmm__bench_read_number(KSM "pages_shared", UINT64_MAX) != 0)
		gmm__bench_fail("KSM is missing or in use on this host (see " KSM "run and pages_shared)");
	find_ksmd();
	gmm__bench_tunable_save(KSM "run");
	set(KSM "pages_to_scan", options->ksm_pages_to_scan);
	set(KSM "sleep_millisecs", options->ksm_sleep_ms);
	set(KSM "use_zero_pages", 1);
	if (gmm__bench_read_number(KSM "max_page_sharing", 0) != MAX_PAGE_SHARING)
		set(KSM "max_page_sharing", MAX_PAGE_SHARING);
	gmm__bench_tunable_restore_with(KSM "run", 2);
}

static int open_file(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		gmm__bench_fail("cannot open %s", path);
	return fd;
}

static uint64_t read_open(int fd)
{
	char text[64];
	ssize_t bytes = pread(fd, text, sizeof(text) - 1, 0);

	if (bytes < 0)
		gmm__bench_fail("cannot read the figures of KSM");
	text[bytes] = '\0';
	return strtoull(text, NULL, 10);
}

static void start(const struct bench_options *options, const struct bench_guests *guests)
{
	(void)options;
	sharing_fd = open_file(KSM "pages_sharing");
	zero_fd = open_file(KSM "ksm_zero_pages");
	scans_fd = open_file(KSM "full_scans");
	schedstat_fd = open_file(schedstat_path);
	cpu_before_ns = read_open(schedstat_fd);
	scans_before = read_open(scans_fd);
	breaks_before = gmm__bench_read_field(VMSTAT, "cow_ksm");
	for (unsigned i = 0; i < guests->count; i++)
		if (madvise(guests->vms[i].ram, guests->vm_pages * GMM_PAGE_SIZE, MADV_MERGEABLE) != 0)
			gmm__bench_fail("the kernel refuses MADV_MERGEABLE");
	gmm__bench_tunable_write(KSM "run", 1);
}

/* Returns when ksmd has finished its batch. */
static void engine_pause(void)
{
	gmm__bench_tunable_write(KSM "run", 0);
}

static void engine_resume(void)
{
	gmm__bench_tunable_write(KSM "run", 1);
}

/* pages_sharing does not count the copy that is kept. */
static uint64_t saved_pages(void)
{
	return read_open(sharing_fd) + read_open(zero_fd);
}

static uint64_t passes(void)
{
	return read_open(scans_fd) - scans_before;
}

static bool wait_settled(uint64_t wait_ns)
{
	uint64_t saved, scans;

	gmm__bench_sleep_ns(wait_ns);
	scans = passes();
	saved = saved_pages();
	if (saved > most_saved) {
		most_saved = saved;
		scans_at_growth = scans;
	}
	/* Nothing is merged in the first scan; one is under way when we come and one when it grows. */
	return scans >= 4 && scans >= scans_at_growth + 3;
}

static uint64_t outside_cpu_ns(void)
{
	return read_open(schedstat_fd) - cpu_before_ns;
}

static uint64_t cow_breaks(void)
{
	return gmm__bench_read_field(VMSTAT, "cow_ksm") - breaks_before;
}

static bool is_shared(const void *page)
{
	static int fd = -1;
	uint64_t word = gmm__bench_pagemap_word(page);
	uint64_t flags;
	uint64_t pfn = word & ((UINT64_C(1) << 55) - 1);

	if (fd < 0)
		fd = open_file("/proc/kpageflags");
	if (!(word >> 63) || pread(fd, &flags, sizeof(flags), (off_t)(pfn * sizeof(flags))) != sizeof(flags))
		return false;
	return flags >> KPAGEFLAGS_KSM & 1;
}

static void add_figures(json_t *into)
{
	uint64_t sharing = gmm__bench_read_number(KSM "pages_sharing", 0);
	uint64_t shared = gmm__bench_read_number(KSM "pages_shared", 0);
	uint64_t items = gmm__bench_read_field("/proc/self/ksm_stat", "ksm_rmap_items");

	json_object_set_new(into, "zero_pages",
		json_integer((json_int_t)gmm__bench_read_number(KSM "ksm_zero_pages", 0)));
	json_object_set_new(into, "sharing_pages", json_integer((json_int_t)(sharing + shared)));
	json_object_set_new(into, "pool_pages", json_integer((json_int_t)shared));
	json_object_set_new(into, "runs", json_integer(0));
	json_object_set_new(into, "metadata_bytes", json_integer((json_int_t)(items * RMAP_ITEM_BYTES)));
	json_object_set_new(into, "kernel_overhead_bytes", json_integer(0));
	json_object_set_new(into, "engine_cpu_seconds", json_real(gmm__bench_seconds(outside_cpu_ns())));
}

/* The names are there so that a table of several engines has these lines. */
static void add_details(json_t *into)
{
	json_object_set_new(into, "repairs", json_null());
	json_object_set_new(into, "longest_freeze_ns", json_null());
}

static void stop(void)
{
	engine_pause();
}

const struct bench_engine gmm__bench_engine_ksm = {
	.name = "ksm",
	.prepare = prepare,
	.start = start,
	.wait_settled = wait_settled,
	.pause = engine_pause,
	.resume = engine_resume,
	.saved_pages = saved_pages,
	.passes = passes,
	.outside_cpu_ns = outside_cpu_ns,
	.cow_breaks = cow_breaks,
	.is_shared = is_shared,
	.add_figures = add_figures,
	.add_details = add_details,
	.stop = stop,
};
