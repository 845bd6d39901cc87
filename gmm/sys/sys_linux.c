/* The table of gmm/sys/sys.h on the real kernel. */
#define _GNU_SOURCE
#include "gmm/sys/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <numa.h>
#include <numaif.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "gmm/sys/home.h"
#include "gmm/sys/kernel.h"

_Static_assert(sizeof(struct gmm__scan_range) == 24, "must be the kernel's struct page_region");

static int result(long rc)
{
	return rc < 0 ? -errno : (int)rc;
}

static void host_run(void (*run)(void *arg), void *arg)
{
	run(arg);
}

static void *host_alloc(size_t size)
{
	return calloc(1, size);
}

static intptr_t host_map(void *addr, size_t size, int prot, int flags, int fd, uint64_t offset)
{
	void *p = mmap(addr, size, prot, flags, fd, (off_t)offset);

	return p == MAP_FAILED ? -errno : (intptr_t)p;
}

static int host_unmap(void *addr, size_t size)
{
	return result(munmap(addr, size));
}

static intptr_t host_remap_fixed(void *from, size_t size, void *to)
{
	void *p = mremap(from, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, to);

	return p == MAP_FAILED ? -errno : (intptr_t)p;
}

static int host_advise(void *addr, size_t size, int advice)
{
	return result(madvise(addr, size, advice));
}

static int host_policy_get(void *addr, int *ret_mode, unsigned long *ret_nodes, unsigned long max_nodes)
{
	return result(get_mempolicy(ret_mode, ret_nodes, max_nodes, addr, MPOL_F_ADDR));
}

static int host_policy_set(void *addr, size_t size, int mode, const unsigned long *nodes, unsigned long max_nodes)
{
	return result(mbind(addr, size, mode, nodes, max_nodes, 0));
}

/* /dev/userfaultfd, from a process that may open it. */
static _Atomic int *passed_device(void)
{
	static _Atomic int device = -1;

	return gmm__sys_at_home ? &gmm__sys_home_device : &device;
}

void gmm__sys_linux_use_userfaultfd(int device)
{
	int old = atomic_exchange(passed_device(), device);

	if (old >= 0)
		close(old);
}

/* The system call needs privilege or vm.unprivileged_userfaultfd; the device needs its permission bits. */
static int uffd_new(void)
{
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (fd >= 0)
		return fd;
	int why = errno;
	int passed = *passed_device();
	int device = passed >= 0 ? fcntl(passed, F_DUPFD_CLOEXEC, 0) : open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	if (device < 0)
		return -why;
	fd = result(ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK));
	close(device);
	return fd;
}

static int host_uffd_open(enum gmm__uffd_kind kind)
{
	uint64_t features = UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM;

	if (kind == GMM__UFFD_TRACK)
		features |= UFFD_FEATURE_WP_UNPOPULATED | UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_MOVE;
	int fd = uffd_new();
	if (fd < 0)
		return fd;
	struct uffdio_api api = { .api = UFFD_API, .features = features };
	if (ioctl(fd, UFFDIO_API, &api) != 0) {
		int rc = errno == EINVAL ? -EOPNOTSUPP : -errno;
		close(fd);
		return rc;
	}
	return fd;
}

static int host_uffd_watch(int fd, void *addr, size_t size, enum gmm__watch mode)
{
	struct uffdio_register r = { .range = { (uintptr_t)addr, size } };

	if (mode != GMM__WATCH_MISSING)
		r.mode |= UFFDIO_REGISTER_MODE_WP;
	if (mode != GMM__WATCH_WP)
		r.mode |= UFFDIO_REGISTER_MODE_MISSING;
	return result(ioctl(fd, UFFDIO_REGISTER, &r));
}

static int host_uffd_unwatch(int fd, void *addr, size_t size)
{
	struct uffdio_range r = { (uintptr_t)addr, size };

	return result(ioctl(fd, UFFDIO_UNREGISTER, &r));
}

static int host_uffd_wake(int fd, void *addr, size_t size)
{
	struct uffdio_range r = { (uintptr_t)addr, size };

	return result(ioctl(fd, UFFDIO_WAKE, &r));
}

static int host_uffd_protect(int fd, void *addr, size_t size, bool protect)
{
	struct uffdio_writeprotect w = { .range = { (uintptr_t)addr, size },
					 .mode = protect ? UFFDIO_WRITEPROTECT_MODE_WP : 0 };
	int rc;

	do
		rc = result(ioctl(fd, UFFDIO_WRITEPROTECT, &w));
	while (rc == -EAGAIN);
	return rc;
}

