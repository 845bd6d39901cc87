/* What must survive: pages that only a forked child maps, and what an earlier service left, also when it cannot be read. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "service/pools.h"
#include "service/session.h"
#include "tests/unit/support/service_world.h"

static void teardown(void)
{
	world_close();
	world_remove();
}

static void tick(void)
{
	for (int i = 0; i < 3; i++) {
		world_turn();
		gmm__service_tick(served.service);
	}
}

static bool has_bytes(int fd, uint64_t offset, uint64_t seed)
{
	uint8_t bytes[GMM__PAGE_BYTES] = { 0 };

	return pread(fd, bytes, sizeof bytes, (off_t)offset) == sizeof bytes &&
	       memcmp(bytes, page_bytes(seed), sizeof bytes) == 0;
}

static void poll_forked(struct client *client, bool forked)
{
	struct gmm__wire_poll poll = { .forked = forked, .reported = 1 };
	int status = -1;

	ck_assert(client_ask(client, GMM__WIRE_POLL, &poll, sizeof poll, NULL, 0, &status));
	ck_assert_int_eq(status, GMM_OK);
}

/* A page that only a child of `a` maps still: its VM has ended, and `b` uses it no more. The descriptor is the child's. */
static int leave_to_child(uint64_t *ret_offset)
{
	gmm__page_id page = share_new(&client_a, 0, &client_b, 3, 7);
	struct gmm__wire_remove remove = { .number = 0, .flags = GMM__WIRE_FORKED };
	int fd = client_file(&client_a, page, ret_offset), status = -1;

	ck_assert(client_commit(&client_b, 3, 0, 1, GMM_PAGE_ABSENT));
	ck_assert(client_ask(&client_a, GMM__WIRE_VM_REMOVE, &remove, sizeof remove, NULL, 0, &status));
	ck_assert_int_eq(status, GMM_OK);
	return fd;
}

START_TEST(a_child_keeps_the_pages_of_a_vm_that_ended)
{
	world_begin("");
	uint64_t offset;
	int fd = leave_to_child(&offset);

	tick();
	ck_assert(has_bytes(fd, offset, 7));
	client_close(&client_a); /* the parent dies */
	tick();
	ck_assert(has_bytes(fd, offset, 7));
	ck_assert_uint_eq(served.service->n_sessions, 2);
	close(fd);
	tick();
	ck_assert_uint_eq(served.service->n_sessions, 1);
	ck_assert_uint_eq(served.service->pooled->domain->pool.deferred_pages, 0);
	teardown();
}
END_TEST

START_TEST(a_childs_end_frees_what_it_kept)
{
	world_begin("");
	uint64_t offset;
	int fd = leave_to_child(&offset);

	poll_forked(&client_a, true);
	tick();
	ck_assert(has_bytes(fd, offset, 7));
	poll_forked(&client_a, false);
	tick();
	ck_assert(!has_bytes(fd, offset, 7));
	close(fd);
	teardown();
}
END_TEST

START_TEST(a_child_keeps_its_pages_over_a_restart)
{
	world_begin("");
	uint64_t offset;
	int fd = leave_to_child(&offset);

	world_close();
	world_open();
	client_connect(&client_a);
	ck_assert_int_eq(client_resume(&client_a), GMM_OK);
	tick();
	ck_assert(has_bytes(fd, offset, 7));
	poll_forked(&client_a, true);
	tick();
	ck_assert(!served.service->pooled || !served.service->pooled->recovering);
	ck_assert(has_bytes(fd, offset, 7));
	close(fd);
	teardown();
}
END_TEST

/* ---- the store ------------------------------------------------------------------------------------------------------ */

static int open_again(void)
{
	struct gmm__service_options options = { .runtime_dir = served.dir, .config_path = served.config, .listener = -1,
						.without_socket = true };
	struct gmm__service *service = NULL;
	int status = gmm__service_open(&options, &service);

	if (status == GMM_OK)
		gmm__service_close(service);
	return status;
}

START_TEST(one_store_has_one_service)
{
	world_begin("");
	ck_assert_int_eq(open_again(), GMM_ERR_SYSTEM);
	share_new(&client_a, 0, &client_b, 3, 7);
	world_close();
	ck_assert_int_eq(open_again(), GMM_OK);
	world_open();
	teardown();
}
END_TEST

