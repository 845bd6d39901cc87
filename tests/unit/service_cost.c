/* What a client can make the service do, for what it is charged: each kind of message in its dearest form, and the CPU time
 * that it takes. From that follows how much of a core a client can take from others (docs/service.md). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "gmm/sys/sys.h"
#include "service/modules.h"
#include "service/session.h"
#include "tests/unit/support/service_world.h"
#include "wire/wire.h"

/* Per page charged, and of one message; with room for a busy machine and for checks. Here: see docs/service.md. */
#if GMM_DEBUG
enum { PAGE_NS_MAX = 60000, MESSAGE_NS_MAX = 3000000000 };
#else
enum { PAGE_NS_MAX = 2000, MESSAGE_NS_MAX = 150000000 };
#endif
enum { COUNT = GMM__WIRE_REGION_PAGES, BIG = 1 << 20, SHARED = 512 };

static struct client a;
static uint64_t dice = 1;

static void setup(void)
{
	world_prepare("[limits]\npages_per_second = 1000000000\npages_per_second_per_user = 1000000000\n");
	world_open();
	client_hello(&a);
	ck_assert_int_eq(client_add_vm(&a, 0, ""), GMM_OK);
	client_add_slot(&a, 0, 0, 0, BIG);
}

static void teardown(void)
{
	client_close(&a);
	gmm__service_tick(served.service);
	world_close();
	world_remove();
}

static struct gmm__session *session_of_a(void)
{
	struct gmm__session *s = served.service->sessions;

	while (s->client != a.number)
		s = s->next;
	return s;
}

static int by_size(const void *one, const void *other)
{
	uint64_t x = *(const uint64_t *)one, y = *(const uint64_t *)other;

	return (x > y) - (x < y);
}

/* What `say` costs. Bounded is the median of some rounds, as in one of them the host may do something else. */
static void measure(const char *what, void (*say)(void))
{
	enum { ROUNDS = 21 };
	const struct gmm__sys *sys = gmm__sys_linux();
	uint64_t page_ns[ROUNDS], round_ns[ROUNDS], cpu_ns = 0, charged = session_of_a()->charged_pages;

	for (int i = 0; i < ROUNDS; i++) {
		uint64_t pages = session_of_a()->charged_pages, start_ns = sys->thread_cpu_ns();
		say();
		round_ns[i] = sys->thread_cpu_ns() - start_ns;
		page_ns[i] = round_ns[i] / (session_of_a()->charged_pages - pages);
		cpu_ns += round_ns[i];
	}
	charged = session_of_a()->charged_pages - charged;
	qsort(page_ns, ROUNDS, sizeof *page_ns, by_size);
	qsort(round_ns, ROUNDS, sizeof *round_ns, by_size);
	printf("%-32s %8lu ns a page charged, %8lu us the longest\n", what, cpu_ns / charged, round_ns[ROUNDS - 1] / 1000);
	fflush(stdout);
	ck_assert_uint_lt(page_ns[ROUNDS / 2], PAGE_NS_MAX);
	ck_assert_uint_lt(round_ns[ROUNDS / 2], MESSAGE_NS_MAX);
}

static void offer_of(uint32_t count, uint8_t found, uint8_t flags, uint32_t n)
{
	static struct gmm__wire_finding f[COUNT];
	static struct gmm__wire_verdict v[COUNT];

	for (uint32_t i = 0; i < n; i++) {
		dice = dice * 6364136223846793005ull + 1442695040888963407ull;
		f[i] = (struct gmm__wire_finding){ .index = (uint16_t)i, .found = found, .flags = flags,
						   .fingerprint = (uint32_t)(dice >> 32) | 1, .word = dice | 1 };
	}
	client_offer(&a, 0, 0, count, f, n, v);
}

static void offer(uint8_t found, uint8_t flags, uint32_t n)
{
	offer_of(n, found, flags, n);
}

static void offer_pages(void)
{
	offer(GMM__FOUND_OTHER, 0, COUNT);
}

