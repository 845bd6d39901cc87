/* What clients say of their guests' modules: how the service puts it together, and what becomes of clients that lie, go on
 * for ever, say it in another order or die meanwhile. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "service/modules.h"
#include "service/pools.h"
#include "tests/unit/support/service_world.h"

enum { SHARED = 4 }; /* pages 0 to SHARED - 1 of each client's VM 0, each a slot of its own */
#define NO GMM__WIRE_NO_GFN

static struct client a, b;
static gmm__page_id page[SHARED];

static void setup(void)
{
	world_prepare("[limits]\npages_per_second = 1000000000\npages_per_second_per_user = 1000000000\n");
	world_open();
	client_hello(&a);
	client_hello(&b);
	ck_assert_int_eq(client_add_vm(&a, 0, ""), GMM_OK);
	ck_assert_int_eq(client_add_vm(&b, 0, ""), GMM_OK);
	for (uint32_t i = 0; i < SHARED; i++) {
		client_add_slot(&a, 0, i, i, 1);
		client_add_slot(&b, 0, i, i, 1);
		page[i] = share_new(&a, i, &b, i, i + 1);
	}
	client_add_slot(&a, 0, 100, 1000, 1000);
}

static void teardown(void)
{
	world_check();
	world_close();
	world_remove();
}

static struct gmm__session *session_of(const struct client *client)
{
	struct gmm__session *s = served.service->sessions;

	while (s && s->client != client->number)
		s = s->next;
	return s;
}

/* ---- what clients say ---------------------------------------------------------------------------------------------- */

/* Asks all for their modules. The request. */
static uint32_t ask_all(void)
{
	uint32_t request = ++served.service->modules_request;

	for (struct gmm__session *s = served.service->sessions; s; s = s->next)
		gmm__modules_ask(s, request);
	return request;
}

/* What the next news say. */
static uint32_t told(struct client *client)
{
	struct gmm__wire_look look;

	client_poll(client, &look);
	return ((struct gmm__wire_news *)(void *)client->reply)->modules;
}

static struct gmm__wire_module libc(uint32_t request, uint32_t pages, uint32_t n)
{
	return (struct gmm__wire_module){ .modules = request, .os = GMM_OS_LINUX, .n = n, .size = pages * 4096ull,
					  .layout = 7, .pages = pages, .name = "libc.so.6", .version = "2.36" };
}

/* False: the connection is over. */
static bool say(struct client *client, struct gmm__wire_module m, const struct gmm__wire_module_run *run)
{
	return client_ask(client, GMM__WIRE_MODULE, &m, sizeof m, run, m.n * sizeof *run, NULL);
}

static bool say_end(struct client *client, uint32_t request, uint32_t left_out)
{
	struct gmm__wire_modules end = { .modules = request, .left_out = left_out };

	return client_ask(client, GMM__WIRE_MODULES, &end, sizeof end, NULL, 0, NULL);
}

/* ---- and what is made of it -------------------------------------------------------------------------------------------- */

static struct gmm_module_info list[8];
static uint64_t left_out;

/* How many modules there are; the first of them in `list`. */
static uint32_t list_all(uint32_t request)
{
	struct gmm__module_uses uses = { 0 };
	struct gmm_module_info info;
	uint32_t n = 0;

	for (const struct gmm__session *s = served.service->sessions; s; s = s->next)
		ck_assert(gmm__modules_gather(&uses, s, request));
	for (int rc; (rc = gmm__modules_next(&uses, &info)) != 0; n++) {
		ck_assert_int_eq(rc, 1);
		if (n < 8)
			list[n] = info;
	}
	left_out = uses.left_out;
	gmm__modules_uses_free(&uses);
	return n;
}

static void check_module(const struct gmm_module_info *m, uint32_t users, uint64_t shared, uint64_t variants,
			 uint64_t references)
{
	ck_assert_uint_eq(m->users, users);
	ck_assert_uint_eq(m->shared_pages, shared);
	ck_assert_uint_eq(m->variants, variants);
	ck_assert_uint_eq(m->references, references);
	ck_assert_uint_eq(m->saved_pages, references - shared);
}

