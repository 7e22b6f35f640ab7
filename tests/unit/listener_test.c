/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Listeners: every connection is taken once or closed, whatever is cancelled, and an address belongs to one program.
 */

#include "io.h"

#define ROUNDS_COUNT 10000

static socklen_t address_bytes(const struct sockaddr_storage *address)
{
	return address->ss_family == AF_UNIX ? sizeof(struct sockaddr_un)
					     : sizeof(struct sockaddr_in);
}

/* On the loopback, at a port that the kernel chooses. */
static void listen_tcp(struct ew_listener **ret_listener, struct sockaddr_storage *ret_address)
{
	struct sockaddr_in address = loopback(0);

	EXPECT_EQ(
		ew_listener_open((struct sockaddr *)&address, sizeof(address), 4096, ret_listener),
		0);
	EXPECT_EQ(ew_listener_address(*ret_listener, ret_address), 0);
}

static struct directory directory;

static struct sockaddr_un unix_address(const char *name)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	EXPECT((size_t)snprintf(address.sun_path, sizeof(address.sun_path), "%s/%s", directory.path,
				name) < sizeof(address.sun_path));
	return address;
}

static void listen_unix(struct ew_listener **ret_listener, struct sockaddr_storage *ret_address)
{
	struct sockaddr_un address = unix_address("socket");

	EXPECT_EQ(
		ew_listener_open((struct sockaddr *)&address, sizeof(address), 4096, ret_listener),
		0);
	memset(ret_address, 0, sizeof(*ret_address));
	memcpy(ret_address, &address, sizeof(address));
}

static bool at_end(int peer)
{
	char byte;

	await_events(peer, POLLIN);
	return read(peer, &byte, 1) <= 0;
}

/* ---- cancels ---- */

struct accepting {
	struct ew_listener *listener;
	unsigned taken;
	unsigned refused;
	int result;
	enum ew_outcome outcome;
};

static int accept_task(void *argument)
{
	struct accepting *accepting = argument;
	EW_OWN(ew_socket, socket);

	accepting->result = ew_listener_accept(accepting->listener, &socket);
	accepting->outcome = ew_outcome();
	EXPECT((accepting->result == 0) == (socket != NULL));
	if (accepting->result == 0) {
		accepting->taken++;
		return ew_socket_close(&socket);
	}
	EXPECT_EQ(accepting->result, -ECANCELED);
	EXPECT_EQ(accepting->outcome, EW_OUTCOME_NONE);
	accepting->refused++;
	return accepting->result;
}

static void accept_round(struct accepting *accepting, const struct sockaddr_storage *address)
{
	int peer;
	EW_SCOPE(scope);

	EXPECT_EQ(ew_spawn(&scope, accept_task, accepting), 0);
	take_turns(chance(4));
	peer = plain_connect(address, address_bytes(address));
	take_turns(chance(4));
	if (address->ss_family == AF_INET)
		reset_when_closed(peer);
	close(peer);
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	(void)!ew_scope_join(&scope);
}

static int cancel_accepts(void *listen)
{
	struct accepting accepting = { 0 };
	struct sockaddr_storage address;
	EW_OWN(ew_listener, listener);
	unsigned i;

	((void (*)(struct ew_listener **, struct sockaddr_storage *))listen)(&listener, &address);
	accepting.listener = listener;
	for (i = 0; i < ROUNDS_COUNT; i++)
		accept_round(&accepting, &address);
	EXPECT(accepting.refused > 0);
	/* What was not taken then is still there. */
	while (accepting.taken < ROUNDS_COUNT)
		EXPECT_EQ(accept_task(&accepting), 0);
	return ew_listener_close(&listener);
}

static void test_cancels(void *listen)
{
	struct descriptors before;

	directory_make(&directory);
	before = descriptors_now();
	chance_begin();
	EXPECT_EQ(run_workers(1, cancel_accepts, listen), 0);
	expect_same_descriptors(&before);
	directory_remove(&directory);
}

