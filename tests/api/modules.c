/* Guest modules on the real kernel: every status, the limits, pages named by page tables and by runs, sharing while
 * guests write, many threads that register at once, and what happens when VMs or domains end.
 */
#include <gmm/modules.h>

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "tests/support/guest.h"
#include "tests/support/suite.h"

enum { PAGES = 64, RAM = 128 };

#define SEED 1000u

/* A module of `pages` pages from guest page `first` on. */
struct sample {
	struct gmm_module module;
	struct gmm_module_region region;
	struct gmm_page_run run;
};

static struct gmm_module *sample(struct sample *s, const char *name, uint64_t base, uint64_t first, uint64_t pages)
{
	s->region = (struct gmm_module_region){ 0x400000, pages * PAGE };
	s->run = (struct gmm_page_run){ first * PAGE, pages };
	gmm_module_init(&s->module);
	s->module.os = GMM_OS_LINUX;
	s->module.name = name;
	s->module.version = "1.0";
	s->module.base = base;
	s->module.size = pages * PAGE;
	s->module.regions = &s->region;
	s->module.n_regions = 1;
	s->module.runs = &s->run;
	s->module.n_runs = 1;
	return &s->module;
}

static int add(struct gmm_vm *vm, const char *name, uint64_t base)
{
	struct sample s;

	return gmm_module_register(vm, sample(&s, name, base, 0, PAGES));
}

struct pair {
	struct gmm *gmm;
	struct gmm_vm *vm[2];
	char *ram[2];
};

static struct pair pair_open(void)
{
	struct pair pair = { .gmm = instance_open() };

	for (int i = 0; i < 2; i++) {
		pair.vm[i] = vm_create(pair.gmm, NULL);
		pair.ram[i] = vm_create_ram(pair.vm[i], 0, RAM);
		ram_fill(pair.ram[i], PAGES, SEED);
	}
	return pair;
}

static void pair_close(struct pair *pair)
{
	assert_ok(gmm_instance_validate(pair->gmm));
	for (int i = 0; i < 2; i++)
		if (pair->vm[i])
			assert_ok(gmm_vm_destroy(pair->vm[i], GMM_RAM_DISCARD));
	assert_ok(gmm_instance_close(pair->gmm));
}

static struct gmm_module_info info_of(struct gmm_vm *vm, uint64_t base)
{
	struct gmm_module_info info;

	assert_ok(gmm_module_find(vm, base, &info));
	return info;
}

static size_t modules_of(struct gmm *gmm)
{
	size_t n;

	assert_ok(gmm_modules_list(gmm, NULL, 0, &n));
	return n;
}

/* ---- statuses ---------------------------------------------------------------------------------------------- */

