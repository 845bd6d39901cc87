/* What clients say about regions of their RAM, carried out on shadow slots. */
#include "service/shadow.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <urcu/urcu-bp.h>

#include "dedup/index.h"
#include "service/pools.h"
#include "wire/wire.h"

/* What a page costs, in pages offered; and how often a client may lose its connection between OFFER and COMMIT. */
enum { PROMOTE_CHARGE = 16, REGION_CHARGE_PART = 8, COMMIT_CHARGE_PART = 4, KEPT_MAX = 16 };

static struct gmm__pool *pool_of(const struct gmm__slot *slot)
{
	return &slot->vm->domain->pool;
}

/* ---- pending references ----------------------------------------------------------------------------------------- */

static bool waits_for_bytes(const struct gmm__pending *pending, uint32_t i)
{
	return pending->promote[i / 64] >> i % 64 & 1;
}

/* The reference that is held for a page of the region, which is the caller's now; or NIL. */
static gmm__page_id take_pending(struct gmm__pending *pending, uint32_t i)
{
	gmm__page_id page = waits_for_bytes(pending, i) ? GMM__NIL : pending->page[i];

	pending->page[i] = GMM__NIL;
	pending->promote[i / 64] &= ~(1ull << i % 64);
	return page;
}

static void drop_pending(struct gmm__pending *pending)
{
	for (uint32_t i = 0, n; pending->slot && i < pending->count; i += n) {
		gmm__page_id page = take_pending(pending, i);
		n = 1;
		if (page == GMM__NIL)
			continue;
		while (i + n < pending->count && !waits_for_bytes(pending, i + n) && pending->page[i + n] == page + n) {
			take_pending(pending, i + n);
			n++;
		}
		gmm__pool_drop(pool_of(pending->slot), page, n, GMM__DROP_REFERENCE);
	}
	pending->slot = NULL;
}

static bool holds_any(const struct gmm__pending *pending)
{
	for (uint32_t i = 0; pending->slot && i < pending->count; i++)
		if (pending->page[i] != GMM__NIL && !waits_for_bytes(pending, i))
			return true;
	return false;
}

bool gmm__shadow_is_pending(const struct gmm__session *s)
{
	return s->kept || holds_any(&s->pending);
}

int gmm__shadow_keep_pending(struct gmm__session *s)
{
	uint32_t n = 0;

	for (const struct gmm__pending *kept = s->kept; kept; kept = kept->next)
		n++;
	if (!holds_any(&s->pending))
		return 0;
	struct gmm__pending *kept = n < KEPT_MAX ? malloc(sizeof *kept) : NULL;
	if (!kept)
		return -ENOMEM;
	*kept = s->pending;
	kept->next = s->kept;
	s->kept = kept;
	memset(&s->pending, 0, sizeof s->pending);
	return 0;
}

/* Gives back what is kept of a slot, or only the records of which nothing is held any more. */
static void free_kept(struct gmm__session *s, const struct gmm__slot *slot)
{
	for (struct gmm__pending **link = &s->kept, *kept; (kept = *link) != NULL;) {
		if (kept->slot != slot && holds_any(kept)) {
			link = &kept->next;
			continue;
		}
		drop_pending(kept);
		*link = kept->next;
		free(kept);
	}
}

void gmm__shadow_drop_slot(struct gmm__session *s, const struct gmm__slot *slot)
{
	if (s->pending.slot == slot)
		drop_pending(&s->pending);
	free_kept(s, slot);
}

static bool is_pending(const struct gmm__pending *pending, const struct gmm__region *region)
{
	return pending->slot == region->slot && pending->first == region->first && pending->count == region->count;
}

static void begin_pending(struct gmm__session *s, const struct gmm__region *region)
{
	drop_pending(&s->pending);
	s->pending.slot = region->slot;
	s->pending.first = region->first;
	s->pending.count = region->count;
}

/* What is held for a page, wherever: now, or since a connection was lost. */
static gmm__page_id take_held(struct gmm__session *s, const struct gmm__slot *slot, uint32_t page)
{
	gmm__page_id held = GMM__NIL;

	if (s->pending.slot == slot && page - s->pending.first < s->pending.count)
		held = take_pending(&s->pending, page - s->pending.first);
	for (struct gmm__pending *kept = s->kept; held == GMM__NIL && kept; kept = kept->next)
		if (kept->slot == slot && page - kept->first < kept->count)
			held = take_pending(kept, page - kept->first);
	return held;
}

