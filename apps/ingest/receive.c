/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An upload, whole. What can be refused is refused before the body: name, length, scanner, disk, a
 * name that is taken; then comes the line for a slot, after which the last three are looked at
 * again. From there receive_upload() tells the story: stage, receive, seal, scan, publish.
 *
 * Nothing here waits for a client to leave. The request's scope is cancelled then, the call that
 * happens to wait returns -ECANCELED, and the file is reclaimed on the way out, before its slot is
 * free. conclude() is where every end, good or bad, becomes a state, and an answer if somebody is
 * left to hear it.
 */
#include "receive.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <endwell/clock.h>
#include <endwell/scope.h>
#include <endwell/semaphore.h>
#include <endwell/tempfile.h>

#include "answer.h"
#include "common/log.h"
#include "common/spool.h"
#include "name.h"
#include "routes.h"
#include "upload.h"

/* How long a request stays in the waiting room at most. */
#define WAIT_MAX (60 * EW_SECOND)

#define SCANNER_RETRY_SECONDS 10
#define BUSY_RETRY_SECONDS    1

/* What the last answer may take when the server is about to end. */
#define LAST_ANSWER_BUDGET EW_SECOND

struct reception {
	struct server *server;
	struct http_request *request;
	struct upload upload;
	struct staged *staged;		/* its staging name; NULL: it has none */
	struct publication publication; /* its name in the bucket */
	struct spool spool;
	enum ew_reason reason; /* it was cancelled for; none: it was not */
};

static int copy_body(struct reception *reception, struct ew_file *file)
{
	struct server *server = reception->server;
	const char *data;
	int r, n;

	while ((n = http_body_read(reception->request, &data)) > 0) {
		atomic_fetch_add_explicit(&server->metrics.bytes_received, (uint64_t)n,
					  memory_order_relaxed);
		r = spool_write(&reception->spool, file, data, (size_t)n);
		reception->upload.size_bytes = reception->spool.bytes;
		if (r < 0)
			return r;
	}
	return n;
}

static int digest_body(struct reception *reception, struct ew_file *file, uint8_t *ret_sha256)
{
	int r;

	r = spool_begin(&reception->spool);
	if (r == 0)
		r = copy_body(reception, file);
	if (r == 0)
		r = spool_finish(&reception->spool, ret_sha256);
	spool_end(&reception->spool);
	return r;
}

/* Few at a time: until its writer is closed, a file that is being sealed takes two descriptors. */
static int seal(struct server *server, struct ew_tempfile *file)
{
	EW_OWN(ew_permit, permit);
	int r;

	r = ew_semaphore_acquire(server->sealing, EW_NEVER, &permit);
	if (r < 0)
		return r;
	r = ew_tempfile_seal(file);
	ew_permit_release(&permit);
	return r;
}

static int receive_and_seal(struct reception *reception, struct ew_tempfile *file)
{
	uint8_t sha256[32];
	int r;

	r = digest_body(reception, ew_tempfile_file(file), sha256);
	if (r < 0)
		return r;
	r = seal(reception->server, file);
	if (r < 0)
		return r;
	upload_seal(&reception->upload, reception->spool.bytes, sha256);
	upload_move(&reception->upload, STATE_SEALED, "");
	return 0;
}

/* 0 when the bytes may be published; -EPERM when the verdict forbids it. */
static int scan(struct server *server, struct upload *upload, struct ew_tempfile *file)
{
	struct verdict verdict = { .kind = VERDICT_UNSCANNED,
				   .engine = "none",
				   .size_bytes = upload->size_bytes };
	int r;

	if (server->options->scanner_kind == SCANNER_NONE) {
		memcpy(verdict.sha256, upload->sha256, sizeof(verdict.sha256));
		atomic_fetch_add(&server->metrics.scans[VERDICT_UNSCANNED], 1);
	} else {
		upload_move(upload, STATE_SCANNING, "");
		r = scanner_scan(server->scanner, ew_tempfile_file(file), upload->size_bytes,
				 upload->sha256, &verdict);
		if (r < 0)
			return r;
	}

	upload_judge(upload, &verdict);
	upload_move(upload, STATE_VERDICT, verdict.signature);
	return verdict_lets_pass(&verdict, upload->size_bytes, upload->sha256) ? 0 : -EPERM;
}

static bool commit(void *argument)
{
	struct upload *upload = argument;

	if (ew_cancel_requested())
		upload_cancel(upload);
	return upload_commit(upload);
}

