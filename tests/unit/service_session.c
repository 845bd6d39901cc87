/* What clients may say, and what follows from it: references, covers, looks, accounts. */
#include <string.h>
#include <unistd.h>

#include "service/pools.h"
#include "service/session.h"
#include "tests/unit/support/service_world.h"

START_TEST(two_clients_share_a_page)
{
	world_begin("");
	gmm__page_id page = share_new(&client_a, 0, &client_b, 3, 7);
	uint64_t offset;
	uint8_t bytes[GMM__PAGE_BYTES];

	ck_assert_uint_eq(pool_record(page).references, 2);
	world_check();
	int fd = client_file(&client_a, page, &offset);
	ck_assert_int_eq(pread(fd, bytes, sizeof bytes, (off_t)offset), sizeof bytes);
	ck_assert_int_eq(memcmp(bytes, page_bytes(7), sizeof bytes), 0);
	close(fd);
	world_end();
}
END_TEST

START_TEST(what_is_not_committed_is_given_back)
{
	world_begin("");
	struct gmm__wire_finding f = client_finding(&client_a, 0, page_bytes(1));
	struct gmm__wire_verdict v[1];

	gmm__page_id page = share_new(&client_a, 0, &client_b, 3, 1);
	ck_assert_uint_eq(client_offer(&client_a, 0, 1, 1, &f, 1, v), 1);
	ck_assert_uint_eq(v[0].kind, GMM__VERDICT_JOIN);
	ck_assert_uint_eq(pool_record(page).references, 3);
	ck_assert(client_commit(&client_a, 0, 1, 1, GMM_PAGE_RACED));
	ck_assert_uint_eq(pool_record(page).references, 2);
	/* Told to be the same once more, it is not tried again: it has just differed. */
	ck_assert_uint_eq(client_offer(&client_a, 0, 1, 1, &f, 1, v), 1);
	ck_assert_uint_eq(v[0].kind, GMM__VERDICT_UNIQUE);
	/* Another OFFER ends what was pending, too. */
	f.flags = GMM__WIRE_WRITTEN;
	ck_assert_uint_eq(client_offer(&client_a, 0, 1, 1, &f, 1, v), 1);
	ck_assert_uint_eq(v[0].kind, GMM__VERDICT_JOIN);
	ck_assert_uint_eq(pool_record(page).references, 3);
	ck_assert_uint_eq(client_offer(&client_a, 0, 2, 1, NULL, 0, v), 0);
	ck_assert_uint_eq(pool_record(page).references, 2);
	ck_assert(client_commit(&client_a, 0, 2, 1, GMM_PAGE_ABSENT));
	world_end();
}
END_TEST

START_TEST(a_written_page_leaves_its_cover)
{
	world_begin("");
	gmm__page_id page = share_new(&client_a, 0, &client_b, 3, 2);
	struct gmm__wire_finding broken = { .index = 0, .found = GMM__FOUND_BROKEN };
	struct gmm__wire_verdict v[1];

	ck_assert_uint_eq(client_offer(&client_a, 0, 0, 1, &broken, 1, v), 0);
	ck_assert_uint_eq(pool_record(page).references, 1);
	ck_assert_uint_eq(pool_record(page).broken, 1);
	ck_assert(client_commit(&client_a, 0, 0, 1, GMM_PAGE_BROKEN));
	ck_assert(client_commit(&client_b, 3, 0, 1, GMM_PAGE_BROKEN));
	ck_assert_uint_eq(pool_record(page).references, 0);
	ck_assert_uint_eq(pool_record(page).broken, 2);
	ck_assert_uint_eq(pool_record(page).state, GMM__SLOT_HELD);
	ck_assert(client_commit(&client_a, 0, 0, 1, GMM_PAGE_ABSENT));
	ck_assert(client_commit(&client_b, 3, 0, 1, GMM_PAGE_VOLATILE));
	ck_assert_uint_eq(pool_record(page).state, GMM__SLOT_FREE);
	world_end();
}
END_TEST

