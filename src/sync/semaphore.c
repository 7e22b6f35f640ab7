/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A semaphore of the whole process. As many permits as shares are made with it, and those that nobody owns lie in its
 * list: a permit that is owned has a share at least, so there is one for each that is granted or split off. Shares
 * given back while somebody waits are his, if that is enough for him, and never free in between; if it is not, they
 * wait with him, and nobody overtakes.
 *
 * One who leaves the line unserved may have been what those behind him waited for: his last act is to serve them.
 */

#include "sync/waiter.h"

#include "scope/resource.h"
#include "seeded/bug.h"

#include <endwell/clock.h>
#include <endwell/semaphore.h>
#include <stdlib.h>

enum state { FREE, HELD, CANCELLING, PRESUMED, STATES_COUNT };

struct ew_permit {
	struct ew_resource resource;
	struct ew_semaphore *semaphore;
	struct ew_permit *next_unowned;
	unsigned shares;
	enum state state;
};

struct ew_semaphore {
	_Atomic uint32_t lock;
	unsigned capacity;
	unsigned shares[STATES_COUNT];
	unsigned waiting_count;
	unsigned waiting_max;
	struct ew_permit *unowned;
	struct ew_waiter *first;
	struct ew_waiter *last;
	struct ew_permit permits[];
};

struct request {
	struct ew_waiter waiter;
	unsigned count;
};

static int permit_close(void *resource);
static void permit_abort(void *resource);

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
	semaphore->shares[FREE] = capacity;
	semaphore->waiting_max = waiting_max;
	for (i = capacity; i-- > 0;) {
		semaphore->permits[i].semaphore = semaphore;
		semaphore->permits[i].next_unowned = semaphore->unowned;
		semaphore->unowned = &semaphore->permits[i];
	}
	return semaphore;
}

void ew_semaphore_free(struct ew_semaphore *semaphore)
{
	if (!semaphore)
		return;
	ew_assert(semaphore->shares[HELD] == 0);
	ew_assert(semaphore->shares[CANCELLING] == 0);
	ew_assert(semaphore->waiting_count == 0);
	free(semaphore);
}

static struct ew__line line_of(struct ew_semaphore *semaphore)
{
	return (struct ew__line){ &semaphore->first, &semaphore->last };
}

static void leave(struct ew_waiter *waiter)
{
	struct ew_semaphore *semaphore = waiter->line;

	ew__line_remove(line_of(semaphore), waiter);
	if (!ew__bug("semaphore-counts-who-has-left"))
		semaphore->waiting_count--;
}

/* The caller holds the lock, here and below. */
static void move_shares(struct ew_semaphore *semaphore, unsigned count, enum state from,
			enum state to)
{
	uint64_t sum = 0;
	int i;

	semaphore->shares[from] -= count;
	semaphore->shares[to] += count;
	for (i = 0; i < STATES_COUNT; i++) {
		ew_assert(semaphore->shares[i] <= semaphore->capacity);
		sum += semaphore->shares[i];
	}
	ew_assert(sum == semaphore->capacity);
}

static struct ew_permit *take_permit(struct ew_semaphore *semaphore, unsigned shares,
				     enum state state)
{
	struct ew_permit *permit = semaphore->unowned;

	ew_assert(permit); /* as many as shares */
	semaphore->unowned = permit->next_unowned;
	permit->shares = shares;
	permit->state = state;
	return permit;
}

static void give_permit_back(struct ew_semaphore *semaphore, struct ew_permit *permit)
{
	permit->next_unowned = semaphore->unowned;
	semaphore->unowned = permit;
}

static struct ew_permit *grant(struct ew_semaphore *semaphore, unsigned count)
{
	move_shares(semaphore, count, FREE, HELD);
	return take_permit(semaphore, count, HELD);
}

/* NULL: too few, or others wait. */
static struct ew_permit *try_grant(struct ew_semaphore *semaphore, unsigned count)
{
	if (semaphore->first && !ew__bug("semaphore-line-overtaken"))
		return NULL;
	return semaphore->shares[FREE] < count ? NULL : grant(semaphore, count);
}

