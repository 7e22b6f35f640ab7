/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The simulated driver: no kernel, and no time but its own. What happens when is an agenda, a heap by the virtual
 * clock; what is due at the same time comes in an order by lot. An operation is in one place at a time:
 *
 *   tried     on the agenda: at that time it is attempted, and takes effect or joins a line of its object
 *   waiting   in the line of an object, whose next change puts it on the agenda again
 *   ending    on the agenda, with its result: it has had its effect, and nobody knows yet
 *   stopping  on the agenda, after a cancel: at that time it ends without an effect, or, by lot, is attempted once
 *             more and with a result was faster than the cancel
 *
 * A visit is a turn of the worker, and a turn takes a moment, so that tasks which only yield do not keep the clock
 * standing. When the worker has nothing to do the clock jumps to what is next on the agenda, or to the worker's next
 * deadline. What meets at the same time is decided by lot, too.
 */

#include "driver/sim/sim.h"

#include "driver/sim/filesystem.h"
#include "driver/system.h"
#include "task/worker.h"

#include <endwell/clock.h>
#include <endwell/sim.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TURN_NS		EW_MICROSECOND
#define SOON_NS		(20 * EW_MICROSECOND)
#define LONG_NS		EW_SECOND
#define CALL_NS		(200 * EW_MICROSECOND)
#define LEAP_NS		EW_MILLISECOND /* the longest of the shortest */
#define LEAP_MAGNITUDES 26	       /* each of twice the length: up to nine hours */
#define LATE_OF_1024	256	       /* ends are noticed later than they are */
#define STOPPED_OF_1024 512	       /* cancels are faster than what they stop */
#define FAILING_OF_1024 256	       /* syncs, until one has failed */
#define NOT_ON_AGENDA	UINT32_MAX
#define TASKS_NAMED_MAX 16

__thread struct ew__sim_plan *ew__sim_plan;
__thread bool ew__sim_allocating;
__thread struct ew__sim *ew__sim;

static struct ew__sim *sim_of(struct ew__driver *driver)
{
	return ew__container_of(driver, struct ew__sim, driver);
}

/* ---- chance ---- */

/* splitmix64 */
static uint64_t mix(uint64_t value)
{
	value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
	value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
	return value ^ (value >> 31);
}

uint64_t ew__sim_draw_from(uint64_t *chance)
{
	return mix(*chance += 0x9e3779b97f4a7c15u);
}

static uint64_t draw_any(struct ew__sim *sim, enum ew__sim_concern concern)
{
	return ew__sim_draw_from(&sim->chance[concern]);
}

uint64_t ew__sim_draw(struct ew__sim *sim, enum ew__sim_concern concern, uint64_t below)
{
	return draw_any(sim, concern) % below;
}

bool ew__sim_happens(struct ew__sim *sim, enum ew__sim_concern concern, unsigned strength)
{
	return strength && ew__sim_draw(sim, concern, 1024) < strength;
}

bool ew__sim_fails(struct ew__sim *sim, unsigned strength)
{
	bool fails = ew__sim_happens(sim, EW__SIM_FAULTS, strength);

	sim->faults_made += fails;
	return fails;
}

void ew__sim_calm(struct ew__sim *sim)
{
	sim->strengths = (struct ew__sim_strengths){ 0 };
}

/* Each seed has other faults, and some have none. All are drawn, so that a set does not shift what is drawn for others. */
static void draw_strengths(struct ew__sim *sim, unsigned faults)
{
	static const unsigned of_all[] = { 0, 64, 512, 1024 }, of_few[] = { 0, 2, 8, 32 };
	unsigned drawn[7], i;

	for (i = 0; i < 7; i++)
		drawn[i] = (unsigned)ew__sim_draw(sim, EW__SIM_STRENGTH, 4);
	sim->strengths = (struct ew__sim_strengths){
		.short_counts = faults & EW_SIM_SHORT ? of_all[drawn[0]] : 0,
		.delays = faults & EW_SIM_DELAYS ? of_few[drawn[1]] : 0,
		.errors = faults & EW_SIM_ERRORS ? of_few[drawn[2]] : 0,
		.resets = faults & EW_SIM_RESETS ? of_few[drawn[3]] : 0,
		.descriptors = faults & EW_SIM_DESCRIPTORS ? of_few[drawn[4]] : 0,
		.files = faults & EW_SIM_FILES ? of_few[drawn[5]] : 0,
		.leaps = faults & EW_SIM_LEAPS ? of_few[drawn[6]] : 0,
	};
}

