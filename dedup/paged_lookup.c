/* Equal pages of those of paged VMs; see paged_lookup.h. */
#include "dedup/paged_lookup.h"

#include <string.h>
#include <urcu/urcu-bp.h>

#include "dedup/account.h"
#include "gmm/paged.h"

/* ---- shared pages --------------------------------------------------------------------------------------------- */

static bool equals_shared(struct gmm__catalog *catalog, gmm__page_id shared, const uint8_t *bytes)
{
	if (shared == GMM__NIL || gmm__pool_ref(catalog->pool, shared, 1) == 0)
		return false;
	bool equal = memcmp(gmm__pool_bytes(catalog->pool, shared), bytes, GMM__PAGE_BYTES) == 0;
	gmm__pool_drop(catalog->pool, shared, 1, GMM__DROP_REFERENCE);
	return equal;
}

static gmm__page_id extent_of(struct gmm__catalog *catalog, uint64_t word)
{
	gmm__lock_take(&catalog->lock);
	const struct gmm__fill_extent *extent = gmm__fill_find(&catalog->fills, word);
	gmm__page_id first = extent ? extent->first : GMM__NIL;
	gmm__lock_give(&catalog->lock);
	return first;
}

gmm__page_id gmm__paged_lookup_shared(struct gmm__catalog *catalog, const uint8_t *bytes)
{
	struct gmm__digest sample = gmm__digest_sample(bytes, &catalog->secret);
	gmm__page_id page = gmm__catalog_find_shared(catalog, sample.fingerprint);

	if (equals_shared(catalog, page, bytes))
		return page;
	/* The sample does not tell it from that one; its equals are listed under their whole digest then. */
	if (page != GMM__NIL)
		page = gmm__catalog_find_shared(catalog, gmm__digest_whole(bytes, &catalog->secret).fingerprint);
	if (equals_shared(catalog, page, bytes))
		return page;
	page = sample.kind == GMM__DIGEST_FILL ? extent_of(catalog, sample.word) : GMM__NIL;
	return equals_shared(catalog, page, bytes) ? page : GMM__NIL;
}

/* ---- private pages ---------------------------------------------------------------------------------------------- */

/* What a hint is worth. */
enum hinted { HINT_STALE, HINT_OTHER, HINT_EQUAL };

/* A private page of a paged VM of the domain. Its memory stays mapped whatever becomes of it; the chunk is read under
 * RCU. */
static enum hinted look_at_paged(const struct gmm_vm *vm, gmm__page_id page, uint32_t fingerprint, const uint8_t *bytes)
{
	const struct gmm__secret *secret = &vm->domain->catalog->secret;
	const struct gmm__private_chunk *chunk =
		gmm__chunk_table_private(vm->gmm->source.table, gmm__page_chunk(page));

	if (!chunk || chunk->set->domain != vm->domain)
		return HINT_STALE;
	struct gmm__private_record r = gmm__record_get(&chunk->record[gmm__page_index(page)]);
	if (r.state != GMM__PRIVATE_USED || r.apart || r.pfn == GMM__PFN_UNSHAREABLE)
		return HINT_STALE;
	const uint8_t *theirs = gmm__private_bytes(chunk, gmm__page_index(page));
	if (memcmp(theirs, bytes, GMM__PAGE_BYTES) == 0)
		return HINT_EQUAL;
	return gmm__digest_sample(theirs, secret).fingerprint == fingerprint ||
			       gmm__digest_whole(theirs, secret).fingerprint == fingerprint ? HINT_OTHER : HINT_STALE;
}

/* The claim keeps a page that is present from going; one whose VM is being worked on is not looked at now. */
static enum hinted look_at_slot(const struct gmm_vm *vm, const struct gmm__backend *backend, struct gmm__slot *slot,
				gmm__page_id page, uint32_t fingerprint, const uint8_t *bytes)
{
	uint32_t index = page - gmm__slot_page_id(slot, 0);
	enum hinted hinted = HINT_STALE;

	if (slot->vm->domain != vm->domain || index >= slot->pages || !slot->host)
		return HINT_STALE;
	if (!gmm__vm_try_claim(slot->vm))
		return HINT_OTHER;
	if (!slot->dead && gmm__state_is_candidate(gmm__slot_state(slot, index)) && slot->value[index] == fingerprint)
		hinted = memcmp(backend->bytes(slot, index), bytes, GMM__PAGE_BYTES) == 0 ? HINT_EQUAL : HINT_OTHER;
	gmm__vm_release(slot->vm);
	return hinted;
}

static enum hinted look_at(const struct gmm_vm *vm, const struct gmm__backend *backend, gmm__page_id page,
			   uint32_t fingerprint, const uint8_t *bytes)
{
	urcu_bp_read_lock();
	struct gmm__slot *slot = gmm__chunk_table_slot(vm->gmm->source.table, gmm__page_chunk(page));
	enum hinted hinted = slot ? look_at_slot(vm, backend, slot, page, fingerprint, bytes) :
				    look_at_paged(vm, page, fingerprint, bytes);
	urcu_bp_read_unlock();
	return hinted;
}

