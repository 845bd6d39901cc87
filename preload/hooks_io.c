/* The interposed calls that read files into memory, so that direct I/O is known while it is in flight. The real functions
 * are called, since they are cancellation points. */
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <sys/uio.h>
#include <unistd.h>

#include "preload/direct.h"
#include "preload/hooks.h"
#include "preload/ranges.h"

#define EXPORT __attribute__((visibility("default")))

/* The next definition of the function that is being defined, looked up once. */
#define REAL(name) \
	static __typeof__(name) *real; \
	if (!real) \
	*(void **)&real = dlsym(RTLD_NEXT, #name)

/* Runs a read that is counted if it is direct and into a declared range, also if its thread is cancelled. */
#define COUNTED(fd, parts, n, call) \
	do { \
		ssize_t rc; \
		if (!gmm__direct_begin(fd, parts, n)) \
			return call; \
		pthread_cleanup_push(end_read, NULL); \
		rc = call; \
		pthread_cleanup_pop(1); \
		return rc; \
	} while (0)

static void end_read(void *unused)
{
	(void)unused;
	gmm__direct_end();
}

EXPORT ssize_t read(int fd, void *buf, size_t size)
{
	const struct iovec part = { buf, size };
	REAL(read);
	COUNTED(fd, &part, 1, real(fd, buf, size));
}

EXPORT ssize_t pread(int fd, void *buf, size_t size, off_t offset)
{
	const struct iovec part = { buf, size };
	REAL(pread);
	COUNTED(fd, &part, 1, real(fd, buf, size, offset));
}

EXPORT ssize_t readv(int fd, const struct iovec *parts, int n)
{
	REAL(readv);
	COUNTED(fd, parts, n, real(fd, parts, n));
}

EXPORT ssize_t preadv(int fd, const struct iovec *parts, int n, off_t offset)
{
	REAL(preadv);
	COUNTED(fd, parts, n, real(fd, parts, n, offset));
}

EXPORT ssize_t preadv2(int fd, const struct iovec *parts, int n, off_t offset, int flags)
{
	REAL(preadv2);
	COUNTED(fd, parts, n, real(fd, parts, n, offset, flags));
}

/* off_t has 64 bits here. */
extern __typeof__(pread64) pread64 __attribute__((visibility("default"), alias("pread")));
extern __typeof__(preadv64) preadv64 __attribute__((visibility("default"), alias("preadv")));
extern __typeof__(preadv64v2) preadv64v2 __attribute__((visibility("default"), alias("preadv2")));

/* ---- asynchronous I/O: submitted here, ended where nobody sees it -------------------------------------------------- */

int io_setup(int events, void *ret_context);

EXPORT int io_setup(int events, void *ret_context)
{
	REAL(io_setup);
	gmm__direct_uncounted();
	return real(events, ret_context);
}

/* ---- files whose direct I/O does not pin ------------------------------------------------------------------------------ */

static int opened(int fd, int flags)
{
	const char *why = fd >= 0 && (flags & O_DIRECT) ? gmm__direct_unpinned(fd) : NULL;

	if (why)
		gmm__ranges_give_up(GMM__ASIDE_UNPINNED, why);
	return fd;
}

#define MODE_OF(flags, mode) \
	va_list args; \
	va_start(args, flags); \
	mode_t mode = (flags) & (O_CREAT | __O_TMPFILE) ? va_arg(args, mode_t) : 0; \
	va_end(args)

EXPORT int open(const char *path, int flags, ...)
{
	MODE_OF(flags, mode);
	REAL(open);
	return opened(real(path, flags, mode), flags);
}

EXPORT int openat(int folder, const char *path, int flags, ...)
{
	MODE_OF(flags, mode);
	REAL(openat);
	return opened(real(folder, path, flags, mode), flags);
}

extern __typeof__(open64) open64 __attribute__((visibility("default"), alias("open")));
extern __typeof__(openat64) openat64 __attribute__((visibility("default"), alias("openat")));