START_TEST(every_status)
{
	struct pair pair = pair_open();
	struct gmm_vm *vm = pair.vm[0];
	char name[GMM_MODULE_NAME_MAX + 2];
	struct gmm_module_region regions[GMM_MODULE_REGIONS_MAX + 1];
	struct sample s;

	assert_status(gmm_module_unregister(vm, 1), GMM_ERR_NOT_FOUND);
	assert_status(gmm_module_check(vm, 1, 0, NULL), GMM_ERR_NOT_FOUND);
	assert_ok(add(vm, "a", 1));
	assert_status(add(vm, "a", 1), GMM_ALREADY_REGISTERED);
	ck_assert_str_eq(gmm_status_name(GMM_ALREADY_REGISTERED), "GMM_ALREADY_REGISTERED");
	ck_assert_str_eq(gmm_status_name(GMM_ERR_TOO_MANY_GLOBAL), "GMM_ERR_TOO_MANY_GLOBAL");
	assert_status(add(vm, "b", 1), GMM_ERR_ADDRESS_CLASH);
	assert_status(gmm_module_unregister(vm, 2), GMM_ERR_NOT_FOUND);
	assert_status(gmm_module_check(vm, 2, 0, NULL), GMM_ERR_NOT_FOUND);

	memset(name, 'x', sizeof name);
	name[GMM_MODULE_NAME_MAX + 1] = 0;
	assert_status(gmm_module_register(vm, sample(&s, name, 2, 0, 1)), GMM_ERR_NAME_TOO_LONG);
	name[GMM_MODULE_NAME_MAX] = 0;
	assert_ok(gmm_module_register(vm, sample(&s, name, 2, 0, 1)));
	ck_assert_str_eq(info_of(vm, 2).name, name);
	sample(&s, "v", 3, 0, 1)->version = "1234567890123456";
	assert_status(gmm_module_register(vm, &s.module), GMM_ERR_VERSION_TOO_LONG);
	sample(&s, "v", 3, 0, 1)->version = "123456789012345";
	assert_ok(gmm_module_register(vm, &s.module));
	sample(&s, "v", 4, 0, 1)->version = NULL;
	assert_ok(gmm_module_register(vm, &s.module));
	ck_assert_str_eq(info_of(vm, 4).version, "");

	for (int i = 0; i <= (int)GMM_MODULE_REGIONS_MAX; i++)
		regions[i] = (struct gmm_module_region){ 0x1000u * (unsigned)i, 100 };
	sample(&s, "r", 5, 0, GMM_MODULE_REGIONS_MAX)->regions = regions;
	s.module.n_regions = GMM_MODULE_REGIONS_MAX + 1;
	assert_status(gmm_module_register(vm, &s.module), GMM_ERR_TOO_MANY_REGIONS);
	s.module.n_regions = GMM_MODULE_REGIONS_MAX;
	assert_ok(gmm_module_register(vm, &s.module));
	ck_assert_uint_eq(info_of(vm, 5).pages, GMM_MODULE_REGIONS_MAX);
	pair_close(&pair);
}
END_TEST

START_TEST(sizes)
{
	static const uint64_t bad_sizes[] = { 0, GMM_MODULE_BYTES_MAX + 1ull, UINT64_MAX };
	struct pair pair = pair_open();
	struct gmm_vm *vm = pair.vm[0];
	struct gmm_module_region two[2] = { { 0, GMM_MODULE_BYTES_MAX }, { 1ull << 40, 1 } };
	struct gmm_guest_cpu cpu = { 0 };
	struct sample s;

	for (size_t i = 0; i < 3; i++) {
		sample(&s, "s", 1, 0, 1)->size = bad_sizes[i];
		assert_status(gmm_module_register(vm, &s.module), GMM_ERR_BAD_MODULE_SIZE);
		sample(&s, "s", 1, 0, 1);
		s.region.size = bad_sizes[i];
		assert_status(gmm_module_register(vm, &s.module), GMM_ERR_BAD_REGIONS_SIZE);
	}
	sample(&s, "s", UINT64_MAX, 0, 1);
	assert_status(gmm_module_register(vm, &s.module), GMM_ERR_BAD_MODULE_SIZE);
	sample(&s, "s", 1, 0, 1);
	s.region.addr = UINT64_MAX - 100;
	assert_status(gmm_module_register(vm, &s.module), GMM_ERR_BAD_REGIONS_SIZE);
	sample(&s, "s", 1, 0, 1)->regions = two; /* each fits, both do not */
	s.module.n_regions = 2;
	s.module.runs = NULL;
	s.module.cpu = &cpu;
	assert_status(gmm_module_register(vm, &s.module), GMM_ERR_BAD_REGIONS_SIZE);
	s.module.n_regions = 1;
	assert_ok(gmm_module_register(vm, &s.module));
	ck_assert_uint_eq(info_of(vm, 1).pages, GMM_MODULE_BYTES_MAX / PAGE);
	pair_close(&pair);
}
END_TEST

