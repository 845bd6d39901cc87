/* Paged VMs against a slow and obvious model: random calls, and after each one the identities of accounting, the status that
 * the model foretells, and every byte. Then the same from several threads, with the identities only. */
#include <gmm/pages.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/guest.h"
#include "tests/support/suite.h"
#include "tests/unit/support/unit.h"

/* A recount after each step is most of the time; with a sanitizer it takes ten times as long. */
#ifdef __SANITIZE_ADDRESS__
enum { STEPS = 1000 };
#else
enum { STEPS = 10000 };
#endif

enum { VMS = 4, PAGES_MAX = 4096, MAXIMUM = 9000, VALUES = 5 };

/* A page as the VMM knows it. */
struct page {
	gmm_page_id id;
	enum gmm_account account;
	bool shared;
	uint32_t value; /* its first word */
};

struct model {
	struct gmm_vm *vm;
	uint64_t quota[GMM_ACCOUNTS];
	enum gmm_overcommit policy;
	struct page page[PAGES_MAX];
	uint32_t n;
	bool ballooned[64];
};

static struct gmm *gmm;
static struct model models[VMS];
static uint64_t state;

static uint32_t pick(uint32_t below)
{
	return (uint32_t)(random_next(&state) >> 20) % below;
}

static uint32_t *word(struct model *m, gmm_page_id id)
{
	return (uint32_t *)vm_page(m->vm, id);
}

/* ---- what the model knows ------------------------------------------------------------------------------------ */

static uint64_t count(const struct model *m, int account, int shared)
{
	uint64_t n = 0;

	for (uint32_t i = 0; i < m->n; i++)
		n += (account < 0 || (int)m->page[i].account == account) && (shared < 0 || m->page[i].shared == shared);
	return n;
}

static uint64_t balloon(const struct model *m)
{
	uint64_t n = 0;

	for (int i = 0; i < 64; i++)
		n += m->ballooned[i];
	return n;
}

static int compare_ids(const void *a, const void *b)
{
	return *(const gmm_page_id *)a < *(const gmm_page_id *)b ? -1 : *(const gmm_page_id *)a > *(const gmm_page_id *)b;
}

static uint64_t distinct_shared(void)
{
	static gmm_page_id ids[VMS * PAGES_MAX];
	uint32_t n = 0;
	uint64_t distinct = 0;

	for (int v = 0; v < VMS; v++)
		for (uint32_t i = 0; models[v].vm && i < models[v].n; i++)
			if (models[v].page[i].shared)
				ids[n++] = models[v].page[i].id;
	qsort(ids, n, sizeof *ids, compare_ids);
	for (uint32_t i = 0; i < n; i++)
		distinct += i == 0 || ids[i] != ids[i - 1];
	return distinct;
}

static uint64_t committed(void)
{
	uint64_t sum = distinct_shared();

	for (int v = 0; v < VMS; v++) {
		const struct model *m = &models[v];
		if (m->vm && m->policy == GMM_OVERCOMMIT_NONE)
			sum += m->quota[0] + m->quota[1] + m->quota[2];
		else if (m->vm)
			sum += count(m, -1, 0);
	}
	return sum;
}

static int foretell(const struct model *m, enum gmm_account account, uint64_t n, uint64_t credit)
{
	uint64_t used = count(m, account, -1) - credit + (account == GMM_ACCOUNT_BASE ? balloon(m) : 0);

	if (used + n > m->quota[account])
		return GMM_ERR_HIT_VM_ACCOUNT_LIMIT;
	return m->policy != GMM_OVERCOMMIT_NONE && committed() + n > MAXIMUM ? GMM_ERR_HIT_GLOBAL_LIMIT : GMM_OK;
}

static void add(struct model *m, gmm_page_id id, enum gmm_account account)
{
	ck_assert_uint_lt(m->n, PAGES_MAX);
	ck_assert_uint_eq(*word(m, id), 0); /* fresh pages are zero */
	m->page[m->n++] = (struct page){ .id = id, .account = account };
}

static void drop(struct model *m, uint32_t i)
{
	m->page[i] = m->page[--m->n];
}

