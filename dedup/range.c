/* Ranges of a VM's RAM: checking arguments, claiming. */
#include "dedup/range.h"

#include "dedup/fork.h"

int gmm__range_check(const struct gmm_vm *vm, uint64_t guest_addr, uint64_t size)
{
	if (!vm || size == 0)
		return GMM_ERR_INVALID_PARAMETER;
	if (guest_addr % GMM__PAGE_BYTES != 0 || size % GMM__PAGE_BYTES != 0)
		return GMM_ERR_MISALIGNED;
	return gmm__fork_is_home(vm->gmm) ? GMM_OK : GMM_ERR_WRONG_PROCESS;
}

int gmm__range_begin(struct gmm_vm *vm, uint64_t guest_addr, uint64_t size, struct gmm__range *ret_range)
{
	int status = gmm__range_check(vm, guest_addr, size);
	if (status != GMM_OK)
		return status;
	struct gmm__range range = { vm, guest_addr / GMM__PAGE_BYTES, size / GMM__PAGE_BYTES };
	struct gmm__part part;
	uint64_t at = 0;
	if (!gmm__vm_claim(vm, false))
		return GMM_ERR_WRONG_ORDER;
	while (gmm__vm_part(vm, range.gfn + at, range.pages - at, &part))
		at += part.pages;
	if (at < range.pages) {
		gmm__vm_release(vm);
		return GMM_ERR_NOT_FOUND;
	}
	*ret_range = range;
	return GMM_OK;
}

bool gmm__range_any_pinned(const struct gmm__range *range)
{
	struct gmm__part part;

	for (uint64_t at = 0; gmm__vm_part(range->vm, range->gfn + at, range->pages - at, &part); at += part.pages)
		for (uint32_t i = part.first; i < part.first + part.pages; i++)
			if (part.slot->state[i] & GMM__FLAG_PINNED)
				return true;
	return false;
}
