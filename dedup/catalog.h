/* The catalog of a trust domain: what knows every digest of the domain and owns its indexes.
 *
 * It answers one question: what is to be done with a page of this digest? An answer (verdict) names a page that
 * may be equal; it holds no reference yet, the merge takes one (gmm__pool_ref) before it compares.
 *
 * Threads: any; it has one lock.
 */
#ifndef DEDUP_CATALOG_H
#define DEDUP_CATALOG_H

#include "dedup/digest.h"
#include "dedup/fill_extents.h"
#include "dedup/page_index.h"
#include "gmm/instance.h"

struct gmm__catalog {
	struct gmm *gmm;
	struct gmm__pool *pool;
	struct gmm__secret secret;
	struct gmm__lock lock;              /* guards what follows */
	struct gmm__page_index index;
	uint32_t alike;                     /* fingerprints in it that were marked as such; they stay */
	struct gmm__fill_extents fills;
	struct gmm__promotions *promotions; /* under way, where there are several workers (dedup/promotions.h) */
};

struct gmm__catalog *gmm__catalog_new(struct gmm *gmm, struct gmm__domain *domain);
void gmm__catalog_free(struct gmm__catalog *catalog);

enum gmm__verdict_kind {
	GMM__VERDICT_NONE,    /* not asked */
	GMM__VERDICT_UNIQUE,  /* nobody has it; remembered as a candidate */
	GMM__VERDICT_TWIN,    /* page: a private page that had it first; both are to be merged at the next pass */
	GMM__VERDICT_ZERO,    /* drop it */
	GMM__VERDICT_JOIN,    /* page: a shared page */
	GMM__VERDICT_PROMOTE, /* page: its twin, a private page; put this one into the pool */
	GMM__VERDICT_FILL,    /* word: use the word's extent, or make one of the run it lies in */
	GMM__VERDICT_ALONE,   /* was nominated, but its twin is gone */
	GMM__VERDICT_ALIKE,   /* pages of this fingerprint differ: its whole digest is to tell it from them */
};

/* In the index in the place of a page: pages of this fingerprint differ. No page has this id. */
enum { GMM__ALIKE = 1 };

struct gmm__verdict {
	enum gmm__verdict_kind kind;
	uint32_t fingerprint;
	gmm__page_id page;
	uint64_t word;
};

/* Makes the index fit for a domain of so many pages. 0, or -ENOMEM: hints will be lost. */
int gmm__catalog_prepare(struct gmm__catalog *catalog, uint64_t pages);

/* A page just digested: `self` is its page id in its seeded chunk. Call with the lock and inside an RCU section. */
struct gmm__verdict gmm__catalog_offer(struct gmm__catalog *catalog, uint32_t fingerprint, gmm__page_id self);

/* A page nominated in an earlier pass whose turn to be merged it is. One that is to be promoted is the hint from then
 * on, so that others of its kind can see that it is under way. Call with the lock. */
struct gmm__verdict gmm__catalog_settle(struct gmm__catalog *catalog, uint32_t fingerprint, gmm__page_id self);

/* A page of a huge page, sampled: true if an equal one is known. Huge pages' pages are hints for each other only: they
 * cannot be merged as they are. Call with the lock and inside an RCU section. */
bool gmm__catalog_sample(struct gmm__catalog *catalog, uint32_t fingerprint, gmm__page_id self);

/* Page `self`, which was settled, waits for `twin`: that one is the hint again. With the lock. */
void gmm__catalog_put_back(struct gmm__catalog *catalog, uint32_t fingerprint, gmm__page_id self, gmm__page_id twin);

/* Page `self` is to be promoted at once and its twin does not know of it: the twin stays the hint, so that `self` finds it
 * again if it has to wait. */
void gmm__catalog_keep_twin(struct gmm__catalog *catalog, uint32_t fingerprint, gmm__page_id self, gmm__page_id twin);

/* Two private pages of this fingerprint differ. From now on all of them are to be told apart by their whole digests, those that
 * were taken for equal before as well: *ret_hint is the one that others were told of last, which is to be nominated again, or
 * NIL. When half of the index is such marks it is only the page at hand that is. False if a shared page has the fingerprint,
 * which others find meanwhile. */
bool gmm__catalog_tell_apart(struct gmm__catalog *catalog, uint32_t fingerprint, gmm__page_id *ret_hint);

/* The same where a page differs from a shared one of its fingerprint, which is listed under its whole digest then. Without
 * `mark` others go by this fingerprint still: pages that repeat one word have no better one. The caller has no lock. */
void gmm__catalog_tell_shared_apart(struct gmm__catalog *catalog, uint32_t fingerprint, bool mark);

/* Pages of this fingerprint are told apart by their whole digests. With the lock. */
bool gmm__catalog_is_marked(const struct gmm__catalog *catalog, uint32_t fingerprint);

/* A page was promoted: others find it from now on. */
void gmm__catalog_publish(struct gmm__catalog *catalog, uint32_t fingerprint, gmm__page_id page);

/* The index is to name `to` where it names `from`; both have the same bytes, and the caller a reference to `from`. */
void gmm__catalog_relist(struct gmm__catalog *catalog, gmm__page_id from, gmm__page_id to);

/* The shared page turned out to be gone or not to have the fingerprint it is listed under: forget that entry if so. */
void gmm__catalog_doubt(struct gmm__catalog *catalog, uint32_t fingerprint, gmm__page_id page);

/* The shared page with this fingerprint, or NIL; GMM__ALIKE if the whole digest is to be asked for. It may be gone: see
 * gmm__pool_ref. */
gmm__page_id gmm__catalog_find_shared(struct gmm__catalog *catalog, uint32_t fingerprint);

#endif
