/* What main.c and the verbs of gmm-dedup share: the verbs' entry points, exit codes and the parsing of
 * numbers.
 *
 * A new verb is one function here, one file with it, and one line in the table in main.c.
 */
#ifndef CMD_CMD_H
#define CMD_CMD_H

#include <argp.h>
#include <stdint.h>

enum cmd_exit {
	CMD_OK = 0,
	CMD_FAILED = 1, /* the work failed */
	CMD_USAGE = 2,  /* an argument, or a file it names, is no good */
};

/* Each takes its own arguments, with argv[0] "gmm-dedup VERB", and returns an exit code. */
int cmd_demo(int argc, char **argv);
int cmd_exec(int argc, char **argv);
int cmd_estimate(int argc, char **argv);
int cmd_dump(int argc, char **argv);
int cmd_pause(int argc, char **argv);
int cmd_resume(int argc, char **argv);
int cmd_serve(int argc, char **argv);
int cmd_modules(int argc, char **argv);
int cmd_status(int argc, char **argv);
int cmd_unshare(int argc, char **argv);
int cmd_why(int argc, char **argv);

/* The value of a numeric option. Ends the command with a message and CMD_USAGE unless text is a decimal
 * number in [min, max]. */
uint64_t gmm__cmd_number(
	const struct argp_state *state, const char *option, const char *text, uint64_t min, uint64_t max);

#endif
