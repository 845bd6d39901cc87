/* Clones of paged VMs: both have all bytes and write apart from each other, the accounts of both are right after each step, what a
 * table may not say is refused before anything happens, and the n-th call of the host fails, for every n.
 */
#include <gmm/pages.h>

#include <string.h>

#include "dedup/instance.h"
#include "dedup/mapped.h"
#include "tests/support/suite.h"
#include "tests/unit/support/faulty_sys.h"
#include "tests/unit/support/hand_engine.h"

enum { PAGES = 600, SHARED = 3, LARGE = 32, ALL = PAGES + LARGE, RESERVED = 4096 };

static struct gmm *gmm;

/* A VM and its table. */
struct guest {
	struct gmm_vm *vm;
	gmm_page_id table[ALL];
};

static struct guest source, copy;
static struct gmm_clone_page entries[ALL];

static uint8_t *bytes(const struct guest *guest, int i)
{
	return guest->table[i] ? vm_page(guest->vm, guest->table[i]) : NULL;
}

/* Every seventh page is zero, every fifth one of three others, the rest are all different. */
static uint64_t value_of(int i)
{
	return i % 7 == 0 ? 0 : i % 5 == 0 ? 1 + (uint64_t)i % 3 : 1000 + (uint64_t)i;
}

static void set(const struct guest *guest, int i, uint64_t value)
{
	uint8_t *page = bytes(guest, i);

	for (size_t k = 0; k < GMM_PAGE_SIZE / sizeof value; k++)
		memcpy(page + k * sizeof value, &value, sizeof value);
}

static bool is(const struct guest *guest, int i, uint64_t value)
{
	const uint8_t *page = bytes(guest, i);

	for (size_t k = 0; k < GMM_PAGE_SIZE / sizeof value; k++)
		if (memcmp(page + k * sizeof value, &value, sizeof value) != 0)
			return false;
	return true;
}

static void check_bytes(const struct guest *guest)
{
	for (int i = 0; i < ALL; i++)
		ck_assert_msg(is(guest, i, value_of(i)), "page %d", i);
	ck_assert_msg(gmm_instance_validate(gmm) == GMM_OK, "%s", suite_last_log());
}

static void begin_vm(enum gmm_overcommit overcommit)
{
	const struct gmm_reservation reservation = { .pages = { RESERVED, 8, 8 }, .overcommit = overcommit,
						     .priority = GMM_PRIORITY_LOW };
	uint64_t addrs[PAGES];
	struct gmm_vm_options options;
	gmm_page_id large;

	gmm_vm_options_init(&options);
	options.kind = GMM_VM_PAGED;
	options.domain = "ours";
	assert_ok(gmm_vm_create(gmm, &options, &source.vm));
	assert_ok(gmm_vm_reserve(source.vm, &reservation));
	for (int i = 0; i < PAGES; i++)
		addrs[i] = (uint64_t)i * GMM_PAGE_SIZE;
	addrs[4] = GMM_GUEST_UNSHAREABLE;
	assert_ok(gmm_vm_allocate_pages(source.vm, GMM_ACCOUNT_BASE, PAGES, addrs, source.table));
	assert_ok(gmm_vm_allocate_large_page(source.vm, &large));
	for (int i = 0; i < LARGE; i++)
		source.table[PAGES + i] = large + (gmm_page_id)i;
	for (int i = 0; i < ALL; i++)
		set(&source, i, value_of(i));
	for (int i = 8; i < 8 + SHARED; i++)
		assert_ok(gmm_vm_share_page(source.vm, source.table[i], &source.table[i]));
	addrs[0] = 5000 * (uint64_t)GMM_PAGE_SIZE;
	assert_ok(gmm_vm_balloon_pages(source.vm, GMM_BALLOON_INFLATE, 1, addrs, NULL));
}

static void begin(enum gmm_overcommit overcommit)
{
	struct gmm_options options;

	faulty_begin(FAULTY_ANY, 0, 0);
	gmm_options_init(&options);
	options.log = suite_log;
	assert_ok(gmm__instance_open(&options, faulty_sys(), &gmm));
	begin_vm(overcommit);
}

static void fill_entries(void)
{
	for (int i = 0; i < ALL; i++)
		entries[i] = (struct gmm_clone_page){ .guest_addr = (uint64_t)i * GMM_PAGE_SIZE, .page = source.table[i],
						      .copy = i >= 20 && i < 25 };
}

