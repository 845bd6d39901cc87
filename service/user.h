/* A user of the host: what all clients of his have and may ask for together, so that many of them, or one that connects over
 * and over, get no more than is his. */
#ifndef SERVICE_USER_H
#define SERVICE_USER_H

#include <stdbool.h>
#include <stdint.h>

/* Pages that may be looked at now; negative: so many too many were. No more than a second's worth is saved up. */
struct gmm__bucket {
	int64_t pages;
	uint64_t filled_ns;
};

struct gmm__user {
	struct gmm__user *next;
	uint32_t uid;
	uint32_t clients;             /* sessions, zombies included */
	uint32_t vms;
	uint64_t ram_pages;           /* of these */
	uint32_t module_records;      /* that are kept for them (service/modules.h), and runs of these */
	uint32_t module_runs;
	struct gmm__bucket bucket;
};

void gmm__bucket_fill(struct gmm__bucket *bucket, uint32_t pages_per_second, uint64_t now_ns);
/* How long it takes until it is not overdrawn. */
uint64_t gmm__bucket_wait_ns(const struct gmm__bucket *bucket, uint32_t pages_per_second);

/* The user, counted for one client more; NULL without memory. */
struct gmm__user *gmm__user_get(struct gmm__user **users, uint32_t uid, uint32_t pages_per_second, uint64_t now_ns);
static inline void gmm__user_put(struct gmm__user *user)
{
	user->clients--;
}

/* Forgets those that have no clients and owe nothing any more. */
void gmm__users_tidy(struct gmm__user **users, uint32_t pages_per_second, uint64_t now_ns);
void gmm__users_free(struct gmm__user **users);

#endif
