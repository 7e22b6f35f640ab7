/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Lanes: calls on a filesystem that does not answer keep no thread from other calls, and a lane is as wide as its
 * calls need. The filesystems are small ones in memory that only this process sees; what a call does there is to wait
 * at a gate until it is opened.
 */

#include "io.h"
#include "io/lane.h"
#include "io/pool.h"

#include <pthread.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#define MOUNTS_MAX    (EW__LANES_MAX + 2)
#define CALLS_COUNT   100
#define OFFLOAD_COUNT 3

static struct directory root;

static bool mount_root(void)
{
	return unshare(CLONE_NEWNS) == 0 &&
	       mount("none", "/", "none", MS_REC | MS_PRIVATE, NULL) == 0 &&
	       mount("root", root.path, "tmpfs", 0, "size=1m") == 0;
}

/* Mounts @count filesystems; they go with the process. */
static void mount_some(unsigned count)
{
	char path[300];
	unsigned i;

	directory_make(&root);
	if (!mount_root()) {
		directory_remove(&root);
		SKIP("no permission to mount");
	}
	for (i = 0; i < count; i++) {
		snprintf(path, sizeof(path), "%s/%u", root.path, i);
		EXPECT_EQ(mkdir(path, 0700), 0);
		EXPECT_EQ(mount("small", path, "tmpfs", 0, "size=1m"), 0);
	}
}

static void unmount_all(unsigned count)
{
	char path[300];

	while (count > 0) {
		snprintf(path, sizeof(path), "%s/%u", root.path, --count);
		EXPECT_EQ(umount2(path, MNT_DETACH), 0);
	}
	EXPECT_EQ(umount2(root.path, MNT_DETACH), 0);
	directory_remove(&root);
}

static int open_folder(unsigned number, struct ew_file **ret_file)
{
	char path[300];

	snprintf(path, sizeof(path), "%s/%u", root.path, number);
	return ew_file_open(NULL, path, O_RDONLY | O_DIRECTORY, 0, ret_file);
}

/* ---- calls that wait at a gate ---- */

struct gate {
	pthread_mutex_t mutex;
	pthread_cond_t changed;
	unsigned inside;
	unsigned inside_most;
	bool open;
};

#define GATE_CLOSED                                                                                \
	((struct gate){ .mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER })

struct caller {
	struct ew_file *file; /* NULL: the program's own lane */
	struct gate *gate;
	bool done;
};

static int pass_gate(void *argument)
{
	struct gate *gate = argument;

	pthread_mutex_lock(&gate->mutex);
	if (++gate->inside > gate->inside_most)
		gate->inside_most = gate->inside;
	while (!gate->open)
		pthread_cond_wait(&gate->changed, &gate->mutex);
	gate->inside--;
	pthread_mutex_unlock(&gate->mutex);
	return 0;
}

static int call_task(void *argument)
{
	struct caller *caller = argument;
	int result, r;

	r = caller->file ? ew_file_offload(caller->file, pass_gate, caller->gate, &result)
			 : ew_offload(pass_gate, caller->gate, &result);
	caller->done = true;
	return r;
}

static void call_often(struct ew_scope *scope, struct caller *caller)
{
	unsigned i;

	for (i = 0; i < CALLS_COUNT; i++)
		EXPECT_EQ(ew_spawn(scope, call_task, caller), 0);
}

static unsigned inside(struct gate *gate)
{
	unsigned count;

	pthread_mutex_lock(&gate->mutex);
	count = gate->inside;
	pthread_mutex_unlock(&gate->mutex);
	return count;
}

static void open_gate(struct gate *gate)
{
	pthread_mutex_lock(&gate->mutex);
	gate->open = true;
	pthread_cond_broadcast(&gate->changed);
	pthread_mutex_unlock(&gate->mutex);
}

static unsigned threads_in_process(void)
{
	struct stat tasks;

	EXPECT_EQ(stat("/proc/self/task", &tasks), 0);
	return (unsigned)tasks.st_nlink - 2; /* proc(5): a folder for each thread */
}

/* The lane in which one call of @file's filesystem is being made, which waits at a gate. */
static struct ew__lane_state look_at_lane(const struct stat *stat)
{
	struct ew__lane_state states[EW__LANE_STATES_MAX];
	unsigned count = ew__pool_look(ew__worker->pool, states), i;

