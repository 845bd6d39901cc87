/* The engine's look at paged VMs: chunk by chunk, in three steps.
 *
 *   merge thread  names the pages of a chunk that may be shared           with the VM's lock
 *   scan thread   digests them                                            holds nothing
 *   merge thread  compares with the digests of the last pass; asks about those that are quiet and have an equal
 *
 * Nothing tells which pages a paged VM wrote to, so they are sampled again and again: those of a chunk where nothing changed for
 * long once in 32 passes. It is looked at in the next pass when pages of it come into use or a page of it has an equal one
 * somewhere, and in each pass in which somebody waits for the engine to settle. What it reads may go back to the host
 * meanwhile: places stay mapped (gmm/arena.h), and memory that the embedder brought stays until the VM, which is visited, ends.
 */
#ifndef DEDUP_PAGED_SCAN_H
#define DEDUP_PAGED_SCAN_H

#include "gmm/paged.h"

struct gmm__worker;

/* Pages of one chunk on their way through the engine. */
struct gmm__paged_batch {
	struct gmm_vm *vm;
	bool begun;
	uint32_t cursor;           /* place in the VM's tally of chunks where to go on */
	gmm__chunk_id chunk;
	const uint8_t *bytes;      /* of the chunk */
	uint32_t n;                /* 0: all chunks were seen */
	uint16_t index[GMM__CHUNK_PAGES];
	uint32_t fingerprint[GMM__CHUNK_PAGES]; /* of samples */
};

/* Work of the merge thread on worker->paged: finishes the chunk that was digested and names the pages of the next. */
void gmm__paged_process(struct gmm__worker *worker);
/* Work of the scan thread in between. */
void gmm__paged_digest(struct gmm__worker *worker);

#endif
