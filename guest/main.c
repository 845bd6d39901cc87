/* gmm-guest: runs in a Linux guest and tells the host which pages of its memory hold which file (docs/guest-agent.md).
 *
 * One thread, one connection. A session starts when the port opens or the host asks for it; a round of it looks at all
 * processes, says what has changed, and waits. Between rounds the agent keeps digests only.
 */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>

#include "guest/collect.h"
#include "guest/port.h"
#include "guest/sender.h"

#define DEFAULT_PORT "/dev/virtio-ports/org.gmm-dedup.0"

enum { DEFAULT_INTERVAL_S = 60, INTERVAL_MAX_S = 86400, RETRY_MAX_S = 30, ASKED_MIN_S = 1, USAGE = 2 };

struct options {
	const char *port;
	unsigned cid, vsock_port;
	unsigned interval_s;
	bool once;
	const char *proc, *sys;
};

static volatile sig_atomic_t stop;

static void on_signal(int signal)
{
	(void)signal;
	stop = 1;
}

static void print_usage(FILE *to)
{
	fprintf(to, "usage: gmm-guest [--port PATH | --vsock CID:PORT] [--interval SECONDS] [--once]\n"
		    "\n"
		    "Tells the host which pages of this guest's memory hold which file, so that equal ones of\n"
		    "several guests can be shared at once. Needs root.\n"
		    "\n"
		    "  --port PATH         virtio-serial port; default " DEFAULT_PORT "\n"
		    "  --vsock CID:PORT    a vsock address instead; the host is CID 2\n"
		    "  --interval SECONDS  between two reports; default 60. The host may ask for one at any time\n"
		    "  --once              one report, then end\n"
		    "  --proc DIR, --sys DIR  where these are mounted; default /proc and /sys\n"
		    "  --help, --version\n");
}

static bool parse_number(const char *text, unsigned long max, unsigned *ret_number)
{
	char *end;
	unsigned long number;

	errno = 0;
	number = strtoul(text, &end, 10);
	if (errno || end == text || *end || text[0] == '-' || number > max)
		return false;
	*ret_number = (unsigned)number;
	return true;
}

static bool parse_vsock(char *text, struct options *options)
{
	char *colon = strchr(text, ':');

	if (!colon)
		return false;
	*colon = 0;
	options->port = NULL;
	return parse_number(text, UINT32_MAX, &options->cid) && parse_number(colon + 1, UINT32_MAX, &options->vsock_port);
}

/* Returns an exit status, or -1 to go on. */
static int parse_options(int argc, char **argv, struct options *options)
{
	static const struct option known[] = {
		{ "port", required_argument, NULL, 'p' },     { "vsock", required_argument, NULL, 'v' },
		{ "interval", required_argument, NULL, 'i' }, { "once", no_argument, NULL, 'o' },
		{ "proc", required_argument, NULL, 'P' },     { "sys", required_argument, NULL, 'S' },
		{ "help", no_argument, NULL, 'h' },           { "version", no_argument, NULL, 'V' },
		{ 0 },
	};
	bool good = true;
	int option;

	while (good && (option = getopt_long(argc, argv, "", known, NULL)) >= 0) {
		switch (option) {
		case 'p': options->port = optarg; break;
		case 'v': good = parse_vsock(optarg, options); break;
		case 'i':
			good = parse_number(optarg, INTERVAL_MAX_S, &options->interval_s) && options->interval_s > 0;
			break;
		case 'o': options->once = true; break;
		case 'P': options->proc = optarg; break;
		case 'S': options->sys = optarg; break;
		case 'h': print_usage(stdout); return EXIT_SUCCESS;
		case 'V': puts("gmm-guest " GMM_VERSION); return EXIT_SUCCESS;
		default: good = false;
		}
	}
	if (good && optind == argc)
		return -1;
	print_usage(stderr);
	return USAGE;
}

static uint64_t random_session(void)
{
	uint64_t session = 0;

	/* Early in the boot there may be no randomness yet; the number serves people who read logs. */
	if (getrandom(&session, sizeof session, GRND_NONBLOCK) != sizeof session)
		session = 0;
	return session;
}

