/* Modules through a sharing service that has paused scans: what guests name is digested, offered and shared at once, and
 * nothing else is looked at. */
#include <gmm/modules.h>

#include <stdlib.h>
#include <string.h>

#include "tests/support/guest.h"
#include "tests/support/suite.h"
#include "tests/unit/support/remote_world.h"

enum { PAGES = 3000, FIRST = 1900, FILE_PAGES = 600, SEED = 1000, DIRECTORY = 10 };

static struct remote_world *open_world(void)
{
	struct remote_world *w = remote_world_open(PAGES, SEED, GMM_REPAIR_NEVER);

	w->service.paused = true;
	return w;
}

/* Pages FIRST to FIRST + FILE_PAGES - 1 are a file: they lie in two regions. The runs come in another order than the file's
 * pages lie in memory. */
static void name_file(struct remote_world *w, int i)
{
	struct gmm_page_run runs[] = { { (FIRST + 100) * PAGE, FILE_PAGES - 100 }, { FIRST * PAGE, 100 } };
	struct gmm_module_region region = { 0, FILE_PAGES * PAGE };
	struct gmm_module module;

	gmm_module_init(&module);
	module.os = GMM_OS_LINUX;
	module.name = "libc.so.6";
	module.base = 7;
	module.size = FILE_PAGES * PAGE;
	module.regions = &region;
	module.n_regions = 1;
	module.runs = runs;
	module.n_runs = 2;
	ck_assert_int_ge(gmm_module_register(w->vm[i], &module), GMM_OK);
}

static void check_ram(const struct remote_world *w)
{
	for (int i = 0; i < 2; i++)
		ck_assert_uint_eq(ram_wrong(w->ram[i], PAGES, SEED), 0);
}

/* Only the named pages have been looked at. */
static void check_others(struct remote_world *w)
{
	for (int i = 0; i < 2; i++)
		ck_assert_uint_eq(vm_state(w->vm[i], GMM_PAGE_ABSENT), PAGES - FILE_PAGES);
}

START_TEST(shared_while_scans_are_paused)
{
	struct remote_world *w = open_world();

	assert_ok(gmm_engine_start(w->gmm));
	name_file(w, 0);
	assert_eventually(vm_state(w->vm[0], GMM_PAGE_UNIQUE) == FILE_PAGES);
	uint64_t now = remote_world_passes(w);
	assert_eventually(remote_world_passes(w) > now + 20);
	ck_assert_uint_eq(remote_world_shared(w), 0);
	name_file(w, 1);
	assert_eventually(remote_world_shared(w) == 2 * FILE_PAGES);
	ck_assert_uint_eq(w->service.pages, FILE_PAGES);
	check_ram(w);
	check_others(w);
	ck_assert_uint_eq(stats_of(w->gmm).digested_pages, 0);
	/* A write breaks what is shared, and nothing else. */
	page_fill(w->ram[1] + (FIRST + 5) * PAGE, 5);
	ck_assert_uint_eq(ram_wrong(w->ram[0], PAGES, SEED), 0);
	page_fill(w->ram[1] + (FIRST + 5) * PAGE, SEED + FIRST + 5);
	remote_world_close(w);
}
END_TEST

START_TEST(by_call)
{
	struct remote_world *w = open_world();
	struct gmm_module_checked counts;

	name_file(w, 0);
	assert_status(gmm_module_check(w->vm[0], 7, 0, &counts), GMM_ERR_WRONG_ORDER); /* nobody talks to the service */
	assert_ok(gmm_engine_start(w->gmm));
	assert_eventually(gmm_module_check(w->vm[0], 7, 0, &counts) == GMM_OK && counts.busy == 0);
	ck_assert_uint_eq(counts.pages, FILE_PAGES);
	ck_assert_uint_eq(counts.different, FILE_PAGES);
	name_file(w, 1);
	for (int i = 1; i >= 0; i--) /* once the service knows the VM; and the engine may have a page just then */
		assert_eventually(gmm_module_check(w->vm[i], 7, 0, &counts) == GMM_OK &&
				  counts.joined + counts.shared == FILE_PAGES);
	ck_assert_uint_eq(remote_world_shared(w), 2 * FILE_PAGES);
	check_ram(w);
	check_others(w);
	remote_world_close(w);
}
END_TEST

