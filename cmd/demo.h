/* What the files of `gmm-dedup demo` share.
 *
 * demo.c takes the arguments and puts the steps in order, demo_guest.c is what the guests write and the check
 * of their memory, demo_report.c prints.
 */
#ifndef CMD_DEMO_H
#define CMD_DEMO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <gmm/gmm.h>

#include "cmd/guests.h"

/* What the demo finds out. "Settled": when the engine found nothing more to share, before the guests write.
 */
struct demo_result {
	struct gmm_stats settled;
	struct gmm_vm_stats *vms;   /* of each VM, settled */
	struct gmm_stats end;       /* after the guests' writes were noticed */
	int64_t mappings;           /* VMAs that the process has more, settled */
	int64_t kernel_freed_bytes; /* memory in use in the whole host, before the engine started less settled
				     */
	uint64_t wall_ns;           /* start to settled */
	uint64_t written_pages;
	bool verified;
};

/* The guest stores 8 bytes in about every 64th page. Returns how many pages it wrote. */
uint64_t gmm__demo_guest_write(const struct guest *guest);

/* Checks every byte of every page after gmm__demo_guest_write; true if all are right, else *ret_page is the first wrong page. */
bool gmm__demo_guest_verify(const struct guest *guest, uint64_t *ret_page);

void gmm__demo_print_table(const struct guests *guests, const struct demo_result *result);

/* Prints one JSON object on stdout. 0, or -1 without memory. */
int gmm__demo_print_json(const struct guests *guests, const struct demo_result *result);

#endif
