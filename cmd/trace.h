/* Traces of guests' memory: reading them, turning them into memory, checking memory against them.
 *
 * A trace file has a 64-bit little-endian word for each guest page, in gfn order: 0 for a page of zero bytes,
 * else a digest of its bytes. Equal words mean equal pages. What the bytes were is lost; a page is filled
 * with bytes that are a function of its word, so that what was equal in the guest is equal again and nothing
 * else is. Two words stand for pages that repeat one byte (0xCC, 0xFF) and get their true bytes, because such
 * pages are treated specially.
 */
#ifndef CMD_TRACE_H
#define CMD_TRACE_H

#include <endian.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct gmm__trace {
	const uint64_t *words; /* the mapped file, little-endian: use gmm__trace_word */
	uint64_t pages;        /* > 0 */
};

/* Maps a trace file. 0, or -1 with a reason for people that does not name the file (static storage). */
int gmm__trace_open(const char *path, struct gmm__trace *ret_trace, const char **ret_reason);
void gmm__trace_close(struct gmm__trace *trace);

static inline uint64_t gmm__trace_word(const struct gmm__trace *trace, uint64_t page)
{
	return le64toh(trace->words[page]);
}

/* Stores all 4096 bytes of the page with this word, zeros included: a zero page of a guest is a present page.
 * page is aligned to 8 bytes. */
void gmm__trace_fill(void *page, uint64_t word);

/* Whether page has exactly the bytes that gmm__trace_fill stores. */
bool gmm__trace_matches(const void *page, uint64_t word);

/* The most pages that sharing can save when these traces (one for each VM; the same may occur again) are the
 * VMs of one trust domain: all zero pages, and all but one of each set of equal pages. 0, or -1 without
 * memory. */
int gmm__trace_oracle(const struct gmm__trace *const *traces, size_t count, uint64_t *ret_pages);

#endif