void ew__sim_note(struct ew__sim *sim, uint64_t what, uint64_t about, int64_t result)
{
	uint64_t now = (uint64_t)(ew__virtual_now_ns - sim->began_ns);

	if (sim->traced)
		fprintf(stderr, "endwell: simulation: %llu ns: operation %u, object %u: %lld\n",
			(unsigned long long)now, (unsigned)what, (unsigned)about,
			(long long)result);
	sim->trace_hash =
		mix(sim->trace_hash ^ mix(what << 32 ^ about) ^ mix((uint64_t)result) ^ now);
}

/* ---- the agenda ---- */

static bool is_before(const struct ew__sim_event *one, const struct ew__sim_event *other)
{
	return one->due_ns < other->due_ns ||
	       (one->due_ns == other->due_ns && one->tie < other->tie);
}

static void put_at(struct ew__sim *sim, unsigned at, const struct ew__sim_event *event)
{
	sim->agenda[at] = *event;
	event->op->slot = at;
}

static void sift_up(struct ew__sim *sim, unsigned at, const struct ew__sim_event *event)
{
	for (; at > 0 && is_before(event, &sim->agenda[(at - 1) / 2]); at = (at - 1) / 2)
		put_at(sim, at, &sim->agenda[(at - 1) / 2]);
	put_at(sim, at, event);
}

static void sift_down(struct ew__sim *sim, unsigned at, const struct ew__sim_event *event)
{
	unsigned child;

	while ((child = 2 * at + 1) < sim->agenda_count) {
		if (child + 1 < sim->agenda_count &&
		    is_before(&sim->agenda[child + 1], &sim->agenda[child]))
			child++;
		if (!is_before(&sim->agenda[child], event))
			break;
		put_at(sim, at, &sim->agenda[child]);
		at = child;
	}
	put_at(sim, at, event);
}

void *ew__sim_allocate(void *memory, size_t bytes)
{
	ew__sim_allocating = true;
	memory = realloc(memory, bytes);
	ew__sim_allocating = false;
	ew_assert(memory);
	return memory;
}

static void grow_agenda(struct ew__sim *sim)
{
	sim->agenda_room = sim->agenda_room ? 2 * sim->agenda_room : 64;
	sim->agenda = ew__sim_allocate(sim->agenda, sim->agenda_room * sizeof(*sim->agenda));
}

void ew__sim_plan_in(struct ew__sim *sim, struct ew__op *op, int64_t after_ns)
{
	const struct ew__sim_event event = {
		.due_ns = ew__virtual_now_ns + after_ns,
		.tie = draw_any(sim, EW__SIM_ORDER),
		.op = op,
	};

	if (sim->agenda_count == sim->agenda_room)
		grow_agenda(sim);
	sift_up(sim, sim->agenda_count++, &event);
}

void ew__sim_unplan(struct ew__sim *sim, struct ew__op *op)
{
	unsigned at = op->slot;
	struct ew__sim_event last;

	if (at == NOT_ON_AGENDA)
		return;
	op->slot = NOT_ON_AGENDA;
	last = sim->agenda[--sim->agenda_count];
	if (last.op == op)
		return;
	if (at > 0 && is_before(&last, &sim->agenda[(at - 1) / 2]))
		sift_up(sim, at, &last);
	else
		sift_down(sim, at, &last);
}

static int64_t soon(struct ew__sim *sim)
{
	int64_t delay_ns = (int64_t)ew__sim_draw(sim, EW__SIM_DELAYS, SOON_NS);

	if (ew__sim_happens(sim, EW__SIM_DELAYS, sim->strengths.delays))
		delay_ns += (int64_t)ew__sim_draw(sim, EW__SIM_DELAYS, LONG_NS);
	return delay_ns;
}