static void offer_one(void)
{
	offer(GMM__FOUND_OTHER, 0, 1);
}

static void offer_one_of_many(void)
{
	offer_of(COUNT, GMM__FOUND_OTHER, 0, 1);
}

static void offer_samples(void)
{
	offer(GMM__FOUND_SAMPLE, 0, COUNT);
}

static void offer_words(void)
{
	offer(GMM__FOUND_FILL, GMM__WIRE_FILL, COUNT);
}

/* Every other page has another state, and all change with each round. */
static void commit_at(uint32_t first, bool odd)
{
	static struct gmm__wire_states states[COUNT];
	struct gmm__wire_region region = { .first = first, .count = COUNT, .n = COUNT };
	int status;

	for (uint32_t i = 0; i < COUNT; i++)
		states[i] = (struct gmm__wire_states){ 1, (i & 1) == odd ? GMM_PAGE_VOLATILE : GMM_PAGE_ABSENT, 0 };
	ck_assert(client_ask(&a, GMM__WIRE_COMMIT, &region, sizeof region, states, sizeof states, &status));
}

static void commit(void)
{
	static bool odd;

	commit_at(0, odd = !odd);
}

static void add_and_remove(uint32_t pages)
{
	struct gmm__wire_remove remove = { .number = 1 };
	int status;

	client_add_slot(&a, 0, 1, 1 << 30, pages);
	ck_assert(client_ask(&a, GMM__WIRE_SLOT_REMOVE, &remove, sizeof remove, NULL, 0, &status));
}

static void add_and_remove_slot(void)
{
	add_and_remove(1);
}

static void add_and_remove_large_slot(void)
{
	add_and_remove(BIG);
}

static void add_and_remove_largest_slot(void)
{
	add_and_remove(1 << 26);
}

static void share_page(uint32_t page)
{
	static uint64_t seed = 1;
	const uint8_t *bytes = page_bytes(seed++);
	struct gmm__wire_finding f = client_finding(&a, 0, bytes);
	struct gmm__wire_verdict v;

	client_offer(&a, 0, 0, 1, &f, 1, &v);
	client_offer(&a, 0, page, 1, &f, 1, &v);
	ck_assert_uint_eq(v.kind, GMM__VERDICT_PROMOTE);
	ck_assert_uint_ne(client_promote(&a, 0, page, 1, 0, bytes), GMM__NIL);
	ck_assert(client_commit(&a, 0, page, 1, GMM_PAGE_SHARED));
}

/* A page comes into the pool, and goes again. */
static void promote(void)
{
	share_page(1);
	ck_assert(client_commit(&a, 0, 1, 1, GMM_PAGE_ABSENT));
}

/* What a new client is charged goes with it: what its user is. */
static void connect_anew(void)
{
	struct client c = { 0 };

	client_hello(&c);
	client_close(&c);
	gmm__session_charge(session_of_a(), 256 + 32);
}

static void add_and_remove_vm(void)
{
	struct gmm__wire_remove remove = { .number = 1 };
	int status;

	ck_assert_int_eq(client_add_vm(&a, 1, ""), GMM_OK);
	ck_assert(client_ask(&a, GMM__WIRE_VM_REMOVE, &remove, sizeof remove, NULL, 0, &status));
}

static void poll_service(void)
{
	struct gmm__wire_look look;

	client_poll(&a, &look);
}

static void admin(const char *text)
{
	struct gmm__wire_admin request = { .more = 0 };
	int status;

	ck_assert(client_ask(&a, GMM__WIRE_ADMIN, &request, sizeof request, text, strlen(text), &status));
	while (((struct gmm__wire_admin *)(void *)a.reply)->more) {
		world_turn();
		ssize_t n = gmm__wire_receive(a.socket, a.reply, sizeof a.reply, &a.fd);
		ck_assert_int_gt(n, 0);
	}
}

static void admin_status(void)
{
	admin("{\"do\": \"status\", \"check\": true}");
}

