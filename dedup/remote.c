/* The session with the sharing service: connecting, announcing, polling, keeping its tables up to date. dedup/remote_region.c
 * has what is done with a region.
 */
#include "dedup/remote.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <urcu/urcu-bp.h>

#include "dedup/catalog.h"
#include "dedup/engine.h"
#include "dedup/instance.h"
#include "dedup/settle.h"
#include "dedup/visit.h"
#include "gmm/counts.h"
#include "gmm/sys/sys.h"

_Static_assert((int)GMM__WIRE_REGION_PAGES == (int)GMM__REGION_PAGES, "the protocol's regions are the engine's");
_Static_assert((int)GMM__WIRE_SECRET == (int)GMM__SECRET_BYTES, "the protocol's secrets are the digest's");

enum { LOOK_MS = 100, RETRY_NS = 2000000000, PROMOTE_BYTES = GMM__WIRE_PROMOTE_PAGES * GMM__PAGE_BYTES };

/* ---- asking ------------------------------------------------------------------------------------------------------- */

void gmm__remote_disconnect(struct gmm__remote *remote, const char *why)
{
	if (remote->socket < 0)
		return;
	/* One message for each change, not for each attempt. */
	gmm__log(remote->gmm, remote->greeted ? GMM_LOG_WARNING : GMM_LOG_DEBUG,
		 "the connection to the sharing service at %s ended (%s): what is shared stays shared, nothing new is shared "
		 "until it is back", remote->path, why);
	remote->missed |= remote->greeted;
	remote->greeted = false;
	gmm__sys_of(remote->gmm)->file_close(remote->socket);
	remote->socket = -1;
	remote->retry_ns = gmm__sys_of(remote->gmm)->clock_ns() + RETRY_NS;
}

/* A service that does not move is given up in the end, and soon if somebody waits for the engine. Nothing is lost: it keeps
 * what it holds for us until it has heard of us again, or our mappings are gone. */
static bool has_time(const struct gmm__remote *remote, uint64_t start_ns)
{
	static const uint64_t most_ns = 10000000000, most_awaited_ns = 1000000000;
	uint64_t waited_ns = gmm__sys_of(remote->gmm)->clock_ns() - start_ns;

	return waited_ns < (remote->gmm->leave_waiters ? most_awaited_ns : most_ns);
}

static int send_request(struct gmm__remote *remote, struct iovec *parts, int n_parts)
{
	struct gmm__wire_header *header = parts[0].iov_base;

	if (remote->socket < 0)
		return GMM_ERR_NO_SERVICE;
	header->sequence = ++remote->sequence;
	uint64_t start_ns = gmm__sys_of(remote->gmm)->clock_ns();
	int rc;
	do
		rc = gmm__wire_send(remote->socket, parts, n_parts, -1);
	while (rc == -EAGAIN && has_time(remote, start_ns));
	if (rc == 0)
		return GMM_OK;
	gmm__remote_disconnect(remote, strerror(-rc));
	return GMM_ERR_NO_SERVICE;
}

bool gmm__remote_tell(struct gmm__remote *remote, struct iovec *parts, int n_parts)
{
	return send_request(remote, parts, n_parts) == GMM_OK;
}

int gmm__remote_ask(struct gmm__remote *remote, struct iovec *parts, int n_parts, size_t *ret_size, int *ret_fd)
{
	const struct gmm__wire_header *request = parts[0].iov_base, *reply = (const void *)remote->buf;
	int fd, status = send_request(remote, parts, n_parts);

	if (status != GMM_OK)
		return status;
	uint64_t start_ns = gmm__sys_of(remote->gmm)->clock_ns();
	ssize_t n;
	do
		n = gmm__wire_receive(remote->socket, remote->buf, GMM__WIRE_MAX, &fd);
	while (n == -EAGAIN && has_time(remote, start_ns));
	bool good = n > 0 && reply->type == request->type && reply->sequence == remote->sequence && reply->status <= 0;
	if (fd >= 0 && (!good || !ret_fd || reply->status != GMM_OK)) {
		gmm__sys_of(remote->gmm)->file_close(fd);
		fd = -1;
	}
	if (!good) {
		gmm__remote_disconnect(remote, n > 0 ? "an answer that is none" : n < 0 ? strerror((int)-n) : "closed");
		return GMM_ERR_NO_SERVICE;
	}
	*ret_size = (size_t)n;
	if (ret_fd)
		*ret_fd = fd;
	return reply->status;
}

