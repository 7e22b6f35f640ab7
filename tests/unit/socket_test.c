/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Sockets: bytes and descriptors through them, what a cancel leaves in the kernel, and connecting.
 */

#include "io.h"

#include <pthread.h>

#define ROUNDS_COUNT 10000
#define STREAM_BYTES ((size_t)4 << 20)

static char byte_at(size_t i)
{
	return (char)(i * 2654435761u >> 13);
}

/* ---- bytes conserved ---- */

struct stream {
	struct ew_socket *socket;
	int peer;
	size_t taken;
	unsigned refused;
	bool lend;
	bool at_end;
};

static void *write_stream(void *argument)
{
	struct stream *stream = argument;
	static char data[70000];
	size_t sent = 0, size, i;
	ssize_t r;

	while (sent < STREAM_BYTES) {
		size = 1 + (sent * 7919) % sizeof(data);
		if (size > STREAM_BYTES - sent)
			size = STREAM_BYTES - sent;
		for (i = 0; i < size; i++)
			data[i] = byte_at(sent + i);
		r = send(stream->peer, data, size, MSG_NOSIGNAL);
		EXPECT(r > 0);
		sent += (size_t)r;
	}
	EXPECT_EQ(shutdown(stream->peer, SHUT_WR), 0);
	return NULL;
}

/* Takes what comes until it is cancelled; each byte must be the next one. */
static int take_stream(void *argument)
{
	struct stream *stream = argument;
	char own[3000];
	const char *data = own;
	int r, i;

	for (;;) {
		r = stream->lend ? ew_socket_receive(stream->socket, &data)
				 : ew_socket_recv(stream->socket, own, sizeof(own));
		if (r <= 0)
			break;
		for (i = 0; i < r; i++)
			EXPECT_EQ(data[i], byte_at(stream->taken + (size_t)i));
		stream->taken += (size_t)r;
	}
	if (r == -ECANCELED) {
		EXPECT_EQ(ew_outcome(), EW_OUTCOME_NONE);
		stream->refused++;
		return r;
	}
	EXPECT_EQ(r, 0);
	stream->at_end = true;
	return 0;
}

static void take_stream_in_pieces(struct stream *stream)
{
	unsigned turns;

	while (!stream->at_end) {
		EW_SCOPE(scope);
		EXPECT_EQ(ew_spawn(&scope, take_stream, stream), 0);
		for (turns = chance(12); turns > 0; turns--)
			EXPECT_EQ(ew_yield(), 0);
		ew_scope_cancel(&scope, EW_REASON_REQUESTED);
		(void)!ew_scope_join(&scope);
	}
}

static int conserve_bytes(void *lend)
{
	struct stream stream = { .lend = lend != NULL };
	EW_OWN(ew_socket, socket);
	pthread_t writer;

	stream.peer = unix_peer(&socket);
	stream.socket = socket;
	EXPECT_EQ(pthread_create(&writer, NULL, write_stream, &stream), 0);
	take_stream_in_pieces(&stream);
	EXPECT_EQ(pthread_join(writer, NULL), 0);
	EXPECT_EQ(stream.taken, STREAM_BYTES);
	EXPECT(stream.refused > 0);
	close(stream.peer);
	return ew_socket_close(&socket);
}

/* A thread writes a known sequence as fast as it can while receiving tasks are cancelled at random. */
TEST(socket_recv_cancelled_at_random_loses_no_byte)
{
	struct descriptors before = descriptors_now();

	chance_begin();
	EXPECT_EQ(run_workers(1, conserve_bytes, NULL), 0);
	expect_same_descriptors(&before);
}

TEST(socket_receive_cancelled_at_random_loses_no_byte)
{
	struct descriptors before = descriptors_now();

	chance_begin();
	EXPECT_EQ(run_workers(1, conserve_bytes, &before), 0);
	expect_same_descriptors(&before);
}

struct transfer {
	struct ew_socket *socket;
	char *data;
	size_t size;
	int result;
	enum ew_outcome outcome;
	bool done;
};

static int send_task(void *argument)
{
	struct transfer *transfer = argument;

	transfer->result = ew_socket_send(transfer->socket, transfer->data, transfer->size);
	transfer->outcome = ew_outcome();
	transfer->done = true;
	return 0;
}

