/* MADV_MERGEABLE shares plain private memory and nothing else; MADV_UNMERGEABLE ends it. */
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/preload/support/ram.h"

/* For memory that is not for us the program gets the kernel's answer, and no mapping of the pool appears. */
static void test_left_alone(void)
{
	uint8_t *small = ram_map(1 << 20);
	uint8_t *common = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	uint8_t *read_only = ram_map(RAM_BYTES);
	uint8_t *heap = sbrk(RAM_BYTES + PAGE);

	heap += PAGE - (uintptr_t)heap % PAGE;
	ram_fill(small, 0, 256);
	ram_fill(common, 0, RAM_PAGES);
	ram_fill(read_only, 0, RAM_PAGES);
	ram_fill(heap, 0, RAM_PAGES);
	CHECK(mprotect(read_only, RAM_BYTES, PROT_READ) == 0);
	madvise(small, 1 << 20, MADV_MERGEABLE);
	madvise(common, RAM_BYTES, MADV_MERGEABLE);
	madvise(read_only, RAM_BYTES, MADV_MERGEABLE);
	madvise(heap, RAM_BYTES, MADV_MERGEABLE);

	uint8_t *ram = ram_shared(); /* the engine has been everywhere now */
	CHECK(ram_pool_pages(small, 1 << 20) == 0);
	CHECK(ram_pool_pages(common, RAM_BYTES) == 0);
	CHECK(ram_pool_pages(read_only, RAM_BYTES) == 0);
	CHECK(ram_pool_pages(heap, RAM_BYTES) == 0);
	CHECK(munmap(ram, RAM_BYTES) == 0);
}

/* Advice on the stack it runs on. */
static void *advise_own_stack(void *arg)
{
	(void)arg;
	volatile uint8_t here[PAGE] = { 1 };
	uintptr_t start = ((uintptr_t)here & ~(uintptr_t)(PAGE - 1)) - (3 << 20);

	madvise((void *)start, (3 << 20) + PAGE, MADV_MERGEABLE);
	sleep(1);
	CHECK(ram_pool_pages((void *)start, 3 << 20) == 0);
	return NULL;
}

static void test_stack(void)
{
	pthread_attr_t attr;
	pthread_t thread;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 8 << 20);
	CHECK(pthread_create(&thread, &attr, advise_own_stack, NULL) == 0);
	pthread_join(thread, NULL);
	pthread_attr_destroy(&attr);
}

int main(void)
{
	uint8_t *ram = ram_shared();

	/* Said twice, and for a part: nothing new. */
	CHECK(madvise(ram, RAM_BYTES, MADV_MERGEABLE) == 0);
	CHECK(madvise(ram + PAGE, RAM_BYTES / 2, MADV_MERGEABLE) == 0);

	/* A written page is the program's own. */
	ram[5 * PAGE] ^= 1;
	CHECK(ram_is_right(ram, 0, 5) && !ram_is_right(ram, 5, 1) && ram_is_right(ram, 6, RAM_PAGES - 6));
	ram[5 * PAGE] ^= 1;

	/* A part of it ends, the rest is shared again. */
	CHECK(madvise(ram + (1 << 20), 1 << 20, MADV_UNMERGEABLE) == 0);
	CHECK(ram_is_right(ram, 0, RAM_PAGES));
	ram_wait_shared(ram + (2 << 20), 1 << 20 >> 1);
	CHECK(ram_pool_pages(ram + (1 << 20), 1 << 20) == 0);
	CHECK(madvise(ram, RAM_BYTES, MADV_UNMERGEABLE) == 0);
	CHECK(ram_pool_pages(ram, RAM_BYTES) == 0);
	CHECK(ram_is_right(ram, 0, RAM_PAGES));
	CHECK(madvise(ram, RAM_BYTES, MADV_MERGEABLE) == 0);
	ram_wait_shared(ram, RAM_BYTES);
	CHECK(munmap(ram, RAM_BYTES) == 0);

	test_left_alone();
	test_stack();
	return 0;
}
