/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A scope that is cancelled when the peer of a socket goes away, and how a socket ends that is watched so.
 */

#include "io.h"

#include "task/worker.h"

#define ROUNDS_COUNT 2000

typedef int peer_fn(struct ew_socket **ret_socket);

/* Sleeps in a scope that the peer's going cancels; the reason that woke it. */
static enum ew_reason sleep_watched(struct ew_socket *socket, bool half_close)
{
	enum ew_reason reason;
	EW_SCOPE(scope, .deadline_ns = ew_after(60 * ew_test_scale() * EW_SECOND));

	ew_socket_cancel_on_hangup(socket, &scope, half_close);
	EXPECT_EQ(ew_sleep_until(EW_NEVER), -ECANCELED);
	reason = ew_scope_reason(&scope);
	ew_socket_forget_hangup(socket);
	return reason;
}

/* Whether a scope is cancelled by what has already happened to the peer. */
static bool is_gone(struct ew_socket *socket, bool half_close)
{
	unsigned turns;
	bool gone;
	EW_SCOPE(scope);

	ew_socket_cancel_on_hangup(socket, &scope, half_close);
	for (turns = 0; turns < 5; turns++)
		(void)!ew_yield();
	gone = ew_scope_reason(&scope) == EW_REASON_PEER;
	ew_socket_forget_hangup(socket);
	return gone;
}

/* The same, waited for: the kernel tells those who ask one by one, and us not always first. */
static void expect_gone(struct ew_socket *socket, bool half_close)
{
	TURNS_UNTIL(is_gone(socket, half_close));
}

static void go_with_reset(int peer)
{
	reset_when_closed(peer);
	close(peer);
}

static int watch_finish(void *argument)
{
	peer_fn *make = argument;
	EW_OWN(ew_socket, socket);
	int peer = make(&socket);

	EXPECT(!is_gone(socket, true));
	EXPECT_EQ(shutdown(peer, SHUT_WR), 0);
	EXPECT_EQ(sleep_watched(socket, true), EW_REASON_PEER);
	expect_gone(socket, true);
	close(peer);
	return ew_socket_close(&socket);
}

static int watch_close(void *argument)
{
	peer_fn *make = argument;
	EW_OWN(ew_socket, socket);
	int peer = make(&socket);

	EXPECT(!is_gone(socket, false));
	close(peer);
	await_events(ew_socket_fd(socket), POLLRDHUP);
	/* A TCP peer that closed has, as far as anybody can tell, only finished sending. */
	if (make == unix_peer)
		expect_gone(socket, false);
	else
		EXPECT(!is_gone(socket, false));
	expect_gone(socket, true);
	return ew_socket_close(&socket);
}

/* Its end, behind bytes that nobody has read, is seen; the bytes are still there. */
static int watch_behind_bytes(void *argument)
{
	peer_fn *make = argument;
	EW_OWN(ew_socket, socket);
	char text[8];
	int peer = make(&socket);

	EXPECT_EQ(write(peer, "bytes", 5), 5);
	EXPECT(!is_gone(socket, true));
	EXPECT_EQ(shutdown(peer, SHUT_WR), 0);
	EXPECT_EQ(sleep_watched(socket, true), EW_REASON_PEER);
	EXPECT_EQ(ew_socket_recv(socket, text, sizeof(text)), 5);
	EXPECT_EQ(ew_socket_recv(socket, text, sizeof(text)), 0);
	close(peer);
	return ew_socket_close(&socket);
}

/* A peer that may finish sending has not gone, can still be answered, and is seen when it goes. */
static int watch_half_closed(void *argument)
{
	peer_fn *make = argument;
	EW_OWN(ew_socket, socket);
	char text[8];
	int peer = make(&socket);
	EW_SCOPE(scope, .deadline_ns = ew_after(60 * ew_test_scale() * EW_SECOND));

	ew_socket_cancel_on_hangup(socket, &scope, false);
	take_turns(2);
	EXPECT_EQ(shutdown(peer, SHUT_WR), 0);
	await_events(ew_socket_fd(socket), POLLRDHUP);
	take_turns(5);
	EXPECT_EQ(ew_socket_send(socket, "answer", 6), 0);
	EXPECT_EQ(read(peer, text, sizeof(text)), 6);
	if (make == tcp_peer)
		reset_when_closed(peer);
	close(peer);
	EXPECT_EQ(ew_sleep_until(EW_NEVER), -ECANCELED);
	EXPECT_EQ(ew_scope_reason(&scope), EW_REASON_PEER);
	ew_socket_forget_hangup(socket);
	return ew_socket_close(&socket);
}

