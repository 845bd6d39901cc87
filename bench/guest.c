/* guest: what the guests feel while an engine works at full speed.
 *
 * The first VMs have one thread each that reads and writes the VM's memory at random, from the moment the
 * engine gets the RAM, and times every access. Reads go to all pages; one access in sixteen is a write, to
 * one page in eight, always the same ones: memory that is written all the time beside memory that rests. One
 * write in 64 goes to any page, and breaks sharing if the page is shared. A write stores a tag that never
 * comes again, so that afterwards a lost write shows. The engine has a processor to itself unless more
 * threads are asked for; engine none gives what to compare with. */
#include "bench/verbs.h"

#include "bench/clock.h"
#include "bench/histogram.h"
#include "bench/util.h"
#include "cmd/host.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

enum { ACCESSES_PER_WRITE = 16, PAGES_PER_WRITTEN = 8, WRITES_PER_STRAY = 64 };

struct guest_arg {
	struct bench_options options;
	unsigned threads; /* 0: as many as leave the engine a processor */
};

struct guest_thread {
	pthread_t thread;
	struct bench_vm *vm;
	uint64_t pages;
	uint64_t seed;
	const atomic_bool *stop;
	uint64_t cpu_ns;
	struct bench_histogram *reads;
	struct bench_histogram *writes;
};

/* The two words of memory that a page has in the tables are touched outside of the timed part. */
static void write_page(struct guest_thread *guest, uint64_t page, uint64_t tag)
{
	volatile uint64_t *to = gmm__bench_vm_tag(guest->vm, page);
	uint64_t start_ns = gmm__host_now_ns();

	*to = tag;
	gmm__bench_histogram_add(guest->writes, gmm__host_now_ns() - start_ns);
	guest->vm->tags[page] = tag;
}

static void read_page(struct guest_thread *guest, uint64_t page, unsigned line)
{
	volatile uint64_t *from = (volatile uint64_t *)gmm__bench_vm_page(guest->vm, page) + line * 8;
	uint64_t start_ns = gmm__host_now_ns();

	(void)*from;
	gmm__bench_histogram_add(guest->reads, gmm__host_now_ns() - start_ns);
}

static void *run_guest(void *arg)
{
	struct guest_thread *guest = arg;
	uint64_t state = guest->seed;
	uint64_t tag = 0;

	while (!atomic_load_explicit(guest->stop, memory_order_relaxed)) {
		uint64_t pick = gmm__bench_random(&state);
		uint64_t page = (pick >> 16) % guest->pages;

		if (pick % (ACCESSES_PER_WRITE * WRITES_PER_STRAY) == 0)
			write_page(guest, page, ++tag);
		else if (pick % ACCESSES_PER_WRITE == 0)
			write_page(guest, page - page % PAGES_PER_WRITTEN, ++tag);
		else
			read_page(guest, page, (unsigned)(pick >> 8) % 64);
	}
	guest->cpu_ns = gmm__bench_thread_cpu_ns();
	return NULL;
}

static void start_thread(
	struct guest_thread *thread, struct bench_guests *guests, unsigned index, const atomic_bool *stop)
{
	thread->vm = &guests->vms[index];
	thread->pages = guests->vm_pages;
	thread->seed = gmm__bench_mix(index + 1);
	thread->stop = stop;
	thread->reads = gmm__bench_alloc(1, sizeof(*thread->reads));
	thread->writes = gmm__bench_alloc(1, sizeof(*thread->writes));
	if (pthread_create(&thread->thread, NULL, run_guest, thread) != 0)
		gmm__bench_fail("cannot start a thread");
}

/* The threads' times together in the first one's histograms; returns their CPU time. */
static uint64_t join_threads(struct guest_thread *threads, unsigned count)
{
	uint64_t cpu_ns = 0;

	for (unsigned i = 0; i < count; i++) {
		pthread_join(threads[i].thread, NULL);
		cpu_ns += threads[i].cpu_ns;
		if (i == 0)
			continue;
		gmm__bench_histogram_merge(threads[0].reads, threads[i].reads);
		gmm__bench_histogram_merge(threads[0].writes, threads[i].writes);
		free(threads[i].reads);
		free(threads[i].writes);
	}
	return cpu_ns;
}

