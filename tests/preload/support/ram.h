/* For programs that run under the preload library: memory with equal pages, and whether it is shared right now. They
 * call libc only, like any program that knows nothing of the library. */
#ifndef TESTS_PRELOAD_SUPPORT_RAM_H
#define TESTS_PRELOAD_SUPPORT_RAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { PAGE = 4096, RAM_BYTES = 4 << 20, RAM_PAGES = RAM_BYTES / PAGE };

#define CHECK(condition) ram_check(condition, #condition, __FILE__, __LINE__)

/* Ends the program with a message and status 1 unless the condition holds. */
void ram_check(bool condition, const char *text, const char *file, int line);

/* Private anonymous memory without huge pages, and its content: page n is equal to n + 128, so that each
 * MiB has twins in itself. */
uint8_t *ram_map(size_t bytes);
void ram_fill(uint8_t *ram, size_t first_page, size_t pages);
bool ram_is_right(const uint8_t *ram, size_t first_page, size_t pages);
bool ram_is_zero(const uint8_t *ram, size_t first_page, size_t pages);

/* ram_map, ram_fill, MADV_MERGEABLE, and the wait until all of it is shared. */
uint8_t *ram_shared(void);

/* How many pages of the range lie in mappings of the pool. */
size_t ram_pool_pages(const uint8_t *ram, size_t bytes);

/* Whether a page is the program's own copy rather than one of the pool. */
bool ram_is_own_copy(const uint8_t *at);

/* Waits until most of it is in mappings of the pool, or until every page is one of the pool: only then the engine has
 * nothing left to do there, and what is written breaks a page that was shared. End the program after a minute. */
void ram_wait_shared(const uint8_t *ram, size_t bytes);
void ram_wait_all_shared(const uint8_t *ram, size_t bytes);

#endif
