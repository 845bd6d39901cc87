/* Balloons: pages told twice, shared and private and broken ones, pages that are used after all; and what the arbitration
 * asks of VMs, through pressure files of the test's own.
 */
#include <gmm/balloon.h>
#include <stdio.h>
#include <string.h>

#include "dedup/arbitrate.h"
#include "dedup/balloon.h"
#include "tests/unit/support/twins.h"
#include "tests/unit/support/unit.h"

/* As gmm_vm_balloon_inflate, which asks the real backend. */
static uint64_t inflate(struct fake_guest *guest, uint32_t first, uint32_t count)
{
	uint64_t pages = 0;

	ck_assert(gmm__vm_claim(guest->vm, false));
	struct gmm__part part = { guest->slot, first, count };
	ck_assert_int_eq(gmm__balloon_inflate(fake_backend(), &part, &pages), GMM_OK);
	gmm__vm_release(guest->vm);
	memset(guest->expected + (size_t)first * GMM__PAGE_BYTES, 0, (size_t)count * GMM__PAGE_BYTES);
	fake_check();
	return pages;
}

START_TEST(told_twice_counts_once)
{
	open_twins(16);
	ck_assert_uint_eq(inflate(a, 4, 8), 8);
	ck_assert_uint_eq(inflate(a, 4, 8), 0);
	ck_assert_uint_eq(inflate(a, 0, 16), 8);
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_BALLOONED), 16);
	fake_passes(20); /* nobody takes them for something else */
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_BALLOONED), 16);
	fake_close();
}
END_TEST

START_TEST(shared_and_broken_pages_go)
{
	open_twins(16);
	fake_passes(4);
	fake_write(a, 3, 5, 77);
	fake_passes(9);
	assert_state(a, 3, GMM_PAGE_BROKEN);
	uint64_t used = fake_pool(a)->used_pages;
	ck_assert_uint_eq(inflate(a, 0, 8), 8);
	ck_assert_uint_eq(inflate(b, 0, 8), 8);
	ck_assert_uint_eq(fake_pool(a)->used_pages, used - 8);
	for (uint32_t i = 0; i < 8; i++)
		ck_assert_int_eq(a->page[i].kind, FAKE_HOLE); /* no pool page shows through */
	fake_close();
}
END_TEST

START_TEST(a_used_page_is_no_longer_ballooned)
{
	open_twins(16);
	inflate(a, 0, 16);
	fake_fill(a, 7, 4711);
	ck_assert_uint_eq(inflate(a, 7, 1), 0); /* told again: emptied again */
	assert_state(a, 7, GMM_PAGE_BALLOONED);
	fake_fill(a, 7, 4711);
	fake_passes(4);
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_BALLOONED), 15);
	assert_state(a, 7, GMM_PAGE_UNIQUE);
	fake_fill(b, 3, 4711); /* and is shared like any other */
	fake_passes(4);
	assert_state(a, 7, GMM_PAGE_SHARED);
	fake_close();
}
END_TEST

START_TEST(deflate_and_reset)
{
	struct gmm_balloon_stats stats;
	uint64_t pages;

	open_twins(16);
	inflate(a, 0, 16);
	ck_assert_int_eq(gmm_vm_balloon_deflate(a->vm, 0, 4 * GMM__PAGE_BYTES, &pages), GMM_OK);
	ck_assert_uint_eq(pages, 4);
	ck_assert_int_eq(gmm_vm_balloon_deflate(a->vm, 0, 8 * GMM__PAGE_BYTES, &pages), GMM_OK);
	ck_assert_uint_eq(pages, 4);
	ck_assert_int_eq(gmm_vm_balloon_stats(a->vm, &stats), GMM_OK);
	ck_assert_uint_eq(stats.given_pages, 8);
	ck_assert_uint_eq(stats.to_deflate_pages, 8); /* nobody asked for them */
	fake_check();
	ck_assert_int_eq(gmm_vm_balloon_reset(a->vm), GMM_OK);
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_BALLOONED), 0);
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_ABSENT), 16);
	fake_close();
}
END_TEST

/* A fill page of a slot that becomes a hole is absent, not ballooned, whatever it was before. */
START_TEST(flags_do_not_look_like_a_balloon)
{
	open_twins(4);
	ck_assert(gmm__vm_claim(a->vm, false));
	gmm__slot_set(a->slot, 0, GMM_PAGE_VOLATILE, 0);
	a->slot->state[0] |= GMM__FLAG_FILL | GMM__FLAG_WHOLE;
	gmm__slot_set(a->slot, 0, GMM_PAGE_ABSENT, 0);
	gmm__vm_release(a->vm);
	assert_state(a, 0, GMM_PAGE_ABSENT);
	fake_passes(4);
	fake_close();
}
END_TEST

/* ---- what is asked ---------------------------------------------------------------------------------------------------- */

static uint64_t now_ms, stalled_us;
static struct gmm__sys sys;
static const struct gmm__sys *before;

