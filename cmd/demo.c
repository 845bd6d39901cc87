/* `gmm-dedup demo`: the memory of some real guests, shared for real, with every byte of it checked.
 *
 * It makes VMs filled from traces, lets the engine share until it has settled, measures, lets the guests
 * write to shared pages while the engine goes on, and checks all memory against the traces.
 */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cmd/cmd.h"
#include "cmd/demo.h"
#include "cmd/host.h"

#define SETTLE_DEADLINE_NS (UINT64_C(300) * 1000000000)
#define SETTLE_POLL_MS     200
#define NOTICE_DEADLINE_NS (UINT64_C(10) * 1000000000)
#define NOTICE_PASSES      8 /* the engine looks for broken pages only every few passes */
#define PASS_INTERVAL_MS   10
#define MAX_VMS            4096

/* Where the build says that the traces are; else the working directory is the repository's root. */
#ifndef GMM_DATA_DIR
#define GMM_DATA_DIR "tests/data"
#endif

/* The guests whose traces the project carries in tests/data. */
static const char *const default_traces[] = { "idle1_t0.u64", "python1_t0.u64", "serve1_t0.u64" };
#define DEFAULT_TRACES (sizeof(default_traces) / sizeof(default_traces[0]))

struct demo {
	/* arguments */
	const char **trace_paths; /* room for every argument and the defaults */
	size_t trace_count;
	size_t guest_count;    /* 0: as many as traces */
	uint64_t max_mappings; /* 0: the library's default */
	bool is_json;

	struct gmm__trace *traces; /* trace_count; not open: no pages */
	struct demo_guest *guests;
	struct gmm *gmm;
	struct demo_result result;
};

static void complain(const char *what, const char *reason)
{
	gmm__demo_progress_end();
	fprintf(stderr, "gmm-dedup demo: %s: %s\n", what, reason);
}

/* For statuses of the library: true if it succeeded, else says so. */
static bool succeeded(int status, const char *what)
{
	if (status == GMM_OK)
		return true;
	gmm__demo_progress_end();
	fprintf(stderr, "gmm-dedup demo: %s: %s (%s)\n", what, gmm_status_text(status),
		gmm_status_name(status));
	return false;
}

static void log_problem(void *arg, enum gmm_log_level level, const char *message)
{
	(void)arg;
	if (level <= GMM_LOG_WARNING)
		fprintf(stderr, "gmm-dedup demo: %s\n", message);
}

/* ---- arguments ----------------------------------------------------------------------------------------- */

enum { OPTION_TRACE = 't', OPTION_VMS = 'n', OPTION_MAX_MAPPINGS = 'm', OPTION_JSON = 'j' };

