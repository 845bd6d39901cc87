/* Requests to paged VMs, one pass of the engine at a time: every answer, at once, late and never, true and false, and the end
 * of a VM in between. After each step the accounts are recounted. */
#include <gmm/pages.h>

#include <string.h>

#include "dedup/mapped.h"
#include "dedup/paged_lookup.h"
#include "tests/support/suite.h"
#include "tests/unit/support/hand_engine.h"
#include "tests/unit/support/unit.h"

enum { PAGES = 8, LOG = 256 };

static struct gmm *gmm;
static struct gmm__engine *engine;

/* A VM, its table, and how it answers. */
struct guest {
	struct gmm_vm *vm;
	gmm_page_id table[PAGES];
	gmm_page_id handy;
	enum gmm_answer check, update; /* its answers */
	void (*at_check)(struct guest *guest, const struct gmm_request *request);
	struct gmm_request log[LOG];
	uint32_t n;
};

static struct guest a, b;

static uint8_t *bytes(struct guest *guest, int i)
{
	return vm_page(guest->vm, guest->table[i]);
}

/* What a VMM does for an UPDATE. */
static void update(struct guest *guest, const struct gmm_request *request)
{
	uint64_t i = request->guest_addr / GMM_PAGE_SIZE;

	ck_assert_uint_lt(i, PAGES);
	ck_assert_uint_eq(guest->table[i], request->page);
	guest->table[i] = request->shared_page;
}

static enum gmm_answer answer(void *arg, struct gmm_vm *vm, const struct gmm_request *request)
{
	struct guest *guest = arg;

	ck_assert_ptr_eq(vm, guest->vm);
	ck_assert_uint_lt(guest->n, LOG);
	guest->log[guest->n++] = *request;
	if (request->kind == GMM_REQUEST_CHECK) {
		if (guest->at_check)
			guest->at_check(guest, request);
		return guest->check;
	}
	if (request->kind == GMM_REQUEST_UPDATE) {
		update(guest, request);
		return guest->update;
	}
	return GMM_ANSWER_ACCEPTED;
}

static uint32_t told(const struct guest *guest, enum gmm_request_kind kind)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < guest->n; i++)
		n += guest->log[i].kind == kind;
	return n;
}

static const struct gmm_request *last(const struct guest *guest, enum gmm_request_kind kind)
{
	const struct gmm_request *found = NULL;

	for (uint32_t i = 0; i < guest->n; i++)
		if (guest->log[i].kind == kind)
			found = &guest->log[i];
	ck_assert_ptr_nonnull(found);
	return found;
}

static void listen(struct guest *guest, uint32_t max_pending)
{
	struct gmm_paged_options options;

	gmm_paged_options_init(&options);
	options.request = answer;
	options.request_arg = guest;
	options.max_pending = max_pending;
	assert_ok(gmm_paged_set_options(guest->vm, &options));
}

/* reserved: few pages come from chunks that VMs have in common, many from its own. */
static void begin_guest(struct guest *guest, uint64_t reserved, uint32_t max_pending)
{
	const struct gmm_reservation reservation = { .pages = { reserved, 8, 8 }, .overcommit = GMM_OVERCOMMIT_BEST_EFFORT };
	uint64_t addrs[PAGES];
	struct gmm_vm_options options;

	memset(guest, 0, sizeof *guest);
	gmm_vm_options_init(&options);
	options.kind = GMM_VM_PAGED;
	assert_ok(gmm_vm_create(gmm, &options, &guest->vm));
	assert_ok(gmm_vm_reserve(guest->vm, &reservation));
	listen(guest, max_pending);
	for (int i = 0; i < PAGES; i++)
		addrs[i] = (uint64_t)i * GMM_PAGE_SIZE;
	assert_ok(gmm_vm_allocate_pages(guest->vm, GMM_ACCOUNT_BASE, PAGES, addrs, guest->table));
	assert_ok(gmm_vm_allocate_pages(guest->vm, GMM_ACCOUNT_BASE, 1, NULL, &guest->handy));
	for (int i = 0; i < PAGES; i++) /* all different */
		for (uint32_t k = 0; k < GMM_PAGE_SIZE; k++)
			bytes(guest, i)[k] = (uint8_t)((k * 7 + 13) ^ (i * 31 + (guest == &b ? 128 : 1) + k / 256));
}

