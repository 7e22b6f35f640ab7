/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A completion tells only who waits, and whoever waits keeps his worker alive. With nobody waiting it leaves a note in
 * the record; of an abandoned operation it frees the place there and then, on its own thread. So it does not matter to it
 * whether a worker, or a runtime, is still there.
 */

#include "scope/resource.h"
#include "scope/scope.h"
#include "sync/reaper.h"
#include "sync/select.h"

#include <endwell/clock.h>
#include <endwell/semaphore.h>
#include <string.h>

static int foreign_close(void *resource);
static void foreign_abort(void *resource);

static const struct ew_resource_type foreign_type = {
	.name = "foreign operation",
	.close = foreign_close,
	.abort = foreign_abort,
};

static struct ew__line line_of(struct ew_foreign *foreign)
{
	return (struct ew__line){ &foreign->first, &foreign->last };
}

static void leave(struct ew_waiter *waiter)
{
	ew__line_remove(line_of(waiter->line), waiter);
}

static int begin(struct ew_reaper *reaper, const struct ew_foreign_options *options,
		 const struct ew_site *site, struct ew_foreign **ret_foreign)
{
	struct ew_foreign *foreign = ew__reaper_take_place(reaper);

	if (!foreign)
		return -EAGAIN;
	ew_assert(options->name);
	foreign->name = options->name;
	foreign->cancel = options->cancel;
	foreign->dispose = options->dispose;
	foreign->site = site;
	foreign->permit = NULL;
	if (options->permit && *options->permit) {
		foreign->permit = *options->permit;
		*options->permit = NULL;
		ew__resource_leave_runtime((struct ew_resource *)foreign->permit);
	}
	if (reaper->options.memory_bytes)
		memset(foreign->memory, 0, reaper->options.memory_bytes);
	*ret_foreign = foreign;
	return 0;
}

int(ew_foreign_begin)(struct ew_reaper *reaper, const struct ew_foreign_options *options,
		      struct ew_foreign **ret_operation)
{
	const struct ew_site *site = ew__made_at;
	struct ew_foreign *foreign;
	int r;

	ew__place_must_be_empty(ret_operation, site);
	r = begin(reaper, options, site, &foreign);
	if (r < 0)
		return r;
	ew_resource_init(&foreign->resource, &foreign_type, site);
	*ret_operation = foreign;
	return 0;
}

struct ew_foreign_ticket ew_foreign_ticket(const struct ew_foreign *operation)
{
	return (struct ew_foreign_ticket){ (struct ew_foreign *)(uintptr_t)operation,
					   operation->number };
}

void *ew_foreign_memory(const struct ew_foreign *operation)
{
	return operation->memory;
}

/* ---- completion ---- */

int ew_foreign_complete(struct ew_foreign_ticket ticket, int32_t result)
{
	struct ew_foreign *foreign = ticket.foreign;
	struct ew_reaper *reaper = foreign->reaper;
	struct ew_waiter *waiting = NULL;
	bool late, abandoned = false;

	ew__lock(&reaper->lock);
	late = foreign->number != ticket.number || foreign->completed;
	if (!late) {
		foreign->completed = true;
		foreign->result = result;
		abandoned = foreign->abandoned;
		waiting = ew__line_take_all(line_of(foreign));
	}
	ew__unlock(&reaper->lock);
	if (late)
		return -EALREADY;
	ew__waiters_wake(waiting, 0);
	if (abandoned)
		ew__reaper_retire(foreign);
	return 0;
}

static bool has_completed(struct ew_foreign *foreign)
{
	bool completed;

	ew__lock(&foreign->reaper->lock);
	completed = foreign->completed;
	ew__unlock(&foreign->reaper->lock);
	return completed;
}

static void ask_to_stop(struct ew_foreign *foreign)
{
	if (foreign->asked || has_completed(foreign))
		return;
	foreign->asked = true;
	if (foreign->permit)
		ew_permit_mark_cancelling(foreign->permit);
	if (foreign->cancel)
		foreign->cancel(foreign->memory);
}

