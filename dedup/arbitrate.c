/* Arbitration's loop; see arbitrate.h. */
#include "dedup/arbitrate.h"

#include <stdio.h>
#include <string.h>

#include "dedup/engine.h"
#include "dedup/fork.h"
#include "dedup/visit.h"
#include "gmm/paged.h"

/* A trigger of the kernel: so much stall in a window. Windows of 2 s may be watched without privilege. */
enum { TRIGGER_STALL_US = 100000, TRIGGER_WINDOW_US = 2000000, CALM_STEPS = 10 };

/* ---- VMs ------------------------------------------------------------------------------------------------------- */

/* What a step needs of a VM that has a balloon, and who is to be told. */
struct ballooned {
	struct gmm_vm *vm; /* visited */
	struct gmm__arbiter_vm arbiter;
	uint64_t before;
	gmm_balloon_fn *fn;
	void *arg;
};

static bool has_balloon(struct gmm_vm *vm, struct ballooned *ret)
{
	gmm__lock_take(&vm->gmm->lock);
	*ret = (struct ballooned){ .vm = vm, .before = vm->balloon.requested, .fn = vm->balloon.fn, .arg = vm->balloon.arg };
	ret->arbiter = (struct gmm__arbiter_vm){ .priority = vm->priority, .maximum = vm->balloon.maximum,
						 .requested = vm->balloon.requested, .last_given = vm->balloon.last_given,
						 .idle_steps = vm->balloon.idle_steps };
	gmm__lock_give(&vm->gmm->lock);
	return ret->fn != NULL;
}

/* False when the VM ends. */
static bool look_at(struct gmm_vm *vm, struct gmm__arbiter_vm *ret)
{
	if (vm->paged) {
		gmm__paged_balloon_look(vm, &ret->priority, &ret->pages, &ret->given);
	} else {
		if (!gmm__vm_claim(vm, false))
			return false;
		ret->pages = vm->stats.pages;
		ret->given = vm->stats.state_pages[GMM_PAGE_BALLOONED];
		gmm__vm_release(vm);
	}
	if (ret->maximum > ret->pages)
		ret->maximum = ret->pages;
	return true;
}

/* VMs with a balloon, each visited. Returns how many; fewer than there are when there is no memory. */
static uint32_t collect(struct gmm *gmm, struct ballooned *vms, uint32_t room)
{
	uint32_t n = 0;

	for (struct gmm_vm *vm = gmm__visit_begin(gmm, NULL, 0), *next; vm; vm = next) {
		struct ballooned *b = &vms[n];
		next = gmm__visit_begin(gmm, NULL, vm->number);
		if (n < room && has_balloon(vm, b) && look_at(vm, &b->arbiter))
			n++;
		else
			gmm__visit_end(vm);
	}
	return n;
}

/* Keeps what the arbiter said of the VM, and tells the VMM if it is something new. Ends the visit. */
static void tell(const struct ballooned *b, const struct gmm__arbiter_vm *now)
{
	struct gmm *gmm = b->vm->gmm;

	gmm__lock_take(&gmm->lock);
	b->vm->balloon.requested = now->requested;
	b->vm->balloon.last_given = now->last_given;
	b->vm->balloon.idle_steps = now->idle_steps;
	gmm__lock_give(&gmm->lock);
	if (now->requested != b->before && b->vm->paged)
		gmm__paged_balloon_ask(b->vm, now->requested);
	if (now->requested != b->before)
		b->fn(b->arg, b->vm, now->requested);
	gmm__visit_end(b->vm);
}

/* ---- a step ------------------------------------------------------------------------------------------------------ */

static void set_engine(struct gmm__arbitration *a, enum gmm__arbiter_phase phase)
{
	struct gmm *gmm = a->gmm;
	uint32_t percent = gmm__arbiter_cpu_percent(phase, gmm->options.cpu_percent);

	gmm__lock_take(&gmm->lock);
	gmm->under_pressure = phase == GMM__SCANNING || phase == GMM__BALLOONING;
	/* Somebody else may have set another one for a while (gmm_engine_settle). */
	if (gmm->engine && (gmm->engine->cpu_percent == a->cpu_percent || gmm->engine->cpu_percent == gmm->options.cpu_percent))
		gmm->engine->cpu_percent = percent;
	a->cpu_percent = percent;
	pthread_cond_broadcast(&gmm->changed);
	gmm__lock_give(&gmm->lock);
}

/* What all VMs may use: as this arbitration was told, or a sixteenth less than the instance may give, where that was set: at
 * the maximum itself allocations fail. 0: no limit. */
static uint64_t most_pages(struct gmm__arbitration *a)
{
	struct gmm__admission *admission = &a->gmm->admission;

	gmm__lock_take(&admission->lock);
	uint64_t most = admission->limits.maximum_pages;
	gmm__lock_give(&admission->lock);
	most -= most / 16;
	return most && (!a->max_pages || most < a->max_pages) ? most : a->max_pages;
}

