/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A scan slot stands for a thread of the scanner, and clamd's threads do not stop when a client
 * leaves. So a slot is a task of the server's scope, not of an upload: it has its own descriptor of
 * the file and waits for the answer whether somebody wants it or not. An upload hands a job to a
 * slot, or into the queue, and waits; when it is cancelled it gives up the job, never the slot. A
 * job is shared by both sides and freed by the last.
 *
 * A scanner is trusted after a test, not before: at the start, after a connection was lost, when
 * another process answers than the one that was tested, or the same with other signatures, and
 * every hour (trial.c). Until it has passed, uploads are refused: a scanner that is down is not
 * clean.
 *
 * A scanner can also go blind without a sign, so it is given EICAR between the uploads. And it has
 * to be trusted when it calls a file clean, not only when it was asked: what another slot, or such
 * a check, has found out meanwhile counts.
 */
#include "scanner.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <endwell/clock.h>
#include <endwell/event.h>
#include <endwell/task.h>

#include "common/log.h"
#include "engine.h"
#include "trial.h"

/* How long an upload waits for its verdict, the queue included; and how long a test may take. */
#define PATIENCE (300 * EW_SECOND)

/* How long a scan that lost its scanner waits for it to come back, once. */
#define RETURN_PATIENCE (5 * EW_SECOND)
#define RETURN_LOOK	(20 * EW_MILLISECOND)

#define TEST_INTERVAL (3600 * EW_SECOND)
#define TEST_RETRY    (1 * EW_SECOND)

/* So many files are scanned between two looks at whether EICAR is still found. */
#define SPOT_CHECK_SCANS 100

struct scan_slot;

struct scan_job {
	_Atomic int holders;
	struct ew_event done;
	struct scan_job *next;
	struct scan_slot *slot;	  /* that has it; NULL while it is queued */
	struct ew_permit *permit; /* then; of the slot */
	int borrowed_fd;	  /* the upload's; valid as long as the job is not given up */
	int fd;			  /* the slot's own, or -errno */
	bool given_up;
	bool finished;
	int result;
	struct verdict verdict;
};

struct scan_slot {
	struct scanner *scanner;
	unsigned int number;
	struct ew_event wake;
	struct scan_slot *next_idle;
	struct front_needed needed;
	struct scan_job *job; /* handed over, not yet picked up */
	struct ew_scope *run; /* while a program runs that may be stopped */
};

enum trust {
	TRUST_UNTESTED,
	TRUST_PASSED,
	TRUST_FAILED,
};

struct scanner {
	const struct options *options;
	struct metrics *metrics;
	struct engine engine;
	struct trial trial;
	struct ew_event test_now;
	struct ew_event check_now;
	struct front_needed testing, checking;
	_Atomic unsigned int scans_since_check;

	pthread_mutex_t
		lock; /* for what follows, and for the jobs; never held across a suspension */
	struct scan_job *queue_first;
	struct scan_job **queue_end;
	struct scan_slot *idle;
	enum trust trust;
	unsigned int era; /* how often trust was refused: trust within one era was never lost */
	struct engine_identity identity; /* of the scanner that has passed, or was tested last */
	char reason[SCANNER_REASON_BYTES];

	unsigned int slots_count;
	struct scan_slot slots[];
};

