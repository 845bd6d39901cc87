/* The headers of ELF cores: which bytes of the file are which guest pages.
 *
 * Written for the cores of QEMU's dump-guest-memory (PT_NOTE first, then PT_LOAD with p_paddr; the bytes of a
 * segment start anywhere in the file, not at a multiple of the page size), of gcore and of the kernel. With
 * more than 65 534 program headers e_phnum is PN_XNUM and the count is in sh_info of section 0.
 */
#include "cmd/image.h"

#include <elf.h>
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A process has far fewer mappings and a guest far fewer memory blocks; more is a damaged header. */
#define SEGMENTS_MAX (1u << 20)

/* What we need of the ELF header, in either width. */
struct elf_header {
	bool wide; /* ELFCLASS64 */
	uint16_t type;
	uint64_t phoff;
	uint64_t shoff;
	uint16_t phentsize;
	uint32_t phnum;
	uint64_t section_table_bytes;
};

/* A program header, in either width. */
struct elf_segment {
	uint32_t type;
	uint64_t vaddr;
	uint64_t paddr;
	uint64_t offset;
	uint64_t filesz;
	uint64_t memsz;
};

/* Reads exactly length bytes of the file. what: the name of the thing, for the error. */
static int read_exactly(const struct gmm__image *image, uint64_t offset, void *buffer, uint64_t length,
	const char *what, struct gmm__image_error *ret_error)
{
	uint64_t done = 0;

	if (offset > INT64_MAX || length > INT64_MAX - offset)
		return gmm__image_fail(
			ret_error, "bad ELF header: puts its %s at byte %" PRIu64, what, offset);
	if (offset + length > image->size_bytes)
		return gmm__image_fail(ret_error,
			"truncated: needs %" PRIu64 " bytes for its %s, has %" PRIu64, offset + length, what,
			image->size_bytes);
	while (done < length) {
		ssize_t n = pread(image->fd, (char *)buffer + done, length - done, (off_t)(offset + done));

		if (n < 0 && errno != EINTR)
			return gmm__image_fail(ret_error, "cannot be read: %s", strerror(errno));
		if (n == 0)
			return gmm__image_fail(ret_error, "changed while reading: it became shorter");
		if (n > 0)
			done += (uint64_t)n;
	}
	return 0;
}

static int check_ident(const unsigned char *ident, struct gmm__image_error *ret_error)
{
	if (memcmp(ident, ELFMAG, SELFMAG) != 0)
		return gmm__image_fail(ret_error, "is not an ELF file");
	if (ident[EI_CLASS] != ELFCLASS32 && ident[EI_CLASS] != ELFCLASS64)
		return gmm__image_fail(ret_error, "bad ELF header: class %u", ident[EI_CLASS]);
	if (ident[EI_DATA] == ELFDATA2MSB)
		return gmm__image_fail(ret_error, "is a big-endian ELF file, which is not supported");
	if (ident[EI_DATA] != ELFDATA2LSB)
		return gmm__image_fail(ret_error, "bad ELF header: data encoding %u", ident[EI_DATA]);
	if (ident[EI_VERSION] != EV_CURRENT)
		return gmm__image_fail(ret_error, "bad ELF header: version %u", ident[EI_VERSION]);
	return 0;
}

static int read_header(
	const struct gmm__image *image, struct elf_header *ret_header, struct gmm__image_error *ret_error)
{
	union {
		unsigned char ident[EI_NIDENT];
		Elf32_Ehdr narrow;
		Elf64_Ehdr wide;
	} h;

	if (read_exactly(image, 0, h.ident, sizeof(h.ident), "ELF header", ret_error) < 0 ||
		check_ident(h.ident, ret_error) < 0)
		return -1;
	ret_header->wide = h.ident[EI_CLASS] == ELFCLASS64;
	if (read_exactly(image, 0, &h, ret_header->wide ? sizeof(h.wide) : sizeof(h.narrow), "ELF header",
		    ret_error) < 0)
		return -1;
	if (ret_header->wide) {
		ret_header->type = h.wide.e_type;
		ret_header->phoff = h.wide.e_phoff;
		ret_header->shoff = h.wide.e_shoff;
		ret_header->phentsize = h.wide.e_phentsize;
		ret_header->phnum = h.wide.e_phnum;
		ret_header->section_table_bytes = (uint64_t)h.wide.e_shnum * h.wide.e_shentsize;
	} else {
		ret_header->type = h.narrow.e_type;
		ret_header->phoff = h.narrow.e_phoff;
		ret_header->shoff = h.narrow.e_shoff;
		ret_header->phentsize = h.narrow.e_phentsize;
		ret_header->phnum = h.narrow.e_phnum;
		ret_header->section_table_bytes = (uint64_t)h.narrow.e_shnum * h.narrow.e_shentsize;
	}
	return 0;
}

