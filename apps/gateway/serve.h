/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* An operation from its publication to its proof. */

#include "gateway.h"

/**
 * serve_fn - says to whoever waits what became of an operation that ended badly, before it is undone
 * @r: one of operation_serve()
 */
typedef void serve_fn(void *argument, struct operation *operation, int r);

/**
 * operation_serve() - publish an operation, and wait for its end
 * @operation: in a place of the calling task, with its permit; taken if it is presumed
 * @failed:    is told of an error at once: undoing may take as long as the route's cancel_deadline
 *
 * Cancellation: cancels it at the backend, and waits for the proof, with the permit held.
 * Return:       0: it has an outcome, and its permit is free.
 * Errors:       -ETIMEDOUT its deadline; -ECANCELED; -ECONNRESET the broker was lost; -EREMOTEIO the broker has refused it,
 *               and one of several queues may have it all the same.
 *               Afterwards the permit is free if there was a proof; else it is presumed, and the place is empty.
 */
EW_SUSPENDS int operation_serve(struct operation **operation, serve_fn *failed, void *argument);
