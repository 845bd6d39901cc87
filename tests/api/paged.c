/* Paged and mapped VMs of one domain on the real kernel: shared pages of either kind serve both; and guests of paged VMs that
 * read and write all the time while the engine asks their VMM to switch, which answers at once, late, or not at all. */
#include <gmm/pages.h>

#include "tests/support/guest.h"
#include "tests/support/suite.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PAGES = 256, SEED = 90, HANDY = 32, LATE = 16 };

/* A small VMM: a table of page ids, a lock for each page, which is its write-protection, and handy pages. */
struct vmm {
	struct gmm_vm *vm;
	gmm_page_id table[PAGES];
	bool shared[PAGES];
	uint64_t value[PAGES];           /* what the guest wrote last */
	pthread_mutex_t lock[PAGES];
	pthread_mutex_t handy_lock;
	struct gmm_handy_page handy[HANDY];
	uint32_t used;                   /* at the start of handy: news */
	struct gmm_request late[LATE];   /* to be answered by the VMM's own thread; guarded by handy_lock */
	uint32_t lates;
	pthread_mutex_t move_lock;
	bool moving[PAGES];              /* locked for a move; guarded by move_lock */
	uint32_t asked;
	bool mixed_answers;
	_Atomic uint64_t updates, moves, wrong;
};

static struct gmm *gmm;
static _Atomic bool stop, calm;

static char *page_at(struct vmm *v, gmm_page_id page)
{
	void *addr = NULL;

	if (gmm_vm_map_chunk(v->vm, gmm_page_chunk(page), 0, &addr) != GMM_OK)
		return NULL;
	return (char *)addr + gmm_page_index(page) * (size_t)GMM_PAGE_SIZE;
}

/* ---- the VMM's answers ---------------------------------------------------------------------------------------------- */

/* Tells the news; the pages that were used are replaced. */
static void refill(struct vmm *v)
{
	if (v->used)
		v->wrong += gmm_vm_refill_handy_pages(v->vm, v->used, v->used, v->handy) != GMM_OK;
	v->used = 0;
}

/* With the page's lock. */
static void finish(struct vmm *v, uint64_t i, const struct gmm_request *outcome)
{
	if (outcome->kind == GMM_REQUEST_UPDATE) {
		v->table[i] = outcome->shared_page;
		v->shared[i] = true;
		v->updates++;
	}
	pthread_mutex_unlock(&v->lock[i]);
}

static enum gmm_answer later(struct vmm *v, const struct gmm_request *request)
{
	pthread_mutex_lock(&v->handy_lock);
	if (v->lates < LATE)
		v->late[v->lates++] = *request;
	pthread_mutex_unlock(&v->handy_lock);
	return GMM_ANSWER_LATER; /* and those for which there is no room are never answered */
}

/* A shared page is to move: nothing tells of it meanwhile, and no guest reads it, so that it can go at once. */
static enum gmm_answer begin_move(struct vmm *v, gmm_page_id from)
{
	bool busy = false;

	if (pthread_mutex_trylock(&v->move_lock) != 0)
		return GMM_ANSWER_BUSY;
	memset(v->moving, 0, sizeof v->moving);
	for (uint32_t i = 0; i < PAGES && !busy; i++) {
		busy = pthread_mutex_trylock(&v->lock[i]) != 0;
		v->moving[i] = !busy && v->table[i] == from;
		if (!busy && !v->moving[i])
			pthread_mutex_unlock(&v->lock[i]);
	}
	for (uint32_t i = 0; i < PAGES && busy; i++)
		if (v->moving[i])
			pthread_mutex_unlock(&v->lock[i]);
	if (busy)
		pthread_mutex_unlock(&v->move_lock);
	else
		pthread_mutex_lock(&v->handy_lock);
	return busy ? GMM_ANSWER_BUSY : GMM_ANSWER_ACCEPTED;
}

