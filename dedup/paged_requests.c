/* Requests to paged VMs; see paged_requests.h. */
#include "dedup/paged_requests.h"

#include <gmm/pages.h>

#include "gmm/paged.h"

/* ---- the switch --------------------------------------------------------------------------------------------------- */

/* Others find the page from now on. The VM has a reference to it. */
static void publish(struct gmm__catalog *catalog, gmm__page_id shared, uint32_t fingerprint)
{
	const uint8_t *bytes = gmm__pool_bytes(catalog->pool, shared);

	/* Only what it can be found by when it goes. */
	if (gmm__digest_whole(bytes, &catalog->secret).fingerprint != fingerprint)
		fingerprint = gmm__digest_sample(bytes, &catalog->secret).fingerprint;
	gmm__catalog_publish(catalog, fingerprint, shared);
}

/* A page that was written since its twin was found is of no use to others. */
static bool is_as_asked(const struct gmm__catalog *catalog, const struct gmm__request *request, const uint8_t *bytes)
{
	return gmm__digest_whole(bytes, &catalog->secret).fingerprint == request->whole;
}

static bool is_zero(const uint8_t *bytes)
{
	return bytes[0] == 0 && gmm__digest_is_fill(bytes) && *(const uint64_t *)(const void *)bytes == 0;
}

/* With the VM's lock, between the answer and its outcome: nothing writes to the page. Switches the accounts if there is a page
 * to take its place. */
static bool try_switch(struct gmm__paged *paged, struct gmm__request *request)
{
	struct gmm__catalog *catalog = paged->vm->domain->catalog;
	struct gmm__private_chunk *chunk = NULL;
	bool joined = false;

	if (gmm__paged_find_sharable(paged, request->page, &chunk) != GMM_OK ||
	    chunk->record[gmm__page_index(request->page)].pfn != request->pfn)
		return false; /* freed, or used elsewhere, since it was asked for */
	const uint8_t *bytes = gmm__private_bytes(chunk, gmm__page_index(request->page));
	if (is_zero(bytes)) {
		gmm__paged_hollow(paged, chunk, request->page);
		request->shared = GMM__NIL;
		return true;
	}
	request->shared = gmm__paged_lookup_shared(catalog, bytes);
	if (request->shared != GMM__NIL)
		return gmm__paged_join_to(paged, chunk, request->page, request->shared, true, &joined) == GMM_OK && joined;
	if (request->twin == GMM__NIL || !is_as_asked(catalog, request, bytes) ||
	    gmm__paged_promote(paged, chunk, request->page, true, &request->shared) != GMM_OK)
		return false;
	publish(catalog, request->shared, request->fingerprint);
	return true;
}

static struct gmm_request public_of(const struct gmm__request *request, enum gmm_request_kind kind)
{
	bool new_page = kind == GMM_REQUEST_UPDATE || kind == GMM_REQUEST_MOVE;

	return (struct gmm_request){ .id = request->id, .kind = kind, .page = request->page,
				     .shared_page = new_page ? request->shared : GMM__NIL,
				     .guest_addr = request->pfn <= GMM__PFN_MAX ? (uint64_t)request->pfn * GMM__PAGE_BYTES :
										  GMM_GUEST_NIL };
}

/* A page that changed is to be quiet anew. */
static void forget_digest(struct gmm__paged *paged, gmm__page_id page)
{
	struct gmm__private_chunk *chunk;

	paged->counters.changed++;
	if (gmm__paged_find(paged, page, &chunk) != GMM_OK)
		return;
	struct gmm__private_record r = chunk->record[gmm__page_index(page)];
	r.known = false;
	gmm__record_set(&chunk->record[gmm__page_index(page)], r);
	gmm__private_chunk_wake(chunk);
}

/* The answer to a CHECK. Returns the twin of a page that was promoted, or NIL. */
static gmm__page_id answer_check(struct gmm__paged *paged, struct gmm__request *request, enum gmm_answer answer,
				 struct gmm_request *outcome)
{
	*outcome = public_of(request, GMM_REQUEST_CANCEL);
	if (answer == GMM_ANSWER_ACCEPTED) {
		uint64_t promoted = paged->counters.promoted;
		paged->counters.accepted++;
		if (try_switch(paged, request)) {
			request->state = GMM__REQUEST_SWITCHED;
			*outcome = public_of(request, GMM_REQUEST_UPDATE);
			return paged->counters.promoted != promoted ? request->twin : GMM__NIL;
		}
	}
	if (answer == GMM_ANSWER_BUSY)
		paged->counters.busy++;
	else
		forget_digest(paged, request->page);
	gmm__request_end(paged, request);
	return GMM__NIL;
}

