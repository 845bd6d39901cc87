/* The trust domains of a service, their pools, and the recovery after a restart. */
#include "service/pools.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "dedup/catalog.h"
#include "dedup/instance.h"
#include "service/session.h"

/* ---- the pool's files ------------------------------------------------------------------------------------------- */

static int open_file(void *arg, uint32_t file)
{
	const struct gmm__pooled *pooled = arg;

	return gmm__store_open_file(&pooled->service->store, pooled->number, file);
}

static int chunk_added(void *arg, uint32_t place, gmm__chunk_id id)
{
	const struct gmm__pooled *pooled = arg;
	uint64_t most = pooled->service->config.max_pool_pages;

	if (most && (place + 1ull) * GMM__CHUNK_PAGES > most)
		return -ENOSPC;
	return gmm__store_add_chunk(&pooled->service->store, pooled->number, place, id);
}

static const struct gmm__pool_store pool_store = { open_file, chunk_added };

static struct gmm__pooled *new_pooled(struct gmm__service *service, const struct gmm__store_domain *stored)
{
	struct gmm__pooled *pooled = calloc(1, sizeof *pooled);
	struct gmm__domain *domain = pooled ? gmm__domain_get(service->gmm, stored->name) : NULL;

	if (!domain) {
		free(pooled);
		return NULL;
	}
	*pooled = (struct gmm__pooled){ .next = service->pooled, .service = service, .domain = domain,
					.number = stored->number };
	memcpy(domain->catalog->secret.bytes, stored->secret, sizeof stored->secret);
	gmm__secret_complete(&domain->catalog->secret);
	domain->pool.store = &pool_store;
	domain->pool.store_arg = pooled;
	service->pooled = pooled;
	return pooled;
}

struct gmm__pooled *gmm__pools_get(struct gmm__service *service, const char *name)
{
	for (struct gmm__pooled *pooled = service->pooled; pooled; pooled = pooled->next)
		if (strcmp(pooled->domain->name, name) == 0)
			return pooled;
	struct gmm__store_domain stored = { 0 };
	strcpy(stored.name, name);
	if (gmm__sys_of(service->gmm)->random(stored.secret, sizeof stored.secret) != 0)
		return NULL;
	int rc = gmm__store_next_number(&service->store, &stored.number);
	if (rc == 0)
		rc = gmm__store_add_domain(&service->store, &stored);
	struct gmm__pooled *pooled = rc == 0 ? new_pooled(service, &stored) : NULL;
	if (!pooled) {
		gmm__log(service->gmm, GMM_LOG_ERROR, "no room for domain %s: %s", name, strerror(rc ? -rc : ENOMEM));
		if (stored.number)
			gmm__store_remove_domain(&service->store, stored.number);
	}
	return pooled;
}

bool gmm__pooled_is_locked(const struct gmm__pooled *pooled, uint32_t client)
{
	const struct gmm__pool *pool = &pooled->domain->pool;

	for (uint32_t i = 0; i < pool->n_files; i++)
		if (gmm__store_is_locked(pool->files[i].fd, client))
			return true;
	return false;
}

uint64_t gmm__pooled_file_pages(const struct gmm__pooled *pooled)
{
	const struct gmm__pool *pool = &pooled->domain->pool;
	uint64_t pages = 0;
	struct stat s;

	for (uint32_t i = 0; i < pool->n_files; i++)
		if (fstat(pool->files[i].fd, &s) == 0)
			pages += (uint64_t)s.st_blocks * 512 / GMM__PAGE_BYTES;
	return pages;
}

/* ---- recovery ------------------------------------------------------------------------------------------------------ */

/* False: the domain cannot be taken over whole. To go on without some of its chunks would be to give out their places to
 * new ones, under the eyes of whom maps them. */
static bool restore_chunks(struct gmm__pooled *pooled)
{
	gmm__chunk_id *ids = NULL;
	int n = gmm__store_read_layout(&pooled->service->store, pooled->number, &ids);
	int restored = 0;

	while (restored < n && gmm__pool_restore_chunk(&pooled->domain->pool, ids[restored]))
		restored++;
	free(ids);
	pooled->recovering = true;
	pooled->n_restored = (uint32_t)restored;
	return restored == n;
}

struct restoring {
	struct gmm__service *service;
	int status;
};

static void restore_domain(void *arg, const struct gmm__store_domain *stored)
{
	struct restoring *restoring = arg;
	struct gmm__service *service = restoring->service;
	struct gmm__pooled *pooled = new_pooled(service, stored);

	if (pooled && restore_chunks(pooled)) {
		gmm__log(service->gmm, GMM_LOG_INFO, "took over domain %s: %u chunks", stored->name, pooled->n_restored);
		return;
	}
	gmm__log(service->gmm, GMM_LOG_ERROR, "cannot take over domain %s, whose pages are in use", stored->name);
	restoring->status = GMM_ERR_SYSTEM;
}

int gmm__pools_restore(struct gmm__service *service)
{
	struct restoring restoring = { service, GMM_OK };
	int rc = gmm__store_each_domain(&service->store, restore_domain, &restoring);

	return rc == 0 ? restoring.status : GMM_ERR_SYSTEM;
}

