/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The pool of threads: every job is done, on no more threads than allowed, and none outlives the runtime.
 */

#include "io.h"
#include "io/pool.h"

#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>

static int run_with(unsigned workers, unsigned threads, ew_task_fn *fn, void *argument)
{
	const struct ew_run_options options = { .workers_count = workers,
						.offload_threads = threads,
						.report = note_report };

	reports.count = 0;
	return ew_run(&options, fn, argument);
}

/* ---- threads ---- */

struct meeting {
	pthread_mutex_t mutex;
	pthread_cond_t changed;
	unsigned wanted;
	unsigned present;
	unsigned most;
	unsigned calls;
};

/* Stays until @wanted calls are present at once. */
static int meet(void *argument)
{
	struct meeting *meeting = argument;

	pthread_mutex_lock(&meeting->mutex);
	meeting->calls++;
	if (++meeting->present > meeting->most)
		meeting->most = meeting->present;
	pthread_cond_broadcast(&meeting->changed);
	while (meeting->most < meeting->wanted)
		pthread_cond_wait(&meeting->changed, &meeting->mutex);
	meeting->present--;
	pthread_mutex_unlock(&meeting->mutex);
	return 0;
}

static int meet_task(void *meeting)
{
	int returned;

	return ew_offload(meet, meeting, &returned);
}

static int meet_many(void *meeting)
{
	unsigned i;
	EW_SCOPE(scope);

	for (i = 0; i < 200; i++)
		EXPECT_EQ(ew_spawn(&scope, meet_task, meeting), 0);
	return ew_scope_join(&scope);
}

static void test_threads(unsigned threads, unsigned wanted)
{
	struct meeting meeting = {
		.mutex = PTHREAD_MUTEX_INITIALIZER,
		.changed = PTHREAD_COND_INITIALIZER,
		.wanted = wanted,
	};

	EXPECT_EQ(run_with(1, threads, meet_many, &meeting), 0);
	EXPECT_EQ(meeting.calls, 200);
	EXPECT_EQ(meeting.most, wanted);
}

/* As many calls are made at once as there may be threads, and no more. */
TEST(pool_has_as_many_threads_as_are_allowed)
{
	test_threads(0, EW__OFFLOAD_THREADS_DEFAULT);
	test_threads(1, 1);
	test_threads(7, 7);
	test_threads(EW__OFFLOAD_THREADS_MAX, EW__OFFLOAD_THREADS_MAX);
}

static int do_nothing(void *argument)
{
	(void)argument;
	return 0;
}

TEST(pool_of_too_many_threads_is_refused)
{
	EXPECT_EQ(run_with(1, EW__OFFLOAD_THREADS_MAX + 1, do_nothing, NULL), -EINVAL);
}

static int meet_without_threads(void *argument)
{
	rlim_t before = set_limit(RLIMIT_NPROC, 1);
	int r = meet_many(argument);

	set_limit(RLIMIT_NPROC, before);
	return r;
}

/* No thread can be started any more: the first one does all of it. */
TEST(pool_goes_on_when_no_thread_can_be_started)
{
	struct meeting meeting = {
		.mutex = PTHREAD_MUTEX_INITIALIZER,
		.changed = PTHREAD_COND_INITIALIZER,
		.wanted = 1,
	};

	become_ordinary();
	EXPECT_EQ(run_with(1, 4, meet_without_threads, &meeting), 0);
	EXPECT_EQ(meeting.calls, 200);
	EXPECT_EQ(meeting.most, 1);
}

/* ---- jobs ---- */

struct counting {
	atomic_uint calls;
};

static int count(void *argument)
{
	atomic_fetch_add(&((struct counting *)argument)->calls, 1);
	return 0;
}

static int count_task(void *argument)
{
	int returned;
	unsigned i;

	for (i = 0; i < 50; i++)
		EXPECT_EQ(ew_offload(count, argument, &returned), 0);
	return 0;
}

static int count_many(void *argument)
{
	unsigned i;
	EW_SCOPE(scope);

	for (i = 0; i < 200; i++)
		EXPECT_EQ(ew_spawn(&scope, count_task, argument, .worker = 1 + i % 2), 0);
	return ew_scope_join(&scope);
}

TEST(pool_does_all_jobs_of_two_workers)
{
	struct counting counting = { 0 };

	EXPECT_EQ(run_with(2, 4, count_many, &counting), 0);
	EXPECT_EQ(atomic_load(&counting.calls), 10000);
}

/* Taken back from the front, the middle and the end of the queue; what is left is done in its order. */
#define JOBS_COUNT 6