START_TEST(runs)
{
	struct pair pair = pair_open();
	struct gmm_vm *vm = pair.vm[0];
	struct gmm_page_run many[3] = { { 0, 1 }, { GMM_NO_PAGES, 1 }, { 8 * PAGE, 2 } };
	struct sample s;

	sample(&s, "r", 1, 0, 4)->runs = many;
	s.module.n_runs = 2; /* too few pages */
	assert_status(gmm_module_register(vm, &s.module), GMM_ERR_BAD_REGIONS_SIZE);
	s.module.n_runs = 0;
	assert_status(gmm_module_register(vm, &s.module), GMM_ERR_BAD_REGIONS_SIZE);
	s.module.n_runs = SIZE_MAX; /* looked at no further than the pages go */
	assert_status(gmm_module_register(vm, &s.module), GMM_ERR_BAD_REGIONS_SIZE);
	s.module.n_runs = 3;
	many[2].pages = 3; /* too many */
	assert_status(gmm_module_register(vm, &s.module), GMM_ERR_BAD_REGIONS_SIZE);
	many[2].pages = UINT64_MAX;
	assert_status(gmm_module_register(vm, &s.module), GMM_ERR_BAD_REGIONS_SIZE);
	many[2] = (struct gmm_page_run){ 8 * PAGE + 1, 2 };
	assert_status(gmm_module_register(vm, &s.module), GMM_ERR_MISALIGNED);
	many[2].guest_addr = UINT64_MAX - PAGE + 1; /* aligned, and beyond any guest */
	assert_status(gmm_module_register(vm, &s.module), GMM_ERR_INVALID_PARAMETER);
	many[2].guest_addr = 8 * PAGE;
	assert_ok(gmm_module_register(vm, &s.module));
	struct gmm_module_checked counts;
	assert_ok(gmm_module_check(vm, 1, 0, &counts));
	ck_assert_uint_eq(counts.pages, 4);
	ck_assert_uint_eq(counts.absent, 1);
	ck_assert_uint_eq(counts.different, 3);
	pair_close(&pair);
}
END_TEST

START_TEST(bad_parameters)
{
	struct pair pair = pair_open();
	struct gmm_vm *vm = pair.vm[0];
	struct gmm_guest_cpu cpu = { 0 };
	struct gmm_module_info info;
	struct sample s;
	size_t n;

	assert_status(gmm_module_register(NULL, sample(&s, "x", 1, 0, 1)), GMM_ERR_INVALID_PARAMETER);
	assert_status(gmm_module_register(vm, NULL), GMM_ERR_INVALID_PARAMETER);
	sample(&s, "", 1, 0, 1);
	assert_status(gmm_module_register(vm, &s.module), GMM_ERR_INVALID_PARAMETER);
	sample(&s, "x", 1, 0, 1)->os = GMM_OS_FAMILIES;
	assert_status(gmm_module_register(vm, &s.module), GMM_ERR_INVALID_PARAMETER);
	sample(&s, "x", 1, 0, 1)->cpu = &cpu; /* both ways at once */
	assert_status(gmm_module_register(vm, &s.module), GMM_ERR_INVALID_PARAMETER);
	sample(&s, "x", 1, 0, 1)->runs = NULL; /* neither */
	assert_status(gmm_module_register(vm, &s.module), GMM_ERR_INVALID_PARAMETER);
	sample(&s, "x", 1, 0, 1)->n_regions = 0;
	assert_status(gmm_module_register(vm, &s.module), GMM_ERR_INVALID_PARAMETER);
	sample(&s, "x", 1, 0, 1)->struct_size--;
	assert_status(gmm_module_register(vm, &s.module), GMM_ERR_INVALID_PARAMETER);
	assert_status(gmm_module_check(vm, 1, 2, NULL), GMM_ERR_INVALID_PARAMETER);
	assert_status(gmm_modules_check_vm(NULL, 0, NULL), GMM_ERR_INVALID_PARAMETER);
	assert_status(gmm_modules_check_all(NULL, 0, NULL), GMM_ERR_INVALID_PARAMETER);
	assert_status(gmm_modules_list(pair.gmm, NULL, 1, &n), GMM_ERR_INVALID_PARAMETER);
	assert_status(gmm_module_find(vm, 1, &info), GMM_ERR_NOT_FOUND);
	assert_status(gmm_modules_reset(NULL), GMM_ERR_INVALID_PARAMETER);
	assert_ok(gmm_modules_reset(vm));
	assert_ok(gmm_modules_check_all(pair.gmm, 0, NULL));
	ck_assert_uint_eq(modules_of(pair.gmm), 0);
	pair_close(&pair);
}
END_TEST

