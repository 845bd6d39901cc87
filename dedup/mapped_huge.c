/* The mapped backend's huge pages: breaking one, and making one again.
 *
 * Breaking: the kernel offers no call for it. MADV_COLD of one page of a huge page splits it, and changes nothing else but
 * that page's place in the order of reclaim; it costs half of what the split by a first UFFDIO_MOVE does, and comes before
 * anything is frozen. The kernel does not split what is pinned or common with a fork.
 *
 * Making whole: MADV_COLLAPSE where the memory is one mapping. What was shared and became private again lies in mappings of
 * their own, which the kernel cannot join; then a new huge page with the bytes of all takes the place.
 */
#include <errno.h>
#include <sys/mman.h>

#include "dedup/mapped.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

static bool is_huge(const struct gmm *gmm, uint8_t *host)
{
	struct gmm__scan_filter huge = { .need = GMM__IS_HUGE };
	struct gmm__scan_range range;

	return gmm__sys_of(gmm)->pagemap_scan(gmm->pagemap, host, host + GMM__PAGE_BYTES, &huge, &range, 1, NULL) > 0;
}

int gmm__mapped_split(struct gmm__slot *slot, uint32_t page)
{
	struct gmm *gmm = slot->vm->gmm;
	uint8_t *host = gmm__slot_host(slot, page);
	int rc = gmm__sys_of(gmm)->advise(host, GMM__PAGE_BYTES, MADV_COLD);

	if (rc == 0 && is_huge(gmm, host))
		rc = -EBUSY;
	return rc;
}

/* Maps a new huge page inside *ret_room, which is twice as large. NULL if there is none to be had. */
static uint8_t *new_huge_page(const struct gmm__slot *slot, intptr_t *ret_room)
{
	struct gmm *gmm = slot->vm->gmm;
	intptr_t room = gmm__sys_of(gmm)->map(NULL, 2 * GMM__CHUNK_BYTES, PROT_READ | PROT_WRITE,
					      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (gmm__is_errno(room))
		return NULL;
	uintptr_t at = ((uintptr_t)room + GMM__CHUNK_BYTES - 1) & ~(uintptr_t)(GMM__CHUNK_BYTES - 1);
	volatile uint8_t *copy = (volatile uint8_t *)at;
	gmm__mapped_set_attributes(slot, (uint8_t *)at, GMM__CHUNK_BYTES, true);
	gmm__mapped_allow_huge(slot, (uint8_t *)at, GMM__CHUNK_BYTES);
	*ret_room = room;
	*copy = 0;
	if (is_huge(gmm, (uint8_t *)at))
		return (uint8_t *)at;
	gmm__sys_of(gmm)->unmap((void *)room, 2 * GMM__CHUNK_BYTES);
	return NULL;
}

static int rebuild(struct gmm__slot *slot, uint32_t first)
{
	struct gmm *gmm = slot->vm->gmm;
	const struct gmm__sys *sys = gmm__sys_of(gmm);
	intptr_t room;
	uint8_t *copy = new_huge_page(slot, &room);

	if (!copy)
		return -ENOMEM;
	gmm__lock_take(&gmm->staging[0].lock); /* a fork waits */
	int rc = gmm__mapped_replace_by_copy(slot, first, GMM__CHUNK_PAGES, copy);
	gmm__lock_give(&gmm->staging[0].lock);
	uint64_t head = (uint64_t)((intptr_t)copy - room);
	if (rc != 0) {
		sys->unmap((void *)room, 2 * GMM__CHUNK_BYTES);
		return rc;
	}
	if (head > 0)
		sys->unmap((void *)room, head);
	if (head < GMM__CHUNK_BYTES)
		sys->unmap(copy + GMM__CHUNK_BYTES, GMM__CHUNK_BYTES - head);
	return 0;
}

int gmm__mapped_collapse(struct gmm__slot *slot, uint32_t first)
{
	struct gmm *gmm = slot->vm->gmm;
	const struct gmm__sys *sys = gmm__sys_of(gmm);
	uint8_t *host = gmm__slot_host(slot, first);

	/* The kernel collapses nothing that is armed, nor holes of a watched range; and only one can watch at a time. */
	int rc = sys->uffd_unwatch(gmm->track_uffd, host, GMM__CHUNK_BYTES);
	if (rc == 0)
		rc = sys->advise(host, GMM__CHUNK_BYTES, MADV_COLLAPSE);
	if (rc != 0)
		rc = rebuild(slot, first);
	/* Not tracked, if this fails: it is foreign from now on, and stays whole. */
	sys->uffd_watch(gmm->track_uffd, host, GMM__CHUNK_BYTES, GMM__WATCH_WP);
	return rc;
}
