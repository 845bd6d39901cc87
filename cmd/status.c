/* `gmm-dedup status`: what the service shares, for whom, and what it costs. */
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cmd/admin.h"
#include "cmd/cmd.h"

struct status {
	const char *socket;
	bool is_json;
	bool watch;
	bool check;
};

enum { OPTION_JSON = 'j', OPTION_WATCH = 'w', OPTION_SOCKET = 's', OPTION_CHECK = 'c', WATCH_S = 2 };

static error_t parse_option(int key, char *text, struct argp_state *state)
{
	struct status *status = state->input;

	switch (key) {
	case OPTION_JSON:
		status->is_json = true;
		return 0;
	case OPTION_WATCH:
		status->watch = true;
		return 0;
	case OPTION_CHECK:
		status->check = true;
		return 0;
	case OPTION_SOCKET:
		status->socket = text;
		return 0;
	case ARGP_KEY_ARG:
		argp_error(state, "unexpected argument '%s'", text);
		return EINVAL;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp_option options[] = {
	{ "json", OPTION_JSON, NULL, 0, "print one JSON object", 0 },
	{ "watch", OPTION_WATCH, NULL, 0, "print it again every two seconds", 0 },
	{ "check", OPTION_CHECK, NULL, 0,
	  "count the service's accounts anew, which only root and the service's user may ask for; exit status 1 if they are "
	  "wrong", 0 },
	{ "socket", OPTION_SOCKET, "PATH", 0, "of the service; default " CMD_SOCKET, 0 },
	{ 0 },
};

/* ---- printing ------------------------------------------------------------------------------------------ */

static json_int_t number(const json_t *object, const char *key)
{
	return json_integer_value(json_object_get(object, key));
}

static const char *text_of(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "";
}

static double mib(json_int_t pages)
{
	return (double)pages / 256;
}

static void print_domains(const json_t *domains)
{
	const json_t *domain;
	size_t i;

	printf("%-24s %4s %10s %10s %10s %10s %10s %12s\n", "DOMAIN", "VMS", "RAM MiB", "POOL MiB", "SAVED MiB", "ZERO MiB",
	       "BROKEN", "PROFIT MiB");
	json_array_foreach(domains, i, domain)
		printf("%-24s %4" JSON_INTEGER_FORMAT " %10.1f %10.1f %10.1f %10.1f %10" JSON_INTEGER_FORMAT " %12.1f%s\n",
		       text_of(domain, "name"), number(domain, "vms"), mib(number(domain, "pages")),
		       mib(number(domain, "pool_pages")), mib(number(domain, "saved_pages")),
		       mib(number(domain, "zero_pages")), number(domain, "broken_pages"),
		       (double)number(domain, "profit_bytes") / 1048576,
		       json_is_true(json_object_get(domain, "recovering")) ? "  recovering" : "");
}

/* The states that keep pages from being shared, most frequent first would hide their order: as they are. */
static void print_refused(const json_t *states)
{
	static const char *const reasons[] = { "unique", "volatile", "nominated", "broken", "pinned", "huge", "unshareable",
					       "budget", "raced", "foreign", "swapped" };
	const char *separator = "    not shared: ";

	for (size_t i = 0; i < sizeof reasons / sizeof *reasons; i++) {
		json_int_t pages = number(states, reasons[i]);
		if (pages == 0)
			continue;
		printf("%s%s %" JSON_INTEGER_FORMAT, separator, reasons[i], pages);
		separator = ", ";
	}
	if (separator[0] == ',')
		putchar('\n');
}

static void print_vm(const json_t *vm)
{
	printf("  %-22s %-20s %9.1f %9.1f %9.1f %9.1f %9.1f\n", text_of(vm, "name"), text_of(vm, "domain"),
	       mib(number(vm, "pages")), mib(number(vm, "private_pages")), mib(number(vm, "zero_pages")),
	       mib(number(vm, "shared_pages")), mib(number(vm, "saved_pages")));
	if (text_of(vm, "note")[0])
		printf("    %s\n", text_of(vm, "note"));
	print_refused(json_object_get(vm, "states"));
}

static void print_client(const json_t *client)
{
	const json_t *vm;
	size_t i;

	printf("%" JSON_INTEGER_FORMAT " %s: %s%s, %s", number(client, "pid"), text_of(client, "program"),
	       text_of(client, "state"), json_is_true(json_object_get(client, "paused")) ? ", paused" : "",
	       json_is_true(json_object_get(client, "settled")) ? "settled" : "at work");
	if (number(client, "settle_estimate_ms"))
		printf(" for about %.1f s more", (double)number(client, "settle_estimate_ms") / 1000);
	printf(", agent %.2f s CPU, service %.2f s\n", (double)number(client, "agent_cpu_ns") / 1e9,
	       (double)number(client, "service_cpu_ns") / 1e9);
	if (text_of(client, "note")[0])
		printf("  %s\n", text_of(client, "note"));
	json_array_foreach(json_object_get(client, "vms"), i, vm)
		print_vm(vm);
}

static void print_status(const json_t *status)
{
	const json_t *client;
	size_t i;

	print_domains(json_object_get(status, "domains"));
	printf("\nPROCESS\n  %-22s %-20s %9s %9s %9s %9s %9s  MiB\n", "VM", "DOMAIN", "RAM", "PRIVATE", "ZERO", "SHARED",
	       "SAVED");
	json_array_foreach(json_object_get(status, "clients"), i, client)
		print_client(client);
	if (json_array_size(json_object_get(status, "clients")) == 0)
		puts("no process of yours shares through this service");
}

/* False: the accounts are wrong, or were not shown. */
static bool check_accounts(const json_t *status, bool is_json)
{
	const json_t *accounts = json_object_get(status, "accounts");
	bool right = json_is_true(json_object_get(accounts, "right"));

	if (!is_json)
		printf("accounts: %s\n", !accounts ? "not shown to this user" : !right ? text_of(accounts, "broken") :
		       json_is_true(json_object_get(accounts, "certain")) ? "right" : "cannot be compared at the moment");
	return right;
}

int cmd_status(int argc, char **argv)
{
	static const struct argp parser = { options, parse_option, NULL,
		"Tells what the sharing service shares: for each trust domain, and for each VM of your processes (of all, "
		"for root).", NULL, NULL, NULL };
	struct status status = { .socket = CMD_SOCKET };
	bool right = true;

	argp_parse(&parser, argc, argv, 0, NULL, &status);
	do {
		json_t *answer = gmm__cmd_ask("status", status.socket, json_pack("{s:s, s:b}", "do", "status", "check", status.check));
		if (!answer)
			return CMD_FAILED;
		if (status.is_json)
			json_dumpf(answer, stdout, JSON_INDENT(2));
		else
			print_status(answer);
		if (status.check)
			right = check_accounts(answer, status.is_json);
		putchar('\n');
		json_decref(answer);
		if (fflush(stdout) != 0)
			return CMD_FAILED;
	} while (status.watch && sleep(WATCH_S) == 0);
	return right ? CMD_OK : CMD_FAILED;
}
