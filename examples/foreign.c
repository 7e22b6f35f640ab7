/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A device, played by a thread: it reads a block into memory that it was given, and says when it is done. One read is
 * waited for. Of the other the client goes away; the device can be asked to stop, and the memory is its own until it has.
 */

#include <endwell/endwell.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct block {
	struct ew_foreign_ticket ticket;
	bool is_long;
	_Atomic bool stop;
	char data[32];
};

static void *device(void *argument)
{
	struct block *block = argument;
	int32_t result;

	while (block->is_long && !block->stop)
		usleep(1000);
	snprintf(block->data, sizeof(block->data), "a short block");
	result = block->stop ? -EINTR : (int32_t)strlen(block->data);
	(void)ew_foreign_complete(block->ticket, result); /* from here on the block is not ours */
	return NULL;
}

static void ask_to_stop(void *memory)
{
	struct block *block = memory;

	block->stop = true;
}

static void say(void *memory, int32_t result)
{
	(void)memory;
	printf("the device has stopped: %s\n", strerror(-result));
}

static int read_block(struct ew_reaper *reaper, bool is_long)
{
	static const struct ew_foreign_options options = { .name = "a read",
							   .cancel = ask_to_stop,
							   .dispose = say };
	EW_OWN(ew_foreign, operation);
	struct block *block;
	pthread_t thread;
	int32_t bytes;
	int r;

	r = ew_foreign_begin(reaper, &options, &operation);
	if (r < 0)
		return r;
	block = ew_foreign_memory(operation);
	block->is_long = is_long;
	block->ticket = ew_foreign_ticket(operation);
	r = -pthread_create(&thread, NULL, device, block);
	if (r < 0) {
		(void)ew_foreign_complete(block->ticket, r); /* nobody else has the ticket */
		return r;
	}
	pthread_detach(thread);
	r = ew_foreign_wait(operation, EW_NEVER, &bytes);
	if (r == 0)
		printf("%s: %d bytes\n", block->data, bytes);
	return r;
}

static int program(void *argument)
{
	static const struct ew_reaper_options options = {
		.name = "the device",
		.operations_max = 2,
		.memory_bytes = sizeof(struct block),
	};
	EW_OWN(ew_reaper, reaper);
	int r;

	(void)argument;
	r = ew_reaper_new(&options, &reaper);
	if (r == 0)
		r = read_block(reaper, false);
	if (r < 0)
		return r;

	EW_SCOPE(scope, .deadline_ns = ew_after(50 * EW_MILLISECOND));

	r = ew_scope_finish(&scope, read_block(reaper, true));
	printf("the long read: %s\n", strerror(-r));
	return r == -ETIMEDOUT ? ew_reaper_close(&reaper) : r;
}

int main(void)
{
	return ew_run(NULL, program, NULL) < 0;
}
