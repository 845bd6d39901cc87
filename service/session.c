/* A client's connection, its VMs and slots. Regions are service/shadow.c's. */
#include "service/session.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "dedup/catalog.h"
#include "dedup/instance.h"
#include "service/admin.h"
#include "service/modules.h"
#include "service/peer.h"
#include "service/pools.h"
#include "service/shadow.h"
#include "wire/wire.h"

_Static_assert((int)GMM__WIRE_SECRET == (int)GMM__SECRET_BYTES, "a domain's secret fits its message");
_Static_assert((int)GMM__WIRE_REGION_PAGES == (int)GMM__REGION_PAGES, "regions are alike on both ends");

/* What a message costs besides its pages, in pages; an ADMIN request; and how many seconds' worth may be saved up. */
enum {
	CONNECTION_CHARGE = 256, MESSAGE_CHARGE = 32, SLOT_CHARGE = 1024, SLOT_CHARGE_PART = 256, ADMIN_CHARGE = 16384,
	ADMIN_PART_BYTES = 64 * 1024,
};

/* ---- life ------------------------------------------------------------------------------------------------------ */

static struct gmm__session *new_session(struct gmm__service *service, const struct gmm__peer *peer)
{
	const struct gmm__config *config = &service->config;
	struct gmm__session *s = calloc(1, sizeof *s);

	if (!s)
		return NULL;
	s->service = service;
	s->peer = *peer;
	s->socket = -1;
	s->bucket = (struct gmm__bucket){ config->pages_per_second, service->now_ns };
	s->connected_ns = service->now_ns;
	s->user = gmm__user_get(&service->users, peer->uid, config->user_pages_per_second, service->now_ns);
	if (s->user)
		return s;
	free(s);
	return NULL;
}

static int watch(struct gmm__session *s, int op, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.ptr = s };

	return epoll_ctl(s->service->epoll, op, s->socket, &event) == 0 ? 0 : -errno;
}

struct gmm__session *gmm__session_new(struct gmm__service *service, int socket)
{
	struct gmm__peer peer = { 0 };
	struct gmm__session *s = gmm__peer_read(socket, &peer) == 0 ? new_session(service, &peer) : NULL;

	if (!s) {
		close(socket);
		return NULL;
	}
	s->socket = socket;
	gmm__session_charge(s, CONNECTION_CHARGE);
	if (watch(s, EPOLL_CTL_ADD, EPOLLIN) == 0)
		return s;
	gmm__session_free(s);
	return NULL;
}

struct gmm__session *gmm__session_restore(struct gmm__service *service, const struct gmm__store_client *client)
{
	const struct gmm__peer peer = { .uid = client->uid };
	struct gmm__session *s = new_session(service, &peer);

	if (!s)
		return NULL;
	s->client = client->number;
	s->unreported = true;
	memcpy(s->token, client->token, sizeof s->token);
	memcpy(s->program, client->program, sizeof s->program);
	s->program[sizeof s->program - 1] = 0;
	return s;
}

/* The VM's mappings are gone, and with them what it used. */
static void end_vm(struct gmm__session *s, uint32_t number)
{
	for (uint32_t i = 0; i < GMM__WIRE_SLOTS; i++) {
		if (!s->slot[i] || s->slot[i]->vm != s->vm[number])
			continue;
		gmm__shadow_drop_slot(s, s->slot[i]);
		s->user->ram_pages -= s->slot[i]->pages;
		s->slot[i] = NULL;
	}
	gmm__modules_end_vm(s, number);
	gmm_vm_destroy(s->vm[number], GMM_RAM_DISCARD);
	s->user->vms--;
	s->vm[number] = NULL;
}

static void end_vms(struct gmm__session *s)
{
	for (uint32_t i = 0; i < GMM__WIRE_VMS; i++)
		if (s->vm[i])
			end_vm(s, i);
}

void gmm__session_free(struct gmm__session *s)
{
	end_vms(s);
	if (s->socket >= 0)
		close(s->socket);
	gmm__modules_forget(s);
	gmm__user_put(s->user);
	free(s->look);
	free(s->output);
	free(s);
}

bool gmm__session_disconnect(struct gmm__session *s)
{
	if (s->socket >= 0)
		close(s->socket);
	s->socket = -1;
	s->waits = false;
	gmm__modules_forget(s);
	free(s->output);
	s->output = NULL;
	return s->client != 0;
}

