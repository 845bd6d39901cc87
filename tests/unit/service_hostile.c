/* Clients that break the rules, lie, die or come back: the service ends their connection, keeps what is mapped, and its
 * accounts stay right. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "service/pools.h"
#include "service/session.h"
#include "tests/unit/support/service_world.h"

static uint32_t sessions(void)
{
	return served.service->n_sessions;
}

/* A region message with something wrong in it. */
struct wrong {
	uint32_t type, slot, first, count, n, flags;
	size_t more;
	uint8_t bytes[16];
};

START_TEST(wrong_regions_end_the_connection)
{
	static const struct wrong wrongs[] = {
		{ GMM__WIRE_OFFER, 1, 0, 1, 0, 0, 0, { 0 } },           /* no such slot */
		{ GMM__WIRE_OFFER, UINT32_MAX, 0, 1, 0, 0, 0, { 0 } },
		{ GMM__WIRE_OFFER, 0, 0, 0, 0, 0, 0, { 0 } },           /* no page */
		{ GMM__WIRE_OFFER, 0, 0, 2049, 0, 0, 0, { 0 } },
		{ GMM__WIRE_OFFER, 0, 4096, 1, 0, 0, 0, { 0 } },        /* beyond the slot */
		{ GMM__WIRE_OFFER, 0, 4000, 97, 0, 0, 0, { 0 } },
		{ GMM__WIRE_OFFER, 0, UINT32_MAX, 2, 0, 0, 0, { 0 } },
		{ GMM__WIRE_OFFER, 0, 0, 1, 2, 0, 32, { 0 } },          /* more elements than pages */
		{ GMM__WIRE_OFFER, 0, 0, 1, 1, 0, 15, { 0 } },          /* half an element */
		{ GMM__WIRE_OFFER, 0, 0, 1, 1, 0, 16, { 1 } },          /* index outside */
		{ GMM__WIRE_OFFER, 0, 0, 1, 1, 0, 16, { 0, 0, 200 } },  /* found what? */
		{ GMM__WIRE_OFFER, 0, 0, 1, 1, 0, 16, { 0, 0, GMM__FOUND_OTHER } }, /* without a fingerprint */
		{ GMM__WIRE_OFFER, 0, 0, 1, 1, 0, 16, { 0, 0, GMM__FOUND_ZERO, 0x80 } },
		{ GMM__WIRE_OFFER, 0, 0, 1, 0, 1, 0, { 0 } },           /* unknown flag */
		{ GMM__WIRE_PROMOTE, 0, 0, 1, 1, 0, 16, { 0 } },        /* nothing was offered */
		{ GMM__WIRE_COMMIT, 0, 0, 2, 1, 0, 4, { 1, 0, GMM_PAGE_ABSENT } }, /* not all pages */
		{ GMM__WIRE_COMMIT, 0, 0, 1, 1, 0, 4, { 2, 0, GMM_PAGE_ABSENT } },
		{ GMM__WIRE_COMMIT, 0, 0, 1, 1, 0, 4, { 1, 0, GMM_PAGE_SHARED } }, /* with what? */
		{ GMM__WIRE_COMMIT, 0, 0, 1, 1, 0, 4, { 1, 0, GMM_PAGE_BROKEN } },
		{ GMM__WIRE_COMMIT, 0, 0, 1, 1, 0, 4, { 1, 0, GMM_PAGE_ABSENT, 1 } },
		{ GMM__WIRE_RESHARE, 0, 0, 1, 1, 0, 16, { 0, 0, GMM__FOUND_OTHER, 0, 1 } }, /* not a broken page */
		{ GMM__WIRE_REPORT, 0, 0, 2, 1, 0, 8, { 0 } },
		{ GMM__WIRE_TYPES, 0, 0, 1, 0, 0, 0, { 0 } },
		{ 0, 0, 0, 1, 0, 0, 0, { 0 } },
	};
	uint8_t packet[256];

	world_begin("");
	for (size_t i = 0; i < sizeof wrongs / sizeof *wrongs; i++) {
		const struct wrong *w = &wrongs[i];
		struct gmm__wire_region region = {
			.header = { w->type, (uint32_t)(sizeof region + w->more), 9, 0 },
			.slot = w->slot, .first = w->first, .count = w->count, .n = w->n, .flags = w->flags,
		};
		memset(packet, 0, sizeof packet);
		memcpy(packet, &region, sizeof region);
		memcpy(packet + sizeof region, w->bytes, w->more < sizeof w->bytes ? w->more : sizeof w->bytes);
		ck_assert(client_send_raw(&client_a, packet, sizeof region + w->more));
		ck_assert_msg(client_is_cut_off(&client_a), "wrong message %zu was taken", i);
		ck_assert_uint_eq(served.service->violations, i + 1);
		close(client_a.socket);
		client_hello(&client_a);
		ck_assert_int_eq(client_add_vm(&client_a, 0, ""), GMM_OK);
		client_add_slot(&client_a, 0, 0, 0, 4096);
	}
	share_new(&client_a, 0, &client_b, 3, 1);
	world_end();
}
END_TEST

