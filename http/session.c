/* SPDX-License-Identifier: Apache-2.0 */

/*
 * One task per connection reads a head, runs the handler, reads the next head. Three things are worth
 * knowing before reading on.
 *
 * The client's leaving is a cancel. Each connection has a scope, and while a handler runs the socket
 * watches for a hangup on that scope's behalf, whether or not anybody is reading. The handler needs no
 * code for it, and the session need not know what the handler was waiting for. The scope holds all that
 * the connection does, its own end included, so that the worker knows it for one that is leaving.
 *
 * Buffers are lent. Received bytes arrive in a buffer of the worker, of which there are few, so none is
 * held while the session cannot know how long it will be: when a handler starts, when it works on a
 * piece of body (its disk may stall), when a response goes out, what is unread is copied first and the
 * buffer goes back.
 *
 * A last response must arrive. Closing a socket with unread input makes the kernel send a reset, which
 * may overtake the response in the client's kernel. So the session first says that it will send no
 * more, and then reads and drops what comes, for a while, until the client has closed.
 */

#include "session.h"

#include "parser.h"

#include <endwell/clock.h>
#include <endwell/resource.h>

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Chunks of less than a quarter of this are copied together. */
#define GATHER_BYTES 4096

/* A chunk's size in hexadecimal digits, and two line ends. */
#define CHUNK_FRAME_BYTES (2 * sizeof(size_t) + 5)

struct http_session {
	struct http_service *service;
	struct ew_socket *socket; /* owned by the place that http_session_serve() was given */
	struct ew_scope *scope;	  /* the connection's; a hangup cancels it */
	struct http_session *idle_next;
	struct http_session **idle_link; /* NULL: not between requests */
	struct ew_scope *idle_scope;
	const char *input; /* received, not yet parsed: in the worker's buffer, or in @own */
	size_t input_len;
	char *own;
	char *gathered;		/* small chunks copied together */
	struct http_slice held; /* a piece that did not fit behind them */
	char *output;		/* the response that is being sent */
	size_t output_len;
	int64_t patience_ns; /* how long the client may still stay silent without falling behind the minimum rate */
	bool lent;
	bool closing; /* the last response has been sent */
	bool broken;  /* a response was cut: nothing can be said any more */
	struct http_parser parser;
};

static int64_t least(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

static void or_default(int64_t *value, int64_t otherwise)
{
	if (*value == 0)
		*value = otherwise;
}

void http_service_init(struct http_service *service)
{
	or_default(&service->header_timeout_ns, 20 * EW_SECOND);
	or_default(&service->idle_timeout_ns, 60 * EW_SECOND);
	or_default(&service->body_timeout_ns, 60 * EW_SECOND);
	or_default(&service->rate_grace_ns, 10 * EW_SECOND);
	or_default(&service->rate_bytes_per_s, 1024);
	or_default(&service->send_timeout_ns, 60 * EW_SECOND);
	or_default(&service->dead_link_ns, 60 * EW_SECOND);
	or_default(&service->linger_ns, 10 * EW_SECOND);
	or_default(&service->linger_bytes_max, INT64_C(1) << 30);
	or_default(&service->body_bytes_max, INT64_MAX);
	service->draining = false;
	service->idle = NULL;
}

static void idle_enter(struct http_session *session, struct ew_scope *scope)
{
	struct http_service *service = session->service;

	session->idle_scope = scope;
	session->idle_next = service->idle;
	session->idle_link = &service->idle;
	if (service->idle)
		service->idle->idle_link = &session->idle_next;
	service->idle = session;
}

static void idle_leave(struct http_session *session)
{
	if (!session->idle_link)
		return;
	*session->idle_link = session->idle_next;
	if (session->idle_next)
		session->idle_next->idle_link = session->idle_link;
	session->idle_link = NULL;
}

void http_service_drain(struct http_service *service)
{
	service->draining = true;
	for (struct http_session *session = service->idle; session; session = session->idle_next)
		ew_scope_cancel(session->idle_scope, EW_REASON_SHUTDOWN);
}

static void session_abort(void *argument)
{
	struct http_session *session = argument;

	idle_leave(session);
	free(session->own);
	free(session->gathered);
	free(session->output);
	free(session);
}

static int session_close(void *argument)
{
	session_abort(argument);
	return 0;
}

/*
 * A client whose machine or network has gone says nothing. So one that is silent is asked, from the half of its time on and
 * four times until it is over; what it does not acknowledge has the same time. Then the kernel hangs up, which is seen like
 * any other hangup. None of this is needed to be right.
 */
static void tune(int fd, int64_t dead_link_ns)
{
	int seconds = (int)(dead_link_ns / EW_SECOND);
	const struct {
		int level;
		int name;
		int value;
	} options[] = {
		{ IPPROTO_TCP, TCP_NODELAY, 1 },
		{ SOL_SOCKET, SO_KEEPALIVE, 1 },
		{ IPPROTO_TCP, TCP_KEEPIDLE, seconds / 2 },
		{ IPPROTO_TCP, TCP_KEEPINTVL, seconds < 12 ? 1 : seconds / 6 },
		{ IPPROTO_TCP, TCP_USER_TIMEOUT, seconds * 1000 },
	};

	for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++)
		(void)setsockopt(fd, options[i].level, options[i].name, &options[i].value,
				 sizeof(options[i].value));
}