bool gmm__session_is_in(const struct gmm__session *s, const struct gmm__domain *domain)
{
	for (uint32_t i = 0; i < GMM__WIRE_VMS; i++)
		if (s->vm[i] && s->vm[i]->domain == domain)
			return true;
	return false;
}

bool gmm__session_is_over(const struct gmm__session *s)
{
	if (s->socket >= 0 || !s->client)
		return false;
	/* A fork may map files of a domain that it has no VM in any more. */
	for (const struct gmm__pooled *pooled = s->service->pooled; pooled; pooled = pooled->next)
		if ((s->unreported || s->forked || gmm__session_is_in(s, pooled->domain)) &&
		    gmm__pooled_is_locked(pooled, s->client))
			return false;
	return true;
}

/* ---- replies ---------------------------------------------------------------------------------------------------- */

int gmm__session_reply(struct gmm__session *s, const struct gmm__wire_header *request, void *reply, size_t size,
		       const void *more, size_t more_size, int fd_passed)
{
	struct iovec parts[2] = { { reply, size }, { (void *)(uintptr_t)more, more_size } };
	struct gmm__wire_header *header = reply;

	header->type = request->type;
	header->sequence = request->sequence;
	header->status = GMM_OK;
	return gmm__wire_send(s->socket, parts, more_size ? 2 : 1, fd_passed);
}

int gmm__session_reply_status(struct gmm__session *s, const struct gmm__wire_header *request, int status)
{
	struct gmm__wire_header reply = { .type = request->type, .sequence = request->sequence, .status = status };
	struct iovec part = { &reply, sizeof reply };

	return gmm__wire_send(s->socket, &part, 1, -1);
}

bool gmm__session_write(struct gmm__session *s)
{
	while (s->output) {
		size_t left = s->output_size - s->output_sent, n = left < ADMIN_PART_BYTES ? left : ADMIN_PART_BYTES;
		struct gmm__wire_admin reply = { .more = n < left };
		int rc = gmm__session_reply(s, &s->output_to, &reply, sizeof reply, s->output + s->output_sent, n, -1);
		if (rc == -EAGAIN)
			return watch(s, EPOLL_CTL_MOD, EPOLLOUT) == 0; /* nothing is read until it is sent */
		if (rc != 0)
			return false;
		s->output_sent += n;
		if (n < left)
			continue;
		free(s->output);
		s->output = NULL;
		return watch(s, EPOLL_CTL_MOD, EPOLLIN) == 0;
	}
	return true;
}

int gmm__session_reply_text(struct gmm__session *s, const struct gmm__wire_header *request, char *text)
{
	if (!text)
		return gmm__session_reply_status(s, request, GMM_ERR_NO_MEMORY);
	s->output = text;
	s->output_size = strlen(text);
	s->output_sent = 0;
	s->output_to = *request;
	return gmm__session_write(s) ? 0 : -EPIPE;
}

/* ---- HELLO ------------------------------------------------------------------------------------------------------ */

static struct gmm__session *find_client(struct gmm__session *s, const struct gmm__wire_hello *hello)
{
	struct gmm__session *old = s->service->sessions;

	while (old && !(old->client == hello->client && old != s))
		old = old->next;
	return old && !old->banned && old->peer.uid == s->peer.uid &&
	       memcmp(old->token, hello->token, sizeof old->token) == 0 ? old : NULL;
}

static int welcome(struct gmm__session *s, const struct gmm__wire_hello *hello)
{
	struct gmm__wire_welcome reply = { .version = GMM__WIRE_VERSION, .client = s->client,
					   .resumed = hello->client && !s->unreported };
	int fd = -1;

	memcpy(reply.token, s->token, sizeof reply.token);
	if (hello->wants_userfaultfd && s->service->config.userfaultfd &&
	    gmm__domain_any(&s->service->config.rules, &s->peer))
		fd = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	int rc = gmm__session_reply(s, &hello->header, &reply, sizeof reply, NULL, 0, fd);
	if (fd >= 0)
		close(fd);
	return rc;
}

