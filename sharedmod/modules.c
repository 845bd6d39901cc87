/* Guest modules: the public calls that register and check them. What guests say is checked here: nothing of it is
 * believed, and all of it is bounded.
 */
#include <gmm/modules.h>

#include <string.h>

#include "dedup/errand.h"
#include "dedup/fork.h"
#include "gmm/counts.h"
#include "sharedmod/check.h"

#define GFN_MAX UINT64_C(0xfffffff0)

static int check_vm(const struct gmm_vm *vm)
{
	if (!vm)
		return GMM_ERR_INVALID_PARAMETER;
	return gmm__fork_is_home(vm->gmm) ? GMM_OK : GMM_ERR_WRONG_PROCESS;
}

/* The instance's registry; NULL before the first registration. */
static struct gmm__registry *registry_of(struct gmm *gmm)
{
	return atomic_load(&gmm->module_hooks) ? gmm->registry : NULL;
}

/* ---- what a guest says ------------------------------------------------------------------------------------------ */

void gmm_module_init(struct gmm_module *module)
{
	*module = (struct gmm_module){ .struct_size = sizeof *module };
}

static int check_module(const struct gmm_module *m)
{
	if (!m || m->struct_size != sizeof *m || (unsigned)m->os >= GMM_OS_FAMILIES || !m->name || !m->name[0] ||
	    !m->regions || m->n_regions == 0 || (m->cpu != NULL) == (m->runs != NULL))
		return GMM_ERR_INVALID_PARAMETER;
	if (strnlen(m->name, GMM_MODULE_NAME_MAX + 1) > GMM_MODULE_NAME_MAX)
		return GMM_ERR_NAME_TOO_LONG;
	if (m->version && strnlen(m->version, GMM_MODULE_VERSION_MAX + 1) > GMM_MODULE_VERSION_MAX)
		return GMM_ERR_VERSION_TOO_LONG;
	if (m->size == 0 || m->size > GMM_MODULE_BYTES_MAX || m->base + (m->size - 1) < m->base)
		return GMM_ERR_BAD_MODULE_SIZE;
	return m->n_regions <= GMM_MODULE_REGIONS_MAX ? GMM_OK : GMM_ERR_TOO_MANY_REGIONS;
}

/* Fills in the key and the addresses. *ret_pages is what the regions have together. */
static int take_regions(const struct gmm_module *m, struct gmm__module_key *key, struct gmm__module_record *record,
			uint32_t *ret_pages)
{
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < m->n_regions; i++) {
		const struct gmm_module_region *r = &m->regions[i];
		uint64_t offset = r->addr % GMM__PAGE_BYTES;
		if (r->size == 0 || r->size > GMM_MODULE_BYTES_MAX || r->addr + (r->size - 1) < r->addr)
			return GMM_ERR_BAD_REGIONS_SIZE;
		uint64_t pages = (offset + r->size + GMM__PAGE_BYTES - 1) / GMM__PAGE_BYTES;
		bytes += pages * GMM__PAGE_BYTES;
		key->region[i].offset = (uint32_t)offset;
		key->region[i].pages = (uint32_t)pages;
		record->region_addr[i] = r->addr - offset;
	}
	*ret_pages = (uint32_t)(bytes / GMM__PAGE_BYTES);
	return bytes <= GMM_MODULE_BYTES_MAX ? GMM_OK : GMM_ERR_BAD_REGIONS_SIZE;
}

static int check_run(const struct gmm_page_run *run, uint64_t pages_left)
{
	if (run->pages == 0 || run->pages > pages_left)
		return GMM_ERR_BAD_REGIONS_SIZE;
	if (run->guest_addr == GMM_NO_PAGES)
		return GMM_OK;
	if (run->guest_addr % GMM__PAGE_BYTES != 0)
		return GMM_ERR_MISALIGNED;
	return run->guest_addr / GMM__PAGE_BYTES + run->pages <= GFN_MAX ? GMM_OK : GMM_ERR_INVALID_PARAMETER;
}