static void equal_pages(int i)
{
	memcpy(bytes(&a, i), bytes(&b, i), GMM_PAGE_SIZE);
}

static void begin_with(uint64_t reserved, uint32_t max_pending)
{
	assert_ok(gmm_instance_open(NULL, &gmm));
	engine = hand_engine_new(gmm, gmm__backend_mapped());
	begin_guest(&a, reserved, max_pending);
	begin_guest(&b, reserved, max_pending);
}

static void begin(void)
{
	begin_with(4096, 64);
}

static void passes(int n)
{
	for (int i = 0; i < n; i++) {
		gmm__engine_pass(engine);
		assert_ok(gmm_instance_validate(gmm));
	}
}

static struct gmm_vm_memory_stats memory_of(const struct guest *guest)
{
	struct gmm_vm_memory_stats stats;

	assert_ok(gmm_vm_memory_stats(guest->vm, &stats));
	return stats;
}

static void check_vm(const struct guest *guest, uint64_t private_pages, uint64_t references)
{
	struct gmm_vm_memory_stats stats = memory_of(guest);

	ck_assert_uint_eq(stats.memory.private_pages, private_pages);
	ck_assert_uint_eq(stats.memory.references, references);
	ck_assert_uint_eq(stats.memory.used_pages[GMM_ACCOUNT_BASE], private_pages + references);
}

static void check_pool(uint64_t shared)
{
	struct gmm_instance_memory_stats stats;

	assert_ok(gmm_instance_memory_stats(gmm, &stats));
	ck_assert_uint_eq(stats.shared_pages, shared);
}

static void end_guest(struct guest *guest)
{
	if (guest->vm)
		assert_ok(gmm_vm_destroy(guest->vm, GMM_RAM_DISCARD));
	guest->vm = NULL;
	assert_ok(gmm_instance_validate(gmm));
}

/* Pages digested in so many passes. */
static uint64_t digested_in(int n)
{
	uint64_t before = engine->digested_pages;

	passes(n);
	return engine->digested_pages - before;
}

/* Nothing is left. */
static void finish(void)
{
	struct gmm_instance_memory_stats stats;

	end_guest(&a);
	end_guest(&b);
	assert_ok(gmm_instance_memory_stats(gmm, &stats));
	ck_assert_uint_eq(stats.committed_pages, 0);
	ck_assert_uint_eq(stats.shared_pages, 0);
	ck_assert_uint_eq(stats.memory.chunks, 0);
	hand_engine_free(engine);
	assert_ok(gmm_instance_close(gmm));
}

/* ---- answers at once ------------------------------------------------------------------------------------------------ */

START_TEST(accepted)
{
	uint8_t before[GMM_PAGE_SIZE];

	begin();
	equal_pages(3);
	memcpy(before, bytes(&b, 3), sizeof before);
	passes(1);
	ck_assert_uint_eq(told(&a, GMM_REQUEST_CHECK) + told(&b, GMM_REQUEST_CHECK), 0); /* nobody knows yet that it is quiet */
	passes(1);
	ck_assert_uint_eq(told(&a, GMM_REQUEST_CHECK) + told(&b, GMM_REQUEST_CHECK), 1);
	check_pool(1);
	passes(1);
	ck_assert_uint_eq(a.table[3], b.table[3]);
	check_pool(1);
	check_vm(&a, PAGES, 1);
	check_vm(&b, PAGES, 1);
	ck_assert_int_eq(memcmp(bytes(&a, 3), before, sizeof before), 0);
	ck_assert_uint_eq(last(&a, GMM_REQUEST_CHECK)->id, last(&a, GMM_REQUEST_UPDATE)->id);
	ck_assert_uint_eq(last(&a, GMM_REQUEST_CHECK)->guest_addr, 3 * GMM_PAGE_SIZE);
	passes(3);
	ck_assert_uint_eq(told(&a, GMM_REQUEST_CHECK) + told(&b, GMM_REQUEST_CHECK), 2);
	ck_assert_uint_eq(told(&a, GMM_REQUEST_FLUSH), 6);

	struct gmm_handy_page handy = { .guest_addr = 3 * GMM_PAGE_SIZE, .page = a.handy, .shared_page = a.table[3] };
	a.table[3] = a.handy;
	assert_ok(gmm_vm_refill_handy_pages(a.vm, 1, 1, &handy)); /* the guest wrote to it */
	check_vm(&a, PAGES + 1, 0);
	check_vm(&b, PAGES, 1);
	finish();
}
END_TEST

