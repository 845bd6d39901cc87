/* Fake guests; see fake_backend.h. */
#include "tests/unit/support/fake_backend.h"

#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dedup/instance.h"
#include "tests/unit/support/hand_engine.h"

/* A guest's access that waits for the thaw. */
struct pending {
	struct pending *next;
	struct fake_guest *guest;
	uint32_t page;
	uint32_t offset;
	uint32_t size;
	uint8_t bytes[GMM__PAGE_BYTES];
};

static struct fake_world world;
static struct pending *pending, **pending_end = &pending;
static uint8_t staging[GMM__FREEZE_PAGES * GMM__PAGE_BYTES];
static const uint8_t zeros[GMM__PAGE_BYTES];

static struct fake_guest *guest_of(const struct gmm__slot *slot)
{
	for (uint32_t i = 0; i < world.guests; i++)
		if (world.guest[i] && world.guest[i]->slot == slot)
			return world.guest[i];
	ck_abort_msg("the engine asks for a slot that is gone");
	return NULL;
}

static int tell(enum fake_step step, struct fake_guest *guest, uint32_t first, uint32_t count)
{
	struct fake_event event = { step, guest, first, count };

	world.steps[step]++;
	return world.hook ? world.hook(&event) : 0;
}

/* ---- pages --------------------------------------------------------------------------------------------------- */

static uint8_t *own_bytes(const struct fake_guest *guest, uint32_t page)
{
	return guest->own + (size_t)page * GMM__PAGE_BYTES;
}

/* What a load by the guest sees. */
static const uint8_t *visible(const struct fake_guest *guest, uint32_t page)
{
	switch (guest->page[page].kind) {
	case FAKE_HOLE:
		return zeros;
	case FAKE_COVERED:
		return gmm__pool_bytes(&guest->vm->domain->pool, guest->page[page].cover);
	case FAKE_FROZEN:
		ck_abort_msg("page %u is still frozen", page);
	default:
		return own_bytes(guest, page);
	}
}

static void store(struct fake_guest *guest, uint32_t page, uint32_t offset, uint32_t size, const uint8_t *bytes)
{
	struct fake_page *p = &guest->page[page];

	if (p->kind == FAKE_HOLE || p->kind == FAKE_COVERED) {
		memcpy(own_bytes(guest, page), visible(guest, page), GMM__PAGE_BYTES);
		p->kind = p->kind == FAKE_HOLE ? FAKE_PRIVATE : FAKE_BROKEN;
	}
	memcpy(own_bytes(guest, page) + offset, bytes, size);
	p->armed = p->swapped = false;
}

/* The page is frozen or held, or writes to it wait still: those come first. */
static bool must_wait(const struct fake_guest *guest, uint32_t page)
{
	bool waits = guest->page[page].kind == FAKE_FROZEN || guest->page[page].held;

	for (const struct pending *p = pending; p; p = p->next)
		waits |= p->guest == guest && p->page == page;
	return waits;
}

static void guest_stores(struct fake_guest *guest, uint32_t page, uint32_t offset, uint32_t size, const void *bytes)
{
	memcpy(guest->expected + (size_t)page * GMM__PAGE_BYTES + offset, bytes, size);
	if (!must_wait(guest, page)) {
		store(guest, page, offset, size, bytes);
		return;
	}
	struct pending *p = calloc(1, sizeof *p);
	*p = (struct pending){ .guest = guest, .page = page, .offset = offset, .size = size };
	memcpy(p->bytes, bytes, size);
	*pending_end = p;
	pending_end = &p->next;
}

void fake_write(struct fake_guest *guest, uint32_t page, uint32_t word, uint64_t value)
{
	guest_stores(guest, page, word * 8, 8, &value);
}

void fake_fill(struct fake_guest *guest, uint32_t page, uint64_t seed)
{
	uint64_t words[GMM__PAGE_BYTES / 8];

	for (uint32_t i = 0; i < GMM__PAGE_BYTES / 8; i++)
		words[i] = (seed << 16 | i) * 0x9e3779b97f4a7c15u;
	guest_stores(guest, page, 0, GMM__PAGE_BYTES, words);
}

void fake_repeat(struct fake_guest *guest, uint32_t page, uint64_t word)
{
	uint64_t words[GMM__PAGE_BYTES / 8];

	for (uint32_t i = 0; i < GMM__PAGE_BYTES / 8; i++)
		words[i] = word;
	guest_stores(guest, page, 0, GMM__PAGE_BYTES, words);
}

