/* The one instance and the one VM of this process, and what the environment says about them.
 *
 * GMM_DEDUP_SOCKET      path of a service to share with other processes through
 * GMM_DEDUP_DOMAIN      trust domain
 * GMM_DEDUP_CPU_PERCENT, GMM_DEDUP_WINDOW_MS    as in gmm_options
 * GMM_DEDUP_HUGE_PAGES  preserve, always or never, as in gmm_options; or none: MADV_HUGEPAGE on memory that is shared becomes
 *                       MADV_NOHUGEPAGE
 * GMM_DEDUP_GUEST_PORT  see port.h
 * GMM_DEDUP_LOG         set: the library's messages go to stderr
 *
 * gmm-dedup exec sets them. All functions but gmm__sharing_tell with the lock of ranges.h held.
 */
#ifndef PRELOAD_SHARING_H
#define PRELOAD_SHARING_H

#include <gmm/gmm.h>
#include <stdbool.h>

/* The VM, created at the first call; NULL when this process cannot share, which was said once then. */
struct gmm_vm *gmm__sharing_vm(void);

/* Starts the engine if it does not run. */
void gmm__sharing_start(void);

/* Stops the engine's threads for good, at exit. */
void gmm__sharing_stop(void);

/* In a forked child: the parent's instance is not ours. */
void gmm__sharing_forget(void);

/* Whether huge pages may be in shared memory. */
bool gmm__sharing_huge_pages(void);

/* One line to stderr: "gmm-dedup: ...". Uses neither stdio nor malloc. */
void gmm__sharing_tell(const char *what, const char *why);

#endif
