/* Budget: how long the engine must rest to stay within its share of a core. Pure functions. */
#ifndef DEDUP_BUDGET_H
#define DEDUP_BUDGET_H

#include <stdint.h>

struct gmm__budget {
	uint64_t since_ns; /* start of the time that counts */
	uint64_t spent_ns; /* CPU time at that point */
};

/* Nanoseconds to rest now, at time now_ns with cpu_ns of CPU time spent in all, to keep to `percent` of one core; 0 for
 * no limit. Short overdrafts are let pass, and time left unused is kept for a moment only. */
uint64_t gmm__budget_rest(struct gmm__budget *budget, uint32_t percent, uint64_t now_ns, uint64_t cpu_ns);

/* The same for a limit of pages a second, with so many pages looked at in all. */
uint64_t gmm__budget_pages_rest(struct gmm__budget *budget, uint32_t pages_per_second, uint64_t now_ns, uint64_t pages);

#endif