/* Pages whose samples are alike find each other by their whole digests, and what comes later finds what they share. */
START_TEST(told_apart)
{
	gmm__page_id hint;

	begin();
	equal_pages(3);
	struct gmm__catalog *catalog = a.vm->domain->catalog;
	uint32_t fingerprint = gmm__digest_sample(bytes(&a, 3), &catalog->secret).fingerprint;
	gmm__paged_lookup_prepare(a.vm, 0);
	ck_assert(gmm__catalog_tell_apart(catalog, fingerprint, &hint));
	passes(3);
	ck_assert_uint_eq(a.table[3], b.table[3]);
	check_pool(1);
	memcpy(bytes(&a, 4), bytes(&b, 3), GMM_PAGE_SIZE);
	passes(3);
	ck_assert_uint_eq(a.table[4], b.table[3]);
	check_pool(1);
	ck_assert_uint_eq(gmm__catalog_find_shared(catalog, fingerprint), GMM__ALIKE);
	finish();
}
END_TEST

static void write_it(struct guest *guest, const struct gmm_request *request)
{
	bytes(guest, (int)(request->guest_addr / GMM_PAGE_SIZE))[100]++;
}

START_TEST(changed)
{
	begin();
	equal_pages(0);
	a.check = b.check = GMM_ANSWER_CHANGED;
	a.at_check = b.at_check = write_it;
	passes(6);
	check_pool(0);
	struct gmm_vm_memory_stats of_a = memory_of(&a), of_b = memory_of(&b);
	ck_assert_uint_gt(of_a.memory.counters.changed + of_b.memory.counters.changed, 0);
	ck_assert_uint_eq(told(&a, GMM_REQUEST_UPDATE) + told(&b, GMM_REQUEST_UPDATE) + told(&a, GMM_REQUEST_CANCEL), 0);
	finish();
}
END_TEST

/* Written between the question and its acceptance: the compare sees it. */
START_TEST(accepted_after_a_write)
{
	begin();
	equal_pages(0);
	passes(1);
	a.at_check = b.at_check = write_it;
	passes(1);
	check_pool(0);
	ck_assert_uint_eq(told(&a, GMM_REQUEST_CANCEL) + told(&b, GMM_REQUEST_CANCEL), 1);
	check_vm(&a, PAGES + 1, 0);
	check_vm(&b, PAGES + 1, 0);
	finish();
}
END_TEST

START_TEST(busy)
{
	begin();
	equal_pages(5);
	a.check = b.check = GMM_ANSWER_BUSY;
	passes(4);
	check_pool(0);
	ck_assert_uint_ge(told(&a, GMM_REQUEST_CHECK) + told(&b, GMM_REQUEST_CHECK), 3); /* asked again */
	a.check = b.check = GMM_ANSWER_ACCEPTED;
	passes(2);
	ck_assert_uint_eq(a.table[5], b.table[5]);
	check_pool(1);
	finish();
}
END_TEST

START_TEST(zeros)
{
	begin();
	memset(bytes(&a, 2), 0, GMM_PAGE_SIZE);
	passes(2);
	ck_assert_uint_eq(a.table[2], 0);
	ck_assert_uint_eq(last(&a, GMM_REQUEST_UPDATE)->shared_page, 0);
	check_vm(&a, PAGES, 0);
	check_pool(0);
	finish();
}
END_TEST

/* Pages of other accounts, unshareable ones and those whose place is not known are left alone: all are zero here. */
START_TEST(not_asked_about)
{
	uint64_t addrs[2] = { 20 * GMM_PAGE_SIZE, GMM_GUEST_UNSHAREABLE };
	gmm_page_id fixed, page, shared;

	begin();
	assert_ok(gmm_vm_allocate_pages(a.vm, GMM_ACCOUNT_FIXED, 1, addrs, &fixed));
	assert_ok(gmm_vm_allocate_pages(a.vm, GMM_ACCOUNT_BASE, 1, addrs + 1, &page));
	passes(3);
	ck_assert_uint_eq(told(&a, GMM_REQUEST_CHECK), 0);
	ck_assert_int_eq(gmm_vm_share_page(a.vm, fixed, &shared), GMM_ERR_PAGE_UNSHAREABLE);
	finish();
}
END_TEST