/* ---- moves -------------------------------------------------------------------------------------------------------- */

/* A copy elsewhere for a VM that answered so late that the proposed page is gone. With its lock; NIL: there is no room. */
static gmm__page_id new_copy(struct gmm__paged *paged, gmm__page_id page)
{
	struct gmm__pool *pool = &paged->vm->domain->pool;
	gmm__page_id to;

	if (!gmm__tally_count(&paged->references, page) || !gmm__pool_reserve_row(pool, 1, false, &to))
		return GMM__NIL;
	struct iovec bytes = { (void *)(uintptr_t)gmm__pool_bytes(pool, page), GMM__PAGE_BYTES };
	if (gmm__page_chunk(to) != gmm__page_chunk(page) && gmm__pool_fill(pool, to, &bytes, 1) == 0)
		return to;
	gmm__pool_drop(pool, to, 1, GMM__DROP_UNFILLED);
	return GMM__NIL;
}

static bool try_move(struct gmm__paged *paged, struct gmm__request *request)
{
	/* Its table may come to name the page just now, or does since it was looked through. */
	if (request->overtaken || gmm__request_names(paged, request->page))
		return false;
	bool moved = gmm__paged_move(paged, request->page, request->shared);
	if (!moved) {
		gmm__page_id to = new_copy(paged, request->page);
		if (to == GMM__NIL)
			return false;
		moved = gmm__paged_move(paged, request->page, to);
		gmm__pool_drop(&paged->vm->domain->pool, to, 1, GMM__DROP_REFERENCE);
		request->shared = to;
	}
	if (moved)
		gmm__catalog_relist(paged->vm->domain->catalog, request->page, request->shared);
	return moved;
}

static void answer_move(struct gmm__paged *paged, struct gmm__request *request, enum gmm_answer answer,
			struct gmm_request *outcome)
{
	*outcome = public_of(request, GMM_REQUEST_CANCEL);
	if (answer == GMM_ANSWER_ACCEPTED && try_move(paged, request)) {
		paged->counters.accepted++;
		request->state = GMM__REQUEST_MOVED;
		*outcome = public_of(request, GMM_REQUEST_UPDATE);
		return;
	}
	*(answer == GMM_ANSWER_BUSY ? &paged->counters.busy : &paged->counters.changed) += 1;
	gmm__request_end(paged, request);
}

/* ---- answers ------------------------------------------------------------------------------------------------------ */

/* Takes an answer for a request in that state. A gmm_status. */
static int take_answer(struct gmm_vm *vm, uint64_t id, enum gmm__request_state state, enum gmm_answer answer,
		       struct gmm_request *ret_outcome)
{
	struct gmm_request outcome = { 0 };
	gmm__page_id twin = GMM__NIL;

	int status = gmm__paged_enter(vm);
	if (status != GMM_OK)
		return status;
	struct gmm__request *request = gmm__request_find(vm->paged, id);
	if (!request || (state != GMM__REQUEST_NONE && request->state != state)) {
		status = GMM_ERR_NOT_FOUND;
	} else if (request->state == GMM__REQUEST_ASKED) {
		twin = answer_check(vm->paged, request, answer, &outcome);
	} else if (request->state == GMM__REQUEST_PROPOSED) {
		answer_move(vm->paged, request, answer, &outcome);
	} else if (answer == GMM_ANSWER_ACCEPTED) {
		outcome = public_of(request, GMM_REQUEST_CANCEL);
		gmm__request_end(vm->paged, request);
	} else {
		status = GMM_ERR_INVALID_PARAMETER;
	}
	gmm__paged_leave(vm, status);
	if (twin != GMM__NIL)
		gmm__paged_lookup_nominate(vm, twin);
	if (status == GMM_OK)
		*ret_outcome = outcome;
	return status;
}

/* ---- the engine asks --------------------------------------------------------------------------------------------- */

struct callback {
	gmm_request_fn *fn;
	void *arg;
};

static bool new_request(struct gmm_vm *vm, gmm__page_id page, const struct gmm__equal *equal,
			struct gmm_request *ret_request, struct callback *ret_callback)
{
	struct gmm__private_chunk *chunk = NULL;
	struct gmm__request *request = NULL;

	if (gmm__paged_enter(vm) != GMM_OK)
		return false;
	if (!vm->dead && gmm__paged_find_sharable(vm->paged, page, &chunk) == GMM_OK) {
		uint32_t pfn = chunk->record[gmm__page_index(page)].pfn;
		request = pfn <= GMM__PFN_MAX ? gmm__request_new(vm->paged, page, pfn) : NULL;
	}
	if (request) {
		request->twin = equal->found ? equal->twin : GMM__NIL;
		request->fingerprint = equal->fingerprint;
		request->whole = equal->whole;
		*ret_request = public_of(request, GMM_REQUEST_CHECK);
		*ret_callback = (struct callback){ vm->paged->requests.fn, vm->paged->requests.arg };
	}
	gmm__paged_leave(vm, GMM_OK);
	return request != NULL;
}

