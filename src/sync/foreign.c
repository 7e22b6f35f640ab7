/* SPDX-License-Identifier: Apache-2.0 */

/*
 * An operation is a place of its reaper: a record, and memory, that stay where they are as long as the reaper lives.
 * So a ticket that comes too late finds a record, and in it another number or none.
 *
 * A completion tells only who waits, and whoever waits keeps his worker alive. With nobody waiting it leaves a note in the
 * record; of an abandoned operation it frees the place there and then, on its own thread. So it does not matter to it
 * whether a worker, or a runtime, is still there.
 *
 * One lock for all of a reaper. Nothing of others is called with it held.
 */

#include "scope/resource.h"
#include "scope/scope.h"
#include "sync/select.h"

#include <endwell/clock.h>
#include <endwell/foreign.h>
#include <endwell/semaphore.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#define MEMORY_ALIGNMENT 16

struct ew_foreign {
	struct ew_resource resource;
	struct ew_reaper *reaper;
	struct ew_foreign *next_free;
	const struct ew_site *site;
	const char *name;
	void (*cancel)(void *memory);
	void (*dispose)(void *memory, int32_t result);
	void *memory;
	struct ew_permit *permit;
	struct ew_waiter *first;
	struct ew_waiter *last;
	uint64_t number; /* 0: the place is free */
	int64_t abandoned_ns;
	int32_t result;
	bool completed;
	bool abandoned;
	bool asked;
	bool taken;
};

struct ew_reaper {
	struct ew_resource resource;
	struct ew_resource_type type; /* with a budget of its own */
	struct ew_reaper_options options;
	_Atomic uint32_t lock;
	uint64_t begun_count;
	unsigned owned_count;
	unsigned abandoned_count;
	unsigned retiring_count; /* threads that have a permit in their hands, and the reaper */
	struct ew_foreign *free;
	struct ew_waiter *first; /* who drains */
	struct ew_waiter *last;
	struct ew_reaper *next_leaked;
	struct ew_foreign operations[];
};

/* ---- a place of the reaper ---- */

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

static struct ew__line drain_line_of(struct ew_reaper *reaper)
{
	return (struct ew__line){ &reaper->first, &reaper->last };
}

static void leave_drain(struct ew_waiter *waiter)
{
	ew__line_remove(drain_line_of(waiter->line), waiter);
}

static struct ew_foreign *take_place(struct ew_reaper *reaper)
{
	struct ew_foreign *foreign;

	ew__lock(&reaper->lock);
	foreign = reaper->free;
	if (foreign) {
		reaper->free = foreign->next_free;
		reaper->owned_count++;
		foreign->number = ++reaper->begun_count;
		foreign->completed = false;
		foreign->abandoned = false;
		foreign->asked = false;
		foreign->taken = false;
	}
	ew__unlock(&reaper->lock);
	return foreign;
}

/* Locked, as the next two. NULL: somebody else has it, or there was none. */
static struct ew_permit *take_permit(struct ew_foreign *foreign)
{
	struct ew_permit *permit = foreign->permit;

	foreign->permit = NULL;
	return permit;
}

static void give_place_back(struct ew_foreign *foreign)
{
	struct ew_reaper *reaper = foreign->reaper;

	foreign->number = 0;
	foreign->next_free = reaper->free;
	reaper->free = foreign;
}

/* Who drains is to be woken if this was the last one. */
static struct ew_waiter *count_out(struct ew_reaper *reaper, bool abandoned)
{
	reaper->retiring_count--;
	if (!abandoned)
		reaper->owned_count--;
	else if (--reaper->abandoned_count == 0)
		return ew__line_take_all(drain_line_of(reaper));
	return NULL;
}

/*
 * It has completed, and nobody needs it any more. Its place is there before its permit, since who gets that may want
 * one; and it counts until the permit is back, since who has drained the reaper may free the semaphore.
 */
static void retire(struct ew_foreign *foreign)
{
	struct ew_reaper *reaper = foreign->reaper;
	bool abandoned = foreign->abandoned;
	struct ew_permit *permit;
	struct ew_waiter *drained;

	if (foreign->dispose && foreign->completed && !foreign->taken)
		foreign->dispose(foreign->memory, foreign->result);
	ew__lock(&reaper->lock);
	permit = take_permit(foreign);
	give_place_back(foreign);
	reaper->retiring_count++;
	ew__unlock(&reaper->lock);
	ew_permit_release(&permit);
	ew__lock(&reaper->lock);
	drained = count_out(reaper, abandoned);
	ew__unlock(&reaper->lock);
	ew__waiters_wake(drained, 0);
}

