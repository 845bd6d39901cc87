/* Asking paged VMs to move; see paged_moves.h. */
#include "dedup/paged_moves.h"

#include "dedup/paged_requests.h"
#include "dedup/visit.h"
#include "gmm/paged.h"

enum { LEVEL_MAX = 6 };

/* Calls fn for each paged VM of the domain (NULL: of all), visited meanwhile. */
static void for_each_vm(struct gmm *gmm, const struct gmm__domain *domain, void (*fn)(void *arg, struct gmm_vm *vm), void *arg)
{
	for (struct gmm_vm *vm = gmm__visit_begin(gmm, domain, 0); vm; vm = gmm__visit_next(vm, domain))
		if (vm->paged)
			fn(arg, vm);
}

/* ---- choosing ------------------------------------------------------------------------------------------------------ */

static void choose(void *arg, struct gmm_vm *vm)
{
	struct gmm__moves *moves = arg;
	struct gmm__requests *requests = &vm->paged->requests;

	if (gmm__paged_enter(vm) != GMM_OK)
		return;
	bool willing = requests->fn && requests->move_rest == 0;
	for (uint32_t i = 0; vm->paged->references.ids && i < moves->rows; i++) {
		const struct gmm__move_row *row = &moves->row[i];
		for (uint32_t k = 0; k < row->count; k++) {
			if (!gmm__tally_count(&vm->paged->references, row->from + k))
				continue;
			moves->paged = true;
			if (!willing)
				moves->group[row->group].stays = true;
		}
	}
	requests->move_rest -= requests->move_rest > 0;
	gmm__paged_leave(vm, GMM_OK);
}

void gmm__paged_moves_choose(struct gmm__moves *moves, const struct gmm__rehome *rehome)
{
	for_each_vm(rehome->gmm, rehome->domain, choose, moves);
}

static void anew(void *arg, struct gmm_vm *vm)
{
	(void)arg;
	if (gmm__paged_enter(vm) != GMM_OK)
		return;
	vm->paged->requests.move_level = vm->paged->requests.move_rest = 0;
	gmm__paged_leave(vm, GMM_OK);
}

void gmm__paged_moves_anew(struct gmm *gmm)
{
	for_each_vm(gmm, NULL, anew, NULL);
}

/* ---- asking --------------------------------------------------------------------------------------------------------- */

struct asking {
	struct gmm__moves *moves;
	const struct gmm__rehome *rehome;
	uint64_t moved;
	gmm__page_id page[GMM__MOVES]; /* that the VM uses */
};

/* Pages of the set that the VM uses and that are to go. */
static uint32_t used_by(struct asking *asking, struct gmm_vm *vm)
{
	const struct gmm__moves *moves = asking->moves;
	uint32_t n = 0;

	if (gmm__paged_enter(vm) != GMM_OK)
		return 0;
	for (uint32_t i = 0; vm->paged->references.ids && i < moves->rows; i++) {
		for (uint32_t k = 0; k < moves->row[i].count; k++) {
			gmm__page_id page = moves->row[i].from + k;
			if (gmm__tally_count(&vm->paged->references, page) && gmm__moves_goal(moves, page) != GMM__NIL)
				asking->page[n++] = page;
		}
	}
	gmm__paged_leave(vm, GMM_OK);
	return n;
}

/* Where the VM is to go. If it is alone with its page, the others may have moved at an earlier set: then it follows them. */
static gmm__page_id goal_of(const struct asking *asking, struct gmm_vm *vm, gmm__page_id page)
{
	struct gmm__catalog *catalog = asking->rehome->catalog;
	gmm__page_id copy = GMM__NIL;

	if (gmm__paged_enter(vm) != GMM_OK)
		return GMM__NIL;
	uint32_t mine = gmm__tally_count(&vm->paged->references, page);
	if (gmm__pool_record(catalog->pool, page).references == mine + 1) /* and the set's */
		copy = gmm__paged_lookup_shared(catalog, gmm__pool_bytes(catalog->pool, page));
	gmm__paged_leave(vm, GMM_OK);
	return copy != GMM__NIL && copy != page ? copy : gmm__moves_goal(asking->moves, page);
}

static void rest(struct gmm_vm *vm, bool declined)
{
	if (gmm__paged_enter(vm) != GMM_OK)
		return;
	struct gmm__requests *requests = &vm->paged->requests;
	requests->move_rest = declined ? (uint8_t)(1u << requests->move_level) : 0;
	requests->move_level = !declined ? 0 : requests->move_level < LEVEL_MAX ? requests->move_level + 1 : LEVEL_MAX;
	gmm__paged_leave(vm, GMM_OK);
}

static void ask(void *arg, struct gmm_vm *vm)
{
	struct asking *asking = arg;
	uint32_t n = used_by(asking, vm), moved = 0;

	if (n == 0)
		return;
	gmm__paged_flush(vm);
	for (uint32_t i = 0; i < n; i++) {
		gmm__page_id to = vm->dead ? GMM__NIL : goal_of(asking, vm, asking->page[i]);
		bool accepted = to != GMM__NIL && gmm__paged_propose(vm, asking->page[i], to);
		if (!accepted)
			gmm__moves_keep(asking->moves, asking->page[i]);
		moved += accepted;
	}
	asking->moved += moved;
	rest(vm, moved < n);
}

uint64_t gmm__paged_moves_ask(struct gmm__moves *moves, const struct gmm__rehome *rehome)
{
	struct asking asking = { .moves = moves, .rehome = rehome };

	for_each_vm(rehome->gmm, rehome->domain, ask, &asking);
	return asking.moved;
}
