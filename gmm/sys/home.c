/* The table of gmm/sys/sys.h whose descriptors are home's; see home.h. */
#include "gmm/sys/home.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <pthread.h>
#include <semaphore.h>
#include <unistd.h>

_Thread_local bool gmm__sys_at_home;
_Atomic int gmm__sys_home_device = -1;

static struct {
	pthread_mutex_t users_lock; /* guards users and thread */
	uint32_t users;             /* instances */
	uintptr_t thread;
	pthread_mutex_t turn;       /* one caller at a time; guards what follows */
	sem_t asked, done;
	void (*run)(void *arg);     /* NULL: the thread is to end */
	void *arg;
} home = { .users_lock = PTHREAD_MUTEX_INITIALIZER, .turn = PTHREAD_MUTEX_INITIALIZER };

static const struct gmm__sys *host(void)
{
	return gmm__sys_linux();
}

/* ---- the thread ------------------------------------------------------------------------------------------------- */

static void wait_on(sem_t *sem)
{
	while (sem_wait(sem) != 0)
		; /* EINTR */
}

/* A table of its own, without the program's descriptors, which nobody could close here. What libraries write to
 * standard error in our threads must not get into one of our files. */
static int move_in(void)
{
	if (close_range(0, ~0u, CLOSE_RANGE_UNSHARE) != 0)
		return -errno;
	for (int fd = 0; fd <= STDERR_FILENO; fd++)
		if (open("/dev/null", O_RDWR | O_CLOEXEC) != fd)
			return -EBADF;
	return 0;
}

static void *home_main(void *ret_rc)
{
	gmm__sys_at_home = true;
	*(int *)ret_rc = move_in();
	sem_post(&home.done);
	for (;;) {
		wait_on(&home.asked);
		if (!home.run)
			return NULL;
		home.run(home.arg);
		sem_post(&home.done);
	}
}

/* run NULL ends the thread. */
static void ask(void (*run)(void *arg), void *arg)
{
	int cancel_state;

	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel_state); /* arg may be on the caller's stack */
	pthread_mutex_lock(&home.turn);
	home.run = run;
	home.arg = arg;
	sem_post(&home.asked);
	if (run)
		wait_on(&home.done);
	pthread_mutex_unlock(&home.turn);
	pthread_setcancelstate(cancel_state, &cancel_state);
}

static void run_at_home(void (*run)(void *arg), void *arg)
{
	if (gmm__sys_at_home)
		run(arg);
	else
		ask(run, arg);
}

/* ---- its life ---------------------------------------------------------------------------------------------------- */

static void end_thread(void)
{
	ask(NULL, NULL);
	host()->thread_join(home.thread);
	gmm__sys_home_device = -1; /* it went with the table */
	sem_destroy(&home.asked);
	sem_destroy(&home.done);
}

/* The child has no such thread, and none of its descriptors. */
static void after_fork_child(void)
{
	static const pthread_mutex_t unlocked = PTHREAD_MUTEX_INITIALIZER;

	home.users_lock = home.turn = unlocked;
	home.users = 0;
	gmm__sys_home_device = -1;
}

static int handlers_rc;

static void install_handlers(void)
{
	handlers_rc = pthread_atfork(NULL, NULL, after_fork_child);
}

static int start_thread(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	int moved_in = 0;

	pthread_once(&once, install_handlers);
	if (handlers_rc != 0)
		return -handlers_rc;
	sem_init(&home.asked, 0, 0);
	sem_init(&home.done, 0, 0);
	int rc = host()->thread_start(&home.thread, "gmm-home", false, home_main, &moved_in);
	if (rc != 0)
		return rc;
	wait_on(&home.done);
	if (moved_in != 0)
		end_thread();
	return moved_in;
}

int gmm__sys_home_open(void)
{
	int rc = 0;

	pthread_mutex_lock(&home.users_lock);
	if (home.users == 0)
		rc = start_thread();
	home.users += rc == 0;
	pthread_mutex_unlock(&home.users_lock);
	return rc;
}

void gmm__sys_home_close(void)
{
	pthread_mutex_lock(&home.users_lock);
	if (--home.users == 0)
		end_thread();
	pthread_mutex_unlock(&home.users_lock);
}

/* ---- the table --------------------------------------------------------------------------------------------------- */

struct call {
	long (*make)(const long *a);
	const long *a;
	long result;
};

static void make_call(void *arg)
{
	struct call *call = arg;

	call->result = call->make(call->a);
}

static long at_home(long (*make)(const long *a), const long *a)
{
	struct call call = { make, a, 0 };

	run_at_home(make_call, &call);
	return call.result;
}