struct ordered {
	struct ew__job job;
	unsigned number;
	bool completed;
};

static struct meeting door = {
	.mutex = PTHREAD_MUTEX_INITIALIZER,
	.changed = PTHREAD_COND_INITIALIZER,
	.wanted = 2,
};
static char order[JOBS_COUNT + 1];

static void run_ordered(struct ew__job *job)
{
	order[strlen(order)] = (char)('0' + ((struct ordered *)job)->number);
}

static void complete_ordered(struct ew__job *job)
{
	((struct ordered *)job)->completed = true;
}

static int withdraw(void *argument)
{
	struct ordered jobs[JOBS_COUNT];
	struct ew__pool *pool = ew__worker->pool;
	unsigned i;
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_spawn(&scope, meet_task, &door), 0);
	TURNS_UNTIL(({
		pthread_mutex_lock(&door.mutex);
		i = door.present;
		pthread_mutex_unlock(&door.mutex);
		i == 1;
	}));
	for (i = 0; i < JOBS_COUNT; i++) {
		jobs[i] = (struct ordered){
			.job = { .run = run_ordered, .complete = complete_ordered }, .number = i
		};
		ew__job_submit(pool, EW__DEVICE_NONE, &jobs[i].job);
	}
	EXPECT(ew__job_withdraw(&jobs[0].job));
	EXPECT(ew__job_withdraw(&jobs[3].job));
	EXPECT(ew__job_withdraw(&jobs[5].job));
	EXPECT(!ew__job_withdraw(&jobs[3].job));
	ew__job_submit(pool, EW__DEVICE_NONE, &jobs[3].job);
	/* The one thread may go on. */
	EXPECT_EQ(pthread_mutex_lock(&door.mutex), 0);
	door.most = door.wanted;
	pthread_cond_broadcast(&door.changed);
	pthread_mutex_unlock(&door.mutex);
	TURNS_UNTIL(jobs[3].completed);
	EXPECT_STR(order, "1243");
	EXPECT(!jobs[0].completed && !jobs[5].completed);
	EXPECT(!ew__job_withdraw(&jobs[1].job));
	return ew_scope_join(&scope);
}

TEST(pool_jobs_are_withdrawn_from_anywhere_in_the_queue)
{
	EXPECT_EQ(run_with(1, 1, withdraw, NULL), 0);
}

/* ---- the end of a runtime ---- */

/* Few: the kernel frees rings behind our back, and until then counts them against the user's locked memory. */
#define RUNS_COUNT 40

static int end_with_job(void *argument)
{
	EW_OWN(ew_file, file);

	EXPECT_EQ(ew_file_open(NULL, "/dev/null", O_RDONLY, 0, &file), 0);
	ew_abort(&file);
	return count_task(argument);
}

/* Whoever brings the last result may still be ringing at the worker's door when the runtime goes. */
TEST(pool_ends_with_the_runtime_however_late_its_last_job)
{
	struct descriptors before = descriptors_now();
	struct counting counting = { 0 };
	unsigned i;

	for (i = 0; i < RUNS_COUNT; i++)
		EXPECT_EQ(run_with(1 + i % 2, 2, end_with_job, &counting), 0);
	EXPECT_EQ(atomic_load(&counting.calls), 50 * RUNS_COUNT);
	expect_same_descriptors(&before);
}

/* ---- a call that is left over ---- */

static void never_end(struct ew__job *job)
{
	while (job)
		pause();
}

static int leave_a_job(void *argument)
{
	static struct ew__job job = { .run = never_end, .what = "a call that never ends" };

	(void)argument;
	ew__job_submit(ew__worker->pool, EW__DEVICE_NONE, &job);
	return 0;
}

static void process_with_a_job_left(void)
{
	const struct ew_run_options options = { .workers_count = 1,
						.exit_when_stuck = true,
						.shutdown_budget_ns = 300 * EW_MILLISECOND };

	(void)!ew_run(&options, leave_a_job, NULL);
}

/* As an abort leaves it, on a filesystem that does not answer. No task waits for it, and nobody has shut down. */
TEST(pool_with_a_call_that_never_ends_is_named_and_left_in_the_promised_time)
{
	struct ended ended = run_process(process_with_a_job_left);

	EXPECT(WIFEXITED(ended.status));
	EXPECT_EQ(WEXITSTATUS(ended.status), 70);
	EXPECT(strstr(ended.text, "the program's own calls: 1 calls on threads, 0 more wait; the "
				  "oldest, a call that never ends, for "));
}

