/* The page-table walker on tables built by hand, in every mode a guest may be in: what it translates, what it refuses, and
 * that it reads no more than it has to. */
#include "sharedmod/walker.h"

#include <string.h>

#include "tests/unit/support/unit.h"

enum { TABLES = 8, P = 1, W = 2, U = 4, PS = 0x80 };

#define NX (1ull << 63)
#define PE 1ull
#define WP (1ull << 16)
#define PG (1ull << 31)
#define PSE (1ull << 4)
#define PAE (1ull << 5)
#define LA57 (1ull << 12)
#define LME (1ull << 8)
#define LMA (1ull << 10)
#define NXE (1ull << 11)

/* Guest memory: page i of it has gfn[i]; all else is a hole. */
static struct {
	_Alignas(4096) uint8_t bytes[TABLES][4096];
	uint64_t gfn[TABLES];
	unsigned reads;
} ram;

static const void *page(void *arg, uint64_t gfn)
{
	ck_assert_ptr_eq(arg, &ram);
	ck_assert_uint_lt(gfn, 1ull << 40);
	ram.reads++;
	for (int i = 0; i < TABLES; i++)
		if (ram.gfn[i] == gfn)
			return ram.bytes[i];
	return NULL;
}

/* Tables lie at gfns 0x10, 0x11, ...; tests may move them. */
static void clear(void)
{
	memset(&ram, 0, sizeof ram);
	for (int i = 0; i < TABLES; i++)
		ram.gfn[i] = 0x10 + (uint64_t)i;
}

static uint64_t at(int table)
{
	return ram.gfn[table] << 12;
}

static void put64(int table, unsigned index, uint64_t entry)
{
	memcpy(ram.bytes[table] + index * 8, &entry, 8);
}

static void put32(int table, unsigned index, uint64_t entry)
{
	uint32_t narrow = (uint32_t)entry;

	ck_assert_uint_eq(narrow, entry);
	memcpy(ram.bytes[table] + index * 4, &narrow, 4);
}

static enum gmm__walk_outcome outcome(const struct gmm__walk_cpu *cpu, uint64_t linear)
{
	struct gmm__walk walk, before;
	enum gmm__walk_outcome result;

	memset(&walk, 0x5a, sizeof walk);
	before = walk;
	ram.reads = 0;
	result = gmm__walk(cpu, linear, page, &ram, &walk);
	ck_assert_uint_le(ram.reads, 5);
	if (result != GMM__WALK_OK)
		ck_assert_int_eq(memcmp(&walk, &before, sizeof walk), 0);
	return result;
}

static struct gmm__walk walk_ok(const struct gmm__walk_cpu *cpu, uint64_t linear)
{
	struct gmm__walk walk;
	enum gmm__walk_outcome result = gmm__walk(cpu, linear, page, &ram, &walk);

	ck_assert_msg(result == GMM__WALK_OK, "%#llx: %s", (unsigned long long)linear,
		      gmm__walk_outcome_name(result));
	return walk;
}

#define expect(cpu, linear, address, size)                  \
	do {                                                \
		struct gmm__walk got = walk_ok(cpu, linear); \
		ck_assert_uint_eq(got.gpa, address);        \
		ck_assert_uint_eq(got.page_bytes, size);    \
	} while (0)

/* "rights" as in "uwx": u user, U user may write, w kernel may write, x executable, - for those that are missing. */
static void expect_rights(const struct gmm__walk_cpu *cpu, uint64_t linear, const char *rights)
{
	struct gmm__walk walk = walk_ok(cpu, linear);
	char got[5] = { walk.user ? 'u' : '-', walk.user_writable ? 'U' : '-', walk.writable ? 'w' : '-',
			walk.executable ? 'x' : '-' };

	ck_assert_str_eq(got, rights);
}

