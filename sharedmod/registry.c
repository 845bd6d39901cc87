/* Registry: tables, limits, and the lives of modules and records; see registry.h. */
#include "sharedmod/registry.h"

#include <string.h>
#include <xxhash.h>


/* Buckets are made once: a table that resizes itself needs a thread. Freeing waits for so many to free. */
enum { MODULE_BUCKETS = 4096, RECORD_BUCKETS = 8192, RETIRED_MAX = 64, RETRY_PASSES = 8 };

/* A pass checks as many pages of a VM as its domain has RAM, and so many more. */
enum { PASS_PAGES_MIN = 64 * 1024 };

static const size_t tables_bytes = (MODULE_BUCKETS + RECORD_BUCKETS) * sizeof(struct cds_lfht_node);

/* ---- keys ------------------------------------------------------------------------------------------------- */

struct module_wanted {
	const struct gmm__domain *domain;
	const struct gmm__module_key *key;
};

struct record_wanted {
	const struct gmm_vm *vm;
	uint64_t base;
};

/* Guests choose what is hashed, so a secret says where it ends up. Not the domain's: a sharing service may change that. */
static uint64_t hash(const struct gmm__registry *registry, const void *bytes, size_t size)
{
	return XXH3_64bits_withSecret(bytes, size, registry->secret, sizeof registry->secret);
}

static uint64_t hash_record(const struct gmm__registry *registry, const struct gmm_vm *vm, uint64_t base)
{
	uint64_t key[2] = { vm->number, base };

	return hash(registry, key, sizeof key);
}

static struct gmm__module *module_of(struct cds_lfht_node *node)
{
	return node ? caa_container_of(node, struct gmm__module, node) : NULL;
}

static struct gmm__module_record *record_of(struct cds_lfht_node *node)
{
	return node ? caa_container_of(node, struct gmm__module_record, node) : NULL;
}

static int match_module(struct cds_lfht_node *node, const void *arg)
{
	const struct gmm__module *module = module_of(node);
	const struct module_wanted *wanted = arg;

	return module->pages.domain == wanted->domain && memcmp(&module->key, wanted->key, sizeof module->key) == 0;
}

static int match_record(struct cds_lfht_node *node, const void *arg)
{
	const struct gmm__module_record *record = record_of(node);
	const struct record_wanted *wanted = arg;

	return record->vm == wanted->vm && record->base == wanted->base;
}

static struct gmm__module *find_module(struct gmm__registry *registry, const struct gmm__domain *domain,
				       const struct gmm__module_key *key)
{
	struct module_wanted wanted = { domain, key };
	struct cds_lfht_iter found;

	cds_lfht_lookup(registry->modules, hash(registry, key, sizeof *key), match_module, &wanted, &found);
	return module_of(cds_lfht_iter_get_node(&found));
}

struct gmm__module_record *gmm__registry_find(struct gmm__registry *registry, const struct gmm_vm *vm, uint64_t base)
{
	struct record_wanted wanted = { vm, base };
	struct cds_lfht_iter found;

	cds_lfht_lookup(registry->records, hash_record(registry, vm, base), match_record, &wanted, &found);
	return record_of(cds_lfht_iter_get_node(&found));
}

void gmm__registry_for_each(struct gmm__registry *registry, void (*see)(void *arg, struct gmm__module *module),
			    void *arg)
{
	struct cds_lfht_iter at;

	urcu_bp_read_lock();
	for (cds_lfht_first(registry->modules, &at); cds_lfht_iter_get_node(&at); cds_lfht_next(registry->modules, &at))
		see(arg, module_of(cds_lfht_iter_get_node(&at)));
	urcu_bp_read_unlock();
}

/* ---- making and ending ---------------------------------------------------------------------------------------- */

static struct gmm__registry *new_registry(struct gmm *gmm)
{
	struct gmm__registry *registry = gmm__mem_alloc(&gmm->mem, sizeof *registry);

