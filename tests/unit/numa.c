/* NUMA nodes, on a host that seems to have three: where chunks and pools are to be, and that with a pool for each node VMs of
 * different nodes share nothing. And the real call, for node 0, which every host has.
 */
#include <gmm/pages.h>

#include <numaif.h>
#include <stdlib.h>
#include <string.h>

#include "dedup/instance.h"
#include "gmm/paged.h"
#include "tests/support/suite.h"
#include "tests/unit/support/unit.h"

static int here;
static uint32_t bound[3]; /* ranges that were to be on each node */
static struct gmm__sys sys;

static int three_nodes(void)
{
	return 3;
}

static int node_here(void)
{
	return here;
}

/* Only node 0 is there. */
static int note_policy(void *addr, size_t size, int mode, const unsigned long *nodes, unsigned long max_nodes)
{
	ck_assert_int_eq(mode, MPOL_PREFERRED);
	for (int node = 0; node < 3; node++)
		bound[node] += *nodes >> node & 1;
	return *nodes == 1 ? gmm__sys_linux()->policy_set(addr, size, mode, nodes, max_nodes) : 0;
}

static struct gmm *open_with(bool pool_per_node)
{
	struct gmm_options options;
	struct gmm *gmm;

	memset(bound, 0, sizeof bound);
	sys = *gmm__sys_linux();
	sys.numa_nodes = three_nodes;
	sys.numa_node_here = node_here;
	sys.policy_set = note_policy;
	gmm_options_init(&options);
	options.pool_per_node = pool_per_node;
	assert_ok(gmm__instance_open(&options, &sys, &gmm));
	return gmm;
}

static struct gmm_vm *vm_on(struct gmm *gmm, int node)
{
	const struct gmm_reservation reservation = { .pages = { 4096, 8, 8 } };
	struct gmm_vm_options options;
	struct gmm_vm *vm;

	gmm_vm_options_init(&options);
	options.kind = GMM_VM_PAGED;
	options.numa_node = node;
	assert_ok(gmm_vm_create(gmm, &options, &vm));
	assert_ok(gmm_vm_reserve(vm, &reservation));
	return vm;
}

static gmm_page_id page_of(struct gmm_vm *vm)
{
	gmm_page_id page;

	assert_ok(gmm_vm_allocate_pages(vm, GMM_ACCOUNT_BASE, 1, NULL, &page));
	memset(vm_page(vm, page), 7, GMM_PAGE_SIZE);
	return page;
}

static void close_all(struct gmm *gmm, struct gmm_vm **vm, int n)
{
	for (int i = 0; i < n; i++) {
		assert_ok(gmm_vm_destroy(vm[i], GMM_RAM_DISCARD));
		assert_ok(gmm_instance_validate(gmm));
	}
	assert_ok(gmm_instance_close(gmm));
}

START_TEST(memory_of_a_node)
{
	struct gmm *gmm = open_with(false);
	struct gmm_vm *vm[2];

	here = 1;
	vm[0] = vm_on(gmm, -1);
	vm[1] = vm_on(gmm, 2);
	page_of(vm[0]);
	page_of(vm[1]);
	ck_assert_uint_eq(bound[0], 0);
	ck_assert_uint_eq(bound[1], 1);
	ck_assert_uint_eq(bound[2], 1);
	gmm_page_id shared;
	assert_ok(gmm_vm_share_page(vm[0], page_of(vm[0]), &shared));
	bool joined = false;
	assert_ok(gmm_vm_join_page(vm[1], page_of(vm[1]), shared, &joined)); /* one pool for all nodes, of no node */
	ck_assert(joined);
	ck_assert_uint_eq(bound[0] + bound[1] + bound[2], 2);
	close_all(gmm, vm, 2);
}
END_TEST

