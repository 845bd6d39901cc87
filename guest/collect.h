/* Looks through all processes for files they have mapped and not made writable, and for the pages of them in memory.
 *
 * Nothing is faulted in: what is in memory is what /proc/PID/pagemap says, and of a file only its ELF header and note are
 * read, from pages that are in memory already. Devices are never opened. Processes and files that cannot be looked at, or
 * are gone meanwhile, are left out.
 */
#ifndef GUEST_COLLECT_H
#define GUEST_COLLECT_H

#include <signal.h>

#include "guest/files.h"

/* False if stopped. *stop is looked at often: a machine may have very many mappings. */
bool collect_files(const char *proc, struct files *files, const volatile sig_atomic_t *stop);

/* Whether the kernel shows us the places of pages at all; it does so to root. */
bool collect_is_allowed(const char *proc);

#endif