void ew__sim_try_again(struct ew__sim *sim, struct ew__op *op)
{
	ew__sim_plan_in(sim, op, soon(sim));
}

/* ---- operations ---- */

static void end(struct ew__sim *sim, struct ew__op *op)
{
	ew__sim_note(sim, op->code, ew__sim_object_number(sim, op), op->result);
	ew__sim_object_let_go(sim, op);
	ew__driver_op_ended(&sim->driver, op);
}

/* It has had its effect. A call takes as long as it takes; else what has ended may be heard of later. */
static void has_ended(struct ew__sim *sim, struct ew__op *op, int result)
{
	int64_t after_ns = 0;

	op->result = result;
	op->ended = true;
	if (op->code == EW__OP_CALL)
		after_ns = soon(sim) + (int64_t)ew__sim_draw(sim, EW__SIM_DELAYS, CALL_NS);
	else if (ew__sim_happens(sim, EW__SIM_DELAYS, LATE_OF_1024))
		after_ns = soon(sim);
	if (after_ns > 0)
		ew__sim_plan_in(sim, op, after_ns);
	else
		end(sim, op);
}

static int carry_out(struct ew__sim *sim, struct ew__op *op)
{
	if (op->code != EW__OP_CALL)
		return ew__sim_attempt(sim, op);
	op->event(op, 0);
	return 0;
}

static void plan_stop(struct ew__sim *sim, struct ew__op *op)
{
	if (op->link)
		ew__sim_object_leave(sim, op);
	ew__sim_unplan(sim, op);
	ew__sim_plan_in(sim, op, soon(sim));
}

/* What reports by event() has no result of its own. */
static bool may_be_faster(struct ew__sim *sim, const struct ew__op *op)
{
	return (op->code == EW__OP_CALL || !op->event) &&
	       !ew__sim_happens(sim, EW__SIM_CANCELS, STOPPED_OF_1024);
}

static void stop(struct ew__sim *sim, struct ew__op *op)
{
	int r = may_be_faster(sim, op) ? carry_out(sim, op) : EW__SIM_WAITS;

	if (r == EW__SIM_WAITS && op->link)
		ew__sim_object_leave(sim, op);
	has_ended(sim, op, r == EW__SIM_WAITS ? -ECANCELED : r);
}

static void try(struct ew__sim *sim, struct ew__op *op)
{
	int r = carry_out(sim, op);

	if (r != EW__SIM_WAITS)
		has_ended(sim, op, r);
	else if (op->cancel_wanted)
		plan_stop(sim, op); /* by its own event */
}

static void give_up(const struct ew__sim *sim, const char *why)
{
	const struct ew_task *task = ew__worker ? ew__worker->tasks : NULL;
	unsigned named;

	fprintf(stderr, "endwell: simulation: %s; EW_SIM_SEED=%llu\n", why,
		(unsigned long long)sim->seed);
	for (named = 0; task && named < TASKS_NAMED_MAX; task = task->worker_next) {
		if (!task->scope)
			continue;
		named++;
		fprintf(stderr, "endwell: simulation: task %s (%s:%d) waits for %s\n",
			task->site->name, task->site->file, task->site->line,
			task->wait ? task->waiting_for : "its turn");
	}
	abort();
}

/* There is no such descriptor, or it is none that this could be about. */
static void refuse(struct ew__sim *sim, struct ew__op *op)
{
	ew__sim_note(sim, op->code, 0, op->result);
	ew__driver_op_ended(&sim->driver, op);
}

static void submit_queued(struct ew__sim *sim)
{
	struct ew__op *op;

	while ((op = sim->driver.queued.first)) {
		ew__op_line_remove(&sim->driver.queued, op);
		op->state = EW__OP_SUBMITTED;
		op->slot = NOT_ON_AGENDA;
		if (++sim->operations == EW__SIM_OPERATIONS_MAX)
			give_up(sim, "it does not come to an end");
		if (op->code == EW__OP_CALL || ew__sim_object_hold(sim, op))
			ew__sim_plan_in(sim, op, soon(sim));
		else
			refuse(sim, op);
	}
}

