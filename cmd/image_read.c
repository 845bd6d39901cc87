/* Reading an image: every page becomes a digest and a kind.
 *
 * The file is mapped a window at a time and unmapped behind us, with MADV_SEQUENTIAL, so that our own memory
 * stays small and the kernel reclaims what we have read before anything that others use. Holes of sparse
 * files are found with SEEK_DATA and not read at all.
 *
 * Touching a page of a mapped file that was cut short, or whose disk fails, gives SIGBUS. The handler jumps
 * back into read_window, which gives up the image with an error.
 */
#include "cmd/image.h"

#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <xxhash.h>

#define WINDOW_BYTES (8ull << 20)

/* The only fill pages that can be recognised in a trace: their digests are known. */
#define DIGEST_OF_CC_PAGE 2207495626618058349ull /* all bytes 0xCC */
#define DIGEST_OF_FF_PAGE 526070969564208598ull  /* all bytes 0xFF */

/* The window being read. Written by the reading thread, read by its own signal handler. */
static struct {
	sigjmp_buf env;
	const char *volatile start; /* NULL: no window is being read */
	volatile size_t bytes;
} guard;

static void on_sigbus(int signo, siginfo_t *info, void *context)
{
	uintptr_t offset = (uintptr_t)info->si_addr - (uintptr_t)guard.start;

	(void)context;
	if (guard.start && offset < guard.bytes)
		siglongjmp(guard.env, 1);
	/* Not ours: let the default action happen when the instruction runs again. */
	signal(signo, SIG_DFL);
}

static void digest_page(const unsigned char *page, uint64_t *ret_digest, uint8_t *ret_kind)
{
	uint64_t word;

	memcpy(&word, page, sizeof(word));
	/* Each word equals the one before it: the page repeats its first word. */
	if (memcmp(page, page + sizeof(word), IMAGE_PAGE_BYTES - sizeof(word)) != 0)
		*ret_kind = IMAGE_PAGE_PLAIN;
	else
		*ret_kind = word == 0 ? IMAGE_PAGE_ZERO : IMAGE_PAGE_FILL;
	*ret_digest = *ret_kind == IMAGE_PAGE_ZERO ? 0 : XXH3_64bits(page, IMAGE_PAGE_BYTES);
}

static void trace_page(const unsigned char *entry, uint64_t *ret_digest, uint8_t *ret_kind)
{
	uint64_t word = 0;

	for (unsigned i = 0; i < IMAGE_TRACE_WORD_BYTES; i++)
		word |= (uint64_t)entry[i] << (8 * i);
	*ret_digest = word;
	if (word == 0)
		*ret_kind = IMAGE_PAGE_ZERO;
	else if (word == DIGEST_OF_CC_PAGE || word == DIGEST_OF_FF_PAGE)
		*ret_kind = IMAGE_PAGE_FILL;
	else
		*ret_kind = IMAGE_PAGE_PLAIN;
}

static uint64_t unit_bytes(const struct gmm__image *image)
{
	return image->format == IMAGE_TRACE ? IMAGE_TRACE_WORD_BYTES : IMAGE_PAGE_BYTES;
}

/* Says what was wrong when the bytes at hand cannot be trusted; 0 if the file is as long as it was. */
static int check_size(const struct gmm__image *image, struct gmm__image_error *ret_error)
{
	struct stat st;

	if (fstat(image->fd, &st) < 0)
		return gmm__image_fail(ret_error, "cannot be examined: %s", strerror(errno));
	if ((uint64_t)st.st_size != image->size_bytes)
		return gmm__image_fail(ret_error,
			"changed while reading: had %" PRIu64 " bytes, now has %" PRIu64, image->size_bytes,
			(uint64_t)st.st_size);
	return 0;
}

/* Digests pages whose bytes are mapped. Returns false if the file could not give them. */
static bool digest_mapped(const struct gmm__image *image, const unsigned char *bytes, uint64_t pages,
	uint64_t *digests, uint8_t *kinds)
{
	uint64_t unit = unit_bytes(image);

	if (sigsetjmp(guard.env, 1) != 0) {
		guard.start = NULL;
		return false;
	}
	guard.bytes = pages * unit;
	guard.start = (const char *)bytes;
	for (uint64_t i = 0; i < pages; i++) {
		if (image->format == IMAGE_TRACE)
			trace_page(bytes + i * unit, &digests[i], &kinds[i]);
		else
			digest_page(bytes + i * unit, &digests[i], &kinds[i]);
	}
	guard.start = NULL;
	return true;
}