struct scanner *scanner_new(const struct options *options, struct metrics *metrics, char *error,
			    size_t error_bytes)
{
	unsigned int slots_count =
		options->scanner_kind == SCANNER_NONE ? 0 : (unsigned int)options->scan_slots;
	struct scanner *scanner;

	scanner = calloc(1, sizeof(*scanner) + slots_count * sizeof(scanner->slots[0]));
	if (!scanner) {
		snprintf(error, error_bytes, "out of memory");
		return NULL;
	}

	pthread_mutex_init(&scanner->lock, NULL);
	scanner->options = options;
	scanner->metrics = metrics;
	scanner->queue_end = &scanner->queue_first;
	scanner->slots_count = slots_count;
	scanner->trial.engine = &scanner->engine;
	scanner->trial.largest_bytes = options->size_max_bytes;
	if (options->scan_limit_bytes > 0 && options->scan_limit_bytes < options->size_max_bytes)
		scanner->trial.largest_bytes = options->scan_limit_bytes;
	for (unsigned int i = 0; i < slots_count; i++)
		scanner->slots[i] = (struct scan_slot){ .scanner = scanner, .number = i };
	snprintf(scanner->reason, sizeof(scanner->reason), "the scanner has not been tested yet");

	if (options->scanner_kind == SCANNER_NONE) {
		scanner->trust = TRUST_PASSED;
		snprintf(scanner->identity.text, sizeof(scanner->identity.text), "none");
		snprintf(scanner->reason, sizeof(scanner->reason),
			 "no scanner: files are published unscanned, as asked for");
		atomic_store(&metrics->scanner_ready, true);
	}
	if (engine_init(&scanner->engine, options) < 0) {
		snprintf(error, error_bytes,
			 "--scanner: started as root, so the command would run as the user nobody, "
			 "but there is none");
		return scanner_free(scanner);
	}
	return scanner;
}

struct scanner *scanner_free(struct scanner *scanner)
{
	if (!scanner)
		return NULL;
	pthread_mutex_destroy(&scanner->lock);
	free(scanner);
	return NULL;
}

/* Whether there is a scanner that has passed, which, and in which era. */
static bool is_trusted(struct scanner *scanner, struct engine_identity *ret_identity,
		       unsigned int *ret_era)
{
	bool trusted;

	pthread_mutex_lock(&scanner->lock);
	trusted = scanner->trust == TRUST_PASSED;
	*ret_identity = scanner->identity;
	*ret_era = scanner->era;
	pthread_mutex_unlock(&scanner->lock);
	return trusted;
}

static bool is_trusted_since(struct scanner *scanner, unsigned int era)
{
	struct engine_identity identity;
	unsigned int now;

	return is_trusted(scanner, &identity, &now) && now == era;
}

/* Under the lock; whether it is news. */
static bool note_trust(struct scanner *scanner, enum trust trust, const char *reason)
{
	bool news = trust != scanner->trust || strcmp(reason, scanner->reason) != 0;

	scanner->trust = trust;
	if (trust != TRUST_PASSED)
		scanner->era++;
	snprintf(scanner->reason, sizeof(scanner->reason), "%s", reason);
	atomic_store(&scanner->metrics->scanner_ready, trust == TRUST_PASSED);
	return news;
}

static void log_trust(enum trust trust, const char *reason)
{
	log_note(trust == TRUST_PASSED ? "info" : "error",
		 trust == TRUST_PASSED ? "scanner-ready" : "scanner-not-ready", "%s", reason);
}

/*
 * Notes the outcome of a test together with who was tested, or the new process would have the old
 * one's trust for a moment.
 */
static void set_trust(struct scanner *scanner, enum trust trust, const char *reason,
		      const struct engine_identity *identity)
{
	bool news;

	pthread_mutex_lock(&scanner->lock);
	news = note_trust(scanner, trust, reason);
	scanner->identity = *identity;
	pthread_mutex_unlock(&scanner->lock);
	if (news)
		log_trust(trust, reason);
}

/*
 * Ends the trust of an era. If it has ended already somebody else has noticed the same, and who is
 * trusted now has been tested since.
 */
static void distrust(struct scanner *scanner, unsigned int era, const char *reason)
{
	bool news = false;

	pthread_mutex_lock(&scanner->lock);
	if (era == scanner->era)
		news = note_trust(scanner, TRUST_FAILED, reason);
	pthread_mutex_unlock(&scanner->lock);
	if (news)
		log_trust(TRUST_FAILED, reason);
	ew_event_set(&scanner->test_now);
}

static void distrust_after(struct scanner *scanner, unsigned int era, const char *what, int r)
{
	char reason[SCANNER_REASON_BYTES];

	snprintf(reason, sizeof(reason), "%s: %s", what, strerror(-r));
	distrust(scanner, era, reason);
}