static int await(struct ew_foreign *foreign, int64_t deadline_ns, bool refusable)
{
	struct ew_waiter waiter;
	bool completed;

	ew__waiter_init(&waiter, &foreign->reaper->lock, leave, foreign);
	if (!refusable)
		waiter.wait.cancel = NULL;
	ew__lock(&foreign->reaper->lock);
	completed = foreign->completed;
	if (!completed)
		ew__line_append(line_of(foreign), &waiter);
	ew__unlock(&foreign->reaper->lock);
	return completed ? 0 : ew__waiter_wait(&waiter, deadline_ns, foreign->name);
}

int ew_foreign_wait(struct ew_foreign *operation, int64_t deadline_ns, int32_t *ret_result)
{
	int r = ew__enter();

	if (r == 0)
		r = await(operation, deadline_ns, true);
	if (r < 0)
		return r;
	operation->taken = true;
	*ret_result = operation->result;
	return 0;
}

/* ---- the two endings ---- */

static int foreign_close(void *resource)
{
	struct ew_foreign *foreign = resource;
	int r = 0;

	ask_to_stop(foreign);
	if (!has_completed(foreign)) {
		r = ew__enter();
		if (r == 0)
			r = await(foreign, EW_NEVER, true);
	}
	if (r < 0)
		return r;
	ew_resource_deinit(&foreign->resource);
	ew__reaper_retire(foreign);
	return 0;
}

static void foreign_abort(void *resource)
{
	struct ew_foreign *foreign = resource;

	ask_to_stop(foreign);
	ew_resource_deinit(&foreign->resource);
	if (!ew__reaper_abandon(foreign))
		ew__reaper_retire(foreign);
}

int ew_foreign_close(struct ew_foreign **operation)
{
	return ew_close(operation);
}

/* ---- an operation that is a call ---- */

static void give_permit_back(struct ew_foreign *foreign, struct ew_permit **place)
{
	if (!foreign->permit)
		return;
	*place = foreign->permit;
	foreign->permit = NULL;
	ew__resource_enter_runtime((struct ew_resource *)*place);
}

/* A cancel asks the other side, from here, and the wait goes on. */
static void await_in_any_case(struct ew_foreign *foreign)
{
	if (await(foreign, EW_NEVER, true) == 0)
		return;
	ask_to_stop(foreign);
	(void)await(foreign, EW_NEVER, false);
}

int(ew_foreign_call)(struct ew_reaper *reaper, const struct ew_foreign_options *options,
		     ew_foreign_start_fn *start, void *argument, int32_t *ret_result)
{
	const struct ew_site *site = ew__made_at;
	struct ew_foreign *foreign;
	int r = ew__enter();

	if (r == 0)
		r = begin(reaper, options, site, &foreign);
	if (r < 0)
		return r;
	r = start(argument, ew_foreign_ticket(foreign));
	foreign->taken = true;
	if (r < 0) {
		give_permit_back(foreign, options->permit);
	} else {
		await_in_any_case(foreign);
		*ret_result = foreign->result;
	}
	ew__reaper_retire(foreign);
	return r < 0 ? r : 0;
}

/* ---- among alternatives ---- */

static void select_begin(struct ew__stand *stand, const struct ew_site *site)
{
	struct ew_foreign *foreign = stand->alternative->object;

	(void)site;
	ew__stand_init_waiter(stand, &foreign->reaper->lock, leave, foreign);
}

static bool select_look(struct ew__stand *stand)
{
	const struct ew_foreign *foreign = stand->alternative->object;

	return foreign->completed;
}

static void select_line_up(struct ew__stand *stand)
{
	ew__line_append(line_of(stand->alternative->object), &stand->waiter);
}

static void select_end(struct ew__stand *stand, bool won)
{
	struct ew_foreign *foreign = stand->alternative->object;

	if (!won)
		return;
	foreign->taken = true;
	stand->result = 0;
	*(int32_t *)stand->alternative->value = foreign->result;
}

static const struct ew__alternative_type alternative_type = {
	.begin = select_begin,
	.look = select_look,
	.line_up = select_line_up,
	.leave = ew__stand_leave_line,
	.end = select_end,
};

struct ew_alternative ew_select_foreign(struct ew_foreign *operation, int32_t *ret_result)
{
	return (struct ew_alternative){ .type = &alternative_type,
					.object = operation,
					.value = ret_result };
}