START_TEST(puts_clients_together)
{
	static const struct gmm__wire_module_run in_order[] = { { 0, 2 }, { NO, 1 }, { 2, 2 } },
		otherwise[] = { { 1, 1 }, { 1, 1 }, { NO, 2 }, { 3, 1 } };

	setup();
	uint32_t request = ask_all();
	ck_assert_uint_eq(told(&a), request);
	ck_assert_uint_eq(told(&b), request);
	ck_assert(say(&a, libc(request, 5, 3), in_order));
	ck_assert(say_end(&a, request, 0));
	ck_assert(gmm__modules_has_answered(session_of(&a), request));
	ck_assert(!gmm__modules_has_answered(session_of(&b), request));
	ck_assert(say(&b, libc(request, 5, 4), otherwise));
	ck_assert(say_end(&b, request, 0));
	ck_assert_uint_eq(list_all(request), 1);
	/* Places 0 (two variants), 1, 3 and 4 (page 3 in both). */
	check_module(&list[0], 2, 5, 1, 10);
	ck_assert_str_eq(list[0].name, "libc.so.6");
	ck_assert_str_eq(list[0].version, "2.36");
	ck_assert_str_eq(list[0].domain, "test");
	ck_assert_uint_eq(list[0].pages, 5);
	ck_assert_uint_eq(list[0].size, 20480);
	ck_assert_uint_eq(left_out, 0);
	/* Once it is told, nobody asks any more. */
	ck_assert_uint_eq(told(&a), 0);
	/* A page that is given up counts as what it is now. */
	ck_assert(client_commit(&a, 3, 0, 1, GMM_PAGE_ABSENT));
	ck_assert(client_commit(&b, 3, 0, 1, GMM_PAGE_ABSENT));
	ck_assert_uint_eq(list_all(request), 1);
	check_module(&list[0], 2, 4, 1, 8);
	teardown();
}
END_TEST

/* All but the very same is another module, and so is the same in another domain. */
START_TEST(tells_modules_apart)
{
	static const struct gmm__wire_module_run run = { 0, 2 };
	struct gmm__wire_module m;

	setup();
	ck_assert_int_eq(client_add_vm(&a, 1, "other"), GMM_OK);
	client_add_slot(&a, 1, 200, 0, 4);
	uint32_t request = ask_all();
	told(&a);
	for (int i = 0; i < 8; i++) {
		m = libc(request, 2, 1);
		m.name[1] = i == 1 ? 'x' : m.name[1];
		m.version[1] = i == 2 ? 'x' : m.version[1];
		m.size += i == 3;
		m.os = i == 4 ? GMM_OS_BSD : m.os;
		m.layout += i == 5;
		m.pages += i == 6;
		m.vm = i == 7;
		ck_assert(say(&a, m, &run));
	}
	ck_assert(say(&a, libc(request, 2, 1), &run));
	ck_assert(say_end(&a, request, 0));
	ck_assert_uint_eq(list_all(request), 8);
	uint32_t users = 0, in_other = 0;
	for (int i = 0; i < 8; i++) {
		bool other = strcmp(list[i].domain, "other") == 0;
		users += list[i].users;
		in_other += other;
		check_module(&list[i], list[i].users, other ? 0 : 2, 0, other ? 0 : 4);
	}
	ck_assert_uint_eq(users, 9);
	ck_assert_uint_eq(in_other, 1);
	teardown();
}
END_TEST

/* A long record comes in parts; what was said of nothing, or again before the end, is nothing. */
START_TEST(records_in_parts)
{
	static const struct gmm__wire_module_run run[] = { { 0, 1 }, { 1, 1 }, { 999, 3 } };

	setup();
	uint32_t request = ask_all();
	told(&a);
	ck_assert(say(&a, libc(request, 5, 1), run));
	ck_assert_uint_eq(told(&a), request);
	struct gmm__wire_module m = libc(request, 5, 1);
	ck_assert(say(&a, m, run));
	m.first = 1;
	ck_assert(say(&a, m, run + 1));
	m.first = 2;
	ck_assert(say(&a, m, run + 2)); /* some of it is no RAM */
	ck_assert(say_end(&a, request, 3));
	ck_assert_uint_eq(list_all(request), 1);
	check_module(&list[0], 1, 2, 0, 4);
	ck_assert_uint_eq(left_out, 3);
	teardown();
}
END_TEST

/* ---- hostile clients ---------------------------------------------------------------------------------------------------- */

/* What makes a good message a bad one. */
static void spoil(struct gmm__wire_module *m, struct gmm__wire_module_run *run, int how)
{
	switch (how) {
	case 0: m->modules++; break;
	case 1: m->modules = 0; break;
	case 2: m->vm = 1; break;
	case 3: m->vm = UINT32_MAX; break;
	case 4: m->os = GMM_OS_FAMILIES; break;
	case 5: m->n = 3; break;                     /* more runs than there are */
	case 6: m->size = 0; break;
	case 7: m->size = GMM__WIRE_MODULE_BYTES + 1ull; break;
	case 8: m->pages = 0; break;
	case 9: m->pages = GMM__WIRE_MODULE_BYTES / 4096 + 1; break;
	case 10: m->name[0] = 0; break;
	case 11: memset(m->name, 'x', sizeof m->name); break;
	case 12: m->name[100] = 'x'; break;          /* after the end */
	case 13: memset(m->version, 'x', sizeof m->version); break;
	case 14: m->first = 1; break;                /* of nothing */
	case 15: m->first = 40000; break;
	case 16: run[0].pages = 0; break;
	case 17: run[1].pages = 39999; break;        /* beyond the module */
	case 18: run[1].pages = UINT32_MAX; break;
	case 19: run[1].pages = GMM__WIRE_MODULE_PAGES; break; /* too many at once, with the first run's */
	case 20: run[1] = (struct gmm__wire_module_run){ UINT32_MAX - 2, 3 }; break;
	default: m->header.status = -1; break;
	}
}

