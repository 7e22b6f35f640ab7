/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A token passed through library code. A scope is its own cancel token: from any thread one may ask whether it is
 * cancelled, as long as it is open. Here a library that knows nothing of tasks computes on a thread of the pool.
 */

#include <endwell/endwell.h>
#include <errno.h>
#include <stdio.h>

/* ---- a library: it gets a question to ask, and never hears of Endwell ---- */

struct search {
	bool (*should_stop)(const void *token);
	const void *token;
	_Atomic unsigned long tried;
};

/* Looks for what is not there: it ends when it is told to. */
static int search_run(void *argument)
{
	struct search *search = argument;

	while (!search->should_stop(search->token))
		search->tried++;
	return search->tried > 0 ? -EINTR : 0;
}

/* ---- the program ---- */

static bool is_cancelled(const void *token)
{
	return ew_scope_is_cancelled(token);
}

/* A call that a thread has begun is waited for, cancelled or not: the token is what makes it end. */
static int look(void *argument)
{
	struct search *search = argument;
	int result, r = ew_offload(search_run, search, &result);

	return r < 0 ? r : result;
}

static int program(void *unused)
{
	struct search search = { .should_stop = is_cancelled };
	EW_SCOPE(scope);
	int r;

	(void)unused;
	search.token = &scope;
	r = ew_spawn(&scope, look, &search);
	while (r == 0 && search.tried == 0)
		r = ew_sleep(EW_MILLISECOND); /* a thread takes it up */
	if (r < 0)
		return r;
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	r = ew_scope_join(&scope);
	printf("the library %s\n", r == -EINTR ? "was stopped by its token" : "ended by itself");
	return r == -EINTR ? 0 : r;
}

int main(void)
{
	return ew_run(NULL, program, NULL) < 0;
}