static int host_uffd_move(int fd, void *to, void *from, size_t size, size_t *ret_moved)
{
	size_t done = 0;

	for (;;) {
		struct uffdio_move m = { .dst = (uintptr_t)to + done, .src = (uintptr_t)from + done,
					 .len = size - done,
					 .mode = UFFDIO_MOVE_MODE_DONTWAKE | UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES };
		int rc = result(ioctl(fd, UFFDIO_MOVE, &m));
		if (m.move > 0)
			done += (size_t)m.move;
		*ret_moved = done;
		if (rc == 0 || done >= size)
			return 0;
		/* EAGAIN: part was done, or the page tables changed under the kernel. */
		if (rc != -EAGAIN)
			return rc;
	}
}

static int host_uffd_copy(int fd, void *to, const void *from, size_t size)
{
	size_t done = 0;

	while (done < size) {
		struct uffdio_copy c = { .dst = (uintptr_t)to + done, .src = (uintptr_t)from + done,
					 .len = size - done, .mode = UFFDIO_COPY_MODE_DONTWAKE };
		int rc = result(ioctl(fd, UFFDIO_COPY, &c));
		if (c.copy > 0)
			done += (size_t)c.copy;
		if (rc < 0 && rc != -EAGAIN)
			return rc;
	}
	return 0;
}

static int host_pagemap_open(void)
{
	return result(open("/proc/thread-self/pagemap", O_RDONLY | O_CLOEXEC));
}

static int host_pagemap_scan(int fd, void *start, void *end, const struct gmm__scan_filter *filter,
			     struct gmm__scan_range *ranges, size_t max_ranges, void **ret_end)
{
	struct pm_scan_arg arg = {
		.size = sizeof arg, .start = (uintptr_t)start, .end = (uintptr_t)end,
		.vec = (uintptr_t)ranges, .vec_len = max_ranges,
		.category_mask = filter->need | filter->forbid, .category_inverted = filter->forbid,
		.category_anyof_mask = filter->any,
		.return_mask = GMM__IS_WPALLOWED | GMM__IS_WRITTEN | GMM__IS_PRESENT | GMM__IS_SWAPPED |
			       GMM__IS_PFNZERO | GMM__IS_HUGE,
	};
	int rc = result(ioctl(fd, PAGEMAP_SCAN, &arg));

	if (rc >= 0 && ret_end)
		*ret_end = (void *)(uintptr_t)arg.walk_end;
	return rc;
}

static int host_pagemap_arm(int fd, void *start, void *end)
{
	struct pm_scan_arg arg = {
		.size = sizeof arg, .flags = PM_SCAN_WP_MATCHING,
		.category_mask = GMM__IS_WPALLOWED | GMM__IS_WRITTEN | GMM__IS_PRESENT,
		.return_mask = GMM__IS_WRITTEN,
	};
	struct gmm__scan_range ranges[64];

	/* With a vector and a filter only matching pages are armed; without one holes would get markers. */
	arg.vec = (uintptr_t)ranges;
	arg.vec_len = 64;
	arg.start = (uintptr_t)start;
	arg.end = (uintptr_t)end;
	while (arg.start < arg.end) {
		int rc = result(ioctl(fd, PAGEMAP_SCAN, &arg));
		if (rc < 0)
			return rc;
		arg.start = arg.walk_end;
	}
	return 0;
}

static int query_map(int maps, const void *addr, struct procmap_query *query)
{
	*query = (struct procmap_query){ .size = sizeof *query, .query_addr = (uintptr_t)addr };
	return result(ioctl(maps, PROCMAP_QUERY, query));
}

static int host_maps_open(void)
{
	int maps = result(open("/proc/thread-self/maps", O_RDONLY | O_CLOEXEC));
	struct procmap_query query;

	if (maps < 0)
		return maps;
	if (query_map(maps, &query, &query) == 0)
		return maps;
	close(maps);
	return -ENOTTY;
}

