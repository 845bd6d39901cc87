/* Instances, VMs and trust domains: opening, closing, statistics. The public calls of gmm.h that are about them. */
#include "dedup/instance.h"

#include <gmm/balloon.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <urcu/urcu-bp.h>

#include "dedup/catalog.h"
#include "dedup/engine.h"
#include "dedup/profit.h"
#include "dedup/settle.h"
#include "dedup/fork.h"
#include "dedup/mapped.h"
#include "dedup/remote.h"
#include "gmm/counts.h"
#include "gmm/paged.h"

enum { VM_MAX = 65535 };

/* What every call on an instance checks first. */
static int check_instance(const struct gmm *gmm)
{
	if (!gmm)
		return GMM_ERR_INVALID_PARAMETER;
	return gmm__fork_is_home(gmm) ? GMM_OK : GMM_ERR_WRONG_PROCESS;
}

/* ---- open and close ----------------------------------------------------------------------------------------------- */

void gmm_options_init(struct gmm_options *options)
{
	*options = (struct gmm_options){ .struct_size = sizeof *options, .window_ms = 2000, .pass_interval_ms = 2000,
					 .cpu_percent = 20, .wait_bound_us = 200 };
}

static int check_host(struct gmm *gmm)
{
	const struct gmm__sys *sys = gmm__sys_of(gmm);
	char why[256] = "";
	int rc = gmm__sys_check_features(sys, why, sizeof why);

	if (rc != 0)
		gmm__log(gmm, GMM_LOG_ERROR, "page sharing is not possible on this host: %s", why);
	if (rc == -EPERM || rc == -EACCES)
		return GMM_ERR_NO_PERMISSION;
	if (rc == -EOPNOTSUPP || rc == -ENOSYS)
		return GMM_ERR_UNSUPPORTED_KERNEL;
	if (rc != 0)
		return rc == -ENOMEM ? GMM_ERR_NO_MEMORY : GMM_ERR_SYSTEM;
	if (!gmm__sys_swap_unsafe(sys))
		return GMM_OK;
	gmm__log(gmm, GMM_LOG_ERROR, "swap is on, and UFFDIO_MOVE has races with the swap cache before Linux 6.16");
	return GMM_ERR_SWAP_UNSAFE;
}

static void init_locks(struct gmm *gmm)
{
	gmm__cond_init(&gmm->changed);
	gmm__lock_init(&gmm->lock, GMM__RANK_INSTANCE);
	gmm__lock_init(&gmm->ram_lock, GMM__RANK_RAM);
	for (int i = 0; i < GMM__STAGINGS; i++)
		gmm__lock_init(&gmm->staging[i].lock, GMM__RANK_FREEZE);
	gmm__lock_init(&gmm->tidy_turn, GMM__RANK_TIDY_TURN);
	gmm__lock_init(&gmm->tidy_lock, GMM__RANK_TIDY);
}

static void free_instance(struct gmm *gmm)
{
	const struct gmm__sys *sys = gmm->mem.sys;

	gmm__arena_destroy(&gmm->source.arena);
	gmm__admission_destroy(&gmm->admission);
	gmm__mem_unreserve(&gmm->mem, gmm->handles, GMM__HANDLES * sizeof *gmm->handles);
	gmm__chunk_table_destroy(&gmm->chunks);
	gmm__chunk_table_destroy(&gmm->remote_chunks);
	pthread_cond_destroy(&gmm->changed);
	gmm__lock_destroy(&gmm->lock);
	gmm__lock_destroy(&gmm->ram_lock);
	for (int i = 0; i < GMM__STAGINGS; i++)
		gmm__lock_destroy(&gmm->staging[i].lock);
	gmm__lock_destroy(&gmm->tidy_lock);
	gmm__lock_destroy(&gmm->tidy_turn);
	sys->free(gmm);
	if (sys->apart)
		gmm__sys_home_close();
}

static struct gmm *new_instance(const struct gmm_options *options, const struct gmm__sys *sys)
{
	struct gmm *gmm = sys->alloc(sizeof *gmm);

