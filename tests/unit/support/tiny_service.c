/* A tiny sharing service for tests of the client side. */
#include "tests/unit/support/tiny_service.h"

#include <check.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "dedup/catalog.h"
#include "dedup/region.h"
#include "tests/support/guest.h"

enum { CHUNK = 77, DOMAIN = 5 };

struct answer {
	size_t size;
	int fd;
	_Alignas(8) uint8_t bytes[GMM__WIRE_MAX];
};

static uint32_t find(const uint32_t *all, uint32_t n, uint32_t fingerprint)
{
	for (uint32_t i = 0; i < n; i++)
		if (all[i] == fingerprint)
			return i;
	return n;
}

static gmm__page_id page_at(uint32_t i)
{
	return gmm__page_make(CHUNK + i / GMM__CHUNK_PAGES, i % GMM__CHUNK_PAGES);
}

static void welcome(struct tiny_service *s, const struct gmm__wire_hello *hello, struct answer *a)
{
	struct gmm__wire_welcome *w = (void *)a->bytes;

	w->version = GMM__WIRE_VERSION;
	w->client = 7;
	w->token[0] = 42;
	w->resumed = hello->client == 7 && hello->token[0] == 42 && !s->forget;
	a->size = sizeof *w;
}

static void grant(struct answer *a)
{
	struct gmm__wire_vm *vm = (void *)a->bytes;

	strcpy(vm->domain, "tiny");
	for (size_t i = 0; i < sizeof vm->secret; i++)
		vm->secret[i] = (uint8_t)(i * 7 + 3);
	vm->domain_number = DOMAIN;
	a->size = sizeof *vm;
}

static void judge(struct tiny_service *s, const struct gmm__wire_region *region, const struct gmm__wire_finding *finding,
		  struct gmm__wire_verdict *v)
{
	const struct gmm__wire_look self = { region->slot, region->first + finding->index };
	uint32_t twin = find(s->candidate, s->candidates, finding->fingerprint);
	uint32_t page = find(s->fingerprint, s->pages, finding->fingerprint);

	*v = (struct gmm__wire_verdict){ .index = finding->index, .kind = GMM__VERDICT_UNIQUE };
	if (finding->found == GMM__FOUND_ZERO) {
		v->kind = GMM__VERDICT_ZERO;
	} else if (page < s->pages) {
		v->kind = GMM__VERDICT_JOIN;
		v->page = page_at(s->lie == LIE_CONTENT && s->pages > 1 ? (page + 1) % s->pages : page);
	} else if (twin < s->candidates) {
		if (s->owner[twin].slot == self.slot && s->owner[twin].page == self.page)
			return;
		v->kind = GMM__VERDICT_PROMOTE;
		if (s->looks < TINY_PAGES)
			s->look[s->looks++] = s->owner[twin];
	} else if (s->candidates < 4 * TINY_PAGES) {
		s->owner[s->candidates] = self;
		s->candidate[s->candidates++] = finding->fingerprint;
	}
}

static void lie_about_verdicts(struct tiny_service *s, struct gmm__wire_region *region)
{
	struct gmm__wire_verdict *v = (void *)(region + 1);

	if (region->n == 0)
		return;
	if (s->lie == LIE_INDEX)
		v->index = UINT16_MAX;
	else if (s->lie == LIE_KIND)
		v->kind = 99;
	else if (s->lie == LIE_PAGE)
		*v = (struct gmm__wire_verdict){ .index = v->index, .kind = GMM__VERDICT_JOIN, .page = 0x12345678 };
	else
		return;
	s->lies_told++;
}

static uint32_t last_fingerprint[GMM__WIRE_REGION_PAGES]; /* of the region's pages, as last offered */

static void offer(struct tiny_service *s, const struct gmm__wire_region *request, struct answer *a)
{
	const struct gmm__wire_finding *finding = (const void *)(request + 1);
	struct gmm__wire_region *region = (void *)a->bytes;
	struct gmm__wire_verdict *v = (void *)(region + 1);

	ck_assert(gmm__wire_fits(request->header.size, sizeof *request, request->n, sizeof *finding));
	*region = *request;
	for (uint32_t i = 0; i < request->n; i++) {
		ck_assert_uint_lt(finding[i].index, request->count);
		last_fingerprint[finding[i].index] = finding[i].fingerprint;
		judge(s, request, &finding[i], &v[i]);
		s->offered++;
	}
	a->size = sizeof *region + request->n * sizeof *v;
	lie_about_verdicts(s, region);
}

