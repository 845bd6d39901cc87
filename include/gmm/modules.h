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
 * Through a sharing service (gmm_options.socket) records are of other processes too: each is checked once it is there, also
 * while the service has paused scans. Pages that were put into the pool then count as joined, and what is known of modules'
 * pages is the service's: shared_pages and what follows in gmm_module_info are 0. `gmm-dedup modules` asks all processes and
 * the service.
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
	GMM_CHECK_PROMOTE = 1,  /* put pages into the pool also when nobody else has them: for the first VM of many. Not through
	                         * a service, which knows that others have them before it takes them */
};

/* Shares what can be shared of one module, of all of a VM, or of all of all VMs. No VM is stopped: it works in slices of
 * 256 pages, by the engine's merge thread or, while the engine does not run, by the caller. ret_checked may be NULL.
 * _NOT_FOUND (no record at that base), _WRONG_ORDER (the VM is being destroyed; or the instance shares through a service,
 * and the engine does not run, or the service does not answer, does not know the VM yet or does not let it share),
 * _NO_MEMORY, _INVALID_PARAMETER. */
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

/* ---- reports of guests ---------------------------------------------------------------------------------- */

/* The host's end of the virtio-serial port or vsock connection of gmm-guest, the agent in the guest. What it sends is
 * hostile input: checked, limited by the size of the guest's RAM, and metered, so that a guest wastes its own budget only.
 * What it names is registered as modules, whose bases are 0 to 2047, and unregistered when it says so; checks follow as for
 * all modules. One thread at a time for each port; one port for a VM, which it must not outlive. */
struct gmm_guest_port;

/* end_addr: pages at this guest address and above are left out; 0: none are. A VMM that has all RAM in one block gives the
 * address from which on guest addresses are not those of its slots. _NO_MEMORY, _INVALID_PARAMETER. */
int gmm_guest_port_open(struct gmm_vm *vm, uint64_t end_addr, struct gmm_guest_port **ret_port);

/* Unregisters what the guest has named, and frees the port. NULL is fine. */
void gmm_guest_port_close(struct gmm_guest_port *port);

/* The connection is a new one: what was half received or half sent is forgotten. */
void gmm_guest_port_restart(struct gmm_guest_port *port);

/* Bytes that came from the guest. *ret_taken < size: the guest has used up its budget. Keep the rest and stop receiving, so
 * that it waits, for gmm_guest_port_wait_ms; 0: go on. _NO_MEMORY, _INVALID_PARAMETER, and nothing was taken. */
int gmm_guest_port_feed(struct gmm_guest_port *port, const void *bytes, size_t size, size_t *ret_taken);
uint64_t gmm_guest_port_wait_ms(struct gmm_guest_port *port);

/* Bytes to send to the guest, at most max; there may be some after open, restart and feed. Returns how many. */
size_t gmm_guest_port_take(struct gmm_guest_port *port, void *ret_bytes, size_t max);

struct gmm_guest_port_info {
	uint32_t modules;       /* registered now */
	uint32_t refused;       /* named by the guest and not registered, for limits or memory */
	uint64_t pages;         /* in memory, of those registered */
	uint64_t reports;       /* that were complete */
	uint64_t faults;        /* of the guest: how often its stream could not be followed */
	const char *last_fault; /* "fine", "bad record", ... Static storage */
};
void gmm_guest_port_info(const struct gmm_guest_port *port, struct gmm_guest_port_info *ret_info);

/* "linux", ... Never NULL; static storage. */
const char *gmm_os_family_name(enum gmm_os_family os);

#ifdef __cplusplus
}
#endif

#endif