/* Asks with one structure; the answer must be `size` bytes long where the status is GMM_OK. */
static int ask_plain(struct gmm__remote *remote, void *request, size_t request_size, size_t size, int *ret_fd)
{
	struct iovec part = { request, request_size };
	size_t got = 0;
	int status = gmm__remote_ask(remote, &part, 1, &got, ret_fd);

	if (status == GMM_OK && got != size) {
		gmm__remote_disconnect(remote, "an answer of the wrong size");
		if (ret_fd && *ret_fd >= 0) {
			gmm__sys_of(remote->gmm)->file_close(*ret_fd);
			*ret_fd = -1;
		}
		return GMM_ERR_NO_SERVICE;
	}
	return status;
}

/* ---- connecting ----------------------------------------------------------------------------------------------------- */

static void program_name(const struct gmm__sys *sys, char name[GMM__WIRE_NAME])
{
	char text[GMM__WIRE_NAME];
	ssize_t n = sys->file_read("/proc/self/comm", text, sizeof text);

	for (ssize_t i = 0; i < n && i < GMM__WIRE_NAME - 1 && text[i] != '\n'; i++)
		name[i] = text[i];
}

static void change_slots(const struct gmm_vm *vm, void (*change)(struct gmm__slot *slot))
{
	urcu_bp_read_lock();
	const struct gmm__slots *slots = rcu_dereference(vm->slots);
	for (uint32_t i = 0; i < slots->n; i++)
		change(slots->slot[i]);
	urcu_bp_read_unlock();
}

static void forget_number(struct gmm__slot *slot)
{
	slot->remote = 0;
}

static void mark_stale(struct gmm__slot *slot)
{
	slot->stale = true;
}

/* The service does not know our tables: all is announced anew. */
static void forget_announcements(struct gmm__remote *remote)
{
	struct gmm *gmm = remote->gmm;

	gmm__lock_take(&gmm->lock);
	for (struct gmm_vm *vm = gmm->vms; vm; vm = vm->next) {
		vm->remote = 0;
		change_slots(vm, forget_number);
	}
	gmm__lock_give(&gmm->lock);
	gmm__lock_take(&remote->lock);
	memset(remote->vms, 0, sizeof remote->vms);
	memset(remote->slots, 0, sizeof remote->slots);
	memset(remote->gone_vms, 0, sizeof remote->gone_vms);
	memset(remote->gone_slots, 0, sizeof remote->gone_slots);
	gmm__lock_give(&remote->lock);
	remote->offer_all = true;
}

static void mark_all_stale(struct gmm *gmm)
{
	gmm__lock_take(&gmm->lock);
	for (const struct gmm_vm *vm = gmm->vms; vm; vm = vm->next)
		change_slots(vm, mark_stale);
	gmm__lock_give(&gmm->lock);
}

static int hello(struct gmm__remote *remote)
{
	struct gmm__wire_hello hello = { .header.type = GMM__WIRE_HELLO, .magic = GMM__WIRE_MAGIC,
					 .version = GMM__WIRE_VERSION, .client = remote->client,
					 .wants_userfaultfd = access("/dev/userfaultfd", R_OK | W_OK) != 0 };
	const struct gmm__wire_welcome *welcome = (const void *)remote->buf;
	int fd = -1;

	memcpy(hello.token, remote->token, sizeof hello.token);
	program_name(gmm__sys_of(remote->gmm), hello.program);
	int status = ask_plain(remote, &hello, sizeof hello, sizeof *welcome, &fd);
	if (fd >= 0)
		gmm__sys_linux_use_userfaultfd(fd);
	if (status == GMM_ERR_NOT_FOUND && remote->client)
		remote->lost = true;
	if (status != GMM_OK)
		return status;
	if (!welcome->resumed)
		forget_announcements(remote);
	else
		mark_all_stale(remote->gmm);
	remote->client = welcome->client;
	memcpy(remote->token, welcome->token, sizeof remote->token);
	return GMM_OK;
}

