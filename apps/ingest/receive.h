/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* PUT /files/NAME: take a file in, have it scanned, publish it. */

#include "http/session.h"

#include "server.h"

EW_SUSPENDS int receive_file(struct server *server, struct http_request *request);
