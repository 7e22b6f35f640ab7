/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The HTTP session on the real runtime: a server task and a client task of one worker, joined by a TCP
 * connection on loopback. The client says what is written in the test and looks at the bytes that come
 * back. Timeouts are short and real; nothing else waits for the clock.
 */

#include "ew_test.h"

#include "../apps/malformed/table.h"
#include "parser.h"
#include "session.h"

#include <endwell/clock.h>
#include <endwell/event.h>
#include <endwell/resource.h>
#include <endwell/run.h>
#include <endwell/task.h>

#include <netinet/in.h>

#define HEAD	     "Host: localhost\r\n"
#define PATIENCE_MAX (100 * EW_SECOND)

#define GET "GET / HTTP/1.1\r\n" HEAD "\r\n"

/* One test: a service, a client, and what the handler saw. */
struct world {
	struct http_service service;
	int (*client)(struct world *world);
	struct sockaddr_in address;
	struct ew_socket *socket; /* the client's end */
	int serve_result;
	unsigned int served; /* connections that have ended */
	unsigned int handled;
	int handler_result;
	enum ew_reason reason;
	int64_t body_bytes;
	char body[512];
	int refused_status;
	char refused_reason[160];
	struct ew_event started;
	struct ew_event go;
	bool as_expected;
};

static int serve_task(void *argument, void *place)
{
	struct world *world = argument;

	world->serve_result = http_session_serve(&world->service, place);
	world->served++;
	return 0;
}

static int accept_task(void *argument, void *place)
{
	struct ew_listener **listener = place;
	struct world *world = argument;

	EW_SCOPE(sessions, .policy = EW_POLICY_INDEPENDENT);
	EW_OWN(ew_socket, socket);

	for (;;) {
		int r = ew_listener_accept(*listener, &socket);

		if (r < 0)
			return ew_scope_finish(&sessions, r);
		EXPECT_EQ(ew_spawn_take(&sessions, serve_task, world, &socket), 0);
	}
}

static void dial(struct world *world, struct ew_socket **ret_socket)
{
	EXPECT_EQ(ew_socket_connect((struct sockaddr *)&world->address, sizeof(world->address),
				    ret_socket),
		  0);
}

static void refused(void *userdata, int status, const char *reason)
{
	struct world *world = userdata;

	world->refused_status = status;
	snprintf(world->refused_reason, sizeof(world->refused_reason), "%s", reason);
}

static int world_task(void *argument)
{
	struct world *world = argument;
	struct sockaddr_storage bound;
	int r;

	EW_OWN(ew_listener, listener);
	EW_OWN(ew_socket, socket);
	EW_SCOPE(scope);

	world->address.sin_family = AF_INET;
	world->address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	EXPECT_EQ(ew_listener_open((struct sockaddr *)&world->address, sizeof(world->address), 128,
				   &listener),
		  0);
	EXPECT(ew_listener_address(listener, &bound) >= 0);
	memcpy(&world->address, &bound, sizeof(world->address));
	EXPECT_EQ(ew_spawn_take(&scope, accept_task, world, &listener), 0);
	dial(world, &socket);
	world->socket = socket;
	EXPECT_EQ(world->client(world), 0);
	EXPECT_EQ(ew_close(&socket), 0);
	/* Sessions see the client's end by themselves; nothing here may hurry them. */
	for (r = 0; r == 0 && world->served == 0;)
		r = ew_sleep(EW_MILLISECOND);
	EXPECT(r == 0 || r == -ECANCELED);
	r = ew_scope_close(&scope, EW_NOW, EW_REASON_SHUTDOWN);
	return r == -ETIMEDOUT || r == -ECANCELED ? 0 : r;
}

/* Runs @client against @handler in a runtime of one worker. */
static void run(struct world *world, http_handler_fn *handler, int (*client)(struct world *world))
{
	const struct ew_run_options options = { .workers_count = 1 };

	world->service.handler = handler;
	world->service.refused = refused;
	world->service.userdata = world;
	world->client = client;
	http_service_init(&world->service);
	EXPECT_EQ(ew_run(&options, world_task, world), 0);
	EXPECT(!world->service.idle);
}

static void say_bytes(struct ew_socket *socket, const void *data, size_t len)
{
	EXPECT_EQ(ew_socket_send(socket, data, len), 0);
}

static void say(struct ew_socket *socket, const char *text)
{
	say_bytes(socket, text, strlen(text));
}

/* Reads until @until has come @times, or to the end if it is NULL; the text of all that came. */
static char *hear(struct ew_socket *socket, const char *until, unsigned int times)
{
	static char text[65536];
	unsigned int found = 0;
	size_t len = 0;

	text[0] = 0;
	while (!until || found < times) {
		EW_SCOPE(wait, .deadline_ns = ew_after(20 * EW_SECOND * ew_test_scale()));
		int n = ew_socket_recv(socket, text + len, sizeof(text) - 1 - len);

		if (n < 0)
			ew_test_fail(__FILE__, __LINE__, "receive: %s, after \"%.200s\"",
				     strerror(-n), text);
		if (n == 0) {
			if (until)
				ew_test_fail(__FILE__, __LINE__, "closed after \"%.200s\"", text);
			break;
		}
		len += (size_t)n;
		text[len] = 0;
		found = 0;
		for (const char *at = text; until && (at = strstr(at, until)); at += strlen(until))
			found++;
	}
	return text;
}

static char *hear_end(struct ew_socket *socket)
{
	return hear(socket, NULL, 0);
}

static unsigned int count(const char *text, const char *what)
{
	unsigned int found = 0;

	for (; (text = strstr(text, what)); text += strlen(what))
		found++;
	return found;
}

/* Reads the whole body and answers with its length; keeps the first of it. */
static int handle_sink(struct http_request *request, void *userdata)
{
	struct world *world = userdata;
	const char *data;
	char answer[64];
	int n;

	while ((n = http_body_read(request, &data)) > 0) {
		if (request->body_bytes < (int64_t)sizeof(world->body))
			memcpy(world->body + request->body_bytes - n, data, (size_t)n);
	}
	world->handler_result = n;
	world->body_bytes = request->body_bytes;
	if (n < 0)
		return n;
	world->handled++;
	snprintf(answer, sizeof(answer), "%.*s %lld\n", (int)request->head->path.len,
		 request->head->path.data, (long long)request->body_bytes);
	return http_respond(request, 200, "text/plain", NULL, answer, strlen(answer));
}