static uint64_t test_clock(void)
{
	return now_ms * 1000000;
}

static ssize_t test_read(const char *path, char *buf, size_t size)
{
	if (strcmp(path, "/test/pressure") != 0)
		return before->file_read(path, buf, size);
	return snprintf(buf, size, "some avg10=0.00 avg60=0.00 avg300=0.00 total=%lu\n"
			"full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n", (unsigned long)stalled_us);
}

static uint64_t asked[2], calls;

static void ask_guest(void *arg, struct gmm_vm *vm, uint64_t pages)
{
	struct fake_guest *guest = arg;

	ck_assert_ptr_eq(vm, guest->vm);
	asked[guest == b] = pages;
	calls++;
}

static struct gmm__arbitration *open_arbitration(void)
{
	struct gmm_pressure_options options;
	struct gmm__arbitration *arbitration;

	before = world->gmm->mem.sys;
	sys = *before;
	sys.clock_ns = test_clock;
	sys.file_read = test_read;
	world->gmm->mem.sys = &sys;
	now_ms = 1000;
	stalled_us = asked[0] = asked[1] = calls = 0;
	gmm_pressure_options_init(&options);
	options.host_path = "/test/pressure";
	ck_assert_int_eq(gmm__arbitration_open(world->gmm, &options, &arbitration), GMM_OK);
	ck_assert_uint_eq(arbitration->sources, 1);
	return arbitration;
}

static void close_arbitration(struct gmm__arbitration *arbitration)
{
	gmm__arbitration_close(arbitration);
	world->gmm->mem.sys = before;
	fake_close();
}

static void seconds(struct gmm__arbitration *arbitration, uint32_t n, uint32_t stall_permille)
{
	while (n-- > 0) {
		now_ms += 1000;
		stalled_us += 1000 * stall_permille;
		gmm__arbitration_step(arbitration);
	}
}

START_TEST(low_priority_is_asked_first_and_both_get_it_back)
{
	struct gmm_balloon_stats stats;

	open_twins(1024);
	a->vm->priority = GMM_PRIORITY_HIGH;
	b->vm->priority = GMM_PRIORITY_LOW;
	struct gmm__arbitration *arbitration = open_arbitration();
	ck_assert_int_eq(gmm_vm_set_balloon(a->vm, 512, ask_guest, a), GMM_OK);
	ck_assert_int_eq(gmm_vm_set_balloon(b->vm, 5000, ask_guest, b), GMM_OK); /* more than it has */
	seconds(arbitration, 3, 0);
	ck_assert_uint_eq(calls, 0);
	ck_assert(!world->gmm->under_pressure);
	seconds(arbitration, 4, 900);
	ck_assert(world->gmm->under_pressure);
	ck_assert_uint_gt(asked[1], 0);
	ck_assert_uint_eq(asked[0], 0);
	for (int i = 0; i < 20; i++) {
		inflate(b, 0, (uint32_t)asked[1]);
		inflate(a, 0, (uint32_t)asked[0]);
		seconds(arbitration, 1, 900);
	}
	ck_assert_uint_eq(asked[1], 1024);
	ck_assert_uint_eq(asked[0], 512);
	ck_assert_int_eq(gmm_vm_balloon_stats(b->vm, &stats), GMM_OK);
	ck_assert_uint_eq(stats.requested_pages, 1024);
	ck_assert_uint_eq(stats.given_pages, 1024);
	ck_assert_uint_eq(stats.max_pages, 5000);
	ck_assert_uint_eq(arbitration->stats.given_pages, 1536);
	seconds(arbitration, 120, 0);
	ck_assert_uint_eq(asked[0] + asked[1], 0);
	ck_assert_int_eq(gmm_vm_balloon_stats(b->vm, &stats), GMM_OK);
	ck_assert_uint_eq(stats.to_deflate_pages, 1024);
	ck_assert(!world->gmm->under_pressure);
	close_arbitration(arbitration);
}
END_TEST

START_TEST(a_guest_without_a_balloon_is_not_asked)
{
	open_twins(1024);
	struct gmm__arbitration *arbitration = open_arbitration();
	gmm_vm_set_balloon(a->vm, 512, ask_guest, a);
	gmm_vm_set_balloon(a->vm, 512, NULL, a);
	seconds(arbitration, 30, 900);
	ck_assert_uint_eq(calls, 0);
	ck_assert_uint_eq(arbitration->stats.phase, GMM_PRESSURE_BALLOONING);
	close_arbitration(arbitration);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		told_twice_counts_once, shared_and_broken_pages_go, a_used_page_is_no_longer_ballooned, deflate_and_reset,
		flags_do_not_look_like_a_balloon, low_priority_is_asked_first_and_both_get_it_back,
		a_guest_without_a_balloon_is_not_asked,
	};

	return unit_main("balloon", tests, sizeof tests / sizeof *tests);
}
