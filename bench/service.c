/* service: what it costs to share through the service, for many processes at once, and what many that die at random do
 * to those that go on.
 *
 * Each client is a process with a small VM: some pages are the same in all, the rest are unlike any other. Measured
 * are the time until all that is equal is shared, the CPU time and the memory of the service, and what it costs when nothing
 * happens. Then clients are killed at random moments and new ones take their places, while all write to their pages
 * and compare them. In the end every byte of every VM and the accounts of the service are checked. */
#include "bench/verbs.h"

#include "bench/clock.h"
#include "bench/options.h"
#include "bench/service.h"
#include "bench/util.h"
#include "cmd/host.h"

#include <stdlib.h>
#include <string.h>

enum { KILL_GAP_NS = 40 * BENCH_NS_PER_MS }; /* at most, between two kills */

struct service_arg {
	struct clients clients;
	uint64_t kills;
	double idle_seconds, timeout_seconds;
	bool json;
};

static uint64_t number(const json_t *status, const char *part, const char *field)
{
	return (uint64_t)json_integer_value(json_object_get(json_object_get(status, part), field));
}

static void wait_for(const struct service_arg *arg, uint64_t shared, bool complete, const char *what)
{
	if (!gmm__bench_clients_wait(&arg->clients, shared, complete, arg->timeout_seconds))
		gmm__bench_fail("%s not in %.0f s", what, arg->timeout_seconds);
}

static void measure_start(struct service_arg *arg, const struct service_host *host, json_t *result)
{
	struct clients *clients = &arg->clients;
	json_t *before = gmm__bench_service_status(host);
	uint64_t bytes = gmm__bench_service_bytes(host), start_ns = gmm__host_now_ns();

	for (unsigned i = 0; i < clients->count; i++)
		gmm__bench_client_start(clients, i);
	wait_for(arg, clients->equal_pages, false, "the first sharing was");
	double wall = gmm__bench_seconds(gmm__host_now_ns() - start_ns);
	json_t *status = gmm__bench_service_status(host);
	double cpu = gmm__bench_seconds(number(status, "service", "cpu_ns") - number(before, "service", "cpu_ns"));
	uint64_t offered = number(status, "service", "offered_pages");
	gmm__bench_set_real(result, "wall_seconds", wall);
	gmm__bench_set_real(result, "service_cpu_seconds", cpu);
	gmm__bench_set_count(result, "offered_pages", offered);
	gmm__bench_set_real(result, "offers_per_second", (double)offered / wall);
	gmm__bench_set_real(result, "offers_per_cpu_second", (double)offered / cpu);
	gmm__bench_set_count(result, "messages", number(status, "service", "messages"));
	gmm__bench_set_count(result, "service_bytes_per_client",
			     (gmm__bench_service_bytes(host) - bytes) / clients->count);
	gmm__bench_set_count(result, "metadata_bytes", number(status, "service", "metadata_bytes"));
	json_decref(before);
	json_decref(status);
}

static void measure_idle(const struct service_arg *arg, const struct service_host *host, json_t *result)
{
	json_t *before = gmm__bench_service_status(host);
	uint64_t start_ns = gmm__host_now_ns();

	gmm__bench_sleep_ns((uint64_t)(arg->idle_seconds * BENCH_NS_PER_S));
	json_t *after = gmm__bench_service_status(host);
	double wall = gmm__bench_seconds(gmm__host_now_ns() - start_ns);
	gmm__bench_set_real(result, "idle_cpu_percent",
			    100 * gmm__bench_seconds(number(after, "service", "cpu_ns") -
						     number(before, "service", "cpu_ns")) / wall);
	gmm__bench_set_real(result, "idle_messages_per_second",
			    (double)(number(after, "service", "messages") - number(before, "service", "messages")) / wall);
	json_decref(before);
	json_decref(after);
}

static void kill_at_random(struct service_arg *arg, json_t *result)
{
	struct clients *clients = &arg->clients;
	uint64_t dice = 88172645463325252u, start_ns = gmm__host_now_ns(), checked = 0;
	uint64_t end_ns = start_ns + (uint64_t)(arg->timeout_seconds * BENCH_NS_PER_S);

	*clients->work = WORK_WRITE;
	for (uint64_t n = 0; n < arg->kills; n++) {
		unsigned i = (unsigned)(gmm__bench_random(&dice) % clients->count);
		gmm__bench_sleep_ns(gmm__bench_random(&dice) % KILL_GAP_NS);
		if (gmm__host_now_ns() > end_ns)
			gmm__bench_fail("only %lu of %lu clients were killed and replaced in %.0f s", n, arg->kills,
					arg->timeout_seconds);
		checked += clients->report[i].checked_pages;
		gmm__bench_client_kill(clients, i);
		gmm__bench_client_start(clients, i);
		if (n % 16 == 0)
			gmm__bench_clients_check(clients);
	}
	double wall = gmm__bench_seconds(gmm__host_now_ns() - start_ns);
	*clients->work = WORK_CHECK;
	start_ns = gmm__host_now_ns();
	wait_for(arg, 0, true, "the check of all bytes was");
	gmm__bench_set_count(result, "kills", arg->kills);
	gmm__bench_set_real(result, "kills_per_second", (double)arg->kills / wall);
	gmm__bench_set_count(result, "pages_checked_meanwhile",
			     checked + gmm__bench_clients_checked_pages(clients));
	gmm__bench_set_real(result, "seconds_until_checked", gmm__bench_seconds(gmm__host_now_ns() - start_ns));
}

