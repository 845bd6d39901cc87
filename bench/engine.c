/* The table of engines, the engine that does nothing, and what all of them need. */
#include "bench/engine.h"

#include "bench/clock.h"
#include "bench/util.h"
#include "cmd/host.h"

#include <gmm/gmm.h>

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

static void prepare_nothing(const struct bench_options *options)
{
	(void)options;
}

static void start_nothing(const struct bench_options *options, const struct bench_guests *guests)
{
	(void)options;
	(void)guests;
}

static bool settle_nothing(uint64_t wait_ns)
{
	(void)wait_ns;
	return true;
}

static void do_nothing(void)
{
}

static uint64_t count_nothing(void)
{
	return 0;
}

static bool share_nothing(const void *page)
{
	(void)page;
	return false;
}

static void add_nothing(json_t *into)
{
	(void)into;
}

const struct bench_engine gmm__bench_engine_none = {
	.name = "none",
	.tells_settled = true,
	.prepare = prepare_nothing,
	.start = start_nothing,
	.wait_settled = settle_nothing,
	.pause = do_nothing,
	.resume = do_nothing,
	.saved_pages = count_nothing,
	.passes = count_nothing,
	.outside_cpu_ns = count_nothing,
	.cow_breaks = count_nothing,
	.is_shared = share_nothing,
	.add_figures = add_nothing,
	.add_details = add_nothing,
	.stop = do_nothing,
};

const struct bench_engine *gmm__bench_engine_find(const char *name)
{
	static const struct bench_engine *const engines[] = { &gmm__bench_engine_gmm, &gmm__bench_engine_ksm,
		&gmm__bench_engine_none };

	for (size_t i = 0; i < sizeof(engines) / sizeof(engines[0]); i++)
		if (strcmp(engines[i]->name, name) == 0)
			return engines[i];
	return NULL;
}

uint64_t gmm__bench_engine_cpu_ns(const struct bench_engine *engine)
{
	return gmm__host_cpu_ns() + engine->outside_cpu_ns();
}

void gmm__bench_engine_settle(const struct bench_engine *engine, const struct bench_options *options)
{
	uint64_t deadline_ns = gmm__host_now_ns() + (uint64_t)(options->timeout_seconds * BENCH_NS_PER_S);

	while (!engine->wait_settled(20 * BENCH_NS_PER_MS))
		if (gmm__host_now_ns() > deadline_ns)
			gmm__bench_fail(
				"%s did not settle within %.0f s", engine->name, options->timeout_seconds);
}

uint64_t gmm__bench_pagemap_word(const void *page)
{
	static int fd = -1;
	uint64_t word;

	if (fd < 0)
		fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (pread(fd, &word, sizeof(word), (off_t)((uintptr_t)page / GMM_PAGE_SIZE * sizeof(word))) !=
		sizeof(word))
		gmm__bench_fail("cannot read /proc/self/pagemap");
	return word;
}