/* A guest that writes its pages while they are shared, and one that says other bytes are that file. */
START_TEST(written_and_different)
{
	struct remote_world *w = open_world();

	for (int page = FIRST; page < FIRST + 50; page++)
		page_fill(w->ram[1] + page * PAGE, 100000u + (unsigned)page);
	assert_ok(gmm_engine_start(w->gmm));
	name_file(w, 0);
	name_file(w, 1);
	assert_eventually(remote_world_shared(w) == 2 * (FILE_PAGES - 50));
	for (int page = FIRST; page < FIRST + 50; page++)
		ck_assert(page_is(w->ram[1] + page * PAGE, 100000u + (unsigned)page));
	ck_assert_uint_eq(ram_wrong(w->ram[0], PAGES, SEED), 0);
	check_others(w);
	remote_world_close(w);
}
END_TEST

/* Unsharing means rest, for modules too, until the service says otherwise. */
START_TEST(not_after_unsharing)
{
	struct remote_world *w = open_world();

	assert_ok(gmm_engine_start(w->gmm));
	name_file(w, 0);
	name_file(w, 1);
	assert_eventually(remote_world_shared(w) == 2 * FILE_PAGES);
	w->service.unshare = 1;
	assert_eventually(w->service.unshared == 1);
	name_file(w, 0);
	name_file(w, 1);
	uint64_t now = remote_world_passes(w);
	assert_eventually(remote_world_passes(w) > now + 20);
	ck_assert_uint_eq(remote_world_shared(w), 0);
	check_ram(w);
	w->service.paused = false;
	assert_eventually(remote_world_shared(w) >= 2 * FILE_PAGES);
	check_ram(w);
	remote_world_close(w);
}
END_TEST

/* Slots come and go, and so do VMs, while their modules are checked. */
START_TEST(ram_goes_meanwhile)
{
	struct remote_world *w = open_world();
	struct gmm_module_checked counts;

	assert_ok(gmm_engine_start(w->gmm));
	for (int round = 0; round < 20; round++) {
		name_file(w, 0);
		name_file(w, 1);
		if (round % 4 == 0)
			gmm_module_check(w->vm[1], 7, 0, &counts);
		assert_ok(gmm_vm_remove_ram(w->vm[1], 0, GMM_RAM_DISCARD));
		gmm_module_check(w->vm[1], 7, 0, &counts);
		void *ram;
		assert_ok(gmm_vm_create_ram(w->vm[1], 0, PAGES * PAGE, &ram));
		w->ram[1] = ram;
		ram_fill(w->ram[1], PAGES, SEED);
		if (round % 3 == 0) {
			assert_ok(gmm_modules_reset(w->vm[0]));
			sleep_ms(5);
		}
	}
	name_file(w, 0);
	name_file(w, 1);
	assert_eventually(remote_world_shared(w) == 2 * FILE_PAGES);
	check_ram(w);
	remote_world_close(w);
}
END_TEST

START_TEST(the_service_lies)
{
	static const enum lie lies[] = { LIE_SHORT, LIE_COUNT, LIE_INDEX, LIE_KIND, LIE_PAGE, LIE_CONTENT, LIE_CLOSE, LIE_NOISE };

	for (size_t k = 0; k < sizeof lies / sizeof *lies; k++) {
		struct remote_world *w = open_world();
		assert_ok(gmm_engine_start(w->gmm));
		name_file(w, 0);
		assert_eventually(vm_state(w->vm[0], GMM_PAGE_UNIQUE) == FILE_PAGES);
		w->service.lie = lies[k];
		w->service.lie_about = GMM__WIRE_OFFER;
		name_file(w, 1);
		uint64_t end = now_ms() + 1000;
		while (w->service.lies_told == 0 && remote_world_shared(w) == 0 && now_ms() < end)
			sleep_ms(1);
		check_ram(w);
		w->service.lie = LIE_NONE;
		remote_world_close(w);
	}
}
END_TEST

/* What was told, in the service's words. */
static const struct tiny_module *told_module(struct remote_world *w, uint64_t size)
{
	for (uint32_t i = 0; i < w->service.modules; i++)
		if (w->service.module[i].said.size == size)
			return &w->service.module[i];
	return NULL;
}

