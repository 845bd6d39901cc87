/* The engines that the harness compares: gmm (this project), ksm (the kernel's) and none. Each runs in a
 * forked process of its own, so that none inherits memory, mappings or caches of another. */
#ifndef BENCH_ENGINE_H
#define BENCH_ENGINE_H

#include "bench/guests.h"
#include "bench/options.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct bench_engine {
	const char *name;
	bool tells_settled; /* false: wait_settled waits much longer than the engine needs, to be sure */

	/* In the first process, before the fork: refuses to run where it would disturb, saves and changes
	 * settings. */
	void (*prepare)(const struct bench_options *options);

	/* In the forked process. Starts work on the guests' RAM at full speed. */
	void (*start)(const struct bench_options *options, const struct bench_guests *guests);

	/* Waits at most this long; true as soon as the engine has settled. */
	bool (*wait_settled)(uint64_t wait_ns);

	/* Rests and goes on. Pause returns when the engine does no work any more. */
	void (*pause)(void);
	void (*resume)(void);

	uint64_t (*saved_pages)(void);    /* cheap */
	uint64_t (*passes)(void);         /* cheap: completed passes over all memory since start */
	uint64_t (*outside_cpu_ns)(void); /* since start: its CPU time that is not this process's */
	uint64_t (*cow_breaks)(void);     /* since start */
	bool (*is_shared)(const void *page);
	enum gmm_page_state (*page_state)(unsigned vm, uint64_t page); /* NULL: it does not tell */
	void (*add_figures)(
		json_t *into); /* zero_pages, sharing_pages, pool_pages, runs, metadata_bytes, ... */
	void (*add_details)(json_t *into); /* what only gmm can tell: repairs, longest_freeze_ns, freezes */
	void (*stop)(void);    /* the end; checks itself as far as it can */
};

extern const struct bench_engine gmm__bench_engine_gmm;
extern const struct bench_engine gmm__bench_engine_ksm;
extern const struct bench_engine gmm__bench_engine_none;

/* NULL: unknown. */
const struct bench_engine *gmm__bench_engine_find(const char *name);

/* The engine's CPU time so far: this process's and what it uses elsewhere. Subtract a start value, and the
 * CPU time of threads that belong to the benchmark. */
uint64_t gmm__bench_engine_cpu_ns(const struct bench_engine *engine);

/* Waits until it has settled; gmm__bench_fail when the timeout passes first. */
void gmm__bench_engine_settle(const struct bench_engine *engine, const struct bench_options *options);

/* A word of /proc/self/pagemap. */
uint64_t gmm__bench_pagemap_word(const void *page);

#endif
