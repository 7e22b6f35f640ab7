/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Random programs against a model: trees of tasks, scopes, shields and endings, with deadlines, budgets, reserves,
 * policies, cancels, panics and tasks that may be dropped, drawn from a seed under virtual time.
 *
 * The model is one chain for each task, innermost first, of what it has declared; a task's own node leads on to the
 * scope that it was spawned in. It knows no timers and spreads nothing: whether something is cancelled, and until when
 * an ending may last, it finds by walking outwards. Checked are: each ending once, newest first, in its time, and with
 * the time that was reserved for it; children before their scope; a refusal exactly where something is cancelled; the
 * result of each scope; the end of everything within the budget of what was cancelled.
 *
 * The clock may leap ahead, as for a process that was stopped. Nothing can be seen while it does, so what was to happen by
 * then happens at its end, and a budget that begins then is a whole one.
 *
 * EW_LADDER_SEED=N runs one program, EW_LADDER_PROGRAMS=N so many.
 */

#include "core.h"
#include "task/worker.h"

#define NODES_MAX     4096
#define DEPTH_MAX     5
#define TASKS_MAX     40
#define PROGRAMS      400
#define UNIT_NS	      (100 * EW_MILLISECOND)
#define SLACK_NS      (60 * EW_MILLISECOND) /* ticks of the wheel, and what refusals cost */
#define TICK_NS	      (3 * EW_MILLISECOND)
#define RUN_BUDGET_NS (20 * EW_SECOND)
#define LEAPS_MAX     256
#define LEAP_DOUBLED  26 /* times at most: from a millisecond to nine hours */

enum kind { TASK, SCOPE, SHIELD, CLOSE, ENDING };

struct node {
	enum kind kind;
	struct node *outer;
	struct node *task;
	int64_t made_ns;

	/* TASK */
	struct node *newest;
	int result;
	unsigned no_drop;
	bool droppable, panicked, returned, ended;

	/* SCOPE; deadline_ns 0: none */
	struct ew_scope *scope;
	int64_t deadline_ns;
	enum ew_policy policy;
	enum ew_reason reason;
	int64_t cancelled_ns;
	unsigned living, cut;
	int first_error;
	bool succeeded, open;

	/* SCOPE, SHIELD, CLOSE and ENDING */
	int64_t budget_ns;
	int64_t end_ns; /* of a SHIELD or a CLOSE, without what ladders take off */

	/* ENDING */
	int64_t reserve_ns, began_ns;
	bool armed, by_name;
	unsigned closed, aborted;
	struct ew_resource resource;
	struct ew_resource_type type;
};

static struct {
	uint64_t seed, state;
	struct node nodes[NODES_MAX];
	unsigned nodes_count, tasks_count;
	struct node *root;
	bool leaps;
	struct leap {
		int64_t from_ns, to_ns;
	} leapt[LEAPS_MAX];
	unsigned leaps_count;
} program;

static unsigned draw(unsigned bound)
{
	program.state ^= program.state << 13;
	program.state ^= program.state >> 7;
	program.state ^= program.state << 17;
	return (unsigned)(program.state * UINT64_C(0x2545F4914F6CDD1D) >> 33) % bound;
}

static int64_t draw_ns(unsigned units)
{
	return (1 + (int64_t)draw(units)) * UNIT_NS + (int64_t)draw(40) * EW_MILLISECOND;
}

/* ---- a clock that leaps ---- */

static void leap(void)
{
	struct leap *leap = &program.leapt[program.leaps_count];

	if (!program.leaps || program.leaps_count == LEAPS_MAX || draw(8))
		return;
	program.leaps_count++;
	leap->from_ns = ew_now();
	ew__virtual_now_ns += 1 + (int64_t)draw(1000000) * ((int64_t)1 << draw(LEAP_DOUBLED));
	leap->to_ns = ew_now();
}

/* When @at_ns can be acted upon, if that takes @within_ns: not before the end of a leap that comes in between. */
static int64_t after_leaps(int64_t at_ns, int64_t within_ns)
{
	const struct leap *leap;

	for (leap = program.leapt; leap < program.leapt + program.leaps_count; leap++)
		if (at_ns < leap->to_ns && at_ns + within_ns >= leap->from_ns)
			at_ns = leap->to_ns;
	return at_ns;
}