/* Its end is the slot's business only: its bytes are synced. */
static int publish(struct reception *reception, struct ew_tempfile **file)
{
	struct upload *upload = &reception->upload;
	int r;

	ew_assert(verdict_lets_pass(&upload->verdict, upload->size_bytes, upload->sha256));
	upload_move(upload, STATE_PUBLISHING, "");
	reception->publication =
		(struct publication){ .name = upload->name, .commit = commit, .argument = upload };
	r = bucket_publish(&reception->server->bucket, &reception->publication, *file);
	if (r < 0)
		return r;
	upload_move(upload, STATE_PUBLISHED, "");
	upload->ending = ew_tempfile_close(file);
	return 0;
}

static int receive_scan_publish(struct reception *reception, struct ew_tempfile **file)
{
	struct server *server = reception->server;
	struct upload *upload = &reception->upload;
	int r;

	r = staging_make(&server->bucket.staging, file, &reception->staged);
	if (r < 0)
		return r;
	r = receive_and_seal(reception, *file);
	if (r < 0)
		return r;
	r = scan(server, upload, *file);
	if (r < 0)
		return r;
	return publish(reception, file);
}

static int receive_upload(struct reception *reception)
{
	EW_OWN(ew_tempfile, file);
	int r;

	r = receive_scan_publish(reception, &file);
	/* The end of the file may take long, and a client that leaves meanwhile was not the reason. */
	reception->reason = ew_cancel_reason();
	return r;
}

struct end {
	enum state state;
	enum problem problem; /* PROBLEM_COUNT: no answer of ours */
	const char *note;
};

static struct end cancelled(struct reception *reception)
{
	if (reception->reason != EW_REASON_SHUTDOWN)
		return (struct end){ STATE_CANCELLED, PROBLEM_COUNT, "the client left" };
	atomic_fetch_add(&reception->server->uploads_cut, 1);
	return (struct end){ STATE_CANCELLED, PROBLEM_DRAINING, "the server shut down" };
}

static struct end verdict_end(const struct upload *upload)
{
	if (upload->verdict.kind == VERDICT_UNSCANNABLE)
		return (struct end){ STATE_REJECTED, PROBLEM_UNSCANNABLE,
				     upload->verdict.signature };
	return (struct end){ STATE_REJECTED, PROBLEM_INFECTED, upload->verdict.signature };
}

/* What the body itself was refused for; the session answers for all but the size. */
static struct end body_end(struct reception *reception, int r)
{
	switch (r) {
	case -EFBIG:
		return (struct end){ STATE_REJECTED, PROBLEM_TOO_LARGE,
				     "the body is larger than the limit" };
	case -EBADMSG:
		return (struct end){ STATE_REJECTED, PROBLEM_COUNT, "the body is malformed" };
	case -ETIMEDOUT:
		return (struct end){ STATE_CANCELLED, PROBLEM_COUNT,
				     "the client was silent or too slow" };
	default: return cancelled(reception);
	}
}

static struct end end_of(struct reception *reception, int r)
{
	struct upload *upload = &reception->upload;
	bool receiving = upload->state == STATE_RECEIVING,
	     scanning = upload->state == STATE_SCANNING;

	if (reception->publication.named)
		return (struct end){ STATE_FAILED, PROBLEM_DURABILITY,
				     "the name exists, but could not be made durable" };
	if (reception->publication.doubtful)
		return (struct end){ STATE_FAILED, PROBLEM_DURABILITY,
				     "whether the name exists is not known" };
	if (r == -ECANCELED && upload_cancel(upload))
		return cancelled(reception);
	if (receiving &&
	    (r == -EFBIG || r == -EBADMSG || r == -ETIMEDOUT || r == -ECONNRESET || r == -EPIPE))
		return body_end(reception, r);
	if (r == -EPERM && upload->state == STATE_VERDICT)
		return verdict_end(upload);
	if (scanning && (r == -EHOSTDOWN || r == -ETIMEDOUT || r == -EPROTO))
		return (struct end){ STATE_FAILED, PROBLEM_SCANNER,
				     r == -ETIMEDOUT ? "the scanner takes too long"
				     : r == -EPROTO  ? "the scanner failed on this file"
						     : "the scanner is not available" };

	switch (r) {
	case -EEXIST:
		return (struct end){ STATE_FAILED, PROBLEM_TAKEN, "the name was taken meanwhile" };
	case -ESTALE:
		return (struct end){ STATE_FAILED, PROBLEM_STORAGE,
				     "somebody else replaced the staged file" };
	case -ENOSPC:
	case -EDQUOT: return (struct end){ STATE_FAILED, PROBLEM_NO_SPACE, "the disk is full" };
	case -EMFILE:
	case -ENFILE:
	case -ENOMEM: return (struct end){ STATE_FAILED, PROBLEM_BUSY, strerror(-r) };
	default: return (struct end){ STATE_FAILED, PROBLEM_STORAGE, strerror(-r) };
	}
}

/*
 * A client that has left hears nothing; one that is there when the server cuts what still runs hears
 * how that ended, above all if it was published all the same.
 */
