/* What the scan makes of what the pagemap says, for every kind of page and state; and what it arms. */
#include "dedup/scan.h"

#include <errno.h>
#include <string.h>

#include "tests/unit/support/fake_backend.h"
#include "tests/unit/support/unit.h"

static struct fake_guest *guest;
static struct gmm__finding finding[GMM__REGION_PAGES];
static uint32_t unripe;
static const struct gmm__scan_options at_once = { .no_window = true, .covers = true };
static const struct gmm__scan_options with_window = { .covers = true };
static const struct gmm__scan_options survey = { .covers = true, .survey = true };

static int scan(const struct gmm__scan_options *options)
{
	struct gmm__region region = { guest->slot, 0, guest->pages };
	int found;

	memset(finding, 0xff, sizeof finding);
	found = gmm__scan_region(fake_backend(), &region, options, finding, &unripe);
	if (found == 0)
		memset(finding, 0, sizeof finding);
	return found;
}

static void open_guest(void)
{
	fake_open();
	guest = fake_guest_new(NULL, 16);
}

START_TEST(nothing_there)
{
	open_guest();
	ck_assert_int_eq(scan(&at_once), 0);
	ck_assert_int_eq(scan(&survey), 0);
	fake_close();
}
END_TEST

START_TEST(written_pages_are_armed_and_due)
{
	open_guest();
	fake_fill(guest, 2, 1);
	fake_fill(guest, 3, 2);
	fake_fill(guest, 9, 3);
	ck_assert_int_gt(scan(&at_once), 0);
	for (uint32_t i = 0; i < 16; i++) {
		bool written = i == 2 || i == 3 || i == 9;
		ck_assert_int_eq(finding[i].found, written ? GMM__FOUND_DUE : GMM__FOUND_NOTHING);
		ck_assert_int_eq(guest->page[i].armed, written);
	}
	fake_close();
}
END_TEST

/* With a window a written page has to be quiet until the next scan. */
START_TEST(window)
{
	open_guest();
	fake_fill(guest, 2, 1);
	fake_fill(guest, 3, 2);
	ck_assert_int_gt(scan(&with_window), 0);
	ck_assert_int_eq(finding[2].found, GMM__FOUND_WRITTEN);
	gmm__slot_set(guest->slot, 2, GMM_PAGE_VOLATILE, 0);
	gmm__slot_set(guest->slot, 3, GMM_PAGE_VOLATILE, 0);
	fake_write(guest, 3, 0, 5);
	ck_assert_int_gt(scan(&with_window), 0);
	ck_assert_int_eq(finding[2].found, GMM__FOUND_DUE);
	ck_assert_int_eq(finding[3].found, GMM__FOUND_WRITTEN);
	fake_close();
}
END_TEST

/* Clean pages, by state: what an ordinary scan and a survey say when they are present. */
START_TEST(clean_pages)
{
	static const struct {
		enum gmm_page_state state;
		enum gmm__found ordinary, survey;
	} cases[] = {
		{ GMM_PAGE_UNIQUE, GMM__FOUND_NOTHING, GMM__FOUND_AGAIN },
		{ GMM_PAGE_VOLATILE, GMM__FOUND_DUE, GMM__FOUND_DUE },
		{ GMM_PAGE_RACED, GMM__FOUND_DUE, GMM__FOUND_DUE },
		{ GMM_PAGE_PINNED, GMM__FOUND_NOTHING, GMM__FOUND_DUE },
		{ GMM_PAGE_SWAPPED, GMM__FOUND_NOTHING, GMM__FOUND_DUE },
		{ GMM_PAGE_ABSENT, GMM__FOUND_NOTHING, GMM__FOUND_DUE },
		{ GMM_PAGE_HUGE, GMM__FOUND_NOTHING, GMM__FOUND_DUE },
	};

	open_guest();
	fake_fill(guest, 0, 1);
	guest->page[0].armed = true;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		gmm__slot_set(guest->slot, 0, cases[i].state, 0);
		scan(&with_window);
		ck_assert_msg(finding[0].found == cases[i].ordinary, "%s", gmm_page_state_name(cases[i].state));
		scan(&survey);
		ck_assert_msg(finding[0].found == cases[i].survey, "%s", gmm_page_state_name(cases[i].state));
	}
	gmm__slot_set(guest->slot, 0, GMM_PAGE_VOLATILE, 0);
	fake_close();
}
END_TEST