static int host_maps_shown_at(int maps, const void *addr, int file, uint64_t *ret_offset, void **ret_end)
{
	struct procmap_query query;
	struct stat st;

	int rc = query_map(maps, addr, &query);
	if (rc == 0)
		rc = result(fstat(file, &st));
	if (rc != 0)
		return rc;
	if (query.inode != st.st_ino || query.dev_major != major(st.st_dev) || query.dev_minor != minor(st.st_dev))
		return -ENOENT;
	*ret_offset = query.vma_offset + ((uintptr_t)addr - query.vma_start);
	*ret_end = (void *)(uintptr_t)query.vma_end;
	return 0;
}

static int host_maps_bounds(int maps, const void *addr, void **ret_start, void **ret_end)
{
	struct procmap_query query;
	int rc = query_map(maps, addr, &query);

	if (rc == 0) {
		*ret_start = (void *)(uintptr_t)query.vma_start;
		*ret_end = (void *)(uintptr_t)query.vma_end;
	}
	return rc;
}

static int host_file_create(const char *name)
{
	return result(memfd_create(name, MFD_CLOEXEC));
}

static int host_file_resize(int fd, uint64_t size)
{
	return result(ftruncate(fd, (off_t)size));
}

static ssize_t host_file_write(int fd, const struct iovec *parts, int n, uint64_t offset)
{
	ssize_t rc = pwritev(fd, parts, n, (off_t)offset);

	return rc < 0 ? -errno : rc;
}

static int host_file_punch(int fd, uint64_t offset, uint64_t size)
{
	return result(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)size));
}

static void host_file_close(int fd)
{
	close(fd);
}

static ssize_t host_file_read(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	size_t done = 0;
	ssize_t n = 0;
	while (done + 1 < size && (n = read(fd, buf + done, size - 1 - done)) > 0)
		done += (size_t)n;
	int rc = n < 0 ? -errno : (int)done;
	buf[done] = 0;
	close(fd);
	return rc;
}

/* A lock of an open file description goes with the last reference to it, and a mapping is one. So it is taken through
 * a description of its own, of which only mappings are left. */
static int host_witness_open(void **ret_page)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 1 };
	char path[48];
	int fd = result(memfd_create("gmm-fork", MFD_CLOEXEC));

	if (fd < 0)
		return fd;
	snprintf(path, sizeof path, "/proc/thread-self/fd/%d", fd);
	int own = ftruncate(fd, 4096) == 0 ? open(path, O_RDWR | O_CLOEXEC) : -1;
	void *page = MAP_FAILED;
	if (own >= 0 && fcntl(own, F_OFD_SETLK, &lock) == 0)
		page = mmap(NULL, 4096, PROT_READ, MAP_SHARED, own, 0);
	int rc = page == MAP_FAILED ? -errno : fd;
	if (own >= 0)
		close(own);
	if (rc < 0)
		close(fd);
	else
		*ret_page = page;
	return rc;
}

static bool host_witness_alive(int fd)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 1 };

	return fcntl(fd, F_OFD_GETLK, &lock) != 0 || lock.l_type != F_UNLCK;
}

/* A trigger is written into the file: never into one that is not the kernel's. */
static int host_psi_trigger(const char *path, uint64_t stall_us, uint64_t window_us)
{
	enum { PROC_MAGIC = 0x9fa0, CGROUP2_MAGIC = 0x63677270 };
	struct statfs where;
	char text[64];
	int fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	int rc = fstatfs(fd, &where) == 0 && (where.f_type == PROC_MAGIC || where.f_type == CGROUP2_MAGIC) ? 0 : -EOPNOTSUPP;
	int n = snprintf(text, sizeof text, "some %llu %llu", (unsigned long long)stall_us, (unsigned long long)window_us);
	if (rc == 0 && write(fd, text, (size_t)n + 1) < 0)
		rc = -errno;
	if (rc == 0)
		return fd;
	close(fd);
	return rc;
}

