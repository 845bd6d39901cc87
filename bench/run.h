/* Running a measurement for one engine after the other, each in a forked process, and printing what they
 * found. */
#ifndef BENCH_RUN_H
#define BENCH_RUN_H

#include "bench/engine.h"

/* Measures in the forked process and returns an object. */
typedef json_t *bench_measure_fn(
	const struct bench_engine *engine, const struct bench_options *options, const void *arg);

/* Prepares the host, forks, measures, puts the host back. Ends the program when the child fails. */
json_t *gmm__bench_run(const struct bench_engine *engine, const struct bench_options *options,
	bench_measure_fn *measure, const void *arg);

/* Runs options->repeat times; the run whose field is the median, with all values of the field as FIELD_all.
 */
json_t *gmm__bench_run_median(const struct bench_engine *engine, const struct bench_options *options,
	bench_measure_fn *measure, const void *arg, const char *field);

/* Runs options->repeat times; the first run with the median of all runs in each field that is a real number.
 */
json_t *gmm__bench_run_medians(const struct bench_engine *engine, const struct bench_options *options,
	bench_measure_fn *measure, const void *arg);

/* Runs all engines of the options. One: its object. Several: an object with the object of each under its
 * name. */
json_t *gmm__bench_run_engines(
	const struct bench_options *options, bench_measure_fn *measure, const void *arg, const char *field);

/* When result has both ksm and gmm: sets name to ksm's field divided by gmm's, that is how many times more
 * KSM needs; inverse: gmm's divided by ksm's. */
void gmm__bench_add_ratio(json_t *result, const char *name, const char *field, bool inverse);

/* Adds {field: integer, ...} and the like. */
void gmm__bench_set_count(json_t *object, const char *field, uint64_t value);
void gmm__bench_set_real(json_t *object, const char *field, double value);

/* Prints and frees the result, as JSON or as tables for people. */
void gmm__bench_print(json_t *result, const struct bench_options *options);

#endif
