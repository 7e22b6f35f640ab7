/* SPDX-License-Identifier: Apache-2.0 */

#include "line.h"

#include <errno.h>

#include <endwell/clock.h>

static void note_wait(struct line *line, int64_t waited_ns)
{
	int64_t mean = atomic_load_explicit(&line->wait_ns, memory_order_relaxed);

	/* An update that is lost to another worker's does no harm to a mean. */
	atomic_store_explicit(&line->wait_ns, mean + (waited_ns - mean) / 8, memory_order_relaxed);
}

int64_t line_join(struct line *line)
{
	int64_t since_ns = ew_now();

	/* Before it counts, or a look in between would see a first in line who has waited as long as nobody did. */
	if (atomic_load(&line->waiting) == 0)
		atomic_store(&line->moved_ns, since_ns);
	atomic_fetch_add(&line->waiting, 1);
	return since_ns;
}

void line_leave(struct line *line, int64_t since_ns, int r)
{
	atomic_fetch_sub(&line->waiting, 1);
	if (r == 0 || r == -ETIMEDOUT)
		note_wait(line, ew_now() - since_ns);
	if (r == 0)
		atomic_store(&line->moved_ns, ew_now());
}

static int wait_in_line(struct line *line, int64_t deadline_ns, struct ew_permit **permit)
{
	int64_t since_ns = line_join(line);
	int r = ew_semaphore_acquire(line->semaphore, deadline_ns, permit);

	line_leave(line, since_ns, r);
	return r;
}

int line_enter(struct line *line, int64_t deadline_ns, struct ew_permit **permit, bool *ret_waited)
{
	int r;

	r = ew_semaphore_try_acquire(line->semaphore, permit);
	*ret_waited = r == -EAGAIN;
	return *ret_waited ? wait_in_line(line, deadline_ns, permit) : r;
}

int64_t line_wait_ns(struct line *line)
{
	int64_t mean = atomic_load(&line->wait_ns), first = 0;

	if (atomic_load(&line->waiting) > 0)
		first = ew_now() - atomic_load(&line->moved_ns);
	return first > mean ? first : mean;
}

int line_wait_seconds(struct line *line)
{
	return (int)(line_wait_ns(line) / EW_SECOND) + 1;
}
