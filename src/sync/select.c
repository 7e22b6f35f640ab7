/* SPDX-License-Identifier: Apache-2.0 */

/*
 * All lines are locked at once, in the order of their addresses, for a look at each alternative and, if none can be
 * had, to stand in every line. So a select that looks stands nowhere yet and nobody can have chosen it: it claims
 * whom it meets, who may be a select as well, and has to be claimed by nobody. (Go's select does it this way.) One by
 * one, two that look at each other would each have to claim both.
 *
 * From then on the first who takes one of its waiters out of a line claims the choice, and decides. The others
 * find it claimed and pass on to the next in line; so does a cancel, or the deadline. Then the task runs, and leaves
 * the lines that it still stands in.
 */

#include "sync/select.h"

#include "scope/scope.h"

#include <endwell/clock.h>

struct select {
	struct ew__choice choice;
	struct ew__timer timer;
	unsigned count;
	unsigned locks_count;
	_Atomic uint32_t *locks[EW_SELECT_MAX];
	struct ew__stand stands[EW_SELECT_MAX];
};

void ew__stand_init_waiter(struct ew__stand *stand, _Atomic uint32_t *lock,
			   void (*leave)(struct ew_waiter *), void *line)
{
	ew__waiter_init(&stand->waiter, lock, leave, line);
	stand->waiter.choice = stand->choice;
	stand->token = &stand->waiter;
	stand->lock = lock;
}

void ew__stand_leave_line(struct ew__stand *stand)
{
	(void)ew__waiter_leave(&stand->waiter);
}

static const struct ew__alternative_type *type_of(const struct ew__stand *stand)
{
	return stand->alternative->type;
}

/* In order of addresses, each once. */
static void add_lock(struct select *select, _Atomic uint32_t *lock)
{
	unsigned at = select->locks_count, i;

	while (at > 0 && select->locks[at - 1] > lock)
		at--;
	if (at > 0 && select->locks[at - 1] == lock)
		return;
	for (i = select->locks_count++; i > at; i--)
		select->locks[i] = select->locks[i - 1];
	select->locks[at] = lock;
}

static void begin(struct select *select, struct ew_alternative *alternatives, unsigned count,
		  const struct ew_site *site)
{
	struct ew__stand *stand;
	unsigned i;

	for (i = 0; i < count; i++) {
		if (!alternatives[i].type)
			continue;
		stand = &select->stands[select->count++];
		stand->alternative = &alternatives[i];
		stand->choice = &select->choice;
		stand->lock = NULL;
		stand->served = NULL;
		type_of(stand)->begin(stand, site);
		if (stand->lock)
			add_lock(select, stand->lock);
	}
}

static void lock_all(struct select *select)
{
	unsigned i;

	for (i = 0; i < select->locks_count; i++)
		ew__lock(select->locks[i]);
}

static void unlock_all(struct select *select)
{
	unsigned i;

	for (i = 0; i < select->locks_count; i++)
		ew__unlock(select->locks[i]);
}

/* Where the look begins. A counter alone would keep step with a loop of two selects, and always favour the same. */
static unsigned first_looked_at(unsigned count)
{
	uint32_t mixed = ++ew__worker->selects * 0x9e3779b1u;

	mixed = (mixed ^ mixed >> 15) * 0x85ebca6bu;
	return (mixed ^ mixed >> 13) % count;
}

/* The one that could be had at once. */
static struct ew__stand *look(struct select *select)
{
	unsigned first = select->count ? first_looked_at(select->count) : 0, i;
	struct ew__stand *stand;

	for (i = 0; i < select->count; i++) {
		stand = &select->stands[(first + i) % select->count];
		if (type_of(stand)->look(stand))
			return stand;
	}
	return NULL;
}

static struct ew__stand *look_or_line_up(struct select *select)
{
	struct ew__stand *won;
	unsigned i;