START_TEST(random_bytes_do_no_harm)
{
	world_begin("");
	gmm__page_id page = share_new(&client_a, 0, &client_b, 3, 7);

	srand(1);
	for (int i = 0; i < 300; i++) {
		struct client c = { 0 };
		uint8_t packet[512];
		struct gmm__wire_header *header = (void *)packet;
		client_hello(&c);
		if (rand() % 2 && client_add_vm(&c, 0, "") == GMM_OK)
			client_add_slot(&c, 0, 0, 0, 64);
		for (int k = 0; k < 8; k++) {
			size_t size = sizeof *header + (size_t)(rand() % 480);
			for (size_t j = 0; j < size; j++)
				packet[j] = rand() % 4 ? 0 : (uint8_t)(rand() % 6);
			*header = (struct gmm__wire_header){ 1 + (uint32_t)rand() % (GMM__WIRE_TYPES - 1), (uint32_t)size, 5, 0 };
			if (!client_send_raw(&c, packet, size))
				break;
			world_turn();
		}
		client_close(&c);
	}
	gmm__service_tick(served.service);
	ck_assert_uint_eq(sessions(), 2);
	ck_assert_uint_eq(pool_record(page).references, 2);
	world_end();
}
END_TEST

/* A child of a client that is gone still maps the pool: nothing of it is given back. */
START_TEST(a_zombie_keeps_what_its_child_maps)
{
	world_begin("");
	gmm__page_id page = share_new(&client_a, 0, &client_b, 3, 7);
	int down[2], up[2];
	uint64_t offset;
	char c = 0;

	ck_assert_int_eq(pipe(down), 0);
	ck_assert_int_eq(pipe(up), 0);
	int fd = client_file(&client_a, page, &offset);
	pid_t child = fork();
	if (child == 0) {
		close(client_a.socket);
		close(client_b.socket);
		const uint8_t *map = mmap(NULL, GMM__PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, (off_t)offset);
		close(fd);
		pid_t grandchild = map == MAP_FAILED ? -1 : fork();
		if (grandchild != 0)
			_exit(grandchild < 0);
		close(down[1]);
		if (write(up[1], "m", 1) != 1 || read(down[0], &c, 1) < 0)
			_exit(1);
		c = memcmp(map, page_bytes(7), GMM__PAGE_BYTES) == 0 ? 'y' : 'n';
		_exit(write(up[1], &c, 1) != 1);
	}
	close(fd);
	ck_assert_int_eq(waitpid(child, NULL, 0), child);
	ck_assert_int_eq(read(up[0], &c, 1), 1);
	client_close(&client_a);
	gmm__service_tick(served.service);
	ck_assert_uint_eq(sessions(), 2);
	ck_assert_uint_eq(pool_record(page).references, 2);
	ck_assert(client_commit(&client_b, 3, 0, 1, GMM_PAGE_ABSENT));
	ck_assert_uint_eq(pool_record(page).references, 1);
	close(down[1]);
	ck_assert_int_eq(read(up[0], &c, 1), 1);
	ck_assert_int_eq(c, 'y');
	for (int i = 0; i < 6000 && sessions() > 1; i++) {
		usleep(10000);
		gmm__service_tick(served.service);
	}
	ck_assert_uint_eq(sessions(), 1);
	world_end();
}
END_TEST