/* Those in front whose shares are there, out of the line, to be woken. */
static struct ew_waiter *serve_line(struct ew_semaphore *semaphore)
{
	struct ew_waiter *served = NULL, **end = &served, *waiter;
	unsigned count;

	while ((waiter = semaphore->first)) {
		count = (ew__container_of(waiter, struct request, waiter))->count;
		if (count > semaphore->shares[FREE])
			break;
		leave(waiter);
		ew__waiter_give(waiter, grant(semaphore,
					      ew__bug("semaphore-grants-too-little") ? 1 : count));
		*end = waiter;
		end = &waiter->next;
	}
	return served;
}

/* Out of its owner's hands; what becomes of its shares is @to. */
static void end_permit(struct ew_permit *permit, enum state to)
{
	struct ew_semaphore *semaphore = permit->semaphore;
	struct ew_waiter *served;

	ew_resource_deinit(&permit->resource);
	ew__lock(&semaphore->lock);
	move_shares(semaphore, permit->shares, permit->state, to);
	give_permit_back(semaphore, permit);
	served = serve_line(semaphore);
	ew__unlock(&semaphore->lock);
	ew__waiters_wake(served, 0);
}

static int permit_close(void *resource)
{
	permit_abort(resource);
	return 0;
}

/* A place is left: that ends what its task does, but proves nothing about work that was asked to stop elsewhere. */
static void permit_abort(void *resource)
{
	struct ew_permit *permit = resource;

	end_permit(permit, permit->state == CANCELLING && !ew__bug("permit-presumed-is-free")
				   ? PRESUMED
				   : FREE);
}

static void own(struct ew_permit *permit, const struct ew_site *site, struct ew_permit **ret_permit)
{
	ew_resource_init(&permit->resource, &permit_type, site);
	*ret_permit = permit;
}

static void leave_unserved(struct ew_semaphore *semaphore)
{
	struct ew_waiter *served;

	if (ew__bug("semaphore-front-leaves-others-unserved"))
		return;
	ew__lock(&semaphore->lock);
	served = serve_line(semaphore);
	ew__unlock(&semaphore->lock);
	ew__waiters_wake(served, 0);
}

static int acquire(struct ew_semaphore *semaphore, unsigned count, int64_t deadline_ns,
		   const struct ew_site *site, struct ew_permit **ret_permit)
{
	struct request request = { .count = count };
	struct ew_permit *permit;
	bool full;
	int r = ew__enter();

	if (r < 0)
		return r;
	ew__place_must_be_empty(ret_permit, site);
	if (count == 0 || count > semaphore->capacity)
		return -EINVAL;
	ew__waiter_init(&request.waiter, &semaphore->lock, leave, semaphore);
	ew__lock(&semaphore->lock);
	permit = try_grant(semaphore, count);
	full = semaphore->waiting_count == semaphore->waiting_max;
	if (!permit && !full) {
		ew__line_append(line_of(semaphore), &request.waiter);
		semaphore->waiting_count++;
	}
	ew__unlock(&semaphore->lock);
	if (!permit) {
		if (full)
			return -EAGAIN;
		r = ew__waiter_wait(&request.waiter, deadline_ns, "a permit");
		if (r < 0) {
			leave_unserved(semaphore);
			return r;
		}
		permit = request.waiter.given;
	}
	own(permit, site, ret_permit);
	return 0;
}

int(ew_semaphore_acquire)(struct ew_semaphore *semaphore, int64_t deadline_ns,
			  struct ew_permit **ret_permit)
{
	return acquire(semaphore, 1, deadline_ns, ew__made_at, ret_permit);
}

int(ew_semaphore_acquire_many)(struct ew_semaphore *semaphore, unsigned count, int64_t deadline_ns,
			       struct ew_permit **ret_permit)
{
	return acquire(semaphore, count, deadline_ns, ew__made_at, ret_permit);
}

static int try_acquire(struct ew_semaphore *semaphore, unsigned count, const struct ew_site *site,
		       struct ew_permit **ret_permit)
{
	struct ew_permit *permit;

