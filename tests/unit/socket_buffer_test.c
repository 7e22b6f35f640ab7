/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Buffers that a worker lends to receiving sockets: who waits for one, and that each comes back.
 */

#include "io.h"
#include "task/worker.h"

#define SOCKETS_COUNT 300

struct holder {
	struct ew_socket *socket;
	int peer;
	struct ew_event *let_go;
	int result;
	enum ew_outcome outcome;
	bool has;
};

static int hold_task(void *argument)
{
	struct holder *holder = argument;
	const char *data;

	holder->result = ew_socket_receive(holder->socket, &data);
	holder->outcome = ew_outcome();
	if (holder->result <= 0)
		return 0;
	EXPECT_EQ(data[0], 'x');
	holder->has = true;
	EXPECT_EQ(ew_event_wait(holder->let_go, EW_NEVER), 0);
	ew_socket_release(holder->socket);
	holder->has = false;
	return 0;
}

static void holder_make(struct holder *holder, struct ew_event *let_go, bool tcp)
{
	*holder = (struct holder){ .let_go = let_go };
	holder->peer = tcp ? tcp_peer(&holder->socket) : unix_peer(&holder->socket);
	EXPECT_EQ(write(holder->peer, "x", 1), 1);
}

static void holder_end(struct holder *holder)
{
	if (holder->peer >= 0)
		close(holder->peer);
	ew_abort(&holder->socket);
}

/* All buffers lent, to tasks that hold them until their event. */
struct house {
	struct holder holders[EW__BUFFERS_COUNT];
	struct ew_event one_goes;
	struct ew_event all_go;
};

static void house_fill(struct house *house, struct ew_scope *scope)
{
	unsigned i;

	for (i = 0; i < EW__BUFFERS_COUNT; i++) {
		holder_make(&house->holders[i], i ? &house->all_go : &house->one_goes, false);
		EXPECT_EQ(ew_spawn(scope, hold_task, &house->holders[i]), 0);
	}
	TURNS_UNTIL(ew__worker->buffers_lent == EW__BUFFERS_COUNT);
}

static void house_empty(struct house *house)
{
	unsigned i;

	ew_event_set(&house->one_goes);
	ew_event_set(&house->all_go);
	for (i = 0; i < EW__BUFFERS_COUNT; i++)
		TURNS_UNTIL(!house->holders[i].has);
	for (i = 0; i < EW__BUFFERS_COUNT; i++)
		holder_end(&house->holders[i]);
	EXPECT_EQ(ew__worker->buffers_lent, 0);
	EXPECT(!ew__worker->buffer_first && !ew__worker->buffer_last);
}

static struct house house;

enum trouble { NO_TROUBLE, CANCELLED_IN_LINE, CANCELLED_WHEN_TOLD, RESET_IN_LINE };

static void await_line(unsigned length)
{
	if (length == 1)
		TURNS_UNTIL(ew__worker->buffer_first);
	else
		TURNS_UNTIL(ew__worker->buffer_first != ew__worker->buffer_last);
}

struct line {
	enum trouble trouble;
	struct ew_scope *all;
	struct holder first;
	struct holder second;
};

/* Two stand in line, the first of them in a scope of its own; one buffer comes back. */
static void stand_in_line(struct line *line)
{
	char byte;
	EW_SCOPE(scope);

	EXPECT_EQ(ew_spawn(&scope, hold_task, &line->first), 0);
	await_line(1);
	EXPECT_EQ(ew_spawn(line->all, hold_task, &line->second), 0);
	await_line(2);
	take_turns(5);
	EXPECT(!line->first.has && !line->second.has);
	if (line->trouble == RESET_IN_LINE) {
		EXPECT_EQ(read(ew_socket_fd(line->first.socket), &byte, 1), 1);
		reset_when_closed(line->first.peer);
		close(line->first.peer);
		line->first.peer = -1;
	}
	if (line->trouble != CANCELLED_IN_LINE)
		ew_event_set(&house.one_goes);
	if (line->trouble == NO_TROUBLE) {
		TURNS_UNTIL(line->first.has);
		take_turns(5);
		EXPECT(!line->second.has);
		ew_event_set(&house.all_go);
	} else if (line->trouble != RESET_IN_LINE) {
		take_turns(1); /* the holder runs, and then we do */
		ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	}
	EXPECT_EQ(ew_scope_join(&scope), 0);
}