START_TEST(a_client_comes_back)
{
	world_begin("");
	gmm__page_id page = share_new(&client_a, 0, &client_b, 3, 7);
	struct gmm__wire_finding f = client_finding(&client_a, 5, page_bytes(7));
	struct gmm__wire_verdict v[1];
	uint64_t offset;
	struct client thief = { 0 };

	int fd = client_file(&client_a, page, &offset);
	client_offer(&client_a, 0, 0, 2048, &f, 1, v); /* it merges and loses its connection before the COMMIT */
	ck_assert_uint_eq(v[0].kind, GMM__VERDICT_JOIN);
	ck_assert_uint_eq(pool_record(page).references, 3);
	client_close(&client_a);
	ck_assert_uint_eq(sessions(), 2);
	client_connect(&thief); /* the number alone is not enough */
	thief.number = client_a.number;
	ck_assert_int_eq(client_resume(&thief), GMM_ERR_NOT_FOUND);
	client_close(&thief);
	client_connect(&client_a);
	ck_assert_int_eq(client_resume(&client_a), GMM_OK);
	ck_assert(client_a.resumed);
	client_offer(&client_a, 0, 2048, 1, NULL, 0, v);
	ck_assert_uint_eq(pool_record(page).references, 3);
	ck_assert(client_commit(&client_a, 0, 5, 1, GMM_PAGE_SHARED));
	ck_assert_uint_eq(pool_record(page).references, 3);
	close(fd);
	world_end();
}
END_TEST

START_TEST(who_broke_a_rule_does_not_come_back)
{
	world_begin("");
	gmm__page_id page = share_new(&client_a, 0, &client_b, 3, 7);
	uint64_t offset;

	int fd = client_file(&client_a, page, &offset);
	ck_assert(!client_commit(&client_a, 0, 9, 1, GMM_PAGE_SHARED));
	ck_assert_uint_eq(pool_record(page).references, 2);
	close(client_a.socket);
	client_connect(&client_a);
	ck_assert_int_eq(client_resume(&client_a), GMM_ERR_NOT_FOUND);
	close(fd);
	gmm__service_tick(served.service);
	ck_assert_uint_eq(pool_record(page).references, 1);
	world_end();
}
END_TEST

START_TEST(pages_wait_while_a_fork_lives)
{
	world_begin("");
	gmm__page_id page = share_new(&client_a, 0, &client_b, 3, 7);
	struct gmm__wire_region region = { .slot = 0, .count = 1, .n = 1, .flags = GMM__WIRE_FORKED };
	struct gmm__wire_states states = { .pages = 1, .state = GMM_PAGE_VOLATILE };
	struct gmm__pool *pool = &served.service->pooled->domain->pool;
	struct gmm__wire_look look;
	int status;

	ck_assert(client_commit(&client_b, 3, 0, 1, GMM_PAGE_VOLATILE));
	ck_assert(client_ask(&client_a, GMM__WIRE_COMMIT, &region, sizeof region, &states, sizeof states, &status));
	ck_assert_uint_eq(pool_record(page).references, 0);
	ck_assert_uint_eq(pool->deferred_pages, 1);
	gmm__service_tick(served.service);
	ck_assert_uint_eq(pool->deferred_pages, 1);
	client_poll(&client_a, &look); /* with forked = 0 */
	gmm__service_tick(served.service);
	ck_assert_uint_eq(pool->deferred_pages, 0);
	world_end();
}
END_TEST

START_TEST(descriptors_are_of_no_use_for_writing)
{
	world_begin("");
	gmm__page_id page = share_new(&client_a, 0, &client_b, 3, 7);
	char path[64];
	uint64_t offset;

	int fd = client_file(&client_a, page, &offset);
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	ck_assert_int_lt(open(path, O_RDWR), 0);
	ck_assert_int_ne(fchmod(fd, 0666), 0);
	ck_assert_int_ne(ftruncate(fd, 0), 0);
	ck_assert_int_ne(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), 0);
	ck_assert_ptr_eq(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), MAP_FAILED);
	/* Reading holes costs no more memory than the file is long, and that is given back. */
	struct gmm__pooled *pooled = served.service->pooled;
	const volatile uint8_t *map = mmap(NULL, GMM__CHUNK_BYTES, PROT_READ, MAP_SHARED, fd, 0);
	ck_assert_ptr_ne((const void *)map, MAP_FAILED);
	for (size_t i = 0; i < GMM__CHUNK_BYTES; i += GMM__PAGE_BYTES)
		(void)map[i];
	ck_assert_uint_eq(gmm__pooled_file_pages(pooled), GMM__CHUNK_PAGES);
	gmm__pool_sweep(&pooled->domain->pool);
	ck_assert_uint_eq(gmm__pooled_file_pages(pooled), 1);
	munmap((void *)(uintptr_t)map, GMM__CHUNK_BYTES);
	close(fd);
	world_end();
}
END_TEST

static struct gmm__session *session_of(const struct client *client)
{
	struct gmm__session *s = served.service->sessions;

	while (s->client != client->number)
		s = s->next;
	return s;
}

