/* A sharing service that answers what it likes. The client must neither crash nor leak, its guests must read what they
 * wrote, and its accounts are right: whatever it was told.
 *
 * Input: a byte for each answer of HOW_* and, in its upper half, enum descriptor; a byte with the number of those that
 * follow; and these. Without them the answer is true, and the service is honest when the input has come to its end. Truth
 * is simple: every page that is not of zeros is to be promoted, or joined if it has been.
 *
 * Two VMs of equal RAM are passed over by an engine that is turned by hand, while pages are written, put back as they were,
 * made private and given up. */
#include <gmm/modules.h>

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "dedup/catalog.h"
#include "dedup/engine.h"
#include "dedup/remote.h"
#include "gmm/pool.h"
#include "gmm/sys/sys.h"
#include "tests/fuzz/fuzz.h"
#include "wire/wire.h"

enum { HOW_TRUE, HOW_OTHER_BODY, HOW_AS_IT_IS, HOW_OTHER_SIZE, HOW_CLOSE, HOWS };
enum descriptor { AS_TRUE, NONE, POOL, OTHER_BYTES, SHORT, PIPE, NULL_DEVICE, DESCRIPTORS };
enum { RAM_PAGES = 24, POOL_PAGES = GMM__CHUNK_PAGES, CHUNK = 77, DOMAIN = 5, ROUNDS = 3, HEAD = sizeof(struct gmm__wire_header) };

struct answer {
	size_t size;
	int fd;
	_Alignas(8) uint8_t bytes[GMM__WIRE_MAX];
};

static struct {
	char dir[64], path[80];
	int listener, stop;
	int fd[DESCRIPTORS];
	const uint8_t *input;
	size_t left;
	uint32_t pages;
	uint32_t fingerprint[POOL_PAGES]; /* of the pool's pages */
	uint32_t offered[RAM_PAGES];      /* of the slot's, as last offered */
	struct answer answer;
	_Alignas(8) uint8_t request[GMM__WIRE_MAX];
} world;

/* ---- the truth ------------------------------------------------------------------------------------------------------- */

static uint32_t find(uint32_t fingerprint)
{
	uint32_t i = 0;

	while (i < world.pages && world.fingerprint[i] != fingerprint)
		i++;
	return i;
}

static void verdicts(const struct gmm__wire_region *request, struct answer *a)
{
	const struct gmm__wire_finding *f = (const void *)(request + 1);
	struct gmm__wire_verdict *v = (void *)(a->bytes + sizeof *request);

	fuzz_check(gmm__wire_fits(request->header.size, sizeof *request, request->n, sizeof *f));
	fuzz_check(request->first <= RAM_PAGES && request->count <= RAM_PAGES - request->first && request->n <= request->count);
	memcpy(a->bytes, request, sizeof *request);
	for (uint32_t i = 0; i < request->n; i++) {
		fuzz_check(f[i].index < request->count);
		uint32_t page = find(f[i].fingerprint);
		bool known = page < world.pages, reshare = request->header.type == GMM__WIRE_RESHARE;
		world.offered[request->first + f[i].index] = f[i].fingerprint;
		v[i] = (struct gmm__wire_verdict){ .index = f[i].index, .page = known ? gmm__page_make(CHUNK, page) : GMM__NIL,
						   .kind = f[i].found == GMM__FOUND_ZERO ? GMM__VERDICT_ZERO :
							   known ? GMM__VERDICT_JOIN :
							   reshare ? GMM__VERDICT_UNIQUE : GMM__VERDICT_PROMOTE };
	}
	a->size = sizeof *request + request->n * sizeof *v;
}

