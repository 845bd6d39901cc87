/* Forks: the handlers of pthread_atfork take no argument, hence the one list of open instances in the library.
 *
 * A child born while pages are frozen would read zeros there. So a fork takes the freeze lock of every instance, which
 * waits for the end of a freeze, at most the bound of INV-7.
 */
#include "dedup/fork.h"

#include <errno.h>

static pthread_mutex_t list_lock = PTHREAD_MUTEX_INITIALIZER; /* rank 1 */
static struct gmm *open_instances;

static void before_fork(void)
{
	pthread_mutex_lock(&list_lock);
	for (struct gmm *gmm = open_instances; gmm; gmm = gmm->next_open)
		pthread_mutex_lock(&gmm->freeze_lock);
}

static void after_fork_parent(void)
{
	for (struct gmm *gmm = open_instances; gmm; gmm = gmm->next_open)
		pthread_mutex_unlock(&gmm->freeze_lock);
	pthread_mutex_unlock(&list_lock);
}

/* The child's copies of the instances are dead weight: gmm__fork_is_home refuses every call on them. */
static void after_fork_child(void)
{
	for (struct gmm *gmm = open_instances; gmm; gmm = gmm->next_open) {
		pthread_mutex_unlock(&gmm->freeze_lock);
		gmm->process_id = 0;
	}
	open_instances = NULL;
	pthread_mutex_unlock(&list_lock);
}

static int handlers_rc;

static void install_handlers(void)
{
	handlers_rc = pthread_atfork(before_fork, after_fork_parent, after_fork_child);
}

int gmm__fork_register(struct gmm *gmm)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, install_handlers);
	if (handlers_rc != 0)
		return -handlers_rc;
	pthread_mutex_lock(&list_lock);
	gmm->next_open = open_instances;
	open_instances = gmm;
	pthread_mutex_unlock(&list_lock);
	return 0;
}

void gmm__fork_unregister(struct gmm *gmm)
{
	pthread_mutex_lock(&list_lock);
	struct gmm **link = &open_instances;
	while (*link && *link != gmm)
		link = &(*link)->next_open;
	if (*link)
		*link = gmm->next_open;
	pthread_mutex_unlock(&list_lock);
}

bool gmm__fork_is_home(const struct gmm *gmm)
{
	/* A raw clone passes the handlers by; getpid is cheap enough to ask. */
	return gmm->process_id == gmm__sys_of(gmm)->process_id();
}
