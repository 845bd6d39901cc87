/* Guests whose memory is plain buffers, behind a backend that tells a test of every step.
 *
 * A fake world is an instance on a host without userfaultfd, an engine without threads, and guests. Each guest page
 * is a hole, private, covered by a pool page, or broken (a copy of its own over a cover); while it is frozen, what the
 * guest writes is kept back and done after the thaw. The hook is called at every step and may do what a guest, a device
 * or the embedder could do at that moment, or make the step fail. The world knows what every guest must see, so
 * fake_check finds any byte that was lost or is wrong, any page table that does not agree with the mappings, and any
 * broken account.
 *
 * One world at a time; one thread, but for what a hook starts.
 */
#ifndef TESTS_UNIT_SUPPORT_FAKE_BACKEND_H
#define TESTS_UNIT_SUPPORT_FAKE_BACKEND_H

#include "dedup/engine.h"

enum fake_step {
	FAKE_SCAN,
	FAKE_ARM,
	FAKE_FIND_FOREIGN,  /* between index and merge, with the claim */
	FAKE_BYTES,         /* the engine is about to read the page */
	FAKE_BEFORE_FREEZE, /* with the VM's claim, as all that follow */
	FAKE_AFTER_FREEZE,
	FAKE_BEFORE_SHARE,
	FAKE_BEFORE_RESTORE,
	FAKE_BEFORE_THAW,
	FAKE_AFTER_THAW,
	FAKE_BEFORE_HOLD,
	FAKE_AFTER_HOLD,
	FAKE_SHOW_POOL,
	FAKE_REMAP,
	FAKE_SPLIT,
	FAKE_COLLAPSE,
	FAKE_STEPS,
};

enum fake_kind { FAKE_HOLE, FAKE_PRIVATE, FAKE_COVERED, FAKE_BROKEN, FAKE_FROZEN };

struct fake_page {
	enum fake_kind kind;
	gmm__page_id cover;  /* COVERED, BROKEN: the pool page that is mapped there */
	bool armed;
	bool held;           /* writes wait */
	bool pinned;
	bool swapped;        /* its own bytes are in swap */
	bool foreign;        /* mapped by somebody else */
	bool huge;
};

struct fake_guest {
	struct gmm_vm *vm;
	struct gmm__slot *slot;
	uint32_t pages;
	struct fake_page *page;
	uint8_t *own;      /* bytes of the pages that have their own */
	uint8_t *expected; /* what the guest must see */
};

/* What is about to happen. A result other than 0 makes SCAN, FIND_FOREIGN, SHOW_POOL, REMAP, and what is to come after
 * BEFORE_FREEZE, BEFORE_SHARE and BEFORE_HOLD, SPLIT and COLLAPSE fail with it. */
struct fake_event {
	enum fake_step step;
	struct fake_guest *guest;
	uint32_t first;
	uint32_t count;
};
typedef int fake_hook_fn(const struct fake_event *event);

enum { FAKE_GUESTS = 8 };

struct fake_world {
	struct gmm *gmm;
	struct gmm__engine *engine;
	fake_hook_fn *hook;
	struct fake_guest *guest[FAKE_GUESTS];
	uint32_t guests;
	uint32_t steps[FAKE_STEPS]; /* how often each was taken */
	uint64_t punched_pages;
	uint64_t clock_ns;          /* fake_passes lets 2 s pass before each pass */
	bool out_of_memory;         /* the pool gets no more chunks */
	uint64_t pinned_kb;         /* VmPin of the process */
	uint64_t available_kb;      /* MemAvailable; 0: nobody knows */
	bool disk_full;             /* nothing can be written into the pool */
	char log[256];              /* the last message */
};

/* Opens a world: window 0 unless changed in gmm->options. */
struct fake_world *fake_open(void);
/* Destroys guests that are left and closes; the pools and the accounts must come out even. */
void fake_close(void);

/* A VM with one slot of RAM at guest address 0, all holes. domain NULL: the default one. */
struct fake_guest *fake_guest_new(const char *domain, uint32_t pages);
void fake_guest_destroy(struct fake_guest *guest);
/* When the test has destroyed the VM. */
void fake_guest_forget(struct fake_guest *guest);

/* What guests do: write one word; write a page from a seed, or one word all over; read a byte. */
void fake_write(struct fake_guest *guest, uint32_t page, uint32_t word, uint64_t value);
void fake_fill(struct fake_guest *guest, uint32_t page, uint64_t seed);
void fake_repeat(struct fake_guest *guest, uint32_t page, uint64_t word);
/* fake_fill of pages first ... from seed, seed + 1 ... */
void fake_fill_range(struct fake_guest *guest, uint32_t first, uint32_t count, uint64_t seed);

/* The page is a hole now, without a word to the library (the guest's page was dropped by the VMM). */
void fake_drop(struct fake_guest *guest, uint32_t page);
/* Pages [first, first + GMM__CHUNK_PAGES) are a huge page now. */
void fake_make_huge(struct fake_guest *guest, uint32_t first);
/* What gmm_vm_discard and gmm_vm_unshare do. Not inside a claim. */
void fake_discard(struct fake_guest *guest, uint32_t first, uint32_t count);
void fake_unshare(struct fake_guest *guest, uint32_t first, uint32_t count);

/* So many passes, each followed by fake_check. */
void fake_passes(uint32_t passes);
/* Asserts that all is right. */
void fake_check(void);

enum gmm_page_state fake_state(const struct fake_guest *guest, uint32_t page);
uint32_t fake_count(const struct fake_guest *guest, enum gmm_page_state state);
struct gmm__pool *fake_pool(const struct fake_guest *guest);
const struct gmm__backend *fake_backend(void);

#define assert_state(guest, page, wanted)                                                                   \
	do {                                                                                                \
		enum gmm_page_state state_ = fake_state(guest, page);                                       \
		ck_assert_msg(state_ == (wanted), "%s, page %u: %s, not %s", #guest, (unsigned)(page),      \
			      gmm_page_state_name(state_), gmm_page_state_name(wanted));                    \
	} while (0)

#endif