static void promote(const struct gmm__wire_region *request, struct answer *a)
{
	const uint32_t *index = (const void *)(request + 1);
	const uint8_t *bytes = (const uint8_t *)index + (request->n + 1) / 2 * 8;
	uint32_t *page = (void *)(a->bytes + sizeof *request);

	fuzz_check(request->n <= GMM__WIRE_PROMOTE_PAGES);
	fuzz_check(request->header.size == sizeof *request + (request->n + 1) / 2 * 8 + request->n * GMM__PAGE_BYTES);
	memcpy(a->bytes, request, sizeof *request);
	for (uint32_t i = 0; i < request->n; i++) {
		fuzz_check(index[i] < request->count);
		page[i] = world.pages < POOL_PAGES ? gmm__page_make(CHUNK, world.pages) : GMM__NIL;
		if (page[i] == GMM__NIL)
			continue;
		fuzz_check(pwrite(world.fd[POOL], bytes + i * GMM__PAGE_BYTES, GMM__PAGE_BYTES,
				  (off_t)world.pages * GMM__PAGE_BYTES) == GMM__PAGE_BYTES);
		world.fingerprint[world.pages++] = world.offered[request->first + index[i]];
	}
	a->size = sizeof *request + request->n * sizeof *page;
}

static void place(const struct gmm__wire_chunk *request, struct answer *a)
{
	struct gmm__wire_place *p = (void *)a->bytes;

	p->domain_number = DOMAIN;
	a->size = request->chunk == CHUNK ? sizeof *p : sizeof p->header;
	p->header.status = request->chunk == CHUNK ? GMM_OK : GMM_ERR_NOT_FOUND;
	a->fd = request->with_file ? world.fd[POOL] : -1;
}

static void tell_truth(const struct gmm__wire_header *request, struct answer *a)
{
	struct gmm__wire_welcome *welcome = (void *)a->bytes;
	struct gmm__wire_vm *vm = (void *)a->bytes;
	struct gmm__wire_news *news = (void *)a->bytes;

	memset(a->bytes, 0, 4096);
	a->size = HEAD;
	a->fd = -1;
	switch (request->type) {
	case GMM__WIRE_HELLO:
		*welcome = (struct gmm__wire_welcome){ .version = GMM__WIRE_VERSION, .client = 7, .token = { 42 },
			.resumed = ((const struct gmm__wire_hello *)(const void *)request)->client == 7 };
		a->size = sizeof *welcome;
		break;
	case GMM__WIRE_VM_ADD:
		vm->domain_number = DOMAIN;
		memset(vm->secret, 3, sizeof vm->secret);
		a->size = sizeof *vm;
		break;
	case GMM__WIRE_OFFER:
	case GMM__WIRE_RESHARE: verdicts((const void *)request, a); break;
	case GMM__WIRE_PROMOTE: promote((const void *)request, a); break;
	case GMM__WIRE_CHUNK: place((const void *)request, a); break;
	case GMM__WIRE_POLL:
		news->cpu_percent = UINT32_MAX;
		news->modules = 1;
		a->size = sizeof *news;
		break;
	default: break;
	}
}

/* ---- and what is made of it -------------------------------------------------------------------------------------------- */

static uint8_t next_byte(void)
{
	if (world.left == 0)
		return 0;
	world.left--;
	return *world.input++;
}

/* Changes the answer by the next part of the input. False: the connection is to be closed instead. */
static bool change(struct answer *a)
{
	uint8_t how = next_byte(), n = next_byte(), byte[UINT8_MAX];
	enum descriptor descriptor = how / 16 % DESCRIPTORS;

	for (uint8_t i = 0; i < n; i++)
		byte[i] = next_byte();
	switch (how % 16 % HOWS) {
	case HOW_TRUE: /* but for pairs of a place and what is different there */
		for (uint8_t i = 0; i + 1 < n; i += 2)
			a->bytes[HEAD + byte[i]] ^= byte[i + 1];
		break;
	case HOW_OTHER_BODY:
		memcpy(a->bytes + HEAD, byte, n);
		a->size = (size_t)HEAD + n;
		break;
	case HOW_AS_IT_IS:
		memcpy(a->bytes, byte, n);
		a->size = n ? n : 1;
		break;
	case HOW_OTHER_SIZE:
		a->size = n < a->size ? a->size - n : a->size;
		break;
	default: return false;
	}
	if (descriptor != AS_TRUE)
		a->fd = descriptor == NONE ? -1 : world.fd[descriptor];
	return true;
}