/* The private page under a fingerprint; `self` becomes it when there is none but `stale` (NIL: none at all). *ret_shared:
 * a shared page is there, or several that the fingerprint does not tell apart. */
static gmm__page_id hint_of(struct gmm__catalog *catalog, uint32_t fingerprint, gmm__page_id self, gmm__page_id stale,
			    bool *ret_shared)
{
	gmm__page_id page = GMM__NIL;

	urcu_bp_read_lock(); /* a growing index asks which of its candidates are stale */
	gmm__lock_take(&catalog->lock);
	struct gmm__index_entry *hint = gmm__page_index_find(&catalog->index, fingerprint);
	*ret_shared = hint && (gmm__index_is_shared(hint) || hint->page == GMM__ALIKE);
	if (!hint) {
		gmm__page_index_put(&catalog->index, fingerprint, self);
	} else if (!*ret_shared) {
		page = hint->page == stale ? GMM__NIL : hint->page;
		hint->page = hint->page == stale ? self : hint->page;
	}
	gmm__lock_give(&catalog->lock);
	urcu_bp_read_unlock();
	return page;
}

/* A private page with this fingerprint and these bytes. *ret_collides: there is one with the fingerprint only. */
static gmm__page_id twin_of(const struct gmm_vm *vm, const struct gmm__backend *backend, uint32_t fingerprint,
			    gmm__page_id self, const uint8_t *bytes, bool *ret_collides)
{
	struct gmm__catalog *catalog = vm->domain->catalog;
	/* A shared page that was not equal: the fingerprint does not tell them apart. */
	gmm__page_id twin = hint_of(catalog, fingerprint, self, GMM__NIL, ret_collides);

	if (twin == GMM__NIL || twin == self)
		return GMM__NIL;
	enum hinted hinted = look_at(vm, backend, twin, fingerprint, bytes);
	*ret_collides = hinted == HINT_OTHER;
	if (hinted == HINT_STALE)
		hint_of(catalog, fingerprint, self, twin, ret_collides);
	return hinted == HINT_EQUAL ? twin : GMM__NIL;
}

/* ---- both ------------------------------------------------------------------------------------------------------- */

struct gmm__equal gmm__paged_lookup(struct gmm_vm *vm, const struct gmm__backend *backend, gmm__page_id self,
				    const uint8_t *bytes)
{
	struct gmm__catalog *catalog = vm->domain->catalog;
	struct gmm__equal equal = { .fingerprint = gmm__digest_sample(bytes, &catalog->secret).fingerprint };
	bool collides;

	if (gmm__paged_enter(vm) != GMM_OK)
		return equal;
	equal.shared = gmm__paged_lookup_shared(catalog, bytes);
	gmm__paged_leave(vm, GMM_OK);
	if (equal.shared == GMM__NIL) {
		equal.twin = twin_of(vm, backend, equal.fingerprint, self, bytes, &collides);
		if (collides) {
			equal.fingerprint = gmm__digest_whole(bytes, &catalog->secret).fingerprint;
			equal.twin = twin_of(vm, backend, equal.fingerprint, self, bytes, &collides);
		}
	}
	if (equal.twin != GMM__NIL)
		equal.whole = gmm__digest_whole(bytes, &catalog->secret).fingerprint;
	equal.found = equal.shared != GMM__NIL || equal.twin != GMM__NIL;
	return equal;
}

void gmm__paged_lookup_prepare(struct gmm_vm *vm, uint64_t pages)
{
	struct gmm__catalog *catalog = vm->domain->catalog;
	uint64_t all = vm->domain->pages + vm->domain->paged_pages + pages;

	gmm__catalog_prepare(catalog, all);
}

bool gmm__paged_lookup_wake(const struct gmm__catalog *catalog, gmm__page_id page)
{
	struct gmm__private_chunk *chunk = gmm__chunk_table_private(&catalog->gmm->chunks, gmm__page_chunk(page));

	if (chunk && chunk->set->domain->catalog == catalog)
		gmm__private_chunk_wake(chunk);
	return chunk != NULL;
}

void gmm__paged_lookup_nominate(struct gmm_vm *vm, gmm__page_id twin)
{
	urcu_bp_read_lock();
	struct gmm__slot *slot = gmm__chunk_table_slot(vm->gmm->source.table, gmm__page_chunk(twin));
	uint32_t i = slot ? twin - gmm__slot_page_id(slot, 0) : 0;
	gmm__paged_lookup_wake(vm->domain->catalog, twin);
	if (slot && slot->vm->domain == vm->domain && i < slot->pages && gmm__vm_try_claim(slot->vm)) {
		gmm__account_nominate(slot, i);
		gmm__vm_release(slot->vm);
	}
	urcu_bp_read_unlock();
}
