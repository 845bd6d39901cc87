/* Failing calls; see faulty_sys.h. */
#include "tests/unit/support/faulty_sys.h"

#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <sys/mman.h>

#include "gmm/ids.h"

static struct gmm__sys table;

static struct {
	enum faulty_call call;
	uint32_t n, times, seen, failures;
	enum faulty_call first;
	bool paused;
} plan;

static int64_t allocations, descriptors;

/* Address ranges that the library mapped and has not unmapped. */
enum { RANGES = 4096 };
static struct range {
	uintptr_t start, end;
	bool refused; /* the kernel would not unmap it */
} ranges[RANGES];
static uint32_t n_ranges;

static const struct gmm__sys *real(void)
{
	return gmm__sys_linux();
}

static bool fails(enum faulty_call call)
{
	if (plan.paused || (plan.call != FAULTY_ANY && plan.call != call))
		return false;
	plan.seen++;
	if (plan.n == 0 || plan.seen < plan.n || plan.seen >= plan.n + plan.times)
		return false;
	if (plan.failures++ == 0)
		plan.first = call;
	return true;
}

/* ---- what is held -------------------------------------------------------------------------------------------------- */

static void add_range(uintptr_t start, uintptr_t end, bool refused)
{
	ck_assert_uint_lt(n_ranges, RANGES);
	if (start < end)
		ranges[n_ranges++] = (struct range){ start, end, refused };
}

static void remove_range(uintptr_t start, uintptr_t end, bool refused)
{
	for (uint32_t i = 0; i < n_ranges;) {
		struct range r = ranges[i];
		if (r.end <= start || r.start >= end || r.refused) {
			i++;
			continue;
		}
		ranges[i] = ranges[--n_ranges];
		add_range(r.start, start, false);
		add_range(end, r.end, false);
		if (refused)
			add_range(r.start > start ? r.start : start, r.end < end ? r.end : end, true);
	}
}

const char *faulty_leak(void)
{
	static char text[160];

	for (uint32_t i = 0; i < n_ranges; i++) {
		if (ranges[i].refused)
			continue;
		snprintf(text, sizeof text, "%zu bytes at %#zx are mapped still", ranges[i].end - ranges[i].start,
			 ranges[i].start);
		return text;
	}
	if (allocations == 0 && descriptors == 0)
		return NULL;
	snprintf(text, sizeof text, "%lld allocations and %lld descriptors are left", (long long)allocations,
		 (long long)descriptors);
	return text;
}

static int opened(int fd)
{
	descriptors += fd >= 0;
	return fd;
}

/* ---- memory ---------------------------------------------------------------------------------------------------------- */

static void *call_alloc(size_t size)
{
	void *p = fails(FAULTY_ALLOC) ? NULL : real()->alloc(size);

	allocations += p != NULL;
	return p;
}

static void call_free(void *p)
{
	allocations -= p != NULL;
	real()->free(p);
}

static intptr_t call_map(void *addr, size_t size, int prot, int flags, int fd, uint64_t offset)
{
	if (fails(FAULTY_MAP))
		return -ENOMEM;
	intptr_t p = real()->map(addr, size, prot, flags, fd, offset);
	if (!gmm__is_errno(p) && !(flags & MAP_FIXED)) {
		remove_range((uintptr_t)p, (uintptr_t)p + size, false);
		add_range((uintptr_t)p, (uintptr_t)p + size, false);
	}
	return p;
}

static int call_unmap(void *addr, size_t size)
{
	bool failed = fails(FAULTY_UNMAP);

	remove_range((uintptr_t)addr, (uintptr_t)addr + size, failed);
	for (uint32_t i = 0; !failed && i < n_ranges; i++) /* a later try */
		if (ranges[i].refused && ranges[i].start >= (uintptr_t)addr && ranges[i].end <= (uintptr_t)addr + size)
			ranges[i--] = ranges[--n_ranges];
	return failed ? -ENOMEM : real()->unmap(addr, size);
}