/* Not by gmm__wire_send, which puts the size right. */
static bool send_answer(int client, const struct answer *a)
{
	union {
		char bytes[CMSG_SPACE(2 * sizeof(int))];
		struct cmsghdr align;
	} control = { 0 };
	struct iovec part = { (void *)(uintptr_t)a->bytes, a->size };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
	int fds[2] = { a->fd, a->fd };

	if (a->fd >= 0) { /* one more than there may be, now and then */
		size_t n = world.left % 4 == 3 ? 2 : 1;
		message.msg_control = control.bytes;
		message.msg_controllen = CMSG_SPACE(n * sizeof(int));
		struct cmsghdr *c = CMSG_FIRSTHDR(&message);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(n * sizeof(int));
		memcpy(CMSG_DATA(c), fds, n * sizeof(int));
	}
	return sendmsg(client, &message, MSG_NOSIGNAL) >= 0;
}

/* Whatever the client was told: what it says of modules has the protocol's form. */
static void check_module(const struct gmm__wire_header *request)
{
	const struct gmm__wire_module *m = (const void *)request;
	const struct gmm__wire_module_run *run = (const void *)(m + 1);
	uint64_t pages = 0;

	if (request->type == GMM__WIRE_MODULES) {
		fuzz_check(request->size == sizeof(struct gmm__wire_modules));
		return;
	}
	fuzz_check(gmm__wire_fits(request->size, sizeof *m, m->n, sizeof *run) && m->n <= GMM__WIRE_MODULE_RUNS);
	for (uint32_t i = 0; i < m->n; i++)
		pages += run[i].pages;
	fuzz_check(m->vm < GMM__WIRE_VMS && m->first + pages <= m->pages);
}

static bool serve(int client)
{
	const struct gmm__wire_header *request = (const void *)world.request;
	struct gmm__wire_header *header = (void *)world.answer.bytes;
	int fd;

	if (gmm__wire_receive(client, world.request, sizeof world.request, &fd) <= 0)
		return false;
	fuzz_check(fd < 0);
	if (request->type == GMM__WIRE_MODULE || request->type == GMM__WIRE_MODULES)
		check_module(request);
	if (request->type == GMM__WIRE_COMMIT || request->type == GMM__WIRE_MODULE || request->type == GMM__WIRE_MODULES)
		return true;
	tell_truth(request, &world.answer);
	header->type = request->type;
	header->sequence = request->sequence;
	header->size = (uint32_t)world.answer.size;
	uint8_t how = world.left ? *world.input % 16 % HOWS : HOW_TRUE;
	if (!change(&world.answer))
		return false;
	if (how != HOW_AS_IT_IS)
		header->size = (uint32_t)world.answer.size;
	return send_answer(client, &world.answer);
}

static void *run_service(void *arg)
{
	struct pollfd wait[2] = { { .events = POLLIN }, { .fd = world.stop, .events = POLLIN } };
	int client = -1;

	for (;;) {
		wait[0].fd = client >= 0 ? client : world.listener;
		fuzz_check(poll(wait, 2, -1) > 0);
		if (client < 0 && wait[0].revents) {
			client = accept4(world.listener, NULL, NULL, SOCK_CLOEXEC);
		} else if (wait[0].revents && !serve(client)) {
			close(client);
			client = -1;
		} else if (!wait[0].revents && wait[1].revents) {
			break;
		}
	}
	if (client >= 0)
		close(client);
	return arg;
}

/* ---- the client ----------------------------------------------------------------------------------------------------- */

static uint64_t word_of(uint32_t page)
{
	return page % 8 == 7 ? 0 : (page + 1) * 0x9e3779b97f4a7c15ull;
}

/* Some pages repeat their word, those of 0 are zero pages, the others have one word. */
static void fill(uint64_t *ram, uint32_t page)
{
	uint64_t word = word_of(page), *at = ram + page * (GMM__PAGE_BYTES / 8);

	for (uint32_t i = 0; i < GMM__PAGE_BYTES / 8; i++)
		at[i] = page % 4 == 0 || i == 9 ? word : 0;
}

