/* A paged VM: its account, its chunks, and what it holds.
 *
 *   used[BASE] + used[SHADOW] + used[FIXED] = private pages + references
 *   used[BASE] + pages in the balloon <= quota[BASE], the others used <= quota
 *   private pages = total of chunk_pages; references = total of references; balloon = ids in ballooned
 *
 * A call on a paged VM holds its lock from gmm__paged_enter to gmm__paged_leave, over copies and calls of the host too: they
 * are for this VM alone. A snapshot of all VMs (gmm/instance.h) waits for the calls under way and lets no new one in.
 */
#ifndef GMM_PAGED_H
#define GMM_PAGED_H

#include "gmm/instance.h"
#include "gmm/tally.h"

enum { GMM__HANDLES = 65536, GMM__LOOK_ASIDE = 16, GMM__NEAR_END_PAGES = 4 * GMM__CHUNK_PAGES };

/* What a VM was asked and has not answered for good; gmm/pages.h has the protocol. */
enum gmm__request_state {
	GMM__REQUEST_NONE,     /* unused entry */
	GMM__REQUEST_ASKED,    /* CHECK: the VM owes an answer; holds nothing */
	GMM__REQUEST_SWITCHED, /* UPDATE: accounts are switched, the page is parked until the VM has answered */
	GMM__REQUEST_PROPOSED, /* MOVE of a shared page: the VM owes an answer; holds nothing */
	GMM__REQUEST_MOVED,    /* UPDATE: the VM has its references to the new page, and one to the old until it has answered */
};

struct gmm__request {
	uint64_t id;
	enum gmm__request_state state;
	uint32_t pfn;
	gmm__page_id page;
	gmm__page_id shared;  /* SWITCHED, MOVED: what took its place; NIL: a zero page. PROPOSED: what is to */
	gmm__page_id twin;    /* ASKED: a private page that seemed equal; NIL: none, it is to join */
	uint32_t fingerprint; /* ASKED: that both are known by */
	uint32_t whole;       /* ASKED, with a twin: digest of all its bytes */
	bool overtaken;       /* PROPOSED: the VM came to use the page in one more place since */
};

enum { GMM__REQUESTS_MAX = 1024 };

/* Guarded by the VM's lock. */
struct gmm__requests {
	gmm_request_fn *fn;   /* NULL: the engine leaves the VM alone */
	void *arg;
	struct gmm__request *request; /* `limit` of them */
	uint32_t limit;
	uint32_t pending;
	uint8_t move_level;   /* grows with each set of moves of which it declined any */
	uint8_t move_rest;    /* so many sets it is not asked */
	uint64_t last_id;
};

struct gmm__paged {
	struct gmm_vm *vm;
	uint32_t handle;                 /* 1 to 65535; fixed */
	uint32_t node;                   /* NUMA node its memory is to be on; fixed */
	struct gmm__lock lock;           /* guards what follows */
	bool reserved;
	bool may_allocate;
	enum gmm_overcommit policy;
	enum gmm_priority priority;
	uint64_t quota[GMM_ACCOUNTS];
	uint64_t used[GMM_ACCOUNTS];
	struct gmm__chunk_set set;       /* chunks that only this VM uses */
	struct gmm__tally chunk_pages;   /* chunk id: private pages of this VM in it */
	struct gmm__tally references;    /* page id of a shared page: references */
	struct gmm__tally shared_chunks; /* chunk id: references to pages in it; they keep the chunk in the pool */
	struct gmm__tally mapped;        /* chunk id: 1 */
	struct gmm__tally ballooned;     /* guest page number: 1 */
	struct gmm_page_balloon balloon; /* ballooned is kept in the tally */
	struct gmm_page_counters counters;
	struct gmm__requests requests;
	uint64_t indexed_pages;          /* its part of domain.paged_pages */
	struct gmm__private_chunk *retired; /* to be given back when the call ends */
	struct {
		gmm__chunk_id chunk;
		uint8_t *bytes;
	} look_aside[GMM__LOOK_ASIDE];   /* mapped chunks by their id modulo the number of entries */
};