/* Gives the worker's buffer back, and keeps what is unread in memory of the session. */
static int keep_input(struct http_session *session)
{
	char *copy = NULL;

	if (!session->lent)
		return 0;
	if (session->input_len > 0) {
		copy = malloc(session->input_len);
		if (!copy)
			return -ENOMEM;
		memcpy(copy, session->input, session->input_len);
	}
	free(session->own);
	session->own = copy;
	session->input = copy ? copy : "";
	session->lent = false;
	ew_socket_release(session->socket);
	return 0;
}

/* Input that arrived is never lost, also when a cancel or a deadline arrives with it. */
static int receive(struct http_session *session)
{
	int n;

	if (session->lent)
		ew_socket_release(session->socket);
	free(session->own);
	session->own = NULL;
	session->input = "";
	session->input_len = 0;
	session->lent = false;
	n = ew_socket_receive(session->socket, &session->input);
	if (n > 0) {
		session->lent = true;
		session->input_len = (size_t)n;
	}
	return n;
}

static int fill(struct http_session *session, int64_t deadline_ns)
{
	EW_SCOPE(wait, .deadline_ns = deadline_ns);
	int n = receive(session);

	return n < 0 ? ew_scope_finish(&wait, n) : n;
}

static int fill_idle(struct http_session *session, int64_t deadline_ns)
{
	EW_SCOPE(wait, .deadline_ns = deadline_ns);
	int n;

	idle_enter(session, &wait);
	n = receive(session);
	idle_leave(session);
	return n < 0 ? ew_scope_finish(&wait, n) : n;
}

/*
 * Waits for more body. The time spent waiting comes out of the client's patience, each byte puts the
 * time back that it may take at the minimum rate: what the handler takes for itself costs nobody.
 */
static int fill_body(struct http_session *session)
{
	const struct http_service *service = session->service;
	int64_t began_ns = ew_now(), earned_ns;
	int r, n;

	n = fill(session, began_ns + least(session->patience_ns, service->body_timeout_ns));
	session->patience_ns -= ew_now() - began_ns;
	if (n <= 0)
		return n;
	earned_ns = n * EW_SECOND / service->rate_bytes_per_s;
	session->patience_ns = least(session->patience_ns + earned_ns, service->body_timeout_ns);
	r = keep_input(session);
	return r < 0 ? r : n;
}

static enum http_event step(struct http_session *session)
{
	enum http_event event;
	size_t n;

