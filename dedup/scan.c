/* Scan stage: asks the pagemap which pages were written, and arms only those.
 *
 * The scan itself arms nothing: a scan that write-protects would make a running guest refault the whole range.
 * What was written is armed before it is digested, so that a write after that is seen by the next scan. Huge
 * pages are never armed: the first write would split them.
 */
#include "dedup/scan.h"

#include <string.h>

#include "dedup/huge.h"
#include "dedup/stretch.h"

/* What a page's state asks of the scan. */
enum need {
	NEED_LOOK = 1,    /* to be looked at though it was not written: its window has passed */
	NEED_SURVEY = 2,  /* to be looked at in a survey */
	NEED_COVER = 4,   /* lies under a mapping of the pool */
	NEED_MERGE = 8,   /* waits for its merge */
	NEED_BUDGET = 16, /* was refused for the mapping budget */
	NEED_REPAIR = 32, /* broken */
	NEED_SAMPLE = 64, /* in a huge page that is judged by samples */
};

static const uint8_t needs_of_state[GMM__STATE_MASK + 1] = {
	[GMM_PAGE_ABSENT] = NEED_SURVEY, [GMM_PAGE_SWAPPED] = NEED_SURVEY, [GMM_PAGE_ZERO] = NEED_SURVEY,
	[GMM_PAGE_FILL] = NEED_COVER, [GMM_PAGE_SHARED] = NEED_COVER, [GMM_PAGE_BROKEN] = NEED_COVER | NEED_REPAIR,
	[GMM_PAGE_UNIQUE] = NEED_SURVEY, [GMM_PAGE_VOLATILE] = NEED_LOOK | NEED_SURVEY,
	[GMM_PAGE_NOMINATED] = NEED_MERGE | NEED_SURVEY, [GMM_PAGE_PINNED] = NEED_SURVEY,
	[GMM_PAGE_HUGE] = NEED_SURVEY | NEED_SAMPLE, [GMM_PAGE_BUDGET] = NEED_BUDGET | NEED_SURVEY,
	[GMM_PAGE_RACED] = NEED_LOOK | NEED_SURVEY, [GMM_PAGE_FOREIGN] = NEED_SURVEY,
};

static uint8_t needs_of(uint8_t state_byte)
{
	return needs_of_state[state_byte & GMM__STATE_MASK] & (state_byte & GMM__FLAGS_REFUSED ? NEED_COVER : 0xff);
}

static uint8_t needs_of_region(const struct gmm__region *region)
{
	uint8_t needs = 0;

	for (uint32_t i = 0; i < region->count; i++)
		needs |= needs_of(gmm__slot_byte(region->slot, region->first + i));
	return needs;
}

bool gmm__scan_waits(const struct gmm__region *region)
{
	return needs_of_region(region) & NEED_MERGE;
}

/* The judges say what a page is by the pagemap's answer (0: it did not pass the filter) and its state.
 *
 * Written since it was armed: */
static enum gmm__found judge_written(uint8_t is, uint8_t state_byte)
{
	enum gmm_page_state state = state_byte & GMM__STATE_MASK;

	if (!is || state_byte & GMM__FLAGS_REFUSED || gmm__state_is_covered(state))
		return GMM__FOUND_NOTHING;
	if (is & GMM__IS_HUGE)
		return state == GMM_PAGE_HUGE ? GMM__FOUND_NOTHING : GMM__FOUND_HUGE;
	if (is & GMM__IS_PFNZERO) /* a hole that was read */
		return GMM__FOUND_NOTHING;
	if (is & GMM__IS_SWAPPED)
		return state == GMM_PAGE_SWAPPED ? GMM__FOUND_NOTHING : GMM__FOUND_SWAPPED;
	return GMM__FOUND_WRITTEN;
}

/* Not written, but its state asks for a look. It is read only if present: reading an absent page would populate it. */
static enum gmm__found judge_clean(uint8_t is, uint8_t state_byte)
{
	enum gmm_page_state state = state_byte & GMM__STATE_MASK;

