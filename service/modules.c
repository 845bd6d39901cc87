/* What clients say of their guests' modules; see modules.h. */
#include "service/modules.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <urcu/urcu-bp.h>

#include "wire/wire.h"

/* What a page named costs, in pages offered; and what a module listed, a record of it and a shared page cost, besides one
 * for each run. */
enum { PAGE_CHARGE_PART = 4, MODULE_CHARGE = 16, RECORD_CHARGE = 2, SHARED_CHARGE_PART = 8 };
/* Entries that a table has room for at first; how long answers are kept. */
enum { ROOM = 64, NO_VM = UINT32_MAX };
#define KEEP_NS (60 * 1000000000ull)

_Static_assert((int)GMM__WIRE_MODULE_NAME == (int)GMM_MODULE_NAME_MAX + 1 &&
	       (int)GMM__WIRE_MODULE_VERSION == (int)GMM_MODULE_VERSION_MAX + 1, "names are those of the interface");

/* Pages of the module from `place` on that share consecutive pool pages. */
struct gmm__shared_run {
	uint32_t place;
	uint32_t pages;
	gmm__page_id page;
};

/* A record, as its client registered it. */
struct told {
	struct gmm__wire_module said; /* vm NO_VM: that has ended */
	uint32_t first_run, n_runs;
};

struct gmm__module_answer {
	struct gmm__user *user;       /* of the client */
	uint32_t request;
	uint32_t left_out;
	uint64_t done_ns;
	size_t bytes_left;            /* that its tables may grow */
	uint64_t pages_left;          /* shared pages that may be named */
	struct gmm__wire_module last; /* the last record; and of it: */
	uint32_t next;                /* page that its next message begins at */
	bool listed;                  /* it is in `told` */
	bool cut;                     /* something of it is left out */
	struct told *told;
	uint32_t n, room;
	struct gmm__shared_run *run;
	uint32_t n_runs, room_runs;
};

struct gmm__module_use {
	const struct told *told;
	const struct gmm__shared_run *run;
	struct gmm__domain *domain;
};

/* ---- answers ------------------------------------------------------------------------------------------------------ */

static void free_answer(struct gmm__module_answer *answer)
{
	if (!answer)
		return;
	answer->user->module_records -= answer->n;
	answer->user->module_runs -= answer->n_runs;
	free(answer->told);
	free(answer->run);
	free(answer);
}

static struct gmm__module_answer *new_answer(const struct gmm__session *s, uint32_t request)
{
	struct gmm__module_answer *answer = calloc(1, sizeof *answer);
	uint64_t pages = 0;

	for (uint32_t i = 0; i < GMM__WIRE_VMS; i++)
		pages += s->vm[i] ? s->vm[i]->stats.pages : 0;
	if (!answer)
		return NULL;
	answer->user = s->user;
	answer->request = request;
	answer->bytes_left = GMM__MODULES_BYTES_MIN + pages;
	answer->pages_left = GMM__MODULES_PAGES_MIN + pages;
	return answer;
}

/* Makes room for one more; within bytes_left. The table, which may have moved; NULL: there is no room. */
static void *grow(struct gmm__module_answer *answer, void *table, uint32_t n, uint32_t *room, size_t each)
{
	uint32_t more = *room ? *room : ROOM;

	if (n < *room)
		return table;
	void *grown = more * each <= answer->bytes_left ? realloc(table, (*room + more) * each) : NULL;
	if (!grown)
		return NULL;
	answer->bytes_left -= more * each;
	*room += more;
	return grown;
}

static void leave_out(struct gmm__module_answer *answer)
{
	answer->left_out += !answer->cut;
	answer->cut = true;
}

static void add_page(struct gmm__module_answer *answer, uint32_t place, gmm__page_id page)
{
	struct told *told = &answer->told[answer->n - 1];
	struct gmm__shared_run *last = told->n_runs ? &answer->run[answer->n_runs - 1] : NULL;

	if (answer->pages_left == 0) {
		leave_out(answer);
		return;
	}
	if (last && last->place + last->pages == place && last->page + last->pages == page) {
		last->pages++;
		answer->pages_left--;
		return;
	}
	struct gmm__shared_run *run = NULL;
	if (answer->user->module_runs < GMM__MODULES_USER_RUNS)
		run = grow(answer, answer->run, answer->n_runs, &answer->room_runs, sizeof *run);
	if (!run) {
		leave_out(answer);
		return;
	}
	answer->run = run;
	answer->run[answer->n_runs++] = (struct gmm__shared_run){ place, 1, page };
	answer->user->module_runs++;
	told->n_runs++;
	answer->pages_left--;
}

