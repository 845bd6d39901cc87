/* The protocol between an agent (client, in the VMM's process) and the service that owns catalog, pool and accounts.
 *
 * Transport: a Unix socket of type SOCK_SEQPACKET; a message is one packet of at most GMM__WIRE_MAX bytes and starts with
 * struct gmm__wire_header. Host byte order: both ends run on one host. The client asks, the service answers each request
 * with exactly one reply of the same type and sequence number; it never speaks unasked. A request that breaks a rule stated
 * here ends the connection. Both sides parse what they get as hostile: counts are checked against the size of the packet,
 * indexes against the table they point into, and unused bytes must be zero.
 *
 * Roles: the service keeps for every RAM slot of a client a shadow page table (state and value of each page, as
 * gmm/slot.h). The client's messages change it, and the service derives references and covers from the changes: a client
 * can lie about its own pages only. A reference that the service takes for a verdict is **pending** on that page of the
 * shadow table until the client's next COMMIT of the page or OFFER of any region: COMMIT with state SHARED or FILL keeps it,
 * all others are given back. What was pending when a connection was lost stays so until the COMMIT of the page.
 *
 * A client's part in a region of at most GMM__WIRE_REGION_PAGES pages:
 *
 *   COMMIT?   first, where the client changed pages of the region since it last said so (discard, unshare, pin)
 *   OFFER     what scan and digest found → a verdict for each page to be merged, references pending
 *   PROMOTE*  bytes of the pages with verdict PROMOTE → page ids, references pending; at most GMM__WIRE_PROMOTE_PAGES each
 *   (the client freezes, compares with the pool's bytes, maps, thaws)
 *   COMMIT    the state of all pages of the region
 *
 * Digests are those of whole pages (dedup/digest.h) under the domain's secret. The service computes the digest of promoted
 * bytes itself.
 *
 * Forks: a forked child of the client maps pool pages that nobody counts. A client says so with flag GMM__WIRE_FORKED in every
 * COMMIT and REMOVE, and `forked` in every POLL, as long as such a child may live; meanwhile, and as long as the client's last
 * mapping lives if it dies like that, the service defers what loses its last reference in the client's domains
 * (gmm__pool_defer), from before it carries out that very message.
 *
 * Life: HELLO first. The service holds an OFD read lock on byte `client` of every pool file through the very description
 * it passes; so it knows when the last mapping of the client and its forks is gone, and only then drops what the client
 * holds. A client that lost its connection says HELLO with its number and token (GMM_ERR_NOT_FOUND: the service does not know
 * it, or knows that it broke a rule: it has to make all its pages private and begin anew): the same service goes on with the shadow
 * tables (resumed = 1); a restarted one (resumed = 0) wants VM_ADD, SLOT_ADD and REPORT for every region anew, and gives
 * out or frees nothing of the client's domains meanwhile.
 */
#ifndef WIRE_PROTOCOL_H
#define WIRE_PROTOCOL_H

#include <stdint.h>

enum {
	GMM__WIRE_VERSION = 3,
	GMM__WIRE_MAX = 160 * 1024,       /* bytes of a packet, header included */
	GMM__WIRE_NAME = 64,              /* bytes of a name, with the final 0; the rest is 0 too */
	GMM__WIRE_TOKEN = 16,
	GMM__WIRE_SECRET = 192,           /* GMM__SECRET_BYTES */
	GMM__WIRE_REGION_PAGES = 2048,
	GMM__WIRE_PROMOTE_PAGES = 32,
	GMM__WIRE_LOOK_PAGES = 4096,      /* pages named by one POLL reply */
	GMM__WIRE_VMS = 256,              /* of a client */
	GMM__WIRE_SLOTS = 1024,           /* of a client */
	GMM__WIRE_FDS = 1,                /* descriptors with a message, at most */
	GMM__WIRE_MODULE_NAME = 128,      /* as GMM__WIRE_NAME, of a guest module; and of its version */
	GMM__WIRE_MODULE_VERSION = 16,
	GMM__WIRE_MODULE_RUNS = 2048,     /* of a MODULE message */
	GMM__WIRE_MODULE_PAGES = 16384,   /* that they name */
};
#define GMM__WIRE_MAGIC 0x31706564646d6d67ull /* "gmmddep1", read backwards */