bool scanner_ready(struct scanner *scanner, char *ret_reason)
{
	bool ready;

	pthread_mutex_lock(&scanner->lock);
	ready = scanner->trust == TRUST_PASSED;
	snprintf(ret_reason, SCANNER_REASON_BYTES, "%s", scanner->reason);
	pthread_mutex_unlock(&scanner->lock);
	return ready;
}

void scanner_engine(struct scanner *scanner, char *ret_engine)
{
	pthread_mutex_lock(&scanner->lock);
	memcpy(ret_engine, scanner->identity.text, VERDICT_TEXT_BYTES);
	pthread_mutex_unlock(&scanner->lock);
}

static void run_test(struct scanner *scanner)
{
	char reason[SCANNER_REASON_BYTES];
	struct engine_identity identity = { 0 };
	int r;

	EW_SCOPE(limit, .deadline_ns = ew_after(PATIENCE));

	r = ew_scope_finish(&limit, trial_run(&scanner->trial, &identity, reason));
	if (r == -ECANCELED)
		return;
	if (r == -ETIMEDOUT)
		snprintf(reason, sizeof(reason), "%s does not come to the end of its test",
			 scanner->options->scanner);
	atomic_fetch_add(r == 0 ? &scanner->metrics->tests_passed : &scanner->metrics->tests_failed,
			 1);
	set_trust(scanner, r == 0 ? TRUST_PASSED : TRUST_FAILED, reason, &identity);
}

static int test_loop(void *argument)
{
	struct scanner *scanner = argument;
	struct engine_identity identity;
	unsigned int era;
	int r;

	for (;;) {
		ew_event_reset(&scanner->test_now);
		run_test(scanner);
		if (is_trusted(scanner, &identity, &era))
			r = ew_event_wait(&scanner->test_now, ew_after(TEST_INTERVAL));
		else
			r = ew_sleep(TEST_RETRY);
		if (r == -ECANCELED)
			return r;
	}
}

/* Whether the trusted scanner still finds EICAR. Why a check fails by itself is for a test to say. */
static void spot_check(struct scanner *scanner)
{
	char reason[SCANNER_REASON_BYTES];
	struct engine_identity identity;
	unsigned int era;
	int r;

	EW_SCOPE(limit, .deadline_ns = ew_after(PATIENCE));

	if (!is_trusted(scanner, &identity, &era))
		return;
	r = ew_scope_finish(&limit, trial_spot_check(&scanner->trial, &identity, reason));
	if (r == -EPERM)
		distrust(scanner, era, reason);
	else if (r < 0 && r != -ECANCELED)
		ew_event_set(&scanner->test_now);
}

static int spot_check_loop(void *argument)
{
	struct scanner *scanner = argument;
	int r;

	do {
		r = ew_event_wait(&scanner->check_now, EW_NEVER);
		if (r < 0)
			return r;
		ew_event_reset(&scanner->check_now);
		atomic_store(&scanner->scans_since_check, 0);
		spot_check(scanner);
	} while (true);
}

static void count_for_spot_check(struct scanner *scanner)
{
	if (atomic_fetch_add(&scanner->scans_since_check, 1) + 1 == SPOT_CHECK_SCANS)
		ew_event_set(&scanner->check_now);
}

static void job_let_go(struct scan_job *job)
{
	if (atomic_fetch_sub(&job->holders, 1) == 1)
		free(job);
}

/*
 * Under the lock: from here the slot counts as held, and the bytes stay readable whatever the
 * upload does.
 */
static void assign(struct scan_slot *slot, struct scan_job *job)
{
	int r;

	job->slot = slot;
	job->fd = fcntl(job->borrowed_fd, F_DUPFD_CLOEXEC, 0);
	if (job->fd < 0)
		job->fd = -errno;
	/* Who asks for a job has given the permit of the last one back. */
	r = ew_semaphore_try_acquire(slot->scanner->metrics->scan_slots, &job->permit);
	ew_assert(r == 0);
}