/* Asks, and carries out what is answered at once. */
static bool ask(struct gmm_vm *vm, const struct gmm_request *request, struct callback tell, enum gmm__request_state asked,
		enum gmm__request_state switched)
{
	struct gmm_request outcome;

	enum gmm_answer answer = tell.fn(tell.arg, vm, request);
	if (answer == GMM_ANSWER_LATER)
		return false;
	if ((unsigned)answer > GMM_ANSWER_LATER)
		answer = GMM_ANSWER_BUSY;
	/* It may have been answered by another thread meanwhile. */
	if (take_answer(vm, request->id, asked, answer, &outcome) != GMM_OK || answer != GMM_ANSWER_ACCEPTED)
		return false;
	bool done = outcome.kind == GMM_REQUEST_UPDATE;
	answer = tell.fn(tell.arg, vm, &outcome);
	if (done && answer == GMM_ANSWER_ACCEPTED)
		take_answer(vm, request->id, switched, GMM_ANSWER_ACCEPTED, &outcome);
	return done;
}

bool gmm__paged_ask(struct gmm_vm *vm, gmm__page_id page, const struct gmm__equal *equal)
{
	struct gmm_request request;
	struct callback tell;

	return new_request(vm, page, equal, &request, &tell) &&
	       ask(vm, &request, tell, GMM__REQUEST_ASKED, GMM__REQUEST_SWITCHED);
}

/* False: it cannot be asked. *ret_used: whether it uses the page at all. */
static bool new_move(struct gmm_vm *vm, gmm__page_id page, gmm__page_id to, struct gmm_request *ret_request,
		     struct callback *ret_callback, bool *ret_used)
{
	if (gmm__paged_enter(vm) != GMM_OK)
		return false;
	*ret_used = gmm__tally_count(&vm->paged->references, page) > 0;
	struct gmm__request *request = *ret_used ? gmm__request_new(vm->paged, page, GMM__PFN_UNKNOWN) : NULL;
	if (request) {
		request->state = GMM__REQUEST_PROPOSED;
		request->shared = to;
		*ret_request = public_of(request, GMM_REQUEST_MOVE);
		*ret_callback = (struct callback){ vm->paged->requests.fn, vm->paged->requests.arg };
	}
	gmm__paged_leave(vm, GMM_OK);
	return request != NULL;
}

bool gmm__paged_propose(struct gmm_vm *vm, gmm__page_id page, gmm__page_id to)
{
	struct gmm_request request;
	struct callback tell;
	bool used = true;

	if (new_move(vm, page, to, &request, &tell, &used))
		return ask(vm, &request, tell, GMM__REQUEST_PROPOSED, GMM__REQUEST_MOVED);
	return !used;
}

void gmm__paged_flush(struct gmm_vm *vm)
{
	const struct gmm_request flush = { .kind = GMM_REQUEST_FLUSH, .guest_addr = GMM_GUEST_NIL };

	if (gmm__paged_enter(vm) != GMM_OK)
		return;
	struct callback tell = { vm->paged->requests.fn, vm->paged->requests.arg };
	gmm__paged_leave(vm, GMM_OK);
	if (tell.fn)
		tell.fn(tell.arg, vm, &flush);
}

/* ---- public calls ------------------------------------------------------------------------------------------------- */

void gmm_paged_options_init(struct gmm_paged_options *options)
{
	*options = (struct gmm_paged_options){ .struct_size = sizeof *options, .max_pending = 64 };
}

int gmm_paged_set_options(struct gmm_vm *vm, const struct gmm_paged_options *options)
{
	if (!options || options->struct_size != sizeof *options || options->max_pending == 0 ||
	    options->max_pending > GMM__REQUESTS_MAX)
		return GMM_ERR_INVALID_PARAMETER;
	int status = gmm__paged_enter_unreserved(vm);
	return status == GMM_OK ? gmm__paged_leave(vm, gmm__requests_set(vm->paged, options)) : status;
}

int gmm_paged_answer(struct gmm_vm *vm, uint64_t id, enum gmm_answer answer, struct gmm_request *ret_outcome)
{
	if (!ret_outcome || (unsigned)answer >= GMM_ANSWER_LATER)
		return GMM_ERR_INVALID_PARAMETER;
	return take_answer(vm, id, GMM__REQUEST_NONE, answer, ret_outcome);
}