/* Asks, and waits for the end of the answer. */
static void ask_for_modules(struct remote_world *w, uint32_t request)
{
	w->service.modules = 0;
	w->service.modules_wanted = request;
	assert_eventually(w->service.modules_told == request);
}

/* 4 MiB pages, read-only, each where its address says. */
static void write_page_directory(struct remote_world *w)
{
	uint32_t *entry = (uint32_t *)(void *)(w->ram[0] + DIRECTORY * PAGE);

	for (uint32_t i = 0; i < 1024; i++)
		entry[i] = i << 22 | 0x81; /* large, present */
}

/* A kernel's view: paging, write protection for itself too, large pages. */
static int name_by_address(struct remote_world *w, uint64_t base, uint64_t page, uint64_t pages)
{
	const struct gmm_guest_cpu cpu = { .cr0 = 0x80010001, .cr3 = DIRECTORY * PAGE, .cr4 = 0x10, .phys_bits = 36 };
	const struct gmm_module_region region = { page * PAGE, pages * PAGE };
	struct gmm_module module;

	gmm_module_init(&module);
	module.name = "kernel";
	module.version = "6.1";
	module.base = base;
	module.size = pages * PAGE;
	module.regions = &region;
	module.n_regions = 1;
	module.cpu = &cpu;
	return gmm_module_register(w->vm[0], &module);
}

START_TEST(told_when_asked)
{
	struct remote_world *w = open_world();

	assert_ok(gmm_engine_start(w->gmm));
	ask_for_modules(w, 1);
	ck_assert_uint_eq(w->service.modules, 0);
	name_file(w, 0);
	name_file(w, 1);
	assert_eventually(remote_world_shared(w) == 2 * FILE_PAGES);
	assert_eventually(remote_world_passes(w) > 50);
	ck_assert_uint_eq(w->service.modules, 0); /* nobody asked */
	ask_for_modules(w, 2);
	ck_assert_uint_eq(w->service.modules, 2);
	ck_assert_uint_eq(w->service.modules_left_out, 0);
	for (uint32_t i = 0; i < 2; i++) {
		const struct tiny_module *m = &w->service.module[i];
		ck_assert_str_eq(m->said.name, "libc.so.6");
		ck_assert_uint_eq(m->said.os, GMM_OS_LINUX);
		ck_assert_uint_eq(m->said.pages, FILE_PAGES);
		ck_assert_uint_eq(m->said.layout, w->service.module[0].said.layout);
		ck_assert_uint_eq(m->runs, 2);
		ck_assert_uint_eq(m->run[0].gfn, FIRST + 100);
		ck_assert_uint_eq(m->run[0].pages, FILE_PAGES - 100);
		ck_assert_uint_eq(m->run[1].gfn, FIRST);
		ck_assert_uint_eq(m->run[1].pages, 100);
	}
	ck_assert_uint_ne(w->service.module[0].said.vm, w->service.module[1].said.vm);
	assert_ok(gmm_module_unregister(w->vm[0], 7));
	ask_for_modules(w, 3);
	ck_assert_uint_eq(w->service.modules, 1);
	remote_world_close(w);
}
END_TEST

/* Pages named by address are looked for at that moment; only the shared ones are told. */
START_TEST(told_by_address)
{
	struct remote_world *w = open_world();

	write_page_directory(w);
	assert_ok(gmm_engine_start(w->gmm));
	name_file(w, 0);
	name_file(w, 1);
	assert_eventually(remote_world_shared(w) == 2 * FILE_PAGES);
	ck_assert_int_ge(name_by_address(w, 100, FIRST - 10, 700), GMM_OK);
	ck_assert_int_ge(name_by_address(w, 101, PAGES - 1, 3), GMM_OK); /* the end of it is no RAM */
	ask_for_modules(w, 1);
	ck_assert_uint_eq(w->service.modules, 4);
	const struct tiny_module *m = told_module(w, 700 * PAGE);
	ck_assert_ptr_nonnull(m);
	ck_assert_uint_eq(m->runs, 3);
	ck_assert_uint_eq(m->run[0].gfn, GMM__WIRE_NO_GFN);
	ck_assert_uint_eq(m->run[0].pages, 10);
	ck_assert_uint_eq(m->run[1].gfn, FIRST);
	ck_assert_uint_eq(m->run[1].pages, FILE_PAGES);
	ck_assert_uint_eq(m->run[2].gfn, GMM__WIRE_NO_GFN);
	m = told_module(w, 3 * PAGE);
	ck_assert_ptr_nonnull(m);
	ck_assert_uint_eq(m->runs, 1);
	ck_assert_uint_eq(m->run[0].gfn, GMM__WIRE_NO_GFN);
	ck_assert_uint_eq(m->run[0].pages, 3);
	remote_world_close(w);
}
END_TEST

