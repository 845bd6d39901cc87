/* A region of a VM whose catalog is the service's: offer → verdicts → promote → merge → commit. The stages between are those
 * of dedup/process.c; every shared page comes with a reference that the service holds for us until the commit.
 */
#include "dedup/remote.h"

#include <string.h>

#include "dedup/digest.h"
#include "dedup/engine.h"
#include "dedup/pace.h"
#include "dedup/process.h"
#include "dedup/repair.h"

/* ---- offering --------------------------------------------------------------------------------------------------- */

static bool waits_for_merge(const struct gmm__worker *worker, enum gmm_page_state state)
{
	return state == GMM_PAGE_NOMINATED || (worker->job.options.with_budget && state == GMM_PAGE_BUDGET);
}

/* What the service is to judge of a page. Pages that repeat a word are read for it: they were present a moment ago. */
static bool make_finding(const struct gmm__worker *worker, const struct gmm__region *region, uint32_t i,
			 struct gmm__wire_finding *ret)
{
	const struct gmm__slot *slot = region->slot;
	const struct gmm__finding *finding = &worker->gmm->remote->finding[i];
	uint32_t page = region->first + i;
	enum gmm_page_state state = gmm__slot_state(slot, page);

	if (slot->state[page] & GMM__FLAGS_REFUSED || gmm__state_is_covered(state))
		return false;
	if (finding->found == GMM__FOUND_SAMPLE && state == GMM_PAGE_HUGE && finding->fingerprint) {
		*ret = (struct gmm__wire_finding){ (uint16_t)i, GMM__FOUND_SAMPLE, 0, finding->fingerprint, finding->word };
		return true;
	}
	if (finding->found >= GMM__FOUND_ZERO && finding->found <= GMM__FOUND_OTHER) {
		*ret = (struct gmm__wire_finding){ (uint16_t)i, (uint8_t)finding->found,
						   finding->written ? GMM__WIRE_WRITTEN : 0, finding->fingerprint,
						   finding->found == GMM__FOUND_OTHER ? 0 : finding->word };
		return true;
	}
	bool again = finding->found == GMM__FOUND_AGAIN && state == GMM_PAGE_UNIQUE;
	if (!again && !(finding->found == GMM__FOUND_NOTHING && waits_for_merge(worker, state)))
		return false;
	*ret = (struct gmm__wire_finding){ (uint16_t)i, (uint8_t)finding->found, 0, slot->value[page], 0 };
	if (again && slot->value[page] == 0) /* of zeros, as it was digested */
		ret->found = GMM__FOUND_ZERO;
	if (slot->state[page] & GMM__FLAG_FILL) {
		ret->flags = GMM__WIRE_FILL;
		memcpy(&ret->word, worker->backend->bytes(slot, page), sizeof ret->word);
	}
	return true;
}

static struct gmm__wire_region head(enum gmm__wire_type type, const struct gmm__region *region, uint32_t n)
{
	return (struct gmm__wire_region){ .header.type = type, .slot = region->slot->remote - 1, .first = region->first,
					  .count = region->count, .n = n };
}

/* True for a page that may be joined: the answer is checked as if the service lied. */
static bool join_is_valid(struct gmm__worker *worker, const struct gmm__region *region, gmm__page_id page)
{
	return page != GMM__NIL &&
	       gmm__remote_know_chunk(worker->gmm->remote, region->slot->vm->domain, gmm__page_chunk(page));
}

/* Copies the verdicts out of the reply, since asking for chunks overwrites it. Returns their number, or -1. */
static int copy_verdicts(struct gmm__remote *remote, size_t size, struct gmm__wire_verdict *ret)
{
	const struct gmm__wire_region *reply = (const void *)remote->buf;

	if (size < sizeof *reply || reply->n > GMM__WIRE_REGION_PAGES ||
	    !gmm__wire_fits(size, sizeof *reply, reply->n, sizeof *ret)) {
		gmm__remote_disconnect(remote, "verdicts of the wrong size");
		return -1;
	}
	memcpy(ret, reply + 1, reply->n * sizeof *ret);
	return (int)reply->n;
}

static bool take_verdict(struct gmm__worker *worker, const struct gmm__region *region,
			 const struct gmm__wire_verdict *from)
{
	struct gmm__verdict *to = &worker->verdict[from->index];

	/* Samples of huge pages are only counted: dedup/huge.h. */
	if (worker->gmm->remote->finding[from->index].found == GMM__FOUND_SAMPLE) {
		worker->job.finding[from->index].equal = from->kind == GMM__VERDICT_TWIN; /* only scans sample */
		return from->kind == GMM__VERDICT_TWIN || from->kind == GMM__VERDICT_UNIQUE;
	}
	switch (from->kind) {
	case GMM__VERDICT_UNIQUE:
	case GMM__VERDICT_ALONE:
	case GMM__VERDICT_ZERO:
	case GMM__VERDICT_PROMOTE:
		to->kind = from->kind;
		return true;
	case GMM__VERDICT_JOIN:
		if (!join_is_valid(worker, region, from->page))
			return false;
		to->kind = GMM__VERDICT_JOIN;
		to->page = from->page;
		return true;
	default:
		return false;
	}
}