static void submit(struct scanner *scanner, struct scan_job *job)
{
	struct scan_slot *slot;

	pthread_mutex_lock(&scanner->lock);
	slot = scanner->idle;
	if (slot) {
		scanner->idle = slot->next_idle;
		slot->job = job;
		assign(slot, job);
	} else {
		*scanner->queue_end = job;
		scanner->queue_end = &job->next;
		atomic_fetch_add(&scanner->metrics->scans_waiting, 1);
	}
	pthread_mutex_unlock(&scanner->lock);
	if (slot)
		ew_event_set(&slot->wake);
}

/* Under the lock. */
static struct scan_job *queue_remove(struct scanner *scanner, struct scan_job **link)
{
	struct scan_job *job = *link;

	*link = job->next;
	if (scanner->queue_end == &job->next)
		scanner->queue_end = link;
	job->next = NULL;
	atomic_fetch_sub(&scanner->metrics->scans_waiting, 1);
	return job;
}

/* The upload leaves: out of the queue, or out of the slot, which goes on alone. */
static void give_up(struct scanner *scanner, struct scan_job *job)
{
	struct scan_job **link = &scanner->queue_first;
	bool queued;

	pthread_mutex_lock(&scanner->lock);
	queued = !job->slot;
	if (queued) {
		while (*link != job)
			link = &(*link)->next;
		queue_remove(scanner, link);
	} else if (!job->finished) {
		job->given_up = true;
		ew_permit_mark_cancelling(job->permit);
		atomic_fetch_add(&scanner->metrics->scans_abandoned, 1);
		if (job->slot->run)
			ew_scope_cancel(job->slot->run, EW_REASON_PEER);
	}
	pthread_mutex_unlock(&scanner->lock);
	if (queued)
		job_let_go(job); /* for the queue */
}

struct interest {
	struct scanner *scanner;
	struct scan_job *job;
};

/* The file is about to be closed, whether there is a verdict or not. */
static void lose_interest(void *argument)
{
	struct interest *interest = argument;

	give_up(interest->scanner, interest->job);
	job_let_go(interest->job);
}

static int lose_interest_close(void *interest)
{
	lose_interest(interest);
	return 0;
}

int scanner_scan(struct scanner *scanner, struct ew_file *file, uint64_t size_bytes,
		 const uint8_t *sha256, struct verdict *verdict)
{
	struct engine_identity identity;
	struct scan_job *job;
	unsigned int era;
	int r;

	if (!is_trusted(scanner, &identity, &era))
		return -EHOSTDOWN;

	job = calloc(1, sizeof(*job));
	if (!job)
		return -ENOMEM;
	atomic_init(&job->holders, 2);
	job->borrowed_fd = ew_file_fd(file);
	submit(scanner, job);

	struct interest interest = { scanner, job };
	EW_GUARD(guard, &interest, .close = lose_interest_close, .abort = lose_interest);

	r = ew_event_wait(&job->done, ew_after(PATIENCE));
	if (r == 0)
		r = job->result;
	if (r == 0) {
		*verdict = job->verdict;
		verdict->size_bytes = size_bytes;
		memcpy(verdict->sha256, sha256, sizeof(verdict->sha256));
	}
	return r;
}

static bool wanted(struct scan_slot *slot, struct scan_job *job)
{
	bool given_up;

	pthread_mutex_lock(&slot->scanner->lock);
	given_up = job->given_up;
	pthread_mutex_unlock(&slot->scanner->lock);
	return !given_up;
}

static int attempt(struct scan_slot *slot, struct scan_job *job)
{
	struct scanner *scanner = slot->scanner;
	struct engine_identity identity;
	unsigned int era;
	int r;

	if (!wanted(slot, job))
		return -ENODATA;
	if (!is_trusted(scanner, &identity, &era))
		return -EHOSTDOWN;

	r = engine_scan(&scanner->engine, job->fd, &identity, &job->verdict);
	switch (r) {
	case 0: count_for_spot_check(scanner); break;
	case -ECANCELED:
	case -ETIME: break;
	case -EPROTO:
		ew_event_set(&scanner->test_now); /* its fault or the file's? */
		break;
	case -ECONNRESET:
		distrust_after(scanner, era, "the scanner left in the middle of a scan", r);
		break;
	case -ESTALE:
		distrust_after(scanner, era, "the scanner was restarted, or has other signatures",
			       r);
		break;
	default: distrust_after(scanner, era, "the scanner cannot be reached", r); r = -EHOSTDOWN;
	}
	if (r == 0 && job->verdict.kind == VERDICT_CLEAN && !is_trusted_since(scanner, era))
		r = -ESTALE;
	return r;
}

