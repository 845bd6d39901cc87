/* Guest modules: the public calls that look. They take no lock of the registry. */
#include <string.h>

#include "dedup/fork.h"
#include "sharedmod/registry.h"

static struct gmm__registry *registry_of(struct gmm *gmm)
{
	return atomic_load(&gmm->module_hooks) ? gmm->registry : NULL;
}

static void describe(const struct gmm__module *module, struct gmm_module_info *info)
{
	const struct gmm__module_key *key = &module->key;
	struct gmm__pages_count count = gmm__pages_count(&module->pages);

	memset(info, 0, sizeof *info);
	strcpy(info->name, key->name);
	strcpy(info->version, key->version);
	strcpy(info->domain, module->pages.domain->name);
	info->os = (enum gmm_os_family)key->os;
	info->regions = key->n_regions;
	info->size = key->size;
	info->pages = module->pages.pages;
	info->users = module->users;
	info->shared_pages = count.shared;
	info->variants = count.variants;
	info->references = count.references;
	info->saved_pages = count.references - count.shared;
}

int gmm_module_find(struct gmm_vm *vm, uint64_t base, struct gmm_module_info *ret_info)
{
	if (!vm || !ret_info)
		return GMM_ERR_INVALID_PARAMETER;
	if (!gmm__fork_is_home(vm->gmm))
		return GMM_ERR_WRONG_PROCESS;
	struct gmm__registry *registry = registry_of(vm->gmm);
	if (!registry)
		return GMM_ERR_NOT_FOUND;
	urcu_bp_read_lock();
	struct gmm__module_record *record = gmm__registry_find(registry, vm, base);
	if (record)
		describe(record->module, ret_info);
	urcu_bp_read_unlock();
	return record ? GMM_OK : GMM_ERR_NOT_FOUND;
}

struct list {
	struct gmm_module_info *infos;
	size_t max;
	size_t count;
};

static void add_to_list(void *arg, struct gmm__module *module)
{
	struct list *list = arg;

	if (list->count++ < list->max)
		describe(module, &list->infos[list->count - 1]);
}

int gmm_modules_list(struct gmm *gmm, struct gmm_module_info *ret_infos, size_t max, size_t *ret_count)
{
	struct list list = { ret_infos, max, 0 };

	if (!gmm || !ret_count || (max > 0 && !ret_infos))
		return GMM_ERR_INVALID_PARAMETER;
	if (!gmm__fork_is_home(gmm))
		return GMM_ERR_WRONG_PROCESS;
	struct gmm__registry *registry = registry_of(gmm);
	if (registry)
		gmm__registry_for_each(registry, add_to_list, &list);
	*ret_count = list.count;
	return GMM_OK;
}

const char *gmm_os_family_name(enum gmm_os_family os)
{
	static const char *const names[GMM_OS_FAMILIES] = {
		[GMM_OS_OTHER] = "other", [GMM_OS_LINUX] = "linux", [GMM_OS_WINDOWS] = "windows", [GMM_OS_BSD] = "bsd",
	};

	return (unsigned)os < GMM_OS_FAMILIES ? names[os] : "unknown";
}
