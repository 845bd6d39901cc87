/* The mapped backend: scanning, freezing, sharing and thawing host virtual memory.
 *
 * Freeze: the run's pages are watched for MISSING faults and moved out to staging with UFFDIO_MOVE, which
 * refuses pages that are pinned or not exclusive. The guest waits if it touches them. Only the run is watched, not
 * a span around it, so that the pages beside it keep their dirty tracking and guests their holes. Share: the pool's
 * file is mapped over the run, which also drops the watch of that part. What was not replaced is put back by
 * a move, and gets its asynchronous write-protect watch again: MISSING|WP → WP needs an unregistration between,
 * since the kernel ignores a registration with fewer modes.
 */
#include "dedup/mapped.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "dedup/backend.h"

static struct gmm *gmm_of(const struct gmm__slot *slot)
{
	return slot->vm->gmm;
}

static uint64_t bytes_of(uint32_t pages)
{
	return (uint64_t)pages * GMM__PAGE_BYTES;
}

/* ---- looking --------------------------------------------------------------------------------------------- */

/* Asks the pagemap and writes one byte for each page that passes the filter: `mark`, or its categories if 0. Returns how
 * many ranges it got. */
static int ask(struct gmm__slot *slot, uint32_t first, uint32_t count, const struct gmm__scan_filter *filter,
	       uint8_t mark, uint8_t *ret)
{
	struct gmm *gmm = gmm_of(slot);
	struct gmm__scan_range ranges[64];
	uint8_t *start = gmm__slot_host(slot, first), *at = start, *end = start + bytes_of(count);
	int answers = 0;

	while (at < end) {
		void *stop = end;
		int n = gmm__sys_of(gmm)->pagemap_scan(gmm->pagemap, at, end, filter, ranges, 64, &stop);
		if (n < 0)
			return n;
		for (const struct gmm__scan_range *r = ranges; r < ranges + n; r++)
			memset(ret + (r->start - (uintptr_t)start) / GMM__PAGE_BYTES, mark ? mark : (uint8_t)r->is,
			       (r->end - r->start) / GMM__PAGE_BYTES);
		answers += n;
		at = stop;
	}
	return answers;
}

static int mapped_scan(struct gmm__slot *slot, uint32_t first, uint32_t count, const struct gmm__scan_filter *filter,
		       uint8_t *ret_is)
{
	return ask(slot, first, count, filter, 0, ret_is);
}

static int mapped_find_foreign(struct gmm__slot *slot, uint32_t first, uint32_t count, bool *ret_foreign)
{
	struct gmm__scan_filter foreign = { .forbid = GMM__IS_WPALLOWED };

	return ask(slot, first, count, &foreign, true, (uint8_t *)ret_foreign);
}

static int mapped_arm(struct gmm__slot *slot, uint32_t first, uint32_t count)
{
	struct gmm *gmm = gmm_of(slot);
	uint8_t *at = gmm__slot_host(slot, first);

	return gmm__sys_of(gmm)->pagemap_arm(gmm->pagemap, at, at + bytes_of(count));
}

static const uint8_t *mapped_bytes(const struct gmm__slot *slot, uint32_t page)
{
	return gmm__slot_host(slot, page);
}

/* ---- freeze to thaw ---------------------------------------------------------------------------------------- */

enum { UNWATCH_TRIES = 100 };

/* Ends a watch; the kernel may be out of memory for a moment. */
static int unwatch(const struct gmm__sys *sys, int uffd, uint8_t *host, uint64_t bytes)
{
	int rc = -ENOMEM;

	for (int i = 0; rc != 0 && i < UNWATCH_TRIES; i++)
		rc = sys->uffd_unwatch(uffd, host, bytes);
	return rc;
}

/* The kernel has no memory to end a watch: nobody may wait for ever at a hole of the range, so holes get zero pages. The
 * next freeze there tries again. */