START_TEST(a_broken_page_is_shared_again)
{
	world_begin("");
	gmm__page_id page = share_new(&client_a, 0, &client_b, 3, 2);
	struct gmm__wire_finding f = client_finding(&client_a, 0, page_bytes(2));
	struct gmm__wire_region region = { .slot = 0, .first = 0, .count = 1, .n = 1 };
	int status = -1;

	ck_assert(client_commit(&client_a, 0, 0, 1, GMM_PAGE_BROKEN));
	ck_assert(client_ask(&client_a, GMM__WIRE_RESHARE, &region, sizeof region, &f, sizeof f, &status));
	ck_assert_int_eq(status, GMM_OK);
	const struct gmm__wire_verdict *v = (void *)(client_a.reply + sizeof region);
	ck_assert_uint_eq(v->kind, GMM__VERDICT_JOIN);
	ck_assert_uint_eq(v->page, page);
	ck_assert_uint_eq(pool_record(page).references, 2);
	ck_assert(client_commit(&client_a, 0, 0, 1, GMM_PAGE_SHARED));
	ck_assert_uint_eq(pool_record(page).references, 2);
	ck_assert_uint_eq(pool_record(page).broken, 0);
	world_end();
}
END_TEST

START_TEST(fill_pages_get_an_extent)
{
	world_begin("");
	uint8_t bytes[GMM__PAGE_BYTES];
	struct gmm__wire_finding f[100];
	struct gmm__wire_verdict v[100];
	uint64_t offset;

	memset(bytes, 0xcc, sizeof bytes);
	for (uint16_t i = 0; i < 100; i++)
		f[i] = client_finding(&client_a, i, bytes);
	ck_assert_uint_eq(client_offer(&client_a, 0, 0, 100, f, 100, v), 100);
	for (uint32_t i = 0; i < 100; i++) {
		ck_assert_uint_eq(v[i].kind, GMM__VERDICT_JOIN);
		ck_assert_uint_eq(v[i].flags, GMM__WIRE_FILL);
		ck_assert_uint_eq(v[i].page, v[0].page + i % GMM__FILL_EXTENT);
	}
	ck_assert(client_commit(&client_a, 0, 0, 100, GMM_PAGE_FILL | GMM__FLAG_FILL));
	ck_assert_uint_eq(client_offer(&client_b, 3, 0, 100, f, 100, v), 100);
	ck_assert(client_commit(&client_b, 3, 0, 100, GMM_PAGE_FILL | GMM__FLAG_FILL));
	ck_assert_uint_eq(pool_record(v[0].page).references, 4);
	world_check();
	int fd = client_file(&client_a, v[99].page, &offset);
	uint8_t read_back[GMM__PAGE_BYTES];
	ck_assert_int_eq(pread(fd, read_back, sizeof read_back, (off_t)offset), sizeof read_back);
	ck_assert_int_eq(memcmp(read_back, bytes, sizeof bytes), 0);
	close(fd);
	world_end();
}
END_TEST

START_TEST(zero_pages_need_no_other)
{
	world_begin("");
	static const uint8_t zero[GMM__PAGE_BYTES];
	struct gmm__wire_finding f = client_finding(&client_a, 5, zero);
	struct gmm__wire_verdict v[1];

	ck_assert_uint_eq(client_offer(&client_a, 0, 0, 10, &f, 1, v), 1);
	ck_assert_uint_eq(v[0].kind, GMM__VERDICT_ZERO);
	ck_assert_uint_eq(v[0].index, 5);
	ck_assert(client_commit(&client_a, 0, 5, 1, GMM_PAGE_ZERO));
	world_end();
}
END_TEST

