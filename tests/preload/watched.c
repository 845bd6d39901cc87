/* A userfaultfd of the program's own, as postcopy migration and background snapshots use: it gets the range, fills it,
 * and when it is gone the range is shared again. */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/preload/support/ram.h"

static int open_uffd(void)
{
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (fd < 0) {
		printf("skipped: no right to use userfaultfd\n");
		_exit(77);
	}
	struct uffdio_api api = { .api = UFFD_API };
	CHECK(ioctl(fd, UFFDIO_API, &api) == 0);
	return fd;
}

static void *read_all(void *arg)
{
	return (void *)(uintptr_t)ram_is_right(arg, 0, RAM_PAGES);
}

/* Serves one fault after the other until the whole range is there. */
static void serve(int fd, uint8_t *ram)
{
	static uint8_t source[PAGE * 2] __attribute__((aligned(PAGE)));
	size_t served = 0;

	while (served < RAM_PAGES) {
		struct pollfd pollfd = { .fd = fd, .events = POLLIN };
		struct uffd_msg message;
		CHECK(poll(&pollfd, 1, 60000) == 1);
		if (read(fd, &message, sizeof message) != sizeof message)
			continue;
		size_t page = (message.arg.pagefault.address - (uintptr_t)ram) / PAGE;
		ram_fill(source - page * PAGE, page, 1);
		struct uffdio_copy copy = { .dst = (uintptr_t)ram + page * PAGE, .src = (uintptr_t)source, .len = PAGE };
		CHECK(ioctl(fd, UFFDIO_COPY, &copy) == 0);
		served++;
	}
}

int main(void)
{
	uint8_t *ram = ram_shared();
	int fd = open_uffd();
	struct uffdio_register reg = { .range = { (uintptr_t)ram, RAM_BYTES }, .mode = UFFDIO_REGISTER_MODE_MISSING };
	pthread_t reader;
	void *right;

	/* Registered over full memory: bytes stay, and nothing is shared meanwhile. */
	CHECK(ioctl(fd, UFFDIO_REGISTER, &reg) == 0);
	CHECK(ram_is_right(ram, 0, RAM_PAGES));
	CHECK(ram_pool_pages(ram, RAM_BYTES) == 0);

	/* As postcopy: all of it is dropped and comes in again on demand. */
	CHECK(madvise(ram, RAM_BYTES, MADV_DONTNEED) == 0);
	CHECK(pthread_create(&reader, NULL, read_all, ram) == 0);
	serve(fd, ram);
	pthread_join(reader, &right);
	CHECK(right);
	CHECK(ram_pool_pages(ram, RAM_BYTES) == 0);

	CHECK(ioctl(fd, UFFDIO_UNREGISTER, &reg.range) == 0);
	ram_wait_shared(ram, RAM_BYTES);
	CHECK(ram_is_right(ram, 0, RAM_PAGES));

	/* A refused registration leaves it shared. */
	struct uffdio_register bad = { .range = { (uintptr_t)ram, RAM_BYTES }, .mode = 1u << 20 };
	CHECK(ioctl(fd, UFFDIO_REGISTER, &bad) == -1 && errno == EINVAL);
	ram_wait_shared(ram, RAM_BYTES);
	return 0;
}
