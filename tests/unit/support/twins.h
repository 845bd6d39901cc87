/* Where most tests of merging begin: fake guests with equal pages, and something that happens once at a certain step. */
#ifndef TESTS_UNIT_SUPPORT_TWINS_H
#define TESTS_UNIT_SUPPORT_TWINS_H

#include <check.h>

#include "tests/unit/support/fake_backend.h"

extern struct fake_world *world;
extern struct fake_guest *a, *b, *c;

/* a and b have the same pages, never looked at. */
void open_twins(uint32_t pages);

/* a and b share all but their last page, and c has the same pages, which are found but not shared yet: it joins in the
 * next pass. c's last page is a hole. */
void open_joiner(uint32_t pages);

/* The record of a pool page of a's domain. */
struct gmm__record record_of(gmm__page_id page);

/* From now on `act` is done when the step comes to the guest: once. */
void once_at(enum fake_step step, struct fake_guest *guest, fake_hook_fn *act);
/* It has been done. */
bool once_done(void);

/* Acts. */
int write_first(const struct fake_event *event);
int pin_first(const struct fake_event *event);
int drop_first(const struct fake_event *event);
int fail_enomem(const struct fake_event *event);
int fail_einval(const struct fake_event *event);

#endif