static void do_what_is_due(struct ew__sim *sim)
{
	struct ew__op *op;

	while (sim->agenda_count > 0 && sim->agenda[0].due_ns <= ew__virtual_now_ns) {
		op = sim->agenda[0].op;
		ew__sim_unplan(sim, op);
		if (ew__sim_is_childs(op))
			op->event(op, 0);
		else if (op->ended)
			end(sim, op);
		else if (op->cancel_wanted)
			stop(sim, op);
		else
			try(sim, op);
	}
}

static bool comes_first(struct ew__sim *sim, int64_t deadline_ns)
{
	int64_t due_ns = sim->agenda_count > 0 ? sim->agenda[0].due_ns : EW_NEVER;

	if (due_ns == deadline_ns)
		return ew__sim_draw(sim, EW__SIM_ORDER, 2) == 0;
	return due_ns < deadline_ns;
}

/* Nothing will happen any more: unless somebody waits for the signal that comes then, that is the end. */
static void come_to_an_end(struct ew__sim *sim)
{
	if (!sim->last_signal || !ew__sim_raise(sim, sim->last_signal))
		give_up(sim, "all wait, and nothing can happen any more");
	if (sim->traced)
		fprintf(stderr, "endwell: simulation: all wait, and signal %d comes\n",
			sim->last_signal);
}

/* Of each magnitude as many: short ones meet budgets, and hours meet all that there is. */
static void leap(struct ew__sim *sim)
{
	int64_t longest_ns = LEAP_NS << ew__sim_draw(sim, EW__SIM_LEAPS, LEAP_MAGNITUDES);
	int64_t leap_ns = 1 + (int64_t)ew__sim_draw(sim, EW__SIM_LEAPS, (uint64_t)longest_ns);

	sim->faults_made++;
	ew__virtual_now_ns += leap_ns;
	if (sim->traced)
		fprintf(stderr, "endwell: simulation: the clock leaps ahead by %lld ns\n",
			(long long)leap_ns);
}

static void sim_visit(struct ew__driver *driver, int64_t deadline_ns)
{
	struct ew__sim *sim = sim_of(driver);

	sim->reported = false;
	ew__virtual_now_ns += TURN_NS;
	if (ew__sim_happens(sim, EW__SIM_LEAPS, sim->strengths.leaps))
		leap(sim);
	submit_queued(sim);
	do_what_is_due(sim);
	while (!driver->done.first && !sim->reported && ew__virtual_now_ns < deadline_ns) {
		if (sim->agenda_count == 0 && deadline_ns == EW_NEVER)
			come_to_an_end(sim);
		if (!comes_first(sim, deadline_ns)) {
			ew__virtual_now_ns = deadline_ns;
			return;
		}
		ew__virtual_now_ns = sim->agenda[0].due_ns;
		do_what_is_due(sim);
	}
}

static void sim_cancel(struct ew__driver *driver, struct ew__op *op)
{
	struct ew__sim *sim = sim_of(driver);

	/* In neither place: it is being attempted, and its own event asks. */
	if (op->link || op->slot != NOT_ON_AGENDA)
		plan_stop(sim, op);
}

static void sim_return_buffer(struct ew__driver *driver, unsigned number)
{
	struct ew__sim *sim = sim_of(driver);

	ew_assert(sim->free_count < EW__BUFFERS_COUNT);
	sim->free_buffers[sim->free_count++] = (uint16_t)number;
}

/* ---- the driver ---- */

static void tell_result(const struct ew__sim *sim)
{
	if (!ew__sim_plan)
		return;
	ew__sim_plan->trace_hash = sim->trace_hash;
	ew__sim_plan->operations = sim->operations;
	ew__sim_plan->faults_made = sim->faults_made;
	ew__sim_plan->virtual_ns = ew__virtual_now_ns - sim->began_ns;
}

static void sim_close(struct ew__driver *driver)
{
	struct ew__sim *sim = sim_of(driver);

	tell_result(sim);
	ew__sim_objects_deinit(sim);
	ew__sim_programs_free(sim);
	ew__sim = NULL;
	ew__driver_deinit(driver);
	free(sim->agenda);
	free(sim);
}