/* A random page of this kind, or -1. */
static int random_page(const struct model *m, int account, int shared)
{
	for (int tries = 0; m->n && tries < 20; tries++) {
		uint32_t i = pick(m->n);
		if ((account < 0 || (int)m->page[i].account == account) && (shared < 0 || m->page[i].shared == shared))
			return (int)i;
	}
	return -1;
}

/* ---- steps ---------------------------------------------------------------------------------------------------- */

static void begin_vm(struct model *m, int v)
{
	struct gmm_vm_options options;
	uint64_t before = committed();

	memset(m, 0, sizeof *m);
	gmm_vm_options_init(&options);
	options.kind = GMM_VM_PAGED;
	options.domain = v % 2 ? "odd" : "even";
	struct gmm_reservation r = { .pages = { 64 + pick(3000), 1 + pick(300), 1 + pick(300) },
				     .overcommit = pick(2) ? GMM_OVERCOMMIT_NONE : GMM_OVERCOMMIT_BEST_EFFORT };
	assert_ok(gmm_vm_create(gmm, &options, &m->vm));
	uint64_t sum = r.pages[0] + r.pages[1] + r.pages[2];
	bool fits = r.overcommit != GMM_OVERCOMMIT_NONE || before + sum <= MAXIMUM;
	int status = gmm_vm_reserve(m->vm, &r);
	ck_assert_int_eq(status, fits ? GMM_OK : GMM_ERR_MEMORY_RESERVATION_DECLINED);
	if (!fits) {
		r.overcommit = GMM_OVERCOMMIT_BEST_EFFORT;
		assert_ok(gmm_vm_reserve(m->vm, &r));
	}
	memcpy(m->quota, r.pages, sizeof r.pages);
	m->policy = r.overcommit;
}

static void step_allocate(struct model *m)
{
	gmm_page_id ids[800];
	enum gmm_account account = (enum gmm_account)(pick(4) == 0 ? 1 + pick(2) : 0);
	uint32_t n = 1 + pick(pick(10) ? 40 : 800);
	int expected = foretell(m, account, n, 0);

	if (m->n + n > PAGES_MAX)
		return;
	ck_assert_int_eq(gmm_vm_allocate_pages(m->vm, account, n, NULL, ids), expected);
	for (uint32_t i = 0; expected == GMM_OK && i < n; i++)
		add(m, ids[i], account);
}

static void step_free(struct model *m)
{
	gmm_page_id ids[300] = { 0 };
	enum gmm_account account = (enum gmm_account)(pick(4) == 0 ? 1 + pick(2) : 0);
	uint32_t n = 0, freed = 0, want = 1 + pick(pick(10) ? 40 : 300), all = (uint32_t)count(m, (int)account, -1);
	bool bad = pick(8) == 0;

	for (uint32_t i = 0; n < want && i < m->n;) {
		if (m->page[i].account == account && pick(2)) {
			ids[n++] = m->page[i].id;
			drop(m, i);
		} else {
			i++;
		}
	}
	if (n == 0)
		return;
	bad = bad && n < all;
	if (bad)
		ids[n] = 0xfffff000; /* a page of no chunk ends it */
	ck_assert_int_eq(gmm_vm_free_pages(m->vm, account, n + bad, ids, &freed), bad ? GMM_ERR_PAGE_NOT_FOUND : GMM_OK);
	ck_assert_uint_eq(freed, n);
	for (uint32_t i = 0; i < n; i++)
		ck_assert_uint_eq(ids[i], 0);
}

static void step_refill(struct model *m)
{
	struct gmm_handy_page handy[64];
	int used = random_page(m, GMM_ACCOUNT_BASE, 0), shared = random_page(m, GMM_ACCOUNT_BASE, 1);
	bool breaks = used >= 0 && shared >= 0;
	uint32_t wanted = 1 + pick(64);
	int expected = foretell(m, GMM_ACCOUNT_BASE, wanted, breaks);

	if (m->n + wanted > PAGES_MAX)
		return;
	if (breaks)
		handy[0] = (struct gmm_handy_page){ GMM_PAGE_SIZE, m->page[used].id, m->page[shared].id };
	ck_assert_int_eq(gmm_vm_refill_handy_pages(m->vm, breaks, wanted, handy), expected);
	if (expected != GMM_OK)
		return;
	if (breaks)
		drop(m, (uint32_t)shared);
	for (uint32_t i = 0; i < wanted; i++)
		add(m, handy[i].page, GMM_ACCOUNT_BASE);
}

