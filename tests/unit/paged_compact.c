/* Compaction where paged VMs use the shared pages: they move when all agree, and stay when somebody does not, whatever a VMM answers,
 * when it answers, and if it ends instead. The accounts are recounted after each step, also while VMs are being asked.
 */
#include <gmm/pages.h>

#include <string.h>

#include "gmm/paged.h"
#include "tests/support/suite.h"
#include "tests/unit/support/unit.h"

enum { CHUNKS = 4, PAGES = CHUNKS * GMM_CHUNK_PAGES, KEPT = PAGES / 8, LOG = 4096 };

static struct gmm *gmm;

struct guest {
	struct gmm_vm *vm;
	gmm_page_id table[PAGES];
	enum gmm_answer move, update;
	uint32_t asked, updates, cancels;
	struct gmm_request open[LOG]; /* asked, and answered LATER */
	struct gmm_request told;      /* the last UPDATE */
	void (*at_move)(struct guest *guest);
};

static struct guest a, b;

static const uint8_t *expected(uint32_t i)
{
	static uint32_t page[GMM_PAGE_SIZE / sizeof(uint32_t)];

	for (uint32_t k = 0; k < GMM_PAGE_SIZE / sizeof *page; k++)
		page[k] = (i + 1) * 2654435761u ^ k;
	return (const uint8_t *)page;
}

static void check_bytes(struct guest *guest)
{
	for (uint32_t i = 0; guest->vm && i < PAGES; i++)
		if (guest->table[i])
			ck_assert_mem_eq(vm_page(guest->vm, guest->table[i]), expected(i), GMM_PAGE_SIZE);
}

static void replace(struct guest *guest, const struct gmm_request *outcome)
{
	guest->told = *outcome;
	guest->updates++;
	for (uint32_t i = 0; i < PAGES; i++)
		if (guest->table[i] == outcome->page)
			guest->table[i] = outcome->shared_page;
}

static enum gmm_answer answer(void *arg, struct gmm_vm *vm, const struct gmm_request *request)
{
	struct guest *guest = arg;

	ck_assert_ptr_eq(vm, guest->vm);
	if ((guest->asked + guest->updates) % 16 < 2)
		assert_ok(gmm_instance_validate(gmm)); /* whoever is asked may ask for a snapshot */
	if (request->kind == GMM_REQUEST_MOVE) {
		ck_assert_uint_eq(request->guest_addr, GMM_GUEST_NIL);
		ck_assert_uint_lt(guest->asked, LOG);
		guest->open[guest->asked++] = *request;
		if (guest->at_move)
			guest->at_move(guest);
		return guest->move;
	}
	if (request->kind == GMM_REQUEST_UPDATE) {
		struct gmm_stats stats;
		assert_ok(gmm_instance_stats(gmm, &stats));
		ck_assert_uint_eq(stats.saved_pages, stats.total.references - stats.pool_pages);
		ck_assert_uint_le(stats.pool_pages, stats.total.references);
		ck_assert_mem_eq(vm_page(guest->vm, request->page), vm_page(guest->vm, request->shared_page), GMM_PAGE_SIZE);
		replace(guest, request);
		return guest->update;
	}
	guest->cancels += request->kind == GMM_REQUEST_CANCEL;
	return GMM_ANSWER_ACCEPTED;
}

static void listen(struct guest *guest, gmm_request_fn *fn, uint32_t max_pending)
{
	struct gmm_paged_options options;

	gmm_paged_options_init(&options);
	options.request = fn;
	options.request_arg = guest;
	options.max_pending = max_pending;
	assert_ok(gmm_paged_set_options(guest->vm, &options));
}

static void begin_guest(struct guest *guest)
{
	const struct gmm_reservation reservation = { .pages = { PAGES + 1000, 8, 8 }, .overcommit = GMM_OVERCOMMIT_BEST_EFFORT };
	struct gmm_vm_options options;

	memset(guest, 0, sizeof *guest);
	gmm_vm_options_init(&options);
	options.kind = GMM_VM_PAGED;
	assert_ok(gmm_vm_create(gmm, &options, &guest->vm));
	assert_ok(gmm_vm_reserve(guest->vm, &reservation));
	assert_ok(gmm_vm_allocate_pages(guest->vm, GMM_ACCOUNT_BASE, PAGES, NULL, guest->table));
	for (uint32_t i = 0; i < PAGES; i++)
		memcpy(vm_page(guest->vm, guest->table[i]), expected(i), GMM_PAGE_SIZE);
	listen(guest, answer, 1024);
}