	if (!registry)
		return NULL;
	registry->gmm = gmm;
	registry->mem = &gmm->mem;
	if (gmm__sys_of(gmm)->random(registry->secret, sizeof registry->secret) != 0) {
		gmm__mem_free(&gmm->mem, registry, sizeof *registry);
		return NULL;
	}
	gmm__lock_init(&registry->lock, GMM__RANK_MODULES);
	registry->modules = cds_lfht_new_flavor(MODULE_BUCKETS, MODULE_BUCKETS, MODULE_BUCKETS, 0, &urcu_bp_flavor, NULL);
	registry->records = cds_lfht_new_flavor(RECORD_BUCKETS, RECORD_BUCKETS, RECORD_BUCKETS, 0, &urcu_bp_flavor, NULL);
	gmm__mem_count(&gmm->mem, (ptrdiff_t)tables_bytes);
	if (registry->modules && registry->records)
		return registry;
	gmm__registry_destroy(registry);
	return NULL;
}

struct gmm__registry *gmm__registry_make(struct gmm *gmm, const struct gmm__module_hooks *hooks)
{
	if (atomic_load(&gmm->module_hooks))
		return gmm->registry;
	struct gmm__registry *made = new_registry(gmm), *unused = made;

	gmm__lock_take(&gmm->lock);
	if (!gmm->registry && made) {
		gmm->registry = made;
		atomic_store(&gmm->module_hooks, hooks);
		unused = NULL;
	}
	struct gmm__registry *registry = gmm->registry;
	gmm__lock_give(&gmm->lock);
	if (unused)
		gmm__registry_destroy(unused);
	return registry;
}

void gmm__registry_free_record(struct gmm__registry *registry, struct gmm__module_record *record)
{
	gmm__mem_free(registry->mem, record->runs, record->n_runs * sizeof *record->runs);
	gmm__mem_free(registry->mem, record, sizeof *record);
}

static void free_module(struct gmm__registry *registry, struct gmm__module *module)
{
	gmm__pages_free(registry->mem, &module->pages);
	gmm__mem_free(registry->mem, module, sizeof *module);
}

/* Frees what was retired, after a grace period; not so few that each would wait for one. Without the lock. */
static void reap(struct gmm__registry *registry, uint32_t at_least)
{
	gmm__lock_take(&registry->lock);
	bool enough = registry->n_retired > 0 && registry->n_retired >= at_least;
	struct gmm__module *modules = enough ? registry->retired_modules : NULL;
	struct gmm__module_record *records = enough ? registry->retired_records : NULL;
	if (enough) {
		registry->retired_modules = NULL;
		registry->retired_records = NULL;
		registry->n_retired = 0;
	}
	gmm__lock_give(&registry->lock);
	if (!enough)
		return;
	urcu_bp_synchronize_rcu();
	while (records) {
		struct gmm__module_record *next = records->retired;
		gmm__registry_free_record(registry, records);
		records = next;
	}
	while (modules) {
		struct gmm__module *next = modules->retired;
		free_module(registry, modules);
		modules = next;
	}
}

void gmm__registry_destroy(struct gmm__registry *registry)
{
	reap(registry, 0);
	if (registry->modules)
		cds_lfht_destroy(registry->modules, NULL);
	if (registry->records)
		cds_lfht_destroy(registry->records, NULL);
	gmm__mem_count(registry->mem, -(ptrdiff_t)tables_bytes);
	gmm__lock_destroy(&registry->lock);
	gmm__mem_free(registry->mem, registry, sizeof *registry);
}

/* ---- modules, with the lock ------------------------------------------------------------------------------------- */

static void retire_module(struct gmm__registry *registry, struct gmm__module *module)
{
	module->retired = registry->retired_modules;
	registry->retired_modules = module;
	registry->n_retired++;
}

static void leave_idle(struct gmm__registry *registry, struct gmm__module *module)
{
	*(module->idle_last ? &module->idle_last->idle_next : &registry->idle) = module->idle_next;
	*(module->idle_next ? &module->idle_next->idle_last : &registry->idle_end) = module->idle_last;
	module->idle_next = module->idle_last = NULL;
}

static void become_idle(struct gmm__registry *registry, struct gmm__module *module)
{
	module->idle_last = registry->idle_end;
	*(registry->idle_end ? &registry->idle_end->idle_next : &registry->idle) = module;
	registry->idle_end = module;
}

