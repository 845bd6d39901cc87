/* Checks of guest modules on fake guests: what is shared, what is left alone and why, and what can happen on the way. */
#include <stdio.h>
#include <string.h>

#include "dedup/errand.h"
#include "sharedmod/check.h"
#include "tests/unit/support/twins.h"
#include "tests/unit/support/unit.h"

enum { PAGES = 16 };

/* Registers pages [first, first + count) of a guest as a module of that name. */
static int add_module(struct fake_guest *guest, const char *name, uint64_t base, uint32_t first, uint32_t count)
{
	struct gmm_module_region region = { 0x400000, (uint64_t)count * GMM_PAGE_SIZE };
	struct gmm_page_run run = { (uint64_t)first * GMM_PAGE_SIZE, count };
	struct gmm_module module;

	gmm_module_init(&module);
	module.os = GMM_OS_LINUX;
	module.name = name;
	module.base = base;
	module.size = region.size;
	module.regions = &region;
	module.n_regions = 1;
	module.runs = &run;
	module.n_runs = 1;
	return gmm_module_register(guest->vm, &module);
}

struct call {
	struct gmm__module_record *record;
	unsigned flags;
	struct gmm_module_checked counts;
};

static void check_slices(void *arg, const struct gmm__merge *merge)
{
	struct call *call = arg;

	for (uint32_t first = 0; first < call->record->module->pages.pages; first += GMM__CHECK_PAGES)
		ck_assert(gmm__check_slice(merge, call->record, first, call->flags, &call->counts));
}

/* What gmm_module_check does, on the fake backend. */
static struct gmm_module_checked check_module(struct fake_guest *guest, uint64_t base, unsigned flags)
{
	struct call call = { .record = gmm__registry_hold(world->gmm->registry, guest->vm, base), .flags = flags };

	ck_assert_ptr_nonnull(call.record);
	gmm__errand_do(world->engine, check_slices, &call);
	gmm__registry_let_go(world->gmm->registry, call.record);
	fake_check();
	const struct gmm_module_checked *n = &call.counts;
	ck_assert_uint_eq(n->pages, n->joined + n->promoted + n->shared + n->different + n->absent + n->writable +
			  n->not_ram + n->refused + n->huge + n->fill + n->broken + n->failed + n->busy);
	return call.counts;
}

static struct gmm_module_info info_of(struct fake_guest *guest, uint64_t base)
{
	struct gmm_module_info info;

	ck_assert_int_eq(gmm_module_find(guest->vm, base, &info), GMM_OK);
	return info;
}

/* a and b have the module, with the same bytes, registered. */
static void open_module(void)
{
	open_twins(PAGES);
	ck_assert_int_eq(add_module(a, "libc.so", 0x1000, 0, PAGES), GMM_OK);
	ck_assert_int_eq(add_module(b, "libc.so", 0x2000, 0, PAGES), GMM_OK);
}

/* ---- sharing ------------------------------------------------------------------------------------------------- */

START_TEST(shared_in_one_pass_without_a_digest)
{
	open_module();
	gmm__engine_pass(world->engine);
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_SHARED), PAGES);
	ck_assert_uint_eq(fake_count(b, GMM_PAGE_SHARED), PAGES);
	ck_assert_uint_eq(world->engine->progress.digested, 0);
	ck_assert_uint_eq(fake_pool(a)->used_pages, PAGES);
	ck_assert_uint_eq(a->vm->stats.runs, 1);
	ck_assert_uint_eq(b->vm->stats.runs, 1);
	struct gmm_module_info info = info_of(b, 0x2000);
	ck_assert_uint_eq(info.users, 2);
	ck_assert_uint_eq(info.shared_pages, PAGES);
	ck_assert_uint_eq(info.references, 2 * PAGES);
	ck_assert_uint_eq(info.saved_pages, PAGES);
	ck_assert_uint_eq(info.variants, 0);
	fake_check();
	fake_close();
}
END_TEST

/* Only one VM has it: nothing is looked at, and nothing promoted. */
START_TEST(alone)
{
	open_twins(PAGES);
	fake_guest_destroy(b);
	add_module(a, "libc.so", 0x1000, 0, PAGES);
	fake_passes(20);
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_UNIQUE), PAGES);
	ck_assert_uint_eq(fake_pool(a)->used_pages, 0);
	ck_assert_uint_eq(info_of(a, 0x1000).shared_pages, 0);
	ck_assert_uint_eq(a->vm->domain->module_bytes, 0);
	fake_close();
}
END_TEST

