/* A guest's accesses to its RAM, for all tests; see guest.h. */
#include "tests/support/guest.h"

#define AS_GUEST __attribute__((no_sanitize("thread"), noinline))

AS_GUEST uint64_t guest_load(const void *page, size_t word)
{
	return ((const volatile uint64_t *)page)[word];
}

AS_GUEST void guest_store(void *page, size_t word, uint64_t value)
{
	((volatile uint64_t *)page)[word] = value;
}

uint64_t random_next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* An odd multiplier and an odd step: words of one page differ, and so do pages with different seeds. */
static inline uint64_t seed_word(uint64_t seed, size_t word)
{
	uint64_t x = (seed + 1) * 0x9e3779b97f4a7c15u + (uint64_t)word * 0xd1342543de82ef95u;

	return x ^ x >> 29;
}

AS_GUEST void page_fill(void *page, uint64_t seed)
{
	volatile uint64_t *words = page;

	for (size_t i = 0; i < PAGE_WORDS; i++)
		words[i] = seed_word(seed, i);
}

AS_GUEST bool page_is(const void *page, uint64_t seed)
{
	const volatile uint64_t *words = page;

	for (size_t i = 0; i < PAGE_WORDS; i++)
		if (words[i] != seed_word(seed, i))
			return false;
	return true;
}

AS_GUEST void page_repeat(void *page, uint64_t word)
{
	volatile uint64_t *words = page;

	for (size_t i = 0; i < PAGE_WORDS; i++)
		words[i] = word;
}

AS_GUEST bool page_repeats(const void *page, uint64_t word)
{
	const volatile uint64_t *words = page;

	for (size_t i = 0; i < PAGE_WORDS; i++)
		if (words[i] != word)
			return false;
	return true;
}

void ram_fill(char *ram, size_t pages, uint64_t seed)
{
	for (size_t i = 0; i < pages; i++)
		page_fill(ram + i * PAGE, seed + i);
}

size_t ram_wrong(const char *ram, size_t pages, uint64_t seed)
{
	size_t wrong = 0;

	for (size_t i = 0; i < pages; i++)
		wrong += !page_is(ram + i * PAGE, seed + i);
	return wrong;
}

size_t ram_not_zero(const char *ram, size_t pages)
{
	size_t wrong = 0;

	for (size_t i = 0; i < pages; i++)
		wrong += !page_repeats(ram + i * PAGE, 0);
	return wrong;
}
