/* Each refusal of the calls on paged VMs, by its name; chunks given back; and a host that refuses its n-th call. */
#include <gmm/pages.h>

#include <stdlib.h>
#include <string.h>

#include "dedup/instance.h"
#include "tests/unit/support/faulty_sys.h"
#include "tests/unit/support/unit.h"

static struct gmm *gmm;
static struct gmm_vm *vm, *other, *foreign, *mapped;

#define IS(call, status) ck_assert_str_eq(gmm_status_name(call), gmm_status_name(status))
#define OK(call) IS(call, GMM_OK)

static struct gmm_vm *new_vm(const char *domain, enum gmm_vm_kind kind, uint64_t base)
{
	const struct gmm_reservation r = { .pages = { base, 10, 10 } };
	struct gmm_vm_options options;
	struct gmm_vm *made;

	gmm_vm_options_init(&options);
	options.domain = domain;
	options.kind = kind;
	OK(gmm_vm_create(gmm, &options, &made));
	if (kind == GMM_VM_PAGED && base)
		OK(gmm_vm_reserve(made, &r));
	return made;
}

static void setup(void)
{
	OK(gmm_instance_open(NULL, &gmm));
	vm = new_vm("a", GMM_VM_PAGED, 20000);
	other = new_vm("a", GMM_VM_PAGED, 1000);
	foreign = new_vm("b", GMM_VM_PAGED, 1000);
	mapped = new_vm("a", GMM_VM_MAPPED, 0);
}

static void teardown(void)
{
	OK(gmm_instance_validate(gmm));
	struct gmm_vm *all[] = { vm, other, foreign, mapped };
	for (size_t i = 0; i < sizeof all / sizeof *all; i++)
		OK(gmm_vm_destroy(all[i], GMM_RAM_DISCARD));
	OK(gmm_instance_close(gmm));
}

static gmm_page_id take(struct gmm_vm *of)
{
	gmm_page_id page;

	OK(gmm_vm_allocate_pages(of, GMM_ACCOUNT_BASE, 1, NULL, &page));
	return page;
}

/* Sharing a part breaks the large page up; what is left are pages like others. */
START_TEST(part_of_a_large_page)
{
	gmm_page_id large, shared, part;
	uint32_t freed;
	bool joined;

	setup();
	OK(gmm_vm_allocate_large_page(vm, &large));
	OK(gmm_vm_share_page(vm, large, &shared));
	IS(gmm_vm_free_large_page(vm, large + 1), GMM_ERR_PAGE_NOT_FOUND);
	part = large + 1;
	OK(gmm_vm_join_page(vm, part, shared, &joined));
	ck_assert(joined);
	part = large + 2;
	OK(gmm_vm_free_pages(vm, GMM_ACCOUNT_BASE, 1, &part, &freed));
	OK(gmm_vm_allocate_large_page(vm, &large));
	part = large + 511;
	OK(gmm_vm_free_pages(vm, GMM_ACCOUNT_BASE, 1, &part, &freed));
	ck_assert_uint_eq(freed, 1);
	IS(gmm_vm_free_large_page(vm, large), GMM_ERR_PAGE_NOT_FOUND);
	OK(gmm_vm_share_page(vm, large, &shared));
	teardown();
}
END_TEST

START_TEST(nodes)
{
	struct gmm_vm_options options;
	struct gmm_vm *made;

	setup();
	gmm_vm_options_init(&options);
	options.kind = GMM_VM_PAGED;
	options.numa_node = 0;
	OK(gmm_vm_create(gmm, &options, &made));
	OK(gmm_vm_destroy(made, GMM_RAM_DISCARD));
	options.numa_node = -2;
	IS(gmm_vm_create(gmm, &options, &made), GMM_ERR_INVALID_PARAMETER);
	options.numa_node = (int)gmm->source.arena.nodes;
	IS(gmm_vm_create(gmm, &options, &made), GMM_ERR_INVALID_PARAMETER);
	teardown();
}
END_TEST