/* Twice in one VM, at different bases, by the same pages: there is nothing to share. */
START_TEST(the_same_pages_twice)
{
	open_twins(PAGES);
	fake_guest_destroy(b);
	add_module(a, "libc.so", 0x1000, 0, PAGES);
	add_module(a, "libc.so", 0x9000, 0, PAGES);
	fake_passes(3);
	ck_assert_uint_eq(fake_pool(a)->used_pages, 0);
	fake_close();
}
END_TEST

START_TEST(promoted_on_demand)
{
	open_twins(PAGES);
	add_module(a, "libc.so", 0x1000, 0, PAGES);
	struct gmm_module_checked c1 = check_module(a, 0x1000, 0);
	ck_assert_uint_eq(c1.different, PAGES);
	c1 = check_module(a, 0x1000, GMM_CHECK_PROMOTE);
	ck_assert_uint_eq(c1.promoted, PAGES);
	ck_assert_uint_eq(info_of(a, 0x1000).shared_pages, PAGES);
	c1 = check_module(a, 0x1000, GMM_CHECK_PROMOTE);
	ck_assert_uint_eq(c1.shared, PAGES);
	add_module(b, "libc.so", 0x1000, 0, PAGES);
	c1 = check_module(b, 0x1000, 0);
	ck_assert_uint_eq(c1.joined, PAGES);
	ck_assert_uint_eq(fake_pool(a)->used_pages, PAGES);
	fake_close();
}
END_TEST

/* Guests have the pages in another order: the pool has them in the order of the module. */
START_TEST(pool_in_the_order_of_the_module)
{
	struct gmm_page_run run[PAGES];
	struct gmm_module_region region = { 0x400000, PAGES * GMM_PAGE_SIZE };
	struct gmm_module module;

	open_twins(PAGES);
	add_module(a, "libc.so", 0x1000, 0, PAGES);
	for (uint32_t i = 0; i < PAGES; i++) {
		fake_fill(b, PAGES - 1 - i, 1 + i);
		run[i] = (struct gmm_page_run){ (uint64_t)(PAGES - 1 - i) * GMM_PAGE_SIZE, 1 };
	}
	gmm_module_init(&module);
	module = (struct gmm_module){ .struct_size = module.struct_size, .os = GMM_OS_LINUX, .name = "libc.so", .base = 1,
				      .size = region.size, .regions = &region, .n_regions = 1, .runs = run,
				      .n_runs = PAGES };
	ck_assert_int_eq(gmm_module_register(b->vm, &module), GMM_OK);
	fake_passes(1);
	ck_assert_uint_eq(a->vm->stats.runs, 1);
	for (uint32_t i = 0; i < PAGES; i++)
		ck_assert_uint_eq(a->slot->value[i], a->slot->value[0] + i);
	ck_assert_uint_eq(fake_count(b, GMM_PAGE_SHARED), PAGES);
	/* The scanner of a third guest, which does not say what it has, gets one run too. */
	c = fake_guest_new(NULL, PAGES);
	fake_fill_range(c, 0, PAGES, 1);
	fake_passes(2);
	ck_assert_uint_eq(c->vm->stats.runs, 1);
	ck_assert_uint_eq(c->slot->value[0], a->slot->value[0]);
	fake_close();
}
END_TEST

/* The scanner was there first: its pages are those of the module. */
START_TEST(after_the_scanner)
{
	open_twins(PAGES);
	fake_passes(3);
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_SHARED), PAGES);
	add_module(a, "libc.so", 0x1000, 0, PAGES);
	c = fake_guest_new(NULL, PAGES);
	fake_fill_range(c, 0, PAGES, 1);
	add_module(c, "libc.so", 0x1000, 0, PAGES);
	fake_passes(1);
	ck_assert_uint_eq(fake_count(c, GMM_PAGE_SHARED), PAGES);
	ck_assert_uint_eq(fake_pool(a)->used_pages, PAGES);
	ck_assert_uint_eq(info_of(c, 0x1000).references, 3 * PAGES);
	fake_close();
}
END_TEST

/* ---- variants --------------------------------------------------------------------------------------------------- */