/* The time of what the library has seen: it looks once a turn. */
static int64_t seen_ns(void)
{
	return ew__worker->now_ns;
}

/* Whether now is no later than that, as well as it can be known. */
static bool is_by(int64_t latest_ns)
{
	return ew_now() <= after_leaps(latest_ns, SLACK_NS) + SLACK_NS;
}

#define CHECK(condition)                                                                           \
	do {                                                                                       \
		if (!(condition))                                                                  \
			ew_test_fail(__FILE__, __LINE__, "EW_LADDER_SEED=%llu: %s",                \
				     (unsigned long long)program.seed, #condition);                \
	} while (0)

static struct node *make(enum kind kind, struct node *task)
{
	struct node *node = &program.nodes[program.nodes_count++];

	CHECK(program.nodes_count < NODES_MAX);
	*node = (struct node){ .kind = kind, .task = task, .made_ns = ew_now() };
	return node;
}

static struct node *push(enum kind kind, struct node *task)
{
	struct node *node = make(kind, task);

	node->outer = task->newest;
	task->newest = node;
	return node;
}

/* What is newer has ended; after a panic nobody has said so. */
static void pop(struct node *node)
{
	struct node *newer = node->task->newest;

	for (;; newer = newer->outer) {
		CHECK(newer != node->task);
		CHECK(newer->kind != SCOPE || newer->living == 0);
		if (newer == node)
			break;
		CHECK(newer->kind != ENDING || !newer->armed);
		newer->open = false;
	}
	node->task->newest = node->outer;
}

static void cancel(struct node *scope, enum ew_reason reason, int64_t at_ns)
{
	if (scope->reason)
		return;
	scope->reason = reason;
	scope->cancelled_ns = at_ns;
}

/*
 * Deadlines that have passed; within a tick of the wheel the library says whether it has seen it. And a task that has
 * been ended where it stood does not say that it leaves its scopes.
 */
static void look_at_deadline(struct node *scope)
{
	int64_t now_ns = ew_now();

	if (scope->open && !scope->reason && scope->task &&
	    (scope->task->panicked || scope->task->droppable) &&
	    ew_scope_reason(scope->scope) == EW_REASON_LEFT)
		cancel(scope, EW_REASON_LEFT, scope->scope->origin.at_ns);
	if (!scope->open || scope->reason || !scope->deadline_ns || now_ns < scope->deadline_ns)
		return;
	if (seen_ns() > scope->deadline_ns + TICK_NS ||
	    ew_scope_reason(scope->scope) == EW_REASON_DEADLINE)
		cancel(scope, EW_REASON_DEADLINE, scope->deadline_ns);
}

enum answer { NO, YES, MAYBE };

/* What holds a cancel back is over by itself, or may be over because a ladder beyond it is. */
static enum answer is_over(struct node *shield)
{
	enum answer answer = NO;
	struct node *node;
	int64_t now_ns = ew_now();

	for (node = shield; node; node = node->outer) {
		if (node->kind == SHIELD || node->kind == CLOSE) {
			if (seen_ns() > node->end_ns + TICK_NS)
				return YES;
			/* Reserves of what is declared inside it shorten another one inside it. */
			if (node != shield || now_ns >= node->end_ns)
				answer = MAYBE;
		} else if (node->kind == SCOPE) {
			look_at_deadline(node);
			if (node->reason && node->budget_ns)
				answer = MAYBE;
		}
	}
	return answer;
}

static enum answer is_cancelled(struct node *node)
{
	for (; node; node = node->outer) {
		if (node->kind == SHIELD || node->kind == CLOSE)
			return is_over(node);
		if (node->kind != SCOPE)
			continue;
		look_at_deadline(node);
		if (node->reason)
			return YES;
	}
	return NO;
}

/* On the last rung, outside of endings. */
static bool may_be_dropped(const struct node *task)
{
	const struct node *node;

	for (node = task->newest; node != task; node = node->outer)
		if (node->kind == CLOSE)
			return false;
	return task->droppable && !task->no_drop;
}

/* A suspending call, and whether it was right to refuse. */
static int rest(struct node *task, int64_t duration_ns)
{
	bool drops = ew_cancel_rung() == EW_RUNG_FORCE && may_be_dropped(task);
	enum answer before = is_cancelled(task->newest);
	int r;

	leap();
	r = duration_ns ? ew_sleep(duration_ns) : ew_yield();
	CHECK(r == 0 || r == -ECANCELED);
	CHECK(!drops);
	if (r == 0)
		CHECK(before != YES);
	else
		CHECK(is_cancelled(task->newest) != NO);
	return r;
}

/* When the ladder of a cancelled scope is over for what leaves @reserves_ns to others; not before the cancel. */
static int64_t ladder_end(const struct node *scope, int64_t reserves_ns)
{
	int64_t spare_ns = scope->budget_ns - reserves_ns;

	return after_leaps(scope->cancelled_ns, TICK_NS) + (spare_ns > 0 ? spare_ns : 0);
}

/* Until when an ending may last, by what is around it. */
static int64_t latest_end(const struct node *ending)
{
	int64_t latest_ns = EW_NEVER, end_ns, reserves_ns = 0;
	const struct node *node;

	for (node = ending->outer; node; node = node->outer) {
		if (node->kind == ENDING && node->armed)
			reserves_ns += node->reserve_ns;
		if (node->kind == SHIELD || node->kind == CLOSE)
			end_ns = node->end_ns - reserves_ns;
		else if (node->kind == SCOPE && node->reason && node->budget_ns)
			end_ns = ladder_end(node, reserves_ns);
		else
			continue;
		if (end_ns < latest_ns)
			latest_ns = end_ns;
	}
	return latest_ns;
}

/* What was declared before a cancel has its reserve when its turn comes, whatever newer ones do. */
static void check_reserve(const struct node *ending)
{
	int64_t reserves_ns = ending->reserve_ns;
	const struct node *node;

	for (node = ending->outer; node; node = node->outer) {
		if (node->kind == SHIELD || node->kind == CLOSE)
			return;
		if (node->kind == ENDING && node->armed)
			reserves_ns += node->reserve_ns;
		if (node->kind != SCOPE || !node->reason || !node->budget_ns ||
		    node->cancelled_ns <= ending->made_ns)
			continue;
		CHECK(is_by(ladder_end(node, reserves_ns)));
	}
}

static void begin_ending(struct node *ending)
{
	struct node *node;

	CHECK(ending->armed);
	for (node = ending; node; node = node->outer)
		if (node->kind == SCOPE)
			look_at_deadline(node);
	ending->armed = false;
	ending->began_ns = ew_now();
	if (ending->by_name)
		return;
	check_reserve(ending);
	pop(ending);
	ending->task->newest = ending; /* its node stands until its block is left */
}

static void check_in_time(const struct node *ending)
{
	int64_t latest_ns = latest_end(ending);

	if (ending->began_ns + ending->budget_ns < latest_ns)
		latest_ns = ending->began_ns + ending->budget_ns;
	if (latest_ns < ending->began_ns)
		latest_ns = ending->began_ns;
	CHECK(is_by(latest_ns));
}

static int steps(struct node *task, int depth);

static int close_node(void *argument)
{
	struct node *ending = argument, *task = ending->task, *stretch;
	int64_t end_ns, now_ns = ew_now();
	int r = 0;

	begin_ending(ending);
	end_ns = latest_end(ending);
	stretch = push(CLOSE, task);
	stretch->budget_ns = ending->budget_ns;
	stretch->end_ns = now_ns + ending->budget_ns;
	CHECK(end_ns > now_ns - SLACK_NS); /* with no time left it is not called */
	if (draw(4) == 0)
		r = steps(task, DEPTH_MAX - 2);
	else if (draw(3))
		r = rest(task, draw_ns(30));
	pop(stretch);
	check_in_time(ending);
	if (r != -ECANCELED)
		ending->closed++;
	return r;
}

static void abort_node(void *argument)
{
	struct node *ending = argument, *node;

	if (ending->armed)
		begin_ending(ending);
	/* Its close has panicked: that stands here no more. */
	for (node = ending->task->newest; !ending->by_name && node != ending; node = node->outer) {
		CHECK(node->kind != ENDING || !node->armed);
		CHECK(node->kind != CLOSE || ending->task->panicked);
	}
	if (!ending->by_name)
		ending->task->newest = ending;
	check_in_time(ending);
	ending->aborted++;
}

static struct node *push_ending(struct node *task)
{
	struct node *ending = push(ENDING, task);

	ending->budget_ns = draw_ns(40);
	ending->reserve_ns = draw(3) ? 0 : draw_ns(10);
	ending->armed = true;
	return ending;
}

static void pop_ended(struct node *ending)
{
	CHECK(!ending->armed);
	pop(ending);
}

static int in_guard(struct node *task, int depth)
{
	struct node *ending = push_ending(task);
	int r = 0;

	{
		EW_GUARD(guard, ending, .close = close_node, .abort = abort_node,
			 .budget_ns = ending->budget_ns, .reserve_ns = ending->reserve_ns);

		r = steps(task, depth);
		switch (draw(6)) {
		case 0:
			ew_guard_disarm(&guard);
			ending->armed = false;
			ending->closed++;
			break;
		case 1:
			ending->by_name = true;
			(void)!ew_guard_run(&guard);
			break;
		}
	}
	pop_ended(ending);
	return r;
}

static int close_item(void *resource)
{
	struct node *ending = (struct node *)((char *)resource - offsetof(struct node, resource));
	int r = close_node(ending);

	if (r != -ECANCELED)
		ew_resource_deinit(resource);
	return r;
}

static void abort_item(void *resource)
{
	struct node *ending = (struct node *)((char *)resource - offsetof(struct node, resource));

	abort_node(ending);
	ew_resource_deinit(resource);
}

static int in_place(struct node *task, int depth)
{
	struct node *ending = push_ending(task);
	int r;

	ending->type = (struct ew_resource_type){ .name = "item",
						  .close = close_item,
						  .abort = abort_item,
						  .budget_ns = ending->budget_ns,
						  .reserve_ns = ending->reserve_ns };
	{
		EW_OWN(ew_resource, owned);

		ew_resource_init(&ending->resource, &ending->type, EW_SITE("item"));
		owned = &ending->resource;
		r = steps(task, depth);
		if (draw(5) == 0) {
			ending->by_name = true;
			(void)!ew_close(&owned);
		}
	}
	pop_ended(ending);
	return r;
}

static int in_shield(struct node *task, int depth)
{
	struct node *node = push(SHIELD, task);
	int r;

	node->budget_ns = draw_ns(30);
	node->end_ns = ew_now() + node->budget_ns;
	{
		EW_SHIELD(shield, .budget_ns = node->budget_ns);

		r = steps(task, depth);
	}
	pop(node);
	return r;
}

/* The task is over: what its scope makes of that. */
static void end_task(struct node *task)
{
	struct node *scope = task->outer;
	enum answer answer = is_cancelled(scope);

	CHECK(!task->ended);
	task->ended = true;
	CHECK(task->returned || task->panicked || task->droppable);
	CHECK(scope->living > 0);
	scope->living--;
	if (task->result >= 0 && scope->policy != EW_POLICY_FIRST_SUCCESS)
		return;
	if (answer == MAYBE)
		answer = ew_scope_is_cancelled(scope->scope) ? YES : NO;
	if (task->result == -ECANCELED && answer == YES) {
		scope->cut++;
	} else if (task->result >= 0) {
		scope->succeeded = true;
		cancel(scope, EW_REASON_CHILD, ew_now());
	} else if (scope->policy != EW_POLICY_INDEPENDENT && !scope->first_error) {
		scope->first_error = task->result;
		if (scope->policy == EW_POLICY_FIRST_ERROR)
			cancel(scope, EW_REASON_CHILD, ew_now());
	}
}

static int task_over(void *argument)
{
	struct node *task = argument;

	while (task->newest != task) {
		task->newest->open = false;
		pop(task->newest);
	}
	end_task(task);
	return 0;
}

static void task_over_at_once(void *argument)
{
	(void)task_over(argument);
}

static int live(void *argument)
{
	struct node *task = argument;
	EW_GUARD(over, task, .close = task_over, .abort = task_over_at_once);
	int r = steps(task, 1);

	if (r == 0 && draw(8) == 0)
		r = -EIO;
	task->result = r;
	task->returned = true;
	return r;
}

static void spawn(struct node *scope)
{
	enum answer answer = is_cancelled(scope);
	struct node *task;
	int r;

	if (program.tasks_count >= TASKS_MAX)
		return;
	task = make(TASK, NULL);
	task->task = task;
	task->newest = task;
	task->outer = scope;
	task->droppable = draw(3) == 0;
	task->result = -ENOTRECOVERABLE;
	r = ew_spawn(scope->scope, live, task, .droppable = task->droppable);
	CHECK(r == 0 || r == -ECANCELED);
	CHECK(r == 0 ? answer != YES : answer != NO);
	if (r < 0)
		return;
	program.tasks_count++;
	scope->living++;
}

static bool was_cut_from_outside(const struct node *scope)
{
	struct node *node;

	for (node = scope->outer; node; node = node->outer) {
		if (node->kind == SHIELD || node->kind == CLOSE)
			return false;
		if (node->kind != SCOPE)
			continue;
		look_at_deadline(node);
		if (node->reason && node->cancelled_ns < scope->deadline_ns)
			return true;
	}
	return false;
}

static int how_cancelled(const struct node *scope)
{
	if (scope->reason == EW_REASON_DEADLINE && !was_cut_from_outside(scope))
		return -ETIMEDOUT;
	return -ECANCELED;
}

static int children_say(const struct node *scope)
{
	if (scope->succeeded)
		return 0;
	if (scope->first_error)
		return scope->first_error;
	return scope->cut ? how_cancelled(scope) : 0;
}

static int expected_result(const struct node *scope, int r)
{
	int children = children_say(scope);

	if (r < 0 && r != -ECANCELED)
		return r;
	if (r == -ECANCELED && children == 0)
		return scope->succeeded ? 0 : how_cancelled(scope);
	return children < 0 ? children : r;
}

/* A shield that a ladder ends may make a timeout of the scopes in it a cancel, and the model does not know when. */
static bool is_sure(const struct node *scope)
{
	const struct node *node;

	for (node = scope->outer; node; node = node->outer)
		if (node->kind == SHIELD || node->kind == CLOSE)
			return false;
	return true;
}

static int finish(struct node *node, struct ew_scope *scope, int r)
{
	int got, expected;

	if (r < 0 && node->living)
		cancel(node, EW_REASON_LEFT, ew_now());
	got = ew_scope_finish(scope, r);
	look_at_deadline(node);
	expected = expected_result(node, r);
	CHECK(got == expected || (!is_sure(node) && got == -ECANCELED && expected == -ETIMEDOUT));
	return got;
}

static int in_scope(struct node *task, int depth)
{
	struct node *node = push(SCOPE, task);
	unsigned children = draw(4);
	int r;

	node->deadline_ns = draw(3) ? 0 : ew_now() + draw_ns(50);
	node->budget_ns = draw(2) ? 0 : draw_ns(40);
	node->policy = (enum ew_policy)draw(3);
	{
		EW_SCOPE(scope, .deadline_ns = node->deadline_ns, .budget_ns = node->budget_ns,
			 .policy = node->policy);

		node->scope = &scope;
		node->open = true;
		while (children--)
			spawn(node);
		r = steps(task, depth);
		CHECK(ew_scope_children_count(&scope) == node->living);
		look_at_deadline(node);
		CHECK(ew_scope_reason(&scope) == node->reason);
		switch (draw(3)) {
		case 0: r = finish(node, &scope, r); break;
		case 1:
			(void)!ew_scope_join(&scope);
			CHECK(node->living == 0);
			break;
		default:
			if (node->living)
				cancel(node, EW_REASON_LEFT, ew_now());
		}
	}
	node->open = false;
	CHECK(node->living == 0);
	if (node->reason && node->budget_ns && node->cancelled_ns >= node->made_ns)
		CHECK(is_by(ladder_end(node, 0)));
	pop(node);
	return r;
}

static void cancel_something(void)
{
	struct node *node = &program.nodes[draw(program.nodes_count)];

	if (node->kind != SCOPE || !node->open || !node->scope->open)
		return;
	look_at_deadline(node);
	ew_scope_cancel(node->scope, EW_REASON_REQUESTED);
	cancel(node, EW_REASON_REQUESTED, ew_now());
}

static int in_foreign_code(struct node *task, int depth)
{
	EW_NO_DROP();
	int r;

	task->no_drop++;
	r = steps(task, depth);
	task->no_drop--;
	return r;
}

static int step(struct node *task, int depth)
{
	unsigned what = draw(depth < DEPTH_MAX ? 100 : 40);

	if (what < 30)
		return rest(task, draw_ns(20));
	if (what < 34)
		return rest(task, 0);
	if (what < 37)
		cancel_something();
	else if (what == 37 && !task->no_drop) {
		task->panicked = true;
		ew_panic("drawn");
	} else if (what == 38)
		return -EIO;
	else if (what < 40)
		return 0;
	else if (what < 58)
		return in_guard(task, depth + 1);
	else if (what < 68)
		return in_place(task, depth + 1);
	else if (what < 88)
		return in_scope(task, depth + 1);
	else if (what < 96)
		return in_shield(task, depth + 1);
	else
		return in_foreign_code(task, depth + 1);
	return 0;
}

/* Most take a refusal for what it is; some go on for a while. */
static int steps(struct node *task, int depth)
{
	unsigned count = 1 + draw(4);
	int r = 0;

	while (count-- && (r == 0 || draw(4) == 0))
		r = step(task, depth);
	return r;
}

static int run_program(void *argument)
{
	struct node *task = make(TASK, NULL);
	int64_t shutdown_ns = ew_now() + draw_ns(80);

	(void)argument;
	task->task = task;
	task->newest = task;
	task->outer = program.root;
	{
		struct node *node = push(SCOPE, task);
		EW_SCOPE(scope, .policy = EW_POLICY_INDEPENDENT);
		int i;

		node->scope = &scope;
		node->policy = EW_POLICY_INDEPENDENT;
		node->open = true;
		for (i = 0; i < 3; i++)
			spawn(node);
		(void)!ew_sleep_until(shutdown_ns);
		ew_shutdown();
		cancel(program.root, EW_REASON_SHUTDOWN, ew_now());
		(void)!ew_scope_join(&scope);
		CHECK(node->living == 0);
		node->open = false;
	}
	CHECK(is_by(ladder_end(program.root, 0)));
	return 0;
}

static void check_endings(void)
{
	const struct node *node;
	unsigned i;

	for (i = 0; i < program.nodes_count; i++) {
		node = &program.nodes[i];
		if (node->kind == ENDING)
			CHECK(node->closed + node->aborted == 1);
	}
}

static void run_seed(uint64_t seed, bool leaps)
{
	struct ew_run_options options = { .workers_count = 1,
					  .virtual_time = true,
					  .report = note_report,
					  .shutdown_budget_ns = RUN_BUDGET_NS };

	program.seed = seed;
	program.state = (seed + 1) * UINT64_C(0x9E3779B97F4A7C15);
	program.nodes_count = program.tasks_count = program.leaps_count = 0;
	program.leaps = leaps;
	reports.count = 0;
	program.root = make(SCOPE, NULL);
	program.root->budget_ns = RUN_BUDGET_NS - RUN_BUDGET_NS / 10;
	CHECK(ew_run(&options, run_program, NULL) == 0);
	check_endings();
	CHECK(!reported("no owner", NULL));
}

static void run_programs(bool leaps)
{
	const char *one = getenv("EW_LADDER_SEED"), *many = getenv("EW_LADDER_PROGRAMS");
	uint64_t seed, seeds_count = many ? strtoull(many, NULL, 10) : PROGRAMS;

	if (one) {
		run_seed(strtoull(one, NULL, 10), leaps);
		return;
	}
	for (seed = 0; seed < seeds_count; seed++)
		run_seed(seed, leaps);
}

TEST(ladder_of_random_programs_is_that_of_the_model)
{
	run_programs(false);
}

TEST(ladder_of_random_programs_is_that_of_the_model_when_the_clock_leaps)
{
	run_programs(true);
}

TEST_MAIN()