/* Flaw: the count per VM was never decremented. */
START_TEST(limit_of_a_vm)
{
	struct pair pair = pair_open();
	char name[16];

	for (uint64_t i = 0; i < GMM_MODULE_VM_MAX; i++) {
		snprintf(name, sizeof name, "m%u", (unsigned)i);
		assert_ok(add(pair.vm[0], name, i));
	}
	assert_status(add(pair.vm[0], "more", GMM_MODULE_VM_MAX), GMM_ERR_TOO_MANY_PER_VM);
	assert_status(add(pair.vm[0], "m5", 5), GMM_ALREADY_REGISTERED);
	assert_ok(add(pair.vm[1], "more", GMM_MODULE_VM_MAX));
	for (int i = 0; i < 3; i++) {
		assert_ok(gmm_module_unregister(pair.vm[0], 7));
		assert_ok(add(pair.vm[0], "m7", 7));
	}
	assert_ok(gmm_modules_reset(pair.vm[0]));
	ck_assert_uint_eq(modules_of(pair.gmm), 1);
	assert_ok(add(pair.vm[0], "m1", 1));
	pair_close(&pair);
}
END_TEST

START_TEST(limit_of_all)
{
	enum { VMS = GMM_MODULE_MAX / GMM_MODULE_VM_MAX + 1 };
	struct gmm *gmm = instance_open();
	struct gmm_vm *vm[VMS];
	char name[16];

	for (int v = 0; v < VMS; v++)
		vm[v] = vm_create(gmm, NULL);
	for (uint64_t i = 0; i < GMM_MODULE_MAX; i++) {
		snprintf(name, sizeof name, "m%u", (unsigned)i);
		assert_ok(add(vm[i / GMM_MODULE_VM_MAX], name, i));
	}
	ck_assert_uint_eq(modules_of(gmm), GMM_MODULE_MAX);
	assert_status(add(vm[VMS - 1], "more", 1), GMM_ERR_TOO_MANY_GLOBAL);
	assert_ok(add(vm[VMS - 1], "m3", 1)); /* a known one needs no room */
	assert_ok(gmm_module_unregister(vm[0], 9));
	assert_ok(add(vm[VMS - 1], "more", 2));
	ck_assert_uint_eq(modules_of(gmm), GMM_MODULE_MAX);
	for (int v = 0; v < VMS; v++)
		assert_ok(gmm_vm_destroy(vm[v], GMM_RAM_DISCARD));
	assert_ok(gmm_instance_close(gmm));
}
END_TEST

