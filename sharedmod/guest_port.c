/* Guest ports: what the agent in a guest reports becomes registrations of modules.
 *
 * sharedmod/report.c checks and meters the bytes. A module of a report is registered under its id as base, with its regions'
 * offsets as addresses and its runs of pages; what is not in memory is a run of GMM_NO_PAGES.
 */
#include <gmm/modules.h>

#include <string.h>
#include <urcu/urcu-bp.h>

#include "dedup/fork.h"
#include "gmm/instance.h"
#include "sharedmod/report.h"
#include "sharedmod/report_write.h"

enum { REQUEST_BYTES = sizeof(struct gmm__report_header) + sizeof(struct gmm__report_request), NS_PER_MS = 1000000 };

/* Guests have a hole below 4 GiB: their last page lies that much higher than they have RAM. */
enum { HOLE_PAGES = 1 << 20 };

struct gmm_guest_port {
	struct gmm_vm *vm;
	uint64_t end_gfn;                     /* pages from here on are left out */
	uint64_t ram_end;                     /* the limits in force are those of a guest with so many pages; 0: no parser yet */
	struct gmm__report_parser *parser;
	struct gmm_guest_port_info info;
	uint32_t pages[GMM__REPORT_MODULES_MAX]; /* of a module, plus 1; 0: not registered */
	bool refused[GMM__REPORT_MODULES_MAX];
	uint32_t request_left;                /* bytes at the end of request that are to be sent */
	uint8_t request[REQUEST_BYTES];
};

/* ---- what the guest says ------------------------------------------------------------------------------------- */

/* Asks for a new session, unless a request is on its way: half of one must not be sent. */
static void ask(struct gmm_guest_port *port)
{
	if (port->request_left == 0)
		port->request_left = REQUEST_BYTES;
}

static void remove_module(void *arg, uint32_t id)
{
	struct gmm_guest_port *port = arg;

	if (port->refused[id]) {
		port->refused[id] = false;
		port->info.refused--;
	}
	if (port->pages[id] == 0)
		return;
	gmm_module_unregister(port->vm, id);
	port->info.modules--;
	port->info.pages -= port->pages[id] - 1;
	port->pages[id] = 0;
}

static void remove_all(struct gmm_guest_port *port)
{
	for (uint32_t id = 0; id < GMM__REPORT_MODULES_MAX; id++)
		remove_module(port, id);
}

static void on_start(void *arg, const struct gmm__report_hello *hello)
{
	(void)hello;
	remove_all(arg);
}

/* All pages of a region as runs, in order. Returns how many runs; adds the pages that are in memory to *pages. */
static size_t lay_out(const struct gmm_guest_port *port, const struct gmm__report_module_region *region,
		      struct gmm_page_run *ret_runs, uint32_t *pages)
{
	uint32_t at = 0, end = (uint32_t)(region->size_bytes / GMM__PAGE_BYTES);
	size_t n = 0;

	for (uint32_t i = 0; i < region->n_runs; i++) {
		const struct gmm__report_run *run = &region->runs[i];
		bool here = run->gfn + run->count <= port->end_gfn;
		if (run->page > at)
			ret_runs[n++] = (struct gmm_page_run){ GMM_NO_PAGES, run->page - at };
		ret_runs[n++] = (struct gmm_page_run){ here ? run->gfn * GMM__PAGE_BYTES : GMM_NO_PAGES, run->count };
		*pages += here ? run->count : 0;
		at = run->page + run->count;
	}
	if (at < end)
		ret_runs[n++] = (struct gmm_page_run){ GMM_NO_PAGES, end - at };
	return n;
}

/* With room for all runs. */
static int register_module(const struct gmm_guest_port *port, const struct gmm__report_module *m, struct gmm_page_run *runs,
			   uint32_t *ret_pages)
{
	struct gmm_module_region regions[GMM_MODULE_REGIONS_MAX];
	struct gmm_module module;

	gmm_module_init(&module);
	module.os = GMM_OS_LINUX; /* the parser knows no other */
	module.name = m->name;
	module.version = m->version;
	module.base = m->id;
	/* A part of its key: what is longer than a module may be is told apart by its version. */
	module.size = m->size_bytes == 0 ? 1 : m->size_bytes < GMM_MODULE_BYTES_MAX ? m->size_bytes : GMM_MODULE_BYTES_MAX;
	module.regions = regions;
	module.n_regions = m->n_regions;
	module.runs = runs;
	for (uint32_t i = 0; i < m->n_regions; i++) {
		regions[i] = (struct gmm_module_region){ m->regions[i].offset_bytes, m->regions[i].size_bytes };
		module.n_runs += lay_out(port, &m->regions[i], runs + module.n_runs, ret_pages);
	}
	return gmm_module_register(port->vm, &module);
}

static void on_add(void *arg, const struct gmm__report_module *m)
{
	struct gmm_guest_port *port = arg;
	struct gmm__mem *mem = &port->vm->gmm->mem;
	uint32_t pages = 0;
	size_t max = 0;

	for (uint32_t i = 0; i < m->n_regions; i++)
		max += 2 * (size_t)m->regions[i].n_runs + 1;
	struct gmm_page_run *runs = gmm__mem_alloc(mem, max * sizeof *runs);
	int status = runs ? register_module(port, m, runs, &pages) : GMM_ERR_NO_MEMORY;
	gmm__mem_free(mem, runs, max * sizeof *runs);
	if (status < 0) {
		port->refused[m->id] = true;
		port->info.refused++;
		return;
	}
	port->pages[m->id] = pages + 1;
	port->info.modules++;
	port->info.pages += pages;
}