/* Takes an idle module out of the table. */
static void forget_module(struct gmm__registry *registry, struct gmm__module *module)
{
	leave_idle(registry, module);
	urcu_bp_read_lock();
	cds_lfht_del(registry->modules, &module->node);
	urcu_bp_read_unlock();
	module->listed = false;
	registry->n_modules--;
	if (module->refs == 0)
		retire_module(registry, module);
}

static void unref_module(struct gmm__registry *registry, struct gmm__module *module)
{
	if (--module->refs == 0 && !module->listed)
		retire_module(registry, module);
}

static struct gmm__module *list_module(struct gmm__registry *registry, struct gmm__domain *domain,
				       const struct gmm__module_key *key)
{
	struct gmm__module *module = gmm__mem_alloc(registry->mem, sizeof *module);

	if (!module)
		return NULL;
	module->key = *key;
	module->pages.domain = domain;
	for (uint32_t i = 0; i < key->n_regions; i++)
		module->pages.pages += key->region[i].pages;
	module->listed = true;
	registry->n_modules++;
	become_idle(registry, module);
	cds_lfht_node_init(&module->node);
	urcu_bp_read_lock();
	cds_lfht_add(registry->modules, hash(registry, key, sizeof *key), &module->node);
	urcu_bp_read_unlock();
	return module;
}

/* The module with a key, made if need be. 0 or a status. */
static int get_module(struct gmm__registry *registry, struct gmm__domain *domain, const struct gmm__module_key *key,
		      struct gmm__module **ret_module)
{
	urcu_bp_read_lock(); /* the lock keeps what is found */
	struct gmm__module *module = find_module(registry, domain, key);
	urcu_bp_read_unlock();
	if (!module && registry->n_modules >= GMM_MODULE_MAX) {
		if (!registry->idle)
			return GMM_ERR_TOO_MANY_GLOBAL;
		forget_module(registry, registry->idle);
	}
	if (!module)
		module = list_module(registry, domain, key);
	*ret_module = module;
	return module ? GMM_OK : GMM_ERR_NO_MEMORY;
}

void gmm__registry_sweep(struct gmm__registry *registry)
{
	struct gmm__module *next;

	gmm__lock_take(&registry->lock);
	for (struct gmm__module *module = registry->idle; module; module = next) {
		next = module->idle_next;
		if (!gmm__pages_alive(&module->pages))
			forget_module(registry, module);
	}
	gmm__lock_give(&registry->lock);
	reap(registry, RETIRED_MAX);
}

void gmm__registry_end_domain(struct gmm__registry *registry, const struct gmm__domain *domain)
{
	struct gmm__module *next;

	gmm__lock_take(&registry->lock);
	for (struct gmm__module *module = registry->idle; module; module = next) {
		next = module->idle_next;
		if (module->pages.domain == domain)
			forget_module(registry, module);
	}
	gmm__lock_give(&registry->lock);
	reap(registry, 0); /* their tables' bytes are counted in the domain */
}

/* ---- records, with the lock --------------------------------------------------------------------------------------- */

static void link_record(struct gmm__registry *registry, struct gmm__module_record *record)
{
	struct gmm__vm_modules *of_vm = record->vm->modules;
	struct gmm__module *module = record->module;

	record->next = of_vm->records;
	if (record->next)
		record->next->last = record;
	of_vm->records = record;
	of_vm->n++;
	of_vm->runs += record->n_runs;
	record->refs = 1;
	module->refs++;
	if (module->users == 0)
		leave_idle(registry, module);
	if (++module->users >= gmm__registry_users_min(registry))
		registry->due = true;
}

static void unref_record(struct gmm__registry *registry, struct gmm__module_record *record)
{
	if (--record->refs > 0)
		return;
	unref_module(registry, record->module);
	record->retired = registry->retired_records;
	registry->retired_records = record;
	registry->n_retired++;
}

/* Takes it out of the VM's list; the table is the caller's to change. A module that nobody uses and of which nothing is
 * shared is forgotten. */