	lock_all(select);
	won = look(select);
	for (i = 0; !won && i < select->count; i++)
		type_of(&select->stands[i])->line_up(&select->stands[i]);
	unlock_all(select);
	if (won && won->served)
		ew__waiter_wake(won->served, won->served_result);
	return won;
}

static void give_up(struct select *select, int result)
{
	if (ew__choice_claim(&select->choice, select))
		ew__wait_end(&select->choice.wait, result);
}

static void expired(struct ew__timer *timer)
{
	give_up(ew__container_of(timer, struct select, timer), -ETIMEDOUT);
}

static void cancelled(struct ew__wait *wait)
{
	give_up(ew__container_of(wait, struct select, choice.wait), -ECANCELED);
}

/* NULL: none has won, and *@ret_r says why. */
static struct ew__stand *await(struct select *select, int64_t deadline_ns, int *ret_r)
{
	struct ew__stand *won = NULL, *stand;

	if (deadline_ns != EW_NEVER)
		ew__timer_arm(ew__worker, &select->timer, deadline_ns);
	*ret_r = ew__suspend(&select->choice.wait, "the first of several");
	ew__timer_cancel(ew__worker, &select->timer);
	for (stand = select->stands; stand < select->stands + select->count; stand++) {
		if (stand->token == select->choice.winner)
			won = stand;
		else
			type_of(stand)->leave(stand);
	}
	if (won)
		won->result = *ret_r;
	return won;
}

static void end(struct select *select, const struct ew__stand *won)
{
	struct ew__stand *stand;

	for (stand = select->stands; stand < select->stands + select->count; stand++)
		type_of(stand)->end(stand, stand == won);
}

int(ew_select)(struct ew_alternative *alternatives, unsigned count, int64_t deadline_ns)
{
	const struct ew_site *site = ew__made_at;
	struct select select;
	struct ew__stand *won;
	int r = ew__enter();

	if (r < 0)
		return r;
	if (count > EW_SELECT_MAX)
		return -EINVAL;
	select.choice = (struct ew__choice){ .wait.cancel = cancelled };
	select.timer = (struct ew__timer){ .expire = expired };
	select.count = 0;
	select.locks_count = 0;
	begin(&select, alternatives, count, site);
	won = look_or_line_up(&select);
	if (!won)
		won = await(&select, deadline_ns, &r);
	end(&select, won);
	if (!won)
		return r;
	won->alternative->result = won->result;
	return (int)(won->alternative - alternatives);
}

/* ---- a child that ends ---- */

static void child_begin(struct ew__stand *stand, const struct ew_site *site)
{
	struct ew_scope *scope = stand->alternative->object;

	(void)site;
	ew_assert(scope->owner == ew__task()); /* there is one joiner */
	stand->token = scope;
}

static bool child_look(struct ew__stand *stand)
{
	return ew__scope_is_joined(stand->alternative->object, true);
}

static void child_line_up(struct ew__stand *stand)
{
	struct ew_scope *scope = stand->alternative->object;

	ew_assert(!scope->joiner); /* it stands in one alternative */
	scope->next_wanted = true;
	scope->choice = stand->choice;
	scope->joiner = &stand->choice->wait;
}

static void child_leave(struct ew__stand *stand)
{
	struct ew_scope *scope = stand->alternative->object;

	scope->next_wanted = false;
	scope->choice = NULL;
	scope->joiner = NULL;
}

static void child_end(struct ew__stand *stand, bool won)
{
	struct ew_child *child;

	child_leave(stand);
	if (!won)
		return;
	child = ew__scope_next_ended(stand->alternative->object);
	stand->result = child != NULL;
	if (child)
		__builtin_memcpy(stand->alternative->value, &child, sizeof(child));
}

static const struct ew__alternative_type child_type = {
	.begin = child_begin,
	.look = child_look,
	.line_up = child_line_up,
	.leave = child_leave,
	.end = child_end,
};

struct ew_alternative ew_select_child(struct ew_scope *scope, struct ew_child **ret_child)
{
	return (struct ew_alternative){ .type = &child_type, .object = scope, .value = ret_child };
}