	for (i = 0; i < count; i++)
		if (states[i].device == stat->st_dev)
			return states[i];
	return (struct ew__lane_state){ 0 };
}

/* ---- nobody is starved ---- */

/*
 * Five filesystems do not answer, and neither do the program's own calls. The first has as many threads as a lane
 * may have, the threads of all are bounded, and a sixth filesystem and all tasks go on.
 */
static int hang_five(void *argument)
{
	struct gate gates[6], own_gate = GATE_CLOSED, open = GATE_CLOSED;
	struct ew_file *files[6] = { 0 };
	struct caller callers[6], own = { .gate = &own_gate }, healthy;
	unsigned i, most = 1 + OFFLOAD_COUNT + EW__LANES_MAX + EW__LANE_HELPERS_MAX;
	struct stat stat;
	EW_SCOPE(scope);

	(void)argument;
	for (i = 0; i < 6; i++)
		EXPECT_EQ(open_folder(i, &files[i]), 0);
	call_often(&scope, &own);
	TURNS_UNTIL(inside(&own_gate) == OFFLOAD_COUNT);
	for (i = 0; i < 5; i++) {
		gates[i] = GATE_CLOSED;
		callers[i] = (struct caller){ .file = files[i], .gate = &gates[i] };
		call_often(&scope, &callers[i]);
		TURNS_UNTIL(inside(&gates[i]) >= (i == 0 ? EW__LANE_WIDTH_MAX : 1));
	}
	EXPECT_EQ(inside(&gates[0]), EW__LANE_WIDTH_MAX);
	open.open = true;
	healthy = (struct caller){ .file = files[5], .gate = &open };
	call_often(&scope, &healthy);
	TURNS_UNTIL(healthy.done);
	EXPECT_EQ(ew_file_stat(files[5], &stat), 0);
	EXPECT(threads_in_process() <= most);
	EXPECT(!own.done && !callers[0].done);

	open_gate(&own_gate);
	for (i = 0; i < 5; i++)
		open_gate(&gates[i]);
	EXPECT_EQ(ew_scope_join(&scope), 0);
	EXPECT_EQ(own_gate.inside_most, OFFLOAD_COUNT);
	for (i = 0; i < 5; i++)
		EXPECT(gates[i].inside_most <= EW__LANE_WIDTH_MAX);
	for (i = 0; i < 6; i++)
		EXPECT_EQ(ew_file_close(&files[i]), 0);
	return 0;
}

static int run_with_threads(ew_task_fn *fn)
{
	const struct ew_run_options options = { .workers_count = 1,
						.offload_threads = OFFLOAD_COUNT,
						.report = note_report };

	return ew_run(&options, fn, NULL);
}

TEST(lane_that_does_not_answer_keeps_no_thread_from_others)
{
	mount_some(6);
	EXPECT_EQ(run_with_threads(hang_five), 0);
	unmount_all(6);
}

static int hang_before_open(void *argument)
{
	struct gate gates[3] = { GATE_CLOSED, GATE_CLOSED, GATE_CLOSED };
	struct ew_file *files[3] = { 0 }, *late = NULL;
	struct caller callers[3];
	struct stat stat;
	unsigned i;
	EW_SCOPE(scope);

	(void)argument;
	for (i = 0; i < 3; i++) {
		EXPECT_EQ(open_folder(i, &files[i]), 0);
		callers[i] = (struct caller){ .file = files[i], .gate = &gates[i] };
		call_often(&scope, &callers[i]);
	}
	TURNS_UNTIL(inside(&gates[0]) + inside(&gates[1]) + inside(&gates[2]) ==
		    3 + EW__LANE_HELPERS_MAX);
	EXPECT_EQ(open_folder(3, &late), 0);
	EXPECT_EQ(ew_file_stat(late, &stat), 0);
	EXPECT_EQ(ew_file_close(&late), 0);
	for (i = 0; i < 3; i++)
		open_gate(&gates[i]);
	EXPECT_EQ(ew_scope_join(&scope), 0);
	for (i = 0; i < 3; i++)
		EXPECT_EQ(ew_file_close(&files[i]), 0);
	return 0;
}

