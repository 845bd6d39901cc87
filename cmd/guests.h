/* The VMs that `gmm-dedup demo` and `gmm-dedup why` make: filled from traces, in one instance of the library
 * and one trust domain, in this process.
 *
 * Use: gmm__guests_init, argp with gmm__guests_argp as a child, gmm__guests_plan, gmm__guests_create,
 * gmm__guests_settle, and in any case gmm__guests_free. What goes wrong is said on stderr, under the verb's name.
 */
#ifndef CMD_GUESTS_H
#define CMD_GUESTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <gmm/gmm.h>

#include "cmd/cmd.h"
#include "cmd/trace.h"

#define GUESTS_PASS_INTERVAL_MS 10

/* A VM whose RAM is filled from a trace. */
struct guest {
	char name[32];                  /* the trace's file name without its ending */
	size_t number;                  /* from 0 */
	const struct gmm__trace *trace; /* what its memory holds, but for its own writes */
	struct gmm_vm *vm;
	unsigned char *ram; /* trace->pages pages */
};

struct guests {
	const char *verb;

	/* arguments */
	const char **trace_paths; /* room for every argument and the defaults */
	size_t trace_count;
	size_t count;          /* 0: as many as traces */
	uint64_t max_mappings; /* 0: the library's default */

	/* what is made of them */
	struct gmm__trace *traces; /* trace_count; not open: no pages */
	struct guest *guest;       /* count */
	uint64_t pages;            /* of all */
	uint64_t oracle_pages;     /* the most that can be saved */
	struct gmm *gmm;
};

/* Nothing yet, and room for what at most argc arguments may name. False without memory. */
bool gmm__guests_init(struct guests *guests, const char *verb, int argc);

/* --trace, --vms and --max-mappings; the input is a struct guests. */
extern const struct argp gmm__guests_argp;

/* Opens the traces, decides which VM has which, and checks that the host has room for them. */
enum cmd_exit gmm__guests_plan(struct guests *guests);

/* Opens an instance, makes and fills the VMs. */
bool gmm__guests_create(struct guests *guests);

/* Starts the engine and waits until nothing is left to share. *ret_wall_ns is how long that took. */
bool gmm__guests_settle(struct guests *guests, uint64_t *ret_wall_ns);

/* Gives everything back, however far it came. False if the library failed. */
bool gmm__guests_free(struct guests *guests);

/* Messages. The second is for statuses of the library: true if it succeeded, else says so. */
void gmm__guests_complain(const struct guests *guests, const char *what, const char *reason);
bool gmm__guests_succeeded(const struct guests *guests, int status, const char *what);

/* A line on stderr that the next one replaces; only if stderr is a terminal. */
void gmm__guests_progress(const char *format, ...) __attribute__((format(printf, 1, 2)));
void gmm__guests_progress_end(void);

/* Pages saved: zero pages became holes, sharing pages use one of the pool. */
int64_t gmm__guests_saved_pages(const struct gmm_stats *stats);

/* Pages in MiB. */
double gmm__guests_mib(int64_t pages);

#endif
