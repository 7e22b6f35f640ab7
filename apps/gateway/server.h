/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "gateway.h"

/* Starts, serves until a signal, drains; returns an exit status. Messages go to standard error. */
int server_run(const struct options *options);

/* The parts of that, for whoever has a runtime: a gateway, not serving. @options are borrowed. -ENOMEM, -ERANGE */
int server_new(const struct options *options, struct gateway **ret_gateway);

/* Serves until front_stop(), then drains; once. @gateway is a struct gateway */
EW_SUSPENDS int server_serve(void *gateway);

void server_free(struct gateway *gateway);
