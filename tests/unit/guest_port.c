/* Guest ports on fake guests: what guests report is registered and shared by the next pass, without a digest; what hostile
 * ones send costs them their own budget and does nothing to others. */
#include <gmm/modules.h>

#include <stdlib.h>
#include <string.h>

#include "sharedmod/registry.h"
#include "sharedmod/report_write.h"
#include "tests/unit/support/twins.h"
#include "tests/unit/support/unit.h"

enum { PAGES = 64, FILE_PAGES = 40 };

static struct gmm__report_writer writer;

struct reporter {
	struct gmm_guest_port *port;
	uint32_t sequence;
	uint32_t modules;
};

static void say(struct reporter *r)
{
	size_t taken;

	ck_assert_int_eq(gmm_guest_port_feed(r->port, writer.frame, writer.bytes, &taken), GMM_OK);
	ck_assert_uint_eq(taken, writer.bytes);
	r->sequence = writer.sequence;
}

static struct reporter connect_guest(struct fake_guest *guest, uint64_t end_addr)
{
	struct reporter r = { 0 };

	ck_assert_int_eq(gmm_guest_port_open(guest->vm, end_addr, &r.port), GMM_OK);
	gmm__report_write_hello(&writer, 1);
	say(&r);
	return r;
}

static void begin(struct reporter *r)
{
	writer.sequence = r->sequence;
	gmm__report_write_begin(&writer);
}

static void add(struct reporter *r, uint32_t id, const char *name, const struct gmm__report_run *runs, uint32_t n)
{
	const struct gmm__report_write_region region = { 0, FILE_PAGES * GMM__PAGE_BYTES, runs, n };
	const struct gmm__report_write_module module = { .id = id, .kind = GMM__REPORT_FILE, .name = name, .version = "1",
							 .size_bytes = FILE_PAGES * GMM__PAGE_BYTES - 100, .n_regions = 1,
							 .regions = &region };

	begin(r);
	ck_assert(gmm__report_write_add(&writer, &module));
	gmm__report_write_end(&writer);
	say(r);
	r->modules++;
}

static void take_back(struct reporter *r, uint32_t id)
{
	begin(r);
	ck_assert(gmm__report_write_remove(&writer, id));
	gmm__report_write_end(&writer);
	say(r);
	r->modules--;
}

static void done(struct reporter *r)
{
	writer.sequence = r->sequence;
	gmm__report_write_done(&writer, r->modules);
	say(r);
}

static struct gmm_guest_port_info info(const struct reporter *r)
{
	struct gmm_guest_port_info info;

	gmm_guest_port_info(r->port, &info);
	return info;
}

static size_t requests(struct reporter *r)
{
	uint8_t bytes[100];

	return gmm_guest_port_take(r->port, bytes, sizeof bytes) / (sizeof(struct gmm__report_header) +
								   sizeof(struct gmm__report_request));
}

/* Pages 4 to 9 and 20 to 39 of a file are in memory, in two places. */
static const struct gmm__report_run two_runs[] = { { 4, 6, 30 }, { 20, 20, 5 } };

START_TEST(what_guests_name_is_shared_by_the_next_pass)
{
	open_twins(PAGES);
	struct reporter ra = connect_guest(a, 0), rb = connect_guest(b, 0);
	struct gmm_module_info module;

	for (int i = 0; i < 2; i++) {
		add(i ? &rb : &ra, 7, "/lib/libc.so.6", two_runs, 2);
		done(i ? &rb : &ra);
	}
	ck_assert_uint_eq(info(&ra).modules, 1);
	ck_assert_uint_eq(info(&ra).pages, 26);
	ck_assert_uint_eq(info(&ra).reports, 1);
	ck_assert_uint_eq(info(&ra).faults, 0);
	ck_assert_int_eq(gmm_module_find(a->vm, 7, &module), GMM_OK);
	ck_assert_str_eq(module.name, "/lib/libc.so.6");
	ck_assert_uint_eq(module.pages, FILE_PAGES);
	ck_assert_uint_eq(module.users, 2);
	world->gmm->options.window_ms = 60000; /* the scanner waits for pages to be quiet */
	fake_passes(1);
	for (uint32_t page = 0; page < PAGES; page++)
		ck_assert_int_eq(fake_state(a, page) == GMM_PAGE_SHARED, (page >= 30 && page < 36) || (page >= 5 && page < 25));
	ck_assert_uint_eq(fake_count(b, GMM_PAGE_SHARED), 26);
	ck_assert_uint_eq(fake_pool(a)->used_pages, 26);
	ck_assert_uint_eq(world->engine->digested_pages, 0);
	gmm_guest_port_close(ra.port);
	ck_assert_int_eq(gmm_module_find(a->vm, 7, &module), GMM_ERR_NOT_FOUND);
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_SHARED), 26);
	gmm_guest_port_close(rb.port);
	fake_close();
}
END_TEST