/* The VM's part of gmm_vm_create and gmm_vm_destroy. GMM_OK, _NO_MEMORY, _LIMIT. open: before the VM can be found; node -1:
 * that of the calling thread. */
int gmm__paged_open(struct gmm_vm *vm, int node);
/* Gives it a handle and the domain its common sets. False: no memory, or no handle left. With gmm.lock. */
bool gmm__paged_join_domain(struct gmm_vm *vm, struct gmm__domain *domain);
/* The VM is out of the lists; nothing to do for a mapped one. With gmm.lock. */
void gmm__paged_leave_domain(struct gmm_vm *vm);
/* Gives all that the VM holds back. Its page ids may still be seen under RCU. */
void gmm__paged_end(struct gmm_vm *vm);
void gmm__paged_free(struct gmm_vm *vm);
/* The common sets of a domain without VMs. */
void gmm__paged_free_common(struct gmm *gmm, struct gmm__domain *domain);

/* Checks the VM and takes its lock. GMM_OK, _INVALID_PARAMETER (NULL), _WRONG_KIND, _WRONG_PROCESS; and _WRONG_ORDER when
 * nothing is reserved, for gmm__paged_enter. */
int gmm__paged_enter_unreserved(struct gmm_vm *vm);
int gmm__paged_enter(struct gmm_vm *vm);
/* Gives the lock, and what was retired back to the host. Returns status. */
int gmm__paged_leave(struct gmm_vm *vm, int status);

static inline struct gmm__chunk_set *gmm__paged_common(const struct gmm__paged *paged)
{
	return &paged->vm->domain->common[paged->node];
}

/* Guest address to page number; false when it is none. */
bool gmm__paged_pfn(uint64_t guest_addr, uint32_t *ret_pfn);

/* The chunk of a private page of this VM. GMM_OK, _PAGE_NOT_FOUND, _PAGE_NOT_PRIVATE, _NOT_PAGE_OWNER, _PAGE_ALREADY_FREE. With
 * the VM's lock. */
int gmm__paged_find(struct gmm__paged *paged, gmm__page_id page, struct gmm__private_chunk **ret_chunk);

/* Is this a page of the domain's pool? _PAGE_NOT_FOUND, _PAGE_NOT_SHARED. */
int gmm__paged_find_shared(const struct gmm__paged *paged, gmm__page_id page);

/* May n pages be allocated, when `credit` base pages go? Charges what has to be charged. */
int gmm__paged_admit(struct gmm__paged *paged, enum gmm_account account, uint32_t n, uint64_t credit);
/* Takes n private pages of zero bytes, all or none: GMM_OK or _NO_MEMORY. They are admitted; not yet in `used`. */
int gmm__paged_take(struct gmm__paged *paged, uint32_t n, const uint64_t *guest_addrs, gmm__page_id *ret_pages);
/* Gives up what was admitted and not taken, or was used by private pages that are gone. */
void gmm__paged_uncharge(struct gmm__paged *paged, uint64_t pages);

/* Frees a private page of this VM; its charge and `used` stay. */
void gmm__paged_put(struct gmm__paged *paged, struct gmm__private_chunk *chunk, uint32_t index);
/* The page leaves the VM's account and is not free before it is unparked. */
void gmm__paged_park(struct gmm__paged *paged, struct gmm__private_chunk *chunk, uint32_t index);
void gmm__paged_unpark(struct gmm__paged *paged, gmm__page_id page);
/* Drops one reference to a shared page; `used` stays. */
void gmm__paged_unref(struct gmm__paged *paged, gmm__page_id page);
/* So many private pages in a chunk are gone; with the last one the mapping goes. */
void gmm__paged_left_chunk(struct gmm__paged *paged, gmm__chunk_id chunk, uint32_t pages);
void gmm__paged_forget_mapping(struct gmm__paged *paged, gmm__chunk_id chunk);
/* To be given back to the host when the call ends. chunk may be NULL. */
void gmm__paged_retire(struct gmm__paged *paged, struct gmm__private_chunk *chunk);