/* What counts as going is the request's own: it may change while the watch stays armed. */
static int watch_by_request(void *argument)
{
	peer_fn *make = argument;
	EW_OWN(ew_socket, strict);
	EW_OWN(ew_socket, lenient);
	int peers[2] = { make(&strict), make(&lenient) };

	EXPECT(!is_gone(lenient, true));
	EXPECT(!is_gone(strict, false));
	EXPECT_EQ(shutdown(peers[0], SHUT_WR), 0);
	EXPECT_EQ(shutdown(peers[1], SHUT_WR), 0);
	EXPECT_EQ(sleep_watched(strict, true), EW_REASON_PEER);
	EXPECT(!is_gone(lenient, false));
	expect_gone(lenient, true);
	EXPECT(!is_gone(lenient, false));
	close(peers[0]);
	close(peers[1]);
	return 0;
}

static int watch_reset(void *argument)
{
	EW_OWN(ew_socket, socket);
	int peer = tcp_peer(&socket);

	(void)argument;
	EXPECT(!is_gone(socket, false));
	EXPECT_EQ(write(peer, "bytes", 5), 5);
	go_with_reset(peer);
	EXPECT_EQ(sleep_watched(socket, false), EW_REASON_PEER);
	return ew_socket_close(&socket);
}

/* A unix peer that goes without having read: its end is a reset there. */
static int watch_unread(void *argument)
{
	EW_OWN(ew_socket, socket);
	int peer = unix_peer(&socket);

	(void)argument;
	EXPECT(!is_gone(socket, false));
	EXPECT_EQ(ew_socket_send(socket, "unread", 6), 0);
	close(peer);
	EXPECT_EQ(sleep_watched(socket, false), EW_REASON_PEER);
	return ew_socket_close(&socket);
}

static int watch_gone_already(void *argument)
{
	peer_fn *make = argument;
	EW_OWN(ew_socket, socket);
	int peer = make(&socket);

	close(peer);
	await_events(ew_socket_fd(socket), POLLRDHUP);
	EXPECT_EQ(sleep_watched(socket, true), EW_REASON_PEER);
	return ew_socket_close(&socket);
}

/* Whether asking alone is enough, without a turn for the answer. */
static bool is_known_gone(struct ew_socket *socket)
{
	bool known;
	EW_SCOPE(scope);

	ew_socket_cancel_on_hangup(socket, &scope, true);
	known = ew_scope_reason(&scope) == EW_REASON_PEER;
	ew_socket_forget_hangup(socket);
	ew_socket_forget_hangup(socket);
	return known;
}

/* From request to request the watch stays; who goes in between is found gone by the next. */
static int watch_keep_alive(void *argument)
{
	peer_fn *make = argument;
	EW_OWN(ew_socket, socket);
	unsigned i;
	int peer = make(&socket);

	for (i = 0; i < 100; i++)
		EXPECT(!is_gone(socket, true));
	close(peer);
	await_events(ew_socket_fd(socket), POLLRDHUP);
	TURNS_UNTIL(is_known_gone(socket));
	return ew_socket_close(&socket);
}

static void test_watch(ew_task_fn *fn, peer_fn *make)
{
	struct descriptors before = descriptors_now();

	EXPECT_EQ(run_workers(1, fn, (void *)make), 0);
	EXPECT_EQ(reports.count, 0);
	expect_same_descriptors(&before);
}

TEST(socket_hangup_finished_peer_of_tcp)
{
	test_watch(watch_finish, tcp_peer);
}

TEST(socket_hangup_finished_peer_of_unix)
{
	test_watch(watch_finish, unix_peer);
}

TEST(socket_hangup_closed_peer_of_tcp)
{
	test_watch(watch_close, tcp_peer);
}

TEST(socket_hangup_closed_peer_of_unix)
{
	test_watch(watch_close, unix_peer);
}

TEST(socket_hangup_behind_unread_bytes_of_tcp)
{
	test_watch(watch_behind_bytes, tcp_peer);
}

TEST(socket_hangup_behind_unread_bytes_of_unix)
{
	test_watch(watch_behind_bytes, unix_peer);
}

TEST(socket_hangup_after_an_allowed_half_close_of_tcp)
{
	test_watch(watch_half_closed, tcp_peer);
}

TEST(socket_hangup_after_an_allowed_half_close_of_unix)
{
	test_watch(watch_half_closed, unix_peer);
}

TEST(socket_hangup_half_close_is_each_requests_choice_of_tcp)
{
	test_watch(watch_by_request, tcp_peer);
}

TEST(socket_hangup_half_close_is_each_requests_choice_of_unix)
{
	test_watch(watch_by_request, unix_peer);
}

