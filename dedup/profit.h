/* Profit: whether sharing pays in a VM, and when to leave a VM alone where it does not. Pure functions.
 *
 * A VM's profit is the memory that sharing gave back in it, less its part of our tables, of the page tables that map the
 * pool, and the kernel's memory for the mappings that sharing added. A VM that has nothing in common with others has a
 * loss, since its pages are in the tables. Such a VM is not visited any more: it costs no CPU time and no mappings.
 *
 *   judged          every 16 passes
 *   stops           after two judgements in a row below -1 MiB; new VMs and RAM come with 32 passes of grace this way
 *   rests           64 passes, then, after a trial of 16 passes that did not end above -1/2 MiB, twice as long, up to 1024
 *   goes on         when the trial ended above -1/2 MiB, or at once when RAM is added to the instance
 *
 * Visits that somebody waits for (gmm_engine_wait_settled) include VMs that rest. What is shared there stays shared.
 */
#ifndef DEDUP_PROFIT_H
#define DEDUP_PROFIT_H

#include "gmm/instance.h"

/* At each pass: is the VM visited? full: it is, even while it rests. ram_changes: the instance's count. */
bool gmm__profit_visit(struct gmm__vm_profit *profit, bool full, uint32_t ram_changes);

/* After a visit: learns from the VM's profit now. */
void gmm__profit_learn(struct gmm__vm_profit *profit, int64_t profit_bytes);

/* What a VM's part of all is made of. */
struct gmm__profit_facts {
	uint64_t zero_pages;
	uint64_t references;      /* of the VM */
	uint64_t mappings;
	uint64_t pages;
	uint64_t pool_pages;      /* of its domain, and all references to them */
	uint64_t pool_references;
	uint64_t table_bytes;     /* of the instance, and the pages of all its VMs */
	uint64_t all_pages;
};
int64_t gmm__profit_bytes(const struct gmm__profit_facts *facts);

/* The profit of a VM of the instance as it is now. With gmm.lock. */
int64_t gmm__profit_of(const struct gmm_vm *vm, const struct gmm_vm_stats *stats);

/* Kernel memory: a VMA with its share of the maple tree; a page table entry for each pool page, since the pool is mapped
 * once more to be read. */
enum { GMM__VMA_BYTES = 300, GMM__PTE_BYTES = 8 };

#endif
