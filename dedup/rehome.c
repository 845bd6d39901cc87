/* Re-home: the primitive, and sets of moves. */
#include "dedup/rehome.h"

#include <string.h>

#include "dedup/digest.h"
#include "dedup/visit.h"

/* ---- the primitive ------------------------------------------------------------------------------------------------ */

struct piece {
	const struct gmm__rehome *rehome;
	struct gmm__slot *slot;
	uint32_t first;
	uint32_t count;
	gmm__page_id to;
	bool equal[GMM__FREEZE_PAGES];   /* may be moved */
	uint8_t shows[GMM__FREEZE_PAGES]; /* not 0: the pool page shows, no copy lies over it */
	bool moved[GMM__FREEZE_PAGES];
};

/* Old and new page are compared before anything is held: neither changes while it has a reference (INV-1, INV-2). The
 * look at the guest's page brings it into the page table: what is not there later cannot be told from a broken page. */
static uint32_t compare(struct piece *p)
{
	const struct gmm__pool *pool = p->rehome->catalog->pool;
	uint32_t n = 0;

	for (uint32_t i = 0; i < p->count; i++) {
		gmm__page_id from = p->slot->value[p->first + i];
		p->equal[i] = gmm__state_is_shared(gmm__slot_state(p->slot, p->first + i)) && from != p->to + i &&
			      memcmp(gmm__pool_bytes(pool, from), gmm__pool_bytes(pool, p->to + i), GMM__PAGE_BYTES) == 0;
		if (!p->equal[i])
			continue;
		(void)*(const volatile uint8_t *)p->rehome->backend->bytes(p->slot, p->first + i);
		n++;
	}
	return n;
}

static uint32_t movable_span(const struct piece *p, uint32_t i)
{
	uint32_t n = 0;

	while (i + n < p->count && p->equal[i + n] && p->shows[i + n])
		n++;
	return n;
}

/* While the piece is held. */
static void replace(struct piece *p)
{
	const struct gmm__backend *backend = p->rehome->backend;
	struct gmm__scan_filter shows = { .need = GMM__IS_PRESENT | GMM__IS_FILE };

	if (backend->scan(p->slot, p->first, p->count, &shows, p->shows) <= 0)
		return;
	for (uint32_t i = 0; i < p->count;) {
		uint32_t n = movable_span(p, i);
		if (n > 0 && backend->remap(p->slot, p->first + i, n, p->to + i) == 0)
			memset(p->moved + i, true, n);
		i += n + 1;
	}
}

static uint32_t account(struct piece *p)
{
	struct gmm__pool *pool = p->rehome->catalog->pool;
	struct gmm__seams before = gmm__account_begin(p->slot, p->first, p->count);
	uint32_t moved = 0;

	for (uint32_t i = 0; i < p->count; i++) {
		uint32_t page = p->first + i;
		gmm__page_id left = p->moved[i] ? p->slot->value[page] : p->to + i;
		if (p->moved[i])
			gmm__slot_set(p->slot, page, gmm__slot_state(p->slot, page), p->to + i);
		gmm__pool_drop(pool, left, 1, GMM__DROP_REFERENCE);
		moved += p->moved[i];
	}
	gmm__account_end(p->slot, p->first, p->count, before);
	p->slot->vm->stats.rehomes += moved;
	return moved;
}

uint32_t gmm__rehome_piece(const struct gmm__rehome *rehome, struct gmm__slot *slot, uint32_t first, uint32_t count,
			   gmm__page_id to)
{
	struct gmm *gmm = rehome->gmm;
	struct piece p = { .rehome = rehome, .slot = slot, .first = first, .count = count, .to = to };

	if (gmm__vm_has_room(slot->vm, gmm__slot_seams_added(slot, first, count, to)) && compare(&p) > 0) {
		gmm__lock_take(&gmm->staging[0].lock); /* a fork waits */
		uint64_t start_ns = gmm__sys_of(gmm)->clock_ns();
		if (rehome->backend->hold(slot, first, count) == 0) {
			replace(&p);
			rehome->backend->let_go(slot, first, count);
			gmm__waits_add(rehome->waits, count, gmm__sys_of(gmm)->clock_ns() - start_ns);
		}
		gmm__lock_give(&gmm->staging[0].lock);
	}
	return account(&p);
}

/* ---- the set -------------------------------------------------------------------------------------------------------- */

enum { TABLE = 4 * GMM__MOVES };

static uint32_t place_of(const struct gmm__moves *moves, gmm__page_id page)
{
	uint32_t i = page * 0x9e3779b1u >> 20;

	while (moves->table[i].from != GMM__NIL && moves->table[i].from != page)
		i = (i + 1) % TABLE;
	return i;
}

static const struct gmm__move_row *row_of(const struct gmm__moves *moves, gmm__page_id page)
{
	uint32_t i = place_of(moves, page);

	return moves->table[i].from == page ? &moves->row[moves->table[i].row] : NULL;
}