/* As a VMM does it. The source's table is to be brought up to date whatever the outcome. */
static int clone_source(void)
{
	fill_entries();
	int status = gmm_vm_clone_pages(source.vm, "clone", ALL, entries, &copy.vm);

	for (int i = 0; i < ALL; i++) {
		source.table[i] = entries[i].page;
		copy.table[i] = entries[i].clone_page;
	}
	return status;
}

static struct gmm_memory_stats memory(const struct guest *guest)
{
	struct gmm_vm_memory_stats stats;

	assert_ok(gmm_vm_memory_stats(guest->vm, &stats));
	return stats.memory;
}

static struct gmm_instance_memory_stats all(void)
{
	struct gmm_instance_memory_stats stats;

	assert_ok(gmm_instance_memory_stats(gmm, &stats));
	return stats;
}

static void end(struct guest *guest)
{
	assert_ok(gmm_vm_destroy(guest->vm, GMM_RAM_DISCARD));
	guest->vm = NULL;
	ck_assert_msg(gmm_instance_validate(gmm) == GMM_OK, "%s", suite_last_log());
}

static void finish(void)
{
	end(&source);
	ck_assert_uint_eq(all().committed_pages, 0);
	ck_assert_uint_eq(all().shared_pages, 0);
	ck_assert_uint_eq(all().memory.chunks, 0);
	assert_ok(gmm_instance_close(gmm));
}

/* ---- what a clone is ------------------------------------------------------------------------------------------------ */

/* Copied are the page declared unshareable, five marked so, and those of the large page. */
enum { COPIES = 1 + 5 + LARGE };

static uint64_t distinct(void)
{
	uint64_t n = 0;

	for (int i = 0; i < PAGES; i++) {
		bool seen = i == 4 || (i >= 20 && i < 25);
		for (int k = 0; k < i && !seen; k++)
			seen = k != 4 && !(k >= 20 && k < 25) && value_of(k) == value_of(i);
		n += !seen;
	}
	return n;
}

START_TEST(both_have_all)
{
	begin(GMM_OVERCOMMIT_BEST_EFFORT);
	assert_ok(clone_source());
	struct gmm_memory_stats ours = memory(&source), theirs = memory(&copy);
	ck_assert_uint_eq(ours.references, ALL - COPIES);
	ck_assert_uint_eq(theirs.references, ALL - COPIES);
	ck_assert_uint_eq(theirs.private_pages, COPIES);
	ck_assert_uint_eq(ours.private_pages, COPIES + GMM_CHUNK_PAGES - LARGE);
	ck_assert_uint_eq(all().shared_pages, distinct());
	ck_assert_uint_eq(theirs.used_pages[GMM_ACCOUNT_BASE], ALL);
	ck_assert_uint_eq(theirs.reserved_pages[GMM_ACCOUNT_BASE], RESERVED);
	ck_assert_uint_eq(theirs.balloon.ballooned, 1);
	for (int i = 20; i < 25; i++) /* the source keeps those that a device may write to */
		ck_assert_uint_ne(source.table[i], copy.table[i]);
	check_bytes(&source);
	check_bytes(&copy);
	end(&copy);
	check_bytes(&source);
	finish();
}
END_TEST

/* A shared page is broken with a handy page, as ever. */
static void write_to(struct guest *guest, int i, uint64_t value)
{
	struct gmm_handy_page handy = { 0 };

	assert_ok(gmm_vm_refill_handy_pages(guest->vm, 0, 1, &handy));
	handy.guest_addr = (uint64_t)i * GMM_PAGE_SIZE;
	handy.shared_page = guest->table[i];
	guest->table[i] = handy.page;
	set(guest, i, value);
	assert_ok(gmm_vm_refill_handy_pages(guest->vm, 1, 0, &handy));
	ck_assert_msg(gmm_instance_validate(gmm) == GMM_OK, "%s", suite_last_log());
}

START_TEST(writes_are_private)
{
	begin(GMM_OVERCOMMIT_NONE);
	assert_ok(clone_source());
	write_to(&source, 30, 77);
	write_to(&copy, 31, 78);
	set(&source, 21, 79);
	set(&copy, 22, 80);
	ck_assert(is(&copy, 30, value_of(30)) && is(&source, 31, value_of(31)));
	ck_assert(is(&copy, 21, value_of(21)) && is(&source, 22, value_of(22)));
	end(&source); /* the clone is not the source's child: it lives on */
	ck_assert(is(&copy, 31, 78) && is(&copy, 22, 80) && is(&copy, 30, value_of(30)));
	source = copy;
	assert_ok(clone_source()); /* and has clones itself */
	ck_assert(is(&copy, 31, 78) && is(&source, 31, 78));
	end(&copy);
	finish();
}
END_TEST

