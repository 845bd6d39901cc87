/* Ranked locks; in debug builds the list of what each thread holds. */
#include "gmm/lock.h"

#include <time.h>

void gmm__lock_init(struct gmm__lock *lock, enum gmm__rank rank)
{
	(void)rank;
	pthread_mutex_init(&lock->mutex, NULL);
#if GMM_DEBUG
	lock->rank = rank;
#endif
}

void gmm__lock_destroy(struct gmm__lock *lock)
{
	pthread_mutex_destroy(&lock->mutex);
}

void gmm__cond_init(pthread_cond_t *changed)
{
	pthread_condattr_t monotonic;

	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(changed, &monotonic);
	pthread_condattr_destroy(&monotonic);
}

bool gmm__lock_wait_until(struct gmm__lock *lock, pthread_cond_t *changed, uint64_t deadline_ns)
{
	enum { NS_PER_S = 1000000000 };
	struct timespec t = { (time_t)(deadline_ns / NS_PER_S), (long)(deadline_ns % NS_PER_S) };

	return pthread_cond_timedwait(changed, &lock->mutex, &t) == 0;
}

#if GMM_DEBUG

enum { HELD_MAX = 256 };

/* Ascending. Locks may be given in any order. */
static _Thread_local uint32_t held[HELD_MAX], n_held;

static void trap(uint32_t rank, uint32_t highest)
{
	(void)rank;
	(void)highest;
	__builtin_trap();
}

void (*gmm__lock_violated)(uint32_t rank, uint32_t held) = trap;

void gmm__lock_note_take(uint32_t rank)
{
	uint32_t highest = n_held ? held[n_held - 1] : 0;

	if (rank < highest || (rank == highest && rank != GMM__RANK_FREEZE) || n_held == HELD_MAX) {
		gmm__lock_violated(rank, highest);
		return;
	}
	held[n_held++] = rank;
}

void gmm__lock_note_give(uint32_t rank)
{
	for (uint32_t i = n_held; i > 0; i--) {
		if (held[i - 1] != rank)
			continue;
		n_held--;
		for (; i <= n_held; i++)
			held[i - 1] = held[i];
		return;
	}
	gmm__lock_violated(rank, 0);
}

bool gmm__lock_holds(uint32_t rank)
{
	for (uint32_t i = 0; i < n_held; i++)
		if (held[i] == rank)
			return true;
	return false;
}

#endif
