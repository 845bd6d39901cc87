/* The backend for VMs whose RAM is host virtual memory: staging, adoption and the freeze protocol. */
#ifndef DEDUP_MAPPED_H
#define DEDUP_MAPPED_H

#include "gmm/instance.h"

/* Room for the frames of replaced pages until they are freed together. No more than the second cache holds: the pool gets
 * these very frames next. */
enum { GMM__STAGING_PAGES = 256 };

/* Opens what the mapped backend needs of the kernel (descriptors of the instance, staging). A gmm_status. */
int gmm__mapped_open(struct gmm *gmm);
void gmm__mapped_close(struct gmm *gmm);

/* Maps new RAM, 2 MiB aligned. GMM_OK or GMM_ERR_NO_MEMORY. */
int gmm__mapped_create_ram(struct gmm *gmm, uint64_t bytes, uint8_t **ret_host);

/* Checks that the caller's memory can be shared and learns its attributes: the GMM_ERR_RAM_* that fits. */
int gmm__mapped_inspect_ram(struct gmm *gmm, const uint8_t *host, uint64_t bytes, struct gmm__ram_attributes *ret);

/* The same for memory with nothing unusual about it, in microseconds. False: not found out, *ret is undefined. */
bool gmm__mapped_find_plain(struct gmm *gmm, const uint8_t *host, uint64_t bytes, struct gmm__ram_attributes *ret);

/* Starts and ends the dirty tracking of a slot. A gmm_status. */
int gmm__mapped_watch(struct gmm__slot *slot);
void gmm__mapped_unwatch(struct gmm__slot *slot);

/* The backend's split and collapse. */
int gmm__mapped_split(struct gmm__slot *slot, uint32_t page);
int gmm__mapped_collapse(struct gmm__slot *slot, uint32_t first);

/* Copies pages that nobody watches to `copy`, which then takes their place and is watched. Writers wait meanwhile, readers
 * do not. With a staging's lock. 0, or a negative errno and all is as before. */
int gmm__mapped_replace_by_copy(struct gmm__slot *slot, uint32_t first, uint32_t count, uint8_t *copy);

/* Gives anonymous memory MADV_HUGEPAGE if the RAM had it. Not before a copy is filled while writers wait: the first touch
 * of a huge page takes much longer than that of a small one. */
void gmm__mapped_allow_huge(const struct gmm__slot *slot, uint8_t *host, uint64_t bytes);

/* Gives a new mapping over the slot what the RAM had. */
void gmm__mapped_set_attributes(const struct gmm__slot *slot, uint8_t *host, uint64_t bytes, bool anonymous);

#endif