/* Waits for a scanner that went away to be back and tested. */
static int await_return(struct scan_slot *slot, struct scan_job *job)
{
	int64_t deadline = ew_after(RETURN_PATIENCE);
	struct engine_identity identity;
	unsigned int era;
	int r;

	while (wanted(slot, job)) {
		if (is_trusted(slot->scanner, &identity, &era))
			return 0;
		if (ew_now() >= deadline)
			return -EHOSTDOWN;
		r = ew_sleep(RETURN_LOOK);
		if (r < 0)
			return r;
	}
	return -ENODATA;
}

static void set_run(struct scan_slot *slot, struct scan_job *job, struct ew_scope *run)
{
	pthread_mutex_lock(&slot->scanner->lock);
	slot->run = run;
	if (run && job->given_up)
		ew_scope_cancel(run, EW_REASON_PEER);
	pthread_mutex_unlock(&slot->scanner->lock);
}

struct run {
	struct scan_slot *slot;
	struct scan_job *job;
};

static void end_run(void *argument)
{
	struct run *run = argument;

	set_run(run->slot, run->job, NULL);
}

static int end_run_close(void *run)
{
	end_run(run);
	return 0;
}

/* A program is stopped when its job is given up; clamd cannot be. */
static int attempt_stoppable(struct scan_slot *slot, struct scan_job *job)
{
	struct run run = { slot, job };
	int r;

	EW_SCOPE(scope);
	EW_GUARD(running, &run, .close = end_run_close, .abort = end_run);

	set_run(slot, job, &scope);
	r = attempt(slot, job);
	ew_guard_disarm(&running);
	end_run(&run);
	return ew_scope_finish(&scope, r);
}

/* clamd may have been restarted, and that is nobody's fault. */
static int attempt_twice(struct scan_slot *slot, struct scan_job *job)
{
	int r;

	r = attempt(slot, job);
	if (r != -ECONNRESET && r != -ESTALE)
		return r;
	r = await_return(slot, job);
	return r == 0 ? attempt(slot, job) : r;
}

static int scan_job(struct scan_slot *slot, struct scan_job *job)
{
	int r;

	if (job->fd < 0)
		return job->fd;
	if (slot->scanner->options->scanner_kind == SCANNER_EXEC)
		r = attempt_stoppable(slot, job);
	else
		r = attempt_twice(slot, job);
	return r == -ECONNRESET || r == -ESTALE ? -EHOSTDOWN : r;
}

static void count(struct metrics *metrics, int r, const struct verdict *verdict)
{
	if (r == 0)
		atomic_fetch_add(&metrics->scans[verdict->kind], 1);
	else if (r != -ENODATA && r != -ECANCELED)
		atomic_fetch_add(&metrics->scans_failed, 1);
}

static void publish_result(struct scan_slot *slot, struct scan_job *job, int r)
{
	count(slot->scanner->metrics, r, &job->verdict);
	pthread_mutex_lock(&slot->scanner->lock);
	job->result = r == -ENODATA ? -ECANCELED : r;
	job->finished = true;
	pthread_mutex_unlock(&slot->scanner->lock);
	ew_event_set(&job->done);
}

/*
 * Whether the scanner may still be at it: clamd when we stopped waiting, a program whose tree is
 * not gone.
 */
static bool is_presumed(const struct scan_slot *slot, int r)
{
	return r == -ETIME ||
	       (r == -ECANCELED && slot->scanner->options->scanner_kind == SCANNER_CLAMD);
}

/* The slot's task is lost by a panic: nobody knows any more what the scanner is at. */
static void lose_job(void *argument)
{
	struct run *run = argument;

	if (!run->job->finished)
		publish_result(run->slot, run->job, -EHOSTDOWN);
	if (run->job->fd >= 0)
		close(run->job->fd);
	ew_permit_presume(&run->job->permit);
	job_let_go(run->job);
}

