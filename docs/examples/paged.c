/* A VMM that keeps its own page tables, and lets equal pages of two virtual machines be shared.
 *
 * The guest's memory is a table of page ids. Pages that nobody wrote to have no id; a first touch and a write to a shared page
 * take a handy page; the library asks when it found an equal page, and the answer changes the table.
 *
 * Build:  cc paged.c $(pkg-config --cflags --libs gmm-dedup) -lpthread
 */
#include <gmm/pages.h>

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { RAM_PAGES = 512, HANDY_PAGES = 128, HANDY_LOW = 8 };

/* One lock stands for what a real VMM has: write-protection of single pages, and a way to stop its virtual processors. */
struct vmm {
	struct gmm_vm *vm;
	pthread_mutex_t lock;
	gmm_page_id table[RAM_PAGES]; /* 0: reads zero */
	bool writable[RAM_PAGES];
	struct gmm_handy_page handy[HANDY_PAGES];
	uint32_t used;                /* of them, at the start */
};

/* Every function of the library returns GMM_OK or a status with a name and a sentence. */
static void check(int status, const char *what)
{
	if (status == GMM_OK)
		return;
	fprintf(stderr, "%s: %s\n", what, gmm_status_text(status));
	exit(status == GMM_ERR_UNSUPPORTED_KERNEL || status == GMM_ERR_NO_PERMISSION ? 77 : 1);
}

/* ---- memory ---- */

static char *bytes_of(struct vmm *v, gmm_page_id page)
{
	void *addr;

	check(gmm_vm_map_chunk(v->vm, gmm_page_chunk(page), 0, &addr), "map a chunk");
	return (char *)addr + gmm_page_index(page) * (size_t)GMM_PAGE_SIZE;
}

/* Tells which handy pages were used, where, and what they took the place of; gets fresh ones. */
static void refill(struct vmm *v)
{
	if (v->used)
		check(gmm_vm_refill_handy_pages(v->vm, v->used, v->used, v->handy), "refill");
	v->used = 0;
}

/* A page fault on write: first touch, or copy on write. */
static void make_writable(struct vmm *v, uint32_t gfn)
{
	struct gmm_handy_page *fresh = &v->handy[v->used++];

	if (v->table[gfn])
		memcpy(bytes_of(v, fresh->page), bytes_of(v, v->table[gfn]), GMM_PAGE_SIZE);
	fresh->guest_addr = (uint64_t)gfn * GMM_PAGE_SIZE;
	fresh->shared_page = v->table[gfn];
	v->table[gfn] = fresh->page;
	v->writable[gfn] = true;
	if (v->used > HANDY_PAGES - HANDY_LOW)
		refill(v);
}

static void guest_write(struct vmm *v, uint64_t guest_addr, uint64_t value)
{
	uint32_t gfn = (uint32_t)(guest_addr / GMM_PAGE_SIZE);

	pthread_mutex_lock(&v->lock);
	if (!v->writable[gfn])
		make_writable(v, gfn);
	memcpy(bytes_of(v, v->table[gfn]) + guest_addr % GMM_PAGE_SIZE, &value, sizeof value);
	pthread_mutex_unlock(&v->lock);
}

static uint64_t guest_read(struct vmm *v, uint64_t guest_addr)
{
	uint32_t gfn = (uint32_t)(guest_addr / GMM_PAGE_SIZE);
	uint64_t value = 0;

	pthread_mutex_lock(&v->lock);
	if (v->table[gfn])
		memcpy(&value, bytes_of(v, v->table[gfn]) + guest_addr % GMM_PAGE_SIZE, sizeof value);
	pthread_mutex_unlock(&v->lock);
	return value;
}

/* ---- requests ---- */

/* A shared page moves to another place; its bytes are the same. News that were not told yet name the new place, too. */
static void move(struct vmm *v, gmm_page_id from, gmm_page_id to)
{
	for (uint32_t gfn = 0; gfn < RAM_PAGES; gfn++)
		if (v->table[gfn] == from)
			v->table[gfn] = to;
	for (uint32_t i = 0; i < v->used; i++)
		if (v->handy[i].shared_page == from)
			v->handy[i].shared_page = to;
}

/* Called by the library's thread. From ACCEPTED to the outcome nothing may write to the page: here the lock is kept. */
static enum gmm_answer answer(void *arg, struct gmm_vm *vm, const struct gmm_request *request)
{
	struct vmm *v = arg;
	uint32_t gfn = (uint32_t)(request->guest_addr / GMM_PAGE_SIZE);

