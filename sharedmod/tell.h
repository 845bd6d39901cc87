/* Telling the sharing service which modules the guests of this process have registered, when somebody asks it
 * (`gmm-dedup modules`). Pages are told by their guest page numbers: the service knows which of them are shared.
 */
#ifndef SHAREDMOD_TELL_H
#define SHAREDMOD_TELL_H

#include "gmm/instance.h"

/* See struct gmm__module_hooks. Of each VM at most as many pages are looked at as its domain has RAM, and 64 Ki more. */
uint32_t gmm__modules_tell(struct gmm *gmm, const struct gmm__backend *backend, uint32_t request);

#endif
