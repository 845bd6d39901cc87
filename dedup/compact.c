/* Joining neighbours and compaction; see compact.h. */
#include "dedup/compact.h"

#include <string.h>

#include "dedup/engine.h"
#include "dedup/errand.h"
#include "dedup/fork.h"
#include "dedup/paged_moves.h"
#include "dedup/shed.h"
#include "dedup/visit.h"

/* Neighbours are looked for in so many pages in an idle pass. A row to be compacted is cut into parts of so many pages,
 * which fit into gaps; parts that come to lie side by side are one run as before. */
enum { JOIN_PAGES = 65536, DRAIN_CHUNKS = 4, DRAIN_ROW = 32, BARREN_SETS = 4 };

static struct gmm__rehome rehome_in(struct gmm *gmm, const struct gmm__backend *backend, struct gmm__waits *waits,
				    const struct gmm_vm *vm)
{
	return (struct gmm__rehome){ .gmm = gmm, .backend = backend, .waits = waits, .domain = vm->domain,
				     .catalog = vm->domain->catalog };
}

/* ---- a set ----------------------------------------------------------------------------------------------------- */

/* Moves everybody. gmm.tidy_lock is given away while paged VMs are asked, since their answers may wait for somebody who wants a
 * snapshot; that finds the set's own references in gmm.tidy then. Returns how many pages moved. */
static uint64_t carry_out(struct gmm__moves *moves, const struct gmm__rehome *rehome)
{
	struct gmm *gmm = rehome->gmm;
	uint64_t moved = 0;

	if (moves->paged) {
		gmm->tidy.domain = rehome->domain;
		gmm->tidy.row = moves->row;
		gmm->tidy.n_rows = moves->rows;
		gmm__lock_give(&gmm->tidy_lock);
		moved = gmm__paged_moves_ask(moves, rehome);
		gmm__lock_take(&gmm->tidy_lock);
		gmm->tidy.domain = NULL;
	}
	return moved + gmm__moves_carry_out(moves, rehome);
}

/* ---- joining neighbours ---------------------------------------------------------------------------------------- */

/* Shared pages in a row. Fill pages are not moved: their extents are as long as they should be. */
static uint32_t shared_span(const struct gmm__slot *slot, uint32_t page)
{
	uint32_t n = 0;

	while (page + n < slot->pages && gmm__slot_state(slot, page + n) == GMM_PAGE_SHARED)
		n++;
	return n;
}

static gmm__page_id value_at(const struct gmm__slot *slot, uint32_t page)
{
	return __atomic_load_n(&slot->value[page], __ATOMIC_RELAXED);
}

static uint32_t run_at(const struct gmm__slot *slot, uint32_t page, uint32_t end)
{
	uint32_t n = 1;

	while (page + n < end && gmm__page_follows(value_at(slot, page + n - 1), value_at(slot, page + n)))
		n++;
	return n;
}

/* Groups the runs of a span of shared pages, as many as fit into a chunk each. */
static void group_runs(struct gmm__moves *moves, const struct gmm__slot *slot, uint32_t page, uint32_t end)
{
	uint32_t in_group = GMM__CHUNK_PAGES, n;

	for (; page < end; page += n) {
		n = run_at(slot, page, end);
		if (in_group + n > GMM__CHUNK_PAGES)
			in_group = 0;
		in_group = gmm__moves_add(moves, value_at(slot, page), n, in_group == 0) ? in_group + n : GMM__CHUNK_PAGES;
	}
}

/* Collects neighbours from the page on until the set is half full or `limit` pages have been looked at. Returns the page
 * to go on with. The page table is read as a hint: whoever carries out the moves looks again. */
static uint32_t collect(struct gmm__moves *moves, const struct gmm__slot *slot, uint32_t page, uint32_t limit)
{
	uint32_t start = page;

	while (page < slot->pages && page - start < limit && moves->pages < GMM__MOVES / 2) {
		uint32_t n = shared_span(slot, page);
		if (n > 1 && run_at(slot, page, page + n) < n)
			group_runs(moves, slot, page, page + n);
		page += n + 1;
	}
	return page;
}

/* One set of moves in the VM, from gfn *from on. Returns how many pages moved; *from is where to go on, UINT64_MAX at
 * the VM's end. */
