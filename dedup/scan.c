/* Scan stage: asks the pagemap which pages were written, and arms only those.
 *
 * The scan itself arms nothing: a scan that write-protects would make a running guest refault the whole range.
 * What was written is armed before it is digested, so that a write after that is seen by the next scan. Huge
 * pages are never armed: the first write would split them.
 */
#include "dedup/scan.h"

#include <string.h>

/* What a page that the scan returned as written is, given its state. */
static enum gmm__found judge_written(uint8_t is, uint8_t state_byte)
{
	enum gmm_page_state state = state_byte & GMM__STATE_MASK;

	if (state_byte & GMM__FLAGS_REFUSED)
		return GMM__FOUND_NOTHING;
	if (gmm__state_is_shared(state))
		return GMM__FOUND_BROKEN;
	if (state == GMM_PAGE_BROKEN)
		return GMM__FOUND_NOTHING;
	if (!(is & GMM__IS_WPALLOWED))
		return state == GMM_PAGE_FOREIGN ? GMM__FOUND_NOTHING : GMM__FOUND_FOREIGN;
	if (is & GMM__IS_HUGE)
		return state == GMM_PAGE_HUGE ? GMM__FOUND_NOTHING : GMM__FOUND_HUGE;
	if (is & GMM__IS_PFNZERO) /* a hole that was read */
		return GMM__FOUND_NOTHING;
	if (is & GMM__IS_SWAPPED)
		return state == GMM_PAGE_SWAPPED ? GMM__FOUND_NOTHING : GMM__FOUND_SWAPPED;
	return GMM__FOUND_WRITTEN;
}

/* Not written, but still to be looked at: its window has passed, or it is time to look at all that is not shared. */
static bool needs_look(uint8_t state_byte, bool retry)
{
	enum gmm_page_state state = state_byte & GMM__STATE_MASK;

	if (state_byte & GMM__FLAGS_REFUSED)
		return false;
	if (retry)
		return state != GMM_PAGE_BROKEN && !gmm__state_is_shared(state);
	return state == GMM_PAGE_VOLATILE || state == GMM_PAGE_RACED;
}

/* What a page that was not written is. It is read only if present: reading an absent one would populate it. */
static enum gmm__found judge_clean(uint8_t is, enum gmm_page_state state)
{
	if (is & GMM__IS_HUGE)
		return state == GMM_PAGE_HUGE ? GMM__FOUND_NOTHING : GMM__FOUND_HUGE;
	if (is & GMM__IS_SWAPPED)
		return state == GMM_PAGE_SWAPPED ? GMM__FOUND_NOTHING : GMM__FOUND_SWAPPED;
	if (!(is & GMM__IS_PRESENT) || is & GMM__IS_PFNZERO)
		return state == GMM_PAGE_ABSENT || state == GMM_PAGE_ZERO ? GMM__FOUND_NOTHING : GMM__FOUND_ABSENT;
	switch (state) {
	case GMM_PAGE_ABSENT: /* seen for the first time, or back from swap */
	case GMM_PAGE_ZERO:
	case GMM_PAGE_SWAPPED:
	case GMM_PAGE_VOLATILE:
	case GMM_PAGE_RACED:
	case GMM_PAGE_PINNED:
	case GMM_PAGE_HUGE:
		return GMM__FOUND_DUE;
	default:
		return GMM__FOUND_NOTHING;
	}
}

static void arm_written(const struct gmm__backend *backend, const struct gmm__region *region,
			const struct gmm__finding *finding)
{
	for (uint32_t i = 0; i < region->count; i++) {
		uint32_t n = 0;
		while (i + n < region->count && finding[i + n].found == GMM__FOUND_WRITTEN)
			n++;
		if (n > 0)
			backend->arm(region->slot, region->first + i, n); /* not armed: it counts as written again */
		i += n;
	}
}

static int find_clean(const struct gmm__backend *backend, const struct gmm__region *region, bool retry,
		      struct gmm__finding *finding)
{
	struct gmm__scan_filter here = { .forbid = GMM__IS_FILE, .any = GMM__IS_PRESENT | GMM__IS_SWAPPED };
	uint8_t is[GMM__REGION_PAGES] = { 0 };
	int rc = backend->scan(region->slot, region->first, region->count, &here, is), found = 0;

	if (rc < 0)
		return rc;
	for (uint32_t i = 0; i < region->count; i++) {
		uint8_t byte = region->slot->state[region->first + i];
		if (finding[i].found != GMM__FOUND_NOTHING || !needs_look(byte, retry))
			continue;
		finding[i].found = judge_clean(is[i], byte & GMM__STATE_MASK);
		found += finding[i].found != GMM__FOUND_NOTHING;
	}
	return found;
}

static bool has_covered(const struct gmm__region *region)
{
	for (uint32_t i = 0; i < region->count; i++)
		if (gmm__state_is_covered(gmm__slot_state(region->slot, region->first + i)))
			return true;
	return false;
}

int gmm__scan_region(const struct gmm__backend *backend, const struct gmm__region *region,
		     const struct gmm__scan_options *options, struct gmm__finding *ret_finding)
{
	/* Pages of the pool are file pages, and those that are not are broken. */
	struct gmm__scan_filter written = { .need = GMM__IS_WRITTEN, .any = GMM__IS_PRESENT | GMM__IS_SWAPPED,
					    .forbid = has_covered(region) ? GMM__IS_FILE : 0 };
	uint8_t is[GMM__REGION_PAGES] = { 0 };
	const uint8_t *state = region->slot->state + region->first;
	int rc = backend->scan(region->slot, region->first, region->count, &written, is), found = 0, looks = 0;

	if (rc < 0)
		return rc;
	memset(ret_finding, 0, region->count * sizeof *ret_finding);
	for (uint32_t i = 0; i < region->count; i++) {
		if (is[i])
			ret_finding[i].found = judge_written(is[i], state[i]);
		else
			looks += needs_look(state[i], options->retry);
		found += ret_finding[i].found != GMM__FOUND_NOTHING;
	}
	if (found)
		arm_written(backend, region, ret_finding);
	if (looks) {
		rc = find_clean(backend, region, options->retry, ret_finding);
		if (rc < 0)
			return rc;
		found += rc;
	}
	for (uint32_t i = 0; options->no_window && i < region->count; i++)
		if (ret_finding[i].found == GMM__FOUND_WRITTEN)
			ret_finding[i].found = GMM__FOUND_DUE;
	return found;
}

bool gmm__scan_has_waiting(const struct gmm__region *region, bool with_budget)
{
	for (uint32_t i = 0; i < region->count; i++) {
		enum gmm_page_state state = gmm__slot_state(region->slot, region->first + i);
		if (state == GMM_PAGE_NOMINATED || (with_budget && state == GMM_PAGE_BUDGET))
			return true;
	}
	return false;
}