/* Three have all the threads there are but those kept; a fourth that is first opened then has its own. */
TEST(lane_that_is_new_has_a_thread_while_others_do_not_answer)
{
	mount_some(4);
	EXPECT_EQ(run_with_threads(hang_before_open), 0);
	unmount_all(4);
}

/* ---- as wide as needed ---- */

static int widen_and_narrow(void *argument)
{
	struct gate gate = GATE_CLOSED, open = GATE_CLOSED, last = GATE_CLOSED;
	struct ew_file *file = NULL;
	struct caller waiting = { .gate = &gate }, quick = { .gate = &open },
		      held = { .gate = &last };
	unsigned i, wide, narrow;
	struct stat stat;
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(open_folder(0, &file), 0);
	EXPECT_EQ(ew_file_stat(file, &stat), 0);
	waiting.file = quick.file = held.file = file;
	call_often(&scope, &waiting);
	TURNS_UNTIL(inside(&gate) == EW__LANE_WIDTH_MAX);
	wide = look_at_lane(&stat).width;
	open_gate(&gate);
	EXPECT_EQ(ew_scope_join(&scope), 0);

	open.open = true;
	for (i = 0; i < 100; i++) {
		call_often(&scope, &quick);
		EXPECT_EQ(ew_scope_join(&scope), 0);
	}
	EXPECT_EQ(ew_spawn(&scope, call_task, &held), 0);
	TURNS_UNTIL(inside(&last) == 1);
	narrow = look_at_lane(&stat).width;
	open_gate(&last);
	EXPECT_EQ(ew_scope_join(&scope), 0);

	EXPECT_EQ(wide, EW__LANE_WIDTH_MAX);
	EXPECT(narrow < wide);
	return ew_file_close(&file);
}

TEST(lane_of_calls_that_wait_becomes_wide_and_of_quick_ones_narrow)
{
	mount_some(1);
	EXPECT_EQ(run_with_threads(widen_and_narrow), 0);
	unmount_all(1);
}

/* @count calls of @took_ns each, in which the thread waited; there is always one more. */
static void do_some(struct ew__lane *lane, unsigned count, int64_t took_ns)
{
	struct ew__job jobs[2] = { 0 };
	unsigned i;

	ew__lane_append(lane, &jobs[0]);
	for (i = 1; i <= count; i++) {
		ew__lane_append(lane, &jobs[i % 2]);
		(void)ew__lane_begin(lane);
		ew__lane_end(lane, took_ns, true, 0);
	}
	ew__lane_remove(&jobs[count % 2]);
}

/* Many threads that come back from short waits would keep the workers from the processors. */
TEST(lane_of_calls_that_wait_for_a_moment_has_a_few_threads_for_each_processor)
{
	struct ew__lanes lanes = { 0 };
	cpu_set_t one_processor;
	struct ew__lane *lane;

	CPU_ZERO(&one_processor);
	CPU_SET(sched_getcpu(), &one_processor);
	EXPECT_EQ(sched_setaffinity(0, sizeof(one_processor), &one_processor), 0);
	ew__lanes_init(&lanes, OFFLOAD_COUNT);
	lane = ew__lanes_add(&lanes, 1);
	do_some(lane, 100, 500 * EW_MICROSECOND);
	EXPECT_EQ(lane->width, 3);
	do_some(lane, 100, 5 * EW_MILLISECOND);
	EXPECT_EQ(lane->width, EW__LANE_WIDTH_MAX);
	do_some(lane, 100, 500 * EW_MICROSECOND);
	EXPECT_EQ(lane->width, 3);
}

#define HANGING_COUNT (EW__LANE_WIDTH_MAX - 2)

static int wait_for_a_moment(void *argument)
{
	const struct timespec moment = { .tv_nsec = 400000 };

	(void)argument;
	return clock_nanosleep(CLOCK_MONOTONIC, 0, &moment, NULL);
}

static int call_for_a_moment(void *file)
{
	int result;

	return ew_file_offload(file, wait_for_a_moment, NULL, &result);
}

