/* Giving back the mappings of the shortest runs; see shed.h. */
#include "dedup/shed.h"

#include "dedup/account.h"
#include "dedup/visit.h"

struct survey {
	struct gmm__run_lengths mapped;  /* mappings of the pool */
	struct gmm__run_lengths waiting; /* rows of pages refused for the budget: the runs they would make at best */
};

static uint32_t waiting_span(const struct gmm__slot *slot, uint32_t page)
{
	uint32_t n = 0;

	while (page + n < slot->pages && gmm__slot_state(slot, page + n) == GMM_PAGE_BUDGET)
		n++;
	return n;
}

static void survey_slot(void *arg, struct gmm__slot *slot)
{
	struct survey *survey = arg;

	for (uint32_t page = 0, n; page < slot->pages; page += n ? n : 1) {
		if ((n = waiting_span(slot, page)) > 0)
			gmm__plan_count(&survey->waiting, n);
		else if ((n = gmm__slot_mapping(slot, page, slot->pages)) > 0)
			gmm__plan_count(&survey->mapped, n);
	}
}

/* The level of the shortest mappings, and how many of them to give back; 0: none. */
static uint64_t decide(const struct gmm *gmm, const struct survey *survey, int *ret_level)
{
	uint64_t mappings = gmm->mappings, wanted = 0;
	int level = 0;

	while (level < GMM__RUN_LEVELS && survey->mapped.runs[level] == 0)
		level++;
	*ret_level = level;
	if (level == GMM__RUN_LEVELS)
		return 0;
	if (mappings > gmm->max_mappings)
		return mappings - gmm->max_mappings;
	if (gmm->max_mappings - mappings > gmm->max_mappings / 16) /* they are tried again as it is */
		return 0;
	for (int longer = level + 2; longer < GMM__RUN_LEVELS; longer++)
		wanted += 2u * survey->waiting.runs[longer]; /* a run lies in what it splits: two mappings */
	return wanted;
}

static bool may_go(const struct gmm__slot *slot, uint32_t page, uint32_t count)
{
	for (uint32_t i = page; i < page + count; i++)
		if (slot->state[i] & GMM__FLAGS_REFUSED)
			return false;
	return true;
}

/* Makes the mapping private that begins at the page, if it still is of that level. */
static bool give_back(const struct gmm__backend *backend, struct gmm__slot *slot, uint32_t page, int level)
{
	uint32_t done = 0;

	if (!gmm__vm_claim(slot->vm, false))
		return false;
	uint32_t n = slot->dead ? 0 : gmm__slot_mapping(slot, page, slot->pages);
	if (n > 0 && gmm__plan_level(n) == level && may_go(slot, page, n)) {
		backend->privatise(slot, page, n, &done);
		gmm__account_uncovered(slot, page, done, GMM_PAGE_VOLATILE);
	}
	gmm__vm_release(slot->vm);
	return done > 0;
}

/* What is given back: mappings of a level, up to a limit. */
struct shedding {
	const struct gmm__backend *backend;
	int level;
	uint32_t limit;
	uint32_t mappings; /* given back so far */
};

static void shed_slot(void *arg, struct gmm__slot *slot)
{
	struct shedding *s = arg;

	for (uint32_t page = 0; page < slot->pages && s->mappings < s->limit && !slot->dead && !slot->vm->dead;) {
		uint32_t n = gmm__slot_mapping(slot, page, slot->pages);
		if (n > 0 && gmm__plan_level(n) == s->level)
			s->mappings += give_back(s->backend, slot, page, s->level);
		page += n > 0 ? n : 1;
	}
}

struct gmm__shed gmm__shed_shortest(struct gmm *gmm, const struct gmm__backend *backend)
{
	struct gmm__shed shed = { 0 };
	struct survey survey = { 0 };
	struct shedding s = { .backend = backend };

	if (gmm->options.repair != GMM_REPAIR_PROMISED || gmm__sys_pinned_bytes(gmm__sys_of(gmm)) > 0 ||
	    gmm->mappings + gmm->max_mappings / 16 < gmm->max_mappings)
		return shed;
	gmm__visit_slots(gmm, NULL, survey_slot, &survey);
	uint64_t wanted = decide(gmm, &survey, &s.level);
	s.limit = wanted < GMM__SHED_MAX ? (uint32_t)wanted : GMM__SHED_MAX;
	if (s.limit)
		gmm__visit_slots(gmm, NULL, shed_slot, &s);
	shed.mappings = s.mappings;
	shed.min_run = shed.mappings ? 2u << s.level : 0;
	return shed;
}
