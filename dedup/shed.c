/* Giving back the mappings of the shortest runs; see shed.h. */
#include "dedup/shed.h"

#include "dedup/account.h"
#include "dedup/visit.h"

/* Levels are logarithms: 2^level to 2^(level + 1) - 1 pages. */
struct survey {
	struct gmm__run_lengths mapped;  /* mappings of the pool */
	struct gmm__run_lengths waiting; /* rows of pages refused for the budget: the runs they would make at best */
};

static int level_of(uint32_t pages)
{
	int level = 31 - __builtin_clz(pages | 1);

	return level < GMM__RUN_LEVELS ? level : GMM__RUN_LEVELS - 1;
}

static uint32_t waiting_span(const struct gmm__slot *slot, uint32_t page)
{
	uint32_t n = 0;

	while (page + n < slot->pages && gmm__slot_state(slot, page + n) == GMM_PAGE_BUDGET)
		n++;
	return n;
}

/* The mapping of the pool that begins at the page; 0 when none does. */
static uint32_t mapping_at(const struct gmm__slot *slot, uint32_t page)
{
	uint32_t n = 0;

	while (page + n < slot->pages && gmm__state_is_covered(gmm__slot_state(slot, page + n)) &&
	       (n == 0 || gmm__page_follows(__atomic_load_n(&slot->value[page + n - 1], __ATOMIC_RELAXED),
					    __atomic_load_n(&slot->value[page + n], __ATOMIC_RELAXED))))
		n++;
	return n;
}

static void survey_slot(struct survey *survey, const struct gmm__slot *slot)
{
	for (uint32_t page = 0, n; page < slot->pages; page += n ? n : 1) {
		if ((n = waiting_span(slot, page)) > 0)
			gmm__plan_count(&survey->waiting, n);
		else if ((n = mapping_at(slot, page)) > 0)
			gmm__plan_count(&survey->mapped, n);
	}
}

static void survey_all(struct gmm *gmm, struct survey *survey)
{
	struct gmm__slot *slot;

	for (struct gmm_vm *vm = gmm__visit_begin(gmm, NULL, 0), *next; vm; vm = next) {
		for (uint64_t from = 0; !vm->dead && (slot = gmm__visit_slot(vm, from)) != NULL; from = slot->gfn + slot->pages)
			survey_slot(survey, slot);
		next = gmm__visit_begin(gmm, NULL, vm->number);
		gmm__visit_end(vm);
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
	uint32_t n = slot->dead ? 0 : mapping_at(slot, page);
	if (n > 0 && level_of(n) == level && may_go(slot, page, n)) {
		backend->privatise(slot, page, n, &done);
		gmm__account_uncovered(slot, page, done, GMM_PAGE_VOLATILE);
	}
	gmm__vm_release(slot->vm);
	return done > 0;
}

static uint32_t shed_slot(const struct gmm__backend *backend, struct gmm__slot *slot, int level, uint32_t limit)
{
	uint32_t shed = 0;

	for (uint32_t page = 0; page < slot->pages && shed < limit && !slot->dead && !slot->vm->dead;) {
		uint32_t n = mapping_at(slot, page);
		if (n > 0 && level_of(n) == level)
			shed += give_back(backend, slot, page, level);
		page += n > 0 ? n : 1;
	}
	return shed;
}

struct gmm__shed gmm__shed_shortest(struct gmm *gmm, const struct gmm__backend *backend)
{
	struct gmm__shed shed = { 0 };
	struct survey survey = { 0 };
	struct gmm__slot *slot;
	int level;

	if (gmm->options.repair != GMM_REPAIR_PROMISED || gmm__sys_pinned_bytes(gmm__sys_of(gmm)) > 0 ||
	    gmm->mappings + gmm->max_mappings / 16 < gmm->max_mappings)
		return shed;
	survey_all(gmm, &survey);
	uint64_t wanted = decide(gmm, &survey, &level);
	uint32_t limit = wanted < GMM__SHED_MAX ? (uint32_t)wanted : GMM__SHED_MAX;
	for (struct gmm_vm *vm = limit ? gmm__visit_begin(gmm, NULL, 0) : NULL, *next; vm; vm = next) {
		for (uint64_t from = 0; !vm->dead && (slot = gmm__visit_slot(vm, from)) != NULL; from = slot->gfn + slot->pages)
			shed.mappings += shed_slot(backend, slot, level, limit - shed.mappings);
		next = gmm__visit_begin(gmm, NULL, vm->number);
		gmm__visit_end(vm);
	}
	shed.min_run = shed.mappings ? 2u << level : 0;
	return shed;
}