static int connect_service(struct gmm__remote *remote)
{
	uint64_t start_ns = gmm__sys_of(remote->gmm)->clock_ns();
	int fd;

	do
		fd = gmm__wire_connect(remote->path, LOOK_MS);
	while (fd == -EAGAIN && has_time(remote, start_ns));
	remote->retry_ns = gmm__sys_of(remote->gmm)->clock_ns() + RETRY_NS;
	if (fd < 0) {
		gmm__log(remote->gmm, GMM_LOG_DEBUG, "no sharing service at %s: %s", remote->path, strerror(-fd));
		return GMM_ERR_NO_SERVICE;
	}
	remote->socket = fd;
	remote->sequence = 0;
	int status = hello(remote);
	if (status != GMM_OK && remote->socket >= 0)
		gmm__remote_disconnect(remote, gmm_status_text(status));
	remote->greeted = status == GMM_OK;
	if (remote->greeted && remote->missed)
		gmm__log(remote->gmm, GMM_LOG_INFO, "the sharing service at %s is back", remote->path);
	remote->missed &= !remote->greeted;
	return status;
}

struct first_connection {
	struct gmm__remote *remote;
	int status;
};

static void connect_first(void *arg)
{
	struct first_connection *first = arg;

	first->status = connect_service(first->remote);
}

int gmm__remote_open(struct gmm *gmm, const char *path)
{
	struct gmm__remote *remote = gmm__mem_alloc(&gmm->mem, sizeof *remote);
	size_t size = strlen(path) + 1;

	if (!remote)
		return GMM_ERR_NO_MEMORY;
	*remote = (struct gmm__remote){ .gmm = gmm, .path_size = size, .socket = -1 };
	gmm__lock_init(&remote->lock, GMM__RANK_LEAF);
	remote->path = gmm__mem_alloc(&gmm->mem, size);
	remote->buf = gmm__mem_alloc(&gmm->mem, GMM__WIRE_MAX);
	remote->pages = gmm__mem_alloc(&gmm->mem, PROMOTE_BYTES);
	remote->cpu_percent = UINT32_MAX;
	gmm->remote = remote;
	if (!remote->path || !remote->buf || !remote->pages) {
		gmm__remote_close(gmm);
		return GMM_ERR_NO_MEMORY;
	}
	memcpy(remote->path, path, size);
	struct first_connection first = { remote, GMM_OK };
	gmm__sys_of(gmm)->run(connect_first, &first);
	if (first.status != GMM_OK) {
		gmm__log(gmm, GMM_LOG_ERROR, "no sharing service at %s: %s", path, gmm_status_text(first.status));
		gmm__remote_close(gmm);
	}
	return first.status;
}

void gmm__remote_close(struct gmm *gmm)
{
	struct gmm__remote *remote = gmm->remote;

	if (!remote)
		return;
	if (remote->socket >= 0)
		gmm__sys_of(gmm)->file_close(remote->socket);
	gmm__lock_destroy(&remote->lock);
	gmm__mem_free(&gmm->mem, remote->pages, PROMOTE_BYTES);
	gmm__mem_free(&gmm->mem, remote->buf, GMM__WIRE_MAX);
	gmm__mem_free(&gmm->mem, remote->path, remote->path_size);
	gmm__mem_free(&gmm->mem, remote, sizeof *remote);
	gmm->remote = NULL;
}

void gmm__remote_forked(struct gmm *gmm)
{
	struct gmm__remote *remote = gmm->remote;

	if (!remote)
		return;
	if (remote->socket >= 0 && !gmm__sys_of(gmm)->apart) /* else the child does not have it */
		gmm__sys_of(gmm)->file_close(remote->socket);
	remote->socket = -1;
}

/* ---- VMs and slots -------------------------------------------------------------------------------------------------------- */

/* Takes the lowest unused number for `who`; n if there is none. */
static uint32_t take_number(struct gmm__remote *remote, const void **used, uint32_t n, const void *who)
{
	uint32_t i = 0;

	gmm__lock_take(&remote->lock);
	while (i < n && used[i])
		i++;
	if (i < n)
		used[i] = who;
	gmm__lock_give(&remote->lock);
	return i;
}

static void give_number(struct gmm__remote *remote, const void **used, uint32_t i)
{
	gmm__lock_take(&remote->lock);
	used[i] = NULL;
	gmm__lock_give(&remote->lock);
}

/* Notes that who the service knows by `number` - 1 is gone. Not if another service gave the number, which may be somebody
 * else's by now: that one's pages would be given back. */
