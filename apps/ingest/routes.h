/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* From a request to the one who answers it. */

#include "http/session.h"

#include "answer.h"
#include "server.h"

/* The handler of every connection; @server is a struct server. */
int routes_handle(struct http_request *request, void *server);

/* Hears of what the HTTP session refused by itself. */
void routes_refused(void *server, int status, const char *reason);

/* What goes with every answer, so that pages of other origins can read it. */
void routes_add_fields(void *server, const struct http_head *head, struct http_extras *extras);

/* Sends an answer and frees it; counts it. */
EW_SUSPENDS int routes_answer(struct server *server, struct http_request *request,
			      struct answer *answer);

/* Sends a problem, with the sentence that makes it this one. */
EW_SUSPENDS int routes_problem(struct server *server, struct http_request *request,
			       enum problem problem, const char *detail, int retry_after_seconds);