static int read_extended_phnum(
	const struct gmm__image *image, struct elf_header *header, struct gmm__image_error *ret_error)
{
	union {
		Elf32_Shdr narrow;
		Elf64_Shdr wide;
	} s;
	uint64_t length = header->wide ? sizeof(s.wide) : sizeof(s.narrow);

	if (header->shoff == 0)
		return gmm__image_fail(
			ret_error, "bad ELF header: the segment count is in a section, but there is none");
	if (read_exactly(image, header->shoff, &s, length, "section header", ret_error) < 0)
		return -1;
	header->phnum = header->wide ? s.wide.sh_info : s.narrow.sh_info;
	return 0;
}

static int check_header(
	const struct gmm__image *image, struct elf_header *header, struct gmm__image_error *ret_error)
{
	size_t expected = header->wide ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr);

	if (header->type != ET_CORE)
		return gmm__image_fail(ret_error, "is not an ELF core (its ELF type is %u, a core's is %u)",
			header->type, ET_CORE);
	if (header->phnum == PN_XNUM && read_extended_phnum(image, header, ret_error) < 0)
		return -1;
	if (header->phnum == 0)
		return gmm__image_fail(ret_error, "bad program headers: there are 0 segments");
	if (header->phentsize != expected)
		return gmm__image_fail(ret_error, "bad program headers: %u bytes each, should be %zu",
			header->phentsize, expected);
	if (header->phnum > SEGMENTS_MAX)
		return gmm__image_fail(ret_error, "bad program headers: %u segments, more than %u",
			header->phnum, SEGMENTS_MAX);
	return 0;
}

static struct elf_segment segment_at(const struct elf_header *header, const void *table, uint32_t index)
{
	if (header->wide) {
		const Elf64_Phdr *p = (const Elf64_Phdr *)table + index;

		return (struct elf_segment){ p->p_type, p->p_vaddr, p->p_paddr, p->p_offset, p->p_filesz,
			p->p_memsz };
	}
	const Elf32_Phdr *p = (const Elf32_Phdr *)table + index;

	return (struct elf_segment){ p->p_type, p->p_vaddr, p->p_paddr, p->p_offset, p->p_filesz,
		p->p_memsz };
}

/* Reads the program headers. *ret_segments: header->phnum of them, malloc'd. */
static int read_segments(const struct gmm__image *image, const struct elf_header *header,
	struct elf_segment **ret_segments, struct gmm__image_error *ret_error)
{
	uint64_t table_bytes = (uint64_t)header->phnum * header->phentsize;
	struct elf_segment *segments = malloc(header->phnum * sizeof(*segments));
	void *table = malloc(table_bytes);
	int result = -1;

	if (!segments || !table)
		gmm__image_fail(ret_error, "not enough memory for %u program headers", header->phnum);
	else
		result = read_exactly(image, header->phoff, table, table_bytes, "program headers", ret_error);
	if (result == 0) {
		for (uint32_t i = 0; i < header->phnum; i++)
			segments[i] = segment_at(header, table, i);
		*ret_segments = segments;
	} else {
		free(segments);
	}
	free(table);
	return result;
}

/* Is the file as long as its headers say? A core whose notes or sections are cut off is not whole either,
 * even if all memory is there. */
static int check_length(const struct gmm__image *image, const struct elf_header *header,
	const struct elf_segment *segments, struct gmm__image_error *ret_error)
{
	uint64_t needed_bytes = 0;

	if (header->shoff <= INT64_MAX)
		needed_bytes = header->shoff + header->section_table_bytes;
	for (uint32_t i = 0; i < header->phnum; i++) {
		const struct elf_segment *s = &segments[i];

		if (s->type == PT_NULL || s->filesz == 0)
			continue;
		if (s->offset > INT64_MAX || s->filesz > INT64_MAX - s->offset)
			return gmm__image_fail(ret_error,
				"bad program headers: segment %u lies at byte %" PRIu64 " of the file", i,
				s->offset);
		if (s->offset + s->filesz > needed_bytes)
			needed_bytes = s->offset + s->filesz;
	}
	if (needed_bytes > image->size_bytes)
		return gmm__image_fail(ret_error, "truncated: needs %" PRIu64 " bytes, has %" PRIu64,
			needed_bytes, image->size_bytes);
	return 0;
}

