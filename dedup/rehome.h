/* Re-home: guests that use a shared page are moved to another pool page with the same bytes.
 *
 * The primitive moves one piece of a run. Its pages are held (writers wait, readers do not), those that turn out to be
 * broken stay, and the others get a mapping of their new pool pages. It is safe where pages are pinned: a pin for
 * writing has broken its page before, and a pin for reading keeps the old page with the old bytes, which are the same.
 *
 * A set of moves names rows of pool pages that are to get a new place. It is filled (gmm__moves_add), weighed if it is
 * not known to pay (gmm__moves_weigh), gets new pool pages with copies of the bytes (gmm__moves_copy), is proposed to paged
 * VMs (dedup/paged_moves.h), carried out for all mapped guests of the domain (gmm__moves_carry_out), and ends
 * (gmm__moves_end): pages that nobody uses then go.
 */
#ifndef DEDUP_REHOME_H
#define DEDUP_REHOME_H

#include "dedup/merge.h"

struct gmm__rehome {
	struct gmm *gmm;
	const struct gmm__backend *backend;
	struct gmm__domain *domain;
	struct gmm__catalog *catalog; /* the domain's */
	struct gmm__waits *waits;
};

/* Moves pages [first, first + count) of the slot, at most GMM__FREEZE_PAGES, all covered, to the pool pages from `to` on,
 * of which the caller has a reference each; it passes to the guest page or is dropped. Pages that are broken, have other
 * bytes or are there already stay where they are. With the claim. Returns how many moved. */
uint32_t gmm__rehome_piece(const struct gmm__rehome *rehome, struct gmm__slot *slot, uint32_t first, uint32_t count,
			   gmm__page_id to);

enum { GMM__MOVES = 1024 };

/* Rows of one group get consecutive places, in the order they were added. */
struct gmm__move_group {
	uint32_t pages;
	int32_t gain;        /* mappings saved, all guests */
	bool stays;          /* somebody will not leave one of its pages */
};

struct gmm__moves {
	uint32_t pages;
	uint32_t rows;
	uint32_t groups;
	bool paged;          /* paged VMs are to be asked */
	struct gmm__move_row row[GMM__MOVES];
	struct gmm__move_group group[GMM__MOVES];
	struct {
		gmm__page_id from;
		uint32_t row;
		bool stays;  /* a paged VM declined: others stay with it */
	} table[4 * GMM__MOVES]; /* open addressing */
};

/* Adds a row to the last group, or begins a group with it. False, and nothing was added: no room, or some of the pages
 * are in the set already. */
bool gmm__moves_add(struct gmm__moves *moves, gmm__page_id from, uint32_t count, bool new_group);

/* Finds out what each group saves, from the page tables of all guests as they are now. */
void gmm__moves_weigh(struct gmm__moves *moves, const struct gmm__rehome *rehome);

/* Nobody is to be moved from this page any more. */
void gmm__moves_keep(struct gmm__moves *moves, gmm__page_id page);
/* Where a page is to go; NIL when it stays. */
gmm__page_id gmm__moves_goal(const struct gmm__moves *moves, gmm__page_id page);

/* Gives each group with at least `gain` its new pages. Groups for which there is no room are not moved. grow: the pool
 * may grow for them. Returns how many pages are to be moved. */
uint32_t gmm__moves_copy(struct gmm__moves *moves, const struct gmm__rehome *rehome, int32_t gain, bool grow);

/* Returns how many guest pages moved. What cannot be moved at a second attempt keeps its old page: then both have users,
 * which costs memory and nothing else. Not while holding any lock or claim. */
uint64_t gmm__moves_carry_out(const struct gmm__moves *moves, const struct gmm__rehome *rehome);

/* From now on guests find the new pages; what nobody uses goes. */
void gmm__moves_end(struct gmm__moves *moves, const struct gmm__rehome *rehome);

#endif