static int begin(struct ew_reaper *reaper, const struct ew_foreign_options *options,
		 const struct ew_site *site, struct ew_foreign **ret_foreign)
{
	struct ew_foreign *foreign = take_place(reaper);

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
		retire(foreign);
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

static void ask_while_waiting(struct ew__wait *wait)
{
	struct ew_waiter *waiter = ew__container_of(wait, struct ew_waiter, wait);

	ask_to_stop(waiter->line);
}

/* @ask: a cancel asks the other side, and the wait goes on; NULL: it ends the wait. */
static int await(struct ew_foreign *foreign, int64_t deadline_ns, void (*ask)(struct ew__wait *))
{
	struct ew_waiter waiter;
	bool completed;

	ew__waiter_init(&waiter, &foreign->reaper->lock, leave, foreign);
	if (ask)
		waiter.wait.cancel = ask;
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
		r = await(operation, deadline_ns, NULL);
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
			r = await(foreign, EW_NEVER, NULL);
	}
	if (r < 0)
		return r;
	ew_resource_deinit(&foreign->resource);
	retire(foreign);
	return 0;
}

/* False: it has completed. From the unlock on it may be another's. */
static bool abandon(struct ew_foreign *foreign)
{
	struct ew_reaper *reaper = foreign->reaper;
	bool completed;

	ew__lock(&reaper->lock);
	completed = foreign->completed;
	if (!completed) {
		foreign->abandoned = true;
		foreign->abandoned_ns = ew_now();
		reaper->owned_count--;
		reaper->abandoned_count++;
	}
	ew__unlock(&reaper->lock);
	return !completed;
}

static void foreign_abort(void *resource)
{
	struct ew_foreign *foreign = resource;

	ask_to_stop(foreign);
	ew_resource_deinit(&foreign->resource);
	if (!abandon(foreign))
		retire(foreign);
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
		(void)await(foreign, EW_NEVER, ask_while_waiting);
		*ret_result = foreign->result;
	}
	retire(foreign);
	return r < 0 ? r : 0;
}

/* ---- the reaper ---- */

static int reaper_close(void *resource);
static void reaper_abort(void *resource);

int(ew_reaper_new)(const struct ew_reaper_options *options, struct ew_reaper **ret_reaper)
{
	const struct ew_site *site = ew__made_at;
	struct ew_reaper *reaper;
	size_t stride, bytes;
	char *memory;
	unsigned i;

	ew__place_must_be_empty(ret_reaper, site);
	if (!options->name || options->operations_max == 0)
		return -EINVAL;
	if (__builtin_add_overflow(options->memory_bytes, MEMORY_ALIGNMENT - 1, &stride))
		return -ENOMEM;
	stride -= stride % MEMORY_ALIGNMENT;
	if (__builtin_mul_overflow(stride + sizeof(struct ew_foreign), options->operations_max,
				   &bytes) ||
	    __builtin_add_overflow(bytes, sizeof(*reaper) + MEMORY_ALIGNMENT, &bytes))
		return -ENOMEM;
	reaper = calloc(1, bytes);
	if (!reaper)
		return -ENOMEM;
	memory = (char *)(reaper->operations + options->operations_max);
	memory += -(uintptr_t)memory % MEMORY_ALIGNMENT;
	reaper->options = *options;
	for (i = options->operations_max; i-- > 0;) {
		reaper->operations[i].reaper = reaper;
		reaper->operations[i].memory = memory + i * stride;
		reaper->operations[i].next_free = reaper->free;
		reaper->free = &reaper->operations[i];
	}
	reaper->type = (struct ew_resource_type){
		.name = "reaper",
		.close = reaper_close,
		.abort = reaper_abort,
		.budget_ns = options->drain_ns,
	};
	ew_resource_init(&reaper->resource, &reaper->type, site);
	*ret_reaper = reaper;
	return 0;
}

static void free_reaper(struct ew_reaper *reaper)
{
	ew_resource_deinit(&reaper->resource);
	free(reaper);
}

/* 0: nothing of it is abandoned. */
static int drain(struct ew_reaper *reaper)
{
	struct ew_waiter waiter;
	bool drained;
	int r;

	if (ew_reaper_count(reaper).abandoned == 0)
		return 0;
	r = ew__enter();
	if (r < 0)
		return r;
	ew__waiter_init(&waiter, &reaper->lock, leave_drain, reaper);
	ew__lock(&reaper->lock);
	drained = reaper->abandoned_count == 0;
	if (!drained)
		ew__line_append(drain_line_of(reaper), &waiter);
	ew__unlock(&reaper->lock);
	return drained ? 0 : ew__waiter_wait(&waiter, EW_NEVER, "abandoned operations");
}

