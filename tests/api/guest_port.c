/* Guest ports on the real kernel, in one process: guests report over a pipe of bytes that this test writes by itself, from
 * what the format says; what they name is shared without a scan while they write; and hostile ones waste their own budget.
 */
#include <gmm/modules.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "tests/support/guest.h"
#include "tests/support/suite.h"

enum { PAGES = 1024, FIRST = 100, FILE_PAGES = 700, SEED = 1000 };

/* ---- a guest's agent ------------------------------------------------------------------------------------------- */

struct agent {
	struct gmm_guest_port *port;
	uint32_t sequence;
	uint32_t modules;
};

static void put(uint8_t *at, uint64_t value, int bytes)
{
	for (int i = 0; i < bytes; i++)
		at[i] = (uint8_t)(value >> 8 * i);
}

/* Feeds everything; false when the guest would have to wait. */
static bool say(struct agent *agent, const uint8_t *bytes, size_t size)
{
	size_t taken = 0;

	assert_ok(gmm_guest_port_feed(agent->port, bytes, size, &taken));
	return taken == size;
}

static bool say_frame(struct agent *agent, uint16_t type, const uint8_t *payload, uint32_t size)
{
	uint8_t frame[4096] = "\x89GMM\r\n\x1a\n";

	put(frame + 8, 1, 2);
	put(frame + 10, type, 2);
	put(frame + 12, size, 4);
	put(frame + 16, agent->sequence++, 4);
	put(frame + 20, XXH32(payload, size, 0), 4);
	put(frame + 24, 0, 4);
	put(frame + 28, XXH32(frame, 28, 0), 4);
	memcpy(frame + 32, payload, size);
	return say(agent, frame, 32 + size);
}

static void start(struct agent *agent)
{
	uint8_t hello[16] = { 1 };

	put(hello + 8, 4096, 4);
	put(hello + 12, 1, 4);
	agent->sequence = agent->modules = 0;
	ck_assert(say_frame(agent, 1, hello, sizeof hello));
}

static struct agent connect_agent(struct gmm_vm *vm)
{
	struct agent agent = { 0 };

	assert_ok(gmm_guest_port_open(vm, 0, &agent.port));
	start(&agent);
	return agent;
}

/* Adds a module of one region of `pages` pages, of which [0, count) are at gfn. */
static bool say_module(struct agent *agent, uint32_t id, const char *name, uint32_t pages, uint32_t count, uint64_t gfn)
{
	uint8_t record[256] = { 0 };
	uint32_t text = (uint32_t)(strlen(name) + 3 + 7) / 8 * 8, region = 32 + text, run = region + 24, size = run + 16;

	put(record, size, 4);
	put(record + 4, 2, 4); /* add */
	put(record + 8, id, 4);
	put(record + 16, (uint64_t)pages * PAGE, 8);
	record[24] = 3; /* a file */
	record[25] = (uint8_t)strlen(name);
	record[26] = 1;
	record[27] = 1;
	strcpy((char *)record + 32, name);
	record[32 + strlen(name) + 1] = '2';
	put(record + region + 8, (uint64_t)pages * PAGE, 8);
	put(record + region + 16, 1, 4);
	put(record + run + 4, count, 4);
	put(record + run + 8, gfn, 8);
	agent->modules++;
	return say_frame(agent, 2, record, size);
}

static bool say_removed(struct agent *agent, uint32_t id)
{
	uint8_t record[16] = { sizeof record, 0, 0, 0, 1 };

	put(record + 8, id, 4);
	agent->modules--;
	return say_frame(agent, 2, record, sizeof record);
}

static bool say_done(struct agent *agent)
{
	uint8_t done[8] = { 0 };

	put(done, agent->modules, 4);
	return say_frame(agent, 3, done, sizeof done);
}

static struct gmm_guest_port_info info_of(const struct agent *agent)
{
	struct gmm_guest_port_info info;

	gmm_guest_port_info(agent->port, &info);
	return info;
}

/* ---- guests ------------------------------------------------------------------------------------------------------ */

struct pair {
	struct gmm *gmm;
	struct gmm_vm *vm[2];
	char *ram[2];
	struct agent agent[2];
};

/* An engine that scans nothing for an hour: the window is that long. What its one pass froze it gives back after ten seconds
 * only, or the next pass would have to share what a machine that stops us for a moment has kept it from. */
