/* What the library inside calls instead of the interposed functions: the linker (--wrap) sends its calls here, so that
 * its own changes to mappings are not taken for the program's. libc's and the other libraries' calls among themselves do
 * pass the interposed functions; these find no range of theirs and hand them on.
 */
#include <stdarg.h>
#include <stddef.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "preload/raw.h"

void *__wrap_mmap(void *addr, size_t size, int prot, int flags, int fd, off_t offset);
int __wrap_munmap(void *addr, size_t size);
void *__wrap_mremap(void *old, size_t old_size, size_t new_size, int flags, ...);
int __wrap_madvise(void *addr, size_t size, int advice);
int __wrap_mprotect(void *addr, size_t size, int prot);
long __wrap_mbind(void *addr, unsigned long size, int mode, const unsigned long *nodes, unsigned long max_node,
		  unsigned flags);
int __wrap_ioctl(int fd, unsigned long request, ...);
long __wrap_syscall(long number, ...);

void *__wrap_mmap(void *addr, size_t size, int prot, int flags, int fd, off_t offset)
{
	return (void *)gmm__raw_result(gmm__raw(SYS_mmap, addr, size, prot, flags, fd, offset));
}

int __wrap_munmap(void *addr, size_t size)
{
	return (int)gmm__raw_result(gmm__raw(SYS_munmap, addr, size));
}

void *__wrap_mremap(void *old, size_t old_size, size_t new_size, int flags, ...)
{
	va_list args;

	va_start(args, flags);
	void *new_addr = va_arg(args, void *);
	va_end(args);
	return (void *)gmm__raw_result(gmm__raw(SYS_mremap, old, old_size, new_size, flags, new_addr));
}

int __wrap_madvise(void *addr, size_t size, int advice)
{
	return (int)gmm__raw_result(gmm__raw(SYS_madvise, addr, size, advice));
}

int __wrap_mprotect(void *addr, size_t size, int prot)
{
	return (int)gmm__raw_result(gmm__raw(SYS_mprotect, addr, size, prot));
}

long __wrap_mbind(void *addr, unsigned long size, int mode, const unsigned long *nodes, unsigned long max_node,
		  unsigned flags)
{
	return gmm__raw_result(gmm__raw(SYS_mbind, addr, size, mode, nodes, max_node, flags));
}

int __wrap_ioctl(int fd, unsigned long request, ...)
{
	va_list args;

	va_start(args, request);
	void *arg = va_arg(args, void *);
	va_end(args);
	return (int)gmm__raw_result(gmm__raw(SYS_ioctl, fd, request, arg));
}

long __wrap_syscall(long number, ...)
{
	va_list args;
	long a[6];

	va_start(args, number);
	for (int i = 0; i < 6; i++)
		a[i] = va_arg(args, long);
	va_end(args);
	return gmm__raw_result(gmm__raw6(number, a[0], a[1], a[2], a[3], a[4], a[5]));
}