static void fill_holes(struct gmm *gmm, uint8_t *host, uint64_t bytes)
{
	static const uint8_t zeros[GMM__PAGE_BYTES] __attribute__((aligned(GMM__PAGE_BYTES)));

	for (uint64_t at = 0; at < bytes; at += GMM__PAGE_BYTES) /* -EEXIST: no hole */
		gmm__sys_of(gmm)->uffd_copy(gmm->track_uffd, host + at, zeros, GMM__PAGE_BYTES);
}

/* MISSING|WP → WP for a part of the range that is still anonymous; wakes who waits there. */
static void watch_again(struct gmm__freeze *freeze, uint32_t at, uint32_t count)
{
	struct gmm *gmm = gmm_of(freeze->slot);
	const struct gmm__sys *sys = gmm__sys_of(gmm);
	uint8_t *host = gmm__slot_host(freeze->slot, freeze->first + at);

	if (unwatch(sys, gmm->track_uffd, host, bytes_of(count)) != 0)
		fill_holes(gmm, host, bytes_of(count));
	/* Not tracked, if this fails: the pages stay as they are, and a survey finds them. */
	sys->uffd_watch(gmm->track_uffd, host, bytes_of(count), GMM__WATCH_WP);
}

/* Frames of replaced pages are freed many at a time: one call and one TLB flush. With its lock. A staging that could
 * not be emptied is not used again before it is: a move into a place that is taken is taken for done. */
static int empty_staging(struct gmm *gmm, struct gmm__staging *staging)
{
	int rc = 0;

	if (staging->used)
		rc = gmm__sys_of(gmm)->advise(staging->pages, bytes_of(staging->used), MADV_DONTNEED);
	staging->used = rc == 0 ? 0 : GMM__STAGING_PAGES;
	return rc;
}

static void mapped_flush(struct gmm *gmm, struct gmm__staging *staging)
{
	gmm__lock_take(&staging->lock);
	empty_staging(gmm, staging);
	gmm__lock_give(&staging->lock);
}

/* True when the page is not where the guest had it any more. */
static bool is_gone(const struct gmm__slot *slot, uint32_t page)
{
	struct gmm__scan_filter there = { .any = GMM__IS_PRESENT | GMM__IS_SWAPPED };
	struct gmm *gmm = gmm_of(slot);
	struct gmm__scan_range range;
	uint8_t *host = gmm__slot_host(slot, page);

	return gmm__sys_of(gmm)->pagemap_scan(gmm->pagemap, host, host + GMM__PAGE_BYTES, &there, &range, 1, NULL) == 0;
}

/* What became of a page that the kernel did not report as moved. Racing with reclaim, it may move one page more than it
 * reports (seen on 6.18): then its place in staging, which was empty, is taken. But a staging that mlockall has filled
 * is taken too. */
static enum gmm__frozen unreported(const struct gmm__freeze *freeze, uint32_t i, int rc)
{
	if (rc == -EEXIST && is_gone(freeze->slot, freeze->first + i))
		return GMM__FROZEN_YES;
	return rc == -EBUSY ? GMM__FROZEN_PINNED : GMM__FROZEN_NO;
}

static int mapped_freeze(struct gmm__freeze *freeze)
{
	struct gmm *gmm = gmm_of(freeze->slot);
	const struct gmm__sys *sys = gmm__sys_of(gmm);
	uint8_t *host = gmm__slot_host(freeze->slot, freeze->first);

	if (freeze->in->used + freeze->count > GMM__STAGING_PAGES && empty_staging(gmm, freeze->in) != 0)
		return -EAGAIN;
	freeze->staging = freeze->in->pages + bytes_of(freeze->in->used);
	int rc = sys->uffd_watch(gmm->track_uffd, host, bytes_of(freeze->count), GMM__WATCH_MISSING_WP);
	if (rc != 0) { /* at the mapping limit part of the range may be watched already */
		watch_again(freeze, 0, freeze->count);
		return rc;
	}
	for (uint32_t i = 0; i < freeze->count;) {
		size_t moved = 0;
		rc = sys->uffd_move(gmm->track_uffd, freeze->staging + bytes_of(i), host + bytes_of(i),
				    bytes_of(freeze->count - i), &moved);
		for (; moved >= GMM__PAGE_BYTES; moved -= GMM__PAGE_BYTES)
			freeze->page[i++] = GMM__FROZEN_YES;
		if (i < freeze->count) {
			freeze->page[i] = (uint8_t)unreported(freeze, i, rc);
			i++;
		}
	}
	freeze->in->used += freeze->count;
	return 0;
}

