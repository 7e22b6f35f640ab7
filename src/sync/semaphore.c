/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A semaphore of the whole process. Permits are made with it and lie in its free list; a permit given back while
 * somebody waits goes straight to the first in line and is never free in between, so nobody overtakes.
 */

#include "sync/waiter.h"

#include "scope/resource.h"

#include <endwell/clock.h>
#include <endwell/semaphore.h>
#include <stdlib.h>

struct ew_permit {
	struct ew_resource resource;
	struct ew_semaphore *semaphore;
	struct ew_permit *next_free;
};

struct ew_semaphore {
	_Atomic uint32_t lock;
	unsigned capacity;
	unsigned free_count;
	unsigned waiting_count;
	unsigned waiting_max;
	struct ew_permit *free;
	struct ew_waiter *first;
	struct ew_waiter *last;
	struct ew_permit permits[];
};

static void permit_free(struct ew_permit *permit);

static int permit_close(void *resource)
{
	permit_free(resource);
	return 0;
}

static void permit_abort(void *resource)
{
	permit_free(resource);
}

static const struct ew_resource_type permit_type = {
	.name = "permit",
	.close = permit_close,
	.abort = permit_abort,
};

struct ew_semaphore *ew_semaphore_new(unsigned capacity, unsigned waiting_max)
{
	struct ew_semaphore *semaphore;
	unsigned i;

	semaphore = calloc(1, sizeof(*semaphore) + (size_t)capacity * sizeof(struct ew_permit));
	if (!semaphore)
		return NULL;
	semaphore->capacity = capacity;
	semaphore->free_count = capacity;
	semaphore->waiting_max = waiting_max;
	for (i = capacity; i-- > 0;) {
		semaphore->permits[i].semaphore = semaphore;
		semaphore->permits[i].next_free = semaphore->free;
		semaphore->free = &semaphore->permits[i];
	}
	return semaphore;
}

void ew_semaphore_free(struct ew_semaphore *semaphore)
{
	if (!semaphore)
		return;
	ew_assert(semaphore->free_count == semaphore->capacity);
	ew_assert(semaphore->waiting_count == 0);
	free(semaphore);
}

static struct ew__line line_of(struct ew_semaphore *semaphore)
{
	return (struct ew__line){ &semaphore->first, &semaphore->last };
}

static void leave_line(struct ew_semaphore *semaphore, struct ew_waiter *waiter)
{
	ew__line_remove(line_of(semaphore), waiter);
	semaphore->waiting_count--;
}

static void leave(struct ew_waiter *waiter)
{
	leave_line(waiter->line, waiter);
}

static void permit_free(struct ew_permit *permit)
{
	struct ew_semaphore *semaphore = permit->semaphore;
	struct ew_waiter *waiter;

	ew_resource_deinit(&permit->resource);
	ew__lock(&semaphore->lock);
	waiter = semaphore->first;
	if (waiter) {
		leave_line(semaphore, waiter);
		waiter->given = permit;
	} else {
		permit->next_free = semaphore->free;
		semaphore->free = permit;
		semaphore->free_count++;
	}
	ew__unlock(&semaphore->lock);
	if (waiter)
		ew__waiter_wake(waiter, 0);
}

/* The caller holds the lock. */
static struct ew_permit *take_free(struct ew_semaphore *semaphore)
{
	struct ew_permit *permit = semaphore->free;

	if (!permit)
		return NULL;
	semaphore->free = permit->next_free;
	semaphore->free_count--;
	return permit;
}

static void own(struct ew_permit *permit, const struct ew_site *site, struct ew_permit **ret_permit)
{
	ew_resource_init(&permit->resource, &permit_type, site);
	*ret_permit = permit;
}

int(ew_semaphore_acquire)(struct ew_semaphore *semaphore, int64_t deadline_ns,
			  struct ew_permit **ret_permit)
{
	const struct ew_site *site = ew__made_at;
	struct ew_permit *permit;
	struct ew_waiter waiter;
	bool full = false;
	int r = ew__enter();

	if (r < 0)
		return r;
	ew__place_must_be_empty(ret_permit, site);
	ew__waiter_init(&waiter, &semaphore->lock, leave, semaphore);
	ew__lock(&semaphore->lock);
	permit = take_free(semaphore);
	if (!permit) {
		full = semaphore->waiting_count == semaphore->waiting_max;
		if (!full) {
			ew__line_append(line_of(semaphore), &waiter);
			semaphore->waiting_count++;
		}
	}
	ew__unlock(&semaphore->lock);
	if (full)
		return -EAGAIN;
	if (!permit) {
		r = ew__waiter_wait(&waiter, deadline_ns, "a permit");
		if (r < 0)
			return r;
		permit = waiter.given;
	}
	own(permit, site, ret_permit);
	return 0;
}

int(ew_semaphore_try_acquire)(struct ew_semaphore *semaphore, struct ew_permit **ret_permit)
{
	const struct ew_site *site = ew__made_at;
	struct ew_permit *permit;

	ew__place_must_be_empty(ret_permit, site);
	ew__lock(&semaphore->lock);
	permit = take_free(semaphore);
	ew__unlock(&semaphore->lock);
	if (!permit)
		return -EAGAIN;
	own(permit, site, ret_permit);
	return 0;
}

void ew_permit_release(struct ew_permit **permit)
{
	struct ew_permit *released = *permit;

	*permit = NULL;
	if (released)
		permit_free(released);
}

struct ew_semaphore_counts ew_semaphore_count(struct ew_semaphore *semaphore)
{
	struct ew_semaphore_counts counts;

	ew__lock(&semaphore->lock);
	counts.capacity = semaphore->capacity;
	counts.free = semaphore->free_count;
	counts.held = semaphore->capacity - semaphore->free_count;
	counts.waiting = semaphore->waiting_count;
	ew__unlock(&semaphore->lock);
	return counts;
}