/* Rows of one word become its extent, all else is found by its fingerprint. */
static void publish_page(struct gmm__catalog *catalog, gmm__page_id page, const uint8_t *bytes)
{
	struct gmm__digest digest = gmm__digest_whole(bytes, &catalog->secret);
	struct gmm__fill_extent *extent;

	if (digest.kind == GMM__DIGEST_ZERO)
		return; /* a hole: whoever named it lied */
	if (digest.kind == GMM__DIGEST_FILL) {
		gmm__lock_take(&catalog->lock);
		extent = gmm__fill_find(&catalog->fills, digest.word);
		if (!extent)
			gmm__fill_set(&catalog->fills, digest.word, page, 1);
		else if (extent->first + extent->pages == page && gmm__page_follows(page - 1, page) &&
			 extent->pages < GMM__FILL_EXTENT)
			extent->pages++;
		gmm__lock_give(&catalog->lock);
	}
	if (gmm__catalog_find_shared(catalog, digest.fingerprint) == GMM__NIL)
		gmm__catalog_publish(catalog, digest.fingerprint, page);
}

static void recover_chunk(struct gmm__pooled *pooled, const struct gmm__chunk *chunk)
{
	struct gmm__pool *pool = &pooled->domain->pool;
	gmm__pool_gone_fn *gone = pool->gone;

	for (uint32_t i = 0; i < GMM__CHUNK_PAGES; i++) {
		gmm__page_id page = gmm__page_make(chunk->id, i);
		if (chunk->record[i].references > 1)
			publish_page(pooled->domain->catalog, page, gmm__pool_bytes(pool, page));
	}
	pool->gone = NULL; /* what goes now was not published */
	gmm__pool_drop(pool, gmm__page_make(chunk->id, 0), GMM__CHUNK_PAGES, GMM__DROP_REFERENCE);
	pool->gone = gone;
}

/* Somebody who has not said yet what he uses still maps files of the domain. */
static bool has_to_wait(const struct gmm__pooled *pooled)
{
	for (const struct gmm__session *s = pooled->service->sessions; s; s = s->next)
		if (s->unreported && gmm__pooled_is_locked(pooled, s->client))
			return true;
	return false;
}

bool gmm__pools_recover(struct gmm__service *service)
{
	for (struct gmm__pooled *pooled = service->pooled; pooled; pooled = pooled->next) {
		if (!pooled->recovering || (pooled->n_recovered == 0 && has_to_wait(pooled)))
			continue;
		if (pooled->n_recovered < pooled->n_restored) {
			recover_chunk(pooled, pooled->domain->pool.chunks[pooled->n_recovered++]);
			return true;
		}
		pooled->recovering = false;
		gmm__log(service->gmm, GMM_LOG_INFO, "domain %s has recovered: %lu pages in use", pooled->domain->name,
			 pooled->domain->pool.used_pages);
		return true;
	}
	return false;
}

/* ---- every second --------------------------------------------------------------------------------------------------- */

static void free_pooled(struct gmm__pooled *pooled, bool with_files)
{
	struct gmm__service *service = pooled->service;
	struct gmm__pooled **link = &service->pooled;

	while (*link != pooled)
		link = &(*link)->next;
	*link = pooled->next;
	gmm__domain_put(service->gmm, pooled->domain);
	if (with_files)
		gmm__store_remove_domain(&service->store, pooled->number);
	free(pooled);
}

void gmm__pools_close(struct gmm__service *service)
{
	while (service->pooled)
		free_pooled(service->pooled, false);
}

/* Only this file's hold is left, and no page is in use. */
static bool is_unused(const struct gmm__pooled *pooled)
{
	const struct gmm__pool *pool = &pooled->domain->pool;

	return pooled->domain->vms == 1 && !pooled->recovering && pool->used_pages == 0 && pool->deferred_pages == 0;
}

/* A child of a client may map the domain's pages, also when the client's own VMs in it are gone: it has the lock. */
static bool any_forked(const struct gmm__pooled *pooled)
{
	for (const struct gmm__session *s = pooled->service->sessions; s; s = s->next)
		if (s->forked && (gmm__session_is_in(s, pooled->domain) || gmm__pooled_is_locked(pooled, s->client)))
			return true;
	return false;
}

/* Clients can read holes, and a page is put there. */
static void sweep(struct gmm__pooled *pooled)
{
	struct gmm__pool *pool = &pooled->domain->pool;
	uint64_t used = pool->used_pages + pool->deferred_pages, pages = gmm__pooled_file_pages(pooled);

	if (pages < used + pooled->swept_excess + GMM__CHUNK_PAGES)
		return;
	gmm__pool_sweep(pool);
	pages = gmm__pooled_file_pages(pooled);
	pooled->swept_excess = pages > used ? pages - used : 0;
}

void gmm__pools_tick(struct gmm__service *service)
{
	for (struct gmm__pooled *pooled = service->pooled, *next; pooled; pooled = next) {
		next = pooled->next;
		if (pooled->domain->pool.defer && !any_forked(pooled))
			gmm__pool_release(&pooled->domain->pool);
		if (is_unused(pooled)) {
			free_pooled(pooled, true);
			continue;
		}
		if (!pooled->recovering)
			sweep(pooled);
	}
}