START_TEST(unpaged)
{
	struct gmm__walk_cpu real = { .phys_bits = 40 }, protected = { .cr0 = PE | WP, .cr4 = PAE, .phys_bits = 40 };

	clear();
	expect(&real, 0xf1234, 0xf1234, 4096);
	expect(&protected, 0xfffffff0, 0xfffffff0, 4096);
	expect_rights(&protected, 0, "uUwx");
	ck_assert_int_eq(outcome(&protected, 1ull << 32), GMM__WALK_BAD_ADDRESS);
	/* LME may be set ahead of paging. */
	protected.efer = LME;
	expect(&protected, 5, 5, 4096);
	ck_assert_uint_eq(ram.reads, 0);
}
END_TEST

START_TEST(registers)
{
	struct gmm__walk_cpu cpu = { .phys_bits = 31 };

	ck_assert_int_eq(outcome(&cpu, 0), GMM__WALK_BAD_REGISTERS);
	cpu.phys_bits = 53;
	ck_assert_int_eq(outcome(&cpu, 0), GMM__WALK_BAD_REGISTERS);
	cpu.phys_bits = 40;
	cpu.cr0 = PG; /* paging without protection */
	ck_assert_int_eq(gmm__walk_mode(&cpu), GMM__WALK_INVALID);
	cpu = (struct gmm__walk_cpu){ .cr0 = PE | PG, .efer = LME | LMA, .phys_bits = 40 }; /* long mode without PAE */
	ck_assert_int_eq(gmm__walk_mode(&cpu), GMM__WALK_INVALID);
	cpu = (struct gmm__walk_cpu){ .cr0 = PE, .efer = LMA, .phys_bits = 40 }; /* long mode without paging */
	ck_assert_int_eq(gmm__walk_mode(&cpu), GMM__WALK_INVALID);
	cpu = (struct gmm__walk_cpu){ .cr0 = PE | PG, .cr4 = PAE, .efer = LME, .phys_bits = 40 };
	ck_assert_int_eq(gmm__walk_mode(&cpu), GMM__WALK_LONG4);
	cpu.efer = LMA;
	ck_assert_int_eq(gmm__walk_mode(&cpu), GMM__WALK_LONG4);
	cpu.cr4 |= LA57;
	ck_assert_int_eq(gmm__walk_mode(&cpu), GMM__WALK_LONG5);
	cpu.efer = 0;
	ck_assert_int_eq(gmm__walk_mode(&cpu), GMM__WALK_PAE);
	cpu.cr4 = LA57;
	ck_assert_int_eq(gmm__walk_mode(&cpu), GMM__WALK_32BIT);
}
END_TEST

START_TEST(two_levels)
{
	struct gmm__walk_cpu cpu = { .cr0 = PE | PG | WP, .phys_bits = 40 };

	clear();
	cpu.cr3 = at(0) | 0xfff | 1ull << 40; /* bits that this mode ignores */
	put32(0, 0x300, at(1) | P | W | U);
	put32(1, 0x155, 0xabcde000 | P | U);
	put32(1, 0x156, 0xfffff000 | P | W | PS); /* bit 7 is a memory type here */
	put32(1, 0x157, 0x12345000 | W | U);      /* not present */
	expect(&cpu, 0xc0155678, 0xabcde678, 4096);
	expect_rights(&cpu, 0xc0155678, "u--x");
	expect(&cpu, 0xc0156000, 0xfffff000, 4096);
	expect_rights(&cpu, 0xc0156000, "--wx");
	ck_assert_int_eq(outcome(&cpu, 0xc0157000), GMM__WALK_NOT_PRESENT);
	ck_assert_int_eq(outcome(&cpu, 0xc0400000), GMM__WALK_NOT_PRESENT);
	ck_assert_uint_eq(ram.reads, 1);
	ck_assert_int_eq(outcome(&cpu, 0x1c0155678), GMM__WALK_BAD_ADDRESS);
	cpu.efer = NXE; /* these entries have no such bit */
	expect_rights(&cpu, 0xc0155678, "u--x");
}
END_TEST

