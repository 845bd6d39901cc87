/* Finding the pages of a module in its guest: where they are, and whether they may be shared. Reads the guest's memory
 * while the guest runs and never populates any of it.
 */
#ifndef SHAREDMOD_CHECK_PAGES_H
#define SHAREDMOD_CHECK_PAGES_H

#include "dedup/merge.h"
#include "sharedmod/registry.h"

/* What the pagemap said of some rows of pages, so that it is asked once for many. True as long as their VMs are claimed;
 * pages that were merged since are known by their state. */
enum { GMM__PRESENCE_PAGES = 64, GMM__PRESENCE_ROWS = 16 };

struct gmm__presence {
	const struct gmm__backend *backend;
	struct {
		struct gmm__slot *slot; /* NULL: unused */
		uint32_t first;
		uint8_t is[GMM__PRESENCE_PAGES];
	} row[GMM__PRESENCE_ROWS];
};

/* Forgets what is known of a VM, because its claim ends. */
void gmm__presence_forget(struct gmm__presence *presence, const struct gmm_vm *vm);

enum gmm__page_fit {
	GMM__FIT_YES,      /* private and present: may be shared */
	GMM__FIT_SHARED,   /* it is */
	GMM__FIT_ABSENT,
	GMM__FIT_WRITABLE, /* by the guest */
	GMM__FIT_NOT_RAM,
	GMM__FIT_REFUSED,  /* pinned or unshareable by declaration */
	GMM__FIT_HUGE,
	GMM__FIT_FILL,
	GMM__FIT_BROKEN,
};

/* A page in a slot; with the VM's claim. */
enum gmm__page_fit gmm__check_fit(struct gmm__presence *presence, struct gmm__slot *slot, uint32_t page);

/* Where page `index` of the record's module is. The slot and page are set with YES, SHARED, REFUSED, HUGE, FILL and
 * BROKEN. With the claim of the record's VM. */
enum gmm__page_fit gmm__check_locate(struct gmm__presence *presence, const struct gmm__module_record *record,
				     uint32_t index, struct gmm__slot **ret_slot, uint32_t *ret_page);

#endif
