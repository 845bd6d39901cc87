/* The guest's own kernel: where its code and constants are in guest-physical memory, and which build it is. */
#ifndef GUEST_KERNEL_H
#define GUEST_KERNEL_H

#include <stdbool.h>
#include <stdint.h>

#include "sharedmod/report_format.h"

enum { KERNEL_REGIONS_MAX = 4 };

struct kernel {
	char name[GMM__REPORT_NAME_MAX + 1];
	char version[GMM__REPORT_VERSION_MAX + 1];
	uint64_t size_bytes;
	uint32_t n_regions;
	struct {
		uint64_t offset_bytes, size_bytes, gfn; /* offset from the first page of the code */
	} regions[KERNEL_REGIONS_MAX];
};

/* From PROC/iomem and SYS/kernel/notes. False when the addresses are hidden (not root) or there is no build id. */
bool kernel_find(const char *proc, const char *sys, struct kernel *ret_kernel);

#endif