static uint64_t join(struct gmm__moves *moves, const struct gmm__rehome *rehome, struct gmm_vm *vm, uint64_t *from)
{
	uint32_t looked_at = 0;
	uint64_t moved = 0;
	struct gmm__slot *slot;

	memset(moves, 0, sizeof *moves);
	while (looked_at < JOIN_PAGES && moves->pages < GMM__MOVES / 2) {
		slot = gmm__visit_slot(vm, *from);
		if (!slot) {
			*from = UINT64_MAX;
			break;
		}
		uint32_t first = *from > slot->gfn ? (uint32_t)(*from - slot->gfn) : 0;
		uint32_t stop = collect(moves, slot, first, JOIN_PAGES - looked_at);
		looked_at += stop - first;
		*from = slot->gfn + (stop < slot->pages ? stop : slot->pages);
	}
	if (moves->groups == 0)
		return 0;
	gmm__paged_moves_choose(moves, rehome);
	gmm__moves_weigh(moves, rehome);
	if (gmm__moves_copy(moves, rehome, 1, true) > 0)
		moved = carry_out(moves, rehome);
	gmm__moves_end(moves, rehome);
	return moved;
}

/* ---- compaction ------------------------------------------------------------------------------------------------- */

/* Adds the pages in use of a chunk. */
static void add_chunk(struct gmm__moves *moves, struct gmm__pool *pool, gmm__chunk_id chunk)
{
	for (uint32_t i = 0; i < GMM__CHUNK_PAGES;) {
		gmm__page_id first = gmm__page_make(chunk, i);
		uint32_t left = GMM__CHUNK_PAGES - i, n = gmm__pool_ref(pool, first, left < DRAIN_ROW ? left : DRAIN_ROW);
		if (n > 0) {
			gmm__moves_add(moves, first, n, true);
			gmm__pool_drop(pool, first, n, GMM__DROP_REFERENCE);
		}
		i += n > 0 ? n : 1;
	}
}

/* One set of moves out of the sparsest chunks. Returns how many pages moved. */
static uint64_t drain(struct gmm__moves *moves, const struct gmm__rehome *rehome)
{
	struct gmm__pool *pool = rehome->catalog->pool;
	gmm__chunk_id chunk[DRAIN_CHUNKS];
	uint32_t n = gmm__pool_drain(pool, GMM__MOVES, DRAIN_CHUNKS, chunk);
	uint64_t moved = 0;

	memset(moves, 0, sizeof *moves);
	for (uint32_t i = 0; i < n; i++)
		add_chunk(moves, pool, chunk[i]);
	if (n > 0)
		gmm__paged_moves_choose(moves, rehome);
	if (n > 0 && gmm__moves_copy(moves, rehome, 0, false) > 0)
		moved = carry_out(moves, rehome);
	gmm__moves_end(moves, rehome);
	return moved;
}

/* A pool of a service is not ours to tidy up. While a fork may map pages, what is moved is there twice. */
static bool may_tidy(struct gmm__pool *pool)
{
	gmm__lock_take(&pool->lock);
	bool may = !pool->mirror && !pool->defer;
	gmm__lock_give(&pool->lock);
	return may;
}

static bool is_sparse(struct gmm__pool *pool)
{
	gmm__lock_take(&pool->lock);
	uint64_t pages = (uint64_t)pool->live_chunks * GMM__CHUNK_PAGES;
	bool sparse = pool->live_chunks > 1 && pool->used_pages * 4 <= pages * 3;
	gmm__lock_give(&pool->lock);
	return sparse;
}

static uint32_t give_back(struct gmm__pool *pool)
{
	uint32_t chunks = gmm__pool_trim(pool);

	gmm__pool_drain_end(pool);
	return chunks;
}

/* ---- who is next -------------------------------------------------------------------------------------------------- */

/* Goes on with the VM where the last pass stopped, or with the next one. */
static struct gmm_vm *next_vm(struct gmm *gmm)
{
	struct gmm__tidy *tidy = &gmm->tidy;
	struct gmm_vm *vm = gmm__visit_begin(gmm, NULL, tidy->gfn == UINT64_MAX ? tidy->vm : tidy->vm - (tidy->vm > 0));

	if (!vm) {
		tidy->vm = 0;
		tidy->gfn = 0;
		tidy->rounds++;
		vm = gmm__visit_begin(gmm, NULL, 0);
	}
	if (vm && vm->number != tidy->vm) {
		tidy->vm = vm->number;
		tidy->gfn = 0;
	}
	return vm;
}

/* A round over all guests that found nothing need not be repeated while no mapping came or went. */
static bool nothing_new(struct gmm *gmm, bool moved)
{
	struct gmm__tidy *tidy = &gmm->tidy;
	uint64_t mappings = gmm->mappings;

	if (moved || mappings != tidy->mappings) {
		tidy->mappings = mappings;
		tidy->rounds = 0;
	}
	return tidy->rounds > 1;
}

/* With the turn and gmm.tidy_lock. */
static void tidy_next(struct gmm *gmm, struct gmm__moves *moves, const struct gmm__backend *backend, struct gmm__waits *waits)
{
	struct gmm_vm *vm = next_vm(gmm);

	if (!vm)
		return;
	if (may_tidy(&vm->domain->pool)) {
		struct gmm__rehome rehome = rehome_in(gmm, backend, waits, vm);
		bool moved = nothing_new(gmm, false) ? false : join(moves, &rehome, vm, &gmm->tidy.gfn) > 0;
		if (is_sparse(rehome.catalog->pool))
			moved |= drain(moves, &rehome) > 0;
		give_back(rehome.catalog->pool);
		nothing_new(gmm, moved);
	}
	gmm__visit_end(vm);
}

