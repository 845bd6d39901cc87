/* RAM slots and ranges: the public calls of gmm.h that add, remove and change guest memory.
 *
 * Each call claims the VM, changes mappings first and accounts after, so that a reference or cover is dropped only
 * when the mapping is gone (INV-2).
 */
#include <errno.h>
#include <string.h>
#include <urcu/urcu-bp.h>

#include "dedup/account.h"
#include "dedup/engine.h"
#include "dedup/fork.h"
#include "dedup/instance.h"
#include "dedup/mapped.h"
#include "dedup/range.h"
#include "dedup/remote.h"

enum { RAM_PAGES_MAX = UINT32_MAX - GMM__CHUNK_PAGES };

static bool misaligned(uint64_t value)
{
	return value % GMM__PAGE_BYTES != 0;
}

static uint32_t chunks_of(uint32_t pages)
{
	return (pages + GMM__CHUNK_PAGES - 1) / GMM__CHUNK_PAGES;
}

/* ---- adding RAM --------------------------------------------------------------------------------------------------- */

static bool overlaps(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size)
{
	return a < b + b_size && b < a + a_size;
}

/* With ram_lock: no array of slots changes. host 0: not mapped yet. */
static bool overlaps_a_slot(struct gmm_vm *vm, uint64_t gfn, uintptr_t host, uint64_t pages)
{
	bool found = host && gmm__host_ranges_overlap(&vm->gmm->host_ranges, host, pages * GMM__PAGE_BYTES);

	for (uint32_t i = 0; !found && i < vm->slots->n; i++)
		found = overlaps(gfn, pages, vm->slots->slot[i]->gfn, vm->slots->slot[i]->pages);
	return found;
}

/* Host memory that a slot gets or loses. A shadow slot has none. */
static int begin_host(struct gmm__slot *slot)
{
	if (!slot->host)
		return GMM_OK;
	int status = gmm__mapped_watch(slot);
	if (status == GMM_OK && !gmm__host_ranges_add(&slot->vm->gmm->host_ranges, &slot->range)) {
		gmm__mapped_unwatch(slot);
		status = GMM_ERR_NO_MEMORY;
	}
	return status;
}

static void end_host(struct gmm__slot *slot, bool is_mapped)
{
	if (!slot->host)
		return;
	gmm__host_ranges_remove(&slot->vm->gmm->host_ranges, &slot->range);
	if (is_mapped)
		gmm__mapped_unwatch(slot);
}

/* Publishes a slot whose memory is there. With ram_lock and the claim. */
static int insert_slot(struct gmm_vm *vm, struct gmm__slot *slot)
{
	struct gmm *gmm = vm->gmm;

	if (!gmm__chunk_table_take_slot(&gmm->chunks, chunks_of(slot->pages), slot, &slot->first_chunk))
		return GMM_ERR_LIMIT;
	int status = begin_host(slot);
	struct gmm__slots *old = status == GMM_OK ? gmm__vm_slots_change(vm, slot, NULL) : NULL;
	if (!old) {
		if (status == GMM_OK)
			end_host(slot, true);
		gmm__chunk_table_give(&gmm->chunks, slot->first_chunk, chunks_of(slot->pages));
		return status == GMM_OK ? GMM_ERR_NO_MEMORY : status;
	}
	gmm__count_add(&vm->stats.pages, slot->pages);
	gmm__count_add(&vm->stats.state_pages[GMM_PAGE_ABSENT], slot->pages);
	vm->domain->pages += slot->pages;
	urcu_bp_synchronize_rcu();
	gmm__vm_slots_free(vm, old);
	return GMM_OK;
}