static void admin_dump(void)
{
	char text[64];

	snprintf(text, sizeof text, "{\"do\": \"dump\", \"pid\": %d}", (int)getpid());
	admin(text);
}

/* Asks a's client, so that it may answer: its bucket pays for that too. */
static uint32_t asked_for_modules(void)
{
	uint32_t request = ++served.service->modules_request;
	struct gmm__wire_look look;

	gmm__modules_ask(session_of_a(), request);
	client_poll(&a, &look);
	return request;
}

/* Runs of so many pages each; those of one page are shared, and none follows the other. */
static void tell_module(uint32_t request, const char *name, uint32_t runs, uint32_t each)
{
	static struct gmm__wire_module_run run[GMM__WIRE_MODULE_RUNS];
	struct gmm__wire_module m = { .modules = request, .n = runs, .size = 1 << 30, .pages = 1 << 18 };

	snprintf(m.name, sizeof m.name, "%s", name);
	for (uint32_t i = 0; i < runs; i++)
		run[i] = (struct gmm__wire_module_run){ 1 + (SHARED - 1 - i % SHARED) * 2, each };
	ck_assert(client_ask(&a, GMM__WIRE_MODULE, &m, sizeof m, run, runs * sizeof *run, NULL));
}

static void tell_long_run(void)
{
	tell_module(asked_for_modules(), "long", 1, GMM__WIRE_MODULE_PAGES);
}

static void tell_many_runs(void)
{
	tell_module(asked_for_modules(), "runs", GMM__WIRE_MODULE_RUNS, 1);
}

static void tell_nothing(void)
{
	tell_module(asked_for_modules(), "none", 0, 0);
}

/* As many modules as a client may have. */
static void tell_all(void)
{
	struct gmm__wire_modules end = { .modules = asked_for_modules() };
	char name[32];

	for (uint32_t i = 0; i < GMM__MODULES_USER_RECORDS; i++) {
		snprintf(name, sizeof name, "lib%u", i);
		tell_module(end.modules, name, 8, 1);
	}
	ck_assert(client_ask(&a, GMM__WIRE_MODULES, &end, sizeof end, NULL, 0, NULL));
}

static void admin_modules(void)
{
	admin("{\"do\": \"modules\", \"request\": 0}");
}

START_TEST(messages_cost_what_they_are_charged)
{
	setup();
	measure("OFFER, 2048 pages", offer_pages);
	measure("OFFER, one page", offer_one);
	measure("OFFER, one page of 2048", offer_one_of_many);
	measure("OFFER, 2048 samples", offer_samples);
	measure("OFFER, 2048 pages of a word", offer_words);
	measure("COMMIT, 2048 changes", commit);
	measure("PROMOTE", promote);
	measure("a connection and HELLO", connect_anew);
	measure("SLOT_ADD and _REMOVE, a page", add_and_remove_slot);
	measure("SLOT_ADD and _REMOVE, 4 GiB", add_and_remove_large_slot);
	measure("SLOT_ADD and _REMOVE, 256 GiB", add_and_remove_largest_slot);
	measure("VM_ADD and _REMOVE", add_and_remove_vm);
	measure("POLL", poll_service);
	for (uint32_t first = 0; first < BIG; first += COUNT)
		commit_at(first, false);
	measure("ADMIN status", admin_status);
	measure("ADMIN dump", admin_dump);
	for (uint32_t i = 0; i < SHARED; i++)
		share_page(1 + i * 2);
	measure("MODULE, 16384 pages", tell_long_run);
	measure("MODULE, 2048 runs", tell_many_runs);
	measure("MODULE, no page", tell_nothing);
	client_add_slot(&a, 0, 1, 1 << 26, 1 << 24);
	tell_all();
	ck_assert_uint_eq(session_of_a()->user->module_runs, GMM__MODULES_USER_RUNS);
	measure("ADMIN modules", admin_modules);
	teardown();
}
END_TEST

int main(void)
{
	const TTest *const tests[] = { messages_cost_what_they_are_charged };

	return service_world_main("service_cost", tests, sizeof tests / sizeof *tests);
}
