/* Direct I/O into shared memory: whether a device may be writing to it right now.
 *
 * A page of which the guest made a copy of its own by writing can be shared again only when no device writes to that copy,
 * and the kernel does not say. So reads of O_DIRECT files into declared ranges are counted while they are in flight, and
 * each open descriptor must be of a kind that cannot write to memory behind our back. A read that begins after a page
 * was write-protected waits for us in the kernel, when it pins the page.
 *
 * On some file systems direct I/O does not even pin, nor does vhost-scsi: a process that uses these does not share at all.
 */
#ifndef PRELOAD_DIRECT_H
#define PRELOAD_DIRECT_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/uio.h>

/* gmm_options.may_repair. Asked by threads of the program and by threads that have a table of descriptors of their own: it
 * looks at the program's, by path. Without /proc, as after a chroot, it is always false. */
bool gmm__direct_may_repair(void *arg);

/* Around a read into memory. begin returns whether it was counted, and waits while reads are held up. */
bool gmm__direct_begin(int fd, const struct iovec *parts, int n);
void gmm__direct_end(void);

/* Lets reads in flight end, for at most two seconds, and holds up new ones until gmm__direct_go. */
void gmm__direct_drain(void);
void gmm__direct_go(void);

/* Transfers that cannot be counted: nothing is repaired any more. */
void gmm__direct_uncounted(void);

/* Why the process must not share: a descriptor, or any descriptor, through which memory is written without a pin. NULL:
 * none. */
const char *gmm__direct_unpinned(int fd);
const char *gmm__direct_any_unpinned(void);

#endif
