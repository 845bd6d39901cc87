/* Opening images of guest memory: what kind of file is this, and is it whole? See image.h. */
#include "cmd/image.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Files that hold guest memory or disks in a form we cannot read. As raw images they would give figures that
 * look right and mean nothing. */
static const struct {
	const char *magic;
	size_t length;
	const char *what;
} foreign_formats[] = {
	{ "KDUMP   ", 8, "a kdump-compressed dump; dump it as ELF, without compression" },
	{ "makedumpfile", 12, "a flattened makedumpfile dump; rearrange it into ELF first" },
	{ "EMiL", 4, "a LiME dump; take it in the raw format" },
	{ "QEVM", 4, "a QEMU migration stream; dump the memory as ELF" },
	{ "QFI\xfb", 4, "a qcow2 disk image" },
	{ "\x1f\x8b", 2, "compressed with gzip; decompress it first" },
	{ "\xfd"
	  "7zXZ",
		5, "compressed with xz; decompress it first" },
	{ "\x28\xb5\x2f\xfd", 4, "compressed with zstd; decompress it first" },
};

int gmm__image_fail(struct gmm__image_error *ret_error, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(ret_error->text, sizeof(ret_error->text), format, args);
	va_end(args);
	return -1;
}

const char *gmm__image_format_name(enum gmm__image_format format)
{
	switch (format) {
	case IMAGE_RAW:
		return "raw";
	case IMAGE_ELF:
		return "elf";
	case IMAGE_TRACE:
		return "trace";
	default:
		return "auto";
	}
}

static bool has_suffix(const char *text, const char *suffix)
{
	size_t length = strlen(text), suffix_length = strlen(suffix);

	return length >= suffix_length && strcmp(text + length - suffix_length, suffix) == 0;
}

static int detect_format(struct gmm__image *image, struct gmm__image_error *ret_error)
{
	char head[16] = { 0 };

	if (has_suffix(image->path, ".u64")) {
		image->format = IMAGE_TRACE;
		return 0;
	}
	if (pread(image->fd, head, sizeof(head), 0) < 0)
		return gmm__image_fail(ret_error, "cannot be read: %s", strerror(errno));
	if (memcmp(head, ELFMAG, SELFMAG) == 0) {
		image->format = IMAGE_ELF;
		return 0;
	}
	for (size_t i = 0; i < sizeof(foreign_formats) / sizeof(foreign_formats[0]); i++) {
		if (memcmp(head, foreign_formats[i].magic, foreign_formats[i].length) == 0)
			return gmm__image_fail(
				ret_error, "is %s (--format raw takes it as it is)", foreign_formats[i].what);
	}
	image->format = IMAGE_RAW;
	return 0;
}

/* Raw images and traces: one extent of units of unit_bytes, one for each page. */
static int parse_flat(struct gmm__image *image, uint64_t unit_bytes, struct gmm__image_error *ret_error)
{
	uint64_t units = (image->size_bytes + unit_bytes - 1) / unit_bytes;

	if (image->size_bytes % unit_bytes != 0)
		return gmm__image_fail(ret_error,
			"truncated: needs %" PRIu64 " bytes, has %" PRIu64 " (a %s is a multiple of %" PRIu64
			")",
			units * unit_bytes, image->size_bytes,
			image->format == IMAGE_RAW ? "raw image" : "trace", unit_bytes);
	image->extents = malloc(sizeof(*image->extents));
	if (!image->extents)
		return gmm__image_fail(ret_error, "not enough memory");
	image->extents[0] = (struct gmm__image_extent){ .gfn = 0, .pages = units, .offset = 0 };
	image->extent_count = 1;
	image->pages = units;
	return 0;
}

static int check_file(struct gmm__image *image, struct gmm__image_error *ret_error)
{
	struct stat st;

	if (fstat(image->fd, &st) < 0)
		return gmm__image_fail(ret_error, "cannot be examined: %s", strerror(errno));
	if (S_ISDIR(st.st_mode))
		return gmm__image_fail(ret_error, "is a directory");
	if (!S_ISREG(st.st_mode))
		return gmm__image_fail(ret_error, "is not a regular file");
	if (st.st_size == 0)
		return gmm__image_fail(ret_error, "is empty");
	image->size_bytes = (uint64_t)st.st_size;
	return 0;
}

static int parse(struct gmm__image *image, struct gmm__image_error *ret_error)
{
	if (check_file(image, ret_error) < 0)
		return -1;
	if (image->format == IMAGE_AUTO && detect_format(image, ret_error) < 0)
		return -1;
	switch (image->format) {
	case IMAGE_ELF:
		return gmm__image_parse_elf(image, ret_error);
	case IMAGE_TRACE:
		return parse_flat(image, IMAGE_TRACE_WORD_BYTES, ret_error);
	default:
		return parse_flat(image, IMAGE_PAGE_BYTES, ret_error);
	}
}

int gmm__image_open(const char *path, enum gmm__image_format format, struct gmm__image *ret_image,
	struct gmm__image_error *ret_error)
{
	struct gmm__image image = { .path = path, .format = format };

	/* O_NONBLOCK: opening a pipe by mistake must not hang; regular files do not care. */
	image.fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (image.fd < 0)
		return gmm__image_fail(ret_error, "cannot be opened: %s", strerror(errno));
	if (parse(&image, ret_error) < 0) {
		gmm__image_close(&image);
		return -1;
	}
	*ret_image = image;
	return 0;
}

void gmm__image_close(struct gmm__image *image)
{
	free(image->extents);
	close(image->fd);
}