static int client_get(struct world *world)
{
	char *text;

	say(world->socket, GET);
	text = hear(world->socket, "/ 0\n", 1);
	EXPECT(!strncmp(text, "HTTP/1.1 200 OK\r\nDate: ", 23));
	EXPECT(strstr(text, "\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\n/ 0\n"));
	say(world->socket, "GET /again HTTP/1.1\r\n" HEAD "Connection: close\r\n\r\n");
	text = hear_end(world->socket);
	EXPECT(strstr(text, "\r\nConnection: close\r\n\r\n/again 0\n"));
	return 0;
}

/* Two requests on one connection, which stays open until the client asks for the end. */
TEST(http_session_keeps_the_connection_until_close_is_asked_for)
{
	struct world world = {};

	run(&world, handle_sink, client_get);
	EXPECT_EQ(world.handled, 2);
	EXPECT_EQ(world.serve_result, 0);
}

static int client_pipeline(struct world *world)
{
	char *text;

	say(world->socket, "GET /1 HTTP/1.1\r\n" HEAD "\r\n"
			   "PUT /2 HTTP/1.1\r\n" HEAD "Content-Length: 5\r\n\r\nhello"
			   "PUT /3 HTTP/1.1\r\n" HEAD
			   "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n"
			   "HEAD /4 HTTP/1.1\r\n" HEAD "\r\n"
			   "GET /5 HTTP/1.1\r\n" HEAD "Connection: close\r\n\r\n");
	text = hear_end(world->socket);
	EXPECT_EQ(count(text, "HTTP/1.1 200 OK"), 5);
	EXPECT(strstr(text, "/1 0\n") < strstr(text, "/2 5\n"));
	EXPECT(strstr(text, "/2 5\n") < strstr(text, "/3 4\n"));
	EXPECT(strstr(text, "/3 4\n") < strstr(text, "/5 0\n"));
	EXPECT(!strstr(text, "/4 0\n"));
	EXPECT_EQ(count(text, "Content-Length: 5\r\n"), 5);
	return 0;
}

/* All requests in one packet: answered in order, each with its own body, HEAD without one. */
TEST(http_session_pipelined_requests_are_answered_in_order)
{
	struct world world = {};

	run(&world, handle_sink, client_pipeline);
	EXPECT_EQ(world.handled, 5);
}

static int client_byte_by_byte(struct world *world)
{
	static const char request[] =
		"PUT /slow HTTP/1.1\r\n" HEAD "Transfer-Encoding: chunked\r\n\r\n"
		"5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nX-Trailer: a\r\n\r\n" GET;

	for (size_t i = 0; i < sizeof(request) - 1; i++) {
		say_bytes(world->socket, request + i, 1);
		EXPECT_EQ(ew_yield(), 0);
	}
	EXPECT(strstr(hear(world->socket, "/ 0\n", 1), "/slow 11\n"));
	return 0;
}

TEST(http_session_one_byte_at_a_time_is_the_same_request)
{
	struct world world = {};

	run(&world, handle_sink, client_byte_by_byte);
	EXPECT_EQ(world.handled, 2);
	EXPECT(!memcmp(world.body, "hello world", 11));
}

#define SMALL_CHUNKS 2000

static int handle_count_pieces(struct http_request *request, void *userdata)
{
	struct world *world = userdata;
	const char *data;
	int64_t sum = 0;
	int n, pieces = 0;

	while ((n = http_body_read(request, &data)) > 0) {
		for (int i = 0; i < n; i++, sum++)
			if (data[i] != 'a' + sum % 23 && sum < SMALL_CHUNKS)
				return -EPROTO;
		pieces++;
	}
	if (n < 0)
		return n;
	EXPECT_EQ(sum, request->head->chunked ? SMALL_CHUNKS + 5000 : 0);
	EXPECT_EQ(request->body_bytes, sum);
	EXPECT(pieces < 20);
	world->handled++;
	return http_respond(request, 204, NULL, NULL, NULL, 0);
}

static int client_small_chunks(struct world *world)
{
	static char request[SMALL_CHUNKS * 6 + 8000];
	size_t len;

	len = (size_t)sprintf(request,
			      "PUT / HTTP/1.1\r\n" HEAD "Transfer-Encoding: chunked\r\n\r\n");
	for (int i = 0; i < SMALL_CHUNKS; i++)
		len += (size_t)sprintf(request + len, "1\r\n%c\r\n", 'a' + i % 23);
	len += (size_t)sprintf(request + len, "1388\r\n%5000d\r\n0\r\n\r\n" GET, 7);
	say_bytes(world->socket, request, len);
	EXPECT_EQ(count(hear(world->socket, "\r\n\r\n", 2), "HTTP/1.1 "), 2);
	return 0;
}

/* One-byte chunks come as a few pieces, in order, with the large chunk behind them and the next request. */
TEST(http_session_small_chunks_are_handed_over_together)
{
	struct world world = {};

	run(&world, handle_count_pieces, client_small_chunks);
	EXPECT_EQ(world.handled, 2);
}

static int client_large_body(struct world *world)
{
	static char data[1 << 20];

	say(world->socket, "PUT /large HTTP/1.1\r\n" HEAD "Content-Length: 16777216\r\n\r\n");
	for (int i = 0; i < 16; i++)
		say_bytes(world->socket, data, sizeof(data));
	hear(world->socket, "/large 16777216\n", 1);
	return 0;
}

TEST(http_session_large_body_arrives_whole)
{
	struct world world = {};

	run(&world, handle_sink, client_large_body);
}

static int client_expect(struct world *world)
{
	say(world->socket,
	    "PUT /e HTTP/1.1\r\n" HEAD "Expect: 100-continue\r\nContent-Length: 5\r\n\r\n");
	EXPECT_STR(hear(world->socket, "\r\n\r\n", 1), HTTP_RESPONSE_CONTINUE);
	say(world->socket, "hello");
	EXPECT_EQ(count(hear(world->socket, "/e 5\n", 1), "100 Continue"), 0);
	return 0;
}

