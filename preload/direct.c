/* Looks at descriptors and counts reads; see direct.h. Nothing here allocates or takes a lock: it is asked while pages are
 * frozen. */
#include "preload/direct.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <time.h>

#include "preload/ranges.h"
#include "preload/raw.h"

enum { DRAIN_TRIES = 20000, NAP_NS = 100000 };

static atomic_int in_flight;
static atomic_bool held_up;
static atomic_bool uncounted;

/* ---- descriptors --------------------------------------------------------------------------------------------------- */

struct descriptor {
	int folder;       /* /proc/PID/fd of the program */
	const char *name; /* in it */
	char link[64];    /* the beginning of what it is */
};

/* Calls look for each open descriptor until it returns false. False also when they cannot be listed. No malloc. The folder
 * is not kept open: a process that changed its root could leave it through the folder. */
static bool for_each_descriptor(bool (*look)(const struct descriptor *descriptor))
{
	struct entry {
		uint64_t inode;
		int64_t offset;
		unsigned short size;
		unsigned char type;
		char name[];
	};
	char buf[2048] __attribute__((aligned(8)));
	int folder = (int)gmm__raw(SYS_openat, AT_FDCWD, "/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	bool all = folder >= 0;
	long n = 0;

	while (all && (n = gmm__raw(SYS_getdents64, folder, buf, sizeof buf)) > 0) {
		const struct entry *entry;
		for (long at = 0; all && at < n; at += entry->size) {
			entry = (const struct entry *)(buf + at);
			struct descriptor descriptor = { .folder = folder, .name = entry->name };
			if (entry->name[0] == '.')
				continue;
			long length = gmm__raw(SYS_readlinkat, folder, entry->name, descriptor.link, sizeof descriptor.link - 1);
			/* Closed meanwhile: what it had in flight is counted by itself. */
			all = length == -ENOENT || (length > 0 && look(&descriptor));
		}
	}
	if (folder >= 0)
		gmm__raw(SYS_close, folder);
	return all && n == 0;
}

static bool is_harmless_inode(const char *name)
{
	static const char *const harmless[] = {
		"[eventfd]", "[eventpoll]", "[signalfd]", "[timerfd]", "[userfaultfd]", "[pidfd]", "inotify", "kvm-",
	};

	for (size_t i = 0; i < sizeof harmless / sizeof harmless[0]; i++)
		if (strncmp(name, harmless[i], strlen(harmless[i])) == 0)
			return true;
	return false;
}

/* null, zero, random and the like; terminals; kvm; tun, vhost-net and vhost-vsock, which copy what they receive. */
static bool is_harmless_device(dev_t device)
{
	unsigned number = minor(device);

	switch (major(device)) {
	case 1:
		return number == 3 || number == 5 || (number >= 7 && number <= 9);
	case 4:
	case 5:
		return true;
	case 10:
		return number == 200 || number == 232 || number == 238 || number == 241;
	default:
		return major(device) >= 136 && major(device) <= 143;
	}
}

/* Files and block devices are written to memory by reads, which are counted; sockets and pipes are copied. */
static bool is_harmless(const struct descriptor *descriptor)
{
	struct stat st;

	if (strncmp(descriptor->link, "anon_inode:", 11) == 0)
		return is_harmless_inode(descriptor->link + 11);
	if (gmm__raw(SYS_newfstatat, descriptor->folder, descriptor->name, &st, 0) != 0)
		return false;
	if (S_ISCHR(st.st_mode))
		return is_harmless_device(st.st_rdev);
	return S_ISREG(st.st_mode) || S_ISBLK(st.st_mode) || S_ISDIR(st.st_mode) || S_ISFIFO(st.st_mode) ||
	       S_ISSOCK(st.st_mode);
}

/* The main thread's status. Once that has ended, neither this nor the list of descriptors tells anything: false. */
static bool nothing_pinned(void)
{
	char text[4096];
	int fd = (int)gmm__raw(SYS_openat, AT_FDCWD, "/proc/self/status", O_RDONLY | O_CLOEXEC);
	long n = fd >= 0 ? gmm__raw(SYS_read, fd, text, sizeof text - 1) : -1;

	if (fd >= 0)
		gmm__raw(SYS_close, fd);
	text[n > 0 ? n : 0] = 0;
	const char *line = strstr(text, "\nVmPin:");
	return line && strtoul(line + 7, NULL, 10) == 0;
}

bool gmm__direct_may_repair(void *arg)
{
	(void)arg;
	return !uncounted && in_flight == 0 && nothing_pinned() && for_each_descriptor(is_harmless);
}

/* ---- reads in flight -------------------------------------------------------------------------------------------------- */

/* An O_DIRECT file or block device. */
static bool is_direct(int fd)
{
	long flags = gmm__raw(SYS_fcntl, fd, F_GETFL);
	struct stat st;

	return flags >= 0 && (flags & O_DIRECT) && gmm__raw(SYS_fstat, fd, &st) == 0 &&
	       (S_ISREG(st.st_mode) || S_ISBLK(st.st_mode));
}

static void nap(void)
{
	struct timespec time = { .tv_nsec = NAP_NS };

	gmm__raw(SYS_nanosleep, &time, NULL);
}

bool gmm__direct_begin(int fd, const struct iovec *parts, int n)
{
	bool ours = false;

	for (int i = 0; i < n && !ours; i++)
		ours = gmm__ranges_touch(parts[i].iov_base, parts[i].iov_len);
	if (!ours || !is_direct(fd))
		return false;
	const char *why = gmm__direct_unpinned(fd);
	if (why)
		gmm__ranges_give_up(GMM__ASIDE_UNPINNED, why);
	/* Counted first, then the look: drain does the opposite, so that one of the two sees the other. */
	in_flight++;
	while (held_up) {
		in_flight--;
		nap();
		in_flight++;
	}
	return true;
}

void gmm__direct_end(void)
{
	in_flight--;
}

void gmm__direct_drain(void)
{
	held_up = true;
	for (int i = 0; in_flight > 0 && i < DRAIN_TRIES; i++)
		nap();
}

void gmm__direct_go(void)
{
	held_up = false;
}

void gmm__direct_uncounted(void)
{
	uncounted = true;
}

/* ---- transfers without a pin ------------------------------------------------------------------------------------------- */

const char *gmm__direct_unpinned(int fd)
{
	enum { CEPH = 0x00c36400, CIFS = 0xff534d42u, SMB2 = 0xfe534d42u, FUSE = 0x65735546 };
	struct statfs fs;

	if (!is_direct(fd) || gmm__raw(SYS_fstatfs, fd, &fs) != 0)
		return NULL;
	switch ((uint32_t)fs.f_type) {
	case NFS_SUPER_MAGIC:
		return "it does direct I/O (cache=none) on NFS, which the kernel does not show";
	case V9FS_MAGIC:
		return "it does direct I/O (cache=none) on 9p, which the kernel does not show";
	case CEPH:
		return "it does direct I/O (cache=none) on ceph, which the kernel does not show";
	case CIFS:
	case SMB2:
		return "it does direct I/O (cache=none) on SMB, which the kernel does not show";
	case FUSE:
		return "it does direct I/O (cache=none) on FUSE, which the kernel does not show";
	default:
		return NULL;
	}
}

static const char *found; /* with the lock of ranges.h */

static bool look_for_unpinned(const struct descriptor *descriptor)
{
	found = strcmp(descriptor->link, "/dev/vhost-scsi") == 0 ?
		"it uses vhost-scsi, whose transfers the kernel does not show" : gmm__direct_unpinned(atoi(descriptor->name));
	return !found;
}

const char *gmm__direct_any_unpinned(void)
{
	found = NULL;
	for_each_descriptor(look_for_unpinned);
	return found;
}
