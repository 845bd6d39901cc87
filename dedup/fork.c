/* Forks: the handlers of pthread_atfork take no argument, hence the one list of open instances in the library.
 *
 * A child born while pages are frozen would read zeros there. So a fork takes the freeze lock of every instance, which
 * waits for the end of a freeze, at most the bound of INV-7.
 *
 * The child inherits mappings of the pool that no table counts: pages it sees must neither be punched nor given out again
 * (INV-2). A witness tells when it and its own children are gone: a page mapped from a file whose lock lives as long as
 * that mapping. Until then the pools defer what loses its last reference.
 */
#include "dedup/fork.h"

#include <errno.h>
#include <urcu/urcu-bp.h>

#include "dedup/remote.h"

struct gmm__witness {
	struct gmm__witness *next;
	int fd;
	void *page; /* our own mapping, until the fork is done */
};

static struct gmm__lock list_lock = GMM__LOCK_INITIALIZER(GMM__RANK_OPEN_INSTANCES);
static struct gmm *open_instances;

/* With the locks of all stagings: no page is being replaced. Without a witness the pools defer until the instance ends. */
static void expect_child(struct gmm *gmm)
{
	struct gmm__witness *witness = gmm__mem_alloc(&gmm->mem, sizeof *witness);

	if (witness) {
		witness->page = NULL;
		witness->fd = gmm__sys_of(gmm)->witness_open(&witness->page);
		witness->next = gmm->witnesses;
		gmm->witnesses = witness;
	} else {
		gmm->unwitnessed = true;
	}
	gmm__lock_take(&gmm->lock);
	for (struct gmm__domain *domain = gmm->domains; domain; domain = domain->next)
		gmm__pool_defer(&domain->pool);
	gmm__lock_give(&gmm->lock);
}

static void before_fork(void)
{
	gmm__lock_take(&list_lock);
	for (struct gmm *gmm = open_instances; gmm; gmm = gmm->next_open) {
		for (int i = 0; i < GMM__STAGINGS; i++)
			gmm__lock_take(&gmm->staging[i].lock);
		expect_child(gmm);
	}
	urcu_bp_before_fork();
}

static void give_stagings(struct gmm *gmm)
{
	for (int i = 0; i < GMM__STAGINGS; i++)
		gmm__lock_give(&gmm->staging[i].lock);
}

static void after_fork_parent(void)
{
	urcu_bp_after_fork_parent();
	for (struct gmm *gmm = open_instances; gmm; gmm = gmm->next_open) {
		struct gmm__witness *witness = gmm->witnesses;
		if (witness && witness->page) {
			gmm__sys_of(gmm)->unmap(witness->page, GMM__PAGE_BYTES);
			witness->page = NULL;
		}
		give_stagings(gmm);
	}
	gmm__lock_give(&list_lock);
}

/* The child's copies of the instances are dead weight: gmm__fork_is_home refuses every call on them. */
static void after_fork_child(void)
{
	urcu_bp_after_fork_child();
	for (struct gmm *gmm = open_instances; gmm; gmm = gmm->next_open) {
		give_stagings(gmm);
		gmm->process_id = 0;
		gmm__remote_forked(gmm);
	}
	open_instances = NULL;
	gmm__lock_give(&list_lock);
}

/* Frees witnesses of children that are gone, or all. Returns true when none is left. */
static bool drop_witnesses(struct gmm *gmm, bool all)
{
	const struct gmm__sys *sys = gmm__sys_of(gmm);
	struct gmm__witness **link = &gmm->witnesses;

	while (*link) {
		struct gmm__witness *witness = *link;
		if (!all && (witness->fd < 0 || sys->witness_alive(witness->fd))) {
			link = &witness->next;
			continue;
		}
		*link = witness->next;
		if (witness->fd >= 0)
			sys->file_close(witness->fd);
		gmm__mem_free(&gmm->mem, witness, sizeof *witness);
	}
	return !gmm->witnesses && !gmm->unwitnessed;
}

void gmm__fork_reap(struct gmm__domain *domain, struct gmm *gmm)
{
	if (!domain->pool.defer) /* a stale look costs one pass */
		return;
	/* Under the lock no fork can come between the answer and the release. */
	gmm__lock_take(&gmm->staging[0].lock);
	if (drop_witnesses(gmm, false))
		gmm__pool_release(&domain->pool);
	gmm__lock_give(&gmm->staging[0].lock);
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
	gmm__lock_take(&list_lock);
	gmm->next_open = open_instances;
	open_instances = gmm;
	gmm__lock_give(&list_lock);
	return 0;
}

void gmm__fork_unregister(struct gmm *gmm)
{
	gmm__lock_take(&list_lock);
	struct gmm **link = &open_instances;
	while (*link && *link != gmm)
		link = &(*link)->next_open;
	if (*link)
		*link = gmm->next_open;
	gmm__lock_give(&list_lock);
	drop_witnesses(gmm, true);
}

bool gmm__fork_is_home(const struct gmm *gmm)
{
	/* A raw clone passes the handlers by; getpid is cheap enough to ask. */
	return gmm->process_id == gmm__sys_of(gmm)->process_id();
}
