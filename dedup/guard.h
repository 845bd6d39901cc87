/* Guard: no freeze goes on for long unnoticed (INV-7).
 *
 * A merge thread that does not get the processor while it holds frozen pages makes guests wait. The watchdog, a thread that
 * looks at the freeze under way every GMM__GUARD_BOUNDS wait bounds, and at least every 20 ms, ends one that is older than that:
 *
 *   CLOSED   the merge thread changes mappings, freezing or replacing: nobody else may. Late ones are counted and logged.
 *   OPEN     the pages are frozen, and the merge thread only reads their bytes in staging
 *   THAWED   the watchdog has put all pages back, by the same calls that restore pages that differ
 *
 *   merge thread    begin → CLOSED → freeze → open → OPEN → verify → close → CLOSED → replace, thaw → end
 *   watchdog                                         OPEN → THAWED
 *
 * Both leave OPEN by one compare-and-swap, so only one of them does. A merge thread that finds the freeze thawed waits for
 * the watchdog to finish and merges nothing. The watchdog may meet a younger freeze than the one it saw: it is put back
 * just as well.
 */
#ifndef DEDUP_GUARD_H
#define DEDUP_GUARD_H

#include "dedup/backend.h"
#include "gmm/lock.h"

enum { GMM__GUARD_BOUNDS = 100, GMM__GUARD_MIN_NS = 20000000 };

enum gmm__guard_phase { GMM__GUARD_CLOSED, GMM__GUARD_OPEN, GMM__GUARD_THAWED };

struct gmm__guard {
	struct gmm__lock lock;           /* a leaf; held by the watchdog while it thaws */
	_Atomic uint32_t phase;
	_Atomic uint64_t since_ns;       /* start of the freeze under way; 0: none */
	struct gmm__freeze *freeze;      /* of the phase OPEN */
	const struct gmm__backend *backend;
	uint64_t reported_ns;            /* start of the last freeze found late; the watchdog's */
	_Atomic uint64_t late;           /* freezes found too long */
	_Atomic uint64_t thawed;         /* of these, ended by the watchdog */
};

void gmm__guard_init(struct gmm__guard *guard);
void gmm__guard_destroy(struct gmm__guard *guard);

/* The merge thread's, in this order. close: false if the freeze was thawed, and its pages are the guest's again. */
void gmm__guard_begin(struct gmm__guard *guard, uint64_t now_ns);
void gmm__guard_open(struct gmm__guard *guard, const struct gmm__backend *backend, struct gmm__freeze *freeze);
bool gmm__guard_close(struct gmm__guard *guard);
void gmm__guard_end(struct gmm__guard *guard);

/* The watchdog's: what it found and did. Each late freeze is told once, unless it is thawed later. */
enum gmm__guard_found { GMM__GUARD_IN_TIME, GMM__GUARD_LATE, GMM__GUARD_ENDED };
enum gmm__guard_found gmm__guard_check(struct gmm__guard *guard, uint64_t now_ns, uint64_t bound_ns);

/* How long a freeze may be, by the wait bound. */
uint64_t gmm__guard_bound_ns(uint64_t wait_bound_ns);

#endif
