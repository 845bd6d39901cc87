/* Parsing the options that all verbs share. */
#include "bench/options.h"

#include "bench/engine.h"
#include "bench/util.h"

#include <glob.h>
#include <stdlib.h>
#include <string.h>

#ifndef GMM_DATA_DIR
#define GMM_DATA_DIR "tests/data"
#endif
#define DEFAULT_TRACES GMM_DATA_DIR "/*_t0.u64"

enum {
	OPTION_MAX_MAPPINGS = 256,
	OPTION_WINDOW,
	OPTION_INTERVAL,
	OPTION_CPU_PERCENT,
	OPTION_AGENT_THREADS,
	OPTION_REPAIR,
	OPTION_KSM_PAGES,
	OPTION_KSM_SLEEP,
	OPTION_TIMEOUT,
	OPTION_JSON
};

static const struct argp_option common_options[] = {
	{ "engine", 'e', "gmm|ksm|none|both", 0, "What shares the memory; may be repeated. Default gmm", 0 },
	{ "trace", 't', "FILE", 0,
		"A guest's memory; may be repeated. Default: the three guests of tests/data", 0 },
	{ "vms", 'n', "N", 0, "VMs; VM i takes trace i modulo their number. Default one for each trace", 0 },
	{ "max-mappings", OPTION_MAX_MAPPINGS, "N", 0,
		"Mappings that gmm may add. Default no limit: vm.max_map_count is raised for the run", 0 },
	{ "window-ms", OPTION_WINDOW, "MS", 0, "How long gmm wants a page unwritten", 0 },
	{ "pass-interval-ms", OPTION_INTERVAL, "MS", 0, "Time between gmm's passes once settled", 0 },
	{ "cpu-percent", OPTION_CPU_PERCENT, "N", 0,
		"CPU time that gmm may use, in percent of one processor. Default 0: no limit", 0 },
	{ "agent-threads", OPTION_AGENT_THREADS, "N", 0, "VMs that gmm works on at once. Default 0: one", 0 },
	{ "repair", OPTION_REPAIR, NULL, 0, "Let gmm share pages again that were shared, then written", 0 },
	{ "ksm-pages-to-scan", OPTION_KSM_PAGES, "N", 0, "KSM's batch. Default 20000", 0 },
	{ "ksm-sleep-ms", OPTION_KSM_SLEEP, "MS", 0, "KSM's sleep between batches. Default 0", 0 },
	{ "repeat", 'r', "N", 0, "Measure so often and report the run with the median", 0 },
	{ "timeout", OPTION_TIMEOUT, "SECONDS", 0, "How long an engine may take to settle. Default 300", 0 },
	{ "json", OPTION_JSON, NULL, 0, "Print one JSON object", 0 },
	{ 0 },
};

double gmm__bench_option_number(struct argp_state *state, const char *text, double min, double max)
{
	char *end;
	double value = strtod(text, &end);

	if (end == text || *end != '\0' || !(value >= min) || !(value <= max))
		argp_error(state, "'%s' is not a number from %.0f to %.0f", text, min, max);
	return value;
}

/* One number, or several with commas between them. */
static void parse_vms(struct argp_state *state, struct bench_options *options, const char *text)
{
	char *copy = strdup(text);
	char *rest = copy;

	options->vm_count_count = 0;
	for (char *part = strsep(&rest, ","); part; part = strsep(&rest, ",")) {
		if (options->vm_count_count == (options->takes_vm_counts ? BENCH_LIST_MAX : 1))
			argp_error(state, "too many numbers of VMs in '%s'", text);
		options->vm_counts[options->vm_count_count++] =
			gmm__bench_option_number(state, part, 1, 4096);
	}
	free(copy);
	options->vms = (unsigned)options->vm_counts[0];
}

static void add_engine(struct argp_state *state, struct bench_options *options, const char *name)
{
	const struct bench_engine *engine = gmm__bench_engine_find(name);

	if (strcmp(name, "both") == 0) {
		add_engine(state, options, "ksm");
		add_engine(state, options, "gmm");
		return;
	}
	if (!engine)
		argp_error(state, "unknown engine '%s'", name);
	for (unsigned i = 0; i < options->engine_count; i++)
		if (options->engines[i] == engine)
			return;
	options->engines[options->engine_count++] = engine;
}