static void *set_event(void *event)
{
	ew_event_set(event);
	return NULL;
}

static int await_thread(void *argument)
{
	struct ew_event event = { 0 };

	EXPECT_EQ(pthread_create(argument, NULL, set_event, &event), 0);
	return ew_event_wait(&event, EW_NEVER);
}

TEST(pool_or_not_a_foreign_thread_may_ring_last)
{
	pthread_t thread;
	unsigned i;

	for (i = 0; i < RUNS_COUNT; i++) {
		EXPECT_EQ(run_with(1, 1, await_thread, &thread), 0);
		EXPECT_EQ(pthread_join(thread, NULL), 0);
	}
}

/* ---- giving way ---- */

#define FILES_COUNT	  400
#define TURN_OF_OTHERS_NS (5 * EW_MILLISECOND)

static bool machine_is_full;
static int64_t first_away_ns; /* if the process stands still when it gives way for the first time */
static atomic_uint yields_count;
static atomic_bool goes_on; /* after the first one */

/* The process's own, in place of the C library's: where others compute whoever calls it is away for a while. */
int sched_yield(void)
{
	struct timespec turn = { .tv_nsec = TURN_OF_OTHERS_NS };

	if (!machine_is_full)
		return (int)syscall(SYS_sched_yield);
	if (atomic_fetch_add(&yields_count, 1) == 0 && first_away_ns)
		turn.tv_nsec = first_away_ns;
	nanosleep(&turn, NULL);
	goes_on = true;
	return 0;
}

static int wait_and_abort(void *argument)
{
	struct ew_file *files[FILES_COUNT] = { NULL };
	struct ew_event never = { 0 };
	unsigned i;

	(void)argument;
	for (i = 0; i < FILES_COUNT; i++)
		EXPECT_EQ(ew_file_adopt(memfd_create("pool", MFD_CLOEXEC), &files[i]), 0);
	EXPECT_EQ(ew_event_wait(&never, EW_NEVER), -ECANCELED);
	machine_is_full = true;
	for (i = 0; i < FILES_COUNT; i++)
		ew_abort(&files[i]);
	return 0;
}

static int cancel_who_waits(ew_task_fn *fn)
{
	EW_SCOPE(scope);

	EXPECT_EQ(ew_spawn(&scope, fn, NULL), 0);
	EXPECT_EQ(ew_yield(), 0);
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	return ew_scope_join(&scope);
}

static int cancel_who_has_files(void *argument)
{
	(void)argument;
	return cancel_who_waits(wait_and_abort);
}

/* Whoever gave way after each job would be away 400 times. */
TEST(pool_that_ends_what_cancelled_tasks_held_does_not_stand_behind_all_others_for_each)
{
	const int limit = SANITIZED || RUNNING_ON_VALGRIND ? FILES_COUNT / 2 : FILES_COUNT / 8;

	EXPECT_EQ(run_with(1, 1, cancel_who_has_files, NULL), 0);
	EXPECT(yields_count > 0);
	EXPECT((int)yields_count < limit);
}

#define SLOW_JOBS_COUNT 20
#define SLOW_JOB_NS	(5 * EW_MILLISECOND)

static int take_a_while(void *argument)
{
	const struct timespec pause = { .tv_nsec = SLOW_JOB_NS };

	(void)argument;
	return nanosleep(&pause, NULL);
}

static int wait_and_call(void *argument)
{
	struct ew_event never = { 0 };
	int result, i;

	(void)argument;
	EXPECT_EQ(ew_event_wait(&never, EW_NEVER), -ECANCELED);

	EW_SHIELD(shield, .budget_ns = 60 * EW_SECOND);

	first_away_ns = 8 * SLOW_JOBS_COUNT * SLOW_JOB_NS;
	machine_is_full = true;
	EXPECT_EQ(ew_offload(take_a_while, NULL, &result), 0);
	while (!goes_on)
		EXPECT_EQ(ew_sleep(EW_MILLISECOND), 0);
	for (i = 1; i < SLOW_JOBS_COUNT; i++)
		EXPECT_EQ(ew_offload(take_a_while, NULL, &result), 0);
	return 0;
}

static int cancel_who_calls(void *argument)
{
	(void)argument;
	return cancel_who_waits(wait_and_call);
}

/* A quarter of that time would be longer than all that there is to do. */
TEST(pool_that_stood_still_while_it_gave_way_gives_way_again)
{
	EXPECT_EQ(run_with(1, 1, cancel_who_calls, NULL), 0);
	EXPECT(yields_count >= 2);
}

TEST_MAIN()