/* Defines home_NAME, which makes a call of the host's table at home: its result and the types of its arguments. */
#define CALL(result, name, types, args, ...) \
	static long make_##name(const long *a) \
	{ \
		(void)a; \
		return (long)host()->name args; \
	} \
	static result home_##name types \
	{ \
		return (result)at_home(make_##name, (const long[]){ __VA_ARGS__ }); \
	}
#define CALL0(result, name) CALL(result, name, (void), (), 0)
#define CALL1(result, name, A) CALL(result, name, (A a0), ((A)a[0]), (long)a0)
#define CALL2(result, name, A, B) CALL(result, name, (A a0, B a1), ((A)a[0], (B)a[1]), (long)a0, (long)a1)
#define CALL3(result, name, A, B, C) \
	CALL(result, name, (A a0, B a1, C a2), ((A)a[0], (B)a[1], (C)a[2]), (long)a0, (long)a1, (long)a2)
#define CALL4(result, name, A, B, C, D) \
	CALL(result, name, (A a0, B a1, C a2, D a3), ((A)a[0], (B)a[1], (C)a[2], (D)a[3]), \
	     (long)a0, (long)a1, (long)a2, (long)a3)
#define CALL5(result, name, A, B, C, D, E) \
	CALL(result, name, (A a0, B a1, C a2, D a3, E a4), ((A)a[0], (B)a[1], (C)a[2], (D)a[3], (E)a[4]), \
	     (long)a0, (long)a1, (long)a2, (long)a3, (long)a4)
#define CALL6(result, name, A, B, C, D, E, F) \
	CALL(result, name, (A a0, B a1, C a2, D a3, E a4, F a5), \
	     ((A)a[0], (B)a[1], (C)a[2], (D)a[3], (E)a[4], (F)a[5]), \
	     (long)a0, (long)a1, (long)a2, (long)a3, (long)a4, (long)a5)
#define CALL7(result, name, A, B, C, D, E, F, G) \
	CALL(result, name, (A a0, B a1, C a2, D a3, E a4, F a5, G a6), \
	     ((A)a[0], (B)a[1], (C)a[2], (D)a[3], (E)a[4], (F)a[5], (G)a[6]), \
	     (long)a0, (long)a1, (long)a2, (long)a3, (long)a4, (long)a5, (long)a6)

typedef void *thread_fn(void *arg);

CALL6(intptr_t, map, void *, size_t, int, int, int, uint64_t)
CALL1(int, uffd_open, enum gmm__uffd_kind)
CALL4(int, uffd_watch, int, void *, size_t, enum gmm__watch)
CALL3(int, uffd_unwatch, int, void *, size_t)
CALL3(int, uffd_wake, int, void *, size_t)
CALL4(int, uffd_protect, int, void *, size_t, bool)
CALL5(int, uffd_move, int, void *, void *, size_t, size_t *)
CALL4(int, uffd_copy, int, void *, const void *, size_t)
CALL0(int, pagemap_open)
CALL7(int, pagemap_scan, int, void *, void *, const struct gmm__scan_filter *, struct gmm__scan_range *, size_t, void **)
CALL3(int, pagemap_arm, int, void *, void *)
CALL0(int, maps_open)
CALL5(int, maps_shown_at, int, const void *, int, uint64_t *, void **)
CALL4(int, maps_bounds, int, const void *, void **, void **)
CALL1(int, file_create, const char *)
CALL2(int, file_resize, int, uint64_t)
CALL4(ssize_t, file_write, int, const struct iovec *, int, uint64_t)
CALL3(int, file_punch, int, uint64_t, uint64_t)
CALL3(ssize_t, file_read, const char *, char *, size_t)
CALL1(int, witness_open, void **)
CALL1(bool, witness_alive, int)
CALL3(int, psi_trigger, const char *, uint64_t, uint64_t)
CALL0(int, event_open)
CALL3(int, wait_ready, const int *, int, int)
CALL5(int, thread_start, uintptr_t *, const char *, bool, thread_fn *, void *)

static intptr_t map_here_or_home(void *addr, size_t size, int prot, int flags, int fd, uint64_t offset)
{
	return (fd < 0 ? host()->map : home_map)(addr, size, prot, flags, fd, offset);
}

static void close_file(void *fd)
{
	host()->file_close(*(int *)fd);
}

static void home_file_close(int fd)
{
	run_at_home(close_file, &fd);
}

static void signal_event(void *fd)
{
	host()->event_signal(*(int *)fd);
}

static void home_event_signal(int fd)
{
	run_at_home(signal_event, &fd);
}

static struct gmm__sys table;

static void fill_table(void)
{
	table = *host();
	table.apart = true;
	table.run = run_at_home;
	table.map = map_here_or_home;
	table.uffd_open = home_uffd_open;
	table.uffd_watch = home_uffd_watch;
	table.uffd_unwatch = home_uffd_unwatch;
	table.uffd_wake = home_uffd_wake;
	table.uffd_protect = home_uffd_protect;
	table.uffd_move = home_uffd_move;
	table.uffd_copy = home_uffd_copy;
	table.pagemap_open = home_pagemap_open;
	table.pagemap_scan = home_pagemap_scan;
	table.pagemap_arm = home_pagemap_arm;
	table.maps_open = home_maps_open;
	table.maps_shown_at = home_maps_shown_at;
	table.maps_bounds = home_maps_bounds;
	table.file_create = home_file_create;
	table.file_resize = home_file_resize;
	table.file_write = home_file_write;
	table.file_punch = home_file_punch;
	table.file_close = home_file_close;
	table.file_read = home_file_read;
	table.witness_open = home_witness_open;
	table.witness_alive = home_witness_alive;
	table.psi_trigger = home_psi_trigger;
	table.event_open = home_event_open;
	table.event_signal = home_event_signal;
	table.wait_ready = home_wait_ready;
	table.thread_start = home_thread_start;
}

const struct gmm__sys *gmm__sys_home(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, fill_table);
	return &table;
}
