/* Guest pages in swap. A broken page that was swapped out is still a broken page, although nothing is mapped
 * there; a private page in swap is left there, since to look at it would be to bring it back. The program
 * makes a swap file of its own and is skipped where that is not allowed.
 */
#include "tests/support/guest.h"
#include "tests/support/proc.h"
#include "tests/support/suite.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/swap.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGES = 512, BREAK = 100, SWAP_BYTES = 64 << 20 };

#define SEED 800000u
#define OWN_SEED 900000u

static char swap_path[] = "gmm-test-swap-XXXXXX";

/* The header of a swap area without bad pages, as mkswap writes it. */
struct swap_header {
	char boot[1024];
	uint32_t version, last_page, bad_pages;
	char rest[PAGE - 1024 - 12 - 10];
	char magic[10];
};

_Static_assert(sizeof(struct swap_header) == PAGE, "the header is the first page");

/* NULL, or why there is no swap file. */
static const char *swap_begin(void)
{
	struct swap_header header = { .version = 1, .last_page = SWAP_BYTES / PAGE - 1 };
	static char block[1 << 20];
	int fd = mkostemp(swap_path, O_CLOEXEC);
	bool ok = fd >= 0;

	if (!ok)
		return "no file can be made here";
	memcpy(header.magic, "SWAPSPACE2", sizeof(header.magic));
	for (int i = 0; ok && i < SWAP_BYTES / (int)sizeof(block); i++) /* it may have no holes */
		ok = write(fd, block, sizeof(block)) == (ssize_t)sizeof(block);
	ok = ok && pwrite(fd, &header, sizeof(header), 0) == sizeof(header) && fsync(fd) == 0;
	close(fd);
	if (ok && swapon(swap_path, 0) == 0)
		return NULL;
	unlink(swap_path);
	return ok ? strerror(errno) : "no room for a swap file";
}

static void swap_end(void)
{
	swapoff(swap_path);
	unlink(swap_path);
}

/* Pushes the range out; how many pages went. The kernel may keep some at first, so it is asked again: a few times for all, and
 * until any went. */
static size_t push_out(char *ram, size_t pages)
{
	size_t out = 0;

	for (int i = 0; (i < 5 && out < pages) || (i < 3000 && out == 0); i++) {
		madvise(ram, pages * PAGE, MADV_PAGEOUT);
		sleep_ms(20);
		out = proc_swapped_pages(ram, pages * PAGE);
	}
	return out;
}

struct pair {
	struct gmm *gmm;
	struct gmm_vm *vm[2];
	char *ram[2];
};

static struct pair pair_open(uint64_t seed0, uint64_t seed1)
{
	struct pair pair = { .gmm = instance_open() };

	for (int i = 0; i < 2; i++) {
		pair.vm[i] = vm_create(pair.gmm, NULL);
		pair.ram[i] = i ? vm_create_ram(pair.vm[i], 0, PAGES) : vm_adopt_ram(pair.vm[i], 0, PAGES);
		ram_fill(pair.ram[i], PAGES, i ? seed1 : seed0);
	}
	return pair;
}

static void pair_close(struct pair *pair)
{
	assert_ok(gmm_instance_validate(pair->gmm));
	for (int i = 0; i < 2; i++)
		assert_ok(gmm_vm_destroy(pair->vm[i], GMM_RAM_DISCARD));
	assert_ok(gmm_instance_close(pair->gmm));
	ram_unmap(pair->ram[0], PAGES);
}

/* Breaks pages while the engine cannot see it and pushes them out before it looks. */
static size_t break_and_push_out(struct pair *pair)
{
	size_t out;

	engine_settle(pair->gmm);
	ck_assert_uint_eq(vm_state(pair->vm[0], GMM_PAGE_SHARED), PAGES);
	assert_ok(gmm_engine_pause(pair->gmm));
	ram_fill(pair->ram[0], BREAK, OWN_SEED);
	out = push_out(pair->ram[0], BREAK);
	printf("%zu of %d broken pages are in swap\n", out, BREAK);
	return out;
}

START_TEST(broken_pages_in_swap_are_found_broken)
{
	struct pair pair = pair_open(SEED, SEED);
	size_t out = break_and_push_out(&pair);
	struct gmm_vm_stats stats;

	ck_assert_uint_gt(out, 0);
	assert_ok(gmm_engine_start(pair.gmm));
	assert_eventually(vm_stats_of(pair.vm[0]).cow_breaks == BREAK);
	engine_passes(pair.gmm, 5);
	stats = vm_stats_of(pair.vm[0]);
	ck_assert_uint_eq(stats.cow_breaks, BREAK);
	ck_assert_uint_eq(stats.state_pages[GMM_PAGE_BROKEN] + stats.state_pages[GMM_PAGE_SWAPPED], BREAK);
	ck_assert_uint_eq(stats.references, PAGES - BREAK);
	assert_ok(gmm_instance_validate(pair.gmm));
	ck_assert_uint_ge(proc_swapped_pages(pair.ram[0], BREAK * PAGE), out); /* nobody fetched them */

	ck_assert_uint_eq(ram_wrong(pair.ram[0], BREAK, OWN_SEED), 0); /* the guest did */
	ck_assert_uint_eq(ram_wrong(pair.ram[0] + BREAK * PAGE, PAGES - BREAK, SEED + BREAK), 0);
	ck_assert_uint_eq(ram_wrong(pair.ram[1], PAGES, SEED), 0);
	assert_ok(gmm_instance_validate(pair.gmm));
	pair_close(&pair);
}
END_TEST

