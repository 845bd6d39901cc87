/* Admission: how much memory may be promised and used, over all VMs of an instance.
 *
 *   committed = pages reserved by fully backed VMs + private pages of other paged VMs + shared pages
 *
 * committed stays within the maximum whenever something is added to it that may be refused: a fully backed reservation, or
 * an allocation by a VM of another policy. So a fully backed VM never fails for want of memory, and its allocations need
 * not look at a number that all VMs share. Shared pages are added without being refused: each stands for a private
 * page that goes at the same moment, or for several. Ratio reservations must fit overcommit_percent of what
 * fully backed ones leave.
 */
#ifndef GMM_ADMISSION_H
#define GMM_ADMISSION_H

#include <gmm/pages.h>

#include "gmm/lock.h"
#include "gmm/sys/sys.h"

struct gmm__admission {
	struct gmm__lock lock;        /* guards limits and sums; held while committed is raised for a reservation */
	struct gmm_limits limits;
	_Atomic uint32_t chunk_mappings; /* limits.chunk_mappings */
	_Atomic uint64_t maximum;     /* limits.maximum_pages, or what it stands for */
	uint64_t reserved[GMM_OVERCOMMITS]; /* by policy */
	_Atomic uint64_t committed;
};

void gmm__admission_init(struct gmm__admission *admission, const struct gmm__sys *sys);
void gmm__admission_destroy(struct gmm__admission *admission);

int gmm__admission_set_limits(struct gmm__admission *admission, const struct gmm__sys *sys,
			      const struct gmm_limits *limits);

/* Changes what a VM of this policy has reserved. GMM_ERR_MEMORY_RESERVATION_DECLINED when it grows and does not fit. */
int gmm__admission_reserve(struct gmm__admission *admission, enum gmm_overcommit policy, uint64_t before, uint64_t after);

/* Private pages of a VM that is not fully backed. False: they do not fit. */
bool gmm__admission_charge(struct gmm__admission *admission, uint64_t pages);
void gmm__admission_uncharge(struct gmm__admission *admission, uint64_t pages);

#endif
