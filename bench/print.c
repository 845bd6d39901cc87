/* Printing a result: one JSON object, or tables for people. A result is an object of numbers and texts;
 * arrays of objects in it are printed as tables of their own; the objects of several engines stand side by
 * side. */
#include "bench/run.h"

#include "bench/util.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_WIDTH = 28, VALUE_WIDTH = 16 };

static void print_value(const json_t *value, int width)
{
	if (json_is_integer(value))
		printf(" %*" JSON_INTEGER_FORMAT, width, json_integer_value(value));
	else if (json_is_real(value))
		printf(" %*.4f", width, json_real_value(value));
	else if (json_is_boolean(value))
		printf(" %*s", width, json_is_true(value) ? "yes" : "no");
	else if (json_is_string(value))
		printf(" %*s", width, json_string_value(value));
	else
		printf(" %*s", width, "-");
}

static bool is_plain(const json_t *value)
{
	return !json_is_array(value) && !json_is_object(value);
}

/* One line for each field, one column for each object; the first object names the fields. */
static void print_columns(json_t *const *objects, size_t count)
{
	const char *field;
	json_t *value;

	json_object_foreach(objects[0], field, value)
	{
		if (!is_plain(value))
			continue;
		printf("%-*s", NAME_WIDTH, field);
		for (size_t i = 0; i < count; i++)
			print_value(json_object_get(objects[i], field), VALUE_WIDTH);
		putchar('\n');
	}
}

/* One line for each object, one column for each field. */
static void print_rows(const json_t *rows)
{
	const json_t *row;
	json_t *value;
	const char *field;
	size_t i;

	json_array_foreach(rows, i, row)
	{
		if (i == 0) {
			json_object_foreach((json_t *)row, field, value)
				printf(" %*s", (int)strlen(field) > 10 ? (int)strlen(field) : 10, field);
			putchar('\n');
		}
		json_object_foreach((json_t *)row, field, value)
			print_value(value, (int)strlen(field) > 10 ? (int)strlen(field) : 10);
		putchar('\n');
	}
}

static void print_tables(const char *title, json_t *object)
{
	const char *field;
	json_t *value;

	json_object_foreach(object, field, value)
	{
		if (!json_is_array(value) || !json_is_object(json_array_get(value, 0)))
			continue;
		printf("\n%s%s%s:\n", title, *title ? " " : "", field);
		print_rows(value);
	}
}

static void print_for_people(json_t *result)
{
	json_t *objects[BENCH_ENGINES_MAX];
	const char *field;
	json_t *value;
	size_t count = 0;

	json_object_foreach(result, field, value) if (json_is_object(value) && count < BENCH_ENGINES_MAX)
		objects[count++] = value;
	if (count > 0) {
		print_columns(objects, count);
		putchar('\n');
	}
	print_columns(&result, 1);
	json_object_foreach(result, field, value) if (json_is_object(value)) print_tables(field, value);
	print_tables("", result);
}

void gmm__bench_print(json_t *result, const struct bench_options *options)
{
	if (options->json) {
		json_dumpf(result, stdout, JSON_INDENT(2) | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(9));
		putchar('\n');
	} else {
		print_for_people(result);
	}
	json_decref(result);
	if (fflush(stdout) != 0 || ferror(stdout))
		gmm__bench_fail("cannot write to standard output");
}
