/* Index stage: looks digests up in the catalog. */
#include "dedup/index.h"

#include <string.h>

struct indexing {
	struct gmm__catalog *catalog;
	const struct gmm__region *region;
	const struct gmm__finding *finding;
};

/* Pages from i on that repeat the same word and are to be merged. */
static uint32_t fill_run(const struct indexing *in, uint32_t i)
{
	uint32_t n = 0;

	while (i + n < in->region->count && in->finding[i + n].found == GMM__FOUND_FILL &&
	       in->finding[i + n].word == in->finding[i].word &&
	       gmm__slot_state(in->region->slot, in->region->first + i + n) == GMM_PAGE_UNIQUE)
		n++;
	return n;
}

/* A run of pages that repeat one word. Returns how many verdicts it gave. */
static uint32_t index_fill(const struct indexing *in, uint32_t i, struct gmm__verdict *verdict)
{
	uint32_t n = fill_run(in, i);
	const struct gmm__finding *f = &in->finding[i];

	if (n >= GMM__FILL_RUN || gmm__fill_find(&in->catalog->fills, f->word)) {
		for (uint32_t k = i; k < i + n; k++)
			verdict[k] = (struct gmm__verdict){ GMM__VERDICT_FILL, f->fingerprint, GMM__NIL, f->word };
	} else {
		for (uint32_t k = i; k < i + n; k++)
			verdict[k] = gmm__catalog_offer(in->catalog, f->fingerprint,
							gmm__slot_page_id(in->region->slot, in->region->first + k));
	}
	return n;
}

/* A page found in an earlier pass. Those that repeat a word are read for it: they were present then. Without a backend
 * the finding has the word. */
static struct gmm__verdict settle(const struct indexing *in, const struct gmm__backend *backend, uint32_t page)
{
	const struct gmm__slot *slot = in->region->slot;
	uint32_t fingerprint = slot->value[page];

	if (fingerprint == 0)
		return (struct gmm__verdict){ .kind = GMM__VERDICT_ZERO };
	if (slot->state[page] & GMM__FLAG_FILL) {
		uint64_t word = in->finding[page - in->region->first].word;
		if (backend)
			memcpy(&word, backend->bytes(slot, page), sizeof word);
		if (gmm__fill_find(&in->catalog->fills, word))
			return (struct gmm__verdict){ GMM__VERDICT_FILL, fingerprint, GMM__NIL, word };
	}
	return gmm__catalog_settle(in->catalog, fingerprint, gmm__slot_page_id(slot, page));
}

/* Is about to be promoted, or waits for a twin of this region that is: those have no verdict, but name that twin. */
static bool is_under_way(const struct gmm__verdict *verdict)
{
	return verdict->kind == GMM__VERDICT_PROMOTE || (verdict->kind == GMM__VERDICT_NONE && verdict->page != GMM__NIL);
}

/* Another worker is promoting the twin. The twin stays the hint, by which the page finds it again or its shared page. */
static bool waits_for_other(const struct indexing *in, const struct gmm__verdict *mine, uint32_t page)
{
	if (!gmm__promotions_has(in->catalog->promotions, mine->page))
		return false;
	gmm__catalog_put_back(in->catalog, mine->fingerprint, gmm__slot_page_id(in->region->slot, page), mine->page);
	return true;
}

/* True if the page has to wait: its twin, in this very region or another worker's, is being promoted, and it is to join
 * that. */
static bool index_waiting(const struct indexing *in, const struct gmm__backend *backend, uint32_t page,
			  struct gmm__verdict *verdict)
{
	struct gmm__verdict *mine = &verdict[page - in->region->first];

	*mine = settle(in, backend, page);
	if (mine->kind != GMM__VERDICT_PROMOTE)
		return false;
	uint32_t twin = mine->page - gmm__slot_page_id(in->region->slot, in->region->first);
	bool here = twin < in->region->count;
	if (here ? twin == page - in->region->first || !is_under_way(&verdict[twin]) : !waits_for_other(in, mine, page))
		return false;
	mine->kind = GMM__VERDICT_NONE;
	return true;
}

/* A page that is as it was. One that goes by its whole digest goes by its sample again if that tells it apart by now. */
static struct gmm__verdict offer_again(const struct indexing *in, uint32_t page)
{
	const struct gmm__finding *finding = &in->finding[page - in->region->first];
	struct gmm__slot *slot = in->region->slot;
	uint8_t state = slot->state[page];

