/* Catalog: verdicts over the index of pages. */
#include "dedup/catalog.h"

#include <string.h>
#include <urcu/urcu-bp.h>

#include "dedup/paged_lookup.h"

/* A pool page lost its last reference: nobody may find it any more. Called by the pool, with its bytes. */
static void page_gone(void *arg, gmm__page_id page, const uint8_t *bytes)
{
	struct gmm__catalog *catalog = arg;
	struct gmm__digest sample = gmm__digest_sample(bytes, &catalog->secret);

	gmm__lock_take(&catalog->lock);
	bool found = gmm__page_index_replace(&catalog->index, sample.fingerprint, page, GMM__NIL);
	if (sample.kind == GMM__DIGEST_FILL)
		gmm__fill_gone(&catalog->fills, sample.word, page);
	gmm__lock_give(&catalog->lock);
	if (found)
		return;
	struct gmm__digest whole = gmm__digest_whole(bytes, &catalog->secret);
	gmm__lock_take(&catalog->lock);
	gmm__page_index_replace(&catalog->index, whole.fingerprint, page, GMM__NIL);
	gmm__lock_give(&catalog->lock);
}

/* The state of a hinted page, or GMM_PAGE_STATES when it is no candidate with this fingerprint any more. A page of a huge
 * page is one for other huge pages. */
static enum gmm_page_state hint_state(const struct gmm__catalog *catalog, uint32_t fingerprint, gmm__page_id page)
{
	const struct gmm__slot *slot = gmm__chunk_table_slot(&catalog->gmm->chunks, gmm__page_chunk(page));
	if (!slot && gmm__paged_lookup_wake(catalog, page))
		return GMM_PAGE_STATES; /* it finds its equal, the page that is looked up now, by itself */
	if (!slot || slot->vm->domain->catalog != catalog)
		return GMM_PAGE_STATES;
	uint32_t index = page - gmm__slot_page_id(slot, 0);
	if (index >= slot->pages || __atomic_load_n(&slot->value[index], __ATOMIC_RELAXED) != fingerprint)
		return GMM_PAGE_STATES;
	enum gmm_page_state state = gmm__slot_state(slot, index);
	return gmm__state_is_candidate(state) || state == GMM_PAGE_HUGE ? state : GMM_PAGE_STATES;
}

/* Whether a private page of a paged VM still has the fingerprint shows when it is looked at. */
static bool is_stale(const void *arg, const struct gmm__index_entry *candidate)
{
	const struct gmm__catalog *catalog = arg;
	const struct gmm__private_chunk *chunk =
		gmm__chunk_table_private(&catalog->gmm->chunks, gmm__page_chunk(candidate->page));

	if (candidate->page == GMM__ALIKE)
		return false;
	if (chunk)
		return chunk->set->domain->catalog != catalog ||
		       gmm__record_get(&chunk->record[gmm__page_index(candidate->page)]).state != GMM__PRIVATE_USED;
	return hint_state(arg, candidate->key, candidate->page) == GMM_PAGE_STATES;
}

struct gmm__catalog *gmm__catalog_new(struct gmm *gmm, struct gmm__domain *domain)
{
	struct gmm__catalog *catalog = gmm__mem_alloc(&gmm->mem, sizeof *catalog);

	if (!catalog)
		return NULL;
	catalog->gmm = gmm;
	catalog->pool = &domain->pool;
	catalog->index = (struct gmm__page_index){ .mem = &gmm->mem, .stale = is_stale, .stale_arg = catalog };
	if (gmm__sys_of(gmm)->random(catalog->secret.bytes, sizeof catalog->secret.bytes) != 0) {
		gmm__mem_free(&gmm->mem, catalog, sizeof *catalog);
		return NULL;
	}
	gmm__secret_complete(&catalog->secret);
	gmm__lock_init(&catalog->lock, GMM__RANK_CATALOG);
	domain->pool.gone = page_gone;
	domain->pool.gone_arg = catalog;
	return catalog;
}

void gmm__catalog_free(struct gmm__catalog *catalog)
{
	catalog->pool->gone = NULL;
	gmm__page_index_destroy(&catalog->index);
	gmm__lock_destroy(&catalog->lock);
	gmm__mem_free(&catalog->gmm->mem, catalog, sizeof *catalog);
}

/* Twins find each other through one entry: it names the first page until the second comes, then the second, so
 * that the first finds it; later ones see either. */
static struct gmm__verdict look_up(struct gmm__catalog *catalog, uint32_t fingerprint, gmm__page_id self, bool settle)
{
	struct gmm__verdict verdict = { .kind = GMM__VERDICT_UNIQUE, .fingerprint = fingerprint };