	if (!gmm)
		return NULL;
	gmm->mem.sys = sys;
	gmm->process_id = sys->process_id();
	gmm->options = *options;
	gmm->options.socket = NULL;
	gmm->max_mappings = options->max_mappings ? options->max_mappings : gmm__sys_max_map_count(sys) / 2;
	gmm->track_uffd = gmm->freeze_uffd = gmm->pagemap = gmm->maps = -1;
	init_locks(gmm);
	gmm__chunk_table_init(&gmm->chunks, &gmm->mem);
	gmm->source.mem = &gmm->mem;
	gmm->source.table = &gmm->chunks;
	gmm__arena_init(&gmm->source.arena, &gmm->mem);
	gmm__admission_init(&gmm->admission, sys);
	gmm__chunk_table_init(&gmm->remote_chunks, &gmm->mem);
	return gmm;
}

static int finish_open(struct gmm *gmm, int status, struct gmm **ret_gmm)
{
	if (status == GMM_OK && gmm__fork_register(gmm) != 0) {
		gmm__mapped_close(gmm);
		status = GMM_ERR_NO_MEMORY;
	}
	if (status == GMM_OK) {
		*ret_gmm = gmm;
	} else {
		gmm__remote_close(gmm);
		free_instance(gmm);
	}
	return status;
}

int gmm__instance_open(const struct gmm_options *options, const struct gmm__sys *sys, struct gmm **ret_gmm)
{
	struct gmm *gmm = new_instance(options, sys);

	if (!gmm) {
		if (sys->apart)
			gmm__sys_home_close();
		return GMM_ERR_NO_MEMORY;
	}
	/* First, since the service may bring the right to use userfaultfd. */
	int status = options->socket ? gmm__remote_open(gmm, options->socket) : GMM_OK;
	if (status == GMM_OK)
		status = check_host(gmm);
	if (status == GMM_OK)
		status = gmm__mapped_open(gmm);
	return finish_open(gmm, status, ret_gmm);
}

int gmm__instance_open_tables(const struct gmm_options *options, const struct gmm__sys *sys, struct gmm **ret_gmm)
{
	struct gmm *gmm = new_instance(options, sys);

	return gmm ? finish_open(gmm, GMM_OK, ret_gmm) : GMM_ERR_NO_MEMORY;
}

static int open_apart(const struct gmm_options *options, struct gmm **ret_gmm)
{
	int rc = gmm__sys_home_open();

	if (rc == 0)
		return gmm__instance_open(options, gmm__sys_home(), ret_gmm);
	if (options->log)
		options->log(options->log_arg, GMM_LOG_ERROR, "a thread with descriptors of its own cannot be had");
	return rc == -ENOMEM || rc == -EAGAIN ? GMM_ERR_NO_MEMORY : GMM_ERR_SYSTEM;
}

int gmm_instance_open(const struct gmm_options *options, struct gmm **ret_gmm)
{
	struct gmm_options defaults;

	gmm_options_init(&defaults);
	if (!ret_gmm || (options && (options->struct_size != sizeof *options || options->wait_bound_us < 20 ||
				     options->wait_bound_us > 100000 || options->agent_threads > GMM_AGENT_THREADS_MAX ||
				     (unsigned)options->huge_pages > GMM_HUGE_NEVER || (options->socket && options->pool_per_node) ||
				     (unsigned)options->repair > GMM_REPAIR_ASK ||
				     (options->repair == GMM_REPAIR_ASK && !options->may_repair))))
		return GMM_ERR_INVALID_PARAMETER;
	return options && options->own_descriptors ? open_apart(options, ret_gmm) :
	       gmm__instance_open(options ? options : &defaults, gmm__sys_linux(), ret_gmm);
}

int gmm_instance_close(struct gmm *gmm)
{
	int refused = check_instance(gmm);
	if (refused)
		return refused;
	gmm__lock_take(&gmm->lock);
	bool busy = gmm->vms != NULL;
	gmm__lock_give(&gmm->lock);
	if (busy)
		return GMM_ERR_WRONG_ORDER;
	gmm_pressure_stop(gmm);
	gmm__engine_stop(gmm);
	const struct gmm__module_hooks *modules = atomic_load(&gmm->module_hooks);
	if (modules)
		modules->close(gmm);
	gmm__fork_unregister(gmm);
	gmm__mapped_close(gmm);
	gmm__remote_close(gmm);
	free_instance(gmm);
	return GMM_OK;
}

/* ---- domains --------------------------------------------------------------------------------------------------------- */

