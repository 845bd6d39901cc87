/* Guests that write, drop and pin pages at any step of the engine, on a host that refuses this and that: whatever comes,
 * no byte is lost and the accounts hold. The dice are the same at every run.
 */
#include <errno.h>

#include "tests/support/guest.h"
#include "tests/unit/support/twins.h"
#include "tests/unit/support/unit.h"

#define WORD 0xccccccccccccccccu

static uint64_t dice;

static uint32_t roll(uint32_t n)
{
	return (uint32_t)(random_next(&dice) >> 20) % n;
}

static void act_at_random(struct fake_guest *guest, uint32_t page)
{
	switch (roll(8)) {
	case 0:
		fake_repeat(guest, page, 0);
		break;
	case 1:
		fake_repeat(guest, page, WORD);
		break;
	case 2:
		fake_write(guest, page, roll(512), roll(2));
		break;
	default:
		fake_fill(guest, page, 1 + page % 32 + roll(3));
		break;
	}
}

static int random_hook(const struct fake_event *event)
{
	uint32_t page = event->first + roll(event->count);

	if (event->step == FAKE_BYTES) /* others see the page while it is compared */
		return 0;
	if (roll(4) == 0)
		act_at_random(event->guest, page);
	if (roll(16) == 0 && event->step == FAKE_BEFORE_FREEZE)
		event->guest->page[page].pinned = roll(2);
	if (roll(8) == 0)
		return roll(2) ? -ENOMEM : -EINVAL;
	return 0;
}

static void random_run(uint64_t seed)
{
	struct fake_guest *guest[3];

	world = fake_open();
	for (int i = 0; i < 3; i++)
		guest[i] = fake_guest_new(NULL, 300);
	dice = seed;
	world->gmm->options.repair = seed >> 32 & 1 ? GMM_REPAIR_PROMISED : GMM_REPAIR_NEVER;
	world->hook = random_hook;
	world->gmm->max_mappings = 100 + roll(1000);
	for (int pass = 0; pass < 60; pass++) {
		for (int k = 0; k < 30; k++)
			act_at_random(guest[roll(3)], roll(300));
		if (roll(4) == 0)
			fake_discard(guest[roll(3)], roll(200), 1 + roll(100));
		if (roll(4) == 0)
			fake_unshare(guest[roll(3)], roll(200), 1 + roll(100));
		world->out_of_memory = roll(8) == 0;
		world->disk_full = roll(8) == 0;
		fake_passes(1);
	}
	fake_close();
}

START_TEST(anything_at_any_step)
{
	for (uint64_t i = 0; i < 6; i++)
		random_run(88172645463325252u + (i << 32));
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		anything_at_any_step,
	};

	return unit_main("merge_random", tests, sizeof tests / sizeof *tests);
}
