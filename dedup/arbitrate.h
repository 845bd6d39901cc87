/* Arbitration's loop: reads the pressure files, steps the arbiter (gmm/arbiter.h), and does what it says. */
#ifndef DEDUP_ARBITRATE_H
#define DEDUP_ARBITRATE_H

#include <gmm/balloon.h>

#include "gmm/arbiter.h"
#include "gmm/instance.h"
#include "gmm/pressure.h"

enum { GMM__PRESSURE_SOURCES = 2 };

struct gmm__arbitration {
	struct gmm *gmm;
	uintptr_t thread;
	uint32_t interval_ms;
	uint64_t max_pages;
	struct gmm__psi_watch source[GMM__PRESSURE_SOURCES];
	uint32_t sources;
	int wake;                          /* an event: the loop is to end */
	int ready[1 + GMM__PRESSURE_SOURCES]; /* wake, and the triggers */
	uint32_t triggers;                 /* of the sources that have one */
	struct gmm__arbiter arbiter;
	uint32_t cpu_percent;              /* as last set for the engine */

	/* Guarded by gmm.lock. */
	struct gmm_pressure_stats stats;
};

/* One step by the calling thread: what the loop does, for tests. */
void gmm__arbitration_step(struct gmm__arbitration *arbitration);

/* Sets up without a thread. A gmm_status. */
int gmm__arbitration_open(struct gmm *gmm, const struct gmm_pressure_options *options, struct gmm__arbitration **ret);
void gmm__arbitration_close(struct gmm__arbitration *arbitration);

#endif
