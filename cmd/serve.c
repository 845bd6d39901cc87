/* `gmm-dedup serve`: the service that lets VMs of different processes share pages.
 *
 * It prepares its runtime directory if it may mount, or finds it prepared (by `serve --prepare`, which a unit file runs
 * with the rights that the service itself does without).
 */
#include <errno.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "cmd/cmd.h"
#include "service/service.h"

struct serve {
	const char *socket, *config, *runtime_dir, *metrics, *owner;
	bool prepare;
};

enum { OPTION_SOCKET = 's', OPTION_CONFIG = 'c', OPTION_RUNTIME_DIR = 'r', OPTION_METRICS = 'm', OPTION_PREPARE = 'p' };

static error_t parse_option(int key, char *text, struct argp_state *state)
{
	struct serve *serve = state->input;

	switch (key) {
	case OPTION_SOCKET:
		serve->socket = text;
		return 0;
	case OPTION_CONFIG:
		serve->config = text;
		return 0;
	case OPTION_RUNTIME_DIR:
		serve->runtime_dir = text;
		return 0;
	case OPTION_METRICS:
		serve->metrics = text;
		return 0;
	case OPTION_PREPARE:
		serve->prepare = true;
		serve->owner = text;
		return 0;
	case ARGP_KEY_ARG:
		argp_error(state, "unexpected argument '%s'", text);
		return EINVAL;
	case ARGP_KEY_END:
		if (serve->socket && (serve->socket[0] != '/' || strlen(serve->socket) > 107))
			argp_error(state, "--socket: '%s' is not an absolute path of at most 107 bytes", serve->socket);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp_option options[] = {
	{ "socket", OPTION_SOCKET, "PATH", 0, "where to listen; default /run/gmm-dedup/socket", 0 },
	{ "config", OPTION_CONFIG, "FILE", 0, "configuration; SIGHUP reads it again", 0 },
	{ "runtime-dir", OPTION_RUNTIME_DIR, "DIR", 0, "where the pool lives; default /run/gmm-dedup", 0 },
	{ "metrics", OPTION_METRICS, "[ADDRESS:]PORT|PATH", 0,
	  "serve figures for Prometheus, at /metrics; by domain and VM at PATH, a Unix socket for this user and group only", 0 },
	{ "prepare", OPTION_PREPARE, "USER", OPTION_ARG_OPTIONAL,
	  "only make the runtime directory and its mounts, for a service that runs as USER", 0 },
	{ 0 },
};

/* The journal takes the priority from the start of a line; people who run it in a terminal need none. */
static void print_log(void *arg, enum gmm_log_level level, const char *message)
{
	static const char *const priorities[] = { SD_ERR, SD_WARNING, SD_INFO, SD_DEBUG };

	(void)arg;
	if (level != GMM_LOG_DEBUG)
		fprintf(stderr, "%sgmm-dedup: %s\n", isatty(STDERR_FILENO) ? "" : priorities[level], message);
}

static int find_owner(const char *name, uint32_t *ret_uid)
{
	const struct passwd *user = name ? getpwnam(name) : NULL;

	if (name && !user) {
		fprintf(stderr, "gmm-dedup: there is no user '%s'\n", name);
		return CMD_USAGE;
	}
	*ret_uid = user ? user->pw_uid : geteuid();
	return CMD_OK;
}

static int prepare(const struct serve *serve)
{
	uint32_t owner;
	int code = find_owner(serve->owner, &owner);

	if (code != CMD_OK)
		return code;
	int rc = gmm__store_prepare(serve->runtime_dir, owner);
	if (rc == 0)
		return CMD_OK;
	/* Without the right to mount it may be there already: opening it tells. */
	if (!serve->prepare && (rc == -EPERM || rc == -EACCES || rc == -EROFS))
		return CMD_OK;
	fprintf(stderr, "gmm-dedup: cannot prepare %s: %s\n", serve->runtime_dir, strerror(-rc));
	return CMD_FAILED;
}

static int run(const struct serve *serve)
{
	struct gmm__service_options options_of = { .runtime_dir = serve->runtime_dir, .config_path = serve->config,
						   .socket_path = serve->socket, .listener = -1, .log = print_log };
	struct gmm__service *service = NULL;

	if (sd_listen_fds(1) == 1)
		options_of.listener = SD_LISTEN_FDS_START;
	if (gmm__service_open(&options_of, &service) != GMM_OK)
		return CMD_FAILED;
	int rc = gmm__service_take_signals(service);
	if (rc == 0 && serve->metrics && (rc = gmm__service_start_metrics(service, serve->metrics)) != 0)
		fprintf(stderr, "gmm-dedup: cannot serve metrics at %s: %s\n", serve->metrics, strerror(-rc));
	if (rc == 0) {
		sd_notify(0, "READY=1");
		while (gmm__service_turn(service, -1))
			;
		sd_notify(0, "STOPPING=1");
	}
	gmm__service_close(service);
	return rc == 0 ? CMD_OK : CMD_FAILED;
}

int cmd_serve(int argc, char **argv)
{
	static const struct argp argp = { options, parse_option, NULL,
		"Lets VMs of different processes share pages. docs/service.md tells about domains and configuration.",
		NULL, NULL, NULL };
	struct serve serve = { .runtime_dir = "/run/gmm-dedup" };

	argp_parse(&argp, argc, argv, 0, NULL, &serve);
	umask(0077);
	int code = prepare(&serve);
	return code != CMD_OK || serve.prepare ? code : run(&serve);
}
