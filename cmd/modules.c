/* `gmm-dedup modules`: which modules the guests of running processes have in common, and what sharing them saves, as the
 * sharing service knows it.
 *
 * With --demo it makes the VMs of `gmm-dedup demo` instead, registers the modules that a guest agent would report for
 * them, has them checked, which shares their pages without any scanning, and lists them.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <jansson.h>

#include "cmd/admin.h"
#include "cmd/guests.h"
#include "cmd/trace_modules.h"

/* A process answers when it next asks the service for news: that takes up to 8 s with the default intervals. */
enum { LISTED = 20, WAIT_S = 20, WAIT_S_MAX = 86400, STEP_MS = 200 };

struct modules {
	struct guests guests;
	bool is_demo;
	bool has_guests; /* an option about the VMs to be made */
	bool is_json;
	bool is_all;
	const char *socket; /* NULL: the default */
	uint64_t wait_s;
	struct gmm_module_info *infos;
	size_t count;

	/* of the demo */
	struct gmm__trace_modules found;
	struct gmm_module_checked checked;

	/* of the service */
	uint64_t processes;
	uint64_t answered;
	uint64_t left_out; /* records */
};

/* ---- arguments ----------------------------------------------------------------------------------------- */

enum { OPTION_JSON = 'j', OPTION_ALL = 'a', OPTION_SOCKET = 's', OPTION_DEMO = 'd', OPTION_WAIT = 'w' };

/* As gmm__guests_argp, but it is noticed when there was an option. */
static error_t parse_guests_option(int key, char *text, struct argp_state *state)
{
	struct modules *modules = state->input;
	state->input = &modules->guests;
	error_t rc = gmm__guests_argp.parser(key, text, state);
	state->input = modules;
	modules->has_guests |= rc == 0 && text;
	return rc;
}

static error_t parse_option(int key, char *text, struct argp_state *state)
{
	struct modules *modules = state->input;
	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = modules;
		return 0;
	case OPTION_JSON:
		modules->is_json = true;
		return 0;
	case OPTION_ALL:
		modules->is_all = true;
		return 0;
	case OPTION_SOCKET:
		modules->socket = text;
		return 0;
	case OPTION_WAIT:
		modules->wait_s = gmm__cmd_number(state, "--wait", text, 0, WAIT_S_MAX);
		return 0;
	case OPTION_DEMO:
		modules->is_demo = true;
		return 0;
	case ARGP_KEY_ARG:
		argp_error(state, "unexpected argument '%s'", text);
		return EINVAL;
	case ARGP_KEY_END:
		if (modules->is_demo && modules->socket)
			argp_error(state, "--socket: --demo does not ask the service");
		if (!modules->is_demo && modules->has_guests)
			argp_error(state, "options about VMs to be made go with --demo");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp_option options[] = {
	{ "all", OPTION_ALL, NULL, 0, "list all modules (default: those that save most)", 0 },
	{ "json", OPTION_JSON, NULL, 0, "print one JSON object, with all modules", 0 },
	{ "socket", OPTION_SOCKET, "PATH", 0, "of the service; default " CMD_SOCKET, 0 },
	{ "wait", OPTION_WAIT, "SECONDS", 0, "for processes that do not answer; default 20", 0 },
	{ "demo", OPTION_DEMO, NULL, 0,
	  "do not ask the service: make VMs with the memory of real Linux guests, register what they have in common as "
	  "modules, and list those", 0 },
	{ 0 },
};

static const char doc[] =
	"Lists the modules (kernels, libraries, programs) that guests of your processes (of all, for root) have "
	"registered, with what sharing them saves. The sharing service asks the processes, which takes a few seconds.\v"
	"A module of --demo is a row of 8 or more pages of the first VM that every other VM has too; it is named "
	"after its first page. Exit status: 0, 1 if something failed, 2 for bad arguments or traces.";

/* ---- asking the service -------------------------------------------------------------------------------- */

static uint64_t number(const json_t *object, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(object, key));
}

static void copy_text(char *to, size_t size, const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));
	snprintf(to, size, "%s", text ? text : "");
}