	event = http_parser_feed(&session->parser, session->input, session->input_len, &n);
	session->input += n;
	session->input_len -= n;
	return event;
}

static int send_all(struct http_session *session, const void *data, size_t len)
{
	EW_SCOPE(wait, .deadline_ns = ew_after(session->service->send_timeout_ns));
	int r = ew_socket_send(session->socket, data, len);

	if (r == 0)
		return 0;
	session->broken = true;
	return ew_scope_finish(&wait, r);
}

/* Head and body in one piece: two would wait for each other's acknowledgement. */
static int prepare(struct http_session *session, struct http_response_head *head, const void *body,
		   size_t body_len)
{
	const struct http_service *service = session->service;
	struct http_extras extras = {};
	int r;

	if (service->extras)
		service->extras(service->userdata, &session->parser.head, &extras);
	head->extras = extras.fields;
	free(session->output);
	session->output = malloc(HTTP_RESPONSE_HEAD_BYTES_MAX + body_len);
	if (!session->output)
		return -ENOMEM;
	r = http_response_format(head, session->output, HTTP_RESPONSE_HEAD_BYTES_MAX);
	if (r < 0)
		return r;
	if (body_len > 0)
		memcpy(session->output + r, body, body_len);
	session->output_len = (size_t)r + body_len;
	session->closing = head->close;
	return 0;
}

static int send_prepared(struct http_session *session)
{
	int r = send_all(session, session->output, session->output_len);

	free(session->output);
	session->output = NULL;
	return r;
}

/* Whether nothing of the body is left to come; the end of it may still wait in the parser. */
static bool body_has_ended(struct http_request *request)
{
	size_t n;

	if (!request->body_ended)
		request->body_ended =
			http_parser_feed(&request->session->parser, NULL, 0, &n) == HTTP_EVENT_END;
	return request->body_ended;
}

static int prepare_response(struct http_request *request, int status, const char *content_type,
			    const struct http_field *fields, enum http_framing framing,
			    const void *body, size_t body_len)
{
	struct http_session *session = request->session;
	bool without = request->head->method == HTTP_METHOD_HEAD || status == 204 || status == 304;
	struct http_response_head head = {
		.status = status,
		.unix_time_s = time(NULL),
		.content_type = content_type,
		.body_bytes = body_len,
		.framing = framing,
		.fields = fields,
		.close = framing == HTTP_FRAMING_CLOSE || !body_has_ended(request) ||
			 !request->head->keep_alive || session->service->draining,
	};
	int r;

	if (request->status)
		return -EALREADY;
	r = prepare(session, &head, body, without ? 0 : body_len);
	if (r == 0)
		request->status = status;
	return r;
}

int http_respond(struct http_request *request, int status, const char *content_type,
		 const struct http_field *fields, const void *body, size_t body_len)
{
	int r = prepare_response(request, status, content_type, fields, HTTP_FRAMING_LENGTH, body,
				 body_len);

	return r < 0 ? r : send_prepared(request->session);
}

int http_respond_begin(struct http_request *request, int status, const char *content_type,
		       const struct http_field *fields)
{
	bool chunked = request->head->version_minor > 0;
	int r;

	if (status == 204 || status == 304)
		return -EINVAL;
	r = prepare_response(request, status, content_type, fields,
			     chunked ? HTTP_FRAMING_CHUNKS : HTTP_FRAMING_CLOSE, NULL, 0);
	if (r < 0)
		return r;
	request->responding = true;
	request->chunked = chunked;
	return send_prepared(request->session);
}

/* Whoever is cancelled before a piece has begun has cut none, and may say a last one from a shield. */
static int may_respond_further(const struct http_request *request)
{
	if (!request->responding)
		return -ESHUTDOWN;
	if (request->session->broken)
		return -ECONNRESET;
	return ew_cancel_requested() ? -ECANCELED : 0;
}

