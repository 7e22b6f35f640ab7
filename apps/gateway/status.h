/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "gateway.h"

/* GET /ops/ID, GET /ops/ID/result and GET /ops/ID/events */
EW_SUSPENDS int status_get(struct gateway *gateway, struct http_request *request);

/* DELETE /ops/ID: cancels it, and waits for the receipt */
EW_SUSPENDS int status_delete(struct gateway *gateway, struct http_request *request);
