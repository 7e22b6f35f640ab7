/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two limits, one after the other, and neither is counted here: a tenant has a semaphore of its own beside the route's.
 * In between is the turn. Without it a tenant with many permits of its own would put them all into the route's line, and
 * who comes behind them would wait for all; with it the line holds one of each tenant, and who has been served goes to
 * its end.
 */
#include "tenant.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "gateway.h"

static void free_tenant(struct tenant *tenant)
{
	ew_semaphore_free(tenant->permits);
	ew_semaphore_free(tenant->turn);
	free(tenant);
}

static const struct tenant_config *find_config(const struct route *route, const char *name)
{
	const struct config *config = &route->gateway->options->config;

	for (size_t i = 0; i < config->tenants_count; i++)
		if (strcmp(config->tenants[i].name, name) == 0)
			return &config->tenants[i];
	return NULL;
}

static uint64_t least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static struct tenant *make(struct route *route, const char *name)
{
	const struct tenant_config *own = find_config(route, name);
	const struct route_config *config = route->config;
	struct tenant *tenant = calloc(1, sizeof(*tenant));
	uint64_t concurrency = config->tenant_concurrency;

	if (!tenant)
		return NULL;
	strcpy(tenant->name, name);
	tenant->named = own != NULL;
	tenant->route = route;
	tenant->waiting_room = config->tenant_waiting_room;
	if (own && own->concurrency > 0)
		concurrency = least(own->concurrency, config->concurrency);
	if (own && own->waiting_room != CONFIG_NOT_GIVEN)
		tenant->waiting_room = least(own->waiting_room, config->waiting_room);
	tenant->permits = ew_semaphore_new((unsigned int)concurrency, 1);
	tenant->turn = ew_semaphore_new(1, (unsigned int)tenant->waiting_room);
	if (!tenant->permits || !tenant->turn) {
		free_tenant(tenant);
		return NULL;
	}
	tenant->next = route->tenants;
	route->tenants = tenant;
	return tenant;
}

int tenants_init(struct route *route)
{
	const struct config *config = &route->gateway->options->config;

	if (!route->config->tenant_header[0])
		return 0;
	for (size_t i = 0; i < config->tenants_count; i++)
		if (!make(route, config->tenants[i].name))
			return -ENOMEM;
	return 0;
}

void tenants_deinit(struct route *route)
{
	struct tenant *tenant;

	while ((tenant = route->tenants)) {
		ew_assert(tenant->users == 0);
		route->tenants = tenant->next;
		free_tenant(tenant);
	}
}

static struct tenant *find(const struct route *route, const char *name)
{
	struct tenant *tenant = route->tenants;

	while (tenant && strcmp(tenant->name, name) != 0)
		tenant = tenant->next;
	return tenant;
}

int tenant_use(struct route *route, const char *name, struct tenant **ret_tenant)
{
	struct tenant *tenant = find(route, name);

	if (!tenant && route->gateway->tenants_unnamed == TENANTS_UNNAMED_MAX)
		return -EUSERS;
	if (!tenant) {
		tenant = make(route, name);
		if (!tenant)
			return -ENOMEM;
		route->gateway->tenants_unnamed++;
	}
	tenant->users++;
	*ret_tenant = tenant;
	return 0;
}

void tenant_drop(struct tenant *tenant)
{
	struct tenant **link;

	if (!tenant || --tenant->users > 0 || tenant->named)
		return;
	link = &tenant->route->tenants;
	while (*link != tenant)
		link = &(*link)->next;
	*link = tenant->next;
	tenant->route->shed_unnamed += tenant->shed;
	tenant->route->gateway->tenants_unnamed--;
	free_tenant(tenant);
}

static int try_both(struct tenant *tenant, struct ew_permit **own, struct ew_permit **permit)
{
	int r;

	/* Whoever waits has come before. */
	if (atomic_load(&tenant->line.waiting) > 0)
		return -EAGAIN;
	r = ew_semaphore_try_acquire(tenant->permits, own);
	if (r == 0)
		r = ew_semaphore_try_acquire(tenant->route->permits, permit);
	if (r < 0)
		ew_permit_release(own);
	return r;
}

/* If both are full, the one is named whose permits are what is missing. */
static bool is_room_full(struct tenant *tenant, enum limit *ret_limit)
{
	const struct route *route = tenant->route;
	bool own = (uint64_t)atomic_load(&tenant->line.waiting) >= tenant->waiting_room;
	bool all = (uint64_t)atomic_load(&route->line.waiting) >= route->config->waiting_room;

	*ret_limit = own && (!all || ew_semaphore_count(tenant->permits).free == 0) ? LIMIT_TENANT
										    : LIMIT_ROUTE;
	return own || all;
}

static int acquire_in_turn(struct tenant *tenant, int64_t deadline_ns, struct ew_permit **own,
			   struct ew_permit **permit, enum limit *ret_limit)
{
	int r;

	EW_OWN(ew_permit, turn);

	r = ew_semaphore_acquire(tenant->turn, deadline_ns, &turn);
	*ret_limit = tenant->next_in ? LIMIT_ROUTE : LIMIT_TENANT;
	if (r < 0)
		return r;
	*ret_limit = LIMIT_TENANT;
	r = ew_semaphore_acquire(tenant->permits, deadline_ns, own);
	if (r == 0) {
		*ret_limit = LIMIT_ROUTE;
		tenant->next_in = true;
		r = ew_semaphore_acquire(tenant->route->permits, deadline_ns, permit);
		tenant->next_in = false;
	}
	if (r < 0)
		ew_permit_release(own);
	ew_permit_release(&turn);
	return r;
}

int tenant_line_enter(struct tenant *tenant, int64_t deadline_ns, struct ew_permit **own,
		      struct ew_permit **permit, bool *ret_waited, enum limit *ret_limit)
{
	struct line *line = &tenant->line, *all = &tenant->route->line;
	int64_t since;
	int r;

	r = try_both(tenant, own, permit);
	*ret_waited = r == -EAGAIN;
	if (r != -EAGAIN)
		return r;
	if (is_room_full(tenant, ret_limit))
		return -EAGAIN;
	line_join(line);
	since = line_join(all);
	r = acquire_in_turn(tenant, deadline_ns, own, permit, ret_limit);
	line_leave(all, since, r);
	line_leave(line, since, r);
	return r;
}