/* Sends findings of the region and fills worker->verdict. */
static bool ask_verdicts(struct gmm__worker *worker, const struct gmm__region *region, enum gmm__wire_type type,
			 struct gmm__wire_finding *findings, uint32_t n)
{
	struct gmm__remote *remote = worker->gmm->remote;
	struct gmm__wire_verdict verdicts[GMM__WIRE_REGION_PAGES];
	struct gmm__wire_region request = head(type, region, n);
	struct iovec parts[2] = { { &request, sizeof request }, { findings, n * sizeof *findings } };
	size_t size;

	memset(worker->verdict, 0, region->count * sizeof *worker->verdict);
	if (gmm__remote_ask(remote, parts, 2, &size, NULL) != GMM_OK)
		return false;
	int got = copy_verdicts(remote, size, verdicts);
	for (int i = 0; i < got; i++) {
		if (verdicts[i].index >= region->count || !take_verdict(worker, region, &verdicts[i])) {
			gmm__remote_disconnect(remote, "a verdict that makes no sense");
			return false;
		}
	}
	return got >= 0;
}

/* ---- promoting ---------------------------------------------------------------------------------------------------- */

/* Pages of a region on their way into the pool. */
struct promotion {
	uint32_t n;
	uint32_t index[GMM__WIRE_PROMOTE_PAGES];
};

/* The next pages with verdict PROMOTE from *at on: copies their bytes while the guest runs, since what is mapped later is
 * compared. False when the slot is gone. */
static bool gather(struct gmm__worker *worker, const struct gmm__region *region, uint32_t *at, struct promotion *ret)
{
	struct gmm__slot *slot = region->slot;

	if (!gmm__vm_claim(slot->vm, false))
		return false;
	bool here = !slot->dead;
	for (ret->n = 0; here && *at < region->count && ret->n < GMM__WIRE_PROMOTE_PAGES; ++*at) {
		if (worker->verdict[*at].kind != GMM__VERDICT_PROMOTE)
			continue;
		worker->verdict[*at].kind = GMM__VERDICT_NONE;
		if (gmm__slot_state(slot, region->first + *at) != GMM_PAGE_NOMINATED)
			continue;
		memcpy(worker->gmm->remote->pages + (size_t)ret->n * GMM__PAGE_BYTES,
		       worker->backend->bytes(slot, region->first + *at), GMM__PAGE_BYTES);
		ret->index[ret->n++] = *at;
	}
	gmm__vm_release(slot->vm);
	return here;
}

static bool send_pages(struct gmm__worker *worker, const struct gmm__region *region, const struct promotion *p,
		       gmm__page_id *ret_page)
{
	struct gmm__remote *remote = worker->gmm->remote;
	struct gmm__wire_region request = head(GMM__WIRE_PROMOTE, region, p->n);
	uint32_t index[GMM__WIRE_PROMOTE_PAGES] = { 0 };
	struct iovec parts[3] = { { &request, sizeof request }, { index, (p->n + 1) / 2 * 8 },
				  { remote->pages, (size_t)p->n * GMM__PAGE_BYTES } };
	const struct gmm__wire_region *reply = (const void *)remote->buf;
	size_t size;

	memcpy(index, p->index, p->n * sizeof *index);
	if (gmm__remote_ask(remote, parts, 3, &size, NULL) != GMM_OK)
		return false;
	if (size < sizeof *reply || reply->n != p->n || !gmm__wire_fits(size, sizeof *reply, p->n, sizeof *ret_page)) {
		gmm__remote_disconnect(remote, "page ids of the wrong size");
		return false;
	}
	memcpy(ret_page, reply + 1, p->n * sizeof *ret_page);
	return true;
}

/* Turns PROMOTE verdicts into JOIN of the pages that the service made of them. A page that changed meanwhile is none: it
 * stays nominated and is offered again. */
static bool promote(struct gmm__worker *worker, const struct gmm__region *region)
{
	gmm__page_id page[GMM__WIRE_PROMOTE_PAGES];
	struct promotion p = { .n = 1 };

	for (uint32_t at = 0; p.n > 0;) {
		if (!gather(worker, region, &at, &p))
			return false;
		if (p.n > 0 && !send_pages(worker, region, &p, page))
			return false;
		for (uint32_t i = 0; i < p.n; i++) {
			if (page[i] == GMM__NIL)
				continue;
			if (!join_is_valid(worker, region, page[i])) {
				gmm__remote_disconnect(worker->gmm->remote, "a page of no chunk");
				return false;
			}
			worker->verdict[p.index[i]].kind = GMM__VERDICT_JOIN;
			worker->verdict[p.index[i]].page = page[i];
		}
	}
	return true;
}