static void end_move(struct vmm *v, const struct gmm_request *outcome)
{
	bool moved = outcome->kind == GMM_REQUEST_UPDATE;

	for (uint32_t i = 0; i < v->used && moved; i++)
		if (v->handy[i].shared_page == outcome->page)
			v->handy[i].shared_page = outcome->shared_page;
	pthread_mutex_unlock(&v->handy_lock);
	for (uint32_t i = 0; i < PAGES; i++) {
		if (!v->moving[i])
			continue;
		v->table[i] = moved ? outcome->shared_page : v->table[i];
		v->moves += moved;
		pthread_mutex_unlock(&v->lock[i]);
	}
	pthread_mutex_unlock(&v->move_lock);
}

static enum gmm_answer answer(void *arg, struct gmm_vm *vm, const struct gmm_request *request)
{
	struct vmm *v = arg;
	uint64_t i = request->guest_addr / GMM_PAGE_SIZE;

	(void)vm;
	switch (request->kind) {
	case GMM_REQUEST_CHECK:
		if (v->mixed_answers && ++v->asked % 3 == 0)
			return later(v, request);
		if (pthread_mutex_trylock(&v->lock[i]) != 0)
			return GMM_ANSWER_BUSY;
		if (v->table[i] == request->page)
			return GMM_ANSWER_ACCEPTED; /* it stays locked */
		pthread_mutex_unlock(&v->lock[i]);
		return GMM_ANSWER_CHANGED;
	case GMM_REQUEST_MOVE:
		if (v->mixed_answers && ++v->asked % 3 == 0)
			return later(v, request);
		return begin_move(v, request->page);
	case GMM_REQUEST_UPDATE:
	case GMM_REQUEST_CANCEL:
		if (request->guest_addr == GMM_GUEST_NIL)
			end_move(v, request);
		else
			finish(v, i, request);
		return GMM_ANSWER_ACCEPTED;
	case GMM_REQUEST_FLUSH:
		pthread_mutex_lock(&v->handy_lock);
		refill(v);
		pthread_mutex_unlock(&v->handy_lock);
		break;
	}
	return GMM_ANSWER_ACCEPTED;
}

static void move_late(struct vmm *v, const struct gmm_request *request)
{
	enum gmm_answer answer = begin_move(v, request->page);
	struct gmm_request outcome;

	v->wrong += gmm_paged_answer(v->vm, request->id, answer, &outcome) != GMM_OK;
	if (answer != GMM_ANSWER_ACCEPTED)
		return;
	end_move(v, &outcome);
	if (outcome.kind == GMM_REQUEST_UPDATE)
		v->wrong += gmm_paged_answer(v->vm, request->id, GMM_ANSWER_ACCEPTED, &outcome) != GMM_OK;
}

static void answer_late(struct vmm *v)
{
	struct gmm_request request, outcome;

	pthread_mutex_lock(&v->handy_lock);
	bool any = v->lates > 0;
	if (any)
		request = v->late[--v->lates];
	pthread_mutex_unlock(&v->handy_lock);
	if (!any)
		return;
	uint64_t i = request.guest_addr / GMM_PAGE_SIZE;
	if (request.kind == GMM_REQUEST_MOVE) {
		move_late(v, &request);
		return;
	}
	pthread_mutex_lock(&v->lock[i]);
	bool here = v->table[i] == request.page;
	v->wrong += gmm_paged_answer(v->vm, request.id, here ? GMM_ANSWER_ACCEPTED : GMM_ANSWER_CHANGED, &outcome) != GMM_OK;
	bool switched = outcome.kind == GMM_REQUEST_UPDATE;
	finish(v, i, &outcome);
	if (switched)
		v->wrong += gmm_paged_answer(v->vm, request.id, GMM_ANSWER_ACCEPTED, &outcome) != GMM_OK;
}

/* ---- its guest -------------------------------------------------------------------------------------------------------- */

static void guest_read(struct vmm *v, uint32_t i)
{
	pthread_mutex_lock(&v->lock[i]);
	const char *page = v->table[i] ? page_at(v, v->table[i]) : NULL;
	uint64_t first = page ? guest_load(page, 0) : 0, last = page ? guest_load(page, PAGE_WORDS - 1) : 0;
	v->wrong += first != v->value[i] || last != v->value[i];
	pthread_mutex_unlock(&v->lock[i]);
}