static int wait_beside_many_that_hang(void *argument)
{
	struct gate gate = GATE_CLOSED;
	struct caller hanging = { .gate = &gate };
	struct stat stat;
	unsigned i, width;
	EW_SCOPE(scope);
	EW_SCOPE(moments);

	(void)argument;
	EXPECT_EQ(open_folder(0, &hanging.file), 0);
	EXPECT_EQ(ew_file_stat(hanging.file, &stat), 0);
	for (i = 0; i < HANGING_COUNT; i++)
		EXPECT_EQ(ew_spawn(&scope, call_task, &hanging), 0);
	TURNS_UNTIL(inside(&gate) == HANGING_COUNT);
	for (i = 0; i < CALLS_COUNT; i++)
		EXPECT_EQ(ew_spawn(&moments, call_for_a_moment, hanging.file), 0);
	EXPECT_EQ(ew_scope_join(&moments), 0);
	width = look_at_lane(&stat).width;
	open_gate(&gate);
	EXPECT_EQ(ew_scope_join(&scope), 0);
	EXPECT_EQ(width, EW__LANE_WIDTH_MAX);
	return ew_file_close(&hanging.file);
}

/* Else each of the others would have to wait until the lane is seen to have stalled. */
TEST(lane_of_calls_that_wait_for_a_moment_is_wider_by_those_that_hang)
{
	mount_some(1);
	EXPECT_EQ(run_with_threads(wait_beside_many_that_hang), 0);
	unmount_all(1);
}

/* ---- as wide as needed, while another is busy ---- */

#define STEADY_CALLS 3000

static int pass_at_once(void *argument)
{
	(void)argument;
	return 0;
}

struct steady {
	struct ew_file *file;
	struct gate *gate;
	unsigned calls;
};

/* One short call after the other, until all who wait for a gate are there. */
static int call_steadily(void *argument)
{
	struct steady *steady = argument;
	int result;

	while (inside(steady->gate) < EW__LANE_WIDTH_MAX) {
		EXPECT(++steady->calls < STEADY_CALLS);
		EXPECT_EQ(ew_file_offload(steady->file, pass_at_once, NULL, &result), 0);
		EXPECT_EQ(ew_sleep(100 * EW_MICROSECOND), 0);
	}
	return 0;
}

static int widen_beside_a_busy_one(void *argument)
{
	struct gate gate = GATE_CLOSED;
	struct caller hanging = { .gate = &gate };
	struct steady steady = { .gate = &gate };
	unsigned i;
	EW_SCOPE(scope);
	EW_SCOPE(busy);

	(void)argument;
	EXPECT_EQ(open_folder(0, &hanging.file), 0);
	EXPECT_EQ(open_folder(1, &steady.file), 0);
	call_often(&scope, &hanging);
	for (i = 0; i < 3; i++)
		EXPECT_EQ(ew_spawn(&busy, call_steadily, &steady), 0);
	EXPECT_EQ(ew_scope_join(&busy), 0);
	open_gate(&gate);
	EXPECT_EQ(ew_scope_join(&scope), 0);
	EXPECT_EQ(ew_file_close(&hanging.file), 0);
	return ew_file_close(&steady.file);
}

/* Its calls take the threads that would look whether somebody has stalled. */
TEST(lane_that_has_stalled_becomes_wide_while_another_is_busy)
{
	mount_some(2);
	EXPECT_EQ(run_with_threads(widen_beside_a_busy_one), 0);
	unmount_all(2);
}

/* ---- the order in a lane ---- */

struct ordered {
	struct ew__job job;
	char letter;
	bool completed;
};

#define EACH_COUNT 6

static char order[2 * EACH_COUNT + 1];

static void run_ordered(struct ew__job *job)
{
	order[strlen(order)] = ((struct ordered *)job)->letter;
}

static void complete_ordered(struct ew__job *job)
{
	((struct ordered *)job)->completed = true;
}

static void submit_ordered(struct ordered *jobs, char letter)
{
	unsigned i;

	for (i = 0; i < EACH_COUNT; i++) {
		jobs[i] = (struct ordered){ .job = { .run = run_ordered,
						     .complete = complete_ordered },
					    .letter = letter };
		ew__job_submit(ew__worker->pool, EW__DEVICE_NONE, &jobs[i].job);
	}
}