enum gmm__wire_type {
	GMM__WIRE_HELLO = 1,
	GMM__WIRE_VM_ADD,
	GMM__WIRE_VM_REMOVE,
	GMM__WIRE_SLOT_ADD,
	GMM__WIRE_SLOT_REMOVE,
	GMM__WIRE_OFFER,
	GMM__WIRE_PROMOTE,
	GMM__WIRE_RESHARE,
	GMM__WIRE_COMMIT,
	GMM__WIRE_REPORT,
	GMM__WIRE_CHUNK,
	GMM__WIRE_POLL,
	GMM__WIRE_ADMIN,   /* JSON both ways, for `gmm-dedup status` and the like; needs no HELLO */
	GMM__WIRE_MODULE,
	GMM__WIRE_MODULES,
	GMM__WIRE_TYPES
};

struct gmm__wire_header {
	uint32_t type;     /* enum gmm__wire_type */
	uint32_t size;     /* of the whole packet */
	uint32_t sequence; /* counts the client's requests from 1; a reply has that of its request */
	int32_t status;    /* replies: GMM_OK, or why the request was refused: then nothing follows. Requests: 0 */
};

/* ---- HELLO: once, first. Reply: gmm__wire_welcome, with /dev/userfaultfd where the service passes it on --------------- */

struct gmm__wire_hello {
	struct gmm__wire_header header;
	uint64_t magic;
	uint32_t version;
	uint32_t client;               /* 0: new; else the number of an earlier welcome */
	uint8_t token[GMM__WIRE_TOKEN]; /* of that welcome, else 0 */
	char program[GMM__WIRE_NAME];  /* for people */
	uint32_t wants_userfaultfd;    /* 1: it cannot open /dev/userfaultfd itself */
	uint32_t unused;
};

struct gmm__wire_welcome {
	struct gmm__wire_header header;
	uint32_t version;
	uint32_t client;               /* its number: the byte that the service locks in pool files */
	uint8_t token[GMM__WIRE_TOKEN]; /* secret of client and service */
	uint32_t resumed;
	uint32_t unused;
};

/* ---- VMs and slots ------------------------------------------------------------------------------------------------------ */

/* VM_ADD. Reply: gmm__wire_vm. Refused with GMM_ERR_NO_DOMAIN where the peer may share with nobody, GMM_ERR_LIMIT. */
struct gmm__wire_vm_add {
	struct gmm__wire_header header;
	char name[GMM__WIRE_NAME];
	char domain[GMM__WIRE_NAME];   /* wanted; empty: the default of the peer's user */
	uint32_t priority;             /* enum gmm_priority */
	uint32_t vm;                   /* chosen by the client: 0 to GMM__WIRE_VMS - 1, unused */
};

struct gmm__wire_vm {
	struct gmm__wire_header header;
	char domain[GMM__WIRE_NAME];   /* granted */
	uint8_t secret[GMM__WIRE_SECRET]; /* of that domain */
	uint32_t domain_number;        /* pools are told by it */
	uint32_t unused;
};

/* VM_REMOVE (with all its slots), SLOT_REMOVE: its mappings are gone. Reply: a header. */
struct gmm__wire_remove {
	struct gmm__wire_header header;
	uint32_t number;               /* of the VM or slot */
	uint32_t flags;                /* GMM__WIRE_FORKED or 0 */
};

