/* Tables of a module's pages; see registry_pages.h. */
#include "sharedmod/registry_pages.h"

/* An entry: page id, generation, and whether it is a pool page. 0: nothing. */
enum { GENERATION_SHIFT = 32, GENERATION_MASK = 0x3fff };
#define SHARED_BIT (UINT64_C(1) << 63)

static uint32_t blocks_of(const struct gmm__module_pages *pages)
{
	return (pages->pages + GMM__PAGES_BLOCK - 1) / GMM__PAGES_BLOCK;
}

static size_t table_bytes(const struct gmm__module_pages *pages)
{
	return blocks_of(pages) * sizeof(_Atomic(struct gmm__module_block *));
}

/* Memory for tables, within what the domain may have. */
static void *take(struct gmm__mem *mem, struct gmm__domain *domain, size_t bytes)
{
	uint64_t used = atomic_fetch_add(&domain->module_bytes, bytes) + bytes;
	void *p = used <= GMM__PAGES_BYTES_MIN + domain->pages * GMM__PAGES_BYTES_MAX ? gmm__mem_alloc(mem, bytes) : NULL;

	if (!p)
		atomic_fetch_sub(&domain->module_bytes, bytes);
	return p;
}

static void give(struct gmm__mem *mem, struct gmm__domain *domain, void *p, size_t bytes)
{
	gmm__mem_free(mem, p, bytes);
	atomic_fetch_sub(&domain->module_bytes, bytes);
}

void gmm__pages_free(struct gmm__mem *mem, struct gmm__module_pages *pages)
{
	_Atomic(struct gmm__module_block *) *blocks = atomic_load(&pages->blocks);

	if (!blocks)
		return;
	for (uint32_t i = 0; i < blocks_of(pages); i++)
		if (blocks[i])
			give(mem, pages->domain, blocks[i], sizeof(struct gmm__module_block));
	give(mem, pages->domain, (void *)blocks, table_bytes(pages));
	atomic_store(&pages->blocks, NULL);
}

static struct gmm__module_block *find_block(const struct gmm__module_pages *pages, uint32_t page)
{
	_Atomic(struct gmm__module_block *) *blocks = atomic_load(&pages->blocks);

	return blocks ? atomic_load(&blocks[page / GMM__PAGES_BLOCK]) : NULL;
}

/* Two threads may make the same one at once: the first is kept. */
static struct gmm__module_block *make_block(struct gmm__mem *mem, struct gmm__module_pages *pages, uint32_t page)
{
	_Atomic(struct gmm__module_block *) *blocks = atomic_load(&pages->blocks), *no_blocks = NULL;

	if (!blocks) {
		blocks = take(mem, pages->domain, table_bytes(pages));
		if (blocks && !atomic_compare_exchange_strong(&pages->blocks, &no_blocks, blocks)) {
			give(mem, pages->domain, (void *)blocks, table_bytes(pages));
			blocks = no_blocks;
		}
	}
	if (!blocks)
		return NULL;
	struct gmm__module_block *block = atomic_load(&blocks[page / GMM__PAGES_BLOCK]), *none = NULL;
	if (block)
		return block;
	block = take(mem, pages->domain, sizeof *block);
	if (block && !atomic_compare_exchange_strong(&blocks[page / GMM__PAGES_BLOCK], &none, block)) {
		give(mem, pages->domain, block, sizeof *block);
		block = none;
	}
	return block;
}

static struct gmm__known decode(uint64_t entry)
{
	return (struct gmm__known){
		.kind = entry == 0 ? GMM__KNOWN_NOTHING : entry & SHARED_BIT ? GMM__KNOWN_SHARED : GMM__KNOWN_PRIVATE,
		.generation = entry >> GENERATION_SHIFT & GENERATION_MASK,
		.page = (gmm__page_id)entry,
	};
}

static uint64_t encode(struct gmm__known known)
{
	if (known.kind == GMM__KNOWN_NOTHING)
		return 0;
	return (known.kind == GMM__KNOWN_SHARED ? SHARED_BIT : 0) | (uint64_t)known.generation << GENERATION_SHIFT |
	       known.page;
}

