/* Guard: the merge thread's and the watchdog's side of a freeze. */
#include "dedup/guard.h"

#include <stdatomic.h>

void gmm__guard_init(struct gmm__guard *guard)
{
	gmm__lock_init(&guard->lock, GMM__RANK_LEAF);
}

void gmm__guard_destroy(struct gmm__guard *guard)
{
	gmm__lock_destroy(&guard->lock);
}

uint64_t gmm__guard_bound_ns(uint64_t wait_bound_ns)
{
	uint64_t bound_ns = wait_bound_ns * GMM__GUARD_BOUNDS;

	return bound_ns > GMM__GUARD_MIN_NS ? bound_ns : GMM__GUARD_MIN_NS;
}

void gmm__guard_begin(struct gmm__guard *guard, uint64_t now_ns)
{
	guard->since_ns = now_ns;
}

void gmm__guard_open(struct gmm__guard *guard, const struct gmm__backend *backend, struct gmm__freeze *freeze)
{
	guard->backend = backend;
	guard->freeze = freeze;
	atomic_store_explicit(&guard->phase, GMM__GUARD_OPEN, memory_order_release); /* with the acquire of who leaves OPEN */
}

static bool leave_open(struct gmm__guard *guard, uint32_t next)
{
	uint32_t open = GMM__GUARD_OPEN;

	return atomic_compare_exchange_strong_explicit(&guard->phase, &open, next, memory_order_acq_rel,
						       memory_order_acquire);
}

bool gmm__guard_close(struct gmm__guard *guard)
{
	if (leave_open(guard, GMM__GUARD_CLOSED))
		return true;
	/* The watchdog took the lock before it left OPEN. No guest waits any more for whom this wait could matter. */
	gmm__lock_take(&guard->lock);
	guard->phase = GMM__GUARD_CLOSED;
	gmm__lock_give(&guard->lock);
	return false;
}

void gmm__guard_end(struct gmm__guard *guard)
{
	guard->since_ns = 0;
}

static void put_back(const struct gmm__guard *guard)
{
	struct gmm__freeze *freeze = guard->freeze;

	for (uint32_t i = 0; i < freeze->count;) {
		uint32_t n = 0;
		while (i + n < freeze->count && freeze->page[i + n] == GMM__FROZEN_YES)
			n++;
		if (n > 0)
			guard->backend->restore(freeze, i, n);
		i += n > 0 ? n : 1;
	}
	guard->backend->thaw(freeze);
}

enum gmm__guard_found gmm__guard_check(struct gmm__guard *guard, uint64_t now_ns, uint64_t bound_ns)
{
	uint64_t since_ns = guard->since_ns;

	if (since_ns == 0 || now_ns < since_ns + bound_ns)
		return GMM__GUARD_IN_TIME;
	bool late = guard->reported_ns != since_ns;
	guard->reported_ns = since_ns;
	guard->late += late;
	gmm__lock_take(&guard->lock);
	bool mine = leave_open(guard, GMM__GUARD_THAWED);
	if (mine) {
		put_back(guard);
		guard->thawed++;
	}
	gmm__lock_give(&guard->lock);
	return mine ? GMM__GUARD_ENDED : late ? GMM__GUARD_LATE : GMM__GUARD_IN_TIME;
}