/* SLOT_ADD: pages are ABSENT at first. Reply: a header. */
struct gmm__wire_slot_add {
	struct gmm__wire_header header;
	uint32_t vm;
	uint32_t slot;                 /* chosen by the client: 0 to GMM__WIRE_SLOTS - 1, unused */
	uint64_t gfn;
	uint32_t pages;
	uint32_t unused;
};

/* ---- regions -------------------------------------------------------------------------------------------------------------- */

struct gmm__wire_region {
	struct gmm__wire_header header;
	uint32_t slot;
	uint32_t first;
	uint32_t count;                /* 1 to GMM__WIRE_REGION_PAGES; first + count lies in the slot */
	uint32_t n;                    /* elements that follow */
	uint32_t flags;                /* GMM__WIRE_FORKED or 0 */
	uint32_t unused;
};

/* OFFER: gmm__wire_region and n of these, rising by index. Reply: gmm__wire_region and n gmm__wire_verdict. */
struct gmm__wire_finding {
	uint16_t index;                /* page first + index */
	uint8_t found;                 /* enum gmm__found: ZERO, FILL, OTHER; AGAIN: it is unique as it was; SAMPLE: it is part
	                                * of a huge page, is remembered as such, and the verdict says only whether an equal
	                                * page is known (TWIN) or not (UNIQUE); NOTHING: it waits for its merge and is offered again, and
	                                * fingerprint (and word, if FILL) are as when it was digested */
	uint8_t flags;                 /* GMM__WIRE_WRITTEN, GMM__WIRE_FILL */
	uint32_t fingerprint;
	uint64_t word;
};
enum { GMM__WIRE_WRITTEN = 1, GMM__WIRE_FILL = 2, GMM__WIRE_FORKED = 4 };

struct gmm__wire_verdict {
	uint16_t index;
	uint8_t kind;                  /* enum gmm__verdict_kind: UNIQUE, ZERO, JOIN, PROMOTE; FILL comes as JOIN with
	                                * flag GMM__WIRE_FILL */
	uint8_t flags;
	uint32_t page;                 /* JOIN: page id, its reference is pending */
};

/* PROMOTE: gmm__wire_region (n <= GMM__WIRE_PROMOTE_PAGES), n uint32_t indexes padded to a multiple of 8 bytes, then the n
 * pages' bytes. The indexes had the verdict PROMOTE in the last OFFER. Reply: gmm__wire_region and n uint32_t page ids,
 * references pending; NIL where the bytes no longer have the fingerprint, or the pool is full. */

/* RESHARE: gmm__wire_region and n gmm__wire_finding (found OTHER or FILL) of BROKEN pages. Reply as for OFFER: JOIN where a
 * shared page has the fingerprint, which may be the one under it. */

/* COMMIT: gmm__wire_region and n of these, count pages in all. Reply: none. */
struct gmm__wire_states {
	uint16_t pages;
	uint8_t state;                 /* enum gmm_page_state and GMM__FLAG_* of gmm/slot.h */
	uint8_t unused;
};

/* REPORT: gmm__wire_region with n = count and n of these: a region of a slot just added as it is, for example after a restart
 * of the service. Reply: a header; refused with GMM_ERR_NOT_FOUND where a page id does not exist in the domain. */
struct gmm__wire_report {
	uint32_t value;                /* page id of covered pages; fingerprint; or 0 */
	uint8_t state;
	uint8_t unused[3];
};

/* ---- the pool ------------------------------------------------------------------------------------------------------------- */

/* CHUNK: where does a chunk lie? Reply: gmm__wire_place, with the read-only pool file if `with_file` was 1. Only chunks of
 * domains that the client has a VM in. */
struct gmm__wire_chunk {
	struct gmm__wire_header header;
	uint32_t chunk;                /* chunk id */
	uint32_t with_file;
};

struct gmm__wire_place {
	struct gmm__wire_header header;
	uint32_t domain_number;
	uint32_t file;                 /* number of the file in the domain's pool */
	uint32_t file_chunk;           /* place in the file, in chunks */
	uint32_t unused;
};