/* ---- messages ------------------------------------------------------------------------------------------------------- */

void gmm__shadow_set_forked(struct gmm__session *s)
{
	s->forked = true;
	for (struct gmm__pooled *pooled = s->service->pooled; pooled; pooled = pooled->next)
		if (!pooled->domain->pool.defer &&
		    (gmm__session_is_in(s, pooled->domain) || gmm__pooled_is_locked(pooled, s->client)))
			gmm__pool_defer(&pooled->domain->pool);
}

/* The region of a message whose elements have `each` bytes. */
static int take_region(struct gmm__session *s, const void *packet, size_t size, size_t each, struct gmm__region *ret_region)
{
	const struct gmm__wire_region *r = packet;
	struct gmm__slot *slot = r->slot < GMM__WIRE_SLOTS ? s->slot[r->slot] : NULL;

	if (!slot || r->count == 0 || r->count > GMM__WIRE_REGION_PAGES || r->first >= slot->pages ||
	    r->count > slot->pages - r->first || r->n > r->count || r->flags & ~(uint32_t)GMM__WIRE_FORKED || r->unused)
		return -EPROTO;
	if (each && !gmm__wire_fits(size, sizeof *r, r->n, each))
		return -EPROTO;
	if (r->flags & GMM__WIRE_FORKED)
		gmm__shadow_set_forked(s);
	*ret_region = (struct gmm__region){ slot, r->first, r->count };
	return 0;
}

static int reply_region(struct gmm__session *s, const void *packet, uint32_t n, const void *elements, size_t each)
{
	struct gmm__wire_region reply = *(const struct gmm__wire_region *)packet;

	reply.n = n;
	reply.flags = 0;
	return gmm__session_reply(s, packet, &reply, sizeof reply, elements, n * each, -1);
}

/* ---- OFFER ----------------------------------------------------------------------------------------------------------- */

static bool finding_is_valid(const struct gmm__wire_finding *f, uint32_t count, int64_t last)
{
	if (f->index >= count || f->index <= last || f->found > GMM__FOUND_OTHER ||
	    f->flags & ~(GMM__WIRE_WRITTEN | GMM__WIRE_FILL))
		return false;
	if (f->found == GMM__FOUND_OTHER || f->found == GMM__FOUND_FILL || f->found == GMM__FOUND_SAMPLE ||
	    f->found == GMM__FOUND_AGAIN)
		return f->fingerprint != 0;
	return true;
}

/* The client may know more of a page than its shadow: it was told to look again, or counts it among the unique ones. */
static void update_shadow(const struct gmm__region *region, const struct gmm__wire_finding *f)
{
	struct gmm__slot *slot = region->slot;
	uint32_t page = region->first + f->index;
	bool waits = f->found == GMM__FOUND_NOTHING, fill = f->flags & GMM__WIRE_FILL;

	if ((!waits && f->found != GMM__FOUND_AGAIN && f->found != GMM__FOUND_SAMPLE) ||
	    gmm__state_is_covered(gmm__slot_state(slot, page)) || slot->state[page] & GMM__FLAGS_REFUSED)
		return;
	gmm__slot_set(slot, page, waits ? GMM_PAGE_NOMINATED : f->found == GMM__FOUND_AGAIN ? GMM_PAGE_UNIQUE : GMM_PAGE_HUGE,
		      f->fingerprint);
	uint8_t flags = slot->state[page] & ~GMM__FLAG_FILL;
	__atomic_store_n(&slot->state[page], fill ? flags | GMM__FLAG_FILL : flags, __ATOMIC_RELAXED);
}

/* The findings by page; those that were not named are NOTHING. `asked` are the named ones. */
static int take_findings(struct gmm__service *service, const struct gmm__wire_finding *f, uint32_t n,
			 const struct gmm__region *region, bool *ret_asked)
{
	int64_t last = -1;

	memset(service->finding, 0, region->count * sizeof *service->finding);
	for (uint32_t i = 0; i < n; i++) {
		if (!finding_is_valid(&f[i], region->count, last))
			return -EPROTO;
		last = f[i].index;
		ret_asked[f[i].index] = true;
		service->finding[f[i].index] = (struct gmm__finding){
			.found = f[i].found, .written = f[i].flags & GMM__WIRE_WRITTEN,
			.whole = f[i].found == GMM__FOUND_OTHER, .fingerprint = f[i].fingerprint, .word = f[i].word,
		};
	}
	return 0;
}

