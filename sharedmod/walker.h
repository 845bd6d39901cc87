/* Guest page tables: from a linear address of a guest to the guest-physical address behind it.
 *
 * The guest's own mode decides, as its control registers give it. A walk reads at most five entries, each of them once,
 * through the caller's accessor; it writes nothing, sets no accessed or dirty bits, never faults the guest and never
 * follows a table twice. What it reads is the guest's to change at any time, also between two entries, so the result is a
 * hint: where it matters, the caller walks again once the guest can no longer write, or compares the bytes.
 *
 * The processor's rules are those of the Intel and AMD manuals (chapters on paging). Not looked at, since they protect
 * against kinds of access and are no property of a page: SMEP, SMAP, protection keys, shadow stacks. Page-directory
 * pointers of PAE come from memory, although a processor keeps the four of them from its last load of CR3.
 */
#ifndef SHAREDMOD_WALKER_H
#define SHAREDMOD_WALKER_H

#include <stdbool.h>
#include <stdint.h>

/* A vCPU's registers as the guest sees them. */
struct gmm__walk_cpu {
	uint64_t cr0, cr3, cr4, efer;
	uint8_t phys_bits; /* width of guest-physical addresses (CPUID 80000008h, EAX 7:0): 32 to 52 */
};

/* Returns the 4096 bytes of a guest page, 8-byte aligned and readable until gmm__walk returns; NULL if this gfn has no
 * memory that may be read now (a hole, MMIO, not present on the host). gfn is below 2^40 and else whatever the guest
 * wrote into its tables. Must not call back into the walker's caller. */
typedef const void *(*gmm__walk_page_fn)(void *arg, uint64_t gfn);

enum gmm__walk_outcome {
	GMM__WALK_OK,
	GMM__WALK_NOT_PRESENT,   /* no translation: an access would fault in the guest */
	GMM__WALK_RESERVED,      /* an entry has a reserved bit set: an access would fault in the guest */
	GMM__WALK_BAD_ADDRESS,   /* not canonical, or above 4 GiB outside long mode */
	GMM__WALK_NO_TABLE,      /* the accessor has no memory for one of the tables */
	GMM__WALK_BAD_REGISTERS, /* no processor allows this combination, or phys_bits is out of range */
	GMM__WALK_OUTCOMES
};

enum gmm__walk_mode {
	GMM__WALK_UNPAGED, /* real mode, or protected mode without paging: linear = physical */
	GMM__WALK_32BIT,   /* two levels; 4 MiB pages with CR4.PSE */
	GMM__WALK_PAE,     /* three levels; 2 MiB pages */
	GMM__WALK_LONG4,   /* four levels; 2 MiB and 1 GiB pages */
	GMM__WALK_LONG5,   /* five levels */
	GMM__WALK_INVALID  /* GMM__WALK_BAD_REGISTERS */
};

struct gmm__walk {
	uint64_t gpa;        /* guest-physical address of that very byte, below 2^52 */
	uint64_t page_bytes; /* size of the page around it: 4 KiB, 2 MiB, 4 MiB, 1 GiB. Unpaged: 4 KiB */
	bool user;           /* user mode may read it */
	bool user_writable;  /* user mode may write it */
	bool writable;       /* the guest's kernel may write it: as the tables say, or anywhere while CR0.WP is clear */
	bool executable;     /* in the mode that may read it; without EFER.NXE everything is */
};

enum gmm__walk_mode gmm__walk_mode(const struct gmm__walk_cpu *cpu);

/* Translates one linear address. *ret_walk is set with GMM__WALK_OK only. Any thread; takes no locks. */
enum gmm__walk_outcome gmm__walk(const struct gmm__walk_cpu *cpu, uint64_t linear, gmm__walk_page_fn page, void *arg,
				 struct gmm__walk *ret_walk);

/* "ok", "not present", ... Never NULL; static storage. */
const char *gmm__walk_outcome_name(enum gmm__walk_outcome outcome);

#endif
