/* The engine's look at paged VMs; see paged_scan.h. */
#include "dedup/engine.h"

#include <urcu/urcu-bp.h>

#include "dedup/paged_requests.h"

enum { PREFETCH_PAGES = 4, LOOK_LEVEL_MAX = 5 };

static bool is_sharable(const struct gmm__private_record *r, const struct gmm__paged *paged)
{
	return r->state == GMM__PRIVATE_USED && r->vm == paged->handle && !r->apart && r->pfn <= GMM__PFN_MAX;
}

/* ---- naming pages ------------------------------------------------------------------------------------------------- */

static void name_pages(struct gmm__paged_batch *batch, const struct gmm__paged *paged,
		       const struct gmm__private_chunk *chunk)
{
	batch->chunk = chunk->id;
	batch->bytes = chunk->place.bytes;
	for (uint32_t i = 0; !chunk->large && i < GMM__CHUNK_PAGES; i++) {
		struct gmm__private_record r = gmm__record_get(&chunk->record[i]);
		if (is_sharable(&r, paged))
			batch->index[batch->n++] = (uint16_t)i;
	}
}

/* Is the chunk to be looked at in this pass? VMs that have it in common are looked at in the same ones. Nothing is thought to
 * change: the next look is twice as far, unless the chunk is woken before. */
static bool is_due(struct gmm__private_chunk *chunk, uint32_t pass, bool full)
{
	uint8_t level = __atomic_load_n(&chunk->look_level, __ATOMIC_RELAXED);

	if (chunk->last_look == pass)
		return true;
	if (!full && (int32_t)(pass - __atomic_load_n(&chunk->next_look, __ATOMIC_RELAXED)) < 0)
		return false;
	chunk->last_look = pass;
	__atomic_store_n(&chunk->next_look, pass + (1u << level), __ATOMIC_RELAXED);
	__atomic_store_n(&chunk->look_level, level < LOOK_LEVEL_MAX ? level + 1 : level, __ATOMIC_RELAXED);
	return true;
}

/* Of the next chunk that has any. A tally that grows meanwhile may hide a chunk until the next pass. */
static void pick(struct gmm__worker *worker)
{
	struct gmm__paged_batch *batch = &worker->paged;
	struct gmm__paged *paged = batch->vm->paged;
	uint32_t pass = (uint32_t)worker->engine->passes + 1;

	batch->n = 0;
	if (gmm__paged_enter(batch->vm) != GMM_OK)
		return;
	while (paged->requests.fn && batch->n == 0 && batch->cursor < paged->chunk_pages.size) {
		struct gmm__tally_entry held = gmm__tally_at(&paged->chunk_pages, batch->cursor++);
		if (!held.count)
			continue;
		struct gmm__private_chunk *chunk = gmm__chunk_table_private(batch->vm->gmm->source.table, held.id);
		if (is_due(chunk, pass, worker->engine->full))
			name_pages(batch, paged, chunk);
		else
			worker->progress.skipped += held.count;
	}
	gmm__paged_leave(batch->vm, GMM_OK);
}

static void begin(struct gmm__paged_batch *batch)
{
	struct gmm_vm *vm = batch->vm;

	batch->begun = true;
	gmm__paged_flush(vm);
	if (gmm__paged_enter(vm) != GMM_OK)
		return;
	uint64_t pages = vm->paged->requests.fn ? vm->paged->chunk_pages.total : 0;
	vm->domain->paged_pages += pages - vm->paged->indexed_pages;
	vm->paged->indexed_pages = pages;
	gmm__paged_leave(vm, GMM_OK);
	if (pages > 0)
		gmm__paged_lookup_prepare(vm, 0);
}

/* ---- judging them --------------------------------------------------------------------------------------------------- */

/* Pages whose digest is that of the last pass stay in the batch. Those of a chunk that went, or has another owner now,
 * are not sharable. */
static void keep_quiet(struct gmm__worker *worker)
{
	struct gmm__paged_batch *batch = &worker->paged;
	struct gmm__paged *paged = batch->vm->paged;
	uint32_t kept = 0;

	if (gmm__paged_enter(batch->vm) != GMM_OK) {
		batch->n = 0;
		return;
	}
	struct gmm__private_chunk *chunk = gmm__tally_count(&paged->chunk_pages, batch->chunk) ?
		gmm__chunk_table_private(batch->vm->gmm->source.table, batch->chunk) : NULL;
	for (uint32_t i = 0; chunk && !chunk->large && i < batch->n; i++) {
		struct gmm__private_record *record = &chunk->record[batch->index[i]];
		struct gmm__private_record r = gmm__record_get(record);
		uint32_t digest = batch->fingerprint[i] & GMM__NEXT_MASK;
		if (!is_sharable(&r, paged))
			continue;
		if (r.known && r.next == digest) {
			batch->index[kept++] = batch->index[i];
			continue;
		}
		r.known = true;
		r.next = digest & GMM__NEXT_MASK;
		gmm__record_set(record, r);
		gmm__private_chunk_wake(chunk);
		worker->progress.found++;
	}
	batch->n = kept;
	gmm__paged_leave(batch->vm, GMM_OK);
}

static bool is_zero(const uint8_t *bytes)
{
	return gmm__digest_is_fill(bytes) && bytes[0] == 0 && *(const uint64_t *)(const void *)bytes == 0;
}

/* It has an equal page and its VM may be asked again. */
static void wake(const struct gmm__paged_batch *batch)
{
	urcu_bp_read_lock();
	gmm__paged_lookup_wake(batch->vm->domain->catalog, gmm__page_make(batch->chunk, 0));
	urcu_bp_read_unlock();
}

/* Its twin is to follow in the next pass. */
static void judge(struct gmm__worker *worker, gmm__page_id page, const uint8_t *bytes)
{
	struct gmm__equal equal = { .found = false };
	bool zero = is_zero(bytes);

	if (!zero)
		equal = gmm__paged_lookup(worker->paged.vm, worker->backend, page, bytes);
	if (!zero && !equal.found)
		return;
	wake(&worker->paged);
	if (!gmm__paged_ask(worker->paged.vm, page, &equal))
		return;
	worker->progress.merged++;
	worker->progress.nominated += equal.twin != GMM__NIL;
}

void gmm__paged_process(struct gmm__worker *worker)
{
	struct gmm__paged_batch *batch = &worker->paged;

	if (!batch->begun)
		begin(batch);
	if (batch->n > 0) {
		worker->progress.digested += batch->n;
		keep_quiet(worker);
	}
	for (uint32_t i = 0; i < batch->n && !batch->vm->dead && !gmm__engine_must_leave(worker->engine); i++)
		judge(worker, gmm__page_make(batch->chunk, batch->index[i]),
		      batch->bytes + (size_t)batch->index[i] * GMM__PAGE_BYTES);
	pick(worker);
}

void gmm__paged_digest(struct gmm__worker *worker)
{
	struct gmm__paged_batch *batch = &worker->paged;
	const struct gmm__secret *secret = &batch->vm->domain->catalog->secret;

	for (uint32_t i = 0; i < batch->n; i++) {
		if (i + PREFETCH_PAGES < batch->n)
			gmm__digest_prefetch(batch->bytes + (size_t)batch->index[i + PREFETCH_PAGES] * GMM__PAGE_BYTES, secret);
		batch->fingerprint[i] = gmm__digest_sample(batch->bytes + (size_t)batch->index[i] * GMM__PAGE_BYTES, secret)
						.fingerprint;
	}
}