/* The primitives under sharing; gmm/pages.h says what they do. dedup/paged.c adds the indexes. */
int gmm__paged_join(struct gmm_vm *vm, gmm__page_id page, gmm__page_id shared, bool *ret_joined);

/* The same with the VM's lock, for a page that gmm__paged_find_sharable found. park: the VM may still read the private page.
 * gmm__paged_hollow: the page is all zero, and no page takes its place. */
int gmm__paged_find_sharable(struct gmm__paged *paged, gmm__page_id page, struct gmm__private_chunk **ret_chunk);
int gmm__paged_promote(struct gmm__paged *paged, struct gmm__private_chunk *chunk, gmm__page_id page, bool park,
		       gmm__page_id *ret_shared);
int gmm__paged_join_to(struct gmm__paged *paged, struct gmm__private_chunk *chunk, gmm__page_id page,
		       gmm__page_id shared, bool park, bool *ret_joined);
void gmm__paged_hollow(struct gmm__paged *paged, struct gmm__private_chunk *chunk, gmm__page_id page);
/* Counts n references of the VM to a shared page, for which room was reserved. With its lock. */
void gmm__paged_refer(struct gmm__paged *paged, gmm__page_id shared, uint32_t n);

/* The VM's references to a shared page become such to `to`, if that has the same bytes (INV-1); one more, to the old page, is
 * charged to it. False: nothing changed. */
bool gmm__paged_move(struct gmm__paged *paged, gmm__page_id page, gmm__page_id to);

/* gmm/paged_requests.c, with the VM's lock. A new request; NULL: the queue is full, the page is asked about, or nobody is to
 * be asked. */
struct gmm__request *gmm__request_new(struct gmm__paged *paged, gmm__page_id page, uint32_t pfn);
struct gmm__request *gmm__request_find(struct gmm__paged *paged, uint64_t id);
/* The VM uses the shared page in one more place. If it was asked to move that page, it may have made ready for that without
 * the new place: whatever it answers, the page does not move. */
void gmm__requests_overtake(struct gmm__paged *paged, gmm__page_id page);

/* True while the VM has been told of a shared page and not confirmed that its table says so. */
bool gmm__request_names(const struct gmm__paged *paged, gmm__page_id shared);
/* Over: what it holds is given back. */
void gmm__request_end(struct gmm__paged *paged, struct gmm__request *request);
/* The VM ends. */
void gmm__requests_destroy(struct gmm__paged *paged);
/* gmm_paged_set_options, checked. */
int gmm__requests_set(struct gmm__paged *paged, const struct gmm_paged_options *options);

/* For the arbitration: its priority, the pages it may use, and its balloon. */
void gmm__paged_balloon_look(struct gmm_vm *vm, enum gmm_priority *ret_priority, uint64_t *ret_pages, uint64_t *ret_given);
/* Its balloon may hold `maximum` pages; it should hold `target` now. */
void gmm__paged_balloon_limit(struct gmm_vm *vm, uint64_t maximum);
void gmm__paged_balloon_ask(struct gmm_vm *vm, uint64_t target);

/* What the instance's statistics count of a paged VM: private pages as VOLATILE, references as SHARED. In a snapshot or
 * with its lock. */
struct gmm_vm_stats gmm__paged_vm_stats(const struct gmm__paged *paged);

/* For snapshots: waits until no call on a paged VM is under way. With gmm.lock, after gmm.snapshot was set. */
void gmm__paged_drain(struct gmm *gmm);

/* Recounts all paged VMs and the sets of all domains. In a snapshot. NULL or the broken rule. */
const char *gmm__paged_validate(struct gmm *gmm);

#endif
