/* The table of ranges, and how they are adopted and released. */
#include "preload/ranges.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>

#include "preload/direct.h"
#include "preload/raw.h"
#include "preload/sharing.h"

enum {
	RANGES_MAX = 1024,
	RANGE_MIN_BYTES = 2 << 20, /* smaller ones are not worth it, and may be a program's heap */
	GUEST_ALIGN = 2 << 20,
};

struct range {
	_Atomic uintptr_t start; /* written with the lock, read without */
	_Atomic uintptr_t end;   /* equal to start: the entry is free */
	uint64_t guest;
	uint8_t aside;           /* enum gmm__aside */
	bool managed;
	bool stuck;              /* managed, could not be released, nothing in it is shared */
};

static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER;
static struct range table[RANGES_MAX];
static _Atomic unsigned used; /* entries that ever held a range; rises only */
static uint64_t next_guest;
static uint8_t future_aside; /* enum gmm__aside */
static bool inherited;

/* ---- lock and forks ---------------------------------------------------------------------------------------------- */

void gmm__ranges_lock(struct gmm__guard *guard)
{
	sigset_t all;

	guard->saved_errno = errno;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &guard->signals);
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &guard->cancel_state);
	pthread_mutex_lock(&table_lock);
}

void gmm__ranges_unlock(const struct gmm__guard *guard)
{
	int error = errno;
	int unused;

	pthread_mutex_unlock(&table_lock);
	pthread_setcancelstate(guard->cancel_state, &unused);
	pthread_sigmask(SIG_SETMASK, &guard->signals, NULL);
	errno = error;
}

static struct gmm__guard fork_guard;

static void before_fork(void)
{
	struct gmm__guard guard;

	gmm__ranges_lock(&guard);
	fork_guard = guard;
}

static void after_fork_parent(void)
{
	gmm__ranges_unlock(&fork_guard);
}

static void after_fork_child(void)
{
	inherited = true;
	for (unsigned i = 0; i < used; i++)
		table[i].managed = table[i].stuck = false;
	gmm__sharing_forget();
	gmm__ranges_unlock(&fork_guard);
}

/* After the library's handlers: those registered last run first before a fork, and a thread that holds our lock may wait
 * for locks that the library's take. */
static struct gmm_vm *vm_with_fork_handlers(void)
{
	static bool installed;
	struct gmm_vm *vm = gmm__sharing_vm();

	if (vm && !installed) {
		installed = true;
		pthread_atfork(before_fork, after_fork_parent, after_fork_child);
	}
	return vm;
}

__attribute__((destructor)) static void stop_at_exit(void)
{
	struct gmm__guard guard;

	gmm__ranges_lock(&guard);
	gmm__sharing_stop();
	gmm__ranges_unlock(&guard);
}

/* ---- the table ----------------------------------------------------------------------------------------------------- */

static bool overlaps(const struct range *range, uintptr_t start, uintptr_t end)
{
	return range->start < end && start < range->end;
}

bool gmm__ranges_touch(const void *addr, size_t size)
{
	uintptr_t start = (uintptr_t)addr, end = start + size;

	for (unsigned i = 0; i < used; i++)
		if (overlaps(&table[i], start, end))
			return true;
	return false;
}

static void free_entry(struct range *range)
{
	range->end = 0;
	range->start = 0;
	range->managed = range->stuck = false;
	range->aside = GMM__ASIDE_NOT;
}

static struct range *new_entry(uintptr_t start, uintptr_t end, uint64_t guest, uint8_t aside)
{
	unsigned i = 0;

	while (i < used && table[i].end != 0)
		i++;
	if (i == RANGES_MAX)
		return NULL;
	table[i].guest = guest;
	table[i].aside = aside;
	table[i].start = start;
	table[i].end = end;
	if (i == used)
		used++;
	return &table[i];
}

/* Entries that are not managed are cut at an address. With a full table they are given up: the memory stays ordinary. */
static void cut_at(uintptr_t addr)
{
	for (unsigned i = 0; i < used; i++) {
		struct range *range = &table[i];
		if (range->managed || !(range->start < addr && addr < range->end))
			continue;
		uintptr_t end = range->end;
		range->end = addr;
		if (!new_entry(addr, end, range->guest + (addr - range->start), range->aside))
			gmm__sharing_tell("a part of memory is not shared", "too many ranges");
		return;
	}
}

bool gmm__ranges_next(uintptr_t start, uintptr_t end, struct gmm__part_of_range *ret_part)
{
	const struct range *first = NULL;

	for (unsigned i = 0; i < used; i++)
		if (overlaps(&table[i], start, end) && (!first || table[i].start < first->start))
			first = &table[i];
	if (!first)
		return false;
	ret_part->start = first->start > start ? first->start : start;
	ret_part->end = first->end < end ? first->end : end;
	ret_part->guest = first->guest + (ret_part->start - first->start);
	ret_part->managed = first->managed;
	ret_part->inherited = inherited;
	return true;
}

bool gmm__ranges_cover(uintptr_t start, uintptr_t end)
{
	struct gmm__part_of_range part;

	while (start < end && gmm__ranges_next(start, end, &part) && part.start == start)
		start = part.end;
	return start == end;
}

/* ---- adopting and releasing ------------------------------------------------------------------------------------------ */

/* Each reason is said once. */
static void tell_refused(int status)
{
	static uint64_t told;

	if (told & (1ull << -status))
		return;
	told |= 1ull << -status;
	gmm__sharing_tell("a range of memory is not shared", gmm_status_text(status));
}