static int one_line(void *argument)
{
	struct line line = { .trouble = *(enum trouble *)argument };
	EW_SCOPE(all);

	line.all = &all;
	house_fill(&house, &all);
	holder_make(&line.first, &house.all_go, true);
	holder_make(&line.second, &house.all_go, false);
	stand_in_line(&line);
	if (line.trouble == CANCELLED_IN_LINE) {
		EXPECT(!line.second.has);
		ew_event_set(&house.one_goes);
	}
	TURNS_UNTIL(line.second.result);
	if (line.trouble == CANCELLED_IN_LINE || line.trouble == CANCELLED_WHEN_TOLD) {
		EXPECT_EQ(line.first.result, -ECANCELED);
		EXPECT_EQ(line.first.outcome, EW_OUTCOME_NONE);
	}
	if (line.trouble == RESET_IN_LINE)
		EXPECT_EQ(line.first.result, -ECONNRESET);
	ew_event_set(&house.all_go);
	TURNS_UNTIL(line.second.result == 1 && !line.second.has);
	holder_end(&line.first);
	holder_end(&line.second);
	house_empty(&house);
	return 0;
}

static void test_line(enum trouble trouble)
{
	struct descriptors before = descriptors_now();

	EXPECT_EQ(run_workers(1, one_line, &trouble), 0);
	EXPECT_EQ(reports.count, 0);
	expect_same_descriptors(&before);
}

TEST(socket_receive_with_all_buffers_lent_gets_them_in_order)
{
	test_line(NO_TROUBLE);
}

TEST(socket_receive_cancelled_in_line_leaves_the_line)
{
	test_line(CANCELLED_IN_LINE);
}

TEST(socket_receive_cancelled_when_told_of_a_buffer_tells_the_next)
{
	test_line(CANCELLED_WHEN_TOLD);
}

TEST(socket_receive_that_fails_when_told_of_a_buffer_tells_the_next)
{
	test_line(RESET_IN_LINE);
}

static int hold_in_scope(void *argument)
{
	struct ew_scope **ret_scope = ((void **)argument)[1];
	EW_SCOPE(scope);

	*ret_scope = &scope;
	EXPECT_EQ(hold_task(((void **)argument)[0]), 0);
	return 0;
}

/* Cancelled @turns after it began to receive; no buffer comes back. */
static void cancel_receive_after(unsigned turns, struct holder *holder)
{
	struct ew_scope *watched = NULL;
	void *argument[] = { holder, &watched };
	EW_SCOPE(scope);

	holder->result = 0;
	EXPECT_EQ(ew_spawn(&scope, hold_in_scope, argument), 0);
	take_turns(turns);
	ew_scope_cancel(watched, EW_REASON_REQUESTED);
	TURNS_UNTIL(holder->result);
	EXPECT_EQ(holder->result, -ECANCELED);
	EXPECT_EQ(ew_scope_join(&scope), 0);
}

static int cancel_receive_at_each_turn(void *argument)
{
	struct holder holder;
	unsigned turns;
	EW_SCOPE(all);

	(void)argument;
	house_fill(&house, &all);
	holder_make(&holder, &house.all_go, false);
	for (turns = 1; turns < 12; turns++)
		cancel_receive_after(turns, &holder);
	holder_end(&holder);
	house_empty(&house);
	return 0;
}

TEST(socket_receive_is_cancelled_at_each_step_into_the_line)
{
	EXPECT_EQ(run_workers(1, cancel_receive_at_each_turn, NULL), 0);
}

