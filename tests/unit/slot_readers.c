/* Whoever goes over the slots of all VMs under RCU, as a client of the service does, may come across a VM that is ending:
 * it must not find a slot there that has been freed. Each free is looked at from the inside, at its worst moment. */
#include <stdlib.h>
#include <urcu/urcu-bp.h>

#include "dedup/instance.h"
#include "gmm/instance.h"
#include "tests/unit/support/unit.h"

enum { SLOTS = 5, SLOT_BYTES = 16 * GMM__PAGE_BYTES };

static struct gmm *gmm;
static struct gmm__sys sys;
static int frees, found;

static void free_and_look(void *p)
{
	frees++;
	for (const struct gmm_vm *vm = gmm ? gmm->vms : NULL; vm; vm = vm->next) {
		const struct gmm__slots *slots = rcu_dereference(vm->slots);
		found += slots == p;
		for (uint32_t i = 0; slots != p && i < slots->n; i++)
			found += slots->slot[i] == p;
	}
	free(p);
}

static struct gmm_vm *open_vm(void)
{
	struct gmm_options options;
	struct gmm_vm_options vm_options;
	struct gmm_vm *vm;
	void *ram;

	sys = *gmm__sys_linux();
	sys.free = free_and_look;
	gmm_options_init(&options);
	ck_assert_int_eq(gmm__instance_open(&options, &sys, &gmm), GMM_OK);
	gmm_vm_options_init(&vm_options);
	ck_assert_int_eq(gmm_vm_create(gmm, &vm_options, &vm), GMM_OK);
	for (uint64_t i = 0; i < SLOTS; i++)
		ck_assert_int_eq(gmm_vm_create_ram(vm, i * SLOT_BYTES, SLOT_BYTES, &ram), GMM_OK);
	return vm;
}

static void close_gmm(void)
{
	struct gmm *closed = gmm;

	gmm = NULL; /* nobody looks any more */
	ck_assert_int_eq(gmm_instance_close(closed), GMM_OK);
}

START_TEST(an_ending_vm_shows_no_freed_slot)
{
	struct gmm_vm *vm = open_vm();

	frees = 0;
	ck_assert_int_eq(gmm_vm_destroy(vm, GMM_RAM_DISCARD), GMM_OK);
	ck_assert_int_gt(frees, SLOTS);
	ck_assert_int_eq(found, 0);
	close_gmm();
}
END_TEST

START_TEST(nor_does_one_that_loses_ram)
{
	struct gmm_vm *vm = open_vm();

	frees = 0;
	for (uint64_t i = 0; i < SLOTS; i++)
		ck_assert_int_eq(gmm_vm_remove_ram(vm, i * SLOT_BYTES, GMM_RAM_DISCARD), GMM_OK);
	ck_assert_int_gt(frees, SLOTS);
	ck_assert_int_eq(found, 0);
	ck_assert_int_eq(gmm_vm_destroy(vm, GMM_RAM_DISCARD), GMM_OK);
	close_gmm();
}
END_TEST

int main(void)
{
	const TTest *const tests[] = { an_ending_vm_shows_no_freed_slot, nor_does_one_that_loses_ram };

	return unit_main("slot_readers", tests, sizeof tests / sizeof *tests);
}
