/* SPDX-License-Identifier: Apache-2.0 */

/*
 * An operation is a place of its reaper: a record, and memory, that stay where they are as long as the reaper lives.
 * So a ticket that comes too late finds a record, and in it another number or none.
 *
 * One lock for all of a reaper. Nothing of others is called with it held.
 */

#include "sync/reaper.h"

#include "scope/resource.h"
#include "scope/scope.h"

#include <endwell/clock.h>
#include <endwell/semaphore.h>
#include <sched.h>
#include <stdlib.h>

#define MEMORY_ALIGNMENT 16
#define MEMORY_BYTES_MAX (SIZE_MAX / 2)
#define LEAKS_NAMED_MAX	 32

static struct ew__line drain_line_of(struct ew_reaper *reaper)
{
	return (struct ew__line){ &reaper->first, &reaper->last };
}

static void leave_drain(struct ew_waiter *waiter)
{
	ew__line_remove(drain_line_of(waiter->line), waiter);
}

struct ew_foreign *ew__reaper_take_place(struct ew_reaper *reaper)
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
void ew__reaper_retire(struct ew_foreign *foreign)
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

bool ew__reaper_abandon(struct ew_foreign *foreign)
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

/* ---- the reaper ---- */

static int reaper_close(void *resource);
static void reaper_abort(void *resource);

static size_t memory_stride(const struct ew_reaper_options *options)
{
	size_t bytes = options->memory_bytes + MEMORY_ALIGNMENT - 1;

	return bytes - bytes % MEMORY_ALIGNMENT;
}

static size_t place_bytes(const struct ew_reaper_options *options)
{
	return sizeof(struct ew_foreign) + memory_stride(options);
}

static void make_places(struct ew_reaper *reaper)
{
	struct ew_foreign *foreign = reaper->operations + reaper->options.operations_max;
	char *memory = (char *)foreign;

	memory += -(uintptr_t)memory % MEMORY_ALIGNMENT;
	while (foreign-- > reaper->operations) {
		foreign->reaper = reaper;
		foreign->memory = memory;
		foreign->next_free = reaper->free;
		reaper->free = foreign;
		memory += memory_stride(&reaper->options);
	}
}

int(ew_reaper_new)(const struct ew_reaper_options *options, struct ew_reaper **ret_reaper)
{
	const struct ew_site *site = ew__made_at;
	struct ew_reaper *reaper;
	size_t bytes;

	ew__place_must_be_empty(ret_reaper, site);
	if (!options->name || options->operations_max == 0)
		return -EINVAL;
	if (options->memory_bytes > MEMORY_BYTES_MAX ||
	    __builtin_mul_overflow(place_bytes(options), options->operations_max, &bytes) ||
	    __builtin_add_overflow(bytes, sizeof(*reaper) + MEMORY_ALIGNMENT, &bytes))
		return -ENOMEM;
	reaper = calloc(1, bytes);
	if (!reaper)
		return -ENOMEM;
	reaper->options = *options;
	make_places(reaper);
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

/* It may be completing right now; its permit is out of its hands after this in any case. True: it has not completed. */
static bool leak(struct ew_foreign *foreign, bool named)
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
		return false;
	}
	if (named)
		report_leak(foreign->reaper, &left);
	ew_permit_presume(&permit);
	return true;
}

static void leak_all(struct ew_reaper *reaper)
{
	unsigned count = 0, i;

	for (i = 0; i < reaper->options.operations_max; i++)
		count += leak(&reaper->operations[i], count < LEAKS_NAMED_MAX);
	if (count > LEAKS_NAMED_MAX)
		ew__report("%s: %u operations more have not completed", reaper->options.name,
			   count - LEAKS_NAMED_MAX);
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

	ew_assert(reaper->owned_count == 0); /* operations end before their reaper */
	if (ew_reaper_count(reaper).abandoned == 0) {
		free_reaper(reaper);
		return;
	}
	leak_all(reaper);
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
