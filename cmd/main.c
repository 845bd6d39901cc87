/* gmm-dedup: the command. It finds the verb in a table and hands the rest of the arguments to it. */
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/cmd.h"

struct verb {
	const char *name;
	const char *help;
	int (*run)(int argc, char **argv);
};

static const struct verb verbs[] = {
	{ "demo", "share the memory of some real guests and check every byte of it", cmd_demo },
	{ "estimate", "tell how much memory sharing would save", cmd_estimate },
	{ "exec", "run a program, for example QEMU, whose memory is shared", cmd_exec },
	{ "serve", "let VMs of different processes share pages", cmd_serve },
	{ "modules", "list the modules guests have in common, and what sharing them saves", cmd_modules },
	{ "status", "tell what the service shares, and for whom", cmd_status },
	{ "unshare", "have a process make all its pages private", cmd_unshare },
	{ "pause", "have a process share nothing more for now", cmd_pause },
	{ "resume", "have it share again", cmd_resume },
	{ "dump", "print the page table of a process's VMs", cmd_dump },
	{ "why", "tell why pages are not shared", cmd_why },
};

#define VERB_COUNT (sizeof(verbs) / sizeof(verbs[0]))

uint64_t gmm__cmd_number(
	const struct argp_state *state, const char *option, const char *text, uint64_t min, uint64_t max)
{
	char *end;
	errno = 0;
	unsigned long long value = strtoull(text, &end, 10);
	bool is_number = *text >= '0' && *text <= '9' && *end == 0 && errno == 0;
	if (!is_number || value < min || value > max)
		argp_error(state, "%s: '%s' is not a number from %" PRIu64 " to %" PRIu64, option, text, min,
			max);
	return value;
}

static void print_help(FILE *to)
{
	fprintf(to, "Usage: gmm-dedup VERB [ARGUMENT...]\n"
		    "Lets the virtual machines of one host share every page they have in common.\n\n");
	for (size_t i = 0; i < VERB_COUNT; i++)
		fprintf(to, "  %-12s %s\n", verbs[i].name, verbs[i].help);
	fprintf(to, "\n  --help       show this text\n"
		    "  --version    show the version\n\n"
		    "'gmm-dedup VERB --help' tells more about a verb.\n");
}

/* A full disk or closed pipe must not pass for success. */
static int finish(int exit_code)
{
	if (fflush(stdout) == 0 && !ferror(stdout))
		return exit_code;
	fprintf(stderr, "gmm-dedup: cannot write to standard output: %s\n", strerror(errno));
	return exit_code ? exit_code : CMD_FAILED;
}

static int run_verb(const struct verb *verb, int argc, char **argv)
{
	char full_name[64];
	snprintf(full_name, sizeof(full_name), "gmm-dedup %s", verb->name);
	argv[0] = full_name;
	return verb->run(argc, argv);
}

int main(int argc, char **argv)
{
	argp_program_version = "gmm-dedup " GMM_VERSION;
	argp_err_exit_status = CMD_USAGE;

	if (argc < 2) {
		print_help(stderr);
		return CMD_USAGE;
	}
	if (strcmp(argv[1], "--help") == 0) {
		print_help(stdout);
		return finish(CMD_OK);
	}
	if (strcmp(argv[1], "--version") == 0) {
		puts(argp_program_version);
		return finish(CMD_OK);
	}
	for (size_t i = 0; i < VERB_COUNT; i++)
		if (strcmp(argv[1], verbs[i].name) == 0)
			return finish(run_verb(&verbs[i], argc - 1, argv + 1));
	fprintf(stderr, "gmm-dedup: unknown verb '%s'; 'gmm-dedup --help' lists them\n", argv[1]);
	return CMD_USAGE;
}
