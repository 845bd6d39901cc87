/* Remote: the engine's side of a sharing service (wire/protocol.h). The service owns catalog, pool and accounts; this
 * process scans, digests, compares and maps.
 *
 * Only the engine talks to the service, on its merge thread, one request at a time; no lock is held while it waits for an
 * answer, and nothing is frozen. VMs and slots are announced when the engine first visits them. If the connection breaks,
 * what is shared stays shared and the guests run on; a new one is tried every few seconds.
 */
#ifndef DEDUP_REMOTE_H
#define DEDUP_REMOTE_H

#include <pthread.h>

#include "gmm/instance.h"
#include "wire/wire.h"

struct gmm__worker;
struct gmm__finding;
struct gmm__merge;
struct gmm__region;

struct gmm__remote {
	struct gmm *gmm;
	char *path;                    /* of the service's socket */
	size_t path_size;
	const struct gmm__backend *backend;

	/* The engine's. */
	int socket;                    /* -1: no connection */
	uint32_t sequence;
	uint32_t client;               /* our number and token; 0: none yet */
	uint8_t token[GMM__WIRE_TOKEN];
	uint64_t retry_ns;             /* when to connect again */
	bool greeted;                  /* the connection is one: HELLO was answered */
	bool missed;                   /* its end was reported, its return was not */
	bool offer_all;                /* the next pass offers unique pages again: the service does not know them */
	bool offering_all;             /* this pass does */
	bool lost;                     /* the service does not know our pool any more: unshare, then start anew */
	uint32_t cpu_percent;          /* as the service last said */
	uint32_t unshare;              /* last request to unshare; the one under way; the last carried out */
	uint32_t unsharing;
	uint32_t unshared;
	int32_t unshare_failed;        /* the status of the one under way, and of the last */
	int32_t unshare_status;
	struct gmm__finding *finding;  /* of the region that is worked on */
	bool rests;                    /* all was unshared: nothing is shared until the service says that it is not paused */
	bool looked;                   /* in this pass, pages got a twin while there are no scans to find them */
	uint8_t *buf;                  /* GMM__WIRE_MAX bytes, for replies */
	uint8_t *pages;                /* GMM__WIRE_PROMOTE_PAGES pages, on their way to the service */
	_Atomic bool paused;           /* by the service */
	_Atomic uint64_t pool_pages;   /* as the service last said: of our domains, and the references to them */
	_Atomic uint64_t pool_references;

	struct gmm__lock lock;         /* a leaf; guards what follows, and is taken to change what VMs and slots are named */
	const void *vms[GMM__WIRE_VMS];     /* whom the service knows by a number; NULL: nobody. Those that are gone stay until */
	const void *slots[GMM__WIRE_SLOTS]; /* the service was told. A number alone may be of an earlier service's time */
	uint64_t gone_vms[GMM__WIRE_VMS / 64]; /* ended here, to be told */
	uint64_t gone_slots[GMM__WIRE_SLOTS / 64];
};

/* Connects. 0 or a gmm_status; the log has the reason. */
int gmm__remote_open(struct gmm *gmm, const char *path);
void gmm__remote_close(struct gmm *gmm);
/* In the child of a fork: the connection is the parent's alone, so that the service sees when that ends. */
void gmm__remote_forked(struct gmm *gmm);

/* Asks and waits for the answer, which is in remote->buf: 0, or a gmm_status of the service's, or GMM_ERR_NO_SERVICE when
 * the connection broke or there was no answer for 10 s, or for 1 s while somebody waits for the engine to leave or end.
 * *ret_fd: a descriptor that came with it, or -1, as where the status is not GMM_OK; may be NULL. */
int gmm__remote_ask(struct gmm__remote *remote, struct iovec *parts, int n_parts, size_t *ret_size, int *ret_fd);
/* Sends without an answer. False: the connection broke. */
bool gmm__remote_tell(struct gmm__remote *remote, struct iovec *parts, int n_parts);
void gmm__remote_disconnect(struct gmm__remote *remote, const char *why);

/* The merge thread's, before a pass: connects if need be, tells what is gone, polls, carries out what the service asks. */
void gmm__remote_begin_pass(struct gmm__worker *worker);
/* The merge thread's, before the VM of worker->job is scanned: announces it, brings the service's tables up to date. */
void gmm__remote_visit(struct gmm__worker *worker);
/* The merge thread's part of a region of such a VM. */
void gmm__remote_region(struct gmm__worker *worker);

/* The merge thread's part of pages that a guest has named (sharedmod/): those with a finding are offered and merged at
 * once, whatever the scans do. The VM is visited; holding no claim. */
void gmm__remote_hinted(const struct gmm__merge *errand, const struct gmm__region *region,
			struct gmm__finding *finding);

/* Brings the service's table of a region up to date. False when the connection broke. */
bool gmm__remote_commit(struct gmm__remote *remote, struct gmm__slot *slot, uint32_t first, uint32_t count);

/* Makes sure that a chunk's place is known. */
bool gmm__remote_know_chunk(struct gmm__remote *remote, struct gmm__domain *domain, gmm__chunk_id chunk);

/* True when the VM may share what it is told to: the catalog is here, or the service answers and lets it share. */
bool gmm__remote_shares(const struct gmm_vm *vm);
/* And when it may also be scanned. */
bool gmm__remote_scans(const struct gmm_vm *vm);

/* True when the catalog is here, or the service can be asked. */
bool gmm__remote_answers(const struct gmm *gmm);

/* Any thread, when their mappings are gone: the service is to be told. */
void gmm__remote_slot_gone(struct gmm__slot *slot);
void gmm__remote_vm_gone(struct gmm_vm *vm);

#endif
