/* SPDX-License-Identifier: Apache-2.0 */

/*
 * ew-ingest that starts in what a crash has left, and meets the next trouble while it sweeps.
 *
 * A server publishes an upload and dies in the next one. The second one recovers, until its disk is gone: from one call on
 * all fail, and none has an effect, so that what is there is what a crash at that call finds. The third one has a good day.
 */

#include "ingest_lives.h"

#include "driver/sim/sim.h"

#define DYING_CALLS 12 /* of an upload, before whose end the first server dies */

enum crash { POWER_CUT, KILLED };

static unsigned calls;
static unsigned fault_number; /* the call that fails */
static bool for_good;	      /* and all that follow */
static int fault_error;

static int fail(void)
{
	unsigned number = calls++;

	return number == fault_number || (for_good && number > fault_number) ? fault_error : 0;
}

static void begin_trouble(unsigned number, bool stays, int error)
{
	calls = 0;
	fault_number = number;
	for_good = stays;
	fault_error = error;
	ew__system_file_fault = fail;
}

/* ---- the first life ---- */

static unsigned dies_at;

static struct note *next_clean_note(const char *name, size_t bytes)
{
	world.notes_count += is_infected(&(struct note){ .number = world.notes_count + 1 });
	return add_note(name, bytes);
}

static int upload_whatever(const char *name)
{
	struct exchange exchange;
	int r = upload(next_clean_note(name, 5000), &exchange);

	return r == -ECONNREFUSED || r == -ECONNRESET ? 0 : r;
}

/* Where a sync may fail it is not sure that the first one is promised. */
static int keep_one_and_die(void)
{
	struct exchange exchange;
	int r = upload(next_clean_note("kept", 9000), &exchange);

	EXPECT_EQ(r, 0);
	EXPECT(exchange.status == 201 || sync_fails);
	begin_trouble(dies_at, true, -EIO);
	return upload_whatever("lost");
}

static int die(void)
{
	int r;

	r = with_server(keep_one_and_die);
	ew__system_file_fault = NULL;
	if (!sync_fails)
		leave_remains();
	return r == -ECANCELED ? r : 0;
}

static int first_life(void *unused)
{
	(void)unused;
	return with_scanner(die);
}

/* ---- the second ---- */

static bool has_told; /* that something stays for the next start */
static bool has_started;

static void listen_to_log(const char *event)
{
	has_told = has_told || strcmp(event, "sweep-failed") == 0 ||
		   strcmp(event, "left-for-the-next-start") == 0;
}

static int upload_while_it_recovers(void)
{
	has_started = world.server != NULL;
	return upload_whatever("second");
}

static unsigned trouble_at;
static bool trouble_stays;
static int trouble;

#define LEASES_MAX                                                                                 \
	4 /* of the dead: one by hand, one of the first life; and of starts that failed */

static void note_leases(char leases[LEASES_MAX][33])
{
	const char *name;

	for (unsigned i = 0; (name = ew_sim_name(STATE "/leases", i)); i++) {
		EXPECT(i < LEASES_MAX);
		snprintf(leases[i], 33, "%s", name);
	}
}

static void check_swept(char leases[LEASES_MAX][33])
{
	const char *name;

	for (unsigned i = 0; (name = ew_sim_name(STATE "/leases", i)); i++)
		for (unsigned j = 0; j < LEASES_MAX; j++)
			if (strcmp(name, leases[j]) == 0)
				ew_test_fail(
					__FILE__, __LINE__,
					"lease %s stays, and nobody says so: call %u, error %d",
					name, trouble_at, -trouble);
}

static int recover_badly(void)
{
	char before[LEASES_MAX][33] = { 0 };
	int r;

	note_leases(before);
	has_told = has_started = false;
	log_listener = listen_to_log;
	world.once = !sync_fails;
	begin_trouble(trouble_at, trouble_stays, trouble);
	r = with_server(upload_while_it_recovers);
	ew__system_file_fault = NULL;
	log_listener = NULL;
	world.once = false;
	if (!trouble_stays && has_started && !has_told)
		check_swept(before);
	return r == -ECANCELED ? r : 0;
}

static int second_life(void *unused)
{
	(void)unused;
	return with_scanner(recover_badly);
}

/* ---- the last ---- */

static int last_life(void *unused)
{
	ew_sim_calm();
	return restart(unused);
}