static int let_by(void *argument)
{
	struct ordered leaving[EACH_COUNT], living[EACH_COUNT];
	struct gate gate = GATE_CLOSED;
	struct caller caller = { .gate = &gate };
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, call_task, &caller), 0);
	TURNS_UNTIL(inside(&gate) == 1);
	ew__current->leaving++;
	submit_ordered(leaving, 'l');
	ew__current->leaving--;
	submit_ordered(living, 'a');
	open_gate(&gate);
	EXPECT_EQ(ew_scope_join(&scope), 0);
	TURNS_UNTIL(leaving[EACH_COUNT - 1].completed && living[EACH_COUNT - 1].completed);
	EXPECT_STR(order, "aaalaaalllll");
	return 0;
}

/* One thread: the order in which jobs are begun is that in which they are done. */
TEST(lane_jobs_of_cancelled_tasks_let_others_by_and_are_not_forgotten)
{
	const struct ew_run_options options = { .workers_count = 1, .offload_threads = 1 };

	EXPECT_EQ(ew_run(&options, let_by, NULL), 0);
}

/* ---- cancelled tasks wait while the lanes have enough to do ---- */

struct waiting {
	_Atomic int64_t until_ns;
	bool ended;
};

static int end_when_cancelled(void *argument)
{
	struct waiting *waiting = argument;
	int r = ew_sleep(3600 * EW_SECOND);

	waiting->ended = true;
	return r;
}

static int live_meanwhile(void *argument)
{
	struct waiting *waiting = argument;

	take_turns(1000);
	EXPECT(!waiting->ended);
	/* Nobody is ready: the worker naps, and hears of timers. */
	EXPECT_EQ(ew_sleep(2 * EW_MILLISECOND), 0);
	EXPECT(!waiting->ended);
	waiting->until_ns = ew_now() + EW_MILLISECOND;
	return 0;
}

/* Fed says a word of the worker's, which no lane changes here. */
static int wait_while_fed(void *argument)
{
	struct waiting waiting = { .until_ns = EW_NEVER };
	const _Atomic int64_t *own = ew__worker->lanes_fed_until_ns;
	EW_SCOPE(living);
	EW_SCOPE(leaving, .policy = EW_POLICY_INDEPENDENT);

	(void)argument;
	EXPECT_EQ(ew_spawn(&leaving, end_when_cancelled, &waiting), 0);
	EXPECT_EQ(ew_spawn(&living, live_meanwhile, &waiting), 0);
	EXPECT_EQ(ew_yield(), 0);
	ew__worker->lanes_fed_until_ns = &waiting.until_ns;
	ew_scope_cancel(&leaving, EW_REASON_REQUESTED);
	EXPECT_EQ(ew_scope_join(&leaving), -ECANCELED);
	EXPECT(waiting.ended && ew_now() >= waiting.until_ns);
	ew__worker->lanes_fed_until_ns = own;
	return ew_scope_join(&living);
}

TEST(lane_that_is_fed_lets_cancelled_tasks_wait_and_nobody_else)
{
	const struct ew_run_options options = { .workers_count = 1 };

	EXPECT_EQ(ew_run(&options, wait_while_fed, NULL), 0);
}

/* If nothing else ends it. */
static int fed_no_more(void *argument)
{
	struct waiting *waiting = argument;

	(void)!ew_sleep(10 * EW_SECOND);
	waiting->ended = true;
	waiting->until_ns = ew_now();
	return 0;
}

static int run_while_fed(ew_task_fn *fn, void *argument)
{
	struct waiting waiting = { .until_ns = EW_NEVER };
	const _Atomic int64_t *own = ew__worker->lanes_fed_until_ns;
	EW_SCOPE(end_of_fed);
	EW_SCOPE(living);

	EXPECT_EQ(ew_spawn(&end_of_fed, fed_no_more, &waiting), 0);
	ew__worker->lanes_fed_until_ns = &waiting.until_ns;
	EXPECT_EQ(ew_spawn(&living, fn, argument), 0);
	EXPECT_EQ(ew_scope_join(&living), 0);
	EXPECT(!waiting.ended);
	ew__worker->lanes_fed_until_ns = own;
	return 0;
}