static int add_slot(struct gmm_vm *vm, uint64_t guest_addr, uint8_t *host, uint64_t size, bool created,
		    const struct gmm__ram_attributes *attributes)
{
	struct gmm *gmm = vm->gmm;
	struct gmm__slot *slot = gmm__slot_new(&gmm->mem, vm, guest_addr / GMM__PAGE_BYTES,
					       (uint32_t)(size / GMM__PAGE_BYTES), host);

	if (!slot)
		return GMM_ERR_NO_MEMORY;
	slot->created = created;
	slot->attributes = *attributes;
	int status = GMM_ERR_WRONG_ORDER;
	if (gmm__vm_claim(vm, false)) {
		status = insert_slot(vm, slot);
		gmm__vm_release(vm);
	}
	if (status == GMM_OK) {
		gmm__engine_disturb(gmm);
		return GMM_OK;
	}
	urcu_bp_synchronize_rcu(); /* its ids may have been seen */
	gmm__slot_free(&gmm->mem, slot);
	return status;
}

int gmm__vm_add_shadow(struct gmm_vm *vm, uint64_t gfn, uint32_t pages, struct gmm__slot **ret_slot)
{
	static const struct gmm__ram_attributes attributes;
	struct gmm *gmm = vm->gmm;
	int status = GMM_ERR_OVERLAP;

	if (pages == 0 || pages > RAM_PAGES_MAX || gfn > UINT64_MAX / GMM__PAGE_BYTES - pages)
		return GMM_ERR_INVALID_PARAMETER;
	gmm__lock_take(&gmm->ram_lock);
	if (!overlaps_a_slot(vm, gfn, 0, pages))
		status = add_slot(vm, gfn * GMM__PAGE_BYTES, NULL, (uint64_t)pages * GMM__PAGE_BYTES, false, &attributes);
	if (status == GMM_OK)
		*ret_slot = gmm__vm_find(vm, gfn);
	gmm__lock_give(&gmm->ram_lock);
	return status;
}

static int check_new_ram(const struct gmm_vm *vm, uint64_t guest_addr, uint64_t size)
{
	int status = gmm__range_check(vm, guest_addr, size);

	if (status == GMM_OK && vm->paged)
		return GMM_ERR_WRONG_KIND;
	if (status == GMM_OK && guest_addr + size < guest_addr)
		return GMM_ERR_INVALID_PARAMETER;
	return status == GMM_OK && size / GMM__PAGE_BYTES > RAM_PAGES_MAX ? GMM_ERR_LIMIT : status;
}

int gmm_vm_create_ram(struct gmm_vm *vm, uint64_t guest_addr, uint64_t size, void **ret_addr)
{
	static const struct gmm__ram_attributes attributes = { .no_huge = true };
	uint8_t *host = NULL;

	int status = check_new_ram(vm, guest_addr, size);
	if (status != GMM_OK)
		return status;
	if (!ret_addr)
		return GMM_ERR_INVALID_PARAMETER;
	struct gmm *gmm = vm->gmm;
	gmm__lock_take(&gmm->ram_lock);
	if (overlaps_a_slot(vm, guest_addr / GMM__PAGE_BYTES, 0, size / GMM__PAGE_BYTES))
		status = GMM_ERR_OVERLAP;
	if (status == GMM_OK)
		status = gmm__mapped_create_ram(gmm, size, &host);
	if (status == GMM_OK) {
		status = add_slot(vm, guest_addr, host, size, true, &attributes);
		if (status != GMM_OK)
			gmm__sys_of(gmm)->unmap(host, size);
	}
	gmm__lock_give(&gmm->ram_lock);
	if (status == GMM_OK)
		*ret_addr = host;
	return status;
}

int gmm_vm_adopt_ram(struct gmm_vm *vm, uint64_t guest_addr, void *addr, uint64_t size)
{
	struct gmm__ram_attributes attributes;

	int status = check_new_ram(vm, guest_addr, size);
	if (status != GMM_OK)
		return status;
	if (!addr || (uintptr_t)addr + size < (uintptr_t)addr)
		return GMM_ERR_INVALID_PARAMETER;
	if (misaligned((uintptr_t)addr))
		return GMM_ERR_MISALIGNED;
	struct gmm *gmm = vm->gmm;
	gmm__lock_take(&gmm->ram_lock);
	if (overlaps_a_slot(vm, guest_addr / GMM__PAGE_BYTES, (uintptr_t)addr, size / GMM__PAGE_BYTES))
		status = GMM_ERR_OVERLAP;
	if (status == GMM_OK)
		status = gmm__mapped_inspect_ram(gmm, addr, size, &attributes);
	if (status == GMM_OK)
		status = add_slot(vm, guest_addr, addr, size, false, &attributes);
	gmm__lock_give(&gmm->ram_lock);
	return status;
}