START_TEST(reservations)
{
	struct gmm_reservation r = { .pages = { 1, 1, 1 } };
	struct gmm_limits limits;
	gmm_page_id pages[3];

	setup();
	IS(gmm_vm_reserve(vm, &r), GMM_ERR_WRONG_ORDER);
	IS(gmm_vm_reserve(mapped, &r), GMM_ERR_WRONG_KIND);
	void *addr;
	IS(gmm_vm_create_ram(vm, 0, GMM_PAGE_SIZE, &addr), GMM_ERR_WRONG_KIND);
	struct gmm_vm *fresh = new_vm("a", GMM_VM_PAGED, 0);
	IS(gmm_vm_update_reservation(fresh, r.pages), GMM_ERR_WRONG_ORDER);
	IS(gmm_vm_allocate_pages(fresh, GMM_ACCOUNT_BASE, 1, NULL, pages), GMM_ERR_WRONG_ORDER);
	r.pages[1] = 0;
	IS(gmm_vm_reserve(fresh, &r), GMM_ERR_INVALID_PARAMETER);
	r.pages[1] = 1;
	r.pages[0] = UINT32_MAX;
	IS(gmm_vm_reserve(fresh, &r), GMM_ERR_MEMORY_RESERVATION_DECLINED);
	r.overcommit = GMM_OVERCOMMIT_BEST_EFFORT;
	OK(gmm_vm_reserve(fresh, &r));
	OK(gmm_instance_limits(gmm, &limits));
	limits.maximum_pages = 10;
	IS(gmm_instance_set_limits(gmm, &limits), GMM_ERR_MEMORY_RESERVATION_DECLINED);
	limits.maximum_pages = 22062; /* what the fully backed ones reserved, and two */
	OK(gmm_instance_set_limits(gmm, &limits));
	IS(gmm_vm_allocate_pages(fresh, GMM_ACCOUNT_BASE, 3, NULL, pages), GMM_ERR_HIT_GLOBAL_LIMIT);
	OK(gmm_vm_allocate_pages(fresh, GMM_ACCOUNT_BASE, 2, NULL, pages));
	take(vm); /* promised */
	uint64_t less[GMM_ACCOUNTS] = { 1, 1, 1 };
	IS(gmm_vm_update_reservation(fresh, less), GMM_ERR_MEMORY_RESERVATION_DECLINED);
	OK(gmm_vm_destroy(fresh, GMM_RAM_DISCARD));
	OK(gmm_vm_allow_allocation(vm, false));
	IS(gmm_vm_allocate_pages(vm, GMM_ACCOUNT_BASE, 1, NULL, pages), GMM_ERR_HIT_GLOBAL_LIMIT);
	OK(gmm_vm_allow_allocation(vm, true));
	IS(gmm_vm_allocate_pages(vm, GMM_ACCOUNT_SHADOW, 11, NULL, (gmm_page_id[11]){ 0 }), GMM_ERR_HIT_VM_ACCOUNT_LIMIT);
	teardown();
}
END_TEST

/* Free stops at the first bad entry and says how many were done. */
static void check_free(gmm_page_id bad, int status)
{
	gmm_page_id pages[3] = { take(vm), bad, take(vm) };
	uint32_t freed = 9;

	IS(gmm_vm_free_pages(vm, GMM_ACCOUNT_BASE, 3, pages, &freed), status);
	ck_assert_uint_eq(freed, 1);
	ck_assert_uint_eq(pages[0], 0);
	ck_assert_uint_eq(pages[1], bad);
	OK(gmm_vm_free_pages(vm, GMM_ACCOUNT_BASE, 1, &pages[2], NULL));
}