static int tell(struct reception *reception, struct answer *answer)
{
	if (ew_cancel_reason() != EW_REASON_SHUTDOWN)
		return routes_answer(reception->server, reception->request, answer);

	EW_SHIELD(shield, .budget_ns = LAST_ANSWER_BUDGET);

	return routes_answer(reception->server, reception->request, answer);
}

/* A good or bad end becomes an answer. */
static int conclude(struct reception *reception, int r)
{
	struct upload *upload = &reception->upload;
	struct answer answer;
	char detail[400];
	struct end end;

	if (r == 0) {
		answer_published(&answer, upload);
		return tell(reception, &answer);
	}

	end = end_of(reception, r);
	upload_move(upload, end.state, end.note);
	if (end.problem == PROBLEM_COUNT)
		return r;
	snprintf(detail, sizeof(detail), "%s.", end.note);
	answer_problem(&answer, end.problem, detail, upload->story.id);
	if (end.problem == PROBLEM_SCANNER || end.problem == PROBLEM_DRAINING)
		answer.retry_after_seconds = SCANNER_RETRY_SECONDS;
	if (end.problem == PROBLEM_BUSY)
		answer.retry_after_seconds = BUSY_RETRY_SECONDS;
	return tell(reception, &answer);
}

static bool has_length(const struct http_head *head)
{
	return head->chunked || head->body_bytes > 0 || http_head_find(head, "Content-Length");
}

static bool is_encoded(const struct http_head *head)
{
	/* The field may come in several lines, which together are one list. */
	for (size_t i = 0; i < head->headers_count; i++)
		if (http_slice_equal(head->headers[i].name, "Content-Encoding") &&
		    !http_slice_equal(head->headers[i].value, "identity"))
			return true;
	return http_head_find(head, "Content-Range");
}

/* Refuses what the head alone tells; true with an answer given and its result in @ret_r. */
static bool refuse_head(struct server *server, struct http_request *request, char *ret_name,
			int *ret_r)
{
	const struct http_head *head = request->head;
	struct http_slice path = head->path;
	char reason[SCANNER_REASON_BYTES];
	const char *wrong;

	if (head->query.data)
		path.len = (size_t)(head->query.data + head->query.len - path.data);
	wrong = name_from_target(path.data, path.len, "/files/", ret_name);
	if (wrong)
		*ret_r = routes_problem(server, request, PROBLEM_NAME, wrong, 0);
	else if (is_encoded(head))
		*ret_r = routes_problem(server, request, PROBLEM_ENCODING, NULL, 0);
	else if (!has_length(head))
		*ret_r = routes_problem(server, request, PROBLEM_LENGTH_REQUIRED, NULL, 0);
	else if (head->body_bytes > 0 && (uint64_t)head->body_bytes > server_size_max(server))
		*ret_r = routes_problem(server, request, PROBLEM_TOO_LARGE, NULL, 0);
	else if (atomic_load(&server->front.draining))
		*ret_r = routes_problem(server, request, PROBLEM_DRAINING, NULL,
					SCANNER_RETRY_SECONDS);
	else if (!scanner_ready(server->scanner, reason))
		*ret_r = routes_problem(server, request, PROBLEM_SCANNER, NULL,
					SCANNER_RETRY_SECONDS);
	else
		return false;
	return true;
}

/* Cancelled, or about to be, before it was an upload. */
static int refuse_cut(struct server *server, struct http_request *request)
{
	if (ew_cancel_reason() != EW_REASON_SHUTDOWN && !front_is_cutting(&server->front))
		return -ECANCELED;

	EW_SHIELD(shield, .budget_ns = LAST_ANSWER_BUDGET);

	return routes_problem(server, request, PROBLEM_DRAINING, NULL, SCANNER_RETRY_SECONDS);
}

static int refuse_admission(struct server *server, struct http_request *request, int r)
{
	char detail[160];

	switch (r) {
	case -ECANCELED: return refuse_cut(server, request);
	case -EHOSTDOWN:
		return routes_problem(server, request, PROBLEM_SCANNER, NULL,
				      SCANNER_RETRY_SECONDS);
	case -EEXIST: return routes_problem(server, request, PROBLEM_TAKEN, NULL, 0);
	case -ENOSPC:
		return routes_problem(server, request, PROBLEM_NO_SPACE,
				      "Less than 5 % of the volume would stay free.", 0);
	default:
		snprintf(detail, sizeof(detail), "%s.", strerror(-r));
		return routes_problem(server, request, PROBLEM_STORAGE, detail, 0);
	}
}