static void step_write(struct model *m)
{
	int i = random_page(m, -1, 0);

	if (i >= 0)
		*word(m, m->page[i].id) = m->page[i].value = pick(VALUES);
}

static void step_share(struct model *m)
{
	int i = random_page(m, GMM_ACCOUNT_BASE, 0);
	bool found;

	if (i < 0)
		return;
	assert_ok(gmm_vm_find_duplicate(m->vm, m->page[i].id, &found));
	assert_ok(gmm_vm_share_page(m->vm, m->page[i].id, &m->page[i].id));
	m->page[i].shared = true;
}

/* With a shared page of any VM: of another domain it is not found. */
static void step_join(struct model *m, int v)
{
	int w = (int)pick(VMS), i = random_page(m, GMM_ACCOUNT_BASE, 0), j = random_page(&models[w], -1, 1);
	bool joined = false;

	if (i < 0 || j < 0)
		return;
	struct page *mine = &m->page[i], *other = &models[w].page[j];
	int status = gmm_vm_join_page(m->vm, mine->id, other->id, &joined);
	if (v % 2 != w % 2) {
		ck_assert_int_eq(status, GMM_ERR_PAGE_NOT_FOUND); /* INV-6 */
		return;
	}
	assert_ok(status);
	ck_assert_int_eq(joined, mine->value == other->value);
	if (joined)
		*mine = (struct page){ other->id, GMM_ACCOUNT_BASE, true, mine->value };
}

static void step_balloon(struct model *m)
{
	uint64_t addrs[20];
	bool inflate = pick(2);
	uint32_t n = 1 + pick(20), changed = 99, expected = 0;
	bool after[64];

	if (pick(20) == 0) {
		assert_ok(gmm_vm_balloon_pages(m->vm, GMM_BALLOON_RESET, 0, NULL, NULL));
		memset(m->ballooned, 0, sizeof m->ballooned);
		return;
	}
	memcpy(after, m->ballooned, sizeof after);
	for (uint32_t i = 0; i < n; i++) {
		uint32_t pfn = pick(64);
		addrs[i] = (uint64_t)pfn * GMM_PAGE_SIZE;
		expected += after[pfn] != inflate;
		after[pfn] = inflate;
	}
	int status = GMM_OK;
	if (inflate && count(m, GMM_ACCOUNT_BASE, -1) + balloon(m) + expected > m->quota[GMM_ACCOUNT_BASE])
		status = GMM_ERR_ATTEMPT_TO_FREE_TOO_MUCH;
	else if (!inflate && n > balloon(m))
		status = GMM_ERR_ATTEMPT_TO_DEFLATE_TOO_MUCH;
	ck_assert_int_eq(gmm_vm_balloon_pages(m->vm, inflate ? GMM_BALLOON_INFLATE : GMM_BALLOON_DEFLATE, n, addrs,
					      &changed), status);
	ck_assert_uint_eq(changed, status == GMM_OK ? expected : 99);
	if (status == GMM_OK)
		memcpy(m->ballooned, after, sizeof after);
}

/* Taken and freed whole, or broken up and then pages like others. */
static void step_large(struct model *m)
{
	int expected = foretell(m, GMM_ACCOUNT_BASE, GMM_CHUNK_PAGES, 0);
	gmm_page_id first;

	if (m->n + GMM_CHUNK_PAGES > PAGES_MAX)
		return;
	ck_assert_int_eq(gmm_vm_allocate_large_page(m->vm, &first), expected);
	if (expected != GMM_OK)
		return;
	if (pick(2)) {
		assert_ok(gmm_vm_free_large_page(m->vm, first));
		return;
	}
	uint32_t left = GMM_CHUNK_PAGES;
	if (pick(2)) { /* freeing a part breaks it up */
		gmm_page_id last = first + --left;
		assert_ok(gmm_vm_free_pages(m->vm, GMM_ACCOUNT_BASE, 1, &last, NULL));
	} else {
		assert_ok(gmm_vm_break_up_large_page(m->vm, first, GMM_GUEST_NIL));
	}
	for (uint32_t i = 0; i < left; i++)
		add(m, first + i, GMM_ACCOUNT_BASE);
}