static void on_done(void *arg)
{
	struct gmm_guest_port *port = arg;

	port->info.reports++;
	gmm__log(port->vm->gmm, GMM_LOG_INFO, "the guest of VM %s names %llu pages of %u modules; %u modules are not taken",
		 port->vm->name, (unsigned long long)port->info.pages, port->info.modules, port->info.refused);
}

static void on_fault(void *arg, enum gmm__report_fault fault)
{
	struct gmm_guest_port *port = arg;

	port->info.faults++;
	port->info.last_fault = gmm__report_fault_name(fault);
	gmm__log(port->vm->gmm, GMM_LOG_DEBUG, "the report of VM %s cannot be followed: %s", port->vm->name,
		 port->info.last_fault);
	ask(port);
}

/* ---- limits --------------------------------------------------------------------------------------------------- */

static uint64_t ram_end(const struct gmm_vm *vm)
{
	uint64_t end = 0;

	urcu_bp_read_lock();
	const struct gmm__slots *slots = rcu_dereference(vm->slots);
	for (uint32_t i = 0; i < slots->n; i++)
		if (slots->slot[i]->gfn + slots->slot[i]->pages > end)
			end = slots->slot[i]->gfn + slots->slot[i]->pages;
	urcu_bp_read_unlock();
	return end;
}

/* A parser with limits for the RAM that there is; when RAM was added, a new one. Only the VMM can make it start anew. */
static int adapt(struct gmm_guest_port *port)
{
	const struct gmm__report_sink sink = { port, on_start, on_add, remove_module, on_done, on_fault };
	struct gmm__report_limits limits;
	uint64_t end = ram_end(port->vm);

	if (end <= port->ram_end)
		return GMM_OK;
	gmm__report_limits_init(&limits, end);
	limits.gfn_end += HOLE_PAGES;
	struct gmm__report_parser *parser = gmm__report_create(&port->vm->gmm->mem, &limits, &sink);
	if (!parser)
		return port->parser ? GMM_OK : GMM_ERR_NO_MEMORY;
	if (port->parser) {
		gmm__report_free(port->parser);
		ask(port);
	}
	port->parser = parser;
	port->ram_end = end;
	return GMM_OK;
}

/* ---- public --------------------------------------------------------------------------------------------------- */

static uint64_t now_ns(const struct gmm_guest_port *port)
{
	return gmm__sys_of(port->vm->gmm)->clock_ns();
}

static int prepare_request(struct gmm_guest_port *port)
{
	struct gmm__mem *mem = &port->vm->gmm->mem;
	struct gmm__report_writer *writer = gmm__mem_alloc(mem, sizeof *writer);

	if (!writer)
		return GMM_ERR_NO_MEMORY;
	gmm__report_write_request(writer, GMM__REPORT_WANT_ALL);
	memcpy(port->request, writer->frame, sizeof port->request);
	gmm__mem_free(mem, writer, sizeof *writer);
	return GMM_OK;
}

int gmm_guest_port_open(struct gmm_vm *vm, uint64_t end_addr, struct gmm_guest_port **ret_port)
{
	if (!vm || !ret_port)
		return GMM_ERR_INVALID_PARAMETER;
	if (!gmm__fork_is_home(vm->gmm))
		return GMM_ERR_WRONG_PROCESS;
	struct gmm_guest_port *port = gmm__mem_alloc(&vm->gmm->mem, sizeof *port);
	if (!port)
		return GMM_ERR_NO_MEMORY;
	port->vm = vm;
	port->end_gfn = end_addr ? end_addr / GMM__PAGE_BYTES : UINT64_MAX;
	port->info.last_fault = gmm__report_fault_name(GMM__REPORT_FINE);
	int status = prepare_request(port);
	if (status != GMM_OK) {
		gmm__mem_free(&vm->gmm->mem, port, sizeof *port);
		return status;
	}
	ask(port);
	*ret_port = port;
	return GMM_OK;
}

void gmm_guest_port_close(struct gmm_guest_port *port)
{
	if (!port || !gmm__fork_is_home(port->vm->gmm))
		return;
	remove_all(port);
	gmm__report_free(port->parser);
	gmm__mem_free(&port->vm->gmm->mem, port, sizeof *port);
}

void gmm_guest_port_restart(struct gmm_guest_port *port)
{
	if (port->parser)
		gmm__report_restart(port->parser);
	port->request_left = REQUEST_BYTES;
}

int gmm_guest_port_feed(struct gmm_guest_port *port, const void *bytes, size_t size, size_t *ret_taken)
{
	if (!port || (!bytes && size > 0) || !ret_taken)
		return GMM_ERR_INVALID_PARAMETER;
	if (!gmm__fork_is_home(port->vm->gmm))
		return GMM_ERR_WRONG_PROCESS;
	int status = adapt(port);
	if (status != GMM_OK)
		return status;
	/* Without RAM there is nothing to be said about it. */
	*ret_taken = port->parser ? gmm__report_feed(port->parser, now_ns(port), bytes, size) : size;
	return GMM_OK;
}

uint64_t gmm_guest_port_wait_ms(struct gmm_guest_port *port)
{
	uint64_t wait_ns = port->parser ? gmm__report_wait_ns(port->parser, now_ns(port)) : 0;

	return wait_ns / NS_PER_MS + (wait_ns % NS_PER_MS > 0);
}

size_t gmm_guest_port_take(struct gmm_guest_port *port, void *ret_bytes, size_t max)
{
	size_t n = port->request_left < max ? port->request_left : max;

	memcpy(ret_bytes, port->request + REQUEST_BYTES - port->request_left, n);
	port->request_left -= (uint32_t)n;
	return n;
}

void gmm_guest_port_info(const struct gmm_guest_port *port, struct gmm_guest_port_info *ret_info)
{
	*ret_info = port->info;
}