/* The connection of s goes on as that of an earlier one. s is left without, to be freed. */
static int resume(struct gmm__session *s, struct gmm__session *old, const struct gmm__wire_hello *hello)
{
	gmm__session_disconnect(old); /* it has not been noticed yet that it is over */
	old->socket = s->socket;
	s->socket = -1;
	old->peer = s->peer;
	old->connected_ns = s->connected_ns;
	if (old->unreported)
		end_vms(old); /* what it said before it lost the connection again */
	int rc = gmm__shadow_keep_pending(old);
	if (rc == 0)
		rc = watch(old, EPOLL_CTL_MOD, EPOLLIN);
	if (rc == 0)
		rc = welcome(old, hello);
	if (rc != 0)
		gmm__session_disconnect(old);
	return -EALREADY;
}

static int begin_client(struct gmm__session *s, const struct gmm__wire_hello *hello)
{
	struct gmm__service *service = s->service;
	struct gmm__store_client client = { .uid = s->peer.uid };

	if (gmm__sys_of(service->gmm)->random(client.token, sizeof client.token) != 0)
		return gmm__session_reply_status(s, &hello->header, GMM_ERR_SYSTEM);
	memcpy(client.program, hello->program, sizeof client.program);
	int rc = gmm__store_next_number(&service->store, &client.number);
	if (rc == 0)
		rc = gmm__store_add_client(&service->store, &client);
	if (rc != 0) {
		gmm__log(service->gmm, GMM_LOG_ERROR, "cannot remember a client: %s", strerror(-rc));
		return gmm__session_reply_status(s, &hello->header, GMM_ERR_NO_MEMORY);
	}
	s->client = client.number;
	memcpy(s->token, client.token, sizeof s->token);
	memcpy(s->program, client.program, sizeof s->program);
	return welcome(s, hello);
}

static int on_hello(struct gmm__session *s, const void *packet, size_t size)
{
	const struct gmm__wire_hello *hello = packet;

	(void)size;
	if (s->client || hello->magic != GMM__WIRE_MAGIC || !gmm__wire_name_valid(hello->program) ||
	    hello->wants_userfaultfd > 1 || hello->unused)
		return -EPROTO;
	if (hello->version != GMM__WIRE_VERSION)
		return gmm__session_reply_status(s, &hello->header, GMM_ERR_NO_SERVICE);
	if (!hello->client)
		return begin_client(s, hello);
	struct gmm__session *old = find_client(s, hello);
	return old ? resume(s, old, hello) : gmm__session_reply_status(s, &hello->header, GMM_ERR_NOT_FOUND);
}

/* ---- VMs and slots ----------------------------------------------------------------------------------------------- */

static int make_vm(struct gmm__session *s, const struct gmm__wire_vm_add *add, struct gmm__pooled **ret_pooled)
{
	struct gmm__service *service = s->service;
	struct gmm_vm_options options;
	char domain[GMM_NAME_MAX + 1];

	int status = gmm__domain_choose(&service->config.rules, &s->peer, add->domain, domain);
	if (status != GMM_OK)
		return status;
	if (service->gmm->n_vms >= service->config.max_vms || s->user->vms >= service->config.max_vms_of_user)
		return GMM_ERR_LIMIT;
	*ret_pooled = gmm__pools_get(service, domain);
	if (!*ret_pooled)
		return GMM_ERR_NO_MEMORY;
	gmm_vm_options_init(&options);
	options.name = add->name[0] ? add->name : NULL;
	options.domain = domain;
	options.priority = (enum gmm_priority)add->priority;
	status = gmm_vm_create(service->gmm, &options, &s->vm[add->vm]);
	s->user->vms += status == GMM_OK;
	return status;
}

static int on_vm_add(struct gmm__session *s, const void *packet, size_t size)
{
	const struct gmm__wire_vm_add *add = packet;
	struct gmm__pooled *pooled = NULL;
	struct gmm__wire_vm reply = { 0 };

	(void)size;
	if (add->vm >= GMM__WIRE_VMS || s->vm[add->vm] || add->priority > GMM_PRIORITY_HIGH ||
	    !gmm__wire_name_valid(add->name) || !gmm__wire_name_valid(add->domain))
		return -EPROTO;
	int status = s->vm_refused = make_vm(s, add, &pooled);
	if (status != GMM_OK)
		return gmm__session_reply_status(s, &add->header, status);
	if (s->forked)
		gmm__shadow_set_forked(s);
	strcpy(reply.domain, pooled->domain->name);
	memcpy(reply.secret, pooled->domain->catalog->secret.bytes, sizeof reply.secret);
	reply.domain_number = pooled->number;
	return gmm__session_reply(s, &add->header, &reply, sizeof reply, NULL, 0, -1);
}