	if (is & GMM__IS_HUGE)
		return state == GMM_PAGE_HUGE ? GMM__FOUND_NOTHING : GMM__FOUND_HUGE;
	if (is & GMM__IS_SWAPPED)
		return state == GMM_PAGE_SWAPPED ? GMM__FOUND_NOTHING : GMM__FOUND_SWAPPED;
	if (!(is & GMM__IS_PRESENT) || is & GMM__IS_PFNZERO)
		return state == GMM_PAGE_ABSENT || state == GMM_PAGE_ZERO || state == GMM_PAGE_FOREIGN ?
		       GMM__FOUND_NOTHING : GMM__FOUND_ABSENT;
	if (state == GMM_PAGE_NOMINATED || state == GMM_PAGE_BUDGET)
		return GMM__FOUND_NOTHING; /* known already */
	/* Twins miss each other when one was being written, or when only one of them was digested whole. */
	if (state == GMM_PAGE_UNIQUE && !(state_byte & GMM__FLAG_WHOLE))
		return GMM__FOUND_AGAIN;
	return GMM__FOUND_DUE; /* quiet, back from swap, or refused once: try again */
}

/* In a mapping that we do not track: the pool's, or a foreign one. Present and no file page: a guest wrote to it, and the
 * kernel gave it a copy. */
static enum gmm__found judge_untracked(uint8_t is, uint8_t state_byte)
{
	enum gmm_page_state state = state_byte & GMM__STATE_MASK;

	if (!is)
		return GMM__FOUND_NOTHING;
	if (gmm__state_is_shared(state))
		return GMM__FOUND_BROKEN;
	return state == GMM_PAGE_BROKEN || state == GMM_PAGE_FOREIGN || state_byte & GMM__FLAGS_REFUSED ?
	       GMM__FOUND_NOTHING : GMM__FOUND_FOREIGN;
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

/* A question to the pagemap, and who judges the answers. */
struct question {
	struct gmm__scan_filter filter;
	uint8_t needs; /* judge pages whose state needs one of these, whatever the answer; 0: those that pass the filter */
	enum gmm__found (*judge)(uint8_t is, uint8_t state_byte);
};

enum { THERE = GMM__IS_PRESENT | GMM__IS_SWAPPED };

static const struct question written = { { GMM__IS_WRITTEN | GMM__IS_WPALLOWED, 0, THERE }, 0, judge_written };
static const struct question clean = { { GMM__IS_WPALLOWED, 0, THERE }, NEED_LOOK, judge_clean };
static const struct question survey = { { GMM__IS_WPALLOWED, 0, THERE }, NEED_SURVEY, judge_clean };
static const struct question untracked = { { 0, GMM__IS_WPALLOWED | GMM__IS_FILE, THERE }, 0, judge_untracked };

/* Asks about the pages that can get an answer that counts. How many ranges there are, or a negative errno. */
static int ask(const struct question *question, const struct gmm__backend *backend, const struct gmm__region *region,
	       uint8_t *ret_is)
{
	uint8_t asked[GMM__REGION_PAGES];
	struct gmm__stretch at = { 0 };
	int answers = 0;

	if (!question->needs)
		return backend->scan(region->slot, region->first, region->count, &question->filter, ret_is);
	for (uint32_t i = 0; i < region->count; i++)
		asked[i] = needs_of(gmm__slot_byte(region->slot, region->first + i)) & question->needs;
	while (answers >= 0 && gmm__stretch_next(asked, region->count, &at)) {
		int rc = backend->scan(region->slot, region->first + at.first, at.count, &question->filter,
				       ret_is + at.first);
		answers = rc < 0 ? rc : answers + rc;
	}
	return answers;
}

/* Adds to the findings, which are cleared when the first is found. Returns how many there are now, or a negative errno. */
static int put(const struct question *question, const struct gmm__backend *backend, const struct gmm__region *region,
	       int found, struct gmm__finding *finding)
{
	uint8_t is[GMM__REGION_PAGES] = { 0 };
	int rc = ask(question, backend, region, is);

	if (rc < 0 || (rc == 0 && !question->needs))
		return rc < 0 ? rc : found;
	if (found == 0)
		memset(finding, 0, region->count * sizeof *finding);
	for (uint32_t i = 0; i < region->count; i++) {
		uint8_t state = gmm__slot_byte(region->slot, region->first + i);
		if (finding[i].found != GMM__FOUND_NOTHING || !(question->needs ? needs_of(state) & question->needs : is[i]))
			continue;
		finding[i].found = question->judge(is[i], state);
		found += finding[i].found != GMM__FOUND_NOTHING;
	}
	return found;
}

/* Adds pages of huge pages whose turn to be sampled it is, as put does. Whether they are there still is asked first. */
static int put_samples(uint32_t phase, const struct gmm__backend *backend, const struct gmm__region *region, int found,
		       struct gmm__finding *finding)
{
	static const struct gmm__scan_filter whole = { GMM__IS_PRESENT | GMM__IS_HUGE | GMM__IS_WPALLOWED, 0, 0 };
	uint8_t is[GMM__REGION_PAGES] = { 0 };
	int rc = backend->scan(region->slot, region->first, region->count, &whole, is);