TEST(listener_accept_cancelled_at_random_loses_no_connection_of_tcp)
{
	test_cancels((void *)listen_tcp);
}

TEST(listener_accept_cancelled_at_random_loses_no_connection_of_unix)
{
	test_cancels((void *)listen_unix);
}

static int cancel_after_success(void *argument)
{
	struct accepting accepting = { 0 };
	struct sockaddr_storage address;
	EW_OWN(ew_listener, listener);
	int peer;

	(void)argument;
	listen_tcp(&listener, &address);
	accepting.listener = listener;
	peer = plain_connect(&address, sizeof(struct sockaddr_in));
	EXPECT_EQ(accept_task(&accepting), 0);
	EXPECT_EQ(accepting.outcome, EW_OUTCOME_DONE);
	EXPECT(at_end(peer));
	close(peer);
	/* The outcome of an accept that is refused while it waits is its own, not that of an operation before it. */
	{
		EW_SCOPE(scope);
		EXPECT_EQ(ew_spawn(&scope, accept_task, &accepting), 0);
		take_turns(3);
		ew_scope_cancel(&scope, EW_REASON_REQUESTED);
		(void)!ew_scope_join(&scope);
	}
	EXPECT_EQ(accepting.refused, 1);
	return 0;
}

TEST(listener_accept_tells_its_own_outcome)
{
	EXPECT_EQ(run_workers(1, cancel_after_success, NULL), 0);
}

/* ---- the queue ---- */

static void connect_many(const struct sockaddr_storage *address, int *peers, unsigned count)
{
	unsigned i;

	for (i = 0; i < count; i++)
		peers[i] = plain_connect(address, address_bytes(address));
}

static int queue_many(void *argument)
{
	struct accepting accepting = { 0 };
	struct sockaddr_storage address;
	EW_OWN(ew_listener, listener);
	static int peers[1000];
	unsigned i;

	(void)argument;
	listen_unix(&listener, &address);
	accepting.listener = listener;
	connect_many(&address, peers, 1000);
	for (i = 0; i < 1000; i++)
		EXPECT_EQ(accept_task(&accepting), 0);
	for (i = 0; i < 1000; i++) {
		EXPECT(at_end(peers[i]));
		close(peers[i]);
	}
	return ew_listener_close(&listener);
}

/* More than are accepted ahead. */
TEST(listener_takes_more_than_its_queue_holds)
{
	directory_make(&directory);
	EXPECT_EQ(run_workers(1, queue_many, NULL), 0);
	directory_remove(&directory);
}

static unsigned descriptors_count(void)
{
	DIR *open_ones = opendir("/proc/self/fd");
	unsigned count = 0;

	EXPECT(open_ones);
	while (readdir(open_ones))
		count++;
	closedir(open_ones);
	return count;
}

static int accept_one_by_one(void *argument)
{
	struct accepting accepting = { 0 };
	struct sockaddr_storage address;
	EW_OWN(ew_listener, listener);
	unsigned before, i;
	int peers[50];

	(void)argument;
	listen_unix(&listener, &address);
	ew_listener_one_by_one(listener);
	accepting.listener = listener;
	connect_many(&address, peers, 50);
	before = descriptors_count();
	for (i = 0; i < 50; i++) {
		EXPECT_EQ(accept_task(&accepting), 0);
		take_turns(3);
		EXPECT_EQ(descriptors_count(), before);
	}
	for (i = 0; i < 50; i++)
		close(peers[i]);
	return ew_listener_close(&listener);
}

/* With fifty in the backlog, the process has no descriptor more than for the one that was asked for. */
TEST(listener_one_by_one_accepts_nothing_ahead)
{
	directory_make(&directory);
	EXPECT_EQ(run_workers(1, accept_one_by_one, NULL), 0);
	directory_remove(&directory);
}

enum way { BY_CLOSE, BY_ABORT, BY_PANIC, BY_FORGETTING };

struct leaving {
	enum way way;
	unsigned count; /* few: it goes on accepting */
	int peers[300];
};

