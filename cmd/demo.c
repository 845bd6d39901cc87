/* `gmm-dedup demo`: the memory of some real guests, shared for real, with every byte of it checked.
 *
 * It makes VMs filled from traces, lets the engine share until it has settled, measures, lets the guests
 * write to shared pages while the engine goes on, and checks all memory against the traces.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cmd/demo.h"
#include "cmd/host.h"

#define NOTICE_DEADLINE_NS (UINT64_C(90) * 1000000000)
#define NOTICE_PASSES      8 /* the engine looks for broken pages only every few passes */

struct demo {
	struct guests guests;
	bool is_json;
	struct demo_result result;
};

/* ---- arguments ----------------------------------------------------------------------------------------- */

enum { OPTION_JSON = 'j' };

static error_t parse_option(int key, char *text, struct argp_state *state)
{
	struct demo *demo = state->input;
	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &demo->guests;
		return 0;
	case OPTION_JSON:
		demo->is_json = true;
		return 0;
	case ARGP_KEY_ARG:
		argp_error(state, "unexpected argument '%s'", text);
		return EINVAL;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp_option options[] = {
	{ "json", OPTION_JSON, NULL, 0, "print one JSON object instead of a table", 0 },
	{ 0 },
};

static const struct argp_child children[] = { { &gmm__guests_argp, 0, NULL, 0 }, { 0 } };

static const struct argp parser = {
	.options = options,
	.parser = parse_option,
	.children = children,
	.doc = "Makes VMs with the memory of real Linux guests, shares what is equal, measures what that "
	       "gave back, lets the guests write, and checks every byte.\v"
	       "A trace has a 64-bit little-endian word for each page: 0 for a page of zeros, else a digest "
	       "of its bytes. Exit status: 0 if every byte was right, 1 if something failed, 2 for bad "
	       "arguments or traces.",
};

/* ---- steps --------------------------------------------------------------------------------------------- */

/* Lets the engine share until nothing is left to share, and measures what that changed. */
static bool settle(struct demo *demo)
{
	struct guests *guests = &demo->guests;
	struct demo_result *result = &demo->result;
	struct gmm__host_memory before, after;
	uint64_t mappings_before, mappings_after;
	if (gmm__host_mappings(&mappings_before) != 0 || gmm__host_memory(&before) != 0) {
		gmm__guests_complain(guests, "/proc", strerror(errno));
		return false;
	}
	if (!gmm__guests_settle(guests, &result->wall_ns))
		return false;
	if (gmm__host_memory(&after) != 0 || gmm__host_mappings(&mappings_after) != 0) {
		gmm__guests_complain(guests, "/proc", strerror(errno));
		return false;
	}
	result->mappings = (int64_t)(mappings_after - mappings_before);
	result->kernel_freed_bytes =
		(int64_t)(gmm__host_memory_used(&before) - gmm__host_memory_used(&after));

	result->vms = calloc(guests->count, sizeof(*result->vms));
	if (!result->vms) {
		gmm__guests_complain(guests, "statistics", strerror(ENOMEM));
		return false;
	}
	for (size_t i = 0; i < guests->count; i++)
		if (!gmm__guests_succeeded(
			    guests, gmm_vm_stats(guests->guest[i].vm, &result->vms[i]), "statistics"))
			return false;
	return gmm__guests_succeeded(guests, gmm_instance_stats(guests->gmm, &result->settled), "statistics");
}

static uint64_t breaks(const struct gmm_stats *stats)
{
	return stats->total.cow_breaks + stats->total.zero_breaks;
}

/* Waits until the engine has noticed what the guests wrote: it has made some passes in which nothing came to
 * light any more. How many writes hit shared pages cannot be known, so the wait is bounded. */
static bool wait_noticed(struct demo *demo)
{
	const struct guests *guests = &demo->guests;
	const uint64_t deadline_ns = gmm__host_now_ns() + NOTICE_DEADLINE_NS;
	uint64_t seen_breaks = breaks(&demo->result.settled);
	const uint64_t breaks_before = seen_breaks;
	uint64_t quiet_since_pass = demo->result.settled.passes;
	while (gmm__host_now_ns() < deadline_ns) {
		struct gmm_stats *stats = &demo->result.end;
		if (!gmm__guests_succeeded(guests, gmm_instance_stats(guests->gmm, stats), "statistics"))
			return false;
		if (breaks(stats) != seen_breaks) {
			seen_breaks = breaks(stats);
			quiet_since_pass = stats->passes;
		}
		bool is_noticed = seen_breaks > breaks_before || stats->total.merges == 0 ||
				  demo->result.written_pages == 0;
		if (is_noticed && stats->passes >= quiet_since_pass + NOTICE_PASSES)
			break;
		nanosleep(&(struct timespec){ .tv_nsec = GUESTS_PASS_INTERVAL_MS * 1000000 }, NULL);
	}
	return true;
}

static bool verify(struct demo *demo)
{
	const struct guests *guests = &demo->guests;
	for (size_t i = 0; i < guests->count; i++) {
		uint64_t page;
		gmm__guests_progress("checking VM %zu of %zu", i + 1, guests->count);
		if (!gmm__demo_guest_verify(&guests->guest[i], &page)) {
			gmm__guests_progress_end();
			fprintf(stderr, "gmm-dedup demo: VM %zu (%s): page %" PRIu64 " has wrong bytes\n",
				i + 1, guests->guest[i].name, page);
			return false;
		}
	}
	return gmm__guests_succeeded(
		guests, gmm_instance_validate(guests->gmm), "the engine's accounts are wrong");
}

static enum cmd_exit run(struct demo *demo)
{
	struct guests *guests = &demo->guests;
	enum cmd_exit result = gmm__guests_plan(guests);
	if (result != CMD_OK)
		return result;
	if (!gmm__guests_create(guests) || !settle(demo))
		return CMD_FAILED;
	for (size_t i = 0; i < guests->count; i++)
		demo->result.written_pages += gmm__demo_guest_write(&guests->guest[i]);
	if (!wait_noticed(demo))
		return CMD_FAILED;
	demo->result.verified = verify(demo);

	gmm__guests_progress_end();
	if (!demo->is_json) {
		gmm__demo_print_table(guests, &demo->result);
	} else if (gmm__demo_print_json(guests, &demo->result) != 0) {
		gmm__guests_complain(guests, "JSON", strerror(ENOMEM));
		return CMD_FAILED;
	}
	return demo->result.verified ? CMD_OK : CMD_FAILED;
}

int cmd_demo(int argc, char **argv)
{
	struct demo demo = { 0 };
	if (!gmm__guests_init(&demo.guests, "demo", argc))
		return CMD_FAILED;
	argp_parse(&parser, argc, argv, 0, NULL, &demo);
	enum cmd_exit result = run(&demo);
	free(demo.result.vms);
	if (!gmm__guests_free(&demo.guests) && result == CMD_OK)
		result = CMD_FAILED;
	return result;
}