void fake_fill_range(struct fake_guest *guest, uint32_t first, uint32_t count, uint64_t seed)
{
	for (uint32_t i = 0; i < count; i++)
		fake_fill(guest, first + i, seed + i);
}

void fake_drop(struct fake_guest *guest, uint32_t page)
{
	ck_assert(guest->page[page].kind == FAKE_PRIVATE || guest->page[page].kind == FAKE_HOLE);
	guest->page[page] = (struct fake_page){ .kind = FAKE_HOLE };
	memset(guest->expected + (size_t)page * GMM__PAGE_BYTES, 0, GMM__PAGE_BYTES);
}

/* ---- the backend ------------------------------------------------------------------------------------------------ */

static uint8_t categories(const struct fake_page *p)
{
	uint8_t is = 0;

	switch (p->kind) {
	case FAKE_HOLE:
		return p->foreign ? 0 : GMM__IS_WPALLOWED;
	case FAKE_COVERED:
		return GMM__IS_FILE | GMM__IS_PRESENT | GMM__IS_WRITTEN;
	case FAKE_BROKEN:
		return GMM__IS_WRITTEN | (p->swapped ? GMM__IS_SWAPPED : GMM__IS_PRESENT);
	default:
		is |= p->swapped ? GMM__IS_SWAPPED : GMM__IS_PRESENT;
		is |= p->armed ? 0 : GMM__IS_WRITTEN;
		is |= p->foreign ? 0 : GMM__IS_WPALLOWED;
		is |= p->huge ? GMM__IS_HUGE : 0;
		return is;
	}
}

static int scan(struct gmm__slot *slot, uint32_t first, uint32_t count, const struct gmm__scan_filter *filter,
		uint8_t *ret_is)
{
	struct fake_guest *guest = guest_of(slot);
	int rc = tell(FAKE_SCAN, guest, first, count), passed = 0;

	for (uint32_t i = 0; rc == 0 && i < count; i++) {
		uint8_t is = categories(&guest->page[first + i]);
		if ((is & filter->need) != filter->need || is & filter->forbid || (filter->any && !(is & filter->any)))
			continue;
		ret_is[i] = is & ~GMM__IS_FILE;
		passed++;
	}
	return rc ? rc : passed;
}

static int arm(struct gmm__slot *slot, uint32_t first, uint32_t count)
{
	struct fake_guest *guest = guest_of(slot);

	tell(FAKE_ARM, guest, first, count);
	for (uint32_t i = first; i < first + count; i++)
		if (guest->page[i].kind == FAKE_PRIVATE && !guest->page[i].foreign) {
			ck_assert_msg(!guest->page[i].huge, "page %u of a huge page is armed", i);
			guest->page[i].armed = true;
		}
	return 0;
}

static int find_foreign(struct gmm__slot *slot, uint32_t first, uint32_t count, bool *ret_foreign)
{
	struct fake_guest *guest = guest_of(slot);
	int rc = tell(FAKE_FIND_FOREIGN, guest, first, count), found = 0;

	for (uint32_t i = 0; rc == 0 && i < count; i++) {
		const struct fake_page *p = &guest->page[first + i];
		if (p->foreign || p->kind == FAKE_COVERED || p->kind == FAKE_BROKEN) {
			ret_foreign[i] = true;
			found++;
		}
	}
	return rc ? rc : found;
}

static const uint8_t *bytes(const struct gmm__slot *slot, uint32_t page)
{
	struct fake_guest *guest = guest_of(slot);

	tell(FAKE_BYTES, guest, page, 1);
	return visible(guest, page);
}

static int freeze_range(struct gmm__freeze *freeze)
{
	struct fake_guest *guest = guest_of(freeze->slot);
	int rc = tell(FAKE_BEFORE_FREEZE, guest, freeze->first, freeze->count);

	if (rc != 0)
		return rc;
	ck_assert_uint_le(freeze->count, GMM__FREEZE_PAGES);
	for (uint32_t i = 0; i < freeze->count; i++) {
		struct fake_page *p = &guest->page[freeze->first + i];
		ck_assert_msg(p->kind == FAKE_HOLE || p->kind == FAKE_PRIVATE, "a page under a pool mapping is frozen");
		if (p->pinned) {
			freeze->page[i] = GMM__FROZEN_PINNED;
			continue;
		}
		memcpy(staging + (size_t)i * GMM__PAGE_BYTES, visible(guest, freeze->first + i), GMM__PAGE_BYTES);
		memset(own_bytes(guest, freeze->first + i), 0xdd, GMM__PAGE_BYTES);
		p->kind = FAKE_FROZEN;
		freeze->page[i] = GMM__FROZEN_YES;
	}
	freeze->staging = staging;
	tell(FAKE_AFTER_FREEZE, guest, freeze->first, freeze->count);
	return 0;
}

