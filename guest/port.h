/* The way to the host: a virtio-serial port, a vsock connection, and for tests a socket, a pipe or a file.
 *
 * All waiting ends when `stop` is set by one of `signals`.
 */
#ifndef GUEST_PORT_H
#define GUEST_PORT_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sharedmod/report_format.h"

enum { PORT_REQUEST_BYTES = sizeof(struct gmm__report_header) + sizeof(struct gmm__report_request) };

struct port {
	const char *path;      /* NULL: vsock */
	unsigned cid, vsock_port;
	const volatile sig_atomic_t *stop;
	sigset_t signals;
	int fd;                /* < 0: closed */
	bool can_read;
	size_t have;           /* bytes of a request */
	uint8_t request[PORT_REQUEST_BYTES];
};

/* Closed at first. */
void port_init(struct port *port, const char *path, const volatile sig_atomic_t *stop, const sigset_t *signals);

/* 0, or a positive errno. ENOTCONN: the port is there, but nobody listens on the host. */
int port_open(struct port *port);
void port_close(struct port *port);

/* Waits as long as the host lets us wait. False when the connection is gone, or to stop. */
bool port_send(void *port, const void *bytes, size_t size);

enum port_event {
	PORT_TIME,    /* it has passed */
	PORT_CHANGES, /* the host wants to know what is new */
	PORT_ALL,     /* the host wants to know everything */
	PORT_GONE,    /* the connection is */
	PORT_STOP
};

/* Waits for a request of the host. Also when the port is closed, for the time only. */
enum port_event port_wait(struct port *port, unsigned seconds);

#endif
