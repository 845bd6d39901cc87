/* The interposed functions under names of their own. The rest of the preload library calls them by these: their public
 * names would be sent to the kernel like the library's (see wrap.c). */
#ifndef PRELOAD_HOOKS_H
#define PRELOAD_HOOKS_H

#include <stddef.h>
#include <sys/types.h>

void *gmm__hook_mmap(void *addr, size_t size, int prot, int flags, int fd, off_t offset);
int gmm__hook_munmap(void *addr, size_t size);
void *gmm__hook_mremap(void *old, size_t old_size, size_t new_size, int flags, ...);
int gmm__hook_madvise(void *addr, size_t size, int advice);
int gmm__hook_mprotect(void *addr, size_t size, int prot);
int gmm__hook_mlock(const void *addr, size_t size);
int gmm__hook_mlock2(const void *addr, size_t size, unsigned flags);
int gmm__hook_munlock(const void *addr, size_t size);
int gmm__hook_mlockall(int flags);
int gmm__hook_munlockall(void);
long gmm__hook_mbind(void *addr, unsigned long size, int mode, const unsigned long *nodes, unsigned long max_node,
		     unsigned flags);
int gmm__hook_ioctl(int fd, unsigned long request, ...);
long gmm__hook_syscall(long number, ...);

/* Gives a function its public name, which a header of libc has declared. */
#define EXPORT_HOOK(name) \
	extern __typeof__(name) name __attribute__((visibility("default"), alias("gmm__hook_" #name)))

#endif