static void note_gone(struct gmm__remote *remote, uint32_t number, const void *who, const void **used, uint64_t *gone)
{
	gmm__lock_take(&remote->lock);
	if (number && used[number - 1] == who)
		gone[(number - 1) / 64] |= 1ull << (number - 1) % 64;
	gmm__lock_give(&remote->lock);
}

/* The domain's secret is the service's, so that all its clients digest alike. */
static void join_domain(struct gmm__domain *domain, const struct gmm__wire_vm *granted)
{
	struct gmm__secret *secret = &domain->catalog->secret;

	memcpy(secret->bytes, granted->secret, sizeof secret->bytes);
	gmm__secret_complete(secret);
	domain->remote_number = granted->domain_number;
}

static bool announce_vm(struct gmm__remote *remote, struct gmm_vm *vm)
{
	struct gmm__wire_vm_add add = { .header.type = GMM__WIRE_VM_ADD, .priority = vm->priority,
					.vm = take_number(remote, remote->vms, GMM__WIRE_VMS, vm) };
	const struct gmm__wire_vm *granted = (const void *)remote->buf;

	if (add.vm == GMM__WIRE_VMS)
		return false;
	memcpy(add.name, vm->name, sizeof vm->name);
	if (strcmp(vm->domain->name, "default") != 0)
		memcpy(add.domain, vm->domain->name, sizeof vm->domain->name);
	int status = ask_plain(remote, &add, sizeof add, sizeof *granted, NULL);
	if (status != GMM_OK) {
		give_number(remote, remote->vms, add.vm);
		if (status != GMM_ERR_NO_SERVICE && !vm->refused)
			gmm__log(remote->gmm, GMM_LOG_WARNING, "VM %s is not shared: %s", vm->name,
				 gmm_status_text(status));
		vm->refused = status != GMM_ERR_NO_SERVICE;
		return false;
	}
	vm->refused = false;
	if (vm->domain->remote_number && vm->domain->remote_number != granted->domain_number) {
		/* Its pool is another one now: only if the service was set up anew. */
		remote->lost = true;
		return false;
	}
	join_domain(vm->domain, granted);
	vm->remote = add.vm + 1;
	return true;
}

/* A region as it is here, for a service that does not know it. */
static int report_region(struct gmm__remote *remote, struct gmm__slot *slot, uint32_t first, uint32_t count)
{
	struct gmm__wire_region region = { .header.type = GMM__WIRE_REPORT, .slot = slot->remote - 1, .first = first,
					   .count = count, .n = count };
	struct gmm__wire_report page[GMM__WIRE_REGION_PAGES];
	struct iovec parts[2] = { { &region, sizeof region }, { page, count * sizeof *page } };
	size_t size;

	if (!gmm__vm_claim(slot->vm, false))
		return GMM_ERR_WRONG_ORDER;
	for (uint32_t i = 0; i < count; i++)
		page[i] = (struct gmm__wire_report){ slot->value[first + i],
						     gmm__slot_byte(slot, first + i) & (uint8_t)~GMM__FLAG_WHOLE, { 0 } };
	gmm__vm_release(slot->vm);
	return gmm__remote_ask(remote, parts, 2, &size, NULL);
}

static uint32_t region_end(const struct gmm__slot *slot, uint32_t first)
{
	return slot->pages - first < GMM__REGION_PAGES ? slot->pages : first + GMM__REGION_PAGES;
}

static bool anything_known(const struct gmm__slot *slot, uint32_t first, uint32_t end)
{
	for (uint32_t i = first; i < end; i++)
		if (gmm__slot_byte(slot, i) != GMM_PAGE_ABSENT)
			return true;
	return false;
}

static bool announce_slot(struct gmm__remote *remote, struct gmm__slot *slot)
{
	struct gmm__wire_slot_add add = { .header.type = GMM__WIRE_SLOT_ADD, .vm = slot->vm->remote - 1,
					  .slot = take_number(remote, remote->slots, GMM__WIRE_SLOTS, slot), .gfn = slot->gfn,
					  .pages = slot->pages };
	if (add.slot == GMM__WIRE_SLOTS)
		return false;
	int status = ask_plain(remote, &add, sizeof add, sizeof add.header, NULL);
	if (status != GMM_OK) {
		give_number(remote, remote->slots, add.slot);
		return false;
	}
	slot->remote = add.slot + 1;
	slot->stale = false;
	for (uint32_t first = 0; first < slot->pages && status == GMM_OK; first = region_end(slot, first))
		if (anything_known(slot, first, region_end(slot, first)))
			status = report_region(remote, slot, first, region_end(slot, first) - first);
	if (status == GMM_ERR_WRONG_ORDER) { /* the VM is ending. Should it not come to that, all is told anew */
		note_gone(remote, slot->remote, slot, remote->slots, remote->gone_slots);
		slot->remote = 0;
	} else if (status != GMM_OK && status != GMM_ERR_NO_SERVICE) {
		remote->lost = true;
	}
	return status == GMM_OK;
}