static void free_page(struct guest *guest, uint32_t i)
{
	assert_ok(gmm_vm_free_pages(guest->vm, GMM_ACCOUNT_BASE, 1, &guest->table[i], NULL));
}

static uint64_t pool_chunks(void)
{
	struct gmm_stats stats;

	assert_ok(gmm_instance_stats(gmm, &stats));
	return stats.pool_chunks;
}

static uint64_t pool_pages(void)
{
	struct gmm_instance_memory_stats stats;

	assert_ok(gmm_instance_memory_stats(gmm, &stats));
	return stats.shared_pages;
}

static uint64_t references(struct guest *guest)
{
	struct gmm_vm_memory_stats stats;

	assert_ok(gmm_vm_memory_stats(guest->vm, &stats));
	return stats.memory.references;
}

/* Both share all pages, and keep 16 of each 128 of them. */
static void begin(void)
{
	bool joined;

	assert_ok(gmm_instance_open(NULL, &gmm));
	begin_guest(&a);
	begin_guest(&b);
	for (uint32_t i = 0; i < PAGES; i++) {
		assert_ok(gmm_vm_share_page(a.vm, a.table[i], &a.table[i]));
		assert_ok(gmm_vm_join_page(b.vm, b.table[i], a.table[i], &joined));
		ck_assert(joined);
		b.table[i] = a.table[i];
	}
	ck_assert_uint_eq(pool_chunks(), CHUNKS);
	for (uint32_t i = 0; i < PAGES; i++) {
		if (i % 128 < 16)
			continue;
		free_page(&a, i);
		free_page(&b, i);
	}
	ck_assert_uint_eq(pool_pages(), KEPT);
}

static void compact(void)
{
	assert_ok(gmm_instance_compact(gmm, NULL));
	check_bytes(&a);
	check_bytes(&b);
	assert_ok(gmm_instance_validate(gmm));
}

static void end_guest(struct guest *guest)
{
	if (guest->vm)
		assert_ok(gmm_vm_destroy(guest->vm, GMM_RAM_DISCARD));
	guest->vm = NULL;
	assert_ok(gmm_instance_validate(gmm));
}

static void finish(void)
{
	struct gmm_instance_memory_stats stats;

	end_guest(&a);
	check_bytes(&b);
	end_guest(&b);
	assert_ok(gmm_instance_memory_stats(gmm, &stats));
	ck_assert_uint_eq(stats.committed_pages, 0);
	ck_assert_uint_eq(stats.shared_pages, 0);
	assert_ok(gmm_instance_close(gmm));
}

/* ---- answers at once ------------------------------------------------------------------------------------------------ */

START_TEST(all_agree)
{
	begin();
	a.move = a.update = b.move = b.update = GMM_ANSWER_ACCEPTED;
	free_page(&a, 0); /* one page that only b uses */
	compact();
	ck_assert_uint_eq(pool_chunks(), 1);
	ck_assert_uint_eq(pool_pages(), KEPT);
	ck_assert_uint_ge(a.updates, KEPT / CHUNKS * (CHUNKS - 1) - 1);
	ck_assert_uint_eq(a.cancels + b.cancels, 0);
	for (uint32_t i = 1; i < PAGES; i++)
		ck_assert_uint_eq(a.table[i], b.table[i]);
	ck_assert_uint_eq(references(&a) + 1, references(&b));
	finish();
}
END_TEST

/* Whoever is asked second declines: the first has moved, so those pages are there twice until it is asked again. */
START_TEST(one_declines)
{
	begin();
	a.move = a.update = b.update = GMM_ANSWER_ACCEPTED;
	b.move = GMM_ANSWER_BUSY;
	compact();
	ck_assert_uint_gt(a.updates, 0);
	ck_assert_uint_eq(b.updates, 0);
	ck_assert_uint_gt(pool_pages(), KEPT);
	ck_assert_uint_le(pool_pages(), 2 * KEPT);
	ck_assert_uint_eq(references(&a) + references(&b), 2 * KEPT);
	b.move = GMM_ANSWER_ACCEPTED;
	compact();
	ck_assert_uint_gt(b.updates, 0);
	ck_assert_uint_le(pool_pages(), KEPT + KEPT / CHUNKS); /* it followed, but where its old page was in no sparse chunk */
	ck_assert_uint_eq(pool_chunks(), 1);
	ck_assert_uint_eq(references(&a) + references(&b), 2 * KEPT);
	finish();
}
END_TEST

