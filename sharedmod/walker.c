/* The walk over guest page tables; see walker.h. One loop for all modes: a table of levels says for each what its entries
 * look like, and every step either ends or goes one level down. */
#include "sharedmod/walker.h"

#include <stddef.h>

enum {
	PAGE_SHIFT = 12,
	PHYS_BITS_MIN = 32,
	PHYS_BITS_MAX = 52,
	PSE36_PHYS_BITS_MAX = 40,
};

#define CR0_PE (1ull << 0)
#define CR0_WP (1ull << 16)
#define CR0_PG (1ull << 31)
#define CR4_PSE (1ull << 4)
#define CR4_PAE (1ull << 5)
#define CR4_LA57 (1ull << 12)
#define EFER_LME (1ull << 8)
#define EFER_LMA (1ull << 10)
#define EFER_NXE (1ull << 11)

#define ENTRY_PRESENT (1ull << 0)
#define ENTRY_WRITABLE (1ull << 1)
#define ENTRY_USER (1ull << 2)
#define ENTRY_LARGE (1ull << 7)
#define ENTRY_NX (1ull << 63)

/* Bits low..high, both included; none if high < low. */
static uint64_t bits(unsigned low, unsigned high)
{
	return high < low ? 0 : (high == 63 ? ~0ull : (1ull << (high + 1)) - 1) & ~((1ull << low) - 1);
}

/* How a mode cuts up linear addresses. Levels count from 1, the one whose entries are of 4 KiB pages. */
struct layout {
	uint8_t levels;
	uint8_t entry_bytes;
	uint8_t index_bits;     /* of every level but the top one */
	uint8_t top_index_bits;
};

static const struct layout layouts[] = {
	[GMM__WALK_32BIT] = { .levels = 2, .entry_bytes = 4, .index_bits = 10, .top_index_bits = 10 },
	[GMM__WALK_PAE] = { .levels = 3, .entry_bytes = 8, .index_bits = 9, .top_index_bits = 2 },
	[GMM__WALK_LONG4] = { .levels = 4, .entry_bytes = 8, .index_bits = 9, .top_index_bits = 9 },
	[GMM__WALK_LONG5] = { .levels = 5, .entry_bytes = 8, .index_bits = 9, .top_index_bits = 9 },
};

enum gmm__walk_mode gmm__walk_mode(const struct gmm__walk_cpu *cpu)
{
	/* LMA is what the processor makes of LME and PG. A hypervisor may report either or both. */
	bool is_long = cpu->efer & (EFER_LME | EFER_LMA);

	if (cpu->phys_bits < PHYS_BITS_MIN || cpu->phys_bits > PHYS_BITS_MAX)
		return GMM__WALK_INVALID;
	if (!(cpu->cr0 & CR0_PG))
		return cpu->efer & EFER_LMA ? GMM__WALK_INVALID : GMM__WALK_UNPAGED;
	if (!(cpu->cr0 & CR0_PE) || (is_long && !(cpu->cr4 & CR4_PAE)))
		return GMM__WALK_INVALID;
	if (is_long)
		return cpu->cr4 & CR4_LA57 ? GMM__WALK_LONG5 : GMM__WALK_LONG4;
	return cpu->cr4 & CR4_PAE ? GMM__WALK_PAE : GMM__WALK_32BIT;
}

static bool address_fits(enum gmm__walk_mode mode, uint64_t linear)
{
	unsigned sign = mode == GMM__WALK_LONG5 ? 56 : 47;

	if (mode != GMM__WALK_LONG4 && mode != GMM__WALK_LONG5)
		return linear >> 32 == 0;
	return linear >> sign == 0 || linear >> sign == bits(0, 63 - sign);
}

static uint64_t top_table(const struct gmm__walk_cpu *cpu, enum gmm__walk_mode mode)
{
	switch (mode) {
	case GMM__WALK_32BIT:
		return cpu->cr3 & bits(12, 31);
	case GMM__WALK_PAE:
		return cpu->cr3 & bits(5, 31);
	default:
		return cpu->cr3 & bits(12, cpu->phys_bits - 1u);
	}
}

static bool read_entry(uint64_t at, const struct layout *layout, gmm__walk_page_fn page, void *arg, uint64_t *ret_entry)
{
	const char *bytes = page(arg, at >> PAGE_SHIFT);

	if (!bytes)
		return false;
	bytes += at & bits(0, PAGE_SHIFT - 1);
	/* The guest may write it meanwhile: one load, so that what was checked is what is used. */
	if (layout->entry_bytes == 4)
		*ret_entry = __atomic_load_n((const uint32_t *)(const void *)bytes, __ATOMIC_RELAXED);
	else
		*ret_entry = __atomic_load_n((const uint64_t *)(const void *)bytes, __ATOMIC_RELAXED);
	return true;
}

static bool is_leaf(const struct gmm__walk_cpu *cpu, enum gmm__walk_mode mode, unsigned level, uint64_t entry)
{
	if (level == 1)
		return true;
	if (!(entry & ENTRY_LARGE))
		return false;
	switch (mode) {
	case GMM__WALK_32BIT:
		return cpu->cr4 & CR4_PSE;
	case GMM__WALK_PAE:
		return level == 2;
	default:
		return level <= 3;
	}
}

