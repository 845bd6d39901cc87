/* `gmm-dedup why`: why pages are not shared.
 *
 * `why PID` asks the service about the VMs of a process. Without a process it makes the VMs of `gmm-dedup demo`, lets the
 * engine share until it has settled, and says of every page of all VMs, of one, or of a part of one, in which state it is
 * and what that means.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "cmd/admin.h"
#include "cmd/guests.h"

#define VM_NUMBER_MAX 4096 /* as many as --vms takes */
#define PAGE_MAX      (UINT64_MAX / GMM_PAGE_SIZE)

static const char *const meanings[GMM_PAGE_STATES] = {
	[GMM_PAGE_ABSENT] = "The guest never touched it or gave it back; it takes no memory.",
	[GMM_PAGE_SWAPPED] = "It is in swap and is left there.",
	[GMM_PAGE_ZERO] = "All its bytes are zero; it takes no memory.",
	[GMM_PAGE_FILL] = "Shared; it repeats one 8-byte word.",
	[GMM_PAGE_SHARED] = "Shared; an equal page exists.",
	[GMM_PAGE_UNIQUE] = "No equal page was found.",
	[GMM_PAGE_VOLATILE] = "Written a moment ago; pages must rest first.",
	[GMM_PAGE_NOMINATED] = "An equal page exists; its merge is still to come.",
	[GMM_PAGE_BROKEN] = "It was shared and has been written since.",
	[GMM_PAGE_PINNED] = "A device or a forked process uses its memory.",
	[GMM_PAGE_HUGE] = "It is part of a huge page; breaking that would save too little.",
	[GMM_PAGE_UNSHAREABLE] = "It was declared not to be shared.",
	[GMM_PAGE_BUDGET] = "An equal page exists; mappings are too scarce for it.",
	[GMM_PAGE_RACED] = "It differed when it was compared, or looks like pages that differ.",
	[GMM_PAGE_FOREIGN] = "Something else was mapped over it.",
	[GMM_PAGE_BALLOONED] = "The guest's balloon holds it; it takes no memory.",
};

struct why {
	struct guests guests;
	uint64_t vm; /* from 1; 0: all */
	uint64_t first_page;
	uint64_t pages; /* 0: up to the end */
	bool has_range;
	bool has_guests; /* an option about the VMs to be made */
	bool is_json;
	const char *socket;
	uint64_t pid; /* 0: VMs are made */
	uint64_t state_pages[GMM_PAGE_STATES];
};

/* ---- arguments ----------------------------------------------------------------------------------------- */

enum {
	OPTION_VM = 'v',
	OPTION_FIRST_PAGE = 'f',
	OPTION_PAGES = 'p',
	OPTION_JSON = 'j',
	OPTION_SOCKET = 's',
	PID_MAX = 1 << 22,
};

/* As gmm__guests_argp, but it is noticed when there was an option. */
static error_t parse_guests_option(int key, char *text, struct argp_state *state)
{
	struct why *why = state->input;
	state->input = &why->guests;
	error_t rc = gmm__guests_argp.parser(key, text, state);
	state->input = why;
	why->has_guests |= rc == 0 && text;
	return rc;
}

static void check_form(const struct why *why, struct argp_state *state)
{
	if (why->has_range && why->vm == 0)
		argp_error(state, "--first-page and --pages are about one VM: name it with --vm");
	if (why->pid && (why->has_range || why->has_guests))
		argp_error(state, "a process is asked about by --vm, --socket and --json only");
	if (!why->pid && why->socket)
		argp_error(state, "--socket: which process?");
}