/* What makes a module another one: everything in its key. */
START_TEST(keys)
{
	struct pair pair = pair_open();
	struct gmm_module_region two[2] = { { 0x400000, PAGE }, { 0x500000, PAGE } };
	struct gmm_page_run three[1] = { { 0, 3 } };
	struct sample s;
	size_t n = 1;

	assert_ok(gmm_module_register(pair.vm[0], sample(&s, "k", 1, 0, 2)));
	assert_ok(gmm_module_register(pair.vm[1], sample(&s, "k", 99, 4, 2))); /* elsewhere: the same */
	ck_assert_uint_eq(modules_of(pair.gmm), n);
	ck_assert_uint_eq(info_of(pair.vm[0], 1).users, 2);
	sample(&s, "K", 2, 0, 2);
	assert_ok(gmm_module_register(pair.vm[0], &s.module));
	ck_assert_uint_eq(modules_of(pair.gmm), ++n);
	sample(&s, "k", 3, 0, 2)->version = "1.1";
	assert_ok(gmm_module_register(pair.vm[0], &s.module));
	ck_assert_uint_eq(modules_of(pair.gmm), ++n);
	sample(&s, "k", 4, 0, 2)->size++;
	assert_ok(gmm_module_register(pair.vm[0], &s.module));
	ck_assert_uint_eq(modules_of(pair.gmm), ++n);
	sample(&s, "k", 5, 0, 2)->os = GMM_OS_BSD;
	assert_ok(gmm_module_register(pair.vm[0], &s.module));
	ck_assert_uint_eq(modules_of(pair.gmm), ++n);
	sample(&s, "k", 6, 0, 2)->regions = two;
	s.module.n_regions = 2;
	assert_ok(gmm_module_register(pair.vm[0], &s.module));
	ck_assert_uint_eq(modules_of(pair.gmm), ++n);
	sample(&s, "k", 7, 0, 2)->runs = three; /* the same bytes, but not at the beginning of a page */
	s.region.addr += 8;
	assert_ok(gmm_module_register(pair.vm[0], &s.module));
	ck_assert_uint_eq(modules_of(pair.gmm), ++n);
	ck_assert_uint_eq(info_of(pair.vm[0], 7).pages, 3);
	sample(&s, "k", 8, 0, 2);
	s.region.size -= 5; /* rounded: the same */
	assert_ok(gmm_module_register(pair.vm[0], &s.module));
	ck_assert_uint_eq(modules_of(pair.gmm), n);
	pair_close(&pair);
}
END_TEST

/* ---- sharing ------------------------------------------------------------------------------------------------ */

START_TEST(shared_on_demand_without_the_engine)
{
	struct pair pair = pair_open();
	struct gmm_module_checked counts;

	assert_ok(add(pair.vm[0], "libc", 1));
	assert_ok(add(pair.vm[1], "libc", 2));
	assert_ok(gmm_modules_check_all(pair.gmm, 0, &counts));
	ck_assert_uint_eq(counts.pages, 2 * PAGES);
	ck_assert_uint_eq(counts.different + counts.promoted, 2 * PAGES);
	ck_assert_uint_eq(counts.promoted, PAGES);
	ck_assert_uint_eq(counts.twins, PAGES);
	for (int i = 0; i < 2; i++) {
		ck_assert_uint_eq(vm_state(pair.vm[i], GMM_PAGE_SHARED), PAGES);
		ck_assert_uint_eq(vm_stats_of(pair.vm[i]).runs, 1);
		ck_assert_uint_eq(ram_wrong(pair.ram[i], PAGES, SEED), 0);
	}
	ck_assert_uint_eq(stats_of(pair.gmm).digested_pages, 0);
	ck_assert_uint_gt(stats_of(pair.gmm).longest_freeze_ns, 0);
	assert_ok(gmm_modules_check_vm(pair.vm[0], 0, &counts));
	ck_assert_uint_eq(counts.shared, PAGES);
	page_fill(pair.ram[0], 5); /* a guest writes: copy on write as always */
	ck_assert_uint_eq(ram_wrong(pair.ram[1], PAGES, SEED), 0);
	pair_close(&pair);
}
END_TEST

START_TEST(shared_by_the_engine)
{
	struct pair pair = pair_open();

	assert_ok(add(pair.vm[0], "libc", 1));
	engine_settle(pair.gmm);
	assert_ok(add(pair.vm[1], "libc", 2));
	/* In the next pass, or in a later one where a VM is being looked at just then. */
	assert_eventually(info_of(pair.vm[0], 1).saved_pages == PAGES);
	ck_assert_uint_eq(info_of(pair.vm[0], 1).shared_pages, PAGES);
	assert_ok(gmm_module_check(pair.vm[0], 1, 0, NULL));
	engine_settle(pair.gmm);
	pair_close(&pair);
}
END_TEST