static struct pair pair_open(void)
{
	struct gmm_options options;
	struct pair pair;

	gmm_options_init(&options);
	options.log = suite_log;
	options.window_ms = 3600000;
	options.wait_bound_us = 100000;
	options.pass_interval_ms = 1;
	options.cpu_percent = 0;
	assert_ok(gmm_instance_open(&options, &pair.gmm));
	for (int i = 0; i < 2; i++) {
		pair.vm[i] = vm_create(pair.gmm, NULL);
		pair.ram[i] = vm_create_ram(pair.vm[i], 0, PAGES);
		ram_fill(pair.ram[i], PAGES, SEED);
		pair.agent[i] = connect_agent(pair.vm[i]);
	}
	return pair;
}

static void pair_close(struct pair *pair)
{
	assert_ok(gmm_instance_validate(pair->gmm));
	for (int i = 0; i < 2; i++) {
		gmm_guest_port_close(pair->agent[i].port);
		assert_ok(gmm_vm_destroy(pair->vm[i], GMM_RAM_DISCARD));
	}
	assert_ok(gmm_instance_close(pair->gmm));
}

static void report_file(struct pair *pair, int i)
{
	ck_assert(say_module(&pair->agent[i], 5, "/usr/lib/libc.so.6", FILE_PAGES + 20, FILE_PAGES, FIRST));
	ck_assert(say_done(&pair->agent[i]));
}

static uint64_t saved_by_modules(struct gmm *gmm)
{
	struct gmm_module_info info = { 0 };
	size_t n;

	assert_ok(gmm_modules_list(gmm, &info, 1, &n));
	return info.saved_pages;
}

START_TEST(named_pages_are_shared_and_no_others)
{
	struct pair pair = pair_open();

	report_file(&pair, 0);
	report_file(&pair, 1);
	ck_assert_uint_eq(info_of(&pair.agent[1]).pages, FILE_PAGES);
	/* The first pass. The next is an hour away, so what it leaves because statistics are being taken would stay so: until
	 * it is done, only the list of modules is looked at, which keeps nobody from anything. */
	assert_ok(gmm_engine_start(pair.gmm));
	assert_eventually(saved_by_modules(pair.gmm) == FILE_PAGES);
	ck_assert_uint_eq(stats_of(pair.gmm).total.references, 2 * FILE_PAGES);
	ck_assert_uint_eq(stats_of(pair.gmm).pool_pages, FILE_PAGES);
	ck_assert_uint_eq(stats_of(pair.gmm).digested_pages, 0);
	for (int i = 0; i < 2; i++) {
		ck_assert_uint_eq(vm_state(pair.vm[i], GMM_PAGE_SHARED), FILE_PAGES);
		ck_assert_uint_eq(ram_wrong(pair.ram[i], PAGES, SEED), 0);
	}
	pair_close(&pair);
}
END_TEST

/* Without a pass: by call, and what the guest takes back is not checked any more. */
START_TEST(checked_by_call)
{
	struct pair pair = pair_open();
	struct gmm_module_checked counts;

	report_file(&pair, 0);
	report_file(&pair, 1);
	assert_ok(gmm_modules_check_all(pair.gmm, 0, &counts));
	ck_assert_uint_eq(counts.promoted, FILE_PAGES);
	ck_assert_uint_eq(counts.twins, FILE_PAGES);
	ck_assert_uint_eq(counts.absent, 2 * 20);
	ck_assert(say_removed(&pair.agent[0], 5));
	ck_assert(say_done(&pair.agent[0]));
	assert_status(gmm_module_check(pair.vm[0], 5, 0, NULL), GMM_ERR_NOT_FOUND);
	ck_assert_uint_eq(info_of(&pair.agent[0]).reports, 2);
	ck_assert_uint_eq(vm_state(pair.vm[0], GMM_PAGE_SHARED), FILE_PAGES);
	pair_close(&pair);
}
END_TEST

