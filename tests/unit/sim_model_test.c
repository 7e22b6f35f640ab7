/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Whether the simulated world is like the kernel: random scripts on a pair of unix sockets and on a pipe, one operation
 * after the other, give the same results on both, to the byte and to the event.
 */

#include "driver/driver.h"
#include "driver/system.h"
#include "io.h"
#include "task/worker.h"

#define SCRIPTS		 3000
#define STEPS		 40
#define UNREAD_BYTES_MAX 4000 /* far below what a buffer holds in either world */
#define NOT_DONE	 INT32_MIN

enum action { SEND, RECV, POLL, SHUT_WRITE, SHUT_READ, CLOSE, ACTIONS_COUNT };

static const char *const names[] = {
	"send", "recv", "poll", "shutdown for writing", "shutdown for reading", "close"
};

struct step {
	enum action action;
	int end;
	uint32_t bytes;
};

static struct ew__driver *driver;
static int ends[2];

static void open_world(const struct ew__driver_type *type)
{
	char why[256];

	ew__virtual_now_ns = type->simulated ? EW_SECOND : 0;
	EXPECT_EQ(ew__driver_open(&driver, type, why, sizeof(why)), 0);
}

/* Of one that would have to wait it is -ECANCELED. */
static int result_of(struct ew__op *op)
{
	ew__driver_submit(driver, op);
	if (ew__driver_poll(driver, ew__system ? ew_after(EW_MILLISECOND) : EW_NOW))
		return op->result;
	ew__driver_cancel(driver, op);
	EXPECT(ew__driver_poll(driver, EW_NEVER));
	return op->result;
}

static int transfer(bool is_pipe, enum action action, int fd, uint32_t bytes)
{
	static char data[UNREAD_BYTES_MAX];
	struct ew__op op = { .fd = fd, .address = data, .length = bytes, .offset = -1 };

	if (is_pipe)
		op.code = action == SEND ? EW__OP_WRITE : EW__OP_READ;
	else
		op.code = action == SEND ? EW__OP_SEND : EW__OP_RECV;
	return result_of(&op);
}

static int poll_for(int fd)
{
	struct ew__op op = { .code = EW__OP_POLL, .fd = fd, .flags = POLLIN | POLLOUT | POLLRDHUP };

	return result_of(&op);
}

static int do_step(bool is_pipe, const struct step *step)
{
	int fd = ends[step->end];

	if (fd < 0)
		return NOT_DONE;
	switch (step->action) {
	case SEND:
	case RECV: return transfer(is_pipe, step->action, fd, step->bytes);
	case POLL: return poll_for(fd);
	case SHUT_WRITE: return is_pipe ? NOT_DONE : ew__system_shutdown(fd, SHUT_WR);
	case SHUT_READ: return is_pipe ? NOT_DONE : ew__system_shutdown(fd, SHUT_RD);
	default: ends[step->end] = -1; return ew__system_close(fd);
	}
}

static void run_script(const struct ew__driver_type *type, bool is_pipe, const struct step *script,
		       int *ret_results)
{
	int i;

	open_world(type);
	EXPECT_EQ(is_pipe ? ew__system_pipe(ends) : ew__system_socket_pair(ends), 0);
	for (i = 0; i < STEPS; i++)
		ret_results[i] = do_step(is_pipe, &script[i]);
	for (i = 0; i < 2; i++)
		if (ends[i] >= 0)
			ew__system_close(ends[i]);
	ew__driver_close(driver);
}

/* Rarely an end: there is little to see after it. */
static void write_script(bool is_pipe, struct step *script)
{
	unsigned unread[2] = { 0 };
	int i;

	for (i = 0; i < STEPS; i++) {
		script[i] = (struct step){ chance(chance(4) ? POLL + 1 : ACTIONS_COUNT),
					   (int)chance(2), 1 + chance(500) };
		if (is_pipe && script[i].action <= RECV)
			script[i].end = script[i].action == SEND;
		if (script[i].action == SEND &&
		    unread[script[i].end] + script[i].bytes > UNREAD_BYTES_MAX)
			script[i].action = POLL;
		if (script[i].action == SEND)
			unread[script[i].end] += script[i].bytes;
	}
}

static void compare(bool is_pipe)
{
	struct step script[STEPS];
	int kernel[STEPS], sim[STEPS], number, i;

	chance_begin();
	for (number = 0; number < (RUNNING_ON_VALGRIND ? 50 : SCRIPTS); number++) {
		write_script(is_pipe, script);
		run_script(&ew__driver_epoll, is_pipe, script, kernel);
		run_script(&ew__driver_sim, is_pipe, script, sim);
		for (i = 0; i < STEPS; i++)
			if (kernel[i] != sim[i])
				ew_test_fail(__FILE__, __LINE__,
					     "script %d, step %d, %s at end %d: %d, simulated %d",
					     number, i, names[script[i].action], script[i].end,
					     kernel[i], sim[i]);
	}
}

TEST(sim_socket_pair_is_like_the_kernels)
{
	compare(false);
}

TEST(sim_pipe_is_like_the_kernels)
{
	signal(SIGPIPE, SIG_IGN);
	compare(true);
}

TEST_MAIN()
