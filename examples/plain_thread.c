/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A destructor that waits, in a task and on a plain thread: the same one. It hands what it has to the other side and
 * waits for the answer, so neither could end without it.
 */

#include <endwell/endwell.h>
#include <pthread.h>
#include <stdio.h>

struct party {
	const char *name;
	struct ew_channel *mine;
	struct ew_channel *theirs;
};

static int part(void *argument)
{
	struct party *party = argument;
	const char *farewell;
	int r;

	r = ew_channel_send(party->theirs, EW_NEVER, &party->name);
	if (r == 0)
		r = ew_channel_receive(party->mine, EW_NEVER, &farewell);
	if (r > 0)
		printf("%s has parted from %s\n", party->name, farewell);
	return r < 0 ? r : 0;
}

static void vanish(void *argument) /* for the day on which there is no time left to wait */
{
	printf("%s has vanished\n", ((struct party *)argument)->name);
}

static int meet(void *argument)
{
	struct party *party = argument;

	EW_GUARD(parting, party, .close = part, .abort = vanish);
	return ew_sleep(EW_MILLISECOND);
}

static void *plain_thread(void *argument)
{
	return meet(argument) < 0 ? argument : NULL; /* no runtime here: it blocks */
}

int main(void)
{
	EW_OWN(ew_channel, one); /* main() has destructors, too */
	EW_OWN(ew_channel, other);
	struct party task = { .name = "a task" }, thread = { .name = "a plain thread" };
	pthread_t id;
	void *failed;
	int r;

	if (ew_channel_new(1, sizeof(char *), NULL, &one) < 0 ||
	    ew_channel_new(1, sizeof(char *), NULL, &other) < 0)
		return 1;
	task.mine = thread.theirs = one;
	thread.mine = task.theirs = other;
	if (pthread_create(&id, NULL, plain_thread, &thread))
		return 1;
	r = ew_run(NULL, meet, &task);
	pthread_join(id, &failed);
	return r < 0 || failed;
}
