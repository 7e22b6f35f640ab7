/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Sweeps over what tasks meet at: whoever is ended, and wherever, nobody else waits for ever, nothing is lost or done
 * twice, and what was left half done is told.
 */

#include "sweep.h"

#include <endwell/mutex.h>

static struct {
	struct ew_mutex mutex;
	int begun; /* protected by the mutex; equal unless somebody is at work, or was ended there */
	int done;
} account;

static void open_account(void *argument)
{
	open_book(argument);
	memset(&account, 0, sizeof(account));
}

static const char *check_account(void *argument)
{
	struct ew_mutex_hold *hold = NULL;
	int r;

	if (account.mutex.held)
		return "the mutex is still locked";
	if (account.mutex.first)
		return "somebody is still in line for the mutex";
	r = ew_mutex_try_lock(&account.mutex, &hold);
	ew_mutex_unlock(&hold);
	if (r == 0 && account.begun != account.done)
		return "the next one to lock is not told what was left";
	return check_book(argument);
}

static int work_locked(struct ew_mutex_hold *hold, int r)
{
	if (r == -EOWNERDEAD) {
		account.begun = account.done;
		ew_mutex_make_consistent(hold);
		r = 0;
	}
	if (r < 0)
		return r;
	account.begun++;
	r = ew_sleep(EW_SECOND);
	account.done++;
	return r;
}

static int work_until(int64_t deadline_ns)
{
	EW_OWN(ew_mutex_hold, hold);
	int r = ew_mutex_lock(&account.mutex, deadline_ns, &hold);

	r = work_locked(hold, r);
	ew_mutex_unlock(&hold);
	return r == -ETIMEDOUT ? 0 : r;
}

static int work(void *argument)
{
	BOOKED_GUARD(undo, EW_SECOND);

	return work_until(argument ? ew_after(3 * EW_SECOND / 2) : EW_NEVER);
}

static int close_working(void *argument)
{
	struct probe *probe = argument;
	int r = work_until(EW_NEVER);

	if (r != -ECANCELED)
		probe->closed++; /* last: until here a panic means abort */
	return r;
}

static int work_in_the_end(void *argument)
{
	EW_GUARD(last, open_probe(0), .close = close_working, .abort = probe_abort);

	(void)argument;
	return ew_yield();
}

static int work_shielded(void *argument)
{
	EW_SHIELD(shield, .budget_ns = 20 * EW_SECOND);

	return work(argument);
}

/* Gives the mutex up for good when it hears what happened. */
static int work_if_in_order(void *argument)
{
	EW_OWN(ew_mutex_hold, hold);
	BOOKED_GUARD(undo, EW_SECOND);
	int r = ew_mutex_lock(&account.mutex, EW_NEVER, &hold);

	(void)argument;
	return r == 0 ? work_locked(hold, 0) : r;
}

static int workshop(void *argument)
{
	int r;
	EW_OWN(ew_mutex_hold, mine);
	EW_SCOPE(scope, .policy = EW_POLICY_INDEPENDENT);

	(void)argument;
	r = ew_mutex_lock(&account.mutex, EW_NEVER, &mine);
	if (r == 0)
		r = ew_spawn(&scope, work, NULL);
	if (r == 0)
		r = ew_spawn(&scope, work_if_in_order, NULL);
	if (r == 0)
		r = ew_spawn(&scope, work, &scope);
	if (r == 0)
		r = ew_spawn(&scope, work_shielded, NULL);
	if (r == 0)
		r = ew_spawn(&scope, work_in_the_end, NULL);
	if (r == 0)
		r = work_locked(mine, 0);
	ew_mutex_unlock(&mine);
	if (r == 0)
		r = work_until(EW_NEVER);
	return ew_scope_finish(&scope, r);
}

TEST(sweep_mutex)
{
	struct ew_sweep_options options = { .prepare = open_account, .check = check_account };

	expect_sweep(&options, workshop, 14);
	options.droppable = true;
	expect_sweep(&options, workshop, 14);
}

TEST_MAIN()