/* Flaw: the first registrant's pages were the only ones anybody could share. */
START_TEST(variants_of_relocated_code)
{
	struct fake_guest *guest[6];

	world = fake_open();
	for (uint32_t i = 0; i < 6; i++) {
		guest[i] = fake_guest_new(NULL, PAGES);
		fake_fill_range(guest[i], 0, PAGES, 1);
		fake_fill(guest[i], 3, 500 + i % 3); /* relocated: three ways */
		add_module(guest[i], "libc.so", 0x1000, 0, PAGES);
	}
	a = guest[0];
	gmm__engine_pass(world->engine);
	gmm__engine_pass(world->engine);
	for (uint32_t i = 0; i < 6; i++)
		ck_assert_uint_eq(fake_count(guest[i], GMM_PAGE_SHARED), PAGES);
	ck_assert_uint_eq(fake_pool(a)->used_pages, PAGES + 2);
	ck_assert_uint_eq(info_of(a, 0x1000).variants, 2);
	ck_assert_uint_eq(info_of(a, 0x1000).shared_pages, PAGES + 2);
	fake_check();
	fake_close();
}
END_TEST

/* More variants than there is room for: the first stay, and none is wrong. */
START_TEST(too_many_variants)
{
	struct fake_guest *guest[FAKE_GUESTS];

	world = fake_open();
	for (uint32_t i = 0; i < FAKE_GUESTS; i++) {
		guest[i] = fake_guest_new(NULL, 1);
		fake_fill(guest[i], 0, 500 + i);
		add_module(guest[i], "libc.so", 0x1000, 0, 1);
		struct gmm_module_checked counts = check_module(guest[i], 0x1000, GMM_CHECK_PROMOTE);
		ck_assert_uint_eq(counts.promoted, i < GMM_MODULE_VARIANTS);
		ck_assert_uint_eq(counts.different, i >= GMM_MODULE_VARIANTS);
	}
	ck_assert_uint_eq(info_of(guest[7], 0x1000).variants, GMM_MODULE_VARIANTS - 1);
	fake_close();
}
END_TEST

/* ---- what is left alone -------------------------------------------------------------------------------------------- */

START_TEST(filtered)
{
	open_module();
	fake_drop(b, 0);
	b->page[1].huge = true;
	ck_assert(gmm__vm_claim(b->vm, false));
	b->slot->state[2] |= GMM__FLAG_PINNED;
	b->slot->state[3] |= GMM__FLAG_UNSHAREABLE;
	gmm__slot_set(b->slot, 2, GMM_PAGE_PINNED, 0);
	gmm__slot_set(b->slot, 3, GMM_PAGE_UNSHAREABLE, 0);
	gmm__vm_release(b->vm);
	fake_repeat(b, 4, 0x1234);
	b->page[5].swapped = true;
	b->page[6].pinned = true;
	check_module(a, 0x1000, GMM_CHECK_PROMOTE);
	struct gmm_module_checked counts = check_module(b, 0x2000, 0);
	ck_assert_uint_eq(counts.absent, 2);
	ck_assert_uint_eq(counts.huge, 1);
	ck_assert_uint_eq(counts.refused, 3);
	ck_assert_uint_eq(counts.fill, 1);
	ck_assert_uint_eq(counts.joined, PAGES - 7);
	assert_state(b, 6, GMM_PAGE_PINNED);
	b->page[5].swapped = false;
	fake_write(a, 7, 0, 1);
	fake_passes(3);
	counts = check_module(a, 0x1000, 0);
	ck_assert_uint_eq(counts.broken, 1);
	b->page[6].pinned = false;
	fake_close();
}
END_TEST

/* The guest uses it after all: it is counted as what it is. */
START_TEST(ballooned_and_touched_again)
{
	open_module();
	fake_discard(b, 0, 1);
	ck_assert(gmm__vm_claim(b->vm, false));
	gmm__slot_set(b->slot, 0, GMM_PAGE_BALLOONED, 0);
	gmm__vm_release(b->vm);
	check_module(a, 0x1000, GMM_CHECK_PROMOTE);
	fake_fill(b, 0, 1);
	ck_assert_uint_eq(check_module(b, 0x2000, 0).joined, PAGES);
	ck_assert_uint_eq(fake_count(b, GMM_PAGE_BALLOONED), 0);
	fake_close();
}
END_TEST