START_TEST(pages)
{
	setup();
	gmm_page_id mine = take(vm), free_page = take(vm), copy = free_page, theirs = take(other), large, shared;
	bool joined;

	take(vm); /* keeps the chunk */
	OK(gmm_vm_free_pages(vm, GMM_ACCOUNT_BASE, 1, &copy, NULL));
	OK(gmm_vm_share_page(other, take(other), &shared));
	OK(gmm_vm_allocate_large_page(vm, &large));
	take(vm);
	gmm_page_id again = take(vm);
	IS(gmm_vm_free_pages(vm, GMM_ACCOUNT_BASE, 1, (gmm_page_id[]){ 0x7ffff000 }, NULL), GMM_ERR_PAGE_NOT_FOUND);
	OK(gmm_vm_free_pages(vm, GMM_ACCOUNT_BASE, 1, (gmm_page_id[]){ again }, NULL));
	IS(gmm_vm_free_pages(vm, GMM_ACCOUNT_BASE, 1, (gmm_page_id[]){ again }, NULL), GMM_ERR_PAGE_ALREADY_FREE);
	check_free(theirs, GMM_ERR_NOT_PAGE_OWNER);
	check_free(shared, GMM_ERR_NOT_PAGE_OWNER);
	check_free(0x7ffff000, GMM_ERR_PAGE_NOT_FOUND);
	IS(gmm_vm_free_pages(foreign, GMM_ACCOUNT_BASE, 1, (gmm_page_id[]){ mine }, NULL), GMM_ERR_ATTEMPT_TO_FREE_TOO_MUCH);
	IS(gmm_vm_free_large_page(vm, mine), GMM_ERR_PAGE_NOT_FOUND);
	IS(gmm_vm_break_up_large_page(vm, large + 1, 0), GMM_ERR_PAGE_NOT_FOUND);
	IS(gmm_vm_share_page(vm, shared, &copy), GMM_ERR_PAGE_NOT_PRIVATE);
	IS(gmm_vm_share_page(vm, theirs, &copy), GMM_ERR_NOT_PAGE_OWNER);
	IS(gmm_vm_join_page(vm, mine, theirs, &joined), GMM_ERR_PAGE_NOT_SHARED);
	gmm_page_id abroad = take(foreign);
	IS(gmm_vm_join_page(foreign, abroad, shared, &joined), GMM_ERR_PAGE_NOT_FOUND);
	OK(gmm_vm_join_page(vm, mine, shared, &joined));
	ck_assert(joined);
	uint64_t never = GMM_GUEST_UNSHAREABLE;
	OK(gmm_vm_allocate_pages(vm, GMM_ACCOUNT_BASE, 1, &never, &mine));
	IS(gmm_vm_share_page(vm, mine, &copy), GMM_ERR_PAGE_UNSHAREABLE);
	teardown();
}
END_TEST

START_TEST(handy_pages)
{
	setup();
	gmm_page_id mine = take(vm), theirs = take(other), shared;
	OK(gmm_vm_share_page(other, take(other), &shared));
	const struct { struct gmm_handy_page page; int status; } cases[] = {
		{ { 0, 0x7ffff000, 0 }, GMM_ERR_PAGE_NOT_FOUND },
		{ { 0, shared, 0 }, GMM_ERR_PAGE_NOT_PRIVATE },
		{ { 0, theirs, 0 }, GMM_ERR_NOT_PAGE_OWNER },
		{ { 0, mine, theirs }, GMM_ERR_PAGE_NOT_SHARED },
		{ { 0, mine, 0x7ffff000 }, GMM_ERR_PAGE_NOT_FOUND },
		{ { 0, mine, shared }, GMM_ERR_NOT_PAGE_OWNER },
		{ { 5, mine, 0 }, GMM_ERR_INVALID_PARAMETER },
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct gmm_handy_page page = cases[i].page;
		IS(gmm_vm_refill_handy_pages(vm, 1, 1, &page), cases[i].status);
		ck_assert(memcmp(&page, &cases[i].page, sizeof page) == 0);
	}
	struct gmm_handy_page many[GMM_HANDY_MAX];
	IS(gmm_vm_refill_handy_pages(other, 0, GMM_HANDY_MAX, many), GMM_ERR_HIT_VM_ACCOUNT_LIMIT);
	OK(gmm_vm_refill_handy_pages(vm, 0, GMM_HANDY_MAX, many));
	teardown();
}
END_TEST

START_TEST(balloon)
{
	uint64_t addr[2] = { 0, 4096 };
	uint32_t changed;

	setup();
	IS(gmm_vm_balloon_pages(vm, GMM_BALLOON_DEFLATE, 1, addr, NULL), GMM_ERR_ATTEMPT_TO_DEFLATE_TOO_MUCH);
	gmm_page_id all[999];
	OK(gmm_vm_allocate_pages(other, GMM_ACCOUNT_BASE, 999, NULL, all));
	IS(gmm_vm_balloon_pages(other, GMM_BALLOON_INFLATE, 2, addr, NULL), GMM_ERR_ATTEMPT_TO_FREE_TOO_MUCH);
	OK(gmm_vm_balloon_pages(other, GMM_BALLOON_INFLATE, 1, addr, &changed));
	ck_assert_uint_eq(changed, 1);
	OK(gmm_vm_balloon_pages(other, GMM_BALLOON_INFLATE, 1, addr, &changed)); /* reported twice */
	ck_assert_uint_eq(changed, 0);
	IS(gmm_vm_allocate_pages(other, GMM_ACCOUNT_BASE, 1, NULL, all), GMM_ERR_HIT_VM_ACCOUNT_LIMIT);
	teardown();
}
END_TEST