static size_t count_bytes(int fd)
{
	static char data[65536];
	size_t total = 0;
	ssize_t r;

	while ((r = read(fd, data, sizeof(data))) > 0)
		total += (size_t)r;
	EXPECT_EQ(r, 0);
	return total;
}

static int cancel_send_midway(void *argument)
{
	struct transfer transfer = { .size = (size_t)32 << 20 };
	EW_OWN(ew_socket, socket);
	int peer = unix_peer(&socket);

	(void)argument;
	transfer.socket = socket;
	transfer.data = calloc(1, transfer.size);
	EXPECT(transfer.data);
	{
		EW_SCOPE(scope);
		EXPECT_EQ(ew_spawn(&scope, send_task, &transfer), 0);
		take_turns(4);
		EXPECT(!transfer.done);
		ew_scope_cancel(&scope, EW_REASON_REQUESTED);
		EXPECT_EQ(ew_scope_join(&scope), 0);
	}
	EXPECT_EQ(transfer.result, -ECANCELED);
	free(transfer.data);
	EXPECT_EQ(ew_socket_close(&socket), 0);
	EXPECT(count_bytes(peer) > 0);
	close(peer);
	return 0;
}

TEST(socket_send_cancelled_midway_stops)
{
	EXPECT_EQ(run_workers(1, cancel_send_midway, NULL), 0);
}

static int send_nothing(void *argument)
{
	EW_OWN(ew_socket, socket);
	int peer = unix_peer(&socket);

	(void)argument;
	EXPECT_EQ(ew_socket_send(socket, "", 0), 0);
	{
		EW_SCOPE(scope);
		ew_scope_cancel(&scope, EW_REASON_REQUESTED);
		EXPECT_EQ(ew_socket_send(socket, "", 0), -ECANCELED);
	}
	close(peer);
	return 0;
}

/* A call that need not wait checks for a cancel all the same (P4). */
TEST(socket_send_of_nothing_is_refused_once_cancelled)
{
	EXPECT_EQ(run_workers(1, send_nothing, NULL), 0);
}

/* ---- connecting ---- */

struct dial {
	struct sockaddr_in address;
	int result;
	enum ew_outcome outcome;
};

static int dial_task(void *argument)
{
	struct dial *dial = argument;
	EW_OWN(ew_socket, socket);

	dial->result = ew_socket_connect((struct sockaddr *)&dial->address, sizeof(dial->address),
					 &socket);
	dial->outcome = ew_outcome();
	return ew_socket_close(&socket);
}

static void dial_and_cancel(struct dial *dial, unsigned turns)
{
	EW_SCOPE(scope);
	EXPECT_EQ(ew_spawn(&scope, dial_task, dial), 0);
	take_turns(turns);
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	EXPECT_EQ(ew_scope_join(&scope), 0);
}