/* A page that was not merged when it was found is offered again with NOTHING new. */
START_TEST(a_nominated_page_is_settled_later)
{
	world_begin("");
	struct gmm__wire_finding f = client_finding(&client_a, 0, page_bytes(4)), nothing = { .index = 0 };
	struct gmm__wire_verdict v[1];

	client_offer(&client_a, 0, 0, 1, &f, 1, v);
	client_offer(&client_b, 3, 0, 1, &f, 1, v);
	ck_assert_uint_eq(v[0].kind, GMM__VERDICT_PROMOTE);
	ck_assert(client_commit(&client_b, 3, 0, 1, GMM_PAGE_NOMINATED));
	nothing.fingerprint = f.fingerprint;
	ck_assert_uint_eq(client_offer(&client_b, 3, 0, 1, &nothing, 1, v), 1);
	ck_assert_uint_eq(v[0].kind, GMM__VERDICT_PROMOTE);
	ck_assert(client_commit(&client_b, 3, 0, 1, GMM_PAGE_NOMINATED));
	/* Its twin is gone. */
	ck_assert(client_commit(&client_a, 0, 0, 1, GMM_PAGE_VOLATILE));
	ck_assert_uint_eq(client_offer(&client_b, 3, 0, 1, &nothing, 1, v), 1);
	ck_assert_uint_eq(v[0].kind, GMM__VERDICT_UNIQUE);
	ck_assert(client_commit(&client_b, 3, 0, 1, GMM_PAGE_UNIQUE));
	world_end();
}
END_TEST

START_TEST(bytes_that_changed_are_not_promoted)
{
	world_begin("");
	struct gmm__wire_finding f = client_finding(&client_a, 0, page_bytes(4));
	struct gmm__wire_verdict v[1];

	client_offer(&client_a, 0, 0, 1, &f, 1, v);
	client_offer(&client_b, 3, 0, 1, &f, 1, v);
	ck_assert_uint_eq(v[0].kind, GMM__VERDICT_PROMOTE);
	ck_assert_uint_eq(client_promote(&client_b, 3, 0, 1, 0, page_bytes(5)), GMM__NIL);
	ck_assert_uint_eq(served.service->pooled->domain->pool.used_pages, 0);
	ck_assert(client_commit(&client_b, 3, 0, 1, GMM_PAGE_VOLATILE));
	world_end();
}
END_TEST

/* Three equal pages in one region: two are to be promoted, and become one. */
START_TEST(equal_pages_of_one_region_become_one)
{
	world_begin("");
	struct gmm__wire_finding f[3];
	struct gmm__wire_verdict v[3];

	for (uint16_t i = 0; i < 3; i++)
		f[i] = client_finding(&client_a, i, page_bytes(9));
	ck_assert_uint_eq(client_offer(&client_a, 0, 0, 3, f, 3, v), 3);
	ck_assert_uint_eq(v[1].kind, GMM__VERDICT_PROMOTE);
	ck_assert_uint_eq(v[2].kind, GMM__VERDICT_PROMOTE);
	struct gmm__wire_region region = { .slot = 0, .first = 0, .count = 3, .n = 2 };
	uint8_t more[8 + 2 * GMM__PAGE_BYTES];
	int status = -1;
	memcpy(more, (uint32_t[]){ 1, 2 }, 8);
	memcpy(more + 8, page_bytes(9), GMM__PAGE_BYTES);
	memcpy(more + 8 + GMM__PAGE_BYTES, page_bytes(9), GMM__PAGE_BYTES);
	ck_assert(client_ask(&client_a, GMM__WIRE_PROMOTE, &region, sizeof region, more, sizeof more, &status));
	gmm__page_id page[2];
	memcpy(page, client_a.reply + sizeof region, sizeof page);
	ck_assert_uint_ne(page[0], GMM__NIL);
	ck_assert_uint_eq(page[0], page[1]);
	ck_assert_uint_eq(pool_record(page[0]).references, 2);
	ck_assert(client_commit(&client_a, 0, 0, 3, GMM_PAGE_VOLATILE));
	ck_assert_uint_eq(pool_record(page[0]).references, 0);
	world_end();
}
END_TEST

