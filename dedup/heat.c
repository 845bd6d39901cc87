/* Heat: which written pages are armed. */
#include "dedup/heat.h"

/* The value of a page: how often in a row it was found written (up to COUNT_MAX), whether it rests, a time, and part of a
 * fingerprint, once it has been read. The time is the end of its rest, or when it was armed. */
enum { COUNT_MASK = 0x07, RESTS = 0x08, TIME_SHIFT = 4, TIME_MASK = 0xfff, WAS_READ = 0x10000 };
#define FINGERPRINT_MASK UINT32_C(0xfffe0000)

enum { TICK_SHIFT = 27, SECOND = 7 };
enum { REST_FROM = 2, COUNT_MAX = REST_FROM + 4, REST_MAX = SECOND << (COUNT_MAX - REST_FROM) };

static uint32_t ticks(uint64_t ns)
{
	return (uint32_t)(ns >> TICK_SHIFT);
}

struct gmm__heat_clock gmm__heat_clock(uint64_t clock_ns, uint32_t window_ms, bool all)
{
	uint32_t window = window_ms ? ticks(window_ms * UINT64_C(1000000)) + 1 : 0;

	return (struct gmm__heat_clock){ ticks(clock_ns) & TIME_MASK, window, all };
}

static uint32_t time_of(uint32_t heat)
{
	return heat >> TIME_SHIFT & TIME_MASK;
}

static uint32_t make(uint32_t count, uint32_t flags, uint32_t time)
{
	return count | flags | (time & TIME_MASK) << TIME_SHIFT;
}

static uint32_t since(uint32_t heat, const struct gmm__heat_clock *clock)
{
	return (clock->now - time_of(heat)) & TIME_MASK;
}

/* How long a page rests by its count, with the second from one look to the other; 0: not at all, a window will do. */
static uint32_t rest_of(uint32_t count)
{
	return count < REST_FROM ? 0 : (uint32_t)SECOND << (count - REST_FROM);
}

static bool may_rest(uint32_t count, const struct gmm__heat_clock *clock)
{
	return !clock->all && rest_of(count) > clock->window;
}

/* While a page is armed all the same, it gets no further in less time than it would have rested. */
static uint32_t count_on(uint32_t heat, const struct gmm__heat_clock *clock)
{
	uint32_t count = heat & COUNT_MASK;

	if (rest_of(count) > 0 && !may_rest(count, clock) && since(heat, clock) < rest_of(count))
		return heat & ~(uint32_t)RESTS;
	if (count < COUNT_MAX)
		count++;
	if (!may_rest(count, clock))
		return make(count, 0, clock->now);
	return make(count, RESTS, clock->now + rest_of(count) - SECOND);
}

/* A rest that is to last for longer than rests do was over long ago. */
static bool is_resting(uint32_t heat, const struct gmm__heat_clock *clock)
{
	uint32_t left = (time_of(heat) - clock->now) & TIME_MASK;

	return heat & RESTS && !clock->all && left > 0 && left <= REST_MAX;
}

enum gmm__heat_step gmm__heat_written(uint32_t *heat, const struct gmm__heat_clock *clock)
{
	if (is_resting(*heat, clock))
		return GMM__HEAT_RESTING;
	if (!(*heat & RESTS) || clock->all)
		*heat = count_on(*heat, clock);
	return !(*heat & RESTS) ? GMM__HEAT_ARM : is_resting(*heat, clock) ? GMM__HEAT_REST : GMM__HEAT_READ;
}

bool gmm__heat_read(uint32_t *heat, uint32_t fingerprint, const struct gmm__heat_clock *clock)
{
	uint32_t count = *heat & COUNT_MASK;
	bool same = *heat & WAS_READ && ((*heat ^ fingerprint) & FINGERPRINT_MASK) == 0;

	if (!(*heat & WAS_READ))
		*heat = make(count, RESTS | WAS_READ, clock->now + SECOND) | (fingerprint & FINGERPRINT_MASK);
	else
		*heat = same ? make(count, 0, clock->now) : count_on(*heat, clock);
	return same;
}

bool gmm__heat_is_quiet(uint32_t heat, const struct gmm__heat_clock *clock)
{
	return !may_rest(heat & COUNT_MASK, clock) || since(heat, clock) >= SECOND;
}
