/* Collects reports; see told.h. */
#include "tests/guest/told.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gmm/sys/sys.h"

/* Also for programs that are no Check tests. */
#define told_check(condition, what)                                                 \
	do {                                                                        \
		if (!(condition)) {                                                 \
			fprintf(stderr, "%s: %s\n", #condition, what);              \
			abort();                                                    \
		}                                                                   \
	} while (0)

static void forget(struct told *told, struct told_module *module)
{
	told->count--;
	told->pages -= module->pages;
	free(module->gfns);
	*module = (struct told_module){ 0 };
}

static void on_start(void *arg, const struct gmm__report_hello *hello)
{
	struct told *told = arg;

	told_check(hello->page_bytes == 4096, "");
	for (int i = 0; i < GMM__REPORT_MODULES_MAX; i++)
		if (told->modules[i].used)
			forget(told, &told->modules[i]);
	told->starts++;
}

static void on_add(void *arg, const struct gmm__report_module *module)
{
	struct told *told = arg;
	struct told_module *ours = &told->modules[module->id];

	told_check(!ours->used, "");
	*ours = (struct told_module){
		.used = true, .kind = module->kind, .size_bytes = module->size_bytes, .regions = module->n_regions,
		.gfns = calloc(TOLD_PAGES_MAX, sizeof *ours->gfns),
	};
	told_check(ours->gfns, "none");
	strcpy(ours->name, module->name);
	strcpy(ours->version, module->version);
	for (uint32_t i = 0; i < module->n_regions; i++)
		for (uint32_t j = 0; j < module->regions[i].n_runs; j++) {
			const struct gmm__report_run *run = &module->regions[i].runs[j];
			ours->pages += run->count;
			for (uint32_t k = 0; i == 0 && k < run->count && run->page + k < TOLD_PAGES_MAX; k++)
				ours->gfns[run->page + k] = run->gfn + k;
		}
	told->count++;
	told->adds++;
	told->pages += ours->pages;
}

static void on_remove(void *arg, uint32_t id)
{
	struct told *told = arg;

	told_check(told->modules[id].used, "");
	forget(told, &told->modules[id]);
	told->removes++;
}

static void on_done(void *arg)
{
	((struct told *)arg)->dones++;
}

static void on_fault(void *arg, enum gmm__report_fault fault)
{
	((struct told *)arg)->fault = fault;
}

struct told *told_new(uint64_t gfn_end)
{
	struct told *told = calloc(1, sizeof *told);
	struct gmm__report_limits limits;

	told_check(told, "none");
	told->mem.sys = gmm__sys_linux();
	gmm__report_limits_init(&limits, gfn_end);
	limits.burst_credit = UINT64_MAX;
	const struct gmm__report_sink sink = { told, on_start, on_add, on_remove, on_done, on_fault };
	told->parser = gmm__report_create(&told->mem, &limits, &sink);
	told_check(told->parser, "none");
	return told;
}

void told_free(struct told *told)
{
	for (int i = 0; i < GMM__REPORT_MODULES_MAX; i++)
		free(told->modules[i].gfns);
	gmm__report_free(told->parser);
	free(told);
}

void told_feed(struct told *told, const void *bytes, size_t size)
{
	told_check(gmm__report_feed(told->parser, 0, bytes, size) == size, "");
	told_check(!told->fault, gmm__report_fault_name(told->fault));
}

void told_feed_file(struct told *told, const char *path)
{
	char buffer[4096];
	size_t got;
	FILE *file = fopen(path, "rb");

	told_check(file, "none");
	while ((got = fread(buffer, 1, sizeof buffer, file)) > 0)
		told_feed(told, buffer, got);
	fclose(file);
}

const struct told_module *told_find(const struct told *told, const char *name)
{
	for (int i = 0; i < GMM__REPORT_MODULES_MAX; i++)
		if (told->modules[i].used && strcmp(told->modules[i].name, name) == 0)
			return &told->modules[i];
	return NULL;
}
