/* modules: what hints of guest modules save, and how fast the registry is.
 *
 * Hints: the same VMs twice, each time in a process of its own. Once the modules they have in common are registered and
 * checked, without scanning; once the scanner finds them, as it does without hints, at full speed. Compared is the CPU
 * time until the modules' pages are shared in all VMs.
 *
 * Registry: VMs of small modules in several threads, up to the limit of 16384; then lookups, alone and while other
 * threads register and unregister.
 */
#include "bench/verbs.h"

#include "bench/clock.h"
#include "bench/util.h"
#include "cmd/host.h"
#include "cmd/trace_modules.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

enum { REGISTRY_VMS = 64, REGISTRY_THREADS = 4, LOOKUP_NS = 300 * BENCH_NS_PER_MS };

#define ENOUGH_OF(pages) ((pages) - (pages) / 200) /* 99.5 % */

static void check(int status, const char *what)
{
	if (status < 0)
		gmm__bench_fail("%s: %s: %s", what, gmm_status_name(status), gmm_status_text(status));
}

/* ---- hints ---------------------------------------------------------------------------------------------- */

struct world {
	struct bench_guests *guests;
	struct gmm__trace_modules modules;
	struct gmm *gmm;
	struct gmm_vm **vms;
};

static void open_world(struct world *world, const struct bench_options *options)
{
	struct gmm_options gmm_options;

	world->guests = gmm__bench_guests_create(options);
	unsigned count = world->guests->count;
	const uint64_t **words = gmm__bench_alloc(count, sizeof(*words));
	uint64_t *pages = gmm__bench_alloc(count, sizeof(*pages));
	world->vms = gmm__bench_alloc(count, sizeof(*world->vms));
	for (unsigned i = 0; i < count; i++) {
		words[i] = world->guests->vms[i].words;
		pages[i] = world->guests->vm_pages;
	}
	if (gmm__trace_modules_find(words, pages, count, &world->modules) != 0)
		gmm__bench_fail("no memory");
	if (world->modules.count == 0)
		gmm__bench_refuse("these traces have no module in common");
	free(words);
	free(pages);
	gmm_options_init(&gmm_options);
	gmm_options.window_ms = 0;
	gmm_options.pass_interval_ms = options->pass_interval_ms;
	gmm_options.cpu_percent = 0;
	check(gmm_instance_open(&gmm_options, &world->gmm), "opening an instance");
	for (unsigned i = 0; i < count; i++) {
		check(gmm_vm_create(world->gmm, NULL, &world->vms[i]), "creating a VM");
		check(gmm_vm_adopt_ram(world->vms[i], 0, world->guests->vms[i].ram,
			      world->guests->vm_pages * GMM_PAGE_SIZE), "adopting RAM");
	}
}

/* Pages of the modules that are shared, all VMs. */
static uint64_t shared_pages(const struct world *world)
{
	uint64_t pages = 0;

	for (unsigned i = 0; i < world->guests->count; i++)
		pages += gmm__trace_modules_in_state(&world->modules, i, world->vms[i], GMM_PAGE_SHARED);
	return pages;
}

static uint64_t share_with_hints(struct world *world)
{
	uint64_t start_ns = gmm__bench_thread_cpu_ns();

	for (unsigned v = 0; v < world->guests->count; v++)
		for (size_t i = 0; i < world->modules.count; i++)
			check(gmm__trace_modules_register(&world->modules, i, v, world->vms[v], "trace"), "registering");
	check(gmm_modules_check_all(world->gmm, 0, NULL), "checking");
	return gmm__bench_thread_cpu_ns() - start_ns;
}

