/* A tiny sharing service for tests of the client side: one thread, one client at a time, one domain, one pool file. It tells
 * the truth, or lies as it is told. */
#ifndef TESTS_UNIT_SUPPORT_TINY_SERVICE_H
#define TESTS_UNIT_SUPPORT_TINY_SERVICE_H

#include <pthread.h>
#include <stdbool.h>

#include "wire/wire.h"

enum lie {
	LIE_NONE,
	LIE_SHORT,        /* an answer a few bytes shorter than it should be */
	LIE_LONG,
	LIE_TYPE,         /* an answer to something else */
	LIE_SEQUENCE,
	LIE_STATUS,       /* a positive status */
	LIE_REFUSE,       /* a negative one */
	LIE_COUNT,        /* says it has more elements than it has */
	LIE_INDEX,        /* a verdict for a page outside the region */
	LIE_KIND,         /* a verdict that does not exist */
	LIE_PAGE,         /* a shared page in a chunk that does not exist */
	LIE_CHUNK,        /* a chunk at a place that does not exist */
	LIE_CONTENT,      /* a shared page with other bytes */
	LIE_CLOSE,        /* the end of the connection instead of an answer */
	LIE_NOISE,        /* random bytes after the header */
	LIES
};

enum { TINY_PAGES = 4096, TINY_MODULES = 64, TINY_RUNS = 8 };

/* A record of a guest module, as the client told it. */
struct tiny_module {
	struct gmm__wire_module said;  /* in its first message */
	uint32_t messages, runs, pages;
	struct gmm__wire_module_run run[TINY_RUNS]; /* the first ones */
};

struct tiny_service {
	char path[64];
	int listener;
	pthread_t thread;
	_Atomic bool stopping;
	_Atomic bool is_stuck;      /* somebody waits for such an answer */
	_Atomic uint32_t stuck_at;  /* a request of this type is not answered before it is another; 0: all are */
	_Atomic enum lie lie;
	_Atomic uint32_t lie_about; /* enum gmm__wire_type; 0: about all but HELLO */
	_Atomic uint64_t seed;      /* of LIE_NOISE */
	_Atomic uint32_t lies_told;
	_Atomic uint32_t connections;
	_Atomic uint32_t commits;
	_Atomic uint32_t unshare;   /* what POLL answers */
	_Atomic bool paused;
	_Atomic bool limited;
	_Atomic uint32_t cpu_percent;
	_Atomic uint32_t unshared;  /* what POLL said */
	_Atomic bool reported;      /* what the last POLL said */
	_Atomic uint64_t settle_estimate_ms;
	_Atomic uint32_t slots;     /* SLOT_ADDs so far */
	_Atomic uint32_t reports;
	_Atomic bool *set_on_slot_add; /* set to true while a SLOT_ADD waits for its answer; NULL: nothing is */
	_Atomic uint32_t modules_wanted; /* POLL asks for modules, until they were told or, with asks_again, for ever */
	_Atomic bool asks_again;
	_Atomic uint32_t modules_told; /* the last request that was answered to its end */
	_Atomic uint32_t modules_left_out;
	_Atomic uint32_t modules;   /* records told; the first of them: */
	struct tiny_module module[TINY_MODULES];
	bool forget;                /* a client that comes back is not known */

	int pool;
	uint32_t pages;             /* promoted so far */
	uint32_t fingerprint[TINY_PAGES];
	uint32_t candidates;
	uint32_t candidate[4 * TINY_PAGES];
	struct gmm__wire_look owner[4 * TINY_PAGES]; /* of candidates */
	uint32_t looks;             /* that the next POLL answers */
	struct gmm__wire_look look[TINY_PAGES];
	_Atomic uint32_t offered;   /* pages */
	_Atomic uint8_t state[TINY_PAGES];  /* of slot 0, as last committed */
};

void tiny_service_start(struct tiny_service *service);
void tiny_service_stop(struct tiny_service *service);

#endif