/* ---- making pages private --------------------------------------------------------------------------------------------- */

/* Covered pages in a row from `page` on, up to `end`. */
static uint32_t covered_span(const struct gmm__slot *slot, uint32_t page, uint32_t end, bool without_broken)
{
	uint32_t n = 0;

	while (page + n < end && gmm__state_is_covered(gmm__slot_state(slot, page + n)) &&
	       !(without_broken && gmm__slot_state(slot, page + n) == GMM_PAGE_BROKEN))
		n++;
	return n;
}

static int privatise_part(const struct gmm__part *part, bool broken_stay)
{
	uint32_t end = part->first + part->pages;

	for (uint32_t page = part->first; page < end;) {
		uint32_t n = covered_span(part->slot, page, end, broken_stay), done = 0;
		if (n > 0) {
			int rc = gmm__backend_mapped()->privatise(part->slot, page, n, &done);
			gmm__account_uncovered(part->slot, page, done, GMM_PAGE_VOLATILE);
			if (rc != 0)
				return rc == -ENOMEM ? GMM_ERR_LIMIT : rc == -EBUSY ? GMM_ERR_PINNED : GMM_ERR_SYSTEM;
		}
		page += n + 1;
	}
	return GMM_OK;
}

/* Adds up what privatising a part will need. */
struct need {
	uint64_t pages;  /* of memory */
	uint64_t broken; /* pages that somebody might have pinned since they were shared */
};

static void add_need(const struct gmm__part *part, struct need *need)
{
	for (uint32_t i = part->first; i < part->first + part->pages; i++) {
		need->pages += gmm__state_is_covered(gmm__slot_state(part->slot, i));
		need->broken += gmm__slot_state(part->slot, i) == GMM_PAGE_BROKEN;
	}
}

struct consent {
	const struct gmm *gmm;
	bool given;
};

static void ask_consent(void *arg)
{
	struct consent *consent = arg;

	consent->given = gmm__pins_excluded(consent->gmm);
}

static int check_need(const struct gmm *gmm, const struct need *need)
{
	const struct gmm__sys *sys = gmm__sys_of(gmm);
	struct consent consent = { gmm, true };

	if (need->pages) /* where files that are opened for it cannot be closed by others */
		sys->run(ask_consent, &consent);
	if (!consent.given || (need->broken && gmm__sys_pinned_bytes(sys) > 0))
		return GMM_ERR_PINNED;
	if (need->pages && need->pages * GMM__PAGE_BYTES > gmm__sys_available_bytes(sys))
		return GMM_ERR_NO_MEMORY;
	return GMM_OK;
}

/* leave_pinned: broken pages that somebody may have pinned stay where they are, private already, over their cover;
 * else they are an error. */
static int privatise_range(const struct gmm__range *range, bool leave_pinned)
{
	struct need need = { 0 };
	struct gmm__part part;

	for (uint64_t at = 0; gmm__vm_part(range->vm, range->gfn + at, range->pages - at, &part); at += part.pages)
		add_need(&part, &need);
	int status = check_need(range->vm->gmm, &need);
	bool stay = leave_pinned && status == GMM_ERR_PINNED;
	if (stay)
		status = GMM_OK;
	for (uint64_t at = 0; status == GMM_OK && gmm__vm_part(range->vm, range->gfn + at, range->pages - at, &part);
	     at += part.pages)
		status = privatise_part(&part, stay);
	return status;
}