gmm__page_id gmm__moves_goal(const struct gmm__moves *moves, gmm__page_id page)
{
	const struct gmm__move_row *row = row_of(moves, page);

	if (!row || row->to == GMM__NIL || moves->table[place_of(moves, page)].stays)
		return GMM__NIL;
	return row->to + (page - row->from);
}

void gmm__moves_keep(struct gmm__moves *moves, gmm__page_id page)
{
	moves->table[place_of(moves, page)].stays = true;
}

bool gmm__moves_add(struct gmm__moves *moves, gmm__page_id from, uint32_t count, bool new_group)
{
	if (moves->pages + count > GMM__MOVES)
		return false;
	for (uint32_t i = 0; i < count; i++)
		if (row_of(moves, from + i))
			return false;
	if (new_group)
		moves->group[moves->groups++] = (struct gmm__move_group){ 0 };
	struct gmm__move_group *group = &moves->group[moves->groups - 1];
	for (uint32_t i = 0; i < count; i++) {
		uint32_t place = place_of(moves, from + i);
		moves->table[place].from = from + i;
		moves->table[place].row = moves->rows;
	}
	moves->row[moves->rows++] = (struct gmm__move_row){ .from = from, .count = count, .group = moves->groups - 1,
							    .offset = group->pages };
	group->pages += count;
	moves->pages += count;
	return true;
}

/* ---- what it is worth ------------------------------------------------------------------------------------------------ */

/* A covered page: which pool page lies there, and where that is to go. Covers of broken pages stay. */
struct place {
	gmm__page_id page;
	const struct gmm__move_row *row;
};

static struct place place_at(const struct gmm__moves *moves, const struct gmm__slot *slot, uint32_t page)
{
	enum gmm_page_state state = gmm__slot_state(slot, page);
	struct place place = { GMM__NIL, NULL };

	if (gmm__state_is_covered(state))
		place.page = __atomic_load_n(&slot->value[page], __ATOMIC_RELAXED);
	if (gmm__state_is_shared(state))
		place.row = row_of(moves, place.page);
	return place;
}

static bool will_follow(const struct place *a, const struct place *b)
{
	if (!a->row || !b->row)
		return !a->row && !b->row && gmm__page_follows(a->page, b->page);
	return a->row->group == b->row->group &&
	       b->row->offset + (b->page - b->row->from) == a->row->offset + (a->page - a->row->from) + 1;
}

static void weigh_slot(void *arg, struct gmm__slot *slot)
{
	struct gmm__moves *moves = arg;
	struct place last = { GMM__NIL, NULL };

	for (uint32_t page = 0; page < slot->pages; page++) {
		struct place place = place_at(moves, slot, page);
		if (last.page != GMM__NIL && place.page != GMM__NIL && (last.row || place.row)) {
			const struct gmm__move_row *row = last.row ? last.row : place.row;
			moves->group[row->group].gain += will_follow(&last, &place) - gmm__page_follows(last.page, place.page);
		}
		last = place;
	}
}

void gmm__moves_weigh(struct gmm__moves *moves, const struct gmm__rehome *rehome)
{
	for (uint32_t i = 0; i < moves->groups; i++)
		moves->group[i].gain = 0;
	gmm__visit_slots(rehome->gmm, rehome->domain, weigh_slot, moves);
}

/* ---- new pages --------------------------------------------------------------------------------------------------------- */

/* Gives a row its place and the bytes. Its old pages are referenced until the end of the set. */
static bool copy_row(struct gmm__move_row *row, struct gmm__pool *pool, gmm__page_id to)
{
	uint32_t n = gmm__pool_ref(pool, row->from, row->count);
	struct iovec bytes = { .iov_len = (size_t)row->count * GMM__PAGE_BYTES };

	if (n == row->count) {
		bytes.iov_base = (void *)(uintptr_t)gmm__pool_bytes(pool, row->from);
		if (gmm__pool_fill(pool, to, &bytes, 1) == 0) {
			row->to = to;
			return true;
		}
	}
	if (n > 0)
		gmm__pool_drop(pool, row->from, n, GMM__DROP_REFERENCE);
	gmm__pool_drop(pool, to, row->count, GMM__DROP_UNFILLED);
	return false;
}

uint32_t gmm__moves_copy(struct gmm__moves *moves, const struct gmm__rehome *rehome, int32_t gain, bool grow)
{
	struct gmm__pool *pool = rehome->catalog->pool;
	uint32_t pages = 0, row = 0;

	for (uint32_t g = 0; g < moves->groups; g++) {
		const struct gmm__move_group *group = &moves->group[g];
		gmm__page_id first = GMM__NIL;
		bool room = !group->stays && group->gain >= gain && gmm__pool_reserve_row(pool, group->pages, grow, &first);
		for (; row < moves->rows && moves->row[row].group == g; row++)
			if (room && copy_row(&moves->row[row], pool, first + moves->row[row].offset))
				pages += moves->row[row].count;
	}
	return pages;
}

/* ---- moving the guests ------------------------------------------------------------------------------------------------- */