/* What is worked on to answer a message about a region. */
struct answering {
	struct gmm__session *s;
	const struct gmm__region *region;
	bool asked[GMM__WIRE_REGION_PAGES];
	uint32_t n;                         /* answers given */
};

static void answer(struct answering *a, uint32_t i, enum gmm__verdict_kind kind, uint8_t flags, gmm__page_id page)
{
	a->s->service->answer[a->n++] = (struct gmm__wire_verdict){ (uint16_t)i, (uint8_t)kind, flags, page };
}

/* The page has a reference now that the client has to account for. */
static void answer_join(struct answering *a, uint32_t i, gmm__page_id page, uint8_t flags)
{
	a->s->pending.page[i] = page;
	answer(a, i, GMM__VERDICT_JOIN, flags, page);
}

static void answer_unique(struct answering *a, uint32_t i)
{
	struct gmm__slot *slot = a->region->slot;
	uint32_t page = a->region->first + i;

	if (gmm__slot_state(slot, page) == GMM_PAGE_NOMINATED)
		gmm__slot_set(slot, page, GMM_PAGE_UNIQUE, slot->value[page]);
	answer(a, i, GMM__VERDICT_UNIQUE, 0, GMM__NIL);
}

/* Makes an extent of at most `want` pages of one word. Returns how many, from *ret_first on, each with a reference. */
static uint32_t make_extent(struct gmm__catalog *catalog, uint64_t word, uint32_t want, gmm__page_id *ret_first)
{
	static uint64_t bytes[GMM__PAGE_BYTES / sizeof word];
	struct iovec part[GMM__FILL_EXTENT];
	gmm__page_id first;
	uint32_t n = gmm__pool_reserve(catalog->pool, want < GMM__FILL_EXTENT ? want : GMM__FILL_EXTENT, &first);

	if (n == 0)
		return 0;
	for (size_t i = 0; i < sizeof bytes / sizeof *bytes; i++)
		bytes[i] = word;
	for (uint32_t i = 0; i < n; i++)
		part[i] = (struct iovec){ bytes, sizeof bytes };
	if (gmm__pool_fill(catalog->pool, first, part, (int)n) != 0) {
		gmm__pool_drop(catalog->pool, first, n, GMM__DROP_UNFILLED);
		return 0;
	}
	gmm__lock_take(&catalog->lock);
	gmm__fill_set(&catalog->fills, word, first, n);
	gmm__lock_give(&catalog->lock);
	*ret_first = first;
	return n;
}

/* Up to `want` pages of the word, with a reference each. What is left of an extent may be too short for a long run to be
 * worth joining. */
static uint32_t take_fill_pages(struct gmm__catalog *catalog, uint64_t word, uint32_t want, gmm__page_id *ret_first)
{
	gmm__lock_take(&catalog->lock);
	const struct gmm__fill_extent *extent = gmm__fill_find(&catalog->fills, word);
	struct gmm__fill_extent found = extent ? *extent : (struct gmm__fill_extent){ 0 };
	gmm__lock_give(&catalog->lock);
	if (found.pages < GMM__FILL_RUN && found.pages < want)
		return make_extent(catalog, word, want, ret_first);
	*ret_first = found.first;
	return gmm__pool_ref(catalog->pool, found.first, found.pages < want ? found.pages : want);
}

/* A row of pages of one word from i on. Returns how many pages it was; those that got no page keep waiting. */
static uint32_t answer_fill(struct answering *a, uint32_t i)
{
	const struct gmm__verdict *verdict = a->s->service->verdict;
	uint32_t n = 1;

	while (i + n < a->region->count && a->asked[i + n] && verdict[i + n].kind == GMM__VERDICT_FILL &&
	       verdict[i + n].word == verdict[i].word)
		n++;
	for (uint32_t done = 0, got; done < n; done += got) {
		gmm__page_id first = GMM__NIL;
		got = take_fill_pages(a->region->slot->vm->domain->catalog, verdict[i].word, n - done, &first);
		if (got == 0)
			break;
		for (uint32_t k = 0; k < got; k++)
			answer_join(a, i + done + k, first + k, GMM__WIRE_FILL);
	}
	return n;
}

