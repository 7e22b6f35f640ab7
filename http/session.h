/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * http/session.h - HTTP/1.1 server: one connection, its requests in order
 *
 *	static int handle(struct http_request *request, void *userdata)
 *	{
 *		const char *data;
 *		int n;
 *
 *		while ((n = http_body_read(request, &data)) > 0)
 *			consume(data, n);
 *		if (n < 0)
 *			return n;
 *		return http_respond(request, 200, "text/plain", NULL, "thanks\n", 7);
 *	}
 *
 * A handler contains no code for a client that leaves: the connection's scope, around request->scope, is
 * cancelled then with reason EW_REASON_PEER, whatever the handler is waiting for, and its suspending calls
 * return -ECANCELED.
 */

#include "head.h"
#include "problem.h"
#include "response.h"

#include <endwell/scope.h>
#include <endwell/socket.h>

struct http_request;
struct http_session;

/**
 * http_handler_fn - answers one request
 *
 * Runs in the connection's task, inside request->scope, in which it may spawn. It responds once. If it
 * returns without having responded, the client is told what http_body_read() failed with, or 500, or,
 * when the request was cancelled, nothing.
 * Return: 0 or -errno; an error does not end the connection by itself.
 */
typedef int http_handler_fn(struct http_request *request, void *userdata);

/**
 * http_refused_fn - hears of an answer that the session gave by itself, for the log
 * @reason: one sentence; only until return
 */
typedef void http_refused_fn(void *userdata, int status, const char *reason);

#define HTTP_EXTRAS_MAX	       4
#define HTTP_EXTRAS_TEXT_BYTES 300

/**
 * struct http_extras - header fields that a service adds to an answer
 * @fields: zero before; at most HTTP_EXTRAS_MAX
 * @text:   for a value that is kept nowhere else
 */
struct http_extras {
	struct http_field fields[HTTP_EXTRAS_MAX + 1];
	char text[HTTP_EXTRAS_TEXT_BYTES];
};

/**
 * http_extras_fn - adds header fields to each answer, those included that the session gives by itself
 * @head: what was asked; of a request that could not be read only the fields that came before its fault
 */
typedef void http_extras_fn(void *userdata, const struct http_head *head,
			    struct http_extras *extras);

/**
 * struct http_service - what all connections of one worker share; caller's memory, outlives them
 *
 * Zero means the default in parentheses.
 * @handler:             answers requests
 * @refused:             may be NULL
 * @extras:              may be NULL
 * @userdata:            for all of them
 * @header_timeout_ns:   from a request's first byte, or from accept, to the end of its head (20 s)
 * @idle_timeout_ns:     a connection without a request (60 s)
 * @body_timeout_ns:     silence inside a body (60 s)
 * @rate_grace_ns:       how long a body may lag behind the minimum rate (10 s)
 * @rate_bytes_per_s:    minimum rate of a body while the handler waits for it (1024)
 * @send_timeout_ns:     for a client to take a response (60 s)
 * @dead_link_ns:        of a client that acknowledges nothing, whose machine or network has gone: then it has left; whole
 *                       seconds, 3 to 600 (60 s). A sixth of it later at most the kernel's probes have found out
 * @linger_ns:           after a last response, for the client to take notice (10 s)
 * @linger_bytes_max:    that are read and dropped meanwhile (1 GiB)
 * @body_bytes_max:      larger bodies fail with -EFBIG (no limit)
 * @half_close_finish:   a client that has finished sending waits for its answer; else it has left
 */
struct http_service {
	http_handler_fn *handler;
	http_refused_fn *refused;
	http_extras_fn *extras;
	void *userdata;
	int64_t header_timeout_ns;
	int64_t idle_timeout_ns;
	int64_t body_timeout_ns;
	int64_t rate_grace_ns;
	int64_t rate_bytes_per_s;
	int64_t send_timeout_ns;
	int64_t dead_link_ns;
	int64_t linger_ns;
	int64_t linger_bytes_max;
	int64_t body_bytes_max;
	bool half_close_finish;
	/* -- private from here -- */
	bool draining;
	struct http_session *idle; /* sessions between requests, for http_service_drain() */
};

/**
 * struct http_request - one request, as its handler sees it
 * @head:           what it says; all of it stays until the handler returns
 * @scope:          cancelled with EW_REASON_PEER when the client leaves
 * @body_bytes:     of the body, read so far
 * @body_bytes_max: preset from the service; the handler may set another before the first read
 * @status:         of the response; 0 before there is one
 */
struct http_request {
	const struct http_head *head;
	struct ew_scope *scope;
	int64_t body_bytes;
	int64_t body_bytes_max;
	int status;
	/* -- private from here -- */
	struct http_session *session;
	int body_error;
	bool body_ended;
	bool continue_done;
	bool responding;
	bool chunked;
};

