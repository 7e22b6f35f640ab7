/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Fuzzes the HTTP session on the real runtime: any bytes, sent over a connection to a server task.
 *
 * The parser by itself says what to expect: one 200 for each message that it completes, with all of its
 * body seen by the handler, then, if it refuses something, one answer with that status, then the end.
 * Nothing may hang, leak, or answer twice.
 */

#include "parser.h"
#include "session.h"

#include <endwell/clock.h>
#include <endwell/resource.h>
#include <endwell/run.h>
#include <endwell/task.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REQUIRE(condition)                                                                         \
	do {                                                                                       \
		if (!(condition))                                                                  \
			abort();                                                                   \
	} while (0)

/* Keeps the reads of body bytes, which the address sanitizer checks. */
static volatile unsigned int bytes_seen;

#define RESPONSES_BYTES_MAX (1 << 20)

struct exchange {
	const uint8_t *data;
	size_t size;
	struct http_service service;
	unsigned int expected_messages;
	uint64_t expected_body_bytes;
	int expected_status; /* 0: nothing is refused */
	unsigned int handled;
	uint64_t body_bytes;
	size_t text_len;
	char text[RESPONSES_BYTES_MAX];
};

static void predict(struct exchange *exchange)
{
	struct http_parser *parser = malloc(sizeof(*parser));
	enum http_event event;
	size_t at = 0, n;

	REQUIRE(parser);
	http_parser_init(parser);
	do {
		event = http_parser_feed(parser, exchange->data + at, exchange->size - at, &n);
		at += n;
		if (event == HTTP_EVENT_END) {
			exchange->expected_messages++;
			exchange->expected_body_bytes += parser->body_bytes;
		}
	} while (event != HTTP_EVENT_MORE && event != HTTP_EVENT_BAD);
	exchange->expected_status = event == HTTP_EVENT_BAD ? parser->status : 0;
	free(parser);
}

static int handle(struct http_request *request, void *userdata)
{
	struct exchange *exchange = userdata;
	const char *data;
	int n;

	while ((n = http_body_read(request, &data)) > 0)
		bytes_seen = bytes_seen + (uint8_t)data[0] + (uint8_t)data[n - 1];
	if (n < 0)
		return n;
	exchange->handled++;
	exchange->body_bytes += (uint64_t)request->body_bytes;
	return http_respond(request, 200, NULL, NULL, "yes", 3);
}

static int serve_task(void *argument, void *place)
{
	struct exchange *exchange = argument;

	return http_session_serve(&exchange->service, place);
}

static int main_task(void *argument)
{
	struct exchange *exchange = argument;
	int fds[2], r, n;

	EW_OWN(ew_socket, client);
	EW_OWN(ew_socket, server);
	EW_SCOPE(scope, .deadline_ns = ew_after(20 * EW_SECOND), .policy = EW_POLICY_INDEPENDENT);

	REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
	REQUIRE(ew_socket_adopt(fds[0], &client) == 0);
	REQUIRE(ew_socket_adopt(fds[1], &server) == 0);
	REQUIRE(ew_spawn_take(&scope, serve_task, exchange, &server) == 0);

	/* In two pieces, cut where the input says. The server may have refused the first one. */
	n = exchange->size > 1 ? (int)(exchange->data[exchange->size / 2] % exchange->size) : 0;
	r = n > 0 ? ew_socket_send(client, exchange->data, (size_t)n) : 0;
	if (r == 0)
		r = ew_yield();
	if (r == 0 && exchange->size > 0)
		r = ew_socket_send(client, exchange->data + n, exchange->size - (size_t)n);
	if (r == 0)
		ew_socket_shutdown(client, SHUT_WR);
	while (exchange->text_len < RESPONSES_BYTES_MAX - 1 &&
	       (n = ew_socket_recv(client, exchange->text + exchange->text_len,
				   RESPONSES_BYTES_MAX - 1 - exchange->text_len)) > 0)
		exchange->text_len += (size_t)n;
	r = ew_close(&client);
	REQUIRE(r == 0);
	return ew_scope_finish(&scope, 0);
}

static unsigned int count(const char *text, const char *what)
{
	unsigned int found = 0;

	for (; (text = strstr(text, what)); text++)
		found++;
	return found;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct ew_run_options options = { .workers_count = 1 };
	struct exchange *exchange = malloc(sizeof(*exchange));
	char status[16];

	REQUIRE(exchange);
	memset(exchange, 0, offsetof(struct exchange, text));
	exchange->data = data;
	exchange->size = size;
	exchange->service = (struct http_service){
		.handler = handle,
		.userdata = exchange,
		.half_close_finish = true,
	};
	http_service_init(&exchange->service);
	predict(exchange);
	REQUIRE(ew_run(&options, main_task, exchange) == 0);
	exchange->text[exchange->text_len] = 0;

	REQUIRE(exchange->handled == exchange->expected_messages);
	REQUIRE(exchange->body_bytes == exchange->expected_body_bytes);
	REQUIRE(count(exchange->text, "HTTP/1.1 200 OK\r\n") == exchange->expected_messages);
	if (exchange->expected_status) {
		snprintf(status, sizeof(status), "HTTP/1.1 %d ", exchange->expected_status);
		REQUIRE(count(exchange->text, status) == 1);
		REQUIRE(count(exchange->text, "urn:endwell:problem:") == 1);
	}
	REQUIRE(count(exchange->text, "HTTP/1.1 ") -
			count(exchange->text, "HTTP/1.1 100 Continue") ==
		exchange->expected_messages + (exchange->expected_status ? 1 : 0));
	free(exchange);
	return 0;
}