static void answer_one(struct answering *a, uint32_t i)
{
	const struct gmm__verdict *verdict = &a->s->service->verdict[i];

	switch (verdict->kind) {
	case GMM__VERDICT_ZERO:
		answer(a, i, GMM__VERDICT_ZERO, 0, GMM__NIL);
		break;
	case GMM__VERDICT_JOIN:
		if (gmm__pool_ref(pool_of(a->region->slot), verdict->page, 1) == 1)
			answer_join(a, i, verdict->page, 0);
		else
			answer_unique(a, i);
		break;
	case GMM__VERDICT_TWIN: /* digests are of whole pages: no need to wait for the twin's turn */
	case GMM__VERDICT_PROMOTE:
		gmm__catalog_keep_twin(a->region->slot->vm->domain->catalog, verdict->fingerprint,
				       gmm__slot_page_id(a->region->slot, a->region->first + i), verdict->page);
		a->s->pending.promote[i / 64] |= 1ull << i % 64;
		a->s->pending.page[i] = verdict->page;
		answer(a, i, GMM__VERDICT_PROMOTE, 0, GMM__NIL);
		break;
	case GMM__VERDICT_UNIQUE:
	case GMM__VERDICT_ALONE:
		answer_unique(a, i);
		break;
	default:
		break;
	}
}

/* A page of a huge page: is an equal one known? */
static void answer_sample(struct answering *a, uint32_t i)
{
	const struct gmm__finding *f = &a->s->service->finding[i];
	struct gmm__catalog *catalog = a->region->slot->vm->domain->catalog;

	urcu_bp_read_lock();
	gmm__lock_take(&catalog->lock);
	bool known = (f->word && gmm__fill_find(&catalog->fills, f->word)) ||
		     gmm__catalog_sample(catalog, f->fingerprint, gmm__slot_page_id(a->region->slot, a->region->first + i));
	gmm__lock_give(&catalog->lock);
	urcu_bp_read_unlock();
	answer(a, i, known ? GMM__VERDICT_TWIN : GMM__VERDICT_UNIQUE, 0, GMM__NIL);
}

static void answer_all(struct answering *a)
{
	const struct gmm__verdict *verdict = a->s->service->verdict;

	for (uint32_t i = 0; i < a->region->count;) {
		if (a->asked[i] && verdict[i].kind == GMM__VERDICT_FILL) {
			i += answer_fill(a, i);
			continue;
		}
		if (a->asked[i] && a->s->service->finding[i].found == GMM__FOUND_SAMPLE)
			answer_sample(a, i);
		else if (a->asked[i])
			answer_one(a, i);
		i++;
	}
}

int gmm__shadow_offer(struct gmm__session *s, const void *packet, size_t size)
{
	const struct gmm__wire_region *r = packet;
	struct gmm__service *service = s->service;
	struct gmm__progress progress = { 0 };
	struct gmm__region region;
	struct answering a = { .s = s, .region = &region };

	int rc = take_region(s, packet, size, sizeof(struct gmm__wire_finding), &region);
	if (rc == 0)
		rc = take_findings(service, (const void *)(r + 1), r->n, &region, a.asked);
	if (rc != 0)
		return rc;
	gmm__session_charge(s, r->n + region.count / REGION_CHARGE_PART);
	s->offered_pages += r->n;
	service->offered_pages += r->n;
	begin_pending(s, &region);
	for (uint32_t i = 0; i < r->n; i++)
		update_shadow(&region, (const struct gmm__wire_finding *)(const void *)(r + 1) + i);
	gmm__account_findings(&region, service->finding, &progress);
	urcu_bp_read_lock();
	gmm__index_region(region.slot->vm->domain->catalog, NULL, &region, service->finding, true, NULL, service->verdict);
	urcu_bp_read_unlock();
	gmm__account_verdicts(&region, service->verdict, &progress);
	answer_all(&a);
	return reply_region(s, packet, a.n, service->answer, sizeof *service->answer);
}

