/* footprint: what the tables of paged VMs cost, and whether a VM costs more when there are many.
 *
 * A GiB of guest, every page allocated; then many VMs that reserve a TiB between them and touch one page each: the time to
 * create, query and destroy them, for a quarter of them and for all. */
#include "bench/verbs.h"

#include "bench/options.h"
#include "bench/util.h"
#include "cmd/host.h"

#include <gmm/pages.h>

#include <stdlib.h>

enum { GIB_PAGES = 1 << 18, BATCH = 4096, VMS = 4096 };

static void check(int status)
{
	if (status != GMM_OK)
		gmm__bench_fail("%s", gmm_status_name(status));
}

static struct gmm_vm *new_vm(struct gmm *gmm, uint64_t pages)
{
	const struct gmm_reservation r = { .pages = { pages, 1, 1 }, .overcommit = GMM_OVERCOMMIT_BEST_EFFORT };
	struct gmm_vm_options options;
	struct gmm_vm *vm;

	gmm_vm_options_init(&options);
	options.kind = GMM_VM_PAGED;
	check(gmm_vm_create(gmm, &options, &vm));
	check(gmm_vm_reserve(vm, &r));
	return vm;
}

static uint64_t metadata_bytes(struct gmm *gmm)
{
	struct gmm_stats stats;

	check(gmm_instance_stats(gmm, &stats));
	return stats.metadata_bytes;
}

static void measure_gib(json_t *result)
{
	struct gmm *gmm;
	gmm_page_id *ids = gmm__bench_alloc(BATCH, sizeof(*ids));

	check(gmm_instance_open(NULL, &gmm));
	uint64_t before = metadata_bytes(gmm);
	struct gmm_vm *vm = new_vm(gmm, GIB_PAGES);
	for (int done = 0; done < GIB_PAGES; done += BATCH)
		check(gmm_vm_allocate_pages(vm, GMM_ACCOUNT_BASE, BATCH, NULL, ids));
	uint64_t bytes = metadata_bytes(gmm) - before;
	gmm__bench_set_count(result, "gib_metadata_bytes", bytes);
	gmm__bench_set_real(result, "bytes_per_page", (double)bytes / GIB_PAGES);
	check(gmm_vm_destroy(vm, GMM_RAM_DISCARD));
	check(gmm_instance_close(gmm));
	free(ids);
}

static json_t *measure_vms(unsigned count)
{
	struct gmm_instance_memory_stats stats;
	struct gmm_vm **vms = gmm__bench_alloc(count, sizeof(*vms));
	json_t *point = json_object();
	struct gmm *gmm;
	gmm_page_id id;
	void *at;

	check(gmm_instance_open(NULL, &gmm));
	uint64_t start = gmm__host_now_ns();
	for (unsigned i = 0; i < count; i++) {
		vms[i] = new_vm(gmm, GIB_PAGES / 4);
		check(gmm_vm_allocate_pages(vms[i], GMM_ACCOUNT_BASE, 1, NULL, &id));
		check(gmm_vm_map_chunk(vms[i], gmm_page_chunk(id), 0, &at));
		*(volatile char *)at = 1;
	}
	uint64_t created = gmm__host_now_ns();
	check(gmm_instance_memory_stats(gmm, &stats));
	uint64_t queried = gmm__host_now_ns();
	for (unsigned i = 0; i < count; i++)
		check(gmm_vm_destroy(vms[i], GMM_RAM_DISCARD));
	uint64_t destroyed = gmm__host_now_ns();
	check(gmm_instance_close(gmm));
	free(vms);
	gmm__bench_set_count(point, "vms", count);
	gmm__bench_set_count(point, "reserved_pages", stats.memory.reserved_pages[GMM_ACCOUNT_BASE]);
	gmm__bench_set_real(point, "create_us_per_vm", (double)(created - start) / 1000 / count);
	gmm__bench_set_real(point, "query_all_us", (double)(queried - created) / 1000);
	gmm__bench_set_real(point, "destroy_us_per_vm", (double)(destroyed - queried) / 1000 / count);
	return point;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	(void)arg;
	if (key != 'j')
		return ARGP_ERR_UNKNOWN;
	*(bool *)state->input = true;
	return 0;
}

int bench_footprint(int argc, char **argv)
{
	static const struct argp_option option_list[] = {
		{ "json", 'j', NULL, 0, "Print one JSON object", 0 },
		{ 0 },
	};
	static const struct argp argp = { .options = option_list, .parser = parse,
		.doc = "Measures the tables of paged VMs, and whether a VM costs more among many." };
	json_t *result = json_object(), *points = json_array();
	bool json = false;

	argp_parse(&argp, argc, argv, 0, NULL, &json);
	measure_gib(result);
	json_array_append_new(points, measure_vms(VMS / 4));
	json_array_append_new(points, measure_vms(VMS));
	json_object_set_new(result, "points", points);
	gmm__bench_print(result, &(struct bench_options){ .json = json });
	return EXIT_SUCCESS;
}
