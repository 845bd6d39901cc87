/* Connections and requests; see port.h. */
#include "guest/port.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#define NS_PER_S 1000000000ll

void port_init(struct port *port, const char *path, const volatile sig_atomic_t *stop, const sigset_t *signals)
{
	*port = (struct port){ .path = path, .stop = stop, .signals = *signals, .fd = -1 };
}

void port_close(struct port *port)
{
	if (port->fd >= 0)
		close(port->fd);
	port->fd = -1;
	port->have = 0;
}

/* Waits for events on the port, or for time if it is closed. timeout_ns < 0: no limit. As poll. A signal that comes between
 * the look at stop and the wait ends the wait, since it is blocked until then. */
static int wait_for(struct port *port, short events, int64_t timeout_ns, short *ret_events)
{
	struct pollfd poll_fd = { .fd = port->fd, .events = events };
	struct timespec timeout = { timeout_ns / NS_PER_S, timeout_ns % NS_PER_S };
	sigset_t waiting;
	int rc = -1;

	sigprocmask(SIG_BLOCK, &port->signals, &waiting);
	if (!*port->stop)
		rc = ppoll(&poll_fd, 1, timeout_ns < 0 ? NULL : &timeout, &waiting);
	sigprocmask(SIG_SETMASK, &waiting, NULL);
	*ret_events = poll_fd.revents;
	return rc;
}

static int connect_to(const struct sockaddr *address, socklen_t size, int *ret_fd)
{
	/* Connecting may wait for as long as the kernel likes; a signal ends it. */
	int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return errno;
	if (connect(fd, address, size) != 0 || fcntl(fd, F_SETFL, O_NONBLOCK) != 0) {
		int error = errno;
		close(fd);
		return error;
	}
	*ret_fd = fd;
	return 0;
}

static int open_vsock(const struct port *port, int *ret_fd)
{
	struct sockaddr_vm address = {
		.svm_family = AF_VSOCK, .svm_cid = port->cid, .svm_port = port->vsock_port,
	};

	return connect_to((const struct sockaddr *)&address, sizeof address, ret_fd);
}

static int open_unix(const char *path, int *ret_fd)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	if (strlen(path) >= sizeof address.sun_path)
		return ENAMETOOLONG;
	strcpy(address.sun_path, path);
	return connect_to((const struct sockaddr *)&address, sizeof address, ret_fd);
}

/* A pipe or a file would only give us our own words back. */
static int open_path(const struct port *port, bool *ret_can_read, int *ret_fd)
{
	struct stat st;

	if (stat(port->path, &st) != 0)
		return errno;
	if (S_ISSOCK(st.st_mode))
		return open_unix(port->path, ret_fd);
	*ret_can_read = S_ISCHR(st.st_mode);
	*ret_fd = open(port->path, (*ret_can_read ? O_RDWR : O_WRONLY) | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	return *ret_fd < 0 ? errno : 0;
}

int port_open(struct port *port)
{
	short events;
	int error;

	port_close(port);
	port->can_read = true;
	error = port->path ? open_path(port, &port->can_read, &port->fd) : open_vsock(port, &port->fd);
	if (error)
		return error;
	/* A virtio-serial port opens also when nobody has the other end. */
	if (wait_for(port, POLLOUT, 0, &events) > 0 && events & (POLLHUP | POLLERR)) {
		port_close(port);
		return ENOTCONN;
	}
	return 0;
}

bool port_send(void *arg, const void *bytes, size_t size)
{
	struct port *port = arg;
	const char *at = bytes;
	short events;

	while (size > 0 && !*port->stop) {
		ssize_t sent = write(port->fd, at, size);
		if (sent > 0) {
			at += sent;
			size -= (size_t)sent;
			continue;
		}
		if (sent < 0 && errno != EAGAIN && errno != EINTR)
			return false;
		if (wait_for(port, POLLOUT, -1, &events) > 0 && events & (POLLHUP | POLLERR))
			return false;
	}
	return size == 0;
}

/* A complete request, or nothing: what does not look like one is dropped byte by byte. */
static bool take_request(struct port *port, enum port_event *ret_event)
{
	struct gmm__report_header header;
	struct gmm__report_request request;
	bool good;

	memcpy(&header, port->request, sizeof header);
	memcpy(&request, port->request + sizeof header, sizeof request);
	good = memcmp(header.magic, GMM__REPORT_MAGIC, GMM__REPORT_MAGIC_BYTES) == 0 &&
	       header.version == GMM__REPORT_VERSION && header.type == GMM__REPORT_REQUEST &&
	       header.payload_bytes == sizeof request &&
	       header.header_hash == XXH32(&header, offsetof(struct gmm__report_header, header_hash), 0) &&
	       header.payload_hash == XXH32(&request, sizeof request, 0);
	if (!good) {
		port->have--;
		memmove(port->request, port->request + 1, port->have);
		return false;
	}
	port->have = 0;
	*ret_event = request.want == GMM__REPORT_WANT_ALL ? PORT_ALL : PORT_CHANGES;
	return true;
}

/* All that has come is read, so that a host which asked ten times gets one answer: to the largest question. */
static enum port_event read_requests(struct port *port)
{
	enum port_event result = PORT_TIME, event;

	for (;;) {
		ssize_t got = read(port->fd, port->request + port->have, sizeof port->request - port->have);
		if (got < 0)
			return errno == EAGAIN || errno == EINTR ? result : PORT_GONE;
		if (got == 0)
			return PORT_GONE;
		port->have += (size_t)got;
		while (port->have == sizeof port->request)
			if (take_request(port, &event) && event > result)
				result = event;
	}
}

static int64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * NS_PER_S + now.tv_nsec;
}

enum port_event port_wait(struct port *port, unsigned seconds)
{
	int64_t end = now_ns() + seconds * NS_PER_S, left;

	while (!*port->stop && (left = end - now_ns()) > 0) {
		short events;
		if (wait_for(port, port->can_read ? POLLIN : 0, left, &events) <= 0 || port->fd < 0)
			continue;
		if (events & POLLIN) {
			enum port_event event = read_requests(port);
			if (event != PORT_TIME)
				return event;
		} else if (events & (POLLHUP | POLLERR | POLLNVAL)) {
			return PORT_GONE;
		}
	}
	return *port->stop ? PORT_STOP : PORT_TIME;
}