static struct gmm__part whole(struct gmm__slot *slot)
{
	return (struct gmm__part){ slot, 0, slot->pages };
}

/* ---- removing RAM ------------------------------------------------------------------------------------------------------- */

/* Replaces what the slot maps, as its end asks for. With the claim. */
static int end_mappings(struct gmm__slot *slot, enum gmm_ram_end end)
{
	struct gmm *gmm = slot->vm->gmm;

	if (!slot->host)
		return GMM_OK;
	if (slot->created)
		return gmm__sys_of(gmm)->unmap(slot->host, (uint64_t)slot->pages * GMM__PAGE_BYTES) == 0 ?
		       GMM_OK : GMM_ERR_LIMIT;
	if (end == GMM_RAM_DISCARD) {
		int rc = gmm__backend_mapped()->discard(slot, 0, slot->pages);
		return rc == 0 ? GMM_OK : rc == -ENOMEM ? GMM_ERR_LIMIT : GMM_ERR_SYSTEM;
	}
	struct gmm__part part = whole(slot);
	int status = privatise_part(&part, false);
	if (status == GMM_OK)
		gmm__huge_restore(gmm__backend_mapped(), slot, 0, slot->pages);
	return status;
}

/* Forgets the pins that lie in a slot. One that reaches into other slots stays theirs. */
static void drop_pins(struct gmm__slot *slot)
{
	struct gmm__pin **link = &slot->vm->pins;

	while (*link) {
		struct gmm__pin *pin = *link;
		if (pin->gfn >= slot->gfn && pin->gfn + pin->pages <= slot->gfn + slot->pages) {
			*link = pin->next;
			gmm__mem_free(&slot->vm->gmm->mem, pin, sizeof *pin);
		} else {
			link = &pin->next;
		}
	}
}

/* Nothing was ever known of these pages, or not any more. */
static bool are_absent(const struct gmm__slot *slot, uint32_t first, uint32_t count)
{
	const uint8_t *state = slot->state + first;

	return state[0] == GMM_PAGE_ABSENT && memcmp(state, state + 1, count - 1) == 0;
}

/* Takes a slot whose mappings ended out of all tables. Most regions of a large one may be absent; their tables need not
 * even be in memory. */
static void unlink_slot(struct gmm__slot *slot)
{
	struct gmm_vm *vm = slot->vm;

	gmm__remote_slot_gone(slot);
	drop_pins(slot);
	for (uint32_t first = 0, n; first < slot->pages; first += n) {
		n = slot->pages - first < GMM__REGION_PAGES ? slot->pages - first : GMM__REGION_PAGES;
		if (are_absent(slot, first, n))
			continue;
		for (uint32_t i = first; i < first + n; i++)
			__atomic_store_n(&slot->state[i], slot->state[i] & ~GMM__FLAGS_REFUSED, __ATOMIC_RELAXED);
		gmm__account_uncovered(slot, first, n, GMM_PAGE_ABSENT);
	}
	gmm__count_add(&vm->stats.pages, -(uint64_t)slot->pages);
	gmm__count_add(&vm->stats.state_pages[GMM_PAGE_ABSENT], -(uint64_t)slot->pages);
	vm->domain->pages -= slot->pages;
	end_host(slot, !slot->created);
	gmm__chunk_table_give(&vm->gmm->chunks, slot->first_chunk, chunks_of(slot->pages));
}

