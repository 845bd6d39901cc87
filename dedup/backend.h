/* What the engine asks of a VM's memory: it never touches a mapping itself.
 *
 * The mapped backend (dedup/mapped.c) works on host virtual memory through gmm/sys; tests bring a fake one that
 * makes every race deterministic. Pages are given as a slot and page numbers in it. All functions but scan, arm
 * and bytes need the VM's claim.
 *
 * A merge freezes a range (guest accesses to its pages wait from here), looks at the frozen bytes in staging, then
 * replaces or restores each frozen page, and thaws the range. While a range is frozen nothing may allocate, log,
 * or take a lock that a thread which touches guest memory might hold.
 */
#ifndef DEDUP_BACKEND_H
#define DEDUP_BACKEND_H

#include "gmm/slot.h"

struct gmm;

/* At most so many pages are frozen at once: the bound of a guest's wait (INV-7). */
enum { GMM__FREEZE_PAGES = 128 };

/* What became of each page of a frozen range. */
enum gmm__frozen {
	GMM__FROZEN_NO,       /* the range could not be watched: not ours any more, or the host refused */
	GMM__FROZEN_YES,      /* its bytes are in staging and cannot change */
	GMM__FROZEN_PINNED,   /* the kernel refused: pinned, or shared with a fork; the guest goes on using it */
	GMM__FROZEN_SHARED,   /* replaced by a shared page */
	GMM__FROZEN_HOLE,     /* left as a hole */
	GMM__FROZEN_RESTORED, /* put back as it was */
};

struct gmm__freeze {
	struct gmm__slot *slot;
	uint32_t first;
	uint32_t count;                            /* <= GMM__FREEZE_PAGES */
	struct gmm__staging *in;                   /* whose lock the caller has */
	uint8_t *staging;                          /* frozen bytes of page i at staging + i * 4096; read only */
	uint8_t page[GMM__FREEZE_PAGES];           /* enum gmm__frozen */
};

struct gmm__backend {
	/* Categories of [first, first + count), enum gmm__page_is each, for pages that pass the filter; others
	 * are left alone. Never populates a page. 0 when none passed, a positive number when some did, or a negative errno. */
	int (*scan)(struct gmm__slot *slot, uint32_t first, uint32_t count, const struct gmm__scan_filter *filter,
		    uint8_t *ret_is);
	/* From now on a write to the range's present pages is noticed by the next scan. */
	int (*arm)(struct gmm__slot *slot, uint32_t first, uint32_t count);
	/* Sets ret_foreign for pages that lie in mappings we do not track: the pool's, or what somebody else mapped over
	 * guest RAM. Leaves the others alone. A negative errno on failure. */
	int (*find_foreign)(struct gmm__slot *slot, uint32_t first, uint32_t count, bool *ret_foreign);
	/* A page to look at while the guest runs; the caller knows that it is present. */
	const uint8_t *(*bytes)(const struct gmm__slot *slot, uint32_t page);

	/* Sets freeze->page and staging for the range given in it. Returns 0, or an errno and nothing is frozen. */
	int (*freeze)(struct gmm__freeze *freeze);
	/* Maps pool pages [page, page + count) over frozen pages [at, at + count) of the range. On failure (-ENOMEM: the
	 * mapping limit) they are still frozen. */
	int (*share)(struct gmm__freeze *freeze, uint32_t at, uint32_t count, gmm__page_id page);
	/* Puts frozen pages back. Cannot fail. */
	void (*restore)(struct gmm__freeze *freeze, uint32_t at, uint32_t count);
	/* Lets the guest go on; frozen pages that were neither shared nor restored stay holes. */
	void (*thaw)(struct gmm__freeze *freeze);
	/* Gives back the frames of replaced pages, which collect over some freezes. */
	void (*flush)(struct gmm *gmm, struct gmm__staging *staging);

	/* Broken pages cannot be frozen, since the kernel moves no pages out of file mappings. Hold: writers wait, readers do
	 * not; pins are not seen. show_pool drops the guest's copies, so that the pool pages under them show; remap maps other
	 * pool pages over the range. 0 or a negative errno and the range is as before. Each hold ends with one let_go. */
	int (*hold)(struct gmm__slot *slot, uint32_t first, uint32_t count);
	int (*show_pool)(struct gmm__slot *slot, uint32_t first, uint32_t count);
	int (*remap)(struct gmm__slot *slot, uint32_t first, uint32_t count, gmm__page_id page);
	void (*let_go)(struct gmm__slot *slot, uint32_t first, uint32_t count);

	/* Breaks the huge page that holds the page: it is small pages at the same place. -EBUSY: the kernel refused. collapse
	 * makes CHUNK_PAGES private pages from `first` on, aligned as huge pages are, a huge page again; on failure they are as
	 * before. Writers may wait for both. */
	int (*split)(struct gmm__slot *slot, uint32_t page);
	int (*collapse)(struct gmm__slot *slot, uint32_t first);

	/* Makes pages that lie under pool mappings private and anonymous, bytes kept. *ret_done is how many were done, from
	 * the first on, also on failure (-ENOMEM). */
	int (*privatise)(struct gmm__slot *slot, uint32_t first, uint32_t count, uint32_t *ret_done);
	/* Replaces the range by fresh zero memory. */
	int (*discard)(struct gmm__slot *slot, uint32_t first, uint32_t count);
};

const struct gmm__backend *gmm__backend_mapped(void);

#endif