/* What the kernel would not check: equal bytes, a reference, one place in the file (INV-1, INV-2). */
static int share(struct gmm__freeze *freeze, uint32_t at, uint32_t count, gmm__page_id page)
{
	struct fake_guest *guest = guest_of(freeze->slot);
	struct gmm__pool *pool = &guest->vm->domain->pool;
	int rc = tell(FAKE_BEFORE_SHARE, guest, freeze->first + at, count);

	if (rc != 0)
		return rc;
	ck_assert_msg(gmm__page_index(page) + count <= GMM__CHUNK_PAGES, "a mapping crosses a chunk");
	for (uint32_t i = 0; i < count; i++) {
		struct fake_page *p = &guest->page[freeze->first + at + i];
		ck_assert_int_eq(p->kind, FAKE_FROZEN);
		ck_assert_uint_gt(gmm__pool_record(pool, page + i).references, 0);
		ck_assert_msg(memcmp(staging + (size_t)(at + i) * GMM__PAGE_BYTES, gmm__pool_bytes(pool, page + i),
				     GMM__PAGE_BYTES) == 0, "a page is replaced by one with other bytes");
		*p = (struct fake_page){ .kind = FAKE_COVERED, .cover = page + i };
		freeze->page[at + i] = GMM__FROZEN_SHARED;
	}
	return 0;
}

static void restore(struct gmm__freeze *freeze, uint32_t at, uint32_t count)
{
	struct fake_guest *guest = guest_of(freeze->slot);

	tell(FAKE_BEFORE_RESTORE, guest, freeze->first + at, count);
	for (uint32_t i = at; i < at + count; i++) {
		struct fake_page *p = &guest->page[freeze->first + i];
		ck_assert_int_eq(p->kind, FAKE_FROZEN);
		*p = (struct fake_page){ .kind = FAKE_PRIVATE };
		memcpy(own_bytes(guest, freeze->first + i), staging + (size_t)i * GMM__PAGE_BYTES, GMM__PAGE_BYTES);
		__atomic_store_n(&freeze->page[i], GMM__FROZEN_RESTORED, __ATOMIC_RELAXED);
	}
}

static void do_pending(void)
{
	while (pending) {
		struct pending *p = pending;
		pending = p->next;
		store(p->guest, p->page, p->offset, p->size, p->bytes);
		free(p);
	}
	pending_end = &pending;
}

static void thaw(struct gmm__freeze *freeze)
{
	struct fake_guest *guest = guest_of(freeze->slot);

	tell(FAKE_BEFORE_THAW, guest, freeze->first, freeze->count);
	for (uint32_t i = 0; i < freeze->count; i++) {
		struct fake_page *p = &guest->page[freeze->first + i];
		if (p->kind == FAKE_FROZEN) {
			*p = (struct fake_page){ .kind = FAKE_HOLE };
			freeze->page[i] = GMM__FROZEN_HOLE;
		} else {
			p->armed = false; /* the freeze ended its tracking */
		}
	}
	memset(staging, 0xee, sizeof staging);
	do_pending();
	tell(FAKE_AFTER_THAW, guest, freeze->first, freeze->count);
}

static void flush(struct gmm *gmm, struct gmm__staging *own)
{
	(void)own;
	ck_assert_ptr_eq(gmm, world.gmm);
}

static int hold(struct gmm__slot *slot, uint32_t first, uint32_t count)
{
	struct fake_guest *guest = guest_of(slot);
	int rc = tell(FAKE_BEFORE_HOLD, guest, first, count);

	if (rc != 0)
		return rc;
	for (uint32_t i = first; i < first + count; i++) {
		ck_assert_msg(guest->page[i].kind == FAKE_BROKEN || guest->page[i].kind == FAKE_COVERED,
			      "a page that lies under no mapping of the pool is held");
		guest->page[i].held = true;
	}
	tell(FAKE_AFTER_HOLD, guest, first, count);
	return 0;
}

