/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The ladder, step by step: five short scenes, each with the time at which things happen. Time is virtual here: the
 * clock stands still while a task runs and jumps to the next deadline when none can, so every run prints the
 * same.
 */

#include <endwell/endwell.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

static int64_t began_ns;

static void begin(const char *scene)
{
	began_ns = ew_now();
	printf("%s\n", scene);
}

/* Rounded down to a tenth of a second: deadlines are kept to about a millisecond. */
static void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

static void say(const char *format, ...)
{
	int64_t tenths = (ew_now() - began_ns) / (EW_SECOND / 10);
	va_list arguments;

	printf("%4d.%d s  ", (int)(tenths / 10), (int)(tenths % 10));
	va_start(arguments, format);
	vprintf(format, arguments);
	va_end(arguments);
	printf("\n");
}

static const char *rung_name(enum ew_rung rung)
{
	static const char *const names[] = { "none", "cancel", "cleanup", "force" };

	return names[rung];
}

struct ending {
	const char *name;
	int64_t takes_ns;
};

static int end_well(void *argument)
{
	const struct ending *ending = argument;
	int r;

	say("%s: close begins, rung %s", ending->name, rung_name(ew_cancel_rung()));
	r = ew_sleep(ending->takes_ns);
	if (r == 0)
		say("%s: close is done", ending->name);
	else
		say("%s: refused, rung %s, reason %s", ending->name, rung_name(ew_cancel_rung()),
		    ew_reason_name(ew_cancel_reason()));
	return r;
}

static void cut_off(void *argument)
{
	const struct ending *ending = argument;

	say("%s: abort", ending->name);
}

/* Spawns a task into a scope that has 3 s from a cancel to its end, and cancels it after 1 s. */
static int cancel_after_a_second(ew_task_fn *fn, bool droppable)
{
	EW_SCOPE(scope, .budget_ns = 3 * EW_SECOND);
	int r;

	r = ew_spawn(&scope, fn, NULL, .droppable = droppable);
	if (r == 0)
		r = ew_sleep(EW_SECOND);
	if (r < 0)
		return r;
	say("scope: cancelled");
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	r = ew_scope_join(&scope);
	say("scope: every child has ended");
	return r == -ECANCELED || r == -ENOTRECOVERABLE ? 0 : r;
}

static int transfer(void *unused)
{
	struct ending older = { "rollback", EW_SECOND / 2 };
	struct ending newer = { "flush", 5 * EW_SECOND };

	EW_GUARD(rollback, &older, .close = end_well, .abort = cut_off, .reserve_ns = EW_SECOND);
	EW_GUARD(flush, &newer, .close = end_well, .abort = cut_off, .budget_ns = 10 * EW_SECOND);

	(void)unused;
	say("transfer: works");
	return ew_sleep(3600 * EW_SECOND);
}

static int pay(void *unused)
{
	int r;

	(void)unused;
	{
		EW_SHIELD(shield, .budget_ns = 2 * EW_SECOND);

		r = ew_sleep(1500 * EW_MILLISECOND);
		say("pay: %s behind the shield, rung %s", r == 0 ? "paid" : "refused",
		    rung_name(ew_cancel_rung()));
	}
	if (r == 0)
		r = ew_sleep(EW_SECOND);
	say("pay: the cancel is here: %s", r == -ECANCELED ? "-ECANCELED" : "no");
	return r;
}

static int compute(void *unused)
{
	unsigned rounds = 0, refused = 0;

	(void)unused;
	while (!ew_cancel_requested()) {
		rounds++;
		if (ew_sleep(EW_SECOND / 4) < 0)
			refused++;
	}
	say("compute: stops after %u rounds, %u refused", rounds, refused);
	return -ECANCELED;
}

static int stubborn(void *unused)
{
	struct ending ending = { "parting", EW_SECOND / 2 };
	unsigned naps;

	EW_GUARD(parting, &ending, .close = end_well, .abort = cut_off);

	(void)unused;
	for (naps = 0; naps < 1000; naps++) {
		EW_SHIELD(shield, .budget_ns = 10 * EW_SECOND);

		if (ew_sleep(EW_SECOND) < 0)
			say("stubborn: refused, and goes on"); /* it is dropped in its next call */
	}
	say("stubborn: returns"); /* not reached */
	return 0;
}

static int fragile(void *unused)
{
	struct ending ending = { "restore", EW_SECOND / 2 };

	EW_GUARD(restore, &ending, .close = end_well, .abort = cut_off);

	(void)unused;
	say("fragile: panics");
	ew_panic("something that cannot be");
}

static int survive_a_panic(void)
{
	EW_SCOPE(scope, .policy = EW_POLICY_INDEPENDENT);
	int r = ew_spawn(&scope, fragile, NULL);

	if (r == 0)
		r = ew_scope_join(&scope);
	say("scope: lives on");
	return r;
}

static int program(void *unused)
{
	int r;

	(void)unused;
	begin("endings share the time that is left");
	r = cancel_after_a_second(transfer, false);
	if (r < 0)
		return r;
	begin("a shield holds a cancel back");
	r = cancel_after_a_second(pay, false);
	if (r < 0)
		return r;
	begin("a loop that asks");
	r = cancel_after_a_second(compute, false);
	if (r < 0)
		return r;
	begin("a task that ignores cancels, and may be dropped");
	r = cancel_after_a_second(stubborn, true);
	if (r < 0)
		return r;
	begin("a panic ends a task, not its siblings");
	return survive_a_panic();
}

int main(void)
{
	struct ew_run_options options = { .workers_count = 1, .virtual_time = true };

	return ew_run(&options, program, NULL) < 0;
}
