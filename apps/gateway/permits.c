/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A presumed operation keeps its slot in the table, so that a late word about it is understood; there are as many slots
 * as permits, and a presumed permit is not granted again, so that there is always room.
 */
#include "permits.h"

#include <endwell/clock.h>
#include <endwell/task.h>

#include "common/log.h"

#define LOOK_INTERVAL (20 * EW_MILLISECOND)

void permits_release(struct gateway *gateway, struct operation *operation)
{
	table_leave(&gateway->table, operation);
	ew_permit_release(&operation->permit);
	ew_permit_release(&operation->own_permit);
}

void permits_mark_cancelling(struct operation *operation)
{
	ew_permit_mark_cancelling(operation->permit);
	if (operation->own_permit)
		ew_permit_mark_cancelling(operation->own_permit);
}

void permits_presume(struct gateway *gateway, struct operation **place)
{
	struct operation *operation = *place;

	*place = NULL;
	ew_permit_presume(&operation->permit);
	ew_permit_presume(&operation->own_permit);
	operation->presumed = true;
	operation->hold_end_ns = ew_after(operation->route->config->presumed_hold_ns);
	operation->newer = NULL;
	*gateway->presumed_end = operation;
	gateway->presumed_end = &operation->newer;
	ew_event_set(&gateway->presumed_some);
	log_note("warn", "presumed", "%s: %s", operation->id, outcome_name(operation->outcome));
}

static void unlink_presumed(struct gateway *gateway, struct operation *operation)
{
	struct operation **link = &gateway->presumed;

	while (*link != operation)
		link = &(*link)->newer;
	*link = operation->newer;
	if (!*link)
		gateway->presumed_end = link;
}

static void end_presumed(struct gateway *gateway, struct operation *operation)
{
	struct route *route = operation->route;

	unlink_presumed(gateway, operation);
	table_leave(&gateway->table, operation);
	if (operation->tenant)
		ew_semaphore_reclaim(operation->tenant->permits, 1);
	ew_abort(&operation);
	ew_semaphore_reclaim(route->permits, 1);
}

void permits_prove(struct gateway *gateway, struct operation *operation,
		   struct ew_amqp_delivery **result)
{
	struct route *route = operation->route;

	log_note("info", "presumed-proved", "%s", operation->id);
	route->presumed_proved++;
	record_prove(&gateway->records, operation->record, operation->outcome, result);
	end_presumed(gateway, operation);
}

static void expire(struct gateway *gateway, struct operation *operation)
{
	struct route *route = operation->route;

	log_note("warn", "presumed-expired", "%s: its hold time has passed", operation->id);
	route->presumed_expired++;
	end_presumed(gateway, operation);
}

static void expire_due(struct gateway *gateway)
{
	struct operation *operation = gateway->presumed, *newer;

	for (; operation; operation = newer) {
		newer = operation->newer;
		if (operation->hold_end_ns <= ew_now())
			expire(gateway, operation);
	}
}

int permits_run(void *argument)
{
	struct gateway *gateway = argument;
	int r;

	for (;;) {
		r = gateway->presumed ? ew_sleep(LOOK_INTERVAL)
				      : ew_event_wait(&gateway->presumed_some, EW_NEVER);
		if (r < 0)
			return r;
		ew_event_reset(&gateway->presumed_some);
		expire_due(gateway);
	}
}

void permits_forget(struct gateway *gateway)
{
	while (gateway->presumed)
		end_presumed(gateway, gateway->presumed);
}