START_TEST(bad_records_end_the_connection)
{
	setup();
	for (int how = 0; how <= 21; how++) {
		struct client c = { 0 };
		struct gmm__wire_module_run run[2] = { { 0, 1 }, { 10, 1 } };
		uint64_t violations = served.service->violations;
		client_hello(&c);
		ck_assert_int_eq(client_add_vm(&c, 0, ""), GMM_OK);
		uint32_t request = ask_all();
		ck_assert_uint_eq(told(&c), request);
		struct gmm__wire_module m = libc(request, 40000, 2);
		ck_assert(say(&c, m, run));
		if (how == 14 || how == 15) /* it has a record now, to be gone on with at page 2 */
			m.first = 2;
		spoil(&m, run, how);
		ck_assert_msg(!client_ask(&c, GMM__WIRE_MODULE, &m, sizeof m, run, sizeof run, NULL), "%d", how);
		ck_assert_uint_eq(served.service->violations, violations + 1);
		client_close(&c);
	}
	ck_assert_ptr_null(session_of(&a)->modules_coming);
	teardown();
}
END_TEST

START_TEST(nobody_speaks_unasked)
{
	static const struct gmm__wire_module_run run = { 0, 2 };

	setup();
	ck_assert(!say(&a, libc(0, 2, 1), &run));
	uint32_t request = ask_all();
	ck_assert(!say(&b, libc(request, 2, 1), &run)); /* it was not told yet */
	for (int how = 0; how < 3; how++) {
		struct client c = { 0 };
		client_hello(&c);
		ck_assert_int_eq(client_add_vm(&c, 0, ""), GMM_OK);
		request = ask_all();
		told(&c);
		ck_assert(how == 0 || say_end(&c, request, 0));
		ck_assert(how == 0 ? !say_end(&c, request + 1, 0) : how == 1 ? !say_end(&c, request, 0) :
			  !say(&c, libc(request, 2, 1), &run)); /* again */
		client_close(&c);
	}
	teardown();
}
END_TEST

/* Another record, module or VM is not gone on with. */
START_TEST(other_record_is_not_gone_on_with)
{
	static const struct gmm__wire_module_run run = { 0, 2 };

	setup();
	for (int how = 0; how < 4; how++) {
		struct client c = { 0 };
		client_hello(&c);
		ck_assert_int_eq(client_add_vm(&c, 0, ""), GMM_OK);
		ck_assert_int_eq(client_add_vm(&c, 1, ""), GMM_OK);
		uint32_t request = ask_all();
		told(&c);
		struct gmm__wire_module m = libc(request, 9, 1);
		ck_assert(say(&c, m, &run));
		m.first = how == 0 ? 3 : 2;
		m.vm = how == 1;
		m.version[0] = how == 2 ? 'x' : m.version[0];
		ck_assert_int_eq(say(&c, m, &run), how == 3);
		client_close(&c);
	}
	teardown();
}
END_TEST

/* A client that names the same pages over and over, as records without end: all is bounded, and left out. */
START_TEST(endless_records)
{
	static struct gmm__wire_module_run run[GMM__WIRE_MODULE_RUNS];
	struct gmm__user *user;

	setup();
	user = session_of(&a)->user;
	uint32_t request = ask_all(), records = 10000;
	told(&a);
	for (uint32_t i = 0; i < GMM__WIRE_MODULE_RUNS; i++)
		run[i] = (struct gmm__wire_module_run){ i % 2 * 2, 1 }; /* no two in a row */
	for (uint32_t i = 0; i < records; i++) {
		struct gmm__wire_module m = libc(request, GMM__WIRE_MODULE_RUNS, GMM__WIRE_MODULE_RUNS);
		snprintf(m.name, sizeof m.name, "lib%08u", i); /* no shorter than before */
		ck_assert(say(&a, m, run));
	}
	ck_assert(say_end(&a, request, UINT32_MAX - 10));
	uint32_t n = list_all(request);
	ck_assert_uint_ge(n, 1);
	ck_assert_uint_lt(n * sizeof(struct gmm__wire_module), GMM__MODULES_BYTES_MIN + 2000);
	ck_assert_uint_lt(user->module_runs * 12, GMM__MODULES_BYTES_MIN + 2000);
	ck_assert_uint_eq(left_out, UINT32_MAX);
	ck_assert_uint_eq(user->module_records, n);
	client_close(&a);
	gmm__service_tick(served.service);
	ck_assert_uint_eq(user->module_records, 0);
	ck_assert_uint_eq(user->module_runs, 0);
	teardown();
}
END_TEST

