/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* W3C trace context: which trace an operation belongs to. */

#include "http/head.h"

#define TRACE_BYTES 56 /* "00-TRACE-PARENT-FLAGS" and NUL */

/**
 * trace_make() - a traceparent with a parent id of our own
 * @given: what the client sent: its trace goes on; NULL, or not well-formed: a new one begins
 */
void trace_make(const struct http_slice *given, char ret_text[TRACE_BYTES]);