START_TEST(unshare_keeps_broken_pages_that_are_in_swap)
{
	struct pair pair = pair_open(SEED, SEED);

	ck_assert_uint_gt(break_and_push_out(&pair), 0);
	assert_ok(gmm_vm_unshare(pair.vm[0], 0, PAGES * PAGE));
	ck_assert_uint_eq(proc_file_mappings(pair.ram[0], PAGES * PAGE), 0);
	ck_assert_uint_eq(ram_wrong(pair.ram[0], BREAK, OWN_SEED), 0);
	ck_assert_uint_eq(ram_wrong(pair.ram[0] + BREAK * PAGE, PAGES - BREAK, SEED + BREAK), 0);
	ck_assert_uint_eq(vm_state(pair.vm[0], GMM_PAGE_SHARED), 0);
	pair_close(&pair);
}
END_TEST

START_TEST(destroy_keeps_broken_pages_that_are_in_swap)
{
	struct pair pair = pair_open(SEED, SEED);

	ck_assert_uint_gt(break_and_push_out(&pair), 0);
	assert_ok(gmm_vm_destroy(pair.vm[0], GMM_RAM_KEEP));
	ck_assert_uint_eq(ram_wrong(pair.ram[0], BREAK, OWN_SEED), 0);
	ck_assert_uint_eq(ram_wrong(pair.ram[0] + BREAK * PAGE, PAGES - BREAK, SEED + BREAK), 0);
	pair.vm[0] = vm_create(pair.gmm, NULL); /* for pair_close */
	pair_close(&pair);
}
END_TEST

START_TEST(private_pages_in_swap_are_left_there)
{
	struct pair pair = pair_open(SEED, OWN_SEED); /* nothing to share */
	size_t out, out_after;

	engine_settle(pair.gmm);
	ck_assert_uint_eq(vm_state(pair.vm[0], GMM_PAGE_UNIQUE), PAGES);
	out = push_out(pair.ram[0], PAGES);
	ck_assert_uint_gt(out, 0);
	engine_passes(pair.gmm, 10);
	out_after = proc_swapped_pages(pair.ram[0], PAGES * PAGE);
	ck_assert_uint_ge(out_after, out);
	ck_assert_uint_eq(vm_state(pair.vm[0], GMM_PAGE_SHARED), 0);
	ck_assert_uint_eq(ram_wrong(pair.ram[0], PAGES, SEED), 0);
	assert_eventually(vm_state(pair.vm[0], GMM_PAGE_SWAPPED) == 0);
	pair_close(&pair);
}
END_TEST

START_TEST(sharable_pages_in_swap_share_once_they_are_back)
{
	struct pair pair = pair_open(SEED, SEED);
	size_t out = push_out(pair.ram[0], PAGES); /* before the engine ever saw them */

	ck_assert_uint_gt(out, 0);
	engine_settle(pair.gmm);
	engine_passes(pair.gmm, 10);
	ck_assert_uint_le(vm_state(pair.vm[0], GMM_PAGE_SHARED), PAGES - out);
	ck_assert_uint_ge(proc_swapped_pages(pair.ram[0], PAGES * PAGE), out);
	ck_assert_uint_eq(ram_wrong(pair.ram[0], PAGES, SEED), 0); /* fetches them */
	assert_eventually(vm_state(pair.vm[0], GMM_PAGE_SHARED) == PAGES);
	ck_assert_uint_eq(ram_wrong(pair.ram[0], PAGES, SEED), 0);
	ck_assert_uint_eq(ram_wrong(pair.ram[1], PAGES, SEED), 0);
	pair_close(&pair);
}
END_TEST

/* The kernel takes pages away to swap while the engine moves them: often, since each time is a race. */
static void swap_and_share(bool write)
{
	struct pair pair = pair_open(SEED, SEED);

	assert_ok(gmm_engine_start(pair.gmm));
	for (size_t round = 0; round < 1000; round++) {
		char *part = pair.ram[round & 1] + round % 4 * (PAGES / 4) * PAGE;
		size_t at = round % 4 * (PAGES / 4);

		madvise(part, PAGES / 4 * PAGE, MADV_PAGEOUT);
		for (size_t i = 0; write && i < PAGES / 4; i += 3)
			page_fill(part + i * PAGE, SEED + at + i);
		ck_assert_uint_eq(ram_wrong(part, PAGES / 4, SEED + at), 0);
		if (round % 5 == 4)
			assert_ok(gmm_vm_unshare(pair.vm[round & 1], 0, PAGES * PAGE));
	}
	ck_assert_uint_eq(ram_wrong(pair.ram[0], PAGES, SEED), 0);
	ck_assert_uint_eq(ram_wrong(pair.ram[1], PAGES, SEED), 0);
	pair_close(&pair);
}

START_TEST(swapping_while_sharing_loses_nothing)
{
	swap_and_share(false);
}
END_TEST

START_TEST(swapping_while_sharing_and_writing_loses_nothing)
{
	swap_and_share(true);
}
END_TEST

int main(void)
{
	const TTest *tests[] = {
		broken_pages_in_swap_are_found_broken,
		unshare_keeps_broken_pages_that_are_in_swap,
		destroy_keeps_broken_pages_that_are_in_swap,
		private_pages_in_swap_are_left_there,
		sharable_pages_in_swap_share_once_they_are_back,
		swapping_while_sharing_loses_nothing,
		swapping_while_sharing_and_writing_loses_nothing,
	};
	const char *trouble = swap_begin();
	pid_t child;
	int status;

	if (trouble) {
		printf("SKIP: no swap file: %s\n", trouble);
		return SUITE_SKIPPED;
	}
	child = fork(); /* whatever becomes of the tests, the swap file must not stay */
	if (child == 0)
		return suite_main("swap", tests, sizeof(tests) / sizeof(tests[0]));
	if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status))
		status = W_EXITCODE(EXIT_FAILURE, 0);
	swap_end();
	return WEXITSTATUS(status);
}