START_TEST(four_mib_pages)
{
	struct gmm__walk_cpu cpu = { .cr0 = PE | PG | WP, .cr4 = PSE, .phys_bits = 40 };

	clear();
	cpu.cr3 = at(0);
	put32(0, 1, 0x00c00000 | P | W | PS | 1 << 12);           /* bit 12 is a memory type */
	put32(0, 2, 0x00c00000 | P | U | PS | 0xa5ull << 13);     /* address bits 39:32 */
	put32(0, 3, 0x00c00000 | P | PS | 1ull << 21);            /* reserved */
	put32(0, 4, at(1) | P | W | U);
	put32(1, 0, 0x5000 | P);
	expect(&cpu, 0x7fffff, 0xffffff, 4 << 20);
	expect_rights(&cpu, 0x400000, "--wx");
	expect(&cpu, 0x812345, 0xa500c12345, 4 << 20);
	expect_rights(&cpu, 0x800000, "u--x");
	ck_assert_int_eq(outcome(&cpu, 0xc00000), GMM__WALK_RESERVED);
	expect(&cpu, 0x1000010, 0x5010, 4096);

	cpu.phys_bits = 36; /* 0xa5 needs 40 */
	ck_assert_int_eq(outcome(&cpu, 0x812345), GMM__WALK_RESERVED);
	put32(0, 2, 0x00c00000 | P | U | PS | 0x5ull << 13);
	expect(&cpu, 0x812345, 0x500c12345, 4 << 20);
	cpu.phys_bits = 52; /* the format ends at 40 */
	put32(0, 2, 0x00c00000 | P | U | PS | 0xffull << 13);
	expect(&cpu, 0x812345, 0xff00c12345, 4 << 20);
	ck_assert_int_eq(outcome(&cpu, 0xc00000), GMM__WALK_RESERVED);
	cpu.phys_bits = 32;
	ck_assert_int_eq(outcome(&cpu, 0x812345), GMM__WALK_RESERVED);

	/* Without PSE the bit is ignored, and the entry names a table, here one that is not there. */
	cpu.cr4 = 0;
	ck_assert_int_eq(outcome(&cpu, 0x400000), GMM__WALK_NO_TABLE);
	put32(0, 1, at(1) | P | PS);
	expect(&cpu, 0x400abc, 0x5abc, 4096);
}
END_TEST

START_TEST(pae)
{
	struct gmm__walk_cpu cpu = { .cr0 = PE | PG | WP, .cr4 = PAE, .efer = NXE, .phys_bits = 36 };

	clear();
	ram.gfn[1] = 0x923456; /* a table above 4 GiB */
	cpu.cr3 = at(0) | 0x1e0 | 0x1f; /* the four entries may lie anywhere in a page, in units of 32 bytes */
	put64(0, 0x1e0 / 8 + 3, at(1) | P);
	put64(1, 5, at(2) | P | W | U);
	put64(2, 7, 0xfedcba000 | P | W | U | NX);
	put64(1, 6, 0x87600000 | P | U | PS | 1 << 12);
	put64(1, 8, 0x87600000 | P | U | PS | 1 << 13);
	expect(&cpu, 0xc0a07123, 0xfedcba123, 4096);
	expect_rights(&cpu, 0xc0a07123, "uUw-");
	expect(&cpu, 0xc0c54321, 0x87654321, 2 << 20);
	expect_rights(&cpu, 0xc0c54321, "u--x");
	ck_assert_int_eq(outcome(&cpu, 0xc1000000), GMM__WALK_RESERVED);
	ck_assert_int_eq(outcome(&cpu, 0x80000000), GMM__WALK_NOT_PRESENT);
	cpu.efer = 0;
	ck_assert_int_eq(outcome(&cpu, 0xc0a07123), GMM__WALK_RESERVED);
	cpu.efer = NXE;

	/* Reserved: 1, 2, 5 to 8 and 63 of a pointer, and whatever is above the physical width. */
	static const unsigned top_reserved[] = { 1, 2, 5, 6, 7, 8, 36, 51, 52, 62, 63 };
	for (size_t i = 0; i < sizeof top_reserved / sizeof *top_reserved; i++) {
		put64(0, 0x1e0 / 8 + 3, at(1) | P | 1ull << top_reserved[i]);
		ck_assert_int_eq(outcome(&cpu, 0xc0a07123), GMM__WALK_RESERVED);
	}
	put64(0, 0x1e0 / 8 + 3, at(1) | P | 0xe18); /* cache bits and those for software */
	expect(&cpu, 0xc0a07123, 0xfedcba123, 4096);
	for (unsigned bit = 36; bit < 63; bit++) {
		put64(2, 7, 0x1000 | P | 1ull << bit);
		ck_assert_int_eq(outcome(&cpu, 0xc0a07123), GMM__WALK_RESERVED);
	}
}
END_TEST

