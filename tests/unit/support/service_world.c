/* A service and its clients; see service_world.h. */
#include "tests/unit/support/service_world.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <unistd.h>

#include "dedup/digest.h"
#include "service/pools.h"
#include "service/session.h"
#include "tests/unit/support/unit.h"
#include "wire/wire.h"

struct service_world served;
struct client client_a, client_b;

int service_world_main(const char *name, const TTest *const *tests, size_t count)
{
	if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0) {
		printf("skipped: no right to mount\n");
		return 77;
	}
	return unit_main(name, tests, count);
}

static void keep_log(void *arg, enum gmm_log_level level, const char *message)
{
	(void)arg, (void)level;
	snprintf(served.log, sizeof served.log, "%s", message);
	if (getenv("GMM_TEST_LOG"))
		fprintf(stderr, "%s\n", message);
}

void world_prepare(const char *config)
{
	strcpy(served.dir, "/tmp/gmm-service.XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(served.dir));
	ck_assert_int_eq(gmm__store_prepare(served.dir, geteuid()), 0);
	snprintf(served.config, sizeof served.config, "%s/config", served.dir);
	FILE *f = fopen(served.config, "w");
	ck_assert_ptr_nonnull(f);
	fprintf(f, "[domain test]\nuser = root\n[domain other]\nuser = root\nask = yes\n%s", config);
	fclose(f);
}

void world_open(void)
{
	struct gmm__service_options options = { .runtime_dir = served.dir, .config_path = served.config, .listener = -1,
						.without_socket = true, .log = keep_log };

	ck_assert_msg(gmm__service_open(&options, &served.service) == GMM_OK, "%s", served.log);
}

void world_close(void)
{
	gmm__service_close(served.service);
	served.service = NULL;
}

void world_remove(void)
{
	char path[96];

	for (int i = 0; i < 2; i++) {
		snprintf(path, sizeof path, "%s/%s", served.dir, i ? "pool" : "pool-ro");
		umount2(path, MNT_DETACH);
		rmdir(path);
	}
	unlink(served.config);
	rmdir(served.dir);
}

void world_turn(void)
{
	for (int i = 0; i < 4 && !served.out_of_process; i++)
		gmm__service_turn(served.service, 0);
}

void world_check(void)
{
	bool certain;
	const char *broken = gmm__service_validate(served.service, &certain);

	ck_assert(certain);
	ck_assert_msg(!broken, "%s", broken);
}

/* ---- clients --------------------------------------------------------------------------------------------------------- */

void client_connect(struct client *client)
{
	struct timeval timeout = { .tv_sec = 20 };
	int pair[2], bytes = GMM__WIRE_MAX;

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	for (int i = 0; i < 2; i++)
		setsockopt(pair[i], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
	setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
	fcntl(pair[1], F_SETFL, O_NONBLOCK);
	client->socket = pair[0];
	client->fd = -1;
	gmm__service_add_client(served.service, pair[1]);
}

bool client_is_cut_off(struct client *client)
{
	struct pollfd p = { .fd = client->socket, .events = POLLIN | POLLRDHUP };

	world_turn();
	return poll(&p, 1, 0) == 1 && p.revents & (POLLHUP | POLLRDHUP);
}

bool client_send_raw(struct client *client, const void *bytes, size_t size)
{
	return send(client->socket, bytes, size, MSG_NOSIGNAL) == (ssize_t)size;
}

bool client_ask(struct client *client, uint32_t type, void *request, size_t size, const void *more, size_t more_size,
		int *ret_status)
{
	struct gmm__wire_header *header = request;
	struct iovec parts[2] = { { request, size }, { (void *)(uintptr_t)more, more_size } };

	header->type = type;
	header->sequence = ++client->sequence;
	if (gmm__wire_send(client->socket, parts, more_size ? 2 : 1, -1) != 0)
		return false;
	if (type == GMM__WIRE_COMMIT || type == GMM__WIRE_MODULE || type == GMM__WIRE_MODULES)
		return !client_is_cut_off(client);
	world_turn();
	ssize_t n = gmm__wire_receive(client->socket, client->reply, sizeof client->reply, &client->fd);
	if (n <= 0)
		return false;
	const struct gmm__wire_header *reply = (void *)client->reply;
	ck_assert_uint_eq(reply->type, type);
	ck_assert_uint_eq(reply->sequence, client->sequence);
	client->size = (size_t)n;
	*ret_status = reply->status;
	return true;
}

void client_close(struct client *client)
{
	close(client->socket);
	client->socket = -1;
	world_turn();
}

int client_resume(struct client *client)
{
	struct gmm__wire_hello hello = { .magic = GMM__WIRE_MAGIC, .version = GMM__WIRE_VERSION, .client = client->number,
					 .program = "test" };
	int status = GMM_OK;

	memcpy(hello.token, client->token, sizeof hello.token);
	ck_assert(client_ask(client, GMM__WIRE_HELLO, &hello, sizeof hello, NULL, 0, &status));
	if (status != GMM_OK)
		return status;
	const struct gmm__wire_welcome *welcome = (void *)client->reply;
	ck_assert_uint_eq(client->size, sizeof *welcome);
	client->number = welcome->client;
	client->resumed = welcome->resumed;
	memcpy(client->token, welcome->token, sizeof client->token);
	return GMM_OK;
}

void client_hello(struct client *client)
{
	client_connect(client);
	client->number = 0;
	memset(client->token, 0, sizeof client->token);
	ck_assert_int_eq(client_resume(client), GMM_OK);
	ck_assert_uint_ne(client->number, 0);
	ck_assert(!client->resumed);
}

int client_add_vm(struct client *client, uint32_t vm, const char *domain)
{
	struct gmm__wire_vm_add add = { .vm = vm, .priority = GMM_PRIORITY_NORMAL };
	int status = GMM_OK;

	strcpy(add.domain, domain);
	ck_assert(client_ask(client, GMM__WIRE_VM_ADD, &add, sizeof add, NULL, 0, &status));
	if (status == GMM_OK)
		memcpy(client->secret, ((struct gmm__wire_vm *)(void *)client->reply)->secret, sizeof client->secret);
	return status;
}

void client_add_slot(struct client *client, uint32_t vm, uint32_t slot, uint64_t gfn, uint32_t pages)
{
	struct gmm__wire_slot_add add = { .vm = vm, .slot = slot, .gfn = gfn, .pages = pages };
	int status = GMM_OK;

	ck_assert(client_ask(client, GMM__WIRE_SLOT_ADD, &add, sizeof add, NULL, 0, &status));
	ck_assert_int_eq(status, GMM_OK);
}

uint32_t client_offer(struct client *client, uint32_t slot, uint32_t first, uint32_t count,
		      const struct gmm__wire_finding *finding, uint32_t n, struct gmm__wire_verdict *ret_verdict)
{
	struct gmm__wire_region region = { .slot = slot, .first = first, .count = count, .n = n };
	int status = GMM_OK;

	ck_assert(client_ask(client, GMM__WIRE_OFFER, &region, sizeof region, finding, n * sizeof *finding, &status));
	ck_assert_int_eq(status, GMM_OK);
	const struct gmm__wire_region *reply = (void *)client->reply;
	ck_assert(gmm__wire_fits(client->size, sizeof *reply, reply->n, sizeof *ret_verdict));
	memcpy(ret_verdict, reply + 1, reply->n * sizeof *ret_verdict);
	return reply->n;
}

struct gmm__wire_finding client_finding(const struct client *client, uint16_t index, const uint8_t *bytes)
{
	struct gmm__secret secret;

	memcpy(secret.bytes, client->secret, sizeof secret.bytes);
	struct gmm__digest digest = gmm__digest_whole(bytes, &secret);
	return (struct gmm__wire_finding){
		.index = index, .found = digest.kind == GMM__DIGEST_ZERO ? GMM__FOUND_ZERO :
					 digest.kind == GMM__DIGEST_FILL ? GMM__FOUND_FILL : GMM__FOUND_OTHER,
		.flags = digest.kind == GMM__DIGEST_FILL ? GMM__WIRE_FILL : 0, .fingerprint = digest.fingerprint,
		.word = digest.word,
	};
}

gmm__page_id client_promote(struct client *client, uint32_t slot, uint32_t first, uint32_t count, uint32_t index,
			    const uint8_t *bytes)
{
	struct gmm__wire_region region = { .slot = slot, .first = first, .count = count, .n = 1 };
	uint8_t more[8 + GMM__PAGE_BYTES] = { 0 };
	int status = GMM_OK;

	memcpy(more, &index, sizeof index);
	memcpy(more + 8, bytes, GMM__PAGE_BYTES);
	ck_assert(client_ask(client, GMM__WIRE_PROMOTE, &region, sizeof region, more, sizeof more, &status));
	ck_assert_int_eq(status, GMM_OK);
	gmm__page_id page;
	memcpy(&page, client->reply + sizeof region, sizeof page);
	return page;
}

bool client_commit(struct client *client, uint32_t slot, uint32_t first, uint32_t count, uint8_t state)
{
	struct gmm__wire_region region = { .slot = slot, .first = first, .count = count, .n = 1 };
	struct gmm__wire_states states = { .pages = (uint16_t)count, .state = state };
	int status;

	return client_ask(client, GMM__WIRE_COMMIT, &region, sizeof region, &states, sizeof states, &status);
}

uint32_t client_poll(struct client *client, struct gmm__wire_look *ret_look)
{
	struct gmm__wire_poll poll = { .settled = 0 };
	int status = GMM_OK;

	ck_assert(client_ask(client, GMM__WIRE_POLL, &poll, sizeof poll, NULL, 0, &status));
	ck_assert_int_eq(status, GMM_OK);
	const struct gmm__wire_news *news = (void *)client->reply;
	ck_assert(gmm__wire_fits(client->size, sizeof *news, news->n_look, sizeof *ret_look));
	if (news->n_look)
		memcpy(ret_look, (const struct gmm__wire_look *)(const void *)(news + 1) + news->n_look - 1,
		       sizeof *ret_look);
	return news->n_look;
}

int client_file(struct client *client, gmm__page_id page, uint64_t *ret_offset)
{
	struct gmm__wire_chunk chunk = { .chunk = gmm__page_chunk(page), .with_file = 1 };
	int status = GMM_OK;

	ck_assert(client_ask(client, GMM__WIRE_CHUNK, &chunk, sizeof chunk, NULL, 0, &status));
	ck_assert_int_eq(status, GMM_OK);
	ck_assert_int_ge(client->fd, 0);
	const struct gmm__wire_place *place = (void *)client->reply;
	*ret_offset = place->file_chunk * GMM__CHUNK_BYTES + (uint64_t)gmm__page_index(page) * GMM__PAGE_BYTES;
	return client->fd;
}

const uint8_t *page_bytes(uint64_t seed)
{
	static _Alignas(8) uint8_t bytes[GMM__PAGE_BYTES];
	uint64_t *word = (void *)bytes;

	for (size_t i = 0; i < sizeof bytes / sizeof *word; i++)
		word[i] = (seed * 1000 + i) * 0x9e3779b97f4a7c15ull;
	return bytes;
}

gmm__page_id share_new(struct client *one, uint32_t slot_one, struct client *two, uint32_t slot_two, uint64_t seed)
{
	struct gmm__wire_finding f = client_finding(one, 0, page_bytes(seed));
	struct gmm__wire_finding again = { .index = 0, .found = GMM__FOUND_AGAIN, .fingerprint = f.fingerprint };
	struct gmm__wire_verdict v[1];
	struct gmm__wire_look look;

	ck_assert_uint_eq(client_offer(one, slot_one, 0, 1, &f, 1, v), 1);
	ck_assert_uint_eq(v[0].kind, GMM__VERDICT_UNIQUE);
	ck_assert_uint_eq(client_offer(two, slot_two, 0, 1, &f, 1, v), 1);
	ck_assert_uint_eq(v[0].kind, GMM__VERDICT_PROMOTE);
	gmm__page_id page = client_promote(two, slot_two, 0, 1, 0, page_bytes(seed));
	ck_assert_uint_ne(page, GMM__NIL);
	ck_assert(client_commit(two, slot_two, 0, 1, GMM_PAGE_SHARED));
	ck_assert_uint_eq(client_poll(one, &look), 1);
	ck_assert_uint_eq(look.slot, slot_one);
	ck_assert_uint_eq(look.page, 0);
	ck_assert_uint_eq(client_offer(one, slot_one, 0, 1, &again, 1, v), 1);
	ck_assert_uint_eq(v[0].kind, GMM__VERDICT_JOIN);
	ck_assert_uint_eq(v[0].page, page);
	ck_assert(client_commit(one, slot_one, 0, 1, GMM_PAGE_SHARED));
	return page;
}

/* ---- both ------------------------------------------------------------------------------------------------------------ */

void world_begin(const char *config)
{
	world_prepare(config);
	world_open();
	client_hello(&client_a);
	client_hello(&client_b);
	ck_assert_int_eq(client_add_vm(&client_a, 0, ""), GMM_OK);
	ck_assert_int_eq(client_add_vm(&client_b, 0, ""), GMM_OK);
	client_add_slot(&client_a, 0, 0, 0, 4096);
	client_add_slot(&client_b, 0, 3, 0, 4096);
}

void world_end(void)
{
	world_check();
	world_close();
	world_remove();
}

struct gmm__record pool_record(gmm__page_id page)
{
	return gmm__pool_record(&served.service->pooled->domain->pool, page);
}
