/* Making the VMs of `gmm-dedup demo` and `gmm-dedup why`: arguments, traces, memory, engine. */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cmd/guests.h"
#include "cmd/host.h"

#define SETTLE_DEADLINE_NS (UINT64_C(300) * 1000000000)
#define SETTLE_POLL_MS     200
#define MAX_VMS            4096
#define MIB                (1024.0 * 1024.0)

/* Where the build says that the traces are; else the working directory is the repository's root. */
#ifndef GMM_DATA_DIR
#define GMM_DATA_DIR "tests/data"
#endif

/* The guests whose traces the project carries in tests/data. */
static const char *const default_traces[] = { "idle1_t0.u64", "python1_t0.u64", "serve1_t0.u64" };
#define DEFAULT_TRACES (sizeof(default_traces) / sizeof(default_traces[0]))

/* ---- messages ------------------------------------------------------------------------------------------ */

void gmm__guests_progress(const char *format, ...)
{
	if (!isatty(STDERR_FILENO))
		return;
	va_list arguments;
	va_start(arguments, format);
	fputs("\r\033[K", stderr);
	vfprintf(stderr, format, arguments);
	fflush(stderr);
	va_end(arguments);
}

void gmm__guests_progress_end(void)
{
	if (isatty(STDERR_FILENO))
		fputs("\r\033[K", stderr);
}

void gmm__guests_complain(const struct guests *guests, const char *what, const char *reason)
{
	gmm__guests_progress_end();
	fprintf(stderr, "gmm-dedup %s: %s: %s\n", guests->verb, what, reason);
}

bool gmm__guests_succeeded(const struct guests *guests, int status, const char *what)
{
	if (status == GMM_OK)
		return true;
	gmm__guests_progress_end();
	fprintf(stderr, "gmm-dedup %s: %s: %s (%s)\n", guests->verb, what, gmm_status_text(status),
		gmm_status_name(status));
	return false;
}

static void log_problem(void *arg, enum gmm_log_level level, const char *message)
{
	const struct guests *guests = arg;
	if (level <= GMM_LOG_WARNING)
		fprintf(stderr, "gmm-dedup %s: %s\n", guests->verb, message);
}

int64_t gmm__guests_saved_pages(const struct gmm_stats *stats)
{
	return (int64_t)(stats->total.state_pages[GMM_PAGE_ZERO] + stats->total.references) -
	       (int64_t)stats->pool_pages;
}

double gmm__guests_mib(int64_t pages)
{
	return (double)pages * GMM_PAGE_SIZE / MIB;
}

/* ---- arguments ----------------------------------------------------------------------------------------- */

enum { OPTION_TRACE = 't', OPTION_VMS = 'n', OPTION_MAX_MAPPINGS = 'm' };

