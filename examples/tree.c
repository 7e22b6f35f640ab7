/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A deadline over a tree of tasks whose endings need different times. One request has two branches, each with leaves.
 * At two seconds its time is up, and from then on the tree has five seconds to end: each ending gets its own
 * budget, or what the tree has left, whichever is less. The root's, which comes last, has a second kept for it.
 */

#include <endwell/endwell.h>
#include <errno.h>
#include <stdio.h>

static int64_t began_ns;

static void say(const char *name, const char *what)
{
	int tenths = (int)((ew_now() - began_ns) / (EW_SECOND / 10));

	printf("%d.%d s  %-8s %s\n", tenths / 10, tenths % 10, name, what);
}

struct node {
	const char *name;
	int64_t ending_takes_ns;
	int64_t budget_ns;  /* of its ending */
	int64_t reserve_ns; /* kept for it, however slow those before it are */
	struct node *children[3];
};

static int end_node(void *argument)
{
	const struct node *node = argument;
	int r = ew_sleep(node->ending_takes_ns);

	if (r == 0)
		say(node->name, "has ended in order");
	return r;
}

static void cut_node(void *argument)
{
	const struct node *node = argument;

	say(node->name, "is cut");
}

static int work(void *argument)
{
	struct node *node = argument;
	int r = 0;

	EW_GUARD(ending, node, .close = end_node, .abort = cut_node, .budget_ns = node->budget_ns,
		 .reserve_ns = node->reserve_ns);
	EW_SCOPE(branch);

	for (unsigned i = 0; node->children[i] && r == 0; i++)
		r = ew_spawn(&branch, work, node->children[i]);
	if (r == 0)
		r = ew_sleep(3600 * EW_SECOND);
	return ew_scope_finish(&branch, r);
}

static int request(struct node *root)
{
	EW_SCOPE(scope, .deadline_ns = ew_after(2 * EW_SECOND), .budget_ns = 5 * EW_SECOND);

	return ew_scope_finish(&scope, ew_spawn(&scope, work, root));
}

static int program(void *unused)
{
	struct node quick = { "quick", EW_SECOND / 2, EW_SECOND, 0, { NULL } };
	struct node slow = { "slow", 3600 * EW_SECOND, EW_SECOND, 0, { NULL } };
	struct node patient = { "patient", 3 * EW_SECOND, 10 * EW_SECOND, 0, { NULL } };
	struct node left = { "left", EW_SECOND / 2, EW_SECOND, 0, { &quick, &slow } };
	struct node right = { "right", 3600 * EW_SECOND, 10 * EW_SECOND, 0, { &patient } };
	struct node root = { "root", EW_SECOND / 2, EW_SECOND, EW_SECOND, { &left, &right } };
	int r;

	(void)unused;
	began_ns = ew_now();
	r = request(&root);
	say("request", r == -ETIMEDOUT ? "-ETIMEDOUT, and nothing is left" : "?");
	return r == -ETIMEDOUT ? 0 : r;
}

int main(void)
{
	struct ew_run_options options = { .workers_count = 1, .virtual_time = true };

	return ew_run(&options, program, NULL) < 0;
}