/* Bits of 32-bit entries that have to be zero: only large pages have any. */
static uint64_t reserved_32bit(const struct gmm__walk_cpu *cpu, unsigned level, bool leaf)
{
	unsigned width = cpu->phys_bits < PSE36_PHYS_BITS_MAX ? cpu->phys_bits : PSE36_PHYS_BITS_MAX;

	return leaf && level == 2 ? bits(width - 19, 21) : 0;
}

static uint64_t reserved(const struct gmm__walk_cpu *cpu, enum gmm__walk_mode mode, unsigned level, bool leaf)
{
	uint64_t mask;

	if (mode == GMM__WALK_32BIT)
		return reserved_32bit(cpu, level, leaf);
	if (mode == GMM__WALK_PAE) {
		mask = bits(cpu->phys_bits, 62);
		if (level == 3)
			return mask | ENTRY_NX | bits(5, 8) | bits(1, 2);
	} else {
		mask = bits(cpu->phys_bits, 51);
		if (level >= 4)
			mask |= ENTRY_LARGE;
	}
	if (!(cpu->efer & EFER_NXE))
		mask |= ENTRY_NX;
	if (leaf && level > 1)
		mask |= bits(13, PAGE_SHIFT + 9 * (level - 1) - 1); /* bit 12 is a memory type there */
	return mask;
}

/* The address in an entry: of the next table, or of the page. */
static uint64_t entry_address(enum gmm__walk_mode mode, uint64_t entry, unsigned shift)
{
	if (mode != GMM__WALK_32BIT)
		return entry & bits(shift, PHYS_BITS_MAX - 1);
	if (shift == PAGE_SHIFT)
		return entry & bits(PAGE_SHIFT, 31);
	return (entry & bits(22, 31)) | (entry & bits(13, 20)) >> 13 << 32;
}

static void add_rights(enum gmm__walk_mode mode, unsigned level, uint64_t entry, struct gmm__walk *walk)
{
	if (mode == GMM__WALK_PAE && level == 3)
		return; /* these entries carry none */
	walk->user &= (entry & ENTRY_USER) != 0;
	walk->writable &= (entry & ENTRY_WRITABLE) != 0;
	if (mode != GMM__WALK_32BIT)
		walk->executable &= !(entry & ENTRY_NX); /* without NXE the bit was reserved */
}

static enum gmm__walk_outcome walk_levels(const struct gmm__walk_cpu *cpu, enum gmm__walk_mode mode, uint64_t linear,
					  gmm__walk_page_fn page, void *arg, struct gmm__walk *walk)
{
	const struct layout *layout = &layouts[mode];
	uint64_t table = top_table(cpu, mode), entry;

	for (unsigned level = layout->levels;; level--) {
		unsigned shift = PAGE_SHIFT + layout->index_bits * (level - 1);
		unsigned width = level == layout->levels ? layout->top_index_bits : layout->index_bits;
		uint64_t index = linear >> shift & bits(0, width - 1);
		bool leaf;

		if (!read_entry(table + index * layout->entry_bytes, layout, page, arg, &entry))
			return GMM__WALK_NO_TABLE;
		if (!(entry & ENTRY_PRESENT))
			return GMM__WALK_NOT_PRESENT;
		leaf = is_leaf(cpu, mode, level, entry);
		if (entry & reserved(cpu, mode, level, leaf))
			return GMM__WALK_RESERVED;
		add_rights(mode, level, entry, walk);
		if (leaf) {
			walk->page_bytes = 1ull << shift;
			walk->gpa = entry_address(mode, entry, shift) | (linear & bits(0, shift - 1));
			return GMM__WALK_OK;
		}
		table = entry_address(mode, entry, PAGE_SHIFT);
	}
}

enum gmm__walk_outcome gmm__walk(const struct gmm__walk_cpu *cpu, uint64_t linear, gmm__walk_page_fn page, void *arg,
				 struct gmm__walk *ret_walk)
{
	enum gmm__walk_mode mode = gmm__walk_mode(cpu);
	struct gmm__walk walk = { .user = true, .writable = true, .executable = true };
	enum gmm__walk_outcome outcome = GMM__WALK_OK;

	if (mode == GMM__WALK_INVALID)
		return GMM__WALK_BAD_REGISTERS;
	if (!address_fits(mode, linear))
		return GMM__WALK_BAD_ADDRESS;
	if (mode == GMM__WALK_UNPAGED) {
		walk.gpa = linear;
		walk.page_bytes = 1ull << PAGE_SHIFT;
	} else {
		outcome = walk_levels(cpu, mode, linear, page, arg, &walk);
	}
	if (outcome != GMM__WALK_OK)
		return outcome;
	walk.user_writable = walk.user && walk.writable;
	if (!(cpu->cr0 & CR0_WP))
		walk.writable = true;
	*ret_walk = walk;
	return GMM__WALK_OK;
}

const char *gmm__walk_outcome_name(enum gmm__walk_outcome outcome)
{
	static const char *const names[GMM__WALK_OUTCOMES] = {
		[GMM__WALK_OK] = "ok",
		[GMM__WALK_NOT_PRESENT] = "not present",
		[GMM__WALK_RESERVED] = "reserved bit set",
		[GMM__WALK_BAD_ADDRESS] = "bad address",
		[GMM__WALK_NO_TABLE] = "table not readable",
		[GMM__WALK_BAD_REGISTERS] = "bad registers",
	};

	return (unsigned)outcome < GMM__WALK_OUTCOMES ? names[outcome] : "unknown";
}
