/* The guest's port; see port.h. System calls are raw: libc's names for some of them are interposed. */
#include "preload/port.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "preload/raw.h"
#include "preload/sharing.h"

/* QEMU has RAM below 4 GiB at the guest address that is its offset in the RAM block; what is above begins at another. */
#define GUEST_END (UINT64_C(4) << 30)

enum { IN_BYTES = 64 * 1024, POLL_MAX_MS = 60000, RETRY_MS = 1000 };

static struct gmm_guest_port *port;
static pthread_mutex_t port_lock = PTHREAD_MUTEX_INITIALIZER; /* guards what goes through the port to the VM */
static atomic_bool running;

/* What the thread is to listen at, and whether it does. */
static struct {
	const char *path;
	int rc;
	sem_t tried;
} listening;

/* ---- serving a connection -------------------------------------------------------------------------------------- */

/* What was received and not taken yet. */
static struct {
	uint8_t bytes[IN_BYTES];
	size_t at, end;
} in;

/* Sends what the port has to say; a peer that does not read it gets half of it later. False: the connection is over. */
static bool send_some(int fd)
{
	static uint8_t out[64];
	static size_t at, end;

	if (fd < 0) { /* another connection */
		at = end = 0;
		return true;
	}
	if (at == end) {
		at = 0;
		end = gmm_guest_port_take(port, out, sizeof out);
	}
	if (at == end)
		return true;
	long sent = gmm__raw(SYS_sendto, fd, out + at, end - at, MSG_DONTWAIT | MSG_NOSIGNAL, NULL, 0);
	if (sent > 0)
		at += (size_t)sent;
	return sent > 0 || sent == -EAGAIN || sent == -EINTR;
}

/* Receives when everything before was taken. False: the connection is over. */
static bool receive_some(int fd)
{
	size_t taken;

	if (in.at == in.end) {
		long got = gmm__raw(SYS_recvfrom, fd, in.bytes, sizeof in.bytes, MSG_DONTWAIT, NULL, NULL);
		if (got <= 0)
			return got == -EAGAIN || got == -EINTR;
		in.at = 0;
		in.end = (size_t)got;
	}
	pthread_mutex_lock(&port_lock);
	bool good = running && gmm_guest_port_feed(port, in.bytes + in.at, in.end - in.at, &taken) == GMM_OK;
	pthread_mutex_unlock(&port_lock);
	if (good)
		in.at += taken;
	return good;
}

/* Waits for an event on a descriptor, or a time. */
static short wait_for(int fd, short events, uint64_t ms)
{
	struct pollfd wait = { .fd = fd, .events = events };

	gmm__raw(SYS_poll, &wait, 1, ms < POLL_MAX_MS ? (int)ms : POLL_MAX_MS);
	return wait.revents;
}

/* Until the connection ends. */
static void serve(int fd)
{
	in.at = in.end = 0;
	send_some(-1);
	pthread_mutex_lock(&port_lock);
	if (running)
		gmm_guest_port_restart(port);
	pthread_mutex_unlock(&port_lock);
	while (send_some(fd)) {
		uint64_t wait_ms = gmm_guest_port_wait_ms(port);
		bool may_read = wait_ms == 0;
		if (in.at < in.end && may_read) {
			if (!receive_some(fd))
				return;
			continue;
		}
		short events = wait_for(fd, may_read ? POLLIN : 0, may_read ? POLL_MAX_MS : wait_ms);
		if (events & POLLIN ? !receive_some(fd) : (events & (POLLHUP | POLLERR | POLLNVAL)) != 0)
			return;
	}
}

/* ---- listening -------------------------------------------------------------------------------------------------- */

/* A socket of a process that has ended is in the way. */
static void remove_stale(const struct sockaddr_un *address)
{
	struct stat st;

	if (gmm__raw(SYS_newfstatat, AT_FDCWD, address->sun_path, &st, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISSOCK(st.st_mode))
		return;
	long fd = gmm__raw(SYS_socket, AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return;
	if (gmm__raw(SYS_connect, fd, address, sizeof *address) == -ECONNREFUSED)
		gmm__raw(SYS_unlinkat, AT_FDCWD, address->sun_path, 0);
	gmm__raw(SYS_close, fd);
}

static int listen_at(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	if (strlen(path) >= sizeof address.sun_path)
		return -ENAMETOOLONG;
	strcpy(address.sun_path, path);
	remove_stale(&address);
	long fd = gmm__raw(SYS_socket, AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return (int)fd;
	/* The mode that the file gets when it is bound: at no time can others connect. */
	long rc = gmm__raw(SYS_fchmod, fd, 0600);
	if (rc == 0)
		rc = gmm__raw(SYS_bind, fd, &address, sizeof address);
	if (rc == 0)
		rc = gmm__raw(SYS_listen, fd, 1);
	if (rc == 0)
		return (int)fd;
	gmm__raw(SYS_close, fd);
	return (int)rc;
}

/* The table is empty at first: what the program has open is not kept open by us. */
static void *port_main(void *arg)
{
	int listener = (int)gmm__raw(SYS_close_range, 0, ~0u, CLOSE_RANGE_UNSHARE);

	if (listener == 0)
		listener = listen_at(listening.path);
	listening.rc = listener < 0 ? listener : 0;
	sem_post(&listening.tried);
	while (listener >= 0 && running) {
		long fd = gmm__raw(SYS_accept4, listener, NULL, NULL, SOCK_CLOEXEC);
		if (fd < 0)
			wait_for(-1, 0, RETRY_MS); /* no memory for it, for example */
		else
			serve((int)fd);
		if (fd >= 0)
			gmm__raw(SYS_close, fd);
	}
	return arg;
}

static int start(const char *path, struct gmm_vm *vm)
{
	pthread_t thread;

	if (gmm_guest_port_open(vm, GUEST_END, &port) != GMM_OK)
		return -ENOMEM;
	listening.path = path;
	sem_init(&listening.tried, 0, 0);
	running = true;
	int rc = pthread_create(&thread, NULL, port_main, NULL);
	if (rc != 0)
		return -rc;
	pthread_setname_np(thread, "gmm-port");
	while (sem_wait(&listening.tried) != 0)
		;
	if (listening.rc == 0)
		pthread_detach(thread);
	else
		pthread_join(thread, NULL);
	return listening.rc;
}

static void give_up(void)
{
	gmm_guest_port_close(port);
	gmm__port_forget();
}

void gmm__port_start(struct gmm_vm *vm)
{
	static bool tried;
	const char *path = getenv("GMM_DEDUP_GUEST_PORT");

	if (!path || !*path || tried)
		return;
	tried = true;
	int rc = start(path, vm);
	if (rc == 0)
		return;
	gmm__sharing_tell("the guest cannot name its pages: no socket for its port", strerror(-rc));
	give_up();
}

void gmm__port_stop(void)
{
	if (!running)
		return;
	pthread_mutex_lock(&port_lock);
	running = false;
	pthread_mutex_unlock(&port_lock);
}

void gmm__port_forget(void)
{
	running = false;
	port = NULL;
}