/* ---- PROMOTE ------------------------------------------------------------------------------------------------------ */

/* What is worked on to take the bytes of some pages into the pool. */
struct promoting {
	struct gmm__session *s;
	struct gmm__region region;
	struct gmm__catalog *catalog;
	const uint32_t *index;
	const uint8_t *bytes;               /* n pages */
	uint32_t n;
	gmm__page_id page[GMM__WIRE_PROMOTE_PAGES]; /* results */
	gmm__page_id twin[GMM__WIRE_PROMOTE_PAGES]; /* of pages still to be written, else NIL */
};

static const uint8_t *bytes_of(const struct promoting *p, uint32_t k)
{
	return p->bytes + (size_t)k * GMM__PAGE_BYTES;
}

static uint32_t fingerprint_of(const struct promoting *p, uint32_t k)
{
	return p->region.slot->value[p->region.first + p->index[k]];
}

static int take_promote(struct gmm__session *s, const void *packet, size_t size, struct promoting *p)
{
	const struct gmm__wire_region *r = packet;
	int rc = take_region(s, packet, size, 0, &p->region);

	if (rc != 0)
		return rc;
	size_t index_bytes = (r->n * sizeof *p->index + 7) / 8 * 8;
	if (r->n == 0 || r->n > GMM__WIRE_PROMOTE_PAGES || !is_pending(&s->pending, &p->region) ||
	    size != sizeof *r + index_bytes + (size_t)r->n * GMM__PAGE_BYTES)
		return -EPROTO;
	p->index = (const void *)(r + 1);
	p->bytes = (const uint8_t *)p->index + index_bytes;
	p->n = r->n;
	p->catalog = p->region.slot->vm->domain->catalog;
	if (r->n % 2 && p->index[r->n])
		return -EPROTO;
	for (uint32_t k = 0; k < p->n; k++)
		if (p->index[k] >= p->region.count || !waits_for_bytes(&s->pending, p->index[k]) ||
		    (k > 0 && p->index[k] <= p->index[k - 1]))
			return -EPROTO;
	return 0;
}

/* Somebody else may have promoted the same bytes since the verdict. */
static gmm__page_id find_same(const struct promoting *p, uint32_t k)
{
	gmm__page_id page = gmm__catalog_find_shared(p->catalog, fingerprint_of(p, k));

	if (page == GMM__NIL || gmm__pool_ref(p->catalog->pool, page, 1) == 0)
		return GMM__NIL;
	if (memcmp(gmm__pool_bytes(p->catalog->pool, page), bytes_of(p, k), GMM__PAGE_BYTES) == 0)
		return page;
	gmm__pool_drop(p->catalog->pool, page, 1, GMM__DROP_REFERENCE);
	return GMM__NIL;
}

/* Offered pages [k, k + n) of the message go into pool pages [first, first + n). */
static void write_row(struct promoting *p, uint32_t k, uint32_t n, gmm__page_id first)
{
	struct iovec part = { (void *)(uintptr_t)bytes_of(p, k), (size_t)n * GMM__PAGE_BYTES };

	if (gmm__pool_fill(p->catalog->pool, first, &part, 1) != 0) {
		gmm__pool_drop(p->catalog->pool, first, n, GMM__DROP_UNFILLED);
		return;
	}
	for (uint32_t i = 0; i < n; i++) {
		p->page[k + i] = first + i;
		gmm__catalog_publish(p->catalog, fingerprint_of(p, k + i), first + i);
	}
}

/* The owner of the page that was equal when it was digested is to offer it again. */
static void call_twin(const struct promoting *p, gmm__page_id twin, uint32_t fingerprint)
{
	urcu_bp_read_lock();
	const struct gmm__slot *slot = gmm__chunk_table_slot(&p->s->service->gmm->chunks, gmm__page_chunk(twin));
	uint32_t i = slot ? twin - gmm__slot_page_id(slot, 0) : 0;
	if (slot && i < slot->pages && slot->vm->domain == p->region.slot->vm->domain &&
	    gmm__slot_state(slot, i) == GMM_PAGE_UNIQUE && slot->value[i] == fingerprint)
		gmm__session_add_look(slot->owner, slot->number, i);
	urcu_bp_read_unlock();
}

