/* io_uring, which reads files into memory without a call that could be interposed: while a ring is open written pages stay
 * where they are, so that what it reads gets to where the program looks.
 */
#include <fcntl.h>
#include <liburing.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/preload/support/ram.h"

enum { FIXED = 5, PLAIN = 9 };

static uint8_t *ram;
static int file; /* ram_fill's content, as long as the memory */
static struct io_uring ring;

static void make_file(void)
{
	uint8_t *content = ram_map(RAM_BYTES);

	ram_fill(content, 0, RAM_PAGES);
	file = memfd_create("content", MFD_CLOEXEC);
	CHECK(file >= 0 && write(file, content, RAM_BYTES) == RAM_BYTES);
	CHECK(munmap(content, RAM_BYTES) == 0);
}

static void complete(void)
{
	struct io_uring_cqe *done;

	CHECK(io_uring_submit_and_wait(&ring, 1) == 1 && io_uring_wait_cqe(&ring, &done) == 0 && done->res == PAGE);
	io_uring_cqe_seen(&ring, done);
}

static void read_page(size_t page, bool fixed)
{
	struct io_uring_sqe *entry = io_uring_get_sqe(&ring);

	if (fixed)
		io_uring_prep_read_fixed(entry, file, ram + page * PAGE, PAGE, page * PAGE, 0);
	else
		io_uring_prep_read(entry, file, ram + page * PAGE, PAGE, page * PAGE);
	complete();
	CHECK(ram_is_right(ram, page, 1));
}

/* A page that was written, and has the old bytes again, before the ring gets to it. */
static void write_and_undo(size_t page)
{
	ram[page * PAGE] ^= 1;
	usleep(300000); /* seen as written */
	ram[page * PAGE] ^= 1;
	usleep(500000);
}

/* Memory that was shared when it was pinned. */
static void test_fixed(void)
{
	struct iovec buffer = { ram + FIXED * PAGE, 4 * PAGE };

	CHECK(io_uring_register_buffers(&ring, &buffer, 1) == 0);
	for (int i = 0; i < 3; i++) {
		write_and_undo(FIXED);
		CHECK(ram_is_own_copy(ram + FIXED * PAGE));
		memset(ram + FIXED * PAGE, 1, PAGE);
		read_page(FIXED, true);
	}
	/* Pinned by nobody but the ring: what cannot be let go stays, with its bytes. */
	madvise(ram, RAM_BYTES, MADV_UNMERGEABLE);
	memset(ram + FIXED * PAGE, 2, PAGE);
	read_page(FIXED, true);
	CHECK(io_uring_unregister_buffers(&ring) == 0);
	CHECK(madvise(ram, RAM_BYTES, MADV_UNMERGEABLE) == 0 && madvise(ram, RAM_BYTES, MADV_MERGEABLE) == 0);
	CHECK(ram_is_right(ram, 0, RAM_PAGES));
}

static void test_plain(void)
{
	write_and_undo(PLAIN);
	CHECK(ram_is_own_copy(ram + PLAIN * PAGE));
	memset(ram + PLAIN * PAGE, 1, PAGE);
	read_page(PLAIN, false);
}

int main(void)
{
	make_file();
	ram = ram_shared();
	if (io_uring_queue_init(4, &ring, 0) != 0) {
		printf("skipped: no io_uring\n");
		return 77;
	}
	test_plain();
	test_fixed();
	io_uring_queue_exit(&ring);
	ram_wait_all_shared(ram + PLAIN * PAGE, PAGE);
	ram_wait_all_shared(ram + FIXED * PAGE, PAGE);
	CHECK(ram_is_right(ram, 0, RAM_PAGES));
	return 0;
}
