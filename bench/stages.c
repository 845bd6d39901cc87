/* stages: what each stage of the engine costs a page, measured stage by stage.
 *
 * Passes are made by hand, a region at a time and in the engine's order, on one thread and without its CPU
 * limit, until one merges nothing; each stage is timed by itself. Therefore this file, and only this one,
 * sees the library's internals (tests/layers). What the engine does between the stages is left out: handing
 * regions from thread to thread, looking for foreign mappings, and bookkeeping that is not the stage's own. */
#include "bench/verbs.h"

#include "bench/clock.h"
#include "bench/util.h"
#include "cmd/host.h"
#include "dedup/account.h"
#include "dedup/index.h"
#include "dedup/merge.h"
#include "dedup/scan.h"
#include "dedup/verify.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <urcu/urcu-bp.h>

enum { PASSES_MAX = 20, PREFETCH_PAGES = 8, COMPARED_PAGES_MAX = 65536 };

#define WAIT_BOUND_NS (200 * 1000u)

struct cost {
	uint64_t ns;
	uint64_t pages;
};

struct stages {
	struct gmm *gmm;
	const struct gmm__backend *backend;
	struct gmm__catalog *catalog;
	struct gmm__finding finding[GMM__REGION_PAGES];
	struct gmm__verdict verdict[GMM__REGION_PAGES];
	struct gmm__run run[GMM__REGION_PAGES];
	struct gmm__nominations nominations;
	struct gmm__progress progress;
	struct gmm__waits waits;
	struct cost scan_written; /* every page: finds it written and arms it */
	struct cost scan;         /* nothing was written */
	struct cost digest, whole_digest, index, compare;
	struct cost hole; /* zero pages turned into holes */
	struct cost map;  /* pages made shared */
};

static void check(int status, const char *what)
{
	if (status != GMM_OK)
		gmm__bench_fail("%s: %s: %s", what, gmm_status_name(status), gmm_status_text(status));
}

static void add_cost(struct cost *cost, uint64_t start_ns, uint64_t pages)
{
	cost->ns += gmm__host_now_ns() - start_ns;
	cost->pages += pages;
}

/* ---- stages -------------------------------------------------------------------------------------------- */

/* As the engine samples the pages of a region: those that are due, prefetching ahead. */
static void digest_due(struct stages *stages, const struct gmm__region *region)
{
	const struct gmm__secret *secret = &stages->catalog->secret;
	struct gmm__finding *finding = stages->finding;
	uint64_t start_ns = gmm__host_now_ns(), pages = 0;

	for (uint32_t i = 0; i < region->count; i++) {
		uint32_t ahead = i + PREFETCH_PAGES;
		struct gmm__digest digest;

		if (ahead < region->count && finding[ahead].found == GMM__FOUND_DUE)
			gmm__digest_prefetch(gmm__slot_host(region->slot, region->first + ahead), secret);
		if (finding[i].found != GMM__FOUND_DUE)
			continue;
		digest = gmm__digest_sample(gmm__slot_host(region->slot, region->first + i), secret);
		finding[i].found = digest.kind == GMM__DIGEST_ZERO   ? GMM__FOUND_ZERO
				   : digest.kind == GMM__DIGEST_FILL ? GMM__FOUND_FILL
								     : GMM__FOUND_OTHER;
		finding[i].fingerprint = digest.fingerprint;
		finding[i].word = digest.word;
		pages++;
	}
	if (pages > 0)
		add_cost(&stages->digest, start_ns, pages);
}

/* Every page that was digested just now, or that waits for its merge, is looked up. */
static void index_found(struct stages *stages, const struct gmm__region *region)
{
	uint64_t start_ns, end_ns;

	gmm__account_findings(region, stages->finding, &stages->progress);
	urcu_bp_read_lock();
	start_ns = gmm__host_now_ns();
	gmm__index_region(stages->catalog, stages->backend, region, stages->finding, false, NULL, stages->verdict);
	end_ns = gmm__host_now_ns();
	urcu_bp_read_unlock();
	stages->index.ns += end_ns - start_ns;
	for (uint32_t i = 0; i < region->count; i++)
		stages->index.pages += stages->verdict[i].kind != GMM__VERDICT_NONE;
	gmm__account_verdicts(region, stages->verdict, &stages->progress);
}