static struct gmm__domain *find_domain(struct gmm *gmm, const char *name, int node)
{
	struct gmm__domain *domain = gmm->domains;

	while (domain && (domain->node != node || strcmp(domain->name, name) != 0))
		domain = domain->next;
	return domain;
}

static struct gmm__domain *new_domain(struct gmm *gmm, const char *name, int node)
{
	struct gmm__domain *domain = gmm__mem_alloc(&gmm->mem, sizeof *domain);

	if (!domain)
		return NULL;
	strcpy(domain->name, name);
	if (gmm->remote)
		gmm__pool_mirror_init(&domain->pool, &gmm->mem, &gmm->remote_chunks);
	else
		gmm__pool_init(&domain->pool, &gmm->mem, &gmm->chunks, NULL, NULL);
	if (!gmm->remote)
		domain->pool.committed = &gmm->admission.committed;
	domain->pool.node = domain->node = node;
	domain->catalog = gmm__catalog_new(gmm, domain);
	if (domain->catalog)
		return domain;
	gmm__pool_destroy(&domain->pool);
	gmm__mem_free(&gmm->mem, domain, sizeof *domain);
	return NULL;
}

static void free_domain(struct gmm *gmm, struct gmm__domain *domain)
{
	gmm__paged_free_common(gmm, domain);
	gmm__catalog_free(domain->catalog);
	gmm__pool_destroy(&domain->pool);
	gmm__mem_free(&gmm->mem, domain, sizeof *domain);
}

/* One more VM or holder of the domain. With gmm.lock. */
static void hold_domain(struct gmm *gmm, struct gmm__domain *domain)
{
	if (domain->vms++ > 0)
		return;
	domain->next = gmm->domains;
	gmm->domains = domain;
}

/* One less. Returns the domain if that was the last: it is out of the list. With gmm.lock. */
static struct gmm__domain *drop_domain(struct gmm *gmm, struct gmm__domain *domain)
{
	if (--domain->vms > 0)
		return NULL;
	struct gmm__domain **link = &gmm->domains;
	while (*link != domain)
		link = &(*link)->next;
	*link = domain->next;
	return domain;
}

/* Holds the domain, or `fresh` if there is none. NULL: neither. */
static struct gmm__domain *hold_named(struct gmm *gmm, const char *name, int node, struct gmm__domain *fresh)
{
	gmm__lock_take(&gmm->lock);
	struct gmm__domain *found = find_domain(gmm, name, node), *domain = found ? found : fresh;
	if (domain)
		hold_domain(gmm, domain);
	gmm__lock_give(&gmm->lock);
	return domain;
}

/* The host is asked for what a new domain needs with nothing locked; another thread may be faster. */
static struct gmm__domain *get_domain(struct gmm *gmm, const char *name, int node)
{
	struct gmm__domain *domain = hold_named(gmm, name, node, NULL);

	if (domain)
		return domain;
	struct gmm__domain *fresh = new_domain(gmm, name, node);
	domain = fresh ? hold_named(gmm, name, node, fresh) : NULL;
	if (fresh && domain != fresh)
		free_domain(gmm, fresh);
	return domain;
}

struct gmm__domain *gmm__domain_get(struct gmm *gmm, const char *name)
{
	return get_domain(gmm, name, -1);
}

void gmm__domain_put(struct gmm *gmm, struct gmm__domain *domain)
{
	gmm__lock_take(&gmm->lock);
	struct gmm__domain *last = drop_domain(gmm, domain);
	gmm__lock_give(&gmm->lock);
	urcu_bp_synchronize_rcu();
	if (last)
		free_domain(gmm, last);
}

/* Takes the VM out of the lists. Returns its domain if it was the last VM in it. */
static struct gmm__domain *unlink_vm(struct gmm_vm *vm)
{
	struct gmm *gmm = vm->gmm;
	struct gmm__domain *domain = vm->domain;

	if (gmm->last_vm[vm->priority] == vm)
		gmm->last_vm[vm->priority] = vm->previous && vm->previous->priority == vm->priority ? vm->previous : NULL;
	*(vm->previous ? &vm->previous->next : &gmm->vms) = vm->next;
	if (vm->next)
		vm->next->previous = vm->previous;
	if (gmm->next_vm == vm)
		gmm->next_vm = vm->next;
	gmm->n_vms--;
	gmm__paged_leave_domain(vm);
	return drop_domain(gmm, domain);
}