static int host_event_open(void)
{
	return result(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
}

static void host_event_signal(int fd)
{
	uint64_t one = 1;

	if (write(fd, &one, sizeof one) < 0)
		return; /* it is signalled already, as often as it can be */
}

static int host_wait_ready(const int *fds, int n, int timeout_ms)
{
	struct pollfd polled[8];
	int ready = 0;

	for (int i = 0; i < n && i < 8; i++)
		polled[i] = (struct pollfd){ .fd = fds[i], .events = POLLIN | POLLPRI };
	int rc = poll(polled, (nfds_t)(n < 8 ? n : 8), timeout_ms);
	for (int i = 0; rc > 0 && i < n && i < 8; i++)
		ready |= polled[i].revents ? 1 << i : 0;
	return rc < 0 ? -errno : ready;
}

static uint64_t read_clock(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t host_clock_ns(void)
{
	return read_clock(CLOCK_MONOTONIC);
}

static uint64_t host_process_cpu_ns(void)
{
	return read_clock(CLOCK_PROCESS_CPUTIME_ID);
}

static uint64_t host_thread_cpu_ns(void)
{
	return read_clock(CLOCK_THREAD_CPUTIME_ID);
}

static int host_random(void *buf, size_t size)
{
	ssize_t n = getrandom(buf, size, 0);

	return n < 0 ? -errno : (size_t)n == size ? 0 : -EIO;
}

struct thread_start {
	void *(*run)(void *);
	void *arg;
	char name[16];
	bool idle;
	bool at_home;
};

static void *thread_main(void *p)
{
	struct thread_start start = *(struct thread_start *)p;
	struct sched_param param = { 0 };

	free(p);
	gmm__sys_at_home = start.at_home;
	pthread_setname_np(pthread_self(), start.name);
	if (start.idle)
		sched_setscheduler(0, SCHED_IDLE, &param); /* a refusal costs politeness, nothing else */
	return start.run(start.arg);
}

static int host_thread_start(uintptr_t *ret_thread, const char *name, bool idle, void *(*run)(void *), void *arg)
{
	struct thread_start *start = malloc(sizeof *start);
	if (!start)
		return -ENOMEM;
	*start = (struct thread_start){ .run = run, .arg = arg, .idle = idle, .at_home = gmm__sys_at_home };
	strncpy(start->name, name, sizeof start->name - 1);

	/* A new thread inherits the mask: it must never take a signal meant for the VMM. */
	sigset_t all, old;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	pthread_t thread;
	int rc = pthread_create(&thread, NULL, thread_main, start);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (rc != 0) {
		free(start);
		return -rc;
	}
	*ret_thread = (uintptr_t)thread;
	return 0;
}

static void host_thread_join(uintptr_t thread)
{
	pthread_join((pthread_t)thread, NULL);
}

static int64_t host_process_id(void)
{
	return getpid();
}

static int host_numa_nodes(void)
{
	return numa_available() < 0 ? 1 : numa_max_node() + 1;
}

static int host_numa_node_here(void)
{
	unsigned node = 0;

	/* Not numa_node_of_cpu: two threads that call it first at the same time leave a table behind. */
	return numa_available() < 0 || getcpu(NULL, &node) != 0 ? 0 : (int)node;
}

const struct gmm__sys *gmm__sys_linux(void)
{
	static const struct gmm__sys table = {
		.run = host_run, .alloc = host_alloc, .free = free, .map = host_map, .unmap = host_unmap,
		.remap_fixed = host_remap_fixed, .advise = host_advise, .policy_get = host_policy_get,
		.policy_set = host_policy_set, .uffd_open = host_uffd_open, .uffd_watch = host_uffd_watch,
		.uffd_unwatch = host_uffd_unwatch, .uffd_wake = host_uffd_wake, .uffd_protect = host_uffd_protect,
		.uffd_move = host_uffd_move, .uffd_copy = host_uffd_copy, .pagemap_open = host_pagemap_open,
		.pagemap_scan = host_pagemap_scan, .pagemap_arm = host_pagemap_arm,
		.maps_open = host_maps_open, .maps_shown_at = host_maps_shown_at, .maps_bounds = host_maps_bounds,
		.file_create = host_file_create, .file_resize = host_file_resize, .file_write = host_file_write,
		.file_punch = host_file_punch, .file_close = host_file_close, .file_read = host_file_read,
		.witness_open = host_witness_open,
		.witness_alive = host_witness_alive, .psi_trigger = host_psi_trigger,
		.event_open = host_event_open, .event_signal = host_event_signal, .wait_ready = host_wait_ready,
		.clock_ns = host_clock_ns, .thread_cpu_ns = host_thread_cpu_ns,
		.process_cpu_ns = host_process_cpu_ns, .random = host_random,
		.thread_start = host_thread_start, .thread_join = host_thread_join, .process_id = host_process_id,
		.numa_nodes = host_numa_nodes, .numa_node_here = host_numa_node_here,
	};

	return &table;
}
