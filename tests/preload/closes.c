/* A program that closes every descriptor it has not opened, as daemons do, and then uses the numbers itself: what it wrote
 * into shared memory is there, its own files are as it left them, and sharing goes on. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "preload/raw.h"
#include "tests/preload/support/ram.h"

enum { FIRST = 3, NUMBERS = 400, THREADS = 2, FILE_BYTES = 4 << 20, ROUND_MS = 600 };

/* ---- memory that is written all the time -------------------------------------------------------------------------- */

static uint8_t *ram;
static uint32_t written[RAM_PAGES]; /* what each page has to hold */
static atomic_bool stop;

static uint64_t word_of(uint32_t value, size_t i)
{
	return value ? (value % 64 + 1) * 0x9e3779b97f4a7c15u + i : 0;
}

static void write_page(size_t page, uint32_t value)
{
	volatile uint64_t *words = (volatile uint64_t *)(ram + page * PAGE);

	for (size_t i = 0; i < PAGE / 8; i++)
		words[i] = word_of(value, i);
	written[page] = value;
}

static void check_page(size_t page)
{
	const volatile uint64_t *words = (const volatile uint64_t *)(ram + page * PAGE);

	for (size_t i = 0; i < PAGE / 8; i++) {
		if (words[i] == word_of(written[page], i))
			continue;
		fprintf(stderr, "page %zu: word %zu is %lx\n", page, i, (unsigned long)words[i]);
		_Exit(1);
	}
}

/* Each thread has its pages; it checks one and writes another, few of them zero, and leaves most alone for a while. */
static void *write_all_the_time(void *arg)
{
	size_t first = (size_t)(uintptr_t)arg;
	uint32_t random = (uint32_t)first + 1;

	while (!stop) {
		for (int i = 0; i < 16; i++) {
			random = random * 1664525 + 1013904223;
			size_t page = (random >> 8) % (RAM_PAGES / THREADS) * THREADS + first;
			check_page(page);
			if (random >> 30 == 0)
				write_page(page, random >> 12 & 127 ? random >> 12 & 127 : 0);
		}
		nanosleep(&(struct timespec){ .tv_nsec = 200000 }, NULL);
	}
	return NULL;
}

/* ---- files of the program ------------------------------------------------------------------------------------------ */

static int file = -1, ours = -1, theirs = -1, event = -1;

static const char pending[] = "nobody else reads this";

/* On every number that is not used: in each round another one comes to mean what was ours. */
static void use_all_numbers(void)
{
	static int round;
	const int files[] = { file, ours, event, theirs };

	for (int fd = FIRST; fd < NUMBERS; fd++)
		if (fcntl(fd, F_GETFD) < 0)
			CHECK(dup2(files[(fd + round) % 4], fd) == fd);
	round++;
}

static void open_files(void)
{
	uint8_t *bytes;
	int ends[2];

	CHECK((file = memfd_create("theirs", 0)) >= 0 && ftruncate(file, FILE_BYTES) == 0);
	bytes = mmap(NULL, FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	CHECK(bytes != MAP_FAILED);
	memset(bytes, 0xa5, FILE_BYTES);
	CHECK(munmap(bytes, FILE_BYTES) == 0);
	CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends) == 0);
	ours = ends[0];
	theirs = ends[1];
	CHECK(send(theirs, pending, sizeof pending, 0) == sizeof pending);
	CHECK((event = eventfd(7, EFD_NONBLOCK)) >= 0);
	use_all_numbers();
}

static void check_files(void)
{
	char buf[64];
	uint64_t count;
	struct stat st;

	for (int fd = FIRST; fd < NUMBERS; fd++)
		CHECK(fcntl(fd, F_GETFD) >= 0);
	CHECK(fstat(file, &st) == 0 && st.st_size == FILE_BYTES && st.st_blocks == FILE_BYTES / 512);
	const uint8_t *bytes = mmap(NULL, FILE_BYTES, PROT_READ, MAP_SHARED, file, 0);
	CHECK(bytes != MAP_FAILED);
	for (size_t i = 0; i < FILE_BYTES; i++)
		CHECK(bytes[i] == 0xa5);
	CHECK(munmap((void *)(uintptr_t)bytes, FILE_BYTES) == 0);
	CHECK(recv(ours, buf, sizeof buf, MSG_PEEK | MSG_DONTWAIT) == sizeof pending && strcmp(buf, pending) == 0);
	CHECK(recv(theirs, buf, sizeof buf, MSG_DONTWAIT) < 0 && errno == EAGAIN);
	CHECK(read(event, &count, sizeof count) == sizeof count && count == 7);
	CHECK(write(event, &count, sizeof count) == sizeof count);
}

