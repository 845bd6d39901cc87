/* Scan stage: asks the pagemap which pages were written, and arms only those.
 *
 * The scan itself arms nothing: a scan that write-protects would make a running guest refault the whole range.
 * What was written is armed before it is digested, so that a write after that is seen by the next scan. Huge
 * pages are never armed: the first write would split them.
 */
#include "dedup/scan.h"

#include <string.h>

#include "dedup/digest.h"
#include "dedup/huge.h"
#include "dedup/stretch.h"
#include "gmm/vm.h"

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

/* A scan of a region. The findings are cleared when the first is found. */
struct scan {
	const struct gmm__backend *backend;
	const struct gmm__region *region;
	const struct gmm__heat_clock *clock;
	struct gmm__finding *finding;
	int found;       /* so many findings */
	uint32_t unripe; /* pages unwritten, but not for long enough */
};

static uint32_t heat_of(const struct scan *s, uint32_t i, enum gmm_page_state state)
{
	if (state == GMM_PAGE_VOLATILE)
		return __atomic_load_n(&s->region->slot->value[s->region->first + i], __ATOMIC_RELAXED);
	return gmm__state_is_candidate(state) || state == GMM_PAGE_RACED ? GMM__HEAT_KNOWN : GMM__HEAT_NEW;
}

static bool is_unripe(const struct scan *s, uint32_t i, uint8_t state_byte)
{
	enum gmm_page_state state = state_byte & GMM__STATE_MASK;

	return state == GMM_PAGE_VOLATILE && !gmm__heat_is_quiet(heat_of(s, i, state), s->clock);
}

/* What pages need that were not found written. */
static uint8_t needs_of_region(struct scan *s)
{
	uint8_t needs = 0;

	for (uint32_t i = 0; i < s->region->count; i++) {
		uint8_t state = gmm__slot_byte(s->region->slot, s->region->first + i);
		if (s->found > 0 && s->finding[i].found != GMM__FOUND_NOTHING)
			continue;
		if (is_unripe(s, i, state))
			s->unripe++;
		else
			needs |= needs_of(state);
	}
	return needs;
}