START_TEST(a_pool_for_each_node)
{
	struct gmm *gmm = open_with(true);
	struct gmm_vm *vm[4];
	struct gmm_clone_page entry = { 0 };
	gmm_page_id shared, other;
	bool found, joined;

	here = 2;
	for (int i = 0; i < 3; i++)
		vm[i] = vm_on(gmm, i == 2 ? -1 : 1); /* two on node 1, one on node 2 */
	assert_ok(gmm_vm_share_page(vm[0], page_of(vm[0]), &shared));
	gmm_page_id mine = page_of(vm[1]), theirs = page_of(vm[2]);
	assert_ok(gmm_vm_find_duplicate(vm[1], mine, &found));
	ck_assert(found);
	assert_ok(gmm_vm_find_duplicate(vm[2], theirs, &found));
	ck_assert(!found);
	ck_assert_int_eq(gmm_vm_join_page(vm[2], theirs, shared, &joined), GMM_ERR_PAGE_NOT_FOUND);
	assert_ok(gmm_vm_join_page(vm[1], mine, shared, &joined));
	ck_assert(joined);
	assert_ok(gmm_vm_share_page(vm[2], theirs, &other));
	ck_assert_uint_eq(bound[0], 0);
	ck_assert_uint_eq(bound[1], 2); /* chunks, and the pool */
	ck_assert_uint_eq(bound[2], 2);
	here = 0;
	entry.page = shared;
	assert_ok(gmm_vm_clone_pages(vm[0], NULL, 1, &entry, &vm[3])); /* on its source's node, wherever the caller is */
	ck_assert_uint_eq(entry.clone_page, shared);
	assert_ok(gmm_instance_validate(gmm));
	close_all(gmm, vm, 4);
}
END_TEST

/* Mapped VMs: a clone belongs to its source's node. */
START_TEST(mapped_vms)
{
	struct gmm *gmm = open_with(true);
	struct gmm_vm_options options;
	struct gmm_vm *vm[3];
	void *ram;

	gmm_vm_options_init(&options);
	options.numa_node = 3;
	ck_assert_int_eq(gmm_vm_create(gmm, &options, &vm[0]), GMM_ERR_INVALID_PARAMETER);
	options.numa_node = 1;
	assert_ok(gmm_vm_create(gmm, &options, &vm[0]));
	assert_ok(gmm_vm_create_ram(vm[0], 0, 8 * GMM_PAGE_SIZE, &ram));
	memset(ram, 3, 8 * GMM_PAGE_SIZE);
	here = 0;
	assert_ok(gmm_vm_clone(vm[0], NULL, &vm[1]));
	assert_ok(gmm_vm_create(gmm, NULL, &vm[2]));
	ck_assert_ptr_eq(vm[0]->domain, vm[1]->domain);
	ck_assert_ptr_ne(vm[0]->domain, vm[2]->domain);
	ck_assert_uint_eq(bound[1], 1);
	close_all(gmm, vm, 3);
}
END_TEST

START_TEST(on_node_0)
{
	struct gmm *gmm = open_with(true);
	struct gmm_vm *vm[] = { vm_on(gmm, 0) };
	unsigned long nodes = 0;
	gmm_page_id shared;
	int mode = -1, node = -1;
	void *addr;

	assert_ok(gmm_vm_share_page(vm[0], page_of(vm[0]), &shared));
	assert_ok(gmm_vm_map_chunk(vm[0], gmm_page_chunk(shared), 0, &addr));
	ck_assert_int_eq(get_mempolicy(&mode, &nodes, 65, addr, MPOL_F_ADDR), 0);
	ck_assert_int_eq(mode, MPOL_PREFERRED);
	ck_assert_uint_eq(nodes, 1);
	ck_assert_int_eq(get_mempolicy(&node, NULL, 0, addr, MPOL_F_ADDR | MPOL_F_NODE), 0);
	ck_assert_int_eq(node, 0);
	close_all(gmm, vm, 1);
}
END_TEST

START_TEST(not_with_a_service)
{
	struct gmm_options options;
	struct gmm *gmm;

	gmm_options_init(&options);
	options.pool_per_node = true;
	options.socket = "/nowhere";
	ck_assert_int_eq(gmm_instance_open(&options, &gmm), GMM_ERR_INVALID_PARAMETER);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = { memory_of_a_node, a_pool_for_each_node, mapped_vms, on_node_0, not_with_a_service };

	return unit_main("numa", tests, sizeof tests / sizeof *tests);
}