TEST(socket_hangup_by_reset)
{
	test_watch(watch_reset, NULL);
}

TEST(socket_hangup_of_unix_peer_that_has_not_read)
{
	test_watch(watch_unread, NULL);
}

TEST(socket_hangup_before_it_was_asked_for_of_tcp)
{
	test_watch(watch_gone_already, tcp_peer);
}

TEST(socket_hangup_before_it_was_asked_for_of_unix)
{
	test_watch(watch_gone_already, unix_peer);
}

TEST(socket_hangup_between_requests_of_tcp)
{
	test_watch(watch_keep_alive, tcp_peer);
}

TEST(socket_hangup_between_requests_of_unix)
{
	test_watch(watch_keep_alive, unix_peer);
}

/* ---- endings with the watch armed ---- */

enum way { BY_CLOSE, BY_ABORT, BY_PANIC, BY_LEAVING, WAYS_COUNT };

struct ending_round {
	enum way way;
	bool tcp;
	unsigned move;	/* of the peer */
	unsigned turns; /* between what happens */
};

static int end_watched_task(void *argument)
{
	const struct ending_round *round = argument;
	EW_OWN(ew_socket, socket);
	int peer = round->tcp ? tcp_peer(&socket) : unix_peer(&socket);
	EW_SCOPE(scope);

	ew_socket_cancel_on_hangup(socket, &scope, round->move & 1);
	take_turns(round->turns & 3);
	switch (round->move >> 1) {
	case 0: shutdown(peer, SHUT_WR); break;
	case 1: EXPECT_EQ(write(peer, "x", 1), 1); break;
	case 2:
		go_with_reset(peer);
		peer = -1;
		break;
	}
	if (!(round->turns >> 2))
		(void)!ew_yield();
	ew_socket_forget_hangup(socket);
	if (round->way == BY_CLOSE)
		EXPECT_EQ(ew_socket_close(&socket), 0);
	else if (round->way == BY_ABORT)
		ew_abort(&socket);
	if (peer >= 0)
		close(peer);
	if (round->way == BY_PANIC)
		ew_panic("with the watch armed");
	return 0;
}

static int end_watched(void *argument)
{
	struct ending_round round;
	unsigned i;

	(void)argument;
	for (i = 0; i < ROUNDS_COUNT; i++) {
		EW_SCOPE(scope, .policy = EW_POLICY_INDEPENDENT);
		round.way = chance(WAYS_COUNT);
		round.tcp = chance(2);
		round.move = chance(8);
		round.turns = chance(8);
		EXPECT_EQ(ew_spawn(&scope, end_watched_task, &round), 0);
		EXPECT_EQ(ew_scope_join(&scope), 0);
	}
	return 0;
}

/* Ways to end, moves of the peer and turns in between at random, also the peer's going while it is closed. */
TEST(socket_endings_with_the_watch_armed)
{
	struct descriptors before = descriptors_now();

	chance_begin();
	EXPECT_EQ(run_workers(1, end_watched, NULL), 0);
	expect_same_descriptors(&before);
}

/* ---- a kernel that refuses the watch ---- */

static struct {
	const struct ew__driver_type *real;
	struct ew__driver_type type;
	unsigned count;
} refusing;

static void refuse_watches(struct ew__driver *driver, int64_t deadline_ns)
{
	struct ew__op *op, *next;

	for (op = driver->queued.first; op; op = next) {
		next = op->next;
		if (op->code != EW__OP_POLL || !op->event)
			continue;
		refusing.count++;
		ew__op_line_remove(&driver->queued, op);
		op->result = -ENOMEM;
		ew__driver_op_ended(driver, op);
	}
	refusing.real->visit(driver, driver->done.first ? EW_NOW : deadline_ns);
}

static void refusing_begin(void)
{
	refusing.count = 0;
	refusing.real = ew__worker->driver->type;
	refusing.type = *refusing.real;
	refusing.type.visit = refuse_watches;
	ew__worker->driver->type = &refusing.type;
}

static void refusing_end(void)
{
	ew__worker->driver->type = refusing.real;
}