/* EW_SIM_SIGNAL=TERM: the program waits for that in the end. */
static int ask_for_signal(struct ew__sim *sim, char *why, size_t why_bytes)
{
	const char *text = secure_getenv("EW_SIM_SIGNAL");

	if (!text)
		return 0;
	sim->last_signal = ew__sim_signal_named(text, strlen(text));
	if (sim->last_signal)
		return 0;
	snprintf(why, why_bytes, "EW_SIM_SIGNAL=%.64s in the environment names no signal", text);
	return -EINVAL;
}

static int shown_bytes(const char *text, const char *ends)
{
	size_t length = strcspn(text, ends);

	return (int)(length < 64 ? length : 64);
}

/* EW_SIM_PROGRAMS: a line for each, PATH=SCRIPT. */
static int ask_for_programs(struct ew__sim *sim, char *why, size_t why_bytes)
{
	const char *text = secure_getenv("EW_SIM_PROGRAMS"), *script, *end, *wrong = NULL;

	for (; text && *text; text = *end ? end + 1 : end) {
		end = strchrnul(text, '\n');
		script = memchr(text, '=', (size_t)(end - text));
		if (script && ew__sim_program_add(sim, text, (size_t)(script - text), script + 1,
						  (size_t)(end - script - 1), &wrong) == 0)
			continue;
		snprintf(why, why_bytes,
			 "EW_SIM_PROGRAMS in the environment has no new PATH=SCRIPT in %.*s%s%.*s",
			 shown_bytes(text, "\n"), text, wrong ? "; no instruction: " : "",
			 wrong ? shown_bytes(wrong, ";\n") : 0, wrong ? wrong : "");
		return -EINVAL;
	}
	return 0;
}

/* What a program that is simulated as it is may find. */
static int ask_the_environment(struct ew__sim *sim, char *why, size_t why_bytes)
{
	int r = ew__sim_plan ? 0 : ask_for_signal(sim, why, why_bytes);

	return ew__sim_plan || r < 0 ? r : ask_for_programs(sim, why, why_bytes);
}

static void init_chance(struct ew__sim *sim)
{
	const char *text = secure_getenv("EW_SIM_SEED");
	unsigned i;

	sim->seed = ew__sim_plan ? ew__sim_plan->seed : text ? strtoull(text, NULL, 0) : 1;
	for (i = 0; i < EW__SIM_CONCERNS; i++)
		sim->chance[i] = mix(sim->seed + i * 0x632be59bd9b4e019u);
	draw_strengths(sim, ew__sim_plan ? ew__sim_plan->faults : 0);
	if (sim->filesystem && sim->filesystem->durability == EW_SIM_FAILING)
		sim->strengths.syncs = FAILING_OF_1024;
	sim->began_ns = ew__virtual_now_ns;
	sim->traced = secure_getenv("EW_SIM_TRACE") != NULL;
}

static int sim_open(struct ew__driver **ret_driver, char *why, size_t why_bytes)
{
	struct ew__sim *sim = calloc(1, sizeof(*sim));
	unsigned i;
	int r;

	if (!sim) {
		snprintf(why, why_bytes, "no memory for a worker");
		return -ENOMEM;
	}
	r = ew__driver_init(&sim->driver, &ew__driver_sim, why, why_bytes);
	if (r == 0)
		r = ask_the_environment(sim, why, why_bytes);
	if (r == 0) {
		r = ew__sim_objects_init(sim);
		if (r < 0)
			snprintf(why, why_bytes, "no descriptor to simulate others by (%s)",
				 strerror(-r));
	}
	if (r < 0) {
		ew__driver_deinit(&sim->driver);
		ew__sim_programs_free(sim);
		free(sim);
		return r;
	}
	sim->filesystem = ew__sim_plan ? ew__sim_plan->filesystem : NULL;
	init_chance(sim);
	for (i = EW__BUFFERS_COUNT; i > 0; i--)
		sim_return_buffer(&sim->driver, i - 1);
	ew__sim = sim;
	*ret_driver = &sim->driver;
	return 0;
}

const struct ew__driver_type ew__driver_sim = {
	.name = "sim",
	.open = sim_open,
	.close = sim_close,
	.cancel = sim_cancel,
	.visit = sim_visit,
	.return_buffer = sim_return_buffer,
	.simulated = true,
};