static int cancel_connects(void *argument)
{
	unsigned i, made = 0, refused = 0;
	struct dial dial;
	int listener = plain_listener(&dial.address), fd;

	(void)argument;
	EXPECT_EQ(fcntl(listener, F_SETFL, O_NONBLOCK), 0);
	for (i = 0; i < ROUNDS_COUNT / 5; i++) {
		dial_and_cancel(&dial, chance(4));
		EXPECT(dial.result == 0 || dial.result == -ECANCELED);
		made += dial.result == 0;
		refused += dial.result < 0;
		while ((fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
			reset_when_closed(fd);
			close(fd);
		}
	}
	EXPECT(made > 0 && refused > 0);
	close(listener);
	return 0;
}

TEST(socket_connect_cancelled_at_random_conserves_descriptors)
{
	struct descriptors before = descriptors_now();

	chance_begin();
	EXPECT_EQ(run_workers(1, cancel_connects, NULL), 0);
	expect_same_descriptors(&before);
}

/* A full backlog lets the next connection hang in its handshake. */
static int cancel_hanging_connect(void *argument)
{
	int listener, first[3];
	struct dial dial;
	size_t i;

	(void)argument;
	listener = plain_listener(&dial.address);
	EXPECT_EQ(listen(listener, 0), 0);
	for (i = 0; i < 3; i++) {
		first[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		(void)!connect(first[i], (struct sockaddr *)&dial.address, sizeof(dial.address));
	}
	dial_and_cancel(&dial, 0);
	EXPECT_EQ(dial.result, -ECANCELED);
	EXPECT_EQ(dial.outcome, EW_OUTCOME_NONE);
	dial_and_cancel(&dial, 1);
	EXPECT_EQ(dial.result, -ECANCELED);
	EXPECT_EQ(dial.outcome, EW_OUTCOME_NONE);
	dial_and_cancel(&dial, 5);
	EXPECT_EQ(dial.result, -ECANCELED);
	EXPECT_EQ(dial.outcome, EW_OUTCOME_SPOILED);
	for (i = 0; i < 3; i++)
		close(first[i]);
	close(listener);
	return 0;
}

TEST(socket_connect_cancelled_says_whether_it_had_begun)
{
	struct descriptors before = descriptors_now();

	EXPECT_EQ(run_workers(1, cancel_hanging_connect, NULL), 0);
	expect_same_descriptors(&before);
}

static int connect_to_nobody(void *argument)
{
	int bound = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct dial dial = { .address = loopback(0) };
	socklen_t bytes = sizeof(dial.address);

	(void)argument;
	/* Its port is taken, and nobody listens there. */
	EXPECT_EQ(bind(bound, (struct sockaddr *)&dial.address, bytes), 0);
	EXPECT_EQ(getsockname(bound, (struct sockaddr *)&dial.address, &bytes), 0);
	EXPECT_EQ(dial_task(&dial), 0);
	EXPECT_EQ(dial.result, -ECONNREFUSED);
	close(bound);
	return 0;
}

TEST(socket_connect_refused_says_so)
{
	struct descriptors before = descriptors_now();

	EXPECT_EQ(run_workers(1, connect_to_nobody, NULL), 0);
	expect_same_descriptors(&before);
}

/* ---- descriptors passed ---- */

static void send_descriptors(int socket, const int *fds, size_t count)
{
	union {
		char bytes[CMSG_SPACE(8 * sizeof(int))];
		struct cmsghdr alignment;
	} control = { .bytes = { 0 } };
	struct iovec part = { .iov_base = (char[]){ "x" }, .iov_len = 1 };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes };
	struct cmsghdr *header;

	message.msg_controllen = CMSG_SPACE(count * sizeof(int));
	header = CMSG_FIRSTHDR(&message);
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(count * sizeof(int));
	memcpy(CMSG_DATA(header), fds, count * sizeof(int));
	EXPECT_EQ(sendmsg(socket, &message, MSG_NOSIGNAL), 1);
}

static int pass_descriptors(void *argument)
{
	int fd = open("/dev/null", O_RDWR | O_CLOEXEC), fds[7] = { fd, fd, fd, fd, fd, fd, fd };
	EW_OWN(ew_socket, one);
	EW_OWN(ew_socket, other);
	EW_OWN(ew_file, file);
	struct stat found, expected;
	char text[16];
	int peer = unix_peer(&one);

	(void)argument;
	EXPECT_EQ(ew_socket_adopt(dup(peer), &other), 0);
	EXPECT_EQ(ew_socket_send_fd(one, "hello", 5, fd), 0);
	EXPECT_EQ(ew_socket_recv_fd(other, text, sizeof(text), &file), 5);
	EXPECT_EQ(memcmp(text, "hello", 5), 0);
	EXPECT(file && fcntl(ew_file_fd(file), F_GETFD) == FD_CLOEXEC);
	EXPECT_EQ(fstat(ew_file_fd(file), &found), 0);
	EXPECT_EQ(fstat(fd, &expected), 0);
	EXPECT_EQ(found.st_rdev, expected.st_rdev);
	EXPECT_EQ(ew_file_close(&file), 0);
	/* One is asked for; of more, the others are closed. */
	send_descriptors(peer, fds, 3);
	EXPECT_EQ(ew_socket_recv_fd(one, text, sizeof(text), &file), 1);
	EXPECT_EQ(ew_file_close(&file), 0);
	send_descriptors(peer, fds, 7);
	EXPECT_EQ(ew_socket_recv_fd(one, text, sizeof(text), &file), 1);
	EXPECT_EQ(ew_file_close(&file), 0);
	EXPECT_EQ(write(peer, "y", 1), 1);
	EXPECT_EQ(ew_socket_recv_fd(one, text, sizeof(text), &file), 1);
	EXPECT(!file);
	EXPECT_EQ(ew_socket_send_fd(one, "", 0, fd), -EINVAL);
	close(peer);
	close(fd);
	return 0;
}

static int receive_with_credentials(void *argument)
{
	EW_OWN(ew_socket, one);
	EW_OWN(ew_socket, other);
	EW_OWN(ew_file, file);
	char text[16];
	int on = 1;

	(void)argument;
	EXPECT_EQ(ew_socket_pair(&one, &other), 0);
	EXPECT_EQ(setsockopt(ew_socket_fd(other), SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)), 0);
	EXPECT_EQ(ew_socket_send_fd(one, "file", 4, ew_socket_fd(one)), 0);
	EXPECT_EQ(ew_socket_recv_fd(other, text, sizeof(text), &file), 4);
	EXPECT(file);
	return ew_file_close(&file);
}

