/* The frame of a test program of the inside of the library that needs nothing of the kernel's newer features. */
#ifndef TESTS_UNIT_SUPPORT_UNIT_H
#define TESTS_UNIT_SUPPORT_UNIT_H

#include <check.h>
#include <stddef.h>

/* Runs each test in a process of its own, with a time limit, and returns the program's exit status. CK_FORK=no runs them
 * in this process, for a debugger. */
int unit_main(const char *name, const TTest *const *tests, size_t count);

#endif
