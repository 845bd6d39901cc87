/* Modules in traces; see trace_modules.h. */
#include "cmd/trace_modules.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NOWHERE = UINT32_MAX };

/* Where a content is in a VM. */
struct place {
	uint64_t word;
	uint32_t page; /* NOWHERE: in several places */
};

static int compare_places(const void *a, const void *b)
{
	uint64_t x = ((const struct place *)a)->word, y = ((const struct place *)b)->word;

	return (x > y) - (x < y);
}

/* The places of a VM's contents, sorted; NULL without memory. */
static struct place *index_vm(const uint64_t *words, uint64_t pages, size_t *ret_count)
{
	struct place *place = malloc((pages ? pages : 1) * sizeof(*place));
	size_t n = 0, kept = 0;

	if (!place)
		return NULL;
	for (uint64_t i = 0; i < pages; i++)
		if (words[i] != 0)
			place[n++] = (struct place){ words[i], (uint32_t)i };
	qsort(place, n, sizeof(*place), compare_places);
	for (size_t i = 0; i < n; i++) {
		if (kept > 0 && place[kept - 1].word == place[i].word)
			place[kept - 1].page = NOWHERE;
		else
			place[kept++] = place[i];
	}
	*ret_count = kept;
	return place;
}

/* Where each page of the first VM is in this one. */
static uint32_t *locate(const uint64_t *first_words, uint64_t first_pages, const uint64_t *words, uint64_t pages)
{
	size_t count;
	struct place *places = index_vm(words, pages, &count);
	uint32_t *at = malloc((first_pages ? first_pages : 1) * sizeof(*at));

	for (uint64_t i = 0; places && at && i < first_pages; i++) {
		struct place wanted = { first_words[i], 0 };
		const struct place *found = bsearch(&wanted, places, count, sizeof(*places), compare_places);
		at[i] = found ? found->page : (uint32_t)NOWHERE;
	}
	if (!places) {
		free(at);
		at = NULL;
	}
	free(places);
	return at;
}

static bool is_everywhere(const struct gmm__trace_modules *modules, uint64_t page)
{
	for (size_t v = 0; v < modules->vms; v++)
		if (modules->at[v][page] == (uint32_t)NOWHERE)
			return false;
	return true;
}

/* Cuts the pages that all VMs have into rows, as many as a VM may register. */
static void cut_modules(struct gmm__trace_modules *modules)
{
	for (uint64_t page = 0; page < modules->vm_pages && modules->count < GMM_MODULE_VM_MAX;) {
		uint64_t n = 0;
		while (page + n < modules->vm_pages && is_everywhere(modules, page + n))
			n++;
		if (n >= TRACE_MODULE_PAGES_MIN) {
			modules->module[modules->count++] = (struct gmm__trace_module){ page, n };
			modules->pages += n;
		}
		page += n + 1;
	}
}

int gmm__trace_modules_find(const uint64_t *const *words, const uint64_t *pages, size_t vms,
			    struct gmm__trace_modules *ret_modules)
{
	struct gmm__trace_modules modules = { .vms = vms, .vm_pages = pages[0],
					      .module = calloc(GMM_MODULE_VM_MAX, sizeof(*modules.module)),
					      .at = calloc(vms, sizeof(*modules.at)) };
	bool ok = modules.module && modules.at;

	for (size_t v = 0; ok && v < vms; v++) {
		modules.at[v] = locate(words[0], pages[0], words[v], pages[v]);
		ok = modules.at[v] != NULL;
	}
	if (!ok) {
		gmm__trace_modules_free(&modules);
		return -1;
	}
	cut_modules(&modules);
	*ret_modules = modules;
	return 0;
}

void gmm__trace_modules_free(struct gmm__trace_modules *modules)
{
	for (size_t v = 0; modules->at && v < modules->vms; v++)
		free(modules->at[v]);
	free(modules->at);
	free(modules->module);
}

/* Pages of a module that lie in a row in a VM too. */
static uint64_t row_length(const struct gmm__trace_module *module, const uint32_t *at, uint64_t i)
{
	uint64_t n = 1;

	while (i + n < module->pages && at[module->first + i + n] == at[module->first + i] + n)
		n++;
	return n;
}

int gmm__trace_modules_register(const struct gmm__trace_modules *modules, size_t i, size_t vm_number,
				struct gmm_vm *vm, const char *prefix)
{
	const struct gmm__trace_module *m = &modules->module[i];
	const uint32_t *at = modules->at[vm_number];
	struct gmm_module_region region = { 0, m->pages * GMM_PAGE_SIZE };
	struct gmm_page_run *runs = malloc(m->pages * sizeof(*runs));
	struct gmm_module module;
	char name[GMM_MODULE_NAME_MAX + 1];
	uint64_t n;

	if (!runs)
		return GMM_ERR_NO_MEMORY;
	gmm_module_init(&module);
	for (uint64_t page = 0; page < m->pages; page += n) {
		n = row_length(m, at, page);
		runs[module.n_runs++] = (struct gmm_page_run){ (uint64_t)at[m->first + page] * GMM_PAGE_SIZE, n };
	}
	snprintf(name, sizeof(name), "%s@%" PRIu64, prefix, m->first);
	module.os = GMM_OS_LINUX;
	module.name = name;
	module.base = m->first * GMM_PAGE_SIZE;
	module.size = region.size;
	module.regions = &region;
	module.n_regions = 1;
	module.runs = runs;
	int status = gmm_module_register(vm, &module);
	free(runs);
	return status;
}

uint64_t gmm__trace_modules_in_state(const struct gmm__trace_modules *modules, size_t vm_number, struct gmm_vm *vm,
				     enum gmm_page_state state)
{
	uint64_t states[GMM_PAGE_STATES], pages = 0, n;
	const uint32_t *at = modules->at[vm_number];

	for (size_t i = 0; i < modules->count; i++) {
		const struct gmm__trace_module *m = &modules->module[i];
		for (uint64_t page = 0; page < m->pages; page += n) {
			n = row_length(m, at, page);
			if (gmm_vm_why(vm, (uint64_t)at[m->first + page] * GMM_PAGE_SIZE, n * GMM_PAGE_SIZE, states) == 0)
				pages += states[state];
		}
	}
	return pages;
}