START_TEST(removed_and_named_anew)
{
	static const struct gmm__report_run more[] = { { 0, FILE_PAGES, 0 } };

	open_twins(PAGES);
	struct reporter r = connect_guest(a, 0);
	struct gmm_module_info module;

	add(&r, 1, "x", two_runs, 2);
	add(&r, 2, "y", two_runs, 1);
	ck_assert_uint_eq(info(&r).pages, 32);
	take_back(&r, 1);
	ck_assert_int_eq(gmm_module_find(a->vm, 1, &module), GMM_ERR_NOT_FOUND);
	add(&r, 1, "x", more, 1);
	done(&r);
	ck_assert_uint_eq(info(&r).pages, FILE_PAGES + 6);
	ck_assert_uint_eq(info(&r).modules, 2);
	/* The guest boots again, in the middle of a frame. */
	size_t taken;
	ck_assert_int_eq(gmm_guest_port_feed(r.port, writer.frame, 10, &taken), GMM_OK);
	gmm__report_write_hello(&writer, 2);
	say(&r);
	ck_assert_uint_eq(info(&r).modules, 0);
	ck_assert_uint_eq(info(&r).pages, 0);
	ck_assert_int_eq(gmm_module_find(a->vm, 2, &module), GMM_ERR_NOT_FOUND);
	gmm_guest_port_close(r.port);
	fake_close();
}
END_TEST

/* Pages of the guest that are not where the slots have them. */
START_TEST(beyond_the_end_or_the_ram)
{
	static const struct gmm__report_run runs[] = { { 0, 10, 5 }, { 10, 10, 15 }, { 30, 2, PAGES + 100 } };

	open_twins(PAGES);
	struct reporter ra = connect_guest(a, 20 * GMM__PAGE_BYTES), rb = connect_guest(b, 0);
	add(&ra, 0, "x", runs, 3);
	add(&rb, 0, "x", runs, 3);
	done(&ra);
	ck_assert_uint_eq(info(&ra).pages, 10);
	ck_assert_uint_eq(info(&rb).pages, 22);
	ck_assert_uint_eq(info(&rb).faults, 0);
	fake_passes(1);
	ck_assert_uint_eq(world->gmm->registry->n_modules, 1);
	gmm_guest_port_close(ra.port);
	gmm_guest_port_close(rb.port);
	fake_close();
}
END_TEST

START_TEST(asks_for_a_session)
{
	uint8_t bytes[100];

	open_twins(PAGES);
	struct reporter r = { 0 };
	ck_assert_int_eq(gmm_guest_port_open(a->vm, 0, &r.port), GMM_OK);
	ck_assert_uint_eq(gmm_guest_port_take(r.port, bytes, 7), 7);
	ck_assert_uint_eq(gmm_guest_port_take(r.port, bytes + 7, sizeof bytes - 7), 33);
	gmm__report_write_request(&writer, GMM__REPORT_WANT_ALL);
	writer.sequence = 0;
	gmm__report_write_request(&writer, GMM__REPORT_WANT_ALL);
	ck_assert_uint_eq(writer.bytes, 40);
	const struct gmm__report_request *request = (const void *)(bytes + sizeof(struct gmm__report_header));
	ck_assert_uint_eq(request->want, GMM__REPORT_WANT_ALL);
	ck_assert_mem_eq(bytes, GMM__REPORT_MAGIC, GMM__REPORT_MAGIC_BYTES);
	ck_assert_uint_eq(requests(&r), 0);
	gmm_guest_port_restart(r.port);
	ck_assert_uint_eq(requests(&r), 1);
	/* A fault: it asks once more, and listens again from the next HELLO on. */
	gmm__report_write_hello(&writer, 1);
	say(&r);
	r.modules = 3;
	done(&r);
	ck_assert_uint_eq(info(&r).faults, 1);
	ck_assert_str_eq(info(&r).last_fault, "another number of modules than reported");
	ck_assert_uint_eq(requests(&r), 1);
	gmm__report_write_hello(&writer, 1);
	say(&r);
	r.modules = 0;
	done(&r);
	ck_assert_uint_eq(info(&r).reports, 1);
	gmm_guest_port_close(r.port);
	fake_close();
}
END_TEST

/* The limits follow the RAM; a guest without any says nothing of use. */
START_TEST(ram_comes_later)
{
	world = fake_open();
	a = fake_guest_new(NULL, PAGES);
	struct gmm_vm *vm;
	struct reporter r = { 0 };

	ck_assert_int_eq(gmm_vm_create(world->gmm, NULL, &vm), GMM_OK);
	ck_assert_int_eq(gmm_guest_port_open(vm, 0, &r.port), GMM_OK);
	gmm__report_write_hello(&writer, 1);
	say(&r);
	done(&r);
	ck_assert_uint_eq(info(&r).reports, 0);
	ck_assert_uint_eq(gmm_guest_port_wait_ms(r.port), 0);
	gmm_guest_port_close(r.port);
	ck_assert_int_eq(gmm_vm_destroy(vm, GMM_RAM_DISCARD), GMM_OK);
	fake_close();
}
END_TEST

