/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A sweep over a program of one's own: the scenario is run once for each of its suspension points and ended there:
 * cancelled before the call, cancelled while it waits, forced, panicked, and cancelled with something else later: force,
 * a second cancel, an operation or an allocation that fails. After each run the sweep looks for what is left; what only the program knows, the check looks for.
 */

#include <endwell/endwell.h>
#include <endwell/testing.h>
#include <stdio.h>

struct ledger {
	int debits;
	int credits;
};

static int give_back(void *argument)
{
	struct ledger *ledger = argument;
	int r = ew_sleep(EW_SECOND);

	if (r == 0)
		ledger->credits++;
	return r;
}

static void write_off(void *argument)
{
	struct ledger *ledger = argument;

	ledger->credits++;
}

static int deliver(void *argument)
{
	(void)argument;
	return ew_sleep(2 * EW_SECOND);
}

static int order(void *argument)
{
	struct ledger *ledger = argument;
	int r = ew_sleep(EW_SECOND);

	if (r < 0)
		return r;
	ledger->debits++;

	EW_GUARD(undo, ledger, .close = give_back, .abort = write_off);
	EW_SCOPE(scope, .deadline_ns = ew_after(10 * EW_SECOND));

	r = ew_spawn(&scope, deliver, NULL);
	r = ew_scope_finish(&scope, r);
	if (r < 0)
		return r;
	return ew_guard_run(&undo);
}

static void prepare(void *argument)
{
	*(struct ledger *)argument = (struct ledger){ 0 };
}

/* Whatever happened to the order: what was taken was given back, once. */
static const char *check(void *argument)
{
	const struct ledger *ledger = argument;

	return ledger->debits == ledger->credits ? NULL : "the ledger is out of balance";
}

int main(void)
{
	struct ew_sweep_options options = { .prepare = prepare, .check = check };
	struct ledger ledger;
	struct ew_sweep_result result = ew_sweep(&options, order, &ledger);

	if (result.failed) {
		printf("%s at point %u, %s: %s\n", ew_sweep_mode_name(result.mode), result.index,
		       result.site, result.what);
		return 1;
	}
	printf("%u points, every way out is clean\n", result.points);
	return 0;
}
