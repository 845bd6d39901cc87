/* Twins: what becomes of the pages that a promotion was made for when they are many, or go meanwhile; and of what was found
 * of a page that has changed since. */
#include <pthread.h>
#include <string.h>

#include "dedup/process.h"
#include "tests/unit/support/twins.h"
#include "tests/unit/support/unit.h"

/* ---- copies in one region -------------------------------------------------------------------------------- */

/* Of so many copies of each of so many pages, each page is in the pool once. */
static void share_copies(uint32_t copies, uint32_t pages)
{
	world = fake_open();
	a = fake_guest_new(NULL, copies * pages);
	for (uint32_t i = 0; i < copies; i++)
		fake_fill_range(a, i * pages, pages, 1);
	fake_passes(6);
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_SHARED), copies * pages);
	ck_assert_uint_eq(fake_pool(a)->used_pages, pages);
	fake_close();
}

START_TEST(copies_in_one_region_share_one_page)
{
	share_copies(2, 1);
	share_copies(3, 1);
	share_copies(4, 1);
	share_copies(3, 7);
	share_copies(9, 100);
}
END_TEST

/* ---- twins that go ------------------------------------------------------------------------------------------- */

enum { ROW = GMM__FREEZE_PAGES, SMALL = 8 };

static void *replace_twin(void *unused)
{
	(void)unused;
	fake_guest_destroy(b);
	b = fake_guest_new(NULL, SMALL);
	return NULL;
}

/* In the second piece, by a thread of its own, as it would be. */
static int replace_twin_once(const struct fake_event *event)
{
	static bool done;
	pthread_t thread;

	if (event->step != FAKE_AFTER_THAW || event->guest != a || event->first != ROW || done)
		return 0;
	done = true;
	ck_assert_int_eq(pthread_create(&thread, NULL, replace_twin, NULL), 0);
	pthread_join(thread, NULL);
	return 0;
}

/* The ids of the twins are those of a smaller guest's memory now, which has no such pages. */
START_TEST(a_smaller_guest_takes_the_place_of_the_twin)
{
	open_twins(2 * ROW);
	gmm__chunk_id before = b->slot->first_chunk;
	fake_passes(1);
	world->hook = replace_twin_once;
	fake_passes(1);
	ck_assert_uint_eq(b->pages, SMALL);
	ck_assert_uint_eq(b->slot->first_chunk, before);
	fake_passes(4);
	fake_close();
}
END_TEST

/* ---- findings that are outdated when they are accounted ----------------------------------------------------------- */

/* The scan looked without the claim, while somebody exchanged mappings: what it saw is not so any more. */
static void process_finding(enum gmm__found found, uint32_t page)
{
	struct gmm__job *job = &world->engine->worker[0].job;

	memset(job, 0, sizeof *job);
	job->region = (struct gmm__region){ a->slot, 0, a->pages };
	job->finding[page].found = found;
	gmm__process_region(&world->engine->worker[0]);
	fake_check();
}

START_TEST(outdated_findings_are_not_believed)
{
	open_twins(8);
	fake_fill(a, 7, 500);
	fake_passes(4);
	gmm__page_id shared = a->slot->value[0];
	uint32_t references = record_of(shared).references;
	process_finding(GMM__FOUND_BROKEN, 0);
	assert_state(a, 0, GMM_PAGE_SHARED);
	ck_assert_uint_eq(record_of(shared).references, references);
	process_finding(GMM__FOUND_FOREIGN, 7);
	assert_state(a, 7, GMM_PAGE_UNIQUE);
	process_finding(GMM__FOUND_BROKEN, 7);
	assert_state(a, 7, GMM_PAGE_UNIQUE);
	a->page[7].foreign = true;
	process_finding(GMM__FOUND_BROKEN, 7);
	assert_state(a, 7, GMM_PAGE_FOREIGN);
	fake_write(a, 0, 5, 9);
	process_finding(GMM__FOUND_BROKEN, 0);
	assert_state(a, 0, GMM_PAGE_BROKEN);
	fake_close();
}
END_TEST

/* A service is asked without the claim: the pages may have changed when its answer comes. */
START_TEST(outdated_verdicts_are_not_followed)
{
	struct gmm__verdict verdict[8] = { [0] = { .kind = GMM__VERDICT_UNIQUE }, [6] = { .kind = GMM__VERDICT_PROMOTE },
					   [7] = { .kind = GMM__VERDICT_ZERO } };
	struct gmm__progress progress = { 0 };

	open_twins(8);
	fake_fill_range(a, 6, 2, 500);
	fake_passes(4);
	ck_assert_int_eq(gmm_vm_pin(a->vm, 6 * GMM__PAGE_BYTES, GMM__PAGE_BYTES), GMM_OK);
	ck_assert_int_eq(gmm_vm_set_unshareable(a->vm, 7 * GMM__PAGE_BYTES, GMM__PAGE_BYTES, true), GMM_OK);
	struct gmm__region region = { a->slot, 0, a->pages };
	gmm__account_verdicts(&region, verdict, &progress);
	assert_state(a, 0, GMM_PAGE_SHARED);
	assert_state(a, 6, GMM_PAGE_PINNED);
	assert_state(a, 7, GMM_PAGE_UNSHAREABLE);
	for (int i = 0; i < 8; i++)
		ck_assert_int_eq(verdict[i].kind, GMM__VERDICT_NONE);
	fake_close();
}
END_TEST

int main(void)
{
	const TTest *const tests[] = { copies_in_one_region_share_one_page, a_smaller_guest_takes_the_place_of_the_twin,
				 outdated_findings_are_not_believed, outdated_verdicts_are_not_followed };

	return unit_main("merge_twins", tests, sizeof tests / sizeof *tests);
}
