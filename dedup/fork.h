/* Forks of the process: none happens while guest pages are frozen, and the child is told apart. */
#ifndef DEDUP_FORK_H
#define DEDUP_FORK_H

#include "gmm/instance.h"

/* Lists the instance for the fork handlers. 0 or -ENOMEM. */
int gmm__fork_register(struct gmm *gmm);
void gmm__fork_unregister(struct gmm *gmm);

/* Looks whether the children of past forks are gone; then what they held of the domain's pool goes too. The caller
 * keeps the domain alive and is not inside a freeze. */
void gmm__fork_reap(struct gmm__domain *domain, struct gmm *gmm);

/* False in a fork of the process that opened the instance: its descriptors would act on the parent's memory. */
bool gmm__fork_is_home(const struct gmm *gmm);

#endif
