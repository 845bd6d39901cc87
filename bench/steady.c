/* steady: what a pass costs once an engine has settled, on memory that nobody writes and, if asked for, when
 * a part of all pages is rewritten between any two passes.
 *
 * The written pages are the same in each round, spread evenly over all VMs, and get new bytes that no other
 * page has. The engine rests while they are written, so that each pass meets exactly that much new. The
 * writer's own CPU time, page faults included, is not the engine's and stands apart. */
#include "bench/verbs.h"

#include "bench/clock.h"
#include "bench/util.h"
#include "cmd/host.h"

#include <stdlib.h>

/* KSM skips a page for longer the more often it found it alone; after so many passes it has come to rest. */
enum { WARM_UP_PASSES = 20 };

/* gmm visits memory at rest once in 16 passes: fewer of them say little. */
enum { UNWRITTEN_PASSES = 32 };

#define POLL_NS (5 * BENCH_NS_PER_MS)

struct steady_arg {
	struct bench_options options;
	double percents[BENCH_LIST_MAX]; /* the first is 0 */
	unsigned percent_count;
};

struct clocks {
	uint64_t engine_cpu_ns; /* without this thread's */
	uint64_t writer_cpu_ns;
	uint64_t passes;
};

static uint64_t wait_for_pass(const struct bench_engine *engine)
{
	uint64_t before = engine->passes();
	uint64_t now;

	while ((now = engine->passes()) == before)
		gmm__bench_sleep_ns(POLL_NS);
	return now;
}

static struct clocks read_clocks(const struct bench_engine *engine)
{
	struct clocks clocks = { .writer_cpu_ns = gmm__bench_thread_cpu_ns(), .passes = engine->passes() };

	clocks.engine_cpu_ns = gmm__bench_engine_cpu_ns(engine) - clocks.writer_cpu_ns;
	return clocks;
}

static void write_part(const struct bench_guests *guests, double percent, uint64_t round)
{
	uint64_t limit = (uint64_t)(percent / 100 * 1e6);

	for (unsigned i = 0; i < guests->count; i++) {
		for (uint64_t page = 0; page < guests->vm_pages; page++) {
			uint64_t key = gmm__bench_mix((uint64_t)i << 40 | page);

			if (key % 1000000 < limit)
				gmm__bench_vm_rewrite(&guests->vms[i], page, gmm__bench_mix(key + round) | 1);
		}
	}
}

/* From the end of a pass to the end of a pass, for at least the time and so many passes. */
static void run_unwritten(const struct bench_engine *engine, const struct bench_options *options,
	struct clocks *begin, struct clocks *end)
{
	uint64_t end_ns = gmm__host_now_ns() + (uint64_t)(options->seconds * BENCH_NS_PER_S);

	wait_for_pass(engine);
	*begin = read_clocks(engine);
	do
		wait_for_pass(engine);
	while (gmm__host_now_ns() < end_ns || engine->passes() < begin->passes + UNWRITTEN_PASSES);
	*end = read_clocks(engine);
}

/* One round before the measurement brings the memory into the state that all later rounds find. */
static void run_written(const struct bench_engine *engine, const struct bench_options *options,
	const struct bench_guests *guests, double percent, struct clocks *begin, struct clocks *end)
{
	uint64_t end_ns = gmm__host_now_ns() + (uint64_t)(options->seconds * BENCH_NS_PER_S);
	static uint64_t round;

	engine->pause();
	for (unsigned n = 0; n < 4 || gmm__host_now_ns() < end_ns; n++) {
		if (n == 1)
			*begin = read_clocks(engine);
		write_part(guests, percent, ++round);
		engine->resume();
		wait_for_pass(engine);
		engine->pause();
	}
	*end = read_clocks(engine);
	engine->resume();
}