static int open_in_store(const char *folder, uint32_t number, const char *name, int flags)
{
	char path[160];

	snprintf(path, sizeof path, "%s/pool/%s/%u%s", served.dir, folder, number, name);
	int fd = open(path, flags);
	ck_assert_int_ge(fd, 0);
	return fd;
}

/* Without a chunk that is in use its place would be given to another one. */
START_TEST(a_domain_is_taken_over_whole_or_not_at_all)
{
	world_begin("");
	gmm__page_id page = share_new(&client_a, 0, &client_b, 3, 7);
	gmm__chunk_id twice = gmm__page_chunk(page);
	uint64_t offset;
	int file = client_file(&client_a, page, &offset);
	int fd = open_in_store("domains", served.service->pooled->number, "/layout", O_WRONLY | O_APPEND);

	world_close();
	ck_assert_int_eq(write(fd, &twice, sizeof twice), sizeof twice);
	ck_assert_int_eq(open_again(), GMM_ERR_SYSTEM);
	ck_assert(has_bytes(file, offset, 7));
	ck_assert_int_eq(ftruncate(fd, sizeof twice), 0);
	ck_assert_int_eq(open_again(), GMM_OK);
	ck_assert(has_bytes(file, offset, 7));
	close(fd);
	close(file);
	world_remove();
}
END_TEST

/* Nobody would wait for a client that cannot be read before its pages are freed. */
START_TEST(no_client_is_overlooked)
{
	world_begin("");
	gmm__page_id page = share_new(&client_a, 0, &client_b, 3, 7);
	uint64_t offset;
	int file = client_file(&client_a, page, &offset);
	struct gmm__store_client record;
	int fd = open_in_store("clients", client_a.number, "", O_RDWR);

	world_close();
	ck_assert_int_eq(pread(fd, &record, sizeof record, 0), sizeof record);
	ck_assert_int_eq(ftruncate(fd, 3), 0);
	ck_assert_int_eq(open_again(), GMM_ERR_SYSTEM);
	ck_assert_int_eq(pwrite(fd, &record, sizeof record, 0), sizeof record);
	ck_assert_int_eq(open_again(), GMM_OK);
	ck_assert(has_bytes(file, offset, 7));
	close(fd);
	close(file);
	world_remove();
}
END_TEST

/* Clients tell pools by their numbers, also after a restart. */
START_TEST(numbers_of_domains_do_not_come_twice)
{
	struct gmm__wire_remove remove = { .number = 0 };
	int status = -1;

	world_begin("");
	uint32_t number = served.service->pooled->number;
	ck_assert(client_ask(&client_a, GMM__WIRE_VM_REMOVE, &remove, sizeof remove, NULL, 0, &status));
	ck_assert(client_ask(&client_b, GMM__WIRE_VM_REMOVE, &remove, sizeof remove, NULL, 0, &status));
	tick();
	ck_assert_ptr_null(served.service->pooled);
	world_close();
	world_open();
	client_hello(&client_a);
	ck_assert_int_eq(client_add_vm(&client_a, 0, ""), GMM_OK);
	ck_assert_uint_gt(served.service->pooled->number, number);
	teardown();
}
END_TEST

/* ABSENT with FILL and WHOLE is another state, which would be counted as ABSENT. */
START_TEST(a_flag_of_the_service_is_refused)
{
	world_begin("");
	ck_assert(!client_commit(&client_a, 0, 0, 1, GMM_PAGE_ABSENT | GMM__FLAG_FILL | GMM__FLAG_WHOLE));
	tick();
	world_check();
	teardown();
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		a_child_keeps_the_pages_of_a_vm_that_ended, a_childs_end_frees_what_it_kept,
		a_child_keeps_its_pages_over_a_restart, one_store_has_one_service,
		a_domain_is_taken_over_whole_or_not_at_all, no_client_is_overlooked, numbers_of_domains_do_not_come_twice,
		a_flag_of_the_service_is_refused,
	};

	return service_world_main("service_survival", tests, sizeof tests / sizeof *tests);
}
