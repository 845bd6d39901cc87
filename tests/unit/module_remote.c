/* Modules through a sharing service that has paused scans: what guests name is digested, offered and shared at once, and
 * nothing else is looked at. */
#include <gmm/modules.h>

#include <stdlib.h>
#include <string.h>

#include "tests/support/guest.h"
#include "tests/support/suite.h"
#include "tests/unit/support/remote_world.h"

enum { PAGES = 3000, FIRST = 1900, FILE_PAGES = 600, SEED = 1000 };

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
	assert_eventually(gmm_module_check(w->vm[1], 7, 0, &counts) == GMM_OK); /* once the service knows the VM */
	ck_assert_uint_eq(counts.joined + counts.shared, FILE_PAGES);
	assert_ok(gmm_module_check(w->vm[0], 7, 0, &counts));
	ck_assert_uint_eq(counts.joined + counts.shared, FILE_PAGES);
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

int main(void)
{
	const TTest *tests[] = { shared_while_scans_are_paused, by_call, written_and_different, not_after_unsharing,
				 ram_goes_meanwhile, the_service_lies };

	return suite_main("module_remote", tests, sizeof tests / sizeof *tests, 120);
}
