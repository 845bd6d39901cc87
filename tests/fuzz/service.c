/* Clients of the sharing service that send what they like. The service must neither crash nor lose count: whatever two of
 * them said, its accounts are right, and when they are gone all is as it was for the two that share a page meanwhile.
 *
 * Input: a byte, odd where both clients have said HELLO and have a VM with a slot; then packets, each a byte of HOW_* bits, a
 * 16-bit length and that many bytes. A fuzzer cannot guess fingerprints of a secret, nor does it get far with pages of 4 KiB:
 * unless a packet is sent as it is, fingerprints below PAGES stand for those of made-up pages, each byte after the indexes of a
 * PROMOTE for a whole page, and the request that MODULE and MODULES answer is counted from the last one. */
#include <sched.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <unistd.h>

#include "dedup/digest.h"
#include "service/pools.h"
#include "service/service.h"
#include "tests/fuzz/fuzz.h"
#include "wire/wire.h"

enum { HOW_AS_IT_IS = 1, HOW_SECOND_CLIENT = 2 };
enum { PAGES = 8, SLOT_PAGES = 64, TURNS = 64 };
enum { HEADER = sizeof(struct gmm__wire_header), REGION = sizeof(struct gmm__wire_region) };

static struct {
	char dir[64], config[96];
	struct gmm__service *service;
	int well_behaved[2];           /* sockets of two that share `page` all the time */
	gmm__page_id page;
	_Alignas(8) uint8_t bytes[PAGES][GMM__PAGE_BYTES];
	uint32_t fingerprint[PAGES];
} world;

static _Alignas(8) uint8_t reply[GMM__WIRE_MAX];

/* ---- clients --------------------------------------------------------------------------------------------------------- */