START_TEST(chunks)
{
	struct gmm_limits limits;
	gmm_chunk_id seeded;
	void *addr, *same;

	setup();
	gmm_page_id mine = take(vm), theirs = take(other), large;
	IS(gmm_vm_map_chunk(vm, gmm_page_chunk(theirs), 0, &addr), GMM_ERR_CHUNK_NOT_FOUND);
	IS(gmm_vm_map_chunk(vm, 0x7ffff, 0, &addr), GMM_ERR_CHUNK_NOT_FOUND);
	IS(gmm_vm_map_chunk(vm, 0, gmm_page_chunk(mine), NULL), GMM_ERR_CHUNK_NOT_MAPPED);
	OK(gmm_vm_map_chunk(vm, gmm_page_chunk(mine), 0, &addr));
	OK(gmm_vm_map_chunk(vm, gmm_page_chunk(mine), 0, &same));
	ck_assert_ptr_eq(addr, same);
	OK(gmm_instance_limits(gmm, &limits));
	limits.chunk_mappings = 1;
	OK(gmm_instance_set_limits(gmm, &limits));
	OK(gmm_vm_allocate_large_page(vm, &large));
	IS(gmm_vm_map_chunk(vm, gmm_page_chunk(large), 0, &addr), GMM_ERR_TOO_MANY_CHUNK_MAPPINGS);
	OK(gmm_vm_map_chunk(vm, gmm_page_chunk(large), gmm_page_chunk(mine), &addr));
	ck_assert_uint_eq((uintptr_t)addr % GMM_CHUNK_SIZE, 0);
	OK(gmm_vm_free_large_page(vm, large)); /* its mapping goes with it */
	OK(gmm_vm_map_chunk(vm, gmm_page_chunk(mine), 0, &addr));
	void *own = aligned_alloc(GMM_CHUNK_SIZE, GMM_CHUNK_SIZE);
	IS(gmm_vm_seed_chunk(vm, (uint8_t *)own + 4096, &seeded), GMM_ERR_MISALIGNED);
	OK(gmm_vm_seed_chunk(vm, own, &seeded));
	IS(gmm_vm_seed_chunk(other, own, &seeded), GMM_ERR_OVERLAP);
	char *kept = aligned_alloc(GMM_CHUNK_SIZE, GMM_CHUNK_SIZE);
	strcpy(kept + 5 * GMM_PAGE_SIZE, "kept");
	IS(gmm_vm_adopt_chunk(vm, kept + 4096, 0, &seeded), GMM_ERR_MISALIGNED);
	IS(gmm_vm_adopt_chunk(vm, own, 0, &seeded), GMM_ERR_OVERLAP);
	IS(gmm_vm_adopt_chunk(vm, kept, 1, &seeded), GMM_ERR_INVALID_PARAMETER);
	IS(gmm_vm_adopt_chunk(vm, kept, GMM_GUEST_MAX, &seeded), GMM_ERR_INVALID_PARAMETER);
	OK(gmm_vm_adopt_chunk(other, kept, 0, &seeded));
	OK(gmm_instance_validate(gmm));
	char *more = aligned_alloc(GMM_CHUNK_SIZE, GMM_CHUNK_SIZE);
	IS(gmm_vm_adopt_chunk(other, more, GMM_CHUNK_SIZE, &seeded), GMM_ERR_HIT_VM_ACCOUNT_LIMIT); /* 1000 reserved */
	free(more);
	OK(gmm_vm_map_chunk(other, seeded, 0, &addr));
	ck_assert_ptr_eq(addr, kept);
	gmm_page_id page = seeded * GMM_CHUNK_PAGES + 5, shared;
	OK(gmm_vm_share_page(other, page, &shared));
	OK(gmm_vm_map_chunk(other, gmm_page_chunk(shared), seeded, &addr)); /* one at a time still */
	ck_assert_str_eq((char *)addr + gmm_page_index(shared) * (size_t)GMM_PAGE_SIZE, "kept");
	teardown();
	ck_assert_str_eq(kept + 5 * GMM_PAGE_SIZE, "kept");
	free(kept);
	free(own);
}
END_TEST

