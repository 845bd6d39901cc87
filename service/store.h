/* What the service keeps in its runtime directory, so that a restart finds it again, even one after SIGKILL:
 *
 *   pool/                        a private tmpfs, 0700
 *   pool/next                    the number of the next client or domain
 *   pool/clients/NUMBER          token and user of a client that may hold pages
 *   pool/domains/NUMBER/domain   name and secret of a domain
 *   pool/domains/NUMBER/layout   chunk ids of its pool, 32 bits each, in the order of their places
 *   pool/domains/NUMBER/files/N  the pool's files, 1 GiB each
 *   pool-ro/                     the same file system, read-only: clients' descriptors are opened through it
 *
 * A file of a client is opened through pool-ro by an open file description of its own that holds a read lock on the byte of
 * the client's number. The client's mappings keep that description, so the lock is there as long as one of them is, in
 * whatever process. Opening such a descriptor again for writing, or changing its mode, gives EROFS, even to root.
 *
 * Functions return 0 or a descriptor, or a negative errno.
 */
#ifndef SERVICE_STORE_H
#define SERVICE_STORE_H

#include <gmm/gmm.h>

#include "gmm/pool.h"
#include "wire/protocol.h"

struct gmm__store {
	int pool;      /* directories */
	int read_only;
	int clients;
	int domains;
};

/* Makes the directories and mounts, unless they are there: a later start finds them. Needs the right to mount.
 * `owner`: who the service will run as. */
int gmm__store_prepare(const char *runtime_dir, uint32_t owner);

/* -EROFS: pool-ro is not read-only or not the same file system. -EWOULDBLOCK: another service has it open. */
int gmm__store_open(const char *runtime_dir, struct gmm__store *ret_store);
void gmm__store_close(struct gmm__store *store);

/* ---- clients ---------------------------------------------------------------------------------------------------- */

struct gmm__store_client {
	uint8_t token[GMM__WIRE_TOKEN];
	uint32_t number;
	uint32_t uid;
	char program[GMM__WIRE_NAME];
};

/* A number that no client or domain ever had on this file system. */
int gmm__store_next_number(struct gmm__store *store, uint32_t *ret_number);
int gmm__store_add_client(struct gmm__store *store, const struct gmm__store_client *client);
void gmm__store_remove_client(struct gmm__store *store, uint32_t number);
/* Calls found for each client. -EIO if one could not be read, or found returned false: without it nobody would know what
 * that client still maps. */
int gmm__store_each_client(struct gmm__store *store, bool (*found)(void *arg, const struct gmm__store_client *client),
			   void *arg);

/* ---- domains ---------------------------------------------------------------------------------------------------- */

struct gmm__store_domain {
	uint32_t number;
	char name[GMM_NAME_MAX + 1];
	uint8_t secret[GMM__WIRE_SECRET];
};

int gmm__store_add_domain(struct gmm__store *store, const struct gmm__store_domain *domain);
void gmm__store_remove_domain(struct gmm__store *store, uint32_t number);
int gmm__store_each_domain(struct gmm__store *store, void (*found)(void *arg, const struct gmm__store_domain *domain),
			   void *arg);

/* Opens a pool's file for the service, made if need be. */
int gmm__store_open_file(struct gmm__store *store, uint32_t domain, uint32_t file);
/* The same for a client: read-only, locked. */
int gmm__store_open_for_client(struct gmm__store *store, uint32_t domain, uint32_t file, uint32_t client);

/* Chunk ids by place. */
int gmm__store_add_chunk(struct gmm__store *store, uint32_t domain, uint32_t place, gmm__chunk_id id);
/* How many chunks there are, their ids in *ret_ids for the caller to free. */
int gmm__store_read_layout(struct gmm__store *store, uint32_t domain, gmm__chunk_id **ret_ids);

/* True if the client's lock is on the file, which is the service's own descriptor. */
bool gmm__store_is_locked(int file, uint32_t client);

#endif
