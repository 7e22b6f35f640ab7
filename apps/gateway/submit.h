/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "gateway.h"

/* POST /ops/ROUTE */
EW_SUSPENDS int submit(struct gateway *gateway, struct http_request *request);
