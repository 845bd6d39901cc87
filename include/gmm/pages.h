/* Paged VMs: virtual machines whose VMM keeps its own table of page ids.
 *
 * An emulator with a software MMU, or a hypervisor that fills its own page tables, needs no mapping of guest RAM: it asks
 * for pages, gets ids, and reaches their bytes through chunks that it maps. Sharing is a request then, copy-on-write is
 * broken by the VMM with a handy page, and what is shared costs no mapping. A paged VM is made by gmm_vm_create with
 * kind GMM_VM_PAGED; it belongs to a trust domain like any other and shares pages with the domain's other VMs.
 *
 * Words: a chunk is 2 MiB of memory, 512 pages. page id = chunk id << 9 | index in the chunk; 0 is NIL for both. A
 * private page serves one guest page of one VM. A shared page is read-only and has references; each reference is charged
 * to the VM that holds it, the page itself is counted once. An account is what a page is used for: guest memory (BASE),
 * page tables and the like of the VMM (SHADOW), memory that stays for the life of the VM (FIXED).
 *
 * Units: pages of GMM_PAGE_SIZE; guest addresses in bytes.
 *
 * Threads: every function may be called from any thread; calls on one VM wait for each other, calls on different VMs do
 * not. Not from signal handlers. A child of fork has none of this memory.
 *
 * Errors: each function checks everything first and either does all or nothing, unless it says otherwise. All of
 * them give GMM_ERR_INVALID_PARAMETER for NULL and values out of range, _WRONG_KIND for a VM that is not paged,
 * _WRONG_PROCESS in a fork. Outputs are untouched on failure.
 */
#ifndef GMM_PAGES_H
#define GMM_PAGES_H

#include <gmm/gmm.h>