/* Records of gigabytes that the guest does not have: they are told in parts, and not all of them. */
START_TEST(told_of_endless_records)
{
	enum { RUNS = 5000, HUGE = 100000 };
	static struct gmm_page_run runs[RUNS];
	const struct gmm_module_region region = { 0, RUNS * PAGE }, huge = { 0, HUGE * PAGE };
	const struct gmm_page_run one = { 0, HUGE };
	struct remote_world *w = open_world();
	struct gmm_module module;

	gmm_module_init(&module);
	module.name = "scattered";
	module.size = RUNS * PAGE;
	module.regions = &region;
	module.n_regions = 1;
	module.runs = runs;
	module.n_runs = RUNS;
	for (int i = 0; i < RUNS; i++)
		runs[i] = (struct gmm_page_run){ i % 2 ? GMM_NO_PAGES : (uint64_t)(i % PAGES) * PAGE, 1 };
	ck_assert_int_ge(gmm_module_register(w->vm[0], &module), GMM_OK);
	assert_ok(gmm_engine_start(w->gmm));
	assert_eventually(w->service.slots == 2);
	ask_for_modules(w, 1);
	ck_assert_uint_eq(w->service.modules, 1);
	ck_assert_uint_eq(w->service.module[0].runs, RUNS);
	ck_assert_uint_eq(w->service.module[0].messages, (RUNS + GMM__WIRE_MODULE_RUNS - 1) / GMM__WIRE_MODULE_RUNS);
	ck_assert_uint_eq(w->service.modules_left_out, 0);
	/* Not even the first of these fits, and little of what comes after it. */
	module.size = HUGE * PAGE;
	module.regions = &huge;
	module.runs = &one;
	module.n_runs = 1;
	for (int i = 1; i <= 20; i++) {
		module.base = (uint64_t)i;
		ck_assert_int_ge(gmm_module_register(w->vm[0], &module), GMM_OK);
		ck_assert_int_ge(name_by_address(w, 100 + (uint64_t)i, 0, HUGE), GMM_OK);
	}
	ask_for_modules(w, 2);
	ck_assert_uint_eq(w->service.modules, 41);
	ck_assert_uint_eq(w->service.modules_left_out, 41);
	check_ram(w);
	remote_world_close(w);
}
END_TEST

/* Records and VMs come and go, and connections break, while they are told. */
START_TEST(told_meanwhile)
{
	struct remote_world *w = open_world();

	assert_ok(gmm_engine_start(w->gmm));
	w->service.modules_wanted = 1;
	w->service.asks_again = true;
	for (int round = 0; round < 40; round++) {
		name_file(w, round % 2);
		ck_assert_int_ge(name_by_address(w, 100, FIRST, 500), GMM_OK);
		if (round % 4 == 0)
			assert_ok(gmm_modules_reset(w->vm[0]));
		if (round % 10 == 5) {
			w->service.lie_about = GMM__WIRE_POLL;
			w->service.lie = LIE_CLOSE;
		}
		sleep_ms(3);
		w->service.lie = LIE_NONE;
		assert_ok(gmm_vm_destroy(w->vm[1], GMM_RAM_DISCARD));
		remote_world_add_vm(w, 1);
	}
	check_ram(w);
	remote_world_close(w);
}
END_TEST

int main(void)
{
	const TTest *tests[] = { shared_while_scans_are_paused, by_call, written_and_different, not_after_unsharing,
				 ram_goes_meanwhile, the_service_lies, told_when_asked, told_by_address,
				 told_of_endless_records, told_meanwhile };

	return suite_main("module_remote", tests, sizeof tests / sizeof *tests);
}