/* ---- VMs ---------------------------------------------------------------------------------------------------------------- */

void gmm_vm_options_init(struct gmm_vm_options *options)
{
	*options = (struct gmm_vm_options){ .struct_size = sizeof *options, .priority = GMM_PRIORITY_NORMAL,
					     .numa_node = -1 };
}

static bool vm_options_valid(const struct gmm_vm_options *options)
{
	return options->struct_size == sizeof *options && (unsigned)options->priority <= GMM_PRIORITY_HIGH &&
	       options->numa_node >= -1 && (unsigned)options->kind <= GMM_VM_PAGED &&
	       (!options->name || strlen(options->name) <= GMM_NAME_MAX) &&
	       (!options->domain || (strlen(options->domain) <= GMM_NAME_MAX && options->domain[0]));
}

/* In scan order: higher priority first, then older first. The caller's hold of the domain is the VM's from now on. With
 * gmm.lock. */
static void link_vm(struct gmm_vm *vm, struct gmm__domain *domain)
{
	struct gmm *gmm = vm->gmm;
	struct gmm_vm *before = NULL;

	vm->domain = domain;
	for (int p = vm->priority; !before && p <= GMM_PRIORITY_HIGH; p++)
		before = gmm->last_vm[p];
	vm->previous = before;
	vm->next = before ? before->next : gmm->vms;
	*(before ? &before->next : &gmm->vms) = vm;
	if (vm->next)
		vm->next->previous = vm;
	gmm->last_vm[vm->priority] = vm;
	gmm->n_vms++;
}

static void free_vm(struct gmm_vm *vm)
{
	gmm__paged_free(vm);
	while (vm->pins) {
		struct gmm__pin *pin = vm->pins;
		vm->pins = pin->next;
		gmm__mem_free(&vm->gmm->mem, pin, sizeof *pin);
	}
	gmm__mem_free(&vm->gmm->mem, vm, sizeof *vm);
}

/* Of the pool that a VM uses: -1: the domain's only one. */
static int pool_node(const struct gmm *gmm, const struct gmm_vm_options *options)
{
	uint32_t nodes = gmm->source.arena.nodes;
	int node = options->numa_node;

	if (!gmm->options.pool_per_node)
		return -1;
	if (node < 0)
		node = gmm__sys_of(gmm)->numa_node_here();
	return (uint32_t)node < nodes ? node : 0;
}

static int create_vm(struct gmm *gmm, const struct gmm_vm_options *options, struct gmm_vm **ret_vm)
{
	const char *name = options->domain ? options->domain : "default";
	struct gmm_vm *vm = gmm__mem_alloc(&gmm->mem, sizeof *vm);
	int node = pool_node(gmm, options);

	if (!vm)
		return GMM_ERR_NO_MEMORY;
	vm->gmm = gmm;
	vm->priority = options->priority;
	vm->max_mappings = options->max_mappings ? options->max_mappings : UINT64_MAX;
	vm->slots = gmm__mem_alloc(&gmm->mem, sizeof *vm->slots);
	bool made = vm->slots && (options->kind == GMM_VM_MAPPED ||
						 gmm__paged_open(vm, node < 0 ? options->numa_node : node) == GMM_OK);
	struct gmm__domain *domain = made ? get_domain(gmm, name, node) : NULL;
	gmm__lock_take(&gmm->lock);
	bool room = gmm->n_vms < VM_MAX;
	if (domain && room && (!vm->paged || gmm__paged_join_domain(vm, domain))) {
		vm->number = ++gmm->next_vm_number;
		if (options->name)
			strcpy(vm->name, options->name);
		else
			snprintf(vm->name, sizeof vm->name, "vm%u", vm->number);
		link_vm(vm, domain);
		gmm__lock_give(&gmm->lock);
		*ret_vm = vm;
		return GMM_OK;
	}
	gmm__lock_give(&gmm->lock);
	if (domain)
		gmm__domain_put(gmm, domain);
	if (vm->slots)
		gmm__vm_slots_free(vm, vm->slots);
	free_vm(vm);
	return room ? GMM_ERR_NO_MEMORY : GMM_ERR_LIMIT;
}