static int leave_task(void *argument)
{
	struct leaving *leaving = argument;
	struct accepting accepting = { 0 };
	struct ew_listener *forgotten;
	struct sockaddr_storage address;
	EW_OWN(ew_listener, listener);

	listen_unix(&listener, &address);
	accepting.listener = listener;
	connect_many(&address, leaving->peers, leaving->count);
	EXPECT_EQ(accept_task(&accepting), 0);
	switch (leaving->way) {
	case BY_CLOSE: return ew_listener_close(&listener);
	case BY_ABORT: ew_abort(&listener); break;
	case BY_PANIC: ew_panic("with connections in the queue");
	case BY_FORGETTING:
		forgotten = listener;
		(void)forgotten;
		listener = NULL;
	}
	return 0;
}

static int leave_on(unsigned worker, struct leaving *leaving)
{
	EW_SCOPE(scope, .policy = EW_POLICY_INDEPENDENT);

	EXPECT_EQ(ew_spawn(&scope, leave_task, leaving, .worker = worker), 0);
	return ew_scope_join(&scope);
}

static int leave_here(void *leaving)
{
	return leave_on(1, leaving);
}

static int leave_elsewhere(void *leaving)
{
	return leave_on(2, leaving);
}

static void test_leaving_with(enum way way, ew_task_fn *fn, unsigned count)
{
	struct leaving leaving = { .way = way, .count = count };
	struct descriptors before;
	unsigned i;

	directory_make(&directory);
	before = descriptors_now();
	EXPECT_EQ(run_workers(2, fn, &leaving), 0);
	EXPECT_EQ(reported("listener made at", "no owner"), way == BY_FORGETTING);
	for (i = 0; i < count; i++) {
		EXPECT(at_end(leaving.peers[i]));
		close(leaving.peers[i]);
	}
	expect_same_descriptors(&before);
	directory_remove(&directory);
}

static void test_leaving(enum way way, ew_task_fn *fn)
{
	test_leaving_with(way, fn, 3);
	test_leaving_with(way, fn, 300);
}

TEST(listener_close_closes_what_is_in_its_queue)
{
	test_leaving(BY_CLOSE, leave_here);
}

TEST(listener_abort_closes_what_is_in_its_queue)
{
	test_leaving(BY_ABORT, leave_here);
}

TEST(listener_panic_closes_what_is_in_its_queue)
{
	test_leaving(BY_PANIC, leave_here);
}

TEST(listener_forgotten_is_reported_and_aborted)
{
	test_leaving(BY_FORGETTING, leave_here);
}

TEST(listener_forgotten_on_another_worker_is_reported_and_aborted)
{
	test_leaving(BY_FORGETTING, leave_elsewhere);
}

/* ---- without descriptors ---- */

static int run_out_of_descriptors(void *argument)
{
	struct accepting accepting = { 0 };
	struct sockaddr_storage address;
	EW_OWN(ew_listener, listener);
	EW_OWN(ew_socket, socket);
	int peers[4], lowest;
	rlim_t usual;
	unsigned i;

	(void)argument;
	listen_unix(&listener, &address);
	accepting.listener = listener;
	connect_many(&address, peers, 4);
	lowest = dup(peers[0]);
	close(lowest);
	usual = set_limit(RLIMIT_NOFILE, (rlim_t)lowest);
	for (i = 0; i < 3; i++)
		EXPECT_EQ(ew_listener_accept(listener, &socket), -EMFILE);
	EXPECT(!socket);
	set_limit(RLIMIT_NOFILE, usual);
	while (accepting.taken < 4) {
		int r = ew_listener_accept(listener, &socket);

		/* An accept that had already failed may be told first. */
		if (r == 0) {
			accepting.taken++;
			EXPECT_EQ(ew_socket_close(&socket), 0);
		} else {
			EXPECT_EQ(r, -EMFILE);
		}
	}
	for (i = 0; i < 4; i++) {
		EXPECT(at_end(peers[i]));
		close(peers[i]);
	}
	return 0;
}

