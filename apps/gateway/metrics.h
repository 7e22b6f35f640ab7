/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "gateway.h"

/* The page for Prometheus: heap memory for free(), of *@ret_bytes; NULL when there is none. */
char *metrics_print(struct gateway *gateway, size_t *ret_bytes);