struct talker {
	struct ew_socket *socket;
	int peer;
	unsigned rounds;
};

static int talk_task(void *argument)
{
	struct talker *talker = argument;
	const char *data;
	unsigned i;

	for (i = 0; i < 20; i++) {
		EXPECT_EQ(write(talker->peer, "x", 1), 1);
		EXPECT_EQ(ew_socket_receive(talker->socket, &data), 1);
		EXPECT_EQ(data[0], 'x');
		take_turns(3);
		EXPECT_EQ(data[0], 'x');
		if (i % 2)
			ew_socket_release(talker->socket);
		talker->rounds++;
	}
	ew_socket_release(talker->socket);
	return 0;
}

static int talk_all(void *argument)
{
	static struct talker talkers[SOCKETS_COUNT];
	unsigned i;
	EW_SCOPE(scope);

	(void)argument;
	for (i = 0; i < SOCKETS_COUNT; i++) {
		talkers[i].peer = unix_peer(&talkers[i].socket);
		EXPECT_EQ(ew_spawn(&scope, talk_task, &talkers[i]), 0);
	}
	EXPECT_EQ(ew_scope_join(&scope), 0);
	for (i = 0; i < SOCKETS_COUNT; i++) {
		EXPECT_EQ(talkers[i].rounds, 20);
		close(talkers[i].peer);
		EXPECT_EQ(ew_socket_close(&talkers[i].socket), 0);
	}
	EXPECT_EQ(ew__worker->buffers_lent, 0);
	return 0;
}

/* Each holds its buffer over several turns, and in every second round into the next receive. */
TEST(socket_receive_by_more_sockets_than_buffers_starves_nobody)
{
	struct descriptors before = descriptors_now();

	EXPECT_EQ(run_workers(1, talk_all, NULL), 0);
	expect_same_descriptors(&before);
}

enum way { BY_RELEASE, BY_CLOSE, BY_ABORT, BY_PANIC, BY_NEXT, WAYS_COUNT };

struct borrow {
	enum way way;
};

static int borrow_task(void *argument)
{
	const struct borrow *borrow = argument;
	EW_OWN(ew_socket, socket);
	const char *data;
	int peer = unix_peer(&socket);

	EXPECT_EQ(write(peer, "x", 1), 1);
	EXPECT_EQ(ew_socket_receive(socket, &data), 1);
	EXPECT_EQ(data[0], 'x');
	EXPECT_EQ(ew__worker->buffers_lent, 1);
	close(peer);
	switch (borrow->way) {
	case BY_RELEASE:
		ew_socket_release(socket);
		ew_socket_release(socket);
		break;
	case BY_CLOSE: return ew_socket_close(&socket);
	case BY_ABORT: ew_abort(&socket); break;
	case BY_PANIC: ew_panic("while a buffer is lent");
	default:
		EXPECT_EQ(ew_socket_receive(socket, &data), 0);
		EXPECT_EQ(ew__worker->buffers_lent, 0);
	}
	return 0;
}

static int borrow_often(void *argument)
{
	struct borrow borrow;
	unsigned i;

	(void)argument;
	for (borrow.way = BY_RELEASE; borrow.way < WAYS_COUNT; borrow.way++) {
		for (i = 0; i < EW__BUFFERS_COUNT + 10; i++) {
			EW_SCOPE(scope, .policy = EW_POLICY_INDEPENDENT);
			EXPECT_EQ(ew_spawn(&scope, borrow_task, &borrow), 0);
			EXPECT_EQ(ew_scope_join(&scope), 0);
		}
		EXPECT_EQ(ew__worker->buffers_lent, 0);
	}
	return 0;
}

/* More often than there are buffers, so that one that did not come back would be missed. */
TEST(socket_buffers_come_back_on_every_way)
{
	struct descriptors before = descriptors_now();

	EXPECT_EQ(run_workers(1, borrow_often, NULL), 0);
	expect_same_descriptors(&before);
}

TEST_MAIN()