static struct gmm__arbiter_input look(struct gmm__arbitration *a)
{
	const struct gmm__sys *sys = gmm__sys_of(a->gmm);
	struct gmm__arbiter_input input = { .now_ms = sys->clock_ns() / 1000000 + 1, .max_pages = most_pages(a) };
	struct gmm_stats stats;

	for (uint32_t i = 0; i < a->sources; i++) {
		uint32_t stall = gmm__psi_look(sys, &a->source[i]);
		if (stall > input.stall_permille)
			input.stall_permille = stall;
	}
	if (input.max_pages && gmm_instance_stats(a->gmm, &stats) == GMM_OK)
		input.allocated_pages = stats.allocated_pages;
	return input;
}

static void publish(struct gmm__arbitration *a, const struct gmm__arbiter_vm *vms, uint32_t n)
{
	struct gmm_pressure_stats stats = { .running = true, .phase = (enum gmm_pressure_phase)a->arbiter.phase,
					    .stall_permille = a->arbiter.stall };

	for (uint32_t i = 0; i < n; i++) {
		stats.requested_pages += vms[i].requested;
		stats.given_pages += vms[i].given;
	}
	gmm__lock_take(&a->gmm->lock);
	stats.steps = a->stats.steps + 1;
	stats.triggers = a->stats.triggers;
	a->stats = stats;
	gmm__lock_give(&a->gmm->lock);
}

void gmm__arbitration_step(struct gmm__arbitration *a)
{
	struct gmm *gmm = a->gmm;
	struct gmm__arbiter_input input = look(a);

	gmm__lock_take(&gmm->lock);
	uint32_t room = gmm->n_vms;
	gmm__lock_give(&gmm->lock);
	size_t bytes = (room + 1) * (sizeof(struct ballooned) + sizeof(struct gmm__arbiter_vm));
	struct ballooned *vms = gmm__mem_alloc(&gmm->mem, bytes);
	struct gmm__arbiter_vm *plain = vms ? (struct gmm__arbiter_vm *)(vms + room + 1) : NULL;
	uint32_t n = vms ? collect(gmm, vms, room) : 0;
	for (uint32_t i = 0; i < n; i++)
		plain[i] = vms[i].arbiter;
	set_engine(a, gmm__arbiter_step(&a->arbiter, &input, plain, n));
	publish(a, plain, n);
	for (uint32_t i = 0; i < n; i++)
		tell(&vms[i], &plain[i]);
	gmm__mem_free(&gmm->mem, vms, bytes);
}

/* Waits for the next step: longer while it is calm and the kernel will wake us. Returns false when it is to end. */
static bool wait_for_step(struct gmm__arbitration *a)
{
	const struct gmm__sys *sys = gmm__sys_of(a->gmm);
	bool calm = a->arbiter.phase == GMM__CALM && a->arbiter.stall == 0 && most_pages(a) == 0;
	bool woken = calm && a->triggers > 0 && a->triggers == a->sources;
	/* Under pressure triggers are ready all the time: the interval decides. */
	int ready = sys->wait_ready(a->ready, woken ? 1 + (int)a->triggers : 1, (int)a->interval_ms * (woken ? CALM_STEPS : 1));

	if (ready > 0 && ready & 1)
		return false;
	if (ready > 0) {
		gmm__lock_take(&a->gmm->lock);
		a->stats.triggers++;
		gmm__lock_give(&a->gmm->lock);
	}
	return true;
}

static void *arbitration_main(void *arg)
{
	struct gmm__arbitration *a = arg;

	do
		gmm__arbitration_step(a);
	while (wait_for_step(a));
	return NULL;
}

/* ---- start and stop ------------------------------------------------------------------------------------------------ */

void gmm_pressure_options_init(struct gmm_pressure_options *options)
{
	*options = (struct gmm_pressure_options){ .struct_size = sizeof *options, .host_path = "/proc/pressure/memory",
						  .interval_ms = 1000 };
}

static void add_source(struct gmm__arbitration *a, const char *path)
{
	const struct gmm__sys *sys = gmm__sys_of(a->gmm);
	struct gmm__psi_watch *watch = &a->source[a->sources];
	struct gmm__psi psi;

	snprintf(watch->path, sizeof watch->path, "%s", path);
	if (gmm__psi_read(sys, watch->path, &psi) != 0) {
		gmm__log(a->gmm, GMM_LOG_WARNING, "%s tells no memory pressure", path);
		return;
	}
	a->sources++;
	int fd = sys->psi_trigger(watch->path, TRIGGER_STALL_US, TRIGGER_WINDOW_US);
	if (fd >= 0) /* else it is read at each interval */
		a->ready[1 + a->triggers++] = fd;
}