START_TEST(slots_and_vms_end)
{
	world_begin("");
	gmm__page_id page = share_new(&client_a, 0, &client_b, 3, 2);
	struct gmm__wire_remove remove = { .number = 3 };
	int status = -1;

	ck_assert(client_ask(&client_b, GMM__WIRE_SLOT_REMOVE, &remove, sizeof remove, NULL, 0, &status));
	ck_assert_int_eq(status, GMM_OK);
	ck_assert_uint_eq(pool_record(page).references, 1);
	remove.number = 0;
	ck_assert(client_ask(&client_a, GMM__WIRE_VM_REMOVE, &remove, sizeof remove, NULL, 0, &status));
	ck_assert_int_eq(status, GMM_OK);
	ck_assert_uint_eq(pool_record(page).references, 0);
	ck_assert(client_ask(&client_b, GMM__WIRE_VM_REMOVE, &remove, sizeof remove, NULL, 0, &status));
	gmm__service_tick(served.service);
	ck_assert_ptr_null(served.service->pooled);
	/* The numbers are free again. */
	ck_assert_int_eq(client_add_vm(&client_a, 0, ""), GMM_OK);
	client_add_slot(&client_a, 0, 0, 0, 16);
	world_end();
}
END_TEST

START_TEST(domains_share_nothing)
{
	world_begin("");
	struct gmm__wire_verdict v[1];
	struct gmm__wire_finding f;
	struct gmm__wire_chunk chunk = { .with_file = 1 };
	int status = 0;

	gmm__page_id page = share_new(&client_a, 0, &client_b, 3, 2);
	client_close(&client_b);
	client_hello(&client_b);
	ck_assert_int_eq(client_add_vm(&client_b, 0, "other"), GMM_OK);
	client_add_slot(&client_b, 0, 0, 0, 16);
	/* Even a page with the very fingerprint finds nothing. */
	f = client_finding(&client_a, 0, page_bytes(2));
	ck_assert_uint_eq(client_offer(&client_b, 0, 0, 1, &f, 1, v), 1);
	ck_assert_uint_eq(v[0].kind, GMM__VERDICT_UNIQUE);
	chunk.chunk = gmm__page_chunk(page);
	ck_assert(client_ask(&client_b, GMM__WIRE_CHUNK, &chunk, sizeof chunk, NULL, 0, &status));
	ck_assert_int_eq(status, GMM_ERR_NOT_FOUND);
	ck_assert_int_eq(client_b.fd, -1);
	ck_assert_int_eq(client_add_vm(&client_b, 1, "unheard-of"), GMM_ERR_NO_DOMAIN); /* root has no domain of its own */
	ck_assert(client_commit(&client_b, 0, 0, 1, GMM_PAGE_UNIQUE));
	world_end();
}
END_TEST

/* What b is told of its pages, in an order that is always the same. */
static void ask_about_pages(uint8_t ret_answers[2 * 64])
{
	struct gmm__wire_finding f[64];
	struct gmm__wire_verdict v[64];

	ck_assert_int_eq(client_add_vm(&client_b, 0, "other"), GMM_OK);
	client_add_slot(&client_b, 0, 0, 0, 64);
	for (int round = 0; round < 2; round++) {
		for (uint16_t i = 0; i < 64; i++) {
			f[i] = client_finding(&client_b, i, page_bytes(i % 50u));
			f[i].flags |= round ? GMM__WIRE_WRITTEN : 0;
		}
		ck_assert_uint_eq(client_offer(&client_b, 0, 0, 64, f, 64, v), 64);
		for (int i = 0; i < 64; i++)
			ret_answers[round * 64 + i] = (uint8_t)(v[i].kind << 4 | v[i].flags);
		ck_assert(client_commit(&client_b, 0, 0, 64, GMM_PAGE_UNIQUE));
	}
}

/* Nobody can guess by its own offers what is in another domain, not even if that has a page of the very fingerprint that
 * was guessed. */
