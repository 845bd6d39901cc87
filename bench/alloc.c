/* alloc: what it costs to allocate and free a page, from several threads in VMs of their own, beside mimalloc and mmap.
 *
 * Each thread takes pages one by one until it has a window full, writes to them (touched) or not, and frees them one
 * by one. scaling_2 is what two threads do, divided by what two copies of the single-threaded run do side by
 * side in processes of their own: 1 when threads do not hinder each other. */
#include "bench/verbs.h"

#include "bench/clock.h"
#include "bench/options.h"
#include "bench/util.h"

#include <gmm/pages.h>

#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WINDOW = 256, THREADS_MAX = 4, RESERVED_PAGES = 65536 };

static void *(*mi_malloc_fn)(size_t);
static void (*mi_free_fn)(void *);

/* One thread's way to pages. */
struct taker {
	struct gmm_vm *vm;
	gmm_page_id ids[WINDOW];
	gmm_chunk_id chunk;
	uint8_t *bytes; /* of that chunk */
	void *pages[WINDOW];
};

struct allocator {
	const char *name;
	void (*take)(struct taker *taker, int i);
	void *(*where)(struct taker *taker, int i);
	void (*give)(struct taker *taker, int i);
};

static void check(int status)
{
	if (status != GMM_OK)
		gmm__bench_fail("%s", gmm_status_name(status));
}

static void gmm_take(struct taker *taker, int i)
{
	check(gmm_vm_allocate_pages(taker->vm, GMM_ACCOUNT_BASE, 1, NULL, &taker->ids[i]));
}

static void *gmm_where(struct taker *taker, int i)
{
	void *at;

	if (taker->chunk != gmm_page_chunk(taker->ids[i])) {
		check(gmm_vm_map_chunk(taker->vm, gmm_page_chunk(taker->ids[i]), 0, &at));
		taker->chunk = gmm_page_chunk(taker->ids[i]);
		taker->bytes = at;
	}
	return taker->bytes + (size_t)gmm_page_index(taker->ids[i]) * GMM_PAGE_SIZE;
}

static void gmm_give(struct taker *taker, int i)
{
	check(gmm_vm_free_pages(taker->vm, GMM_ACCOUNT_BASE, 1, &taker->ids[i], NULL));
}

static void mi_take(struct taker *taker, int i)
{
	taker->pages[i] = mi_malloc_fn(GMM_PAGE_SIZE);
}

static void *pages_where(struct taker *taker, int i)
{
	return taker->pages[i];
}

static void mi_give(struct taker *taker, int i)
{
	mi_free_fn(taker->pages[i]);
}