int gmm_vm_create(struct gmm *gmm, const struct gmm_vm_options *options, struct gmm_vm **ret_vm)
{
	struct gmm_vm_options defaults;

	gmm_vm_options_init(&defaults);
	if (!gmm || !ret_vm || (options && !vm_options_valid(options)))
		return GMM_ERR_INVALID_PARAMETER;
	if (!gmm__fork_is_home(gmm))
		return GMM_ERR_WRONG_PROCESS;
	if (options && (options->kind == GMM_VM_PAGED || gmm->options.pool_per_node) &&
	    options->numa_node >= (int)gmm->source.arena.nodes)
		return GMM_ERR_INVALID_PARAMETER;
	return create_vm(gmm, options ? options : &defaults, ret_vm);
}

int gmm_vm_destroy(struct gmm_vm *vm, enum gmm_ram_end end)
{
	if (!vm || (unsigned)end > GMM_RAM_DISCARD)
		return GMM_ERR_INVALID_PARAMETER;
	struct gmm *gmm = vm->gmm;
	if (!gmm__fork_is_home(gmm))
		return GMM_ERR_WRONG_PROCESS;
	int status = gmm__vm_end_ram(vm, end);
	if (status != GMM_OK)
		return status;
	if (vm->paged)
		gmm__paged_end(vm);
	const struct gmm__module_hooks *modules = atomic_load(&gmm->module_hooks);
	if (modules)
		modules->vm_end(vm);
	gmm__remote_vm_gone(vm);
	gmm__lock_take(&gmm->lock);
	struct gmm__domain *domain = unlink_vm(vm);
	gmm__lock_give(&gmm->lock);
	if (domain && modules)
		modules->domain_end(gmm, domain);
	urcu_bp_synchronize_rcu();
	if (domain)
		free_domain(gmm, domain);
	free_vm(vm);
	return GMM_OK;
}

/* ---- the engine ------------------------------------------------------------------------------------------------------------ */

/* Starts the engine or lets a pausing one go on. With ram_lock, so that two threads do not start two engines. */
static int start_engine(struct gmm *gmm)
{
	gmm__lock_take(&gmm->lock);
	struct gmm__engine *engine = gmm->engine;
	bool runs = engine && !engine->pausing;
	if (engine && engine->pausing) {
		engine->pausing = false;
		engine->settled = false;
		pthread_cond_broadcast(&gmm->changed);
	}
	gmm__lock_give(&gmm->lock);
	if (runs)
		return GMM_ERR_WRONG_ORDER;
	return engine ? GMM_OK : gmm__engine_start(gmm, gmm__backend_mapped());
}

int gmm_engine_start(struct gmm *gmm)
{
	int refused = check_instance(gmm);
	if (refused)
		return refused;
	gmm__lock_take(&gmm->ram_lock);
	int status = start_engine(gmm);
	gmm__lock_give(&gmm->ram_lock);
	return status;
}

int gmm_engine_pause(struct gmm *gmm)
{
	int refused = check_instance(gmm);
	if (refused)
		return refused;
	gmm__lock_take(&gmm->lock);
	struct gmm__engine *engine = gmm->engine;
	bool runs = engine && !engine->pausing;
	if (runs) {
		engine->pausing = true;
		pthread_cond_broadcast(&gmm->changed);
		gmm->leave_waiters++;
		while (gmm->engine == engine && engine->pausing && !engine->resting)
			gmm__lock_wait(&gmm->lock, &gmm->changed);
		gmm->leave_waiters--;
	}
	gmm__lock_give(&gmm->lock);
	return runs ? GMM_OK : GMM_ERR_WRONG_ORDER;
}

int gmm_engine_stop(struct gmm *gmm)
{
	int refused = check_instance(gmm);
	if (refused)
		return refused;
	gmm__lock_take(&gmm->ram_lock);
	gmm__engine_stop(gmm);
	gmm__lock_give(&gmm->ram_lock);
	return GMM_OK;
}

/* ---- statistics -------------------------------------------------------------------------------------------------------------- */

