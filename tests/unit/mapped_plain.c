/* Attributes of plain memory are found without smaps, and anything unusual is left to it. */
#include "dedup/mapped.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include "tests/unit/support/unit.h"

#ifndef PR_SET_MEMORY_MERGE
#define PR_SET_MEMORY_MERGE 67
#endif

enum { PAGES = 16, BYTES = PAGES * 4096, ROOM = 3 * BYTES };

static struct gmm gmm;
static uint8_t *room, *ram;

/* RAM with room on both sides, or on one. */
static void open_ram(int flags)
{
	gmm.mem.sys = gmm__sys_linux();
	int maps = gmm.mem.sys->maps_open();
	if (maps < 0)
		exit(77); /* Linux before 6.11: smaps tells everything */
	gmm.mem.sys->file_close(maps);
	room = mmap(NULL, ROOM, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ck_assert_ptr_ne(room, MAP_FAILED);
	ram = mmap(room + BYTES, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | flags, -1, 0);
	ck_assert_ptr_eq(ram, room + BYTES);
	ck_assert_int_eq(munmap(room, BYTES), 0);
	ck_assert_int_eq(munmap(ram + BYTES, BYTES), 0);
	memset(ram, 7, BYTES);
}

static void close_ram(void)
{
	munmap(room, ROOM);
}

/* The RAM is one mapping still, no longer than it was. */
static void assert_untouched(void)
{
	void *start, *end;
	int maps = gmm.mem.sys->maps_open();

	ck_assert_int_eq(gmm.mem.sys->maps_bounds(maps, ram, &start, &end), 0);
	ck_assert_ptr_eq(start, ram);
	ck_assert_ptr_eq(end, ram + BYTES);
	gmm.mem.sys->file_close(maps);
	ck_assert_int_eq(ram[0], 7);
	ck_assert_int_eq(memcmp(ram, ram + 1, BYTES - 1), 0);
}

static void assert_found(struct gmm__ram_attributes wanted)
{
	struct gmm__ram_attributes found;

	ck_assert(gmm__mapped_find_plain(&gmm, ram, BYTES, &found));
	ck_assert_int_eq(found.dont_fork, wanted.dont_fork);
	ck_assert_int_eq(found.dont_dump, wanted.dont_dump);
	ck_assert_int_eq(found.no_huge, wanted.no_huge);
	ck_assert_int_eq(found.huge, wanted.huge);
	assert_untouched();
}

static void assert_not_found(void)
{
	struct gmm__ram_attributes found;

	ck_assert(!gmm__mapped_find_plain(&gmm, ram, BYTES, &found));
}

static void apply(const struct gmm__ram_attributes *attributes)
{
	if (attributes->dont_fork)
		ck_assert_int_eq(madvise(ram, BYTES, MADV_DONTFORK), 0);
	if (attributes->dont_dump)
		ck_assert_int_eq(madvise(ram, BYTES, MADV_DONTDUMP), 0);
	if (attributes->no_huge)
		ck_assert_int_eq(madvise(ram, BYTES, MADV_NOHUGEPAGE), 0);
	if (attributes->huge)
		ck_assert_int_eq(madvise(ram, BYTES, MADV_HUGEPAGE), 0);
}

START_TEST(all_attributes_are_found)
{
	for (int i = 0; i < 24; i++) {
		struct gmm__ram_attributes attributes = { .dont_fork = i & 1, .dont_dump = i & 2, .no_huge = i / 4 % 3 == 1,
							  .huge = i / 4 % 3 == 2 };
		open_ram(i >= 12 ? MAP_NORESERVE : 0);
		apply(&attributes);
		assert_found(attributes);
		close_ram();
	}
}
END_TEST

START_TEST(room_on_one_side_will_do)
{
	for (int side = 0; side < 2; side++) {
		open_ram(0);
		ck_assert_ptr_ne(mmap(side ? room : ram + BYTES, BYTES, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
				 MAP_FAILED);
		assert_found((struct gmm__ram_attributes){ 0 });
		close_ram();
	}
	open_ram(0);
	for (int side = 0; side < 2; side++)
		ck_assert_ptr_ne(mmap(side ? room : ram + BYTES, BYTES, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
				 MAP_FAILED);
	assert_not_found();
	close_ram();
}
END_TEST

/* A part of a mapping has the attributes of all of it. */
START_TEST(a_part_of_a_mapping_is_found)
{
	struct gmm__ram_attributes found;

	open_ram(0);
	ck_assert(gmm__mapped_find_plain(&gmm, ram + 2 * 4096, 4096, &found));
	assert_untouched();
	ck_assert_int_eq(madvise(ram + 4 * 4096, 4096, MADV_DONTDUMP), 0);
	assert_not_found();
	close_ram();
}
END_TEST

START_TEST(unusual_memory_is_not_found)
{
	static const int advice[] = { MADV_WIPEONFORK, MADV_RANDOM, MADV_SEQUENTIAL, MADV_MERGEABLE };

	for (size_t i = 0; i < sizeof advice / sizeof *advice; i++) {
		open_ram(0);
		if (madvise(ram, BYTES, advice[i]) == 0) {
			assert_not_found();
			assert_untouched();
		}
		close_ram();
	}
	open_ram(0);
	ck_assert_int_eq(mprotect(ram, BYTES, PROT_READ), 0);
	assert_not_found();
	close_ram();
	open_ram(0);
	ck_assert_int_eq(mprotect(ram, BYTES, PROT_READ | PROT_WRITE | PROT_EXEC), 0);
	assert_not_found();
	close_ram();
	open_ram(0);
	ck_assert_ptr_eq(mmap(ram, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0), ram);
	assert_not_found();
	close_ram();
}
END_TEST

/* New memory gets the same unusual attribute then. */
START_TEST(what_a_process_has_everywhere_is_not_taken_for_plain)
{
	open_ram(0);
	if (mlockall(MCL_CURRENT | MCL_FUTURE) == 0) {
		void *start, *end;
		int maps = gmm.mem.sys->maps_open();
		bool locked = madvise(ram, 4096, MADV_DONTNEED) != 0; /* sanitizers make mlockall do nothing */
		if (locked)
			assert_not_found();
		munlockall();
		ck_assert_int_eq(gmm.mem.sys->maps_bounds(maps, ram, &start, &end), 0);
		ck_assert_ptr_eq(end, ram + BYTES);
		gmm.mem.sys->file_close(maps);
	}
	close_ram();
	if (prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0) == 0) { /* until the end: to take it back walks all memory */
		open_ram(0);
		assert_not_found();
		close_ram();
	}
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		all_attributes_are_found, room_on_one_side_will_do, a_part_of_a_mapping_is_found, unusual_memory_is_not_found,
		what_a_process_has_everywhere_is_not_taken_for_plain,
	};

	return unit_main("mapped_plain", tests, sizeof tests / sizeof *tests);
}