/* Many clients of a user: their records together are bounded too, and given back. */
START_TEST(endless_clients)
{
	enum { CLIENTS = 20 };
	static struct client c[CLIENTS];
	static const struct gmm__wire_module_run run = { NO, 2 };

	setup();
	for (int i = 0; i < CLIENTS; i++) {
		client_hello(&c[i]);
		ck_assert_int_eq(client_add_vm(&c[i], 0, ""), GMM_OK);
		client_add_slot(&c[i], 0, 0, 0, 1 << 20);
	}
	uint32_t request = ask_all();
	for (int i = 0; i < CLIENTS; i++) {
		told(&c[i]);
		for (int k = 0; k < 1000; k++)
			ck_assert(say(&c[i], libc(request, 2, 1), &run));
		ck_assert(say_end(&c[i], request, 0));
	}
	struct gmm__user *user = session_of(&a)->user;
	ck_assert_uint_eq(user->module_records, GMM__MODULES_USER_RECORDS);
	ck_assert_uint_eq(list_all(request), 1);
	ck_assert_uint_eq(list[0].users, GMM__MODULES_USER_RECORDS);
	ck_assert_uint_eq(left_out, CLIENTS * 1000 - GMM__MODULES_USER_RECORDS);
	for (int i = 0; i < CLIENTS; i++)
		client_close(&c[i]);
	gmm__service_tick(served.service);
	ck_assert_uint_eq(user->module_records, 0);
	teardown();
}
END_TEST

/* ---- lives ------------------------------------------------------------------------------------------------------------- */

START_TEST(ends_in_the_middle)
{
	static const struct gmm__wire_module_run run = { 0, 2 };
	struct gmm__wire_remove remove = { .number = 1 };
	int status;

	setup();
	ck_assert_int_eq(client_add_vm(&a, 1, "other"), GMM_OK);
	uint32_t request = ask_all();
	told(&a);
	told(&b);
	struct gmm__wire_module m = libc(request, 4, 1);
	ck_assert(say(&b, m, &run));
	m.vm = 1;
	ck_assert(say(&a, m, &run));
	/* A VM ends; its number may be that of another one, in another domain, at once. */
	ck_assert(client_ask(&a, GMM__WIRE_VM_REMOVE, &remove, sizeof remove, NULL, 0, &status));
	ck_assert_int_eq(client_add_vm(&a, 1, ""), GMM_OK);
	m.first = 2;
	ck_assert(say(&a, m, &run));
	ck_assert(say_end(&a, request, 0));
	ck_assert_uint_eq(list_all(request), 0);
	/* A connection ends: it is not waited for. */
	ck_assert(gmm__modules_is_asked(session_of(&b), request));
	client_close(&b);
	ck_assert(!session_of(&b) || !gmm__modules_is_asked(session_of(&b), request));
	ck_assert_uint_eq(list_all(request), 0);
	teardown();
}
END_TEST

START_TEST(answers_grow_old)
{
	static const struct gmm__wire_module_run run = { 0, 2 };

	setup();
	uint32_t request = ask_all();
	told(&a);
	ck_assert(say(&a, libc(request, 2, 1), &run));
	ck_assert(say_end(&a, request, 0));
	/* Asked again: the old answer is there until the new one is. */
	uint32_t again = ask_all();
	ck_assert(!gmm__modules_has_answered(session_of(&a), again));
	ck_assert_uint_eq(told(&a), again);
	ck_assert(say(&a, libc(again, 2, 1), &run));
	ck_assert_uint_eq(list_all(request), 1);
	ck_assert_uint_eq(list[0].users, 1);
	ck_assert_uint_eq(list_all(again), 0);
	ck_assert(say_end(&a, again, 0));
	ck_assert_uint_eq(list_all(request), 1); /* a later answer is as good */
	served.service->now_ns += 50 * 1000000000ull;
	gmm__modules_expire(session_of(&a));
	ck_assert_uint_eq(list_all(again), 1);
	served.service->now_ns += 20 * 1000000000ull;
	gmm__modules_expire(session_of(&a));
	ck_assert_uint_eq(list_all(again), 0);
	ck_assert(!gmm__modules_is_asked(session_of(&a), again));
	ck_assert_uint_eq(told(&a), 0);
	teardown();
}
END_TEST

int main(void)
{
	const TTest *const tests[] = { puts_clients_together, tells_modules_apart, records_in_parts,
				       bad_records_end_the_connection, nobody_speaks_unasked, other_record_is_not_gone_on_with,
				       endless_records, endless_clients, ends_in_the_middle, answers_grow_old };

	return service_world_main("service_modules", tests, sizeof tests / sizeof *tests);
}
