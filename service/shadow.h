/* What clients say about regions of their RAM, carried out on shadow slots.
 *
 * Each takes a whole message that has the size of its type at least, and returns 0, or a negative errno: the client broke
 * a rule, or does not read its replies, and the connection ends.
 */
#ifndef SERVICE_SHADOW_H
#define SERVICE_SHADOW_H

#include "service/session.h"

int gmm__shadow_offer(struct gmm__session *s, const void *packet, size_t size);
int gmm__shadow_promote(struct gmm__session *s, const void *packet, size_t size);
int gmm__shadow_reshare(struct gmm__session *s, const void *packet, size_t size);
int gmm__shadow_commit(struct gmm__session *s, const void *packet, size_t size);
int gmm__shadow_report(struct gmm__session *s, const void *packet, size_t size);

/* A forked child of the client may map pages: from now on none of its domains is punched, until the service sees that all
 * such children are gone. */
void gmm__shadow_set_forked(struct gmm__session *s);

/* True if references are pending. */
bool gmm__shadow_is_pending(const struct gmm__session *s);

/* The client lost its connection: what is pending stays so until the COMMIT of its pages. 0, or a negative errno: it lost
 * too many. */
int gmm__shadow_keep_pending(struct gmm__session *s);

/* Gives back what is pending on a slot that ends. */
void gmm__shadow_drop_slot(struct gmm__session *s, const struct gmm__slot *slot);

#endif