void gmm__remote_slot_gone(struct gmm__slot *slot)
{
	struct gmm__remote *remote = slot->vm->gmm->remote;

	if (remote)
		note_gone(remote, slot->remote, slot, remote->slots, remote->gone_slots);
}

void gmm__remote_vm_gone(struct gmm_vm *vm)
{
	struct gmm__remote *remote = vm->gmm->remote;

	if (remote)
		note_gone(remote, vm->remote, vm, remote->vms, remote->gone_vms);
}

static bool any_fork(struct gmm *gmm)
{
	bool any = gmm->unwitnessed;

	gmm__lock_take(&gmm->lock);
	for (const struct gmm__domain *domain = gmm->domains; domain; domain = domain->next)
		any |= domain->pool.defer;
	gmm__lock_give(&gmm->lock);
	gmm__lock_take(&gmm->staging[0].lock);
	any |= gmm->witnesses != NULL;
	gmm__lock_give(&gmm->staging[0].lock);
	return any;
}

static bool tell_gone(struct gmm__remote *remote, enum gmm__wire_type type, uint64_t *gone, const void **used, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		gmm__lock_take(&remote->lock);
		bool is_gone = gone[i / 64] >> i % 64 & 1;
		gmm__lock_give(&remote->lock);
		if (!is_gone)
			continue;
		struct gmm__wire_remove remove = { .header.type = type, .number = i,
						   .flags = any_fork(remote->gmm) ? GMM__WIRE_FORKED : 0 };
		int status = ask_plain(remote, &remove, sizeof remove, sizeof remove.header, NULL);
		if (status == GMM_ERR_NO_SERVICE)
			return false;
		gmm__lock_take(&remote->lock);
		gone[i / 64] &= ~(1ull << i % 64);
		used[i] = NULL;
		gmm__lock_give(&remote->lock);
	}
	return true;
}

/* ---- keeping the service's tables up to date -------------------------------------------------------------------------------- */

bool gmm__remote_commit(struct gmm__remote *remote, struct gmm__slot *slot, uint32_t first, uint32_t count)
{
	struct gmm__wire_region region = { .header.type = GMM__WIRE_COMMIT, .slot = slot->remote - 1, .first = first,
					   .count = count };
	struct gmm__wire_states states[GMM__WIRE_REGION_PAGES];

	for (uint32_t i = first; i < first + count; i++) {
		uint8_t state = gmm__slot_byte(slot, i) & (uint8_t)~GMM__FLAG_WHOLE;
		if (region.n > 0 && states[region.n - 1].state == state)
			states[region.n - 1].pages++;
		else
			states[region.n++] = (struct gmm__wire_states){ 1, state, 0 };
	}
	/* After the states: what we see to be gone may have gone after a fork, whose child maps it still. */
	atomic_thread_fence(memory_order_acquire);
	region.flags = slot->vm->domain->pool.defer ? GMM__WIRE_FORKED : 0;
	struct iovec parts[2] = { { &region, sizeof region }, { states, region.n * sizeof *states } };
	return gmm__remote_tell(remote, parts, 2);
}

static bool commit_slot(struct gmm__remote *remote, struct gmm__slot *slot)
{
	slot->stale = false; /* before the states are read: what changes meanwhile is told the next time */
	for (uint32_t first = 0; first < slot->pages; first = region_end(slot, first)) {
		if (!gmm__remote_commit(remote, slot, first, region_end(slot, first) - first)) {
			slot->stale = true;
			return false;
		}
	}
	return true;
}

/* To read a page beyond the end of its file would end the process. */
static bool file_has_chunk(const struct gmm__pool *pool, uint32_t file, uint32_t file_chunk)
{
	struct stat s;

	return fstat(pool->files[file].fd, &s) == 0 && S_ISREG(s.st_mode) &&
	       (uint64_t)s.st_size >= (file_chunk + 1ull) * GMM__CHUNK_BYTES;
}