static void check_page(const uint64_t *ram, uint32_t page)
{
	const uint64_t *at = ram + page * (GMM__PAGE_BYTES / 8);

	for (uint32_t i = 0; i < GMM__PAGE_BYTES / 8; i++)
		fuzz_check(at[i] == (page % 4 == 0 || i == 9 ? word_of(page) : 0));
}

static void check_ram(uint64_t *const *ram)
{
	for (int i = 0; i < 2; i++)
		for (uint32_t page = 0; page < RAM_PAGES; page++)
			check_page(ram[i], page);
}

static void pass(struct gmm *gmm, struct gmm__engine *engine)
{
	gmm->remote->retry_ns = 0;
	gmm__engine_pass(engine);
}

/* What guests and their VMM do meanwhile. */
static void disturb(struct gmm_vm *const *vm, uint64_t *const *ram, int round)
{
	uint32_t page = (uint32_t)round * 3 % RAM_PAGES;

	ram[round % 2][page * (GMM__PAGE_BYTES / 8)]++;
	if (round % 3 == 1)
		fuzz_check(gmm_vm_unshare(vm[1], 0, 4 * GMM__PAGE_BYTES) == GMM_OK);
	if (round % 3 == 2) {
		fuzz_check(gmm_vm_discard(vm[0], 8 * GMM__PAGE_BYTES, 2 * GMM__PAGE_BYTES) == GMM_OK);
		fill(ram[0], 8);
		fill(ram[0], 9);
	}
}

static void put_back(uint64_t *const *ram, int round)
{
	ram[round % 2][(uint32_t)round * 3 % RAM_PAGES * (GMM__PAGE_BYTES / 8)]--;
}

/* By runs, and by address in a guest that has not turned paging on. */
static void name_modules(struct gmm_vm *vm)
{
	const struct gmm_guest_cpu cpu = { .phys_bits = 36 };
	const struct gmm_page_run run = { 0, RAM_PAGES / 2 };
	const struct gmm_module_region region = { 0, RAM_PAGES / 2 * GMM__PAGE_BYTES };
	struct gmm_module module;

	gmm_module_init(&module);
	module.name = "fuzz";
	module.size = region.size;
	module.regions = &region;
	module.n_regions = 1;
	module.runs = &run;
	module.n_runs = 1;
	fuzz_check(gmm_module_register(vm, &module) == GMM_OK);
	module.base = 1;
	module.runs = NULL;
	module.cpu = &cpu;
	fuzz_check(gmm_module_register(vm, &module) == GMM_OK);
}

static void live(struct gmm *gmm, struct gmm__engine *engine)
{
	struct gmm_vm *vm[2];
	uint64_t *ram[2];
	void *bytes;

	for (int i = 0; i < 2; i++) {
		fuzz_check(gmm_vm_create(gmm, NULL, &vm[i]) == GMM_OK);
		fuzz_check(gmm_vm_create_ram(vm[i], 0, RAM_PAGES * GMM__PAGE_BYTES, &bytes) == GMM_OK);
		ram[i] = bytes;
		for (uint32_t page = 0; page < RAM_PAGES; page++)
			fill(ram[i], page);
		name_modules(vm[i]);
	}
	for (int round = 0; round < ROUNDS; round++) {
		pass(gmm, engine);
		check_ram(ram);
		disturb(vm, ram, round);
		pass(gmm, engine);
		put_back(ram, round);
	}
	pass(gmm, engine);
	check_ram(ram);
	fuzz_check(gmm_instance_validate(gmm) == GMM_OK);
	for (int i = 0; i < 2; i++) {
		fuzz_check(gmm_vm_unshare(vm[i], 0, RAM_PAGES * GMM__PAGE_BYTES) == GMM_OK);
		check_ram(ram);
	}
	for (int i = 0; i < 2; i++)
		fuzz_check(gmm_vm_destroy(vm[i], GMM_RAM_DISCARD) == GMM_OK);
}