/* ---- late, and never -------------------------------------------------------------------------------------------------- */

static struct guest *asked_one(void)
{
	uint32_t of_a = told(&a, GMM_REQUEST_CHECK), of_b = told(&b, GMM_REQUEST_CHECK);

	ck_assert_uint_eq(of_a + of_b, 1);
	return of_a ? &a : &b;
}

static struct guest *other(const struct guest *guest)
{
	return guest == &a ? &b : &a;
}

/* The one of the two whose page was found second was asked, and has not answered yet. */
static struct guest *begin_late(uint64_t reserved)
{
	begin_with(reserved, 64);
	equal_pages(1);
	a.check = b.check = GMM_ANSWER_LATER;
	passes(4);
	check_pool(0);
	return asked_one(); /* not a second time */
}

static void accept_late(struct guest *guest, struct gmm_request *ret_outcome)
{
	uint64_t id = last(guest, GMM_REQUEST_CHECK)->id;

	assert_ok(gmm_paged_answer(guest->vm, id, GMM_ANSWER_ACCEPTED, ret_outcome));
	assert_ok(gmm_instance_validate(gmm));
}

START_TEST(late)
{
	struct guest *asked = begin_late(4096);
	struct gmm_request outcome;
	gmm_page_id old = asked->table[1], freed = old;
	const uint8_t *before = bytes(asked, 1);
	uint32_t n;

	accept_late(asked, &outcome);
	ck_assert_int_eq(outcome.kind, GMM_REQUEST_UPDATE);
	check_pool(1);
	check_vm(asked, PAGES, 1);
	ck_assert_int_eq(memcmp(before, vm_page(asked->vm, outcome.shared_page), GMM_PAGE_SIZE), 0); /* still readable */
	ck_assert_int_ne(gmm_vm_free_pages(asked->vm, GMM_ACCOUNT_BASE, 1, &freed, &n), GMM_OK); /* not its own any more */
	update(asked, &outcome);
	assert_ok(gmm_paged_answer(asked->vm, outcome.id, GMM_ANSWER_ACCEPTED, &outcome));
	ck_assert_int_eq(outcome.kind, GMM_REQUEST_CANCEL);
	ck_assert_int_eq(gmm_paged_answer(asked->vm, outcome.id, GMM_ANSWER_ACCEPTED, &outcome), GMM_ERR_NOT_FOUND);
	assert_ok(gmm_instance_validate(gmm));
	passes(1);
	accept_late(other(asked), &outcome);
	ck_assert_uint_eq(outcome.shared_page, asked->table[1]);
	check_pool(1);
	finish();
}
END_TEST

START_TEST(late_and_different)
{
	struct guest *asked = begin_late(4096);
	struct gmm_request outcome;

	bytes(asked, 1)[4095]++;
	accept_late(asked, &outcome);
	ck_assert_int_eq(outcome.kind, GMM_REQUEST_CANCEL);
	ck_assert_uint_eq(outcome.page, asked->table[1]);
	check_pool(0);
	finish();
}
END_TEST

START_TEST(late_changed_and_busy)
{
	struct guest *asked = begin_late(4096);
	struct gmm_request outcome;

	assert_ok(gmm_paged_answer(asked->vm, last(asked, GMM_REQUEST_CHECK)->id, GMM_ANSWER_BUSY, &outcome));
	ck_assert_int_eq(outcome.kind, GMM_REQUEST_CANCEL);
	assert_ok(gmm_instance_validate(gmm));
	passes(1);
	ck_assert_uint_eq(told(asked, GMM_REQUEST_CHECK), 2);
	assert_ok(gmm_paged_answer(asked->vm, last(asked, GMM_REQUEST_CHECK)->id, GMM_ANSWER_CHANGED, &outcome));
	check_pool(0);
	assert_ok(gmm_instance_validate(gmm));
	passes(1); /* it is to be quiet for a pass */
	ck_assert_uint_eq(told(asked, GMM_REQUEST_CHECK), 2);
	a.check = b.check = GMM_ANSWER_ACCEPTED;
	passes(4);
	ck_assert_uint_eq(a.table[1], b.table[1]);
	finish();
}
END_TEST

