/* The validator: a world whose accounts hold, one figure of it spoiled at a time, and the rule that the validator names. */
#include <string.h>

#include "gmm/instance.h"
#include "tests/unit/support/twins.h"
#include "tests/unit/support/unit.h"

/* Shared, fill, zero, broken and unique pages in two guests, and one in another domain. */
static struct fake_guest *other;

static void open_mixture(void)
{
	open_twins(40);
	other = fake_guest_new("other", 40);
	fake_fill_range(other, 0, 40, 1);
	for (uint32_t i = 20; i < 36; i++) {
		fake_repeat(a, i, 0xcc);
		fake_repeat(b, i, 0xcc);
	}
	for (uint32_t i = 36; i < 40; i++) {
		fake_repeat(a, i, 0);
		fake_fill(b, i, 1000 + i);
	}
	fake_fill(other, 7, 1);
	fake_passes(4);
	fake_write(b, 3, 0, 1);
	fake_passes(9);
	assert_state(a, 0, GMM_PAGE_SHARED);
	assert_state(a, 30, GMM_PAGE_FILL);
	assert_state(a, 38, GMM_PAGE_ZERO);
	assert_state(b, 3, GMM_PAGE_BROKEN);
	assert_state(b, 38, GMM_PAGE_UNIQUE);
	assert_state(other, 0, GMM_PAGE_SHARED);
}

/* The rule that is broken now; it must hold again once the figure is put right. */
static void expect(const char *rule)
{
	const char *broken = gmm__accounts_validate(world->gmm);

	ck_assert_msg(broken && strncmp(broken, rule, strlen(rule)) == 0, "%s, not %s", broken ? broken : "nothing", rule);
	ck_assert_int_eq(gmm_instance_validate(world->gmm), GMM_ERR_SYSTEM);
	ck_assert_msg(strstr(world->log, rule), "the log says: %s", world->log);
}

static struct gmm__record *raw(gmm__page_id page)
{
	return &gmm__chunk_table_chunk(&world->gmm->chunks, gmm__page_chunk(page))->record[gmm__page_index(page)];
}

#define SPOILED(figure, by, rule)       \
	do {                            \
		(figure) += (by);       \
		expect(rule);           \
		(figure) -= (by);       \
		fake_check();           \
	} while (0)

START_TEST(counts_of_a_vm)
{
	open_mixture();
	SPOILED(a->vm->stats.pages, 1, "INV-4: a VM's counts");
	for (int state = 0; state < GMM_PAGE_STATES; state++)
		SPOILED(a->vm->stats.state_pages[state], 1, "INV-4: a VM's counts");
	SPOILED(b->vm->stats.mappings, 1, "INV-4: a VM's mappings");
	SPOILED(b->vm->stats.runs, 1, "INV-4: a VM's mappings or runs");
	SPOILED(world->gmm->mappings, 1, "INV-4: the sum of mappings");
	fake_close();
}
END_TEST

START_TEST(sums_of_a_pool)
{
	open_mixture();
	struct gmm__pool *pool = fake_pool(a);
	SPOILED(pool->free_pages, 1, "INV-4: the pool's sums");
	SPOILED(pool->used_pages, 1, "INV-4: the pool's sums");
	SPOILED(pool->references, 1, "INV-4: the pool's sums");
	SPOILED(pool->chunks[0]->free, 1, "INV-4");
	fake_close();
}
END_TEST

START_TEST(references_of_a_page)
{
	open_mixture();
	struct gmm__record *r = raw(a->slot->value[0]);
	r->references++;
	fake_pool(a)->references++;
	expect("INV-3: a page's references");
	r->references--;
	fake_pool(a)->references--;
	fake_close();
}
END_TEST

START_TEST(covers_of_a_page)
{
	open_mixture();
	struct gmm__record *r = raw(b->slot->value[3]);
	ck_assert_uint_eq(r->broken, 1);
	r->broken = 0;
	expect("INV-2: a page's covers");
	r->broken = 2;
	expect("INV-2: a page's covers");
	r->broken = GMM__BROKEN_MAX; /* "many" agrees with any number */
	ck_assert_ptr_null(gmm__accounts_validate(world->gmm));
	r->broken = 1;
	fake_close();
}
END_TEST

START_TEST(states_of_a_record)
{
	open_mixture();
	struct gmm__record *r = raw(a->slot->value[0]);
	r->state = GMM__SLOT_HELD;
	ck_assert_ptr_nonnull(gmm__pool_validate(fake_pool(a)));
	r->state = GMM__SLOT_SHARED;
	struct gmm__chunk *chunk = gmm__chunk_table_chunk(&world->gmm->chunks, gmm__page_chunk(a->slot->value[0]));
	struct gmm__record *unused = &chunk->record[GMM__CHUNK_PAGES - 1];
	ck_assert_int_eq(unused->state, GMM__SLOT_FREE);
	unused->broken = 1;
	expect("INV-2: a free slot has covers");
	unused->broken = 0;
	unused->state = GMM__SLOT_SHARED;
	ck_assert_ptr_nonnull(gmm__pool_validate(fake_pool(a)));
	unused->state = GMM__SLOT_FREE;
	fake_close();
}
END_TEST

/* A page table is changed behind the accounts' back. */
START_TEST(page_tables)
{
	open_mixture();
	uint32_t value = a->slot->value[0];
	a->slot->value[0] = gmm__slot_page_id(a->slot, 0);
	expect("INV-3: a page table names a page of no chunk");
	a->slot->value[0] = other->slot->value[0];
	expect("INV-6");
	a->slot->value[0] = value + 9;
	ck_assert_ptr_nonnull(gmm__accounts_validate(world->gmm));
	a->slot->value[0] = value;
	fake_check();
	gmm__slot_set(a->slot, 0, GMM_PAGE_UNIQUE, value); /* the counts follow, the references do not */
	ck_assert_ptr_nonnull(gmm__accounts_validate(world->gmm));
	gmm__slot_set(a->slot, 0, GMM_PAGE_SHARED, value);
	fake_close();
}
END_TEST

START_TEST(derived_figures)
{
	struct gmm_stats stats;

	open_mixture();
	ck_assert_int_eq(gmm_instance_stats(world->gmm, &stats), GMM_OK);
	ck_assert_uint_eq(stats.total.pages, 120);
	ck_assert_uint_eq(stats.total.references, stats.total.state_pages[GMM_PAGE_SHARED] +
			  stats.total.state_pages[GMM_PAGE_FILL]);
	ck_assert_uint_eq(stats.allocated_pages, stats.total.private_pages + stats.pool_pages);
	ck_assert_uint_eq(stats.saved_pages, stats.total.references - stats.pool_pages);
	uint64_t private = 0;
	for (uint32_t i = 0; i < 40; i++)
		private += (a->page[i].kind == FAKE_PRIVATE) + (b->page[i].kind == FAKE_PRIVATE) +
			   (b->page[i].kind == FAKE_BROKEN) + (other->page[i].kind == FAKE_PRIVATE);
	ck_assert_uint_eq(stats.total.private_pages, private);
	fake_close();
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		counts_of_a_vm, sums_of_a_pool, references_of_a_page, covers_of_a_page, states_of_a_record, page_tables,
		derived_figures,
	};

	return unit_main("accounts", tests, sizeof tests / sizeof *tests);
}