/* One look at everything, and a report. False when the connection is gone, or to stop. */
static bool do_round(const struct options *options, struct files *files, struct sender *sender)
{
	struct kernel kernel;
	bool has_kernel, sent;

	if (!collect_files(options->proc, files, &stop))
		return false;
	has_kernel = kernel_find(options->proc, options->sys, &kernel);
	sent = sender_report(sender, files, has_kernel ? &kernel : NULL);
	files_clear(files);
	return sent;
}

/* From HELLO until the connection is gone or the host wants another session. Returns why. */
static enum port_event do_session(const struct options *options, struct port *port, struct files *files,
				  struct sender *sender)
{
	enum port_event event;

	if (!sender_start(sender, random_session()))
		return PORT_GONE;
	do {
		if (!do_round(options, files, sender))
			return stop ? PORT_STOP : PORT_GONE;
		if (options->once)
			return PORT_STOP;
		/* A host that asks all the time does not keep the guest busy. */
		event = port_wait(port, options->interval_s);
		if (event == PORT_CHANGES || event == PORT_ALL)
			if (port_wait(&(struct port){ .fd = -1, .stop = &stop, .signals = port->signals },
				      ASKED_MIN_S) == PORT_STOP)
				return PORT_STOP;
	} while (event == PORT_TIME || event == PORT_CHANGES);
	return event;
}

static int run(const struct options *options, struct port *port, struct files *files, struct sender *sender)
{
	enum port_event event = PORT_GONE;
	int told = 0; /* the error that was printed last */
	unsigned retry_s = 1;

	while (!stop) {
		int error = event == PORT_ALL ? 0 : port_open(port);
		if (error == 0) {
			told = 0;
			retry_s = 1;
			event = do_session(options, port, files, sender);
			if (event == PORT_STOP)
				break;
			if (event == PORT_ALL)
				continue;
			port_close(port);
			error = ENOTCONN;
		}
		if (error != told && error != EINTR)
			fprintf(stderr, "gmm-guest: %s: %s\n", port->path ? port->path : "vsock", strerror(error));
		if (options->once)
			return EXIT_FAILURE;
		told = error;
		event = port_wait(port, retry_s);
		retry_s = retry_s * 2 < RETRY_MAX_S ? retry_s * 2 : RETRY_MAX_S;
	}
	return EXIT_SUCCESS;
}

/* Without SA_RESTART: a signal also ends a call that waits. */
static void prepare_signals(sigset_t *ret_signals)
{
	static const int ends[] = { SIGTERM, SIGINT, SIGHUP };
	const struct sigaction action = { .sa_handler = on_signal };

	signal(SIGPIPE, SIG_IGN);
	sigemptyset(ret_signals);
	for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
		sigaddset(ret_signals, ends[i]);
		sigaction(ends[i], &action, NULL);
	}
}

int main(int argc, char **argv)
{
	struct options options = {
		.port = DEFAULT_PORT, .interval_s = DEFAULT_INTERVAL_S, .proc = "/proc", .sys = "/sys",
	};
	struct files files;
	struct sender *sender;
	struct port port;
	sigset_t signals;
	int status = parse_options(argc, argv, &options);

	if (status >= 0)
		return status;
	if (!collect_is_allowed(options.proc)) {
		fprintf(stderr, "gmm-guest: %s/self/pagemap does not show where pages are; is this root?\n", options.proc);
		return EXIT_FAILURE;
	}
	setpriority(PRIO_PROCESS, 0, 19); /* whatever the guest does is more important */
	prepare_signals(&signals);
	port_init(&port, options.port, &stop, &signals);
	port.cid = options.cid;
	port.vsock_port = options.vsock_port;
	sender = sender_new(port_send, &port);
	if (!sender || !files_init(&files)) {
		fprintf(stderr, "gmm-guest: no memory\n");
		sender_free(sender);
		return EXIT_FAILURE;
	}
	status = run(&options, &port, &files, sender);
	port_close(&port);
	files_free(&files);
	sender_free(sender);
	return status;
}