/* Pages that nobody has yet, in rows so that they come to lie side by side. */
static void promote_rows(struct promoting *p, const bool *fresh)
{
	for (uint32_t k = 0; k < p->n;) {
		uint32_t n = 0;
		gmm__page_id first = GMM__NIL;
		while (k + n < p->n && fresh[k + n])
			n++;
		uint32_t got = n ? gmm__pool_reserve(p->catalog->pool, n, &first) : 0;
		if (got)
			write_row(p, k, got, first);
		else if (n)
			return; /* the pool is full */
		k += got ? got : 1;
	}
}

/* Equal pages in one message become one page: the first is looked for by the others when it is written. */
static bool is_repeated(const struct promoting *p, const bool *fresh, uint32_t k)
{
	for (uint32_t i = 0; i < k; i++)
		if (fresh[i] && fingerprint_of(p, i) == fingerprint_of(p, k))
			return true;
	return false;
}

static void promote(struct promoting *p)
{
	struct gmm__pending *pending = &p->s->pending;
	bool fresh[GMM__WIRE_PROMOTE_PAGES] = { false }, right[GMM__WIRE_PROMOTE_PAGES] = { false };

	for (uint32_t k = 0; k < p->n; k++) {
		p->twin[k] = pending->page[p->index[k]];
		take_pending(pending, p->index[k]);
		right[k] = gmm__digest_whole(bytes_of(p, k), &p->catalog->secret).fingerprint == fingerprint_of(p, k);
		p->page[k] = right[k] ? find_same(p, k) : GMM__NIL;
		fresh[k] = right[k] && p->page[k] == GMM__NIL && !is_repeated(p, fresh, k);
	}
	promote_rows(p, fresh);
	for (uint32_t k = 0; k < p->n; k++) {
		if (right[k] && !fresh[k] && p->page[k] == GMM__NIL)
			p->page[k] = find_same(p, k);
		pending->page[p->index[k]] = p->page[k];
		if (p->page[k] != GMM__NIL)
			call_twin(p, p->twin[k], fingerprint_of(p, k));
	}
}

int gmm__shadow_promote(struct gmm__session *s, const void *packet, size_t size)
{
	struct promoting p = { .s = s };
	int rc = take_promote(s, packet, size, &p);

	if (rc != 0)
		return rc;
	gmm__session_charge(s, p.n * PROMOTE_CHARGE);
	s->promoted_pages += p.n;
	s->service->promoted_pages += p.n;
	promote(&p);
	return reply_region(s, packet, p.n, p.page, sizeof *p.page);
}

/* ---- RESHARE -------------------------------------------------------------------------------------------------------- */

static void reshare_one(struct answering *a, uint32_t i)
{
	const struct gmm__finding *f = &a->s->service->finding[i];
	struct gmm__catalog *catalog = a->region->slot->vm->domain->catalog;
	gmm__page_id page = gmm__catalog_find_shared(catalog, f->fingerprint);

	if (page == GMM__NIL && f->found == GMM__FOUND_FILL) {
		gmm__lock_take(&catalog->lock);
		const struct gmm__fill_extent *extent = gmm__fill_find(&catalog->fills, f->word);
		/* As far into the extent as this page follows another one, so that rows stay rows. */
		page = extent ? extent->first + i % extent->pages : GMM__NIL;
		gmm__lock_give(&catalog->lock);
	}
	if (page != GMM__NIL && gmm__pool_ref(catalog->pool, page, 1) == 1)
		answer_join(a, i, page, f->found == GMM__FOUND_FILL ? GMM__WIRE_FILL : 0);
	else
		answer(a, i, GMM__VERDICT_UNIQUE, 0, GMM__NIL);
}