TEST(http_session_continue_is_sent_when_the_body_is_asked_for)
{
	struct world world = {};

	run(&world, handle_sink, client_expect);
	EXPECT_EQ(world.handled, 1);
}

static int handle_refuse(struct http_request *request, void *userdata)
{
	const struct http_problem problem = {
		.status = 413,
		.type = "urn:test:large",
		.title = "Too large",
		.detail = "At most 5 bytes.",
		.retry_after_seconds = 7,
	};
	const char *data;
	struct world *world = userdata;

	world->handled++;
	EXPECT_EQ(http_respond_problem(request, &problem), 0);
	EXPECT_EQ(request->status, 413);
	EXPECT_EQ(http_respond_problem(request, &problem), -EALREADY);
	EXPECT_EQ(http_body_read(request, &data), -ESHUTDOWN);
	return 0;
}

static int client_expect_refused(struct world *world)
{
	char *text;

	say(world->socket,
	    "PUT /e HTTP/1.1\r\n" HEAD "Expect: 100-continue\r\nContent-Length: 6\r\n\r\n");
	text = hear_end(world->socket);
	EXPECT_EQ(count(text, "100 Continue"), 0);
	EXPECT(!strncmp(text, "HTTP/1.1 413 Content Too Large\r\n", 32));
	EXPECT(strstr(text, "\r\nContent-Type: application/problem+json\r\n"));
	EXPECT(strstr(text, "\r\nRetry-After: 7\r\n"));
	EXPECT(strstr(text, "\r\nConnection: close\r\n"));
	EXPECT(strstr(text, "\"type\": \"urn:test:large\""));
	EXPECT(strstr(text, "\"detail\": \"At most 5 bytes.\""));
	return 0;
}

TEST(http_session_refusal_before_the_body_sends_no_continue)
{
	struct world world = {};

	run(&world, handle_refuse, client_expect_refused);
	EXPECT_EQ(world.handled, 1);
}

static int client_sends_on(struct world *world)
{
	static char data[1 << 16];
	char *text;

	/* More than the socket buffers hold: it can only be sent because the server goes on reading. */
	say(world->socket, "PUT /e HTTP/1.1\r\n" HEAD "Content-Length: 1073741824\r\n\r\n");
	for (int i = 0; i < 400; i++)
		say_bytes(world->socket, data, sizeof(data));
	text = hear_end(world->socket);
	EXPECT(!strncmp(text, "HTTP/1.1 413 Content Too Large\r\n", 32));
	EXPECT(strstr(text, "At most 5 bytes."));
	return 0;
}

/* The client reads only after it has sent 25 MiB; a reset would have destroyed the answer by then. */
TEST(http_session_early_refusal_is_seen_by_a_client_that_goes_on_sending)
{
	struct world world = {};

	run(&world, handle_refuse, client_sends_on);
	EXPECT_EQ(world.serve_result, 0);
}

static int client_sends_for_ever(struct world *world)
{
	static char data[1 << 16];
	int64_t began_ns = ew_now();

	say(world->socket, "PUT /e HTTP/1.1\r\n" HEAD "Content-Length: 1073741824\r\n\r\n");
	while (ew_socket_send(world->socket, data, sizeof(data)) == 0)
		EXPECT(ew_now() < began_ns + 20 * EW_SECOND * ew_test_scale());
	return 0;
}

/* The reading after a refusal has an end: by bytes here, by time in the next test. */
TEST(http_session_lingering_ends_by_bytes)
{
	struct world world = { .service = { .linger_bytes_max = 1 << 20,
					    .linger_ns = 60 * EW_SECOND } };

	run(&world, handle_refuse, client_sends_for_ever);
}

TEST(http_session_lingering_ends_by_time)
{
	struct world world = { .service = { .linger_bytes_max = INT64_MAX,
					    .linger_ns = 100 * EW_MILLISECOND } };

	run(&world, handle_refuse, client_sends_for_ever);
}

/* Waits for what never comes, and notes how that ended. Contains no code for a client that leaves. */
static int handle_wait(struct http_request *request, void *userdata)
{
	struct world *world = userdata;

	world->handled++;
	ew_event_set(&world->started);
	world->handler_result = ew_event_wait(&world->go, ew_after(60 * EW_SECOND));
	world->reason = ew_cancel_reason();
	if (world->handler_result < 0)
		return world->handler_result;
	return http_respond(request, 204, NULL, NULL, NULL, 0);
}

static int client_closes(struct world *world)
{
	say(world->socket, GET);
	EXPECT_EQ(ew_event_wait(&world->started, EW_NEVER), 0);
	EXPECT_EQ(ew_socket_shutdown(world->socket, SHUT_WR), 0);
	return 0;
}

TEST(http_session_half_close_while_the_handler_waits_cancels_it)
{
	struct world world = {};

	run(&world, handle_wait, client_closes);
	EXPECT_EQ(world.handler_result, -ECANCELED);
	EXPECT_EQ(world.reason, EW_REASON_PEER);
	EXPECT_EQ(world.serve_result, -ECONNRESET);
}

static int client_closes_behind_bytes(struct world *world)
{
	static char data[20000];

	say(world->socket, GET GET "PUT /next HTTP/1.1\r\n" HEAD "Content-Length: 1000000\r\n\r\n");
	say_bytes(world->socket, data, sizeof(data));
	EXPECT_EQ(ew_event_wait(&world->started, EW_NEVER), 0);
	EXPECT_EQ(ew_socket_shutdown(world->socket, SHUT_WR), 0);
	return 0;
}

/* Pipelined bytes that nobody reads stand before the FIN in the socket's queue. */
TEST(http_session_half_close_behind_unread_bytes_cancels_the_handler)
{
	struct world world = {};

	run(&world, handle_wait, client_closes_behind_bytes);
	EXPECT_EQ(world.handled, 1);
	EXPECT_EQ(world.handler_result, -ECANCELED);
	EXPECT_EQ(world.reason, EW_REASON_PEER);
}

