/* Ranges that are unmapped, mapped over and moved take their sharing along or lose it, and nobody's bytes change. */
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/preload/support/ram.h"

static void test_unmap(void)
{
	uint8_t *ram = ram_shared();
	unsigned char resident;

	CHECK(munmap(ram + (1 << 20), 1 << 20) == 0);
	CHECK(ram_is_right(ram, 0, 256) && ram_is_right(ram, 512, RAM_PAGES - 512));
	CHECK(mincore(ram + (1 << 20), PAGE, &resident) == -1 && errno == ENOMEM);
	uint8_t *again = mmap(ram + (1 << 20), 1 << 20, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	CHECK(again == ram + (1 << 20));
	CHECK(madvise(again, 1 << 20, MADV_DONTNEED) == 0 && ram_is_zero(ram, 256, 256));
	ram_wait_shared(ram + (2 << 20), 2 << 20);
	CHECK(ram_pool_pages(again, 1 << 20) == 0);
	CHECK(munmap(ram + 1, PAGE) == -1 && errno == EINVAL);
	CHECK(munmap(ram, RAM_BYTES) == 0);
	CHECK(mincore(ram, PAGE, &resident) == -1 && errno == ENOMEM);
}

static void test_map_over(void)
{
	uint8_t *ram = ram_shared();

	CHECK(mmap(ram + (1 << 20), 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
	      ram + (1 << 20));
	CHECK(ram_is_right(ram, 0, 256) && ram_is_zero(ram, 256, 256) && ram_is_right(ram, 512, RAM_PAGES - 512));
	CHECK(mmap(ram, PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED, 12345, 0) == MAP_FAILED && errno == EBADF);
	CHECK(ram_is_right(ram, 0, 256));
	CHECK(mmap(ram, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == MAP_FAILED);
	CHECK(errno == EEXIST);
	ram_wait_shared(ram + (2 << 20), 2 << 20);
	ram_fill(ram, 256, 256);
	CHECK(ram_is_right(ram, 0, RAM_PAGES));
	CHECK(munmap(ram, RAM_BYTES) == 0);
}

static void test_remap(void)
{
	uint8_t *ram = ram_shared();
	uint8_t *place = mmap(NULL, 2 * RAM_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	uint8_t *moved = mremap(ram, RAM_BYTES, 2 * RAM_BYTES, MREMAP_MAYMOVE | MREMAP_FIXED, place);
	CHECK(moved == place);
	CHECK(ram_is_right(moved, 0, RAM_PAGES) && ram_is_zero(moved, RAM_PAGES, RAM_PAGES));
	ram_fill(moved, RAM_PAGES, RAM_PAGES);
	ram_wait_all_shared(moved, 2 * RAM_BYTES);
	CHECK(ram_is_right(moved, 0, 2 * RAM_PAGES));
	CHECK(mremap(moved, 2 * RAM_BYTES, RAM_BYTES, 0) == moved);
	ram_wait_all_shared(moved, RAM_BYTES);
	CHECK(ram_is_right(moved, 0, RAM_PAGES));

	uint8_t *copy = mremap(moved, RAM_BYTES, RAM_BYTES, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);
	CHECK(copy != MAP_FAILED && ram_is_right(copy, 0, RAM_PAGES) && ram_is_zero(moved, 0, RAM_PAGES));
	ram_wait_all_shared(copy, RAM_BYTES);
	CHECK(mremap(copy, RAM_BYTES, RAM_BYTES, 64) == MAP_FAILED && errno == EINVAL);
	CHECK(ram_is_right(copy, 0, RAM_PAGES));
	CHECK(munmap(copy, RAM_BYTES) == 0 && munmap(moved, RAM_BYTES) == 0);
}

int main(void)
{
	test_unmap();
	test_map_over();
	test_remap();
	return 0;
}
