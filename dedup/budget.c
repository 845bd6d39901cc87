/* CPU budget: a leaky account of time spent against time allowed. */
#include "dedup/budget.h"

enum { OVERDRAFT_NS = 5000000, KEPT_NS = 100000000 };

uint64_t gmm__budget_rest(struct gmm__budget *budget, uint32_t percent, uint64_t now_ns, uint64_t cpu_ns)
{
	if (percent == 0 || budget->since_ns == 0) {
		*budget = (struct gmm__budget){ now_ns, cpu_ns };
		return 0;
	}
	uint64_t spent = cpu_ns - budget->spent_ns, allowed = (now_ns - budget->since_ns) * percent / 100;
	if (allowed > spent + KEPT_NS) { /* what was saved longer ago is forgotten */
		*budget = (struct gmm__budget){ now_ns - KEPT_NS * 100ull / percent, cpu_ns };
		return 0;
	}
	return spent > allowed + OVERDRAFT_NS ? (spent - allowed) * 100 / percent : 0;
}

uint64_t gmm__budget_pages_rest(struct gmm__budget *budget, uint32_t pages_per_second, uint64_t now_ns, uint64_t pages)
{
	if (pages_per_second == 0)
		return 0;
	/* A page takes its part of a second, of which all may be used. */
	return gmm__budget_rest(budget, 100, now_ns, pages * (1000000000 / pages_per_second));
}