static void step_update(struct model *m)
{
	uint64_t pages[GMM_ACCOUNTS];
	uint64_t old = m->quota[0] + m->quota[1] + m->quota[2], sum = 0;
	bool fits = true;

	for (int a = 0; a < GMM_ACCOUNTS; a++) {
		sum += pages[a] = 1 + pick(a == 0 ? 3000 : 300);
		fits = fits && pages[a] >= count(m, a, -1) + (a == 0 ? balloon(m) : 0);
	}
	if (m->policy == GMM_OVERCOMMIT_NONE && sum > old && committed() + sum - old > MAXIMUM)
		fits = false;
	ck_assert_int_eq(gmm_vm_update_reservation(m->vm, pages), fits ? GMM_OK : GMM_ERR_MEMORY_RESERVATION_DECLINED);
	if (fits)
		memcpy(m->quota, pages, sizeof pages);
}

/* Pages of the source became shared, also where the clone failed later. */
static void note_clone(struct model *m, struct model *clone, const struct gmm_clone_page *entry, bool cloned)
{
	uint32_t k = 0;

	for (uint32_t i = 0; i < m->n; i++) {
		struct page *page = &m->page[i];
		if (page->account != GMM_ACCOUNT_BASE)
			continue;
		page->shared = page->shared || entry[k].page != page->id;
		page->id = entry[k].page;
		ck_assert_int_eq(cloned, entry[k].clone_page != 0);
		if (cloned)
			clone->page[clone->n++] = (struct page){ entry[k].clone_page, GMM_ACCOUNT_BASE,
								 entry[k].clone_page == page->id, page->value };
		k++;
	}
}

/* The other VM of the domain ends, and a clone takes its place. */
static void step_clone(int v)
{
	static struct gmm_clone_page entry[PAGES_MAX];
	struct model *m = &models[v], *clone = &models[v ^ 2];
	uint32_t n = 0, copies = 0;

	assert_ok(gmm_vm_destroy(clone->vm, GMM_RAM_DISCARD));
	memset(clone, 0, sizeof *clone);
	for (uint32_t i = 0; i < m->n; i++) {
		if (m->page[i].account != GMM_ACCOUNT_BASE)
			continue;
		entry[n] = (struct gmm_clone_page){ .guest_addr = GMM_GUEST_NIL, .page = m->page[i].id, .copy = pick(10) == 0 };
		copies += entry[n++].copy && !m->page[i].shared;
	}
	bool backed = m->policy == GMM_OVERCOMMIT_NONE;
	bool fits = !backed || committed() + m->quota[0] + m->quota[1] + m->quota[2] <= MAXIMUM;
	int status = gmm_vm_clone_pages(m->vm, NULL, n, entry, &clone->vm);
	if (status != GMM_ERR_HIT_GLOBAL_LIMIT || backed || copies == 0)
		ck_assert_int_eq(status, fits ? GMM_OK : GMM_ERR_MEMORY_RESERVATION_DECLINED);
	note_clone(m, clone, entry, status == GMM_OK);
	memcpy(clone->quota, m->quota, sizeof clone->quota);
	memcpy(clone->ballooned, m->ballooned, sizeof clone->ballooned);
	clone->policy = m->policy;
	if (status != GMM_OK)
		begin_vm(clone, v ^ 2);
}

