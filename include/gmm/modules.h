/* Shared modules: guests tell which files they have mapped, and equal code is shared at once instead of by scanning.
 *
 * A module is a file as guests map it: a kernel, a library, a program. Two registrations are of the same module when
 * they agree in everything that says what its bytes are: name, version, size, OS family, number of regions, and each
 * region's offset in its page and rounded size. Where it lies in the guest does not matter. Modules are known inside one
 * trust domain only.
 *
 * A registration is a hint. Pages are shared after the same byte compare as all others, in the same way, and stay shared
 * until they are written, discarded or unshared, whatever becomes of the registration. A guest that lies gains nothing
 * and costs a bounded amount of work in its own domain.
 *
 * When pages are shared: nothing happens while only one record exists of a module. From the second on, the engine goes
 * over its records at the start of its next pass, before it scans anything: what is equal in two guests is put into
 * the pool in the order of the module, and what is equal to a page already there joins it. Records that could not be
 * done (pages that the guest has not mapped yet, say) are tried again every 8 passes. gmm_module_check does the same
 * at once, also while the engine does not run, and with GMM_CHECK_PROMOTE it puts pages into the pool that nobody
 * else has yet. Where guests differ (relocated code), up to GMM_MODULE_VARIANTS variants of each page are kept.
 *
 * Threads, errors and units are as in gmm.h. Lookups never wait for registrations.
 */
#ifndef GMM_MODULES_H
#define GMM_MODULES_H

#include <gmm/gmm.h>

