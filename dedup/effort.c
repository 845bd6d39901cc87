/* Effort: when a region is visited next. */
#include "dedup/effort.h"

/* Level k: a visit every 2^k passes. */
enum { LEVEL_MAX = 4, LEVEL_LOW = 1, YOUNG_VISITS = 8 };

/* Sharable memory waits so long for a visit at most. A few pages are those whose digests and faults cost about as much as the
 * visit, made once in a second. */
enum { UNWRITTEN_MS = 8000, FEW_WRITTEN_MS = 1000, FEW_PAGES = GMM__REGION_PAGES / 16 };

/* With so many written, nobody knows how often they were. */
enum { ALL_PAGES = GMM__REGION_PAGES / 8 * 7 };

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

	if (effort->unsurveyed < GMM__SURVEY_PASSES)
		effort->unsurveyed++;
	if (rest > 0 && !full) {
		store(&effort->rest, rest - 1u);
		return false;
	}
	return true;
}

bool gmm__effort_survey(struct gmm__effort *effort)
{
	if (effort->unsurveyed < GMM__SURVEY_PASSES)
		return false;
	effort->unsurveyed = 0;
	return true;
}

bool gmm__effort_is_low(const struct gmm__effort *effort)
{
	return load(&effort->level) >= LEVEL_LOW;
}

static uint8_t level_within(uint64_t ms, uint64_t pass_ms)
{
	uint8_t level = 0;

	while (level < LEVEL_MAX && pass_ms << (level + 1) <= ms)
		level++;
	return level;
}

struct gmm__effort_limits gmm__effort_limits(uint64_t pass_ms, uint64_t since_ms)
{
	uint64_t most_ms = since_ms < UNWRITTEN_MS ? since_ms : UNWRITTEN_MS;

	return (struct gmm__effort_limits){ level_within(UNWRITTEN_MS, pass_ms), level_within(FEW_WRITTEN_MS, pass_ms),
					    (uint32_t)(FEW_PAGES * most_ms / FEW_WRITTEN_MS) };
}

void gmm__effort_learn(struct gmm__effort *effort, struct gmm__yield yield, const struct gmm__effort_limits *limits)
{
	uint8_t level = load(&effort->level);
	uint8_t most = yield.written == 0 ? limits->unwritten : yield.written > limits->few_pages << level ? LEVEL_MAX :
		       yield.written > ALL_PAGES ? level : limits->few;

	if (yield.fresh)
		effort->visits = 0;
	if (effort->visits < YOUNG_VISITS)
		effort->visits++;
	if (yield.shared || effort->visits < YOUNG_VISITS)
		level = 0;
	else
		level = level < most ? level + 1 : most;
	store(&effort->level, level);
	store(&effort->rest, (1u << level) - 1);
}
