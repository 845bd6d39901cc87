/* Arbitration; see arbiter.h. */
#include "gmm/arbiter.h"

static uint64_t smaller(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static uint64_t larger(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/* ---- VMs ------------------------------------------------------------------------------------------------------- */

/* Counts the steps in which a VM that was asked gave nothing. */
static void note_progress(struct gmm__arbiter_vm *vm)
{
	if (vm->given >= vm->requested || vm->given > vm->last_given)
		vm->idle_steps = 0;
	else
		vm->idle_steps++;
	vm->last_given = vm->given;
}

static bool is_stalled(const struct gmm__arbiter_vm *vm)
{
	return vm->idle_steps >= GMM__STALLED_STEPS;
}

static uint64_t room(const struct gmm__arbiter_vm *vm)
{
	return is_stalled(vm) || vm->requested >= vm->maximum ? 0 : vm->maximum - vm->requested;
}

/* Asked for and still to come, from VMs that give. */
static uint64_t outstanding(const struct gmm__arbiter_vm *vms, uint32_t n)
{
	uint64_t pages = 0;

	for (uint32_t i = 0; i < n; i++)
		if (!is_stalled(&vms[i]) && vms[i].requested > vms[i].given)
			pages += vms[i].requested - vms[i].given;
	return pages;
}

static uint64_t sum_requested(const struct gmm__arbiter_vm *vms, uint32_t n)
{
	uint64_t pages = 0;

	for (uint32_t i = 0; i < n; i++)
		pages += vms[i].requested;
	return pages;
}

/* Spreads a demand over the VMs of one priority, by the room they have. Returns what could not be placed. */
static uint64_t ask_priority(struct gmm__arbiter_vm *vms, uint32_t n, enum gmm_priority priority, uint64_t pages)
{
	uint64_t total = 0, left = pages;

	for (uint32_t i = 0; i < n; i++)
		total += vms[i].priority == priority ? room(&vms[i]) : 0;
	for (uint32_t i = 0; i < n && total > 0; i++) {
		if (vms[i].priority != priority)
			continue;
		uint64_t mine = room(&vms[i]), part = smaller(mine, smaller(left, (pages * mine + total - 1) / total));
		vms[i].requested += part;
		left -= part;
	}
	return left;
}

static void ask(struct gmm__arbiter_vm *vms, uint32_t n, uint64_t pages)
{
	for (int priority = GMM_PRIORITY_LOW; priority <= GMM_PRIORITY_HIGH && pages > 0; priority++)
		pages = ask_priority(vms, n, (enum gmm_priority)priority, pages);
}

static void release(struct gmm__arbiter_vm *vms, uint32_t n, uint64_t pages)
{
	for (int priority = GMM_PRIORITY_HIGH; priority >= GMM_PRIORITY_LOW; priority--) {
		for (uint32_t i = 0; i < n && pages > 0; i++) {
			if (vms[i].priority != (enum gmm_priority)priority)
				continue;
			uint64_t part = smaller(vms[i].requested, pages);
			vms[i].requested -= part;
			pages -= part;
		}
	}
}

/* ---- phases ------------------------------------------------------------------------------------------------------ */

static void enter(struct gmm__arbiter *arbiter, enum gmm__arbiter_phase phase, uint64_t now_ms)
{
	arbiter->phase = phase;
	arbiter->since_ms = now_ms;
}

static uint64_t over_limit(const struct gmm__arbiter_input *input)
{
	return input->max_pages && input->allocated_pages > input->max_pages ? input->allocated_pages - input->max_pages : 0;
}

static bool is_high(const struct gmm__arbiter *arbiter, const struct gmm__arbiter_input *input)
{
	return arbiter->stall >= GMM__STALL_HIGH || over_limit(input) > 0;
}

/* Below the limit by a sixteenth, so that what is given back does not go over it at once. */
static bool is_calm(const struct gmm__arbiter *arbiter, const struct gmm__arbiter_input *input)
{
	return arbiter->stall < GMM__STALL_LOW &&
	       (!input->max_pages || input->allocated_pages <= input->max_pages - input->max_pages / 16);
}

static bool has_been_calm(const struct gmm__arbiter *arbiter, uint64_t now_ms, uint64_t ms)
{
	return arbiter->calm_ms && now_ms - arbiter->calm_ms >= ms;
}

/* What was asked for before must have come, or the demand would run ahead of what guests can do. */
static void balloon_step(const struct gmm__arbiter_input *input, struct gmm__arbiter_vm *vms, uint32_t n)
{
	uint64_t pages = 0;

	for (uint32_t i = 0; i < n; i++)
		pages += vms[i].pages;
	uint64_t step = larger(larger(pages / GMM__ASK_PART, GMM__STEP_MIN_PAGES), over_limit(input));
	uint64_t coming = outstanding(vms, n);
	if (coming < step)
		ask(vms, n, step - coming);
}

static void pressure_step(struct gmm__arbiter *arbiter, const struct gmm__arbiter_input *input,
			  struct gmm__arbiter_vm *vms, uint32_t n)
{
	bool releasing = arbiter->phase == GMM__RELEASING;

	if (releasing || (arbiter->phase == GMM__CALM && arbiter->most && input->now_ms - arbiter->since_ms < GMM__HOLD_MAX_MS))
		arbiter->hold_ms = smaller(arbiter->hold_ms * 2, GMM__HOLD_MAX_MS); /* given back too soon */
	if (arbiter->phase == GMM__CALM || releasing)
		enter(arbiter, releasing ? GMM__BALLOONING : GMM__SCANNING, input->now_ms);
	if (arbiter->phase == GMM__SCANNING &&
	    (arbiter->stall >= GMM__STALL_URGENT || over_limit(input) ||
	     input->now_ms - arbiter->since_ms >= GMM__SCAN_FIRST_MS))
		enter(arbiter, GMM__BALLOONING, input->now_ms);
	if (arbiter->phase == GMM__BALLOONING)
		balloon_step(input, vms, n);
}

static void calm_step(struct gmm__arbiter *arbiter, const struct gmm__arbiter_input *input, struct gmm__arbiter_vm *vms,
		      uint32_t n)
{
	uint64_t requested = sum_requested(vms, n), now = input->now_ms;

	if (arbiter->phase == GMM__CALM && has_been_calm(arbiter, now, GMM__HOLD_MAX_MS))
		arbiter->hold_ms = GMM__HOLD_MIN_MS;
	if ((arbiter->phase == GMM__SCANNING || arbiter->phase == GMM__BALLOONING) &&
	    has_been_calm(arbiter, now, arbiter->hold_ms)) {
		enter(arbiter, requested ? GMM__RELEASING : GMM__CALM, now);
		arbiter->most = requested;
	}
	if (arbiter->phase == GMM__RELEASING) {
		uint64_t step = larger(arbiter->most / GMM__RELEASE_PART, GMM__STEP_MIN_PAGES);
		release(vms, n, step);
		if (requested <= step)
			enter(arbiter, GMM__CALM, now);
	}
}

enum gmm__arbiter_phase gmm__arbiter_step(struct gmm__arbiter *arbiter, const struct gmm__arbiter_input *input,
					  struct gmm__arbiter_vm *vms, uint32_t n)
{
	if (arbiter->hold_ms == 0)
		arbiter->hold_ms = GMM__HOLD_MIN_MS;
	arbiter->stall = (3 * arbiter->stall + input->stall_permille) / 4;
	for (uint32_t i = 0; i < n; i++)
		note_progress(&vms[i]);
	if (is_calm(arbiter, input)) {
		if (!arbiter->calm_ms)
			arbiter->calm_ms = input->now_ms;
		calm_step(arbiter, input, vms, n);
		return arbiter->phase;
	}
	arbiter->calm_ms = 0;
	if (is_high(arbiter, input))
		pressure_step(arbiter, input, vms, n);
	return arbiter->phase;
}

uint32_t gmm__arbiter_cpu_percent(enum gmm__arbiter_phase phase, uint32_t percent)
{
	return phase == GMM__SCANNING || phase == GMM__BALLOONING ? percent * GMM__ARBITER_CPU : percent;
}