/* Maps a page at linear 0xffff923456789abc through tables 0 to 3; in tables[] of level 4 to 1. */
static struct gmm__walk_cpu long_mode(void)
{
	struct gmm__walk_cpu cpu = { .cr0 = PE | PG | WP, .cr4 = PAE, .efer = LME | LMA | NXE, .phys_bits = 46 };

	clear();
	cpu.cr3 = at(0) | 0x7ff | 1ull << 63; /* PCID and its no-flush bit */
	put64(0, 0x124, at(1) | P | W | U);
	put64(1, 0xd1, at(2) | P | W | U);
	put64(2, 0xb3, at(3) | P | W | U);
	put64(3, 0x189, 0x3ffffffff000 | P | W | U | 0x7full << 52);
	return cpu;
}

#define LINEAR 0xffff923456789abcull

START_TEST(four_levels)
{
	struct gmm__walk_cpu cpu = long_mode();

	expect(&cpu, LINEAR, 0x3ffffffffabc, 4096);
	expect_rights(&cpu, LINEAR, "uUwx");
	outcome(&cpu, LINEAR);
	ck_assert_uint_eq(ram.reads, 4);
	ck_assert_int_eq(outcome(&cpu, LINEAR & 0xffffffffffff), GMM__WALK_BAD_ADDRESS);
	ck_assert_int_eq(outcome(&cpu, LINEAR ^ 1ull << 63), GMM__WALK_BAD_ADDRESS);
	ck_assert_int_eq(outcome(&cpu, 0x0000800000000000), GMM__WALK_BAD_ADDRESS);
	ck_assert_int_eq(outcome(&cpu, 0x00007fffffffffff), GMM__WALK_NOT_PRESENT);
	/* Every level that is missing, and every table that cannot be read. */
	static const unsigned index[] = { 0x124, 0xd1, 0xb3, 0x189 };
	for (int i = 0; i < 4; i++) {
		cpu = long_mode();
		put64(i, index[i], at(1) & ~(uint64_t)P);
		ck_assert_int_eq(outcome(&cpu, LINEAR), GMM__WALK_NOT_PRESENT);
		ck_assert_uint_eq(ram.reads, (unsigned)i + 1);
		cpu = long_mode();
		ram.gfn[i] = 0x999;
		ck_assert_int_eq(outcome(&cpu, LINEAR), GMM__WALK_NO_TABLE);
	}
}
END_TEST

START_TEST(rights_of_levels)
{
	static const unsigned index[] = { 0x124, 0xd1, 0xb3, 0x189 };
	struct gmm__walk_cpu cpu;

	for (int i = 0; i < 4; i++) {
		uint64_t next = i < 3 ? 0x11000 + (uint64_t)i * 0x1000 : 0x777000;
		cpu = long_mode();
		put64(i, index[i], next | P | U);
		expect_rights(&cpu, LINEAR, "u--x");
		cpu.cr0 &= ~WP; /* the kernel may write everywhere, programs may not */
		expect_rights(&cpu, LINEAR, "u-wx");
		put64(i, index[i], next | P | W);
		expect_rights(&cpu, LINEAR, "--wx");
		put64(i, index[i], next | P | W | U | NX);
		expect_rights(&cpu, LINEAR, "uUw-");
		cpu.efer &= ~NXE;
		ck_assert_int_eq(outcome(&cpu, LINEAR), GMM__WALK_RESERVED);
	}
}
END_TEST

