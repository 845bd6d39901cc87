/* Requests: asking a paged VM to use another page, and what its answers lead to.
 *
 * A VM that has accepted does not write to the page any more. So whoever brings the answer, the engine's thread or one of
 * the VMM's, compares the bytes then and there (INV-1), switches the accounts and brings the outcome back: a guest that
 * wants to write meanwhile waits for one compare (INV-7).
 */
#ifndef DEDUP_PAGED_REQUESTS_H
#define DEDUP_PAGED_REQUESTS_H

#include "dedup/paged_lookup.h"

/* Asks the VM about a private page at pfn, and carries out what it answers at once. equal.found: false for a page of zeros.
 * True when the page was given up. */
bool gmm__paged_ask(struct gmm_vm *vm, gmm__page_id page, const struct gmm__equal *equal);

/* Asks the VM to use shared page `to` instead of `page`, which has the same bytes. True when it has accepted at once, or uses
 * `page` no more. */
bool gmm__paged_propose(struct gmm_vm *vm, gmm__page_id page, gmm__page_id to);

/* Asks it to tell its news. */
void gmm__paged_flush(struct gmm_vm *vm);

#endif