static int client_resets(struct world *world)
{
	const struct linger reset = { .l_onoff = 1, .l_linger = 0 };
	struct sockaddr unconnected = { .sa_family = AF_UNSPEC };

	say(world->socket, GET);
	EXPECT_EQ(ew_event_wait(&world->started, EW_NEVER), 0);
	EXPECT_EQ(setsockopt(ew_socket_fd(world->socket), SOL_SOCKET, SO_LINGER, &reset,
			     sizeof(reset)),
		  0);
	/* connect(2) to nowhere sends the reset without touching what the library owns. */
	EXPECT_EQ(connect(ew_socket_fd(world->socket), &unconnected, sizeof(unconnected)), 0);
	return 0;
}

TEST(http_session_reset_while_the_handler_waits_cancels_it)
{
	struct world world = {};

	run(&world, handle_wait, client_resets);
	EXPECT_EQ(world.handler_result, -ECANCELED);
	EXPECT_EQ(world.reason, EW_REASON_PEER);
}

static int client_sees_shutdown(struct world *world)
{
	say(world->socket, GET);
	EXPECT_EQ(ew_event_wait(&world->started, EW_NEVER), 0);
	ew_shutdown();
	return 0;
}

/* A cancel from further out is not taken for the client's leaving, and ends the connection too. */
TEST(http_session_shutdown_while_the_handler_waits_cancels_it)
{
	struct world world = {};

	run(&world, handle_wait, client_sees_shutdown);
	EXPECT_EQ(world.handler_result, -ECANCELED);
	EXPECT_EQ(world.reason, EW_REASON_LEFT);
	EXPECT_EQ(world.serve_result, -ECANCELED);
}

static int client_half_closes_and_waits(struct world *world)
{
	say(world->socket, GET);
	EXPECT_EQ(ew_event_wait(&world->started, EW_NEVER), 0);
	EXPECT_EQ(ew_socket_shutdown(world->socket, SHUT_WR), 0);
	EXPECT_EQ(ew_sleep(20 * EW_MILLISECOND), 0);
	EXPECT_EQ(world->reason, EW_REASON_NONE);
	ew_event_set(&world->go);
	EXPECT(!strncmp(hear_end(world->socket), "HTTP/1.1 204 No Content\r\n", 25));
	return 0;
}

TEST(http_session_half_close_with_finish_still_gets_its_answer)
{
	struct world world = { .service = { .half_close_finish = true } };

	run(&world, handle_wait, client_half_closes_and_waits);
	EXPECT_EQ(world.handler_result, 0);
	EXPECT_EQ(world.serve_result, 0);
}

/* The handler knows only now that such a client is not waited for. */
static int handle_wait_unless_finished(struct http_request *request, void *userdata)
{
	http_half_close(request, false);
	return handle_wait(request, userdata);
}

TEST(http_session_handler_may_take_a_half_close_for_leaving)
{
	struct world world = { .service = { .half_close_finish = true } };

	run(&world, handle_wait_unless_finished, client_closes);
	EXPECT_EQ(world.handler_result, -ECANCELED);
	EXPECT_EQ(world.reason, EW_REASON_PEER);
	EXPECT_EQ(world.serve_result, -ECONNRESET);
}

static int handle_when_finished(struct http_request *request, void *userdata)
{
	struct world *world = userdata;

	ew_event_set(&world->started);
	EXPECT_EQ(ew_event_wait(&world->go, EW_NEVER), 0);
	http_half_close(request, false);
	world->handler_result = ew_sleep(60 * EW_SECOND);
	return world->handler_result;
}

static int client_has_finished_before(struct world *world)
{
	say(world->socket, GET);
	EXPECT_EQ(ew_event_wait(&world->started, EW_NEVER), 0);
	EXPECT_EQ(ew_socket_shutdown(world->socket, SHUT_WR), 0);
	EXPECT_EQ(ew_sleep(20 * EW_MILLISECOND), 0);
	ew_event_set(&world->go);
	return 0;
}

TEST(http_session_handler_hears_of_a_half_close_that_came_before)
{
	struct world world = { .service = { .half_close_finish = true } };

	run(&world, handle_when_finished, client_has_finished_before);
	EXPECT_EQ(world.handler_result, -ECANCELED);
	EXPECT_EQ(world.serve_result, -ECONNRESET);
}

TEST(http_session_reset_with_finish_cancels_all_the_same)
{
	struct world world = { .service = { .half_close_finish = true } };

	run(&world, handle_wait, client_resets);
	EXPECT_EQ(world.handler_result, -ECANCELED);
}

static int client_cuts_body(struct world *world)
{
	say(world->socket, "PUT /cut HTTP/1.1\r\n" HEAD "Content-Length: 10\r\n\r\nhello");
	EXPECT_EQ(ew_socket_shutdown(world->socket, SHUT_WR), 0);
	EXPECT_STR(hear_end(world->socket), "");
	return 0;
}

TEST(http_session_body_cut_short_is_an_error_and_gets_no_answer)
{
	struct world world = {}, finishing = { .service = { .half_close_finish = true } };

	run(&world, handle_sink, client_cuts_body);
	EXPECT(world.handler_result == -ECANCELED || world.handler_result == -ECONNRESET);
	EXPECT_EQ(world.serve_result, -ECONNRESET);
	run(&finishing, handle_sink, client_cuts_body);
	EXPECT_EQ(finishing.handler_result, -ECONNRESET);
	EXPECT_EQ(finishing.handled, 0);
}

static int client_half_header(struct world *world)
{
	char *text;

	(void)!ew_socket_send(world->socket, "GET / HTTP/1.1\r\nHo", 18);
	text = hear_end(world->socket);
	world->as_expected = !strncmp(text, "HTTP/1.1 408 Request Timeout\r\n", 30) &&
			     strstr(text, "urn:endwell:problem:too-slow") &&
			     world->refused_status == 408;
	return 0;
}

/*
 * A timeout that is short for a test's sake may be over before the client has said a word, where the machine stands
 * still for that long. What is true of it is true of a longer one, so there is another try.
 */
static void expect_with_header_timeout(int64_t timeout_ns, int (*client)(struct world *world))
{
	bool as_expected = false;

	for (; !as_expected && timeout_ns < PATIENCE_MAX; timeout_ns *= 10) {
		struct world world = { .service = { .header_timeout_ns = timeout_ns } };

		run(&world, handle_sink, client);
		as_expected = world.as_expected;
	}
	EXPECT(as_expected);
}

