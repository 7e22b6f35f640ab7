/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The whole of ew-ingest with a moody scanner and clients that leave, on a simulated disk.
 */

#include "ingest_one.h"

#include "scope/cancel.h"

/* ---- in fair weather ---- */

static int ask_for_each(void)
{
	expect_status("one", 5000, 201);
	expect_status("one", 100, 409);
	expect_status("two", 1, 201);
	expect_status("three", 5000, 422);
	return 0;
}

static int serve_each(void)
{
	return with_server(ask_for_each);
}

static int fair(void *unused)
{
	int r;

	(void)unused;
	r = with_scanner(serve_each);
	check_bucket();
	check_disk();
	return r;
}

TEST(ingest_publishes_what_is_clean_on_a_simulated_disk)
{
	struct ew_sim_filesystem *filesystem;
	struct ew_sim_options options = { .report = hush };

	world_prepare();
	EXPECT_EQ(ew_sim_filesystem_new(NULL, &filesystem), 0);
	options.filesystem = filesystem;
	EXPECT_EQ(ew_sim_run(&options, fair, NULL, NULL), 0);
	ew_sim_filesystem_free(filesystem);
}

/* ---- an end that the disk is too slow for ---- */

static bool has_left_something;

static void listen_for_what_is_left(const char *event)
{
	has_left_something = has_left_something || strcmp(event, "left-for-the-next-start") == 0;
}

/* Longer than there is for the end of what a server has on it. */
static int take_long(void)
{
	ew__virtual_now_ns += 20 * EW_SECOND;
	return 0;
}

static int ask_before_it_is_slow(void)
{
	int r = expect_status("one", 5000, 201);

	ew__system_file_fault = take_long;
	return r;
}

static int serve_into_a_slow_end(void)
{
	int r = with_server(ask_before_it_is_slow);

	ew__system_file_fault = NULL;
	EXPECT_EQ(world.served, 0);
	EXPECT(has_left_something);
	EXPECT(ew_sim_name(STATE "/leases", 0));
	return r == 0 ? calm_again() : r;
}

static int life_with_a_slow_end(void *unused)
{
	(void)unused;
	log_listener = listen_for_what_is_left;
	return with_scanner(serve_into_a_slow_end);
}

/* Whoever watches it must not take that for a failure, and start it again. */
TEST(ingest_whose_disk_is_too_slow_for_its_end_has_not_failed)
{
	struct ew_sim_filesystem *filesystem;

	prepare(NULL);
	EXPECT_EQ(ew_sim_filesystem_new(&(struct ew_sim_filesystem_options){ .names_only = true },
					&filesystem),
		  0);
	run_on(filesystem, 1, life_with_a_slow_end);
	ew_sim_filesystem_free(filesystem);
}

/* ---- moods ---- */

static uint64_t gentleness; /* of the scanner, in this world */

static enum mood judge(void)
{
	if (calm)
		return MOOD_ANSWER;
	switch (ew_sim_random(40 * gentleness)) {
	case 0: return MOOD_HANG_UP;
	case 1: return MOOD_ERROR;
	case 2: return MOOD_NONSENSE;
	case 3: return MOOD_RESTART;
	default: return MOOD_ANSWER;
	}
}

/* Now and then longer than anybody waits for a verdict. */
static int64_t delays(void)
{
	if (calm || ew_sim_random(20 * gentleness))
		return 0;
	return (int64_t)ew_sim_random(ew_sim_random(8) ? 2 * EW_SECOND : 400 * EW_SECOND);
}

/* ---- clients ---- */

#define VISITORS 10

static int64_t some_patience(void)
{
	return ew_sim_random(2) ? 1000 * EW_SECOND : (int64_t)ew_sim_random(3 * EW_SECOND);
}

static size_t some_bytes(void)
{
	return 1 + ew_sim_random(ew_sim_random(2) ? 100 : BODY_BYTES_MAX);
}

/* Few names, so that some are taken. Leaves, if there is no answer in time. */
static int visit(struct exchange *exchange)
{
	char name[16];
	int r;

	EW_SCOPE(scope, .deadline_ns = ew_after(some_patience()));

	snprintf(name, sizeof(name), "name%u", (unsigned)ew_sim_random(VISITORS));
	r = upload(add_note(name, some_bytes()), exchange);
	return ew_scope_finish(&scope, r);
}

