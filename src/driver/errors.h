/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Errors: what the kernel may answer, by kind of operation
 * For those who make it answer so: the simulated driver and the sweep.
 */

#include "driver/driver.h"

#define EW__OP_ERRORS_MAX  8
#define EW__OP_ERRORS_MILD 4
#define EW__CALL_ERRORS	   6

/*
 * By code; 0: no more. With each of them nothing has been transferred. The first, the mild ones, say nothing about the
 * object: one that is as likely as two others is there twice. The rest say that it is broken.
 */
extern const int ew__op_errors[][EW__OP_ERRORS_MAX];

/* Of a call to a filesystem. */
extern const int ew__call_errors[EW__CALL_ERRORS];