/* Guest pages [gfn, gfn + pages) are those of the module from `place` on. */
static void add_run(struct gmm__module_answer *answer, const struct gmm_vm *vm, uint32_t gfn, uint32_t pages,
		    uint32_t place)
{
	struct gmm__part part;

	urcu_bp_read_lock();
	for (uint32_t done = 0; done < pages; done += part.pages) {
		if (!gmm__vm_part(vm, (uint64_t)gfn + done, pages - done, &part)) { /* no RAM there */
			part.pages = 1;
			continue;
		}
		for (uint32_t i = 0; i < part.pages; i++)
			if (gmm__slot_state(part.slot, part.first + i) == GMM_PAGE_SHARED)
				add_page(answer, place + done + i, part.slot->value[part.first + i]);
	}
	urcu_bp_read_unlock();
}

/* ---- messages ------------------------------------------------------------------------------------------------------- */

static int compare_u64(uint64_t a, uint64_t b)
{
	return (a > b) - (a < b);
}

/* Orders modules; 0: it is the same one. */
static int compare_modules(const struct gmm__wire_module *a, const struct gmm__wire_module *b)
{
	int c = strcmp(a->name, b->name);

	c = c ? c : strcmp(a->version, b->version);
	c = c ? c : compare_u64(a->size, b->size);
	c = c ? c : compare_u64(a->pages, b->pages);
	c = c ? c : compare_u64(a->os, b->os);
	return c ? c : compare_u64(a->layout, b->layout);
}

static bool is_module(const struct gmm__wire_module *m)
{
	return m->os < GMM_OS_FAMILIES && m->size > 0 && m->size <= GMM__WIRE_MODULE_BYTES && m->pages > 0 &&
	       m->pages <= GMM__WIRE_MODULE_BYTES / GMM__PAGE_BYTES && m->first < m->pages && m->name[0] &&
	       gmm__wire_text_valid(m->name, sizeof m->name) && gmm__wire_text_valid(m->version, sizeof m->version);
}

/* How many pages the runs have, in *ret_named those in memory. False: not as the protocol wants it. */
static bool count_runs(const struct gmm__wire_module *m, const struct gmm__wire_module_run *run, uint32_t *ret_pages,
		       uint32_t *ret_named)
{
	uint64_t pages = 0, named = 0;

	for (uint32_t i = 0; i < m->n; i++) {
		pages += run[i].pages;
		if (run[i].gfn != GMM__WIRE_NO_GFN)
			named += run[i].pages;
		if (run[i].pages == 0 || (run[i].gfn != GMM__WIRE_NO_GFN && run[i].pages > GMM__WIRE_NO_GFN - run[i].gfn))
			return false;
	}
	*ret_pages = (uint32_t)pages;
	*ret_named = (uint32_t)named;
	return pages <= m->pages - m->first && named <= GMM__WIRE_MODULE_PAGES;
}

/* Makes the record that the message is about the last one of the answer that is on its way. */
static int begin_record(struct gmm__session *s, const struct gmm__wire_module *m)
{
	struct gmm__module_answer *answer = s->modules_coming;

	if (m->first > 0)
		return answer && m->first == answer->next && m->vm == answer->last.vm &&
		       compare_modules(m, &answer->last) == 0 ? 0 : -EPROTO;
	if (!answer)
		answer = s->modules_coming = new_answer(s, m->modules);
	if (!answer)
		return -ENOMEM;
	struct told *told = s->user->module_records < GMM__MODULES_USER_RECORDS ?
		grow(answer, answer->told, answer->n, &answer->room, sizeof *told) : NULL;
	answer->last = *m;
	answer->listed = told;
	answer->cut = false;
	if (told) {
		s->user->module_records++;
		answer->told = told;
		answer->told[answer->n++] = (struct told){ .said = *m, .first_run = answer->n_runs };
	} else {
		leave_out(answer);
	}
	return 0;
}

int gmm__modules_take(struct gmm__session *s, const void *packet, size_t size)
{
	const struct gmm__wire_module *m = packet;
	const struct gmm__wire_module_run *run = (const void *)(m + 1);
	uint32_t pages, named;

	if (!s->modules_asked || m->modules != s->modules_asked || m->vm >= GMM__WIRE_VMS || !s->vm[m->vm] ||
	    m->n > GMM__WIRE_MODULE_RUNS || !gmm__wire_fits(size, sizeof *m, m->n, sizeof *run) || !is_module(m) ||
	    !count_runs(m, run, &pages, &named))
		return -EPROTO;
	gmm__session_charge(s, named / PAGE_CHARGE_PART);
	int rc = begin_record(s, m);
	if (rc != 0)
		return rc;
	for (uint32_t i = 0, place = m->first; s->modules_coming->listed && i < m->n; place += run[i++].pages)
		if (run[i].gfn != GMM__WIRE_NO_GFN)
			add_run(s->modules_coming, s->vm[m->vm], run[i].gfn, run[i].pages, place);
	s->modules_coming->next = m->first + pages;
	return 0;
}