/* A page that may be written: copy on write. What comes next overwrites it whole, so nothing is copied. With its lock. */
static char *own_page(struct vmm *v, uint32_t i)
{
	if (v->shared[i]) {
		pthread_mutex_lock(&v->handy_lock);
		if (v->used == HANDY)
			refill(v);
		struct gmm_handy_page *fresh = &v->handy[v->used++];
		fresh->guest_addr = (uint64_t)i * GMM_PAGE_SIZE;
		fresh->shared_page = v->table[i];
		v->table[i] = fresh->page;
		v->shared[i] = false;
		pthread_mutex_unlock(&v->handy_lock);
	}
	return page_at(v, v->table[i]);
}

static void guest_write(struct vmm *v, uint32_t i, uint64_t value)
{
	pthread_mutex_lock(&v->lock[i]);
	char *page = own_page(v, i);
	for (size_t word = 0; word < PAGE_WORDS; word++)
		guest_store(page, word, value);
	v->value[i] = value;
	pthread_mutex_unlock(&v->lock[i]);
}

static void begin_vmm(struct vmm *v, uint64_t reserved)
{
	const struct gmm_reservation reservation = { .pages = { reserved, 1, 1 }, .overcommit = GMM_OVERCOMMIT_BEST_EFFORT };
	struct gmm_vm_options options;
	struct gmm_paged_options requests;
	uint64_t addrs[PAGES];

	memset(v, 0, sizeof *v);
	gmm_vm_options_init(&options);
	options.kind = GMM_VM_PAGED;
	assert_ok(gmm_vm_create(gmm, &options, &v->vm));
	assert_ok(gmm_vm_reserve(v->vm, &reservation));
	for (uint32_t i = 0; i < PAGES; i++) {
		addrs[i] = (uint64_t)i * GMM_PAGE_SIZE;
		pthread_mutex_init(&v->lock[i], NULL);
	}
	pthread_mutex_init(&v->handy_lock, NULL);
	pthread_mutex_init(&v->move_lock, NULL);
	assert_ok(gmm_vm_allocate_pages(v->vm, GMM_ACCOUNT_BASE, PAGES, addrs, v->table));
	assert_ok(gmm_vm_refill_handy_pages(v->vm, 0, HANDY, v->handy));
	gmm_paged_options_init(&requests);
	requests.request = answer;
	requests.request_arg = v;
	assert_ok(gmm_paged_set_options(v->vm, &requests));
}

static void end_vmm(struct vmm *v)
{
	uint64_t wrong = v->wrong; /* the engine may ask while the VM ends, whose calls fail then */

	assert_ok(gmm_vm_destroy(v->vm, GMM_RAM_DISCARD));
	ck_assert_uint_eq(wrong, 0);
	for (uint32_t i = 0; i < PAGES; i++)
		pthread_mutex_destroy(&v->lock[i]);
	pthread_mutex_destroy(&v->handy_lock);
	pthread_mutex_destroy(&v->move_lock);
}

static uint64_t references(const struct vmm *v)
{
	struct gmm_vm_memory_stats stats;

	assert_ok(gmm_vm_memory_stats(v->vm, &stats));
	return stats.memory.references;
}

/* ---- both kinds ----------------------------------------------------------------------------------------------------------- */

static void load(struct vmm *v, uint64_t seed)
{
	for (uint32_t i = 0; i < PAGES; i++) {
		pthread_mutex_lock(&v->lock[i]);
		page_fill(own_page(v, i), seed + i);
		pthread_mutex_unlock(&v->lock[i]);
	}
}

static size_t differ(struct vmm *v, uint64_t seed)
{
	size_t wrong = 0;

	for (uint32_t i = 0; i < PAGES; i++)
		wrong += !page_is(page_at(v, v->table[i]), seed + i);
	return wrong;
}

enum { FILLER = 700 };

/* Fills a chunk and more with shared pages, and frees those of the last time: what others share in between comes to lie in sparse
 * chunks, and is to move. */