/* Pages from `page` on that go to consecutive places; *ret_to is the first. */
static uint32_t piece_at(const struct gmm__moves *moves, const struct gmm__slot *slot, uint32_t page, uint32_t limit,
			 gmm__page_id *ret_to)
{
	uint32_t n = 0;

	for (; n < limit && page + n < slot->pages && gmm__state_is_shared(gmm__slot_state(slot, page + n)); n++) {
		gmm__page_id to = gmm__moves_goal(moves, __atomic_load_n(&slot->value[page + n], __ATOMIC_RELAXED));
		if (to == GMM__NIL || (n > 0 && !gmm__page_follows(*ret_to + n - 1, to)))
			break;
		if (n == 0)
			*ret_to = to;
	}
	return n;
}

/* Moves the piece that begins at the page, if there is one still. Returns how many pages it went through. */
static uint32_t move_piece(const struct gmm__moves *moves, const struct gmm__rehome *rehome, struct gmm__slot *slot,
			   uint32_t page, uint64_t *moved)
{
	gmm__page_id to = GMM__NIL;
	uint32_t n = 0;

	if (!gmm__vm_claim(slot->vm, false))
		return slot->pages - page;
	if (!slot->dead)
		n = piece_at(moves, slot, page, rehome->waits->pages, &to);
	if (n > 0)
		n = gmm__pool_ref(rehome->catalog->pool, to, n);
	if (n > 0)
		*moved += gmm__rehome_piece(rehome, slot, page, n, to);
	gmm__vm_release(slot->vm);
	return n > 0 ? n : 1;
}

/* What is carried out, and how many pages were moved. */
struct moving {
	const struct gmm__moves *moves;
	const struct gmm__rehome *rehome;
	uint64_t moved;
};

static void move_slot(void *arg, struct gmm__slot *slot)
{
	struct moving *m = arg;
	gmm__page_id to;

	for (uint32_t page = 0; page < slot->pages && !slot->dead && !slot->vm->dead;)
		page += piece_at(m->moves, slot, page, 1, &to) ? move_piece(m->moves, m->rehome, slot, page, &m->moved) : 1;
}

/* Somebody still uses an old page: a guest had no memory for the moment, or wrote to it and will be found broken. */
static bool anybody_left(const struct gmm__moves *moves, struct gmm__pool *pool)
{
	for (uint32_t i = 0; i < moves->rows; i++)
		for (uint32_t k = 0; k < moves->row[i].count; k++)
			if (gmm__moves_goal(moves, moves->row[i].from + k) != GMM__NIL &&
			    gmm__pool_record(pool, moves->row[i].from + k).references > 1)
				return true;
	return false;
}

uint64_t gmm__moves_carry_out(const struct gmm__moves *moves, const struct gmm__rehome *rehome)
{
	struct moving m = { .moves = moves, .rehome = rehome };

	gmm__visit_slots(rehome->gmm, rehome->domain, move_slot, &m);
	if (anybody_left(moves, rehome->catalog->pool))
		gmm__visit_slots(rehome->gmm, rehome->domain, move_slot, &m);
	return m.moved;
}

/* ---- the end ------------------------------------------------------------------------------------------------------------ */

/* An extent of equal copies that lies in the row moves with it. With the catalog's lock. */
static void move_extent(struct gmm__catalog *catalog, const struct gmm__move_row *row, uint64_t word)
{
	const struct gmm__fill_extent *extent = gmm__fill_find(&catalog->fills, word);

	if (extent && extent->first >= row->from && extent->first + extent->pages <= row->from + row->count)
		gmm__fill_set(&catalog->fills, word, row->to + (extent->first - row->from), extent->pages);
}

/* A new page that nobody came to use stays unknown. */
static void end_row(const struct gmm__move_row *row, struct gmm__catalog *catalog)
{
	for (uint32_t i = 0; i < row->count; i++) {
		if (gmm__pool_record(catalog->pool, row->to + i).references == 1)
			continue;
		const uint8_t *bytes = gmm__pool_bytes(catalog->pool, row->from + i);
		gmm__catalog_relist(catalog, row->from + i, row->to + i);
		if (!gmm__digest_is_fill(bytes))
			continue;
		gmm__lock_take(&catalog->lock);
		move_extent(catalog, row, *(const uint64_t *)(const void *)bytes);
		gmm__lock_give(&catalog->lock);
	}
	gmm__pool_drop(catalog->pool, row->from, row->count, GMM__DROP_REFERENCE);
	gmm__pool_drop(catalog->pool, row->to, row->count, GMM__DROP_REFERENCE);
}

static gmm__page_id goal_in(const void *moves, gmm__page_id page)
{
	return gmm__moves_goal(moves, page);
}

void gmm__moves_end(struct gmm__moves *moves, const struct gmm__rehome *rehome)
{
	const struct gmm__module_hooks *modules = atomic_load(&rehome->gmm->module_hooks);

	if (modules)
		modules->moved(rehome->domain, goal_in, moves);
	for (uint32_t i = 0; i < moves->rows; i++)
		if (moves->row[i].to != GMM__NIL)
			end_row(&moves->row[i], rehome->catalog);
}