static int visitor(void *unused)
{
	struct exchange exchange;
	int r;

	(void)unused;
	r = ew_sleep((int64_t)ew_sim_random(10 * EW_SECOND));
	return r < 0 ? r : visit(&exchange);
}

static struct front *front_now(void)
{
	return world.server ? &world.server->front : NULL;
}

/* And another one comes. */
static int change_servers(void *unused)
{
	(void)unused;
	return stop_by_lot(front_now);
}

/* ---- the two halves of a world's life ---- */

static bool remains; /* there may be some in the beginning */

static int storm(void)
{
	int r = 0;

	EW_SCOPE(changing);

	if (ew_sim_random(2))
		r = ew_spawn(&changing, change_servers, NULL);
	EXPECT_EQ(r, 0);
	r = run_visitors(visitor, VISITORS);
	EXPECT_EQ(r, 0);
	return ew_scope_finish(&changing, 0);
}

static int storm_and_calm(void)
{
	int r;

	if (remains && ew_sim_random(2))
		leave_remains();
	r = with_server(storm);
	EXPECT_EQ(r, 0);
	ew_sim_calm();
	r = calm_again();
	uploads = world.notes_count;
	return r;
}

static int scenario(void *unused)
{
	(void)unused;
	gentleness = 1 + 4 * ew_sim_random(3);
	world.judge = judge;
	world.delays = delays;
	/* By lot the scanner is the only trouble. */
	if (ew_sim_random(2))
		ew_sim_calm();
	return with_scanner(storm_and_calm);
}

static const struct ew_sim_filesystem_options strict = { .durability = EW_SIM_STRICT };

TEST(ingest_under_all_faults)
{
	try_trial(&(struct ew_sim_trial){ .seeds_count = 40,
					  .prepare = prepare,
					  .filesystem = &strict },
		  scenario);
}

static void try_power_cuts(unsigned seeds_count, const struct ew_sim_filesystem_options *disk)
{
	const struct ew_sim_trial trial = { .seeds_count = seeds_count,
					    .prepare = prepare,
					    .filesystem = disk,
					    .recover = restart,
					    .cuts_max = 8 };

	sync_fails = disk->durability == EW_SIM_FAILING;
	remains = !sync_fails;
	try_trial(&trial, scenario);
}

TEST(ingest_after_a_power_cut)
{
	try_power_cuts(6, &(struct ew_sim_filesystem_options){ .durability = EW_SIM_STRICT });
}

TEST(ingest_after_a_power_cut_in_order)
{
	try_power_cuts(3, &(struct ew_sim_filesystem_options){ .durability = EW_SIM_ORDERED });
}

TEST(ingest_after_a_power_cut_where_a_sync_has_failed)
{
	try_power_cuts(3, &(struct ew_sim_filesystem_options){ .durability = EW_SIM_FAILING });
}

TEST(ingest_after_a_power_cut_of_a_disk_without_nameless_files)
{
	try_power_cuts(3, &(struct ew_sim_filesystem_options){ .names_only = true });
}

/* ---- one call that fails ---- */

static unsigned fault_number, calls;

static int fail_one(void)
{
	return calls++ == fault_number ? -EIO : 0;
}

static int ask_whatever(void)
{
	struct exchange exchange;
	int r = upload(add_note("first", 5000), &exchange);

	return r == -ECONNREFUSED || r == -ECONNRESET ? 0 : r;
}

static bool another; /* comes, before the power is cut */

/* After one that was killed, a server that meets the fault, maybe before it serves. */
static int begin_badly(void)
{
	int r;

	leave_remains();
	ew__system_file_fault = fail_one;
	world.once = !another;
	r = with_server(ask_whatever);
	ew__system_file_fault = NULL;
	world.once = false;
	if (r == 0 && another)
		r = calm_again();
	uploads = world.notes_count;
	return r;
}

static int life_with_a_fault(void *unused)
{
	(void)unused;
	return with_scanner(begin_badly);
}

