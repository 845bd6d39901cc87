/* Small things every file of the harness uses. */
#ifndef BENCH_UTIL_H
#define BENCH_UTIL_H

#include <stddef.h>
#include <stdint.h>

/* Prints "gmm-bench: ..." to stderr and ends the program with status 1. What was changed on the host is put
 * back. */
void gmm__bench_fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

/* The same with status 2: an argument, or a file it names, is no good. */
void gmm__bench_refuse(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

/* calloc that does not fail. */
void *gmm__bench_alloc(size_t count, size_t size);

/* The first number in a file of /proc or /sys, or fallback when there is none. */
uint64_t gmm__bench_read_number(const char *path, uint64_t fallback);

/* The number behind a word in such a file ("cow_ksm 12"), or 0. */
uint64_t gmm__bench_read_field(const char *path, const char *field);

/* One step of a small random generator; the state must not be 0. */
static inline uint64_t gmm__bench_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* A well mixed function of a number: the same for every engine, so that all of them get the same work. */
static inline uint64_t gmm__bench_mix(uint64_t x)
{
	x = (x ^ (x >> 33)) * 0xff51afd7ed558ccdu;
	x = (x ^ (x >> 33)) * 0xc4ceb9fe1a85ec53u;
	return x ^ (x >> 33);
}

#endif