int gmm__modules_take_end(struct gmm__session *s, const void *packet, size_t size)
{
	const struct gmm__wire_modules *end = packet;
	struct gmm__module_answer *answer = s->modules_coming;

	(void)size;
	if (!s->modules_asked || end->modules != s->modules_asked)
		return -EPROTO;
	if (!answer)
		answer = new_answer(s, end->modules);
	if (!answer)
		return -ENOMEM;
	uint32_t room = UINT32_MAX - answer->left_out;
	answer->left_out += end->left_out < room ? end->left_out : room;
	answer->done_ns = s->service->now_ns;
	free_answer(s->modules);
	s->modules = answer;
	s->modules_coming = NULL;
	s->modules_asked = 0;
	return 0;
}

/* ---- asking ----------------------------------------------------------------------------------------------------------- */

uint32_t gmm__modules_news(struct gmm__session *s)
{
	/* What it said since the last news without an end is nothing. */
	free_answer(s->modules_coming);
	s->modules_coming = NULL;
	s->modules_asked = gmm__modules_has_answered(s, s->modules_wanted) ? 0 : s->modules_wanted;
	return s->modules_asked;
}

void gmm__modules_end_vm(struct gmm__session *s, uint32_t vm)
{
	struct gmm__module_answer *answers[2] = { s->modules, s->modules_coming };

	for (int k = 0; k < 2; k++)
		for (uint32_t i = 0; answers[k] && i < answers[k]->n; i++)
			if (answers[k]->told[i].said.vm == vm)
				answers[k]->told[i].said.vm = NO_VM;
}

void gmm__modules_expire(struct gmm__session *s)
{
	if (!s->modules || s->service->now_ns - s->modules->done_ns <= KEEP_NS)
		return;
	s->modules_wanted = s->modules->request == s->modules_wanted ? 0 : s->modules_wanted;
	free_answer(s->modules);
	s->modules = NULL;
}

void gmm__modules_forget(struct gmm__session *s)
{
	free_answer(s->modules);
	free_answer(s->modules_coming);
	s->modules = s->modules_coming = NULL;
	s->modules_asked = s->modules_wanted = 0;
}

void gmm__modules_ask(struct gmm__session *s, uint32_t request)
{
	bool any = false;

	for (uint32_t i = 0; i < GMM__WIRE_VMS && !any; i++)
		any = s->vm[i];
	if (any && s->socket >= 0)
		s->modules_wanted = request;
}

bool gmm__modules_is_asked(const struct gmm__session *s, uint32_t request)
{
	return s->modules_wanted >= request || gmm__modules_has_answered(s, request);
}

bool gmm__modules_has_answered(const struct gmm__session *s, uint32_t request)
{
	return request == 0 || (s->modules && s->modules->request >= request);
}

/* ---- putting together --------------------------------------------------------------------------------------------------- */

bool gmm__modules_gather(struct gmm__module_uses *uses, const struct gmm__session *s, uint32_t request)
{
	const struct gmm__module_answer *answer = gmm__modules_has_answered(s, request) ? s->modules : NULL;

	if (!answer)
		return true;
	uses->left_out += answer->left_out;
	if (answer->n > uses->room - uses->n) {
		uint32_t room = (uses->n + answer->n) * 2;
		struct gmm__module_use *use = realloc(uses->use, room * sizeof *use);
		if (!use)
			return false;
		uses->use = use;
		uses->room = room;
	}
	for (uint32_t i = 0; i < answer->n; i++) {
		const struct told *told = &answer->told[i];
		if (told->said.vm != NO_VM)
			uses->use[uses->n++] = (struct gmm__module_use){
				told, told->n_runs ? answer->run + told->first_run : NULL, s->vm[told->said.vm]->domain };
	}
	return true;
}

static int compare_uses(const void *a, const void *b)
{
	const struct gmm__module_use *x = a, *y = b;
	int c = strcmp(x->domain->name, y->domain->name);

	return c ? c : compare_modules(&x->told->said, &y->told->said);
}

static int compare_places(const void *a, const void *b)
{
	return compare_u64(((const struct gmm__shared_run *)a)->place, ((const struct gmm__shared_run *)b)->place);
}

/* Runs of one pool page at each place, one after the other: what overlaps is the same pages. */
static int compare_shifts(const void *a, const void *b)
{
	const struct gmm__shared_run *x = a, *y = b;
	int c = compare_u64((uint32_t)(x->page - x->place), (uint32_t)(y->page - y->place));

	return c ? c : compare_u64(x->place, y->place);
}

