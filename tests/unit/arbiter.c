/* Arbitration: order of priorities, steps, limits, and that it does not swing: over recorded stalls, and in a loop with a
 * host whose pressure follows from what its guests use.
 */
#include "gmm/arbiter.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/support/unit.h"

enum { VMS = 3, GIB = 262144 };

static struct gmm__arbiter arbiter;
static struct gmm__arbiter_vm vms[VMS];
static struct gmm__arbiter_input input;

static void setup(void)
{
	memset(&arbiter, 0, sizeof arbiter);
	memset(vms, 0, sizeof vms);
	memset(&input, 0, sizeof input);
	input.now_ms = 1;
	for (int i = 0; i < VMS; i++) {
		vms[i].priority = (enum gmm_priority)(GMM_PRIORITY_HIGH - i);
		vms[i].pages = GIB;
		vms[i].maximum = GIB / 2;
	}
}

/* A second in which guests follow at once, if they give. */
static enum gmm__arbiter_phase second(uint32_t stall, bool give)
{
	input.now_ms += 1000;
	input.stall_permille = stall;
	enum gmm__arbiter_phase phase = gmm__arbiter_step(&arbiter, &input, vms, VMS);
	for (int i = 0; give && i < VMS; i++)
		vms[i].given = vms[i].requested;
	return phase;
}

static uint64_t requested(void)
{
	uint64_t pages = 0;

	for (int i = 0; i < VMS; i++)
		pages += vms[i].requested;
	return pages;
}

START_TEST(nothing_without_pressure)
{
	setup();
	for (int i = 0; i < 1000; i++)
		ck_assert_int_eq(second((uint32_t)i % GMM__STALL_HIGH, true), GMM__CALM);
	ck_assert_uint_eq(requested(), 0);
}
END_TEST

START_TEST(scanning_comes_first)
{
	setup();
	int scanned = 0;
	for (int i = 0; i < 60 && arbiter.phase != GMM__BALLOONING; i++)
		scanned += second(100, true) == GMM__SCANNING;
	ck_assert_int_ge(scanned, GMM__SCAN_FIRST_MS / 1000 - 1);
	ck_assert_int_eq(arbiter.phase, GMM__BALLOONING);
	ck_assert_uint_gt(requested(), 0);
}
END_TEST

START_TEST(urgent_pressure_balloons_at_once)
{
	setup();
	for (int i = 0; i < 4; i++)
		second(900, true);
	ck_assert_int_eq(arbiter.phase, GMM__BALLOONING);
}
END_TEST

START_TEST(low_before_normal_before_high)
{
	setup();
	while (vms[2].requested < vms[2].maximum) {
		second(900, true);
		ck_assert(vms[1].requested == 0 || vms[2].requested == vms[2].maximum);
	}
	while (vms[1].requested < vms[1].maximum) {
		second(900, true);
		ck_assert(vms[0].requested == 0 || vms[1].requested == vms[1].maximum);
	}
	for (int i = 0; i < 100; i++)
		second(900, true);
	ck_assert_uint_eq(requested(), 3 * (GIB / 2)); /* and not a page more than the maximum */
}
END_TEST

START_TEST(given_back_to_high_before_low)
{
	setup();
	for (int i = 0; i < 200; i++)
		second(900, true);
	while (arbiter.phase != GMM__CALM) {
		second(0, true);
		ck_assert(vms[2].requested == vms[2].maximum || vms[0].requested + vms[1].requested == 0);
		ck_assert(vms[1].requested == vms[1].maximum || vms[0].requested == 0);
	}
	ck_assert_uint_eq(requested(), 0);
}
END_TEST

/* The next demand waits for the last one. */
START_TEST(demand_does_not_run_ahead)
{
	setup();
	for (int i = 0; i < 8; i++)
		second(900, false);
	ck_assert_uint_le(requested(), 3 * GIB / GMM__ASK_PART);
	ck_assert_uint_gt(requested(), 0);
}
END_TEST

/* A guest without a driver, or one that cannot give, is left for the next. */
START_TEST(a_guest_that_gives_nothing)
{
	setup();
	for (int i = 0; i < 60; i++) {
		second(900, false);
		vms[1].given = vms[1].requested;
	}
	ck_assert_uint_gt(vms[1].requested, 0);
	ck_assert_uint_le(vms[2].requested, 3 * GIB / GMM__ASK_PART);
}
END_TEST

