/* vmcount: converge for a growing number of VMs of one size, so that the cost for each VM can be compared.
 *
 * The size is what the total divided by the largest number leaves; traces that are larger are thinned out.
 * All VMs have the memory of the first trace (one image, cloned) or, mixed, take all traces in turn. */
#include "bench/verbs.h"

#include "bench/util.h"

#include <gmm/gmm.h>

#include <stdlib.h>
#include <string.h>

struct vmcount_arg {
	struct bench_options options;
	uint64_t total_mib;
	bool mixed;
};

static void divide(json_t *point, const char *to, const char *field, double divisor)
{
	gmm__bench_set_real(point, to, json_number_value(json_object_get(point, field)) / divisor);
}

static json_t *measure_count(const struct bench_engine *engine, const struct bench_options *options)
{
	static const char *const unused[] = { "engine", "kernel_freed_bytes", "cow_breaks",
		"engine_cpu_seconds", "freezes", "repairs" };
	json_t *point =
		gmm__bench_run_median(engine, options, gmm__bench_converge_measure, NULL, "cpu_seconds");

	divide(point, "cpu_seconds_per_vm", "cpu_seconds", options->vms);
	divide(point, "metadata_bytes_per_page", "metadata_bytes",
		json_number_value(json_object_get(point, "pages")));
	divide(point, "saved_part", "saved_pages", json_number_value(json_object_get(point, "oracle_pages")));
	for (size_t i = 0; i < sizeof(unused) / sizeof(unused[0]); i++)
		json_object_del(point, unused[i]);
	return point;
}

static json_t *measure_engine(const struct bench_engine *engine, const struct vmcount_arg *vmcount)
{
	struct bench_options options = vmcount->options;
	json_t *result = json_object(), *points = json_array();

	for (unsigned i = 0; i < vmcount->options.vm_count_count; i++) {
		options.vms = (unsigned)vmcount->options.vm_counts[i];
		json_array_append_new(points, measure_count(engine, &options));
	}
	json_object_set_new(result, "engine", json_string(engine->name));
	json_object_set_new(result, "mixed", json_boolean(vmcount->mixed));
	gmm__bench_set_count(result, "vm_pages_max", options.vm_pages_max);
	json_object_set_new(result, "points", points);
	return result;
}

static uint64_t largest_count(const struct vmcount_arg *vmcount)
{
	double largest = 1;

	for (unsigned i = 0; i < vmcount->options.vm_count_count; i++)
		if (vmcount->options.vm_counts[i] > largest)
			largest = vmcount->options.vm_counts[i];
	return (uint64_t)largest;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct vmcount_arg *vmcount = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &vmcount->options;
		return 0;
	case 'T':
		vmcount->total_mib = (uint64_t)gmm__bench_option_number(state, arg, 2, 1e8);
		return 0;
	case 'm':
		vmcount->mixed = true;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

int bench_vmcount(int argc, char **argv)
{
	static const struct argp_option option_list[] = {
		{ "total-mib", 'T', "MIB", 0, "RAM of the largest number of VMs. Default 12288", 0 },
		{ "mixed", 'm', NULL, 0, "The VMs take all traces in turn. Default: all have the first", 0 },
		{ 0 },
	};
	static const struct argp_child children[] = { { &gmm__bench_common_argp, 0, NULL, 0 }, { 0 } };
	static const struct argp argp = { .options = option_list,
		.parser = parse,
		.children = children,
		.doc = "Measures converge for a growing number of VMs.\v"
		       "--vms takes a list, as in 2,4,8 (default 2,4,8,16)." };
	struct vmcount_arg vmcount = { .options = gmm__bench_options_default(), .total_mib = 12288 };
	struct bench_options *options = &vmcount.options;
	json_t *result;

	options->window_ms = 0;
	options->pass_interval_ms = 50;
	options->takes_vm_counts = true;
	options->vm_count_count = 4;
	memcpy(options->vm_counts, (double[]){ 2, 4, 8, 16 }, 4 * sizeof(double));
	gmm__bench_options_parse(options, &vmcount, &argp, "gmm ksm", argc, argv);
	if (!vmcount.mixed)
		options->trace_count = 1;
	options->vm_pages_max = (vmcount.total_mib << 20) / GMM_PAGE_SIZE / largest_count(&vmcount);
	result = options->engine_count == 1 ? measure_engine(options->engines[0], &vmcount) : json_object();
	for (unsigned i = 0; i < options->engine_count && options->engine_count > 1; i++)
		json_object_set_new(
			result, options->engines[i]->name, measure_engine(options->engines[i], &vmcount));
	gmm__bench_print(result, options);
	return EXIT_SUCCESS;
}
