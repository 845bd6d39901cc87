/* Who has a page equal to one of a paged VM? Through the indexes of its domain.
 *
 * A hint names a private page, of a mapped or a paged VM. It holds nothing: the page is looked at as it is, and what follows
 * from an answer compares again when nothing can change (INV-1). Nothing is locked but the catalog, and none of its
 * callers holds a VM's lock or claim.
 */
#ifndef DEDUP_PAGED_LOOKUP_H
#define DEDUP_PAGED_LOOKUP_H

#include "dedup/backend.h"
#include "dedup/catalog.h"

/* What a page of a paged VM can share with. */
struct gmm__equal {
	bool found;
	gmm__page_id shared;  /* a shared page, or NIL */
	gmm__page_id twin;    /* else a private page */
	uint32_t fingerprint; /* that both are known by */
	uint32_t whole;       /* with a twin: digest of the whole page */
};

/* `bytes` are those of private page `self`, or a copy; a page nobody has is remembered as a hint for others. */
struct gmm__equal gmm__paged_lookup(struct gmm_vm *vm, const struct gmm__backend *backend, gmm__page_id self,
				    const uint8_t *bytes);

/* A shared page with these bytes, as far as the indexes know; NIL: none. A reference is held for the compare, so this needs
 * the lock of a paged VM, for which snapshots wait. */
gmm__page_id gmm__paged_lookup_shared(struct gmm__catalog *catalog, const uint8_t *bytes);

/* Makes the domain's indexes fit for the pages of its VMs. pages: private pages of this VM. With or without its lock. */
void gmm__paged_lookup_prepare(struct gmm_vm *vm, uint64_t pages);

/* If it is a private page of a paged VM of the domain, the engine is to look at it at the next pass. In an RCU section. False: it is
 * none of a paged VM. */
bool gmm__paged_lookup_wake(const struct gmm__catalog *catalog, gmm__page_id page);

/* A private page of another VM, whose equal was just promoted: the engine is to look at it again. A page that cannot be
 * marked now is found later. Without the VM's lock. */
void gmm__paged_lookup_nominate(struct gmm_vm *vm, gmm__page_id twin);

#endif
