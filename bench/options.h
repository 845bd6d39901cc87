/* What the user asks for: options that all verbs share, and the few that belong to some of them. */
#ifndef BENCH_OPTIONS_H
#define BENCH_OPTIONS_H

#include <gmm/gmm.h>

#include <argp.h>
#include <stdbool.h>
#include <stdint.h>

enum { BENCH_ENGINES_MAX = 3, BENCH_TRACES_MAX = 64, BENCH_LIST_MAX = 32 };

struct bench_engine;

struct bench_options {
	const struct bench_engine *engines[BENCH_ENGINES_MAX]; /* in the order given */
	unsigned engine_count;
	const char *traces[BENCH_TRACES_MAX]; /* VM i takes trace i modulo trace_count */
	unsigned trace_count;
	const char *traces2[BENCH_TRACES_MAX]; /* the same guests later; replay only */
	unsigned trace2_count;
	unsigned vms;
	double vm_counts[BENCH_LIST_MAX]; /* vmcount only: what vms is to be, one after the other */
	unsigned vm_count_count;
	bool takes_vm_counts;      /* set by a verb that runs a list of them */
	uint64_t vm_pages_max;     /* take at most so many pages of a trace; 0: all */
	uint64_t max_mappings;     /* 0: no limit */
	uint32_t window_ms;        /* of gmm */
	uint32_t pass_interval_ms; /* of gmm */
	uint32_t agent_threads;    /* of gmm; 0: one */
	uint32_t cpu_percent;      /* of gmm: its share of one processor; 0: no limit */
	bool huge_ram;             /* the VMs' RAM is of transparent huge pages */
	enum gmm_huge_pages huge_pages; /* of gmm */
	bool repairs;              /* gmm shares broken pages again */
	uint64_t ksm_pages_to_scan;
	uint64_t ksm_sleep_ms;
	unsigned repeat;
	double seconds;         /* how long to measure */
	double timeout_seconds; /* how long an engine may take to settle */
	bool json;
};

/* The options that every verb has: a child for the verb's own argp. Its input is a struct bench_options. */
extern const struct argp gmm__bench_common_argp;

/* Options with the defaults; a verb changes some of them before it parses. */
struct bench_options gmm__bench_options_default(void);

/* Parses a verb's command line and fills in the engines, traces and VMs that were not named. input is what
 * the verb's argp gets and must hand its child these options. Engines that are not in allowed ("gmm ksm") are
 * refused. */
void gmm__bench_options_parse(struct bench_options *options, void *input, const struct argp *argp,
	const char *allowed, int argc, char **argv);

/* A number in [min, max] with an optional fraction, or argp_error. */
double gmm__bench_option_number(struct argp_state *state, const char *text, double min, double max);

#endif
