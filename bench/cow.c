/* cow: how long the first write to a shared page takes the guest that does it.
 *
 * The engine rests after it has settled. Pages of all VMs are tried in random order; each is read first, so
 * that it is mapped, then asked of the kernel whether it is shared, and if so one store to it is timed. */
#include "bench/verbs.h"

#include "bench/clock.h"
#include "bench/histogram.h"
#include "bench/util.h"
#include "cmd/host.h"

#include <stdlib.h>

struct cow_arg {
	struct bench_options options;
	uint64_t writes;
};

/* Times a store to the page if it is shared; whether it was. */
static bool time_write(
	const struct bench_engine *engine, struct bench_vm *vm, uint64_t page, struct bench_histogram *times)
{
	volatile uint64_t *tag = gmm__bench_vm_tag(vm, page);
	uint64_t start_ns, end_ns;

	(void)*tag;
	if (!engine->is_shared(gmm__bench_vm_page(vm, page)))
		return false;
	start_ns = gmm__host_now_ns();
	*tag = page + 1;
	end_ns = gmm__host_now_ns();
	vm->tags[page] = page + 1;
	gmm__bench_histogram_add(times, end_ns - start_ns);
	return true;
}

/* Gives up when hardly any page is shared. */
static void time_writes(const struct bench_engine *engine, const struct bench_guests *guests, uint64_t writes,
	struct bench_histogram *times)
{
	uint64_t state = 88172645463325252u;
	uint64_t tries = 4 * gmm__bench_guests_pages(guests);

	while (times->count < writes && tries-- > 0) {
		uint64_t pick = gmm__bench_random(&state) % gmm__bench_guests_pages(guests);

		time_write(engine, &guests->vms[pick / guests->vm_pages], pick % guests->vm_pages, times);
	}
	if (times->count == 0)
		gmm__bench_fail("%s shared no page that could be written", engine->name);
}

static json_t *measure(
	const struct bench_engine *engine, const struct bench_options *options, const void *arg)
{
	const struct cow_arg *cow = arg;
	struct bench_guests *guests = gmm__bench_guests_create(options);
	struct bench_histogram *times = gmm__bench_alloc(1, sizeof(*times));
	json_t *result = json_object();

	gmm__bench_guests_add_tags(guests);
	engine->start(options, guests);
	gmm__bench_engine_settle(engine, options);
	engine->pause();
	time_writes(engine, guests, cow->writes, times);
	json_object_set_new(result, "engine", json_string(engine->name));
	gmm__bench_set_count(result, "writes", times->count);
	gmm__bench_set_count(result, "p50_ns", gmm__bench_histogram_percentile(times, 0.5));
	gmm__bench_set_count(result, "p99_ns", gmm__bench_histogram_percentile(times, 0.99));
	gmm__bench_set_count(result, "p999_ns", gmm__bench_histogram_percentile(times, 0.999));
	gmm__bench_set_count(result, "max_ns", times->max_ns);
	json_object_set_new(result, "verified", json_boolean(gmm__bench_guests_verify(guests)));
	engine->stop();
	free(times);
	return result;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct cow_arg *cow = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &cow->options;
		return 0;
	case 'w':
		cow->writes = (uint64_t)gmm__bench_option_number(state, arg, 1, 1e8);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

int bench_cow(int argc, char **argv)
{
	static const struct argp_option option_list[] = {
		{ "writes", 'w', "N", 0, "How many writes to time. Default 20000", 0 },
		{ 0 },
	};
	static const struct argp_child children[] = { { &gmm__bench_common_argp, 0, NULL, 0 }, { 0 } };
	static const struct argp argp = { .options = option_list,
		.parser = parse,
		.children = children,
		.doc = "Times the first write to a shared page." };
	struct cow_arg cow = { .options = gmm__bench_options_default(), .writes = 20000 };
	json_t *result;

	cow.options.window_ms = 0;
	gmm__bench_options_parse(&cow.options, &cow, &argp, "gmm ksm", argc, argv);
	result = gmm__bench_run_engines(&cow.options, measure, &cow, "p50_ns");
	gmm__bench_add_ratio(result, "p50_ratio", "p50_ns", false);
	gmm__bench_add_ratio(result, "p99_ratio", "p99_ns", false);
	gmm__bench_print(result, &cow.options);
	return EXIT_SUCCESS;
}