START_TEST(never)
{
	begin_with(4096, 2);
	for (int i = 0; i < PAGES; i++)
		equal_pages(i);
	a.check = b.check = GMM_ANSWER_LATER;
	passes(10);
	struct guest *asked = told(&a, GMM_REQUEST_CHECK) ? &a : &b;
	ck_assert_uint_eq(told(asked, GMM_REQUEST_CHECK), 2);
	ck_assert_uint_eq(told(other(asked), GMM_REQUEST_CHECK), 0);
	check_pool(0);
	listen(asked, 64); /* what was asked is forgotten */
	asked->check = GMM_ANSWER_ACCEPTED;
	passes(1);
	check_pool(PAGES);
	finish();
}
END_TEST

/* ---- ends in between ---------------------------------------------------------------------------------------------------- */

static void end_in_between(uint64_t reserved)
{
	struct guest *asked = begin_late(reserved);
	struct gmm_request outcome;

	accept_late(asked, &outcome);
	ck_assert_int_eq(outcome.kind, GMM_REQUEST_UPDATE);
	passes(1);
	struct guest *second = other(asked);
	accept_late(second, &outcome);
	uint8_t first_byte = vm_page(asked->vm, outcome.shared_page)[0];
	end_guest(asked);
	check_pool(1); /* the other has it */
	ck_assert_uint_eq(vm_page(second->vm, outcome.shared_page)[0], first_byte);
	check_vm(second, PAGES, 1);
	end_guest(second);
	check_pool(0);
	finish();
}

START_TEST(end_with_own_chunks)
{
	end_in_between(4096);
}
END_TEST

START_TEST(end_with_common_chunks)
{
	end_in_between(2 * PAGES);
}
END_TEST

START_TEST(end_while_asked)
{
	struct guest *asked = begin_late(4096);

	end_guest(asked);
	passes(2);
	check_vm(other(asked), PAGES + 1, 0);
	finish();
}
END_TEST

/* ---- false answers ------------------------------------------------------------------------------------------------------ */

static void free_it(struct guest *guest, const struct gmm_request *request)
{
	gmm_page_id page = request->page;
	uint64_t i = request->guest_addr / GMM_PAGE_SIZE, addr = request->guest_addr + 100 * GMM_PAGE_SIZE;

	assert_ok(gmm_vm_free_pages(guest->vm, GMM_ACCOUNT_BASE, 1, &page, NULL));
	assert_ok(gmm_vm_allocate_pages(guest->vm, GMM_ACCOUNT_BASE, 1, &addr, &guest->table[i]));
}

START_TEST(freed_and_accepted)
{
	begin();
	equal_pages(4);
	a.at_check = b.at_check = free_it;
	passes(2);
	ck_assert_uint_eq(told(&a, GMM_REQUEST_CANCEL) + told(&b, GMM_REQUEST_CANCEL), 1);
	check_pool(0);
	finish();
}
END_TEST

static void answer_twice(struct guest *guest, const struct gmm_request *request)
{
	struct gmm_request outcome;

	assert_ok(gmm_paged_answer(guest->vm, request->id, GMM_ANSWER_BUSY, &outcome));
}

