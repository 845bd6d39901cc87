/* The check of a module through a sharing service; see check_remote.h. What is known of a module's pages is the service's
 * catalog: it has the digests of all clients' pages.
 */
#include "sharedmod/check_remote.h"

#include <string.h>

#include "dedup/digest.h"
#include "dedup/remote.h"
#include "dedup/visit.h"

/* A page of the module that may be shared. */
struct spot {
	struct gmm__slot *slot; /* NULL: it has been offered */
	uint32_t page;
	struct gmm__finding finding;
};

struct slice {
	const struct gmm__merge *merge;
	struct gmm__module_record *record;
	struct gmm_module_checked *counts;
	struct gmm__presence presence;
	uint32_t n;
	struct spot spot[GMM__CHECK_PAGES];
	struct gmm__finding finding[GMM__REGION_PAGES];
};

static struct gmm__finding digest(const struct slice *s, const struct gmm__slot *slot, uint32_t page)
{
	struct gmm__digest d = gmm__digest_whole(s->merge->backend->bytes(slot, page), &slot->vm->domain->catalog->secret);

	return (struct gmm__finding){
		.found = d.kind == GMM__DIGEST_ZERO ? GMM__FOUND_ZERO :
			 d.kind == GMM__DIGEST_FILL ? GMM__FOUND_FILL : GMM__FOUND_OTHER,
		.fingerprint = d.fingerprint, .word = d.word, .whole = true,
	};
}

/* Finds and digests pages [first, end) of the module. With the claim. */
static void find_spots(struct slice *s, uint32_t first, uint32_t end)
{
	for (uint32_t index = first; index < end; index++) {
		struct spot spot = { 0 };
		enum gmm__page_fit fit = gmm__check_locate(&s->presence, s->record, index, &spot.slot, &spot.page);
		s->counts->pages++;
		if (fit != GMM__FIT_YES) {
			++*gmm__check_count(s->counts, fit);
		} else if (!spot.slot->remote) { /* the service does not know it yet */
			s->counts->busy++;
		} else {
			spot.finding = digest(s, spot.slot, spot.page);
			s->spot[s->n++] = spot;
		}
	}
}

static void conclude(struct slice *s, const struct gmm__slot *slot, uint32_t page)
{
	struct gmm_module_checked *counts = s->counts;

	switch (gmm__slot_byte(slot, page) & GMM__STATE_MASK) {
	case GMM_PAGE_SHARED: counts->joined++; break;
	case GMM_PAGE_FILL:
	case GMM_PAGE_ZERO: counts->fill++; break;
	case GMM_PAGE_UNIQUE: counts->different++; break;
	case GMM_PAGE_PINNED: counts->refused++; break;
	default: counts->failed++; break;
	}
}

/* Offers the spots that lie in the same region as spot i. Without the claim, but the VM is visited. */
static void offer_region(struct slice *s, uint32_t i)
{
	struct gmm__slot *slot = s->spot[i].slot;
	uint32_t number = s->spot[i].page / GMM__REGION_PAGES, first = s->spot[i].page, last = first;
	struct spot *spot;

	for (spot = &s->spot[i]; spot < s->spot + s->n; spot++) {
		if (spot->slot != slot || spot->page / GMM__REGION_PAGES != number)
			continue;
		first = spot->page < first ? spot->page : first;
		last = spot->page > last ? spot->page : last;
	}
	const struct gmm__region region = { slot, first, last - first + 1 };
	memset(s->finding, 0, region.count * sizeof *s->finding);
	for (spot = &s->spot[i]; spot < s->spot + s->n; spot++)
		if (spot->slot == slot && spot->page / GMM__REGION_PAGES == number)
			s->finding[spot->page - first] = spot->finding;
	gmm__remote_hinted(s->merge, &region, s->finding);
	for (spot = &s->spot[i]; spot < s->spot + s->n; spot++) {
		if (spot->slot != slot || spot->page / GMM__REGION_PAGES != number)
			continue;
		conclude(s, slot, spot->page);
		spot->slot = NULL;
	}
}

static void begin_visit(struct gmm_vm *vm)
{
	gmm__lock_take(&vm->gmm->lock);
	vm->visits++;
	gmm__lock_give(&vm->gmm->lock);
}

bool gmm__check_slice_remote(const struct gmm__merge *merge, struct gmm__module_record *record, uint32_t first,
			     struct gmm_module_checked *counts)
{
	struct slice s = { .merge = merge, .record = record, .counts = counts, .presence.backend = merge->backend };
	uint32_t pages = record->module->pages.pages;
	struct gmm_vm *vm = record->vm;

	if (!merge->worker || !gmm__remote_shares(vm))
		return false;
	begin_visit(vm);
	bool here = gmm__vm_claim(vm, false);
	if (here) {
		find_spots(&s, first, first + GMM__CHECK_PAGES < pages ? first + GMM__CHECK_PAGES : pages);
		gmm__vm_release(vm);
	}
	for (uint32_t i = 0; i < s.n; i++)
		if (s.spot[i].slot)
			offer_region(&s, i);
	gmm__visit_end(vm);
	return here;
}
