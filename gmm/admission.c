/* The sums that admission is decided by. */
#include "gmm/admission.h"

#include <stdatomic.h>

#include "gmm/ids.h"

enum { DEFAULT_OVERCOMMIT_PERCENT = 150, DEFAULT_CHUNK_MAPPINGS = 32768 };

void gmm_limits_init(struct gmm_limits *limits)
{
	*limits = (struct gmm_limits){ .struct_size = sizeof *limits, .overcommit_percent = DEFAULT_OVERCOMMIT_PERCENT,
				       .chunk_mappings = DEFAULT_CHUNK_MAPPINGS };
}

static uint64_t host_pages(const struct gmm__sys *sys)
{
	return gmm__sys_memory_bytes(sys) / GMM__PAGE_BYTES;
}

void gmm__admission_init(struct gmm__admission *admission, const struct gmm__sys *sys)
{
	*admission = (struct gmm__admission){ .maximum = host_pages(sys) };
	gmm_limits_init(&admission->limits);
	admission->chunk_mappings = admission->limits.chunk_mappings;
	gmm__lock_init(&admission->lock, GMM__RANK_ADMISSION);
}

void gmm__admission_destroy(struct gmm__admission *admission)
{
	gmm__lock_destroy(&admission->lock);
}

/* What ratio reservations may come to. */
static uint64_t ratio_room(uint64_t maximum, uint64_t backed, uint32_t percent)
{
	return backed >= maximum ? 0 : (uint64_t)((unsigned __int128)(maximum - backed) * percent / 100);
}

int gmm__admission_set_limits(struct gmm__admission *admission, const struct gmm__sys *sys,
			      const struct gmm_limits *limits)
{
	uint64_t maximum = limits->maximum_pages ? limits->maximum_pages : host_pages(sys);
	int status = GMM_ERR_MEMORY_RESERVATION_DECLINED;

	gmm__lock_take(&admission->lock);
	uint64_t old = atomic_exchange(&admission->maximum, maximum); /* from now on nothing is charged beyond it */
	if (admission->committed <= maximum &&
	    admission->reserved[GMM_OVERCOMMIT_RATIO] <=
		    ratio_room(maximum, admission->reserved[GMM_OVERCOMMIT_NONE], limits->overcommit_percent)) {
		admission->limits = *limits;
		admission->chunk_mappings = limits->chunk_mappings;
		status = GMM_OK;
	} else {
		admission->maximum = old;
	}
	gmm__lock_give(&admission->lock);
	return status;
}

/* Fits as it will be? With the lock. */
static bool ratio_fits(const struct gmm__admission *admission, enum gmm_overcommit policy, uint64_t grown)
{
	uint64_t backed = admission->reserved[GMM_OVERCOMMIT_NONE] + (policy == GMM_OVERCOMMIT_NONE ? grown : 0);
	uint64_t ratio = admission->reserved[GMM_OVERCOMMIT_RATIO] + (policy == GMM_OVERCOMMIT_RATIO ? grown : 0);

	return ratio <= ratio_room(admission->maximum, backed, admission->limits.overcommit_percent);
}

int gmm__admission_reserve(struct gmm__admission *admission, enum gmm_overcommit policy, uint64_t before, uint64_t after)
{
	bool fits = true;

	gmm__lock_take(&admission->lock);
	if (after > before && policy != GMM_OVERCOMMIT_BEST_EFFORT)
		fits = ratio_fits(admission, policy, after - before);
	if (fits && policy == GMM_OVERCOMMIT_NONE) {
		if (after > before)
			fits = gmm__admission_charge(admission, after - before);
		else
			gmm__admission_uncharge(admission, before - after);
	}
	if (fits)
		admission->reserved[policy] += after - before;
	gmm__lock_give(&admission->lock);
	return fits ? GMM_OK : GMM_ERR_MEMORY_RESERVATION_DECLINED;
}

bool gmm__admission_charge(struct gmm__admission *admission, uint64_t pages)
{
	uint64_t now = admission->committed;

	do {
		uint64_t maximum = admission->maximum;
		if (now > maximum || pages > maximum - now)
			return false;
	} while (!atomic_compare_exchange_weak(&admission->committed, &now, now + pages));
	return true;
}

void gmm__admission_uncharge(struct gmm__admission *admission, uint64_t pages)
{
	admission->committed -= pages;
}