/* What is moved keeps its place in the books: the target belongs to guest RAM already. */
static intptr_t call_remap_fixed(void *from, size_t size, void *to)
{
	if (fails(FAULTY_REMAP_FIXED))
		return -ENOMEM;
	intptr_t p = real()->remap_fixed(from, size, to);
	if (!gmm__is_errno(p))
		remove_range((uintptr_t)from, (uintptr_t)from + size, false);
	return p;
}

static int call_advise(void *addr, size_t size, int advice)
{
	return fails(FAULTY_ADVISE) ? -ENOMEM : real()->advise(addr, size, advice);
}

static int call_policy_get(void *addr, int *ret_mode, unsigned long *ret_nodes, unsigned long max_nodes)
{
	return fails(FAULTY_POLICY_GET) ? -EINVAL : real()->policy_get(addr, ret_mode, ret_nodes, max_nodes);
}

static int call_policy_set(void *addr, size_t size, int mode, const unsigned long *nodes, unsigned long max_nodes)
{
	return fails(FAULTY_POLICY_SET) ? -ENOMEM : real()->policy_set(addr, size, mode, nodes, max_nodes);
}

/* ---- userfaultfd and pagemap -------------------------------------------------------------------------------------------- */

static int call_uffd_open(enum gmm__uffd_kind kind)
{
	return fails(FAULTY_UFFD_OPEN) ? -EMFILE : opened(real()->uffd_open(kind));
}

static int call_uffd_watch(int fd, void *addr, size_t size, enum gmm__watch mode)
{
	return fails(FAULTY_UFFD_WATCH) ? -ENOMEM : real()->uffd_watch(fd, addr, size, mode);
}

static int call_uffd_unwatch(int fd, void *addr, size_t size)
{
	return fails(FAULTY_UFFD_UNWATCH) ? -ENOMEM : real()->uffd_unwatch(fd, addr, size);
}

static int call_uffd_protect(int fd, void *addr, size_t size, bool protect)
{
	return fails(FAULTY_UFFD_PROTECT) ? -ENOMEM : real()->uffd_protect(fd, addr, size, protect);
}

/* The first half is done before the failure. */
static int call_uffd_move(int fd, void *to, void *from, size_t size, size_t *ret_moved)
{
	if (!fails(FAULTY_UFFD_MOVE))
		return real()->uffd_move(fd, to, from, size, ret_moved);
	size_t half = size / GMM__PAGE_BYTES / 2 * GMM__PAGE_BYTES;
	*ret_moved = 0;
	if (half)
		real()->uffd_move(fd, to, from, half, ret_moved);
	return plan.n % 2 ? -EBUSY : -ENOMEM;
}

static int call_uffd_copy(int fd, void *to, const void *from, size_t size)
{
	return fails(FAULTY_UFFD_COPY) ? -ENOMEM : real()->uffd_copy(fd, to, from, size);
}

static int call_pagemap_open(void)
{
	return fails(FAULTY_PAGEMAP_OPEN) ? -EMFILE : opened(real()->pagemap_open());
}

static int call_pagemap_scan(int fd, void *start, void *end, const struct gmm__scan_filter *filter,
			     struct gmm__scan_range *found, size_t max, void **ret_end)
{
	return fails(FAULTY_PAGEMAP_SCAN) ? -ENOMEM : real()->pagemap_scan(fd, start, end, filter, found, max, ret_end);
}

static int call_pagemap_arm(int fd, void *start, void *end)
{
	return fails(FAULTY_PAGEMAP_ARM) ? -ENOMEM : real()->pagemap_arm(fd, start, end);
}

static int call_maps_open(void)
{
	return fails(FAULTY_MAPS_OPEN) ? -EMFILE : opened(real()->maps_open());
}