START_TEST(outside_ram)
{
	open_twins(PAGES);
	add_module(a, "libc.so", 0x1000, PAGES - 4, 8);
	add_module(b, "libc.so", 0x1000, 1u << 20, 8);
	struct gmm_module_checked counts = check_module(a, 0x1000, GMM_CHECK_PROMOTE);
	ck_assert_uint_eq(counts.not_ram, 4);
	ck_assert_uint_eq(counts.promoted, 4);
	counts = check_module(b, 0x1000, GMM_CHECK_PROMOTE);
	ck_assert_uint_eq(counts.not_ram, 8);
	fake_close();
}
END_TEST

START_TEST(foreign_domain_is_invisible)
{
	open_twins(PAGES);
	fake_guest_destroy(b);
	b = fake_guest_new("other", PAGES);
	fake_fill_range(b, 0, PAGES, 1);
	add_module(a, "libc.so", 0x1000, 0, PAGES);
	add_module(b, "libc.so", 0x1000, 0, PAGES);
	ck_assert_uint_eq(info_of(a, 0x1000).users, 1);
	ck_assert_str_eq(info_of(b, 0x1000).domain, "other");
	check_module(a, 0x1000, GMM_CHECK_PROMOTE);
	ck_assert_uint_eq(check_module(b, 0x1000, 0).different, PAGES);
	fake_passes(3);
	ck_assert_uint_eq(fake_count(b, GMM_PAGE_UNIQUE), PAGES);
	ck_assert_uint_eq(info_of(b, 0x1000).shared_pages, 0);
	fake_close();
}
END_TEST

/* A guest whose module has all its pages at one and the same guest page, and another that overlaps itself. */
START_TEST(one_page_many_times)
{
	struct gmm_page_run run[PAGES];
	struct gmm_module_region region = { 0x400000, PAGES * GMM_PAGE_SIZE };
	struct gmm_module module;

	open_twins(PAGES);
	for (uint32_t i = 0; i < PAGES; i++)
		run[i] = (struct gmm_page_run){ i % 2 ? 3 * GMM_PAGE_SIZE : 4 * GMM_PAGE_SIZE, 1 };
	gmm_module_init(&module);
	module = (struct gmm_module){ .struct_size = module.struct_size, .os = GMM_OS_LINUX, .name = "x", .base = 1,
				      .size = region.size, .regions = &region, .n_regions = 1, .runs = run,
				      .n_runs = PAGES };
	ck_assert_int_eq(gmm_module_register(a->vm, &module), GMM_OK);
	struct gmm_module_checked counts = check_module(a, 1, GMM_CHECK_PROMOTE);
	ck_assert_uint_eq(counts.promoted, 2);
	ck_assert_uint_eq(counts.shared, PAGES - 2);
	fake_close();
}
END_TEST

static uint32_t count_checked(const struct gmm_vm *vm)
{
	uint32_t n = 0;

	for (const struct gmm__module_record *r = vm->modules->records; r; r = r->next)
		n += r->checked;
	return n;
}

/* Modules of a gigabyte each, none of which is there: they take several passes and hold up none for long. */
START_TEST(large_modules_that_are_not_there)
{
	struct gmm_module_region region = { 0, GMM_MODULE_BYTES_MAX };
	struct gmm_page_run run = { GMM_NO_PAGES, GMM_MODULE_BYTES_MAX / GMM_PAGE_SIZE };
	struct gmm_module module;
	char name[8];
	uint32_t passes = 0;

	open_twins(PAGES);
	for (uint64_t i = 0; i < 6; i++) {
		snprintf(name, sizeof name, "m%u", (unsigned)(i / 2));
		gmm_module_init(&module);
		module.name = name;
		module.base = i;
		module.size = region.size;
		module.regions = &region;
		module.n_regions = 1;
		module.runs = &run;
		module.n_runs = 1;
		ck_assert_int_eq(gmm_module_register(i % 2 ? a->vm : b->vm, &module), GMM_OK);
	}
	fake_passes(1);
	ck_assert_uint_eq(count_checked(a->vm), 0);
	ck_assert_uint_eq(a->vm->modules->pages_left, 0);
	for (; count_checked(a->vm) < 3 && passes < 30; passes++)
		fake_passes(1);
	ck_assert_uint_ge(passes, 6);
	ck_assert_uint_le(passes, 20);
	ck_assert_uint_eq(a->vm->domain->module_bytes, 0);
	fake_close();
}
END_TEST

/* ---- what happens meanwhile ------------------------------------------------------------------------------------------- */

