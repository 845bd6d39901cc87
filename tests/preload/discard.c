/* Dropped memory reads as zeros, never as what the pool has there, and the neighbours keep their bytes. */
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/preload/support/ram.h"

int main(void)
{
	uint8_t *ram = ram_shared();

	CHECK(madvise(ram, PAGE, MADV_DONTNEED) == 0);
	CHECK(madvise(ram + 10 * PAGE, 20 * PAGE, MADV_DONTNEED) == 0);
	CHECK(madvise(ram + 40 * PAGE, 10 * PAGE, MADV_FREE) == 0);
	ram[60 * PAGE] ^= 1; /* a copy of its own, over the pool's */
	CHECK(madvise(ram + 60 * PAGE, 1, MADV_DONTNEED) == 0);
	CHECK(ram_is_zero(ram, 0, 1) && ram_is_right(ram, 1, 9));
	CHECK(ram_is_zero(ram, 10, 20) && ram_is_right(ram, 30, 10));
	CHECK(ram_is_zero(ram, 40, 10) && ram_is_right(ram, 50, 10));
	CHECK(ram_is_zero(ram, 60, 1) && ram_is_right(ram, 61, RAM_PAGES - 61));

	CHECK(madvise(ram, PAGE, MADV_REMOVE) == -1 && errno == EINVAL); /* as on any private memory */
	CHECK(madvise(ram + 1, PAGE, MADV_DONTNEED) == -1 && errno == EINVAL);
	CHECK(madvise(ram, RAM_BYTES, 12345) == -1 && errno == EINVAL);
	CHECK(madvise(ram, 0, MADV_DONTNEED) == 0);

	/* A hole beside the range: all that is there is dropped, then the kernel tells. */
	uint8_t *both = mmap(NULL, RAM_BYTES + 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(madvise(both, RAM_BYTES + 2 * PAGE, MADV_NOHUGEPAGE) == 0);
	ram_fill(both, 0, RAM_PAGES + 2);
	CHECK(madvise(both, RAM_BYTES, MADV_MERGEABLE) == 0);
	ram_wait_shared(both, RAM_BYTES);
	CHECK(munmap(both + RAM_BYTES, PAGE) == 0);
	CHECK(madvise(both + RAM_BYTES - PAGE, 3 * PAGE, MADV_DONTNEED) == -1 && errno == ENOMEM);
	CHECK(ram_is_right(both, 0, RAM_PAGES - 1) && ram_is_zero(both, RAM_PAGES - 1, 1));
	CHECK(ram_is_zero(both, RAM_PAGES + 1, 1));

	/* Dropped while it is shared, over and over. */
	for (int i = 0; i < 20; i++) {
		CHECK(madvise(ram, RAM_BYTES, MADV_DONTNEED) == 0);
		CHECK(ram_is_zero(ram, 0, RAM_PAGES));
		ram_fill(ram, 0, RAM_PAGES);
		usleep(100000);
		CHECK(ram_is_right(ram, 0, RAM_PAGES));
	}
	return 0;
}