START_TEST(reserved_in_long_mode)
{
	static const unsigned index[] = { 0x124, 0xd1, 0xb3, 0x189 };
	struct gmm__walk_cpu cpu;

	for (int i = 0; i < 4; i++) {
		for (unsigned bit = 46; bit < 52; bit++) {
			cpu = long_mode();
			put64(i, index[i], (at(i + 1) | P) | 1ull << bit);
			ck_assert_int_eq(outcome(&cpu, LINEAR), GMM__WALK_RESERVED);
			cpu.phys_bits = 52;
			ck_assert_int_ne(outcome(&cpu, LINEAR), GMM__WALK_RESERVED);
		}
	}
	cpu = long_mode();
	put64(0, 0x124, at(1) | P | PS); /* no 512 GiB pages */
	ck_assert_int_eq(outcome(&cpu, LINEAR), GMM__WALK_RESERVED);
}
END_TEST

START_TEST(large_pages)
{
	struct gmm__walk_cpu cpu = long_mode();

	put64(2, 0xb3, 0x123456600000 | P | PS | 1 << 12);
	expect(&cpu, LINEAR, 0x123456789abc, 2 << 20);
	for (unsigned bit = 13; bit < 21; bit++) {
		put64(2, 0xb3, 0x123456600000 | P | PS | 1ull << bit);
		ck_assert_int_eq(outcome(&cpu, LINEAR), GMM__WALK_RESERVED);
	}
	put64(1, 0xd1, 0x234440000000 | P | U | PS | NX | 1 << 12);
	expect(&cpu, LINEAR, 0x234456789abc, 1 << 30);
	expect_rights(&cpu, LINEAR, "u---");
	for (unsigned bit = 13; bit < 30; bit++) {
		put64(1, 0xd1, 0x234440000000 | P | PS | 1ull << bit);
		ck_assert_int_eq(outcome(&cpu, LINEAR), GMM__WALK_RESERVED);
	}
}
END_TEST

START_TEST(five_levels)
{
	struct gmm__walk_cpu cpu = long_mode();
	uint64_t linear = 0xff5b923456789abc; /* top index 0x15b */

	cpu.cr4 |= LA57;
	cpu.cr3 = at(4);
	put64(4, 0x15b, at(0) | P | W | U);
	expect(&cpu, linear, 0x3ffffffffabc, 4096);
	outcome(&cpu, linear);
	ck_assert_uint_eq(ram.reads, 5);
	ck_assert_int_eq(outcome(&cpu, linear & 0x1ffffffffffffff), GMM__WALK_BAD_ADDRESS);
	ck_assert_int_eq(outcome(&cpu, 0x00ffffffffffffff), GMM__WALK_NOT_PRESENT);
	ck_assert_int_eq(outcome(&cpu, 0x0100000000000000), GMM__WALK_BAD_ADDRESS);
	put64(4, 0x15b, at(0) | P | W | U | PS);
	ck_assert_int_eq(outcome(&cpu, linear), GMM__WALK_RESERVED);
}
END_TEST

/* A table that names itself at every level, as some kernels do to edit their tables: the walk ends all the same. */
START_TEST(self_map)
{
	struct gmm__walk_cpu cpu = long_mode();

	for (unsigned i = 0; i < 512; i++)
		put64(0, i, at(0) | P);
	expect(&cpu, LINEAR, at(0) | 0xabc, 4096);
	cpu.cr4 |= LA57;
	expect(&cpu, LINEAR, at(0) | 0xabc, 4096);
}
END_TEST

START_TEST(names)
{
	for (int i = 0; i < GMM__WALK_OUTCOMES; i++)
		ck_assert_str_ne(gmm__walk_outcome_name((enum gmm__walk_outcome)i), "unknown");
	ck_assert_str_eq(gmm__walk_outcome_name(GMM__WALK_OUTCOMES), "unknown");
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		unpaged, registers, two_levels, four_mib_pages, pae, four_levels, rights_of_levels,
		reserved_in_long_mode, large_pages, five_levels, self_map, names,
	};

	return unit_main("walker", tests, sizeof tests / sizeof *tests);
}
