/* Sending and receiving packets of the protocol, with descriptors. No state; any thread. */
#ifndef WIRE_WIRE_H
#define WIRE_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/uio.h>

#include "wire/protocol.h"

enum { GMM__WIRE_PARTS = 4 };

/* Sends a packet made of parts, the first of which starts with the header; its size field is set here. fd_passed < 0: none.
 * 0, or a negative errno: -EAGAIN when the peer does not read (a socket that does not block, or its timeout). */
int gmm__wire_send(int socket, struct iovec *parts, int n_parts, int fd_passed);

/* Receives a packet into buf (at least GMM__WIRE_MAX bytes). Returns its size; 0 when the peer is gone; or a negative
 * errno: -EPROTO for a packet that is too short or long for its header, has an unknown type, or was cut. *ret_fd is a
 * descriptor that came with it, which the caller closes, or -1; all others are closed. */
ssize_t gmm__wire_receive(int socket, void *buf, size_t size, int *ret_fd);

/* True if a packet of `size` bytes is exactly a `head` bytes and n elements of `each` bytes. */
static inline bool gmm__wire_fits(size_t size, size_t head, uint64_t n, size_t each)
{
	return size >= head && n <= GMM__WIRE_MAX && size - head == n * each;
}

/* True if a text, or a name field, ends with a 0 and holds nothing after it. */
bool gmm__wire_text_valid(const char *text, size_t size);
bool gmm__wire_name_valid(const char name[GMM__WIRE_NAME]);

/* Connects to the service: a blocking socket whose calls end with -EAGAIN after so long. A descriptor or a negative errno. */
int gmm__wire_connect(const char *path, uint32_t timeout_ms);

/* A listening socket at path, with the mode given; an old one that nobody listens on is replaced (-EADDRINUSE else).
 * It does not block. A descriptor or a negative errno. */
int gmm__wire_listen(const char *path, unsigned mode);

#endif