/* A chunk is kept when it is the only unused one; others go back at once, the last with the VM. */
START_TEST(chunks_go_back)
{
	static gmm_page_id ids[5 * GMM_CHUNK_PAGES];
	struct gmm_vm_memory_stats stats;

	setup();
	OK(gmm_vm_allocate_pages(vm, GMM_ACCOUNT_BASE, 5 * GMM_CHUNK_PAGES, NULL, ids));
	OK(gmm_vm_memory_stats(vm, &stats));
	ck_assert_uint_eq(stats.memory.chunks, 5);
	for (uint32_t i = 0; i < 5 * GMM_CHUNK_PAGES; i++)
		OK(gmm_vm_free_pages(vm, GMM_ACCOUNT_BASE, 1, &ids[i], NULL));
	OK(gmm_vm_memory_stats(vm, &stats));
	ck_assert_uint_eq(stats.memory.chunks, 1);
	ck_assert_uint_eq(stats.memory.counters.chunks_returned, 4);
	const struct gmm_page_counters which = { .chunks_returned = 1 };
	OK(gmm_vm_reset_counters(vm, &which));
	OK(gmm_vm_memory_stats(vm, &stats));
	ck_assert_uint_eq(stats.memory.counters.chunks_returned, 0);
	ck_assert_uint_eq(stats.memory.counters.freed, 5 * GMM_CHUNK_PAGES);
	teardown();
}
END_TEST

static bool is_refusal(int status)
{
	return status == GMM_OK || status == GMM_ERR_NO_MEMORY;
}

/* What a VM may do that asks the host for something. */
static void life(void)
{
	const struct gmm_reservation r = { .pages = { 20000, 10, 10 }, .overcommit = GMM_OVERCOMMIT_BEST_EFFORT };
	struct gmm_vm_options options;
	static gmm_page_id ids[2000];
	struct gmm_vm *made;
	gmm_page_id page = 0;
	uint64_t addr = 0;
	void *at;

	gmm_vm_options_init(&options);
	options.kind = GMM_VM_PAGED;
	int status = gmm_vm_create(gmm, &options, &made);
	ck_assert(is_refusal(status));
	if (status != GMM_OK)
		return;
	OK(gmm_vm_reserve(made, &r));
	bool some = gmm_vm_allocate_pages(made, GMM_ACCOUNT_BASE, 2000, NULL, ids) == GMM_OK;
	ck_assert(is_refusal(gmm_vm_allocate_large_page(made, &page)));
	ck_assert(is_refusal(gmm_vm_balloon_pages(made, GMM_BALLOON_INFLATE, 1, &addr, NULL)));
	if (some) {
		ck_assert(is_refusal(gmm_vm_map_chunk(made, gmm_page_chunk(ids[0]), 0, &at)));
		ck_assert(is_refusal(gmm_vm_share_page(made, ids[0], &ids[0])));
		OK(gmm_vm_free_pages(made, GMM_ACCOUNT_BASE, 2000, ids, NULL));
	}
	faulty_pause(true);
	OK(gmm_instance_validate(gmm));
	struct gmm_vm_memory_stats stats;
	OK(gmm_vm_memory_stats(made, &stats));
	ck_assert_uint_eq(stats.memory.used_pages[GMM_ACCOUNT_BASE], page ? GMM_CHUNK_PAGES : 0);
	faulty_pause(false);
	OK(gmm_vm_destroy(made, GMM_RAM_DISCARD));
}

START_TEST(nth_call_fails)
{
	struct gmm_options options;
	uint32_t n = 1;

	gmm_options_init(&options);
	for (;; n++) {
		faulty_begin(FAULTY_ANY, n, 1);
		faulty_pause(true);
		OK(gmm__instance_open(&options, faulty_sys(), &gmm));
		faulty_pause(false);
		life();
		faulty_pause(true);
		OK(gmm_instance_validate(gmm));
		OK(gmm_instance_close(gmm));
		if (faulty_failures() == 0)
			break;
	}
	ck_assert_uint_gt(n, 10);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		nodes, part_of_a_large_page, reservations, pages, handy_pages, balloon, chunks, chunks_go_back, nth_call_fails,
	};

	return unit_main("paged_status", tests, sizeof tests / sizeof *tests);
}
