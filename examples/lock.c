/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A lock that is held across a wait. A task that is cancelled there gives it back on its way out. One that
 * panics there gives it back too, but the next one is told, since what the lock protects may be half changed.
 */

#include <endwell/endwell.h>
#include <errno.h>
#include <stdio.h>

struct account {
	struct ew_mutex mutex;
	int debits; /* as many as there are credits, whenever the lock is free */
	int credits;
};

static int transfer(struct account *account, int64_t takes_ns, bool panics)
{
	EW_OWN(ew_mutex_hold, hold);
	int r = ew_mutex_lock(&account->mutex, EW_NEVER, &hold);

	if (r == -EOWNERDEAD) {
		printf("told: somebody died here, debits %d, credits %d\n", account->debits,
		       account->credits);
		account->credits = account->debits;
		ew_mutex_make_consistent(hold);
	} else if (r < 0) {
		return r;
	}
	r = ew_sleep(takes_ns); /* the lock is held, and others run */
	if (r < 0)
		return r; /* nothing has changed yet, so just unlocking is right */
	account->debits++;
	if (panics)
		ew_panic("between debit and credit");
	account->credits++;
	ew_mutex_unlock(&hold);
	return 0;
}

static int slow(void *argument)
{
	return transfer(argument, 3600 * EW_SECOND, false);
}

static int fragile(void *argument)
{
	return transfer(argument, EW_SECOND, true);
}

/* One locks, gets two seconds, and is cancelled if it is still there. */
static int let_be_slow(struct account *account)
{
	EW_SCOPE(scope);
	int r = ew_spawn(&scope, slow, account);

	return r < 0 ? r : ew_sleep(2 * EW_SECOND);
}

static int let_panic(struct account *account)
{
	EW_SCOPE(scope, .policy = EW_POLICY_INDEPENDENT);
	int r = ew_spawn(&scope, fragile, account);

	return r < 0 ? r : ew_scope_join(&scope);
}

static int program(void *unused)
{
	struct account account = { 0 };
	int r = let_be_slow(&account);

	(void)unused;
	if (r == 0)
		r = transfer(&account, 0, false);
	printf("after a cancel: debits %d, credits %d\n", account.debits, account.credits);
	if (r == 0)
		r = let_panic(&account);
	if (r == 0)
		r = transfer(&account, 0, false);
	printf("after a panic: debits %d, credits %d\n", account.debits, account.credits);
	return r;
}

int main(void)
{
	struct ew_run_options options = { .workers_count = 1, .virtual_time = true };

	return ew_run(&options, program, NULL) < 0;
}