static void unlink_record(struct gmm__registry *registry, struct gmm__module_record *record)
{
	struct gmm__vm_modules *of_vm = record->vm->modules;
	struct gmm__module *module = record->module;

	if (of_vm->cursor == record)
		of_vm->cursor = record->next;
	*(record->last ? &record->last->next : &of_vm->records) = record->next;
	if (record->next)
		record->next->last = record->last;
	of_vm->n--;
	of_vm->runs -= record->n_runs;
	if (--module->users == 0) {
		become_idle(registry, module);
		if (!gmm__pages_alive(&module->pages))
			forget_module(registry, module);
	}
	unref_record(registry, record);
}

static void remove_record(struct gmm__registry *registry, struct gmm__module_record *record)
{
	urcu_bp_read_lock();
	cds_lfht_del(registry->records, &record->node);
	urcu_bp_read_unlock();
	unlink_record(registry, record);
}

/* The record at the same base, kept by the lock. */
static struct gmm__module_record *find_locked(struct gmm__registry *registry, const struct gmm_vm *vm, uint64_t base)
{
	urcu_bp_read_lock();
	struct gmm__module_record *record = gmm__registry_find(registry, vm, base);
	urcu_bp_read_unlock();
	return record;
}

/* A record in the place of another of the same module: readers find either. */
static void replace_record(struct gmm__registry *registry, struct gmm__module_record *old,
			   struct gmm__module_record *record)
{
	struct record_wanted wanted = { record->vm, record->base };
	struct cds_lfht_iter found;
	uint64_t at = hash_record(registry, record->vm, record->base);

	urcu_bp_read_lock();
	cds_lfht_lookup(registry->records, at, match_record, &wanted, &found);
	cds_lfht_replace(registry->records, &found, at, match_record, &wanted, &record->node);
	urcu_bp_read_unlock();
	record->module = old->module;
	link_record(registry, record);
	unlink_record(registry, old);
}

static void insert_record(struct gmm__registry *registry, struct gmm__module_record *record)
{
	link_record(registry, record);
	urcu_bp_read_lock();
	cds_lfht_add(registry->records, hash_record(registry, record->vm, record->base), &record->node);
	urcu_bp_read_unlock();
}

/* 0, GMM_ALREADY_REGISTERED, or a failure, and then the record is still the caller's. */
static int add_locked(struct gmm__registry *registry, const struct gmm__module_key *key,
		      struct gmm__module_record *record)
{
	struct gmm_vm *vm = record->vm;
	struct gmm__module_record *old = find_locked(registry, vm, record->base);

	if (!vm->modules && !(vm->modules = gmm__mem_alloc(registry->mem, sizeof *vm->modules)))
		return GMM_ERR_NO_MEMORY;
	if (old && memcmp(&old->module->key, key, sizeof *key) != 0)
		return GMM_ERR_ADDRESS_CLASH;
	if (vm->modules->runs - (old ? old->n_runs : 0) + record->n_runs > GMM_MODULE_VM_RUNS_MAX)
		return GMM_ERR_LIMIT;
	if (old) {
		replace_record(registry, old, record);
		return GMM_ALREADY_REGISTERED;
	}
	if (vm->modules->n >= GMM_MODULE_VM_MAX)
		return GMM_ERR_TOO_MANY_PER_VM;
	int status = get_module(registry, vm->domain, key, &record->module);
	if (status == GMM_OK)
		insert_record(registry, record);
	return status;
}

int gmm__registry_add(struct gmm__registry *registry, const struct gmm__module_key *key,
		      struct gmm__module_record *record)
{
	cds_lfht_node_init(&record->node);
	gmm__lock_take(&registry->lock);
	int status = add_locked(registry, key, record);
	gmm__lock_give(&registry->lock);
	if (status < 0)
		gmm__registry_free_record(registry, record);
	reap(registry, RETIRED_MAX);
	return status;
}

int gmm__registry_remove(struct gmm__registry *registry, struct gmm_vm *vm, uint64_t base)
{
	gmm__lock_take(&registry->lock);
	struct gmm__module_record *record = find_locked(registry, vm, base);
	if (record)
		remove_record(registry, record);
	gmm__lock_give(&registry->lock);
	reap(registry, RETIRED_MAX);
	return record ? GMM_OK : GMM_ERR_NOT_FOUND;
}