/* Twins that the index stage and promotions named wait for their merge from now on. */
static void nominate(struct stages *stages)
{
	struct gmm__nominations *nominations = &stages->nominations;

	urcu_bp_read_lock();
	for (uint32_t k = 0; k < nominations->n; k++) {
		gmm__page_id id = nominations->page[k];
		struct gmm__slot *slot = gmm__chunk_table_slot(&stages->gmm->chunks, gmm__page_chunk(id));
		uint32_t page = id - gmm__slot_page_id(slot, 0);

		if (gmm__slot_state(slot, page) == GMM_PAGE_UNIQUE)
			gmm__slot_set(slot, page, GMM_PAGE_NOMINATED, slot->value[page]);
	}
	urcu_bp_read_unlock();
	nominations->n = 0;
}

/* Carries out the runs that turn zero pages into holes, or those that share. The frames of replaced pages
 * collect over some runs; giving them back is part of the price. */
static void merge_runs(
	struct stages *stages, const struct gmm__region *region, uint32_t run_count, bool holes)
{
	struct gmm__merge merge = { .gmm = stages->gmm,
		.backend = stages->backend,
		.catalog = stages->catalog,
		.region = region,
		.verdict = stages->verdict,
		.progress = &stages->progress,
		.nominations = &stages->nominations,
		.waits = &stages->waits };
	static struct gmm__run chosen[GMM__REGION_PAGES];
	uint32_t count = 0;
	uint64_t merged = stages->progress.merged;
	uint64_t start_ns = gmm__host_now_ns();

	for (uint32_t i = 0; i < run_count; i++)
		if ((stages->run[i].kind == GMM__VERDICT_ZERO) == holes)
			chosen[count++] = stages->run[i];
	if (count > 0)
		gmm__merge_runs(&merge, chosen, count);
	stages->backend->flush(stages->gmm, &stages->gmm->staging[0]);
	add_cost(holes ? &stages->hole : &stages->map, start_ns, stages->progress.merged - merged);
}

static void work_on_region(struct stages *stages, const struct gmm__region *region, struct cost *scan)
{
	static const struct gmm__scan_options options = { .no_window = true };
	struct gmm_vm *vm = region->slot->vm;
	uint64_t start_ns = gmm__host_now_ns();
	uint32_t unripe;
	int found = gmm__scan_region(stages->backend, region, &options, stages->finding, &unripe);
	uint32_t run_count;

	add_cost(scan, start_ns, region->count);
	if (found < 0)
		gmm__bench_fail("the pagemap cannot be scanned: %s", strerror(-found));
	if (found == 0)
		return;
	digest_due(stages, region);
	gmm__vm_claim(vm, false);
	index_found(stages, region);
	gmm__vm_release(vm);
	for (uint32_t i = 0; i < region->count; i++)
		if (stages->verdict[i].kind == GMM__VERDICT_TWIN)
			stages->nominations.page[stages->nominations.n++] = stages->verdict[i].page;
	run_count = gmm__plan_runs(stages->verdict, region, false, stages->run);
	merge_runs(stages, region, run_count, true);
	merge_runs(stages, region, run_count, false);
	nominate(stages);
}

/* One pass over all VMs, each of which has one slot. Returns how many pages it merged. */
static uint64_t make_pass(struct stages *stages, struct cost *scan)
{
	memset(&stages->progress, 0, sizeof(stages->progress));
	for (struct gmm_vm *vm = stages->gmm->vms; vm; vm = vm->next) {
		struct gmm__slot *slot = vm->slots->slot[0];

		if (gmm__catalog_prepare(stages->catalog, vm->domain->pages) != 0)
			gmm__bench_fail("no memory for the index");
		for (uint32_t first = 0; first < slot->pages; first += GMM__REGION_PAGES) {
			uint32_t left = slot->pages - first;
			struct gmm__region region = { slot, first,
				left < GMM__REGION_PAGES ? left : GMM__REGION_PAGES };

			work_on_region(stages, &region, scan);
		}
	}
	return stages->progress.merged;
}

