/* replay: the guests' real writes go on, from the memory of one moment to that of a later one and back, while
 * an engine works; the savings are recorded over time.
 *
 * The pages that differ between the two moments are rewritten in a fixed random order, spread evenly over
 * each period. Recording begins when the engine gets the RAM, so that it shows how fast the engine comes up,
 * too. */
#include "bench/verbs.h"

#include "bench/clock.h"
#include "bench/tally.h"
#include "bench/util.h"
#include "cmd/host.h"

#include <stdlib.h>
#include <string.h>

#define TICK_NS   (10 * BENCH_NS_PER_MS)
#define SAMPLE_NS (200 * BENCH_NS_PER_MS)

struct replay_arg {
	struct bench_options options;
	double period_seconds; /* of one way */
	double rate;           /* pages per second; 0: the period decides */
};

/* A page that differs, and its two words: the one to write next stands first. */
struct change {
	struct bench_vm *vm;
	uint64_t page;
	uint64_t words[2];
};

struct replay {
	struct change *changes;
	uint64_t change_count;
	uint64_t period_ns;
	uint64_t done; /* writes since the start */
	struct bench_tally tally;
};

static char *later_trace(const struct bench_options *options, unsigned index)
{
	const char *name = options->traces[index];
	const char *mark = strstr(name, "_t0");
	char *later;

	if (index < options->trace2_count)
		return strdup(options->traces2[index]);
	if (!mark)
		gmm__bench_refuse("%s has no _t0 in its name: name the later trace with --trace2", name);
	later = strdup(name);
	later[mark - name + 2] = '1';
	return later;
}

static void add_changes(
	struct replay *replay, struct bench_guests *guests, struct bench_vm *vm, const char *path)
{
	uint64_t *later = gmm__bench_guests_read_trace(guests, path);

	for (uint64_t page = 0; page < guests->vm_pages; page++)
		if (later[page] != vm->words[page])
			replay->changes[replay->change_count++] = (struct change){ vm, page,
				{ le64toh(later[page]), le64toh(vm->words[page]) } };
	free(later);
}

static void shuffle(struct replay *replay)
{
	uint64_t state = 88172645463325252u;

	for (uint64_t i = replay->change_count; i > 1; i--) {
		struct change *a = &replay->changes[i - 1],
			      *b = &replay->changes[gmm__bench_random(&state) % i];
		struct change swapped = *a;

		*a = *b;
		*b = swapped;
	}
}

static struct replay prepare(const struct replay_arg *arg, struct bench_guests *guests)
{
	const struct bench_options *options = &arg->options;
	struct replay replay = { .changes = gmm__bench_alloc(
					 gmm__bench_guests_pages(guests), sizeof(struct change)) };

	for (unsigned i = 0; i < guests->count; i++) {
		char *path = later_trace(options, i % options->trace_count);

		add_changes(&replay, guests, &guests->vms[i], path);
		free(path);
	}
	if (replay.change_count == 0)
		gmm__bench_refuse("nothing differs between the traces and the later traces");
	shuffle(&replay);
	replay.tally = gmm__bench_tally_create(guests, replay.change_count);
	replay.period_ns =
		(uint64_t)((arg->rate > 0 ? (double)replay.change_count / arg->rate : arg->period_seconds) *
			   BENCH_NS_PER_S);
	return replay;
}

/* Writes what is due at a time since the start. */
static void write_due(struct replay *replay, uint64_t time_ns)
{
	uint64_t due = (uint64_t)((double)time_ns / (double)replay->period_ns * (double)replay->change_count);

	for (; replay->done < due; replay->done++) {
		struct change *change = &replay->changes[replay->done % replay->change_count];
		uint64_t word = change->words[replay->done / replay->change_count % 2];

		gmm__bench_tally_rewrite(
			&replay->tally, gmm__bench_vm_word(change->vm, change->page), word);
		gmm__bench_vm_rewrite(change->vm, change->page, word);
	}
}

static json_t *make_sample(uint64_t time_ns, uint64_t saved_pages, uint64_t oracle_pages)
{
	json_t *sample = json_object();

	gmm__bench_set_real(sample, "seconds", gmm__bench_seconds(time_ns));
	gmm__bench_set_count(sample, "saved_pages", saved_pages);
	gmm__bench_set_count(sample, "oracle_pages", oracle_pages);
	return sample;
}

/* Writes and records until the time is over; returns the samples. Adds the means to the result. */
static json_t *play(
	struct replay *replay, const struct bench_engine *engine, double seconds, json_t *result)
{
	uint64_t start_ns = gmm__host_now_ns(), end_ns = (uint64_t)(seconds * BENCH_NS_PER_S);
	uint64_t time_ns, next_sample_ns = 0, saved_sum = 0, oracle_sum = 0;
	json_t *samples = json_array();

	while ((time_ns = gmm__host_now_ns() - start_ns) < end_ns) {
		write_due(replay, time_ns);
		if (time_ns >= next_sample_ns) {
			uint64_t saved_pages = engine->saved_pages();

			json_array_append_new(
				samples, make_sample(time_ns, saved_pages, replay->tally.oracle_pages));
			saved_sum += saved_pages;
			oracle_sum += replay->tally.oracle_pages;
			next_sample_ns += SAMPLE_NS;
		}
		gmm__bench_sleep_ns(TICK_NS);
	}
	gmm__bench_set_real(result, "saved_pages_mean", (double)saved_sum / (double)json_array_size(samples));
	gmm__bench_set_real(result, "saved_part_mean", (double)saved_sum / (double)oracle_sum);
	return samples;
}