/* ---- page tables ------------------------------------------------------------------------------------------------ */

enum { TABLES = 100, PRESENT = 1, WRITABLE = 2, USER = 4, CR0_PG_PE_WP = 0x80010001 };
#define CR4_PAE 0x20u
#define EFER_LONG 0x500u
#define LINEAR UINT64_C(0x7f0000000000)

/* Long mode, four levels, tables in guest pages TABLES ...: LINEAR + i pages is guest page i. */
static void map_linear(char *ram, uint64_t leaf_flags)
{
	uint64_t *table[4];

	for (int level = 0; level < 4; level++) {
		table[level] = (uint64_t *)(ram + (TABLES + level) * PAGE);
		memset(table[level], 0, PAGE);
	}
	for (int level = 0; level < 3; level++)
		table[level][LINEAR >> (39 - 9 * level) & 511] =
			(uint64_t)(TABLES + level + 1) * PAGE | PRESENT | WRITABLE | USER;
	for (uint64_t i = 0; i < PAGES; i++)
		table[3][i] = i * PAGE | leaf_flags;
}

START_TEST(by_page_tables)
{
	struct pair pair = pair_open();
	struct gmm_guest_cpu cpu = { .cr0 = CR0_PG_PE_WP, .cr3 = TABLES * PAGE, .cr4 = CR4_PAE, .efer = EFER_LONG,
				     .phys_bits = 40 };
	struct gmm_module_checked counts;
	struct sample s;

	for (int i = 0; i < 2; i++) {
		map_linear(pair.ram[i], PRESENT | USER);
		sample(&s, "libc", LINEAR, 0, PAGES);
		s.region.addr = LINEAR;
		s.module.runs = NULL;
		s.module.cpu = &cpu;
		assert_ok(gmm_module_register(pair.vm[i], &s.module));
	}
	uint64_t *leaf = (uint64_t *)(pair.ram[1] + (TABLES + 3) * PAGE);
	leaf[1] |= WRITABLE;
	leaf[2] = 0;
	leaf[3] = UINT64_C(0x7fffff000) | PRESENT | USER; /* outside RAM */
	assert_ok(gmm_modules_check_vm(pair.vm[0], 0, NULL));
	assert_ok(gmm_module_check(pair.vm[1], LINEAR, 0, &counts));
	ck_assert_uint_eq(counts.writable, 1);
	ck_assert_uint_eq(counts.absent, 1);
	ck_assert_uint_eq(counts.not_ram, 1);
	ck_assert_uint_eq(counts.promoted, PAGES - 3);
	ck_assert_uint_eq(vm_state(pair.vm[0], GMM_PAGE_SHARED), PAGES - 3);
	/* Tables that are gone, and registers that make no sense: nothing is found, nothing is touched. */
	assert_ok(gmm_vm_discard(pair.vm[1], TABLES * PAGE, PAGE));
	assert_ok(gmm_module_check(pair.vm[1], LINEAR, 0, &counts));
	ck_assert_uint_eq(counts.absent, PAGES);
	memset(&cpu, 0xff, sizeof cpu);
	assert_status(gmm_module_register(pair.vm[1], &s.module), GMM_ALREADY_REGISTERED);
	assert_ok(gmm_module_check(pair.vm[1], LINEAR, GMM_CHECK_PROMOTE, &counts));
	ck_assert_uint_eq(counts.absent, PAGES);
	pair_close(&pair);
}
END_TEST

/* ---- ends ------------------------------------------------------------------------------------------------------- */

