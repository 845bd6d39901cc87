/* Effort: when a region is visited next. */
#include "dedup/effort.h"

/* Level k: a visit every 2^k passes. */
enum { LEVEL_MAX = 4, LEVEL_LOW = 3, YOUNG_VISITS = 8, SURVEY_PASSES = 16 };

/* Others wake a region (gmm__slot_wake) while this thread counts: a wake-up that is lost here is made good by the visit
 * that comes at the latest after 16 passes. */
static uint8_t load(const uint8_t *byte)
{
	return __atomic_load_n(byte, __ATOMIC_RELAXED);
}

static void store(uint8_t *byte, unsigned value)
{
	__atomic_store_n(byte, (uint8_t)value, __ATOMIC_RELAXED);
}

bool gmm__effort_due(struct gmm__effort *effort, bool full)
{
	uint8_t rest = load(&effort->rest);

	if (effort->unsurveyed < SURVEY_PASSES)
		effort->unsurveyed++;
	if (rest > 0 && !full) {
		store(&effort->rest, rest - 1u);
		return false;
	}
	return true;
}

bool gmm__effort_survey(struct gmm__effort *effort)
{
	if (effort->unsurveyed < SURVEY_PASSES)
		return false;
	effort->unsurveyed = 0;
	return true;
}

bool gmm__effort_is_low(const struct gmm__effort *effort)
{
	return load(&effort->level) >= LEVEL_LOW;
}

void gmm__effort_learn(struct gmm__effort *effort, struct gmm__yield yield)
{
	uint8_t level = load(&effort->level);

	if (yield.fresh)
		effort->visits = 0;
	if (effort->visits < YOUNG_VISITS)
		effort->visits++;
	if (yield.shared || effort->visits < YOUNG_VISITS)
		level = 0;
	else if (level < LEVEL_MAX)
		level++;
	store(&effort->level, level);
	store(&effort->rest, (1u << level) - 1);
}