static int time_out(void *argument)
{
	EW_SCOPE(patience, .deadline_ns = ew_after(EW_MILLISECOND));

	(void)argument;
	EXPECT_EQ(ew_scope_finish(&patience, ew_sleep(3600 * EW_SECOND)), -ETIMEDOUT);
	return 0;
}

static int time_out_while_fed(void *argument)
{
	return run_while_fed(time_out, argument);
}

/* A limit that a task has set itself ends what it was about, and not the task. */
TEST(lane_that_is_fed_lets_nobody_wait_whose_own_time_is_up)
{
	const struct ew_run_options options = { .workers_count = 1 };

	EXPECT_EQ(ew_run(&options, time_out_while_fed, NULL), 0);
}

static int read_to_the_end(void *socket)
{
	char text[8];

	EXPECT_EQ(ew_socket_recv(socket, text, sizeof(text)), 2);
	EXPECT_EQ(ew_socket_recv(socket, text, sizeof(text)), 0);
	return 0;
}

static int read_to_the_end_while_fed(void *argument)
{
	EW_OWN(ew_socket, socket);
	int peer = unix_peer(&socket);

	(void)argument;
	EXPECT_EQ(write(peer, "ok", 2), 2);
	close(peer);
	return run_while_fed(read_to_the_end, socket);
}

/* Many a server says that an answer is complete by closing the connection. */
TEST(lane_that_is_fed_lets_nobody_wait_whose_answer_has_ended)
{
	const struct ew_run_options options = { .workers_count = 1 };

	EXPECT_EQ(ew_run(&options, read_to_the_end_while_fed, NULL), 0);
}

#define BACKLOG 100

struct fed {
	struct ew__job job;
	struct gate *gate;
	int64_t fed_until_ns; /* when it ran */
	bool completed;
};

static void run_fed(struct ew__job *job)
{
	struct fed *fed = (struct fed *)job;

	pass_gate(fed->gate);
	fed->fed_until_ns = *job->worker->lanes_fed_until_ns;
}

static void complete_fed(struct ew__job *job)
{
	((struct fed *)job)->completed = true;
}

static void feed(struct fed *jobs, bool leaving, struct gate *gate)
{
	for (unsigned i = 0; i < BACKLOG; i++) {
		jobs[i] = (struct fed){ .job = { .run = run_fed, .complete = complete_fed },
					.gate = gate };
		ew__current->leaving += leaving;
		ew__job_submit(ew__worker->pool, EW__DEVICE_NONE, &jobs[i].job);
		ew__current->leaving -= leaving;
	}
	open_gate(gate);
	TURNS_UNTIL(jobs[BACKLOG - 1].completed);
}

static int feed_both(void *argument)
{
	static struct fed jobs[BACKLOG];
	struct gate gate = GATE_CLOSED, other = GATE_CLOSED;

	(void)argument;
	feed(jobs, false, &gate);
	for (unsigned i = 0; i < BACKLOG; i++)
		EXPECT_EQ(jobs[i].fed_until_ns, 0);
	feed(jobs, true, &other);
	/* While more than 64 wait, from the end of one on. The end of the last of those before may be the first. */
	for (unsigned i = 1; i < BACKLOG; i++)
		EXPECT_EQ(jobs[i].fed_until_ns != 0, i < BACKLOG - 64);
	EXPECT_EQ(*ew__worker->lanes_fed_until_ns, 0);
	return 0;
}

/* What those that live have in line never lets the others wait. */
TEST(lane_is_fed_by_jobs_of_cancelled_tasks_alone_and_not_longer_than_they_wait)
{
	const struct ew_run_options options = { .workers_count = 1, .offload_threads = 1 };

	EXPECT_EQ(ew_run(&options, feed_both, NULL), 0);
}

/* ---- more filesystems than lanes ---- */

