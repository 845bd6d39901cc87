/* System calls that no interposition can see: memory that was mapped behind the library's back is left alone, whatever
 * it was before. */
#include <sys/mman.h>
#include <unistd.h>

#include "preload/raw.h"
#include "tests/preload/support/ram.h"

static long raw_map(void *at, size_t bytes, int fd)
{
	return gmm__raw(SYS_mmap, at, bytes, PROT_READ | PROT_WRITE,
			MAP_FIXED | (fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED), fd, 0);
}

/* Some passes over it, while it is written. */
static void let_the_engine_look(uint8_t *ram, size_t first, size_t pages)
{
	for (int i = 0; i < 15; i++) {
		ram_fill(ram, first, pages);
		usleep(100000);
		CHECK(ram_is_right(ram, first, pages));
	}
}

int main(void)
{
	uint8_t *ram = ram_shared();
	int fd = (int)gmm__raw(SYS_memfd_create, "theirs", 0);

	CHECK(fd >= 0 && ftruncate(fd, 1 << 20) == 0);
	/* Shared memory of their own, plain memory, and a hole, where pool pages were. */
	CHECK(raw_map(ram, 1 << 20, fd) == (long)ram);
	CHECK(raw_map(ram + (1 << 20), 1 << 20, -1) == (long)ram + (1 << 20));
	CHECK(gmm__raw(SYS_munmap, ram + (2 << 20), 1 << 19) == 0);
	let_the_engine_look(ram, 0, 512);

	/* What they wrote is in their file. */
	uint8_t *look = mmap(NULL, 1 << 20, PROT_READ, MAP_SHARED, fd, 0);
	CHECK(look != MAP_FAILED && ram_is_right(look, 0, 256));

	/* The rest is still shared, and still right. */
	CHECK(ram_is_right(ram, 640, RAM_PAGES - 640));
	CHECK(ram_pool_pages(ram + (3 << 20), 1 << 20) > 128);

	/* A raw MADV_DONTNEED may bring pool pages back, but never another page's bytes. */
	uint8_t *more = ram_shared();
	CHECK(gmm__raw(SYS_madvise, more, RAM_BYTES, MADV_DONTNEED) == 0);
	for (size_t page = 0; page < RAM_PAGES; page++)
		CHECK(ram_is_right(more, page, 1) || ram_is_zero(more, page, 1));
	return 0;
}
