/* SPDX-License-Identifier: Apache-2.0 */

/*
 * An event's last touch by the one who sets it is the unlocking store: the waiters have been taken over to
 * a private list by then, so the event may be freed as soon as one of them returns.
 */

#include "seeded/bug.h"
#include "sync/select.h"
#include "sync/waiter.h"

#include <endwell/clock.h>
#include <endwell/event.h>

static struct ew__line line_of(struct ew_event *event)
{
	return (struct ew__line){ &event->first, &event->last };
}

static void leave(struct ew_waiter *waiter)
{
	ew__line_remove(line_of(waiter->line), waiter);
}

void ew_event_set(struct ew_event *event)
{
	struct ew_waiter *waiting;

	ew__lock(&event->lock);
	event->set = true;
	waiting = ew__line_take_all(line_of(event));
	ew__unlock(&event->lock);
	ew__waiters_wake(waiting, 0);
}

void ew_event_reset(struct ew_event *event)
{
	ew__lock(&event->lock);
	event->set = false;
	ew__unlock(&event->lock);
}

bool ew_event_is_set(struct ew_event *event)
{
	bool set;

	ew__lock(&event->lock);
	set = event->set;
	ew__unlock(&event->lock);
	return set;
}

int ew_event_wait(struct ew_event *event, int64_t deadline_ns)
{
	struct ew_waiter waiter;
	bool set;
	int r = ew__enter();

	if (r < 0)
		return r;
	ew__waiter_init(&waiter, &event->lock, leave, event);
	ew__lock(&event->lock);
	set = event->set && !ew__bug("event-set-before-is-missed");
	if (!set)
		ew__line_append(line_of(event), &waiter);
	ew__unlock(&event->lock);
	return set ? 0 : ew__waiter_wait(&waiter, deadline_ns, "an event");
}

/* ---- among alternatives ---- */

static void select_begin(struct ew__stand *stand, const struct ew_site *site)
{
	struct ew_event *event = stand->alternative->object;

	(void)site;
	ew__stand_init_waiter(stand, &event->lock, leave, event);
}

static bool select_look(struct ew__stand *stand)
{
	const struct ew_event *event = stand->alternative->object;

	stand->result = 0;
	return event->set;
}

static void select_line_up(struct ew__stand *stand)
{
	ew__line_append(line_of(stand->alternative->object), &stand->waiter);
}

static void select_end(struct ew__stand *stand, bool won)
{
	(void)stand;
	(void)won;
}

static const struct ew__alternative_type alternative_type = {
	.begin = select_begin,
	.look = select_look,
	.line_up = select_line_up,
	.leave = ew__stand_leave_line,
	.end = select_end,
};

struct ew_alternative ew_select_event(struct ew_event *event)
{
	return (struct ew_alternative){ .type = &alternative_type, .object = event };
}
