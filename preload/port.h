/* The guest's port: a Unix socket in this process to which the program connects its guest's virtio-serial port, so that the
 * agent in the guest can name its pages (gmm/modules.h).
 *
 * GMM_DEDUP_GUEST_PORT   path of the socket; unset: none
 *
 * A thread of its own serves it, one connection at a time. It blocks all signals and touches no guest memory. */
#ifndef PRELOAD_PORT_H
#define PRELOAD_PORT_H

#include <gmm/modules.h>

/* Listens, if the environment names a path. With the lock of ranges.h: signals are off. */
void gmm__port_start(struct gmm_vm *vm);

/* Ends the thread; the socket goes with the process. */
void gmm__port_stop(void);

/* In a forked child: the parent's thread and descriptors are not ours. */
void gmm__port_forget(void);

#endif