/* VM_REMOVE and SLOT_REMOVE. */
static int on_remove(struct gmm__session *s, const void *packet, size_t size)
{
	const struct gmm__wire_remove *remove = packet;
	bool is_vm = remove->header.type == GMM__WIRE_VM_REMOVE;

	(void)size;
	if (remove->number >= (is_vm ? (uint32_t)GMM__WIRE_VMS : (uint32_t)GMM__WIRE_SLOTS) ||
	    !(is_vm ? (void *)s->vm[remove->number] : (void *)s->slot[remove->number]) ||
	    remove->flags & ~(uint32_t)GMM__WIRE_FORKED)
		return -EPROTO;
	if (remove->flags & GMM__WIRE_FORKED)
		gmm__shadow_set_forked(s);
	if (is_vm) {
		end_vm(s, remove->number);
	} else {
		struct gmm__slot *slot = s->slot[remove->number];
		uint32_t pages = slot->pages;
		gmm__shadow_drop_slot(s, slot);
		int status = gmm_vm_remove_ram(slot->vm, slot->gfn * GMM__PAGE_BYTES, GMM_RAM_DISCARD);
		if (status != GMM_OK)
			return gmm__session_reply_status(s, &remove->header, status);
		s->user->ram_pages -= pages;
		s->slot[remove->number] = NULL;
	}
	return gmm__session_reply_status(s, &remove->header, GMM_OK);
}

static int make_slot(struct gmm__session *s, const struct gmm__wire_slot_add *add)
{
	struct gmm_vm *vm = s->vm[add->vm];
	struct gmm__domain *domain = vm->domain;

	if (domain->pages + add->pages > s->service->config.max_ram_pages ||
	    s->user->ram_pages + add->pages > s->service->config.max_ram_pages_of_user)
		return GMM_ERR_LIMIT;
	int status = gmm__vm_add_shadow(vm, add->gfn, add->pages, &s->slot[add->slot]);
	if (status != GMM_OK)
		return status;
	s->user->ram_pages += add->pages;
	s->slot[add->slot]->owner = s;
	s->slot[add->slot]->number = add->slot;
	if (gmm__catalog_prepare(domain->catalog, domain->pages) != 0)
		gmm__log(s->service->gmm, GMM_LOG_WARNING, "no memory for the index of domain %s", domain->name);
	return GMM_OK;
}

static int on_slot_add(struct gmm__session *s, const void *packet, size_t size)
{
	const struct gmm__wire_slot_add *add = packet;

	(void)size;
	if (add->vm >= GMM__WIRE_VMS || !s->vm[add->vm] || add->slot >= GMM__WIRE_SLOTS || s->slot[add->slot] ||
	    add->unused)
		return -EPROTO;
	s->ram_refused = make_slot(s, add);
	if (s->ram_refused == GMM_OK)
		gmm__session_charge(s, SLOT_CHARGE + add->pages / SLOT_CHARGE_PART);
	return gmm__session_reply_status(s, &add->header, s->ram_refused);
}

/* ---- pool, poll, admin --------------------------------------------------------------------------------------------- */

/* The client's domain that the chunk is of, or NULL. */
static struct gmm__pooled *domain_of_chunk(const struct gmm__session *s, gmm__chunk_id chunk)
{
	if (chunk == GMM__NIL || chunk > GMM__CHUNK_ID_MAX)
		return NULL;
	for (struct gmm__pooled *pooled = s->service->pooled; pooled; pooled = pooled->next)
		if (gmm__session_is_in(s, pooled->domain) &&
		    gmm__pool_has(&pooled->domain->pool, gmm__page_make(chunk, 0)))
			return pooled;
	return NULL;
}

