/* Handy pages: news of those that were used, and fresh ones, in one call.
 *
 * Everything is checked and the fresh pages are taken before anything of the news is carried out, so that a call that
 * fails changes nothing.
 */
#include <stdlib.h>

#include "gmm/paged.h"

static int compare_ids(const void *a, const void *b)
{
	gmm__page_id left = *(const gmm__page_id *)a, right = *(const gmm__page_id *)b;

	return left < right ? -1 : left > right;
}

/* Each used page is named once. */
static bool pages_differ(uint32_t used, const struct gmm_handy_page *pages)
{
	gmm__page_id sorted[GMM_HANDY_MAX];

	for (uint32_t i = 0; i < used; i++)
		sorted[i] = pages[i].page;
	qsort(sorted, used, sizeof *sorted, compare_ids);
	for (uint32_t i = 1; i < used; i++)
		if (sorted[i] == sorted[i - 1])
			return false;
	return true;
}

/* The VM has as many references to each shared page as are to be dropped. Returns how many are, in *ret_dropped. */
static int check_references(const struct gmm__paged *paged, uint32_t used, const struct gmm_handy_page *pages,
			    uint32_t *ret_dropped)
{
	gmm__page_id sorted[GMM_HANDY_MAX];
	uint32_t n = 0, same = 0;

	for (uint32_t i = 0; i < used; i++) {
		if (pages[i].shared_page == GMM__NIL)
			continue;
		int status = gmm__paged_find_shared(paged, pages[i].shared_page);
		if (status != GMM_OK)
			return status;
		sorted[n++] = pages[i].shared_page;
	}
	qsort(sorted, n, sizeof *sorted, compare_ids);
	for (uint32_t i = 0; i < n; i++) {
		same = i > 0 && sorted[i] == sorted[i - 1] ? same + 1 : 1;
		if (same > gmm__tally_count(&paged->references, sorted[i]))
			return GMM_ERR_NOT_PAGE_OWNER;
	}
	*ret_dropped = n;
	return GMM_OK;
}

static int check_pages(struct gmm__paged *paged, uint32_t used, const struct gmm_handy_page *pages)
{
	struct gmm__private_chunk *chunk;

	for (uint32_t i = 0; i < used; i++) {
		int status = gmm__paged_find(paged, pages[i].page, &chunk);
		if (status != GMM_OK)
			return status;
		if (chunk->large)
			return GMM_ERR_PAGE_NOT_FOUND;
	}
	return GMM_OK;
}

static void carry_out(struct gmm__paged *paged, uint32_t used, const struct gmm_handy_page *pages)
{
	for (uint32_t i = 0; i < used; i++) {
		struct gmm__private_chunk *chunk;
		uint32_t index = gmm__page_index(pages[i].page), pfn = GMM__PFN_UNKNOWN;
		if (gmm__paged_find(paged, pages[i].page, &chunk) == GMM_OK && pages[i].guest_addr != GMM_GUEST_NIL) {
			struct gmm__private_record r = chunk->record[index];
			gmm__paged_pfn(pages[i].guest_addr, &pfn);
			r.pfn = pfn;
			gmm__record_set(&chunk->record[index], r);
			gmm__private_chunk_wake(chunk);
		}
		if (pages[i].shared_page == GMM__NIL)
			continue;
		gmm__paged_unref(paged, pages[i].shared_page);
		paged->used[GMM_ACCOUNT_BASE]--;
		paged->counters.broken++;
	}
}

static int refill(struct gmm__paged *paged, uint32_t used, uint32_t wanted, struct gmm_handy_page *pages)
{
	gmm__page_id fresh[GMM_HANDY_MAX];
	uint32_t dropped;

	int status = check_pages(paged, used, pages);
	if (status == GMM_OK)
		status = check_references(paged, used, pages, &dropped);
	if (status == GMM_OK && wanted)
		status = gmm__paged_admit(paged, GMM_ACCOUNT_BASE, wanted, dropped);
	if (status != GMM_OK)
		return status;
	if (wanted && (status = gmm__paged_take(paged, wanted, NULL, fresh)) != GMM_OK) {
		gmm__paged_uncharge(paged, wanted);
		paged->counters.declined++;
		return status;
	}
	carry_out(paged, used, pages);
	paged->used[GMM_ACCOUNT_BASE] += wanted;
	paged->counters.refills += wanted > 0;
	for (uint32_t i = 0; i < used || i < wanted; i++)
		pages[i] = (struct gmm_handy_page){ .guest_addr = GMM_GUEST_NIL, .page = i < wanted ? fresh[i] : GMM__NIL };
	return GMM_OK;
}

int gmm_vm_refill_handy_pages(struct gmm_vm *vm, uint32_t used, uint32_t wanted, struct gmm_handy_page *pages)
{
	uint32_t pfn;

	if (!pages || used > GMM_HANDY_MAX || wanted > GMM_HANDY_MAX || (used == 0 && wanted == 0))
		return GMM_ERR_INVALID_PARAMETER;
	for (uint32_t i = 0; i < used; i++)
		if (!gmm__paged_pfn(pages[i].guest_addr, &pfn))
			return GMM_ERR_INVALID_PARAMETER;
	if (!pages_differ(used, pages))
		return GMM_ERR_INVALID_PARAMETER;
	int status = gmm__paged_enter(vm);
	return status == GMM_OK ? gmm__paged_leave(vm, refill(vm->paged, used, wanted, pages)) : status;
}
