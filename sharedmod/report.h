/* The host's side of guest reports (sharedmod/report_format.h): a parser for the bytes that one guest sends.
 *
 * The guest is not trusted. The parser takes a fixed amount of memory whatever comes, checks a frame completely before any
 * of it is delivered, and meters the work that a guest may cause: what it sends and how many pages it names cost credit,
 * which comes back with time; without credit the parser takes no bytes, so that the stream fills up and the guest waits. What
 * is delivered is well formed and within the limits, and still it may be a lie: a hint where equal pages may be, nothing
 * more.
 *
 * After an error nothing is delivered until the guest starts a new session, which it does when asked
 * (GMM__REPORT_WANT_ALL), or when it has booted again; a HELLO is found in whatever the frame that it interrupted had left
 * unfinished. One thread at a time for each parser.
 */
#ifndef SHAREDMOD_REPORT_H
#define SHAREDMOD_REPORT_H

#include <stddef.h>
#include <stdint.h>

#include "gmm/mem.h"
#include "sharedmod/report_format.h"

enum gmm__report_fault {
	GMM__REPORT_FINE,
	GMM__REPORT_NOT_A_FRAME,    /* no magic, a wrong hash, or reserved fields in use */
	GMM__REPORT_BAD_VERSION,
	GMM__REPORT_BAD_TYPE,
	GMM__REPORT_BAD_LENGTH,     /* longer than allowed, or not what the content says */
	GMM__REPORT_BAD_SEQUENCE,   /* a frame is missing */
	GMM__REPORT_BAD_HELLO,      /* another page size or operating system than we know */
	GMM__REPORT_BAD_RECORD,     /* unknown kind, or fields that contradict each other */
	GMM__REPORT_BAD_ID,         /* out of range, added twice, or removed without having been added */
	GMM__REPORT_BAD_NAME,       /* empty, too long, or with control characters */
	GMM__REPORT_BAD_REGION,     /* not page aligned, empty, too large, or overlapping */
	GMM__REPORT_BAD_RUN,        /* empty, or not inside its region in order */
	GMM__REPORT_BAD_GFN,        /* outside the guest's memory, or twice in a module */
	GMM__REPORT_TOO_MANY_RUNS,  /* more than the limits allow, of all modules together */
	GMM__REPORT_TOO_MANY_PAGES,
	GMM__REPORT_BAD_COUNT,      /* DONE speaks of another number of modules than we know */
	GMM__REPORT_FAULTS
};

struct gmm__report_limits {
	uint64_t gfn_end;      /* guest memory ends below this gfn */
	uint64_t max_pages;    /* of all modules together; a page in two modules counts twice */
	uint32_t max_runs;     /* of all modules together */
	uint64_t burst_credit; /* what a guest may spend at once; a byte costs 1, a page named GMM__REPORT_PAGE_COST */
	uint64_t credit_per_s; /* how fast it comes back */
};

enum { GMM__REPORT_PAGE_COST = 64, GMM__REPORT_FAULT_COST = 64 * 1024 };

/* What suits a guest whose memory ends below gfn_end: it may name each of its pages once, all of them again every minute. */
void gmm__report_limits_init(struct gmm__report_limits *limits, uint64_t gfn_end);

struct gmm__report_module_region {
	uint64_t offset_bytes, size_bytes;
	const struct gmm__report_run *runs;
	uint32_t n_runs;
};

/* All pointers are valid during the call only. */
struct gmm__report_module {
	uint32_t id;
	enum gmm__report_module_kind kind;
	const char *name, *version; /* printable but for bytes above 127; not checked to be UTF-8 */
	uint64_t size_bytes;
	uint32_t n_regions;
	struct gmm__report_module_region regions[GMM__REPORT_REGIONS_MAX];
};

/* Where reports go. The functions are called by gmm__report_feed, may not call into the parser, and none may be NULL. */
struct gmm__report_sink {
	void *arg;
	/* The guest starts over: forget all modules. */
	void (*start)(void *arg, const struct gmm__report_hello *hello);
	void (*add)(void *arg, const struct gmm__report_module *module);
	void (*remove)(void *arg, uint32_t id);
	/* All that the guest has to say is said. */
	void (*done)(void *arg);
	/* The stream cannot be followed any further. Nothing is called but `start` from now on. */
	void (*fault)(void *arg, enum gmm__report_fault fault);
};

struct gmm__report_parser;

/* NULL without memory. mem must outlive the parser. The parser takes about 300 KiB of address space, of which only what is
 * touched costs. */
struct gmm__report_parser *gmm__report_create(struct gmm__mem *mem, const struct gmm__report_limits *limits,
					      const struct gmm__report_sink *sink);
void gmm__report_free(struct gmm__report_parser *parser);

/* Takes bytes of the stream; returns how many. Fewer than size: the guest has no credit, feed the rest after
 * gmm__report_wait_ns. now_ns: a monotonic clock. */
size_t gmm__report_feed(struct gmm__report_parser *parser, uint64_t now_ns, const void *bytes, size_t size);

/* How long until the parser takes bytes again; 0: it does now. */
uint64_t gmm__report_wait_ns(const struct gmm__report_parser *parser, uint64_t now_ns);

/* The stream is another one now: as if a HELLO were missing. Credit that was spent stays spent. */
void gmm__report_restart(struct gmm__report_parser *parser);

/* "fine", "not a frame", ... Never NULL; static storage. */
const char *gmm__report_fault_name(enum gmm__report_fault fault);

#endif