static int reaper_close(void *resource)
{
	struct ew_reaper *reaper = resource;
	int r;

	ew_assert(reaper->owned_count == 0); /* operations end before their reaper */
	r = drain(reaper);
	if (r < 0)
		return r;
	free_reaper(reaper);
	return 0;
}

/* Those whose memory stays, where a leak checker, or somebody with a debugger, finds it. */
static struct {
	_Atomic uint32_t lock;
	struct ew_reaper *first;
} leaked;

static void report_leak(const struct ew_reaper *reaper, const struct ew_abandoned *left)
{
	ew__report("%s: %s, begun at %s:%d and abandoned %lld ms ago, has not completed: "
		   "the memory of its reaper is leaked",
		   reaper->options.name, left->name, left->site->file, left->site->line,
		   (long long)((ew_now() - left->since_ns) / EW_MILLISECOND));
}

/* It may be completing right now; its permit is out of its hands after this in any case. */
static void leak(struct ew_foreign *foreign)
{
	struct ew_permit *permit = NULL;
	struct ew_abandoned left = { 0 };

	ew__lock(&foreign->reaper->lock);
	if (foreign->number)
		permit = take_permit(foreign);
	if (foreign->number && !foreign->completed)
		left = (struct ew_abandoned){ foreign->name, foreign->site, foreign->abandoned_ns };
	ew__unlock(&foreign->reaper->lock);
	if (!left.name) {
		ew_permit_release(&permit);
		return;
	}
	report_leak(foreign->reaper, &left);
	ew_permit_presume(&permit);
}

/* Between two locks, without a call of others but the permit's. */
static bool is_retiring(struct ew_reaper *reaper)
{
	bool retiring;

	ew__lock(&reaper->lock);
	retiring = reaper->retiring_count > 0;
	ew__unlock(&reaper->lock);
	return retiring;
}

static void reaper_abort(void *resource)
{
	struct ew_reaper *reaper = resource;
	unsigned i;

	ew_assert(reaper->owned_count == 0); /* operations end before their reaper */
	if (ew_reaper_count(reaper).abandoned == 0) {
		free_reaper(reaper);
		return;
	}
	for (i = 0; i < reaper->options.operations_max; i++)
		leak(&reaper->operations[i]);
	while (is_retiring(reaper))
		sched_yield();
	ew_resource_deinit(&reaper->resource);
	ew__lock(&leaked.lock);
	reaper->next_leaked = leaked.first;
	leaked.first = reaper;
	ew__unlock(&leaked.lock);
}

int ew_reaper_close(struct ew_reaper **reaper)
{
	return ew_close(reaper);
}

unsigned ew_reaper_look(struct ew_reaper *reaper, struct ew_abandoned *ret_entries,
			unsigned entries_max)
{
	const struct ew_foreign *foreign = reaper->operations;
	unsigned count = 0;

	ew__lock(&reaper->lock);
	for (; foreign < reaper->operations + reaper->options.operations_max; foreign++)
		if (count < entries_max && foreign->number && foreign->abandoned)
			ret_entries[count++] = (struct ew_abandoned){ foreign->name, foreign->site,
								      foreign->abandoned_ns };
	ew__unlock(&reaper->lock);
	return count;
}

static unsigned overdue_count(const struct ew_reaper *reaper)
{
	int64_t since_ns = ew_now() - reaper->options.hold_ns;
	const struct ew_foreign *foreign = reaper->operations;
	unsigned count = 0;

	if (!reaper->options.hold_ns || !reaper->abandoned_count)
		return 0;
	for (; foreign < reaper->operations + reaper->options.operations_max; foreign++)
		count += foreign->number && foreign->abandoned && foreign->abandoned_ns < since_ns;
	return count;
}

struct ew_reaper_counts ew_reaper_count(struct ew_reaper *reaper)
{
	struct ew_reaper_counts counts = { .operations_max = reaper->options.operations_max };

	ew__lock(&reaper->lock);
	counts.owned = reaper->owned_count;
	counts.abandoned = reaper->abandoned_count;
	counts.overdue = overdue_count(reaper);
	ew__unlock(&reaper->lock);
	return counts;
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