static void step(int v)
{
	struct model *m = &models[v];
	uint32_t what = pick(100);

	if (what < 25)
		step_allocate(m);
	else if (what < 45)
		step_free(m);
	else if (what < 55)
		step_refill(m);
	else if (what < 65)
		step_write(m);
	else if (what < 75)
		step_share(m);
	else if (what < 88)
		step_join(m, v);
	else if (what < 94)
		step_balloon(m);
	else if (what < 96)
		step_large(m);
	else if (what < 98)
		step_update(m);
	else if (what < 99)
		step_clone(v);
	else if (pick(4) == 0) {
		assert_ok(gmm_vm_destroy(m->vm, GMM_RAM_DISCARD));
		m->vm = NULL;
		begin_vm(m, v);
	}
}

/* ---- after each step --------------------------------------------------------------------------------------------- */

static void check_all(void)
{
	struct gmm_instance_memory_stats stats;
	uint64_t private_pages = 0, references = 0, used = 0, shared = distinct_shared();

	for (int v = 0; v < VMS; v++) {
		struct gmm_vm_memory_stats of_vm;
		assert_ok(gmm_vm_memory_stats(models[v].vm, &of_vm));
		ck_assert_uint_eq(of_vm.memory.private_pages, count(&models[v], -1, 0));
		ck_assert_uint_eq(of_vm.memory.references, count(&models[v], -1, 1));
		ck_assert_uint_eq(of_vm.memory.balloon.ballooned, balloon(&models[v]));
		for (int a = 0; a < GMM_ACCOUNTS; a++)
			ck_assert_uint_eq(of_vm.memory.used_pages[a], count(&models[v], a, -1));
		private_pages += of_vm.memory.private_pages;
		references += of_vm.memory.references;
		used += models[v].n;
	}
	assert_ok(gmm_instance_memory_stats(gmm, &stats));
	ck_assert_uint_eq(stats.shared_pages, shared);
	ck_assert_uint_eq(stats.allocated_pages, private_pages + shared);
	ck_assert_uint_eq(used, stats.allocated_pages + (references - shared)); /* base + shadow + fixed = alloc + saved */
	ck_assert_uint_eq(stats.committed_pages, committed());
	assert_ok(gmm_instance_validate(gmm));
}

static void check_bytes(struct model *m)
{
	for (uint32_t i = 0; i < m->n; i++)
		ck_assert_uint_eq(*word(m, m->page[i].id), m->page[i].value);
}

static void open_instance(void)
{
	struct gmm_limits limits;

	gmm_limits_init(&limits);
	limits.maximum_pages = MAXIMUM;
	assert_ok(gmm_instance_open(NULL, &gmm));
	assert_ok(gmm_instance_set_limits(gmm, &limits));
}

static void close_instance(void)
{
	struct gmm_instance_memory_stats stats;

	assert_ok(gmm_instance_memory_stats(gmm, &stats));
	ck_assert_uint_eq(stats.committed_pages, 0);
	ck_assert_uint_eq(stats.memory.chunks, 0);
	assert_ok(gmm_instance_close(gmm));
}

START_TEST(like_the_model)
{
	state = 0x9e3779b97f4a7c15u * (uint64_t)(_i + 1);
	open_instance();
	for (int v = 0; v < VMS; v++)
		begin_vm(&models[v], v);
	for (int i = 0; i < STEPS; i++) {
		int v = (int)pick(VMS);
		step(v);
		check_all();
		if (i % 16 == 0)
			check_bytes(&models[v]);
	}
	for (int v = 0; v < VMS; v++)
		assert_ok(gmm_vm_destroy(models[v].vm, GMM_RAM_DISCARD));
	close_instance();
}
END_TEST

/* ---- several threads --------------------------------------------------------------------------------------------- */

enum { THREADS = 3, ROUNDS = STEPS * 2 / 5, HELD = 256 };

static _Atomic gmm_page_id last_shared;

static bool is_expected(int status)
{
	return status == GMM_OK || status == GMM_ERR_HIT_GLOBAL_LIMIT || status == GMM_ERR_HIT_VM_ACCOUNT_LIMIT ||
	       status == GMM_ERR_PAGE_NOT_FOUND || status == GMM_ERR_PAGE_NOT_PRIVATE || status == GMM_ERR_PAGE_NOT_SHARED;
}