/* ---- a region ------------------------------------------------------------------------------------------------------- */

/* Offers what was found and brings pages that are to be merged into NOMINATED. False: nothing to be merged now. */
static bool judge(struct gmm__worker *worker, const struct gmm__region *region, struct gmm__progress *progress)
{
	struct gmm__wire_finding findings[GMM__WIRE_REGION_PAGES];
	struct gmm_vm *vm = region->slot->vm;
	uint32_t n = 0;

	if (!gmm__vm_claim(vm, false))
		return false;
	if (!region->slot->dead) {
		gmm__scan_confirm(worker->backend, region, worker->gmm->remote->finding);
		gmm__account_findings(region, worker->gmm->remote->finding, progress);
		for (uint32_t i = 0; i < region->count; i++)
			n += make_finding(worker, region, i, &findings[n]);
	}
	gmm__vm_release(vm);
	if (n == 0 || !ask_verdicts(worker, region, GMM__WIRE_OFFER, findings, n) || !gmm__vm_claim(vm, false))
		return false;
	bool here = !region->slot->dead;
	if (here) {
		gmm__account_verdicts(region, worker->verdict, progress);
		gmm__process_exclude_foreign(worker, region);
	}
	gmm__vm_release(vm);
	return here && promote(worker, region);
}

/* Asks for shared pages that broken pages are equal to again, and shares those. */
static void repair(struct gmm__worker *worker, const struct gmm__merge *merge)
{
	const struct gmm__region *region = merge->region;
	const struct gmm__slot *slot = region->slot;
	struct gmm__wire_finding findings[GMM__WIRE_REGION_PAGES];
	uint8_t is[GMM__REGION_PAGES] = { 0 };
	uint32_t n = 0;

	/* Before anything is read and asked for in vain; what comes back is looked at anew. */
	if (!gmm__repair_is_allowed(merge) || !gmm__vm_claim(slot->vm, false))
		return;
	if (!slot->dead)
		gmm__repair_find_copies(merge, is);
	for (uint32_t i = 0; i < region->count; i++) {
		uint8_t byte = gmm__slot_byte(slot, region->first + i);
		if (!is[i] || (byte & GMM__STATE_MASK) != GMM_PAGE_BROKEN || byte & GMM__FLAGS_REFUSED)
			continue;
		struct gmm__digest digest = gmm__digest_whole(worker->backend->bytes(slot, region->first + i),
							      &merge->catalog->secret);
		if (digest.kind != GMM__DIGEST_ZERO)
			findings[n++] = (struct gmm__wire_finding){
				(uint16_t)i, digest.kind == GMM__DIGEST_FILL ? GMM__FOUND_FILL : GMM__FOUND_OTHER, 0,
				digest.fingerprint, digest.word };
	}
	gmm__vm_release(slot->vm);
	if (n > 0 && ask_verdicts(worker, region, GMM__WIRE_RESHARE, findings, n))
		gmm__repair_region(merge);
}

/* The slot is up to date at the service when we leave the region, also if it is about to be removed: what was mapped in it
 * is so until that is done, and our next OFFER ends what is still pending. */
static void commit(struct gmm__remote *remote, const struct gmm__region *region)
{
	if (remote->socket >= 0 &&
	    !gmm__remote_commit(remote, region->slot, region->first, region->count))
		region->slot->stale = true;
}

void gmm__remote_region(struct gmm__worker *worker)
{
	const struct gmm__region *region = &worker->job.region;
	struct gmm__remote *remote = worker->gmm->remote;
	const struct gmm__merge merge = gmm__process_merge(worker, region);

	if (!region->slot->remote) /* the service has no room for it */
		return;
	remote->finding = worker->job.finding;
	if (region->slot->stale)
		commit(remote, region); /* the slot stays stale: its other regions may be */
	if (judge(worker, region, &worker->progress))
		gmm__process_merge_runs(worker, &merge);
	gmm__process_huge(worker, &merge);
	if (worker->job.options.repair)
		repair(worker, &merge);
	gmm__worker_flush(worker);
	commit(remote, region);
}

void gmm__remote_hinted(const struct gmm__merge *errand, const struct gmm__region *region,
			struct gmm__finding *finding)
{
	struct gmm__worker *worker = errand->worker;
	struct gmm__remote *remote = worker->gmm->remote;
	struct gmm__merge merge = *errand;

	if (!region->slot->remote)
		return;
	merge.region = region;
	merge.catalog = region->slot->vm->domain->catalog;
	merge.verdict = worker->verdict;
	merge.nominations = &worker->nominations;
	merge.hinted = false; /* the service has promoted what had to be */
	remote->finding = finding;
	if (region->slot->stale)
		commit(remote, region);
	if (judge(worker, region, merge.progress))
		gmm__merge_runs(&merge, worker->run, gmm__plan_runs(worker->verdict, region, false, worker->run));
	gmm__worker_flush(worker);
	commit(remote, region);
}