static json_t *measure_point(const struct bench_engine *engine, const struct bench_options *options,
	const struct bench_guests *guests, double percent)
{
	json_t *point = json_object();
	struct clocks begin, end;
	double passes, cpu_seconds;

	if (percent > 0)
		run_written(engine, options, guests, percent, &begin, &end);
	else
		run_unwritten(engine, options, &begin, &end);
	passes = (double)(end.passes - begin.passes);
	cpu_seconds = gmm__bench_seconds(end.engine_cpu_ns - begin.engine_cpu_ns);
	gmm__bench_set_real(point, "written_percent", percent);
	gmm__bench_set_real(point, "cpu_seconds_per_pass", cpu_seconds / passes);
	gmm__bench_set_real(
		point, "ns_per_page", cpu_seconds * 1e9 / passes / (double)gmm__bench_guests_pages(guests));
	gmm__bench_set_real(point, "writer_cpu_seconds_per_pass",
		gmm__bench_seconds(end.writer_cpu_ns - begin.writer_cpu_ns) / passes);
	gmm__bench_set_count(point, "passes", end.passes - begin.passes);
	gmm__bench_set_count(point, "saved_pages", engine->saved_pages());
	return point;
}

static json_t *measure(
	const struct bench_engine *engine, const struct bench_options *options, const void *arg)
{
	const struct steady_arg *steady = arg;
	struct bench_guests *guests = gmm__bench_guests_create(options);
	uint64_t mappings_before = gmm__bench_count_mappings();
	json_t *result = json_object(), *points = json_array();

	engine->start(options, guests);
	gmm__bench_engine_settle(engine, options);
	for (unsigned i = 0; i < WARM_UP_PASSES; i++)
		wait_for_pass(engine);
	json_object_set_new(result, "engine", json_string(engine->name));
	gmm__bench_set_count(result, "vms", guests->count);
	gmm__bench_set_count(result, "pages", gmm__bench_guests_pages(guests));
	gmm__bench_set_count(result, "mappings", gmm__bench_count_mappings() - mappings_before);
	for (unsigned i = 0; i < steady->percent_count; i++)
		json_array_append_new(points, measure_point(engine, options, guests, steady->percents[i]));
	json_object_update_missing(result, json_array_get(points, 0));
	engine->pause();
	engine->add_details(result);
	json_object_set_new(result, "verified", json_boolean(gmm__bench_guests_verify(guests)));
	engine->stop();
	json_object_set_new(result, "points", points);
	return result;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct steady_arg *steady = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &steady->options;
		return 0;
	case 'w':
		if (steady->percent_count == BENCH_LIST_MAX)
			argp_error(state, "more than %d points", BENCH_LIST_MAX);
		steady->percents[steady->percent_count++] = gmm__bench_option_number(state, arg, 0, 100);
		return 0;
	case 's':
		steady->options.seconds = gmm__bench_option_number(state, arg, 0.1, 3600);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

int bench_steady(int argc, char **argv)
{
	static const struct argp_option option_list[] = {
		{ "written", 'w', "PERCENT", 0,
			"Also measure with so many of all pages rewritten; may be repeated", 0 },
		{ "seconds", 's', "SECONDS", 0, "How long to measure each point. Default 5", 0 },
		{ 0 },
	};
	static const struct argp_child children[] = { { &gmm__bench_common_argp, 0, NULL, 0 }, { 0 } };
	static const struct argp argp = { .options = option_list,
		.parser = parse,
		.children = children,
		.doc = "Measures what a pass over settled memory costs." };
	struct steady_arg steady = { .options = gmm__bench_options_default(), .percent_count = 1 };
	json_t *result;

	steady.options.window_ms = 100;
	steady.options.pass_interval_ms = 100;
	gmm__bench_options_parse(&steady.options, &steady, &argp, "gmm ksm", argc, argv);
	result = gmm__bench_run_engines(&steady.options, measure, &steady, "cpu_seconds_per_pass");
	gmm__bench_add_ratio(result, "cpu_ratio", "cpu_seconds_per_pass", false);
	gmm__bench_print(result, &steady.options);
	return EXIT_SUCCESS;
}