static void mmap_take(struct taker *taker, int i)
{
	taker->pages[i] = mmap(NULL, GMM_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (taker->pages[i] == MAP_FAILED)
		gmm__bench_fail("mmap fails");
}

static void mmap_give(struct taker *taker, int i)
{
	munmap(taker->pages[i], GMM_PAGE_SIZE);
}

static const struct allocator allocators[] = {
	{ "gmm", gmm_take, gmm_where, gmm_give },
	{ "mimalloc", mi_take, pages_where, mi_give },
	{ "mmap", mmap_take, pages_where, mmap_give },
};

/* ---- running ----------------------------------------------------------------------------------------------- */

struct worker {
	const struct allocator *allocator;
	struct taker taker;
	bool touched;
	atomic_bool *stop;
	uint64_t done;
};

static void *work(void *arg)
{
	struct worker *w = arg;

	while (!atomic_load_explicit(w->stop, memory_order_relaxed)) {
		for (int i = 0; i < WINDOW; i++) {
			w->allocator->take(&w->taker, i);
			if (w->touched)
				*(volatile uint64_t *)w->allocator->where(&w->taker, i) = 1;
		}
		for (int i = WINDOW; i > 0; i--)
			w->allocator->give(&w->taker, i - 1);
		w->done += WINDOW;
	}
	return NULL;
}

static struct gmm_vm *new_vm(struct gmm *gmm)
{
	const struct gmm_reservation r = { .pages = { RESERVED_PAGES, 1, 1 }, .overcommit = GMM_OVERCOMMIT_NONE };
	struct gmm_vm_options options;
	struct gmm_vm *vm;

	gmm_vm_options_init(&options);
	options.kind = GMM_VM_PAGED;
	check(gmm_vm_create(gmm, &options, &vm));
	check(gmm_vm_reserve(vm, &r));
	return vm;
}

/* Pages allocated and freed in a second by so many threads of this process. */
static double run(const struct allocator *allocator, bool touched, int threads, uint64_t ms)
{
	static struct worker workers[THREADS_MAX];
	pthread_t ids[THREADS_MAX];
	atomic_bool stop = false;
	struct gmm *gmm = NULL;
	uint64_t done = 0;

	if (allocator->take == gmm_take)
		check(gmm_instance_open(NULL, &gmm));
	for (int t = 0; t < threads; t++) {
		workers[t] = (struct worker){ .allocator = allocator, .touched = touched, .stop = &stop };
		workers[t].taker.vm = gmm ? new_vm(gmm) : NULL;
		pthread_create(&ids[t], NULL, work, &workers[t]);
	}
	gmm__bench_sleep_ns(ms * BENCH_NS_PER_MS);
	stop = true;
	for (int t = 0; t < threads; t++) {
		pthread_join(ids[t], NULL);
		done += workers[t].done;
		if (gmm)
			check(gmm_vm_destroy(workers[t].taker.vm, GMM_RAM_DISCARD));
	}
	if (gmm)
		check(gmm_instance_close(gmm));
	return (double)done * 1000 / (double)ms;
}

/* The sum over so many processes, each with the single-threaded run. */
static double run_processes(const struct allocator *allocator, bool touched, int processes, uint64_t ms)
{
	double *rates = mmap(NULL, GMM_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	double sum = 0;

	if (rates == MAP_FAILED)
		gmm__bench_fail("no memory");
	for (int p = 0; p < processes; p++) {
		pid_t pid = fork();
		if (pid < 0)
			gmm__bench_fail("fork fails");
		if (pid == 0) {
			rates[p] = run(allocator, touched, 1, ms);
			_exit(EXIT_SUCCESS);
		}
	}
	for (int p = 0; p < processes; p++)
		if (wait(NULL) < 0)
			gmm__bench_fail("a process is lost");
	for (int p = 0; p < processes; p++)
		sum += rates[p];
	munmap(rates, GMM_PAGE_SIZE);
	return sum;
}

static json_t *measure(const struct allocator *allocator, bool touched, uint64_t ms)
{
	json_t *result = json_object();
	double two = 0;

	for (int threads = 1; threads <= THREADS_MAX; threads *= 2) {
		char field[32];
		double rate = run(allocator, touched, threads, ms);
		two = threads == 2 ? rate : two;
		snprintf(field, sizeof field, "pages_per_second_%d", threads);
		gmm__bench_set_real(result, field, rate);
	}
	gmm__bench_set_real(result, "scaling_2", two / run_processes(allocator, touched, 2, ms));
	return result;
}

static bool find_mimalloc(void)
{
	void *library = dlopen("libmimalloc.so.2", RTLD_NOW | RTLD_LOCAL);

	if (!library)
		return false;
	*(void **)&mi_malloc_fn = dlsym(library, "mi_malloc");
	*(void **)&mi_free_fn = dlsym(library, "mi_free");
	return mi_malloc_fn && mi_free_fn;
}

struct alloc_arg {
	uint64_t ms;
	bool json;
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct alloc_arg *alloc = state->input;

	switch (key) {
	case 'm':
		alloc->ms = (uint64_t)gmm__bench_option_number(state, arg, 1, 1e6);
		return 0;
	case 'j':
		alloc->json = true;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

int bench_alloc(int argc, char **argv)
{
	static const struct argp_option option_list[] = {
		{ "ms", 'm', "MS", 0, "How long each run takes. Default 500", 0 },
		{ "json", 'j', NULL, 0, "Print one JSON object", 0 },
		{ 0 },
	};
	static const struct argp argp = { .options = option_list, .parser = parse,
		.doc = "Measures how fast pages are allocated and freed, beside mimalloc and mmap." };
	struct alloc_arg alloc = { .ms = 500 };
	json_t *result = json_object();

	argp_parse(&argp, argc, argv, 0, NULL, &alloc);
	bool with_mimalloc = find_mimalloc();
	for (int touched = 0; touched <= 1; touched++) {
		json_t *part = json_object();
		for (size_t i = 0; i < sizeof(allocators) / sizeof(allocators[0]); i++)
			if (allocators[i].take != mi_take || with_mimalloc)
				json_object_set_new(part, allocators[i].name, measure(&allocators[i], touched, alloc.ms));
		gmm__bench_set_real(part, "gmm_to_mmap",
			json_number_value(json_object_get(json_object_get(part, "gmm"), "pages_per_second_1")) /
			json_number_value(json_object_get(json_object_get(part, "mmap"), "pages_per_second_1")));
		json_object_set_new(result, touched ? "touched" : "untouched", part);
	}
	gmm__bench_print(result, &(struct bench_options){ .json = alloc.json });
	return EXIT_SUCCESS;
}
