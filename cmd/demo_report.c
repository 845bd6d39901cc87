/* What the demo prints: the table for people, the JSON object for programs. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include <jansson.h>

#include "cmd/demo.h"

#define MIB (1024.0 * 1024.0)

/* ---- freezes ------------------------------------------------------------------------------------------- */

#define SHORT_FREEZE_US 200

struct freezes {
	uint64_t count;
	uint64_t over; /* longer than SHORT_FREEZE_US: at most so many */
};

/* The histogram's buckets are powers of two: those of the bucket that the limit lies in count as over it,
 * unless the longest of all freezes was not. */
static struct freezes count_freezes(const struct gmm_stats *stats)
{
	struct freezes freezes = { 0 };
	for (unsigned k = 0; k < GMM_WAIT_BUCKETS; k++) {
		freezes.count += stats->freezes[k];
		if (UINT64_C(2) << k > SHORT_FREEZE_US)
			freezes.over += stats->freezes[k];
	}
	if (stats->longest_freeze_ns <= SHORT_FREEZE_US * UINT64_C(1000))
		freezes.over = 0;
	return freezes;
}

/* ---- the table ----------------------------------------------------------------------------------------- */

static double percent(double part, double whole)
{
	return whole > 0 ? 100 * part / whole : 0;
}

static void print_vm_row(
	const char *label, const char *name, const struct gmm_vm_stats *vm, int64_t saved_pages)
{
	printf("%-6s %-22.22s %9.1f %9.1f %9.1f %9.1f %9.1f\n", label, name, gmm__guests_mib(vm->pages),
		gmm__guests_mib(vm->state_pages[GMM_PAGE_ZERO]), gmm__guests_mib(vm->references),
		gmm__guests_mib(vm->private_pages), gmm__guests_mib(saved_pages));
}

static void print_rule(void)
{
	puts("-------------------------------------------------------------------------------");
}

static void print_vms(const struct guests *guests, const struct demo_result *result)
{
	const struct gmm_stats *stats = &result->settled;
	printf("%-6s %-22s %9s %9s %9s %9s %9s\n", "MiB", "", "RAM", "zero", "shared", "private", "saved");
	print_rule();
	for (size_t i = 0; i < guests->count; i++) {
		const struct gmm_vm_stats *vm = &result->vms[i];
		char label[32];
		snprintf(label, sizeof(label), "VM %zu", i + 1);
		print_vm_row(label, guests->guest[i].name, vm,
			(int64_t)(vm->state_pages[GMM_PAGE_ZERO] + vm->references));
	}
	printf("%-6s %-22s %9s %9s %9s %9s %9.1f\n", "pool", "what is shared, once", "", "", "", "",
		-gmm__guests_mib(stats->pool_pages));
	print_rule();
	print_vm_row("total", "", &stats->total, gmm__guests_saved_pages(stats));
}

static void print_figure(const char *what, double mib, const char *remark, double remark_percent)
{
	printf("%-34s %9.1f MiB", what, mib);
	if (remark)
		printf("  %5.1f %% of %s", remark_percent, remark);
	putchar('\n');
}

void gmm__demo_print_table(const struct guests *guests, const struct demo_result *result)
{
	const struct gmm_stats *stats = &result->settled;
	int64_t saved_pages = gmm__guests_saved_pages(stats);
	double saved_mib = gmm__guests_mib(saved_pages);
	double tables_mib = (double)stats->metadata_peak_bytes / MIB;
	double kernel_mib = (double)stats->kernel_overhead_bytes / MIB;
	double net_mib = saved_mib - tables_mib - kernel_mib;
	double ram_mib = gmm__guests_mib(guests->pages);

	print_vms(guests, result);
	printf("\nSettled after %.2f s, with %.2f s of CPU time. Shared pages lie in %" PRIu64
	       " runs;\nthe process has %" PRId64 " mappings more.\n",
		(double)result->wall_ns / 1e9, (double)stats->cpu_ns / 1e9, stats->total.runs,
		result->mappings);
	printf("The guests then wrote to %" PRIu64 " pages; %" PRIu64 " shared and %" PRIu64
	       " zero\npages became private.\n\n",
		result->written_pages, result->end.total.cow_breaks, result->end.total.zero_breaks);
	struct freezes freezes = count_freezes(&result->end);
	double short_percent = 100 - percent((double)freezes.over, (double)freezes.count);
	printf("Guest pages were frozen %" PRIu64 " times to be merged, at least %.1f %% of them for\n"
	       "less than %d us, and the longest time was %.2f ms.\n\n",
		freezes.count, floor(10 * short_percent) / 10, SHORT_FREEZE_US,
		(double)result->end.longest_freeze_ns / 1e6);
	print_figure("Saved", saved_mib, "what is possible",
		percent((double)saved_pages, (double)guests->oracle_pages));
	print_figure("- our own tables at their largest", tables_mib, NULL, 0);
	print_figure("- the kernel's, for our mappings", kernel_mib, NULL, 0);
	print_figure("Freed, as the kernel counts it", (double)result->kernel_freed_bytes / MIB, NULL, 0);
	putchar('\n');
	print_figure("Net memory given back", net_mib, "the guests' RAM", percent(net_mib, ram_mib));
	if (result->verified)
		printf("verified: every byte of %" PRIu64 " pages\n", guests->pages);
	else
		puts("NOT verified");
}

/* ---- JSON ---------------------------------------------------------------------------------------------- */

static json_t *seconds(uint64_t ns)
{
	return json_real((double)ns / 1e9);
}

int gmm__demo_print_json(const struct guests *guests, const struct demo_result *result)
{
	const struct gmm_stats *stats = &result->settled;
	const struct freezes freezes = count_freezes(&result->end);
	const struct {
		const char *name;
		json_t *value;
	} fields[] = {
		{ "vms", json_integer(stats->vms) },
		{ "pages", json_integer(guests->pages) },
		{ "oracle_pages", json_integer(guests->oracle_pages) },
		{ "zero_pages", json_integer(stats->total.state_pages[GMM_PAGE_ZERO]) },
		{ "sharing_pages", json_integer(stats->total.references) },
		{ "pool_pages", json_integer(stats->pool_pages) },
		{ "saved_pages", json_integer(gmm__guests_saved_pages(stats)) },
		{ "runs", json_integer(stats->total.runs) },
		{ "mappings", json_integer(result->mappings) },
		{ "metadata_bytes", json_integer(stats->metadata_peak_bytes) },
		{ "kernel_overhead_bytes", json_integer(stats->kernel_overhead_bytes) },
		{ "kernel_freed_bytes", json_integer(result->kernel_freed_bytes) },
		{ "cow_breaks", json_integer(result->end.total.cow_breaks) },
		{ "longest_freeze_ns", json_integer(result->end.longest_freeze_ns) },
		{ "freezes", json_integer(freezes.count) },
		{ "freezes_over_200us", json_integer(freezes.over) },
		{ "cpu_seconds", seconds(stats->cpu_ns) },
		{ "wall_seconds", seconds(result->wall_ns) },
		{ "verified", json_boolean(result->verified) },
	};
	json_t *object = json_object();
	int status = 0;
	for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++)
		status |= json_object_set_new(object, fields[i].name, fields[i].value);
	if (status == 0)
		status = json_dumpf(object, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
	putchar('\n');
	json_decref(object);
	return status;
}
