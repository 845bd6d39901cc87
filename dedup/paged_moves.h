/* Moves of shared pages that paged VMs use: they keep the page in their own tables, so they are asked (gmm/pages.h, MOVE).
 *
 * A VM answers at its own time. What it does not accept at once stays where it is, for all who use it; what another VM accepted
 * before is there twice then; whoever is left alone with the old page follows
 * when it is asked again. A VM that declined is left alone for 1, 2, 4 ... 64 sets. One that answers later moves
 * alone, to the new page if that is there still, else to another one.
 *
 * Nothing is locked while a VM is asked but the turn to tidy up.
 */
#ifndef DEDUP_PAGED_MOVES_H
#define DEDUP_PAGED_MOVES_H

#include "dedup/rehome.h"

/* Before the set gets its pages: groups with a page of a VM that is not to be asked now stay. */
void gmm__paged_moves_choose(struct gmm__moves *moves, const struct gmm__rehome *rehome);

/* Asks for all that is left. Returns how many pages were accepted, and keeps the others. Not while holding any lock. */
uint64_t gmm__paged_moves_ask(struct gmm__moves *moves, const struct gmm__rehome *rehome);

/* All may be asked again. */
void gmm__paged_moves_anew(struct gmm *gmm);

#endif
