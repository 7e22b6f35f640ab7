/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Signals come through a signalfd that does not block: the driver waits until there is one, and only
 * then it is taken, by a read(2) on the spot. A wait that is cancelled has not begun to take one.
 * (A read by the ring would occupy one of the kernel's threads on kernels whose signalfd cannot be
 * read without waiting, as Linux 6.1.)
 */

#include "driver/system.h"
#include "io/op.h"
#include "scope/resource.h"
#include "seeded/bug.h"

#include <endwell/signals.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>

struct ew_signals {
	struct ew_resource resource;
	int fd;
};

static void signals_end(struct ew_signals *signals)
{
	ew__system_close(signals->fd);
	ew_resource_deinit(&signals->resource);
	free(signals);
}

static int signals_close(void *resource)
{
	signals_end(resource);
	return 0;
}

static void signals_abort(void *resource)
{
	signals_end(resource);
}

static const struct ew_resource_type signals_type = {
	.name = "signals",
	.close = signals_close,
	.abort = signals_abort,
};

/* A signal that is not blocked is handled by the program or ends it, and never arrives here. */
static bool are_blocked(const sigset_t *set)
{
	sigset_t blocked;
	int number;

	pthread_sigmask(SIG_BLOCK, NULL, &blocked);
	for (number = 1; number < NSIG; number++)
		if (sigismember(set, number) == 1 && sigismember(&blocked, number) != 1)
			return false;
	return true;
}

int(ew_signals_open)(const sigset_t *set, struct ew_signals **ret_signals)
{
	const struct ew_site *site = ew__made_at;
	struct ew_signals *signals;
	int r;

	if (!are_blocked(set) && !ew__bug("unblocked-signals-accepted"))
		return -EINVAL;
	signals = malloc(sizeof(*signals));
	if (!signals)
		return -ENOMEM;
	signals->fd = ew__system_signals(set);
	if (signals->fd < 0) {
		r = signals->fd;
		free(signals);
		return r;
	}
	ew__place_must_be_empty(ret_signals, site);
	ew_resource_init(&signals->resource, &signals_type, site);
	*ret_signals = signals;
	return 0;
}

/* The number of one that is pending, or -EAGAIN. */
static int take(const struct ew_signals *signals)
{
	int r = ew__system_take_signal(signals->fd);

	if (r < 0)
		return r;
	if (ew__bug("signals-coalesced"))
		(void)ew__system_take_signal(signals->fd);
	ew__task()->outcome = EW_OUTCOME_DONE;
	return r;
}

int ew_signals_wait(struct ew_signals *signals)
{
	struct ew__task_op pending = {
		.op = { .code = EW__OP_POLL, .fd = signals->fd, .flags = POLLIN }
	};
	int r;

	r = ew__enter();
	if (r == 0)
		r = take(signals);
	while (r == -EAGAIN) {
		r = ew__op_run_polled(&pending, "a signal");
		if (r >= 0)
			r = take(signals);
	}
	return r;
}

int ew_signals_close(struct ew_signals **signals)
{
	return ew_close(signals);
}
