/* A RAM slot of a VM and its page table, which is the record of the VM's references too.
 *
 * Each page has a state byte and a 32-bit value: while it lies under a pool mapping (FILL, SHARED, BROKEN) the
 * value is the page id of the slot that covers it; while it is UNIQUE, NOMINATED, BUDGET or RACED it is the
 * fingerprint of its bytes as last digested; while it is VOLATILE it is its heat (dedup/heat.h); else 0. FILL and
 * SHARED hold one reference to that page, BROKEN one broken cover (INV-3). Five bytes a page.
 *
 * A HUGE page that was sampled has a fingerprint, too (0 with GMM__FLAG_FILL: it was zero).
 *
 * Threads: states and values are written only by the thread that has claimed the VM (gmm/vm.h); others may
 * read a state or fingerprint as a hint.
 */
#ifndef GMM_SLOT_H
#define GMM_SLOT_H

#include <gmm/gmm.h>

#include "gmm/host_ranges.h"
#include "gmm/pool.h"

struct gmm_vm;

enum {
	GMM__STATE_MASK = 0x0f,
	GMM__FLAG_UNSHAREABLE = 0x10, /* declared so by the embedder */
	GMM__FLAG_PINNED = 0x20,      /* pinned by the embedder */
	GMM__FLAG_FILL = 0x40,        /* repeats one word, as last digested */
	GMM__FLAG_WHOLE = 0x80,       /* its fingerprint is that of the whole page, not of a sample */
	GMM__FLAG_SAVED = 0x80,       /* of a HUGE page: it would be saved if its huge page were broken (dedup/huge.h) */
	GMM__FLAGS_REFUSED = GMM__FLAG_UNSHAREABLE | GMM__FLAG_PINNED,
};
/* Scans look at a ballooned page as at an absent one: it is ABSENT with two flags that no other page has both of. */
enum { GMM__BALLOONED = GMM__FLAG_FILL | GMM__FLAG_WHOLE };
_Static_assert(GMM_PAGE_STATES == GMM_PAGE_BALLOONED + 1 && (int)GMM_PAGE_BALLOONED <= (int)GMM__STATE_MASK &&
	       GMM_PAGE_ABSENT == 0, "states fit their bits");

static inline enum gmm_page_state gmm__state_of_byte(uint8_t byte)
{
	return (byte & ~GMM__FLAGS_REFUSED) == GMM__BALLOONED ? GMM_PAGE_BALLOONED : byte & GMM__STATE_MASK;
}

/* What new mappings over the slot must be given again, since the kernel does not inherit it. */
struct gmm__ram_attributes {
	bool dont_fork;
	bool dont_dump;
	bool no_huge;
	bool huge;              /* MADV_HUGEPAGE */
	int policy;             /* MPOL_*; 0: the default */
	unsigned long nodes[16]; /* of the policy */
};

/* What is known of each 2 MiB of host memory, aligned as huge pages are, of which the slot has a part. */
struct gmm__unit {
	uint8_t changed; /* sampled pages found changed; halved with each round of samples */
	uint8_t wait;    /* rounds until breaking it is tried again */
	uint8_t flags;   /* GMM__UNIT_* */
};

enum {
	GMM__UNIT_WHOLE = 1,  /* met as a huge page, which was not broken here since */
	GMM__UNIT_BROKEN = 2, /* was a huge page until it was broken here */
};

/* How often a region of the slot is visited (dedup/effort.h). level and rest may be set to 0 by any thread, which wakes the
 * region; all else is the engine's. All 0: new memory. */
struct gmm__effort {
	uint8_t level;      /* visited every 2^level passes */
	uint8_t rest;       /* passes until the next visit */
	uint8_t visits;     /* since it was new memory, up to some number */
	uint8_t unsurveyed; /* passes since all of it was looked at, up to some number */
};

enum { GMM__REGION_PAGES = 2048 };

struct gmm__slot {
	struct gmm_vm *vm;
	uint64_t gfn;              /* of its first page */
	uint32_t pages;
	uint8_t *host;             /* address of its first page; NULL: RAM of another process, only its tables are here */
	void *owner;               /* in a service: the session it belongs to, and its number there */
	uint32_t number;
	struct gmm__host_range range; /* all its host memory */
	gmm__chunk_id first_chunk; /* its seeded chunks: page i has page id first_chunk << 9 + i */
	bool created;              /* mapped by the library */
	_Atomic bool dead;         /* being removed; set under the VM's claim */
	struct gmm__ram_attributes attributes;
	uint32_t remote;           /* its number at the sharing service + 1; 0: not announced. The engine's */
	_Atomic bool stale;        /* the service's table differs: pages were changed outside the engine */
	uint32_t *value;
	uint8_t *state;            /* enum gmm_page_state and GMM__FLAG_* */
	struct gmm__unit *unit;    /* with the claim */
	struct gmm__effort *effort; /* one for each GMM__REGION_PAGES */
};