START_TEST(written_before_the_freeze)
{
	open_module();
	check_module(a, 0x1000, GMM_CHECK_PROMOTE);
	once_at(FAKE_BEFORE_FREEZE, b, write_first);
	struct gmm_module_checked counts = check_module(b, 0x2000, 0);
	ck_assert(once_done());
	ck_assert_uint_eq(counts.joined, PAGES - 1);
	ck_assert_uint_eq(counts.failed, 1);
	assert_state(b, 0, GMM_PAGE_VOLATILE);
	ck_assert_uint_eq(record_of(a->slot->value[0]).references, 1);
	fake_passes(3);
	assert_state(b, 0, GMM_PAGE_UNIQUE);
	fake_close();
}
END_TEST

START_TEST(twin_written_before_it_joins)
{
	open_module();
	check_module(a, 0x1000, 0);
	once_at(FAKE_BEFORE_FREEZE, a, write_first); /* b is promoted first, then a joins */
	struct gmm_module_checked counts = check_module(b, 0x2000, 0);
	ck_assert(once_done());
	ck_assert_uint_eq(counts.promoted, PAGES);
	ck_assert_uint_eq(counts.twins, PAGES - 1);
	assert_state(a, 0, GMM_PAGE_VOLATILE);
	fake_close();
}
END_TEST

START_TEST(no_mappings_left)
{
	open_twins(PAGES);
	add_module(a, "libc.so", 0x1000, 2, 8); /* amid other pages: it takes mappings */
	add_module(b, "libc.so", 0x2000, 2, 8);
	world->gmm->max_mappings = 0;
	check_module(a, 0x1000, 0);
	struct gmm_module_checked counts = check_module(b, 0x2000, 0);
	ck_assert_uint_eq(counts.failed, 8);
	ck_assert_uint_eq(fake_pool(a)->used_pages, 0);
	assert_state(b, 2, GMM_PAGE_VOLATILE);
	world->gmm->max_mappings = 1000;
	ck_assert_uint_eq(check_module(b, 0x2000, 0).promoted, 8);
	fake_close();
}
END_TEST

START_TEST(pool_without_memory)
{
	open_module();
	world->out_of_memory = true;
	check_module(a, 0x1000, 0);
	ck_assert_uint_eq(check_module(b, 0x2000, 0).failed, PAGES);
	world->out_of_memory = false;
	ck_assert_uint_eq(check_module(b, 0x2000, 0).promoted, PAGES);
	fake_close();
}
END_TEST

/* Somebody works on the other VM: the page waits for the next pass. */
START_TEST(twin_is_busy)
{
	open_module();
	check_module(a, 0x1000, 0);
	ck_assert(gmm__vm_claim(a->vm, false));
	struct gmm_module_checked counts = { 0 };
	struct call call = { .record = gmm__registry_hold(world->gmm->registry, b->vm, 0x2000) };
	gmm__errand_do(world->engine, check_slices, &call);
	gmm__registry_let_go(world->gmm->registry, call.record);
	counts = call.counts;
	gmm__vm_release(a->vm);
	ck_assert_uint_eq(counts.busy, PAGES);
	ck_assert_uint_eq(fake_count(b, GMM_PAGE_SHARED), 0);
	ck_assert_uint_eq(check_module(b, 0x2000, 0).promoted, PAGES);
	fake_close();
}
END_TEST

/* ---- lives ----------------------------------------------------------------------------------------------------------------- */

/* Flaw: records went at the last unregister although their pages were still shared. */
START_TEST(remembered_while_its_pages_are_shared)
{
	size_t n;

	open_module();
	fake_passes(1);
	ck_assert_int_eq(gmm_module_unregister(a->vm, 0x1000), GMM_OK);
	ck_assert_int_eq(gmm_module_unregister(b->vm, 0x2000), GMM_OK);
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_SHARED), PAGES);
	ck_assert_int_eq(gmm_modules_list(world->gmm, NULL, 0, &n), GMM_OK);
	ck_assert_uint_eq(n, 1);
	c = fake_guest_new(NULL, PAGES);
	fake_fill_range(c, 0, PAGES, 1);
	add_module(c, "libc.so", 0x3000, 0, PAGES);
	ck_assert_uint_eq(info_of(c, 0x3000).shared_pages, PAGES);
	ck_assert_uint_eq(check_module(c, 0x3000, 0).joined, PAGES);
	fake_close();
}
END_TEST