/* Maps pool pages over a range; what was mapped there goes, with its watch. */
static int map_pool(struct gmm__slot *slot, uint32_t first, uint32_t count, gmm__page_id page)
{
	uint8_t *host = gmm__slot_host(slot, first);
	uint64_t offset;
	int fd;

	gmm__pool_where(&slot->vm->domain->pool, page, &fd, &offset);
	intptr_t rc = gmm__sys_of(gmm_of(slot))->map(host, bytes_of(count), PROT_READ | PROT_WRITE,
						     MAP_PRIVATE | MAP_FIXED, fd, offset);
	if (gmm__is_errno(rc))
		return (int)rc;
	gmm__mapped_set_attributes(slot, host, bytes_of(count), false);
	return 0;
}

static int mapped_share(struct gmm__freeze *freeze, uint32_t at, uint32_t count, gmm__page_id page)
{
	int rc = map_pool(freeze->slot, freeze->first + at, count, page);

	for (uint32_t i = at; rc == 0 && i < at + count; i++)
		freeze->page[i] = GMM__FROZEN_SHARED;
	return rc;
}

/* One page whose move back failed: a copy will do, since nothing can have pinned what was moved. */
static void restore_by_copy(struct gmm__freeze *freeze, uint32_t i)
{
	struct gmm *gmm = gmm_of(freeze->slot);
	const struct gmm__sys *sys = gmm__sys_of(gmm);
	uint8_t *host = gmm__slot_host(freeze->slot, freeze->first + i);

	/* ENOMEM is the host running dry. The guest waits, unharmed, until a page can be had. */
	while (sys->uffd_copy(gmm->track_uffd, host, freeze->staging + bytes_of(i), GMM__PAGE_BYTES) == -ENOMEM)
		;
}

static void mapped_restore(struct gmm__freeze *freeze, uint32_t at, uint32_t count)
{
	struct gmm *gmm = gmm_of(freeze->slot);
	uint8_t *host = gmm__slot_host(freeze->slot, freeze->first + at);

	for (uint32_t i = 0; i < count;) {
		size_t moved = 0;
		gmm__sys_of(gmm)->uffd_move(gmm->track_uffd, host + bytes_of(i), freeze->staging + bytes_of(at + i),
					    bytes_of(count - i), &moved);
		i += (uint32_t)(moved / GMM__PAGE_BYTES);
		if (i < count)
			restore_by_copy(freeze, at + i++);
	}
	for (uint32_t i = at; i < at + count; i++)
		__atomic_store_n(&freeze->page[i], GMM__FROZEN_RESTORED, __ATOMIC_RELAXED);
}

static void mapped_thaw(struct gmm__freeze *freeze)
{
	struct gmm *gmm = gmm_of(freeze->slot);
	const struct gmm__sys *sys = gmm__sys_of(gmm);

	for (uint32_t i = 0; i < freeze->count;) {
		uint32_t n = 0;
		while (i + n < freeze->count && freeze->page[i + n] != GMM__FROZEN_SHARED) {
			if (freeze->page[i + n] == GMM__FROZEN_YES)
				freeze->page[i + n] = GMM__FROZEN_HOLE;
			n++;
		}
		if (n > 0)
			watch_again(freeze, i, n);
		i += n + 1;
	}
	sys->uffd_wake(gmm->track_uffd, gmm__slot_host(freeze->slot, freeze->first), bytes_of(freeze->count));
}