static int call_many(void *argument)
{
	struct ew_file *files[MOUNTS_MAX] = { 0 };
	struct gate gate = GATE_CLOSED, last_gate = GATE_CLOSED;
	struct caller callers[EW__LANES_MAX], last_caller;
	struct stat last;
	unsigned i;
	EW_SCOPE(scope);

	(void)argument;
	for (i = 0; i < MOUNTS_MAX; i++)
		EXPECT_EQ(open_folder(i, &files[i]), 0);
	EXPECT_EQ(fstat(ew_file_fd(files[MOUNTS_MAX - 1]), &last), 0);
	for (i = 0; i < EW__LANES_MAX; i++) {
		callers[i] = (struct caller){ .file = files[i], .gate = &gate };
		EXPECT_EQ(ew_spawn(&scope, call_task, &callers[i]), 0);
	}
	TURNS_UNTIL(inside(&gate) == EW__LANES_MAX);
	last_caller = (struct caller){ .file = files[MOUNTS_MAX - 1], .gate = &last_gate };
	EXPECT_EQ(ew_spawn(&scope, call_task, &last_caller), 0);
	TURNS_UNTIL(inside(&last_gate) == 1);
	EXPECT_EQ(look_at_lane(&last).running_count, 0); /* it shares the program's own */
	open_gate(&gate);
	open_gate(&last_gate);
	EXPECT_EQ(ew_scope_join(&scope), 0);

	last_gate.open = false;
	EXPECT_EQ(ew_spawn(&scope, call_task, &last_caller), 0);
	TURNS_UNTIL(inside(&last_gate) == 1);
	EXPECT_EQ(look_at_lane(&last).running_count,
		  1); /* that of another, in which nothing was being done */
	open_gate(&last_gate);
	EXPECT_EQ(ew_scope_join(&scope), 0);
	for (i = 0; i < MOUNTS_MAX; i++)
		EXPECT_EQ(ew_file_close(&files[i]), 0);
	return 0;
}

TEST(lane_of_one_filesystem_too_many_is_the_programs_own_until_another_is_free)
{
	mount_some(MOUNTS_MAX);
	EXPECT_EQ(run_with_threads(call_many), 0);
	unmount_all(MOUNTS_MAX);
}

/* ---- a cancel on the way from the driver to a thread ---- */

struct transfer {
	struct ew_file *file;
	struct ew_pipe *pipe; /* is read instead, if there is one */
	struct ew_scope *scope;
	bool writes;
	bool done;
	int result;
};

static int transfer_one(void *argument)
{
	struct transfer *transfer = argument;
	char byte = 0;
	EW_SCOPE(scope);

	transfer->scope = &scope;
	if (transfer->pipe)
		transfer->result = ew_pipe_read(transfer->pipe, &byte, 1);
	else
		transfer->result = transfer->writes ? ew_file_write(transfer->file, &byte, 1, 0)
						    : ew_file_read(transfer->file, &byte, 1, 0);
	transfer->done = true;
	return 0;
}

static void cancel(struct transfer *transfer)
{
	ew_scope_cancel(transfer->scope, EW_REASON_REQUESTED);
	TURNS_UNTIL(transfer->done);
	EXPECT_EQ(transfer->result, -ECANCELED);
}

static void cancel_after(unsigned turns, struct transfer *transfer)
{
	EW_SCOPE(scope);

	transfer->done = false;
	EXPECT_EQ(ew_spawn(&scope, transfer_one, transfer), 0);
	take_turns(turns);
	cancel(transfer);
	EXPECT_EQ(ew_scope_join(&scope), 0);
}

/* Of procfs a driver can read and write nothing at once. No thread of its lane is free, so none begins. */
static int cancel_at_each_turn(void *argument)
{
	struct gate gate = GATE_CLOSED;
	struct caller caller = { .gate = &gate };
	struct transfer transfer = { 0 };
	unsigned turns;
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_file_open(NULL, "/proc/self/oom_score_adj", O_RDWR, 0, &caller.file), 0);
	call_often(&scope, &caller);
	TURNS_UNTIL(inside(&gate) == EW__LANE_WIDTH_MAX);
	for (turns = 1; turns < 8; turns++) {
		/* Opened before the lane was full; a write that had to wait is not asked of the driver again. */
		EXPECT_EQ((ew_file_adopt)(dup(ew_file_fd(caller.file)), &transfer.file), 0);
		transfer.writes = false;
		cancel_after(turns, &transfer);
		transfer.writes = true;
		cancel_after(turns, &transfer);
		ew_abort(&transfer.file);
	}
	open_gate(&gate);
	EXPECT_EQ(ew_scope_join(&scope), 0);
	return ew_file_close(&caller.file);
}