static int take_runs(struct gmm__registry *registry, const struct gmm_module *m, uint32_t pages,
		     struct gmm__module_record *record)
{
	uint32_t start = 0;

	if (m->n_runs == 0 || m->n_runs > pages)
		return GMM_ERR_BAD_REGIONS_SIZE;
	record->n_runs = (uint32_t)m->n_runs;
	record->runs = gmm__mem_alloc(registry->mem, m->n_runs * sizeof *record->runs);
	if (!record->runs)
		return GMM_ERR_NO_MEMORY;
	for (uint32_t i = 0; i < record->n_runs; i++) {
		int status = check_run(&m->runs[i], pages - start);
		if (status != GMM_OK)
			return status;
		bool absent = m->runs[i].guest_addr == GMM_NO_PAGES;
		record->runs[i].start = start;
		record->runs[i].gfn = absent ? GMM__NO_GFN : (uint32_t)(m->runs[i].guest_addr / GMM__PAGE_BYTES);
		start += (uint32_t)m->runs[i].pages;
	}
	return start == pages ? GMM_OK : GMM_ERR_BAD_REGIONS_SIZE;
}

/* Fills in a record and its key from what a guest says. */
static int take_module(struct gmm__registry *registry, const struct gmm_module *m, struct gmm__module_key *key,
		       struct gmm__module_record *record)
{
	uint32_t pages;

	key->size = m->size;
	key->os = m->os;
	key->n_regions = m->n_regions;
	strcpy(key->name, m->name);
	if (m->version)
		strcpy(key->version, m->version);
	record->base = m->base;
	int status = take_regions(m, key, record, &pages);
	if (status == GMM_OK && m->runs)
		status = take_runs(registry, m, pages, record);
	if (m->cpu)
		record->cpu = (struct gmm__walk_cpu){ m->cpu->cr0, m->cpu->cr3, m->cpu->cr4, m->cpu->efer,
						      m->cpu->phys_bits };
	return status;
}

int gmm_module_register(struct gmm_vm *vm, const struct gmm_module *module)
{
	struct gmm__module_key key;

	int status = check_vm(vm);
	if (status == GMM_OK)
		status = check_module(module);
	if (status != GMM_OK)
		return status;
	struct gmm__registry *registry = gmm__registry_make(vm->gmm, &gmm__check_hooks);
	struct gmm__module_record *record = registry ? gmm__mem_alloc(registry->mem, sizeof *record) : NULL;
	if (!record)
		return GMM_ERR_NO_MEMORY;
	record->vm = vm;
	memset(&key, 0, sizeof key); /* padding and unused bytes are compared too */
	status = take_module(registry, module, &key, record);
	if (status != GMM_OK) {
		gmm__registry_free_record(registry, record);
		return status;
	}
	status = gmm__registry_add(registry, &key, record);
	if (status >= 0 && registry->due)
		gmm__engine_disturb(vm->gmm);
	return status;
}

int gmm_module_unregister(struct gmm_vm *vm, uint64_t base)
{
	int status = check_vm(vm);
	if (status != GMM_OK)
		return status;
	struct gmm__registry *registry = registry_of(vm->gmm);
	return registry ? gmm__registry_remove(registry, vm, base) : GMM_ERR_NOT_FOUND;
}

int gmm_modules_reset(struct gmm_vm *vm)
{
	int status = check_vm(vm);
	if (status != GMM_OK)
		return status;
	struct gmm__registry *registry = registry_of(vm->gmm);
	if (registry)
		gmm__registry_remove_all(registry, vm);
	return GMM_OK;
}

/* ---- checks ------------------------------------------------------------------------------------------------------- */

struct check {
	struct gmm__module_record *record;
	uint32_t first;
	unsigned flags;
	struct gmm_module_checked counts;
	bool here;
};

static void run_slice(void *arg, const struct gmm__merge *merge)
{
	struct check *check = arg;

	check->here = gmm__check_slice(merge, check->record, check->first, check->flags, &check->counts);
}