struct gmm__known gmm__pages_get(const struct gmm__module_pages *pages, uint32_t page, uint32_t variant)
{
	struct gmm__module_block *block = find_block(pages, page);

	return decode(block ? atomic_load(&block->entry[page % GMM__PAGES_BLOCK][variant]) : 0);
}

bool gmm__pages_set(struct gmm__mem *mem, struct gmm__module_pages *pages, uint32_t page, uint32_t variant,
		    struct gmm__known known)
{
	struct gmm__module_block *block = known.kind == GMM__KNOWN_NOTHING ? find_block(pages, page) :
					  make_block(mem, pages, page);

	if (block)
		atomic_store(&block->entry[page % GMM__PAGES_BLOCK][variant], encode(known));
	return block || known.kind == GMM__KNOWN_NOTHING;
}

/* References to a remembered pool page; 0: it is gone. */
static uint32_t references(const struct gmm__module_pages *pages, struct gmm__known known)
{
	struct gmm__pool *pool = &pages->domain->pool;

	if (known.kind != GMM__KNOWN_SHARED)
		return 0;
	struct gmm__record r = gmm__pool_record(pool, known.page);
	return r.state == GMM__SLOT_SHARED && r.generation == known.generation ? r.references : 0;
}

static void count_page(const struct gmm__module_pages *pages, uint32_t page, struct gmm__pages_count *count)
{
	uint32_t found = 0;

	for (uint32_t v = 0; v < GMM_MODULE_VARIANTS; v++) {
		uint32_t n = references(pages, gmm__pages_get(pages, page, v));
		count->references += n;
		found += n > 0;
	}
	count->shared += found;
	count->variants += found > 1 ? found - 1 : 0;
}

struct gmm__pages_count gmm__pages_count(const struct gmm__module_pages *pages)
{
	struct gmm__pages_count count = { 0 };

	for (uint32_t page = 0; page < pages->pages; page++) {
		if (find_block(pages, page))
			count_page(pages, page, &count);
		else
			page |= GMM__PAGES_BLOCK - 1;
	}
	return count;
}

static void follow(const struct gmm__module_pages *pages, _Atomic uint64_t *entry,
		   gmm__page_id (*goal)(const void *moves, gmm__page_id page), const void *moves)
{
	struct gmm__pool *pool = &pages->domain->pool;
	uint64_t old = atomic_load(entry);
	struct gmm__known known = decode(old);
	gmm__page_id to = known.kind == GMM__KNOWN_SHARED ? goal(moves, known.page) : GMM__NIL;

	if (to == GMM__NIL || gmm__pool_record(pool, known.page).generation != known.generation)
		return;
	struct gmm__record r = gmm__pool_record(pool, to);
	if (r.references > 1) /* besides the mover's */
		atomic_compare_exchange_strong(entry, &old, encode((struct gmm__known){ GMM__KNOWN_SHARED, r.generation,
											 to }));
}

void gmm__pages_follow(struct gmm__module_pages *pages, gmm__page_id (*goal)(const void *moves, gmm__page_id page),
		       const void *moves)
{
	for (uint32_t page = 0; page < pages->pages; page += GMM__PAGES_BLOCK) {
		struct gmm__module_block *block = find_block(pages, page);
		for (uint32_t i = 0; block && i < GMM__PAGES_BLOCK * GMM_MODULE_VARIANTS; i++)
			follow(pages, &block->entry[i / GMM_MODULE_VARIANTS][i % GMM_MODULE_VARIANTS], goal, moves);
	}
}

bool gmm__pages_alive(const struct gmm__module_pages *pages)
{
	for (uint32_t page = 0; page < pages->pages; page++) {
		if (!find_block(pages, page))
			page |= GMM__PAGES_BLOCK - 1;
		for (uint32_t v = 0; page < pages->pages && v < GMM_MODULE_VARIANTS; v++)
			if (references(pages, gmm__pages_get(pages, page, v)) > 0)
				return true;
	}
	return false;
}
