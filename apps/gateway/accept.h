/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What kind of answer a client takes: RFC 9110, sections 12.4.2 and 12.5.1. */

#include "http/head.h"

/**
 * accept_prefers() - whether the Accept fields of a request name a type, and weigh nothing heavier
 * @type: "text/html"; a range with an asterisk does not name it, and its parameters do not matter
 *
 * What has a weight of 0 is not taken, and what has a weight that is none is passed over.
 */
bool accept_prefers(const struct http_head *head, const char *type);