/* The slot is dead and the engine has left it. With ram_lock. */
static int remove_slot(struct gmm__slot *slot, enum gmm_ram_end end)
{
	struct gmm_vm *vm = slot->vm;
	struct need need = { 0 };
	struct gmm__part part = whole(slot);
	int status = GMM_OK;

	if (!gmm__vm_claim(vm, false))
		return GMM_ERR_WRONG_ORDER;
	if (end == GMM_RAM_KEEP && !slot->created) {
		add_need(&part, &need);
		status = check_need(vm->gmm, &need);
	}
	struct gmm__slots *old = NULL;
	if (status == GMM_OK && !(old = gmm__vm_slots_change(vm, NULL, slot)))
		status = GMM_ERR_NO_MEMORY;
	if (status == GMM_OK)
		status = end_mappings(slot, end);
	if (status == GMM_OK) {
		unlink_slot(slot);
	} else if (old) { /* put the old array back; nobody has freed it */
		struct gmm__slots *unused = vm->slots;
		rcu_set_pointer(&vm->slots, old);
		old = unused;
	}
	gmm__vm_release(vm);
	if (old) {
		urcu_bp_synchronize_rcu();
		gmm__vm_slots_free(vm, old);
	}
	if (status == GMM_OK)
		gmm__slot_free(&vm->gmm->mem, slot);
	return status;
}

int gmm_vm_remove_ram(struct gmm_vm *vm, uint64_t guest_addr, enum gmm_ram_end end)
{
	if (!vm || (unsigned)end > GMM_RAM_DISCARD)
		return GMM_ERR_INVALID_PARAMETER;
	struct gmm *gmm = vm->gmm;
	if (!gmm__fork_is_home(gmm))
		return GMM_ERR_WRONG_PROCESS;
	int status = GMM_ERR_NOT_FOUND;
	gmm__lock_take(&gmm->ram_lock);
	struct gmm__slot *slot = gmm__vm_find(vm, guest_addr / GMM__PAGE_BYTES);
	if (slot && slot->gfn * GMM__PAGE_BYTES == guest_addr) {
		gmm__lock_take(&gmm->lock);
		slot->dead = true;
		pthread_cond_broadcast(&gmm->changed); /* the engine may be resting in it */
		gmm__lock_give(&gmm->lock);
		gmm__engine_wait_left(vm);
		status = remove_slot(slot, end);
		if (status != GMM_OK)
			slot->dead = false;
	}
	gmm__lock_give(&gmm->ram_lock);
	return status;
}

/* ---- the end of a VM -------------------------------------------------------------------------------------------------------- */

/* Ends slots one after the other, the caller's RAM first, since it is what can fail. Each that ended is out of all tables
 * at once, whatever becomes of the others. */
static int end_slots(struct gmm_vm *vm, enum gmm_ram_end end)
{
	struct need need = { 0 };

	for (uint32_t i = 0; end == GMM_RAM_KEEP && i < vm->slots->n; i++) {
		struct gmm__part part = whole(vm->slots->slot[i]);
		if (!part.slot->created)
			add_need(&part, &need);
	}
	int status = check_need(vm->gmm, &need);
	for (int created = 0; created <= 1; created++) {
		for (uint32_t i = 0; status == GMM_OK && i < vm->slots->n; i++) {
			struct gmm__slot *slot = vm->slots->slot[i];
			if (slot->created != created)
				continue;
			status = end_mappings(slot, end);
			if (status == GMM_OK) {
				slot->dead = true;
				unlink_slot(slot);
			}
		}
	}
	return status;
}

static struct gmm__slots no_slots; /* of a VM at its end; never changed */

/* Frees the slots that ended. Whoever goes over all VMs, the ending ones too, finds none meanwhile, and afterwards those
 * that are left. With the claim and ram_lock. */
static void free_ended_slots(struct gmm_vm *vm)
{
	struct gmm__slots *slots = vm->slots;
	uint32_t left = 0;

	rcu_set_pointer(&vm->slots, &no_slots);
	urcu_bp_synchronize_rcu();
	for (uint32_t i = 0; i < slots->n; i++) {
		if (slots->slot[i]->dead)
			gmm__slot_free(&vm->gmm->mem, slots->slot[i]);
		else
			slots->slot[left++] = slots->slot[i];
	}
	slots->n = left;
	if (left > 0)
		rcu_set_pointer(&vm->slots, slots);
	else
		gmm__vm_slots_free(vm, slots);
}

static void set_dead(struct gmm_vm *vm, bool dead)
{
	gmm__lock_take(&vm->gmm->lock);
	vm->dead = dead;
	pthread_cond_broadcast(&vm->gmm->changed); /* the engine may be resting in it */
	gmm__lock_give(&vm->gmm->lock);
}

