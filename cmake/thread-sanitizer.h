/* Included first in each file when the thread sanitizer is on: it does not know what liburcu's readers and writers wait for,
 * and is told. A grace period comes after all readers that ended before, and a pointer that was published after what it
 * points to. */
#ifndef GMM_THREAD_SANITIZER_H
#define GMM_THREAD_SANITIZER_H

#include <sanitizer/tsan_interface.h>
#include <urcu/urcu-bp.h>

__attribute__((weak)) char gmm__tsan_readers;

static inline void gmm__tsan_read_unlock(void)
{
	__tsan_release(&gmm__tsan_readers);
	urcu_bp_read_unlock();
}

static inline void gmm__tsan_synchronize_rcu(void)
{
	urcu_bp_synchronize_rcu();
	__tsan_acquire(&gmm__tsan_readers);
}

#undef urcu_bp_read_unlock
#undef urcu_bp_synchronize_rcu
#undef rcu_dereference
#undef rcu_set_pointer
#define urcu_bp_read_unlock gmm__tsan_read_unlock
#define urcu_bp_synchronize_rcu gmm__tsan_synchronize_rcu
#define rcu_dereference(p) __atomic_load_n(&(p), __ATOMIC_ACQUIRE)
#define rcu_set_pointer(p, v) __atomic_store_n(p, v, __ATOMIC_RELEASE)

#endif