/* A chunk in one piece, as everything else that is sent. */
static int prepare_piece(struct http_request *request, const void *data, size_t len)
{
	struct http_session *session = request->session;
	size_t at = 0;

	free(session->output);
	session->output = malloc(CHUNK_FRAME_BYTES + len);
	if (!session->output)
		return -ENOMEM;
	if (request->chunked)
		at = (size_t)snprintf(session->output, CHUNK_FRAME_BYTES, "%zx\r\n", len);
	memcpy(session->output + at, data, len);
	at += len;
	if (request->chunked) {
		memcpy(session->output + at, "\r\n", 2);
		at += 2;
	}
	session->output_len = at;
	return 0;
}

int http_respond_piece(struct http_request *request, const void *data, size_t len)
{
	int r = may_respond_further(request);

	/* A chunk without bytes would be the last one. */
	if (r < 0 || len == 0 || request->head->method == HTTP_METHOD_HEAD)
		return r;
	r = prepare_piece(request, data, len);
	return r < 0 ? r : send_prepared(request->session);
}

int http_respond_end(struct http_request *request)
{
	static const char last[] = "0\r\n\r\n";
	int r = may_respond_further(request);

	if (r < 0)
		return r;
	request->responding = false;
	if (!request->chunked || request->head->method == HTTP_METHOD_HEAD)
		return 0;
	return send_all(request->session, last, sizeof(last) - 1);
}

int http_respond_problem(struct http_request *request, const struct http_problem *problem)
{
	struct http_field fields[2] = {};
	char retry_after[16];
	size_t len;
	char *body;
	int r;

	if (problem->retry_after_seconds > 0) {
		snprintf(retry_after, sizeof(retry_after), "%d", problem->retry_after_seconds);
		fields[0] = (struct http_field){ "Retry-After", retry_after };
	}
	body = http_problem_format(problem, &len);
	if (!body)
		return -ENOMEM;
	r = prepare_response(request, problem->status, HTTP_PROBLEM_CONTENT_TYPE, fields,
			     HTTP_FRAMING_LENGTH, body, len);
	free(body);
	return r < 0 ? r : send_prepared(request->session);
}

/* An answer that no handler gave, and the connection's last. */
static int refuse(struct http_session *session, int status, const char *reason)
{
	const struct http_problem problem = http_problem_for_status(status, reason);
	struct http_response_head head = {
		.status = problem.status,
		.unix_time_s = time(NULL),
		.content_type = HTTP_PROBLEM_CONTENT_TYPE,
		.close = true,
	};
	size_t len;
	char *body;
	int r;

	if (session->service->refused)
		session->service->refused(session->service->userdata, status, reason);
	r = keep_input(session);
	if (r < 0)
		return r;
	body = http_problem_format(&problem, &len);
	if (!body)
		return -ENOMEM;
	head.body_bytes = len;
	r = prepare(session, &head, body, len);
	free(body);
	return r < 0 ? r : send_prepared(session);
}

static int send_continue(struct http_request *request)
{
	if (!request->head->expect_continue || request->continue_done)
		return 0;
	request->continue_done = true;
	return send_all(request->session, HTTP_RESPONSE_CONTINUE, strlen(HTTP_RESPONSE_CONTINUE));
}

/* Counts the bytes that the handler is about to get. */
static int count_body(struct http_request *request, size_t len)
{
	if ((int64_t)len > request->body_bytes_max - request->body_bytes)
		return -EFBIG;
	request->body_bytes += (int64_t)len;
	/* Input that has arrived makes waiting for permission pointless (RFC 9110 section 10.1.1). */
	request->continue_done = true;
	return (int)len;
}

/*
 * Copies small chunks together, as many as have arrived. Without it a sender of one-byte chunks would
 * buy a write to disk for six bytes.
 */