static int await_slot(struct server *server, struct ew_permit **permit, bool *ret_waited)
{
	int r = line_enter(&server->uploads, ew_after(WAIT_MAX), permit, ret_waited);

	/* When all are cut at once, the slot of one may come before the cut of another worker does. */
	if (r == 0 && front_is_cutting(&server->front)) {
		ew_permit_release(permit);
		r = -ECANCELED;
	}
	return r;
}

static int refuse_wait(struct server *server, struct http_request *request, int r)
{
	int seconds = line_wait_seconds(&server->uploads);
	char detail[160];

	if (r == -ECANCELED)
		return refuse_cut(server, request);
	snprintf(detail, sizeof(detail),
		 r == -EAGAIN
			 ? "All %u upload slots are taken and the waiting room is full; the wait "
			   "is %d s at the moment."
			 : "All %u upload slots stayed taken; the wait is %d s at the moment.",
		 (unsigned int)server->capacity.slots, seconds);
	return routes_problem(server, request, PROBLEM_BUSY, detail, seconds);
}

/*
 * A file that could not be reclaimed is somebody's business, though not the client's. If it has a
 * name, its slot is free when that is gone.
 */
static void leave_slot(struct reception *reception, struct ew_permit **permit)
{
	struct server *server = reception->server;
	int ending = ew_ending_error();

	if (ending == 0)
		ending = reception->upload.ending;
	if (ending < 0)
		log_note("error", "reclaim-failed", "%s: %s", reception->upload.story.id,
			 strerror(-ending));
	if (!staging_settle(&server->bucket.staging, &reception->staged, ending, permit))
		ew_permit_release(permit);
}

struct slot_hold {
	struct reception *reception;
	struct ew_permit **permit;
};

/* The session is lost by a panic; its file has been ended. */
static void lose_slot(void *argument)
{
	struct slot_hold *hold = argument;
	struct upload *upload = &hold->reception->upload;

	spool_unreserve(&hold->reception->spool);
	spool_end(&hold->reception->spool);
	if (upload->story.id[0] && !state_is_end(upload->state))
		upload_move(upload, STATE_FAILED,
			    hold->reception->publication.named
				    ? "the session was lost; the name exists"
				    : "the session was lost");
	leave_slot(hold->reception, hold->permit);
}

static int lose_slot_close(void *hold)
{
	lose_slot(hold);
	return 0;
}

/* The line may take a minute, and what was well before it is looked at again, still before the body. */
static int look_again(struct server *server, const char *name)
{
	char reason[SCANNER_REASON_BYTES];

	if (!scanner_ready(server->scanner, reason))
		return -EHOSTDOWN;
	return bucket_check(&server->bucket, name);
}

static int receive_in_slot(struct reception *reception, const char *name)
{
	struct server *server = reception->server;
	EW_OWN(ew_permit, permit);
	bool waited;
	int r;

	r = await_slot(server, &permit, &waited);
	if (r < 0) {
		spool_unreserve(&reception->spool);
		return refuse_wait(server, reception->request, r);
	}

	struct slot_hold hold = { reception, &permit };
	EW_GUARD(slot, &hold, .close = lose_slot_close, .abort = lose_slot);

	r = waited ? look_again(server, name) : 0;
	if (r < 0) {
		ew_guard_disarm(&slot);
		spool_unreserve(&reception->spool);
		ew_permit_release(&permit);
		return refuse_admission(server, reception->request, r);
	}
	r = upload_begin(&reception->upload, &server->metrics, server->stories, name);
	if (r < 0) {
		ew_guard_disarm(&slot);
		ew_permit_release(&permit);
		return routes_problem(server, reception->request, PROBLEM_INTERNAL, strerror(-r),
				      0);
	}

	/*
	 * Slot and reservation are free when the bytes are reclaimed, and before the answer makes
	 * anybody send the next.
	 */
	r = receive_upload(reception);
	ew_guard_disarm(&slot);
	spool_unreserve(&reception->spool);
	leave_slot(reception, &permit);
	return conclude(reception, r);
}

static void unreserve(void *spool)
{
	spool_unreserve(spool);
}

static int unreserve_close(void *spool)
{
	spool_unreserve(spool);
	return 0;
}

int receive_file(struct server *server, struct http_request *request)
{
	struct reception reception = { .server = server,
				       .request = request,
				       .spool = { .bucket = &server->bucket } };
	char name[NAME_BYTES_MAX + 1];
	int r;

	if (refuse_head(server, request, name, &r))
		return r;

	EW_GUARD(reserved, &reception.spool, .close = unreserve_close, .abort = unreserve);

	r = spool_admit(&reception.spool, name, request->head->body_bytes);
	if (r < 0) {
		spool_unreserve(&reception.spool);
		return refuse_admission(server, request, r);
	}

	request->body_bytes_max = (int64_t)server_size_max(server);
	return receive_in_slot(&reception, name);
}