TEST(http_session_head_that_does_not_end_is_timed_out)
{
	expect_with_header_timeout(50 * EW_MILLISECOND, client_half_header);
}

static int client_trickles_header(struct world *world)
{
	int64_t pause_ns = world->service.header_timeout_ns / 20;

	for (int i = 0; i < 200 && !world->refused_status; i++) {
		if (ew_socket_send(world->socket, i == 0 ? "GET / HTTP/1.1\r\nX: " : "y",
				   i == 0 ? 19 : 1) < 0)
			break;
		EXPECT_EQ(ew_sleep(pause_ns), 0);
	}
	world->as_expected = world->refused_status == 408;
	return 0;
}

/* A byte now and then does not make the head's deadline any later. */
TEST(http_session_trickled_head_is_timed_out_as_a_whole)
{
	expect_with_header_timeout(100 * EW_MILLISECOND, client_trickles_header);
}

static int client_idle(struct world *world)
{
	say(world->socket, GET);
	EXPECT_EQ(count(hear_end(world->socket), "HTTP/1.1"), 1);
	return 0;
}

TEST(http_session_idle_connection_is_closed_in_silence)
{
	struct world world = { .service = { .idle_timeout_ns = 50 * EW_MILLISECOND } };

	run(&world, handle_sink, client_idle);
	EXPECT_EQ(world.serve_result, 0);
	EXPECT_EQ(world.refused_status, 0);
}

static int client_silent_body(struct world *world)
{
	say(world->socket, "PUT / HTTP/1.1\r\n" HEAD "Content-Length: 100000\r\n\r\nhello");
	EXPECT(!strncmp(hear_end(world->socket), "HTTP/1.1 408 ", 13));
	return 0;
}

TEST(http_session_silent_body_is_timed_out)
{
	struct world world = { .service = { .body_timeout_ns = 50 * EW_MILLISECOND } };

	run(&world, handle_sink, client_silent_body);
	EXPECT_EQ(world.handler_result, -ETIMEDOUT);
}

static int client_trickles_body(struct world *world)
{
	say(world->socket, "PUT / HTTP/1.1\r\n" HEAD "Content-Length: 100000\r\n\r\n");
	for (int i = 0; i < 400 && !world->refused_status; i++) {
		if (ew_socket_send(world->socket, "x", 1) < 0)
			break;
		EXPECT_EQ(ew_sleep(5 * EW_MILLISECOND), 0);
	}
	EXPECT_EQ(world->refused_status, 408);
	return 0;
}

/* Never silent for long, but 200 bytes a second where 10,000 are asked for. */
TEST(http_session_body_below_the_minimum_rate_is_timed_out)
{
	struct world world = { .service = { .rate_grace_ns = 100 * EW_MILLISECOND,
					    .rate_bytes_per_s = 10000 } };

	run(&world, handle_sink, client_trickles_body);
	EXPECT_EQ(world.handler_result, -ETIMEDOUT);
}

static int client_steady_body(struct world *world)
{
	static const char data[100];

	say(world->socket, "PUT / HTTP/1.1\r\n" HEAD "Content-Length: 5000\r\n\r\n");
	EXPECT_EQ(ew_event_wait(&world->started, EW_NEVER), 0);
	for (int i = 0; i < 50; i++) {
		say_bytes(world->socket, data, sizeof(data));
		ew_event_set(&world->go);
		EXPECT_EQ(ew_sleep(5 * EW_MILLISECOND), 0);
	}
	hear(world->socket, "/ 5000\n", 1);
	return 0;
}

/* Begins to read when there is something, so that the grace is not the machine's to use up. */
static int handle_when_told(struct http_request *request, void *userdata)
{
	struct world *world = userdata;
	int r;

	ew_event_set(&world->started);
	r = ew_event_wait(&world->go, EW_NEVER);
	return r < 0 ? r : handle_sink(request, userdata);
}

/* Longer than the grace, but above the rate: a hundred bytes are good for as long as a body may be silent. */
TEST(http_session_body_above_the_minimum_rate_may_take_its_time)
{
	struct world world = { .service = { .rate_grace_ns = 100 * EW_MILLISECOND,
					    .rate_bytes_per_s = 1 } };

	run(&world, handle_when_told, client_steady_body);
	EXPECT_EQ(world.handled, 1);
}

/* By twice the grace. */
static int handle_late(struct http_request *request, void *userdata)
{
	struct world *world = userdata;
	int r = ew_sleep(2 * world->service.rate_grace_ns);

	return r < 0 ? r : handle_sink(request, userdata);
}

static int client_waits_for_server(struct world *world)
{
	say(world->socket, "PUT / HTTP/1.1\r\n" HEAD "Connection: close\r\n"
			   "Expect: 100-continue\r\nContent-Length: 5\r\n\r\n");
	hear(world->socket, "100 Continue\r\n\r\n", 1);
	say(world->socket, "hello");
	world->as_expected = strstr(hear_end(world->socket), "/ 5\n");
	return 0;
}

/* A handler that is late itself does not use up the client's time. */
TEST(http_session_time_that_the_handler_takes_does_not_count)
{
	int64_t grace_ns = 100 * EW_MILLISECOND;
	bool as_expected = false;

	/* With more time, where the machine stands still for as long as the client has. */
	for (; !as_expected && grace_ns < PATIENCE_MAX / 10; grace_ns *= 10) {
		struct world world = { .service = { .rate_grace_ns = grace_ns,
						    .body_timeout_ns = grace_ns * 3 / 2 } };

		run(&world, handle_late, client_waits_for_server);
		as_expected = world.as_expected;
	}
	EXPECT(as_expected);
}

static int client_body_too_large(struct world *world)
{
	char *text;

	say(world->socket, "PUT / HTTP/1.1\r\n" HEAD "Content-Length: 11\r\n\r\nhello world");
	text = hear_end(world->socket);
	EXPECT(!strncmp(text, "HTTP/1.1 413 ", 13));
	EXPECT(strstr(text, "urn:endwell:problem:too-large"));
	return 0;
}