static int watch_refused(void *argument)
{
	int64_t began_ns = ew_now(), lasted_ns;
	int peer;
	(void)argument;
	EW_OWN(ew_socket, socket);
	EW_SCOPE(scope, .deadline_ns = ew_after(60 * ew_test_scale() * EW_SECOND));

	peer = unix_peer(&socket);
	refusing_begin();
	ew_socket_cancel_on_hangup(socket, &scope, true);
	EXPECT_EQ(ew_sleep(50 * EW_MILLISECOND), 0);
	refusing_end();
	lasted_ns = ew_now() - began_ns;
	EXPECT(refusing.count > 1 && refusing.count <= lasted_ns / (4 * EW_MILLISECOND) + 2);
	close(peer);
	EXPECT_EQ(ew_sleep_until(EW_NEVER), -ECANCELED);
	EXPECT_EQ(ew_scope_reason(&scope), EW_REASON_PEER);
	ew_socket_forget_hangup(socket);
	return 0;
}

/* A peer that goes later is noticed all the same, and no processor is kept busy meanwhile. */
TEST(socket_hangup_is_watched_for_again_now_and_then_while_the_kernel_refuses)
{
	EXPECT_EQ(run_workers(1, watch_refused, NULL), 0);
}

static int end_refused(void *argument)
{
	const enum way *way = argument;
	int peer;
	EW_OWN(ew_socket, socket);
	EW_SCOPE(scope);

	peer = unix_peer(&socket);
	refusing_begin();
	ew_socket_cancel_on_hangup(socket, &scope, true);
	take_turns(4);
	refusing_end();
	close(peer);
	if (*way == BY_CLOSE)
		return ew_socket_close(&socket);
	if (*way == BY_ABORT)
		ew_abort(&socket);
	if (*way == BY_PANIC)
		ew_panic("while the watch is refused");
	return 0;
}

static int end_refused_in_each_way(void *argument)
{
	enum way way;

	(void)argument;
	for (way = BY_CLOSE; way < WAYS_COUNT; way++) {
		EW_SCOPE(scope, .policy = EW_POLICY_INDEPENDENT);
		EXPECT_EQ(ew_spawn(&scope, end_refused, &way), 0);
		EXPECT_EQ(ew_scope_join(&scope), 0);
		/* What was to be looked at again would be now. */
		EXPECT_EQ(ew_sleep(10 * EW_MILLISECOND), 0);
	}
	return 0;
}

TEST(socket_endings_while_the_kernel_refuses_the_watch)
{
	struct descriptors before = descriptors_now();

	EXPECT_EQ(run_workers(1, end_refused_in_each_way, NULL), 0);
	expect_same_descriptors(&before);
}

/* ---- two workers ---- */

struct shared {
	struct ew_socket *socket;
	int peer;
};

static int abort_task(void *argument)
{
	struct shared *shared = argument;

	ew_abort(&shared->socket);
	return 0;
}

static void make_armed(struct shared *shared)
{
	EW_SCOPE(scope);

	shared->socket = NULL;
	shared->peer = unix_peer(&shared->socket);
	ew_socket_cancel_on_hangup(shared->socket, &scope, true);
	take_turns(2);
	ew_socket_forget_hangup(shared->socket);
}

static int abort_elsewhere(void *argument)
{
	struct shared shared;
	unsigned i;
	char byte;

	(void)argument;
	for (i = 0; i < 500; i++) {
		EW_SCOPE(scope);
		make_armed(&shared);
		if (i % 3 == 0)
			EXPECT_EQ(shutdown(shared.peer, SHUT_WR), 0);
		EXPECT_EQ(ew_spawn(&scope, abort_task, &shared, .worker = 2), 0);
		EXPECT_EQ(ew_scope_join(&scope), 0);
		/* The other worker is not done before we are: the end comes here by message. */
		EXPECT_EQ(read(shared.peer, &byte, 1), 0);
		close(shared.peer);
	}
	return 0;
}

TEST(socket_abort_by_another_worker_with_the_watch_armed)
{
	struct descriptors before = descriptors_now();

	EXPECT_EQ(run_workers(2, abort_elsewhere, NULL), 0);
	expect_same_descriptors(&before);
}

static int forget_elsewhere_task(void *argument)
{
	make_armed(argument);
	return 0;
}

static int forget_elsewhere(void *argument)
{
	struct shared *shared = argument;
	EW_SCOPE(scope);

	EXPECT_EQ(ew_spawn(&scope, forget_elsewhere_task, shared, .worker = 2), 0);
	return ew_scope_join(&scope);
}

TEST(socket_forgotten_on_another_worker_with_the_watch_armed_is_aborted)
{
	struct descriptors before = descriptors_now();
	struct shared shared;

	EXPECT_EQ(run_workers(2, forget_elsewhere, &shared), 0);
	EXPECT(reported("socket made at", "no owner"));
	close(shared.peer);
	expect_same_descriptors(&before);
}

