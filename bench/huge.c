/* huge: guests whose RAM is transparent huge pages, with each policy of gmm. What does preserving them cost in savings, and
 * what does breaking them cost the guests?
 *
 * After the engine has settled a tenth of all pages is written and the engine goes on for many passes: huge pages
 * that were left whole must be whole still. random_read_ns is the time of a read from a random page by a single thread,
 * which is mostly that of the TLB and the cache. */
#include "bench/verbs.h"

#include "bench/clock.h"
#include "bench/util.h"
#include "cmd/host.h"

#include <stdlib.h>

enum { READS = 2000000, WRITTEN_PART = 10, PASSES_AFTER = 40, KILOBYTE = 1024 };

static uint64_t huge_bytes(void)
{
	return gmm__bench_read_field("/proc/self/smaps_rollup", "AnonHugePages:") * KILOBYTE;
}

static uint64_t used_bytes(void)
{
	struct gmm__host_memory memory;

	if (gmm__host_memory(&memory) != 0)
		gmm__bench_fail("cannot read /proc/meminfo");
	return gmm__host_memory_used(&memory);
}

static double random_read_ns(const struct bench_guests *guests)
{
	uint64_t state = 88172645463325252u, pages = gmm__bench_guests_pages(guests), sum = 0, start_ns;

	start_ns = gmm__host_now_ns();
	for (unsigned i = 0; i < READS; i++) {
		uint64_t page = (gmm__bench_random(&state) ^ (sum & 1)) % pages; /* one after the other */
		const struct bench_vm *vm = &guests->vms[page / guests->vm_pages];

		sum += *(volatile uint64_t *)gmm__bench_vm_page(vm, page % guests->vm_pages);
	}
	return (double)(gmm__host_now_ns() - start_ns) / READS;
}

/* The guests write to a tenth of their pages, always the same ones, and the engine makes passes. */
static void write_and_pass(const struct bench_engine *engine, const struct bench_options *options,
	struct bench_guests *guests)
{
	uint64_t end_ns = gmm__host_now_ns() + (uint64_t)(options->timeout_seconds * 1e9);
	uint64_t passes = engine->passes();

	gmm__bench_guests_add_tags(guests);
	for (unsigned i = 0; i < guests->count; i++) {
		struct bench_vm *vm = &guests->vms[i];

		for (uint64_t page = 0; page < guests->vm_pages; page++) {
			uint64_t mixed = gmm__bench_mix(page * guests->count + i);

			if (mixed % WRITTEN_PART != 0)
				continue;
			vm->tags[page] = mixed | 1;
			*gmm__bench_vm_tag(vm, page) = mixed | 1;
		}
	}
	while (engine->passes() < passes + PASSES_AFTER) {
		engine->wait_settled(10 * BENCH_NS_PER_MS);
		gmm__bench_sleep_ns(BENCH_NS_PER_MS);
		if (gmm__host_now_ns() > end_ns)
			gmm__bench_fail("the passes take longer than %.0f s", options->timeout_seconds);
	}
}

static const char *const policies[] = {
	[GMM_HUGE_PRESERVE] = "preserve", [GMM_HUGE_ALWAYS] = "always", [GMM_HUGE_NEVER] = "never"
};

static json_t *measure(
	const struct bench_engine *engine, const struct bench_options *options, const void *arg)
{
	struct bench_guests *guests = gmm__bench_guests_create(options);
	uint64_t huge_before_bytes = huge_bytes(), used_before_bytes = used_bytes();
	uint64_t start_cpu_ns = gmm__bench_engine_cpu_ns(engine), start_ns = gmm__host_now_ns();
	json_t *result = json_object();
	bool verified;

	(void)arg;
	json_object_set_new(result, "policy", json_string(policies[options->huge_pages]));
	engine->start(options, guests);
	gmm__bench_engine_settle(engine, options);
	gmm__bench_set_real(result, "wall_seconds", gmm__bench_seconds(gmm__host_now_ns() - start_ns));
	gmm__bench_set_real(
		result, "cpu_seconds", gmm__bench_seconds(gmm__bench_engine_cpu_ns(engine) - start_cpu_ns));
	engine->pause();
	gmm__bench_set_count(result, "pages", gmm__bench_guests_pages(guests));
	gmm__bench_set_count(result, "oracle_pages", gmm__bench_guests_oracle(guests));
	gmm__bench_set_count(result, "saved_pages", engine->saved_pages());
	engine->add_figures(result);
	json_object_set_new(result, "kernel_freed_bytes",
		json_integer((json_int_t)used_before_bytes - (json_int_t)used_bytes()));
	gmm__bench_set_count(result, "huge_before_bytes", huge_before_bytes);
	gmm__bench_set_count(result, "huge_bytes", huge_bytes());
	gmm__bench_set_real(result, "random_read_ns", random_read_ns(guests));
	engine->resume();
	write_and_pass(engine, options, guests);
	gmm__bench_set_count(result, "huge_after_writes_bytes", huge_bytes());
	verified = gmm__bench_guests_verify(guests);
	json_object_set_new(result, "verified", json_boolean(verified));
	engine->add_details(result);
	engine->stop();
	return result;
}

static double saved_of(const json_t *result, const char *policy)
{
	return json_number_value(json_object_get(json_object_get(result, policy), "saved_pages"));
}

int bench_huge(int argc, char **argv)
{
	static const struct argp_child children[] = { { &gmm__bench_common_argp, 0, NULL, 0 }, { 0 } };
	static const struct argp argp = { .children = children,
		.doc = "Measures what sharing does to guests of transparent huge pages, with each policy." };
	struct bench_options options = gmm__bench_options_default();
	json_t *result = json_object();

	options.window_ms = 0;
	options.pass_interval_ms = 50;
	options.huge_ram = true;
	gmm__bench_options_parse(&options, &options, &argp, "gmm", argc, argv);
	for (int policy = GMM_HUGE_PRESERVE; policy <= GMM_HUGE_NEVER; policy++) {
		options.huge_pages = (enum gmm_huge_pages)policy;
		json_object_set_new(result, policies[policy],
			gmm__bench_run_median(options.engines[0], &options, measure, NULL, "cpu_seconds"));
	}
	if (saved_of(result, "always") > 0)
		gmm__bench_set_real(
			result, "saved_part", saved_of(result, "preserve") / saved_of(result, "always"));
	gmm__bench_print(result, &options);
	return EXIT_SUCCESS;
}
