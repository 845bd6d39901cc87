/* Snapshots of all tables and the accounting identities over them:
 *
 *   private + pool pages in use = allocated         (INV-4, by definition of the sums)
 *   references = pool pages in use + saved          (INV-4)
 *   references of each pool page = the gfns that use it; its broken covers = the BROKEN gfns over it   (INV-3)
 *   the states of a VM's pages add up to its pages; its counts are those of its page tables            (INV-4)
 */
#include "gmm/paged.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

void gmm__log(struct gmm *gmm, enum gmm_log_level level, const char *format, ...)
{
	char text[512];
	va_list args;

	if (!gmm->options.log)
		return;
	va_start(args, format);
	vsnprintf(text, sizeof text, format, args);
	va_end(args);
	gmm->options.log(gmm->options.log_arg, level, text);
}

bool gmm__wait_until(struct gmm *gmm, uint64_t deadline_ns)
{
	return gmm__lock_wait_until(&gmm->lock, &gmm->changed, deadline_ns);
}

void gmm__snapshot_await(struct gmm *gmm)
{
	gmm->snapshot_waiters++;
	while (gmm->snapshot)
		gmm__lock_wait(&gmm->lock, &gmm->changed);
	gmm->snapshot_waiters--;
}

void gmm__snapshot_begin(struct gmm *gmm)
{
	gmm__lock_take(&gmm->tidy_lock);
	gmm__lock_take(&gmm->lock);
	gmm__snapshot_await(gmm);
	gmm->snapshot = true;
	while (gmm->claims > 0)
		gmm__lock_wait(&gmm->lock, &gmm->changed);
	gmm__paged_drain(gmm);
	gmm__lock_give(&gmm->lock);
}

void gmm__snapshot_end(struct gmm *gmm)
{
	gmm__lock_take(&gmm->lock);
	gmm->snapshot = false;
	if (gmm->snapshot_waiters)
		pthread_cond_broadcast(&gmm->changed);
	gmm__lock_give(&gmm->lock);
	gmm__lock_give(&gmm->tidy_lock);
}

void gmm__accounts_derive(struct gmm_vm_stats *stats)
{
	stats->private_pages = 0;
	for (int s = 0; s < GMM_PAGE_STATES; s++)
		if (gmm__state_is_private((enum gmm_page_state)s))
			stats->private_pages += stats->state_pages[s];
	stats->references = stats->state_pages[GMM_PAGE_FILL] + stats->state_pages[GMM_PAGE_SHARED];
}

/* How often each pool page was met in the page tables. */
struct recount {
	struct gmm__record *met; /* one for each page of the pool's chunks, in their order */
	struct gmm__domain *domain;
};

static const char *recount_page(struct recount *recount, const struct gmm__slot *slot, uint32_t page)
{
	enum gmm_page_state state = gmm__slot_state(slot, page);
	struct gmm__pool *pool = &recount->domain->pool;

	if (!gmm__state_is_covered(state))
		return NULL;
	const struct gmm__chunk *chunk = gmm__chunk_table_chunk(pool->table, gmm__page_chunk(slot->value[page]));
	if (!chunk)
		return "INV-3: a page table names a page of no chunk";
	uint64_t place = (uint64_t)chunk->file * GMM__FILE_CHUNKS + chunk->file_chunk;
	if (place >= pool->n_chunks || pool->chunks[place] != chunk)
		return "INV-6: a page table names a page of another domain";
	struct gmm__record *met = &recount->met[place * GMM__CHUNK_PAGES + gmm__page_index(slot->value[page])];
	if (state == GMM_PAGE_BROKEN)
		met->broken += met->broken < GMM__BROKEN_MAX;
	else
		met->references++;
	return NULL;
}

static const char *recount_vm(struct recount *recount, const struct gmm_vm *vm)
{
	struct gmm_vm_stats found = { 0 };
	const char *broken = NULL;

	for (uint32_t i = 0; !broken && i < vm->slots->n; i++) {
		const struct gmm__slot *slot = vm->slots->slot[i];
		struct gmm__seams seams = gmm__slot_seams(slot, 0, slot->pages);
		found.pages += slot->pages;
		found.mappings += seams.mappings;
		found.runs += seams.runs;
		for (uint32_t page = 0; !broken && page < slot->pages; page++) {
			found.state_pages[gmm__slot_state(slot, page)]++;
			broken = recount_page(recount, slot, page);
		}
	}
	if (broken)
		return broken;
	if (found.pages != vm->stats.pages ||
	    memcmp(found.state_pages, vm->stats.state_pages, sizeof found.state_pages) != 0)
		return "INV-4: a VM's counts differ from its page table";
	if (found.mappings != vm->stats.mappings || found.runs != vm->stats.runs)
		return "INV-4: a VM's mappings or runs are miscounted";
	return NULL;
}

