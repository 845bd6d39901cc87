/* What the clients of a user have together. */
#include "service/user.h"

#include <stdlib.h>

#define SECOND_NS 1000000000ull

void gmm__bucket_fill(struct gmm__bucket *bucket, uint32_t pages_per_second, uint64_t now_ns)
{
	uint64_t passed_ns = now_ns - bucket->filled_ns;

	/* Who is deep in debt for one dear message pays it in full. */
	if (passed_ns > 60 * SECOND_NS)
		passed_ns = 60 * SECOND_NS;
	bucket->pages += (int64_t)(passed_ns * pages_per_second / SECOND_NS);
	if (bucket->pages > (int64_t)pages_per_second)
		bucket->pages = pages_per_second;
	bucket->filled_ns = now_ns;
}

uint64_t gmm__bucket_wait_ns(const struct gmm__bucket *bucket, uint32_t pages_per_second)
{
	return bucket->pages < 0 ? (uint64_t)-bucket->pages * SECOND_NS / pages_per_second + 1 : 0;
}

struct gmm__user *gmm__user_get(struct gmm__user **users, uint32_t uid, uint32_t pages_per_second, uint64_t now_ns)
{
	struct gmm__user *user = *users;

	while (user && user->uid != uid)
		user = user->next;
	if (!user) {
		user = malloc(sizeof *user);
		if (!user)
			return NULL;
		*user = (struct gmm__user){ .next = *users, .uid = uid, .bucket = { pages_per_second, now_ns } };
		*users = user;
	}
	user->clients++;
	return user;
}

void gmm__users_tidy(struct gmm__user **users, uint32_t pages_per_second, uint64_t now_ns)
{
	for (struct gmm__user **link = users, *user; (user = *link) != NULL;) {
		gmm__bucket_fill(&user->bucket, pages_per_second, now_ns);
		if (user->clients == 0 && user->bucket.pages >= (int64_t)pages_per_second) {
			*link = user->next;
			free(user);
		} else {
			link = &user->next;
		}
	}
}

void gmm__users_free(struct gmm__user **users)
{
	while (*users) {
		struct gmm__user *user = *users;
		*users = user->next;
		free(user);
	}
}
