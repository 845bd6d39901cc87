/* This project as an engine: the VMs' RAM is adopted by one instance, in one trust domain. */
#include "bench/engine.h"

#include "bench/clock.h"
#include "bench/tunables.h"
#include "bench/util.h"

#include <gmm/gmm.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define MAX_MAP_COUNT "/proc/sys/vm/max_map_count"

static struct gmm *instance;
static struct gmm_vm **vms;
static unsigned vm_count;

static void check(int status, const char *what)
{
	if (status != GMM_OK)
		gmm__bench_fail("%s: %s: %s", what, gmm_status_name(status), gmm_status_text(status));
}

static void log_message(void *arg, enum gmm_log_level level, const char *message)
{
	(void)arg;
	if (level <= GMM_LOG_WARNING)
		fprintf(stderr, "gmm-bench: %s\n", message);
}

/* Without a limit of the user's there shall be none at all: four mappings for each page of 64 GiB of RAM. */
#define UNLIMITED_MAPPINGS (UINT64_C(1) << 26)

static void prepare(const struct bench_options *options)
{
	uint64_t found = gmm__bench_read_number(MAX_MAP_COUNT, 65530);
	uint64_t wanted = options->max_mappings > 0 ? 2 * options->max_mappings + 65530 : UNLIMITED_MAPPINGS;

	if (wanted <= found)
		return;
	gmm__bench_tunable_save(MAX_MAP_COUNT);
	gmm__bench_tunable_write(MAX_MAP_COUNT, wanted);
}

static void start(const struct bench_options *options, const struct bench_guests *guests)
{
	struct gmm_options gmm_options;

	gmm_options_init(&gmm_options);
	gmm_options.log = log_message;
	gmm_options.max_mappings = options->max_mappings;
	gmm_options.window_ms = options->window_ms;
	gmm_options.cpu_percent = options->cpu_percent;
	gmm_options.agent_threads = options->agent_threads;
	gmm_options.repair = options->repairs ? GMM_REPAIR_PROMISED : GMM_REPAIR_NEVER;
	gmm_options.huge_pages = options->huge_pages;
	gmm_options.pass_interval_ms = options->pass_interval_ms;
	check(gmm_instance_open(&gmm_options, &instance), "opening an instance");
	vm_count = guests->count;
	vms = gmm__bench_alloc(vm_count, sizeof(*vms));
	for (unsigned i = 0; i < vm_count; i++) {
		check(gmm_vm_create(instance, NULL, &vms[i]), "creating a VM");
		check(gmm_vm_adopt_ram(vms[i], 0, guests->vms[i].ram, guests->vm_pages * GMM_PAGE_SIZE),
			"adopting RAM");
	}
	check(gmm_engine_start(instance), "starting the engine");
}

static bool wait_settled(uint64_t wait_ns)
{
	int status = gmm_engine_wait_settled(instance, (int64_t)(wait_ns / BENCH_NS_PER_MS));

	if (status != GMM_ERR_TIMEOUT)
		check(status, "waiting for the engine");
	return status == GMM_OK;
}

static struct gmm_stats read_stats(void)
{
	struct gmm_stats stats;

	check(gmm_instance_stats(instance, &stats), "reading statistics");
	return stats;
}

static void engine_pause(void)
{
	check(gmm_engine_pause(instance), "pausing the engine");
}

static void engine_resume(void)
{
	check(gmm_engine_start(instance), "resuming the engine");
}

static uint64_t saved_pages(void)
{
	struct gmm_stats stats = read_stats();
	uint64_t used_pages = stats.total.references + stats.total.state_pages[GMM_PAGE_ZERO];

	/* A page just promoted may be in the pool before a VM uses it. */
	return used_pages > stats.pool_pages ? used_pages - stats.pool_pages : 0;
}

static uint64_t passes(void)
{
	return read_stats().passes;
}

/* All threads of the engine are ours. */
static uint64_t outside_cpu_ns(void)
{
	return 0;
}

static uint64_t cow_breaks(void)
{
	return read_stats().total.cow_breaks;
}

/* A shared page lies in a file, a private one does not: bit 61 of the pagemap. Bit 63: present. */
static bool is_shared(const void *page)
{
	return gmm__bench_pagemap_word(page) >> 61 == 5;
}

static enum gmm_page_state page_state(unsigned vm, uint64_t page)
{
	uint64_t state_pages[GMM_PAGE_STATES];
	unsigned state = 0;

	check(gmm_vm_why(vms[vm], page * GMM_PAGE_SIZE, GMM_PAGE_SIZE, state_pages), "asking for a page's state");
	while (state_pages[state] == 0)
		state++;
	return state;
}

static void add_figures(json_t *into)
{
	struct gmm_stats stats = read_stats();

	json_object_set_new(
		into, "zero_pages", json_integer((json_int_t)stats.total.state_pages[GMM_PAGE_ZERO]));
	json_object_set_new(into, "sharing_pages", json_integer((json_int_t)stats.total.references));
	json_object_set_new(into, "pool_pages", json_integer((json_int_t)stats.pool_pages));
	json_object_set_new(into, "runs", json_integer((json_int_t)stats.total.runs));
	json_object_set_new(into, "metadata_bytes", json_integer((json_int_t)stats.metadata_peak_bytes));
	json_object_set_new(
		into, "kernel_overhead_bytes", json_integer((json_int_t)stats.kernel_overhead_bytes));
	json_object_set_new(into, "engine_cpu_seconds", json_real(gmm__bench_seconds(stats.cpu_ns)));
}

static void add_details(json_t *into)
{
	struct gmm_stats stats = read_stats();
	json_t *freezes = json_array();

	for (int i = 0; i < GMM_WAIT_BUCKETS; i++)
		json_array_append_new(freezes, json_integer((json_int_t)stats.freezes[i]));
	json_object_set_new(into, "repairs", json_integer((json_int_t)stats.total.repairs));
	json_object_set_new(into, "longest_freeze_ns", json_integer((json_int_t)stats.longest_freeze_ns));
	json_object_set_new(into, "freezes", freezes);
}

static void stop(void)
{
	check(gmm_engine_stop(instance), "stopping the engine");
	check(gmm_instance_validate(instance), "checking the accounts");
	for (unsigned i = 0; i < vm_count; i++)
		check(gmm_vm_destroy(vms[i], GMM_RAM_DISCARD), "destroying a VM");
	check(gmm_instance_close(instance), "closing the instance");
	free(vms);
}

const struct bench_engine gmm__bench_engine_gmm = {
	.name = "gmm",
	.tells_settled = true,
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
	.page_state = page_state,
	.add_figures = add_figures,
	.add_details = add_details,
	.stop = stop,
};