START_TEST(hostile_answers)
{
	struct gmm_request outcome = { .id = 77 };
	struct gmm_paged_options options;

	begin();
	equal_pages(6);
	a.at_check = b.at_check = answer_twice;
	passes(3);
	check_pool(0);
	ck_assert_uint_eq(told(&a, GMM_REQUEST_UPDATE) + told(&b, GMM_REQUEST_UPDATE), 0);
	a.at_check = b.at_check = NULL;
	a.check = b.check = (enum gmm_answer)99;
	passes(1);
	check_pool(0);
	a.check = b.check = GMM_ANSWER_ACCEPTED;
	a.update = b.update = GMM_ANSWER_BUSY; /* that was no question */
	passes(2);
	check_pool(1);
	uint64_t id = last(&a, GMM_REQUEST_UPDATE)->id;
	ck_assert_int_eq(gmm_paged_answer(a.vm, id, GMM_ANSWER_CHANGED, &outcome), GMM_ERR_INVALID_PARAMETER);
	ck_assert_int_eq(gmm_paged_answer(a.vm, id, GMM_ANSWER_LATER, &outcome), GMM_ERR_INVALID_PARAMETER);
	ck_assert_int_eq(gmm_paged_answer(a.vm, id + 1, GMM_ANSWER_ACCEPTED, &outcome), GMM_ERR_NOT_FOUND);
	ck_assert_int_eq(gmm_paged_answer(a.vm, 0, GMM_ANSWER_ACCEPTED, &outcome), GMM_ERR_NOT_FOUND);
	ck_assert_int_eq(gmm_paged_answer(a.vm, id, GMM_ANSWER_ACCEPTED, NULL), GMM_ERR_INVALID_PARAMETER);
	ck_assert_uint_eq(outcome.id, 77);
	gmm_paged_options_init(&options);
	ck_assert_int_eq(gmm_paged_set_options(a.vm, &options), GMM_ERR_WRONG_ORDER);
	assert_ok(gmm_paged_answer(a.vm, id, GMM_ANSWER_ACCEPTED, &outcome));
	assert_ok(gmm_paged_set_options(a.vm, &options));
	options.max_pending = 0;
	ck_assert_int_eq(gmm_paged_set_options(a.vm, &options), GMM_ERR_INVALID_PARAMETER);
	ck_assert_int_eq(gmm_paged_set_options(a.vm, NULL), GMM_ERR_INVALID_PARAMETER);
	finish();
}
END_TEST

/* ---- duplicates ---------------------------------------------------------------------------------------------------------- */

START_TEST(duplicates_by_the_index)
{
	bool found = true;

	begin();
	a.check = b.check = GMM_ANSWER_BUSY;
	assert_ok(gmm_vm_find_duplicate(a.vm, a.table[7], &found));
	ck_assert(!found);
	equal_pages(7);
	struct gmm_paged_options options;
	gmm_paged_options_init(&options);
	assert_ok(gmm_paged_set_options(a.vm, &options)); /* never looked at */
	passes(2);
	assert_ok(gmm_vm_find_duplicate(a.vm, a.table[7], &found)); /* b's was never asked about */
	ck_assert(found);
	bytes(&b, 7)[0]++;
	bytes(&b, 7)[4000]++;
	assert_ok(gmm_vm_find_duplicate(a.vm, a.table[7], &found));
	ck_assert(!found);
	finish();
}
END_TEST

/* What does not change is looked at ever more seldom; what comes into use, and what has an equal page elsewhere, at once. */
START_TEST(idle_chunks_rest)
{
	begin();
	a.check = b.check = a.update = b.update = GMM_ANSWER_ACCEPTED;
	passes(70);
	ck_assert_uint_le(digested_in(64), 2 * 2 * PAGES + 2 * PAGES);
	uint64_t addr = 100 * GMM_PAGE_SIZE;
	gmm_page_id page;
	assert_ok(gmm_vm_allocate_pages(a.vm, GMM_ACCOUNT_BASE, 1, &addr, &page)); /* in the chunk where its others are */
	memset(vm_page(a.vm, page), 5, GMM_PAGE_SIZE);
	ck_assert_uint_ge(digested_in(1), PAGES + 1);
	passes(70);
	equal_pages(3); /* it is written without anybody's knowing: found at the next look, and its twin right then */
	passes(34);
	check_vm(&a, PAGES + 1, 1);
	check_vm(&b, PAGES, 1);
	ck_assert_uint_eq(a.table[3], b.table[3]);
	assert_ok(gmm_vm_free_pages(a.vm, GMM_ACCOUNT_BASE, 1, &page, NULL));
	finish();
}
END_TEST

int main(void)
{
	const TTest *const tests[] = { idle_chunks_rest, accepted, told_apart, changed, accepted_after_a_write, busy, zeros, not_asked_about, late,
				       late_and_different, late_changed_and_busy, never, end_with_own_chunks,
				       end_with_common_chunks, end_while_asked, freed_and_accepted, hostile_answers,
				       duplicates_by_the_index };

	return unit_main("paged_requests", tests, sizeof tests / sizeof *tests);
}