/* Checks a PT_LOAD, number index of the table, with its memory at addr. */
static int check_segment(
	const struct elf_segment *s, uint32_t index, uint64_t addr, struct gmm__image_error *ret_error)
{
	if (s->filesz > s->memsz)
		return gmm__image_fail(ret_error,
			"bad program headers: segment %u has %" PRIu64 " bytes in the file, %" PRIu64
			" in memory",
			index, s->filesz, s->memsz);
	if (addr % IMAGE_PAGE_BYTES != 0 || s->filesz % IMAGE_PAGE_BYTES != 0)
		return gmm__image_fail(ret_error,
			"bad program headers: segment %u (address 0x%" PRIx64 ", %" PRIu64
			" bytes) is not made of whole pages",
			index, addr, s->filesz);
	if (s->memsz != 0 && addr + (s->memsz - 1) < addr)
		return gmm__image_fail(ret_error,
			"bad program headers: segment %u (address 0x%" PRIx64
			") goes beyond the last address",
			index, addr);
	return 0;
}

static int compare_extents(const void *left, const void *right)
{
	const struct gmm__image_extent *a = left, *b = right;

	if (a->gfn != b->gfn)
		return a->gfn < b->gfn ? -1 : 1;
	return (a->pages < b->pages) - (a->pages > b->pages);
}

/* Sorts the extents and makes them disjoint. Two that overlap must agree about the bytes. */
static int merge_extents(struct gmm__image *image, struct gmm__image_error *ret_error)
{
	struct gmm__image_extent *extents = image->extents;
	size_t kept = 0;

	qsort(extents, image->extent_count, sizeof(*extents), compare_extents);
	for (size_t i = 0; i < image->extent_count; i++) {
		struct gmm__image_extent next = extents[i];

		if (kept > 0 && next.gfn < extents[kept - 1].gfn + extents[kept - 1].pages) {
			const struct gmm__image_extent *last = &extents[kept - 1];
			uint64_t cut = last->gfn + last->pages - next.gfn;

			if (next.offset - last->offset != (next.gfn - last->gfn) * IMAGE_PAGE_BYTES)
				return gmm__image_fail(ret_error,
					"bad program headers: segments at 0x%" PRIx64 " and 0x%" PRIx64
					" overlap",
					last->gfn * IMAGE_PAGE_BYTES, next.gfn * IMAGE_PAGE_BYTES);
			if (cut >= next.pages)
				continue;
			next.gfn += cut;
			next.offset += cut * IMAGE_PAGE_BYTES;
			next.pages -= cut;
		}
		extents[kept++] = next;
		image->pages += next.pages;
	}
	image->extent_count = kept;
	return 0;
}

/* Turns the PT_LOADs into extents. image->extents has room for all segments. */
static int place_segments(struct gmm__image *image, const struct elf_segment *segments, uint32_t count,
	struct gmm__image_error *ret_error)
{
	bool physical = false;
	uint32_t loads = 0;

	for (uint32_t i = 0; i < count; i++)
		physical |= segments[i].type == PT_LOAD && segments[i].paddr != 0;
	for (uint32_t i = 0; i < count; i++) {
		const struct elf_segment *s = &segments[i];
		uint64_t addr = physical ? s->paddr : s->vaddr;

		if (s->type != PT_LOAD)
			continue;
		loads++;
		if (check_segment(s, i, addr, ret_error) < 0)
			return -1;
		image->absent_pages += (s->memsz - s->filesz) / IMAGE_PAGE_BYTES;
		if (s->filesz == 0)
			continue;
		image->extents[image->extent_count++] = (struct gmm__image_extent){
			.gfn = addr / IMAGE_PAGE_BYTES,
			.pages = s->filesz / IMAGE_PAGE_BYTES,
			.offset = s->offset,
		};
	}
	if (loads == 0)
		return gmm__image_fail(
			ret_error, "has no memory in it: none of its %u segments is PT_LOAD", count);
	if (image->extent_count == 0)
		return gmm__image_fail(
			ret_error, "has no memory in it: its %u PT_LOAD segments are empty", loads);
	return merge_extents(image, ret_error);
}

int gmm__image_parse_elf(struct gmm__image *image, struct gmm__image_error *ret_error)
{
	struct elf_header header;
	struct elf_segment *segments = NULL;
	int result;

	if (read_header(image, &header, ret_error) < 0 || check_header(image, &header, ret_error) < 0 ||
		read_segments(image, &header, &segments, ret_error) < 0)
		return -1;
	result = check_length(image, &header, segments, ret_error);
	if (result == 0) {
		image->extents = malloc(header.phnum * sizeof(*image->extents));
		if (image->extents)
			result = place_segments(image, segments, header.phnum, ret_error);
		else
			result =
				gmm__image_fail(ret_error, "not enough memory for %u segments", header.phnum);
	}
	free(segments);
	return result;
}