/* The page's own copy goes, or the pool page it showed; the new pool page must have its bytes (INV-1). */
static void show(struct fake_guest *guest, uint32_t page, gmm__page_id id)
{
	struct gmm__pool *pool = &guest->vm->domain->pool;

	ck_assert(guest->page[page].held && !guest->page[page].pinned);
	ck_assert_uint_gt(gmm__pool_record(pool, id).references, 0);
	ck_assert_msg(memcmp(visible(guest, page), gmm__pool_bytes(pool, id), GMM__PAGE_BYTES) == 0,
		      "a page is repaired with other bytes");
	guest->page[page] = (struct fake_page){ .kind = FAKE_COVERED, .cover = id, .held = true };
}

static int show_pool(struct gmm__slot *slot, uint32_t first, uint32_t count)
{
	struct fake_guest *guest = guest_of(slot);
	int rc = tell(FAKE_SHOW_POOL, guest, first, count);

	for (uint32_t i = first; rc == 0 && i < first + count; i++)
		show(guest, i, guest->page[i].cover);
	return rc;
}

static int remap(struct gmm__slot *slot, uint32_t first, uint32_t count, gmm__page_id page)
{
	struct fake_guest *guest = guest_of(slot);
	int rc = tell(FAKE_REMAP, guest, first, count);

	for (uint32_t i = 0; rc == 0 && i < count; i++)
		show(guest, first + i, page + i);
	return rc;
}

static void let_go(struct gmm__slot *slot, uint32_t first, uint32_t count)
{
	struct fake_guest *guest = guest_of(slot);

	for (uint32_t i = first; i < first + count; i++)
		guest->page[i].held = false;
	do_pending();
}

/* The guests' RAM begins where a huge page can. Whatever is armed when a guest writes to a huge page breaks it, so the
 * engine must never arm one. */
static int split(struct gmm__slot *slot, uint32_t page)
{
	struct fake_guest *guest = guest_of(slot);
	uint32_t first = page / GMM__CHUNK_PAGES * GMM__CHUNK_PAGES;
	int rc = tell(FAKE_SPLIT, guest, page, 1);

	ck_assert_msg(guest->page[page].huge, "page %u is split and is not huge", page);
	for (uint32_t i = first; rc == 0 && i < first + GMM__CHUNK_PAGES && i < guest->pages; i++)
		guest->page[i].huge = false;
	return rc;
}

static int collapse(struct gmm__slot *slot, uint32_t first)
{
	struct fake_guest *guest = guest_of(slot);
	int rc = tell(FAKE_COLLAPSE, guest, first, GMM__CHUNK_PAGES);

	ck_assert_uint_eq(first % GMM__CHUNK_PAGES, 0);
	for (uint32_t i = first; rc == 0 && i < first + GMM__CHUNK_PAGES; i++) {
		ck_assert(guest->page[i].kind == FAKE_PRIVATE || guest->page[i].kind == FAKE_HOLE);
		memmove(own_bytes(guest, i), visible(guest, i), GMM__PAGE_BYTES);
		guest->page[i] = (struct fake_page){ .kind = FAKE_PRIVATE, .huge = true };
	}
	return rc;
}

void fake_make_huge(struct fake_guest *guest, uint32_t first)
{
	for (uint32_t i = first; i < first + GMM__CHUNK_PAGES; i++)
		guest->page[i] = (struct fake_page){ .kind = FAKE_PRIVATE, .huge = true };
}

static int privatise(struct gmm__slot *slot, uint32_t first, uint32_t count, uint32_t *ret_done)
{
	struct fake_guest *guest = guest_of(slot);

	for (uint32_t i = first; i < first + count; i++) {
		memmove(own_bytes(guest, i), visible(guest, i), GMM__PAGE_BYTES);
		guest->page[i] = (struct fake_page){ .kind = FAKE_PRIVATE };
	}
	*ret_done = count;
	return 0;
}

static int discard(struct gmm__slot *slot, uint32_t first, uint32_t count)
{
	struct fake_guest *guest = guest_of(slot);

	for (uint32_t i = first; i < first + count; i++)
		guest->page[i] = (struct fake_page){ .kind = FAKE_HOLE };
	return 0;
}

const struct gmm__backend *fake_backend(void)
{
	static const struct gmm__backend backend = {
		.scan = scan, .find_foreign = find_foreign, .arm = arm, .bytes = bytes, .freeze = freeze_range,
		.share = share, .restore = restore, .thaw = thaw, .flush = flush, .hold = hold,
		.show_pool = show_pool, .remap = remap, .let_go = let_go, .split = split,
		.collapse = collapse, .privatise = privatise, .discard = discard,
	};

	return &backend;
}

/* ---- the host ------------------------------------------------------------------------------------------------------ */