bool gmm__remote_know_chunk(struct gmm__remote *remote, struct gmm__domain *domain, gmm__chunk_id chunk)
{
	struct gmm__pool *pool = &domain->pool;
	const struct gmm__wire_place *place = (const void *)remote->buf;
	const struct gmm__chunk *known = gmm__chunk_table_chunk(pool->table, chunk);

	if (known) /* one of another domain: that has ended at the service, which gave its id to somebody else */
		return known->pool == pool;
	for (uint32_t with_file = 0; with_file <= 1; with_file++) {
		struct gmm__wire_chunk ask = { .header.type = GMM__WIRE_CHUNK, .chunk = chunk, .with_file = with_file };
		int fd = -1;
		if (ask_plain(remote, &ask, sizeof ask, sizeof *place, &fd) != GMM_OK)
			return false;
		bool ours = place->domain_number == domain->remote_number;
		if (fd >= 0 && (!ours || !with_file || gmm__pool_mirror_has_file(pool, place->file)))
			gmm__sys_of(remote->gmm)->file_close(fd);
		else if (fd >= 0 && gmm__pool_mirror_file(pool, place->file, fd) != 0)
			return false;
		if (!ours)
			return false;
		if (gmm__pool_mirror_has_file(pool, place->file))
			return file_has_chunk(pool, place->file, place->file_chunk) &&
			       gmm__pool_mirror_chunk(pool, chunk, place->file, place->file_chunk) == 0;
	}
	return false;
}

/* ---- passes -------------------------------------------------------------------------------------------------------------- */

/* The slot that the service knows by a number, inside an RCU section; NULL when it is gone. With gmm.lock. */
static struct gmm__slot *find_slot(struct gmm *gmm, uint32_t number)
{
	for (struct gmm_vm *vm = gmm->vms; vm; vm = vm->next) {
		const struct gmm__slots *slots = rcu_dereference(vm->slots);
		for (uint32_t i = 0; i < slots->n; i++)
			if (slots->slot[i]->remote == number + 1)
				return slots->slot[i];
	}
	return NULL;
}

/* Unique pages of ours that got a twin are offered again. One whose VM is claimed by somebody is found by a survey. */
static void look_again(struct gmm__worker *worker, const struct gmm__wire_look *look, uint32_t n)
{
	struct gmm *gmm = worker->gmm;
	struct gmm__slot *slot = NULL;

	urcu_bp_read_lock();
	for (uint32_t i = 0; i < n; i++) {
		if (!slot || slot->remote != look[i].slot + 1) {
			gmm__lock_take(&gmm->lock);
			slot = find_slot(gmm, look[i].slot);
			gmm__lock_give(&gmm->lock);
		}
		if (!slot || look[i].page >= slot->pages || !gmm__vm_try_claim(slot->vm))
			continue;
		worker->progress.nominated += gmm__account_nominate(slot, look[i].page);
		gmm__vm_release(slot->vm);
	}
	urcu_bp_read_unlock();
}

/* Somebody wants to know the guests' modules. */
static void tell_modules(const struct gmm__worker *worker, uint32_t request)
{
	const struct gmm__module_hooks *hooks = atomic_load(&worker->gmm->module_hooks);
	uint32_t left_out = hooks ? hooks->tell(worker->gmm, worker->backend, request) : 0;
	struct gmm__wire_modules end = { .header.type = GMM__WIRE_MODULES, .modules = request, .left_out = left_out };
	struct iovec part = { &end, sizeof end };

	gmm__remote_tell(worker->gmm->remote, &part, 1);
}

static void take_news(struct gmm__worker *worker, const struct gmm__wire_news *news)
{
	struct gmm__engine *engine = worker->engine;
	struct gmm__remote *remote = worker->gmm->remote;

	remote->paused = news->paused != 0;
	remote->rests &= remote->paused;
	remote->looked = remote->paused && news->n_look > 0;
	remote->unshare = news->unshare;
	remote->pool_pages = news->domain_pool_pages;
	remote->pool_references = news->domain_references;
	/* The options' limit may be back because somebody ended one of his own (gmm_engine_settle). */
	if (news->cpu_percent != remote->cpu_percent || engine->cpu_percent == engine->gmm->options.cpu_percent)
		engine->cpu_percent = news->cpu_percent == UINT32_MAX ? engine->gmm->options.cpu_percent :
				      news->cpu_percent;
	remote->cpu_percent = news->cpu_percent;
	look_again(worker, (const void *)(news + 1), news->n_look);
	if (news->modules)
		tell_modules(worker, news->modules);
}