START_TEST(without_balloons_only_scanning_helps)
{
	setup();
	for (int i = 0; i < VMS; i++)
		vms[i].maximum = 0;
	for (int i = 0; i < 60; i++)
		second(900, true);
	ck_assert_uint_eq(requested(), 0);
	ck_assert_uint_eq(gmm__arbiter_cpu_percent(arbiter.phase, 20), 20 * GMM__ARBITER_CPU);
	ck_assert_uint_eq(gmm__arbiter_cpu_percent(arbiter.phase, 0), 0);
	ck_assert_uint_eq(gmm__arbiter_cpu_percent(GMM__CALM, 20), 20);
}
END_TEST

START_TEST(over_the_maximum_is_pressure)
{
	setup();
	input.max_pages = 2 * GIB;
	input.allocated_pages = 2 * GIB + 10000;
	second(0, false);
	ck_assert_int_eq(arbiter.phase, GMM__BALLOONING);
	ck_assert_uint_ge(requested(), 10000);
	input.allocated_pages = 2 * GIB - 100; /* too close to give back */
	for (int i = 0; i < 1000; i++)
		second(0, true);
	ck_assert_uint_ge(requested(), 10000);
}
END_TEST

/* ---- it does not swing ------------------------------------------------------------------------------------------------ */

/* How often the demand turned from rising to falling or back. */
struct turns {
	uint64_t last;
	int direction;
	int turns;
};

static void count_turn(struct turns *turns)
{
	uint64_t now = requested();
	int direction = (now > turns->last) - (now < turns->last);

	turns->turns += direction && turns->direction && direction != turns->direction;
	turns->direction = direction ? direction : turns->direction;
	turns->last = now;
}

/* Stalls as the kernel of a busy machine told them, a second each. */
START_TEST(recorded_pressure)
{
	struct turns turns = { 0 };
	char path[512];
	unsigned stall, seconds = 0;

	setup();
	const char *folder = getenv("SRC");
	snprintf(path, sizeof path, "%s/tests/data/pressure_some.txt", folder ? folder : ".");
	FILE *file = fopen(path, "re");
	ck_assert_msg(file != NULL, "cannot open %s", path);
	for (int round = 0; round < 4; round++, rewind(file)) {
		while (fscanf(file, "%u", &stall) == 1) {
			second(stall, true);
			count_turn(&turns);
			seconds++;
		}
	}
	fclose(file);
	printf("%u seconds, %d turns, longest hold %lu s\n", seconds, turns.turns, (unsigned long)arbiter.hold_ms / 1000);
	ck_assert_uint_gt(seconds, 1000);
	ck_assert_int_le(turns.turns, (int)(seconds / 240));
}
END_TEST

/* A host that stalls by what its guests use above its memory; guests follow slowly and want their memory back. */
static uint32_t stall_of(uint64_t used, uint64_t memory)
{
	uint64_t over = used > memory ? (used - memory) * 20000 / memory : 0; /* 1 % over: 200 permille */

	return over < 1000 ? (uint32_t)over : 1000;
}

START_TEST(a_host_that_is_too_small)
{
	struct turns turns = { 0 };
	uint64_t memory = 5 * GIB / 2, used = 3 * GIB;
	uint32_t high = 0;

	setup();
	for (int i = 0; i < 4 * 3600; i++) {
		uint32_t stall = stall_of(used, memory);
		high += stall >= GMM__STALL_HIGH;
		second(stall, false);
		used = 3 * GIB;
		for (int k = 0; k < VMS; k++) {
			int64_t step = (int64_t)(vms[k].requested - vms[k].given) / 3;
			vms[k].given += (uint64_t)step;
			used -= vms[k].given;
		}
		count_turn(&turns);
	}
	printf("4 hours: %d turns, %u s of pressure\n", turns.turns, high);
	ck_assert_int_le(turns.turns, 4 * 3600 / 480 * 2 + 8); /* a try to give back every hold time at most */
	ck_assert_uint_le(high, 4 * 3600 / 10);
}
END_TEST

START_TEST(a_peak_that_passes)
{
	struct turns turns = { 0 };

	setup();
	for (int i = 0; i < 900; i++) {
		second(i > 100 && i < 160 ? 400 : 2, true);
		count_turn(&turns);
	}
	ck_assert_int_eq(turns.turns, 1); /* up and down again */
	ck_assert_uint_eq(requested(), 0);
	ck_assert_int_eq(arbiter.phase, GMM__CALM);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		nothing_without_pressure, scanning_comes_first, urgent_pressure_balloons_at_once,
		low_before_normal_before_high, given_back_to_high_before_low, demand_does_not_run_ahead,
		a_guest_that_gives_nothing, without_balloons_only_scanning_helps, over_the_maximum_is_pressure,
		recorded_pressure, a_host_that_is_too_small, a_peak_that_passes,
	};

	return unit_main("arbiter", tests, sizeof tests / sizeof *tests);
}