int gmm__shadow_reshare(struct gmm__session *s, const void *packet, size_t size)
{
	const struct gmm__wire_region *r = packet;
	struct gmm__region region;
	struct answering a = { .s = s, .region = &region };

	int rc = take_region(s, packet, size, sizeof(struct gmm__wire_finding), &region);
	if (rc == 0)
		rc = take_findings(s->service, (const void *)(r + 1), r->n, &region, a.asked);
	for (uint32_t i = 0; rc == 0 && i < region.count; i++)
		if (a.asked[i] && (s->service->finding[i].found < GMM__FOUND_FILL ||
				   !gmm__state_is_covered(gmm__slot_state(region.slot, region.first + i))))
			rc = -EPROTO;
	if (rc != 0)
		return rc;
	gmm__session_charge(s, r->n + region.count / REGION_CHARGE_PART);
	if (!is_pending(&s->pending, &region))
		begin_pending(s, &region);
	for (uint32_t i = 0; i < region.count; i++) {
		if (!a.asked[i])
			continue;
		gmm__page_id held = take_pending(&s->pending, i);
		if (held != GMM__NIL)
			gmm__pool_drop(pool_of(region.slot), held, 1, GMM__DROP_REFERENCE);
		reshare_one(&a, i);
	}
	return reply_region(s, packet, a.n, s->service->answer, sizeof *s->service->answer);
}

/* ---- COMMIT --------------------------------------------------------------------------------------------------------- */

/* Consecutive pages that are dropped in the same way, in one call. */
struct dropping {
	struct gmm__pool *pool;
	gmm__page_id first;
	uint32_t count;
	enum gmm__pool_drop how;
};

static void flush_drops(struct dropping *d)
{
	if (d->count)
		gmm__pool_drop(d->pool, d->first, d->count, d->how);
	d->count = 0;
}

static void drop(struct dropping *d, gmm__page_id page, enum gmm__pool_drop how)
{
	if (d->count && (d->how != how || page != d->first + d->count))
		flush_drops(d);
	if (d->count == 0)
		*d = (struct dropping){ d->pool, page, 0, how };
	d->count++;
}

static bool has_fingerprint(enum gmm_page_state state)
{
	return gmm__state_is_candidate(state) || state == GMM_PAGE_RACED || state == GMM_PAGE_HUGE;
}

/* The page maps a shared page now, or has a copy over one. Legal from there, or with a reference held for it. */
static int commit_covered(struct gmm__slot *slot, uint32_t page, enum gmm_page_state state, gmm__page_id held,
			  struct dropping *d)
{
	enum gmm_page_state old = gmm__slot_state(slot, page);
	struct gmm_vm_stats *stats = &slot->vm->stats;
	gmm__page_id cover = slot->value[page];
	bool had = gmm__state_is_shared(old);

	if (held != GMM__NIL && state == GMM_PAGE_BROKEN && gmm__state_is_covered(old)) {
		drop(d, held, GMM__DROP_REFERENCE); /* it was not repaired: its mapping is the old one */
		held = GMM__NIL;
	}
	if (held == GMM__NIL && !had && !(old == GMM_PAGE_BROKEN && state == GMM_PAGE_BROKEN))
		return -EPROTO;
	if (held != GMM__NIL) {
		if (gmm__state_is_covered(old))
			drop(d, cover, had ? GMM__DROP_REFERENCE : GMM__DROP_COVER);
		stats->repairs += gmm__state_is_covered(old);
		stats->merges += !gmm__state_is_covered(old);
		cover = held;
		had = true;
	}
	if (had && state == GMM_PAGE_BROKEN) {
		drop(d, cover, GMM__DROP_BROKEN);
		stats->cow_breaks++;
	}
	gmm__slot_set(slot, page, state, cover);
	return 0;
}

static void commit_plain(struct gmm__slot *slot, uint32_t page, enum gmm_page_state state, gmm__page_id held,
			 struct dropping *d)
{
	enum gmm_page_state old = gmm__slot_state(slot, page);
	struct gmm_vm_stats *stats = &slot->vm->stats;

	if (held != GMM__NIL)
		drop(d, held, GMM__DROP_REFERENCE);
	if (gmm__state_is_covered(old))
		drop(d, slot->value[page], old == GMM_PAGE_BROKEN ? GMM__DROP_COVER : GMM__DROP_REFERENCE);
	stats->merges += state == GMM_PAGE_ZERO && old == GMM_PAGE_NOMINATED;
	stats->raced += state == GMM_PAGE_RACED && old == GMM_PAGE_NOMINATED;
	stats->refused_pinned += state == GMM_PAGE_PINNED && old == GMM_PAGE_NOMINATED;
	gmm__slot_set(slot, page, state, has_fingerprint(old) && has_fingerprint(state) ? slot->value[page] : 0);
}

