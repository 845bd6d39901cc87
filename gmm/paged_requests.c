/* Requests to a paged VM: the queue of those it has not answered for good. dedup/paged_requests.c asks and judges the answers.
 *
 * A request holds no reference while the VM thinks about it, so a VM that never answers costs an entry of its own queue. Once
 * the accounts are switched it holds one page: parked, or by a reference that is charged to the VM.
 */
#include "gmm/paged.h"

static void free_queue(struct gmm__paged *paged)
{
	struct gmm__requests *q = &paged->requests;

	gmm__mem_free(&paged->vm->gmm->mem, q->request, q->limit * sizeof *q->request);
	q->request = NULL;
	q->limit = q->pending = 0;
}

struct gmm__request *gmm__request_new(struct gmm__paged *paged, gmm__page_id page, uint32_t pfn)
{
	struct gmm__requests *q = &paged->requests;
	struct gmm__request *unused = NULL;

	if (!q->fn || q->pending == q->limit)
		return NULL;
	for (uint32_t i = 0; i < q->limit; i++) {
		if (q->request[i].state == GMM__REQUEST_NONE)
			unused = unused ? unused : &q->request[i];
		else if (q->request[i].page == page)
			return NULL;
	}
	*unused = (struct gmm__request){ .id = ++q->last_id, .state = GMM__REQUEST_ASKED, .pfn = pfn, .page = page };
	q->pending++;
	paged->counters.asked++;
	return unused;
}

struct gmm__request *gmm__request_find(struct gmm__paged *paged, uint64_t id)
{
	struct gmm__requests *q = &paged->requests;

	for (uint32_t i = 0; i < q->limit; i++)
		if (q->request[i].state != GMM__REQUEST_NONE && q->request[i].id == id)
			return &q->request[i];
	return NULL;
}

bool gmm__request_names(const struct gmm__paged *paged, gmm__page_id shared)
{
	const struct gmm__requests *q = &paged->requests;

	for (uint32_t i = 0; i < q->limit; i++) {
		enum gmm__request_state state = q->request[i].state;
		if ((state == GMM__REQUEST_SWITCHED || state == GMM__REQUEST_MOVED) && q->request[i].shared == shared)
			return true;
	}
	return false;
}

void gmm__requests_overtake(struct gmm__paged *paged, gmm__page_id page)
{
	struct gmm__requests *q = &paged->requests;

	for (uint32_t i = 0; i < q->limit; i++)
		if (q->request[i].state == GMM__REQUEST_PROPOSED && q->request[i].page == page)
			q->request[i].overtaken = true;
}

void gmm__request_end(struct gmm__paged *paged, struct gmm__request *request)
{
	if (request->state == GMM__REQUEST_SWITCHED) {
		gmm__paged_unpark(paged, request->page);
	} else if (request->state == GMM__REQUEST_MOVED && gmm__tally_count(&paged->references, request->page)) {
		gmm__paged_unref(paged, request->page); /* unless the VM did that by a call */
		paged->used[GMM_ACCOUNT_BASE]--;
	}
	request->state = GMM__REQUEST_NONE;
	paged->requests.pending--;
}

void gmm__requests_destroy(struct gmm__paged *paged)
{
	struct gmm__requests *q = &paged->requests;

	for (uint32_t i = 0; i < q->limit; i++)
		if (q->request[i].state != GMM__REQUEST_NONE)
			gmm__request_end(paged, &q->request[i]);
	free_queue(paged);
	q->fn = NULL;
}

int gmm__requests_set(struct gmm__paged *paged, const struct gmm_paged_options *options)
{
	struct gmm__requests *q = &paged->requests;
	struct gmm__request *queue = NULL;

	for (uint32_t i = 0; i < q->limit; i++)
		if (q->request[i].state == GMM__REQUEST_SWITCHED || q->request[i].state == GMM__REQUEST_MOVED)
			return GMM_ERR_WRONG_ORDER;
	if (options->request) {
		queue = gmm__mem_alloc(&paged->vm->gmm->mem, options->max_pending * sizeof *queue);
		if (!queue)
			return GMM_ERR_NO_MEMORY;
	}
	free_queue(paged);
	q->fn = options->request;
	q->arg = options->request_arg;
	q->request = queue;
	q->limit = queue ? options->max_pending : 0;
	q->move_level = q->move_rest = 0;
	return GMM_OK;
}