/* ---- the world ----------------------------------------------------------------------------------------------------- */

static int new_file(off_t size, uint8_t byte)
{
	static uint8_t page[GMM__PAGE_BYTES];
	int fd = memfd_create("fuzz", MFD_CLOEXEC);

	fuzz_check(fd >= 0 && ftruncate(fd, size) == 0);
	memset(page, byte, sizeof page);
	for (off_t at = 0; byte && at < size; at += sizeof page)
		fuzz_check(pwrite(fd, page, sizeof page, at) == sizeof page);
	return fd;
}

static void close_world(void)
{
	unlink(world.path);
	rmdir(world.dir);
}

static void open_world(void)
{
	int pair[2];

	strcpy(world.dir, "/tmp/gmm-fuzz.XXXXXX");
	fuzz_check(mkdtemp(world.dir));
	snprintf(world.path, sizeof world.path, "%s/socket", world.dir);
	world.listener = gmm__wire_listen(world.path, 0600);
	world.stop = eventfd(0, EFD_CLOEXEC);
	fuzz_check(world.listener >= 0 && world.stop >= 0 && pipe2(pair, O_CLOEXEC) == 0);
	world.fd[POOL] = new_file(GMM__CHUNK_BYTES, 0);
	world.fd[OTHER_BYTES] = new_file(GMM__CHUNK_BYTES, 0x55);
	world.fd[SHORT] = new_file(GMM__PAGE_BYTES, 1);
	world.fd[PIPE] = pair[0];
	world.fd[NULL_DEVICE] = open("/dev/null", O_RDWR | O_CLOEXEC);
	atexit(close_world);
}

/* The next descriptor would be this one: nothing below it was left open. */
static int lowest_free_fd(void)
{
	int fd = dup(world.stop);

	close(fd);
	return fd;
}

/* What HELLO brought is the process's, which closes it here: no descriptor of somebody else's. */
static void drop_userfaultfd(void)
{
	int fd[8];

	for (int i = 0; i < 8; i++)
		fd[i] = dup(world.stop);
	gmm__sys_linux_use_userfaultfd(-1);
	for (int i = 0; i < 8; i++)
		fuzz_check(close(fd[i]) == 0);
}

static struct gmm__engine *new_engine(struct gmm *gmm)
{
	struct gmm__engine *engine = calloc(1, gmm__engine_bytes(1));

	fuzz_check(engine);
	gmm__engine_init(engine, gmm, gmm__backend_mapped(), 1);
	engine->cpu_percent = 100;
	engine->worker[0].waits.bound_ns = 1000000;
	engine->worker[0].waits.pages = GMM__FREEZE_PAGES;
	return engine;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct gmm_options options;
	struct gmm *gmm = NULL;
	pthread_t service;
	uint64_t count = 1;

	if (!world.dir[0])
		open_world();
	int fd = lowest_free_fd();
	world.input = data;
	world.left = size;
	world.pages = 0;
	fuzz_check(pthread_create(&service, NULL, run_service, NULL) == 0);
	gmm_options_init(&options);
	options.window_ms = 0;
	options.socket = world.path;
	options.repair = GMM_REPAIR_PROMISED;
	int status = gmm_instance_open(&options, &gmm);
	if (status == GMM_OK) {
		struct gmm__engine *engine = new_engine(gmm);
		live(gmm, engine);
		gmm__engine_destroy(engine);
		free(engine);
		fuzz_check(gmm_instance_close(gmm) == GMM_OK);
	} else if (status == GMM_ERR_UNSUPPORTED_KERNEL || status == GMM_ERR_NO_PERMISSION) {
		printf("skipped: the kernel lacks what mapped RAM needs\n");
		exit(77);
	}
	fuzz_check(write(world.stop, &count, sizeof count) == sizeof count);
	fuzz_check(pthread_join(service, NULL) == 0);
	fuzz_check(read(world.stop, &count, sizeof count) == sizeof count);
	drop_userfaultfd();
	fuzz_check(fd == lowest_free_fd());
	return 0;
}