static int client_chunked_too_large(struct world *world)
{
	say(world->socket,
	    "PUT / HTTP/1.1\r\n" HEAD "Transfer-Encoding: chunked\r\n\r\n8\r\n12345678\r\n3\r\n");
	say(world->socket, "901\r\n0\r\n\r\n");
	EXPECT(!strncmp(hear_end(world->socket), "HTTP/1.1 413 ", 13));
	return 0;
}

TEST(http_session_body_over_the_limit_is_413_declared_or_not)
{
	struct world declared = { .service = { .body_bytes_max = 10 } };
	struct world chunked = { .service = { .body_bytes_max = 10 } };

	run(&declared, handle_sink, client_body_too_large);
	EXPECT_EQ(declared.handler_result, -EFBIG);
	EXPECT_EQ(declared.body_bytes, 0);
	run(&chunked, handle_sink, client_chunked_too_large);
	EXPECT_EQ(chunked.handler_result, -EFBIG);
	EXPECT_EQ(chunked.body_bytes, 8);
}

static int client_bad_chunk(struct world *world)
{
	char *text;

	say(world->socket,
	    "PUT / HTTP/1.1\r\n" HEAD "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nxyz\r\n");
	text = hear_end(world->socket);
	EXPECT(!strncmp(text, "HTTP/1.1 400 Bad Request\r\n", 26));
	EXPECT(strstr(text, "chunk 2: size is not a hexadecimal number"));
	return 0;
}

TEST(http_session_malformed_body_is_400_with_the_place)
{
	struct world world = {};

	run(&world, handle_sink, client_bad_chunk);
	EXPECT_EQ(world.handler_result, -EBADMSG);
	EXPECT_EQ(world.refused_status, 400);
	EXPECT_STR(world.refused_reason, "chunk 2: size is not a hexadecimal number");
}

static int handle_nothing(struct http_request *request, void *userdata)
{
	(void)request;
	(void)userdata;
	return -EIO;
}

static int client_unanswered(struct world *world)
{
	say(world->socket, GET);
	EXPECT(!strncmp(hear_end(world->socket), "HTTP/1.1 500 Internal Server Error\r\n", 36));
	return 0;
}

TEST(http_session_handler_that_does_not_respond_is_500)
{
	struct world world = {};

	run(&world, handle_nothing, client_unanswered);
	EXPECT_EQ(world.refused_status, 500);
}

/* The name that the client has given itself, if that was read. */
static void add_name(void *userdata, const struct http_head *head, struct http_extras *extras)
{
	const struct http_slice *name = http_head_find(head, "X-Name");

	(void)userdata;
	snprintf(extras->text, sizeof(extras->text), "%.*s", name ? (int)name->len : 0,
		 name ? name->data : "");
	extras->fields[0] = (struct http_field){ "X-Extra", "1" };
	extras->fields[1] = (struct http_field){ "X-Name", name ? extras->text : "nobody" };
}

#define NAMED(name) HEAD "X-Name: " name "\r\n"

/* Answers of the handler, in pieces and of the session's own, and the name of the one before is not the next one's. */
static int client_extras(struct world *world)
{
	char *text;

	say(world->socket, "GET /pieces HTTP/1.1\r\n" NAMED("one") "\r\n");
	text = hear(world->socket, "0\r\n\r\n", 1);
	EXPECT(strstr(text, "\r\nX-Own: yes\r\nX-Extra: 1\r\nX-Name: one\r\n"));
	say(world->socket, "GET /silent HTTP/1.1\r\n" NAMED("two") "\r\n");
	text = hear_end(world->socket);
	EXPECT(!strncmp(text, "HTTP/1.1 500 ", 13));
	EXPECT(strstr(text, "\r\nX-Extra: 1\r\nX-Name: two\r\n"));
	return 0;
}

static int client_extras_of_no_request(struct world *world)
{
	char *text;

	say(world->socket, "GET / HTTP/1.1\r\n" NAMED("one") "\r\n");
	text = hear(world->socket, "0\r\n\r\n", 1);
	EXPECT(strstr(text, "\r\nX-Name: one\r\n"));
	say(world->socket, "no request\r\n\r\n");
	text = hear_end(world->socket);
	EXPECT(!strncmp(text, "HTTP/1.1 400 ", 13));
	EXPECT(strstr(text, "\r\nX-Extra: 1\r\nX-Name: nobody\r\n"));
	return 0;
}

static int client_extras_of_half_a_head(struct world *world)
{
	char *text;

	say(world->socket, "GET / HTTP/1.1\r\n" NAMED("one") "X Bad: 1\r\n\r\n");
	text = hear_end(world->socket);
	EXPECT(!strncmp(text, "HTTP/1.1 400 ", 13));
	EXPECT(strstr(text, "\r\nX-Extra: 1\r\nX-Name: one\r\n"));
	return 0;
}

static int handle_extras(struct http_request *request, void *userdata)
{
	const struct http_field fields[] = { { "X-Own", "yes" }, {} };

	(void)userdata;
	if (http_slice_equal(request->head->path, "/silent"))
		return 0;
	EXPECT_EQ(http_respond_begin(request, 200, NULL, fields), 0);
	EXPECT_EQ(http_respond_piece(request, "x", 1), 0);
	return http_respond_end(request);
}

TEST(http_session_adds_the_services_fields_to_each_answer_its_own_included)
{
	int (*const clients[])(struct world *) = { client_extras, client_extras_of_no_request,
						   client_extras_of_half_a_head };

	for (size_t i = 0; i < sizeof(clients) / sizeof(clients[0]); i++) {
		struct world world = { .service = { .extras = add_name } };

		run(&world, handle_extras, clients[i]);
		EXPECT_EQ(world.serve_result, 0);
	}
}