/* Whoever is asked first declines: nobody moves, and nothing is there twice. */
START_TEST(the_first_declines)
{
	static const enum gmm_answer answers[] = { GMM_ANSWER_BUSY, GMM_ANSWER_CHANGED, (enum gmm_answer)77 };

	for (size_t k = 0; k < sizeof answers / sizeof *answers; k++) {
		begin();
		a.move = answers[k];
		b.move = b.update = GMM_ANSWER_ACCEPTED;
		compact();
		ck_assert_uint_gt(a.asked, 0);
		ck_assert_uint_lt(a.asked, 4 * PAGES); /* it is left alone then */
		ck_assert_uint_eq(a.updates + b.updates + b.asked, 0);
		ck_assert_uint_eq(pool_pages(), KEPT);
		finish();
	}
}
END_TEST

START_TEST(nobody_to_ask)
{
	begin();
	listen(&a, NULL, 64);
	b.move = b.update = GMM_ANSWER_ACCEPTED;
	compact();
	ck_assert_uint_eq(b.asked, 0);
	ck_assert_uint_eq(pool_pages(), KEPT);
	finish();
}
END_TEST

/* Nothing to spare for the moment when both pages are used. */
START_TEST(at_the_end_of_its_reservation)
{
	uint64_t pages[GMM_ACCOUNTS] = { KEPT, 1, 1 };

	begin();
	a.move = a.update = GMM_ANSWER_ACCEPTED;
	assert_ok(gmm_vm_update_reservation(a.vm, pages));
	compact();
	ck_assert_uint_gt(a.cancels, 0);
	ck_assert_uint_eq(a.updates, 0);
	ck_assert_uint_eq(pool_pages(), KEPT);
	finish();
}
END_TEST

/* ---- late answers ----------------------------------------------------------------------------------------------------- */

static void answer_all(struct guest *guest, enum gmm_answer answer_now)
{
	uint32_t n = guest->asked;

	guest->asked = 0;
	for (uint32_t i = 0; i < n; i++) {
		struct gmm_request outcome;
		int status = gmm_paged_answer(guest->vm, guest->open[i].id, answer_now, &outcome);
		assert_ok(status);
		if (i % 16 == 0)
			assert_ok(gmm_instance_validate(gmm));
		if (outcome.kind != GMM_REQUEST_UPDATE)
			continue;
		ck_assert_mem_eq(vm_page(guest->vm, outcome.page), vm_page(guest->vm, outcome.shared_page), GMM_PAGE_SIZE);
		replace(guest, &outcome);
		assert_ok(gmm_paged_answer(guest->vm, outcome.id, GMM_ANSWER_ACCEPTED, &outcome));
		if (i % 16 == 1)
			assert_ok(gmm_instance_validate(gmm));
	}
}

START_TEST(late)
{
	begin();
	a.move = b.move = GMM_ANSWER_LATER;
	a.update = b.update = GMM_ANSWER_ACCEPTED;
	compact();
	ck_assert_uint_eq(a.updates + b.updates, 0);
	ck_assert_uint_eq(pool_pages(), KEPT); /* an unanswered one holds nothing */
	answer_all(&a, GMM_ANSWER_ACCEPTED);
	ck_assert_uint_gt(a.updates, 0);
	check_bytes(&b);
	a.move = b.move = GMM_ANSWER_ACCEPTED;
	answer_all(&b, GMM_ANSWER_CHANGED);
	for (int i = 0; i < 3; i++)
		compact();
	ck_assert_uint_eq(references(&a) + references(&b), 2 * KEPT);
	ck_assert_uint_lt(pool_chunks(), CHUNKS);
	finish();
}
END_TEST

/* The VMM looks through its table, then comes to use the page in one more place, then says yes. */
START_TEST(used_anew_while_asked)
{
	struct gmm_request outcome;
	gmm_page_id more;
	bool joined;
	uint32_t i = 0;

	begin();
	a.move = b.move = GMM_ANSWER_LATER;
	compact();
	ck_assert_uint_gt(a.asked, 1);
	while (a.table[i] != a.open[0].page)
		i++;
	assert_ok(gmm_vm_allocate_pages(a.vm, GMM_ACCOUNT_BASE, 1, NULL, &more));
	memcpy(vm_page(a.vm, more), expected(i), GMM_PAGE_SIZE);
	assert_ok(gmm_vm_join_page(a.vm, more, a.table[i], &joined));
	ck_assert(joined);
	assert_ok(gmm_paged_answer(a.vm, a.open[0].id, GMM_ANSWER_ACCEPTED, &outcome));
	ck_assert_int_eq(outcome.kind, GMM_REQUEST_CANCEL);
	assert_ok(gmm_paged_answer(a.vm, a.open[1].id, GMM_ANSWER_ACCEPTED, &outcome));
	ck_assert_int_eq(outcome.kind, GMM_REQUEST_UPDATE);
	replace(&a, &outcome);
	assert_ok(gmm_paged_answer(a.vm, outcome.id, GMM_ANSWER_ACCEPTED, &outcome));
	check_bytes(&a);
	assert_ok(gmm_vm_free_pages(a.vm, GMM_ACCOUNT_BASE, 1, &a.table[i], NULL)); /* the one that has joined */
	check_bytes(&a);
	finish();
}
END_TEST