static error_t parse_option(int key, char *text, struct argp_state *state)
{
	struct demo *demo = state->input;
	switch (key) {
	case OPTION_TRACE:
		demo->trace_paths[demo->trace_count++] = text;
		return 0;
	case OPTION_VMS:
		demo->guest_count = gmm__cmd_number(state, "--vms", text, 1, MAX_VMS);
		return 0;
	case OPTION_MAX_MAPPINGS:
		demo->max_mappings = gmm__cmd_number(state, "--max-mappings", text, 1, INT_MAX);
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
	{ "trace", OPTION_TRACE, "FILE", 0,
		"fill a VM from this trace; may be given again (default: three guests)", 0 },
	{ "vms", OPTION_VMS, "N", 0,
		"make N VMs, which take the traces in turn (default: one for each trace)", 0 },
	{ "max-mappings", OPTION_MAX_MAPPINGS, "N", 0,
		"let sharing add N mappings to the process (default: half of vm.max_map_count)", 0 },
	{ "json", OPTION_JSON, NULL, 0, "print one JSON object instead of a table", 0 },
	{ 0 },
};

static const struct argp parser = {
	.options = options,
	.parser = parse_option,
	.doc = "Makes VMs with the memory of real Linux guests, shares what is equal, measures what that "
	       "gave back, lets the guests write, and checks every byte.\v"
	       "A trace has a 64-bit little-endian word for each page: 0 for a page of zeros, else a digest "
	       "of its bytes. Exit status: 0 if every byte was right, 1 if something failed, 2 for bad "
	       "arguments or traces.",
};

static void warn_about_mappings(uint64_t max_mappings)
{
	uint64_t host_max, used;
	if (gmm__host_max_mappings(&host_max) != 0 || gmm__host_mappings(&used) != 0)
		return;
	if (max_mappings + used > host_max)
		fprintf(stderr,
			"gmm-dedup demo: warning: --max-mappings %" PRIu64
			" is more than this host lets a process have (vm.max_map_count %" PRIu64
			", in use %" PRIu64 ")\n",
			max_mappings, host_max, used);
}

/* Finds a trace that the project carries: where it was built or, so that a tree that was moved still works,
 * in the tree the program lies in. */
static void find_default_trace(const char *name, char *ret_path, size_t size)
{
	char folder[PATH_MAX];
	ssize_t length = readlink("/proc/self/exe", folder, sizeof(folder) - 1);
	folder[length > 0 ? length : 0] = 0;
	for (int up = 0; up < 4; up++) {
		char *slash = strrchr(folder, '/');
		if (!slash)
			break;
		*slash = 0;
		snprintf(ret_path, size, "%s/tests/data/%s", folder, name);
		if (up > 0 && access(ret_path, R_OK) == 0)
			return;
	}
	snprintf(ret_path, size, "%s/%s", GMM_DATA_DIR, name);
}

/* ---- steps --------------------------------------------------------------------------------------------- */

static enum cmd_exit open_traces(struct demo *demo)
{
	static char default_paths[DEFAULT_TRACES][2 * PATH_MAX];
	if (demo->trace_count == 0) {
		for (size_t i = 0; i < DEFAULT_TRACES; i++) {
			find_default_trace(default_traces[i], default_paths[i], sizeof(default_paths[i]));
			demo->trace_paths[i] = default_paths[i];
		}
		demo->trace_count = DEFAULT_TRACES;
	}
	demo->traces = calloc(demo->trace_count, sizeof(*demo->traces));
	if (!demo->traces) {
		complain("traces", strerror(errno));
		return CMD_FAILED;
	}
	for (size_t i = 0; i < demo->trace_count; i++) {
		const char *reason;
		if (gmm__trace_open(demo->trace_paths[i], &demo->traces[i], &reason) != 0) {
			complain(demo->trace_paths[i], reason);
			return CMD_USAGE;
		}
	}
	return CMD_OK;
}

static void name_guest(struct demo_guest *guest, const char *trace_path)
{
	const char *slash = strrchr(trace_path, '/');
	const char *name = slash ? slash + 1 : trace_path;
	snprintf(guest->name, sizeof(guest->name), "%.*s", (int)strcspn(name, "."), name);
}

/* Decides which guest has which trace, and whether the host has room for them. */
static enum cmd_exit plan_guests(struct demo *demo)
{
	if (demo->guest_count == 0)
		demo->guest_count = demo->trace_count;
	demo->guests = calloc(demo->guest_count, sizeof(*demo->guests));
	const struct gmm__trace **traces = calloc(demo->guest_count, sizeof(const struct gmm__trace *));
	bool has_memory = demo->guests && traces;
	for (size_t i = 0; has_memory && i < demo->guest_count; i++) {
		struct demo_guest *guest = &demo->guests[i];
		guest->number = i;
		guest->trace = traces[i] = &demo->traces[i % demo->trace_count];
		name_guest(guest, demo->trace_paths[i % demo->trace_count]);
		demo->result.pages += guest->trace->pages;
	}

	struct gmm__host_memory memory;
	enum cmd_exit result = CMD_FAILED;
	if (!has_memory) {
		complain("guests", strerror(ENOMEM));
	} else if (gmm__host_memory(&memory) != 0) {
		complain("/proc/meminfo", strerror(errno));
	} else if (demo->result.pages > memory.available_bytes / 10 * 9 / GMM_PAGE_SIZE) {
		fprintf(stderr,
			"gmm-dedup demo: %zu VMs need %" PRIu64 " MiB, and the host has %" PRIu64
			" MiB available, of which the demo takes nine tenths at most\n",
			demo->guest_count, demo->result.pages * GMM_PAGE_SIZE >> 20,
			memory.available_bytes >> 20);
	} else if (gmm__trace_oracle(traces, demo->guest_count, &demo->result.oracle_pages) != 0) {
		complain("oracle", strerror(ENOMEM));
	} else {
		result = CMD_OK;
	}
	free(traces);
	return result;
}

static bool create_guests(struct demo *demo)
{
	struct gmm_options engine;
	gmm_options_init(&engine);
	engine.log = log_problem;
	engine.max_mappings = demo->max_mappings;
	engine.window_ms = 0; /* nobody writes before we say so */
	engine.cpu_percent = 0;
	engine.pass_interval_ms = PASS_INTERVAL_MS;
	if (!succeeded(gmm_instance_open(&engine, &demo->gmm), "cannot share memory on this host"))
		return false;
	for (size_t i = 0; i < demo->guest_count; i++) {
		gmm__demo_progress("filling VM %zu of %zu", i + 1, demo->guest_count);
		if (!succeeded(gmm__demo_guest_create(&demo->guests[i], demo->gmm), demo->guests[i].name))
			return false;
	}
	return true;
}

static bool wait_settled(struct demo *demo, uint64_t start_ns)
{
	for (;;) {
		int status = gmm_engine_wait_settled(demo->gmm, SETTLE_POLL_MS);
		uint64_t passed_ns = gmm__host_now_ns() - start_ns;
		demo->result.wall_ns = passed_ns;
		if (status != GMM_ERR_TIMEOUT || passed_ns > SETTLE_DEADLINE_NS)
			return succeeded(status, "the engine did not settle");
		struct gmm_stats stats;
		if (!succeeded(gmm_instance_stats(demo->gmm, &stats), "statistics"))
			return false;
		gmm__demo_progress("sharing: %.1f s, saved %.1f of %.1f MiB", (double)passed_ns / 1e9,
			gmm__demo_mib(gmm__demo_saved_pages(&stats)),
			gmm__demo_mib((int64_t)demo->result.oracle_pages));
	}
}

/* Lets the engine share until nothing is left to share, and measures what that changed. */
static bool settle(struct demo *demo)
{
	struct demo_result *result = &demo->result;
	struct gmm__host_memory before, after;
	uint64_t mappings_before, mappings_after;
	if (gmm__host_mappings(&mappings_before) != 0 || gmm__host_memory(&before) != 0) {
		complain("/proc", strerror(errno));
		return false;
	}
	uint64_t start_ns = gmm__host_now_ns();
	if (!succeeded(gmm_engine_start(demo->gmm), "cannot start the engine") ||
		!wait_settled(demo, start_ns))
		return false;
	if (gmm__host_memory(&after) != 0 || gmm__host_mappings(&mappings_after) != 0) {
		complain("/proc", strerror(errno));
		return false;
	}
	result->mappings = (int64_t)(mappings_after - mappings_before);
	result->kernel_freed_bytes =
		(int64_t)(gmm__host_memory_used(&before) - gmm__host_memory_used(&after));

	for (size_t i = 0; i < demo->guest_count; i++)
		if (!succeeded(gmm_vm_stats(demo->guests[i].vm, &demo->guests[i].settled), "statistics"))
			return false;
	return succeeded(gmm_instance_stats(demo->gmm, &result->settled), "statistics");
}

static uint64_t breaks(const struct gmm_stats *stats)
{
	return stats->total.cow_breaks + stats->total.zero_breaks;
}

/* Waits until the engine has noticed what the guests wrote: it has made some passes in which nothing came to
 * light any more. How many writes hit shared pages cannot be known, so the wait is bounded. */
static bool wait_noticed(struct demo *demo)
{
	const uint64_t deadline_ns = gmm__host_now_ns() + NOTICE_DEADLINE_NS;
	uint64_t seen_breaks = breaks(&demo->result.settled);
	const uint64_t breaks_before = seen_breaks;
	uint64_t quiet_since_pass = demo->result.settled.passes;
	while (gmm__host_now_ns() < deadline_ns) {
		struct gmm_stats *stats = &demo->result.end;
		if (!succeeded(gmm_instance_stats(demo->gmm, stats), "statistics"))
			return false;
		if (breaks(stats) != seen_breaks) {
			seen_breaks = breaks(stats);
			quiet_since_pass = stats->passes;
		}
		bool is_noticed = seen_breaks > breaks_before || stats->total.merges == 0 ||
				  demo->result.written_pages == 0;
		if (is_noticed && stats->passes >= quiet_since_pass + NOTICE_PASSES)
			break;
		nanosleep(&(struct timespec){ .tv_nsec = PASS_INTERVAL_MS * 1000000 }, NULL);
	}
	return true;
}

static bool verify(struct demo *demo)
{
	for (size_t i = 0; i < demo->guest_count; i++) {
		uint64_t page;
		gmm__demo_progress("checking VM %zu of %zu", i + 1, demo->guest_count);
		if (!gmm__demo_guest_verify(&demo->guests[i], &page)) {
			gmm__demo_progress_end();
			fprintf(stderr, "gmm-dedup demo: VM %zu (%s): page %" PRIu64 " has wrong bytes\n",
				i + 1, demo->guests[i].name, page);
			return false;
		}
	}
	return succeeded(gmm_instance_validate(demo->gmm), "the engine's accounts are wrong");
}

static enum cmd_exit run(struct demo *demo)
{
	enum cmd_exit result = open_traces(demo);
	if (result == CMD_OK)
		result = plan_guests(demo);
	if (result != CMD_OK)
		return result;
	if (!create_guests(demo) || !settle(demo))
		return CMD_FAILED;
	for (size_t i = 0; i < demo->guest_count; i++)
		demo->result.written_pages += gmm__demo_guest_write(&demo->guests[i]);
	if (!wait_noticed(demo))
		return CMD_FAILED;
	demo->result.verified = verify(demo);

	gmm__demo_progress_end();
	if (!demo->is_json) {
		gmm__demo_print_table(demo->guests, demo->guest_count, &demo->result);
	} else if (gmm__demo_print_json(&demo->result) != 0) {
		complain("JSON", strerror(ENOMEM));
		return CMD_FAILED;
	}
	return demo->result.verified ? CMD_OK : CMD_FAILED;
}

/* Gives everything back, however far the demo came. */
static bool clean_up(struct demo *demo)
{
	bool is_clean = !demo->gmm || succeeded(gmm_engine_stop(demo->gmm), "cannot stop the engine");
	for (size_t i = 0; demo->guests && i < demo->guest_count; i++)
		if (demo->guests[i].vm &&
			!succeeded(gmm_vm_destroy(demo->guests[i].vm, GMM_RAM_DISCARD), demo->guests[i].name))
			is_clean = false;
	if (demo->gmm && !succeeded(gmm_instance_close(demo->gmm), "cannot close"))
		is_clean = false;
	for (size_t i = 0; demo->traces && i < demo->trace_count; i++)
		if (demo->traces[i].pages)
			gmm__trace_close(&demo->traces[i]);
	free(demo->guests);
	free(demo->traces);
	free(demo->trace_paths);
	return is_clean;
}

int cmd_demo(int argc, char **argv)
{
	struct demo demo = { .trace_paths = calloc((size_t)argc + DEFAULT_TRACES, sizeof(char *)) };
	if (!demo.trace_paths) {
		complain("arguments", strerror(ENOMEM));
		return CMD_FAILED;
	}
	argp_parse(&parser, argc, argv, 0, NULL, &demo);
	if (demo.max_mappings)
		warn_about_mappings(demo.max_mappings);
	enum cmd_exit result = run(&demo);
	if (!clean_up(&demo) && result == CMD_OK)
		result = CMD_FAILED;
	return result;
}
