/* `gmm-dedup modules`: which modules VMs have in common, and what sharing them saves.
 *
 * It makes the VMs of `gmm-dedup demo`, registers the modules that a guest agent would report for them, has them checked,
 * which shares their pages without any scanning, and lists them.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "cmd/guests.h"
#include "cmd/trace_modules.h"

enum { LISTED = 20 };

struct modules {
	struct guests guests;
	bool is_json;
	bool is_all;
	struct gmm__trace_modules found;
	struct gmm_module_checked checked;
	struct gmm_module_info *infos;
	size_t count;
};

/* ---- arguments ----------------------------------------------------------------------------------------- */

enum { OPTION_JSON = 'j', OPTION_ALL = 'a' };

static error_t parse_option(int key, char *text, struct argp_state *state)
{
	struct modules *modules = state->input;
	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &modules->guests;
		return 0;
	case OPTION_JSON:
		modules->is_json = true;
		return 0;
	case OPTION_ALL:
		modules->is_all = true;
		return 0;
	case ARGP_KEY_ARG:
		argp_error(state, "unexpected argument '%s'", text);
		return EINVAL;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp_option options[] = {
	{ "all", OPTION_ALL, NULL, 0, "list all modules (default: those that save most)", 0 },
	{ "json", OPTION_JSON, NULL, 0, "print one JSON object, with all modules", 0 },
	{ 0 },
};

static const struct argp_child children[] = { { &gmm__guests_argp, 0, NULL, 0 }, { 0 } };

static const struct argp parser = {
	.options = options,
	.parser = parse_option,
	.children = children,
	.doc = "Makes VMs with the memory of real Linux guests, registers what they have in common as modules, and "
	       "lists the modules with what sharing them saves.\v"
	       "A module here is a row of 8 or more pages of the first VM that every other VM has too; it is named "
	       "after its first page. Exit status: 0, 1 if something failed, 2 for bad arguments or traces.",
};

/* ---- work ---------------------------------------------------------------------------------------------- */

static bool find(struct modules *modules)
{
	const struct guests *guests = &modules->guests;
	const uint64_t **words = calloc(guests->count, sizeof(*words));
	uint64_t *pages = calloc(guests->count, sizeof(*pages));
	int failed = words && pages ? 0 : -1;

	for (size_t i = 0; failed == 0 && i < guests->count; i++) {
		words[i] = guests->guest[i].trace->words;
		pages[i] = guests->guest[i].trace->pages;
	}
	if (failed == 0)
		failed = gmm__trace_modules_find(words, pages, guests->count, &modules->found);
	free(words);
	free(pages);
	if (failed != 0)
		gmm__guests_complain(guests, "modules", strerror(ENOMEM));
	return failed == 0;
}

static bool share(struct modules *modules)
{
	const struct guests *guests = &modules->guests;

	for (size_t v = 0; v < guests->count; v++) {
		for (size_t i = 0; i < modules->found.count; i++) {
			int status = gmm__trace_modules_register(
				&modules->found, i, v, guests->guest[v].vm, guests->guest[0].name);
			if (!gmm__guests_succeeded(guests, status, "registering a module"))
				return false;
		}
	}
	return gmm__guests_succeeded(
		guests, gmm_modules_check_all(guests->gmm, 0, &modules->checked), "checking modules");
}

static int compare_saved(const void *a, const void *b)
{
	uint64_t x = ((const struct gmm_module_info *)a)->saved_pages;
	uint64_t y = ((const struct gmm_module_info *)b)->saved_pages;

	return (x < y) - (x > y);
}

static bool list(struct modules *modules)
{
	const struct guests *guests = &modules->guests;
	size_t size;

	if (!gmm__guests_succeeded(guests, gmm_modules_list(guests->gmm, NULL, 0, &size), "listing modules"))
		return false;
	modules->infos = calloc(size + 1, sizeof(*modules->infos));
	if (!modules->infos) {
		gmm__guests_complain(guests, "modules", strerror(ENOMEM));
		return false;
	}
	if (!gmm__guests_succeeded(
		    guests, gmm_modules_list(guests->gmm, modules->infos, size, &modules->count), "listing modules"))
		return false;
	qsort(modules->infos, modules->count, sizeof(*modules->infos), compare_saved);
	return true;
}

/* ---- printing ------------------------------------------------------------------------------------------ */

static uint64_t saved_pages(const struct modules *modules)
{
	uint64_t pages = 0;

	for (size_t i = 0; i < modules->count; i++)
		pages += modules->infos[i].saved_pages;
	return pages;
}

static void print_table(const struct modules *modules)
{
	size_t shown = modules->is_all || modules->count < LISTED ? modules->count : LISTED;

	printf("%-24s %6s %8s %8s %9s %9s\n", "module", "users", "pages", "shared", "variants", "saved MiB");
	for (size_t i = 0; i < shown; i++) {
		const struct gmm_module_info *m = &modules->infos[i];
		printf("%-24s %6" PRIu32 " %8" PRIu64 " %8" PRIu64 " %9" PRIu64 " %9.1f\n", m->name, m->users, m->pages,
			m->shared_pages, m->variants, gmm__guests_mib((int64_t)m->saved_pages));
	}
	if (shown < modules->count)
		printf("... and %zu more\n", modules->count - shown);
	printf("\n%zu modules save %.1f MiB; %" PRIu64 " pages were joined, %" PRIu64 " put into the pool\n",
		modules->count, gmm__guests_mib((int64_t)saved_pages(modules)),
		modules->checked.joined + modules->checked.twins, modules->checked.promoted);
}

static json_t *describe(const struct gmm_module_info *m)
{
	return json_pack("{s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I}", "name", m->name, "version", m->version,
		"domain", m->domain, "os", gmm_os_family_name(m->os), "users", (json_int_t)m->users, "pages",
		(json_int_t)m->pages, "shared_pages", (json_int_t)m->shared_pages, "variants", (json_int_t)m->variants,
		"references", (json_int_t)m->references, "saved_pages", (json_int_t)m->saved_pages);
}

static int print_json(const struct modules *modules)
{
	json_t *array = json_array();
	int failed = 0;

	for (size_t i = 0; i < modules->count; i++)
		failed |= json_array_append_new(array, describe(&modules->infos[i]));
	json_t *object = json_pack("{s:o, s:I, s:I, s:I}", "modules", array, "saved_pages",
		(json_int_t)saved_pages(modules), "joined_pages",
		(json_int_t)(modules->checked.joined + modules->checked.twins), "promoted_pages",
		(json_int_t)modules->checked.promoted);
	if (failed == 0)
		failed = json_dumpf(object, stdout, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
	putchar('\n');
	json_decref(object);
	return failed;
}

static enum cmd_exit run(struct modules *modules)
{
	struct guests *guests = &modules->guests;
	enum cmd_exit result = gmm__guests_plan(guests);

	if (result != CMD_OK)
		return result;
	if (!find(modules) || !gmm__guests_create(guests) || !share(modules) || !list(modules))
		return CMD_FAILED;
	gmm__guests_progress_end();
	if (!modules->is_json) {
		print_table(modules);
	} else if (print_json(modules) != 0) {
		gmm__guests_complain(guests, "JSON", strerror(ENOMEM));
		return CMD_FAILED;
	}
	return CMD_OK;
}

int cmd_modules(int argc, char **argv)
{
	struct modules modules = { 0 };

	if (!gmm__guests_init(&modules.guests, "modules", argc))
		return CMD_FAILED;
	argp_parse(&parser, argc, argv, 0, NULL, &modules);
	enum cmd_exit result = run(&modules);
	gmm__trace_modules_free(&modules.found);
	free(modules.infos);
	if (!gmm__guests_free(&modules.guests) && result == CMD_OK)
		result = CMD_FAILED;
	return result;
}