	if (state & GMM__FLAG_WHOLE && finding->fingerprint && !gmm__catalog_is_marked(in->catalog, finding->fingerprint)) {
		gmm__slot_set(slot, page, GMM_PAGE_UNIQUE, finding->fingerprint);
		state &= ~(GMM__FLAG_WHOLE | GMM__FLAG_FILL);
		__atomic_store_n(&slot->state[page], state | (finding->word ? GMM__FLAG_FILL : 0), __ATOMIC_RELAXED);
	}
	return gmm__catalog_offer(in->catalog, slot->value[page], gmm__slot_page_id(slot, page));
}

static void prefetch(const struct indexing *in, uint32_t i)
{
	if (i >= in->region->count)
		return;
	uint32_t fingerprint = in->finding[i].fingerprint;
	if (in->finding[i].found == GMM__FOUND_NOTHING)
		fingerprint = gmm__slot_state(in->region->slot, in->region->first + i) == GMM_PAGE_NOMINATED ?
			      in->region->slot->value[in->region->first + i] : 0;
	if (fingerprint == 0)
		return;
	gmm__page_index_prefetch(&in->catalog->index, fingerprint);
}

/* What others must know before the lock is given back: the promotions, and that pages wait no longer. Whoever promotes a copy
 * of one of those nominates it again. */
static void tell_others(const struct indexing *in, const struct gmm__verdict *verdict, struct gmm__promotions *promotions)
{
	struct gmm__slot *slot = in->region->slot;

	memset(promotions->promoted, 0, sizeof promotions->promoted);
	promotions->first = gmm__slot_page_id(slot, in->region->first);
	for (uint32_t i = 0; i < in->region->count; i++) {
		uint32_t page = in->region->first + i;
		if (is_under_way(&verdict[i]))
			promotions->promoted[i / 64] |= 1ull << i % 64;
		else if (verdict[i].kind == GMM__VERDICT_ALONE)
			gmm__slot_set(slot, page, GMM_PAGE_UNIQUE, slot->value[page]);
	}
	gmm__promotions_begin(&in->catalog->promotions, promotions);
}

uint32_t gmm__index_region(struct gmm__catalog *catalog, const struct gmm__backend *backend,
		       const struct gmm__region *region, const struct gmm__finding *finding, bool with_budget,
		       struct gmm__promotions *promotions, struct gmm__verdict *ret_verdict)
{
	struct indexing in = { catalog, region, finding };
	uint32_t deferred = 0;

	memset(ret_verdict, 0, region->count * sizeof *ret_verdict);
	gmm__lock_take(&catalog->lock);
	if (promotions)
		gmm__promotions_end(&catalog->promotions, promotions);
	for (uint32_t i = 0; i < region->count;) {
		uint32_t page = region->first + i;
		enum gmm_page_state state = gmm__slot_state(region->slot, page);
		prefetch(&in, i + 8);
		if (region->slot->state[page] & GMM__FLAGS_REFUSED || gmm__state_is_covered(state)) {
			i++;
		} else if (finding[i].found == GMM__FOUND_FILL && state == GMM_PAGE_UNIQUE) {
			i += index_fill(&in, i, ret_verdict);
		} else {
			if (finding[i].found == GMM__FOUND_ZERO)
				ret_verdict[i].kind = GMM__VERDICT_ZERO;
			else if (finding[i].found == GMM__FOUND_OTHER || finding[i].found == GMM__FOUND_FILL)
				ret_verdict[i] = gmm__catalog_offer(catalog, finding[i].fingerprint,
								    gmm__slot_page_id(region->slot, page));
			else if (finding[i].found == GMM__FOUND_AGAIN && state == GMM_PAGE_UNIQUE)
				ret_verdict[i] = offer_again(&in, page);
			else if (finding[i].found == GMM__FOUND_NOTHING &&
				 (state == GMM_PAGE_NOMINATED || (with_budget && state == GMM_PAGE_BUDGET)))
				deferred += index_waiting(&in, backend, page, ret_verdict);
			i++;
		}
	}
	if (promotions)
		tell_others(&in, ret_verdict, promotions);
	gmm__lock_give(&catalog->lock);
	return deferred;
}
