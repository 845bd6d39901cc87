/* What a guest does to its RAM: fills pages from seeds, checks them, loads and stores words.
 *
 * The engine reads guest memory while the guest writes to it; that is its job and no data race of the
 * program. So these accesses are volatile and hidden from ThreadSanitizer, and the tests use no others.
 */
#ifndef TESTS_SUPPORT_GUEST_H
#define TESTS_SUPPORT_GUEST_H

#include <gmm/gmm.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { PAGE = GMM_PAGE_SIZE, PAGE_WORDS = GMM_PAGE_SIZE / 8 };

uint64_t guest_load(const void *page, size_t word);
void guest_store(void *page, size_t word, uint64_t value);

/* Content from a seed: no two words alike, different for every seed. */
void page_fill(void *page, uint64_t seed);
bool page_is(const void *page, uint64_t seed);

/* One word repeated; 0 makes a zero page that has memory. */
void page_repeat(void *page, uint64_t word);
bool page_repeats(const void *page, uint64_t word);

/* Page i of the RAM from seed + i, and how many of them do not hold that. */
void ram_fill(char *ram, size_t pages, uint64_t seed);
size_t ram_wrong(const char *ram, size_t pages, uint64_t seed);
size_t ram_not_zero(const char *ram, size_t pages);

/* A small generator; *state must not be 0. */
uint64_t random_next(uint64_t *state);

#endif
