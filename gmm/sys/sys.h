/* The one seam between the library and the kernel: a table of functions.
 *
 * Everything the library asks of the host goes through a `struct gmm__sys`: memory, mappings,
 * userfaultfd, pagemap, the pool's files, clocks and scheduling. Tests hand in a table of their own to make
 * the n-th call fail or to interpose. Functions return 0 or a positive result, or a negative errno. They keep
 * no state and may be called from any thread.
 */
#ifndef GMM_SYS_SYS_H
#define GMM_SYS_SYS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

/* What PAGEMAP_SCAN says of a page: the kernel's PAGE_IS_* bits. */
enum gmm__page_is {
	GMM__IS_WPALLOWED = 1 << 0, /* registered for asynchronous write-protect */
	GMM__IS_WRITTEN = 1 << 1,   /* written since it was armed */
	GMM__IS_FILE = 1 << 2,
	GMM__IS_PRESENT = 1 << 3,
	GMM__IS_SWAPPED = 1 << 4,
	GMM__IS_PFNZERO = 1 << 5,
	GMM__IS_HUGE = 1 << 6,
};

/* Consecutive pages of equal categories: host addresses [start, end). The kernel's struct page_region. */
struct gmm__scan_range {
	uint64_t start;
	uint64_t end;
	uint64_t is; /* enum gmm__page_is */
};

/* Which pages a scan returns: all of `need`, none of `forbid`, and any of `any` (0: no such condition). GMM__IS_FILE is
 * dear, since the kernel looks at each page for it; it is reported only where the filter asks for it. */
struct gmm__scan_filter {
	uint64_t need;
	uint64_t forbid;
	uint64_t any;
};

enum gmm__uffd_kind {
	GMM__UFFD_TRACK,  /* asynchronous write-protect and MOVE */
	GMM__UFFD_FREEZE, /* synchronous write-protect */
};

enum gmm__watch { GMM__WATCH_WP, GMM__WATCH_MISSING, GMM__WATCH_MISSING_WP };

struct gmm__sys {
	/* Descriptors are in a table that only the threads that thread_start starts share: other threads of the program can
	 * do nothing with their numbers, and forked children do not have them. See gmm/sys/home.h. */
	bool apart;
	/* Runs a function in a thread that has the descriptors, and waits for it: for what uses them without a function of this
	 * table, or for many calls of it at once. It must not take a lock that is held over calls of this table. */
	void (*run)(void (*run)(void *arg), void *arg);

	/* Our own memory. alloc returns zeroed memory or NULL. */
	void *(*alloc)(size_t size);
	void (*free)(void *p);

	/* Mappings. map and remap return an address or a negative errno (as gmm__is_errno tells). */
	intptr_t (*map)(void *addr, size_t size, int prot, int flags, int fd, uint64_t offset);
	int (*unmap)(void *addr, size_t size);
	intptr_t (*remap_fixed)(void *from, size_t size, void *to);
	int (*advise)(void *addr, size_t size, int advice);
	int (*policy_get)(void *addr, int *ret_mode, unsigned long *ret_nodes, unsigned long max_nodes);
	int (*policy_set)(void *addr, size_t size, int mode, const unsigned long *nodes, unsigned long max_nodes);

	/* userfaultfd. uffd_open returns a descriptor; missing features give -EOPNOTSUPP. */
	int (*uffd_open)(enum gmm__uffd_kind kind);
	int (*uffd_watch)(int fd, void *addr, size_t size, enum gmm__watch mode);
	int (*uffd_unwatch)(int fd, void *addr, size_t size);
	int (*uffd_wake)(int fd, void *addr, size_t size);
	int (*uffd_protect)(int fd, void *addr, size_t size, bool protect);
	/* Moves pages; holes in the source stay holes. *ret_moved is how many bytes were done, also on failure. */
	int (*uffd_move)(int fd, void *to, void *from, size_t size, size_t *ret_moved);
	/* Fills absent pages with a copy and does not wake. */
	int (*uffd_copy)(int fd, void *to, const void *from, size_t size);

	/* pagemap. scan returns how many ranges it stored; *ret_end is where it stopped. arm write-protects the
	 * written present pages of a range. */
	int (*pagemap_open)(void);
	int (*pagemap_scan)(int fd, void *start, void *end, const struct gmm__scan_filter *filter,
			    struct gmm__scan_range *ranges, size_t max_ranges, void **ret_end);
	int (*pagemap_arm)(int fd, void *start, void *end);