static void take_module(const json_t *object, struct gmm_module_info *info)
{
	const char *os = json_string_value(json_object_get(object, "os"));

	copy_text(info->name, sizeof(info->name), object, "name");
	copy_text(info->version, sizeof(info->version), object, "version");
	copy_text(info->domain, sizeof(info->domain), object, "domain");
	for (int i = 0; os && i < GMM_OS_FAMILIES; i++)
		if (strcmp(os, gmm_os_family_name(i)) == 0)
			info->os = i;
	info->size = number(object, "size");
	info->pages = number(object, "pages");
	info->users = (uint32_t)number(object, "users");
	info->shared_pages = number(object, "shared_pages");
	info->variants = number(object, "variants");
	info->references = number(object, "references");
	info->saved_pages = number(object, "saved_pages");
}

/* Adds what is in the answer. */
static bool take_answer(struct modules *modules, const json_t *answer)
{
	const json_t *array = json_object_get(answer, "modules"), *module;
	size_t i, n = modules->count + json_array_size(array);
	struct gmm_module_info *infos = realloc(modules->infos, (n + 1) * sizeof(*infos));

	if (!infos) {
		gmm__guests_complain(&modules->guests, "modules", strerror(ENOMEM));
		return false;
	}
	modules->infos = infos;
	memset(infos + modules->count, 0, (n + 1 - modules->count) * sizeof(*infos));
	json_array_foreach(array, i, module)
		take_module(module, &infos[modules->count++]);
	modules->processes = number(answer, "processes");
	modules->answered = number(answer, "answered");
	modules->left_out = number(answer, "left_out");
	return true;
}

static void wait_a_little(const struct modules *modules)
{
	const struct timespec step = { .tv_nsec = STEP_MS * 1000000 };

	gmm__guests_progress("%" PRIu64 " of %" PRIu64 " processes have answered", modules->answered, modules->processes);
	nanosleep(&step, NULL);
}

static json_t *ask_once(const struct modules *modules, uint64_t request, uint64_t from, bool now)
{
	return gmm__cmd_ask("modules", modules->socket ? modules->socket : CMD_SOCKET,
		request ? json_pack("{s:s, s:I, s:I, s:b}", "do", "modules", "request", (json_int_t)request, "from",
			(json_int_t)from, "now", now) : json_pack("{s:s}", "do", "modules"));
}

/* Asks until all processes have answered, or the time is over; then for all parts of the list. */
static bool ask(struct modules *modules)
{
	json_t *answer = ask_once(modules, 0, 0, false);
	uint64_t request = answer ? number(answer, "request") : 0;
	bool good = true;

	for (uint64_t waited = STEP_MS; answer && !json_object_get(answer, "modules"); waited += STEP_MS) {
		modules->processes = number(answer, "processes");
		modules->answered = number(answer, "answered");
		json_decref(answer);
		wait_a_little(modules);
		answer = ask_once(modules, request, 0, waited >= modules->wait_s * 1000);
	}
	gmm__guests_progress_end();
	while (answer && (good = take_answer(modules, answer)) && json_is_integer(json_object_get(answer, "next"))) {
		uint64_t from = number(answer, "next");
		json_decref(answer);
		answer = ask_once(modules, request, from, true);
	}
	good &= answer != NULL;
	json_decref(answer);
	return good;
}

/* ---- the demo's VMs ------------------------------------------------------------------------------------ */

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
	return gmm__guests_succeeded(
		guests, gmm_modules_list(guests->gmm, modules->infos, size, &modules->count), "listing modules");
}

static enum cmd_exit make_demo(struct modules *modules)
{
	struct guests *guests = &modules->guests;
	enum cmd_exit result = gmm__guests_plan(guests);

	if (result != CMD_OK)
		return result;
	if (!find(modules) || !gmm__guests_create(guests) || !share(modules) || !list(modules))
		return CMD_FAILED;
	gmm__guests_progress_end();
	return CMD_OK;
}

/* ---- printing ------------------------------------------------------------------------------------------ */

/* What saves most comes first. */
static int compare_saved(const void *a, const void *b)
{
	const struct gmm_module_info *x = a, *y = b;

	return x->saved_pages != y->saved_pages ? (x->saved_pages < y->saved_pages ? 1 : -1) : strcmp(x->name, y->name);
}

static uint64_t saved_pages(const struct modules *modules)
{
	uint64_t pages = 0;

	for (size_t i = 0; i < modules->count; i++)
		pages += modules->infos[i].saved_pages;
	return pages;
}