static void promote(struct tiny_service *s, const struct gmm__wire_region *request, struct answer *a)
{
	const uint32_t *index = (const void *)(request + 1);
	const uint8_t *bytes = (const uint8_t *)index + (request->n + 1) / 2 * 8;
	struct gmm__wire_region *region = (void *)a->bytes;
	uint32_t *page = (void *)(region + 1);

	ck_assert_uint_eq(request->header.size, sizeof *request + (request->n + 1) / 2 * 8 + request->n * GMM__PAGE_BYTES);
	*region = *request;
	for (uint32_t i = 0; i < request->n; i++) {
		page[i] = GMM__NIL;
		if (s->pages == TINY_PAGES)
			continue;
		ck_assert_int_eq(pwrite(s->pool, bytes + i * GMM__PAGE_BYTES, GMM__PAGE_BYTES,
					(off_t)s->pages * GMM__PAGE_BYTES), GMM__PAGE_BYTES);
		s->fingerprint[s->pages] = last_fingerprint[index[i]];
		page[i] = page_at(s->pages++);
	}
	a->size = sizeof *region + request->n * sizeof *page;
}

static void commit(struct tiny_service *s, const struct gmm__wire_region *request)
{
	const struct gmm__wire_states *run = (const void *)(request + 1);
	uint32_t page = request->first;

	ck_assert_uint_lt(request->slot, GMM__WIRE_SLOTS);
	ck_assert(gmm__wire_fits(request->header.size, sizeof *request, request->n, sizeof *run));
	for (uint32_t i = 0; i < request->n; i++)
		for (uint32_t k = 0; k < run[i].pages; k++, page++)
			if (request->slot == 0 && page < TINY_PAGES)
				s->state[page] = run[i].state;
	ck_assert_uint_eq(page, request->first + request->count);
	s->commits++;
}

static void place(struct tiny_service *s, const struct gmm__wire_chunk *request, struct answer *a)
{
	struct gmm__wire_place *p = (void *)a->bytes;

	p->domain_number = DOMAIN;
	p->file_chunk = request->chunk - CHUNK;
	a->size = sizeof *p;
	if (request->chunk < CHUNK || request->chunk >= CHUNK + TINY_PAGES / GMM__CHUNK_PAGES) {
		p->header.status = GMM_ERR_NOT_FOUND;
		a->size = sizeof p->header;
	} else if (s->lie == LIE_CHUNK) {
		p->file_chunk = 1u << 30;
		s->lies_told++;
	}
	if (request->with_file)
		a->fd = s->pool;
}

static void news(struct tiny_service *s, const struct gmm__wire_poll *poll, struct answer *a)
{
	struct gmm__wire_news *n = (void *)a->bytes;

	s->unshared = poll->unshared;
	s->settle_estimate_ms = poll->settle_estimate_ms;
	s->reported = poll->reported;
	n->cpu_percent = s->limited ? s->cpu_percent : UINT32_MAX;
	n->unshare = s->unshare;
	n->paused = s->paused;
	n->modules = s->modules_told == s->modules_wanted && !s->asks_again ? 0 : (uint32_t)s->modules_wanted;
	n->n_look = s->looks;
	memcpy(n + 1, s->look, s->looks * sizeof *s->look);
	a->size = sizeof *n + s->looks * sizeof *s->look;
	s->looks = 0;
}

static void take_module(struct tiny_service *s, const struct gmm__wire_module *m)
{
	const struct gmm__wire_module_run *run = (const void *)(m + 1);
	static struct tiny_module beyond;

	if (m->modules != s->modules_wanted) /* a lie asked for it */
		return;
	ck_assert_uint_lt(m->vm, GMM__WIRE_VMS);
	ck_assert(gmm__wire_fits(m->header.size, sizeof *m, m->n, sizeof *run));
	uint32_t i = m->first == 0 ? s->modules++ : s->modules - 1, named = 0;
	struct tiny_module *module = i < TINY_MODULES ? &s->module[i] : &beyond;
	if (m->first == 0)
		*module = (struct tiny_module){ .said = *m };
	ck_assert_uint_eq(m->first, module->pages);
	ck_assert_str_eq(m->name, module->said.name);
	for (i = 0; i < m->n; i++, module->runs++) {
		if (module->runs < TINY_RUNS)
			module->run[module->runs] = run[i];
		module->pages += run[i].pages;
		named += run[i].gfn == GMM__WIRE_NO_GFN ? 0 : run[i].pages;
	}
	ck_assert_uint_le(module->pages, m->pages);
	ck_assert_uint_le(named, GMM__WIRE_MODULE_PAGES);
	module->messages++;
}

static void end_modules(struct tiny_service *s, const struct gmm__wire_modules *end)
{
	if (end->modules != s->modules_wanted)
		return;
	s->modules_left_out = end->left_out;
	s->modules_told = end->modules;
	if (s->asks_again)
		s->modules = 0;
}

