/* Sending and receiving packets of the protocol, with descriptors. */
#include "wire/wire.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

union control {
	char bytes[CMSG_SPACE(sizeof(int) * GMM__WIRE_FDS)];
	struct cmsghdr align;
};

int gmm__wire_send(int socket, struct iovec *parts, int n_parts, int fd_passed)
{
	union control control = { 0 };
	struct msghdr message = { .msg_iov = parts, .msg_iovlen = (size_t)n_parts };
	struct gmm__wire_header *header = parts[0].iov_base;
	size_t size = 0;

	for (int i = 0; i < n_parts; i++)
		size += parts[i].iov_len;
	if (size > GMM__WIRE_MAX)
		return -EMSGSIZE;
	header->size = (uint32_t)size;
	if (fd_passed >= 0) {
		message.msg_control = control.bytes;
		message.msg_controllen = CMSG_SPACE(sizeof(int));
		struct cmsghdr *c = CMSG_FIRSTHDR(&message);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &fd_passed, sizeof(int));
	}
	for (;;) {
		if (sendmsg(socket, &message, MSG_NOSIGNAL) >= 0)
			return 0;
		if (errno != EINTR)
			return -errno;
	}
}

/* Keeps the first descriptor of a message and closes the others. */
static int take_descriptors(struct msghdr *message)
{
	int kept = -1;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < n; i++) {
			int fd;
			memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
			if (kept < 0)
				kept = fd;
			else
				close(fd);
		}
	}
	return kept;
}

ssize_t gmm__wire_receive(int socket, void *buf, size_t size, int *ret_fd)
{
	union control control;
	struct iovec part = { buf, size };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes,
				  .msg_controllen = sizeof control.bytes };
	ssize_t n;

	*ret_fd = -1;
	do
		n = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n <= 0)
		return n < 0 ? -errno : 0;
	int fd = take_descriptors(&message);
	const struct gmm__wire_header *header = buf;
	if ((size_t)n < sizeof *header || header->size != (size_t)n || header->type == 0 ||
	    header->type >= GMM__WIRE_TYPES || message.msg_flags & MSG_TRUNC) {
		if (fd >= 0)
			close(fd);
		return -EPROTO;
	}
	*ret_fd = fd;
	return n;
}

bool gmm__wire_text_valid(const char *text, size_t size)
{
	size_t n = strnlen(text, size);

	if (n == size)
		return false;
	for (size_t i = n; i < size; i++)
		if (text[i])
			return false;
	return true;
}

bool gmm__wire_name_valid(const char name[GMM__WIRE_NAME])
{
	return gmm__wire_text_valid(name, GMM__WIRE_NAME);
}

static int address_of(const char *path, struct sockaddr_un *ret)
{
	*ret = (struct sockaddr_un){ .sun_family = AF_UNIX };
	if (!path[0] || strlen(path) >= sizeof ret->sun_path)
		return -ENAMETOOLONG;
	strcpy(ret->sun_path, path);
	return 0;
}

/* A packet has to fit into the buffer as a whole. */
static int new_socket(int flags)
{
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | flags, 0);
	int bytes = GMM__WIRE_MAX;

	if (fd >= 0)
		setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
	return fd < 0 ? -errno : fd;
}

int gmm__wire_connect(const char *path, uint32_t timeout_ms)
{
	struct sockaddr_un address;
	struct timeval timeout = { .tv_sec = timeout_ms / 1000, .tv_usec = timeout_ms % 1000 * 1000 };
	int rc = address_of(path, &address);
	int fd = rc == 0 ? new_socket(0) : rc;

	if (fd < 0)
		return fd;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout);
	if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0)
		return fd;
	rc = -errno;
	close(fd);
	return rc;
}

/* Removes a socket file that nobody listens on any more. */
static int remove_stale(const char *path)
{
	int fd = gmm__wire_connect(path, 1000);

	if (fd >= 0 || fd == -EAGAIN) {
		if (fd >= 0)
			close(fd);
		return -EADDRINUSE;
	}
	if (fd == -ECONNREFUSED)
		return unlink(path) == 0 ? 0 : -errno;
	return fd == -ENOENT ? 0 : fd;
}

int gmm__wire_listen(const char *path, unsigned mode)
{
	struct sockaddr_un address;
	int rc = address_of(path, &address);

	if (rc == 0)
		rc = remove_stale(path);
	int fd = rc == 0 ? new_socket(SOCK_NONBLOCK) : rc;
	if (fd < 0)
		return fd;
	if (bind(fd, (struct sockaddr *)&address, sizeof address) == 0 && chmod(path, mode) == 0 &&
	    listen(fd, SOMAXCONN) == 0)
		return fd;
	rc = -errno;
	close(fd);
	return rc;
}