static void crash(struct ew_sim_filesystem **filesystem, enum crash kind, uint64_t luck)
{
	uploads = world.notes_count;
	if (kind == POWER_CUT)
		ew_sim_filesystem_crash(filesystem, luck);
}

/* Whether the second life has met its trouble. */
static bool live_three_times(const struct ew_sim_filesystem_options *disk, enum crash kind,
			     uint64_t luck)
{
	struct ew_sim_filesystem *filesystem;
	unsigned met;

	prepare(NULL);
	sync_fails = disk->durability == EW_SIM_FAILING;
	dies_at = trouble_at % DYING_CALLS;
	EXPECT_EQ(ew_sim_filesystem_new(disk, &filesystem), 0);
	run_on(filesystem, 3 * luck, first_life);
	crash(&filesystem, kind, luck);
	run_on(filesystem, 3 * luck + 1, second_life);
	met = calls;
	crash(&filesystem, kind, luck + 1);
	run_on(filesystem, 3 * luck + 2, last_life);
	ew_sim_filesystem_free(filesystem);
	return met > trouble_at;
}

static void trouble_each_call(const struct ew_sim_filesystem_options *disk, enum crash kind,
			      uint64_t luck)
{
	unsigned passed =
		0; /* in a row: what is left, and so what there is to do, is not the same each time */

	for (trouble_at = 0; passed < DYING_CALLS; trouble_at++)
		passed = live_three_times(disk, kind, 1000 * luck + trouble_at) ? 0 : passed + 1;
	printf("# %u calls\n", trouble_at - passed);
	EXPECT(trouble_at - passed > 50);
}

static void interrupt(const struct ew_sim_filesystem_options *disk)
{
	uint64_t lucks = RUNNING_ON_VALGRIND ? 1 : 4;

	trouble_stays = true;
	trouble = -EIO;
	for (uint64_t luck = 1; luck <= lucks; luck++)
		trouble_each_call(disk, POWER_CUT, luck);
	trouble_each_call(disk, KILLED, 1);
}

TEST(ingest_recovery_is_interrupted_at_each_call)
{
	interrupt(&(struct ew_sim_filesystem_options){ .durability = EW_SIM_STRICT });
}

TEST(ingest_recovery_is_interrupted_at_each_call_in_order)
{
	interrupt(&(struct ew_sim_filesystem_options){ .durability = EW_SIM_ORDERED });
}

TEST(ingest_recovery_is_interrupted_at_each_call_where_a_sync_has_failed)
{
	interrupt(&(struct ew_sim_filesystem_options){ .durability = EW_SIM_FAILING });
}

TEST(ingest_recovery_is_interrupted_at_each_call_of_a_disk_without_nameless_files)
{
	interrupt(&(struct ew_sim_filesystem_options){ .names_only = true });
}

/* It does not start, and the next one does; or it goes on, and what it could not sweep it has named. */
static void fail_each_call_once(const struct ew_sim_filesystem_options *disk)
{
	static const int errors[] = { -EIO, -ENOSPC, -EACCES };

	trouble_stays = false;
	for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
		trouble = errors[i];
		trouble_each_call(disk, KILLED, 1);
	}
	trouble_each_call(disk, POWER_CUT, 1);
}

TEST(ingest_recovery_whose_calls_fail_in_turn)
{
	fail_each_call_once(&(struct ew_sim_filesystem_options){ .durability = EW_SIM_STRICT });
}

TEST(ingest_recovery_whose_calls_to_a_disk_without_nameless_files_fail_in_turn)
{
	fail_each_call_once(&(struct ew_sim_filesystem_options){ .names_only = true });
}

/* ---- names whose removal a failed sync has lost ---- */

static bool has_told_orphans;

static void listen_for_orphans(const char *event)
{
	has_told_orphans = has_told_orphans || strcmp(event, "sweep-orphans") == 0;
}

/* From now on the first sync fails that is for anything: of a folder of staging, when the server ends. */
static int upload_and_lose_the_next_sync(void)
{
	int r = expect_status("some", 3000, 201);

	ew__sim->strengths.syncs = 1024;
	return r;
}

/* The lease of the first one stays; the second one's sync goes well, and it buries it. */
static int serve_twice(void)
{
	int r;

	ew_sim_calm();
	has_told = false;
	log_listener = listen_to_log;
	r = with_server(upload_and_lose_the_next_sync);
	log_listener = NULL;
	ew_sim_calm();
	EXPECT(has_told);
	EXPECT(ew_sim_name(STATE "/leases", 0));
	return r == 0 ? with_server(ask_again) : r;
}