/* Whether the fault was made. */
static bool fail_call(unsigned number, bool names_only, uint64_t luck)
{
	const struct ew_sim_filesystem_options disk = { .names_only = names_only };
	struct ew_sim_filesystem *filesystem;

	prepare(NULL);
	fault_number = number;
	calls = 0;
	EXPECT_EQ(ew_sim_filesystem_new(&disk, &filesystem), 0);
	run_on(filesystem, 1, life_with_a_fault);
	ew_sim_filesystem_crash(&filesystem, luck);
	run_on(filesystem, 2, restart);
	ew_sim_filesystem_free(filesystem);
	return calls > number;
}

static void fail_calls(bool names_only, unsigned step, uint64_t luck)
{
	unsigned number = 0;

	while (fail_call(number, names_only, luck))
		number += step;
	printf("# %u calls\n", number);
	EXPECT(number > 50);
}

/* Then all is well again, or the power is cut at once: what was promised meanwhile is there, and nothing else is left. */
TEST(ingest_whose_calls_to_the_disk_fail_in_turn)
{
	another = true;
	fail_calls(false, 1, 1);
	another = false;
	fail_calls(false, 1, 2);
}

/* Each third: most are alike, of the 64 folders. */
TEST(ingest_whose_calls_to_a_disk_without_nameless_files_fail_in_turn)
{
	another = true;
	fail_calls(true, 3, 1);
}

/* ---- one upload, ended at each suspension ---- */

TEST(ingest_client_leaves_at_each_point)
{
	server_stays = true;
	sweep_one(1U << EW_SWEEP_CANCEL | 1U << EW_SWEEP_CANCEL_WAITING |
		  1U << EW_SWEEP_CANCEL_ENDED);
}

TEST(ingest_is_cancelled_at_each_point)
{
	client_stays = true;
	sweep_one(1U << EW_SWEEP_CANCEL);
}

TEST(ingest_is_forced_at_each_point)
{
	sweep_one(1U << EW_SWEEP_FORCE);
}

TEST(ingest_panics_at_each_point)
{
	sweep_one(1U << EW_SWEEP_PANIC);
}

/* ---- a task of the server panics ---- */

static const char *fatal_event;
static unsigned fatal_number; /* of those of that name, the one that is fatal */

static void listen_to_log(const char *event)
{
	if (!fatal_event || strcmp(event, fatal_event) != 0 || fatal_number-- > 0)
		return;
	fatal_event = NULL;
	ew_panic("at the event %s, as the test wants", event);
}

/* What it had is closed, the sessions are cut, and the next one has fair weather. */
static int lose_and_serve_again(void)
{
	int r;

	world.once = true;
	r = with_server(ask_whatever);
	EXPECT(!fatal_event);
	EXPECT(!world.server);
	fatal_event = NULL;
	world.once = false;
	return r == 0 ? calm_again() : r;
}

static int life_with_a_panic(void *event)
{
	fatal_event = event;
	fatal_number = 0;
	log_listener = listen_to_log;
	return with_scanner(lose_and_serve_again);
}

static void try_panics(ew_task_fn *life, const char *event)
{
	static const struct ew_sim_filesystem_options disk = { .names_only = true };
	const struct ew_sim_trial trial = { .seeds_count = 30,
					    .prepare = prepare,
					    .filesystem = &disk };
	struct ew_sim_verdict verdict = ew_sim_try(&trial, life, (void *)(uintptr_t)event);

	if (verdict.failed)
		ew_test_fail(__FILE__, __LINE__, "seed %" PRIu64 ": %.200s", verdict.seed,
			     verdict.what);
}

TEST(ingest_whose_main_task_panics_has_closed_all)
{
	try_panics(life_with_a_panic, "staging");
	try_panics(life_with_a_panic, "draining");
}

static int find_it_gone(void)
{
	int r = ask_whatever();

	EXPECT(!world.server); /* nobody has told it to stop */
	return r;
}

static int lose_service(void)
{
	int r;

	world.once = true;
	r = with_server(find_it_gone);
	EXPECT(!fatal_event);
	world.once = false;
	return r == 0 ? calm_again() : r;
}

