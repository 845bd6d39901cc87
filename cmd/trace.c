/* Traces of guests' memory; see trace.h. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <gmm/gmm.h>

#include "cmd/trace.h"

#define PAGE_WORDS (GMM_PAGE_SIZE / sizeof(uint64_t))

/* The digests of the pages whose every byte is 0xCC (freed memory of a guest kernel) and 0xFF. */
#define WORD_ALL_CC UINT64_C(2207495626618058349)
#define WORD_ALL_FF UINT64_C(526070969564208598)

/* ---- files --------------------------------------------------------------------------------------------- */

static int map_words(int fd, struct gmm__trace *ret_trace, const char **ret_reason)
{
	struct stat info;
	if (fstat(fd, &info) != 0) {
		*ret_reason = strerror(errno);
		return -1;
	}
	if (!S_ISREG(info.st_mode)) {
		*ret_reason = "not a regular file";
		return -1;
	}
	if (info.st_size == 0) {
		*ret_reason = "the file is empty; a trace has 8 bytes for each page";
		return -1;
	}
	if (info.st_size % sizeof(uint64_t) != 0) {
		*ret_reason = "the size is not a multiple of 8; a trace has 8 bytes for each page";
		return -1;
	}
	void *words = mmap(NULL, info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (words == MAP_FAILED) {
		*ret_reason = strerror(errno);
		return -1;
	}
	ret_trace->words = words;
	ret_trace->pages = info.st_size / sizeof(uint64_t);
	return 0;
}

int gmm__trace_open(const char *path, struct gmm__trace *ret_trace, const char **ret_reason)
{
	/* O_NONBLOCK: a FIFO is refused, not waited for. */
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0) {
		*ret_reason = strerror(errno);
		return -1;
	}
	int result = map_words(fd, ret_trace, ret_reason);
	close(fd);
	return result;
}

void gmm__trace_close(struct gmm__trace *trace)
{
	munmap((void *)trace->words, trace->pages * sizeof(uint64_t));
	*trace = (struct gmm__trace){ 0 };
}

/* ---- pages --------------------------------------------------------------------------------------------- */

void gmm__trace_fill(void *page, uint64_t word)
{
	if (word == 0) {
		memset(page, 0, GMM_PAGE_SIZE);
	} else if (word == WORD_ALL_CC) {
		memset(page, 0xCC, GMM_PAGE_SIZE);
	} else if (word == WORD_ALL_FF) {
		memset(page, 0xFF, GMM_PAGE_SIZE);
	} else {
		/* A step of xorshift64 for each place, from a start of its own: the steps do not wait for each
		 * other. Both are bijections, so different words differ in every place of the page. */
		uint64_t *to = page;
		for (uint64_t i = 0; i < PAGE_WORDS; i++) {
			uint64_t x = word + i * UINT64_C(0x9e3779b97f4a7c15);
			x ^= x << 13;
			x ^= x >> 7;
			x ^= x << 17;
			to[i] = htole64(x);
		}
	}
}

bool gmm__trace_matches(const void *page, uint64_t word)
{
	uint64_t expected[PAGE_WORDS];
	gmm__trace_fill(expected, word);
	return memcmp(page, expected, GMM_PAGE_SIZE) == 0;
}

/* ---- oracle -------------------------------------------------------------------------------------------- */

/* Adds word (not 0) to a set with open addressing; capacity is a power of two and there is room. True if new.
 */
static bool set_add(uint64_t *set, uint64_t capacity, uint64_t word)
{
	for (uint64_t i = word;; i++) {
		uint64_t *slot = &set[i & (capacity - 1)];
		if (*slot == word)
			return false;
		if (*slot == 0) {
			*slot = word;
			return true;
		}
	}
}

int gmm__trace_oracle(const struct gmm__trace *const *traces, size_t count, uint64_t *ret_pages)
{
	uint64_t pages = 0;
	for (size_t i = 0; i < count; i++)
		pages += traces[i]->pages;
	uint64_t capacity = 1;
	while (capacity < 2 * pages)
		capacity *= 2;
	uint64_t *set = calloc(capacity, sizeof(*set));
	if (!set)
		return -1;

	uint64_t saved_pages = 0;
	for (size_t i = 0; i < count; i++) {
		for (uint64_t page = 0; page < traces[i]->pages; page++) {
			uint64_t word = gmm__trace_word(traces[i], page);
			if (word == 0 || !set_add(set, capacity, word))
				saved_pages++;
		}
	}
	free(set);
	*ret_pages = saved_pages;
	return 0;
}