/* The references of a paged VM. */
static const char *recount_tally(struct recount *recount, const struct gmm__paged *paged)
{
	const struct gmm__pool *pool = &recount->domain->pool;

	for (uint32_t i = 0; i < paged->references.size; i++) {
		struct gmm__tally_entry held = gmm__tally_at(&paged->references, i);
		if (!held.count)
			continue;
		const struct gmm__chunk *chunk = gmm__chunk_table_chunk(pool->table, gmm__page_chunk(held.id));
		if (!chunk)
			return "INV-3: a paged VM refers to a page of no chunk";
		uint64_t place = (uint64_t)chunk->file * GMM__FILE_CHUNKS + chunk->file_chunk;
		if (place >= pool->n_chunks || pool->chunks[place] != chunk)
			return "INV-6: a paged VM refers to a page of another domain";
		recount->met[place * GMM__CHUNK_PAGES + gmm__page_index(held.id)].references += held.count;
	}
	return NULL;
}

/* Those of the set of moves under way. */
static void recount_moves(struct recount *recount, const struct gmm__tidy *tidy)
{
	const struct gmm__pool *pool = &recount->domain->pool;

	for (uint32_t row = 0; row < tidy->n_rows; row++) {
		const gmm__page_id first[] = { tidy->row[row].from, tidy->row[row].to };
		for (int side = 0; tidy->row[row].to != GMM__NIL && side < 2; side++) {
			const struct gmm__chunk *chunk = gmm__chunk_table_chunk(pool->table, gmm__page_chunk(first[side]));
			uint64_t place = (uint64_t)chunk->file * GMM__FILE_CHUNKS + chunk->file_chunk;
			for (uint32_t i = 0; i < tidy->row[row].count; i++)
				recount->met[place * GMM__CHUNK_PAGES + gmm__page_index(first[side]) + i].references++;
		}
	}
}

static const char *compare_records(const struct recount *recount)
{
	struct gmm__pool *pool = &recount->domain->pool;
	const char *broken = NULL;

	gmm__lock_take(&pool->lock); /* pages that a fork kept are given back at any time */
	for (uint32_t c = 0; c < pool->n_chunks; c++) {
		for (uint32_t i = 0; pool->chunks[c] && i < GMM__CHUNK_PAGES; i++) {
			const struct gmm__record *r = &pool->chunks[c]->record[i];
			const struct gmm__record *met = &recount->met[(uint64_t)c * GMM__CHUNK_PAGES + i];
			if (r->references != met->references)
				broken = "INV-3: a page's references are not the gfns that use it";
			if (r->broken != met->broken && r->broken < GMM__BROKEN_MAX)
				broken = "INV-2: a page's covers are not the mappings over it";
		}
	}
	gmm__lock_give(&pool->lock);
	return broken;
}

static const char *validate_domain(struct gmm *gmm, struct gmm__domain *domain)
{
	const char *broken = gmm__pool_validate(&domain->pool);
	if (broken || domain->pool.mirror) /* then the service counts */
		return broken;
	size_t bytes = (size_t)(domain->pool.n_chunks + 1) * GMM__CHUNK_PAGES * sizeof(struct gmm__record);
	struct recount recount = { .met = gmm__mem_alloc(&gmm->mem, bytes), .domain = domain };
	if (!recount.met)
		return "no memory to recount";
	for (struct gmm_vm *vm = gmm->vms; vm && !broken; vm = vm->next)
		if (vm->domain == domain)
			broken = vm->paged ? recount_tally(&recount, vm->paged) : recount_vm(&recount, vm);
	if (gmm->tidy.domain == domain)
		recount_moves(&recount, &gmm->tidy);
	if (!broken)
		broken = compare_records(&recount);
	gmm__mem_free(&gmm->mem, recount.met, bytes);
	return broken;
}

uint64_t gmm__accounts_on_the_way(struct gmm *gmm)
{
	const struct gmm__tidy *tidy = &gmm->tidy;
	uint64_t pages = 0;

	for (uint32_t row = 0; tidy->domain && row < tidy->n_rows; row++) {
		for (uint32_t i = 0; tidy->row[row].to != GMM__NIL && i < tidy->row[row].count; i++) {
			pages += gmm__pool_record(&tidy->domain->pool, tidy->row[row].from + i).references == 1;
			pages += gmm__pool_record(&tidy->domain->pool, tidy->row[row].to + i).references == 1;
		}
	}
	return pages;
}

const char *gmm__accounts_validate(struct gmm *gmm)
{
	const char *broken = NULL;
	uint64_t mappings = 0;

	for (struct gmm__domain *domain = gmm->domains; domain && !broken; domain = domain->next)
		broken = validate_domain(gmm, domain);
	for (struct gmm_vm *vm = gmm->vms; vm; vm = vm->next)
		mappings += vm->stats.mappings;
	if (!broken && mappings != gmm->mappings)
		broken = "INV-4: the sum of mappings is wrong";
	return broken ? broken : gmm__paged_validate(gmm);
}