START_TEST(forgotten_with_its_last_page)
{
	size_t n;

	open_module();
	fake_passes(1);
	fake_unshare(a, 0, PAGES);
	gmm_modules_reset(a->vm);
	gmm_modules_reset(b->vm);
	gmm_modules_list(world->gmm, NULL, 0, &n);
	ck_assert_uint_eq(n, 1);
	fake_unshare(b, 0, PAGES);
	gmm__registry_sweep(world->gmm->registry);
	gmm_modules_list(world->gmm, NULL, 0, &n);
	ck_assert_uint_eq(n, 0);
	fake_close();
}
END_TEST

/* Flaw: ids outlived their page. Here the pool page's id is given out again for other bytes. */
START_TEST(page_id_given_out_again)
{
	open_module();
	check_module(a, 0x1000, GMM_CHECK_PROMOTE);
	gmm__page_id id = a->slot->value[0];
	fake_discard(a, 0, PAGES); /* the module's record of the page stays */
	fake_pool(a)->cursor[0] = (struct gmm__pool_cursor){ 0, 0 };
	c = fake_guest_new(NULL, PAGES);
	fake_fill_range(c, 0, PAGES, 900);
	add_module(c, "other.so", 0x1000, 0, PAGES);
	check_module(c, 0x1000, GMM_CHECK_PROMOTE);
	ck_assert_uint_eq(c->slot->value[0], id);
	ck_assert_uint_eq(info_of(a, 0x1000).shared_pages, 0);
	/* b's pages are equal to what was there, not to what is. */
	uint32_t freezes = world->steps[FAKE_BEFORE_FREEZE];
	ck_assert_uint_eq(check_module(b, 0x2000, 0).different, PAGES);
	ck_assert_uint_eq(world->steps[FAKE_BEFORE_FREEZE], freezes);
	ck_assert_uint_eq(record_of(id).references, 1);
	fake_close();
}
END_TEST

/* A private page that was remembered belongs to a VM that is gone. */
START_TEST(owner_of_a_twin_dies)
{
	open_module();
	check_module(a, 0x1000, 0);
	fake_guest_destroy(a);
	ck_assert_uint_eq(check_module(b, 0x2000, 0).different, PAGES);
	ck_assert_uint_eq(info_of(b, 0x2000).users, 1);
	fake_close();
}
END_TEST

START_TEST(vm_dies_with_shared_pages)
{
	open_module();
	fake_passes(1);
	fake_guest_destroy(a);
	ck_assert_uint_eq(info_of(b, 0x2000).users, 1);
	ck_assert_uint_eq(info_of(b, 0x2000).shared_pages, PAGES);
	ck_assert_uint_eq(info_of(b, 0x2000).saved_pages, 0);
	fake_passes(10);
	fake_close();
}
END_TEST

/* Pages that come later (the guest reads its files on demand) are found by one of the next passes. */
START_TEST(pages_that_come_later)
{
	open_twins(PAGES);
	fake_drop(b, 5);
	add_module(a, "libc.so", 0x1000, 0, PAGES);
	add_module(b, "libc.so", 0x1000, 0, PAGES);
	fake_passes(1);
	ck_assert_uint_eq(fake_count(b, GMM_PAGE_SHARED), PAGES - 1);
	fake_fill(b, 5, 6);
	world->gmm->options.window_ms = 60000; /* the scanner waits for pages to be quiet */
	fake_passes(9);
	assert_state(b, 5, GMM_PAGE_SHARED);
	assert_state(a, 5, GMM_PAGE_SHARED);
	fake_close();
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		shared_in_one_pass_without_a_digest, alone, the_same_pages_twice, promoted_on_demand,
		pool_in_the_order_of_the_module, after_the_scanner, variants_of_relocated_code, too_many_variants,
		filtered, ballooned_and_touched_again, outside_ram, foreign_domain_is_invisible, one_page_many_times,
		large_modules_that_are_not_there, written_before_the_freeze,
		twin_written_before_it_joins, no_mappings_left, pool_without_memory, twin_is_busy,
		remembered_while_its_pages_are_shared, forgotten_with_its_last_page, page_id_given_out_again,
		owner_of_a_twin_dies, vm_dies_with_shared_pages, pages_that_come_later,
	};

	return unit_main("module_check", tests, sizeof tests / sizeof *tests);
}