int gmm__vm_end_ram(struct gmm_vm *vm, enum gmm_ram_end end)
{
	struct gmm *gmm = vm->gmm;

	gmm__lock_take(&gmm->ram_lock);
	set_dead(vm, true);
	gmm__engine_wait_left(vm);
	gmm__vm_claim(vm, true);
	int status = end_slots(vm, end);
	free_ended_slots(vm);
	if (status != GMM_OK)
		set_dead(vm, false);
	gmm__vm_release(vm);
	gmm__lock_give(&gmm->ram_lock);
	return status;
}

/* ---- ranges ------------------------------------------------------------------------------------------------------------------ */

/* Sets or clears a refusal; the pages are private. */
static void set_refused(const struct gmm__part *part, uint8_t flag, bool on)
{
	struct gmm__slot *slot = part->slot;

	for (uint32_t i = part->first; i < part->first + part->pages; i++) {
		uint8_t flags = slot->state[i] & GMM__FLAGS_REFUSED;
		flags = on ? flags | flag : flags & ~flag;
		__atomic_store_n(&slot->state[i], (slot->state[i] & ~GMM__FLAGS_REFUSED) | flags, __ATOMIC_RELAXED);
		if (gmm__state_is_covered(gmm__slot_state(slot, i)))
			continue; /* broken and left where it is */
		if (flags)
			gmm__slot_set(slot, i, gmm__state_refused(flags), 0);
		else if (gmm__slot_state(slot, i) == GMM_PAGE_PINNED || gmm__slot_state(slot, i) == GMM_PAGE_UNSHAREABLE)
			gmm__slot_set(slot, i, GMM_PAGE_VOLATILE, 0);
	}
}

static void set_range_refused(const struct gmm__range *range, uint8_t flag, bool on)
{
	struct gmm__part part;

	for (uint64_t at = 0; gmm__vm_part(range->vm, range->gfn + at, range->pages - at, &part); at += part.pages)
		set_refused(&part, flag, on);
}

int gmm_vm_set_unshareable(struct gmm_vm *vm, uint64_t guest_addr, uint64_t size, bool unshareable)
{
	struct gmm__range range;

	int status = gmm__range_begin(vm, guest_addr, size, &range);
	if (status != GMM_OK)
		return status;
	if (unshareable)
		status = privatise_range(&range, true);
	if (status == GMM_OK)
		set_range_refused(&range, GMM__FLAG_UNSHAREABLE, unshareable);
	gmm__vm_release(vm);
	return status;
}

int gmm_vm_pin(struct gmm_vm *vm, uint64_t guest_addr, uint64_t size)
{
	struct gmm__range range;

	int status = gmm__range_begin(vm, guest_addr, size, &range);
	if (status != GMM_OK)
		return status;
	struct gmm__pin *pin = gmm__mem_alloc(&vm->gmm->mem, sizeof *pin);
	status = pin ? privatise_range(&range, true) : GMM_ERR_NO_MEMORY;
	if (status == GMM_OK) {
		*pin = (struct gmm__pin){ vm->pins, range.gfn, range.pages };
		vm->pins = pin;
		set_range_refused(&range, GMM__FLAG_PINNED, true);
	} else {
		gmm__mem_free(&vm->gmm->mem, pin, sizeof *pin);
	}
	gmm__vm_release(vm);
	return status;
}

/* Takes out a pin of exactly this range. */
static struct gmm__pin *take_pin(const struct gmm__range *range)
{
	struct gmm__pin **link = &range->vm->pins;

	while (*link && ((*link)->gfn != range->gfn || (*link)->pages != range->pages))
		link = &(*link)->next;
	struct gmm__pin *pin = *link;
	if (pin)
		*link = pin->next;
	return pin;
}

