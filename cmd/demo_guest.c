/* The demo's guests: their writes, and the check of every byte. */
#include <string.h>

#include "cmd/demo.h"

#define PAGE_WORDS (GMM_PAGE_SIZE / sizeof(uint64_t))

/* A write of a guest: which word of the page gets which value. */
struct guest_write {
	size_t word;
	uint64_t value;
};

/* The finalizer of SplitMix64: every bit of the result depends on every bit of x. */
static uint64_t mix(uint64_t x)
{
	x += UINT64_C(0x9e3779b97f4a7c15);
	x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
	return x ^ (x >> 31);
}

/* Whether the guest writes to the page, and what. A function of both, so that nothing has to be remembered;
 * the guests write to different pages, or what one breaks another would break too. */
static bool guest_writes(const struct guest *guest, uint64_t page, struct guest_write *ret_write)
{
	uint64_t random = mix((uint64_t)guest->number << 40 | page);
	if (random >> 58 != 0)
		return false;
	ret_write->word = random % PAGE_WORDS;
	ret_write->value = mix(random);
	return true;
}

uint64_t gmm__demo_guest_write(const struct guest *guest)
{
	uint64_t written_pages = 0;
	struct guest_write write;
	for (uint64_t page = 0; page < guest->trace->pages; page++) {
		if (!guest_writes(guest, page, &write))
			continue;
		/* volatile: one store, done here, as a guest's would be. */
		volatile uint64_t *words = (volatile uint64_t *)(guest->ram + page * GMM_PAGE_SIZE);
		words[write.word] = write.value;
		written_pages++;
	}
	return written_pages;
}

bool gmm__demo_guest_verify(const struct guest *guest, uint64_t *ret_page)
{
	for (uint64_t page = 0; page < guest->trace->pages; page++) {
		const unsigned char *bytes = guest->ram + page * GMM_PAGE_SIZE;
		uint64_t word = gmm__trace_word(guest->trace, page);
		struct guest_write write;
		bool right;
		if (guest_writes(guest, page, &write)) {
			uint64_t expected[PAGE_WORDS];
			gmm__trace_fill(expected, word);
			expected[write.word] = write.value;
			right = memcmp(bytes, expected, GMM_PAGE_SIZE) == 0;
		} else {
			right = gmm__trace_matches(bytes, word);
		}
		if (!right) {
			*ret_page = page;
			return false;
		}
	}
	return true;
}