	struct gmm__index_entry *hint = gmm__page_index_find(&catalog->index, fingerprint);
	if (!hint) {
		gmm__page_index_put(&catalog->index, fingerprint, self);
		return verdict;
	}
	if (gmm__index_is_shared(hint)) {
		verdict.kind = GMM__VERDICT_JOIN;
		verdict.page = hint->page;
		return verdict;
	}
	if (hint->page == GMM__ALIKE) {
		verdict.kind = GMM__VERDICT_ALIKE;
		return verdict;
	}
	enum gmm_page_state state = hint->page == self ? GMM_PAGE_STATES :
				    hint_state(catalog, fingerprint, hint->page);
	bool usable = state != GMM_PAGE_STATES && state != GMM_PAGE_HUGE;
	if (usable) {
		verdict.kind = GMM__VERDICT_TWIN;
		verdict.page = hint->page;
	}
	if (state == GMM_PAGE_UNIQUE || !usable || settle)
		hint->page = self;
	return verdict;
}

struct gmm__verdict gmm__catalog_offer(struct gmm__catalog *catalog, uint32_t fingerprint, gmm__page_id self)
{
	return look_up(catalog, fingerprint, self, false);
}

struct gmm__verdict gmm__catalog_settle(struct gmm__catalog *catalog, uint32_t fingerprint, gmm__page_id self)
{
	struct gmm__verdict verdict = look_up(catalog, fingerprint, self, true);

	if (verdict.kind == GMM__VERDICT_TWIN)
		verdict.kind = GMM__VERDICT_PROMOTE;
	else if (verdict.kind == GMM__VERDICT_UNIQUE)
		verdict.kind = GMM__VERDICT_ALONE;
	return verdict;
}

bool gmm__catalog_sample(struct gmm__catalog *catalog, uint32_t fingerprint, gmm__page_id self)
{
	struct gmm__index_entry *hint = gmm__page_index_find(&catalog->index, fingerprint);
	if (!hint) {
		gmm__page_index_put(&catalog->index, fingerprint, self);
		return false;
	}
	if (gmm__index_is_shared(hint))
		return true;
	if (hint->page == GMM__ALIKE) /* a sample says nothing */
		return false;
	enum gmm_page_state state = hint->page == self ? GMM_PAGE_STATES :
				    hint_state(catalog, fingerprint, hint->page);
	/* A small page keeps its place: other small ones are to find it. */
	if (state == GMM_PAGE_HUGE || state == GMM_PAGE_STATES)
		hint->page = self;
	return state != GMM_PAGE_STATES;
}

void gmm__catalog_put_back(struct gmm__catalog *catalog, uint32_t fingerprint, gmm__page_id self, gmm__page_id twin)
{
	struct gmm__index_entry *hint = gmm__page_index_find(&catalog->index, fingerprint);

	if (hint && !gmm__index_is_shared(hint) && hint->page == self)
		hint->page = twin;
}

void gmm__catalog_keep_twin(struct gmm__catalog *catalog, uint32_t fingerprint, gmm__page_id self, gmm__page_id twin)
{
	gmm__lock_take(&catalog->lock);
	gmm__catalog_put_back(catalog, fingerprint, self, twin);
	gmm__lock_give(&catalog->lock);
}

bool gmm__catalog_is_marked(const struct gmm__catalog *catalog, uint32_t fingerprint)
{
	const struct gmm__index_entry *entry = gmm__page_index_find(&catalog->index, fingerprint);

	return entry && entry->page == GMM__ALIKE;
}

/* Counts one more mark. Nobody knows when one is needed no more: false when there are so many a bucket. */
static bool count_mark(struct gmm__catalog *catalog)
{
	enum { MARKS = GMM__BUCKET / 2 };

	if (catalog->alike >= (uint64_t)catalog->index.buckets * MARKS)
		return false;
	catalog->alike++;
	return true;
}

bool gmm__catalog_tell_apart(struct gmm__catalog *catalog, uint32_t fingerprint, gmm__page_id *ret_hint)
{
	*ret_hint = GMM__NIL;
	urcu_bp_read_lock(); /* it may grow */
	gmm__lock_take(&catalog->lock);
	struct gmm__index_entry *hint = gmm__page_index_find(&catalog->index, fingerprint);
	bool apart = !hint || !gmm__index_is_shared(hint), marked = hint && hint->page == GMM__ALIKE;
	if (apart && !marked && count_mark(catalog)) {
		*ret_hint = hint ? hint->page : GMM__NIL;
		if (hint)
			hint->page = GMM__ALIKE;
		else
			gmm__page_index_put(&catalog->index, fingerprint, GMM__ALIKE);
	}
	gmm__lock_give(&catalog->lock);
	urcu_bp_read_unlock();
	return apart;
}