static int call_maps_bounds(int maps, const void *addr, void **ret_start, void **ret_end)
{
	return fails(FAULTY_MAPS_BOUNDS) ? -ENOMEM : real()->maps_bounds(maps, addr, ret_start, ret_end);
}

/* ---- files and the rest --------------------------------------------------------------------------------------------------- */

static int call_file_create(const char *name)
{
	return fails(FAULTY_FILE_CREATE) ? -EMFILE : opened(real()->file_create(name));
}

static int call_file_resize(int fd, uint64_t size)
{
	return fails(FAULTY_FILE_RESIZE) ? -ENOMEM : real()->file_resize(fd, size);
}

/* A full disk takes what fits. */
static ssize_t call_file_write(int fd, const struct iovec *parts, int n, uint64_t offset)
{
	if (!fails(FAULTY_FILE_WRITE))
		return real()->file_write(fd, parts, n, offset);
	struct iovec part = { parts[0].iov_base, parts[0].iov_len / 2 };
	return plan.n % 2 ? -ENOSPC : real()->file_write(fd, &part, 1, offset);
}

static int call_file_punch(int fd, uint64_t offset, uint64_t size)
{
	return fails(FAULTY_FILE_PUNCH) ? -EINTR : real()->file_punch(fd, offset, size);
}

static void call_file_close(int fd)
{
	descriptors--;
	real()->file_close(fd);
}

static ssize_t call_file_read(const char *path, char *buf, size_t size)
{
	return fails(FAULTY_FILE_READ) ? -EMFILE : real()->file_read(path, buf, size);
}

static int call_random(void *buf, size_t size)
{
	return fails(FAULTY_RANDOM) ? -EAGAIN : real()->random(buf, size);
}

const struct gmm__sys *faulty_sys(void)
{
	table = *real();
	table.alloc = call_alloc;
	table.free = call_free;
	table.map = call_map;
	table.unmap = call_unmap;
	table.remap_fixed = call_remap_fixed;
	table.advise = call_advise;
	table.policy_get = call_policy_get;
	table.policy_set = call_policy_set;
	table.uffd_open = call_uffd_open;
	table.uffd_watch = call_uffd_watch;
	table.uffd_unwatch = call_uffd_unwatch;
	table.uffd_protect = call_uffd_protect;
	table.uffd_move = call_uffd_move;
	table.uffd_copy = call_uffd_copy;
	table.pagemap_open = call_pagemap_open;
	table.pagemap_scan = call_pagemap_scan;
	table.pagemap_arm = call_pagemap_arm;
	table.maps_open = call_maps_open;
	table.maps_bounds = call_maps_bounds;
	table.file_create = call_file_create;
	table.file_resize = call_file_resize;
	table.file_write = call_file_write;
	table.file_punch = call_file_punch;
	table.file_close = call_file_close;
	table.file_read = call_file_read;
	table.random = call_random;
	return &table;
}

void faulty_begin(enum faulty_call call, uint32_t n, uint32_t times)
{
	plan.call = call;
	plan.n = n;
	plan.times = times;
	plan.seen = plan.failures = 0;
	plan.first = FAULTY_ANY;
	plan.paused = false;
	allocations = descriptors = 0;
	n_ranges = 0;
}

void faulty_pause(bool pause)
{
	plan.paused = pause;
}

uint32_t faulty_failures(void)
{
	return plan.failures;
}

enum faulty_call faulty_first(void)
{
	return plan.first;
}

const char *faulty_name(enum faulty_call call)
{
	static const char *const names[] = {
		"alloc", "map", "unmap", "remap_fixed", "advise", "policy_get", "policy_set", "uffd_open", "uffd_watch",
		"uffd_unwatch", "uffd_protect", "uffd_move", "uffd_copy", "pagemap_open", "pagemap_scan", "pagemap_arm",
		"maps_open", "maps_bounds", "file_create", "file_resize", "file_write", "file_punch", "file_read", "random", "nothing",
	};

	return names[call];
}