static int no_uffd_open(enum gmm__uffd_kind kind)
{
	(void)kind;
	return gmm__sys_linux()->file_create("fake-userfaultfd");
}

static int no_watch(int fd, void *addr, size_t size, enum gmm__watch mode)
{
	(void)fd, (void)addr, (void)size, (void)mode;
	return 0;
}

static int no_range(int fd, void *addr, size_t size)
{
	(void)fd, (void)addr, (void)size;
	return 0;
}

static int no_pagemap_scan(int fd, void *start, void *end, const struct gmm__scan_filter *filter,
			   struct gmm__scan_range *ranges, size_t max_ranges, void **ret_end)
{
	(void)fd, (void)start, (void)filter, (void)ranges, (void)max_ranges;
	if (ret_end)
		*ret_end = end;
	return 0;
}

/* The same at every run. */
static int fixed_random(void *buf, size_t size)
{
	for (size_t i = 0; i < size; i++)
		((uint8_t *)buf)[i] = (uint8_t)(i * 167 + (i >> 3) + 89);
	return 0;
}

/* Time stands still but between passes, so that nothing depends on how fast tests are. */
static uint64_t fixed_clock(void)
{
	return world.clock_ns;
}

/* No file is there but the process's status and, when a test says so, the host's memory. */
static ssize_t file_read(const char *path, char *buf, size_t size)
{
	if (strcmp(path, "/proc/meminfo") == 0 && world.available_kb)
		return snprintf(buf, size, "MemTotal: 1 kB\nMemAvailable:   %llu kB\n",
				(unsigned long long)world.available_kb);
	if (strcmp(path, "/proc/thread-self/status") != 0)
		return -ENOENT;
	return snprintf(buf, size, "Name:\tfake\nVmPin:\t%8llu kB\n", (unsigned long long)world.pinned_kb);
}

static int file_resize(int fd, uint64_t size)
{
	return world.out_of_memory ? -ENOMEM : gmm__sys_linux()->file_resize(fd, size);
}

static ssize_t file_write(int fd, const struct iovec *parts, int n, uint64_t offset)
{
	return world.disk_full ? -ENOSPC : gmm__sys_linux()->file_write(fd, parts, n, offset);
}

static int file_punch(int fd, uint64_t offset, uint64_t size)
{
	world.punched_pages += size / GMM__PAGE_BYTES;
	return gmm__sys_linux()->file_punch(fd, offset, size);
}

static const struct gmm__sys *fake_sys(void)
{
	static struct gmm__sys sys;

	sys = *gmm__sys_linux();
	sys.uffd_open = no_uffd_open;
	sys.uffd_watch = no_watch;
	sys.uffd_unwatch = sys.uffd_wake = no_range;
	sys.pagemap_scan = no_pagemap_scan;
	sys.random = fixed_random;
	sys.clock_ns = sys.thread_cpu_ns = sys.process_cpu_ns = fixed_clock;
	sys.file_read = file_read;
	sys.file_resize = file_resize;
	sys.file_write = file_write;
	sys.file_punch = file_punch;
	return &sys;
}

static void keep_log(void *arg, enum gmm_log_level level, const char *message)
{
	(void)arg, (void)level;
	snprintf(world.log, sizeof world.log, "%s", message);
}

/* ---- the world ------------------------------------------------------------------------------------------------------- */

struct fake_world *fake_open(void)
{
	struct gmm_options options;

	world = (struct fake_world){ .clock_ns = 1 };
	gmm_options_init(&options);
	options.window_ms = 0;
	options.log = keep_log;
	ck_assert_int_eq(gmm__instance_open(&options, fake_sys(), &world.gmm), GMM_OK);
	world.engine = hand_engine_new(world.gmm, fake_backend());
	return &world;
}

struct fake_guest *fake_guest_new(const char *domain, uint32_t pages)
{
	struct fake_guest *guest = calloc(1, sizeof *guest);
	struct gmm_vm_options options;
	void *host;

	gmm_vm_options_init(&options);
	options.domain = domain;
	ck_assert_int_eq(gmm_vm_create(world.gmm, &options, &guest->vm), GMM_OK);
	ck_assert_int_eq(gmm_vm_create_ram(guest->vm, 0, (uint64_t)pages * GMM__PAGE_BYTES, &host), GMM_OK);
	guest->slot = guest->vm->slots->slot[0];
	guest->pages = pages;
	guest->page = calloc(pages, sizeof *guest->page);
	guest->own = calloc(pages, GMM__PAGE_BYTES);
	guest->expected = calloc(pages, GMM__PAGE_BYTES);
	ck_assert_uint_lt(world.guests, FAKE_GUESTS);
	world.guest[world.guests++] = guest;
	return guest;
}