START_TEST(answers_do_not_depend_on_other_domains)
{
	uint8_t alone[2 * 64], beside[2 * 64];
	struct gmm__wire_finding f[64];
	struct gmm__wire_verdict v[64];

	world_prepare("");
	world_open();
	client_hello(&client_b);
	ask_about_pages(alone);
	client_close(&client_b);
	gmm__service_tick(served.service);
	client_hello(&client_a);
	client_hello(&client_b);
	ck_assert_int_eq(client_add_vm(&client_a, 0, ""), GMM_OK);
	client_add_slot(&client_a, 0, 0, 0, 4096);
	/* The secret of b's domain is another one each time; a gets to know it and offers as if in b's place. */
	struct client spy = { 0 };
	client_hello(&spy);
	ck_assert_int_eq(client_add_vm(&spy, 0, "other"), GMM_OK);
	for (uint16_t i = 0; i < 64; i++)
		f[i] = client_finding(&spy, i, page_bytes(i % 50u));
	ck_assert_uint_eq(client_offer(&client_a, 0, 0, 64, f, 64, v), 64);
	ck_assert(client_commit(&client_a, 0, 0, 64, GMM_PAGE_UNIQUE));
	ask_about_pages(beside);
	ck_assert_mem_eq(alone, beside, sizeof alone);
	client_close(&spy);
	world_end();
}
END_TEST

/* The limit counts whole chunks, of 512 pages. */
START_TEST(a_full_pool_shares_no_more)
{
	enum { PAGES = GMM__CHUNK_PAGES + 8 };
	static struct gmm__wire_finding f[PAGES];
	static struct gmm__wire_verdict v[PAGES];
	uint32_t promoted = 0;

	world_prepare("[limits]\ndomain_pool_pages = 1023\n");
	world_open();
	client_hello(&client_a);
	client_hello(&client_b);
	ck_assert_int_eq(client_add_vm(&client_a, 0, ""), GMM_OK);
	ck_assert_int_eq(client_add_vm(&client_b, 0, ""), GMM_OK);
	client_add_slot(&client_a, 0, 0, 0, PAGES);
	client_add_slot(&client_b, 0, 0, 0, PAGES);
	for (uint16_t i = 0; i < PAGES; i++)
		f[i] = client_finding(&client_a, i, page_bytes(i + 1u));
	client_offer(&client_a, 0, 0, PAGES, f, PAGES, v);
	ck_assert(client_commit(&client_a, 0, 0, PAGES, GMM_PAGE_UNIQUE));
	client_offer(&client_b, 0, 0, PAGES, f, PAGES, v);
	for (uint32_t i = 0; i < PAGES; i++) {
		ck_assert_uint_eq(v[i].kind, GMM__VERDICT_PROMOTE);
		promoted += client_promote(&client_b, 0, 0, PAGES, i, page_bytes(i + 1)) != GMM__NIL;
	}
	ck_assert_uint_eq(promoted, GMM__CHUNK_PAGES);
	ck_assert_uint_eq(served.service->pooled->domain->pool.used_pages, GMM__CHUNK_PAGES);
	/* What is in the pool can be joined by as many as come. */
	f[0].flags = GMM__WIRE_WRITTEN;
	client_offer(&client_a, 0, 0, PAGES, f, 1, v);
	ck_assert_uint_eq(v[0].kind, GMM__VERDICT_JOIN);
	ck_assert(client_commit(&client_a, 0, 0, PAGES, GMM_PAGE_UNIQUE));
	ck_assert(client_commit(&client_b, 0, 0, PAGES, GMM_PAGE_UNIQUE));
	ck_assert_uint_eq(served.service->pooled->domain->pool.used_pages, 0);
	world_end();
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		two_clients_share_a_page, what_is_not_committed_is_given_back, a_written_page_leaves_its_cover,
		a_broken_page_is_shared_again, fill_pages_get_an_extent, zero_pages_need_no_other,
		a_nominated_page_is_settled_later, bytes_that_changed_are_not_promoted,
		equal_pages_of_one_region_become_one, slots_and_vms_end, domains_share_nothing,
		answers_do_not_depend_on_other_domains, a_full_pool_shares_no_more,
	};

	return service_world_main("service_session", tests, sizeof tests / sizeof *tests);
}
