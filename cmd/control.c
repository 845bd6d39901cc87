/* `gmm-dedup unshare`, `pause`, `resume` and `dump`: commands to the service about one process, or all. */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/admin.h"
#include "cmd/cmd.h"

struct control {
	const char *socket;
	const char *verb;
	const char *who;
	bool may_be_all;
	json_int_t pid;
};

enum { OPTION_SOCKET = 's', PID_MAX = 1 << 22 };

static error_t parse_option(int key, char *text, struct argp_state *state)
{
	struct control *control = state->input;

	switch (key) {
	case OPTION_SOCKET:
		control->socket = text;
		return 0;
	case ARGP_KEY_ARG:
		if (control->who)
			argp_error(state, "unexpected argument '%s'", text);
		control->who = text;
		if (!control->may_be_all || strcmp(text, "all") != 0)
			control->pid = (json_int_t)gmm__cmd_number(state, "PID", text, 1, PID_MAX);
		return 0;
	case ARGP_KEY_END:
		if (!control->who)
			argp_error(state, "which process?");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp_option options[] = {
	{ "socket", OPTION_SOCKET, "PATH", 0, "of the service; default " CMD_SOCKET, 0 },
	{ 0 },
};

static int command(int argc, char **argv, const char *verb, const char *doc)
{
	const struct argp parser = { options, parse_option, "PID|all", doc, NULL, NULL, NULL };
	struct control control = { .socket = CMD_SOCKET, .verb = verb, .may_be_all = true };

	argp_parse(&parser, argc, argv, 0, NULL, &control);
	json_t *request = control.pid ? json_pack("{s:s, s:I}", "do", verb, "pid", control.pid) :
					json_pack("{s:s, s:s}", "do", verb, "pid", "all");
	json_t *answer = gmm__cmd_ask(verb, control.socket, request);
	if (!answer)
		return CMD_FAILED;
	printf("%" JSON_INTEGER_FORMAT " processes were told\n", json_integer_value(json_object_get(answer, "clients")));
	json_decref(answer);
	return CMD_OK;
}

int cmd_unshare(int argc, char **argv)
{
	return command(argc, argv, "unshare",
		       "Has processes make all their pages private and rest. `gmm-dedup status --json` tells when it is done.");
}

int cmd_pause(int argc, char **argv)
{
	return command(argc, argv, "pause", "Has processes scan no more until they are resumed. What is shared stays so, and pages that guests "
		       "name as those of a file are shared all the same.");
}

int cmd_resume(int argc, char **argv)
{
	return command(argc, argv, "resume", "Has processes share again.");
}

/* Adds a part of the dump; the first slot of a part may go on with the last one of the part before. */
static void add_part(json_t *slots, bool goes_on, const json_t *part)
{
	json_t *slot, *last = json_array_get(slots, json_array_size(slots) - 1);
	size_t i;

	json_array_foreach(part, i, slot) {
		if (i == 0 && goes_on && last)
			json_array_extend(json_object_get(last, "runs"), json_object_get(slot, "runs"));
		else
			json_array_append(slots, slot);
	}
}

int cmd_dump(int argc, char **argv)
{
	static const struct argp parser = { options, parse_option, "PID",
		"Prints the page table of a process's VMs as the service knows it, as JSON: runs of pages "
		"[first gfn, pages, state, shared page].", NULL, NULL, NULL };
	struct control control = { .socket = CMD_SOCKET, .verb = "dump" };
	json_t *slots = json_array(), *from = NULL;

	argp_parse(&parser, argc, argv, 0, NULL, &control);
	do {
		bool goes_on = json_integer_value(json_object_get(from, "page")) > 0;
		json_t *answer = gmm__cmd_ask("dump", control.socket, json_pack("{s:s, s:I, s:o*}", "do", "dump", "pid",
										control.pid, "from", from));
		if (!answer) {
			json_decref(slots);
			return CMD_FAILED;
		}
		add_part(slots, goes_on, json_object_get(answer, "slots"));
		from = json_incref(json_object_get(answer, "next"));
		json_decref(answer);
	} while (json_is_object(from));
	json_t *dump = json_pack("{s:o}", "slots", slots);
	json_dumpf(dump, stdout, JSON_COMPACT);
	putchar('\n');
	json_decref(dump);
	return CMD_OK;
}
