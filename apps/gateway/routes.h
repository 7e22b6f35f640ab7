/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* From a request to the one who answers it. */

#include "answer.h"

/* The handler of every connection; @gateway is a struct gateway. */
int routes_handle(struct http_request *request, void *gateway);

/* Hears of what the HTTP session refused by itself. */
void routes_refused(void *gateway, int status, const char *reason);

/* What goes with every answer, so that pages of other origins can read it. */
void routes_add_fields(void *gateway, const struct http_head *head, struct http_extras *extras);

/* Sends an answer and frees it; counts it. */
EW_SUSPENDS int routes_answer(struct gateway *gateway, struct http_request *request,
			      struct answer *answer);

/* Sends a problem, with the sentence that makes it this one; @id of an operation may be NULL. */
EW_SUSPENDS int routes_problem(struct gateway *gateway, struct http_request *request,
			       enum problem problem, const char *detail, const char *id,
			       int retry_after_seconds);

/* 405, with the methods that work. */
EW_SUSPENDS int routes_method_not_allowed(struct gateway *gateway, struct http_request *request,
					  const char *allow);
