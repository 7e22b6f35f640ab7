/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A guard with a counter: what it does on the way out it does once, or not at all when it was disarmed.
 */

#include <endwell/endwell.h>
#include <errno.h>
#include <stdio.h>

static int count_one(void *argument)
{
	unsigned *undone = argument;

	++*undone;
	return 0;
}

static void count_one_now(void *argument)
{
	(void)count_one(argument); /* it never waits, so both endings are the same */
}

static int fails(unsigned *undone)
{
	EW_GUARD(undo, undone, .close = count_one, .abort = count_one_now);

	return -EIO; /* here it runs */
}

static int succeeds(unsigned *undone)
{
	EW_GUARD(undo, undone, .close = count_one, .abort = count_one_now);

	ew_guard_disarm(&undo); /* what it would undo stays done */
	return 0;
}

static int undoes_by_name(unsigned *undone)
{
	EW_GUARD(undo, undone, .close = count_one, .abort = count_one_now);
	int r = ew_guard_run(&undo); /* here, and one sees how it went; not again on the way out */

	printf("by name: %u so far, ", *undone);
	return r;
}

static int program(void *unused)
{
	unsigned undone = 0;
	int r;

	(void)unused;
	r = succeeds(&undone);
	printf("disarmed: %u (returned %d)\n", undone, r);
	r = fails(&undone);
	printf("not disarmed: %u (returned %s)\n", undone, r == -EIO ? "-EIO" : "?");
	r = undoes_by_name(&undone);
	printf("and after that %u\n", undone);
	return r;
}

int main(void)
{
	return ew_run(NULL, program, NULL) < 0;
}
