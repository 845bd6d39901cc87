/* converge: how much CPU and wall time an engine needs to share all that can be shared, and what it costs.
 *
 * cpu_seconds of gmm is all CPU time of the process from the moment the RAM is handed over until the engine
 * says it has settled, the sampling here included. KSM has no such moment: for it, ksmd's and the process's
 * time until the first sample with the final figure. The fields ending in _995 are taken for both at the
 * first sample that reached 99.5 % of what that engine reached in the end. */
#include "bench/verbs.h"

#include "bench/clock.h"
#include "bench/util.h"
#include "cmd/host.h"

#include <stdlib.h>

#define SAMPLE_NS (10 * BENCH_NS_PER_MS)

struct sample {
	uint64_t wall_ns;
	uint64_t cpu_ns;
	uint64_t saved_pages;
};

struct track {
	struct sample *samples;
	size_t count;
	size_t capacity;
};

uint64_t gmm__bench_count_mappings(void)
{
	uint64_t count;

	if (gmm__host_mappings(&count) != 0)
		gmm__bench_fail("cannot read /proc/self/maps");
	return count;
}

static uint64_t used_bytes(void)
{
	struct gmm__host_memory memory;

	if (gmm__host_memory(&memory) != 0)
		gmm__bench_fail("cannot read /proc/meminfo");
	return gmm__host_memory_used(&memory);
}

static void take_sample(struct track *track, const struct bench_engine *engine)
{
	struct sample *sample =
		&track->samples[track->count < track->capacity ? track->count++ : track->count - 1];

	sample->wall_ns = gmm__host_now_ns();
	sample->cpu_ns = gmm__bench_engine_cpu_ns(engine);
	sample->saved_pages = engine->saved_pages();
}

/* Hands the RAM over and samples until the engine has settled. The first sample is the start. */
static struct track watch(const struct bench_engine *engine, const struct bench_options *options,
	const struct bench_guests *guests)
{
	struct track track = { .capacity = (size_t)(options->timeout_seconds * 1e9 / SAMPLE_NS) + 2 };
	bool settled = false;

	track.samples = gmm__bench_alloc(track.capacity, sizeof(*track.samples));
	track.samples[0].cpu_ns = gmm__host_cpu_ns();
	track.samples[0].wall_ns = gmm__host_now_ns();
	track.count = 1;
	engine->start(options, guests);
	while (!settled) {
		if (track.count == track.capacity)
			gmm__bench_fail(
				"%s did not settle within %.0f s", engine->name, options->timeout_seconds);
		settled = engine->wait_settled(SAMPLE_NS);
		take_sample(&track, engine);
	}
	return track;
}

/* The first sample that reached a part of the last. */
static const struct sample *first_reaching(const struct track *track, double part)
{
	double wanted = part * (double)track->samples[track->count - 1].saved_pages;
	size_t i = 0;

	while ((double)track->samples[i].saved_pages < wanted)
		i++;
	return &track->samples[i];
}

static void add_costs(json_t *result, const struct bench_engine *engine, const struct track *track)
{
	const struct sample *start = &track->samples[0];
	const struct sample *last = &track->samples[track->count - 1];
	const struct sample *end = engine->tells_settled ? last : first_reaching(track, 1);
	const struct sample *most = first_reaching(track, 0.995);

	gmm__bench_set_count(result, "saved_pages", last->saved_pages);
	gmm__bench_set_real(result, "cpu_seconds", gmm__bench_seconds(end->cpu_ns - start->cpu_ns));
	gmm__bench_set_real(result, "wall_seconds", gmm__bench_seconds(end->wall_ns - start->wall_ns));
	gmm__bench_set_real(result, "cpu_seconds_995", gmm__bench_seconds(most->cpu_ns - start->cpu_ns));
	gmm__bench_set_real(result, "wall_seconds_995", gmm__bench_seconds(most->wall_ns - start->wall_ns));
	if (last->saved_pages > 0)
		gmm__bench_set_real(result, "us_per_saved_page",
			(double)(end->cpu_ns - start->cpu_ns) / 1e3 / (double)last->saved_pages);
}

json_t *gmm__bench_converge_measure(
	const struct bench_engine *engine, const struct bench_options *options, const void *arg)
{
	struct bench_guests *guests = gmm__bench_guests_create(options);
	uint64_t oracle_pages = gmm__bench_guests_oracle(guests);
	uint64_t used_before_bytes = used_bytes();
	uint64_t mappings_before = gmm__bench_count_mappings();
	json_t *result = json_object();
	struct track track;

	(void)arg;
	track = watch(engine, options, guests);
	engine->pause();
	json_object_set_new(result, "engine", json_string(engine->name));
	gmm__bench_set_count(result, "vms", guests->count);
	gmm__bench_set_count(result, "pages", gmm__bench_guests_pages(guests));
	gmm__bench_set_count(result, "oracle_pages", oracle_pages);
	add_costs(result, engine, &track);
	engine->add_figures(result);
	engine->add_details(result);
	gmm__bench_set_count(result, "mappings", gmm__bench_count_mappings() - mappings_before);
	json_object_set_new(result, "kernel_freed_bytes",
		json_integer((json_int_t)used_before_bytes - (json_int_t)used_bytes()));
	json_object_set_new(result, "verified", json_boolean(gmm__bench_guests_verify(guests)));
	gmm__bench_set_count(result, "cow_breaks", engine->cow_breaks());
	engine->stop();
	free(track.samples);
	return result;
}

int bench_converge(int argc, char **argv)
{
	static const struct argp_child children[] = { { &gmm__bench_common_argp, 0, NULL, 0 }, { 0 } };
	static const struct argp argp = { .children = children,
		.doc = "Measures what it costs to share everything that can be shared, on memory at rest." };
	struct bench_options options = gmm__bench_options_default();
	json_t *result;

	options.window_ms = 0;
	options.pass_interval_ms = 50;
	gmm__bench_options_parse(&options, &options, &argp, "gmm ksm", argc, argv);
	result = gmm__bench_run_engines(&options, gmm__bench_converge_measure, NULL, "cpu_seconds");
	gmm__bench_add_ratio(result, "cpu_ratio", "cpu_seconds", false);
	gmm__bench_add_ratio(result, "cpu_ratio_995", "cpu_seconds_995", false);
	gmm__bench_add_ratio(result, "wall_ratio", "wall_seconds", false);
	gmm__bench_add_ratio(result, "wall_ratio_995", "wall_seconds_995", false);
	gmm__bench_add_ratio(result, "saved_ratio", "saved_pages", true);
	gmm__bench_print(result, &options);
	return EXIT_SUCCESS;
}