static int life_with_a_lost_service(void *event)
{
	fatal_event = event;
	fatal_number = 0;
	log_listener = listen_to_log;
	return with_scanner(lose_service);
}

/* Half a server is none: it drains, and whoever watches it starts another. */
TEST(ingest_whose_service_panics_drains_and_ends)
{
	try_panics(life_with_a_lost_service, "scanner-ready");
}

/* The others go on: the one that is beside it is published, and so is the next. */
static int upload_beside(void *unused)
{
	(void)unused;
	return expect_status("beside", 9000, 201);
}

static int lose_session(void)
{
	struct exchange exchange;
	int r;

	EW_SCOPE(beside);

	r = upload(add_note("lost", 3000), &exchange);
	EXPECT(r == -ECONNRESET || exchange.status > 0);
	EXPECT_EQ(ew_spawn(&beside, upload_beside, NULL), 0);
	return ew_scope_finish(&beside, 0);
}

static int lose_sessions(void)
{
	int r;

	r = with_server(lose_session);
	return r == 0 ? calm_again() : r;
}

/* One state after the other. */
static int life_with_a_lost_session(void *event)
{
	fatal_event = event;
	fatal_number = (unsigned)ew_sim_random(6);
	log_listener = listen_to_log;
	return with_scanner(lose_sessions);
}

TEST(ingest_whose_session_panics_serves_the_others)
{
	try_panics(life_with_a_lost_session, "upload");
}

/* ---- a session panics while its scan is in the queue, or while its name is about to become durable ---- */

#define LONG_SCAN (100 * EW_SECOND)

static bool (*is_fatal)(void); /* NULL: nobody is to panic any more */
static bool scans_are_long;

static bool has_queue(void)
{
	return atomic_load(&world.server->metrics.scans_waiting) > 0;
}

static bool has_batch(void)
{
	return world.server->bucket.sync_open;
}

/* At a suspension: whoever has brought it about is the first. */
static void panic_if_fatal(struct ew_task *task)
{
	(void)task;
	if (!is_fatal || !is_fatal())
		return;
	is_fatal = NULL;
	ew_panic("where it waits, as the test wants");
}

static int64_t long_or_not(void)
{
	return scans_are_long ? LONG_SCAN : 0;
}

/* The only slot is taken. */
static int lose_queued(void)
{
	struct exchange exchange;

	EW_SCOPE(beside);

	scans_are_long = true;
	EXPECT_EQ(ew_spawn(&beside, upload_beside, NULL), 0);
	EXPECT_EQ(ew_sleep(EW_SECOND), 0);
	is_fatal = has_queue;
	EXPECT_EQ(upload(add_note("lost", 3000), &exchange), -ECONNRESET);
	EXPECT(!is_fatal);
	EXPECT_EQ(atomic_load(&world.server->metrics.scans_waiting), 0);
	return ew_scope_finish(&beside, 0);
}

static unsigned points_left; /* of sessions, before the one that is fatal */
static bool was_fatal;

static bool is_point_of_session(void)
{
	return strcmp(ew__task()->site->name, "serve_session") == 0 && points_left-- == 0;
}

/* The name that it was about to make is off the books, and its slot is free, while the server goes on. */
static int lose_at_a_point(void)
{
	struct exchange exchange;

	is_fatal = is_point_of_session;
	(void)upload(add_note("lost", 3000), &exchange);
	was_fatal = !is_fatal;
	is_fatal = NULL;
	EXPECT_EQ(ew_sleep(10 * EW_SECOND), 0);
	EXPECT_EQ(atomic_load(&world.server->bucket.staging.lease.names), 0);
	check_semaphore(world.server->uploads.semaphore);
	return 0;
}

static bool has_told_the_name;

static void listen_for_the_name(const char *event)
{
	if (strcmp(event, "upload") == 0 && strstr(log_heard, "name=lost") &&
	    strstr(log_heard, "to=FAILED"))
		has_told_the_name = strstr(log_heard, "the session was lost; the name exists");
}