static int on_chunk(struct gmm__session *s, const void *packet, size_t size)
{
	const struct gmm__wire_chunk *request = packet;
	struct gmm__service *service = s->service;
	int fd = -1;

	(void)size;
	if (request->with_file > 1)
		return -EPROTO;
	const struct gmm__pooled *pooled = domain_of_chunk(s, request->chunk);
	if (!pooled)
		return gmm__session_reply_status(s, &request->header, GMM_ERR_NOT_FOUND);
	const struct gmm__chunk *chunk = gmm__chunk_table_chunk(&service->gmm->chunks, request->chunk);
	struct gmm__wire_place reply = { .domain_number = pooled->number, .file = chunk->file,
					 .file_chunk = chunk->file_chunk };
	if (request->with_file) {
		fd = gmm__store_open_for_client(&service->store, pooled->number, chunk->file, s->client);
		if (fd < 0)
			return gmm__session_reply_status(s, &request->header, GMM_ERR_SYSTEM);
	}
	int rc = gmm__session_reply(s, &request->header, &reply, sizeof reply, NULL, 0, fd);
	if (fd >= 0)
		close(fd); /* from here on the client has the only one */
	return rc;
}

static void add_domains(const struct gmm__session *s, struct gmm__wire_news *news)
{
	for (const struct gmm__pooled *pooled = s->service->pooled; pooled; pooled = pooled->next) {
		if (!gmm__session_is_in(s, pooled->domain))
			continue;
		news->domain_pool_pages += pooled->domain->pool.used_pages;
		news->domain_references += pooled->domain->pool.references;
	}
}

static int on_poll(struct gmm__session *s, const void *packet, size_t size)
{
	const struct gmm__wire_poll *poll = packet;
	struct gmm__wire_news news = { .paused = s->service->paused || s->paused, .unshare = s->unshare,
				       .cpu_percent = s->service->config.cpu_percent,
				       .modules = gmm__modules_news(s) };

	(void)size;
	if (poll->settled > 1 || poll->forked > 1 || poll->reported > 1 || poll->unused)
		return -EPROTO;
	if (poll->reported)
		s->unreported = false;
	s->told = *poll;
	s->forked = poll->forked;
	if (s->forked)
		gmm__shadow_set_forked(s);
	news.n_look = s->n_look < GMM__WIRE_LOOK_PAGES ? s->n_look : GMM__WIRE_LOOK_PAGES;
	add_domains(s, &news);
	int rc = gmm__session_reply(s, &poll->header, &news, sizeof news, s->look, news.n_look * sizeof *s->look, -1);
	s->n_look = 0;
	return rc;
}

void gmm__session_add_look(struct gmm__session *s, uint32_t slot, uint32_t page)
{
	if (!s->look)
		s->look = malloc(GMM__LOOK_QUEUE * sizeof *s->look);
	/* A page that is not named will be offered again in the client's next survey. */
	if (s->look && s->n_look < GMM__LOOK_QUEUE && s->n_look < GMM__WIRE_LOOK_PAGES)
		s->look[s->n_look++] = (struct gmm__wire_look){ slot, page };
}

static int on_admin(struct gmm__session *s, const void *packet, size_t size)
{
	const struct gmm__wire_admin *admin = packet;

	if (admin->more || admin->unused)
		return -EPROTO;
	uint32_t charge = ADMIN_CHARGE;
	char *answer = gmm__admin_answer(s->service, &s->peer, (const char *)(admin + 1), size - sizeof *admin, &charge);
	gmm__session_charge(s, charge);
	return gmm__session_reply_text(s, &admin->header, answer);
}

/* ---- messages ------------------------------------------------------------------------------------------------------ */

