/* Equal guests and single events; see twins.h. */
#include "tests/unit/support/twins.h"

#include <errno.h>
#include <string.h>

struct fake_world *world;
struct fake_guest *a, *b, *c;

void open_twins(uint32_t pages)
{
	world = fake_open();
	a = fake_guest_new(NULL, pages);
	b = fake_guest_new(NULL, pages);
	fake_fill_range(a, 0, pages, 1);
	fake_fill_range(b, 0, pages, 1);
}

void open_joiner(uint32_t pages)
{
	open_twins(pages + 1);
	fake_repeat(a, pages, 0x11);
	fake_repeat(b, pages, 0x12);
	c = fake_guest_new(NULL, pages + 1);
	fake_passes(4);
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_SHARED), pages);
	ck_assert_uint_eq(fake_count(b, GMM_PAGE_SHARED), pages);
	fake_fill_range(c, 0, pages, 1);
	uint64_t max = world->gmm->max_mappings;
	world->gmm->max_mappings = 0;
	fake_passes(1);
	ck_assert_uint_eq(fake_count(c, GMM_PAGE_BUDGET), pages);
	world->gmm->max_mappings = max;
	world->engine->retry_budget = true;
	memset(world->steps, 0, sizeof world->steps);
}

struct gmm__record record_of(gmm__page_id page)
{
	return gmm__pool_record(fake_pool(a), page);
}

/* What the hook does, once, when the step comes to a guest. */
static struct {
	enum fake_step step;
	struct fake_guest *guest;
	fake_hook_fn *act;
	bool done;
} plan;

static int run_plan(const struct fake_event *event)
{
	if (plan.done || event->step != plan.step || event->guest != plan.guest)
		return 0;
	plan.done = true;
	return plan.act(event);
}

void once_at(enum fake_step step, struct fake_guest *guest, fake_hook_fn *act)
{
	plan.step = step;
	plan.guest = guest;
	plan.act = act;
	plan.done = false;
	world->hook = run_plan;
}

bool once_done(void)
{
	return plan.done;
}

int write_first(const struct fake_event *event)
{
	fake_write(event->guest, event->first, 3, 0x1234);
	return 0;
}

int pin_first(const struct fake_event *event)
{
	event->guest->page[event->first].pinned = true;
	return 0;
}

int drop_first(const struct fake_event *event)
{
	fake_drop(event->guest, event->first);
	return 0;
}

int fail_enomem(const struct fake_event *event)
{
	(void)event;
	return -ENOMEM;
}

int fail_einval(const struct fake_event *event)
{
	(void)event;
	return -EINVAL;
}
