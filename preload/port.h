/* The guest's port: a Unix socket in this process to which the program connects its guest's virtio-serial port, so that the
 * agent in the guest can name its pages (gmm/modules.h).
 *
 * GMM_DEDUP_GUEST_PORT   path of the socket; unset: none
 *
 * A thread of its own serves it, one connection at a time. It blocks all signals, touches no guest memory, and has its
 * descriptors in a table of its own, which the program cannot close. */
#ifndef PRELOAD_PORT_H
#define PRELOAD_PORT_H

#include <gmm/modules.h>

/* Listens, if the environment names a path. With the lock of ranges.h: signals are off. */
void gmm__port_start(struct gmm_vm *vm);

/* From now on nothing is taken from guests; the thread and its socket go with the process. */
void gmm__port_stop(void);

/* In a forked child: the parent's thread and descriptors are not ours. */
void gmm__port_forget(void);

#endif
