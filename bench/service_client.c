/* The processes that share through the service: each a small VM that checks its own bytes. */
#include "bench/service.h"

#include "bench/clock.h"
#include "bench/util.h"
#include "cmd/host.h"

#include <gmm/gmm.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

enum { WORDS = GMM_PAGE_SIZE / 8, STEP_PAGES = 8, REST_NS = 100 * BENCH_NS_PER_MS };
/* Each writes and passes so much more seldom, the more there are, that the host is not busy all the time: on a busy one a
 * killed process with a thread of idle priority needs seconds to die, and nothing else would be measured. */
enum { WRITE_NS = 20 * BENCH_NS_PER_MS, PASS_MS = 100, WRITE_NS_EACH = BENCH_NS_PER_MS / 2, PASS_MS_EACH = 4 };

struct client {
	const struct clients *all;
	struct client_report *report;
	uint64_t *ram;
	uint64_t *written; /* for each page: its first word, or 0 where it is as at first */
	uint64_t seed;     /* of its unique pages */
	uint64_t dice;
};

void gmm__bench_clients_make(struct clients *clients, const char *socket)
{
	size_t bytes = clients->count * sizeof *clients->report + sizeof *clients->work;
	uint64_t write_ns = (uint64_t)clients->count * WRITE_NS_EACH, pass_ms = (uint64_t)clients->count * PASS_MS_EACH;
	char *shared = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (shared == MAP_FAILED)
		gmm__bench_fail("out of memory");
	clients->report = (void *)shared;
	clients->work = (void *)(shared + clients->count * sizeof *clients->report);
	clients->pid = gmm__bench_alloc(clients->count, sizeof *clients->pid);
	clients->socket = socket;
	clients->write_ns = write_ns > WRITE_NS ? write_ns : WRITE_NS;
	clients->pass_ms = pass_ms > PASS_MS ? pass_ms : PASS_MS;
	signal(SIGCHLD, SIG_IGN); /* nobody waits for those that were killed */
}

/* ---- in the client's process ----------------------------------------------------------------------------- */

static uint64_t first_bytes(const struct client *c, uint64_t page, uint64_t word)
{
	uint64_t seed = page < c->all->equal_pages ? 1 : c->seed;

	return gmm__bench_mix((seed << 40) + page * WORDS + word + 1);
}

static bool page_is_right(const struct client *c, uint64_t page)
{
	const uint64_t *bytes = c->ram + page * WORDS;

	if (bytes[0] != (c->written[page] ? c->written[page] : first_bytes(c, page, 0)))
		return false;
	for (uint64_t word = 1; word < WORDS; word++)
		if (bytes[word] != first_bytes(c, page, word))
			return false;
	return true;
}

/* Writes some pages, puts some back as they were, checks some. */
static bool step(struct client *c)
{
	for (int i = 0; i < STEP_PAGES; i++) {
		uint64_t page = gmm__bench_random(&c->dice) % c->all->pages;
		if (!page_is_right(c, page))
			return false;
		c->report->checked_pages++;
		if (i >= 2)
			continue;
		c->written[page] = i == 0 ? c->dice : 0;
		c->ram[page * WORDS] = i == 0 ? c->dice : first_bytes(c, page, 0);
	}
	return true;
}

static bool check_all(struct client *c)
{
	for (uint64_t page = 0; page < c->all->pages && !c->report->complete; page++)
		if (!page_is_right(c, page))
			return false;
	c->report->complete = true;
	return true;
}

/* False: bytes are wrong. */
static bool do_work(struct client *c)
{
	switch (*c->all->work) {
	case WORK_WRITE: return step(c);
	case WORK_CHECK: return check_all(c);
	default: return true;
	}
}

static int open_client(struct client *c, struct gmm_vm **ret_vm)
{
	struct gmm_options options;
	struct gmm *gmm;
	void *ram = NULL;

	gmm_options_init(&options);
	options.socket = c->all->socket;
	options.window_ms = 0;
	options.pass_interval_ms = (uint32_t)c->all->pass_ms;
	options.cpu_percent = 0;
	options.repair = GMM_REPAIR_PROMISED; /* no device writes to this RAM */
	int status = gmm_instance_open(&options, &gmm);
	if (status == GMM_OK)
		status = gmm_vm_create(gmm, NULL, ret_vm);
	if (status == GMM_OK)
		status = gmm_vm_create_ram(*ret_vm, 0, c->all->pages * GMM_PAGE_SIZE, &ram);
	if (status != GMM_OK)
		return status;
	c->ram = ram;
	for (uint64_t i = 0; i < c->all->pages * WORDS; i++)
		c->ram[i] = first_bytes(c, i / WORDS, i % WORDS);
	return gmm_engine_start(gmm);
}

static void client_main(const struct clients *all, unsigned i, uint64_t seed)
{
	struct client c = { .all = all, .report = &all->report[i], .seed = seed, .dice = seed };
	struct gmm_vm_stats stats = { 0 };
	struct gmm_vm *vm;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	c.written = calloc(all->pages, sizeof *c.written);
	if (!c.written || open_client(&c, &vm) != GMM_OK) {
		c.report->state = CLIENT_REFUSED;
		_exit(1);
	}
	c.report->state = CLIENT_READY;
	while (do_work(&c) && gmm_vm_stats(vm, &stats) == GMM_OK) {
		c.report->shared_pages = stats.references;
		gmm__bench_sleep_ns(*all->work == WORK_WRITE ? all->write_ns : REST_NS);
	}
	c.report->state = CLIENT_WRONG;
	_exit(1);
}

/* ---- in the benchmark's ---------------------------------------------------------------------------------- */

void gmm__bench_client_start(struct clients *clients, unsigned i)
{
	static uint64_t seed = 1;

	seed++;
	clients->report[i] = (struct client_report){ .state = CLIENT_STARTING };
	clients->pid[i] = fork();
	if (clients->pid[i] == 0)
		client_main(clients, i, seed);
	if (clients->pid[i] < 0)
		gmm__bench_fail("no process for client %u", i);
}

void gmm__bench_client_kill(struct clients *clients, unsigned i)
{
	kill(clients->pid[i], SIGKILL);
}

void gmm__bench_clients_check(const struct clients *clients)
{
	for (unsigned i = 0; i < clients->count; i++) {
		int state = clients->report[i].state;
		if (state == CLIENT_WRONG)
			gmm__bench_fail("client %u found wrong bytes", i);
		if (state == CLIENT_REFUSED)
			gmm__bench_fail("client %u was refused", i);
		if (kill(clients->pid[i], 0) != 0)
			gmm__bench_fail("client %u is gone", i);
	}
}

static bool all_have(const struct clients *clients, uint64_t shared, bool complete)
{
	for (unsigned i = 0; i < clients->count; i++)
		if (clients->report[i].shared_pages < shared || (complete && !clients->report[i].complete))
			return false;
	return true;
}

bool gmm__bench_clients_wait(const struct clients *clients, uint64_t shared, bool complete, double seconds)
{
	uint64_t end_ns = gmm__host_now_ns() + (uint64_t)(seconds * BENCH_NS_PER_S);

	while (!all_have(clients, shared, complete)) {
		if (gmm__host_now_ns() > end_ns)
			return false;
		gmm__bench_clients_check(clients);
		gmm__bench_sleep_ns(20 * BENCH_NS_PER_MS);
	}
	gmm__bench_clients_check(clients);
	return true;
}

uint64_t gmm__bench_clients_checked_pages(const struct clients *clients)
{
	uint64_t pages = 0;

	for (unsigned i = 0; i < clients->count; i++)
		pages += clients->report[i].checked_pages;
	return pages;
}