START_TEST(pages_that_went)
{
	open_guest();
	gmm__slot_set(guest->slot, 0, GMM_PAGE_VOLATILE, 0);
	gmm__slot_set(guest->slot, 1, GMM_PAGE_UNIQUE, 5);
	gmm__slot_set(guest->slot, 2, GMM_PAGE_ZERO, 0);
	scan(&with_window);
	ck_assert_int_eq(finding[0].found, GMM__FOUND_ABSENT);
	ck_assert_int_eq(finding[1].found, GMM__FOUND_NOTHING);
	scan(&survey);
	ck_assert_int_eq(finding[1].found, GMM__FOUND_ABSENT);
	ck_assert_int_eq(finding[2].found, GMM__FOUND_NOTHING); /* a hole is as it should be */
	fake_close();
}
END_TEST

START_TEST(swapped_and_huge_pages_are_left_alone)
{
	open_guest();
	fake_fill(guest, 0, 1);
	guest->page[0].swapped = true;
	fake_fill(guest, 1, 1);
	guest->page[1].huge = true;
	ck_assert_int_gt(scan(&at_once), 0);
	ck_assert_int_eq(finding[0].found, GMM__FOUND_SWAPPED);
	ck_assert_int_eq(finding[1].found, GMM__FOUND_HUGE);
	ck_assert(!guest->page[1].armed); /* the first write would split it */
	gmm__slot_set(guest->slot, 0, GMM_PAGE_SWAPPED, 0);
	gmm__slot_set(guest->slot, 1, GMM_PAGE_HUGE, 0);
	ck_assert_int_eq(scan(&at_once), 0);
	fake_close();
}
END_TEST

/* Each in its phase, if it is there still and in a huge page. */
START_TEST(huge_pages_are_sampled_in_turn)
{
	struct gmm__scan_options sampling = { .no_window = true };

	open_guest();
	for (uint32_t i = 0; i < 3; i++) {
		fake_fill(guest, i, 1);
		guest->page[i].huge = i < 2;
		guest->page[i].armed = i == 2;
		gmm__slot_set(guest->slot, i, GMM_PAGE_HUGE, 0);
	}
	ck_assert_int_eq(scan(&sampling), 0);
	for (sampling.huge_phase = 1; sampling.huge_phase <= 2; sampling.huge_phase++) {
		ck_assert_int_eq(scan(&sampling), 1);
		for (uint32_t i = 0; i < 3; i++)
			ck_assert_int_eq(finding[i].found,
					 i == sampling.huge_phase - 1 ? GMM__FOUND_SAMPLE : GMM__FOUND_NOTHING);
	}
	ck_assert_int_eq(scan(&sampling), 0); /* the turn of the third page, which is small */
	guest->page[2].armed = false;
	ck_assert_int_eq(scan(&sampling), 1);
	ck_assert_int_eq(finding[2].found, GMM__FOUND_DUE);
	fake_close();
}
END_TEST

START_TEST(foreign_pages)
{
	open_guest();
	fake_fill(guest, 0, 1);
	guest->page[0].foreign = true;
	scan(&survey);
	ck_assert_int_eq(finding[0].found, GMM__FOUND_FOREIGN);
	ck_assert(!guest->page[0].armed);
	gmm__slot_set(guest->slot, 0, GMM_PAGE_FOREIGN, 0);
	ck_assert_int_eq(scan(&survey), 0);
	gmm__slot_set(guest->slot, 0, GMM_PAGE_VOLATILE, 0);
	fake_close();
}
END_TEST

