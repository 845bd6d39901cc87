/* Ranked locks: every mutex of the library.
 *
 * A thread takes locks only in rising order of rank, so that no two threads can wait for each other. Builds with
 * GMM_DEBUG check this whenever a lock is taken, against a list of the ranks that the thread holds; other builds pay for a
 * plain mutex only. The ranks are all here, since they make sense only together. Two locks of one rank are never held
 * at once, with one exception: the fork handlers hold the freeze locks of all instances.
 */
#ifndef GMM_LOCK_H
#define GMM_LOCK_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

enum gmm__rank {
	GMM__RANK_OPEN_INSTANCES = 1, /* dedup/fork.c: the list of open instances */
	GMM__RANK_TIDY_TURN = 4,      /* gmm.tidy_turn */
	GMM__RANK_RAM = 5,            /* gmm.ram_lock */
	GMM__RANK_TIDY = 6,           /* gmm.tidy_lock */
	GMM__RANK_FREEZE = 7,         /* gmm.staging[].lock */
	GMM__RANK_INSTANCE = 10,      /* gmm.lock */
	GMM__RANK_VM = 15,            /* paged.lock: one paged VM */
	GMM__RANK_MODULES = 17,       /* registry.lock: guest modules */
	GMM__RANK_CATALOG = 20,       /* catalog.lock */
	GMM__RANK_SET = 25,           /* set.lock: one set of chunks of private pages */
	GMM__RANK_ARENA = 28,         /* arena.lock: memory for chunks */
	GMM__RANK_POOL = 30,          /* pool.lock */
	GMM__RANK_ADMISSION = 35,     /* admission.lock: reservations of all VMs */
	GMM__RANK_CHUNK_TABLE = 40,   /* chunk_table.lock */
	GMM__RANK_LEAF = 50,          /* nothing is taken under it */
};

struct gmm__lock {
	pthread_mutex_t mutex;
#if GMM_DEBUG
	uint32_t rank;
#endif
};

#if GMM_DEBUG
#define GMM__LOCK_INITIALIZER(its_rank) { PTHREAD_MUTEX_INITIALIZER, its_rank }

/* Called when a thread takes a lock out of order, or gives one it does not hold. Traps unless a test sets another. */
extern void (*gmm__lock_violated)(uint32_t rank, uint32_t held);
void gmm__lock_note_take(uint32_t rank);
void gmm__lock_note_give(uint32_t rank);
/* True when the thread holds a lock of this rank. */
bool gmm__lock_holds(uint32_t rank);
#else
#define GMM__LOCK_INITIALIZER(its_rank) { PTHREAD_MUTEX_INITIALIZER }
#endif

void gmm__lock_init(struct gmm__lock *lock, enum gmm__rank rank);
void gmm__lock_destroy(struct gmm__lock *lock);

static inline void gmm__lock_take(struct gmm__lock *lock)
{
#if GMM_DEBUG
	gmm__lock_note_take(lock->rank);
#endif
	pthread_mutex_lock(&lock->mutex);
}

/* False when somebody has it. */
static inline bool gmm__lock_try(struct gmm__lock *lock)
{
	if (pthread_mutex_trylock(&lock->mutex) != 0)
		return false;
#if GMM_DEBUG
	gmm__lock_note_take(lock->rank);
#endif
	return true;
}

static inline void gmm__lock_give(struct gmm__lock *lock)
{
	pthread_mutex_unlock(&lock->mutex);
#if GMM_DEBUG
	gmm__lock_note_give(lock->rank);
#endif
}

/* With the lock, which is given while the thread waits. */
static inline void gmm__lock_wait(struct gmm__lock *lock, pthread_cond_t *changed)
{
	pthread_cond_wait(changed, &lock->mutex);
}

/* A condition whose deadlines are times of the monotonic clock. */
void gmm__cond_init(pthread_cond_t *changed);

/* As gmm__lock_wait, until a time. False: it has come. */
bool gmm__lock_wait_until(struct gmm__lock *lock, pthread_cond_t *changed, uint64_t deadline_ns);

#endif
