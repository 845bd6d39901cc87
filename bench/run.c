/* Forked runs: the first process changes the host and puts it back, the forked one has the VMs and the
 * engine. */
#include "bench/run.h"

#include "bench/tunables.h"
#include "bench/util.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static void run_child(int to, const struct bench_engine *engine, const struct bench_options *options,
	bench_measure_fn *measure, const void *arg)
{
	json_t *result;

	gmm__bench_tunables_leave();
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	result = measure(engine, options, arg);
	if (json_dumpfd(result, to, JSON_COMPACT) != 0)
		gmm__bench_fail("cannot hand the result over");
	exit(EXIT_SUCCESS);
}

static json_t *wait_for_child(pid_t child, int from)
{
	json_error_t error;
	json_t *result = json_loadfd(from, 0, &error);
	int status;

	while (waitpid(child, &status, 0) < 0)
		if (errno != EINTR)
			gmm__bench_fail("cannot wait for the run");
	gmm__bench_tunables_set_child(0);
	if (WIFSIGNALED(status))
		gmm__bench_fail("the run was ended by signal %d", WTERMSIG(status));
	if (WEXITSTATUS(status) != 0)
		exit(WEXITSTATUS(status));
	if (!result)
		gmm__bench_fail("the run gave no result");
	return result;
}

json_t *gmm__bench_run(const struct bench_engine *engine, const struct bench_options *options,
	bench_measure_fn *measure, const void *arg)
{
	int ends[2];
	pid_t child;
	json_t *result;

	engine->prepare(options);
	fflush(NULL);
	if (pipe(ends) != 0)
		gmm__bench_fail("no pipe: %s", strerror(errno));
	child = fork();
	if (child < 0)
		gmm__bench_fail("no process: %s", strerror(errno));
	if (child == 0) {
		close(ends[0]);
		run_child(ends[1], engine, options, measure, arg);
	}
	gmm__bench_tunables_set_child(child);
	close(ends[1]);
	result = wait_for_child(child, ends[0]);
	close(ends[0]);
	gmm__bench_tunables_restore();
	return result;
}

static int compare_doubles(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double number_of(const json_t *object, const char *field)
{
	return json_number_value(json_object_get(object, field));
}

/* The lower of the two in the middle, so that it is the value of a real run. */
static double median_of(json_t *runs, const char *field)
{
	size_t count = json_array_size(runs);
	double *values = gmm__bench_alloc(count, sizeof(*values));
	double median;

	for (size_t i = 0; i < count; i++)
		values[i] = number_of(json_array_get(runs, i), field);
	qsort(values, count, sizeof(*values), compare_doubles);
	median = values[(count - 1) / 2];
	free(values);
	return median;
}

json_t *gmm__bench_run_median(const struct bench_engine *engine, const struct bench_options *options,
	bench_measure_fn *measure, const void *arg, const char *field)
{
	json_t *runs = json_array(), *all = json_array(), *result = NULL, *run;
	char all_name[64];
	size_t i;

	if (options->repeat == 1) {
		json_decref(runs);
		json_decref(all);
		return gmm__bench_run(engine, options, measure, arg);
	}
	for (unsigned n = 0; n < options->repeat; n++)
		json_array_append_new(runs, gmm__bench_run(engine, options, measure, arg));
	json_array_foreach(runs, i, run)
	{
		json_array_append(all, json_object_get(run, field));
		if (!result && number_of(run, field) == median_of(runs, field))
			result = json_incref(run);
	}
	snprintf(all_name, sizeof(all_name), "%s_all", field);
	json_object_set_new(result, all_name, all);
	json_decref(runs);
	return result;
}

json_t *gmm__bench_run_medians(const struct bench_engine *engine, const struct bench_options *options,
	bench_measure_fn *measure, const void *arg)
{
	json_t *runs = json_array(), *result, *value;
	const char *field;

	for (unsigned n = 0; n < options->repeat; n++)
		json_array_append_new(runs, gmm__bench_run(engine, options, measure, arg));
	result = json_copy(json_array_get(runs, 0));
	json_object_foreach(json_array_get(runs, 0), field, value) if (json_is_real(value))
		gmm__bench_set_real(result, field, median_of(runs, field));
	json_decref(runs);
	return result;
}

json_t *gmm__bench_run_engines(
	const struct bench_options *options, bench_measure_fn *measure, const void *arg, const char *field)
{
	json_t *result;

	if (options->engine_count == 1)
		return gmm__bench_run_median(options->engines[0], options, measure, arg, field);
	result = json_object();
	for (unsigned i = 0; i < options->engine_count; i++)
		json_object_set_new(result, options->engines[i]->name,
			gmm__bench_run_median(options->engines[i], options, measure, arg, field));
	return result;
}

void gmm__bench_add_ratio(json_t *result, const char *name, const char *field, bool inverse)
{
	double ksm = number_of(json_object_get(result, "ksm"), field);
	double gmm = number_of(json_object_get(result, "gmm"), field);

	if (ksm > 0 && gmm > 0)
		gmm__bench_set_real(result, name, inverse ? gmm / ksm : ksm / gmm);
}

void gmm__bench_set_count(json_t *object, const char *field, uint64_t value)
{
	json_object_set_new(object, field, json_integer((json_int_t)value));
}

void gmm__bench_set_real(json_t *object, const char *field, double value)
{
	json_object_set_new(object, field, json_real(value));
}