static size_t connected(const json_t *status)
{
	const json_t *client;
	size_t i, n = 0;

	json_array_foreach(json_object_get(status, "clients"), i, client)
		n += strcmp(json_string_value(json_object_get(client, "state")), "connected") == 0;
	return n;
}

/* Everybody that was killed is gone, and the accounts can be compared and are right. */
static void check_service(const struct service_arg *arg, const struct service_host *host, json_t *result)
{
	uint64_t end_ns = gmm__host_now_ns() + (uint64_t)(arg->timeout_seconds * BENCH_NS_PER_S);
	bool settled = false, right = true;
	json_t *status = NULL;

	while (right && !settled && gmm__host_now_ns() < end_ns) {
		json_decref(status);
		status = gmm__bench_service_status(host);
		const json_t *accounts = json_object_get(status, "accounts");
		right = json_is_true(json_object_get(accounts, "right"));
		settled = json_is_true(json_object_get(accounts, "certain")) &&
			  json_array_size(json_object_get(status, "clients")) == arg->clients.count;
		gmm__bench_sleep_ns(50 * BENCH_NS_PER_MS);
	}
	if (!right)
		gmm__bench_fail("the accounts are wrong: %s", json_string_value(json_object_get(
			json_object_get(status, "accounts"), "broken")));
	if (!settled)
		gmm__bench_fail("%zu clients are left, %zu of them connected, of %u", json_array_size(json_object_get(
			status, "clients")), connected(status), arg->clients.count);
	const json_t *domain = json_array_get(json_object_get(status, "domains"), 0);
	gmm__bench_set_count(result, "connections", number(status, "service", "connections"));
	gmm__bench_set_count(result, "violations", number(status, "service", "violations"));
	gmm__bench_set_count(result, "saved_pages", (uint64_t)json_integer_value(json_object_get(domain, "saved_pages")));
	gmm__bench_set_count(result, "oracle_pages", (arg->clients.count - 1) * arg->clients.equal_pages);
	json_object_set_new(result, "verified", json_true());
	json_decref(status);
}

/* ---- the verb -------------------------------------------------------------------------------------------- */

enum { OPTION_EQUAL = 256, OPTION_IDLE, OPTION_TIMEOUT };

static error_t parse(int key, char *text, struct argp_state *state)
{
	struct service_arg *arg = state->input;

	switch (key) {
	case 'n':
		arg->clients.count = (unsigned)gmm__bench_option_number(state, text, 2, 2048);
		return 0;
	case 'p':
		arg->clients.pages = (uint64_t)gmm__bench_option_number(state, text, 1, 1 << 20);
		return 0;
	case OPTION_EQUAL:
		arg->clients.equal_pages = (uint64_t)gmm__bench_option_number(state, text, 1, 1 << 20);
		return 0;
	case 'k':
		arg->kills = (uint64_t)gmm__bench_option_number(state, text, 0, 1e6);
		return 0;
	case OPTION_IDLE:
		arg->idle_seconds = gmm__bench_option_number(state, text, 0.1, 3600);
		return 0;
	case OPTION_TIMEOUT:
		arg->timeout_seconds = gmm__bench_option_number(state, text, 1, 1e5);
		return 0;
	case 'j':
		arg->json = true;
		return 0;
	case ARGP_KEY_END:
		if (arg->clients.equal_pages > arg->clients.pages)
			argp_error(state, "more equal pages than pages");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

int bench_service(int argc, char **argv)
{
	static const struct argp_option option_list[] = {
		{ "clients", 'n', "N", 0, "Processes. Default 256", 0 },
		{ "pages", 'p', "N", 0, "RAM of each, in pages. Default 512", 0 },
		{ "equal-pages", OPTION_EQUAL, "N", 0, "The same in all. Default 384", 0 },
		{ "kills", 'k', "N", 0, "Clients that are killed and replaced. Default 1000", 0 },
		{ "idle-seconds", OPTION_IDLE, "N", 0, "How long to measure when nothing happens. Default 5", 0 },
		{ "timeout", OPTION_TIMEOUT, "SECONDS", 0, "How long each part may take. Default 300", 0 },
		{ "json", 'j', NULL, 0, "Print one JSON object", 0 },
		{ 0 },
	};
	static const struct argp argp = { .options = option_list, .parser = parse,
		.doc = "Measures the sharing service with many processes, and kills them at random while the others' bytes are "
		       "checked. Starts a service of its own; needs root." };
	struct service_arg arg = { .clients = { .count = 256, .pages = 512, .equal_pages = 384 }, .kills = 1000,
				   .idle_seconds = 5, .timeout_seconds = 300 };
	json_t *result = json_object();
	static struct service_host host;

	argp_parse(&argp, argc, argv, 0, NULL, &arg);
	gmm__bench_service_start(&host);
	gmm__bench_clients_make(&arg.clients, host.socket);
	gmm__bench_set_count(result, "clients", arg.clients.count);
	gmm__bench_set_count(result, "pages_per_client", arg.clients.pages);
	measure_start(&arg, &host, result);
	measure_idle(&arg, &host, result);
	kill_at_random(&arg, result);
	check_service(&arg, &host, result);
	for (unsigned i = 0; i < arg.clients.count; i++)
		gmm__bench_client_kill(&arg.clients, i);
	struct bench_options print = { .json = arg.json };
	gmm__bench_print(result, &print);
	free(arg.clients.pid);
	return EXIT_SUCCESS;
}