/* Pinned by the embedder or declared unshareable: not looked at, not armed. */
START_TEST(refused_pages)
{
	open_guest();
	fake_fill(guest, 0, 1);
	fake_fill(guest, 1, 1);
	guest->slot->state[0] |= GMM__FLAG_PINNED;
	guest->slot->state[1] |= GMM__FLAG_UNSHAREABLE;
	scan(&at_once);
	ck_assert_int_eq(finding[0].found, GMM__FOUND_NOTHING);
	ck_assert_int_eq(finding[1].found, GMM__FOUND_NOTHING);
	ck_assert(!guest->page[0].armed && !guest->page[1].armed);
	scan(&survey);
	ck_assert_int_eq(finding[0].found, GMM__FOUND_NOTHING);
	fake_close();
}
END_TEST

/* A page under a pool mapping that is no page of a file: the guest wrote to it, and it may be in swap by now. */
START_TEST(broken_pages)
{
	static const struct gmm__scan_options no_covers = { .no_window = true };

	open_guest();
	struct fake_guest *twin = fake_guest_new(NULL, 16);
	fake_fill_range(guest, 0, 4, 1);
	fake_fill_range(twin, 0, 4, 1);
	fake_passes(4);
	ck_assert_uint_eq(fake_count(guest, GMM_PAGE_SHARED), 4);
	ck_assert_int_eq(scan(&at_once), 0);
	fake_write(guest, 1, 0, 5);
	fake_write(guest, 2, 0, 5);
	guest->page[2].swapped = true;
	ck_assert_int_eq(scan(&no_covers), 0);
	ck_assert_int_gt(scan(&at_once), 0);
	ck_assert_int_eq(finding[0].found, GMM__FOUND_NOTHING);
	ck_assert_int_eq(finding[1].found, GMM__FOUND_BROKEN);
	ck_assert_int_eq(finding[2].found, GMM__FOUND_BROKEN);
	fake_passes(9);
	ck_assert_uint_eq(fake_count(guest, GMM_PAGE_BROKEN), 2);
	ck_assert_int_eq(scan(&at_once), 0);
	fake_close();
}
END_TEST

/* Pages that wait are something to do though nothing was found. */
START_TEST(waiting_pages)
{
	static const struct gmm__scan_options budget = { .no_window = true, .with_budget = true };

	open_guest();
	fake_fill(guest, 0, 1);
	scan(&at_once);
	gmm__slot_set(guest->slot, 0, GMM_PAGE_NOMINATED, 5);
	ck_assert_int_gt(scan(&at_once), 0);
	ck_assert_int_eq(finding[0].found, GMM__FOUND_NOTHING);
	gmm__slot_set(guest->slot, 0, GMM_PAGE_BUDGET, 5);
	ck_assert_int_eq(scan(&at_once), 0);
	ck_assert_int_gt(scan(&budget), 0);
	fake_close();
}
END_TEST

static int fail_scan(const struct fake_event *event)
{
	return event->step == FAKE_SCAN ? -EIO : 0;
}

START_TEST(scan_that_fails)
{
	struct fake_world *world = fake_open();

	guest = fake_guest_new(NULL, 16);
	fake_fill(guest, 0, 1);
	world->hook = fail_scan;
	ck_assert_int_eq(scan(&at_once), -EIO);
	fake_passes(2);
	assert_state(guest, 0, GMM_PAGE_ABSENT);
	world->hook = NULL;
	fake_passes(1);
	assert_state(guest, 0, GMM_PAGE_UNIQUE);
	fake_close();
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		nothing_there, written_pages_are_armed_and_due, window, clean_pages, pages_that_went,
		swapped_and_huge_pages_are_left_alone, huge_pages_are_sampled_in_turn, foreign_pages, refused_pages, broken_pages, waiting_pages,
		scan_that_fails,
	};

	return unit_main("scan", tests, sizeof tests / sizeof *tests);
}