/* ---- POLL: at the start of each pass, and at least every few seconds ------------------------------------------------------- */

struct gmm__wire_poll {
	struct gmm__wire_header header;
	uint64_t cpu_ns;               /* of the client's agent, since it started */
	uint64_t passes;
	uint64_t mappings;
	uint64_t longest_freeze_ns;
	uint64_t settle_estimate_ms;
	uint32_t settled;
	uint32_t unshared;             /* the last `unshare` request that was carried out */
	int32_t unshare_status;        /* how it went: GMM_OK, ... */
	uint32_t forked;               /* 1: a forked child may map pool pages */
	uint32_t reported;             /* 1: all VMs and slots that use shared pages were announced, and reported where
	                                * `resumed` was 0. Until then a restarted service frees nothing */
	uint32_t unused;
};

/* Reply: gmm__wire_news and n_look gmm__wire_look: unique pages of the client that got a twin since; they are to be
 * offered again. */
struct gmm__wire_news {
	struct gmm__wire_header header;
	uint32_t paused;               /* 1: no scans until told otherwise; what guests name is shared all the same */
	uint32_t unshare;              /* number of the last request to make all pages private, and to share nothing
	                                * until paused was 0; 0: none yet */
	uint32_t cpu_percent;          /* of one core; UINT32_MAX: as the client likes */
	uint32_t n_look;
	uint64_t domain_pool_pages;    /* of all domains of the client together: shared pages in use, and references to them */
	uint64_t domain_references;
	uint32_t modules;              /* number of a request to tell the guests' modules; 0: none that was not answered */
	uint32_t unused;
};

struct gmm__wire_look {
	uint32_t slot;
	uint32_t page;
};

/* ---- MODULE and MODULES: what modules guests have registered, once for each request that the news tell -------------------
 *
 * First a MODULE for each record of each VM, or several where one does not hold it, then MODULES. The pages named are those of
 * the shadow tables: which of them are shared, and with whom, is what the service knows of them. Between the news and
 * MODULES the client may say anything else. */

/* MODULE: a part of a record, and n gmm__wire_module_run. Reply: none. */
struct gmm__wire_module {
	struct gmm__wire_header header;
	uint32_t modules;              /* the request: as the last news said */
	uint32_t vm;
	uint32_t os;                   /* enum gmm_os_family */
	uint32_t n;                    /* at most GMM__WIRE_MODULE_RUNS */
	uint64_t size;                 /* bytes, 1 to GMM__WIRE_MODULE_BYTES */
	uint64_t layout;               /* a digest of where its regions lie: together with name, version, size, os and pages
	                                * it makes two records the same module */
	uint32_t pages;                /* of the module, 1 to GMM__WIRE_MODULE_BYTES / 4096 */
	uint32_t first;                /* page of the module that the runs begin at. 0: a new record; else the rest of the last
	                                * one, and this is where that ended */
	char name[GMM__WIRE_MODULE_NAME];
	char version[GMM__WIRE_MODULE_VERSION];
};
#define GMM__WIRE_MODULE_BYTES (1024u << 20)

/* Consecutive pages of the module at consecutive guest pages. */
struct gmm__wire_module_run {
	uint32_t gfn;                  /* GMM__WIRE_NO_GFN: they are not in memory, or not shared */
	uint32_t pages;                /* > 0 */
};
#define GMM__WIRE_NO_GFN UINT32_MAX

/* MODULES: that was all. Reply: none. */
struct gmm__wire_modules {
	struct gmm__wire_header header;
	uint32_t modules;
	uint32_t left_out;             /* records that were not told whole */
};

/* ---- ADMIN: a header and JSON text (no final 0). Reply: a header and JSON text, in several packets with `more` set to 1 but
 * in the last. Who may ask what is told by the peer's user id. */
struct gmm__wire_admin {
	struct gmm__wire_header header;
	uint32_t more;
	uint32_t unused;
};

#endif