void gmm__catalog_tell_shared_apart(struct gmm__catalog *catalog, uint32_t fingerprint, bool mark)
{
	gmm__page_id page = gmm__catalog_find_shared(catalog, fingerprint);

	if (page == GMM__NIL || page == GMM__ALIKE || gmm__pool_ref(catalog->pool, page, 1) == 0)
		return;
	uint32_t whole = gmm__digest_whole(gmm__pool_bytes(catalog->pool, page), &catalog->secret).fingerprint;
	urcu_bp_read_lock(); /* it may grow */
	gmm__lock_take(&catalog->lock);
	if (whole != fingerprint && gmm__page_index_replace(&catalog->index, fingerprint, page, GMM__NIL)) {
		gmm__page_index_share(&catalog->index, whole, page);
		if (mark && !gmm__page_index_find(&catalog->index, fingerprint) && count_mark(catalog))
			gmm__page_index_put(&catalog->index, fingerprint, GMM__ALIKE);
	}
	gmm__lock_give(&catalog->lock);
	urcu_bp_read_unlock();
	gmm__pool_drop(catalog->pool, page, 1, GMM__DROP_REFERENCE);
}

int gmm__catalog_prepare(struct gmm__catalog *catalog, uint64_t pages)
{
	urcu_bp_read_lock(); /* a growing index asks which of its candidates are stale */
	gmm__lock_take(&catalog->lock);
	int rc = gmm__page_index_reserve(&catalog->index, pages);
	gmm__lock_give(&catalog->lock);
	urcu_bp_read_unlock();
	return rc;
}

void gmm__catalog_publish(struct gmm__catalog *catalog, uint32_t fingerprint, gmm__page_id page)
{
	urcu_bp_read_lock(); /* it may grow */
	gmm__lock_take(&catalog->lock);
	if (gmm__catalog_is_marked(catalog, fingerprint)) {
		gmm__lock_give(&catalog->lock);
		fingerprint = gmm__digest_whole(gmm__pool_bytes(catalog->pool, page), &catalog->secret).fingerprint;
		gmm__lock_take(&catalog->lock);
	}
	gmm__page_index_share(&catalog->index, fingerprint, page); /* without memory others just do not find it */
	gmm__lock_give(&catalog->lock);
	urcu_bp_read_unlock();
}

gmm__page_id gmm__catalog_find_shared(struct gmm__catalog *catalog, uint32_t fingerprint)
{
	gmm__lock_take(&catalog->lock);
	const struct gmm__index_entry *entry = gmm__page_index_find(&catalog->index, fingerprint);
	gmm__page_id page = entry && (gmm__index_is_shared(entry) || entry->page == GMM__ALIKE) ? entry->page : GMM__NIL;
	gmm__lock_give(&catalog->lock);
	return page;
}

void gmm__catalog_relist(struct gmm__catalog *catalog, gmm__page_id from, gmm__page_id to)
{
	const uint8_t *bytes = gmm__pool_bytes(catalog->pool, from);
	struct gmm__digest sample = gmm__digest_sample(bytes, &catalog->secret);
	struct gmm__digest whole = gmm__digest_whole(bytes, &catalog->secret);

	gmm__lock_take(&catalog->lock);
	/* Once is enough, and only one entry goes with a page. */
	if (gmm__page_index_replace(&catalog->index, sample.fingerprint, to, to) ||
	    gmm__page_index_replace(&catalog->index, whole.fingerprint, to, to))
		to = GMM__NIL;
	gmm__page_index_replace(&catalog->index, sample.fingerprint, from, to);
	gmm__page_index_replace(&catalog->index, whole.fingerprint, from, to);
	gmm__lock_give(&catalog->lock);
}

static bool has_fingerprint(struct gmm__catalog *catalog, gmm__page_id page, uint32_t fingerprint)
{
	if (gmm__pool_ref(catalog->pool, page, 1) == 0)
		return false;
	const uint8_t *bytes = gmm__pool_bytes(catalog->pool, page);
	bool has = gmm__digest_sample(bytes, &catalog->secret).fingerprint == fingerprint ||
		   gmm__digest_whole(bytes, &catalog->secret).fingerprint == fingerprint;
	gmm__pool_drop(catalog->pool, page, 1, GMM__DROP_REFERENCE);
	return has;
}

void gmm__catalog_doubt(struct gmm__catalog *catalog, uint32_t fingerprint, gmm__page_id page)
{
	/* A mirrored pool has no index here. */
	if (catalog->pool->mirror || has_fingerprint(catalog, page, fingerprint))
		return;
	gmm__lock_take(&catalog->lock);
	gmm__page_index_replace(&catalog->index, fingerprint, page, GMM__NIL);
	gmm__lock_give(&catalog->lock);
}
