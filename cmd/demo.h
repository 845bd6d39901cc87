/* What the files of `gmm-dedup demo` share.
 *
 * demo.c takes the arguments and puts the steps in order, demo_guest.c makes guests' memory, writes to it and
 * checks it, demo_report.c prints.
 */
#ifndef CMD_DEMO_H
#define CMD_DEMO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <gmm/gmm.h>

#include "cmd/trace.h"

/* A VM whose RAM is filled from a trace. */
struct demo_guest {
	char name[32];                  /* the trace's file name without its ending */
	size_t number;                  /* from 0 */
	const struct gmm__trace *trace; /* what its memory holds, but for its own writes */
	struct gmm_vm *vm;
	unsigned char *ram; /* trace->pages pages */
	bool has_written;   /* gmm__demo_guest_write was called */
	struct gmm_vm_stats settled;
};

/* What the demo finds out. "Settled": when the engine found nothing more to share, before the guests write.
 */
struct demo_result {
	uint64_t pages;
	uint64_t oracle_pages; /* the most that can be saved */
	struct gmm_stats settled;
	struct gmm_stats end;       /* after the guests' writes were noticed */
	int64_t mappings;           /* VMAs that the process has more, settled */
	int64_t kernel_freed_bytes; /* memory in use in the whole host, before the engine started less settled
				     */
	uint64_t wall_ns;           /* start to settled */
	uint64_t written_pages;
	bool verified;
};

/* Creates guest->vm with RAM as large as its trace and fills every page of it. A library status. When it
 * fails guest->vm may exist already. */
int gmm__demo_guest_create(struct demo_guest *guest, struct gmm *gmm);

/* The guest stores 8 bytes in about every 64th page. Returns how many pages it wrote. */
uint64_t gmm__demo_guest_write(struct demo_guest *guest);

/* Checks every byte of every page; true if all are right, else *ret_page is the first wrong page. */
bool gmm__demo_guest_verify(const struct demo_guest *guest, uint64_t *ret_page);

/* A line on stderr that the next one replaces; only if stderr is a terminal. */
void gmm__demo_progress(const char *format, ...) __attribute__((format(printf, 1, 2)));
void gmm__demo_progress_end(void);

/* Pages saved: zero pages became holes, sharing pages use one of the pool. */
int64_t gmm__demo_saved_pages(const struct gmm_stats *stats);

/* Pages in MiB. */
double gmm__demo_mib(int64_t pages);

void gmm__demo_print_table(const struct demo_guest *guests, size_t count, const struct demo_result *result);

/* Prints one JSON object on stdout. 0, or -1 without memory. */
int gmm__demo_print_json(const struct demo_result *result);

#endif