START_TEST(bad_calls)
{
	struct pair pair = pair_open();
	struct gmm_guest_port *port = NULL;
	size_t taken = 7;

	assert_status(gmm_guest_port_open(NULL, 0, &port), GMM_ERR_INVALID_PARAMETER);
	assert_status(gmm_guest_port_open(pair.vm[0], 0, NULL), GMM_ERR_INVALID_PARAMETER);
	assert_status(gmm_guest_port_feed(NULL, "", 0, &taken), GMM_ERR_INVALID_PARAMETER);
	assert_status(gmm_guest_port_feed(pair.agent[0].port, NULL, 1, &taken), GMM_ERR_INVALID_PARAMETER);
	assert_status(gmm_guest_port_feed(pair.agent[0].port, "", 0, NULL), GMM_ERR_INVALID_PARAMETER);
	ck_assert_uint_eq(taken, 7);
	gmm_guest_port_close(NULL);
	pair_close(&pair);
}
END_TEST

/* ---- while guests work ------------------------------------------------------------------------------------------- */

struct writer {
	struct pair *pair;
	_Atomic bool stop;
	uint64_t wrong;
};

/* Guest 0 writes to its file's first pages all the time, and reads back what it wrote. */
static void *write_pages(void *arg)
{
	struct writer *w = arg;
	uint64_t n = 0;

	while (!w->stop) {
		char *page = w->pair->ram[0] + (size_t)(FIRST + n % 50) * PAGE;
		guest_store(page, 3, ++n);
		w->wrong += guest_load(page, 3) != n;
	}
	return NULL;
}

/* A guest that reports, takes back and lies, while another one writes, and modules are checked from here. */
START_TEST(reports_while_guests_write)
{
	struct pair pair = pair_open();
	struct writer writer = { .pair = &pair };
	uint64_t state = 5, end = now_ms() + 1500;
	pthread_t thread;

	assert_ok(gmm_engine_start(pair.gmm));
	ck_assert_int_eq(pthread_create(&thread, NULL, write_pages, &writer), 0);
	report_file(&pair, 0);
	for (int round = 0; now_ms() < end; round++) {
		uint64_t r = random_next(&state);
		if (round % 2 == 0 && !say_module(&pair.agent[1], 5, "/usr/lib/libc.so.6", FILE_PAGES + 20, FILE_PAGES,
						  r % 3 ? FIRST : r % PAGES))
			break;
		if (round % 2 == 1 && !say_removed(&pair.agent[1], 5))
			break;
		gmm_modules_check_vm(pair.vm[round % 2], 0, NULL);
		if (info_of(&pair.agent[1]).faults > 0) {
			gmm_guest_port_restart(pair.agent[1].port);
			start(&pair.agent[1]);
			round = -1;
		}
	}
	writer.stop = true;
	pthread_join(thread, NULL);
	ck_assert_uint_eq(writer.wrong, 0);
	ck_assert_uint_eq(ram_wrong(pair.ram[1], PAGES, SEED), 0);
	ck_assert_uint_eq(ram_wrong(pair.ram[0] + (FIRST + 50) * PAGE, PAGES - FIRST - 50, SEED + FIRST + 50), 0);
	pair_close(&pair);
}
END_TEST

/* Whatever it sends: in bounded time it is out of credit, and the other guest's report is taken as before. */
START_TEST(a_hostile_guest_spends_its_own)
{
	static uint8_t noise[1 << 16];
	struct pair pair = pair_open();
	uint64_t state = 9, sent = 0, wait_ms = 0;
	clock_t begin = clock();

	for (size_t i = 0; i < sizeof noise; i++)
		noise[i] = i % 37 ? (uint8_t)random_next(&state) : 0x89;
	while (sent < 1u << 30 && wait_ms == 0) {
		say(&pair.agent[0], noise, sizeof noise);
		sent += sizeof noise;
		wait_ms = gmm_guest_port_wait_ms(pair.agent[0].port);
	}
	ck_assert_uint_lt(sent, 32 << 20);
	ck_assert_uint_gt(wait_ms, 0);
	ck_assert_int_lt(clock() - begin, 10 * CLOCKS_PER_SEC);
	report_file(&pair, 1);
	ck_assert_uint_eq(info_of(&pair.agent[1]).modules, 1);
	ck_assert_uint_eq(gmm_guest_port_wait_ms(pair.agent[1].port), 0);
	pair_close(&pair);
}
END_TEST

int main(void)
{
	const TTest *tests[] = { named_pages_are_shared_and_no_others, checked_by_call, bad_calls,
				 reports_while_guests_write, a_hostile_guest_spends_its_own };

	return suite_main("guest_port", tests, sizeof tests / sizeof *tests);
}