/* The clone takes the VM's place, or dies at once. False: a status was not expected. */
static bool clone_and_die(struct gmm_vm **vm, gmm_page_id *held, uint32_t n)
{
	struct gmm_clone_page entry[HELD] = { 0 };
	struct gmm_vm *clone = NULL;

	for (uint32_t i = 0; i < n; i++)
		entry[i] = (struct gmm_clone_page){ .guest_addr = GMM_GUEST_NIL, .page = held[i], .copy = i % 7 == 0 };
	int status = gmm_vm_clone_pages(*vm, NULL, n, entry, &clone);
	bool right = is_expected(status) && gmm_vm_destroy(*vm, GMM_RAM_DISCARD) == GMM_OK;
	for (uint32_t i = 0; i < n; i++)
		held[i] = entry[i].clone_page;
	*vm = clone;
	if (clone && n % 2) {
		right = right && gmm_vm_destroy(clone, GMM_RAM_DISCARD) == GMM_OK;
		*vm = NULL;
	}
	return right;
}

/* Takes, shares, joins what others shared, frees, and dies from time to time. Returns how many statuses were unexpected. */
static void *live(void *arg)
{
	const struct gmm_reservation r = { .pages = { 2000, 1, 1 }, .overcommit = GMM_OVERCOMMIT_BEST_EFFORT };
	struct gmm_vm_options options;
	gmm_page_id held[HELD] = { 0 };
	struct gmm_vm *vm = NULL;
	uintptr_t wrong = 0;
	uint32_t n = 0;

	(void)arg;
	gmm_vm_options_init(&options);
	options.kind = GMM_VM_PAGED;
	for (int i = 0; i < ROUNDS; i++) {
		if (!vm) {
			wrong += gmm_vm_create(gmm, &options, &vm) != GMM_OK || gmm_vm_reserve(vm, &r) != GMM_OK;
			n = 0;
		}
		uint32_t some = HELD - n < 8 ? HELD - n : 8;
		int status = some ? gmm_vm_allocate_pages(vm, GMM_ACCOUNT_BASE, some, NULL, held + n) : GMM_OK;
		wrong += !is_expected(status);
		n += status == GMM_OK ? some : 0;
		bool joined = false;
		gmm_page_id other = last_shared;
		if (n > 0 && other && i % 3 == 0) {
			wrong += !is_expected(gmm_vm_join_page(vm, held[n - 1], other, &joined));
			held[n - 1] = joined ? other : held[n - 1];
		} else if (n > 0 && gmm_vm_share_page(vm, held[n - 1], &held[n - 1]) == GMM_OK) {
			last_shared = held[n - 1];
		}
		for (; i % 5 == 0 && n > HELD / 2; n--)
			wrong += gmm_vm_free_pages(vm, GMM_ACCOUNT_BASE, 1, &held[n - 1], NULL) != GMM_OK;
		if (i % 300 == 299) {
			wrong += !clone_and_die(&vm, held, n);
			n = vm ? n : 0;
		}
		if (i + 1 == ROUNDS && vm)
			wrong += gmm_vm_destroy(vm, GMM_RAM_DISCARD) != GMM_OK;
		wrong += gmm_instance_validate(gmm) != GMM_OK;
	}
	return (void *)wrong;
}

START_TEST(several_threads)
{
	pthread_t threads[THREADS];
	void *wrong;

	open_instance();
	for (int t = 0; t < THREADS; t++)
		ck_assert_int_eq(pthread_create(&threads[t], NULL, live, NULL), 0);
	for (int i = 0; i < 200; i++)
		assert_ok(gmm_instance_validate(gmm));
	for (int t = 0; t < THREADS; t++) {
		pthread_join(threads[t], &wrong);
		ck_assert_ptr_null(wrong);
	}
	close_instance();
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("paged_random");
	TCase *tcase = tcase_create("paged_random");
	SRunner *runner = srunner_create(suite);

	suite_add_tcase(suite, tcase);
	tcase_add_loop_test(tcase, like_the_model, 0, 3);
	tcase_add_test(tcase, several_threads);
	tcase_set_timeout(tcase, 550);
	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