static void add_times(json_t *result, const struct guest_thread *all, double seconds)
{
	struct bench_histogram *accesses = gmm__bench_alloc(1, sizeof(*accesses));

	gmm__bench_histogram_merge(accesses, all->reads);
	gmm__bench_histogram_merge(accesses, all->writes);
	gmm__bench_set_real(result, "accesses_per_second", (double)accesses->count / seconds);
	gmm__bench_set_count(result, "p50_ns", gmm__bench_histogram_percentile(accesses, 0.5));
	gmm__bench_set_count(result, "p99_ns", gmm__bench_histogram_percentile(accesses, 0.99));
	gmm__bench_set_count(result, "p999_ns", gmm__bench_histogram_percentile(accesses, 0.999));
	gmm__bench_set_count(result, "max_ns", accesses->max_ns);
	gmm__bench_set_count(result, "read_p999_ns", gmm__bench_histogram_percentile(all->reads, 0.999));
	gmm__bench_set_count(result, "write_p99_ns", gmm__bench_histogram_percentile(all->writes, 0.99));
	gmm__bench_set_count(result, "write_p999_ns", gmm__bench_histogram_percentile(all->writes, 0.999));
	free(accesses);
}

static unsigned count_threads(const struct guest_arg *arg, const struct bench_guests *guests)
{
	long processors = sysconf(_SC_NPROCESSORS_ONLN);
	unsigned threads = arg->threads > 0 ? arg->threads : processors > 1 ? (unsigned)processors - 1 : 1;

	return threads < guests->count ? threads : guests->count;
}

static json_t *measure(
	const struct bench_engine *engine, const struct bench_options *options, const void *arg)
{
	struct bench_guests *guests = gmm__bench_guests_create(options);
	unsigned thread_count = count_threads(arg, guests);
	struct guest_thread *threads = gmm__bench_alloc(thread_count, sizeof(*threads));
	atomic_bool stop = false;
	json_t *result = json_object();
	uint64_t start_ns, cpu_ns;
	double seconds;

	gmm__bench_guests_add_tags(guests);
	start_ns = gmm__host_now_ns();
	cpu_ns = gmm__host_cpu_ns();
	for (unsigned i = 0; i < thread_count; i++)
		start_thread(&threads[i], guests, i, &stop);
	engine->start(options, guests);
	gmm__bench_sleep_ns((uint64_t)(options->seconds * BENCH_NS_PER_S));
	atomic_store(&stop, true);
	seconds = gmm__bench_seconds(gmm__host_now_ns() - start_ns);
	cpu_ns += join_threads(threads, thread_count);
	cpu_ns = gmm__bench_engine_cpu_ns(engine) - cpu_ns;
	engine->pause();
	json_object_set_new(result, "engine", json_string(engine->name));
	gmm__bench_set_count(result, "vms", guests->count);
	gmm__bench_set_count(result, "pages", gmm__bench_guests_pages(guests));
	gmm__bench_set_count(result, "threads", thread_count);
	add_times(result, &threads[0], seconds);
	gmm__bench_set_real(result, "cpu_seconds", gmm__bench_seconds(cpu_ns));
	gmm__bench_set_count(result, "passes", engine->passes());
	gmm__bench_set_count(result, "saved_pages", engine->saved_pages());
	gmm__bench_set_count(result, "cow_breaks", engine->cow_breaks());
	engine->add_details(result);
	json_object_set_new(result, "verified", json_boolean(gmm__bench_guests_verify(guests)));
	engine->stop();
	free(threads);
	return result;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct guest_arg *guest = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &guest->options;
		return 0;
	case 'T':
		guest->threads = (unsigned)gmm__bench_option_number(state, arg, 1, 4096);
		return 0;
	case 's':
		guest->options.seconds = gmm__bench_option_number(state, arg, 0.1, 3600);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

int bench_guest(int argc, char **argv)
{
	static const struct argp_option option_list[] = {
		{ "seconds", 's', "SECONDS", 0, "How long. Default 10", 0 },
		{ "threads", 'T', "N", 0, "VMs that run. Default one less than the host has processors", 0 },
		{ 0 },
	};
	static const struct argp_child children[] = { { &gmm__bench_common_argp, 0, NULL, 0 }, { 0 } };
	static const struct argp argp = { .options = option_list,
		.parser = parse,
		.children = children,
		.doc = "Times the guests' memory accesses while an engine works at full speed." };
	struct guest_arg guest = { .options = gmm__bench_options_default() };
	struct bench_options *options = &guest.options;
	json_t *result;

	options->seconds = 10;
	options->window_ms = 0;
	options->pass_interval_ms = 1;
	gmm__bench_options_parse(options, &guest, &argp, "gmm ksm none", argc, argv);
	result = gmm__bench_run_engines(options, measure, &guest, "p999_ns");
	gmm__bench_add_ratio(result, "p999_ratio", "p999_ns", false);
	gmm__bench_add_ratio(result, "throughput_ratio", "accesses_per_second", true);
	gmm__bench_print(result, options);
	return EXIT_SUCCESS;
}