/* Reads pages whose bytes start at offset; at most a window. */
static int read_window(const struct gmm__image *image, uint64_t offset, uint64_t pages, uint64_t *digests,
	uint8_t *kinds, struct gmm__image_error *ret_error)
{
	uint64_t lead = offset % (uint64_t)sysconf(_SC_PAGESIZE); /* mmap wants whole pages of the file */
	size_t length = lead + pages * unit_bytes(image);
	unsigned char *map = mmap(NULL, length, PROT_READ, MAP_SHARED, image->fd, (off_t)(offset - lead));
	bool whole;

	if (map == MAP_FAILED)
		return gmm__image_fail(ret_error, "cannot be mapped: %s", strerror(errno));
	madvise(map, length, MADV_SEQUENTIAL); /* only advice */
	whole = digest_mapped(image, map + lead, pages, digests, kinds);
	munmap(map, length);
	if (whole)
		return 0;
	if (check_size(image, ret_error) < 0)
		return -1;
	return gmm__image_fail(ret_error, "cannot be read: input/output error near byte %" PRIu64, offset);
}

/* How many of the pages at offset lie in a hole of the file, or, with data true, may not. File systems that
 * know no holes say that everything is data. */
static uint64_t pages_until(const struct gmm__image *image, uint64_t offset, uint64_t pages, bool data)
{
	uint64_t unit = unit_bytes(image);
	off_t end = lseek(image->fd, (off_t)offset, data ? SEEK_HOLE : SEEK_DATA);
	uint64_t count;

	if (end < 0)
		return data || errno == ENXIO ? pages : 0;
	/* A page that is partly data has to be read. */
	count = ((uint64_t)end - offset + (data ? unit - 1 : 0)) / unit;
	return count < pages ? count : pages;
}

static int read_extent(const struct gmm__image *image, const struct gmm__image_extent *extent,
	uint64_t *digests, uint8_t *kinds, struct gmm__image_error *ret_error)
{
	uint64_t unit = unit_bytes(image), window_pages = WINDOW_BYTES / unit, done = 0;

	while (done < extent->pages) {
		uint64_t offset = extent->offset + done * unit;
		uint64_t pages = pages_until(image, offset, extent->pages - done, false);

		if (pages > 0) {
			memset(&digests[done], 0, pages * sizeof(*digests));
			memset(&kinds[done], IMAGE_PAGE_ZERO, pages);
			done += pages;
			continue;
		}
		pages = pages_until(image, offset, extent->pages - done, true);
		/* 0 when the hole was made between the two questions: read a page of it. */
		if (pages == 0)
			pages = 1;
		if (pages > window_pages)
			pages = window_pages;
		if (read_window(image, offset, pages, &digests[done], &kinds[done], ret_error) < 0)
			return -1;
		done += pages;
	}
	return 0;
}

int gmm__image_read(
	const struct gmm__image *image, uint64_t *digests, uint8_t *kinds, struct gmm__image_error *ret_error)
{
	struct sigaction action = { .sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO }, before;
	uint64_t done = 0, next_gfn = UINT64_MAX;
	int result = 0;

	sigemptyset(&action.sa_mask);
	if (sigaction(SIGBUS, &action, &before) < 0)
		return gmm__image_fail(ret_error, "cannot catch SIGBUS: %s", strerror(errno));
	for (size_t i = 0; i < image->extent_count && result == 0; i++) {
		const struct gmm__image_extent *extent = &image->extents[i];

		result = read_extent(image, extent, &digests[done], &kinds[done], ret_error);
		if (extent->gfn != next_gfn)
			kinds[done] |= IMAGE_PAGE_BREAK;
		done += extent->pages;
		next_gfn = extent->gfn + extent->pages;
	}
	sigaction(SIGBUS, &before, NULL);
	/* A file cut inside its last mapped page reads zeros there without a signal. */
	if (result == 0)
		result = check_size(image, ret_error);
	return result;
}