	ew__place_must_be_empty(ret_permit, site);
	if (count == 0 || count > semaphore->capacity)
		return -EINVAL;
	ew__lock(&semaphore->lock);
	permit = try_grant(semaphore, count);
	ew__unlock(&semaphore->lock);
	if (!permit)
		return -EAGAIN;
	own(permit, site, ret_permit);
	return 0;
}

int(ew_semaphore_try_acquire)(struct ew_semaphore *semaphore, struct ew_permit **ret_permit)
{
	return try_acquire(semaphore, 1, ew__made_at, ret_permit);
}

int(ew_semaphore_try_acquire_many)(struct ew_semaphore *semaphore, unsigned count,
				   struct ew_permit **ret_permit)
{
	return try_acquire(semaphore, count, ew__made_at, ret_permit);
}

static struct ew_permit *take(struct ew_permit **place)
{
	struct ew_permit *permit = *place;

	*place = NULL;
	return permit;
}

void ew_permit_release(struct ew_permit **permit)
{
	struct ew_permit *released = take(permit);

	if (released)
		end_permit(released, FREE);
}

void ew_permit_presume(struct ew_permit **permit)
{
	struct ew_permit *presumed = take(permit);

	if (presumed)
		end_permit(presumed, PRESUMED);
}

void ew_permit_mark_cancelling(struct ew_permit *permit)
{
	struct ew_semaphore *semaphore = permit->semaphore;
	enum state to = ew__bug("permit-freed-at-the-request") ? FREE : CANCELLING;

	ew__lock(&semaphore->lock);
	move_shares(semaphore, permit->shares, permit->state, to);
	permit->state = to;
	ew__unlock(&semaphore->lock);
}

unsigned ew_permit_shares(const struct ew_permit *permit)
{
	return permit->shares;
}

void(ew_permit_split)(struct ew_permit *permit, unsigned count, struct ew_permit **ret_permit)
{
	const struct ew_site *site = ew__made_at;
	struct ew_semaphore *semaphore = permit->semaphore;
	struct ew_permit *other;

	ew_assert(count > 0 && count < permit->shares); /* each has a share at least */
	ew__place_must_be_empty(ret_permit, site);
	ew__lock(&semaphore->lock);
	other = take_permit(semaphore, count, permit->state);
	permit->shares -= count;
	ew__unlock(&semaphore->lock);
	own(other, site, ret_permit);
}

void ew_permit_merge(struct ew_permit *permit, struct ew_permit **from)
{
	struct ew_semaphore *semaphore = permit->semaphore;
	struct ew_permit *other = take(from);

	if (!other)
		return;
	ew_assert(other != permit);
	ew_assert(other->semaphore == semaphore);
	/* What is known of the work of one is not known of the other's. */
	ew_assert(other->state == permit->state);
	ew_resource_deinit(&other->resource);
	ew__lock(&semaphore->lock);
	if (!ew__bug("permit-merge-loses-shares"))
		permit->shares += other->shares;
	give_permit_back(semaphore, other);
	ew__unlock(&semaphore->lock);
}

void ew_semaphore_reclaim(struct ew_semaphore *semaphore, unsigned count)
{
	struct ew_waiter *served;

	ew__lock(&semaphore->lock);
	ew_assert(count <= semaphore->shares[PRESUMED]);
	move_shares(semaphore, count, PRESUMED, FREE);
	served = serve_line(semaphore);
	ew__unlock(&semaphore->lock);
	ew__waiters_wake(served, 0);
}

struct ew_semaphore_counts ew_semaphore_count(struct ew_semaphore *semaphore)
{
	struct ew_semaphore_counts counts;

	ew__lock(&semaphore->lock);
	counts.capacity = semaphore->capacity;
	counts.free = semaphore->shares[FREE];
	counts.held = semaphore->shares[HELD];
	counts.cancelling = semaphore->shares[CANCELLING];
	counts.presumed = semaphore->shares[PRESUMED];
	counts.waiting = semaphore->waiting_count;
	ew__unlock(&semaphore->lock);
	return counts;
}
