/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The tenants of a route: who shares it, and how much of it each may have. The configuration names some of them; the
 * others come with their first request and go with their last operation.
 */

#include "common/line.h"

#include "config.h"

#define TENANTS_UNNAMED_MAX 256	   /* at the same time, of all routes */
#define TENANT_NOBODY	    "none" /* whoever does not say who it is */

struct route;

/**
 * struct tenant - one; lives as long as somebody uses it, or the route, if the configuration names it
 * @permits:  its share of the route; those of its operations follow what the route's permits do
 * @turn:     one permit: who has it is the tenant's next one in the route's line
 * @next_in:  and is there, not in front of its own limit
 * @line:     all of its requests that wait
 */
struct tenant {
	char name[CONFIG_NAME_BYTES];
	bool named;
	struct route *route;
	uint64_t waiting_room;
	struct ew_semaphore *permits;
	struct ew_semaphore *turn;
	bool next_in;
	struct line line;
	uint64_t shed;
	/* -- private from here -- */
	unsigned int users;
	struct tenant *next;
};

/* Makes those that the configuration names, if the route has tenants. -ENOMEM */
int tenants_init(struct route *route);
void tenants_deinit(struct route *route);

/* The one of this name, used by one more. -ENOMEM; -EUSERS: TENANTS_UNNAMED_MAX are there */
int tenant_use(struct route *route, const char *name, struct tenant **ret_tenant);

/* Used by one less; NULL is a no-op */
void tenant_drop(struct tenant *tenant);

/** enum limit - which one a request ran into */
enum limit { LIMIT_ROUTE, LIMIT_TENANT };

/**
 * tenant_line_enter() - a permit of the tenant and one of its route, now or in one's turn
 *
 * First come, first served within a tenant; of each tenant one stands in the route's line, so that its permits go round
 * among those that have room.
 * @ret_waited: whether one had to wait
 * @ret_limit:  in case of an error
 * Errors:      -EAGAIN a waiting room is full, -ETIMEDOUT, -ECANCELED: no permit was taken
 */
EW_SUSPENDS int tenant_line_enter(struct tenant *tenant, int64_t deadline_ns,
				  struct ew_permit **ret_own, struct ew_permit **ret_permit,
				  bool *ret_waited, enum limit *ret_limit);