static void digest_whole_pages(struct stages *stages)
{
	for (struct gmm_vm *vm = stages->gmm->vms; vm; vm = vm->next) {
		const struct gmm__slot *slot = vm->slots->slot[0];
		uint64_t start_ns = gmm__host_now_ns();

		for (uint32_t page = 0; page < slot->pages; page++)
			gmm__digest_whole(gmm__slot_host(slot, page), &stages->catalog->secret);
		add_cost(&stages->whole_digest, start_ns, slot->pages);
	}
}

/* ---- compare ------------------------------------------------------------------------------------------- */

/* The shared pages from `page` on that map consecutive pool pages of one chunk, at most as many as are frozen
 * at once. 0: the page is not shared. */
static uint32_t shared_run(const struct gmm__slot *slot, uint32_t page)
{
	uint32_t n = 0;

	while (page + n < slot->pages && n < GMM__FREEZE_PAGES &&
		gmm__state_is_shared(gmm__slot_state(slot, page + n)) &&
		slot->value[page + n] == slot->value[page] + n &&
		gmm__page_chunk(slot->value[page + n]) == gmm__page_chunk(slot->value[page]))
		n++;
	return n;
}

static void compare_run(struct stages *stages, uint8_t *copy, gmm__page_id page, uint32_t count)
{
	struct gmm__freeze freeze = { .count = count, .staging = copy };
	const struct gmm__run run = { .kind = GMM__VERDICT_JOIN, .count = count, .page = page };
	bool equal[GMM__FREEZE_PAGES];
	uint64_t start_ns;

	memset(freeze.page, GMM__FROZEN_YES, sizeof(freeze.page));
	start_ns = gmm__host_now_ns();
	gmm__verify_frozen(&freeze, 0, count, &run, gmm__pool_bytes(stages->catalog->pool, page), NULL, equal);
	add_cost(&stages->compare, start_ns, count);
	for (uint32_t i = 0; i < count; i++)
		if (!equal[i])
			gmm__bench_fail("a page is not equal to its copy");
}

/* Compares shared runs with private copies of their bytes, as after a freeze. All copies are made first, many
 * more than any cache holds, so that both sides come from memory. */
static void compare_shared_pages(struct stages *stages)
{
	struct copied_run {
		gmm__page_id page;
		uint32_t count;
	} *runs = gmm__bench_alloc(COMPARED_PAGES_MAX, sizeof(*runs));
	uint8_t *copies = gmm__bench_alloc(COMPARED_PAGES_MAX, GMM_PAGE_SIZE), *copy = copies;
	uint32_t run_count = 0, room = COMPARED_PAGES_MAX - GMM__FREEZE_PAGES;

	for (struct gmm_vm *vm = stages->gmm->vms; vm; vm = vm->next) {
		const struct gmm__slot *slot = vm->slots->slot[0];

		for (uint32_t page = 0, n;
			page < slot->pages && copy<copies + room *(size_t)GMM_PAGE_SIZE; page += n> 0 ? n
												      : 1) {
			n = shared_run(slot, page);
			if (n == 0)
				continue;
			memcpy(copy, gmm__slot_host(slot, page), n * (size_t)GMM_PAGE_SIZE);
			copy += n * (size_t)GMM_PAGE_SIZE;
			runs[run_count++] = (struct copied_run){ slot->value[page], n };
		}
	}
	copy = copies;
	for (uint32_t i = 0; i < run_count; i++) {
		compare_run(stages, copy, runs[i].page, runs[i].count);
		copy += runs[i].count * (size_t)GMM_PAGE_SIZE;
	}
	free(copies);
	free(runs);
}

/* ---- the verb ------------------------------------------------------------------------------------------ */

static void log_message(void *arg, enum gmm_log_level level, const char *message)
{
	(void)arg;
	if (level <= GMM_LOG_WARNING)
		fprintf(stderr, "gmm-bench: %s\n", message);
}

static struct stages *open_stages(const struct bench_options *options, const struct bench_guests *guests)
{
	struct stages *stages = gmm__bench_alloc(1, sizeof(*stages));
	struct gmm_options gmm_options;

