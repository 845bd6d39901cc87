/* The trust domains of a service and their pools, whose files are in the store.
 *
 * After a restart a domain **recovers**: each page of its pool has one reference of the service's own, so that none is
 * freed or given out, while new pages come from new chunks. When every client that still maps the domain's files has
 * reported what it uses, or is gone, the pages are gone through: what is used is digested and published, the rest is
 * punched, and the service's references end.
 */
#ifndef SERVICE_POOLS_H
#define SERVICE_POOLS_H

#include "service/service.h"

struct gmm__pooled {
	struct gmm__pooled *next;
	struct gmm__service *service;
	struct gmm__domain *domain;
	uint32_t number;
	bool recovering;
	uint32_t n_restored;      /* chunks that an earlier process left */
	uint32_t n_recovered;     /* of these, gone through */
	uint64_t swept_excess;    /* pages that were in the files beyond those in use after the last sweep */
};

/* Takes over the domains of an earlier process. 0 or a gmm_status. */
int gmm__pools_restore(struct gmm__service *service);
/* Closes all pools; their files stay in the store. No VM is left. */
void gmm__pools_close(struct gmm__service *service);

/* The domain of that name, made if need be; NULL when the host has no room for it. */
struct gmm__pooled *gmm__pools_get(struct gmm__service *service, const char *name);

static inline struct gmm__pooled *gmm__pooled_of(const struct gmm__domain *domain)
{
	return domain->pool.store_arg;
}

/* Frees domains that nobody is in, starts recoveries that nobody has to be waited for, lets deferred pages go, punches
 * what readers brought into the files. */
void gmm__pools_tick(struct gmm__service *service);

/* A chunk's worth of recovery. False: there is nothing to do. */
bool gmm__pools_recover(struct gmm__service *service);

/* True if a client, or a fork of it, still maps or holds a file of the domain. */
bool gmm__pooled_is_locked(const struct gmm__pooled *pooled, uint32_t client);

/* Memory behind the domain's files, in pages. */
uint64_t gmm__pooled_file_pages(const struct gmm__pooled *pooled);

#endif