static void add_sources(struct gmm__arbitration *a, const struct gmm_pressure_options *options)
{
	char path[256];

	if (options->host_path)
		add_source(a, options->host_path);
	if (options->cgroup_path)
		add_source(a, options->cgroup_path);
	else if (gmm__psi_own_cgroup(gmm__sys_of(a->gmm), path, sizeof path))
		add_source(a, path);
}

static bool options_valid(const struct gmm_pressure_options *options)
{
	size_t longest = sizeof ((struct gmm__psi_watch *)NULL)->path - 1;

	return options->struct_size == sizeof *options && options->interval_ms >= 10 && options->interval_ms <= 60000 &&
	       (!options->host_path || strlen(options->host_path) <= longest) &&
	       (!options->cgroup_path || strlen(options->cgroup_path) <= longest);
}

int gmm__arbitration_open(struct gmm *gmm, const struct gmm_pressure_options *options, struct gmm__arbitration **ret)
{
	struct gmm__arbitration *a = gmm__mem_alloc(&gmm->mem, sizeof *a);

	if (!a)
		return GMM_ERR_NO_MEMORY;
	a->gmm = gmm;
	a->interval_ms = options->interval_ms;
	a->max_pages = options->max_bytes / GMM__PAGE_BYTES;
	a->cpu_percent = gmm->options.cpu_percent;
	a->stats.running = true;
	a->wake = a->ready[0] = gmm__sys_of(gmm)->event_open();
	if (a->wake >= 0)
		add_sources(a, options);
	if (a->wake >= 0 && (a->sources || a->max_pages)) {
		*ret = a;
		return GMM_OK;
	}
	int status = a->wake < 0 ? GMM_ERR_NO_MEMORY : GMM_ERR_NOT_FOUND;
	gmm__arbitration_close(a);
	return status;
}

void gmm__arbitration_close(struct gmm__arbitration *a)
{
	struct gmm *gmm = a->gmm;

	for (uint32_t i = 0; i < a->triggers; i++)
		gmm__sys_of(gmm)->file_close(a->ready[1 + i]);
	if (a->wake >= 0)
		gmm__sys_of(gmm)->file_close(a->wake);
	gmm__mem_free(&gmm->mem, a, sizeof *a);
}

static int start(struct gmm *gmm, const struct gmm_pressure_options *options)
{
	struct gmm__arbitration *a;

	if (gmm->arbitration)
		return GMM_ERR_WRONG_ORDER;
	int status = gmm__arbitration_open(gmm, options, &a);
	if (status != GMM_OK)
		return status;
	gmm__lock_take(&gmm->lock);
	gmm->arbitration = a;
	gmm__lock_give(&gmm->lock);
	if (gmm__sys_of(gmm)->thread_start(&a->thread, "gmm-pressure", false, arbitration_main, a) == 0)
		return GMM_OK;
	gmm__lock_take(&gmm->lock);
	gmm->arbitration = NULL;
	gmm__lock_give(&gmm->lock);
	gmm__arbitration_close(a);
	return GMM_ERR_NO_MEMORY;
}

int gmm_pressure_start(struct gmm *gmm, const struct gmm_pressure_options *options)
{
	struct gmm_pressure_options defaults;

	gmm_pressure_options_init(&defaults);
	if (!gmm || (options && !options_valid(options)))
		return GMM_ERR_INVALID_PARAMETER;
	if (!gmm__fork_is_home(gmm))
		return GMM_ERR_WRONG_PROCESS;
	gmm__lock_take(&gmm->ram_lock); /* two threads do not start two */
	int status = start(gmm, options ? options : &defaults);
	gmm__lock_give(&gmm->ram_lock);
	return status;
}

int gmm_pressure_stop(struct gmm *gmm)
{
	if (!gmm)
		return GMM_ERR_INVALID_PARAMETER;
	if (!gmm__fork_is_home(gmm))
		return GMM_ERR_WRONG_PROCESS;
	gmm__lock_take(&gmm->lock);
	struct gmm__arbitration *a = gmm->arbitration;
	gmm->arbitration = NULL;
	gmm__lock_give(&gmm->lock);
	if (!a)
		return GMM_OK;
	gmm__sys_of(gmm)->event_signal(a->wake);
	gmm__sys_of(gmm)->thread_join(a->thread);
	set_engine(a, GMM__CALM);
	gmm__arbitration_close(a);
	return GMM_OK;
}

int gmm_pressure_stats(struct gmm *gmm, struct gmm_pressure_stats *ret_stats)
{
	if (!gmm || !ret_stats)
		return GMM_ERR_INVALID_PARAMETER;
	if (!gmm__fork_is_home(gmm))
		return GMM_ERR_WRONG_PROCESS;
	gmm__lock_take(&gmm->lock);
	*ret_stats = gmm->arbitration ? gmm->arbitration->stats : (struct gmm_pressure_stats){ 0 };
	gmm__lock_give(&gmm->lock);
	return GMM_OK;
}