static const struct {
	size_t size;      /* of the fixed part */
	bool has_more;    /* elements follow */
	int (*handle)(struct gmm__session *s, const void *packet, size_t size);
} messages[GMM__WIRE_TYPES] = {
	[GMM__WIRE_HELLO] = { sizeof(struct gmm__wire_hello), false, on_hello },
	[GMM__WIRE_VM_ADD] = { sizeof(struct gmm__wire_vm_add), false, on_vm_add },
	[GMM__WIRE_VM_REMOVE] = { sizeof(struct gmm__wire_remove), false, on_remove },
	[GMM__WIRE_SLOT_ADD] = { sizeof(struct gmm__wire_slot_add), false, on_slot_add },
	[GMM__WIRE_SLOT_REMOVE] = { sizeof(struct gmm__wire_remove), false, on_remove },
	[GMM__WIRE_OFFER] = { sizeof(struct gmm__wire_region), true, gmm__shadow_offer },
	[GMM__WIRE_PROMOTE] = { sizeof(struct gmm__wire_region), true, gmm__shadow_promote },
	[GMM__WIRE_RESHARE] = { sizeof(struct gmm__wire_region), true, gmm__shadow_reshare },
	[GMM__WIRE_COMMIT] = { sizeof(struct gmm__wire_region), true, gmm__shadow_commit },
	[GMM__WIRE_REPORT] = { sizeof(struct gmm__wire_region), true, gmm__shadow_report },
	[GMM__WIRE_CHUNK] = { sizeof(struct gmm__wire_chunk), false, on_chunk },
	[GMM__WIRE_POLL] = { sizeof(struct gmm__wire_poll), false, on_poll },
	[GMM__WIRE_ADMIN] = { sizeof(struct gmm__wire_admin), true, on_admin },
	[GMM__WIRE_MODULE] = { sizeof(struct gmm__wire_module), true, gmm__modules_take },
	[GMM__WIRE_MODULES] = { sizeof(struct gmm__wire_modules), false, gmm__modules_take_end },
};

static int handle(struct gmm__session *s, const void *packet, size_t size)
{
	const struct gmm__wire_header *header = packet;
	uint32_t type = header->type;

	if (header->status != 0 || size < messages[type].size ||
	    (!messages[type].has_more && size != messages[type].size))
		return -EPROTO;
	if (!s->client && type != GMM__WIRE_HELLO && type != GMM__WIRE_ADMIN)
		return -EPROTO;
	return messages[type].handle(s, packet, size);
}

/* For how long it is not read, until it and its user are below their bounds again. */
static uint64_t rest_ns(struct gmm__session *s)
{
	const struct gmm__config *config = &s->service->config;

	gmm__bucket_fill(&s->bucket, config->pages_per_second, s->service->now_ns);
	gmm__bucket_fill(&s->user->bucket, config->user_pages_per_second, s->service->now_ns);
	uint64_t own_ns = gmm__bucket_wait_ns(&s->bucket, config->pages_per_second);
	uint64_t user_ns = gmm__bucket_wait_ns(&s->user->bucket, config->user_pages_per_second);
	return own_ns > user_ns ? own_ns : user_ns;
}

static bool rest_if_over(struct gmm__session *s)
{
	uint64_t ns = rest_ns(s);

	if (ns == 0 || s->socket < 0 || s->output)
		return true;
	s->waits = true;
	s->resume_ns = s->service->now_ns + ns;
	return watch(s, EPOLL_CTL_MOD, 0) == 0;
}

void gmm__session_charge(struct gmm__session *s, uint32_t pages)
{
	s->bucket.pages -= pages;
	s->user->bucket.pages -= pages;
	s->charged_pages += pages;
}

bool gmm__session_receive(struct gmm__session *s)
{
	struct gmm__service *service = s->service;
	int fd = -1;

	if (s->waits) {
		s->waits = false;
		if (watch(s, EPOLL_CTL_MOD, EPOLLIN) != 0)
			return false;
	}
	if (rest_ns(s) > 0) /* others of its user have used up what it waited for */
		return rest_if_over(s);
	ssize_t n = gmm__wire_receive(s->socket, service->packet, sizeof service->packet, &fd);
	if (n == -EAGAIN)
		return true;
	if (n == 0 || (n < 0 && n != -EPROTO))
		return false;
	uint64_t start_ns = gmm__sys_of(service->gmm)->clock_ns();
	if (fd >= 0)
		close(fd);
	/* No message of a client brings a descriptor. */
	int rc = n < 0 || fd >= 0 ? -EPROTO : handle(s, service->packet, (size_t)n);
	if (rc == -EPROTO) {
		service->violations++;
		s->banned = true;
		gmm__log(service->gmm, GMM_LOG_WARNING, "client %u (process %d of user %u) broke the protocol", s->client,
			 (int)s->peer.pid, s->peer.uid);
	}
	s->messages++;
	service->messages++;
	s->cpu_ns += gmm__sys_of(service->gmm)->clock_ns() - start_ns;
	gmm__session_charge(s, MESSAGE_CHARGE);
	return rc == 0 && rest_if_over(s);
}