	/* The process's mappings (Linux 6.11). maps_open returns a descriptor, or -ENOTTY where they cannot be asked for. shown_at
	 * tells which part of a file is mapped at an address and where that mapping ends; -ENOENT: none, or another file. bounds
	 * tells where the mapping at an address begins and ends; -ENOENT: none. */
	int (*maps_open)(void);
	int (*maps_shown_at)(int maps, const void *addr, int file, uint64_t *ret_offset, void **ret_end);
	int (*maps_bounds)(int maps, const void *addr, void **ret_start, void **ret_end);

	/* The pool's files. */
	int (*file_create)(const char *name);
	int (*file_resize)(int fd, uint64_t size);
	ssize_t (*file_write)(int fd, const struct iovec *parts, int n, uint64_t offset);
	int (*file_punch)(int fd, uint64_t offset, uint64_t size);
	void (*file_close)(int fd);
	/* Reads a file of /proc or /sys whole into buf as a string; returns its length. */
	ssize_t (*file_read)(const char *path, char *buf, size_t size);

	/* A witness of a fork: a page that a child inherits, and a lock that lives as long as any process maps that page.
	 * witness_open maps it at *ret_page and returns a descriptor to ask with; witness_close closes the descriptor. The
	 * caller unmaps its own page after the fork. */
	int (*witness_open)(void **ret_page);
	bool (*witness_alive)(int fd);

	/* Memory pressure. psi_trigger opens a PSI file; the descriptor is ready each time tasks waited so long for memory in
	 * a window. -EOPNOTSUPP: the file is none of the kernel's. An event is ready once it was signalled, for good.
	 * wait_ready returns a bit for each descriptor that is ready, 0 when the time has passed. */
	int (*psi_trigger)(const char *path, uint64_t stall_us, uint64_t window_us);
	int (*event_open)(void);
	void (*event_signal)(int fd);
	int (*wait_ready)(const int *fds, int n, int timeout_ms);

	/* Clocks, random bytes and threads. */
	uint64_t (*clock_ns)(void);
	uint64_t (*thread_cpu_ns)(void);
	uint64_t (*process_cpu_ns)(void); /* of all threads */
	int (*random)(void *buf, size_t size);
	/* Starts a thread that blocks all signals. idle: SCHED_IDLE. */
	int (*thread_start)(uintptr_t *ret_thread, const char *name, bool idle, void *(*run)(void *), void *arg);
	void (*thread_join)(uintptr_t thread);
	int64_t (*process_id)(void);

	/* NUMA: how many nodes there may be (at least 1), and the node the caller runs on. */
	int (*numa_nodes)(void);
	int (*numa_node_here)(void);
};

static inline bool gmm__is_errno(intptr_t rc)
{
	return rc < 0 && rc >= -4095;
}

/* The real kernel. */
const struct gmm__sys *gmm__sys_linux(void);

/* The same with descriptors apart, once home was opened: 0 or a negative errno. Opening nests. */
const struct gmm__sys *gmm__sys_home(void);
int gmm__sys_home_open(void);
void gmm__sys_home_close(void);

/* Takes over a descriptor of /dev/userfaultfd, for a process that may not open it. Where descriptors are apart, called
 * by `run`. */
void gmm__sys_linux_use_userfaultfd(int device);

/* What this host can do. Returns 0, or a negative errno and a sentence for people that names the missing
 * feature and the kernel version that brought it. */
int gmm__sys_check_features(const struct gmm__sys *sys, char *ret_why, size_t why_size);

/* True when swap is on and the kernel is older than its fixes of moving pages in the swap cache. */
bool gmm__sys_swap_unsafe(const struct gmm__sys *sys);

/* vm.max_map_count, or its default when it cannot be read. */
uint64_t gmm__sys_max_map_count(const struct gmm__sys *sys);

/* Memory that can be had without swapping (MemAvailable), or UINT64_MAX when it cannot be read. */
uint64_t gmm__sys_available_bytes(const struct gmm__sys *sys);

/* Memory that this process may use at most: the host's, or the limit of a cgroup it is in when that is smaller. UINT64_MAX
 * when neither can be read. */
uint64_t gmm__sys_memory_bytes(const struct gmm__sys *sys);

/* Pages the kernel knows as pinned for this process (VmPin), in bytes. */
uint64_t gmm__sys_pinned_bytes(const struct gmm__sys *sys);

#endif