/* Somebody had asked for them before the socket was adopted. */
TEST(socket_that_brings_credentials_brings_a_descriptor_too)
{
	EXPECT_EQ(run_workers(1, receive_with_credentials, NULL), 0);
}

static int receive_without_room(void *argument)
{
	EW_OWN(ew_socket, one);
	EW_OWN(ew_socket, other);
	EW_OWN(ew_file, file);
	rlim_t usual;
	char text[16];
	int lowest;

	(void)argument;
	EXPECT_EQ(ew_socket_pair(&one, &other), 0);
	EXPECT_EQ(ew_socket_send_fd(one, "lost", 4, ew_socket_fd(one)), 0);
	lowest = dup(ew_socket_fd(one));
	close(lowest);
	usual = set_limit(RLIMIT_NOFILE, (rlim_t)lowest);
	EXPECT_EQ(ew_socket_recv_fd(other, text, sizeof(text), &file), -EMFILE);
	EXPECT_EQ(ew_outcome(), EW_OUTCOME_SPOILED);
	set_limit(RLIMIT_NOFILE, usual);
	EXPECT(!file);
	EXPECT_EQ(ew_socket_send(one, "next", 4), 0);
	EXPECT_EQ(ew_socket_recv_fd(other, text, sizeof(text), &file), 4);
	EXPECT(!file && !memcmp(text, "next", 4));
	return 0;
}

TEST(socket_that_has_no_room_for_a_descriptor_says_that_it_is_lost)
{
	if (RUNNING_ON_VALGRIND)
		SKIP("Valgrind keeps the limit itself, and not for descriptors that are received");
	EXPECT_EQ(run_workers(1, receive_without_room, NULL), 0);
}

TEST(socket_passes_descriptors_and_closes_those_too_many)
{
	struct descriptors before = descriptors_now();

	EXPECT_EQ(run_workers(1, pass_descriptors, NULL), 0);
	expect_same_descriptors(&before);
}

struct passing {
	struct ew_socket *socket;
	unsigned taken;
};

static int take_descriptors(void *argument)
{
	struct passing *passing = argument;
	int r = 0;

	while (r >= 0) {
		EW_OWN(ew_file, file);
		char byte;

		r = ew_socket_recv_fd(passing->socket, &byte, 1, &file);
		EXPECT((r == 1) == (file != NULL));
		passing->taken += r == 1;
	}
	EXPECT_EQ(r, -ECANCELED);
	return 0;
}

static int cancel_passing(void *argument)
{
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC), peer;
	EW_OWN(ew_socket, socket);
	struct passing passing = { 0 };
	unsigned i, sent = 0;

	(void)argument;
	peer = unix_peer(&socket);
	passing.socket = socket;
	for (i = 0; i < ROUNDS_COUNT / 5 || passing.taken < sent; i++) {
		EW_SCOPE(scope);
		EXPECT_EQ(ew_spawn(&scope, take_descriptors, &passing), 0);
		take_turns(chance(4));
		/* What is on its way stays less than a socket holds. */
		if (i < ROUNDS_COUNT / 5 && sent - passing.taken < 50) {
			send_descriptors(peer, &fd, 1);
			sent++;
		}
		take_turns(chance(4));
		ew_scope_cancel(&scope, EW_REASON_REQUESTED);
		EXPECT_EQ(ew_scope_join(&scope), 0);
	}
	EXPECT_EQ(passing.taken, sent);
	close(peer);
	close(fd);
	return 0;
}

