/* What a fuzz target brings. A target is built twice: with libFuzzer, which makes inputs (GMM_FUZZ=ON and clang), and with
 * replay.c, which runs it over its corpus and needs nothing special; that one is an ordinary test. */
#ifndef TESTS_FUZZ_FUZZ_H
#define TESTS_FUZZ_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Unlike assert it cannot be compiled out, and it ends the process the way libFuzzer notices. */
#define fuzz_check(condition)                                                                   \
	do {                                                                                    \
		if (!(condition)) {                                                             \
			fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition); \
			abort();                                                                \
		}                                                                               \
	} while (0)

#endif
