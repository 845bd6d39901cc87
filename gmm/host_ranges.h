/* Host memory that serves guests: RAM slots of mapped VMs and seeded chunks of paged ones. No two may overlap, whatever
 * VM they belong to. A tree, so that adding one does not get slower with the number of VMs.
 *
 * Threads: guarded by gmm.ram_lock.
 */
#ifndef GMM_HOST_RANGES_H
#define GMM_HOST_RANGES_H

#include <stdbool.h>
#include <stdint.h>

struct gmm__host_range {
	uintptr_t start, end;
};

/* tree: NULL is the empty one. */
bool gmm__host_ranges_overlap(void *const *tree, uintptr_t start, uint64_t size);

/* range stays the caller's and must live until it is removed. False: no memory, or it overlaps. */
bool gmm__host_ranges_add(void **tree, const struct gmm__host_range *range);
void gmm__host_ranges_remove(void **tree, const struct gmm__host_range *range);

#endif