	if (rc <= 0)
		return rc < 0 ? rc : found;
	if (found == 0)
		memset(finding, 0, region->count * sizeof *finding);
	for (uint32_t i = 0; i < region->count; i++) {
		uint8_t state = gmm__slot_byte(region->slot, region->first + i);
		if (!is[i] || !(needs_of(state) & NEED_SAMPLE) || finding[i].found != GMM__FOUND_NOTHING ||
		    (region->first + i) % GMM__HUGE_ROUND != phase - 1)
			continue;
		finding[i].found = GMM__FOUND_SAMPLE;
		found++;
	}
	return found;
}

int gmm__scan_region(const struct gmm__backend *backend, const struct gmm__region *region,
		     const struct gmm__scan_options *options, struct gmm__finding *ret_finding)
{
	uint8_t needs = needs_of_region(region);
	int found = put(&written, backend, region, 0, ret_finding);

	if (found > 0)
		arm_written(backend, region, ret_finding);
	if (found >= 0 && options->survey)
		found = put(&survey, backend, region, found, ret_finding);
	else if (found >= 0 && needs & NEED_LOOK)
		found = put(&clean, backend, region, found, ret_finding);
	if (found >= 0 && (options->survey || (options->covers && needs & NEED_COVER)))
		found = put(&untracked, backend, region, found, ret_finding);
	if (found >= 0 && options->huge_phase && needs & NEED_SAMPLE)
		found = put_samples(options->huge_phase, backend, region, found, ret_finding);
	for (uint32_t i = 0; found > 0 && options->no_window && i < region->count; i++)
		if (ret_finding[i].found == GMM__FOUND_WRITTEN)
			ret_finding[i] = (struct gmm__finding){ .found = GMM__FOUND_DUE, .written = true };
	if (found == 0 && needs & (NEED_MERGE | (options->with_budget ? NEED_BUDGET : 0) |
				   (options->repair ? NEED_REPAIR : 0))) {
		memset(ret_finding, 0, region->count * sizeof *ret_finding);
		return 1;
	}
	return found;
}

void gmm__scan_confirm(const struct gmm__backend *backend, const struct gmm__region *region, struct gmm__finding *finding)
{
	uint8_t is[GMM__REGION_PAGES] = { 0 };
	bool any = false;

	for (uint32_t i = 0; i < region->count && !any; i++)
		any = finding[i].found == GMM__FOUND_BROKEN || finding[i].found == GMM__FOUND_FOREIGN;
	if (!any)
		return;
	if (backend->scan(region->slot, region->first, region->count, &untracked.filter, is) < 0)
		memset(is, 0, sizeof is);
	for (uint32_t i = 0; i < region->count; i++)
		if (finding[i].found == GMM__FOUND_BROKEN || finding[i].found == GMM__FOUND_FOREIGN)
			finding[i].found = judge_untracked(is[i], gmm__slot_byte(region->slot, region->first + i));
}