static int commit_run(struct gmm__session *s, const struct gmm__region *region, uint32_t at,
		      const struct gmm__wire_states *run, struct dropping *d)
{
	enum gmm_page_state state = run->state & GMM__STATE_MASK;
	int rc = 0;

	for (uint32_t i = at; rc == 0 && i < at + run->pages; i++) {
		uint32_t page = region->first + i;
		gmm__page_id held = take_held(s, region->slot, page);
		if (held == GMM__NIL && (region->slot->state[page] & ~GMM__FLAG_WHOLE) == run->state)
			continue;
		if (gmm__state_is_covered(state))
			rc = commit_covered(region->slot, page, state, held, d);
		else
			commit_plain(region->slot, page, state, held, d);
		if (rc == 0)
			__atomic_store_n(&region->slot->state[page], run->state, __ATOMIC_RELAXED);
	}
	return rc;
}

int gmm__shadow_commit(struct gmm__session *s, const void *packet, size_t size)
{
	const struct gmm__wire_region *r = packet;
	const struct gmm__wire_states *run = (const void *)(r + 1);
	struct gmm__region region;
	uint32_t at = 0;

	int rc = take_region(s, packet, size, sizeof *run, &region);
	for (uint32_t k = 0; rc == 0 && k < r->n; k++) {
		if (run[k].pages == 0 || run[k].pages > region.count - at || run[k].unused ||
		    run[k].state & GMM__FLAG_WHOLE) /* ours, and with FILL another state: gmm/slot.h */
			rc = -EPROTO;
		at += run[k].pages;
	}
	if (rc != 0 || at != region.count)
		return -EPROTO;
	gmm__session_charge(s, region.count / COMMIT_CHARGE_PART);
	struct dropping d = { .pool = pool_of(region.slot) };
	struct gmm__seams before = gmm__account_begin(region.slot, region.first, region.count);
	at = 0;
	for (uint32_t k = 0; rc == 0 && k < r->n; at += run[k++].pages)
		rc = commit_run(s, &region, at, &run[k], &d);
	gmm__account_end(region.slot, region.first, region.count, before);
	flush_drops(&d);
	free_kept(s, NULL);
	return rc;
}

/* ---- REPORT --------------------------------------------------------------------------------------------------------- */

/* Takes what a page of the report uses. */
static int report_page(const struct gmm__region *region, uint32_t page, const struct gmm__wire_report *report)
{
	struct gmm__slot *slot = region->slot;
	struct gmm__pool *pool = pool_of(slot);
	enum gmm_page_state state = report->state & GMM__STATE_MASK;
	uint32_t value = report->value;

	if (gmm__state_is_covered(state)) {
		if (!gmm__pool_has(pool, value) || gmm__pool_ref(pool, value, 1) == 0)
			return GMM_ERR_NOT_FOUND;
		if (state == GMM_PAGE_BROKEN)
			gmm__pool_drop(pool, value, 1, GMM__DROP_BROKEN);
	} else if (!has_fingerprint(state)) {
		value = 0;
	}
	gmm__slot_set(slot, page, state, value);
	__atomic_store_n(&slot->state[page], report->state, __ATOMIC_RELAXED);
	return GMM_OK;
}

int gmm__shadow_report(struct gmm__session *s, const void *packet, size_t size)
{
	const struct gmm__wire_region *r = packet;
	const struct gmm__wire_report *report = (const void *)(r + 1);
	struct gmm__region region;
	int status = GMM_OK;

	int rc = take_region(s, packet, size, sizeof *report, &region);
	if (rc != 0 || r->n != r->count)
		return -EPROTO;
	for (uint32_t i = 0; i < region.count; i++)
		if (report[i].unused[0] | report[i].unused[1] | report[i].unused[2] || report[i].state & GMM__FLAG_WHOLE ||
		    gmm__state_is_covered(gmm__slot_state(region.slot, region.first + i)))
			return -EPROTO;
	gmm__session_charge(s, region.count);
	struct gmm__seams before = gmm__account_begin(region.slot, region.first, region.count);
	for (uint32_t i = 0; status == GMM_OK && i < region.count; i++)
		status = report_page(&region, region.first + i, &report[i]);
	gmm__account_end(region.slot, region.first, region.count, before);
	return gmm__session_reply_status(s, packet, status);
}