/* Tables for `pages` pages, all ABSENT. NULL without memory. */
struct gmm__slot *gmm__slot_new(struct gmm__mem *mem, struct gmm_vm *vm, uint64_t gfn, uint32_t pages, uint8_t *host);
void gmm__slot_free(struct gmm__mem *mem, struct gmm__slot *slot);

/* The regions that pages [first, first + count) lie in are visited at the next pass. */
void gmm__slot_wake(struct gmm__slot *slot, uint32_t first, uint32_t count);

/* The unit that holds a page. */
static inline uint32_t gmm__slot_unit(const struct gmm__slot *slot, uint32_t page)
{
	uint64_t before = (uintptr_t)slot->host / GMM__PAGE_BYTES % GMM__CHUNK_PAGES;

	return (uint32_t)((before + page) / GMM__CHUNK_PAGES);
}

/* State and flags. */
static inline uint8_t gmm__slot_byte(const struct gmm__slot *slot, uint32_t page)
{
	return __atomic_load_n(&slot->state[page], __ATOMIC_RELAXED);
}

static inline enum gmm_page_state gmm__slot_state(const struct gmm__slot *slot, uint32_t page)
{
	return gmm__state_of_byte(gmm__slot_byte(slot, page));
}

static inline uint8_t *gmm__slot_host(const struct gmm__slot *slot, uint32_t page)
{
	return slot->host + (uint64_t)page * GMM__PAGE_BYTES;
}

static inline gmm__page_id gmm__slot_page_id(const struct gmm__slot *slot, uint32_t page)
{
	return (slot->first_chunk << GMM__CHUNK_SHIFT) + page;
}

static inline bool gmm__state_is_shared(enum gmm_page_state state)
{
	return state == GMM_PAGE_SHARED || state == GMM_PAGE_FILL;
}

/* Lies under a mapping of the pool. */
static inline bool gmm__state_is_covered(enum gmm_page_state state)
{
	return gmm__state_is_shared(state) || state == GMM_PAGE_BROKEN;
}

/* Private and quiet, with a fingerprint: others may find it as their twin. */
static inline bool gmm__state_is_candidate(enum gmm_page_state state)
{
	return state == GMM_PAGE_UNIQUE || state == GMM_PAGE_NOMINATED || state == GMM_PAGE_BUDGET;
}

/* Has memory of its own. */
static inline bool gmm__state_is_private(enum gmm_page_state state)
{
	return !gmm__state_is_shared(state) && state != GMM_PAGE_ABSENT && state != GMM_PAGE_ZERO &&
	       state != GMM_PAGE_SWAPPED && state != GMM_PAGE_BALLOONED;
}

/* The state of a private page that is not to be shared, by its flags. */
static inline enum gmm_page_state gmm__state_refused(uint8_t flags)
{
	return flags & GMM__FLAG_PINNED ? GMM_PAGE_PINNED : GMM_PAGE_UNSHAREABLE;
}

/* Sets state and value and keeps the VM's counts; flags stay. */
void gmm__slot_set(struct gmm__slot *slot, uint32_t page, enum gmm_page_state state, uint32_t value);

/* Mapping seams at the left edges of pages [first, end], that is the VMAs these pages add, and the runs that start
 * there: a broken page ends a run, but not its mapping. */
struct gmm__seams {
	uint32_t mappings;
	uint32_t runs;
};
struct gmm__seams gmm__slot_seams(const struct gmm__slot *slot, uint32_t first, uint32_t end);

/* Pages in a row from `page` on, up to `end`, that lie under one mapping of the pool; 0 when it does not. A hint without the
 * VM's claim. */
uint32_t gmm__slot_mapping(const struct gmm__slot *slot, uint32_t page, uint32_t end);

/* How many VMAs the slot would gain if pages [first, first + count) mapped pool pages from `page` on. Never
 * negative here: gains by joining count as 0. */
uint32_t gmm__slot_seams_added(const struct gmm__slot *slot, uint32_t first, uint32_t count, gmm__page_id page);

#endif
