/* Modules in traces: the parts of VMs' memory that a guest agent would report as files they have in common.
 *
 * A trace does not tell files. What stands for them: rows of consecutive pages of the first VM, each of which is somewhere
 * in the memory of every other VM, once.
 */
#ifndef CMD_TRACE_MODULES_H
#define CMD_TRACE_MODULES_H

#include <stddef.h>
#include <stdint.h>

#include <gmm/modules.h>

enum { TRACE_MODULE_PAGES_MIN = 8 };

struct gmm__trace_module {
	uint64_t first; /* page of the first VM */
	uint64_t pages;
};

struct gmm__trace_modules {
	size_t vms;
	uint64_t vm_pages; /* of the first VM */
	size_t count;
	uint64_t pages;    /* of all modules */
	struct gmm__trace_module *module;
	uint32_t **at;     /* by VM and by page of the first VM: where its content is there */
};

/* words[i]: the trace words of VM i, pages[i] of them. 0, or -1 without memory. */
int gmm__trace_modules_find(const uint64_t *const *words, const uint64_t *pages, size_t vms,
			    struct gmm__trace_modules *ret_modules);
void gmm__trace_modules_free(struct gmm__trace_modules *modules);

/* Registers module i, if it has one, for a VM whose RAM begins at guest address 0. A status. */
int gmm__trace_modules_register(const struct gmm__trace_modules *modules, size_t i, size_t vm_number,
				struct gmm_vm *vm, const char *prefix);

/* How many pages of all modules are in this state in a VM. */
uint64_t gmm__trace_modules_in_state(const struct gmm__trace_modules *modules, size_t vm_number, struct gmm_vm *vm,
				     enum gmm_page_state state);

#endif