static int connect_client(void)
{
	int pair[2], bytes = GMM__WIRE_MAX;

	fuzz_check(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
	for (int i = 0; i < 2; i++)
		setsockopt(pair[i], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
	gmm__service_add_client(world.service, pair[1]);
	return pair[0];
}

/* Sends a packet and takes the reply. Its size; 0 or less where there is none. Descriptors are dropped. */
static ssize_t ask(int socket, const void *packet, size_t size)
{
	ssize_t n = 0;

	if (send(socket, packet, size, MSG_NOSIGNAL) < 0)
		return 0;
	gmm__service_turn(world.service, 0);
	for (ssize_t more; (more = recv(socket, reply, sizeof reply, 0)) > 0;)
		n = more;
	return n;
}

static void ask_well(int socket, uint32_t type, void *request, size_t size)
{
	struct gmm__wire_header *header = request;

	*header = (struct gmm__wire_header){ type, (uint32_t)size, 1, 0 };
	ssize_t n = ask(socket, request, size);
	fuzz_check(type == GMM__WIRE_COMMIT || n >= HEADER);
	fuzz_check(type == GMM__WIRE_COMMIT || ((struct gmm__wire_header *)(void *)reply)->status == GMM_OK);
}

static int greet(int socket)
{
	struct gmm__wire_hello hello = { .magic = GMM__WIRE_MAGIC, .version = GMM__WIRE_VERSION, .program = "fuzz" };
	struct gmm__wire_vm_add vm = { .priority = GMM_PRIORITY_NORMAL };
	struct gmm__wire_slot_add slot = { .pages = SLOT_PAGES };

	ask_well(socket, GMM__WIRE_HELLO, &hello, sizeof hello);
	ask_well(socket, GMM__WIRE_VM_ADD, &vm, sizeof vm);
	for (int i = 0; i < PAGES && !world.page; i++) {
		struct gmm__secret secret;
		memcpy(secret.bytes, ((struct gmm__wire_vm *)(void *)reply)->secret, sizeof secret.bytes);
		world.fingerprint[i] = gmm__digest_whole(world.bytes[i], &secret).fingerprint;
	}
	ask_well(socket, GMM__WIRE_SLOT_ADD, &slot, sizeof slot);
	return socket;
}

/* ---- the world ----------------------------------------------------------------------------------------------------- */

/* What a region message says of the slot's first page, with `more` after it. Returns the first element of the reply. */
static void say_of_page(int socket, uint32_t type, const void *more, size_t more_size, void *ret_element, size_t size)
{
	static _Alignas(8) uint8_t packet[REGION + 8 + GMM__PAGE_BYTES];
	struct gmm__wire_region region = { .count = 1, .n = 1 };

	memcpy(packet, &region, REGION);
	memcpy(packet + REGION, more, more_size);
	ask_well(socket, type, packet, REGION + more_size);
	if (ret_element)
		memcpy(ret_element, reply + REGION, size);
}

static void share_page(void)
{
	struct gmm__wire_finding found = { .found = GMM__FOUND_OTHER };
	struct gmm__wire_states shared = { .pages = 1, .state = GMM_PAGE_SHARED };
	struct gmm__wire_verdict verdict = { 0 };
	uint8_t promoted[8 + GMM__PAGE_BYTES] = { 0 };
	const int *client = world.well_behaved;

	found.fingerprint = world.fingerprint[1];
	say_of_page(client[0], GMM__WIRE_OFFER, &found, sizeof found, &verdict, sizeof verdict);
	fuzz_check(verdict.kind == GMM__VERDICT_UNIQUE);
	say_of_page(client[1], GMM__WIRE_OFFER, &found, sizeof found, &verdict, sizeof verdict);
	fuzz_check(verdict.kind == GMM__VERDICT_PROMOTE);
	memcpy(promoted + 8, world.bytes[1], GMM__PAGE_BYTES);
	say_of_page(client[1], GMM__WIRE_PROMOTE, promoted, sizeof promoted, &world.page, sizeof world.page);
	fuzz_check(world.page != GMM__NIL);
	say_of_page(client[1], GMM__WIRE_COMMIT, &shared, sizeof shared, NULL, 0);
	say_of_page(client[0], GMM__WIRE_OFFER, &found, sizeof found, &verdict, sizeof verdict);
	fuzz_check(verdict.kind == GMM__VERDICT_JOIN && verdict.page == world.page);
	say_of_page(client[0], GMM__WIRE_COMMIT, &shared, sizeof shared, NULL, 0);
}

static void close_world(void)
{
	char path[96];

	gmm__service_close(world.service);
	for (int i = 0; i < 2; i++) {
		close(world.well_behaved[i]);
		snprintf(path, sizeof path, "%s/%s", world.dir, i ? "pool" : "pool-ro");
		umount2(path, MNT_DETACH);
		rmdir(path);
	}
	unlink(world.config);
	rmdir(world.dir);
}

/* In a mount namespace of its own, with limits that keep an input short and nobody waiting. */
static void open_world(void)
{
	struct gmm__service_options options = { .runtime_dir = world.dir, .config_path = world.config, .listener = -1,
						.without_socket = true };

	if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0) {
		printf("skipped: no right to mount\n");
		exit(77);
	}
	strcpy(world.dir, "/tmp/gmm-fuzz.XXXXXX");
	fuzz_check(mkdtemp(world.dir));
	fuzz_check(gmm__store_prepare(world.dir, geteuid()) == 0);
	snprintf(world.config, sizeof world.config, "%s/config", world.dir);
	FILE *file = fopen(world.config, "w");
	fuzz_check(file);
	fputs("[domain test]\nuser = root\n[domain other]\nuser = root\nask = yes\n"
	      "[limits]\npages_per_second = 1000000000\npages_per_second_per_user = 1000000000\ndomain_ram_pages = 65536\n", file);
	fclose(file);
	fuzz_check(gmm__service_open(&options, &world.service) == GMM_OK);
	for (size_t i = 0; i < sizeof world.bytes / 8; i++)
		((uint64_t *)(void *)world.bytes)[i] = (i + 1) * 0x9e3779b97f4a7c15ull;
	world.well_behaved[0] = greet(connect_client());
	world.well_behaved[1] = greet(connect_client());
	share_page();
	atexit(close_world);
}

static void check_accounts(bool must_be_certain)
{
	bool certain;
	const char *broken = gmm__service_validate(world.service, &certain);

	if (broken)
		fprintf(stderr, "%s\n", broken);
	fuzz_check(!broken && (certain || !must_be_certain));
}

/* ---- packets --------------------------------------------------------------------------------------------------------- */

static void put_findings_right(uint8_t *packet, size_t size)
{
	struct gmm__wire_finding finding;

	for (size_t at = REGION; at + sizeof finding <= size; at += sizeof finding) {
		memcpy(&finding, packet + at, sizeof finding);
		if (finding.fingerprint < PAGES && finding.fingerprint)
			finding.fingerprint = world.fingerprint[finding.fingerprint];
		memcpy(packet + at, &finding, sizeof finding);
	}
}

/* The packet's size with a page in place of each byte that follows the indexes. */
static size_t put_pages_right(uint8_t *packet, size_t size)
{
	struct gmm__wire_region region;
	uint8_t page[GMM__WIRE_PROMOTE_PAGES];

	memcpy(&region, packet, REGION);
	size_t at = REGION + (region.n * 4ull + 7) / 8 * 8;
	if (region.n > GMM__WIRE_PROMOTE_PAGES || at > size)
		return size;
	size_t n = size - at < GMM__WIRE_PROMOTE_PAGES ? size - at : GMM__WIRE_PROMOTE_PAGES;
	memcpy(page, packet + at, n);
	for (size_t i = 0; i < n; i++)
		memcpy(packet + at + i * GMM__PAGE_BYTES, world.bytes[page[i] % PAGES], GMM__PAGE_BYTES);
	return at + n * GMM__PAGE_BYTES;
}

static size_t put_right(uint8_t *packet, size_t size)
{
	static uint32_t sequence;
	struct gmm__wire_header header;

	if (size < HEADER)
		return size;
	memcpy(&header, packet, HEADER);
	if (header.type == GMM__WIRE_OFFER || header.type == GMM__WIRE_RESHARE)
		put_findings_right(packet, size);
	if ((header.type == GMM__WIRE_MODULE || header.type == GMM__WIRE_MODULES) && size >= HEADER + 4) {
		uint32_t request;
		memcpy(&request, packet + HEADER, 4);
		request += world.service->modules_request;
		memcpy(packet + HEADER, &request, 4);
	}
	if (header.type == GMM__WIRE_PROMOTE && size >= REGION)
		size = put_pages_right(packet, size);
	header.size = (uint32_t)size;
	header.sequence = ++sequence;
	memcpy(packet, &header, HEADER);
	return size;
}

static void send_packets(const int *client, const uint8_t *data, size_t size)
{
	static _Alignas(8) uint8_t packet[GMM__WIRE_MAX + (1 << 16)];

	while (size >= 3) {
		uint8_t how = data[0];
		uint16_t length;
		memcpy(&length, data + 1, 2);
		data += 3;
		size -= 3;
		size_t n = length < size ? length : size;
		memcpy(packet, data, n);
		data += n;
		size -= n;
		ask(client[how & HOW_SECOND_CLIENT ? 1 : 0], packet, how & HOW_AS_IT_IS ? n : put_right(packet, n));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!world.service)
		open_world();
	if (size == 0)
		return 0;
	int client[2] = { connect_client(), connect_client() };
	for (int i = 0; i < 2 && data[0] % 2; i++)
		greet(client[i]);
	send_packets(client, data + 1, size - 1);
	check_accounts(false);
	close(client[0]);
	close(client[1]);
	for (int i = 0; i < TURNS && world.service->n_sessions > 2; i++)
		gmm__service_turn(world.service, 0); /* takes what they had sent, too */
	gmm__service_tick(world.service);
	fuzz_check(world.service->n_sessions == 2 && world.service->pooled && !world.service->pooled->next);
	struct gmm__pool *pool = &world.service->pooled->domain->pool;
	fuzz_check(gmm__pool_record(pool, world.page).references == 2);
	fuzz_check(pool->used_pages == 1 && pool->deferred_pages == 0);
	check_accounts(true);
	return 0;
}
