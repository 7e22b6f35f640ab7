/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A race: two sources are asked, and the first answer is enough. The other question is cancelled and awaited, and
 * what became of it is kept.
 *
 * The sources are played by ew_sleep().
 */

#include <endwell/endwell.h>
#include <stdio.h>
#include <string.h>

struct source {
	const char *name;
	int64_t takes_ns;
};

static int ask(void *argument)
{
	struct source *source = argument;

	return ew_sleep(source->takes_ns);
}

static int program(void *argument)
{
	struct source *sources = argument;
	struct ew_child children[2] = { 0 };
	int r = 0, i;

	EW_SCOPE(scope, .policy = EW_POLICY_FIRST_SUCCESS, .deadline_ns = ew_after(30 * EW_SECOND));

	for (i = 0; i < 2 && r == 0; i++)
		r = ew_spawn(&scope, ask, &sources[i], .child = &children[i]);
	r = ew_scope_finish(&scope, r);

	for (i = 0; i < 2; i++)
		printf("%s: %s\n", sources[i].name,
		       children[i].result < 0 ? strerror(-children[i].result) : "answered");
	return r;
}

int main(void)
{
	struct source sources[] = {
		{ .name = "primary", .takes_ns = 3600 * EW_SECOND },
		{ .name = "backup", .takes_ns = 20 * EW_MILLISECOND },
	};

	return ew_run(NULL, program, sources) < 0;
}