TEST(lane_transfer_is_cancelled_also_between_the_driver_and_the_thread)
{
	EXPECT_EQ(run_with_threads(cancel_at_each_turn), 0);
}

/* ---- a file where a pipe is expected ---- */

static int read_file_as_pipe(void *argument)
{
	struct gate gate = GATE_CLOSED;
	struct caller caller = { .gate = &gate };
	struct transfer transfer = { 0 };
	struct stat stat;
	char bytes[8];
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_file_open(NULL, "/proc/version", O_RDONLY, 0, &caller.file), 0);
	EXPECT_EQ(ew_file_stat(caller.file, &stat), 0);
	EXPECT_EQ(ew_pipe_adopt(dup(ew_file_fd(caller.file)), &transfer.pipe), 0);
	call_often(&scope, &caller);
	TURNS_UNTIL(inside(&gate) == EW__LANE_WIDTH_MAX);
	EXPECT_EQ(ew_spawn(&scope, transfer_one, &transfer), 0);
	TURNS_UNTIL(look_at_lane(&stat).queued_count > CALLS_COUNT - EW__LANE_WIDTH_MAX);
	cancel(&transfer);
	open_gate(&gate);
	EXPECT_EQ(ew_scope_join(&scope), 0);
	EXPECT_EQ(ew_pipe_read(transfer.pipe, bytes, sizeof(bytes)), sizeof(bytes));
	EXPECT_EQ(memcmp(bytes, "Linux ve", sizeof(bytes)), 0);
	EXPECT_EQ(ew_pipe_close(&transfer.pipe), 0);
	return ew_file_close(&caller.file);
}

TEST(lane_takes_what_is_read_from_a_file_where_a_pipe_was_expected)
{
	EXPECT_EQ(run_with_threads(read_file_as_pipe), 0);
}

/* ---- files that outlive their runtime ---- */

static int open_and_send(void *channel)
{
	EW_OWN(ew_file, file);

	EXPECT_EQ(ew_file_open(NULL, "/tmp", O_RDONLY | O_DIRECTORY, 0, &file), 0);
	return ew_channel_send(channel, EW_NEVER, &file);
}

static int receive_and_use(void *channel)
{
	EW_OWN(ew_file, file);
	struct stat stat;

	EXPECT_EQ(ew_channel_receive(channel, EW_NEVER, &file), 1);
	EXPECT_EQ(ew_file_stat(file, &stat), 0);
	return ew_file_close(&file);
}

/* The lanes of the first runtime are gone when the file is used in the second, and when the third's is ended in none. */
TEST(lane_of_a_file_that_outlives_its_runtime_is_the_next_ones)
{
	struct descriptors before = descriptors_now();
	struct ew_channel *channel = NULL;

	EXPECT_EQ(ew_channel_new_of_resources(1, &channel), 0);
	EXPECT_EQ(ew_run(NULL, open_and_send, channel), 0);
	EXPECT_EQ(ew_run(NULL, receive_and_use, channel), 0);
	EXPECT_EQ(ew_run(NULL, open_and_send, channel), 0);
	ew_channel_free(&channel);
	expect_same_descriptors(&before);
}

/* More pairs of calls at one filesystem than there may be helpers at a time: each gives its share of them back. */
TEST(lane_that_has_had_many_helpers_may_have_more)
{
	static struct ew__lanes lanes;
	struct ew__job jobs[2] = { 0 };
	struct ew__lane *lane;
	unsigned i;

	ew__lanes_init(&lanes, OFFLOAD_COUNT);
	lane = ew__lanes_add(&lanes, makedev(1, 1));
	lane->width = 2;
	for (i = 0; i < 2 * EW__LANE_HELPERS_MAX; i++) {
		ew__lane_append(lane, &jobs[0]);
		ew__lane_append(lane, &jobs[1]);
		EXPECT(ew__lane_begin(lane) == &jobs[0]);
		EXPECT(ew__lanes_want_thread(&lanes));
		EXPECT(ew__lane_begin(lane) == &jobs[1]);
		ew__lane_end(lane, 0, true, 0);
		ew__lane_end(lane, 0, true, 0);
	}
	EXPECT_EQ(lanes.helpers_count, 0);
	EXPECT_EQ(lanes.running_count, 0);
}

TEST_MAIN()
