/* What clients say of their guests' modules, for `gmm-dedup modules`.
 *
 * Nothing is kept or told until somebody asks. A request has a number, which the news tell each client that is asked;
 * what the client then says (MODULE, MODULES in wire/protocol.h) is looked up in its shadow tables at once: of the pages
 * that it names, the shared ones are kept as runs of pool pages. So it can lie about its own pages only, names no page of
 * anybody else, and pays for what it names. The answers of all clients that may be seen are put together when they are
 * fetched.
 *
 * Memory for a client: an answer, and one that is on its way, of GMM__MODULES_BYTES_MIN and a byte for each page of its
 * RAM each; all clients of a user have GMM__MODULES_USER_RECORDS and _RUNS. What does not fit is counted as left out. An
 * answer is given up after a minute, and when the connection ends.
 */
#ifndef SERVICE_MODULES_H
#define SERVICE_MODULES_H

#include <gmm/modules.h>

#include "service/session.h"

enum {
	GMM__MODULES_BYTES_MIN = 256 * 1024,
	GMM__MODULES_PAGES_MIN = 64 * 1024,   /* shared pages that a client may name; and a page for each of its RAM */
	GMM__MODULES_USER_RECORDS = 16 * 1024,
	GMM__MODULES_USER_RUNS = 128 * 1024,
};

/* Messages, as those of service/shadow.h. */
int gmm__modules_take(struct gmm__session *s, const void *packet, size_t size);
int gmm__modules_take_end(struct gmm__session *s, const void *packet, size_t size);

/* What the news are to tell the client: the number of a request that it has not answered, or 0. */
uint32_t gmm__modules_news(struct gmm__session *s);

/* A VM of the client ends: what was said of it does not count any more. */
void gmm__modules_end_vm(struct gmm__session *s, uint32_t vm);
/* Gives up an answer that is too old; all there is. */
void gmm__modules_expire(struct gmm__session *s);
void gmm__modules_forget(struct gmm__session *s);

/* Asks the client with the next news, if it has a VM. Numbers rise. */
void gmm__modules_ask(struct gmm__session *s, uint32_t request);
/* True if it was asked for that request or a later one, and is there; and if it has answered. */
bool gmm__modules_is_asked(const struct gmm__session *s, uint32_t request);
bool gmm__modules_has_answered(const struct gmm__session *s, uint32_t request);

/* The answers of several clients, put together. Zeros at first. */
struct gmm__module_uses {
	struct gmm__module_use *use;
	uint32_t n, room;
	uint32_t next;                /* where the next module's uses begin */
	struct gmm__shared_run *run;  /* of the module that is looked at */
	uint32_t room_runs;
	uint32_t charge;              /* for the work, in pages offered */
	uint64_t left_out;            /* records that are not, or not wholly, here */
};

/* Adds what the client has answered last, for request or later. False without memory. */
bool gmm__modules_gather(struct gmm__module_uses *uses, const struct gmm__session *s, uint32_t request);
/* The next module (regions: 0; NULL: it is passed over), after all were gathered. 1; 0 at the end; or
 * GMM_ERR_NO_MEMORY. */
int gmm__modules_next(struct gmm__module_uses *uses, struct gmm_module_info *ret_info);
void gmm__modules_uses_free(struct gmm__module_uses *uses);

#endif
