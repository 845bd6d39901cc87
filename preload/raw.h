/* System calls without libc: what an interposed function calls to do its work. They cannot recurse into an interposed
 * function, need no symbol to be looked up, and may be used in signal handlers and before any constructor ran. */
#ifndef PRELOAD_RAW_H
#define PRELOAD_RAW_H

#include <errno.h>
#include <stdint.h>
#include <sys/syscall.h>

#ifndef __x86_64__
#error "the preload library knows the system calls of x86-64 only"
#endif

static inline long gmm__raw6(long number, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long rc;

	__asm__ volatile("syscall"
			 : "=a"(rc)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return rc;
}

/* As libc reports it: -1 and errno. */
static inline long gmm__raw_result(long rc)
{
	if (rc < 0 && rc >= -4095) {
		errno = (int)-rc;
		return -1;
	}
	return rc;
}


/* gmm__raw(number, up to six arguments): a result or a negative errno. */
#define gmm__raw(...) GMM__RAW_PICK(__VA_ARGS__, GMM__RAW6, GMM__RAW5, GMM__RAW4, GMM__RAW3, GMM__RAW2, GMM__RAW1, \
				    GMM__RAW0)(__VA_ARGS__)
#define GMM__RAW_PICK(n, a, b, c, d, e, f, pick, ...) pick
#define GMM__RAW0(n) gmm__raw6(n, 0, 0, 0, 0, 0, 0)
#define GMM__RAW1(n, a) gmm__raw6(n, (long)(a), 0, 0, 0, 0, 0)
#define GMM__RAW2(n, a, b) gmm__raw6(n, (long)(a), (long)(b), 0, 0, 0, 0)
#define GMM__RAW3(n, a, b, c) gmm__raw6(n, (long)(a), (long)(b), (long)(c), 0, 0, 0)
#define GMM__RAW4(n, a, b, c, d) gmm__raw6(n, (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)
#define GMM__RAW5(n, a, b, c, d, e) gmm__raw6(n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), 0)
#define GMM__RAW6(n, a, b, c, d, e, f) \
	gmm__raw6(n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))

#endif