/* Places that at least one run covers. Sorts the runs. */
static uint64_t count_places(struct gmm__shared_run *run, uint32_t n)
{
	uint64_t places = 0;
	uint32_t end = 0;

	qsort(run, n, sizeof *run, compare_places);
	for (uint32_t i = 0; i < n; i++) {
		uint32_t from = run[i].place > end ? run[i].place : end, to = run[i].place + run[i].pages;
		places += to > from ? to - from : 0;
		end = to > end ? to : end;
	}
	return places;
}

static void count_pages(struct gmm_module_info *info, struct gmm__pool *pool, gmm__page_id page, uint32_t pages)
{
	for (uint32_t i = 0; i < pages; i++) {
		uint32_t references = gmm__pool_record(pool, page + i).references;
		info->shared_pages += references > 0; /* it may be gone since */
		info->references += references;
	}
}

/* Each pool page counts once for each place that it serves. Sorts the runs. Returns how many there are. */
static uint64_t count_shared(struct gmm_module_info *info, struct gmm__pool *pool, struct gmm__shared_run *run,
			     uint32_t n)
{
	uint64_t pages = 0;
	uint32_t end = 0;

	qsort(run, n, sizeof *run, compare_shifts);
	for (uint32_t i = 0; i < n; i++) {
		bool other = i == 0 || run[i].page - run[i].place != run[i - 1].page - run[i - 1].place;
		uint32_t from = other || run[i].place > end ? run[i].place : end, to = run[i].place + run[i].pages;
		if (to > from) {
			count_pages(info, pool, run[i].page + (from - run[i].place), to - from);
			pages += to - from;
		}
		end = other || to > end ? to : end;
	}
	return pages;
}

static void describe(const struct gmm__module_use *use, uint32_t users, struct gmm_module_info *info)
{
	const struct gmm__wire_module *said = &use->told->said;

	memset(info, 0, sizeof *info);
	strcpy(info->name, said->name);
	strcpy(info->version, said->version);
	strcpy(info->domain, use->domain->name);
	info->os = (enum gmm_os_family)said->os;
	info->size = said->size;
	info->pages = said->pages;
	info->users = users;
}

/* The runs of uses [0, n) in uses->run; how many, or UINT32_MAX without memory. */
static uint32_t take_runs(struct gmm__module_uses *uses, const struct gmm__module_use *use, uint32_t n)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < n; i++)
		count += use[i].told->n_runs;
	if (count > uses->room_runs) {
		struct gmm__shared_run *run = realloc(uses->run, count * sizeof *run);
		if (!run)
			return UINT32_MAX;
		uses->run = run;
		uses->room_runs = count;
	}
	count = 0;
	for (uint32_t i = 0; i < n; i++) {
		if (use[i].told->n_runs)
			memcpy(uses->run + count, use[i].run, use[i].told->n_runs * sizeof *uses->run);
		count += use[i].told->n_runs;
	}
	return count;
}

/* Uses [0, n) are of one module. */
static int put_together(struct gmm__module_uses *uses, const struct gmm__module_use *use, uint32_t n,
			struct gmm_module_info *info)
{
	uint32_t runs = take_runs(uses, use, n);

	if (runs == UINT32_MAX)
		return GMM_ERR_NO_MEMORY;
	describe(use, n, info);
	if (runs > 0) {
		uint64_t shared = count_shared(info, &use->domain->pool, uses->run, runs);
		info->variants = shared - count_places(uses->run, runs);
	}
	if (info->variants > info->shared_pages)
		info->variants = info->shared_pages;
	info->saved_pages = info->references - info->shared_pages;
	uses->charge += MODULE_CHARGE + runs + (uint32_t)(info->shared_pages / SHARED_CHARGE_PART);
	return 1;
}

int gmm__modules_next(struct gmm__module_uses *uses, struct gmm_module_info *ret_info)
{
	uint32_t n = 1;

	if (uses->next == uses->n)
		return 0;
	if (uses->next == 0) {
		qsort(uses->use, uses->n, sizeof *uses->use, compare_uses);
		uses->charge += uses->n * RECORD_CHARGE;
	}
	const struct gmm__module_use *use = uses->use + uses->next;
	while (uses->next + n < uses->n && compare_uses(use, use + n) == 0)
		n++;
	uses->next += n;
	return ret_info ? put_together(uses, use, n, ret_info) : 1;
}

void gmm__modules_uses_free(struct gmm__module_uses *uses)
{
	free(uses->use);
	free(uses->run);
}
