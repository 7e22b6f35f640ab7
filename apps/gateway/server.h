/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "options.h"

/* Starts, serves until a signal, drains; returns an exit status. Messages go to standard error. */
int server_run(const struct options *options);