void fake_guest_forget(struct fake_guest *guest)
{
	for (uint32_t i = 0; i < world.guests; i++)
		if (world.guest[i] == guest)
			world.guest[i] = NULL;
	free(guest->page);
	free(guest->own);
	free(guest->expected);
	free(guest);
}

static void *destroy_thread(void *vm)
{
	return gmm_vm_destroy(vm, GMM_RAM_DISCARD) == GMM_OK ? NULL : vm;
}

void fake_guest_destroy(struct fake_guest *guest)
{
	/* By a thread of its own, as it would be: the caller may be in the midst of a merge, with its locks. */
	pthread_t destroyer;
	void *failed;
	ck_assert_int_eq(pthread_create(&destroyer, NULL, destroy_thread, guest->vm), 0);
	pthread_join(destroyer, &failed);
	ck_assert_ptr_null(failed);
	fake_guest_forget(guest);
}

void fake_close(void)
{
	world.hook = NULL;
	for (uint32_t i = 0; i < world.guests; i++) {
		if (!world.guest[i])
			continue;
		fake_check();
		fake_guest_destroy(world.guest[i]);
	}
	hand_engine_free(world.engine);
	ck_assert_int_eq(gmm_instance_close(world.gmm), GMM_OK);
}

void fake_discard(struct fake_guest *guest, uint32_t first, uint32_t count)
{
	ck_assert(gmm__vm_claim(guest->vm, false));
	discard(guest->slot, first, count);
	gmm__account_uncovered(guest->slot, first, count, GMM_PAGE_ABSENT);
	gmm__vm_release(guest->vm);
	memset(guest->expected + (size_t)first * GMM__PAGE_BYTES, 0, (size_t)count * GMM__PAGE_BYTES);
}

void fake_unshare(struct fake_guest *guest, uint32_t first, uint32_t count)
{
	uint32_t done;

	ck_assert(gmm__vm_claim(guest->vm, false));
	for (uint32_t i = first; i < first + count; i++) {
		if (!gmm__state_is_covered(gmm__slot_state(guest->slot, i)))
			continue;
		privatise(guest->slot, i, 1, &done);
		gmm__account_uncovered(guest->slot, i, 1, GMM_PAGE_VOLATILE);
	}
	gmm__vm_release(guest->vm);
}

static void check_page(const struct fake_guest *guest, uint32_t page)
{
	const struct fake_page *p = &guest->page[page];
	enum gmm_page_state state = fake_state(guest, page);
	bool covered = p->kind == FAKE_COVERED || p->kind == FAKE_BROKEN;

	ck_assert_msg(memcmp(visible(guest, page), guest->expected + (size_t)page * GMM__PAGE_BYTES,
			     GMM__PAGE_BYTES) == 0, "page %u (%s) has lost its bytes", page, gmm_page_state_name(state));
	ck_assert_msg(covered == gmm__state_is_covered(state), "page %u is %s, but %s", page,
		      gmm_page_state_name(state), covered ? "mapped" : "not mapped");
	ck_assert(!covered || guest->slot->value[page] == p->cover);
	ck_assert_msg(state != GMM_PAGE_BROKEN || p->kind == FAKE_BROKEN, "page %u is not broken", page);
}

void fake_check(void)
{
	ck_assert_ptr_null(pending);
	for (uint32_t g = 0; g < world.guests; g++)
		for (uint32_t i = 0; world.guest[g] && i < world.guest[g]->pages; i++)
			check_page(world.guest[g], i);
	ck_assert_msg(gmm_instance_validate(world.gmm) == GMM_OK, "%s", world.log);
	ck_assert_uint_eq(world.gmm->claims, 0);
}

void fake_passes(uint32_t passes)
{
	while (passes-- > 0) {
		world.clock_ns += 2000000000;
		gmm__engine_pass(world.engine);
		fake_check();
	}
}

enum gmm_page_state fake_state(const struct fake_guest *guest, uint32_t page)
{
	return gmm__slot_state(guest->slot, page);
}

uint32_t fake_count(const struct fake_guest *guest, enum gmm_page_state state)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < guest->pages; i++)
		n += fake_state(guest, i) == state;
	return n;
}

struct gmm__pool *fake_pool(const struct fake_guest *guest)
{
	return &guest->vm->domain->pool;
}