static int adopt(struct range *range)
{
	struct gmm_vm *vm = vm_with_fork_handlers();
	const char *why = vm ? gmm__direct_any_unpinned() : NULL;

	if (why) {
		gmm__sharing_tell("the memory of this process is not shared", why);
		gmm__ranges_exclude_future(GMM__ASIDE_UNPINNED);
		range->aside |= GMM__ASIDE_UNPINNED;
		return GMM_OK;
	}
	if (!vm)
		return GMM_ERR_WRONG_ORDER;
	int status = gmm_vm_adopt_ram(vm, range->guest, (void *)range->start, range->end - range->start);
	if (status != GMM_OK) {
		tell_refused(status);
		return status;
	}
	range->managed = true;
	gmm__sharing_start();
	return GMM_OK;
}

static bool release(struct range *range, enum gmm_ram_end end)
{
	struct gmm_vm *vm = gmm__sharing_vm();

	gmm__direct_drain();
	int status = gmm_vm_remove_ram(vm, range->guest, end);
	gmm__direct_go();
	if (status == GMM_OK) {
		range->managed = range->stuck = false;
		return true;
	}
	/* Pinned, or out of memory. At least nothing new is shared, and nothing is moved. */
	gmm_vm_set_unshareable(vm, range->guest, range->end - range->start, true);
	range->stuck = true;
	return false;
}

bool gmm__ranges_suspend(uintptr_t start, uintptr_t end)
{
	bool all = true;

	for (unsigned i = 0; i < used; i++)
		if (table[i].managed && overlaps(&table[i], start, end) && !release(&table[i], GMM_RAM_KEEP))
			all = false;
	return all;
}

bool gmm__ranges_discard_for_unmap(uintptr_t start, uintptr_t end)
{
	for (unsigned i = 0; i < used; i++)
		if (table[i].managed && start <= table[i].start && table[i].end <= end)
			release(&table[i], GMM_RAM_DISCARD);
	return gmm__ranges_suspend(start, end);
}

void gmm__ranges_exclude(uintptr_t start, uintptr_t end, enum gmm__aside why)
{
	cut_at(start);
	cut_at(end);
	for (unsigned i = 0; i < used; i++)
		if (overlaps(&table[i], start, end))
			table[i].aside |= (uint8_t)why;
}

void gmm__ranges_include(uintptr_t start, uintptr_t end, enum gmm__aside why)
{
	cut_at(start);
	cut_at(end);
	for (unsigned i = 0; i < used; i++)
		if (overlaps(&table[i], start, end))
			table[i].aside &= (uint8_t)~why;
}

void gmm__ranges_forget(uintptr_t start, uintptr_t end)
{
	cut_at(start);
	cut_at(end);
	for (unsigned i = 0; i < used; i++)
		if (overlaps(&table[i], start, end))
			free_entry(&table[i]);
}

void gmm__ranges_resume(void)
{
	for (unsigned i = 0; i < used && !inherited; i++) {
		struct range *range = &table[i];
		if (range->end != 0 && !range->managed && range->aside == GMM__ASIDE_NOT && adopt(range) != GMM_OK)
			free_entry(range);
	}
}

void gmm__ranges_exclude_future(enum gmm__aside why)
{
	future_aside |= (uint8_t)why;
}

void gmm__ranges_include_future(enum gmm__aside why)
{
	future_aside &= (uint8_t)~why;
}

void gmm__ranges_give_up(enum gmm__aside why, const char *text)
{
	struct gmm__guard guard;

	gmm__ranges_lock(&guard);
	if (!(future_aside & why)) {
		bool all = gmm__ranges_suspend(0, UINTPTR_MAX);
		gmm__ranges_exclude(0, UINTPTR_MAX, why);
		gmm__ranges_exclude_future(why);
		gmm__sharing_tell(all ? "the memory of this process is not shared" :
				  "the memory of this process is not shared any further, but some of it still is", text);
	}
	gmm__ranges_unlock(&guard);
}

/* ---- wanting ----------------------------------------------------------------------------------------------------------- */

static uintptr_t first_brk;

__attribute__((constructor)) static void note_heap(void)
{
	first_brk = (uintptr_t)gmm__raw(SYS_brk, 0);
}

/* The heap, and the stack we run on, hold what threads that must not wait need. A heap that began before we looked has
 * less than RANGE_MIN_BYTES there, so that a range in it reaches past first_brk. */
static bool is_heap_or_stack(uintptr_t start, uintptr_t end)
{
	uintptr_t brk = (uintptr_t)gmm__raw(SYS_brk, 0), here = (uintptr_t)__builtin_frame_address(0);

	return (start <= here && here < end) || (start < brk && first_brk < end);
}

static bool add(uintptr_t start, uintptr_t end)
{
	struct range *range = new_entry(start, end, next_guest, future_aside);

	if (!range)
		return false;
	next_guest += (end - start + GUEST_ALIGN - 1) / GUEST_ALIGN * GUEST_ALIGN;
	if (range->aside == GMM__ASIDE_NOT && adopt(range) != GMM_OK) {
		free_entry(range);
		return false;
	}
	return true;
}

bool gmm__ranges_want(uintptr_t start, uintptr_t end)
{
	struct gmm__part_of_range part;

	if (inherited || end - start < RANGE_MIN_BYTES || is_heap_or_stack(start, end))
		return false;
	while (start < end) {
		bool found = gmm__ranges_next(start, end, &part);
		uintptr_t gap_end = found ? part.start : end;
		if (start < gap_end && !add(start, gap_end))
			return false;
		start = found ? part.end : end;
	}
	return true;
}