/* ---- what is refused ------------------------------------------------------------------------------------------------- */

static void refused(int status)
{
	struct gmm_clone_page before[ALL];
	struct gmm_memory_stats ours = memory(&source);
	struct gmm_vm *vm = NULL;

	memcpy(before, entries, sizeof before);
	ck_assert_int_eq(gmm_vm_clone_pages(source.vm, NULL, ALL, entries, &vm), status);
	ck_assert_ptr_null(vm);
	for (int i = 0; i < ALL; i++)
		ck_assert(entries[i].page == before[i].page && entries[i].clone_page == before[i].clone_page);
	struct gmm_memory_stats now = memory(&source);
	ck_assert_mem_eq(&now, &ours, sizeof now);
	ck_assert_uint_eq(all().vms, 1);
	fill_entries();
}

START_TEST(tables_that_are_wrong)
{
	struct gmm_vm *vm, *mapped;
	gmm_page_id apart, freed;

	begin(GMM_OVERCOMMIT_BEST_EFFORT);
	assert_ok(gmm_vm_allocate_pages(source.vm, GMM_ACCOUNT_SHADOW, 1, NULL, &apart));
	assert_ok(gmm_vm_allocate_pages(source.vm, GMM_ACCOUNT_BASE, 1, NULL, &freed));
	entries[0].page = freed;
	assert_ok(gmm_vm_free_pages(source.vm, GMM_ACCOUNT_BASE, 1, &entries[0].page, NULL));
	fill_entries();
	entries[ALL - 1].page = apart;
	refused(GMM_ERR_PAGE_UNSHAREABLE);
	entries[ALL - 1].page = freed;
	refused(GMM_ERR_PAGE_ALREADY_FREE);
	entries[ALL - 1].page = 0xfffff000;
	refused(GMM_ERR_PAGE_NOT_FOUND);
	entries[ALL - 1].page = 0;
	refused(GMM_ERR_PAGE_NOT_FOUND);
	entries[ALL - 1].page = entries[0].page;
	refused(GMM_ERR_INVALID_PARAMETER);
	entries[ALL - 1].page = entries[8].page; /* more often than there are references */
	refused(GMM_ERR_NOT_PAGE_OWNER);
	entries[ALL - 1].guest_addr = 1;
	refused(GMM_ERR_INVALID_PARAMETER);
	entries[ALL - 1].clone_page = apart;
	refused(GMM_ERR_INVALID_PARAMETER);
	assert_ok(gmm_vm_create(gmm, NULL, &mapped));
	ck_assert_int_eq(gmm_vm_clone_pages(mapped, NULL, 0, NULL, &vm), GMM_ERR_WRONG_KIND);
	ck_assert_int_eq(gmm_vm_clone(source.vm, NULL, &vm), GMM_ERR_WRONG_KIND);
	ck_assert_int_eq(gmm_vm_clone_pages(source.vm, NULL, 1, NULL, &vm), GMM_ERR_INVALID_PARAMETER);
	ck_assert_int_eq(gmm_vm_clone_pages(NULL, NULL, 0, NULL, &vm), GMM_ERR_INVALID_PARAMETER);
	assert_ok(gmm_vm_destroy(mapped, GMM_RAM_DISCARD));
	assert_ok(gmm_vm_clone_pages(source.vm, NULL, 0, NULL, &copy.vm)); /* a VM without pages */
	ck_assert_uint_eq(memory(&copy).used_pages[GMM_ACCOUNT_BASE], 0);
	end(&copy);
	finish();
}
END_TEST

/* A fully backed clone needs its whole reservation; an over-committed one what it copies. */
START_TEST(what_does_not_fit)
{
	struct gmm_limits limits;

	for (int backed = 0; backed < 2; backed++) {
		begin(backed ? GMM_OVERCOMMIT_NONE : GMM_OVERCOMMIT_BEST_EFFORT);
		gmm_limits_init(&limits);
		limits.maximum_pages = all().committed_pages + (backed ? RESERVED : 0);
		assert_ok(gmm_instance_set_limits(gmm, &limits));
		copy.vm = NULL;
		ck_assert_int_eq(clone_source(), backed ? GMM_ERR_MEMORY_RESERVATION_DECLINED : GMM_ERR_HIT_GLOBAL_LIMIT);
		ck_assert_ptr_null(copy.vm);
		ck_assert_uint_eq(all().vms, 1);
		check_bytes(&source);
		limits.maximum_pages += 1000 + RESERVED;
		assert_ok(gmm_instance_set_limits(gmm, &limits));
		assert_ok(clone_source());
		check_bytes(&copy);
		end(&copy);
		finish();
	}
}
END_TEST