/* ---- giving back -------------------------------------------------------------------------------------------- */

/* Copies pages into memory that will take their place. Writers wait meanwhile, readers do not. */
static void copy_pages(const struct gmm__slot *slot, uint32_t first, uint32_t count, uint8_t *to)
{
	const uint8_t *from = gmm__slot_host(slot, first);

	for (uint64_t i = 0; i < bytes_of(count) / sizeof(uint64_t); i++)
		((uint64_t *)to)[i] = ((const volatile uint64_t *)from)[i];
}

/* An embedder who does not promise may not know either what its program maps. Pages written since they were shared look
 * like any others of the program's: they are ours only where our mapping is still there. */
static bool are_covers(const struct gmm__slot *slot, uint32_t first, uint32_t count)
{
	struct gmm *gmm = gmm_of(slot);
	void *stop = NULL;
	uint64_t shown = 0, offset;
	int fd;

	for (uint32_t page = first; page < first + count; page++, shown += GMM__PAGE_BYTES) {
		uint8_t *host = gmm__slot_host(slot, page);
		if (!gmm__state_is_covered(gmm__slot_state(slot, page)))
			continue;
		gmm__pool_where(&slot->vm->domain->pool, slot->value[page], &fd, &offset);
		if (host >= (uint8_t *)stop && gmm__sys_of(gmm)->maps_shown_at(gmm->maps, host, fd, &shown, &stop) != 0)
			return false;
		if (shown != offset)
			return false;
	}
	return true;
}

static int mapped_hold(struct gmm__slot *slot, uint32_t first, uint32_t count)
{
	struct gmm *gmm = gmm_of(slot);
	const struct gmm__sys *sys = gmm__sys_of(gmm);
	uint8_t *host = gmm__slot_host(slot, first);

	if (gmm->maps >= 0 && !are_covers(slot, first, count))
		return -ENOENT;
	int rc = sys->uffd_watch(gmm->freeze_uffd, host, bytes_of(count), GMM__WATCH_WP);
	if (rc == 0)
		rc = sys->uffd_protect(gmm->freeze_uffd, host, bytes_of(count), true);
	if (rc != 0) /* part of it may be watched */
		sys->uffd_unwatch(gmm->freeze_uffd, host, bytes_of(count));
	return rc;
}

static void mapped_let_go(struct gmm__slot *slot, uint32_t first, uint32_t count)
{
	struct gmm *gmm = gmm_of(slot);
	const struct gmm__sys *sys = gmm__sys_of(gmm);
	uint8_t *host = gmm__slot_host(slot, first);

	if (unwatch(sys, gmm->freeze_uffd, host, bytes_of(count)) != 0) /* which lifts the protection too */
		sys->uffd_protect(gmm->freeze_uffd, host, bytes_of(count), false);
	sys->uffd_wake(gmm->freeze_uffd, host, bytes_of(count));
}

static int mapped_show_pool(struct gmm__slot *slot, uint32_t first, uint32_t count)
{
	return gmm__sys_of(gmm_of(slot))->advise(gmm__slot_host(slot, first), bytes_of(count), MADV_DONTNEED);
}

/* Writers wait from the write-protection until the copy has taken the place; a remap is atomic for readers. */
static int replace_by_copy(struct gmm__slot *slot, uint32_t first, uint32_t count, uint8_t *copy)
{
	struct gmm *gmm = gmm_of(slot);
	const struct gmm__sys *sys = gmm__sys_of(gmm);
	uint8_t *host = gmm__slot_host(slot, first);
	uint64_t bytes = bytes_of(count);

	int rc = mapped_hold(slot, first, count);
	if (rc != 0)
		return rc;
	intptr_t to = -EBUSY;
	if (gmm__pins_excluded(gmm)) {
		copy_pages(slot, first, count, copy);
		to = sys->remap_fixed(copy, bytes, host);
	}
	if (gmm__is_errno(to)) {
		mapped_let_go(slot, first, count);
		return (int)to;
	}
	sys->uffd_watch(gmm->track_uffd, host, bytes, GMM__WATCH_WP);
	sys->uffd_wake(gmm->freeze_uffd, host, bytes);
	return 0;
}