	(void)vm;
	switch (request->kind) {
	case GMM_REQUEST_CHECK:
		if (pthread_mutex_trylock(&v->lock) != 0)
			return GMM_ANSWER_BUSY;
		if (v->table[gfn] == request->page)
			return GMM_ANSWER_ACCEPTED;
		pthread_mutex_unlock(&v->lock);
		return GMM_ANSWER_CHANGED;
	case GMM_REQUEST_MOVE:
		return pthread_mutex_trylock(&v->lock) == 0 ? GMM_ANSWER_ACCEPTED : GMM_ANSWER_BUSY;
	case GMM_REQUEST_UPDATE:
		if (request->guest_addr == GMM_GUEST_NIL) {
			move(v, request->page, request->shared_page);
			pthread_mutex_unlock(&v->lock);
			break;
		}
		v->table[gfn] = request->shared_page; /* 0: it was all zero */
		v->writable[gfn] = false;
		pthread_mutex_unlock(&v->lock);
		break;
	case GMM_REQUEST_CANCEL:
		pthread_mutex_unlock(&v->lock);
		break;
	case GMM_REQUEST_FLUSH:
		pthread_mutex_lock(&v->lock);
		refill(v);
		pthread_mutex_unlock(&v->lock);
		break;
	}
	return GMM_ANSWER_ACCEPTED;
}

static void begin(struct gmm *gmm, struct vmm *v)
{
	const struct gmm_reservation reservation = { .pages = { RAM_PAGES + HANDY_PAGES, 1, 1 } };
	struct gmm_vm_options options;
	struct gmm_paged_options requests;

	memset(v, 0, sizeof *v);
	pthread_mutex_init(&v->lock, NULL);
	gmm_vm_options_init(&options);
	options.kind = GMM_VM_PAGED;
	check(gmm_vm_create(gmm, &options, &v->vm), "create");
	check(gmm_vm_reserve(v->vm, &reservation), "reserve");
	check(gmm_vm_refill_handy_pages(v->vm, 0, HANDY_PAGES, v->handy), "first handy pages");
	gmm_paged_options_init(&requests);
	requests.request = answer;
	requests.request_arg = v;
	check(gmm_paged_set_options(v->vm, &requests), "take requests");
}

static uint64_t references(struct vmm *v)
{
	struct gmm_vm_memory_stats stats;

	check(gmm_vm_memory_stats(v->vm, &stats), "statistics");
	return stats.memory.references;
}

int main(void)
{
	struct gmm_options options;
	struct gmm *gmm;
	struct vmm vmm[2];

	gmm_options_init(&options);
	options.window_ms = 0; /* an example need not wait */
	options.pass_interval_ms = 10;
	options.cpu_percent = 0;
	check(gmm_instance_open(&options, &gmm), "open");
	for (int i = 0; i < 2; i++) {
		begin(gmm, &vmm[i]);
		for (uint32_t gfn = 0; gfn < RAM_PAGES / 2; gfn++) /* the other half is never touched */
			guest_write(&vmm[i], (uint64_t)gfn * GMM_PAGE_SIZE + 8, gfn + 1);
	}
	check(gmm_engine_start(gmm), "start the engine");
	for (int ms = 0; ms < 90000 && references(&vmm[0]) + references(&vmm[1]) < RAM_PAGES - 2 * HANDY_LOW; ms++)
		usleep(1000);
	printf("%" PRIu64 " and %" PRIu64 " pages are shared\n", references(&vmm[0]), references(&vmm[1]));

	guest_write(&vmm[0], 16, 4711); /* a copy of its own */
	bool right = references(&vmm[0]) > 0 && guest_read(&vmm[0], 16) == 4711 && guest_read(&vmm[1], 16) == 0;
	for (int i = 0; i < 2; i++)
		for (uint32_t gfn = 0; gfn < RAM_PAGES / 2; gfn++)
			right = right && guest_read(&vmm[i], (uint64_t)gfn * GMM_PAGE_SIZE + 8) == gfn + 1;
	for (int i = 0; i < 2; i++) {
		check(gmm_vm_destroy(vmm[i].vm, GMM_RAM_DISCARD), "destroy");
		pthread_mutex_destroy(&vmm[i].lock);
	}
	check(gmm_instance_close(gmm), "close");
	puts(right ? "every byte is right" : "WRONG BYTES");
	return right ? 0 : 1;
}