void gmm__tidy_idle(struct gmm *gmm, const struct gmm__backend *backend, struct gmm__waits *waits)
{
	struct gmm__moves *moves = gmm__mem_alloc(&gmm->mem, sizeof *moves);

	if (!moves)
		return;
	if (gmm__lock_try(&gmm->tidy_turn)) {
		if (gmm__lock_try(&gmm->tidy_lock)) {
			tidy_next(gmm, moves, backend, waits);
			gmm__lock_give(&gmm->tidy_lock);
		}
		gmm__lock_give(&gmm->tidy_turn);
	}
	gmm__mem_free(&gmm->mem, moves, sizeof *moves);
}

void gmm__tidy_engine(struct gmm__worker *worker)
{
	struct gmm__engine *engine = worker->engine;
	struct gmm__shed shed = gmm__shed_shortest(engine->gmm, engine->backend);

	gmm__tidy_idle(engine->gmm, engine->backend, &worker->waits);
	if (shed.mappings == 0)
		return;
	engine->retry_budget = true; /* there is room for the runs that wait */
	if (engine->min_run < shed.min_run)
		engine->min_run = shed.min_run;
}

/* One set of moves of gmm__tidy_all. */
struct set {
	struct gmm_vm *vm;      /* visited */
	struct gmm__moves *moves;
	uint64_t from;          /* joins: the gfn to go on with, UINT64_MAX at the end */
	bool drains;
	uint32_t barren;        /* the last so many sets moved nothing */
	uint32_t chunks;        /* given back */
};

/* The lock is given away between two sets, so that nobody waits long for a snapshot. */
static void tidy_set(void *arg, const struct gmm__merge *merge)
{
	struct set *set = arg;
	struct gmm__rehome rehome = rehome_in(merge->gmm, merge->backend, merge->waits, set->vm);

	gmm__lock_take(&merge->gmm->tidy_turn);
	gmm__lock_take(&merge->gmm->tidy_lock);
	uint64_t moved = set->drains ? drain(set->moves, &rehome) : join(set->moves, &rehome, set->vm, &set->from);
	set->barren = moved ? 0 : set->barren + 1;
	if (set->drains)
		set->chunks += give_back(rehome.catalog->pool);
	gmm__lock_give(&merge->gmm->tidy_lock);
	gmm__lock_give(&merge->gmm->tidy_turn);
}

/* Joins, then compaction until nothing moves any more: a set empties most chunks it takes from. Chunks that somebody will not
 * leave are passed over, so that the next set takes others. */
static void tidy_vm(struct set *set, gmm__tidy_run_fn *run)
{
	struct gmm *gmm = set->vm->gmm;
	uint32_t limit = set->vm->domain->pool.n_chunks + 1;

	set->drains = false;
	for (set->from = 0; set->from != UINT64_MAX && !set->vm->dead;)
		run(gmm, tidy_set, set);
	set->drains = true;
	set->barren = 0;
	gmm__pool_drain_anew(&set->vm->domain->pool);
	do
		run(gmm, tidy_set, set);
	while (set->barren < BARREN_SETS && limit-- > 0 && !set->vm->dead);
}

int64_t gmm__tidy_all(struct gmm *gmm, gmm__tidy_run_fn *run)
{
	struct set set = { .moves = gmm__mem_alloc(&gmm->mem, sizeof *set.moves) };

	if (!set.moves)
		return -1;
	gmm__paged_moves_anew(gmm);
	for (struct gmm_vm *vm = gmm__visit_begin(gmm, NULL, 0); vm; vm = gmm__visit_next(vm, NULL)) {
		set.vm = vm;
		if (may_tidy(&vm->domain->pool))
			tidy_vm(&set, run); /* the first VM of a domain leaves little to the others */
	}
	gmm__mem_free(&gmm->mem, set.moves, sizeof *set.moves);
	return set.chunks;
}

int gmm_instance_compact(struct gmm *gmm, uint64_t *ret_chunks)
{
	if (!gmm)
		return GMM_ERR_INVALID_PARAMETER;
	if (!gmm__fork_is_home(gmm))
		return GMM_ERR_WRONG_PROCESS;
	int64_t chunks = gmm->remote ? 0 : gmm__tidy_all(gmm, gmm__errand_call); /* a service has its pools itself */
	if (chunks < 0)
		return GMM_ERR_NO_MEMORY;
	if (ret_chunks)
		*ret_chunks = (uint64_t)chunks;
	return GMM_OK;
}