/* CPU time of the engine's threads when the modules' pages are shared; the polling thread's is not counted. */
static uint64_t share_by_scanning(struct world *world, const struct bench_options *options)
{
	uint64_t wanted = ENOUGH_OF(world->modules.pages * world->guests->count);
	uint64_t end_ns = gmm__host_now_ns() + (uint64_t)(options->timeout_seconds * BENCH_NS_PER_S);
	struct gmm_stats stats;

	check(gmm_engine_start(world->gmm), "starting the engine");
	do {
		gmm__bench_sleep_ns(5 * BENCH_NS_PER_MS);
		check(gmm_instance_stats(world->gmm, &stats), "reading statistics");
	} while (shared_pages(world) < wanted && !stats.settled && gmm__host_now_ns() < end_ns);
	check(gmm_engine_stop(world->gmm), "stopping the engine");
	return stats.cpu_ns;
}

static json_t *measure_hints(const struct bench_engine *engine, const struct bench_options *options, const void *arg)
{
	bool hints = *(const bool *)arg;
	struct world world;
	json_t *result = json_object();
	struct gmm_stats stats;

	(void)engine;
	open_world(&world, options);
	uint64_t cpu_ns = hints ? share_with_hints(&world) : share_by_scanning(&world, options);
	uint64_t shared = shared_pages(&world);
	check(gmm_instance_stats(world.gmm, &stats), "reading statistics");
	gmm__bench_set_count(result, "modules", world.modules.count);
	gmm__bench_set_count(result, "module_pages", world.modules.pages * world.guests->count);
	gmm__bench_set_count(result, "shared_pages", shared);
	gmm__bench_set_count(result, "runs", stats.total.runs);
	gmm__bench_set_count(result, "digested_pages", stats.digested_pages);
	gmm__bench_set_real(result, "cpu_seconds", gmm__bench_seconds(cpu_ns));
	gmm__bench_set_real(result, "pages_per_cpu_second", (double)shared / gmm__bench_seconds(cpu_ns));
	json_object_set_new(result, "verified", json_boolean(gmm__bench_guests_verify(world.guests)));
	check(gmm_instance_validate(world.gmm), "validating");
	return result;
}

/* ---- the registry --------------------------------------------------------------------------------------- */

static struct gmm *gmm;
static struct gmm_vm *registry_vm[REGISTRY_VMS];
static _Atomic bool lookups_end;

static int register_small(unsigned vm, uint64_t i)
{
	struct gmm_module_region region = { i * GMM_PAGE_SIZE, GMM_PAGE_SIZE };
	struct gmm_page_run run = { 0, 1 };
	struct gmm_module module;
	char name[32];

	gmm_module_init(&module);
	snprintf(name, sizeof(name), "module-%u-%u", vm, (unsigned)i);
	module.name = name;
	module.base = i;
	module.size = GMM_PAGE_SIZE;
	module.regions = &region;
	module.n_regions = 1;
	module.runs = &run;
	module.n_runs = 1;
	return gmm_module_register(registry_vm[vm], &module);
}

enum { VM_MODULES = GMM_MODULE_MAX / REGISTRY_VMS };

struct share_of_vms {
	unsigned first;
	uint64_t operations;
};

static void *register_all(void *arg)
{
	struct share_of_vms *share = arg;

	for (unsigned vm = share->first; vm < REGISTRY_VMS; vm += REGISTRY_THREADS)
		for (uint64_t i = 0; i < VM_MODULES; i++)
			check(register_small(vm, i), "registering");
	return NULL;
}

/* Each module in turn goes and comes again. */
static void *register_again(void *arg)
{
	struct share_of_vms *share = arg;

	for (uint64_t i = 0; !lookups_end; i = (i + 1) % VM_MODULES) {
		for (unsigned vm = share->first; vm < REGISTRY_VMS; vm += REGISTRY_THREADS) {
			check(gmm_module_unregister(registry_vm[vm], i), "unregistering");
			check(register_small(vm, i), "registering again");
			share->operations += 2;
		}
	}
	return NULL;
}

