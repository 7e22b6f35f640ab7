/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A permit that follows its clean-up. There is one slot. The upload that has it is cancelled, and its clean-up takes
 * two seconds: until then the slot is taken, since the space on the disk is. The permit's place stands above the
 * guard, and what is declared first ends last.
 */

#include <endwell/endwell.h>
#include <errno.h>
#include <stdio.h>

struct upload {
	const char *name;
	struct ew_semaphore *slots;
	int64_t takes_ns;
};

static int64_t began_ns;

static int seconds(void)
{
	return (int)((ew_now() - began_ns) / EW_SECOND);
}

static int remove_file(void *argument)
{
	const struct upload *upload = argument;
	int r;

	printf("%d s  %s: removes its file, slots free: %u\n", seconds(), upload->name,
	       ew_semaphore_count(upload->slots).free);
	r = ew_sleep(2 * EW_SECOND);
	if (r == 0)
		printf("%d s  %s: has removed it\n", seconds(), upload->name);
	return r;
}

static void leave_file(void *argument)
{
	const struct upload *upload = argument;

	printf("%d s  %s: could not remove it\n", seconds(), upload->name);
}

static int receive_upload(void *argument)
{
	struct upload *upload = argument;
	EW_OWN(ew_permit, slot);
	int r = ew_semaphore_acquire(upload->slots, EW_NEVER, &slot);

	if (r < 0)
		return r;
	printf("%d s  %s: has the slot\n", seconds(), upload->name);

	EW_GUARD(unstage, upload, .close = remove_file, .abort = leave_file);

	r = ew_sleep(upload->takes_ns);
	if (r < 0)
		return r; /* unstage first, then the slot */
	ew_guard_disarm(&unstage);
	printf("%d s  %s: is whole\n", seconds(), upload->name);
	return 0;
}

/* The client goes away after a second. */
static int visit(struct upload *upload)
{
	EW_SCOPE(client, .deadline_ns = ew_after(EW_SECOND));

	return ew_scope_finish(&client, receive_upload(upload));
}

static int serve(struct upload *first, struct upload *second)
{
	EW_SCOPE(scope);
	int r = ew_spawn(&scope, receive_upload, second);

	if (r < 0)
		return r;
	r = visit(first);
	return r == -ETIMEDOUT ? ew_scope_join(&scope) : r;
}

static int program(void *unused)
{
	struct ew_semaphore *slots = ew_semaphore_new(1, 8);
	struct upload first = { "first", slots, 3600 * EW_SECOND };
	struct upload second = { "second", slots, EW_SECOND };
	int r;

	(void)unused;
	if (!slots)
		return -ENOMEM;
	began_ns = ew_now();
	r = serve(&first, &second);
	ew_semaphore_free(slots);
	return r;
}

int main(void)
{
	struct ew_run_options options = { .workers_count = 1, .virtual_time = true };

	return ew_run(&options, program, NULL) < 0;
}