/* All that uses shared pages was announced, and reported where it had to be. A VM that is ending may not be, nor a slot that
 * somebody is taking out of a VM he has claimed: it is in no list any more, but still maps what it did. */
static bool all_reported(struct gmm__remote *remote)
{
	bool all = !remote->lost;

	gmm__lock_take(&remote->gmm->lock);
	for (const struct gmm_vm *vm = remote->gmm->vms; all && vm; vm = vm->next) {
		const uint64_t *pages = vm->stats.state_pages;
		if (!(gmm__count_read(&pages[GMM_PAGE_SHARED]) | gmm__count_read(&pages[GMM_PAGE_FILL]) |
		      gmm__count_read(&pages[GMM_PAGE_BROKEN])))
			continue;
		all = vm->remote && !vm->dead && !vm->claimed;
		urcu_bp_read_lock();
		const struct gmm__slots *slots = rcu_dereference(vm->slots);
		for (uint32_t i = 0; all && i < slots->n; i++)
			all = slots->slot[i]->remote && !slots->slot[i]->dead;
		urcu_bp_read_unlock();
	}
	gmm__lock_give(&remote->gmm->lock);
	return all;
}

static uint64_t settle_estimate_ms(const struct gmm__engine *engine)
{
	struct gmm *gmm = engine->gmm;
	struct gmm_stats stats = { 0 };

	gmm__lock_take(&gmm->lock);
	for (const struct gmm_vm *vm = gmm->vms; vm; vm = vm->next)
		gmm__counts_add(&stats.total, &vm->stats, sizeof vm->stats);
	uint64_t ms = gmm__settle_estimate_ms(engine, &stats);
	gmm__lock_give(&gmm->lock);
	return ms;
}

static void poll_service(struct gmm__worker *worker)
{
	struct gmm__engine *engine = worker->engine;
	struct gmm__remote *remote = worker->gmm->remote;
	struct gmm__wire_poll poll = {
		.header.type = GMM__WIRE_POLL, .cpu_ns = gmm__engine_cpu_ns(engine),
		.passes = engine->passes, .mappings = engine->gmm->mappings,
		.longest_freeze_ns = worker->waits.longest_ns, .settled = engine->settled,
		.settle_estimate_ms = settle_estimate_ms(engine),
		.unshared = remote->unshared, .unshare_status = remote->unshare_status,
		.forked = any_fork(engine->gmm), .reported = all_reported(remote),
	};
	const struct gmm__wire_news *news = (const void *)remote->buf;
	struct iovec part = { &poll, sizeof poll };
	size_t size;

	if (gmm__remote_ask(remote, &part, 1, &size, NULL) != GMM_OK)
		return;
	if (size < sizeof *news || !gmm__wire_fits(size, sizeof *news, news->n_look, sizeof(struct gmm__wire_look)))
		gmm__remote_disconnect(remote, "an answer of the wrong size");
	else
		take_news(worker, news);
}

/* All was unshared: what a service that lost our pool gives from now on are other pages. */
static void start_anew(struct gmm__remote *remote)
{
	struct gmm *gmm = remote->gmm;
	uint64_t covered = 0;

	gmm__snapshot_begin(gmm);
	gmm__lock_take(&gmm->lock);
	for (const struct gmm_vm *vm = gmm->vms; vm; vm = vm->next)
		covered += vm->stats.state_pages[GMM_PAGE_SHARED] + vm->stats.state_pages[GMM_PAGE_FILL] +
			   vm->stats.state_pages[GMM_PAGE_BROKEN];
	for (struct gmm__domain *domain = gmm->domains; domain && covered == 0; domain = domain->next) {
		gmm__pool_destroy(&domain->pool);
		gmm__pool_mirror_init(&domain->pool, &gmm->mem, &gmm->remote_chunks);
		domain->remote_number = 0;
	}
	gmm__lock_give(&gmm->lock);
	gmm__snapshot_end(gmm);
	if (covered > 0)
		return;
	gmm__remote_disconnect(remote, "it does not know our pool any more: starting anew");
	remote->client = 0;
	remote->lost = false;
	forget_announcements(remote);
}