START_TEST(limits_hold)
{
	struct client c = { 0 };
	struct gmm__wire_slot_add add = { .vm = 0, .slot = 7, .gfn = 1 << 20, .pages = 100000 };
	int status = 0;

	world_begin("[limits]\nclients_per_user = 3\nclients = 3\ndomain_ram_pages = 10000\nvms = 2\npages_per_second = 100000\n");
	ck_assert(client_ask(&client_a, GMM__WIRE_SLOT_ADD, &add, sizeof add, NULL, 0, &status));
	ck_assert_int_eq(status, GMM_ERR_LIMIT);
	ck_assert_int_eq(client_add_vm(&client_b, 1, ""), GMM_ERR_LIMIT);
	/* Over its bound it is not read until it has rested. */
	struct gmm__session *s = session_of(&client_a);
	gmm__session_charge(s, 500000);
	struct gmm__wire_remove remove = { .header = { GMM__WIRE_SLOT_REMOVE, sizeof remove, 77, 0 }, .number = 0 };
	client_send_raw(&client_a, &remove, sizeof remove);
	world_turn(); /* this one is answered, the next one waits */
	ck_assert(s->waits);
	client_close(&client_a);
	ck_assert_uint_eq(sessions(), 1);
	client_hello(&c);
	world_end();
}
END_TEST

/* Many clients of a user have no more than he may have, and who connects anew is not better off. */
START_TEST(limits_of_a_user_hold)
{
	struct gmm__wire_slot_add add = { .vm = 0, .slot = 7, .gfn = 1 << 20, .pages = 2000 };
	struct gmm__wire_poll poll = { .header = { GMM__WIRE_POLL, sizeof poll, 77, 0 } };
	struct gmm__wire_remove remove = { .number = 0 };
	struct client c = { 0 };
	int status = 0;

	world_begin("[limits]\nvms_per_user = 3\nram_pages_per_user = 10000\npages_per_second_per_user = 100000\n");
	ck_assert_int_eq(client_add_vm(&client_a, 1, ""), GMM_OK);
	ck_assert_int_eq(client_add_vm(&client_b, 1, ""), GMM_ERR_LIMIT);
	ck_assert(client_ask(&client_b, GMM__WIRE_SLOT_ADD, &add, sizeof add, NULL, 0, &status));
	ck_assert_int_eq(status, GMM_ERR_LIMIT);
	ck_assert(client_ask(&client_a, GMM__WIRE_VM_REMOVE, &remove, sizeof remove, NULL, 0, &status));
	ck_assert(client_ask(&client_b, GMM__WIRE_SLOT_ADD, &add, sizeof add, NULL, 0, &status));
	ck_assert_int_eq(status, GMM_OK);
	ck_assert_int_eq(client_add_vm(&client_b, 1, ""), GMM_OK);
	ck_assert_uint_eq(session_of(&client_a)->user->vms, 3);
	ck_assert_uint_eq(session_of(&client_a)->user->ram_pages, 4096 + 2000);
	gmm__session_charge(session_of(&client_a), 10000000);
	client_send_raw(&client_b, &poll, sizeof poll);
	client_connect(&c);
	struct gmm__wire_hello hello = { .header = { GMM__WIRE_HELLO, sizeof hello, 1, 0 } };
	client_send_raw(&c, &hello, sizeof hello);
	world_turn();
	ck_assert(session_of(&client_b)->waits);
	ck_assert(served.service->sessions->waits);
	uint64_t messages = served.service->messages;
	world_turn();
	ck_assert_uint_eq(served.service->messages, messages);
	client_close(&c);
	client_close(&client_a);
	client_close(&client_b);
	ck_assert_uint_eq(sessions(), 0);
	gmm__service_tick(served.service);
	ck_assert_ptr_nonnull(served.service->users); /* he still owes */
	ck_assert_uint_eq(served.service->users->vms + served.service->users->ram_pages, 0);
	world_end();
}
END_TEST

