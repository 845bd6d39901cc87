/* Direct I/O: written pages are shared again when they are equal again, but never while a device may be writing to them,
 * and nothing that was read is lost. */
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "tests/preload/support/ram.h"

static uint8_t *ram;
static int file; /* RAM_BYTES of what ram_fill writes; O_DIRECT */

static void skip(const char *why)
{
	printf("skipped: %s\n", why);
	_exit(77);
}

static void make_file(void)
{
	char path[] = "direct.XXXXXX";
	uint8_t *content = ram_map(RAM_BYTES);
	int fd = mkstemp(path);

	CHECK(fd >= 0);
	ram_fill(content, 0, RAM_PAGES);
	CHECK(write(fd, content, RAM_BYTES) == RAM_BYTES && fsync(fd) == 0);
	file = open(path, O_RDONLY | O_DIRECT);
	unlink(path);
	close(fd);
	if (file < 0)
		skip("this folder's file system has no direct I/O");
	CHECK(munmap(content, RAM_BYTES) == 0);
}

static void test_repair(void)
{
	ram[5 * PAGE] ^= 1;
	usleep(300000);
	CHECK(ram_is_own_copy(ram + 5 * PAGE));
	ram[5 * PAGE] ^= 1;
	ram_wait_all_shared(ram + 5 * PAGE, PAGE);
	CHECK(ram_is_right(ram, 0, RAM_PAGES));
}

/* A read that stops half-way, since its last page is one that nobody has filled yet. */
struct slow_read {
	struct iovec parts[2];
	ssize_t result;
};

static void *read_slowly(void *arg)
{
	struct slow_read *slow = arg;

	slow->result = preadv(file, slow->parts, 2, 7 * PAGE);
	return NULL;
}

static void test_in_flight(void)
{
	static uint8_t zeros[PAGE] __attribute__((aligned(PAGE)));
	uint8_t *late = ram_map(PAGE);
	struct slow_read slow = { { { ram + 7 * PAGE, PAGE }, { late, PAGE } }, 0 };
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = { .range = { (uintptr_t)late, PAGE }, .mode = UFFDIO_REGISTER_MODE_MISSING };
	struct uffdio_copy copy = { .dst = (uintptr_t)late, .src = (uintptr_t)zeros, .len = PAGE };
	int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
	pthread_t thread;

	CHECK(uffd >= 0 && ioctl(uffd, UFFDIO_API, &api) == 0 && ioctl(uffd, UFFDIO_REGISTER, &reg) == 0);
	memset(ram + 7 * PAGE, 1, PAGE);
	usleep(300000); /* seen as written */
	CHECK(pthread_create(&thread, NULL, read_slowly, &slow) == 0);
	struct pollfd fault = { .fd = uffd, .events = POLLIN };
	CHECK(poll(&fault, 1, 60000) == 1); /* ram's page is pinned now */

	/* Equal again, as if the guest had written it. It must stay where the device will write. */
	ram_fill(ram, 7, 1);
	usleep(1000000);
	CHECK(ram_is_own_copy(ram + 7 * PAGE));
	memset(ram + 7 * PAGE, 2, PAGE);

	CHECK(ioctl(uffd, UFFDIO_COPY, &copy) == 0);
	pthread_join(thread, NULL);
	CHECK(slow.result == 2 * PAGE);
	CHECK(ram_is_right(ram, 7, 1));
	close(uffd);
	CHECK(munmap(late, PAGE) == 0);
}

static atomic_bool stop;

/* Reads pages of the file to their places and looks whether they got there, while others make them equal or not. */
static void *read_all_the_time(void *arg)
{
	(void)arg;
	for (size_t page = 0; !stop; page = (page + 3) % (RAM_PAGES / 2)) {
		memset(ram + page * PAGE, (int)page, PAGE);
		if (page % 5 == 0)
			usleep(500);
		CHECK(pread(file, ram + page * PAGE, PAGE, (off_t)(page * PAGE)) == PAGE);
		CHECK(ram_is_right(ram, page, 1));
	}
	return NULL;
}

/* Meanwhile the range is let go and adopted again and again. */
static void test_reads_and_changes(void)
{
	pthread_t thread;

	CHECK(pthread_create(&thread, NULL, read_all_the_time, NULL) == 0);
	for (int i = 0; i < 20; i++) {
		CHECK(madvise(ram, RAM_BYTES, i % 2 ? MADV_DONTDUMP : MADV_DODUMP) == 0);
		usleep(100000);
	}
	stop = true;
	pthread_join(thread, NULL);
	CHECK(ram_is_right(ram, 0, RAM_PAGES));
	/* Where a read took longer than a call waits for it, the range has not been let go. Now it can be. */
	CHECK(madvise(ram, RAM_BYTES, MADV_DODUMP) == 0);
}

/* Its transfers end where nobody sees it. */
static void test_aio(void)
{
	aio_context_t context = 0;

	ram_wait_all_shared(ram, RAM_BYTES); /* what is written from now on is not shared again */
	CHECK(syscall(SYS_io_setup, 4, &context) == 0);
	ram[5 * PAGE] ^= 1;
	usleep(300000);
	ram[5 * PAGE] ^= 1;
	usleep(1000000);
	CHECK(ram_is_own_copy(ram + 5 * PAGE));
}

int main(void)
{
	make_file();
	ram = ram_shared();
	test_repair();
	test_in_flight();
	test_reads_and_changes();
	test_aio();
	return 0;
}
