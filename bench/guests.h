/* The VMs of a run: plain private anonymous memory filled from traces, the same for every engine. What each
 * page must contain is known at any time, so that every byte can be checked afterwards. */
#ifndef BENCH_GUESTS_H
#define BENCH_GUESTS_H

#include "bench/options.h"

#include <gmm/gmm.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct bench_vm {
	unsigned char *ram; /* 2 MiB aligned, no transparent huge pages unless asked for */
	uint64_t *words;    /* by page: the trace word it contains, little-endian as in a trace */
	uint64_t *tags;     /* by page: what was written over its last 8 bytes; 0: nothing. NULL: no tags */
};

struct bench_guests {
	struct bench_vm *vms;
	unsigned count;
	uint64_t vm_pages; /* pages of each VM */
};

/* Makes the VMs and fills them. Fails when the host has not enough memory. */
struct bench_guests *gmm__bench_guests_create(const struct bench_options *options);

static inline uint64_t gmm__bench_guests_pages(const struct bench_guests *guests)
{
	return guests->vm_pages * guests->count;
}

static inline unsigned char *gmm__bench_vm_page(const struct bench_vm *vm, uint64_t page)
{
	return vm->ram + page * GMM_PAGE_SIZE;
}

uint64_t gmm__bench_vm_word(const struct bench_vm *vm, uint64_t page);

/* Reads the words of a trace as one of these VMs would take them. The caller frees them. */
uint64_t *gmm__bench_guests_read_trace(const struct bench_guests *guests, const char *path);

/* Rewrites a whole page with the bytes of a word. */
void gmm__bench_vm_rewrite(struct bench_vm *vm, uint64_t page, uint64_t word);

/* From now on the VMs have tags. */
void gmm__bench_guests_add_tags(struct bench_guests *guests);

/* The last 8 bytes of a page. Who stores a tag there, not 0, stores it in tags[page] too; one thread for each
 * VM. */
static inline volatile uint64_t *gmm__bench_vm_tag(const struct bench_vm *vm, uint64_t page)
{
	return (volatile uint64_t *)(gmm__bench_vm_page(vm, page) + GMM_PAGE_SIZE) - 1;
}

/* The most pages that sharing can save with what the VMs contain now (without tags). */
uint64_t gmm__bench_guests_oracle(const struct bench_guests *guests);

/* Whether every byte of every VM is as it was written. */
bool gmm__bench_guests_verify(const struct bench_guests *guests);

#endif