static void make_sparse(struct gmm_vm *filler, gmm_page_id *pages)
{
	gmm_page_id fresh[FILLER];

	assert_ok(gmm_vm_allocate_pages(filler, GMM_ACCOUNT_BASE, FILLER, NULL, fresh));
	for (uint32_t i = 0; i < FILLER; i++) {
		page_fill((char *)vm_page(filler, fresh[i]), 100000 + i);
		assert_ok(gmm_vm_share_page(filler, fresh[i], &fresh[i]));
	}
	if (pages[0])
		assert_ok(gmm_vm_free_pages(filler, GMM_ACCOUNT_BASE, FILLER, pages, NULL));
	memcpy(pages, fresh, sizeof fresh);
}

static struct gmm_vm *begin_filler(void)
{
	const struct gmm_reservation reservation = { .pages = { 4096, 1, 1 }, .overcommit = GMM_OVERCOMMIT_BEST_EFFORT };
	struct gmm_vm_options options;
	struct gmm_vm *vm;

	gmm_vm_options_init(&options);
	options.kind = GMM_VM_PAGED;
	assert_ok(gmm_vm_create(gmm, &options, &vm));
	assert_ok(gmm_vm_reserve(vm, &reservation));
	return vm;
}

static void mix(bool paged_first)
{
	static struct vmm v;
	struct gmm_vm *mapped, *filler;
	gmm_page_id filling[FILLER] = { 0 };
	char *ram;
	bool found = false;

	gmm = instance_open();
	filler = begin_filler();
	make_sparse(filler, filling);
	mapped = vm_create(gmm, NULL);
	ram = vm_create_ram(mapped, 0, PAGES);
	begin_vmm(&v, 4096);
	if (paged_first)
		load(&v, SEED);
	else
		ram_fill(ram, PAGES, SEED);
	engine_settle(gmm);
	if (paged_first)
		assert_ok(gmm_vm_find_duplicate(v.vm, v.table[7], &found));
	else /* all pages of the other guest were zero */
		assert_eventually(v.updates == PAGES);
	ck_assert(!found);
	if (paged_first)
		ram_fill(ram, PAGES, SEED);
	else
		load(&v, SEED);
	assert_eventually(references(&v) == PAGES && vm_state(mapped, GMM_PAGE_SHARED) == PAGES);
	assert_ok(gmm_vm_destroy(filler, GMM_RAM_DISCARD));
	assert_eventually(stats_of(gmm).pool_pages == PAGES); /* the idle engine may be moving some */
	/* All move together, or the paged VM's pages would be there twice. */
	assert_ok(gmm_instance_compact(gmm, NULL));
	engine_passes(gmm, 20);
	assert_eventually(v.moves > 0);
	assert_eventually(stats_of(gmm).pool_pages == PAGES); /* the idle engine may be moving some */
	assert_eventually(stats_of(gmm).pool_chunks == 1);
	ck_assert_uint_eq(differ(&v, SEED) + ram_wrong(ram, PAGES, SEED), 0);
	guest_store(ram + 3 * PAGE, 1, 77); /* either may write: nobody else sees it */
	guest_write(&v, 4, 78);
	ck_assert_uint_eq(ram_wrong(ram, PAGES, SEED), 1);
	ck_assert_uint_eq(differ(&v, SEED), 1);
	assert_ok(gmm_instance_validate(gmm));
	end_vmm(&v);
	engine_passes(gmm, 2);
	ck_assert_uint_eq(ram_wrong(ram, PAGES, SEED), 1);
	assert_ok(gmm_instance_validate(gmm));
	assert_ok(gmm_vm_destroy(mapped, GMM_RAM_DISCARD));
	assert_ok(gmm_instance_close(gmm));
}

START_TEST(a_mapped_page_joins)
{
	mix(true);
}
END_TEST

START_TEST(a_paged_page_joins)
{
	mix(false);
}
END_TEST