/* Everything is dropped as by SIGKILL: the store is all that is left. */
START_TEST(a_restart_finds_all_again)
{
	world_begin("");
	gmm__page_id page = share_new(&client_a, 0, &client_b, 3, 7);
	struct gmm__wire_region region = { .slot = 0, .count = 1, .n = 1 };
	struct gmm__wire_report report = { .value = page, .state = GMM_PAGE_SHARED };
	struct gmm__wire_poll poll = { .reported = 1 };
	struct gmm__wire_finding f;
	struct gmm__wire_verdict v[1];
	uint64_t offset;
	int status = 0;

	int fd_a = client_file(&client_a, page, &offset), fd_b = client_file(&client_b, page, &offset);
	const uint8_t *map = mmap(NULL, GMM__PAGE_BYTES, PROT_READ, MAP_PRIVATE, fd_a, (off_t)offset);
	close(fd_a);
	world_close();
	world_open();
	ck_assert_uint_eq(sessions(), 2);
	world_turn();
	ck_assert(served.service->pooled->recovering);
	client_connect(&client_a);
	ck_assert_int_eq(client_resume(&client_a), GMM_OK);
	ck_assert(!client_a.resumed);
	ck_assert_int_eq(client_add_vm(&client_a, 0, ""), GMM_OK);
	client_add_slot(&client_a, 0, 0, 0, 4096);
	report.value = page + GMM__CHUNK_PAGES * 100; /* of no chunk of this domain */
	ck_assert(client_ask(&client_a, GMM__WIRE_REPORT, &region, sizeof region, &report, sizeof report, &status));
	ck_assert_int_eq(status, GMM_ERR_NOT_FOUND);
	report.value = page;
	ck_assert(client_ask(&client_a, GMM__WIRE_REPORT, &region, sizeof region, &report, sizeof report, &status));
	ck_assert_int_eq(status, GMM_OK);
	ck_assert(client_ask(&client_a, GMM__WIRE_POLL, &poll, sizeof poll, NULL, 0, &status));
	/* b still has a file and has said nothing. */
	world_turn();
	ck_assert(served.service->pooled->recovering);
	close(fd_b);
	gmm__service_tick(served.service);
	for (int i = 0; i < 10; i++)
		world_turn();
	ck_assert(!served.service->pooled->recovering);
	ck_assert_uint_eq(sessions(), 1);
	ck_assert_uint_eq(pool_record(page).references, 1);
	ck_assert_int_eq(memcmp(map, page_bytes(7), GMM__PAGE_BYTES), 0);
	/* A new VM shares with the old one. */
	struct client c = { 0 };
	client_hello(&c);
	ck_assert_int_eq(client_add_vm(&c, 0, ""), GMM_OK);
	client_add_slot(&c, 0, 0, 0, 16);
	f = client_finding(&c, 0, page_bytes(7));
	ck_assert_uint_eq(client_offer(&c, 0, 0, 1, &f, 1, v), 1);
	ck_assert_uint_eq(v[0].kind, GMM__VERDICT_JOIN);
	ck_assert_uint_eq(v[0].page, page);
	ck_assert(client_commit(&c, 0, 0, 1, GMM_PAGE_SHARED));
	ck_assert_uint_eq(pool_record(page).references, 2);
	munmap((void *)(uintptr_t)map, GMM__PAGE_BYTES);
	world_end();
}
END_TEST

/* Many at once; each gives and takes. */
START_TEST(many_clients)
{
	enum { CLIENTS = 256 };
	struct client *c = calloc(CLIENTS, sizeof *c);
	struct gmm__wire_verdict v[1];

	world_prepare("");
	world_open();
	for (int i = 0; i < CLIENTS; i++) {
		client_hello(&c[i]);
		ck_assert_int_eq(client_add_vm(&c[i], 0, ""), GMM_OK);
		client_add_slot(&c[i], 0, 0, 0, 2048);
	}
	gmm__page_id page = share_new(&c[0], 0, &c[1], 0, 1);
	struct gmm__wire_finding f = client_finding(&c[0], 0, page_bytes(1));
	for (int i = 2; i < CLIENTS; i++) {
		ck_assert_uint_eq(client_offer(&c[i], 0, 0, 1, &f, 1, v), 1);
		ck_assert_uint_eq(v[0].page, page);
		ck_assert(client_commit(&c[i], 0, 0, 1, GMM_PAGE_SHARED));
	}
	ck_assert_uint_eq(pool_record(page).references, CLIENTS);
	world_check();
	for (int i = 0; i < CLIENTS; i++)
		client_close(&c[i]);
	gmm__service_tick(served.service);
	ck_assert_uint_eq(sessions(), 0);
	ck_assert_ptr_null(served.service->pooled);
	free(c);
	world_end();
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		wrong_regions_end_the_connection, random_bytes_do_no_harm, a_zombie_keeps_what_its_child_maps, a_client_comes_back,
		who_broke_a_rule_does_not_come_back, pages_wait_while_a_fork_lives, descriptors_are_of_no_use_for_writing,
		limits_hold, limits_of_a_user_hold, a_restart_finds_all_again, many_clients,
	};

	return service_world_main("service_hostile", tests, sizeof tests / sizeof *tests);
}
