/* Chunk id → owner, for the whole instance.
 *
 * A two-level table. Readers find the owner of a chunk without locks inside an RCU read-side section (or
 * while they hold what keeps the owner alive); writers hold the table's mutex. Owners are freed only after a
 * grace period (INV-5).
 */
#ifndef GMM_CHUNK_TABLE_H
#define GMM_CHUNK_TABLE_H

#include "gmm/ids.h"
#include "gmm/lock.h"
#include "gmm/mem.h"

struct gmm__slot;
struct gmm__chunk;
struct gmm__private_chunk;

enum { GMM__LEAF_CHUNKS = 4096, GMM__LEAVES = (GMM__CHUNK_ID_MAX + 1) / GMM__LEAF_CHUNKS };

struct gmm__chunk_table {
	struct gmm__mem *mem;
	struct gmm__lock lock;             /* guards what follows, for writers */
	_Atomic(uintptr_t) *leaf[GMM__LEAVES]; /* owner pointers, with their kind in the lowest bits. Leaves live until the end */
	gmm__chunk_id lowest;              /* no id below it is unused */
};

void gmm__chunk_table_init(struct gmm__chunk_table *table, struct gmm__mem *mem);
void gmm__chunk_table_destroy(struct gmm__chunk_table *table);

/* Takes `count` consecutive unused ids for an owner and writes the first to *ret_first before anybody can find the owner
 * by them. False when memory or ids ran out. */
bool gmm__chunk_table_take_slot(struct gmm__chunk_table *table, uint32_t count, struct gmm__slot *owner,
				gmm__chunk_id *ret_first);
bool gmm__chunk_table_take_chunk(struct gmm__chunk_table *table, struct gmm__chunk *owner, gmm__chunk_id *ret_id);
/* Takes an id that somebody else chose. False when it is in use or out of range, or memory ran out. */
bool gmm__chunk_table_put_chunk(struct gmm__chunk_table *table, gmm__chunk_id id, struct gmm__chunk *owner);
bool gmm__chunk_table_take_private(struct gmm__chunk_table *table, struct gmm__private_chunk *owner,
				   gmm__chunk_id *ret_id);
void gmm__chunk_table_give(struct gmm__chunk_table *table, gmm__chunk_id first, uint32_t count);

/* NULL when the id is unused or of another kind. */
struct gmm__slot *gmm__chunk_table_slot(const struct gmm__chunk_table *table, gmm__chunk_id id);
struct gmm__chunk *gmm__chunk_table_chunk(const struct gmm__chunk_table *table, gmm__chunk_id id);
struct gmm__private_chunk *gmm__chunk_table_private(const struct gmm__chunk_table *table, gmm__chunk_id id);

#endif