static error_t parse_option(int key, char *text, struct argp_state *state)
{
	struct guests *guests = state->input;
	switch (key) {
	case OPTION_TRACE:
		guests->trace_paths[guests->trace_count++] = text;
		return 0;
	case OPTION_VMS:
		guests->count = gmm__cmd_number(state, "--vms", text, 1, MAX_VMS);
		return 0;
	case OPTION_MAX_MAPPINGS:
		guests->max_mappings = gmm__cmd_number(state, "--max-mappings", text, 1, INT_MAX);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp_option option_list[] = {
	{ "trace", OPTION_TRACE, "FILE", 0,
		"fill a VM from this trace; may be given again (default: three guests)", 0 },
	{ "vms", OPTION_VMS, "N", 0,
		"make N VMs, which take the traces in turn (default: one for each trace)", 0 },
	{ "max-mappings", OPTION_MAX_MAPPINGS, "N", 0,
		"let sharing add N mappings to the process (default: half of vm.max_map_count)", 0 },
	{ 0 },
};

const struct argp gmm__guests_argp = { .options = option_list, .parser = parse_option };

bool gmm__guests_init(struct guests *guests, const char *verb, int argc)
{
	*guests = (struct guests){ .verb = verb };
	guests->trace_paths = calloc((size_t)argc + DEFAULT_TRACES, sizeof(char *));
	if (!guests->trace_paths)
		gmm__guests_complain(guests, "arguments", strerror(ENOMEM));
	return guests->trace_paths != NULL;
}

/* ---- making and settling ------------------------------------------------------------------------------- */

static void warn_about_mappings(const struct guests *guests)
{
	uint64_t host_max, used;
	if (gmm__host_max_mappings(&host_max) != 0 || gmm__host_mappings(&used) != 0)
		return;
	if (guests->max_mappings + used > host_max)
		fprintf(stderr,
			"gmm-dedup %s: warning: --max-mappings %" PRIu64
			" is more than this host lets a process have (vm.max_map_count %" PRIu64
			", in use %" PRIu64 ")\n",
			guests->verb, guests->max_mappings, host_max, used);
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

static enum cmd_exit open_traces(struct guests *guests)
{
	static char default_paths[DEFAULT_TRACES][2 * PATH_MAX];
	if (guests->trace_count == 0) {
		for (size_t i = 0; i < DEFAULT_TRACES; i++) {
			find_default_trace(default_traces[i], default_paths[i], sizeof(default_paths[i]));
			guests->trace_paths[i] = default_paths[i];
		}
		guests->trace_count = DEFAULT_TRACES;
	}
	guests->traces = calloc(guests->trace_count, sizeof(*guests->traces));
	if (!guests->traces) {
		gmm__guests_complain(guests, "traces", strerror(errno));
		return CMD_FAILED;
	}
	for (size_t i = 0; i < guests->trace_count; i++) {
		const char *reason;
		if (gmm__trace_open(guests->trace_paths[i], &guests->traces[i], &reason) != 0) {
			gmm__guests_complain(guests, guests->trace_paths[i], reason);
			return CMD_USAGE;
		}
	}
	return CMD_OK;
}

static void name_guest(struct guest *guest, const char *trace_path)
{
	const char *slash = strrchr(trace_path, '/');
	const char *name = slash ? slash + 1 : trace_path;
	snprintf(guest->name, sizeof(guest->name), "%.*s", (int)strcspn(name, "."), name);
}

/* Decides which guest has which trace, and whether the host has room for them. */
static enum cmd_exit plan_guests(struct guests *guests)
{
	if (guests->count == 0)
		guests->count = guests->trace_count;
	guests->guest = calloc(guests->count, sizeof(*guests->guest));
	const struct gmm__trace **traces = calloc(guests->count, sizeof(const struct gmm__trace *));
	bool has_memory = guests->guest && traces;
	for (size_t i = 0; has_memory && i < guests->count; i++) {
		struct guest *guest = &guests->guest[i];
		guest->number = i;
		guest->trace = traces[i] = &guests->traces[i % guests->trace_count];
		name_guest(guest, guests->trace_paths[i % guests->trace_count]);
		guests->pages += guest->trace->pages;
	}

	struct gmm__host_memory memory;
	enum cmd_exit result = CMD_FAILED;
	if (!has_memory) {
		gmm__guests_complain(guests, "guests", strerror(ENOMEM));
	} else if (gmm__host_memory(&memory) != 0) {
		gmm__guests_complain(guests, "/proc/meminfo", strerror(errno));
	} else if (guests->pages > memory.available_bytes / 10 * 9 / GMM_PAGE_SIZE) {
		fprintf(stderr,
			"gmm-dedup %s: %zu VMs need %" PRIu64 " MiB, and the host has %" PRIu64
			" MiB available, of which the VMs may take nine tenths at most\n",
			guests->verb, guests->count, guests->pages * GMM_PAGE_SIZE >> 20,
			memory.available_bytes >> 20);
	} else if (gmm__trace_oracle(traces, guests->count, &guests->oracle_pages) != 0) {
		gmm__guests_complain(guests, "oracle", strerror(ENOMEM));
	} else {
		result = CMD_OK;
	}
	free(traces);
	return result;
}

static int create_guest(struct guest *guest, struct gmm *gmm)
{
	struct gmm_vm_options options;
	gmm_vm_options_init(&options);
	options.name = guest->name;
	int status = gmm_vm_create(gmm, &options, &guest->vm);
	if (status != GMM_OK)
		return status;
	void *ram;
	status = gmm_vm_create_ram(guest->vm, 0, guest->trace->pages * GMM_PAGE_SIZE, &ram);
	if (status != GMM_OK)
		return status;
	guest->ram = ram;
	for (uint64_t page = 0; page < guest->trace->pages; page++)
		gmm__trace_fill(guest->ram + page * GMM_PAGE_SIZE, gmm__trace_word(guest->trace, page));
	return GMM_OK;
}

enum cmd_exit gmm__guests_plan(struct guests *guests)
{
	if (guests->max_mappings)
		warn_about_mappings(guests);
	enum cmd_exit result = open_traces(guests);
	return result == CMD_OK ? plan_guests(guests) : result;
}

bool gmm__guests_create(struct guests *guests)
{
	struct gmm_options engine;
	gmm_options_init(&engine);
	engine.log = log_problem;
	engine.log_arg = guests;
	engine.max_mappings = guests->max_mappings;
	engine.window_ms = 0; /* nobody writes before we say so */
	engine.cpu_percent = 0;
	engine.pass_interval_ms = GUESTS_PASS_INTERVAL_MS;
	if (!gmm__guests_succeeded(
		    guests, gmm_instance_open(&engine, &guests->gmm), "cannot share memory on this host"))
		return false;
	for (size_t i = 0; i < guests->count; i++) {
		gmm__guests_progress("filling VM %zu of %zu", i + 1, guests->count);
		if (!gmm__guests_succeeded(
			    guests, create_guest(&guests->guest[i], guests->gmm), guests->guest[i].name))
			return false;
	}
	return true;
}

bool gmm__guests_settle(struct guests *guests, uint64_t *ret_wall_ns)
{
	uint64_t start_ns = gmm__host_now_ns();
	if (!gmm__guests_succeeded(guests, gmm_engine_start(guests->gmm), "cannot start the engine"))
		return false;
	for (;;) {
		int status = gmm_engine_wait_settled(guests->gmm, SETTLE_POLL_MS);
		uint64_t passed_ns = gmm__host_now_ns() - start_ns;
		if (status != GMM_ERR_TIMEOUT || passed_ns > SETTLE_DEADLINE_NS) {
			*ret_wall_ns = passed_ns;
			return gmm__guests_succeeded(guests, status, "the engine did not settle");
		}
		struct gmm_stats stats;
		if (!gmm__guests_succeeded(guests, gmm_instance_stats(guests->gmm, &stats), "statistics"))
			return false;
		gmm__guests_progress("sharing: %.1f s, saved %.1f of %.1f MiB", (double)passed_ns / 1e9,
			gmm__guests_mib(gmm__guests_saved_pages(&stats)),
			gmm__guests_mib((int64_t)guests->oracle_pages));
	}
}

bool gmm__guests_free(struct guests *guests)
{
	bool is_clean = !guests->gmm ||
			gmm__guests_succeeded(guests, gmm_engine_stop(guests->gmm), "cannot stop the engine");
	for (size_t i = 0; guests->guest && i < guests->count; i++)
		if (guests->guest[i].vm &&
			!gmm__guests_succeeded(guests, gmm_vm_destroy(guests->guest[i].vm, GMM_RAM_DISCARD),
				guests->guest[i].name))
			is_clean = false;
	if (guests->gmm && !gmm__guests_succeeded(guests, gmm_instance_close(guests->gmm), "cannot close"))
		is_clean = false;
	for (size_t i = 0; guests->traces && i < guests->trace_count; i++)
		if (guests->traces[i].pages)
			gmm__trace_close(&guests->traces[i]);
	free(guests->guest);
	free(guests->traces);
	free(guests->trace_paths);
	return is_clean;
}