START_TEST(vm_dies)
{
	struct pair pair = pair_open();

	assert_ok(add(pair.vm[0], "libc", 1));
	assert_ok(add(pair.vm[1], "libc", 1));
	assert_ok(gmm_modules_check_all(pair.gmm, 0, NULL));
	assert_ok(gmm_vm_destroy(pair.vm[0], GMM_RAM_DISCARD));
	ck_assert_uint_eq(info_of(pair.vm[1], 1).users, 1);
	ck_assert_uint_eq(info_of(pair.vm[1], 1).shared_pages, PAGES);
	ck_assert_uint_eq(ram_wrong(pair.ram[1], PAGES, SEED), 0);
	pair.vm[0] = vm_create(pair.gmm, NULL);
	pair.ram[0] = vm_create_ram(pair.vm[0], 0, RAM);
	ram_fill(pair.ram[0], PAGES, SEED);
	struct gmm_module_checked counts;
	assert_ok(add(pair.vm[0], "libc", 5));
	assert_ok(gmm_module_check(pair.vm[0], 5, 0, &counts));
	ck_assert_uint_eq(counts.joined, PAGES);
	pair_close(&pair);
}
END_TEST

START_TEST(domains)
{
	struct gmm *gmm = instance_open();
	struct gmm_vm *vm[2] = { vm_create(gmm, "red"), vm_create(gmm, "blue") };
	struct gmm_module_checked counts;
	struct gmm_module_info infos[4];
	size_t n;

	for (int i = 0; i < 2; i++) {
		ram_fill(vm_create_ram(vm[i], 0, RAM), PAGES, SEED);
		assert_ok(add(vm[i], "libc", 1));
		assert_ok(gmm_module_check(vm[i], 1, GMM_CHECK_PROMOTE, &counts));
		ck_assert_uint_eq(counts.promoted, PAGES);
	}
	ck_assert_uint_eq(stats_of(gmm).saved_pages, 0);
	assert_ok(gmm_modules_list(gmm, infos, 4, &n));
	ck_assert_uint_eq(n, 2);
	ck_assert_str_ne(infos[0].domain, infos[1].domain);
	/* The domain ends with its VM, and its modules with it. */
	assert_ok(gmm_vm_destroy(vm[0], GMM_RAM_DISCARD));
	assert_ok(gmm_modules_list(gmm, infos, 4, &n));
	ck_assert_uint_eq(n, 1);
	ck_assert_str_eq(infos[0].domain, "blue");
	assert_ok(gmm_vm_destroy(vm[1], GMM_RAM_DISCARD));
	ck_assert_uint_eq(modules_of(gmm), 0);
	assert_ok(gmm_instance_close(gmm));
}
END_TEST

/* ---- many at once -------------------------------------------------------------------------------------------------- */

enum { CROWD = 64, ROUNDS = 15, NAMES = 24 };

struct member {
	struct gmm *gmm;
	struct gmm_vm *vm;
	char *ram;
	uint64_t random;
	bool failed;
};

static _Atomic bool crowd_ends;

/* Registers, looks up, checks and unregisters, while its guest writes over its pages now and then. */
static void *be_member(void *arg)
{
	struct member *m = arg;
	struct gmm_module_info info;
	char name[16];

	for (int i = 0; i < ROUNDS * NAMES; i++) {
		uint64_t base = random_next(&m->random) % NAMES;
		snprintf(name, sizeof name, "m%u", (unsigned)base);
		int status = add(m->vm, name, base);
		m->failed |= status != GMM_OK && status != GMM_ALREADY_REGISTERED;
		m->failed |= gmm_module_find(m->vm, base, &info) != GMM_OK || info.users == 0 ||
			     strcmp(info.name, name) != 0;
		if (i % 50 == 0)
			m->failed |= gmm_module_check(m->vm, base, 0, NULL) != GMM_OK;
		if (i % 70 == 0)
			page_fill(m->ram + base * PAGE, SEED + base);
		base = random_next(&m->random) % NAMES;
		status = gmm_module_unregister(m->vm, base);
		m->failed |= status != GMM_OK && status != GMM_ERR_NOT_FOUND;
	}
	return NULL;
}