#ifdef __cplusplus
extern "C" {
#endif

#define GMM_CHUNK_PAGES 512u
#define GMM_CHUNK_SIZE (GMM_CHUNK_PAGES * (size_t)GMM_PAGE_SIZE)

typedef uint32_t gmm_page_id;  /* 0: NIL */
typedef uint32_t gmm_chunk_id; /* 0: NIL */

static inline gmm_chunk_id gmm_page_chunk(gmm_page_id page)
{
	return page / GMM_CHUNK_PAGES;
}

static inline uint32_t gmm_page_index(gmm_page_id page)
{
	return page % GMM_CHUNK_PAGES;
}

/* Guest addresses: multiples of GMM_PAGE_SIZE up to GMM_GUEST_MAX, or one of two others. */
#define GMM_GUEST_MAX ((uint64_t)0xfffffff0 * GMM_PAGE_SIZE)
#define GMM_GUEST_NIL UINT64_MAX                 /* not known yet */
#define GMM_GUEST_UNSHAREABLE (UINT64_MAX - 1)   /* never share this page */

/* ---- limits of the instance ----------------------------------------------------------------------------- */

struct gmm_limits {
	size_t struct_size;            /* set by gmm_limits_init */
	uint64_t maximum_pages;        /* of memory for guests; 0: the host's memory, or the limit of its cgroup when smaller */
	uint32_t overcommit_percent;   /* what VMs of policy RATIO may reserve of what is left. 100 to 10000. Default 150 */
	uint32_t chunk_mappings;       /* that a VM may have at a time. 1 to 8388607. Default 32768, that is 64 GiB */
};

void gmm_limits_init(struct gmm_limits *limits);

/* _MEMORY_RESERVATION_DECLINED: what is promised or allocated already does not fit the new limits. The limits stay
 * when the last VM ends. */
int gmm_instance_set_limits(struct gmm *gmm, const struct gmm_limits *limits);
int gmm_instance_limits(struct gmm *gmm, struct gmm_limits *ret_limits);

/* ---- reservations --------------------------------------------------------------------------------------- */

enum gmm_account { GMM_ACCOUNT_BASE, GMM_ACCOUNT_SHADOW, GMM_ACCOUNT_FIXED, GMM_ACCOUNTS };

enum gmm_overcommit {
	GMM_OVERCOMMIT_NONE,        /* fully backed: the pages are promised and can always be allocated */
	GMM_OVERCOMMIT_RATIO,       /* up to overcommit_percent */
	GMM_OVERCOMMIT_BEST_EFFORT, /* any number may be reserved; allocation finds out */
	GMM_OVERCOMMITS
};

struct gmm_reservation {
	uint64_t pages[GMM_ACCOUNTS];   /* none may be 0, nor more than 2^32 - 1 */
	enum gmm_overcommit overcommit;
	enum gmm_priority priority;     /* low: asked first for memory when it is short */
};

/* The first thing to do with a paged VM. _WRONG_ORDER when done before; _MEMORY_RESERVATION_DECLINED when it does not fit
 * what is left of the limits. */
int gmm_vm_reserve(struct gmm_vm *vm, const struct gmm_reservation *reservation);

/* Changes the numbers of pages. _WRONG_ORDER before gmm_vm_reserve; _MEMORY_RESERVATION_DECLINED when they do not fit, or
 * are less than what is allocated and ballooned. */
int gmm_vm_update_reservation(struct gmm_vm *vm, const uint64_t pages[GMM_ACCOUNTS]);

/* allow false: allocations fail with _HIT_GLOBAL_LIMIT until it is lifted, e.g. while the VM is being saved because memory
 * ran out. */
int gmm_vm_allow_allocation(struct gmm_vm *vm, bool allow);

/* ---- pages ---------------------------------------------------------------------------------------------- */

enum { GMM_ALLOCATE_MAX = (1 << 20) - 1, GMM_HANDY_MAX = 1023 };

/* Allocates `count` private pages of zero bytes. guest_addrs: where each will be, or NULL: not known yet. _WRONG_ORDER
 * before gmm_vm_reserve; _HIT_VM_ACCOUNT_LIMIT: not reserved; _HIT_GLOBAL_LIMIT: over-committed memory ran out;
 * _NO_MEMORY: the host refused. */
int gmm_vm_allocate_pages(struct gmm_vm *vm, enum gmm_account account, uint32_t count, const uint64_t *guest_addrs,
			  gmm_page_id *ret_pages);

/* Frees private pages of this VM, and drops one reference for each shared page named. Stops at the first bad entry;
 * *ret_freed pages were freed then, also on failure, and their entries are NIL. NIL entries are skipped and not counted.
 * When a VM's last page of a chunk goes, the VM's mapping of the chunk goes too.
 * _ATTEMPT_TO_FREE_TOO_MUCH: more than the account has, nothing done; _PAGE_NOT_FOUND, _NOT_PAGE_OWNER, _PAGE_ALREADY_FREE.
 * ret_freed may be NULL. */
int gmm_vm_free_pages(struct gmm_vm *vm, enum gmm_account account, uint32_t count, gmm_page_id *pages,
		      uint32_t *ret_freed);

/* A handy page: a private page of zero bytes kept ready, so that a first touch or a copy-on-write needs no call. */
struct gmm_handy_page {
	uint64_t guest_addr;     /* in: where the page is used, if it is */
	gmm_page_id page;        /* in: the page used; out: a fresh one */
	gmm_page_id shared_page; /* in: the shared page it took the place of, or NIL */
};

/* News both ways in one call. The first `used` entries tell of pages used since the last call: the page belongs to
 * guest_addr now (GMM_GUEST_NIL: no news of that), and the reference to shared_page is dropped. Then the first `wanted`
 * entries come back filled with fresh pages of account BASE, guest_addr and shared_page NIL; used entries behind
 * them come back empty. Each at most GMM_HANDY_MAX, not both 0. Errors as for allocation, and _PAGE_NOT_FOUND,
 * _PAGE_NOT_PRIVATE, _PAGE_NOT_SHARED, _NOT_PAGE_OWNER. */
int gmm_vm_refill_handy_pages(struct gmm_vm *vm, uint32_t used, uint32_t wanted, struct gmm_handy_page *pages);

/* 512 pages in a row, 2 MiB aligned, for which the host is asked to use a huge page; account BASE. The engine does not look at
 * them, and free takes the whole, until they are broken up: by call, or when one of them is freed, shared or joined by itself.
 * Errors as for allocation. */
int gmm_vm_allocate_large_page(struct gmm_vm *vm, gmm_page_id *ret_first);
int gmm_vm_free_large_page(struct gmm_vm *vm, gmm_page_id first);

/* From now on they are pages like others, at guest_addr and what follows; where a part was freed or shared the addresses of the
 * rest are not known until news of handy pages tell them. _PAGE_NOT_FOUND: not a large page. */
int gmm_vm_break_up_large_page(struct gmm_vm *vm, gmm_page_id first, uint64_t guest_addr);

/* ---- the balloon ---------------------------------------------------------------------------------------- */

enum gmm_balloon_action {
	GMM_BALLOON_INFLATE, /* the guest gave these pages up; the VMM freed them before */
	GMM_BALLOON_DEFLATE, /* the guest takes them back */
	GMM_BALLOON_RESET,   /* the guest was reset: nothing is ballooned; count 0 */
};

/* Tells of pages by guest address. Guests report pages twice: what is so already is not counted again; *ret_changed says
 * how many changed (may be NULL). _ATTEMPT_TO_FREE_TOO_MUCH: base pages and balloon would be more than the reservation,
 * that is, pages were not freed before; _ATTEMPT_TO_DEFLATE_TOO_MUCH: more addresses than pages in the balloon. */
int gmm_vm_balloon_pages(struct gmm_vm *vm, enum gmm_balloon_action action, uint32_t count, const uint64_t *guest_addrs,
			 uint32_t *ret_changed);

/* ---- chunks --------------------------------------------------------------------------------------------- */

/* Gives the address of a chunk and makes it count as mapped; and ends the mapping of another. Either may be NIL, not both.
 * A chunk with private pages of this VM can be read and written, where the VM's own pages are; one with shared pages
 * that it refers to can only be read; no others can be mapped. The mapping ends with the last such page. A chunk that is mapped already gives the same address. *ret_addr is set when
 * `map` is given. _CHUNK_NOT_FOUND, _CHUNK_NOT_MAPPED (unmap), _TOO_MANY_CHUNK_MAPPINGS: name one to unmap. */
int gmm_vm_map_chunk(struct gmm_vm *vm, gmm_chunk_id map, gmm_chunk_id unmap, void **ret_addr);

/* The VMM brings 2 MiB of its own memory, 2 MiB aligned, readable and writable, for pages of this VM only. It stays mapped
 * until the VM ends. Its bytes are lost. _MISALIGNED, _OVERLAP, _NO_MEMORY. */
int gmm_vm_seed_chunk(struct gmm_vm *vm, void *addr, gmm_chunk_id *ret_chunk);

/* The same with its bytes kept: 512 private pages of account BASE, in use at guest_addr and what follows (or GMM_GUEST_NIL). RAM
 * that the VMM has already becomes that of a paged VM so. Errors as for allocation, and those of gmm_vm_seed_chunk. */
int gmm_vm_adopt_chunk(struct gmm_vm *vm, void *addr, uint64_t guest_addr, gmm_chunk_id *ret_chunk);

/* ---- sharing -------------------------------------------------------------------------------------------- */

/* The following change what the VMM's table must say of a page, so they are called where the VMM knows that nothing
 * writes to the private page until they return. */

/* Makes a private page shared: its bytes become a shared page of the domain and the VM has one reference to it.
 * *ret_shared takes the place of `page`, which is free then. _PAGE_NOT_FOUND, _PAGE_NOT_PRIVATE, _NOT_PAGE_OWNER,
 * _PAGE_UNSHAREABLE (declared so, of another account, or with a sharing service, which has no part in paged VMs), _NO_MEMORY. */
int gmm_vm_share_page(struct gmm_vm *vm, gmm_page_id page, gmm_page_id *ret_shared);

/* Uses the shared page instead of the private one when the bytes are equal: *ret_joined is true, `page` is free and the VM
 * has one more reference. Else nothing changed. Errors as before, _PAGE_NOT_SHARED, and _PAGE_NOT_FOUND too when the
 * shared page is of another domain or gone. */
int gmm_vm_join_page(struct gmm_vm *vm, gmm_page_id page, gmm_page_id shared, bool *ret_joined);

/* Is there an equal page elsewhere in the domain, as far as is known: among the shared pages, the private pages that the
 * engine has looked at, of mapped and of paged VMs, or those that were asked about before? Compares bytes; a page
 * that is being worked on just then is not found. _PAGE_NOT_FOUND, _PAGE_NOT_PRIVATE, _NOT_PAGE_OWNER. */
int gmm_vm_find_duplicate(struct gmm_vm *vm, gmm_page_id page, bool *ret_found);

/* ---- clones --------------------------------------------------------------------------------------------- */

/* A page of guest memory, for a clone. */
struct gmm_clone_page {
	uint64_t guest_addr;    /* in: where it is used, or one of GMM_GUEST_* */
	gmm_page_id page;       /* in: the source's page there, private or shared; out: what the source uses there now */
	gmm_page_id clone_page; /* out: what the clone uses there; in: NIL */
	bool copy;              /* in: the source keeps its private page (a device may write to it), and the clone gets a copy */
};

/* Makes a VM that starts with the pages named: of the source's domain, node, priority, reservation and balloon. The table is
 * the VMM's own, since it alone knows where a shared page is used. Nothing writes to the source's pages during the call.
 * Private pages become shared, and the source's old page is free; those that are declared unshareable, of a large page or
 * marked `copy` are copied, and so are all with a sharing service. Only account BASE: what the others hold the VMM makes anew.
 *
 * All of the table is checked first: _PAGE_NOT_FOUND, _NOT_PAGE_OWNER, _PAGE_ALREADY_FREE, _PAGE_UNSHAREABLE (of another
 * account), _INVALID_PARAMETER (a private page named twice, an address that is none). _MEMORY_RESERVATION_DECLINED,
 * _HIT_GLOBAL_LIMIT, _HIT_VM_ACCOUNT_LIMIT, _NO_MEMORY, _LIMIT, _WRONG_ORDER. On failure there is no clone and every clone_page
 * is NIL; pages of the source may have become shared: each `page` says what the source uses. */
int gmm_vm_clone_pages(struct gmm_vm *source, const char *name, uint64_t count, struct gmm_clone_page *pages,
		       struct gmm_vm **ret_vm);

/* ---- requests ------------------------------------------------------------------------------------------- */

/* The engine looks at the private pages of account BASE whose guest address is known, of VMs that take requests. A page that did
 * not change between two passes and has an equal one in the domain, or is all zero, leads to a request:
 *
 *   CHECK   Is `page` still at guest_addr, and may another page take its place? ACCEPTED means that nothing writes to it from
 *           before the answer until the outcome is known: the VMM has write-protected it in its own tables and no device
 *           writes to it. Reading goes on. Only then are bytes compared.
 *   UPDATE  The outcome: the bytes are equal (or became the shared page), and the VM has a reference to shared_page instead of
 *           `page`. shared_page NIL: all bytes are zero, and the VM has no page there any more. `page` cannot be named in calls any
 *           more, but its bytes stay readable until the VMM answers ACCEPTED: then its table says shared_page, and
 *           nothing reads the old page. A guest that writes meanwhile gets a handy page as for any shared page.
 *   CANCEL  The outcome: nothing is shared, the protection may go.
 *   MOVE    The engine tidies up the pool: may shared_page, which has the same bytes, take the place of the shared page `page`
 *           wherever the VM uses that? ACCEPTED means that until the outcome no call is under way that names `page` or might
 *           return it; the guest goes on. UPDATE: the VM has as many references to shared_page now, and one to `page`,
 *           charged to its reservation, until it answers ACCEPTED: then its table, and news of handy pages that it has not
 *           told yet, say shared_page, and nothing reads `page`. CANCEL, too, when the VM came to use `page` in one more
 *           place since it was asked.
 *   FLUSH   The engine is about to look at the VM: a good time for gmm_vm_refill_handy_pages with all news, so that the
 *           accounts are exact.
 *
 * A VMM that answers LATER tells the answer by gmm_paged_answer at any time, from any thread, or never: an unanswered
 * CHECK or MOVE holds nothing but its place in the queue, an unanswered UPDATE one page. What a VMM promises and does not keep harms its
 * own guest only. */
enum gmm_request_kind {
	GMM_REQUEST_CHECK, GMM_REQUEST_UPDATE, GMM_REQUEST_CANCEL, GMM_REQUEST_FLUSH, GMM_REQUEST_MOVE,
};

enum gmm_answer {
	GMM_ANSWER_ACCEPTED,
	GMM_ANSWER_CHANGED, /* it was written or moved: the engine starts anew with it */
	GMM_ANSWER_BUSY,    /* not now: it may be asked about again at the next pass */
	GMM_ANSWER_LATER,
};

struct gmm_request {
	uint64_t id;              /* the same for a CHECK or MOVE and its outcome, and of no other request of this VM; FLUSH: 0 */
	enum gmm_request_kind kind;
	gmm_page_id page;
	gmm_page_id shared_page;  /* UPDATE and MOVE only */
	uint64_t guest_addr;      /* GMM_GUEST_NIL where a shared page moves: it may be used in many places */
};

/* Called by a thread of the engine, or the one that calls gmm_instance_compact, which hold nothing. It may call the functions of gmm/pages.h but must not end the VM, nor stop
 * or wait for the engine, and should return soon: no guest is looked at meanwhile. To CANCEL and FLUSH any answer
 * will do. */
typedef enum gmm_answer gmm_request_fn(void *arg, struct gmm_vm *vm, const struct gmm_request *request);

struct gmm_paged_options {
	size_t struct_size;       /* set by gmm_paged_options_init */
	gmm_request_fn *request;  /* NULL: the engine leaves the VM alone. Default NULL */
	void *request_arg;
	uint32_t max_pending;     /* requests that wait for an answer; 1 to 1024. Default 64 */
};

void gmm_paged_options_init(struct gmm_paged_options *options);

/* CHECKs and MOVEs that were not answered are forgotten. A call of the old function may still be under way when this returns; none is
 * after gmm_vm_destroy. _WRONG_ORDER while an UPDATE is not answered; _NO_MEMORY. */
int gmm_paged_set_options(struct gmm_vm *vm, const struct gmm_paged_options *options);

/* The answer to a request, not LATER; and only ACCEPTED to an UPDATE. *ret_outcome: UPDATE or CANCEL after a CHECK or MOVE was ACCEPTED,
 * and the UPDATE wants an answer again; else CANCEL, and there is nothing to do. _NOT_FOUND: no such request waits for an
 * answer. */
int gmm_paged_answer(struct gmm_vm *vm, uint64_t id, enum gmm_answer answer, struct gmm_request *ret_outcome);

/* ---- statistics ----------------------------------------------------------------------------------------- */

/* Counters; they can be reset. */
struct gmm_page_counters {
	uint64_t allocated;       /* pages, handy and large ones included */
	uint64_t freed;           /* private pages freed by call */
	uint64_t refills;         /* of handy pages */
	uint64_t promoted;        /* pages made shared */
	uint64_t joined;
	uint64_t broken;          /* references dropped by handy pages */
	uint64_t inflated;
	uint64_t deflated;
	uint64_t declined;        /* reservations, and allocations for want of memory */
	uint64_t asked;           /* requests, GMM_REQUEST_CHECK */
	uint64_t accepted;        /* of them */
	uint64_t changed;         /* answered so, or found changed after they were accepted */
	uint64_t busy;
	uint64_t zeroed;          /* pages of zero bytes given up at a request */
	uint64_t moved;           /* references that became those to another page with the same bytes */
	uint64_t chunks_taken;    /* from the host */
	uint64_t chunks_returned; /* to the host */
};

struct gmm_page_balloon {
	uint64_t ballooned;  /* pages in the balloon now */
	uint64_t maximum;    /* most it may hold; 0: the base reservation */
	uint64_t requested;  /* pages the manager wants given up */
	uint64_t given;      /* and how many of them were */
	uint64_t to_deflate; /* pages the manager lets the guest have back */
};

/* Of a VM, or summed up over all paged VMs. */
struct gmm_memory_stats {
	uint64_t reserved_pages[GMM_ACCOUNTS];
	uint64_t used_pages[GMM_ACCOUNTS];  /* private pages and references */
	uint64_t private_pages;
	uint64_t references;
	uint64_t chunks;                    /* that only this VM uses */
	uint64_t free_pages;                /* in them */
	uint64_t chunk_mappings;
	struct gmm_page_balloon balloon;
	struct gmm_page_counters counters;
};

struct gmm_vm_memory_stats {
	struct gmm_memory_stats memory;
	enum gmm_overcommit overcommit;
	enum gmm_priority priority;
	bool reserved;                      /* gmm_vm_reserve was done */
	bool may_allocate;
};

struct gmm_instance_memory_stats {
	struct gmm_memory_stats memory;     /* all paged VMs; chunks that VMs have in common are counted here */
	uint64_t vms;                       /* paged ones */
	uint64_t maximum_pages;
	uint64_t committed_pages;           /* promised to fully backed VMs + used by others + shared pages */
	uint64_t allocated_pages;           /* private pages of paged VMs + shared_pages */
	uint64_t shared_pages;              /* of all domains, those that only mapped VMs use included */
};

int gmm_vm_memory_stats(struct gmm_vm *vm, struct gmm_vm_memory_stats *ret_stats);
/* One consistent snapshot: calls that change anything wait meanwhile. */
int gmm_instance_memory_stats(struct gmm *gmm, struct gmm_instance_memory_stats *ret_stats);

/* Sets to 0 exactly those counters that are not 0 in `which`; of one VM, or of all and the sum. */
int gmm_vm_reset_counters(struct gmm_vm *vm, const struct gmm_page_counters *which);
int gmm_instance_reset_counters(struct gmm *gmm, const struct gmm_page_counters *which);

#ifdef __cplusplus
}
#endif

#endif