/* What a socket that came from another worker does: all of it. */
static int live_here(void *argument, void *place)
{
	struct ew_socket **socket = place;
	const char *data;
	int peer = *(int *)argument;

	EXPECT_EQ(ew_worker(), 2);
	EXPECT_EQ(write(peer, "x", 1), 1);
	EXPECT_EQ(ew_socket_receive(*socket, &data), 1);
	EXPECT_EQ(ew_socket_send(*socket, data, 1), 0);
	ew_socket_release(*socket);
	EXPECT(!is_gone(*socket, true));
	EXPECT_EQ(shutdown(peer, SHUT_WR), 0);
	EXPECT_EQ(sleep_watched(*socket, true), EW_REASON_PEER);
	return 0; /* closed as it is left */
}

static int move_idle(void *argument)
{
	EW_OWN(ew_socket, socket);
	const char *data;
	int peer = unix_peer(&socket);
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(write(peer, "x", 1), 1);
	EXPECT_EQ(ew_socket_receive(socket, &data), 1);
	ew_socket_release(socket);
	EXPECT_EQ(ew_spawn_take(&scope, live_here, &peer, &socket, .worker = 2), 0);
	EXPECT(!socket);
	EXPECT_EQ(ew_scope_join(&scope), 0);
	close(peer);
	return 0;
}

TEST(socket_moved_to_another_worker_while_idle_lives_there)
{
	struct descriptors before = descriptors_now();

	EXPECT_EQ(run_workers(2, move_idle, NULL), 0);
	EXPECT_EQ(reports.count, 0);
	expect_same_descriptors(&before);
}

static int close_task(void *argument, void *place)
{
	(void)argument;
	return ew_socket_close(place);
}

static int receive_and_close_task(void *argument, void *place)
{
	const char *data;

	EXPECT_EQ(write(*(int *)argument, "x", 1), 1);
	(void)!ew_socket_receive(*(struct ew_socket **)place, &data);
	return ew_socket_close(place);
}

static int move_armed(void *fn)
{
	struct shared shared;
	EW_SCOPE(scope);

	make_armed(&shared);
	EXPECT_EQ(ew_spawn_take(&scope, (ew_task_take_fn *)fn, &shared.peer, &shared.socket,
				.worker = 2),
		  0);
	EXPECT(ew_scope_join(&scope) == 0);
	close(shared.peer);
	return 0;
}

static int move_lent(void *fn)
{
	struct shared shared = { .socket = NULL };
	const char *data;
	EW_SCOPE(scope);

	shared.peer = unix_peer(&shared.socket);
	EXPECT_EQ(write(shared.peer, "x", 1), 1);
	EXPECT_EQ(ew_socket_receive(shared.socket, &data), 1);
	EXPECT_EQ(ew_spawn_take(&scope, (ew_task_take_fn *)fn, &shared.peer, &shared.socket,
				.worker = 2),
		  0);
	EXPECT(ew_scope_join(&scope) == 0);
	close(shared.peer);
	return 0;
}

static void move_armed_and_receive(void)
{
	(void)!run_workers(2, move_armed, (void *)receive_and_close_task);
}

/* What belongs to a ring cannot be used on another worker: an assertion, not another ring's slot. */
TEST(socket_receiving_on_another_worker_with_the_watch_armed_is_an_assertion)
{
	struct ended ended = run_process(move_armed_and_receive);

	EXPECT(WIFSIGNALED(ended.status) && WTERMSIG(ended.status) == SIGABRT);
	EXPECT(strstr(ended.text, "assertion failed at"));
	EXPECT(strstr(ended.text, "socket.c"));
}

/* That it can be ended there: a message to the ring's own worker, and its answer. Gone when the close has returned. */
TEST(socket_closed_by_another_worker_with_the_watch_armed_ends_with_both)
{
	struct descriptors before = descriptors_now();
	int i;

	for (i = 0; i < 50; i++)
		EXPECT_EQ(run_workers(2, move_armed, (void *)close_task), 0);
	expect_same_descriptors(&before);
}

TEST(socket_closed_by_another_worker_with_a_lent_buffer_gives_it_back)
{
	struct descriptors before = descriptors_now();

	EXPECT_EQ(run_workers(2, move_lent, (void *)close_task), 0);
	expect_same_descriptors(&before);
}

static int forget_here(void *argument)
{
	struct shared *shared = argument;

	make_armed(shared);
	return 0;
}

TEST(socket_forgotten_is_reported_and_aborted)
{
	struct descriptors before = descriptors_now();
	struct shared shared;

	EXPECT_EQ(run_workers(1, forget_here, &shared), 0);
	EXPECT(reported("socket made at", "no owner"));
	close(shared.peer);
	expect_same_descriptors(&before);
}

TEST_MAIN()