/* Lies that fit any answer. False: the connection is to be closed. */
static bool garble(struct tiny_service *s, struct answer *a)
{
	struct gmm__wire_header *h = (void *)a->bytes;
	uint64_t seed = s->seed += 0x9e3779b97f4a7c15ull;
	struct gmm__wire_region *region = (void *)a->bytes;

	switch (s->lie) {
	case LIE_SHORT: a->size -= a->size > sizeof *h ? 4 : 0; break;
	case LIE_LONG: a->size += 8; break;
	case LIE_TYPE: h->type = h->type == GMM__WIRE_POLL ? GMM__WIRE_OFFER : GMM__WIRE_POLL; break;
	case LIE_SEQUENCE: h->sequence++; break;
	case LIE_STATUS: h->status = 3; break;
	case LIE_REFUSE: h->status = GMM_ERR_REFUSED; a->size = sizeof *h; break;
	case LIE_COUNT: region->n += 7; break;
	case LIE_CLOSE: s->lies_told++; return false;
	case LIE_NOISE:
		for (size_t i = sizeof *h; i < a->size; i++)
			if (random_next(&seed) % 4 == 0)
				a->bytes[i] = (uint8_t)random_next(&seed);
		break;
	default: return true;
	}
	s->lies_told++;
	return true;
}

static void add_slot(struct tiny_service *s)
{
	s->slots++;
	if (s->set_on_slot_add)
		*s->set_on_slot_add = true;
}

/* False: the client is to be left. */
static bool serve(struct tiny_service *s, int client, uint8_t *request)
{
	static struct answer a;
	const struct gmm__wire_header *h = (const void *)request;
	struct gmm__wire_header *reply = (void *)a.bytes;
	int fd;

	if (gmm__wire_receive(client, request, GMM__WIRE_MAX, &fd) <= 0)
		return false;
	while (s->stuck_at == h->type && !s->stopping) {
		s->is_stuck = true;
		usleep(1000);
	}
	s->is_stuck = false;
	memset(a.bytes, 0, sizeof(struct gmm__wire_vm));
	a.size = sizeof *h;
	a.fd = -1;
	switch (h->type) {
	case GMM__WIRE_HELLO: welcome(s, (const void *)h, &a); break;
	case GMM__WIRE_VM_ADD: grant(&a); break;
	case GMM__WIRE_SLOT_ADD: add_slot(s); break;
	case GMM__WIRE_REPORT: s->reports++; break;
	case GMM__WIRE_RESHARE:
	case GMM__WIRE_OFFER: offer(s, (const void *)h, &a); break;
	case GMM__WIRE_PROMOTE: promote(s, (const void *)h, &a); break;
	case GMM__WIRE_COMMIT: commit(s, (const void *)h); return true;
	case GMM__WIRE_MODULE: take_module(s, (const void *)h); return true;
	case GMM__WIRE_MODULES: end_modules(s, (const void *)h); return true;
	case GMM__WIRE_CHUNK: place(s, (const void *)h, &a); break;
	case GMM__WIRE_POLL: news(s, (const void *)h, &a); break;
	default: break;
	}
	reply->type = h->type;
	reply->sequence = h->sequence;
	uint32_t about = s->lie_about;
	if ((about == h->type || (!about && h->type != GMM__WIRE_HELLO)) && !garble(s, &a))
		return false;
	struct iovec part = { a.bytes, a.size };
	return gmm__wire_send(client, &part, 1, a.fd) == 0;
}

static void *run(void *arg)
{
	struct tiny_service *s = arg;
	uint8_t *request = aligned_alloc(4096, GMM__WIRE_MAX);
	int client = -1;

	while (!s->stopping) {
		struct pollfd wait = { .fd = client >= 0 ? client : s->listener, .events = POLLIN };
		if (poll(&wait, 1, 20) <= 0)
			continue;
		if (client < 0) {
			client = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC);
			s->connections++;
		} else if (!serve(s, client, request)) {
			close(client);
			client = -1;
		}
	}
	if (client >= 0)
		close(client);
	free(request);
	return NULL;
}

void tiny_service_start(struct tiny_service *s)
{
	char folder[] = "/tmp/gmm-tiny-XXXXXX";

	ck_assert_ptr_nonnull(mkdtemp(folder));
	snprintf(s->path, sizeof s->path, "%s/socket", folder);
	s->listener = gmm__wire_listen(s->path, 0600);
	ck_assert_int_ge(s->listener, 0);
	s->pool = memfd_create("tiny", MFD_CLOEXEC);
	ck_assert_int_eq(ftruncate(s->pool, (off_t)TINY_PAGES * GMM__PAGE_BYTES), 0);
	ck_assert_int_eq(pthread_create(&s->thread, NULL, run, s), 0);
}

void tiny_service_stop(struct tiny_service *s)
{
	s->stopping = true;
	pthread_join(s->thread, NULL);
	close(s->listener);
	close(s->pool);
	unlink(s->path);
	*strrchr(s->path, '/') = '\0';
	rmdir(s->path);
}