static void fill_stats(struct gmm *gmm, struct gmm_stats *stats)
{
	for (const struct gmm_vm *vm = gmm->vms; vm; vm = vm->next) {
		struct gmm_vm_stats own = vm->paged ? gmm__paged_vm_stats(vm->paged) : vm->stats;
		gmm__counts_add(&stats->total, &own, sizeof own);
		stats->vms++;
	}
	gmm__accounts_derive(&stats->total);
	for (const struct gmm__domain *domain = gmm->domains; domain; domain = domain->next) {
		stats->pool_pages += domain->pool.used_pages;
		stats->pool_chunks += domain->pool.live_chunks;
	}
	stats->pool_pages -= gmm__accounts_on_the_way(gmm);
	if (gmm->remote && gmm->remote->pool_references) /* our part of pages that we share with other processes */
		stats->pool_pages = stats->total.references * gmm->remote->pool_pages / gmm->remote->pool_references;
	stats->allocated_pages = stats->total.private_pages + stats->pool_pages;
	stats->saved_pages = stats->total.references - stats->pool_pages;
	stats->metadata_bytes = gmm->mem.bytes;
	stats->metadata_peak_bytes = gmm->mem.peak;
	stats->kernel_overhead_bytes = gmm->mappings * GMM__VMA_BYTES + stats->pool_pages * GMM__PTE_BYTES;
	stats->profit_bytes = (int64_t)((stats->saved_pages + stats->total.state_pages[GMM_PAGE_ZERO]) * GMM_PAGE_SIZE) -
			      (int64_t)(stats->metadata_bytes + stats->kernel_overhead_bytes);
	stats->total.profit_bytes = stats->profit_bytes;
	const struct gmm__engine *engine = gmm->engine;
	struct gmm__engine_counts counts = gmm->ended;
	if (engine)
		gmm__engine_count(engine, &counts);
	stats->passes = counts.passes;
	stats->cpu_ns = counts.cpu_ns;
	stats->digested_pages = counts.digested_pages;
	memcpy(stats->freezes, counts.freezes, sizeof stats->freezes);
	stats->longest_freeze_ns = counts.longest_freeze_ns;
	stats->late_freezes = counts.late_freezes;
	stats->thawed_freezes = counts.thawed_freezes;
	if (!engine)
		return;
	stats->running = !engine->pausing;
	stats->settled = engine->settled;
	stats->settle_estimate_ms = gmm__settle_estimate_ms(engine, stats);
}

int gmm_instance_stats(struct gmm *gmm, struct gmm_stats *ret_stats)
{
	struct gmm_stats stats = { 0 };

	if (!gmm || !ret_stats)
		return GMM_ERR_INVALID_PARAMETER;
	if (!gmm__fork_is_home(gmm))
		return GMM_ERR_WRONG_PROCESS;
	gmm__snapshot_begin(gmm);
	gmm__lock_take(&gmm->lock);
	fill_stats(gmm, &stats);
	gmm__lock_give(&gmm->lock);
	gmm__snapshot_end(gmm);
	*ret_stats = stats;
	return GMM_OK;
}

int gmm_vm_stats(struct gmm_vm *vm, struct gmm_vm_stats *ret_stats)
{
	if (!vm || !ret_stats)
		return GMM_ERR_INVALID_PARAMETER;
	if (!gmm__fork_is_home(vm->gmm))
		return GMM_ERR_WRONG_PROCESS;
	if (vm->paged) {
		gmm__paged_enter_unreserved(vm);
		*ret_stats = gmm__paged_vm_stats(vm->paged);
		gmm__paged_leave(vm, GMM_OK);
	} else if (gmm__vm_claim(vm, false)) {
		*ret_stats = vm->stats;
		gmm__vm_release(vm);
	} else {
		return GMM_ERR_WRONG_ORDER;
	}
	gmm__accounts_derive(ret_stats);
	gmm__lock_take(&vm->gmm->lock);
	ret_stats->profit_bytes = gmm__profit_of(vm, ret_stats);
	gmm__lock_give(&vm->gmm->lock);
	return GMM_OK;
}

int gmm_instance_validate(struct gmm *gmm)
{
	int refused = check_instance(gmm);
	if (refused)
		return refused;
	gmm__snapshot_begin(gmm);
	gmm__lock_take(&gmm->lock);
	const char *broken = gmm__accounts_validate(gmm);
	gmm__lock_give(&gmm->lock);
	gmm__snapshot_end(gmm);
	if (!broken)
		return GMM_OK;
	gmm__log(gmm, GMM_LOG_ERROR, "the accounts do not add up: %s", broken);
	return GMM_ERR_SYSTEM;
}