static void add_trace(struct argp_state *state, struct bench_options *options, const char *path)
{
	if (options->trace_count == BENCH_TRACES_MAX)
		argp_error(state, "more than %d traces", BENCH_TRACES_MAX);
	options->traces[options->trace_count++] = path;
}

static error_t parse_common(int key, char *arg, struct argp_state *state)
{
	struct bench_options *options = state->input;

	switch (key) {
	case 'e':
		add_engine(state, options, arg);
		return 0;
	case 't':
		add_trace(state, options, arg);
		return 0;
	case 'n':
		parse_vms(state, options, arg);
		return 0;
	case OPTION_MAX_MAPPINGS:
		options->max_mappings = (uint64_t)gmm__bench_option_number(state, arg, 1, 1 << 28);
		return 0;
	case OPTION_WINDOW:
		options->window_ms = (uint32_t)gmm__bench_option_number(state, arg, 0, 1e6);
		return 0;
	case OPTION_INTERVAL:
		options->pass_interval_ms = (uint32_t)gmm__bench_option_number(state, arg, 1, 1e6);
		return 0;
	case OPTION_CPU_PERCENT:
		options->cpu_percent = (uint32_t)gmm__bench_option_number(state, arg, 0, 1e4);
		return 0;
	case OPTION_AGENT_THREADS:
		options->agent_threads = (uint32_t)gmm__bench_option_number(state, arg, 0, GMM_AGENT_THREADS_MAX);
		return 0;
	case OPTION_REPAIR:
		options->repairs = true;
		return 0;
	case OPTION_KSM_PAGES:
		options->ksm_pages_to_scan = (uint64_t)gmm__bench_option_number(state, arg, 1, 1e9);
		return 0;
	case OPTION_KSM_SLEEP:
		options->ksm_sleep_ms = (uint64_t)gmm__bench_option_number(state, arg, 0, 1e6);
		return 0;
	case 'r':
		options->repeat = (unsigned)gmm__bench_option_number(state, arg, 1, 100);
		return 0;
	case OPTION_TIMEOUT:
		options->timeout_seconds = gmm__bench_option_number(state, arg, 1, 1e5);
		return 0;
	case OPTION_JSON:
		options->json = true;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

const struct argp gmm__bench_common_argp = { .options = common_options, .parser = parse_common };

struct bench_options gmm__bench_options_default(void)
{
	return (struct bench_options){
		.window_ms = 2000,
		.pass_interval_ms = 2000,
		.ksm_pages_to_scan = 20000,
		.repeat = 1,
		.seconds = 5,
		.timeout_seconds = 300,
	};
}

/* The names stay in use until the program ends: they are not freed. */
static void find_default_traces(struct bench_options *options)
{
	static glob_t found;

	if (glob(DEFAULT_TRACES, 0, NULL, &found) != 0)
		gmm__bench_refuse("no " DEFAULT_TRACES ": name traces with --trace");
	for (size_t i = 0; i < found.gl_pathc && i < BENCH_TRACES_MAX; i++)
		options->traces[options->trace_count++] = found.gl_pathv[i];
}

static void check_engines(const struct bench_options *options, const char *allowed)
{
	for (unsigned i = 0; i < options->engine_count; i++)
		if (!strstr(allowed, options->engines[i]->name))
			gmm__bench_refuse("engine %s has nothing to measure here, only: %s",
				options->engines[i]->name, allowed);
}

void gmm__bench_options_parse(struct bench_options *options, void *input, const struct argp *argp,
	const char *allowed, int argc, char **argv)
{
	argp_parse(argp, argc, argv, 0, NULL, input);
	if (options->engine_count == 0)
		options->engines[options->engine_count++] = gmm__bench_engine_find("gmm");
	check_engines(options, allowed);
	if (options->trace_count == 0)
		find_default_traces(options);
	if (options->vms == 0)
		options->vms = options->trace_count;
}