#ifdef __cplusplus
extern "C" {
#endif

#define GMM_MODULE_NAME_MAX 127u            /* bytes, without the final 0 */
#define GMM_MODULE_VERSION_MAX 15u
#define GMM_MODULE_REGIONS_MAX 32u
#define GMM_MODULE_BYTES_MAX (1024u << 20)  /* of a module, of a region, and of its regions together */
#define GMM_MODULE_VM_MAX 2048u             /* records of one VM */
#define GMM_MODULE_MAX 16384u               /* modules of an instance */
#define GMM_MODULE_VM_RUNS_MAX (1024u << 10) /* runs that the records of a VM may have together */
#define GMM_MODULE_VARIANTS 4u              /* of each page of a module */

/* ---- registering ---------------------------------------------------------------------------------------- */

enum gmm_os_family { GMM_OS_OTHER, GMM_OS_LINUX, GMM_OS_WINDOWS, GMM_OS_BSD, GMM_OS_FAMILIES };

/* A vCPU's registers as the guest sees them: they say how linear addresses are translated. */
struct gmm_guest_cpu {
	uint64_t cr0, cr3, cr4, efer;
	uint8_t phys_bits;      /* width of guest-physical addresses (CPUID 80000008h, EAX 7:0): 32 to 52 */
};

/* Bytes [addr, addr + size) of the guest's linear address space; pages that it touches count whole. */
struct gmm_module_region {
	uint64_t addr;
	uint64_t size;          /* > 0 */
};

/* Consecutive guest-physical pages. guest_addr GMM_NO_PAGES: these pages of the module are not in memory. */
#define GMM_NO_PAGES UINT64_MAX
struct gmm_page_run {
	uint64_t guest_addr;    /* bytes, page aligned */
	uint64_t pages;         /* > 0 */
};

/* Its pages are named in one of two ways. By linear addresses, with the registers of a vCPU that has the module mapped:
 * they are translated at each check through the guest's page tables. Or, by a guest agent, as runs of guest-physical
 * pages that together are all pages of the regions in order; then base and addresses serve as names only. */
struct gmm_module {
	size_t struct_size;                       /* set by gmm_module_init */
	enum gmm_os_family os;
	const char *name;                         /* not empty */
	const char *version;                      /* NULL: empty */
	uint64_t base;                            /* names the record inside its VM */
	uint64_t size;                            /* bytes */
	const struct gmm_module_region *regions;
	uint32_t n_regions;                       /* > 0 */
	const struct gmm_guest_cpu *cpu;          /* either this */
	const struct gmm_page_run *runs;          /* or these */
	size_t n_runs;
};

void gmm_module_init(struct gmm_module *module);

/* Registers a module for a VM; everything is copied. Returns GMM_ALREADY_REGISTERED, which is no failure, when this very
 * module is registered at that base: its cpu or runs take the place of the old ones.
 * _ADDRESS_CLASH (another module at that base), _NAME_TOO_LONG, _VERSION_TOO_LONG, _TOO_MANY_REGIONS, _BAD_MODULE_SIZE,
 * _BAD_REGIONS_SIZE (a region that is empty or leaves the address space, too large ones, runs that are not as many pages
 * as the regions), _TOO_MANY_PER_VM, _TOO_MANY_GLOBAL, _LIMIT (runs), _MISALIGNED (runs), _INVALID_PARAMETER, _NO_MEMORY. */
int gmm_module_register(struct gmm_vm *vm, const struct gmm_module *module);

/* Removes the record at a base; reset: all records of a VM. Their pages stay shared, and the module is remembered as
 * long as one of them is. _NOT_FOUND. */
int gmm_module_unregister(struct gmm_vm *vm, uint64_t base);
int gmm_modules_reset(struct gmm_vm *vm);

/* ---- checking ------------------------------------------------------------------------------------------- */

/* What a check did, in pages. All but the last two add up to `pages`. */
struct gmm_module_checked {
	uint64_t pages;
	uint64_t joined;        /* now share a page that was in the pool */
	uint64_t promoted;      /* were put into the pool */
	uint64_t shared;        /* were shared before */
	uint64_t different;     /* nobody has them, as far as is known: left private */
	uint64_t absent;        /* not mapped in the guest, not in memory, or swapped out */
	uint64_t writable;      /* the guest may write there */
	uint64_t not_ram;       /* outside the VM's RAM */
	uint64_t refused;       /* pinned or unshareable */
	uint64_t huge;          /* part of a huge page of the host */
	uint64_t fill;          /* repeat one word: left to the scanner, which has a better way with them */
	uint64_t broken;        /* shared once and written since: left to the engine's repair */
	uint64_t failed;        /* changed meanwhile, over the mapping budget, or no memory */
	uint64_t busy;          /* the equal page's VM was being changed by somebody else: try again */
	uint64_t variants;      /* of the promoted pages, those that are not the first of their place in the module */
	uint64_t twins;         /* pages of other records that joined the promoted ones at once */
};

enum gmm_check_flags {
	GMM_CHECK_PROMOTE = 1,  /* put pages into the pool also when nobody else has them: for the first VM of many */
};

/* Shares what can be shared of one module, of all of a VM, or of all of all VMs. No VM is stopped: it works in slices of
 * 256 pages, by the engine's merge thread or, while the engine does not run, by the caller. ret_checked may be NULL.
 * _NOT_FOUND (no record at that base), _WRONG_ORDER (the VM is being destroyed; or the instance shares through a service,
 * which does not know modules), _NO_MEMORY, _INVALID_PARAMETER. */
int gmm_module_check(struct gmm_vm *vm, uint64_t base, unsigned flags, struct gmm_module_checked *ret_checked);
int gmm_modules_check_vm(struct gmm_vm *vm, unsigned flags, struct gmm_module_checked *ret_checked);
int gmm_modules_check_all(struct gmm *gmm, unsigned flags, struct gmm_module_checked *ret_checked);

/* ---- looking -------------------------------------------------------------------------------------------- */

struct gmm_module_info {
	char name[GMM_MODULE_NAME_MAX + 1];
	char version[GMM_MODULE_VERSION_MAX + 1];
	char domain[GMM_NAME_MAX + 1];
	enum gmm_os_family os;
	uint32_t regions;
	uint64_t size;          /* bytes */
	uint64_t pages;         /* of its regions */
	uint32_t users;         /* records; 0: remembered for the sake of its shared pages */
	uint64_t shared_pages;  /* pool pages that serve it now */
	uint64_t variants;      /* of these, those that are not the first of their place in the module */
	uint64_t references;    /* gfns that use these pool pages, as part of this module or otherwise */
	uint64_t saved_pages;   /* references - shared_pages */
};

/* What is known of the module that a VM has registered at a base. _NOT_FOUND. */
int gmm_module_find(struct gmm_vm *vm, uint64_t base, struct gmm_module_info *ret_info);

/* All modules of the instance, in no particular order: at most max of them go to ret_infos (which may be NULL when max is
 * 0); *ret_count is how many there are. */
int gmm_modules_list(struct gmm *gmm, struct gmm_module_info *ret_infos, size_t max, size_t *ret_count);

/* "linux", ... Never NULL; static storage. */
const char *gmm_os_family_name(enum gmm_os_family os);

#ifdef __cplusplus
}
#endif

#endif
