/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Permits that are given back, and those that are presumed. Where a route has tenants, what is said here of a permit is
 * said of two: the route's and the tenant's.
 */

#include "gateway.h"

/* The end of an operation whose outcome is a proof, or that was never admitted: its permit is free. */
void permits_release(struct gateway *gateway, struct operation *operation);

/* Its work was asked to stop: only a proof frees its permit now. */
void permits_mark_cancelling(struct operation *operation);

/* Nothing was proved: the permit is presumed, and the operation goes to the table; NULL in the place. */
void permits_presume(struct gateway *gateway, struct operation **operation);

/* A presumed one has ended after all, as its outcome says: its permit is free, and its memory is given back.
 * @result: taken if it is kept; NULL: there is none */
void permits_prove(struct gateway *gateway, struct operation *operation,
		   struct ew_amqp_delivery **result);

/* The task that frees presumed permits when their hold time has passed. @gateway is a struct gateway */
EW_SUSPENDS int permits_run(void *gateway);

/* The end of the program: what is still presumed is forgotten. */
void permits_forget(struct gateway *gateway);