static int gather(struct http_request *request, const char **ret_data)
{
	struct http_session *session = request->session;
	const struct http_slice *piece = &session->parser.body;
	enum http_event event;
	size_t len = 0;

	do {
		memcpy(session->gathered + len, piece->data, piece->len);
		len += piece->len;
		event = step(session);
	} while (event == HTTP_EVENT_BODY && piece->len <= GATHER_BYTES - len);
	if (event == HTTP_EVENT_BODY)
		session->held = *piece;
	if (event == HTTP_EVENT_BAD)
		return -EBADMSG;
	request->body_ended = event == HTTP_EVENT_END;
	*ret_data = session->gathered;
	return count_body(request, len);
}

static int body_piece(struct http_request *request, const char **ret_data)
{
	struct http_session *session = request->session;
	const struct http_slice *piece = &session->parser.body;

	if (request->head->chunked && piece->len < GATHER_BYTES / 4) {
		if (!session->gathered)
			session->gathered = malloc(GATHER_BYTES);
		if (session->gathered)
			return gather(request, ret_data);
	}
	*ret_data = piece->data;
	return count_body(request, piece->len);
}

static int read_body(struct http_request *request, const char **ret_data)
{
	struct http_session *session = request->session;
	size_t held_len = session->held.len;
	int r;

	if (held_len > 0) {
		*ret_data = session->held.data;
		session->held.len = 0;
		return count_body(request, held_len);
	}
	for (;;) {
		switch (step(session)) {
		case HTTP_EVENT_BODY: return body_piece(request, ret_data);
		case HTTP_EVENT_END: request->body_ended = true; return 0;
		case HTTP_EVENT_MORE: break;
		default: return -EBADMSG;
		}
		r = send_continue(request);
		if (r < 0)
			return r;
		r = fill_body(session);
		if (r <= 0)
			return r < 0 ? r : -ECONNRESET;
	}
}

int http_body_read(struct http_request *request, const char **ret_data)
{
	int r;

	if (request->status)
		return -ESHUTDOWN;
	if (request->body_error || request->body_ended)
		return request->body_error;
	if (ew_cancel_requested())
		return -ECANCELED;
	r = request->head->body_bytes > request->body_bytes_max ? -EFBIG
								: read_body(request, ret_data);
	if (r == -EFBIG || r == -EBADMSG || r == -ETIMEDOUT || r == -ECONNRESET)
		request->body_error = r;
	return r;
}

/* What the client is told when the handler has not said anything. */
static int answer_for_handler(struct http_request *request)
{
	struct http_session *session = request->session;

	switch (request->body_error) {
	case -EBADMSG: return refuse(session, session->parser.status, session->parser.reason);
	case -EFBIG: return refuse(session, 413, "The body is longer than allowed here.");
	case -ETIMEDOUT: return refuse(session, 408, "The body came too slowly, or not at all.");
	case -ECONNRESET: return -ECONNRESET;
	default: return refuse(session, 500, "The request was not answered.");
	}
}

static int forget_hangup(void *socket)
{
	ew_socket_forget_hangup(socket);
	return 0;
}

static void forget_hangup_now(void *socket)
{
	ew_socket_forget_hangup(socket);
}

void http_half_close(struct http_request *request, bool finish)
{
	struct http_session *session = request->session;

	ew_socket_cancel_on_hangup(session->socket, session->scope, !finish);
}

/* Runs the handler in a scope that the client's leaving cancels. The result is the connection's. */
static int run_handler(struct http_request *request)
{
	struct http_session *session = request->session;
	struct http_service *service = session->service;
	int r;

	EW_SCOPE(scope);

	request->scope = &scope;
	ew_socket_cancel_on_hangup(session->socket, session->scope, !service->half_close_finish);

	EW_GUARD(hangup, session->socket, .close = forget_hangup, .abort = forget_hangup_now);

	r = service->handler(request, service->userdata);
	ew_socket_forget_hangup(session->socket);
	ew_guard_disarm(&hangup);
	r = ew_scope_finish(&scope, r);
	request->scope = NULL;
	if (ew_scope_reason(session->scope) == EW_REASON_PEER)
		return -ECONNRESET;
	/* A handler may bring -ECANCELED out of a scope of its own; only one from further out ends the connection. */
	return r == -ECANCELED && ew_cancel_requested() ? r : 0;
}