/* Two pieces, an empty one that is none, and no more behind the end. */
static int handle_pieces(struct http_request *request, void *userdata)
{
	struct world *world = userdata;

	EXPECT_EQ(http_respond_piece(request, "x", 1), -ESHUTDOWN);
	EXPECT_EQ(http_respond_begin(request, 204, NULL, NULL), -EINVAL);
	EXPECT_EQ(http_respond_begin(request, 200, "text/plain", NULL), 0);
	EXPECT_EQ(http_respond_begin(request, 200, NULL, NULL), -EALREADY);
	EXPECT_EQ(http_respond(request, 200, NULL, NULL, "x", 1), -EALREADY);
	EXPECT_EQ(http_respond_piece(request, "first ", 6), 0);
	EXPECT_EQ(http_respond_piece(request, "", 0), 0);
	EXPECT_EQ(http_respond_piece(request, "second, longer\n", 15), 0);
	EXPECT_EQ(http_respond_end(request), 0);
	EXPECT_EQ(http_respond_end(request), -ESHUTDOWN);
	EXPECT_EQ(http_respond_piece(request, "x", 1), -ESHUTDOWN);
	world->handled++;
	return 0;
}

static int client_pieces(struct world *world)
{
	char *text;

	say(world->socket, GET "HEAD /2 HTTP/1.1\r\n" HEAD "\r\n"
			       "GET /3 HTTP/1.1\r\n" HEAD "Connection: close\r\n\r\n");
	text = hear_end(world->socket);
	EXPECT_EQ(count(text, "\r\nTransfer-Encoding: chunked\r\n"), 3);
	EXPECT_EQ(count(text, "Content-Length"), 0);
	EXPECT_EQ(count(text, "\r\n\r\n6\r\nfirst \r\nf\r\nsecond, longer\n\r\n0\r\n\r\n"), 2);
	EXPECT(strstr(text, "\r\n\r\nHTTP/1.1 200 OK"));
	return 0;
}

TEST(http_session_answer_in_pieces_is_chunked_and_the_connection_goes_on)
{
	struct world world = {};

	run(&world, handle_pieces, client_pieces);
	EXPECT_EQ(world.handled, 3);
	EXPECT_EQ(world.serve_result, 0);
}

static int client_pieces_old(struct world *world)
{
	char *text;

	say(world->socket, "GET / HTTP/1.0\r\n\r\n");
	text = hear_end(world->socket);
	EXPECT(strstr(text, "\r\nConnection: close\r\n"));
	EXPECT(!strstr(text, "Transfer-Encoding"));
	EXPECT(strstr(text, "\r\n\r\nfirst second, longer\n"));
	return 0;
}

TEST(http_session_answer_in_pieces_ends_with_the_connection_for_an_old_client)
{
	struct world world = {};

	run(&world, handle_pieces, client_pieces_old);
}

static int handle_cancelled_answer(struct http_request *request, void *userdata)
{
	(void)userdata;
	EXPECT_EQ(http_respond_begin(request, 200, "text/plain", NULL), 0);
	{
		EW_SCOPE(scope);

		ew_scope_cancel(&scope, EW_REASON_REQUESTED);
		EXPECT_EQ(http_respond_piece(request, "no", 2), -ECANCELED);
		EXPECT_EQ(http_respond_end(request), -ECANCELED);

		EW_SHIELD(shield, .budget_ns = PATIENCE_MAX);

		EXPECT_EQ(http_respond_piece(request, "last word", 9), 0);
	}
	return http_respond_end(request);
}

static int client_cancelled_answer(struct world *world)
{
	say(world->socket, "GET / HTTP/1.1\r\n" HEAD "Connection: close\r\n\r\n");
	EXPECT(strstr(hear_end(world->socket), "\r\n\r\n9\r\nlast word\r\n0\r\n\r\n"));
	return 0;
}

/* Nothing of a piece has gone out that a cancel forestalls, so a last word may follow from a shield. */
TEST(http_session_answer_in_pieces_is_not_cut_by_a_cancel_between_them)
{
	struct world world = {};

	run(&world, handle_cancelled_answer, client_cancelled_answer);
	EXPECT_EQ(world.serve_result, 0);
}

static int handle_half_an_answer(struct http_request *request, void *userdata)
{
	(void)userdata;
	EXPECT_EQ(http_respond_begin(request, 200, "text/plain", NULL), 0);
	return http_respond_piece(request, "half", 4);
}

static int client_half_an_answer(struct world *world)
{
	char *text;

	say(world->socket, GET GET);
	text = hear_end(world->socket);
	EXPECT_EQ(count(text, "HTTP/1.1 200 OK"), 1);
	EXPECT(strstr(text, "4\r\nhalf\r\n"));
	EXPECT(!strstr(text, "0\r\n\r\n"));
	return 0;
}

/* Nothing that comes behind it could be told from the answer. */
TEST(http_session_answer_that_is_not_ended_cuts_the_connection)
{
	struct world world = {};

	run(&world, handle_half_an_answer, client_half_an_answer);
	EXPECT_EQ(world.serve_result, -ECONNRESET);
}

static int handle_split(struct http_request *request, void *userdata)
{
	const struct http_field fields[] = { { "X-Name", "a\r\nSet-Cookie: b" }, {} };

	(void)userdata;
	EXPECT_EQ(http_respond(request, 200, NULL, fields, NULL, 0), -EINVAL);
	EXPECT_EQ(request->status, 0);
	return -EINVAL;
}

TEST(http_session_field_with_a_line_break_is_not_sent)
{
	struct world world = {};

	run(&world, handle_split, client_unanswered);
}

static int client_drains(struct world *world)
{
	EW_OWN(ew_socket, idle);

	dial(world, &idle);
	say(idle, "GET /idle HTTP/1.1\r\n" HEAD "\r\n");
	EXPECT_EQ(ew_event_wait(&world->started, EW_NEVER), 0);
	ew_event_set(&world->go);
	hear(idle, "\r\n\r\n", 1);
	ew_event_reset(&world->go);
	ew_event_reset(&world->started);

	say(world->socket, GET);
	EXPECT_EQ(ew_event_wait(&world->started, EW_NEVER), 0);
	http_service_drain(&world->service);
	EXPECT_STR(hear_end(idle), "");
	ew_event_set(&world->go);
	EXPECT(strstr(hear_end(world->socket), "HTTP/1.1 204 No Content\r\n"));
	EXPECT_EQ(world->handled, 2);
	return ew_close(&idle);
}

/* The idle connection ends at once, the busy one with its response. */
TEST(http_session_drain_ends_connections_between_requests)
{
	struct world world = {};

	run(&world, handle_wait, client_drains);
	EXPECT_EQ(world.serve_result, 0);
}

