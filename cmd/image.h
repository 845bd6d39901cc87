/* Images of guest memory as files: raw RAM images, ELF cores and digest traces.
 *
 * An image is opened and checked first (gmm__image_open: header, sizes, segments), then read once from start
 * to end (gmm__image_read), which turns every page into one digest. Reading maps a few MiB of the file at a
 * time, so an image may be much larger than the host's memory.
 *
 * raw    the bytes of guest RAM from guest address 0 on; a multiple of 4096
 * elf    ELF core, 32 or 64 bit, little endian: its PT_LOAD segments. Their addresses are p_paddr, or
 *        p_vaddr where every p_paddr is 0 (cores of processes). Segments that claim the same bytes of the
 *        file for the same addresses (a dump with guest paging) count once. Memory a segment has no bytes
 *        for (p_memsz > p_filesz) is not counted as pages; image.absent_pages says how much there is.
 * trace  a little-endian 64-bit word for each page in gfn order: 0 for a zero page, else its XXH3-64 digest
 *
 * One thread at a time: gmm__image_read catches SIGBUS while it runs, because that is what a file that is cut
 * short while it is mapped gives.
 */
#ifndef CMD_IMAGE_H
#define CMD_IMAGE_H

#include <stddef.h>
#include <stdint.h>

#define IMAGE_PAGE_BYTES       4096u
#define IMAGE_TRACE_WORD_BYTES 8u

enum gmm__image_format { IMAGE_AUTO, IMAGE_RAW, IMAGE_ELF, IMAGE_TRACE };

/* A stretch of consecutive guest pages that is also consecutive in the file. */
struct gmm__image_extent {
	uint64_t gfn;
	uint64_t pages;
	uint64_t offset; /* bytes into the file; need not be a multiple of the page size */
};

struct gmm__image {
	const char *path;              /* the caller's */
	enum gmm__image_format format; /* never IMAGE_AUTO once open */
	int fd;
	uint64_t size_bytes;
	uint64_t pages;                    /* the sum over extents */
	uint64_t absent_pages;             /* memory the image describes but has no bytes for */
	struct gmm__image_extent *extents; /* ascending gfn, disjoint */
	size_t extent_count;
};

/* Why an image was refused: a sentence fragment that follows the file's name. */
struct gmm__image_error {
	char text[200];
};

/* What gmm__image_read says about a page, in one byte: a kind, and perhaps IMAGE_PAGE_BREAK. */
enum gmm__image_page_kind {
	IMAGE_PAGE_PLAIN = 0,
	IMAGE_PAGE_ZERO = 1, /* all zero bytes */
	IMAGE_PAGE_FILL = 2, /* repeats one 8-byte word that is not 0 */
};
#define IMAGE_PAGE_BREAK 0x80u /* is not the neighbour of the page before it in the array */

/* Opens and checks a file. 0, or -1 with *ret_error set and *ret_image untouched. */
int gmm__image_open(const char *path, enum gmm__image_format format, struct gmm__image *ret_image,
	struct gmm__image_error *ret_error);

/* Writes a digest and a kind for each of the image's pages, in gfn order. 0, or -1 with *ret_error set; then
 * the arrays' contents mean nothing. */
int gmm__image_read(const struct gmm__image *image, uint64_t *digests, uint8_t *kinds,
	struct gmm__image_error *ret_error);

void gmm__image_close(struct gmm__image *image);

/* "raw", "elf", "trace" */
const char *gmm__image_format_name(enum gmm__image_format format);

/* For the files of this module: sets the error and returns -1. */
__attribute__((format(printf, 2, 3))) int gmm__image_fail(
	struct gmm__image_error *ret_error, const char *format, ...);

/* For gmm__image_open: fills in extents, extent_count, pages and absent_pages of an ELF core. */
int gmm__image_parse_elf(struct gmm__image *image, struct gmm__image_error *ret_error);

#endif