/* ---- requests under way ------------------------------------------------------------------------------------------------ */

static uint64_t asked[ALL];
static uint32_t n_asked;

static enum gmm_answer answer_later(void *arg, struct gmm_vm *vm, const struct gmm_request *request)
{
	(void)arg;
	(void)vm;
	if (request->kind == GMM_REQUEST_CHECK && n_asked < ALL)
		asked[n_asked++] = request->id;
	return GMM_ANSWER_LATER;
}

/* The engine has asked about pages that are shared by the clone meanwhile: answers come too late and change nothing. */
START_TEST(answers_after_the_clone)
{
	struct gmm_paged_options requests;
	struct gmm_request outcome;

	begin(GMM_OVERCOMMIT_BEST_EFFORT);
	gmm_paged_options_init(&requests);
	requests.request = answer_later;
	assert_ok(gmm_paged_set_options(source.vm, &requests));
	struct gmm__engine *engine = hand_engine_new(gmm, gmm__backend_mapped());
	n_asked = 0;
	for (int i = 0; i < 4; i++)
		gmm__engine_pass(engine);
	ck_assert_uint_gt(n_asked, 0);
	assert_ok(clone_source());
	for (uint32_t i = 0; i < n_asked; i++) {
		assert_ok(gmm_paged_answer(source.vm, asked[i], GMM_ANSWER_ACCEPTED, &outcome));
		bool gone = outcome.page != source.table[outcome.guest_addr / GMM_PAGE_SIZE];
		ck_assert(!gone || outcome.kind == GMM_REQUEST_CANCEL);
		if (outcome.kind != GMM_REQUEST_UPDATE)
			continue;
		/* One that the source kept. */
		source.table[outcome.guest_addr / GMM_PAGE_SIZE] = outcome.shared_page;
		assert_ok(gmm_paged_answer(source.vm, asked[i], GMM_ANSWER_ACCEPTED, &outcome));
	}
	check_bytes(&copy);
	end(&copy);
	hand_engine_free(engine);
	finish();
}
END_TEST

/* ---- the host refuses --------------------------------------------------------------------------------------------------- */

static bool clone_with_fault(enum faulty_call call, uint32_t n, uint32_t times)
{
	begin(GMM_OVERCOMMIT_BEST_EFFORT);
	copy.vm = NULL;
	faulty_pause(false);
	faulty_begin(call, n, times);
	int status = clone_source();
	bool failed = faulty_failures() > 0;
	faulty_pause(true);
	if (status != GMM_OK) {
		ck_assert_msg(failed && status == GMM_ERR_NO_MEMORY, "call %u: %s", n, gmm_status_name(status));
		ck_assert_ptr_null(copy.vm);
		ck_assert_uint_eq(all().vms, 1);
		for (int i = 0; i < ALL; i++)
			ck_assert_uint_eq(copy.table[i], 0);
		check_bytes(&source);
		assert_ok(clone_source());
	}
	check_bytes(&source);
	check_bytes(&copy);
	end(&copy);
	finish();
	return failed;
}

START_TEST(any_call_fails)
{
	uint32_t n = 1;

	while (clone_with_fault(FAULTY_ANY, n, 1))
		n += n < 40 ? 1 : 151;
	ck_assert_uint_gt(n, 40);
}
END_TEST

START_TEST(calls_of_a_kind_fail)
{
	for (int call = 0; call < FAULTY_ANY; call++)
		for (uint32_t n = 1; clone_with_fault((enum faulty_call)call, n, 100000); n += n < 3 ? 1 : 301)
			;
}
END_TEST

int main(void)
{
	const TTest *tests[] = { both_have_all, writes_are_private, tables_that_are_wrong, what_does_not_fit,
				 answers_after_the_clone, any_call_fails, calls_of_a_kind_fail };

	return suite_main("paged_clone", tests, sizeof tests / sizeof *tests);
}
