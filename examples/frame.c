/* SPDX-License-Identifier: Apache-2.0 */

/*
 * I/O into a buffer on the stack, cancelled safely. The call does not return before the kernel is done with the memory
 * that it was lent, and when it says -ECANCELED no byte was taken: the next read finds them all.
 */

#include <endwell/endwell.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

static int read_for_a_while(struct ew_pipe *from, int64_t duration_ns)
{
	char buffer[64]; /* gone when this function returns */
	EW_SCOPE(patience, .deadline_ns = ew_after(duration_ns));
	int r = ew_pipe_read(from, buffer, sizeof(buffer));

	if (r > 0)
		printf("read: %.*s\n", r, buffer);
	else if (r == -ECANCELED)
		printf("cancelled: %s\n",
		       ew_outcome() == EW_OUTCOME_NONE ? "no byte was taken" : "who knows");
	return ew_scope_finish(&patience, r);
}

/* Lies where the buffer lay. Had the kernel still been about to write there, it would be in here. */
static bool frame_stays_as_it_is(struct ew_pipe *to)
{
	volatile char frame[64] = { 0 };
	bool untouched = true;

	if (ew_pipe_write(to, "late, but whole", 15) < 0 || ew_sleep(20 * EW_MILLISECOND) < 0)
		return false;
	for (size_t i = 0; i < sizeof(frame); i++)
		untouched = untouched && frame[i] == 0;
	return untouched;
}

static int program(void *unused)
{
	EW_OWN(ew_pipe, from);
	EW_OWN(ew_pipe, to);
	int r = ew_pipe_open(&from, &to);

	(void)unused;
	if (r < 0)
		return r;
	r = read_for_a_while(from, 20 * EW_MILLISECOND);
	if (r != -ETIMEDOUT)
		return -EPROTO;
	if (!frame_stays_as_it_is(to))
		return -EFAULT;
	printf("the frame is untouched\n");
	r = read_for_a_while(from, 3600 * EW_SECOND);
	return r < 0 ? r : 0;
}

int main(void)
{
	return ew_run(NULL, program, NULL) < 0;
}
