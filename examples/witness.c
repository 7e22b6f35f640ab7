/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A resource of one's own, and a witness that its ending ran. A door is left open in five ways, and each time the
 * witness has seen it end exactly once: closed if there was time for that, aborted if not.
 */

#include <endwell/endwell.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

struct witness {
	unsigned opened;
	unsigned closed;
	unsigned aborted;
};

struct door {
	struct ew_resource resource; /* first: what a place owns */
	struct witness *witness;
};

static void door_free(struct door *door)
{
	ew_resource_deinit(&door->resource);
	free(door);
}

static int door_close(void *resource)
{
	struct door *door = resource;
	int r = ew_sleep(EW_SECOND); /* it is a slow door */

	if (r < 0)
		return r; /* -ECANCELED: there is no time for that. Not ended: door_abort() follows */
	door->witness->closed++;
	door_free(door);
	return 0;
}

static void door_abort(void *resource)
{
	struct door *door = resource;

	door->witness->aborted++; /* let it fall shut */
	door_free(door);
}

static const struct ew_resource_type door_type = {
	.name = "door",
	.close = door_close,
	.abort = door_abort,
};

static int door_open(struct witness *witness, struct door **ret_door)
{
	struct door *door = calloc(1, sizeof(*door));

	if (!door)
		return -ENOMEM;
	door->witness = witness;
	ew_resource_init(&door->resource, &door_type, EW_SITE("door_open"));
	witness->opened++;
	*ret_door = door;
	return 0;
}

enum way { SUCCESS, ERROR, CANCEL, PANIC, NO_TIME };

struct visit {
	enum way way;
	struct witness witness;
};

static int visit_task(void *argument)
{
	struct visit *visit = argument;
	EW_OWN(door, door);
	int r = door_open(&visit->witness, &door);

	if (r < 0)
		return r;
	switch (visit->way) {
	case SUCCESS: return ew_close(&door); /* by name: here one sees how it went */
	case ERROR: return -EIO;
	case PANIC: ew_panic("in the doorway");
	default: return ew_sleep(3600 * EW_SECOND); /* until it is cancelled */
	}
}

/* From the cancel on the visit has @budget_ns for its ending. */
static int see(struct visit *visit, int64_t budget_ns)
{
	EW_SCOPE(scope, .policy = EW_POLICY_INDEPENDENT, .budget_ns = budget_ns);
	int r = ew_spawn(&scope, visit_task, visit);

	if (r == 0)
		r = ew_yield();
	return r;
}

static int program(void *unused)
{
	static const char *const names[] = { "success", "error", "cancel", "panic", "no time" };
	int r;

	(void)unused;
	for (unsigned way = SUCCESS; way <= NO_TIME; way++) {
		struct visit visit = { .way = (enum way)way };

		r = see(&visit, way == NO_TIME ? EW_SECOND / 2 : 10 * EW_SECOND);
		if (r < 0)
			return r;
		printf("%-7s  opened %u, closed %u, aborted %u\n", names[way], visit.witness.opened,
		       visit.witness.closed, visit.witness.aborted);
	}
	return 0;
}

int main(void)
{
	struct ew_run_options options = { .workers_count = 1, .virtual_time = true };

	return ew_run(&options, program, NULL) < 0;
}
