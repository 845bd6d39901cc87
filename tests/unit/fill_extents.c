/* The table of fill words' extents. */
#include "dedup/fill_extents.h"

#include "tests/unit/support/unit.h"

static struct gmm__fill_extents extents;

static void clear(void)
{
	extents = (struct gmm__fill_extents){ 0 };
}

START_TEST(set_and_find)
{
	clear();
	ck_assert_ptr_null(gmm__fill_find(&extents, 0xcc));
	gmm__fill_set(&extents, 0xcc, 600, 64);
	gmm__fill_set(&extents, 0xdd, 700, 20);
	ck_assert_uint_eq(gmm__fill_find(&extents, 0xcc)->first, 600);
	ck_assert_uint_eq(gmm__fill_find(&extents, 0xcc)->pages, 64);
	ck_assert_uint_eq(gmm__fill_find(&extents, 0xdd)->first, 700);
	ck_assert_ptr_null(gmm__fill_find(&extents, 0xee));
	gmm__fill_set(&extents, 0xcc, 800, 30); /* in place of the old one */
	ck_assert_uint_eq(gmm__fill_find(&extents, 0xcc)->first, 800);
	gmm__fill_gone(&extents, 0xcc, 610); /* the old one's page */
	ck_assert_uint_eq(gmm__fill_find(&extents, 0xcc)->pages, 30);
}
END_TEST

START_TEST(lost_pages)
{
	clear();
	gmm__fill_set(&extents, 0xcc, 600, 64);
	gmm__fill_gone(&extents, 0xcc, 664);
	gmm__fill_gone(&extents, 0xcc, 599);
	gmm__fill_gone(&extents, 0xdd, 610);
	ck_assert_uint_eq(gmm__fill_find(&extents, 0xcc)->pages, 64);
	gmm__fill_gone(&extents, 0xcc, 640);
	ck_assert_uint_eq(gmm__fill_find(&extents, 0xcc)->pages, 40);
	gmm__fill_gone(&extents, 0xcc, 650); /* behind what is left */
	ck_assert_uint_eq(gmm__fill_find(&extents, 0xcc)->pages, 40);
	gmm__fill_gone(&extents, 0xcc, 600);
	ck_assert_ptr_null(gmm__fill_find(&extents, 0xcc));
	gmm__fill_gone(&extents, 0xcc, 601);
	gmm__fill_set(&extents, 0xcc, 900, 1);
	ck_assert_uint_eq(gmm__fill_find(&extents, 0xcc)->first, 900);
}
END_TEST

/* The shortest makes room when all places are taken. */
START_TEST(full_table)
{
	clear();
	for (uint64_t word = 1; word <= GMM__FILL_WORDS; word++)
		gmm__fill_set(&extents, word, (gmm__page_id)(word * 1000), word == 17 ? 3 : 40);
	gmm__fill_set(&extents, 0xcc, 5, 64);
	ck_assert_ptr_null(gmm__fill_find(&extents, 17));
	ck_assert_uint_eq(gmm__fill_find(&extents, 0xcc)->first, 5);
	for (uint64_t word = 1; word <= GMM__FILL_WORDS; word++)
		ck_assert(word == 17 || gmm__fill_find(&extents, word)->first == word * 1000);
	gmm__fill_gone(&extents, 20, 20000);
	gmm__fill_set(&extents, 0xdd, 6, 1); /* the empty place, not the shortest */
	ck_assert_ptr_nonnull(gmm__fill_find(&extents, 0xdd));
	ck_assert_ptr_nonnull(gmm__fill_find(&extents, 0xcc));
	ck_assert_ptr_null(gmm__fill_find(&extents, 20));
}
END_TEST

int main(void)
{
	const TTest *const tests[] = { set_and_find, lost_pages, full_table };

	return unit_main("fill_extents", tests, sizeof tests / sizeof *tests);
}