static error_t parse_option(int key, char *text, struct argp_state *state)
{
	struct why *why = state->input;
	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = why;
		return 0;
	case OPTION_VM:
		why->vm = gmm__cmd_number(state, "--vm", text, 1, VM_NUMBER_MAX);
		return 0;
	case OPTION_FIRST_PAGE:
		why->first_page = gmm__cmd_number(state, "--first-page", text, 0, PAGE_MAX);
		why->has_range = true;
		return 0;
	case OPTION_PAGES:
		why->pages = gmm__cmd_number(state, "--pages", text, 1, PAGE_MAX);
		why->has_range = true;
		return 0;
	case OPTION_JSON:
		why->is_json = true;
		return 0;
	case OPTION_SOCKET:
		why->socket = text;
		return 0;
	case ARGP_KEY_ARG:
		if (why->pid)
			argp_error(state, "unexpected argument '%s'", text);
		why->pid = gmm__cmd_number(state, "PID", text, 1, PID_MAX);
		return 0;
	case ARGP_KEY_END:
		check_form(why, state);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp_option options[] = {
	{ "vm", OPTION_VM, "K", 0, "only the K-th VM, from 1 (default: all VMs together)", 0 },
	{ "first-page", OPTION_FIRST_PAGE, "P", 0, "only pages from number P of that VM on (default: 0)", 0 },
	{ "pages", OPTION_PAGES, "N", 0, "only N pages (default: up to the VM's end)", 0 },
	{ "json", OPTION_JSON, NULL, 0, "print one JSON object, with the pages in each state", 0 },
	{ "socket", OPTION_SOCKET, "PATH", 0, "of the service that PID shares through; default " CMD_SOCKET, 0 },
	{ 0 },
};

static const char doc[] =
	"Asks the sharing service why pages of a process's VMs are not shared. Without PID: makes VMs with the memory of "
	"real Linux guests, shares what is equal, and tells why the other pages are not shared.\v"
	"A trace has a 64-bit little-endian word for each page: 0 for a page of zeros, else a digest "
	"of its bytes. Exit status: 0, 1 if something failed, 2 for bad arguments or traces.";

/* ---- asking -------------------------------------------------------------------------------------------- */

/* The range is looked at before the work begins; it needs the traces, which say how large the VMs are. */
static enum cmd_exit check_range(struct why *why)
{
	const struct guests *guests = &why->guests;
	if (why->vm == 0)
		return CMD_OK;
	if (why->vm > guests->count) {
		fprintf(stderr, "gmm-dedup why: there is no VM %" PRIu64 ", only %zu\n", why->vm,
			guests->count);
		return CMD_USAGE;
	}
	uint64_t vm_pages = guests->guest[why->vm - 1].trace->pages;
	if (why->first_page >= vm_pages || why->pages > vm_pages - why->first_page) {
		fprintf(stderr, "gmm-dedup why: VM %" PRIu64 " has only pages 0 to %" PRIu64 "\n", why->vm,
			vm_pages - 1);
		return CMD_USAGE;
	}
	if (why->pages == 0)
		why->pages = vm_pages - why->first_page;
	return CMD_OK;
}

static bool ask(struct why *why)
{
	const struct guests *guests = &why->guests;
	if (why->vm > 0)
		return gmm__guests_succeeded(guests,
			gmm_vm_why(guests->guest[why->vm - 1].vm, why->first_page * GMM_PAGE_SIZE,
				why->pages * GMM_PAGE_SIZE, why->state_pages),
			"asking a VM");
	struct gmm_stats stats;
	if (!gmm__guests_succeeded(guests, gmm_instance_stats(guests->gmm, &stats), "statistics"))
		return false;
	memcpy(why->state_pages, stats.total.state_pages, sizeof(why->state_pages));
	return true;
}

/* ---- printing ------------------------------------------------------------------------------------------ */

static void print_title(const struct why *why)
{
	if (why->pid)
		return;
	if (why->vm == 0)
		printf("%zu VMs\n\n", why->guests.count);
	else
		printf("VM %" PRIu64 " (%s), pages %" PRIu64 " to %" PRIu64 "\n\n", why->vm,
			why->guests.guest[why->vm - 1].name, why->first_page,
			why->first_page + why->pages - 1);
}

static void print_table(const struct why *why)
{
	uint64_t total = 0;
	for (int i = 0; i < GMM_PAGE_STATES; i++)
		total += why->state_pages[i];
	print_title(why);
	for (int i = 0; i < GMM_PAGE_STATES && total > 0; i++)
		if (why->state_pages[i] > 0)
			printf("%-11s %9" PRIu64 " %5.1f %%  %s\n", gmm_page_state_name(i),
				why->state_pages[i], 100 * (double)why->state_pages[i] / (double)total,
				meanings[i]);
	printf("%-11s %9" PRIu64 "\n", "total", total);
}

static int print_json(const struct why *why)
{
	json_t *object = json_object();
	int status = 0;
	for (int i = 0; i < GMM_PAGE_STATES; i++)
		status |= json_object_set_new(
			object, gmm_page_state_name(i), json_integer((json_int_t)why->state_pages[i]));
	if (status == 0)
		status = json_dumpf(object, stdout, JSON_INDENT(2));
	putchar('\n');
	json_decref(object);
	return status;
}

/* ---- a process of the service -------------------------------------------------------------------------- */

/* Takes the VM's pages into account, if it was asked about, and says why its RAM is not there at all. */
static void add_vm(struct why *why, const json_t *client, const json_t *vm, uint64_t number)
{
	const char *note = json_string_value(json_object_get(vm, "note"));
	if (why->vm && why->vm != number)
		return;
	for (int i = 0; i < GMM_PAGE_STATES; i++)
		why->state_pages[i] += (uint64_t)json_integer_value(
			json_object_get(json_object_get(vm, "states"), gmm_page_state_name(i)));
	if (why->is_json)
		return;
	printf("VM %" PRIu64 " (%s) of process %" PRIu64 " (%s), domain %s\n", number,
		json_string_value(json_object_get(vm, "name")), why->pid,
		json_string_value(json_object_get(client, "program")),
		json_string_value(json_object_get(vm, "domain")));
	if (note)
		printf("  %s\n", note);
}

static uint64_t add_clients(struct why *why, const json_t *clients)
{
	const json_t *client, *vm;
	uint64_t count = 0;
	size_t i, k;
	json_array_foreach(clients, i, client) {
		const char *note = json_string_value(json_object_get(client, "note"));
		if (note && !why->is_json)
			printf("process %" PRIu64 " (%s): %s\n", why->pid,
				json_string_value(json_object_get(client, "program")), note);
		json_array_foreach(json_object_get(client, "vms"), k, vm)
			add_vm(why, client, vm, ++count);
	}
	return count;
}

static enum cmd_exit run_process(struct why *why)
{
	json_t *request = json_pack("{s:s, s:I}", "do", "why", "pid", (json_int_t)why->pid);
	json_t *answer = gmm__cmd_ask("why", why->socket ? why->socket : CMD_SOCKET, request);
	if (!answer)
		return CMD_FAILED;
	uint64_t count = add_clients(why, json_object_get(answer, "clients"));
	json_decref(answer);
	if (why->vm > count) {
		fprintf(stderr, "gmm-dedup why: process %" PRIu64 " has no VM %" PRIu64 ", only %" PRIu64 "\n",
			why->pid, why->vm, count);
		return CMD_USAGE;
	}
	if (why->is_json)
		return print_json(why) == 0 ? CMD_OK : CMD_FAILED;
	putchar('\n');
	print_table(why);
	return CMD_OK;
}

/* ---- the verb ------------------------------------------------------------------------------------------ */

static enum cmd_exit run(struct why *why)
{
	struct guests *guests = &why->guests;
	uint64_t wall_ns;
	enum cmd_exit result = gmm__guests_plan(guests);
	if (result == CMD_OK)
		result = check_range(why);
	if (result != CMD_OK)
		return result;
	if (!gmm__guests_create(guests) || !gmm__guests_settle(guests, &wall_ns) || !ask(why))
		return CMD_FAILED;
	gmm__guests_progress_end();
	if (!why->is_json) {
		print_table(why);
	} else if (print_json(why) != 0) {
		gmm__guests_complain(guests, "JSON", strerror(ENOMEM));
		return CMD_FAILED;
	}
	return CMD_OK;
}

int cmd_why(int argc, char **argv)
{
	const struct argp guests_parser = { .options = gmm__guests_argp.options, .parser = parse_guests_option };
	const struct argp_child children[] = { { &guests_parser, 0, NULL, 0 }, { 0 } };
	const struct argp parser = { options, parse_option, "[PID]", doc, children, NULL, NULL };
	struct why why = { 0 };
	if (!gmm__guests_init(&why.guests, "why", argc))
		return CMD_FAILED;
	argp_parse(&parser, argc, argv, 0, NULL, &why);
	enum cmd_exit result = why.pid ? run_process(&why) : run(&why);
	if (!gmm__guests_free(&why.guests) && result == CMD_OK)
		result = CMD_FAILED;
	return result;
}