/* http_service_init() - put the defaults where @service has zeros, before the first connection */
void http_service_init(struct http_service *service);

/**
 * http_session_serve() - serve one connection until it ends, and close it
 * @service: shared; used by tasks of one worker only
 * @socket:  a connected socket; taken always
 *
 * Suspends:     all along.
 * Cancellation: ends the request that is being answered and the connection.
 * Return:       0 the connection ended between requests, or was refused something and told so.
 * Errors:       -ECONNRESET the client left, -ETIMEDOUT it was silent, -ENOMEM, -ECANCELED, those of recv(2) and send(2).
 */
EW_SUSPENDS int http_session_serve(struct http_service *service, struct ew_socket **socket);

/**
 * http_service_drain() - end all connections of this worker as soon as they are between requests
 *
 * Idle ones end now; the others with their next response, which says so. Does not suspend.
 */
void http_service_drain(struct http_service *service);

/**
 * http_half_close() - say for this request what a client means that closes its sending side: preset by the service
 * @finish: it waits for its answer; else it has left, and one that has closed it already leaves now
 *
 * By the handler, before it has responded. Does not suspend. A cancel is not taken back.
 */
void http_half_close(struct http_request *request, bool finish);

/**
 * http_body_read() - the next piece of the body
 * @request:  the request
 * @ret_data: borrowed until the next call, or until the response
 *
 * The first call sends `100 Continue` to a client that waits for it. No buffer of the worker is held
 * while the handler runs.
 * Cancellation: takes nothing. What stays is returned in a cancelled scope, too.
 * Return:       bytes, at least 1 and at most EW_RECEIVE_MAX; 0 the body is complete, and stays so.
 * Errors:       -EFBIG over the limit, -EBADMSG malformed, -ETIMEDOUT silent or too slow, -ECONNRESET cut
 *               short: these four stay. -ESHUTDOWN after the response. -ENOMEM, -ECANCELED, those of recv(2) and send(2).
 */
EW_SUSPENDS int http_body_read(struct http_request *request, const char **ret_data);

/**
 * http_respond() - answer the request
 * @status:       200 to 599
 * @content_type: NULL for none
 * @fields:       further header fields, ending with a NULL name; NULL for none
 * @body:         left out, but counted, when the method is HEAD
 *
 * If the body of the request has not been read to its end, this is the connection's last response.
 * Ownership:    borrows everything until return.
 * Return:       0 the response is on its way.
 * Cancellation: the response is cut, or not begun, and the connection ends.
 * Errors:       -EALREADY there was one, -EINVAL a field is not fit for a head, -ENOBUFS the head is too long, -ENOMEM,
 *               -ETIMEDOUT the client does not take it, -ECANCELED, those of send(2).
 */
EW_SUSPENDS int http_respond(struct http_request *request, int status, const char *content_type,
			     const struct http_field *fields, const void *body, size_t body_len);

/**
 * http_respond_begin() - begin an answer whose length nobody knows yet
 *
 * Pieces follow, and http_respond_end(). By one task at a time, the handler's or one in request->scope. A handler that
 * returns in between cuts the connection: the client sees that the answer is not whole. To a client of HTTP/1.0 the
 * pieces go as they are, and the connection ends behind them. Otherwise as http_respond().
 * Errors:       as http_respond(); -EINVAL also: a status that has no body (204, 304).
 */
EW_SUSPENDS int http_respond_begin(struct http_request *request, int status,
				   const char *content_type, const struct http_field *fields);

/**
 * http_respond_piece() - the next piece of an answer that has begun
 * @data: borrowed until return; left out when the method is HEAD
 * @len:  0 is a no-op
 *
 * Return:       0 it is on its way: what the client has not taken waits in the kernel.
 * Cancellation: before the piece has begun leaves the answer as it is, and a shield may say another; later, it is cut.
 * Errors:       -ESHUTDOWN none has begun, or it has ended; -ENOMEM, and it may be tried again; -ECONNRESET an earlier
 *               piece was cut; -ECANCELED; -ETIMEDOUT the client does not take it, those of send(2): it is cut.
 */
EW_SUSPENDS int http_respond_piece(struct http_request *request, const void *data, size_t len);

/** http_respond_end() - the answer is whole. Errors: as http_respond_piece() */
EW_SUSPENDS int http_respond_end(struct http_request *request);

/** http_respond_problem() - answer with a problem (RFC 9457); otherwise as http_respond(). Errors: as http_respond() */
EW_SUSPENDS int http_respond_problem(struct http_request *request,
				     const struct http_problem *problem);