static int lose_job_close(void *run)
{
	lose_job(run);
	return 0;
}

/* Returns whether the slot is free again. */
static bool run_job(struct scan_slot *slot, struct scan_job *job)
{
	struct run run = { slot, job };
	int fd, r, closed = 0;
	bool presumed;

	EW_OWN(ew_file, file);
	EW_GUARD(lost, &run, .close = lose_job_close, .abort = lose_job);

	r = scan_job(slot, job);
	presumed = is_presumed(slot, r);
	publish_result(slot, job, r);

	/* The last close of a large file takes long, so it is the library's business. */
	fd = job->fd;
	job->fd = -1;
	if (fd >= 0 && ew_file_adopt(fd, &file) < 0)
		close(fd);
	else
		closed = ew_file_close(&file);
	ew_guard_disarm(&lost);
	if (closed < 0)
		log_note("warn", "close-failed", "the scanned file: %s", strerror(-closed));

	if (!presumed) {
		ew_permit_release(&job->permit);
	} else {
		ew_permit_presume(&job->permit);
		log_note("warn", "scan-slot-presumed",
			 "slot %u: the scanner has not said that it stopped; the slot is not "
			 "granted again",
			 slot->number);
	}
	job_let_go(job);
	return !presumed;
}

/* Under the lock. */
static void idle_remove(struct scan_slot *slot)
{
	struct scan_slot **link = &slot->scanner->idle;

	while (*link && *link != slot)
		link = &(*link)->next_idle;
	if (*link)
		*link = slot->next_idle;
}

/* The next in line, or sleep until somebody hands over a job. */
static int next_job(struct scan_slot *slot, struct scan_job **ret_job)
{
	struct scanner *scanner = slot->scanner;
	struct scan_job *job = NULL;
	int r = 0;

	pthread_mutex_lock(&scanner->lock);
	if (scanner->queue_first) {
		job = queue_remove(scanner, &scanner->queue_first);
		assign(slot, job);
	} else {
		slot->next_idle = scanner->idle;
		scanner->idle = slot;
	}
	pthread_mutex_unlock(&scanner->lock);

	if (!job) {
		r = ew_event_wait(&slot->wake, EW_NEVER);
		pthread_mutex_lock(&scanner->lock);
		idle_remove(slot);
		job = slot->job;
		slot->job = NULL;
		pthread_mutex_unlock(&scanner->lock);
		ew_event_reset(&slot->wake);
	}
	if (!job)
		return r;
	*ret_job = job;
	return 0;
}

static int slot_loop(void *argument)
{
	struct scan_slot *slot = argument;
	struct scan_job *job = NULL;
	int r;

	do {
		r = next_job(slot, &job);
	} while (r == 0 && run_job(slot, job));
	return r < 0 ? r : ew_sleep_until(EW_NEVER); /* it is presumed, and not granted again */
}

int scanner_start(struct scanner *scanner, struct front *front, struct ew_scope *scope,
		  struct staging *staging)
{
	int r = 0;

	scanner->trial.staging = staging;
	scanner->testing = (struct front_needed){ .name = "the scanner's test",
						  .run = test_loop,
						  .argument = scanner };
	scanner->checking = (struct front_needed){ .name = "the scanner's spot check",
						   .run = spot_check_loop,
						   .argument = scanner };
	for (unsigned int i = 0; i < scanner->slots_count && r == 0; i++) {
		struct scan_slot *slot = &scanner->slots[i];

		slot->needed = (struct front_needed){ .name = "a scan slot",
						      .run = slot_loop,
						      .argument = slot,
						      .worker = i % ew_workers_count() + 1 };
		r = front_spawn_needed(front, &slot->needed, scope);
	}
	if (scanner->slots_count > 0 && r == 0)
		r = front_spawn_needed(front, &scanner->testing, scope);
	if (scanner->slots_count > 0 && r == 0)
		r = front_spawn_needed(front, &scanner->checking, scope);
	return r;
}
