/* Failing, memory and reading numbers from the kernel's files. */
#include "bench/util.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STATUS_FAILED = 1, STATUS_USAGE = 2 };

static void __attribute__((format(printf, 1, 0))) complain(const char *format, va_list args)
{
	fprintf(stderr, "gmm-bench: ");
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
}

void gmm__bench_fail(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	complain(format, args);
	va_end(args);
	exit(STATUS_FAILED);
}

void gmm__bench_refuse(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	complain(format, args);
	va_end(args);
	exit(STATUS_USAGE);
}

void *gmm__bench_alloc(size_t count, size_t size)
{
	void *memory = calloc(count > 0 ? count : 1, size);

	if (!memory)
		gmm__bench_fail("out of memory for %zu entries of %zu bytes", count, size);
	return memory;
}

uint64_t gmm__bench_read_number(const char *path, uint64_t fallback)
{
	FILE *file = fopen(path, "re");
	uint64_t value = fallback;

	if (!file)
		return fallback;
	if (fscanf(file, "%" SCNu64, &value) != 1)
		value = fallback;
	fclose(file);
	return value;
}

uint64_t gmm__bench_read_field(const char *path, const char *field)
{
	FILE *file = fopen(path, "re");
	char word[128];
	uint64_t value = 0;

	if (!file)
		return 0;
	while (fscanf(file, "%127s", word) == 1) {
		if (strcmp(word, field) != 0)
			continue;
		if (fscanf(file, "%" SCNu64, &value) != 1)
			value = 0;
		break;
	}
	fclose(file);
	return value;
}