START_TEST(never)
{
	begin();
	listen(&a, answer, 8);
	a.move = b.move = GMM_ANSWER_LATER;
	compact();
	ck_assert_uint_eq(a.asked, 8); /* its queue is full then */
	ck_assert_uint_eq(pool_pages(), KEPT);
	listen(&a, NULL, 1); /* forgotten */
	struct gmm_request outcome;
	ck_assert_int_eq(gmm_paged_answer(a.vm, a.open[0].id, GMM_ANSWER_ACCEPTED, &outcome), GMM_ERR_NOT_FOUND);
	finish();
}
END_TEST

/* An UPDATE that is not confirmed keeps one reference to the old page, charged to the VM. */
START_TEST(an_update_not_confirmed)
{
	struct gmm_paged_options options;
	struct gmm_request outcome;

	begin();
	a.move = b.move = b.update = GMM_ANSWER_ACCEPTED;
	a.update = GMM_ANSWER_LATER;
	uint64_t before = references(&a);
	compact();
	ck_assert_uint_gt(a.updates, 0);
	ck_assert_uint_eq(references(&a), before + a.updates);
	ck_assert_uint_eq(pool_pages(), KEPT + a.updates);
	gmm_paged_options_init(&options);
	ck_assert_int_eq(gmm_paged_set_options(a.vm, &options), GMM_ERR_WRONG_ORDER);
	ck_assert_int_eq(gmm_paged_answer(a.vm, a.told.id, GMM_ANSWER_BUSY, &outcome), GMM_ERR_INVALID_PARAMETER);
	assert_ok(gmm_paged_answer(a.vm, a.told.id, GMM_ANSWER_ACCEPTED, &outcome));
	ck_assert_uint_eq(references(&a), before + a.updates - 1);
	ck_assert_int_eq(gmm_paged_answer(a.vm, a.told.id, GMM_ANSWER_ACCEPTED, &outcome), GMM_ERR_NOT_FOUND);
	assert_ok(gmm_instance_validate(gmm));
	finish(); /* the VM ends with the others open */
}
END_TEST

/* A VMM that says it will not name the page, and drops its references then. */
static void drop_all(struct guest *guest)
{
	const struct gmm_request *request = &guest->open[guest->asked - 1];

	for (uint32_t i = 0; i < PAGES; i++)
		if (guest->table[i] == request->page)
			free_page(guest, i);
}

START_TEST(freed_while_asked)
{
	begin();
	a.move = a.update = b.move = b.update = GMM_ANSWER_ACCEPTED;
	a.at_move = drop_all;
	compact();
	ck_assert_uint_gt(a.cancels, 0);
	ck_assert_uint_eq(a.updates, 0);
	finish();
}
END_TEST

/* Ends with proposals open, or with updates open. */
START_TEST(ends_in_between)
{
	for (int updates = 0; updates < 2; updates++) {
		begin();
		a.move = updates ? GMM_ANSWER_ACCEPTED : GMM_ANSWER_LATER;
		a.update = b.move = GMM_ANSWER_LATER;
		compact();
		ck_assert_uint_gt(a.asked, 0);
		end_guest(&a);
		ck_assert_uint_eq(references(&b), KEPT);
		ck_assert_uint_eq(pool_pages(), KEPT);
		check_bytes(&b);
		finish();
	}
}
END_TEST

int main(void)
{
	const TTest *tests[] = { all_agree, one_declines, the_first_declines, nobody_to_ask, at_the_end_of_its_reservation, late,
				 used_anew_while_asked, never,
				 an_update_not_confirmed, freed_while_asked, ends_in_between };

	return unit_main("paged_compact", tests, sizeof tests / sizeof *tests);
}