static double measure_lookups(uint64_t *ret_longest_ns)
{
	struct gmm_module_info info;
	uint64_t start_ns = gmm__host_now_ns(), now_ns = start_ns, n = 0, state = 1, longest_ns = 0;

	while (now_ns - start_ns < LOOKUP_NS) {
		uint64_t choice = gmm__bench_random(&state), before_ns = now_ns;
		gmm_module_find(registry_vm[choice % REGISTRY_VMS], choice / REGISTRY_VMS % VM_MODULES, &info);
		now_ns = gmm__host_now_ns();
		if (now_ns - before_ns > longest_ns)
			longest_ns = now_ns - before_ns;
		n++;
	}
	*ret_longest_ns = longest_ns;
	return (double)n / gmm__bench_seconds(now_ns - start_ns);
}

static json_t *measure_registry(const struct bench_engine *engine, const struct bench_options *options, const void *arg)
{
	struct share_of_vms share[REGISTRY_THREADS];
	pthread_t thread[REGISTRY_THREADS];
	json_t *result = json_object();
	uint64_t longest_ns, operations = 0;

	(void)engine, (void)options, (void)arg;
	check(gmm_instance_open(NULL, &gmm), "opening an instance");
	for (unsigned i = 0; i < REGISTRY_VMS; i++)
		check(gmm_vm_create(gmm, NULL, &registry_vm[i]), "creating a VM");
	uint64_t start_ns = gmm__host_now_ns();
	for (unsigned i = 0; i < REGISTRY_THREADS; i++) {
		share[i] = (struct share_of_vms){ .first = i };
		pthread_create(&thread[i], NULL, register_all, &share[i]);
	}
	for (unsigned i = 0; i < REGISTRY_THREADS; i++)
		pthread_join(thread[i], NULL);
	gmm__bench_set_real(result, "registrations_per_second",
		GMM_MODULE_MAX / gmm__bench_seconds(gmm__host_now_ns() - start_ns));
	gmm__bench_set_real(result, "lookups_per_second", measure_lookups(&longest_ns));
	start_ns = gmm__host_now_ns();
	for (unsigned i = 0; i < REGISTRY_THREADS; i++)
		pthread_create(&thread[i], NULL, register_again, &share[i]);
	gmm__bench_set_real(result, "lookups_per_second_under_load", measure_lookups(&longest_ns));
	gmm__bench_set_real(result, "longest_lookup_us_under_load", (double)longest_ns / 1000);
	lookups_end = true;
	for (unsigned i = 0; i < REGISTRY_THREADS; i++) {
		pthread_join(thread[i], NULL);
		operations += share[i].operations;
	}
	gmm__bench_set_real(result, "changes_per_second_under_lookups",
		(double)operations / gmm__bench_seconds(gmm__host_now_ns() - start_ns));
	return result;
}

int bench_modules(int argc, char **argv)
{
	static const struct argp_child children[] = { { &gmm__bench_common_argp, 0, NULL, 0 }, { 0 } };
	static const struct argp argp = { .children = children,
		.doc = "Measures what registered modules save of the scanner's work, and the registry itself." };
	static const bool with = true, without = false;
	struct bench_options options = gmm__bench_options_default();
	json_t *result = json_object();

	options.window_ms = 0;
	options.pass_interval_ms = 50;
	gmm__bench_options_parse(&options, &options, &argp, "gmm", argc, argv);
	const struct bench_engine *engine = options.engines[0];
	json_t *hints = gmm__bench_run_median(engine, &options, measure_hints, &with, "cpu_seconds");
	json_t *scanner = gmm__bench_run_median(engine, &options, measure_hints, &without, "cpu_seconds");
	gmm__bench_set_real(result, "cpu_ratio", json_number_value(json_object_get(scanner, "cpu_seconds")) /
		json_number_value(json_object_get(hints, "cpu_seconds")));
	json_object_set_new(result, "hints", hints);
	json_object_set_new(result, "scanner", scanner);
	json_t *registry = gmm__bench_run(engine, &options, measure_registry, NULL);
	json_object_update(result, registry);
	json_decref(registry);
	gmm__bench_print(result, &options);
	return EXIT_SUCCESS;
}