	gmm_options_init(&gmm_options);
	gmm_options.log = log_message;
	gmm_options.max_mappings = options->max_mappings;
	check(gmm_instance_open(&gmm_options, &stages->gmm), "opening an instance");
	for (unsigned i = 0; i < guests->count; i++) {
		struct gmm_vm *vm;

		check(gmm_vm_create(stages->gmm, NULL, &vm), "creating a VM");
		check(gmm_vm_adopt_ram(vm, 0, guests->vms[i].ram, guests->vm_pages * GMM_PAGE_SIZE),
			"adopting RAM");
	}
	stages->backend = gmm__backend_mapped();
	stages->catalog = stages->gmm->vms->domain->catalog;
	stages->waits = (struct gmm__waits){ .bound_ns = WAIT_BOUND_NS, .pages = GMM__FREEZE_PAGES / 2 };
	return stages;
}

static void close_stages(struct stages *stages)
{
	check(gmm_instance_validate(stages->gmm), "checking the accounts");
	while (stages->gmm->vms)
		check(gmm_vm_destroy(stages->gmm->vms, GMM_RAM_DISCARD), "destroying a VM");
	check(gmm_instance_close(stages->gmm), "closing the instance");
	free(stages);
}

static void set_cost(json_t *result, const char *field, const struct cost *cost)
{
	if (cost->pages > 0)
		gmm__bench_set_real(result, field, (double)cost->ns / (double)cost->pages);
}

static json_t *make_result(const struct stages *stages)
{
	json_t *result = json_object();
	struct gmm_stats stats;

	check(gmm_instance_stats(stages->gmm, &stats), "reading statistics");
	set_cost(result, "scan_ns_per_page", &stages->scan);
	set_cost(result, "scan_written_ns_per_page", &stages->scan_written);
	set_cost(result, "digest_ns_per_page", &stages->digest);
	set_cost(result, "whole_digest_ns_per_page", &stages->whole_digest);
	set_cost(result, "index_ns_per_page", &stages->index);
	set_cost(result, "compare_ns_per_page", &stages->compare);
	set_cost(result, "hole_ns_per_page", &stages->hole);
	set_cost(result, "map_ns_per_page", &stages->map);
	if (stats.total.runs > 0)
		gmm__bench_set_real(
			result, "map_ns_per_run", (double)stages->map.ns / (double)stats.total.runs);
	gmm__bench_set_count(result, "vms", stats.vms);
	gmm__bench_set_count(result, "pages", stats.total.pages);
	gmm__bench_set_count(result, "hole_pages", stages->hole.pages);
	gmm__bench_set_count(result, "mapped_pages", stages->map.pages);
	gmm__bench_set_count(result, "runs", stats.total.runs);
	return result;
}

static json_t *measure(
	const struct bench_engine *engine, const struct bench_options *options, const void *arg)
{
	struct bench_guests *guests = gmm__bench_guests_create(options);
	struct stages *stages = open_stages(options, guests);
	struct cost between = { 0 };
	uint64_t passes = 1;
	json_t *result;

	(void)engine;
	(void)arg;
	digest_whole_pages(stages);
	make_pass(stages, &stages->scan_written);
	while (make_pass(stages, &between) > 0 && ++passes < PASSES_MAX)
		;
	make_pass(stages, &stages->scan);
	compare_shared_pages(stages);
	result = make_result(stages);
	json_object_set_new(result, "verified", json_boolean(gmm__bench_guests_verify(guests)));
	close_stages(stages);
	return result;
}

int bench_stages(int argc, char **argv)
{
	static const struct argp_child children[] = { { &gmm__bench_common_argp, 0, NULL, 0 }, { 0 } };
	static const struct argp argp = { .children = children,
		.doc = "Measures what each stage of gmm costs a page. Of several runs the median is taken for "
		       "each field." };
	struct bench_options options = gmm__bench_options_default();
	json_t *result;

	gmm__bench_options_parse(&options, &options, &argp, "gmm", argc, argv);
	result = gmm__bench_run_medians(options.engines[0], &options, measure, NULL);
	gmm__bench_print(result, &options);
	return EXIT_SUCCESS;
}