/* ---- ways to close ---------------------------------------------------------------------------------------------------- */

/* One number after the other comes to mean a file of the program's, while the others stay what they are. */
static void by_single_dup2(void)
{
	int other = memfd_create("other", 0);

	CHECK(other >= 0 && ftruncate(other, FILE_BYTES) == 0);
	for (int fd = 23; fd >= FIRST; fd--) {
		if (fd != other)
			CHECK(dup2(other, fd) == fd);
		nanosleep(&(struct timespec){ .tv_nsec = 50000000 }, NULL);
	}
	CHECK(close_range(FIRST, 24, 0) == 0);
}

static void by_close(void)
{
	for (int fd = FIRST; fd < 1024; fd++)
		close(fd);
}

static void by_closefrom(void)
{
	closefrom(FIRST);
}

static void by_close_range(void)
{
	CHECK(close_range(FIRST, ~0u, 0) == 0);
}

static void by_system_call(void)
{
	CHECK(gmm__raw(SYS_close_range, FIRST, ~0u, 0) == 0);
}

static void by_dup2(void)
{
	int null = open("/dev/null", O_RDONLY);

	for (int fd = FIRST; fd < NUMBERS; fd++)
		if (fd != null)
			CHECK(dup2(null, fd) == fd);
	for (int fd = FIRST; fd < NUMBERS; fd++)
		CHECK(dup3(fd == null ? fd - 1 : null, fd, O_CLOEXEC) == fd);
	CHECK(close_range(FIRST, NUMBERS, 0) == 0);
}

/* A thread with a copy of the table, which it empties. */
static void *by_a_table_of_its_own(void *unused)
{
	CHECK(close_range(FIRST, ~0u, CLOSE_RANGE_UNSHARE) == 0);
	return unused;
}

static void by_unsharing(void)
{
	pthread_t thread;

	CHECK(pthread_create(&thread, NULL, by_a_table_of_its_own, NULL) == 0 && pthread_join(thread, NULL) == 0);
	by_close_range();
}

/* ---- the test ----------------------------------------------------------------------------------------------------------- */

static void test_way(void (*close_all)(void))
{
	close_all();
	open_files();
	for (int i = 0; i < ROUND_MS / 20; i++) {
		nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
		/* Calls of the program that need the library's descriptors. */
		CHECK(madvise(ram, RAM_BYTES, i % 2 ? MADV_DONTDUMP : MADV_DODUMP) == 0);
	}
	check_files();
}

/* A child's descriptors are its own: none is ours, and none is closed by us. */
static void test_child(void)
{
	int status;

	by_close();
	open_files();
	pid_t child = fork();
	if (child == 0) {
		check_files();
		CHECK(fcntl(NUMBERS, F_GETFD) < 0);
		_exit(42);
	}
	CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 42);
}

int main(void)
{
	static void (*const ways[])(void) = { by_single_dup2, by_close, by_closefrom, by_close_range, by_system_call,
					      by_dup2, by_unsharing };
	pthread_t thread[THREADS];

	ram = ram_shared();
	for (size_t page = 0; page < RAM_PAGES; page++)
		write_page(page, (uint32_t)page % 128);
	for (size_t i = 0; i < THREADS; i++)
		CHECK(pthread_create(&thread[i], NULL, write_all_the_time, (void *)(uintptr_t)i) == 0);
	for (size_t i = 0; i < sizeof ways / sizeof *ways; i++)
		test_way(ways[i]);
	stop = true;
	for (int i = 0; i < THREADS; i++)
		pthread_join(thread[i], NULL);
	for (size_t page = 0; page < RAM_PAGES; page++)
		check_page(page);
	/* It still works. */
	ram_wait_shared(ram, RAM_BYTES);
	test_child();
	uint8_t *more = ram_shared();
	CHECK(madvise(more, RAM_BYTES, MADV_UNMERGEABLE) == 0);
	CHECK(ram_pool_pages(more, RAM_BYTES) == 0 && ram_is_right(more, 0, RAM_PAGES));
	CHECK(madvise(ram, RAM_BYTES, MADV_DONTNEED) == 0 && ram_is_zero(ram, 0, RAM_PAGES));
	check_files();
	return 0;
}
