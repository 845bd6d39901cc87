/* The check of a module where a sharing service has catalog and pool: what the module names is digested, offered and merged
 * at once, as a scan would do it later, also while the service has paused scans. A page that nobody else has is known to
 * the service from then on; when somebody else offers an equal one, it joins at the next poll.
 */
#ifndef SHAREDMOD_CHECK_REMOTE_H
#define SHAREDMOD_CHECK_REMOTE_H

#include "sharedmod/check.h"

/* As gmm__check_slice, which calls it. False also while the service does not answer or does not let the VM share. Pages that
 * were promoted count as joined. */
bool gmm__check_slice_remote(const struct gmm__merge *merge, struct gmm__module_record *record, uint32_t first,
			     struct gmm_module_checked *counts);

#endif