/* Checks the record at a base, if there is one. */
static int check_record(struct gmm_vm *vm, uint64_t base, unsigned flags, struct gmm_module_checked *total)
{
	struct gmm__registry *registry = registry_of(vm->gmm);
	struct check check = { .record = registry ? gmm__registry_hold(registry, vm, base) : NULL, .flags = flags };

	if (!check.record)
		return GMM_ERR_NOT_FOUND;
	check.here = true;
	for (; check.here && check.first < check.record->module->pages.pages; check.first += GMM__CHECK_PAGES)
		gmm__errand_call(vm->gmm, run_slice, &check);
	gmm__registry_let_go(registry, check.record);
	gmm__counts_add(total, &check.counts, sizeof *total);
	return check.here ? GMM_OK : GMM_ERR_WRONG_ORDER;
}

static int check_arguments(const struct gmm *gmm, unsigned flags)
{
	if (!gmm || flags & ~(unsigned)GMM_CHECK_PROMOTE)
		return GMM_ERR_INVALID_PARAMETER;
	if (!gmm__fork_is_home(gmm))
		return GMM_ERR_WRONG_PROCESS;
	return GMM_OK;
}

int gmm_module_check(struct gmm_vm *vm, uint64_t base, unsigned flags, struct gmm_module_checked *ret_checked)
{
	struct gmm_module_checked counts = { 0 };

	int status = check_arguments(vm ? vm->gmm : NULL, flags);
	if (status == GMM_OK)
		status = check_record(vm, base, flags, &counts);
	if (status == GMM_OK && ret_checked)
		*ret_checked = counts;
	return status;
}

/* Checks all records that the VM has now; those that go meanwhile are left out. */
static int check_records(struct gmm_vm *vm, unsigned flags, struct gmm_module_checked *total)
{
	struct gmm__registry *registry = registry_of(vm->gmm);
	size_t bytes = GMM_MODULE_VM_MAX * sizeof(uint64_t);
	uint64_t *base = gmm__mem_alloc(&vm->gmm->mem, bytes);
	int status = base ? GMM_OK : GMM_ERR_NO_MEMORY;
	uint32_t n = base && registry ? gmm__registry_bases(registry, vm, base) : 0;

	for (uint32_t i = 0; i < n && status == GMM_OK; i++) {
		status = check_record(vm, base[i], flags, total);
		if (status == GMM_ERR_NOT_FOUND)
			status = GMM_OK;
	}
	gmm__mem_free(&vm->gmm->mem, base, bytes);
	return status;
}

int gmm_modules_check_vm(struct gmm_vm *vm, unsigned flags, struct gmm_module_checked *ret_checked)
{
	struct gmm_module_checked counts = { 0 };

	int status = check_arguments(vm ? vm->gmm : NULL, flags);
	if (status == GMM_OK)
		status = check_records(vm, flags, &counts);
	if (status == GMM_OK && ret_checked)
		*ret_checked = counts;
	return status;
}

/* The VM after `last`, which is not freed while it is visited; NULL at the end. Ends the visit of `last`. */
static struct gmm_vm *next_vm(struct gmm *gmm, struct gmm_vm *last)
{
	gmm__lock_take(&gmm->lock);
	struct gmm_vm *vm = last ? last->next : gmm->vms;
	while (vm && vm->dead)
		vm = vm->next;
	if (vm)
		vm->visits++;
	if (last) {
		last->visits--;
		pthread_cond_broadcast(&gmm->changed);
	}
	gmm__lock_give(&gmm->lock);
	return vm;
}

int gmm_modules_check_all(struct gmm *gmm, unsigned flags, struct gmm_module_checked *ret_checked)
{
	struct gmm_module_checked counts = { 0 };

	int status = check_arguments(gmm, flags);
	if (status != GMM_OK)
		return status;
	for (struct gmm_vm *vm = next_vm(gmm, NULL); vm; vm = next_vm(gmm, vm)) {
		int checked = check_records(vm, flags, &counts);
		if (checked != GMM_OK && checked != GMM_ERR_WRONG_ORDER) /* a VM may go meanwhile */
			status = checked;
	}
	if (status == GMM_OK && ret_checked)
		*ret_checked = counts;
	return status;
}