/* The pass before unshared every VM it visited. */
static void conclude_unshare(struct gmm__remote *remote)
{
	if (remote->unsharing) {
		remote->unshared = remote->unsharing;
		remote->unshare_status = remote->unshare_failed;
		remote->unsharing = 0;
	}
	if (remote->lost)
		start_anew(remote);
	/* None: the service has started again since the last one. */
	if (remote->unshare != 0 && remote->unshare != remote->unshared) {
		remote->unsharing = remote->unshare;
		remote->rests = true;
		remote->unshare_failed = GMM_OK;
	}
}

void gmm__remote_begin_pass(struct gmm__worker *worker)
{
	struct gmm__remote *remote = worker->gmm->remote;

	if (remote->socket < 0 && !remote->lost && gmm__sys_of(worker->gmm)->clock_ns() >= remote->retry_ns)
		connect_service(remote);
	if (remote->socket >= 0 &&
	    tell_gone(remote, GMM__WIRE_SLOT_REMOVE, remote->gone_slots, remote->slots, GMM__WIRE_SLOTS) &&
	    tell_gone(remote, GMM__WIRE_VM_REMOVE, remote->gone_vms, remote->vms, GMM__WIRE_VMS))
		poll_service(worker);
	conclude_unshare(remote);
	remote->offering_all = remote->offer_all && remote->socket >= 0;
	if (remote->socket >= 0)
		remote->offer_all = false;
}

/* While the engine visits the VM its slots are not freed. */
static void announce(struct gmm__remote *remote, struct gmm_vm *vm)
{
	uint64_t from = 0;
	struct gmm__slot *slot;

	if (!vm->remote && !announce_vm(remote, vm))
		return;
	while (remote->socket >= 0 && !vm->dead && (slot = gmm__visit_slot(vm, from)) != NULL) {
		from = slot->gfn + slot->pages;
		if (!slot->remote)
			announce_slot(remote, slot);
		else if (slot->stale)
			commit_slot(remote, slot);
	}
}

static bool any_waits(const struct gmm__slot *slot, uint32_t first, uint32_t end)
{
	for (uint32_t i = first; i < end; i++)
		if ((gmm__slot_byte(slot, i) & GMM__STATE_MASK) == GMM_PAGE_NOMINATED)
			return true;
	return false;
}

/* No scan will come to the pages that got a twin: they are offered now. */
static void join_looked(struct gmm__worker *worker, struct gmm_vm *vm)
{
	struct gmm__finding nothing[GMM__REGION_PAGES] = { 0 };
	const struct gmm__merge merge = { .gmm = worker->gmm, .worker = worker, .backend = worker->backend,
					  .progress = &worker->progress, .waits = &worker->waits };
	uint64_t from = 0;
	struct gmm__slot *slot;

	while (!vm->dead && (slot = gmm__visit_slot(vm, from)) != NULL) {
		from = slot->gfn + slot->pages;
		for (uint32_t first = 0; first < slot->pages && !slot->dead; first = region_end(slot, first)) {
			struct gmm__region region = { slot, first, region_end(slot, first) - first };
			if (slot->remote && any_waits(slot, first, region_end(slot, first)))
				gmm__remote_hinted(&merge, &region, nothing);
		}
	}
}

void gmm__remote_visit(struct gmm__worker *worker)
{
	struct gmm__remote *remote = worker->gmm->remote;
	struct gmm_vm *vm = worker->job.vm;

	if (remote->unsharing || remote->lost) {
		int status = gmm__vm_unshare_all(vm);
		if (status != GMM_OK)
			remote->unshare_failed = status;
	}
	if (remote->socket >= 0 && !remote->lost)
		announce(remote, vm);
	if (remote->looked && gmm__remote_shares(vm))
		join_looked(worker, vm);
}

bool gmm__remote_answers(const struct gmm *gmm)
{
	return !gmm->remote || gmm->remote->socket >= 0;
}

bool gmm__remote_shares(const struct gmm_vm *vm)
{
	const struct gmm__remote *remote = vm->gmm->remote;

	return !remote || (remote->socket >= 0 && vm->remote && !remote->rests && !remote->unsharing && !remote->lost);
}

bool gmm__remote_scans(const struct gmm_vm *vm)
{
	return gmm__remote_shares(vm) && !(vm->gmm->remote && vm->gmm->remote->paused);
}
