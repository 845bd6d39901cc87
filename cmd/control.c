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

/* Parses, asks, and returns the answer or NULL. */
static json_t *ask(int argc, char **argv, const char *verb, bool may_be_all, const char *doc)
{
	const struct argp parser = { options, parse_option, may_be_all ? "PID|all" : "PID", doc, NULL, NULL, NULL };
	struct control control = { .socket = CMD_SOCKET, .verb = verb, .may_be_all = may_be_all };

	argp_parse(&parser, argc, argv, 0, NULL, &control);
	json_t *request = control.pid ? json_pack("{s:s, s:I}", "do", verb, "pid", control.pid) :
					json_pack("{s:s, s:s}", "do", verb, "pid", "all");
	return gmm__cmd_ask(verb, control.socket, request);
}

static int command(int argc, char **argv, const char *verb, const char *doc)
{
	json_t *answer = ask(argc, argv, verb, true, doc);

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

int cmd_dump(int argc, char **argv)
{
	json_t *answer = ask(argc, argv, "dump", false,
			     "Prints the page table of a process's VMs as the service knows it, as JSON: runs of pages "
			     "[first gfn, pages, state, shared page].");

	if (!answer)
		return CMD_FAILED;
	json_dumpf(answer, stdout, JSON_COMPACT);
	putchar('\n');
	json_decref(answer);
	return CMD_OK;
}
