/* Heat: pages that are written all the time are left alone. Pure functions over the value of a VOLATILE page.
 *
 * A page that is armed costs its guest a fault at the next write, and the engine a call and a flush of translations. For a
 * page that is written again at once that is pure loss, the greater the faster passes follow each other. So a page that was
 * looked at before and is found written is not armed: it is read, and again after a second, which costs the guest nothing.
 * If its bytes have changed it rests, about as long as it has been written so far, up to 16 seconds, and is read again. If
 * not, it is armed, and has to stay unwritten for a second. Where the window is longer than the rest would be, pages are
 * armed and not read: then passes are seldom enough.
 */
#ifndef DEDUP_HEAT_H
#define DEDUP_HEAT_H

#include <stdbool.h>
#include <stdint.h>

/* When something is judged. Times are ticks of 2^27 ns (134 ms), modulo 4096 (9 minutes). */
struct gmm__heat_clock {
	uint32_t now;
	uint32_t window;
	bool all;        /* no page rests or has to stay unwritten for long: somebody waits for the engine to settle */
};

struct gmm__heat_clock gmm__heat_clock(uint64_t clock_ns, uint32_t window_ms, bool all);

/* The heat of a page whose bytes have not been looked at yet, and of one where they have, when they are first found
 * written. */
enum { GMM__HEAT_NEW = 0, GMM__HEAT_KNOWN = 1 };

/* What a page that is found written does now. */
enum gmm__heat_step {
	GMM__HEAT_ARM,     /* it is armed */
	GMM__HEAT_REST,    /* it begins to rest */
	GMM__HEAT_RESTING, /* it goes on resting */
	GMM__HEAT_READ,    /* it is read, and rests or is armed */
};

/* Of a page that is found written; *heat is what it was before, and what it is now. */
enum gmm__heat_step gmm__heat_written(uint32_t *heat, const struct gmm__heat_clock *clock);

/* Of a page with GMM__HEAT_READ, by a fingerprint of its bytes. True when it is to be armed. */
bool gmm__heat_read(uint32_t *heat, uint32_t fingerprint, const struct gmm__heat_clock *clock);

/* True when a page that was not written since it was armed has been so for long enough. */
bool gmm__heat_is_quiet(uint32_t heat, const struct gmm__heat_clock *clock);

#endif