TEST(listener_without_descriptors_fails_and_recovers)
{
	directory_make(&directory);
	EXPECT_EQ(run_workers(1, run_out_of_descriptors, NULL), 0);
	directory_remove(&directory);
}

/* ---- addresses ---- */

struct sharing {
	struct ew_listener *listeners[2];
	unsigned taken[2];
	atomic_uint total;
	struct ew_event done;
};

struct sharer {
	struct sharing *sharing;
	unsigned index;
};

#define SHARED_COUNT 200

static int share_task(void *argument)
{
	struct sharer *sharer = argument;
	struct sharing *sharing = sharer->sharing;
	int r;

	for (;;) {
		EW_OWN(ew_socket, socket);

		r = ew_listener_accept(sharing->listeners[sharer->index], &socket);
		if (r < 0)
			break;
		sharing->taken[sharer->index]++;
		if (atomic_fetch_add(&sharing->total, 1) + 1 == SHARED_COUNT)
			ew_event_set(&sharing->done);
	}
	EXPECT_EQ(r, -ECANCELED);
	return ew_listener_close(&sharing->listeners[sharer->index]);
}

static int share(void *listen)
{
	struct sharing sharing = { .taken = { 0 } };
	struct sharer sharers[2] = { { &sharing, 0 }, { &sharing, 1 } };
	struct sockaddr_storage address;
	int peers[SHARED_COUNT];
	unsigned i;

	((void (*)(struct ew_listener **, struct sockaddr_storage *))listen)(&sharing.listeners[0],
									     &address);
	EXPECT_EQ(ew_listener_share(sharing.listeners[0], &sharing.listeners[1]), 0);
	{
		EW_SCOPE(scope);
		EXPECT_EQ(ew_spawn(&scope, share_task, &sharers[0], .worker = 1), 0);
		EXPECT_EQ(ew_spawn(&scope, share_task, &sharers[1], .worker = 2), 0);
		connect_many(&address, peers, SHARED_COUNT);
		EXPECT_EQ(ew_event_wait(&sharing.done, EW_NEVER), 0);
	}
	EXPECT_EQ(sharing.taken[0] + sharing.taken[1], SHARED_COUNT);
	/* The kernel spreads TCP connections by their addresses; of unix ones, who comes first takes. */
	if (address.ss_family == AF_INET)
		EXPECT(sharing.taken[0] > 0 && sharing.taken[1] > 0);
	for (i = 0; i < SHARED_COUNT; i++) {
		EXPECT(at_end(peers[i]));
		close(peers[i]);
	}
	return 0;
}

static void test_share(void *listen)
{
	struct descriptors before;

	directory_make(&directory);
	before = descriptors_now();
	EXPECT_EQ(run_workers(2, share, listen), 0);
	expect_same_descriptors(&before);
	directory_remove(&directory);
}

TEST(listener_share_serves_two_workers_with_tcp)
{
	test_share((void *)listen_tcp);
}

TEST(listener_share_serves_two_workers_with_unix)
{
	test_share((void *)listen_unix);
}

static unsigned count_inheritable(void)
{
	unsigned count = 0;
	int fd, flags;

	for (fd = 3; fd < 256; fd++) {
		flags = fcntl(fd, F_GETFD);
		count += flags >= 0 && !(flags & FD_CLOEXEC);
	}
	return count;
}

static int inherit_nothing(void *argument)
{
	unsigned before = *(unsigned *)argument;
	struct accepting accepting = { 0 };
	struct sockaddr_storage address;
	EW_OWN(ew_listener, one);
	EW_OWN(ew_listener, other);
	EW_OWN(ew_listener, tcp);
	EW_OWN(ew_listener, tcp_too);
	int peer;

	listen_unix(&one, &address);
	EXPECT_EQ(ew_listener_share(one, &other), 0);
	peer = plain_connect(&address, address_bytes(&address));
	accepting.listener = other;
	EXPECT_EQ(accept_task(&accepting), 0);
	close(peer);
	listen_tcp(&tcp, &address);
	EXPECT_EQ(ew_listener_share(tcp, &tcp_too), 0);
	EXPECT_EQ(count_inheritable(), before);
	return 0;
}