/* ---- hostile guests ------------------------------------------------------------------------------------------- */

/* The world's clock stands still: what is spent does not come back. */
START_TEST(endless_noise)
{
	uint8_t noise[4096];
	uint64_t state = 99, total = 0;
	size_t taken = 1;

	open_twins(PAGES);
	struct reporter r = connect_guest(b, 0);
	while (taken > 0 && total < 1u << 30) {
		for (size_t i = 0; i < sizeof noise; i++)
			noise[i] = (uint8_t)(state = state * 6364136223846793005u + 1442695040888963407u, state >> 56);
		ck_assert_int_eq(gmm_guest_port_feed(r.port, noise, sizeof noise, &taken), GMM_OK);
		total += taken;
	}
	ck_assert_uint_lt(total, 16 << 20);
	ck_assert_uint_gt(gmm_guest_port_wait_ms(r.port), 0);
	ck_assert_uint_eq(info(&r).modules, 0);
	gmm_guest_port_close(r.port);
	fake_close();
}
END_TEST

/* It names all its pages in 2000 modules, again and again: what it may cost is bounded, whatever it says. */
START_TEST(endless_changes)
{
	static const struct gmm__report_run all[] = { { 0, FILE_PAGES, 0 } };
	const struct gmm__report_write_region region = { 0, FILE_PAGES * GMM__PAGE_BYTES, all, 1 };
	struct gmm__report_write_module module = { .kind = GMM__REPORT_FILE, .name = "x", .version = "1",
						   .size_bytes = 1, .n_regions = 1, .regions = &region };
	size_t taken;
	uint32_t frames = 0;

	open_twins(PAGES);
	struct reporter r = connect_guest(b, 0);
	module.size_bytes = FILE_PAGES * GMM__PAGE_BYTES;
	for (;; frames++) {
		begin(&r);
		if (frames % 2)
			gmm__report_write_remove(&writer, 0);
		else
			gmm__report_write_add(&writer, &module);
		gmm__report_write_end(&writer);
		ck_assert_int_eq(gmm_guest_port_feed(r.port, writer.frame, writer.bytes, &taken), GMM_OK);
		r.sequence = writer.sequence;
		if (taken < writer.bytes)
			break;
	}
	ck_assert_uint_lt(frames, (8 << 20) / (FILE_PAGES * 64 / 2));
	ck_assert_uint_le(info(&r).modules, 1);
	ck_assert_uint_gt(gmm_guest_port_wait_ms(r.port), 0);
	gmm_guest_port_close(r.port);
	fake_close();
}
END_TEST

/* A frame whose last record is bad leaves nothing behind. */
START_TEST(twice_the_same_page)
{
	static const struct gmm__report_run overlap[] = { { 0, 10, 5 }, { 10, 10, 14 } };
	static const struct gmm__report_run beyond[] = { { 0, 10, 1ull << 30 } };

	open_twins(PAGES);
	struct reporter r = connect_guest(b, 0);
	add(&r, 0, "x", two_runs, 2);
	add(&r, 1, "y", overlap, 2);
	ck_assert_str_eq(info(&r).last_fault, "page outside the guest's memory or named twice");
	ck_assert_uint_eq(info(&r).modules, 1);
	gmm__report_write_hello(&writer, 1);
	say(&r);
	add(&r, 0, "x", beyond, 1);
	ck_assert_uint_eq(info(&r).faults, 2);
	ck_assert_uint_eq(info(&r).modules, 0);
	gmm_guest_port_close(r.port);
	fake_close();
}
END_TEST

/* The other's module by name, with other bytes; and its pages by number, which are the liar's own. */
START_TEST(a_liar_gains_nothing)
{
	open_twins(PAGES);
	c = fake_guest_new(NULL, PAGES);
	fake_fill_range(c, 0, PAGES, 5000);
	struct reporter ra = connect_guest(a, 0), rb = connect_guest(b, 0), rc = connect_guest(c, 0);

	world->gmm->options.window_ms = 60000;
	add(&rc, 0, "libc", two_runs, 2); /* first, so that its pages are what is known */
	add(&ra, 0, "libc", two_runs, 2);
	fake_passes(1);
	add(&rb, 0, "libc", two_runs, 2);
	fake_passes(2);
	ck_assert_uint_ge(fake_count(a, GMM_PAGE_SHARED), 26);
	ck_assert_uint_ge(fake_count(b, GMM_PAGE_SHARED), 26);
	ck_assert_uint_eq(fake_count(c, GMM_PAGE_SHARED), 0);
	gmm_guest_port_close(ra.port);
	gmm_guest_port_close(rb.port);
	gmm_guest_port_close(rc.port);
	fake_close();
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		what_guests_name_is_shared_by_the_next_pass, removed_and_named_anew, beyond_the_end_or_the_ram,
		asks_for_a_session, ram_comes_later, endless_noise, endless_changes, twice_the_same_page,
		a_liar_gains_nothing,
	};

	return unit_main("guest_port", tests, sizeof tests / sizeof *tests);
}
