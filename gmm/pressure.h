/* Memory pressure as the kernel tells it: PSI files (/proc/pressure/memory, memory.pressure of a cgroup), their text and
 * how much time was lost to stalls between two looks.
 */
#ifndef GMM_PRESSURE_H
#define GMM_PRESSURE_H

#include "gmm/sys/sys.h"

/* A PSI file's totals: time in which some, or all, of the tasks waited for memory. */
struct gmm__psi {
	uint64_t some_us;
	uint64_t full_us;
};

/* Reads the text of such a file. False: it is none. */
bool gmm__psi_parse(const char *text, struct gmm__psi *ret_psi);

/* 0 or a negative errno; -EINVAL: not a PSI file. */
int gmm__psi_read(const struct gmm__sys *sys, const char *path, struct gmm__psi *ret_psi);

/* The PSI file of the cgroup that the process is in: ret_path holds it. False: there is none (no cgroup v2, or no memory
 * accounting in it). */
bool gmm__psi_own_cgroup(const struct gmm__sys *sys, char *ret_path, size_t size);

/* Stalls seen through one file. */
struct gmm__psi_watch {
	char path[256];
	struct gmm__psi last;
	uint64_t last_ns; /* 0: not read yet */
};

/* Thousandths of the time since the look before in which some task waited for memory, at most 1000; 0 at the first look
 * and where the file cannot be read. A counter that went back counts as no stall. */
uint32_t gmm__psi_look(const struct gmm__sys *sys, struct gmm__psi_watch *watch);

#endif