TEST(listener_descriptors_are_not_inherited)
{
	unsigned before = count_inheritable();

	directory_make(&directory);
	EXPECT_EQ(run_workers(1, inherit_nothing, &before), 0);
	directory_remove(&directory);
}

static int plain_bind(const struct sockaddr_in *address, bool share, bool listening)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	const int on = 1;

	EXPECT(fd >= 0);
	EXPECT_EQ(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)), 0);
	if (share)
		EXPECT_EQ(setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on)), 0);
	EXPECT_EQ(bind(fd, (const struct sockaddr *)address, sizeof(*address)), 0);
	if (listening)
		EXPECT_EQ(listen(fd, 8), 0);
	return fd;
}

/* Another program, as far as the kernel can tell, also one that would share its port. */
static int meet_another(void *share_port)
{
	struct sockaddr_in address = loopback(0);
	socklen_t bytes = sizeof(address);
	EW_OWN(ew_listener, listener);
	int fd = plain_bind(&address, share_port != NULL, true);

	EXPECT_EQ(getsockname(fd, (struct sockaddr *)&address, &bytes), 0);
	EXPECT_EQ(ew_listener_open((struct sockaddr *)&address, sizeof(address), 8, &listener),
		  -EADDRINUSE);
	EXPECT(!listener);
	close(fd);
	EXPECT_EQ(ew_listener_open((struct sockaddr *)&address, sizeof(address), 8, &listener), 0);
	return ew_listener_close(&listener);
}

TEST(listener_address_of_another_is_refused)
{
	struct descriptors before = descriptors_now();

	EXPECT_EQ(run_workers(1, meet_another, NULL), 0);
	EXPECT_EQ(run_workers(1, meet_another, &before), 0);
	expect_same_descriptors(&before);
}

static int open_twice(void *argument)
{
	struct sockaddr_storage address;
	EW_OWN(ew_listener, listener);
	EW_OWN(ew_listener, second);

	(void)argument;
	listen_tcp(&listener, &address);
	EXPECT(((struct sockaddr_in *)&address)->sin_port != 0);
	EXPECT_EQ(ew_listener_open((struct sockaddr *)&address, sizeof(struct sockaddr_in), 8,
				   &second),
		  -EADDRINUSE);
	EXPECT_EQ(ew_listener_open((struct sockaddr *)&address, sizeof(struct sockaddr_in), 0,
				   &second),
		  -EINVAL);
	listen_unix(&second, &address);
	EXPECT_EQ(ew_listener_close(&listener), 0);
	EXPECT_EQ(ew_listener_open((struct sockaddr *)&address, sizeof(struct sockaddr_un), 8,
				   &listener),
		  -EADDRINUSE);
	EXPECT(!listener);
	return 0;
}

TEST(listener_address_is_used_once)
{
	struct descriptors before;

	directory_make(&directory);
	before = descriptors_now();
	EXPECT_EQ(run_workers(1, open_twice, NULL), 0);
	expect_same_descriptors(&before);
	directory_remove(&directory);
}

/* A connection that a server closed lingers in TIME_WAIT; the server may start again all the same. */
static int start_again(void *argument)
{
	struct accepting accepting = { 0 };
	struct sockaddr_storage address;
	EW_OWN(ew_listener, listener);
	int peer;

	(void)argument;
	listen_tcp(&listener, &address);
	accepting.listener = listener;
	peer = plain_connect(&address, sizeof(struct sockaddr_in));
	EXPECT_EQ(accept_task(&accepting), 0);
	EXPECT(at_end(peer));
	close(peer);
	EXPECT_EQ(ew_listener_close(&listener), 0);
	return ew_listener_open((struct sockaddr *)&address, sizeof(struct sockaddr_in), 8,
				&listener);
}

TEST(listener_address_can_be_used_again_at_once)
{
	EXPECT_EQ(run_workers(1, start_again, NULL), 0);
}

TEST_MAIN()
