/* Names and texts of statuses and page states. */
#include <gmm/gmm.h>

struct status_text {
	const char *name;
	const char *text;
};

#define STATUS(status, text) [-(status)] = { #status, text }

static const struct status_text statuses[] = {
	STATUS(GMM_OK, "success"),
	STATUS(GMM_ERR_INVALID_PARAMETER, "an argument is not valid"),
	STATUS(GMM_ERR_NO_MEMORY, "the host has not enough memory"),
	STATUS(GMM_ERR_WRONG_ORDER, "not possible in this state"),
	STATUS(GMM_ERR_WRONG_PROCESS, "the instance belongs to another process: this one is a fork of it"),
	STATUS(GMM_ERR_NOT_FOUND, "there is no RAM slot, pin or module at this place"),
	STATUS(GMM_ERR_TIMEOUT, "the deadline passed first"),
	STATUS(GMM_ERR_UNSUPPORTED_KERNEL, "the kernel lacks a feature: Linux 6.8 or later is needed, the log names it"),
	STATUS(GMM_ERR_NO_PERMISSION, "userfaultfd or pagemap may not be used by this process"),
	STATUS(GMM_ERR_SYSTEM, "the kernel failed unexpectedly; the log has the reason"),
	STATUS(GMM_ERR_MISALIGNED, "an address or size is not a multiple of the page size"),
	STATUS(GMM_ERR_OVERLAP, "the range overlaps a RAM slot"),
	STATUS(GMM_ERR_RAM_NOT_MAPPED, "part of the range is not mapped"),
	STATUS(GMM_ERR_RAM_SHARED, "the memory is a shared mapping (MAP_SHARED), which cannot be shared page by page"),
	STATUS(GMM_ERR_RAM_FILE, "the memory is a mapping of a file"),
	STATUS(GMM_ERR_RAM_NOT_WRITABLE, "the memory is not mapped readable and writable"),
	STATUS(GMM_ERR_RAM_HUGETLB, "the memory is hugetlbfs, whose pages cannot be shared"),
	STATUS(GMM_ERR_RAM_LOCKED, "the memory is locked (mlock), which would break every shared page at once"),
	STATUS(GMM_ERR_RAM_MERGEABLE, "the kernel's KSM works on the memory (MADV_MERGEABLE)"),
	STATUS(GMM_ERR_RAM_WATCHED, "another userfaultfd is registered on the memory (postcopy, snapshot)"),
	STATUS(GMM_ERR_RAM_SPECIAL, "the memory is a stack, device memory or another special mapping"),
	STATUS(GMM_ERR_PINNED, "pages are pinned, or may be, so that a device could write to them"),
	STATUS(GMM_ERR_LIMIT, "a limit of the library or of the kernel is reached"),
	STATUS(GMM_ERR_SWAP_UNSAFE, "swap is on and the kernel is older than Linux 6.16, whose fixes are needed with swap"),
	STATUS(GMM_ERR_NO_SERVICE, "the sharing service cannot be reached"),
	STATUS(GMM_ERR_NO_DOMAIN, "the sharing service has no trust domain for this process"),
	STATUS(GMM_ERR_REFUSED, "the sharing service refused"),
	STATUS(GMM_ERR_ADDRESS_CLASH, "another module is registered at this base"),
	STATUS(GMM_ERR_NAME_TOO_LONG, "the module's name is too long"),
	STATUS(GMM_ERR_VERSION_TOO_LONG, "the module's version is too long"),
	STATUS(GMM_ERR_TOO_MANY_REGIONS, "the module has too many regions"),
	STATUS(GMM_ERR_BAD_MODULE_SIZE, "the module's size is zero or too large"),
	STATUS(GMM_ERR_BAD_REGIONS_SIZE, "the sizes of the module's regions are not possible"),
	STATUS(GMM_ERR_TOO_MANY_PER_VM, "the VM has too many modules"),
	STATUS(GMM_ERR_TOO_MANY_GLOBAL, "there are too many modules"),
	STATUS(GMM_ERR_WRONG_KIND, "the call is for the other kind of VM"),
	STATUS(GMM_ERR_MEMORY_RESERVATION_DECLINED, "the reservation does not fit the memory that may be promised, or what is used"),
	STATUS(GMM_ERR_HIT_GLOBAL_LIMIT, "there is no memory left that this VM may have"),
	STATUS(GMM_ERR_HIT_VM_ACCOUNT_LIMIT, "the VM has not reserved so many pages"),
	STATUS(GMM_ERR_PAGE_NOT_FOUND, "there is no such page"),
	STATUS(GMM_ERR_PAGE_NOT_PRIVATE, "the page is not a private page"),
	STATUS(GMM_ERR_PAGE_NOT_SHARED, "the page is not a shared page"),
	STATUS(GMM_ERR_NOT_PAGE_OWNER, "the page is not this VM's"),
	STATUS(GMM_ERR_PAGE_ALREADY_FREE, "the page is free already"),
	STATUS(GMM_ERR_PAGE_UNSHAREABLE, "the page is never to be shared"),
	STATUS(GMM_ERR_ATTEMPT_TO_FREE_TOO_MUCH, "more pages than the VM has"),
	STATUS(GMM_ERR_ATTEMPT_TO_DEFLATE_TOO_MUCH, "more pages than there are in the balloon"),
	STATUS(GMM_ERR_CHUNK_NOT_FOUND, "there is no such chunk for this VM"),
	STATUS(GMM_ERR_CHUNK_NOT_MAPPED, "the chunk is not mapped"),
	STATUS(GMM_ERR_TOO_MANY_CHUNK_MAPPINGS, "too many chunks are mapped; name one to unmap"),
};

static const struct status_text unknown = { "GMM_ERR_UNKNOWN", "not a status of this library" };

static const struct status_text already = { "GMM_ALREADY_REGISTERED", "this module was registered there already" };

static const struct status_text *find(int status)
{
	if (status == GMM_ALREADY_REGISTERED)
		return &already;
	if (status > 0 || -status >= (int)(sizeof statuses / sizeof *statuses) || !statuses[-status].name)
		return &unknown;
	return &statuses[-status];
}

const char *gmm_status_name(int status)
{
	return find(status)->name;
}

const char *gmm_status_text(int status)
{
	return find(status)->text;
}

const char *gmm_page_state_name(enum gmm_page_state state)
{
	static const char *const names[GMM_PAGE_STATES] = {
		[GMM_PAGE_ABSENT] = "absent", [GMM_PAGE_SWAPPED] = "swapped", [GMM_PAGE_ZERO] = "zero",
		[GMM_PAGE_FILL] = "fill", [GMM_PAGE_SHARED] = "shared", [GMM_PAGE_UNIQUE] = "unique",
		[GMM_PAGE_VOLATILE] = "volatile", [GMM_PAGE_NOMINATED] = "nominated", [GMM_PAGE_BROKEN] = "broken",
		[GMM_PAGE_PINNED] = "pinned", [GMM_PAGE_HUGE] = "huge", [GMM_PAGE_UNSHAREABLE] = "unshareable",
		[GMM_PAGE_BUDGET] = "budget", [GMM_PAGE_RACED] = "raced",
		[GMM_PAGE_FOREIGN] = "foreign", [GMM_PAGE_BALLOONED] = "ballooned",
	};

	return (unsigned)state < GMM_PAGE_STATES ? names[state] : "unknown";
}