bool gmm__scan_waits(const struct gmm__region *region)
{
	bool waits = false;

	for (uint32_t i = 0; i < region->count && !waits; i++)
		waits = needs_of(gmm__slot_byte(region->slot, region->first + i)) & NEED_MERGE;
	return waits;
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
	if (state == GMM_PAGE_UNIQUE)
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

/* Pages that are written all the time are not armed. Those that rest already are found at the end to be as they were. */
static void judge_heat(struct scan *s)
{
	for (uint32_t i = 0; i < s->region->count; i++) {
		struct gmm__finding *finding = &s->finding[i];
		if (finding->found != GMM__FOUND_WRITTEN)
			continue;
		finding->fingerprint = heat_of(s, i, gmm__slot_byte(s->region->slot, s->region->first + i) & GMM__STATE_MASK);
		finding->step = gmm__heat_written(&finding->fingerprint, s->clock);
	}
}

static void arm_written(const struct scan *s)
{
	const struct gmm__region *region = s->region;

	for (uint32_t i = 0; i < region->count; i++) {
		uint32_t n = 0;
		while (i + n < region->count && s->finding[i + n].found == GMM__FOUND_WRITTEN &&
		       s->finding[i + n].step == GMM__HEAT_ARM)
			n++;
		if (n > 0) /* not armed: it counts as written again */
			s->backend->arm(region->slot, region->first + i, n);
		i += n;
	}
}

/* What is said of written pages: without a window those that are new are due at once. */
static void settle_written(struct scan *s, bool no_window)
{
	for (uint32_t i = 0; s->found > 0 && i < s->region->count; i++) {
		struct gmm__finding *finding = &s->finding[i];
		if (finding->found != GMM__FOUND_WRITTEN)
			continue;
		if (finding->step == GMM__HEAT_RESTING) {
			*finding = (struct gmm__finding){ .found = GMM__FOUND_NOTHING };
			s->found--;
		} else if (no_window && finding->step == GMM__HEAT_ARM && gmm__heat_is_quiet(finding->fingerprint, s->clock)) {
			*finding = (struct gmm__finding){ .found = GMM__FOUND_DUE, .written = true };
		}
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

/* Whether the page's answer counts: its state needs it, and nothing was found of it before. */
static bool is_asked(const struct scan *s, const struct question *question, uint32_t i)
{
	uint8_t state = gmm__slot_byte(s->region->slot, s->region->first + i);

	return needs_of(state) & question->needs && !is_unripe(s, i, state) &&
	       (s->found == 0 || s->finding[i].found == GMM__FOUND_NOTHING);
}

/* Asks about the pages that can get an answer that counts. How many ranges there are, or a negative errno. */
static int ask(const struct scan *s, const struct question *question, uint8_t *ret_is)
{
	const struct gmm__region *region = s->region;
	uint8_t asked[GMM__REGION_PAGES];
	struct gmm__stretch at = { 0 };
	int answers = 0;

	if (!question->needs)
		return s->backend->scan(region->slot, region->first, region->count, &question->filter, ret_is);
	for (uint32_t i = 0; i < region->count; i++)
		asked[i] = is_asked(s, question, i);
	while (answers >= 0 && gmm__stretch_next(asked, region->count, &at)) {
		int rc = s->backend->scan(region->slot, region->first + at.first, at.count, &question->filter,
					  ret_is + at.first);
		answers = rc < 0 ? rc : answers + rc;
	}
	return answers;
}

/* Adds to the findings. 0 or a negative errno. */
static int put(struct scan *s, const struct question *question)
{
	const struct gmm__region *region = s->region;
	uint8_t is[GMM__REGION_PAGES] = { 0 };
	int rc = ask(s, question, is);

	if (rc < 0 || (rc == 0 && !question->needs))
		return rc < 0 ? rc : 0;
	if (s->found == 0)
		memset(s->finding, 0, region->count * sizeof *s->finding);
	for (uint32_t i = 0; i < region->count; i++) {
		if (s->finding[i].found != GMM__FOUND_NOTHING || !(question->needs ? is_asked(s, question, i) : is[i]))
			continue;
		s->finding[i].found = question->judge(is[i], gmm__slot_byte(region->slot, region->first + i));
		s->found += s->finding[i].found != GMM__FOUND_NOTHING;
	}
	return 0;
}

/* Adds pages of huge pages whose turn to be sampled it is, as put does. Whether they are there still is asked first. */
static int put_samples(struct scan *s, uint32_t phase)
{
	static const struct gmm__scan_filter whole = { GMM__IS_PRESENT | GMM__IS_HUGE | GMM__IS_WPALLOWED, 0, 0 };
	const struct gmm__region *region = s->region;
	uint8_t is[GMM__REGION_PAGES] = { 0 };
	int rc = s->backend->scan(region->slot, region->first, region->count, &whole, is);

	if (rc <= 0)
		return rc;
	if (s->found == 0)
		memset(s->finding, 0, region->count * sizeof *s->finding);
	for (uint32_t i = 0; i < region->count; i++) {
		uint8_t state = gmm__slot_byte(region->slot, region->first + i);
		if (!is[i] || !(needs_of(state) & NEED_SAMPLE) || s->finding[i].found != GMM__FOUND_NOTHING ||
		    (region->first + i) % GMM__HUGE_ROUND != phase - 1)
			continue;
		s->finding[i].found = GMM__FOUND_SAMPLE;
		s->found++;
	}
	return 0;
}

/* Asks what the states of the region's pages need to know. */
static int put_needed(struct scan *s, uint8_t needs, const struct gmm__scan_options *options)
{
	int rc = 0;

	if (options->survey)
		rc = put(s, &survey);
	else if (needs & NEED_LOOK)
		rc = put(s, &clean);
	if (rc == 0 && (options->survey || (options->covers && needs & NEED_COVER)))
		rc = put(s, &untracked);
	if (rc == 0 && options->huge_phase && needs & NEED_SAMPLE)
		rc = put_samples(s, options->huge_phase);
	return rc;
}

int gmm__scan_region(const struct gmm__backend *backend, const struct gmm__region *region,
		     const struct gmm__scan_options *options, struct gmm__finding *ret_finding, uint32_t *ret_unripe)
{
	struct scan s = { .backend = backend, .region = region, .clock = &options->clock, .finding = ret_finding };
	int rc = put(&s, &written);

	if (rc == 0 && s.found > 0) {
		judge_heat(&s);
		arm_written(&s);
	}
	uint8_t needs = needs_of_region(&s);
	if (rc == 0)
		rc = put_needed(&s, needs, options);
	if (rc < 0)
		return rc;
	settle_written(&s, options->no_window);
	*ret_unripe = s.unripe;
	if (s.found == 0 && needs & (NEED_MERGE | (options->with_budget ? NEED_BUDGET : 0) | (options->repair ? NEED_REPAIR : 0))) {
		memset(ret_finding, 0, region->count * sizeof *ret_finding);
		return 1;
	}
	return s.found;
}

void gmm__scan_read_hot(const struct gmm__backend *backend, const struct gmm__region *region,
			const struct gmm__scan_options *options, struct gmm__finding *finding)
{
	const struct gmm__secret *secret = &region->slot->vm->domain->catalog->secret;

	for (uint32_t i = 0; i < region->count; i++) {
		uint32_t page = region->first + i;
		if (finding[i].found != GMM__FOUND_WRITTEN || finding[i].step != GMM__HEAT_READ)
			continue;
		struct gmm__digest digest = gmm__digest_whole(backend->bytes(region->slot, page), secret);
		if (gmm__heat_read(&finding[i].fingerprint, digest.fingerprint, &options->clock))
			backend->arm(region->slot, page, 1);
	}
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