/* Pages that are not shared though others are equal, by what gmm says of them. Nothing for KSM, which does not tell. */
static void add_missed(
	json_t *result, const struct replay *replay, const struct bench_engine *engine, const struct bench_guests *guests)
{
	uint64_t missed[GMM_PAGE_STATES] = { 0 };
	json_t *by_state = json_object();

	for (unsigned i = 0; engine->page_state && i < guests->count; i++) {
		for (uint64_t page = 0; page < guests->vm_pages; page++) {
			enum gmm_page_state state = engine->page_state(i, page);

			if (gmm__bench_tally_is_sharable(
				    &replay->tally, gmm__bench_vm_word(&guests->vms[i], page)))
				missed[state]++;
		}
	}
	missed[GMM_PAGE_ZERO] = missed[GMM_PAGE_FILL] = missed[GMM_PAGE_SHARED] = 0;
	for (int state = 0; state < GMM_PAGE_STATES; state++)
		if (missed[state] > 0)
			gmm__bench_set_count(by_state, gmm_page_state_name(state), missed[state]);
	json_object_set_new(result, "missed_pages", by_state);
}

static json_t *measure(
	const struct bench_engine *engine, const struct bench_options *options, const void *arg)
{
	const struct replay_arg *replay_arg = arg;
	struct bench_guests *guests = gmm__bench_guests_create(options);
	uint64_t oracle_pages = gmm__bench_guests_oracle(guests);
	struct replay replay = prepare(replay_arg, guests);
	uint64_t writer_cpu_ns = gmm__bench_thread_cpu_ns();
	uint64_t cpu_ns = gmm__host_cpu_ns();
	json_t *result = json_object(), *samples;

	json_object_set_new(result, "engine", json_string(engine->name));
	engine->start(options, guests);
	samples = play(&replay, engine, options->seconds, result);
	engine->pause();
	writer_cpu_ns = gmm__bench_thread_cpu_ns() - writer_cpu_ns;
	cpu_ns = gmm__bench_engine_cpu_ns(engine) - cpu_ns - writer_cpu_ns;
	gmm__bench_set_count(result, "vms", guests->count);
	gmm__bench_set_count(result, "pages", gmm__bench_guests_pages(guests));
	gmm__bench_set_count(result, "oracle_pages", oracle_pages);
	gmm__bench_set_count(result, "written_pages", replay.done);
	gmm__bench_set_real(result, "written_pages_per_second", (double)replay.done / options->seconds);
	gmm__bench_set_count(result, "saved_pages", engine->saved_pages());
	gmm__bench_set_real(result, "cpu_seconds", gmm__bench_seconds(cpu_ns));
	gmm__bench_set_real(result, "writer_cpu_seconds", gmm__bench_seconds(writer_cpu_ns));
	gmm__bench_set_count(result, "cow_breaks", engine->cow_breaks());
	engine->add_details(result);
	add_missed(result, &replay, engine, guests);
	json_object_set_new(result, "verified", json_boolean(gmm__bench_guests_verify(guests)));
	json_object_set_new(result, "samples", samples);
	engine->stop();
	gmm__bench_tally_free(&replay.tally);
	return result;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct replay_arg *replay = state->input;
	struct bench_options *options = &replay->options;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = options;
		return 0;
	case '2':
		if (options->trace2_count == BENCH_TRACES_MAX)
			argp_error(state, "more than %d later traces", BENCH_TRACES_MAX);
		options->traces2[options->trace2_count++] = arg;
		return 0;
	case 's':
		options->seconds = gmm__bench_option_number(state, arg, 1, 36000);
		return 0;
	case 'p':
		replay->period_seconds = gmm__bench_option_number(state, arg, 0.1, 36000);
		return 0;
	case 'R':
		replay->rate = gmm__bench_option_number(state, arg, 1, 1e9);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

int bench_replay(int argc, char **argv)
{
	static const struct argp_option option_list[] = {
		{ "trace2", '2', "FILE", 0,
			"A guest's later memory, in the order of --trace. Default: its name with _t1 for _t0",
			0 },
		{ "seconds", 's', "SECONDS", 0, "How long. Default 60", 0 },
		{ "period", 'p', "SECONDS", 0, "Time of the way from one moment to the other. Default 20",
			0 },
		{ "rate", 'R', "PAGES", 0, "Pages written in a second, instead of the period", 0 },
		{ 0 },
	};
	static const struct argp_child children[] = { { &gmm__bench_common_argp, 0, NULL, 0 }, { 0 } };
	static const struct argp argp = { .options = option_list,
		.parser = parse,
		.children = children,
		.doc = "Records the savings over time while the guests' real writes go on." };
	struct replay_arg replay = { .options = gmm__bench_options_default(), .period_seconds = 20 };
	json_t *result;

	replay.options.seconds = 60;
	gmm__bench_options_parse(&replay.options, &replay, &argp, "gmm ksm", argc, argv);
	result = gmm__bench_run_engines(&replay.options, measure, &replay, "cpu_seconds");
	gmm__bench_add_ratio(result, "cpu_ratio", "cpu_seconds", false);
	gmm__bench_add_ratio(result, "saved_ratio", "saved_pages_mean", true);
	gmm__bench_print(result, &replay.options);
	return EXIT_SUCCESS;
}