int gmm_vm_unpin(struct gmm_vm *vm, uint64_t guest_addr, uint64_t size)
{
	struct gmm__range range;

	int status = gmm__range_begin(vm, guest_addr, size, &range);
	if (status != GMM_OK)
		return status;
	struct gmm__pin *pin = take_pin(&range);
	if (pin) {
		set_range_refused(&range, GMM__FLAG_PINNED, false);
		/* Other pins may overlap this one. */
		for (const struct gmm__pin *p = vm->pins; p; p = p->next)
			if (overlaps(p->gfn, p->pages, range.gfn, range.pages))
				set_range_refused(&(struct gmm__range){ vm, p->gfn, p->pages }, GMM__FLAG_PINNED, true);
	}
	gmm__mem_free(&vm->gmm->mem, pin, sizeof *pin);
	gmm__vm_release(vm);
	return pin ? GMM_OK : GMM_ERR_NOT_FOUND;
}

static int discard_part(const struct gmm__part *part)
{
	int rc = gmm__backend_mapped()->discard(part->slot, part->first, part->pages);

	if (rc != 0)
		return rc == -ENOMEM ? GMM_ERR_LIMIT : GMM_ERR_SYSTEM;
	gmm__account_uncovered(part->slot, part->first, part->pages, GMM_PAGE_ABSENT);
	return GMM_OK;
}

int gmm_vm_discard(struct gmm_vm *vm, uint64_t guest_addr, uint64_t size)
{
	struct gmm__range range;
	struct gmm__part part;

	int status = gmm__range_begin(vm, guest_addr, size, &range);
	if (status != GMM_OK)
		return status;
	if (gmm__range_any_pinned(&range))
		status = GMM_ERR_PINNED;
	for (uint64_t at = 0; status == GMM_OK && gmm__vm_part(vm, range.gfn + at, range.pages - at, &part);
	     at += part.pages)
		status = discard_part(&part);
	gmm__vm_release(vm);
	return status;
}

int gmm_vm_unshare(struct gmm_vm *vm, uint64_t guest_addr, uint64_t size)
{
	struct gmm__range range;
	struct gmm__part part;

	int status = gmm__range_begin(vm, guest_addr, size, &range);
	if (status != GMM_OK)
		return status;
	status = privatise_range(&range, false);
	for (uint64_t at = 0; status == GMM_OK && gmm__vm_part(vm, range.gfn + at, range.pages - at, &part);
	     at += part.pages)
		gmm__huge_restore(gmm__backend_mapped(), part.slot, part.first, part.pages);
	gmm__vm_release(vm);
	gmm__engine_disturb(vm->gmm);
	return status;
}

int gmm__vm_unshare_all(struct gmm_vm *vm)
{
	int status = GMM_OK;

	if (!gmm__vm_claim(vm, false))
		return GMM_OK; /* it is being destroyed */
	for (uint32_t i = 0; i < vm->slots->n && status == GMM_OK; i++) {
		struct gmm__range range = { vm, vm->slots->slot[i]->gfn, vm->slots->slot[i]->pages };
		status = privatise_range(&range, false);
	}
	gmm__vm_release(vm);
	return status;
}

int gmm_vm_why(struct gmm_vm *vm, uint64_t guest_addr, uint64_t size, uint64_t ret_state_pages[GMM_PAGE_STATES])
{
	uint64_t pages[GMM_PAGE_STATES] = { 0 };
	struct gmm__range range;
	struct gmm__part part;

	if (!ret_state_pages)
		return GMM_ERR_INVALID_PARAMETER;
	int status = gmm__range_begin(vm, guest_addr, size, &range);
	if (status != GMM_OK)
		return status;
	for (uint64_t at = 0; gmm__vm_part(vm, range.gfn + at, range.pages - at, &part); at += part.pages)
		for (uint32_t i = part.first; i < part.first + part.pages; i++)
			pages[gmm__slot_state(part.slot, i)]++;
	gmm__vm_release(vm);
	memcpy(ret_state_pages, pages, sizeof pages);
	return GMM_OK;
}