struct replacement {
	struct gmm__slot *slot;
	uint32_t first, count;
	uint8_t *copy;
	int rc;
};

static void carry_out(void *arg)
{
	struct replacement *r = arg;

	r->rc = replace_by_copy(r->slot, r->first, r->count, r->copy);
}

/* One errand where descriptors are apart, rather than one for each call while writers wait. */
int gmm__mapped_replace_by_copy(struct gmm__slot *slot, uint32_t first, uint32_t count, uint8_t *copy)
{
	struct replacement r = { slot, first, count, copy, 0 };

	gmm__sys_of(gmm_of(slot))->run(carry_out, &r);
	return r.rc;
}

/* The copies come from one mapping, so that the kernel joins them again where they are put side by side. */
static int mapped_privatise(struct gmm__slot *slot, uint32_t first, uint32_t count, uint32_t *ret_done)
{
	struct gmm *gmm = gmm_of(slot);
	const struct gmm__sys *sys = gmm__sys_of(gmm);
	intptr_t copy = sys->map(NULL, bytes_of(count), PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS | (slot->created ? MAP_NORESERVE : 0), -1, 0);
	uint32_t done = 0;
	int rc = 0;

	*ret_done = 0;
	if (gmm__is_errno(copy))
		return -ENOMEM;
	gmm__mapped_set_attributes(slot, (uint8_t *)copy, bytes_of(count), true);
	while (rc == 0 && done < count) {
		uint32_t n = count - done < GMM__FREEZE_PAGES ? count - done : GMM__FREEZE_PAGES;
		gmm__lock_take(&gmm->staging[0].lock); /* a fork waits */
		rc = gmm__mapped_replace_by_copy(slot, first + done, n, (uint8_t *)copy + bytes_of(done));
		gmm__lock_give(&gmm->staging[0].lock);
		if (rc == 0)
			done += n;
	}
	if (done < count)
		sys->unmap((uint8_t *)copy + bytes_of(done), bytes_of(count - done));
	if (done > 0)
		gmm__mapped_allow_huge(slot, gmm__slot_host(slot, first), bytes_of(done));
	*ret_done = done;
	return rc;
}

static int mapped_discard(struct gmm__slot *slot, uint32_t first, uint32_t count)
{
	struct gmm *gmm = gmm_of(slot);
	const struct gmm__sys *sys = gmm__sys_of(gmm);
	uint8_t *host = gmm__slot_host(slot, first);
	intptr_t rc = sys->map(host, bytes_of(count), PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | (slot->created ? MAP_NORESERVE : 0), -1, 0);

	if (gmm__is_errno(rc))
		return (int)rc;
	gmm__mapped_set_attributes(slot, host, bytes_of(count), true);
	gmm__mapped_allow_huge(slot, host, bytes_of(count));
	sys->uffd_watch(gmm->track_uffd, host, bytes_of(count), GMM__WATCH_WP);
	return 0;
}

const struct gmm__backend *gmm__backend_mapped(void)
{
	static const struct gmm__backend backend = {
		.scan = mapped_scan, .find_foreign = mapped_find_foreign, .arm = mapped_arm, .bytes = mapped_bytes, .freeze = mapped_freeze,
		.share = mapped_share, .restore = mapped_restore, .thaw = mapped_thaw, .flush = mapped_flush,
		.hold = mapped_hold, .show_pool = mapped_show_pool, .remap = map_pool, .let_go = mapped_let_go,
		.split = gmm__mapped_split, .collapse = gmm__mapped_collapse, .privatise = mapped_privatise, .discard = mapped_discard,
	};

	return &backend;
}