void gmm__registry_remove_all(struct gmm__registry *registry, struct gmm_vm *vm)
{
	gmm__lock_take(&registry->lock);
	while (vm->modules && vm->modules->records)
		remove_record(registry, vm->modules->records);
	gmm__lock_give(&registry->lock);
	reap(registry, RETIRED_MAX);
}

void gmm__registry_end_vm(struct gmm__registry *registry, struct gmm_vm *vm)
{
	gmm__registry_remove_all(registry, vm);
	gmm__mem_free(registry->mem, vm->modules, sizeof *vm->modules);
	vm->modules = NULL;
}

/* ---- holding -------------------------------------------------------------------------------------------------------- */

struct gmm__module_record *gmm__registry_hold(struct gmm__registry *registry, const struct gmm_vm *vm, uint64_t base)
{
	gmm__lock_take(&registry->lock);
	struct gmm__module_record *record = find_locked(registry, vm, base);
	if (record)
		record->refs++;
	gmm__lock_give(&registry->lock);
	return record;
}

void gmm__registry_let_go(struct gmm__registry *registry, struct gmm__module_record *record)
{
	gmm__lock_take(&registry->lock);
	unref_record(registry, record);
	gmm__lock_give(&registry->lock);
}

uint32_t gmm__registry_bases(struct gmm__registry *registry, const struct gmm_vm *vm, uint64_t *ret_base)
{
	uint32_t n = 0;

	gmm__lock_take(&registry->lock);
	for (const struct gmm__module_record *r = vm->modules ? vm->modules->records : NULL; r; r = r->next)
		ret_base[n++] = r->base;
	gmm__lock_give(&registry->lock);
	return n;
}

bool gmm__registry_begin_pass(struct gmm__registry *registry)
{
	bool retry = (atomic_fetch_add(&registry->begun, 1) + 1) % RETRY_PASSES == 0;

	if (!atomic_exchange(&registry->due, false) && !retry)
		return false;
	atomic_store(&registry->retry, retry);
	atomic_fetch_add(&registry->pass, 1);
	return true;
}

struct gmm__module_record *gmm__registry_hold_due(struct gmm__registry *registry, struct gmm_vm *vm)
{
	gmm__lock_take(&registry->lock);
	struct gmm__vm_modules *of_vm = vm->modules;
	if (of_vm && of_vm->pass != registry->pass) {
		of_vm->pass = registry->pass;
		of_vm->pages_left = PASS_PAGES_MIN + vm->domain->pages;
		of_vm->cursor = of_vm->records;
	}
	struct gmm__module_record *record = of_vm ? of_vm->cursor : NULL;
	while (record && (record->module->users < gmm__registry_users_min(registry) ||
			  (record->checked && !(registry->retry && record->incomplete) && record->next_page == 0)))
		record = record->next;
	if (of_vm)
		of_vm->cursor = record;
	if (record && of_vm->pages_left == 0) { /* the rest is for the next pass */
		registry->due = true;
		record = NULL;
	}
	if (record)
		record->refs++;
	gmm__lock_give(&registry->lock);
	return record;
}

void gmm__registry_set_checked(struct gmm__registry *registry, struct gmm__module_record *record, uint32_t next_page,
			       bool complete, bool again)
{
	gmm__lock_take(&registry->lock);
	struct gmm__vm_modules *of_vm = record->vm->modules;
	bool first = record->next_page == 0;
	uint32_t done = next_page - record->next_page;
	of_vm->pages_left = of_vm->pages_left > done ? of_vm->pages_left - done : 0;
	record->incomplete = (!first && record->incomplete) || !complete;
	record->missed = (!first && record->missed) || again;
	record->next_page = next_page < record->module->pages.pages ? next_page : 0;
	if (record->next_page == 0) {
		record->checked = !record->missed;
		if (record->missed)
			registry->due = true;
		if (of_vm->cursor == record)
			of_vm->cursor = record->next;
	}
	unref_record(registry, record);
	gmm__lock_give(&registry->lock);
}
