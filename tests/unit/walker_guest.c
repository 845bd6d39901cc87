/* The page-table walker on the tables of real Linux guests (tests/data/walker_*.txt; walker_reduce.py tells their format),
 * against what QEMU's own walk found in them. */
#include "sharedmod/walker.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/support/unit.h"

enum { TABLES_MAX = 256 };

static struct {
	struct gmm__walk_cpu cpu;
	uint64_t gfn[TABLES_MAX];
	uint64_t entries[TABLES_MAX][512];
	int tables;
	int hits, large, holes;
} guest;

static uint64_t *find_table(uint64_t gfn)
{
	for (int i = 0; i < guest.tables; i++)
		if (guest.gfn[i] == gfn)
			return guest.entries[i];
	return NULL;
}

static const void *page(void *arg, uint64_t gfn)
{
	(void)arg;
	return find_table(gfn);
}

static void read_table(const char *line)
{
	uint64_t gfn, entry, step;
	unsigned index, count;

	ck_assert_int_eq(sscanf(line, "t %" SCNx64 " %u %u %" SCNx64 " %" SCNx64, &gfn, &index, &count, &entry, &step),
			 5);
	ck_assert_uint_le(index + count, 512);
	if (!find_table(gfn)) {
		ck_assert_int_lt(guest.tables, TABLES_MAX);
		guest.gfn[guest.tables++] = gfn;
	}
	for (uint64_t *table = find_table(gfn); count > 0; count--, entry += step)
		table[index++] = entry;
}

/* A page is where it should be from its first byte to its last. */
static void check_translation(const char *line)
{
	uint64_t linear, gpa;
	unsigned large;
	char rights[4];
	struct gmm__walk walk;

	ck_assert_int_eq(sscanf(line, "x %" SCNx64 " %" SCNx64 " %u %3s", &linear, &gpa, &large, rights), 4);
	ck_assert_int_eq(gmm__walk(&guest.cpu, linear, page, NULL, &walk), GMM__WALK_OK);
	ck_assert_uint_eq(walk.gpa, gpa);
	ck_assert_msg(large ? walk.page_bytes == 2 << 20 || walk.page_bytes == 1 << 30 : walk.page_bytes == 4096,
		      "%s: %" PRIu64 " bytes", line, walk.page_bytes);
	char got[4] = { walk.user ? 'u' : '-', walk.writable ? 'w' : '-', walk.executable ? 'x' : '-' };
	ck_assert_msg(strcmp(got, rights) == 0, "%s: %s", line, got);
	ck_assert(walk.user_writable == (walk.user && walk.writable));
	ck_assert_int_eq(gmm__walk(&guest.cpu, linear + walk.page_bytes - 1, page, NULL, &walk), GMM__WALK_OK);
	ck_assert_uint_eq(walk.gpa, gpa + walk.page_bytes - 1);
	guest.hits++;
	guest.large += (int)large;
}

static void check_hole(const char *line)
{
	uint64_t linear;
	struct gmm__walk walk;

	ck_assert_int_eq(sscanf(line, "n %" SCNx64, &linear), 1);
	ck_assert_int_eq(gmm__walk(&guest.cpu, linear, page, NULL, &walk), GMM__WALK_NOT_PRESENT);
	guest.holes++;
}

static void read_guest(const char *name)
{
	const char *root = getenv("SRC");
	char path[4096], line[256];

	memset(&guest, 0, sizeof guest);
	snprintf(path, sizeof path, "%s/tests/data/%s", root ? root : ".", name);
	FILE *file = fopen(path, "r");
	ck_assert_msg(file, "cannot open %s", path);
	while (fgets(line, sizeof line, file)) {
		if (line[0] == 't')
			read_table(line);
		else if (line[0] == 'x')
			check_translation(line);
		else if (line[0] == 'n')
			check_hole(line);
		else
			ck_assert_int_eq(sscanf(line, "cpu %" SCNx64 " %" SCNx64 " %" SCNx64 " %" SCNx64 " %" SCNu8,
						&guest.cpu.cr0, &guest.cpu.cr3, &guest.cpu.cr4, &guest.cpu.efer,
						&guest.cpu.phys_bits), 5);
	}
	fclose(file);
	ck_assert_int_ge(guest.hits, 200);
	ck_assert_int_ge(guest.large, 20);
	ck_assert_int_ge(guest.holes, 20);
}

START_TEST(linux_with_four_levels)
{
	read_guest("walker_la48.txt");
	ck_assert_int_eq(gmm__walk_mode(&guest.cpu), GMM__WALK_LONG4);
}
END_TEST

START_TEST(linux_with_five_levels)
{
	read_guest("walker_la57.txt");
	ck_assert_int_eq(gmm__walk_mode(&guest.cpu), GMM__WALK_LONG5);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = { linux_with_four_levels, linux_with_five_levels };

	return unit_main("walker_guest", tests, sizeof tests / sizeof *tests);
}