static void *look_on(void *arg)
{
	struct gmm_module_info infos[NAMES];
	size_t n;

	while (!crowd_ends) {
		gmm_modules_list(arg, infos, NAMES, &n);
		gmm_modules_check_all(arg, 0, NULL);
	}
	return NULL;
}

START_TEST(many_register_at_once)
{
	struct gmm *gmm = instance_open();
	struct member member[CROWD];
	pthread_t thread[CROWD], onlooker;

	crowd_ends = false;
	assert_ok(gmm_engine_start(gmm));
	for (int i = 0; i < CROWD; i++) {
		member[i] = (struct member){ .gmm = gmm, .vm = vm_create(gmm, NULL), .random = (uint64_t)i + 1 };
		member[i].ram = vm_create_ram(member[i].vm, 0, RAM);
		ram_fill(member[i].ram, PAGES, SEED);
	}
	ck_assert_int_eq(pthread_create(&onlooker, NULL, look_on, gmm), 0);
	for (int i = 0; i < CROWD; i++)
		ck_assert_int_eq(pthread_create(&thread[i], NULL, be_member, &member[i]), 0);
	for (int i = 0; i < CROWD; i++)
		pthread_join(thread[i], NULL);
	/* VMs die under the onlooker. */
	for (int i = 0; i < CROWD; i++) {
		ck_assert(!member[i].failed);
		ck_assert_uint_eq(ram_wrong(member[i].ram, PAGES, SEED), 0);
		assert_ok(gmm_vm_destroy(member[i].vm, GMM_RAM_DISCARD));
	}
	crowd_ends = true;
	pthread_join(onlooker, NULL);
	ck_assert_uint_eq(modules_of(gmm), 0);
	assert_ok(gmm_instance_close(gmm));
}
END_TEST

/* A guest thread writes as fast as it can to pages that are joined under it again and again: no write is lost. */
static void *count_in_pages(void *arg)
{
	char *ram = arg;
	uint64_t n = 0;

	while (!crowd_ends) {
		n++;
		for (int i = 0; i < PAGES; i += 7)
			guest_store(ram + i * PAGE, 3, n);
		for (int i = 0; i < PAGES; i += 7)
			if (guest_load(ram + i * PAGE, 3) != n)
				return arg;
	}
	return NULL;
}

START_TEST(guest_writes_meanwhile)
{
	struct pair pair = pair_open();
	pthread_t writer;
	void *lost;

	crowd_ends = false;
	assert_ok(add(pair.vm[0], "libc", 1));
	assert_ok(add(pair.vm[1], "libc", 1));
	ck_assert_int_eq(pthread_create(&writer, NULL, count_in_pages, pair.ram[1]), 0);
	for (uint64_t end = now_ms() + 500; now_ms() < end;) {
		assert_ok(gmm_modules_check_all(pair.gmm, GMM_CHECK_PROMOTE, NULL));
		assert_ok(gmm_vm_unshare(pair.vm[1], 0, RAM * PAGE));
	}
	crowd_ends = true;
	pthread_join(writer, &lost);
	ck_assert_ptr_null(lost);
	ck_assert_uint_eq(ram_wrong(pair.ram[0], PAGES, SEED), 0);
	pair_close(&pair);
}
END_TEST

int main(void)
{
	const TTest *tests[] = {
		every_status, sizes, runs, bad_parameters, limit_of_a_vm, limit_of_all, keys,
		shared_on_demand_without_the_engine, shared_by_the_engine, by_page_tables, vm_dies, domains,
		many_register_at_once, guest_writes_meanwhile,
	};

	return suite_main("modules", tests, sizeof tests / sizeof *tests);
}