static int serve_request(struct http_session *session)
{
	struct http_request request = {
		.head = &session->parser.head,
		.body_bytes_max = session->service->body_bytes_max,
		.session = session,
	};
	int r;

	session->patience_ns = session->service->rate_grace_ns;
	session->held.len = 0;
	r = keep_input(session);
	if (r < 0)
		return r;
	r = run_handler(&request);
	if (r < 0)
		return r;
	if (session->broken || request.responding)
		return -ECONNRESET;
	return request.status ? 0 : answer_for_handler(&request);
}

/* Waits for the next request. Returns 1 with a head, 0 when there is nothing more to do, or -errno. */
static int await_head(struct http_session *session, bool first)
{
	const struct http_service *service = session->service;
	int64_t deadline_ns = ew_after(service->header_timeout_ns);
	bool between;
	int n;

	for (;;) {
		switch (step(session)) {
		case HTTP_EVENT_HEAD: return 1;
		case HTTP_EVENT_BAD:
			return refuse(session, session->parser.status, session->parser.reason);
		default: break;
		}
		between = http_parser_is_between(&session->parser);
		if (between && service->draining)
			return 0;
		if (between && first)
			n = fill_idle(session, deadline_ns);
		else if (between)
			n = fill_idle(session, ew_after(service->idle_timeout_ns));
		else
			n = fill(session, deadline_ns);
		if (between && !first)
			deadline_ns = ew_after(service->header_timeout_ns);
		if (n > 0)
			continue;
		if (between && (n == 0 || n == -ETIMEDOUT || service->draining))
			return 0;
		if (n == -ETIMEDOUT)
			return refuse(session, 408, "The header did not arrive in time.");
		return n < 0 ? n : -ECONNRESET;
	}
}

/* Until the client has seen the last response and closed, or has had its chance to. */
static void linger(struct http_session *session)
{
	int64_t bytes = 0;
	int n;

	EW_SCOPE(wait, .deadline_ns = ew_after(session->service->linger_ns));

	if (ew_socket_shutdown(session->socket, SHUT_WR) < 0)
		return;
	do {
		n = receive(session);
		bytes += n;
	} while (n > 0 && bytes < session->service->linger_bytes_max);
}

static int serve(struct http_session *session)
{
	bool first = true;
	int r;

	while ((r = await_head(session, first)) > 0) {
		r = serve_request(session);
		if (r < 0 || session->closing)
			break;
		first = false;
	}
	if (session->closing && !session->broken)
		linger(session);
	return r < 0 ? r : 0;
}

static int serve_in(struct ew_scope *scope, struct http_service *service, struct ew_socket **socket)
{
	struct http_session *session = malloc(sizeof(*session));
	int r, r2;

	if (!session) {
		r = ew_close(socket);
		return r < 0 ? r : -ENOMEM;
	}

	EW_GUARD(memory, session, .close = session_close, .abort = session_abort);

	memset(session, 0, offsetof(struct http_session, parser));
	http_parser_init(&session->parser);
	session->service = service;
	session->scope = scope;
	session->socket = *socket;
	session->input = "";
	tune(ew_socket_fd(*socket), service->dead_link_ns);
	r = serve(session);
	ew_socket_release(*socket);
	r2 = ew_guard_run(&memory);
	if (r == 0)
		r = r2;
	r2 = ew_close(socket);
	return r < 0 ? r : r2;
}

int http_session_serve(struct http_service *service, struct ew_socket **socket)
{
	EW_SCOPE(scope);

	return ew_scope_finish(&scope, serve_in(&scope, service, socket));
}
