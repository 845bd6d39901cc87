/* gmm-dedup estimate: a dry run on images of guest memory. Says what sharing would save without sharing
 * anything.
 *
 * All files are checked before the first is read, and every bad one is named. With a bad file there is no
 * report: its figures would be those of another set of guests.
 */
#include "cmd/estimate.h"

#include <argp.h>
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "cmd/cmd.h"

struct arguments {
	bool json;
	enum gmm__image_format format;
	char **paths; /* argv's */
	size_t path_count;
};

static const char doc[] =
	"Tells how much memory sharing equal pages would save for guests whose memory is in FILEs, and how "
	"long the runs of shared pages would be.\v"
	"A FILE is a raw RAM image (4 KiB pages), an ELF core (QEMU's dump-guest-memory, gcore, a crashed "
	"process) or, if its name ends in .u64, a trace with one 64-bit digest for each page. Files are only "
	"read, and never as a whole; memory needed is about 15 bytes for each page.\n\n"
	"The run figures take the files in the order given. A guest that still runs changes while it is "
	"read: the figures are then approximate.\n\n"
	"Exit status: 0 success, 1 a file is no good or something failed (no report then), 2 wrong usage.";

static const struct argp_option options[] = {
	{ "json", 'j', NULL, 0, "Write one JSON object", 0 },
	{ "format", 'f', "FORMAT", 0, "What all files are: auto (default), raw, elf or trace", 0 },
	{ 0 },
};

static enum gmm__image_format parse_format(const char *text, struct argp_state *state)
{
	for (enum gmm__image_format f = IMAGE_AUTO; f <= IMAGE_TRACE; f++)
		if (strcmp(text, gmm__image_format_name(f)) == 0)
			return f;
	argp_error(state, "unknown format '%s': must be auto, raw, elf or trace", text);
	return IMAGE_AUTO;
}

static error_t parse_option(int key, char *text, struct argp_state *state)
{
	struct arguments *arguments = state->input;

	switch (key) {
	case 'j':
		arguments->json = true;
		return 0;
	case 'f':
		arguments->format = parse_format(text, state);
		return 0;
	case ARGP_KEY_ARGS:
		arguments->paths = state->argv + state->next;
		arguments->path_count = (size_t)(state->argc - state->next);
		return 0;
	case ARGP_KEY_NO_ARGS:
		argp_error(state, "no FILE given");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static void complain(const char *path, const char *reason)
{
	fprintf(stderr, "gmm-dedup estimate: %s: %s\n", path, reason);
}

/* Every image stays open from its check to its reading, so that nobody can put another file in its place. */
static void allow_open_files(size_t count)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < count + 16) {
		limit.rlim_cur = count + 16 < limit.rlim_max ? count + 16 : limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
}

/* Opens all files. Returns how many are open; fewer than there are paths if some are no good. */
static size_t open_images(const struct arguments *arguments, struct gmm__image *images)
{
	struct gmm__image_error error;
	size_t opened = 0;

	allow_open_files(arguments->path_count);
	for (size_t i = 0; i < arguments->path_count; i++) {
		if (gmm__image_open(arguments->paths[i], arguments->format, &images[opened], &error) == 0)
			opened++;
		else
			complain(arguments->paths[i], error.text);
	}
	return opened;
}

static int read_images(const struct gmm__image *images, size_t count, uint64_t *digests, uint8_t *kinds)
{
	struct gmm__image_error error;
	uint64_t done = 0;
	int result = 0;

	for (size_t i = 0; i < count; i++) {
		if (gmm__image_read(&images[i], digests + done, kinds + done, &error) < 0) {
			complain(images[i].path, error.text);
			result = -1;
		}
		done += images[i].pages;
	}
	return result;
}

static int report(const struct gmm__estimate *estimate, const struct gmm__image *images, bool json)
{
	if (!json) {
		gmm__estimate_print(estimate, images, stdout);
		return CMD_OK;
	}
	if (gmm__estimate_print_json(estimate, images, stdout) == 0)
		return CMD_OK;
	fprintf(stderr, "gmm-dedup estimate: not enough memory for the report\n");
	return CMD_FAILED;
}

static int estimate_images(const struct gmm__image *images, size_t count, bool json)
{
	struct gmm__estimate estimate;
	uint64_t total_pages = 0, *image_pages = calloc(count, sizeof(*image_pages)), *digests = NULL;
	uint8_t *kinds = NULL;
	int result = CMD_FAILED;

	for (size_t i = 0; image_pages && i < count; i++) {
		image_pages[i] = images[i].pages;
		total_pages += images[i].pages;
	}
	if (total_pages > ESTIMATE_PAGES_MAX) {
		fprintf(stderr,
			"gmm-dedup estimate: %" PRIu64 " pages in all, at most %llu can be estimated\n",
			total_pages, ESTIMATE_PAGES_MAX);
		goto out;
	}
	digests = calloc(total_pages, sizeof(*digests));
	kinds = calloc(total_pages, sizeof(*kinds));
	if (!image_pages || !digests || !kinds)
		goto no_memory;
	if (read_images(images, count, digests, kinds) < 0)
		goto out;
	if (gmm__estimate_compute(digests, kinds, image_pages, count, &estimate) < 0)
		goto no_memory;
	result = report(&estimate, images, json);
	gmm__estimate_free(&estimate);
	goto out;
no_memory:
	fprintf(stderr,
		"gmm-dedup estimate: not enough memory: %" PRIu64 " pages need about %" PRIu64 " MiB\n",
		total_pages, (total_pages * 15 >> 20) + 1);
out:
	free(kinds);
	free(digests);
	free(image_pages);
	return result;
}

int cmd_estimate(int argc, char **argv)
{
	static const struct argp argp = { options, parse_option, "FILE...", doc, NULL, NULL, NULL };
	struct arguments arguments = { .format = IMAGE_AUTO };
	struct gmm__image *images;
	size_t opened;
	int result = CMD_FAILED;

	argp_err_exit_status = CMD_USAGE;
	if (argp_parse(&argp, argc, argv, 0, NULL, &arguments) != 0)
		return CMD_USAGE;
	images = calloc(arguments.path_count, sizeof(*images));
	if (!images) {
		fprintf(stderr, "gmm-dedup estimate: not enough memory\n");
		return CMD_FAILED;
	}
	opened = open_images(&arguments, images);
	if (opened == arguments.path_count)
		result = estimate_images(images, opened, arguments.json);
	for (size_t i = 0; i < opened; i++)
		gmm__image_close(&images[i]);
	free(images);
	return result;
}