/* A guest chose the text: it must not tell the terminal what to do. */
static void print_text(const char *text)
{
	for (; *text; text++)
		putchar(*text >= ' ' && *text <= '~' ? *text : '?');
}

static void print_module(const struct gmm_module_info *m)
{
	printf("%6" PRIu32 " %8" PRIu64 " %8" PRIu64 " %8" PRIu64 " %9.1f  %-16s ", m->users, m->pages, m->shared_pages,
		m->variants, gmm__guests_mib((int64_t)m->saved_pages), m->domain);
	print_text(m->name);
	if (m->version[0]) {
		putchar(' ');
		print_text(m->version);
	}
	putchar('\n');
}

static void print_table(const struct modules *modules)
{
	size_t shown = modules->is_all || modules->count < LISTED ? modules->count : LISTED;

	printf("%6s %8s %8s %8s %9s  %-16s %s\n", "USERS", "PAGES", "SHARED", "VARIANTS", "SAVED MiB", "DOMAIN", "MODULE");
	for (size_t i = 0; i < shown; i++)
		print_module(&modules->infos[i]);
	if (shown < modules->count)
		printf("... and %zu more\n", modules->count - shown);
	printf("\n%zu modules save %.1f MiB", modules->count, gmm__guests_mib((int64_t)saved_pages(modules)));
	if (modules->is_demo)
		printf("; %" PRIu64 " pages were joined, %" PRIu64 " put into the pool\n",
			modules->checked.joined + modules->checked.twins, modules->checked.promoted);
	else
		printf("; %" PRIu64 " of %" PRIu64 " processes with VMs answered\n", modules->answered, modules->processes);
	if (modules->left_out)
		printf("not all is listed: %" PRIu64 " records were too many or too large\n", modules->left_out);
}

static json_t *describe(const struct gmm_module_info *m)
{
	return json_pack("{s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "name", m->name, "version", m->version,
		"domain", m->domain, "os", gmm_os_family_name(m->os), "size", (json_int_t)m->size, "users",
		(json_int_t)m->users, "pages", (json_int_t)m->pages, "shared_pages", (json_int_t)m->shared_pages,
		"variants", (json_int_t)m->variants, "references", (json_int_t)m->references, "saved_pages",
		(json_int_t)m->saved_pages);
}

static json_t *describe_all(const struct modules *modules, json_t *array)
{
	json_int_t saved = (json_int_t)saved_pages(modules);

	if (modules->is_demo)
		return json_pack("{s:o, s:I, s:I, s:I}", "modules", array, "saved_pages", saved, "joined_pages",
			(json_int_t)(modules->checked.joined + modules->checked.twins), "promoted_pages",
			(json_int_t)modules->checked.promoted);
	return json_pack("{s:o, s:I, s:I, s:I, s:I}", "modules", array, "saved_pages", saved, "processes",
		(json_int_t)modules->processes, "answered", (json_int_t)modules->answered, "left_out",
		(json_int_t)modules->left_out);
}

static int print_json(const struct modules *modules)
{
	json_t *array = json_array();
	int failed = 0;

	for (size_t i = 0; i < modules->count; i++)
		failed |= json_array_append_new(array, describe(&modules->infos[i]));
	json_t *object = describe_all(modules, array);
	if (failed == 0)
		failed = json_dumpf(object, stdout, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
	putchar('\n');
	json_decref(object);
	return failed;
}

static enum cmd_exit run(struct modules *modules)
{
	enum cmd_exit result = modules->is_demo ? make_demo(modules) : ask(modules) ? CMD_OK : CMD_FAILED;

	if (result != CMD_OK)
		return result;
	qsort(modules->infos, modules->count, sizeof(*modules->infos), compare_saved);
	if (!modules->is_json) {
		print_table(modules);
	} else if (print_json(modules) != 0) {
		gmm__guests_complain(&modules->guests, "JSON", strerror(ENOMEM));
		return CMD_FAILED;
	}
	return CMD_OK;
}

int cmd_modules(int argc, char **argv)
{
	const struct argp guests_parser = { .options = gmm__guests_argp.options, .parser = parse_guests_option };
	const struct argp_child children[] = { { &guests_parser, 0, NULL, 0 }, { 0 } };
	const struct argp parser = { options, parse_option, NULL, doc, children, NULL, NULL };
	struct modules modules = { .wait_s = WAIT_S };

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