/* Of a private page of a mapped VM that nobody shares. */
START_TEST(duplicate_of_a_mapped_page)
{
	static struct vmm v;
	struct gmm_paged_options none;
	struct gmm_vm *mapped;
	bool found = false;

	gmm = instance_open();
	mapped = vm_create(gmm, NULL);
	char *ram = vm_create_ram(mapped, 0, PAGES);
	ram_fill(ram, PAGES, SEED);
	begin_vmm(&v, 4096);
	gmm_paged_options_init(&none);
	assert_ok(gmm_paged_set_options(v.vm, &none));
	engine_settle(gmm);
	load(&v, SEED);
	/* It may be looked at just then. */
	assert_eventually(gmm_vm_find_duplicate(v.vm, v.table[9], &found) == GMM_OK && found);
	ck_assert_uint_eq(references(&v), 0);
	end_vmm(&v);
	assert_ok(gmm_vm_destroy(mapped, GMM_RAM_DISCARD));
	assert_ok(gmm_instance_close(gmm));
}
END_TEST

/* ---- writers ----------------------------------------------------------------------------------------------------------------- */

/* Pages near the start are written often, those at the end hardly ever. */
static void *run_guest(void *arg)
{
	struct vmm *v = arg;
	uint64_t state = (uintptr_t)arg | 1;

	while (!stop) {
		uint64_t r = random_next(&state);
		uint32_t i = (uint32_t)(r >> 8) % (1 + (uint32_t)(r >> 32) % PAGES);
		if (r % 4 == 0)
			guest_write(v, i, 1 + r / 4 % 3);
		else
			guest_read(v, i);
		if (r % 64 == 0) {
			answer_late(v);
			usleep(200);
		}
		if (calm)
			usleep(20000);
	}
	return NULL;
}

START_TEST(writers)
{
	enum { VMS = 2, ROUNDS = 20, MORE_ROUNDS = 400 };
	static struct vmm v[VMS];
	gmm_page_id filling[FILLER] = { 0 };
	pthread_t threads[2 * VMS];

	gmm = instance_open();
	stop = calm = false;
	for (int i = 0; i < VMS; i++) {
		begin_vmm(&v[i], i ? 4096 : 2 * PAGES);
		v[i].mixed_answers = true;
	}
	struct gmm_vm *filler = begin_filler();
	assert_ok(gmm_engine_start(gmm));
	for (int i = 0; i < 2 * VMS; i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, run_guest, &v[i / 2]), 0);
	/* On a busy host a VM may answer too late for a while, and guests that have to wait for a processor have a page in use all
	 * the time: then they work less. */
	for (int i = 0; i < ROUNDS || ((v[0].moves == 0 || v[1].moves == 0) && i < MORE_ROUNDS); i++) {
		usleep(70000);
		calm = i >= 2 * ROUNDS;
		assert_ok(gmm_instance_validate(gmm));
		if (i % 2 == 0)
			make_sparse(filler, filling);
		else
			assert_ok(gmm_vm_free_pages(filler, GMM_ACCOUNT_BASE, FILLER, filling, NULL));
		if (i % 2)
			memset(filling, 0, sizeof filling);
		assert_ok(gmm_instance_compact(gmm, NULL));
	}
	stop = true;
	for (int i = 0; i < 2 * VMS; i++)
		pthread_join(threads[i], NULL);
	for (int i = 0; i < VMS; i++) {
		ck_assert_uint_gt(v[i].updates, 0);
		ck_assert_uint_gt(v[i].moves, 0);
		for (uint32_t page = 0; page < PAGES; page++)
			guest_read(&v[i], page);
	}
	end_vmm(&v[0]);
	assert_ok(gmm_instance_validate(gmm));
	end_vmm(&v[1]);
	assert_ok(gmm_vm_destroy(filler, GMM_RAM_DISCARD));
	assert_ok(gmm_instance_close(gmm));
}
END_TEST

int main(void)
{
	const TTest *tests[] = { a_mapped_page_joins, a_paged_page_joins, duplicate_of_a_mapped_page, writers };

	return suite_main("paged", tests, sizeof tests / sizeof *tests);
}