TEST(socket_recv_fd_cancelled_at_random_loses_no_descriptor)
{
	struct descriptors before = descriptors_now();

	chance_begin();
	EXPECT_EQ(run_workers(1, cancel_passing, NULL), 0);
	expect_same_descriptors(&before);
}

/* ---- who has nobody left runs behind those who have ---- */

struct told {
	struct ew_socket *socket;
	char *order;
	char letter;
};

static int receive_and_note(void *argument)
{
	struct told *told = argument;
	const char *data;
	EW_SCOPE(scope);

	ew_socket_cancel_on_hangup(told->socket, &scope, false);
	EXPECT(ew_socket_receive(told->socket, &data) >= 0);
	told->order[strlen(told->order)] = told->letter;
	ew_socket_forget_hangup(told->socket);
	return 0;
}

static int tell_both(void *argument)
{
	char order[3] = "";
	struct told ending = { .order = order, .letter = 'e' };
	struct told living = { .order = order, .letter = 'l' };
	EW_OWN(ew_socket, one);
	EW_OWN(ew_socket, other);
	int peers[2] = { unix_peer(&one), unix_peer(&other) };
	EW_SCOPE(scope);

	(void)argument;
	ending.socket = one;
	living.socket = other;
	EXPECT_EQ(ew_spawn(&scope, receive_and_note, &ending), 0);
	EXPECT_EQ(ew_spawn(&scope, receive_and_note, &living), 0);
	take_turns(4);
	close(peers[0]);
	EXPECT_EQ(write(peers[1], "x", 1), 1);
	EXPECT_EQ(ew_scope_join(&scope), 0);
	EXPECT_STR(order, "le");
	close(peers[1]);
	return 0;
}

/* One look at the driver brings both, the end first. */
TEST(socket_end_of_a_stream_is_told_behind_those_that_live)
{
	EXPECT_EQ(run_workers(1, tell_both, NULL), 0);
}

#define WAVE_COUNT 3

struct parting {
	char *order;
	struct ew_scope *next_wave; /* cancelled from inside an ending; NULL: nobody's */
};

static void note(const struct parting *parting, char letter)
{
	parting->order[strlen(parting->order)] = letter;
}

static int space_is_back(void *argument)
{
	struct parting *parting = argument;

	note(parting, 's');
	if (parting->next_wave)
		ew_scope_cancel(parting->next_wave, EW_REASON_REQUESTED);
	return 0;
}

static int socket_is_closed(void *argument)
{
	note(argument, 'c');
	return 0;
}

static void never(void *argument)
{
	(void)argument;
	EXPECT(false);
}

static int hold_both(void *argument)
{
	EW_GUARD(older, argument, .close = socket_is_closed, .abort = never);
	EW_OWN(ew_socket, socket);
	EW_GUARD(newer, argument, .close = space_is_back, .abort = never);
	int peer = unix_peer(&socket), r;

	r = ew_sleep(3600 * EW_SECOND);
	close(peer);
	return r;
}

static int two_waves(void *argument)
{
	char order[4 * WAVE_COUNT + 1] = "";
	EW_SCOPE(second, .policy = EW_POLICY_INDEPENDENT);
	EW_SCOPE(first, .policy = EW_POLICY_INDEPENDENT);
	struct parting early = { order, &second }, late = { order, NULL };

	(void)argument;
	for (int i = 0; i < WAVE_COUNT; i++) {
		EXPECT_EQ(ew_spawn(&first, hold_both, &early), 0);
		EXPECT_EQ(ew_spawn(&second, hold_both, &late), 0);
	}
	take_turns(1);
	ew_scope_cancel(&first, EW_REASON_REQUESTED);
	EXPECT_EQ(ew_scope_join(&first), -ECANCELED);
	EXPECT_EQ(ew_scope_join(&second), -ECANCELED);
	EXPECT_STR(order, "sssssscccccc");
	return 0;
}

/* Also of those that are cancelled while others are about to close theirs. */
TEST(socket_of_a_cancelled_task_is_closed_when_the_others_have_given_space_back)
{
	EXPECT_EQ(run_workers(1, two_waves, NULL), 0);
}

TEST_MAIN()