#define CROWD 300

static int client_crowd(struct world *world)
{
	struct ew_socket *crowd[CROWD] = {};

	for (int i = 0; i < CROWD; i++) {
		dial(world, &crowd[i]);
		say(crowd[i], "PUT /crowd HTTP/1.1\r\n" HEAD "Content-Length: 10\r\n\r\nhello");
	}
	while (world->handled < CROWD)
		EXPECT_EQ(ew_sleep(EW_MILLISECOND), 0);
	/* All handlers wait with half a body behind them; this one is served in between. */
	ew_event_set(&world->go);
	for (int i = 0; i < CROWD; i++) {
		say(crowd[i], "world");
		EXPECT(strstr(hear(crowd[i], "\r\n\r\n", 1), "HTTP/1.1 204"));
		EXPECT_EQ(ew_close(&crowd[i]), 0);
	}
	return 0;
}

static int handle_crowd(struct http_request *request, void *userdata)
{
	struct world *world = userdata;
	const char *data;
	int n;

	world->handled++;
	n = ew_event_wait(&world->go, EW_NEVER);
	while (n == 0 && request->body_bytes < 10) {
		n = http_body_read(request, &data);
		if (n > 0)
			n = 0;
	}
	return n < 0 ? n : http_respond(request, 204, NULL, NULL, NULL, 0);
}

/* Many more handlers wait, each with body bytes unread, than the worker has buffers. */
TEST(http_session_waiting_handlers_hold_no_buffer_of_the_worker)
{
	struct world world = {};

	run(&world, handle_crowd, client_crowd);
	EXPECT_EQ(world.handled, CROWD);
}

static int handle_panic(struct http_request *request, void *userdata)
{
	struct world *world = userdata;
	const char *data;
	int n;

	if (world->handled++ > 0)
		return http_respond(request, 204, NULL, NULL, NULL, 0);
	n = http_body_read(request, &data);
	ew_event_set(&world->started);
	world->served++;
	ew_panic("on purpose, after %d bytes", n);
}

static int client_panic(struct world *world)
{
	EW_OWN(ew_socket, other);

	say(world->socket, "PUT / HTTP/1.1\r\n" HEAD "Content-Length: 10\r\n\r\nhello");
	EXPECT_EQ(ew_event_wait(&world->started, EW_NEVER), 0);
	for (int n = 1; n > 0;) {
		char byte;

		n = ew_socket_recv(world->socket, &byte, 1);
	}
	dial(world, &other);
	say(other, GET);
	EXPECT(strstr(hear(other, "\r\n\r\n", 1), "HTTP/1.1 204"));
	return ew_close(&other);
}

/* One connection ends, with its memory (the leak check sees to that); the next is served. */
TEST(http_session_panicking_handler_ends_only_its_connection)
{
	struct world world = {};

	run(&world, handle_panic, client_panic);
	EXPECT_EQ(world.handled, 2);
}

static const struct malformed_case *current;

static int client_table(struct world *world)
{
	const struct malformed_case *one = current;
	char status[24], *text, *last = NULL;

	/* The server may refuse and close before all of it is sent. */
	(void)!ew_socket_send(world->socket, one->bytes, one->len);
	if (!one->status)
		EXPECT_EQ(ew_socket_shutdown(world->socket, SHUT_WR), 0);
	text = hear_end(world->socket);
	if (!one->status) {
		if (count(text, "HTTP/1.1 200") != world->handled ||
		    count(text, "HTTP/1.1 ") != world->handled)
			ew_test_fail(__FILE__, __LINE__, "%s: %u handled, \"%s\"", one->name,
				     world->handled, text);
		return 0;
	}
	for (char *at = text; (at = strstr(at, "HTTP/1.1 ")); at++)
		last = at;
	snprintf(status, sizeof(status), "HTTP/1.1 %d ", one->status);
	if (!last || strncmp(last, status, strlen(status)) ||
	    !strstr(last, "\r\nConnection: close\r\n") ||
	    !strstr(last, "\"type\": \"urn:endwell:problem:"))
		ew_test_fail(__FILE__, __LINE__, "%s: not %d but \"%.300s\"", one->name,
			     one->status, text);
	return 0;
}

/* Each request of the table over a real connection: the right answer, a problem report, and then the end. */
TEST(http_session_table_over_a_connection_is_answered_as_listed)
{
	size_t cases_count;
	struct malformed_case *cases = malformed_load(MALFORMED_TABLE, &cases_count);

	for (size_t i = 0; i < cases_count; i++) {
		struct world world = { .service = { .half_close_finish = true } };

		current = &cases[i];
		run(&world, handle_sink, client_table);
		if (!current->status && !current->more && world.handled != current->messages)
			ew_test_fail(__FILE__, __LINE__, "%s: %u handled", current->name,
				     world.handled);
	}
}

static const char cut_request[] = "PUT /cut HTTP/1.1\r\n" HEAD "Transfer-Encoding: chunked\r\n\r\n"
				  "5\r\nhello\r\n0\r\nX: y\r\n\r\n";

static int client_cut_everywhere(struct world *world)
{
	for (size_t len = 0; len < sizeof(cut_request) - 1; len++) {
		EW_OWN(ew_socket, socket);
		unsigned int before = world->served;

		dial(world, &socket);
		if (len > 0)
			say_bytes(socket, cut_request, len);
		if (len % 2)
			EXPECT_EQ(ew_socket_shutdown(socket, SHUT_WR), 0);
		else
			EXPECT_EQ(ew_close(&socket), 0);
		while (world->served == before)
			EXPECT_EQ(ew_sleep(EW_MILLISECOND), 0);
		if (socket) {
			EXPECT_STR(hear_end(socket), "");
			EXPECT_EQ(ew_close(&socket), 0);
		}
	}
	return 0;
}

/* The client goes after every byte of a good request: no handler ever sees a whole body, and none is left waiting. */
TEST(http_session_close_at_every_byte_is_never_a_request)
{
	struct world world = {};

	run(&world, handle_sink, client_cut_everywhere);
	EXPECT_EQ(world.handled, 0);
	EXPECT_EQ(world.served, sizeof(cut_request) - 1 + 1);
}

TEST_MAIN()
