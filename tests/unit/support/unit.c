/* The frame of the programs of tests/unit; see unit.h. */
#include "tests/unit/support/unit.h"

#include <stdio.h>
#include <stdlib.h>

enum { LIMIT_SECONDS = 280 }; /* for each test */

int unit_main(const char *name, const TTest *const *tests, size_t count)
{
	Suite *suite = suite_create(name);
	TCase *tcase = tcase_create(name);
	SRunner *runner = srunner_create(suite);

	setvbuf(stdout, NULL, _IOLBF, 0);
	suite_add_tcase(suite, tcase);
	for (size_t i = 0; i < count; i++)
		tcase_add_test(tcase, tests[i]);
	tcase_set_timeout(tcase, LIMIT_SECONDS);
	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
