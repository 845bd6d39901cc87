/* Profit: the account of a VM, and the rule by which it is left alone. */
#include "dedup/profit.h"

#include "dedup/remote.h"

enum { JUDGE_PASSES = 16, LOSSES = 2, REST_PASSES = 64, REST_PASSES_MAX = 1024, LOSS_BYTES = 1 << 20 };

bool gmm__profit_visit(struct gmm__vm_profit *profit, bool full, uint32_t ram_changes)
{
	if (profit->ram_changes != ram_changes) /* what it has in common with others may be another matter now */
		*profit = (struct gmm__vm_profit){ .ram_changes = ram_changes, .passes = JUDGE_PASSES };
	if (profit->passes > 0)
		profit->passes--;
	if (profit->resting && profit->passes == 0) { /* a trial: one more loss ends it */
		profit->resting = false;
		profit->losses = LOSSES - 1;
		profit->passes = JUDGE_PASSES;
	}
	return full || !profit->resting;
}

void gmm__profit_learn(struct gmm__vm_profit *profit, int64_t profit_bytes)
{
	bool trial = profit->rest_passes > 0;

	if (profit->resting || profit->passes > 0)
		return;
	profit->passes = JUDGE_PASSES;
	if (profit_bytes >= (trial ? -LOSS_BYTES / 2 : -LOSS_BYTES)) {
		profit->losses = 0;
		profit->rest_passes = 0;
	} else if (++profit->losses >= LOSSES) {
		uint32_t rest = trial ? profit->rest_passes * 2u : REST_PASSES;
		profit->rest_passes = (uint16_t)(rest < REST_PASSES_MAX ? rest : REST_PASSES_MAX);
		profit->passes = profit->rest_passes;
		profit->resting = true;
	}
}

/* a * b / c without overflow for counts of pages and bytes; 0 for nothing to divide. */
static uint64_t part(uint64_t a, uint64_t b, uint64_t c)
{
	return c ? (uint64_t)((unsigned __int128)a * b / c) : 0;
}

int64_t gmm__profit_bytes(const struct gmm__profit_facts *facts)
{
	uint64_t pool_pages = part(facts->pool_pages, facts->references, facts->pool_references);
	uint64_t costs = part(facts->table_bytes, facts->pages, facts->all_pages) + pool_pages * GMM__PTE_BYTES +
			 facts->mappings * GMM__VMA_BYTES;

	return (int64_t)((facts->zero_pages + facts->references - pool_pages) * GMM__PAGE_BYTES) - (int64_t)costs;
}

int64_t gmm__profit_of(const struct gmm_vm *vm, const struct gmm_vm_stats *stats)
{
	struct gmm *gmm = vm->gmm;
	struct gmm__pool *pool = &vm->domain->pool;
	struct gmm__profit_facts facts = {
		.zero_pages = stats->state_pages[GMM_PAGE_ZERO], .mappings = stats->mappings, .pages = stats->pages,
		.references = stats->state_pages[GMM_PAGE_FILL] + stats->state_pages[GMM_PAGE_SHARED],
		.table_bytes = gmm->mem.bytes,
	};

	for (const struct gmm__domain *domain = gmm->domains; domain; domain = domain->next)
		facts.all_pages += domain->pages;
	if (gmm->remote) {
		facts.pool_pages = gmm->remote->pool_pages;
		facts.pool_references = gmm->remote->pool_references;
	} else {
		gmm__lock_take(&pool->lock);
		facts.pool_pages = pool->used_pages;
		facts.pool_references = pool->references;
		gmm__lock_give(&pool->lock);
	}
	return gmm__profit_bytes(&facts);
}
