/* SPDX-License-Identifier: Apache-2.0 */

/*
 * All resources of the process that live, in one list, so that one that nobody owns any more can be
 * named by the line that made it, and aborted, when its runtime ends.
 */

#include "scope/resource.h"

#include "scope/scope.h"
#include "scope/thread.h"
#include "seeded/bug.h"
#include "task/lock.h"

static struct {
	_Atomic uint32_t lock;
	struct ew_resource *first;
} living;

/* NULL: a plain thread that has not suspended yet, and is not looked after at its end. */
static const void *owner_here(void)
{
	if (!ew__worker || !ew__worker_is_plain(ew__worker))
		return ew__worker ? ew__worker->runtime : NULL;
	return ew__worker;
}

void ew_resource_init(struct ew_resource *resource, const struct ew_resource_type *type,
		      const struct ew_site *site)
{
	static const struct ew_site unknown = { "?", "?", 0 };

	resource->type = type;
	resource->site = site ? site : &unknown;
	resource->prev = NULL;
	resource->owner = owner_here();
	ew__lock(&living.lock);
	resource->next = living.first;
	if (living.first)
		living.first->prev = resource;
	living.first = resource;
	ew__unlock(&living.lock);
}

void ew_resource_deinit(struct ew_resource *resource)
{
	ew__lock(&living.lock);
	if (resource->prev)
		resource->prev->next = resource->next;
	else
		living.first = resource->next;
	if (resource->next)
		resource->next->prev = resource->prev;
	ew__unlock(&living.lock);
}

static void set_owner(struct ew_resource *resource, const void *owner)
{
	ew__lock(&living.lock);
	resource->owner = owner;
	ew__unlock(&living.lock);
}

void ew__resource_leave_runtime(struct ew_resource *resource)
{
	set_owner(resource, NULL);
}

void ew__resource_enter_runtime(struct ew_resource *resource)
{
	set_owner(resource, owner_here());
}

void ew_adopt(void *place)
{
	struct ew_resource *resource;

	__builtin_memcpy(&resource, place, sizeof(resource));
	if (resource)
		ew__resource_enter_runtime(resource);
}

const struct ew_resource *ew__resources_newest(void)
{
	const struct ew_resource *newest;

	ew__lock(&living.lock);
	newest = living.first;
	ew__unlock(&living.lock);
	return newest;
}

/* The newest of @owner's: what was made elsewhere is owned there, whatever runs and ends meanwhile. */
static struct ew_resource *newest_of(const void *owner)
{
	struct ew_resource *resource;

	ew__lock(&living.lock);
	for (resource = living.first; resource; resource = resource->next)
		if (resource->owner == owner || ew__bug("ends-what-others-own"))
			break;
	ew__unlock(&living.lock);
	return resource;
}

const struct ew_resource *ew__resources_newest_here(void)
{
	return newest_of(owner_here());
}

unsigned ew__resources_abort_forgotten(const char *what)
{
	struct ew_resource *resource;
	unsigned count = 0;

	while ((resource = newest_of(owner_here()))) {
		ew__report("%s made at %s:%d (%s) has no owner at the end of the %s: aborted",
			   resource->type->name, resource->site->file, resource->site->line,
			   resource->site->name, what);
		resource->type->abort(resource);
		count++;
	}
	return count;
}

void ew__place_must_be_empty(void *place, const struct ew_site *site)
{
	struct ew_resource *resource;

	__builtin_memcpy(&resource, place, sizeof(resource));
	if (!resource || ew__bug("full-place-overwritten"))
		return;
	ew__report("%s made at %s:%d (%s) is about to be overwritten at %s:%d: aborted",
		   resource->type->name, resource->site->file, resource->site->line,
		   resource->site->name, site ? site->file : "?", site ? site->line : 0);
	ew_abort(place);
}