/* Its name is there, which its story says, and becomes durable with the next. */
static int lose_named(void)
{
	struct exchange exchange;

	is_fatal = has_batch;
	has_told_the_name = false;
	log_listener = listen_for_the_name;
	EXPECT_EQ(upload(add_note("lost", 3000), &exchange), -ECONNRESET);
	log_listener = NULL;
	EXPECT(has_told_the_name);
	EXPECT(!is_fatal);
	return expect_status("beside", 9000, 201);
}

static int lose_and_calm(int (*lose)(void))
{
	int r = with_server(lose);

	scans_are_long = false;
	return r == 0 ? calm_again() : r;
}

static int lose_queued_and_calm(void)
{
	return lose_and_calm(lose_queued);
}

static int lose_named_and_calm(void)
{
	return lose_and_calm(lose_named);
}

static int lose_at_a_point_and_calm(void)
{
	return lose_and_calm(lose_at_a_point);
}

static int life_with_panics(int (*ask)(void))
{
	int r;

	world.delays = long_or_not;
	ew__current->refuse |= EW__REFUSE_SWEEP;
	ew__sweep_point = panic_if_fatal;
	r = with_scanner(ask);
	ew__sweep_point = NULL;
	return r;
}

static int life_with_a_lost_scan(void *unused)
{
	(void)unused;
	world.options.scan_slots = 1;
	return life_with_panics(lose_queued_and_calm);
}

static int life_with_a_lost_name(void *unused)
{
	(void)unused;
	return life_with_panics(lose_named_and_calm);
}

static int life_with_a_lost_point(void *unused)
{
	(void)unused;
	return life_with_panics(lose_at_a_point_and_calm);
}

/* Whether it has come to that point. */
static bool panic_at_point(unsigned number)
{
	const struct ew_sim_filesystem_options disk = { .names_only = true };
	struct ew_sim_filesystem *filesystem;

	prepare(NULL);
	points_left = number;
	EXPECT_EQ(ew_sim_filesystem_new(&disk, &filesystem), 0);
	run_on(filesystem, 1, life_with_a_lost_point);
	ew_sim_filesystem_free(filesystem);
	return was_fatal;
}

TEST(ingest_whose_session_panics_at_a_point_leaves_no_name_on_the_books)
{
	unsigned number = 0;

	while (panic_at_point(number))
		number++;
	printf("# %u points\n", number);
	EXPECT(number > 10);
}

/* No upload is there, so the names are the test files' of the scanner. */
static bool is_point_of_trial(void)
{
	return world.server && atomic_load(&world.server->bucket.staging.lease.names) > 0 &&
	       strcmp(ew__task()->site->name, "run_needed") == 0 && points_left-- == 0;
}

static int await_end(void)
{
	int r = ew_sleep(60 * EW_SECOND);

	was_fatal = !is_fatal;
	is_fatal = NULL;
	EXPECT_EQ(was_fatal, !world.server);
	return r;
}

/* It drains and ends; whatever name it had is removed, and off the books. */
static int lose_trial_and_calm(void)
{
	int r;

	is_fatal = is_point_of_trial;
	world.once = true;
	r = with_server(await_end);
	world.once = false;
	check_empty(STATE "/leases");
	return r == 0 ? calm_again() : r;
}

static int life_with_a_lost_trial(void *unused)
{
	(void)unused;
	return life_with_panics(lose_trial_and_calm);
}

static bool panic_in_trial(unsigned number)
{
	const struct ew_sim_filesystem_options disk = { .names_only = true };
	struct ew_sim_filesystem *filesystem;

	prepare(NULL);
	points_left = number;
	EXPECT_EQ(ew_sim_filesystem_new(&disk, &filesystem), 0);
	run_on(filesystem, 1, life_with_a_lost_trial);
	ew_sim_filesystem_free(filesystem);
	return was_fatal;
}

TEST(ingest_whose_scanner_test_panics_at_a_point_leaves_no_name)
{
	unsigned number = 0;

	while (panic_in_trial(number))
		number++;
	printf("# %u points\n", number);
	EXPECT(number > 10);
}

TEST(ingest_whose_session_panics_leaves_the_queue)
{
	try_panics(life_with_a_lost_scan, NULL);
}

TEST(ingest_whose_session_panics_leaves_the_batch)
{
	try_panics(life_with_a_lost_name, NULL);
}

TEST_MAIN()