static int life_with_a_failed_sync(void *unused)
{
	(void)unused;
	return with_scanner(serve_twice);
}

static unsigned count_staged(void)
{
	char path[PATH_BYTES];
	unsigned count = 0;

	for (unsigned i = 0; i < STAGING_FOLDERS; i++) {
		snprintf(path, sizeof(path), STATE "/staging/%02x", i);
		for (unsigned j = 0; ew_sim_name(path, j); j++)
			count++;
	}
	return count;
}

static unsigned orphans;

static int serve_beside_orphans(void)
{
	int r;

	has_told_orphans = false;
	world.notes_count += is_infected(&(struct note){ .number = world.notes_count + 1 });
	log_listener = listen_for_orphans;
	r = with_server(ask_again);
	log_listener = NULL;
	EXPECT_EQ(r, 0);
	check_bucket();
	check_empty(STATE "/leases");
	EXPECT_EQ(has_told_orphans, count_staged() > 0);
	orphans += count_staged();
	return 0;
}

static int life_beside_orphans(void *unused)
{
	(void)unused;
	ew_sim_calm();
	world.notes_count = uploads;
	world.restarted = world.sync_has_failed = true;
	return with_scanner(serve_beside_orphans);
}

static void lose_removals(uint64_t luck)
{
	const struct ew_sim_filesystem_options disk = { .durability = EW_SIM_FAILING,
							.names_only = true };
	struct ew_sim_filesystem *filesystem;

	prepare(NULL);
	sync_fails = true;
	EXPECT_EQ(ew_sim_filesystem_new(&disk, &filesystem), 0);
	run_on(filesystem, 2 * luck, life_with_a_failed_sync);
	crash(&filesystem, POWER_CUT, luck);
	run_on(filesystem, 2 * luck + 1, life_beside_orphans);
	ew_sim_filesystem_free(filesystem);
}

/* A later sync goes well and proves nothing, so the lease is gone when the name is back: it is nobody's, and named. */
TEST(ingest_names_what_a_failed_sync_has_brought_back)
{
	orphans = 0;
	for (uint64_t luck = 1; luck <= 200; luck++)
		lose_removals(luck);
	printf("# %u names were back\n", orphans);
	EXPECT(orphans > 0);
}

/* ---- more leases that stay than are swept together ---- */

#define STUCK_LEASES (LEASE_DEAD_MAX + 4)

/* Longer than a name can be: it cannot be told whether their buckets have gone. */
#define NO_BUCKET                                                                                  \
	"/sim/"                                                                                    \
	"0123456789012345678901234567890123456789012345678901234567890123456789"                   \
	"0123456789012345678901234567890123456789012345678901234567890123456789"                   \
	"0123456789012345678901234567890123456789012345678901234567890123456789"                   \
	"0123456789012345678901234567890123456789012345678901234567890123456789"

static void path_of_stuck(unsigned number, char path[PATH_BYTES])
{
	snprintf(path, PATH_BYTES, STATE "/leases/%032u", number);
}

/* They are met before the one that can go. */
static void leave_stuck(void)
{
	char path[PATH_BYTES];

	leave_remains();
	for (unsigned i = 0; i < STUCK_LEASES; i++) {
		path_of_stuck(i, path);
		make_file(path, NO_BUCKET "\n");
	}
}

static void remove_stuck(void)
{
	char path[PATH_BYTES];

	for (unsigned i = 0; i < STUCK_LEASES; i++) {
		path_of_stuck(i, path);
		EXPECT_EQ(unlinkat(AT_FDCWD, path, 0), 0);
	}
}

static int sweep_past_them(void)
{
	int r;

	leave_stuck();
	has_told = false;
	log_listener = listen_to_log;
	r = with_server(ask_again);
	log_listener = NULL;
	EXPECT_EQ(r, 0);
	EXPECT(has_told);
	remove_stuck();
	check_bucket();
	check_disk();
	return 0;
}

static int life_with_stuck(void *unused)
{
	(void)unused;
	return with_scanner(sweep_past_them);
}

TEST(ingest_sweeps_what_is_behind_leases_that_stay)
{
	struct ew_sim_filesystem *filesystem;

	prepare(NULL);
	sync_fails = false;
	EXPECT_EQ(ew_sim_filesystem_new(NULL, &filesystem), 0);
	run_on(filesystem, 1, life_with_stuck);
	ew_sim_filesystem_free(filesystem);
}

TEST_MAIN()
