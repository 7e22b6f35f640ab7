/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Each delivery has a task, and a job that runs has a scope in it: a cancel by the gateway cancels that scope, the end of the
 * connection the one around all. So what runs has ended before anything is said about it, and before the next connection
 * is made.
 */
#include "contract.h"

#include <amqp.h>
#include <amqp/dialer.h>

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <netdb.h>
#include <openssl/evp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define CLAIM_WAIT_MS	  10000
#define CLAIM_WAIT_MAX_MS (24 * 3600 * 1000)
#define SAY_AGAIN	  (50 * EW_MILLISECOND) /* to a broker that does not take it for the moment */
#define TOKEN_BYTES	  33
#define BUCKETS		  256 /* of jobs, by the first two digits of their tokens, which are random */

enum decision { NONE, GRANT, REFUSE, CANCEL };

struct session {
	const struct contract_options *options;
	struct ew_amqp_channel *work;
	struct ew_amqp_channel *control;
	char control_name[256];
	struct contract_job *jobs[BUCKETS];
};

struct contract_job {
	struct session *session;
	struct contract_job *next;
	struct ew_amqp_delivery **delivery; /* the task's place */
	char token[TOKEN_BYTES];
	struct ew_event decided;
	enum decision decision;
	struct ew_scope *running; /* NULL: nothing runs */
	uint64_t sequence;	  /* of the newest part or progress */
	json_t *json;		  /* what contract_read() has found; its strings are the job's */
	bool cancelled;
	bool refused; /* while it ran */
};

const struct ew_amqp_message *contract_message(const struct contract_job *job)
{
	return &(*job->delivery)->message;
}

const char *contract_claim(const struct contract_job *job)
{
	return job->token;
}

static int64_t number(const struct contract_job *job, const char *name, int64_t otherwise)
{
	const char *text = ew_amqp_header_find(contract_message(job), name);
	char *end;
	int64_t value = text ? strtoll(text, &end, 10) : 0;

	return text && *text && !*end ? value : otherwise;
}

static bool has(const struct contract_job *job, const char *header, const char *value)
{
	const char *text = ew_amqp_header_find(contract_message(job), header);

	return text && strcmp(text, value) == 0;
}

/* ---- the body ---- */

static void free_body(void *body)
{
	free(((struct contract_body *)body)->data);
}

static int free_body_close(void *body)
{
	free_body(body);
	return 0;
}

static bool has_digest(const struct contract_job *job, const struct contract_body *body)
{
	unsigned char digest[32];
	char text[2 * sizeof(digest) + 1];

	if (EVP_Digest(body->data, body->bytes, digest, NULL, EVP_sha256(), NULL) != 1)
		return false;
	for (size_t i = 0; i < sizeof(digest); i++)
		snprintf(text + 2 * i, 3, "%02x", digest[i]);
	return has(job, "x-ew-body-sha256", text);
}

/* 0: there are so many bytes, and no more. */
static int read_all(struct ew_file *file, struct contract_body *body)
{
	struct stat state;
	size_t done = 0;
	int n;

	n = ew_file_stat(file, &state);
	if (n < 0)
		return n;
	if ((uint64_t)state.st_size != body->bytes)
		return -EBADMSG;
	while (done < body->bytes) {
		n = ew_file_read(file, body->data + done, body->bytes - done, (int64_t)done);
		if (n <= 0)
			return n < 0 ? n : -EBADMSG;
		done += (size_t)n;
	}
	return 0;
}

static int read_file(const struct contract_job *job, const char *path, struct contract_body *body)
{
	int r;

	EW_OWN(ew_file, file);

	r = ew_file_open(NULL, path, O_RDONLY, 0, &file);
	if (r == 0)
		r = read_all(file, body);
	if (r == 0)
		r = ew_file_close(&file);
	if (r == 0 && !has_digest(job, body))
		r = -EBADMSG;
	return r;
}

int contract_body(const struct contract_job *job, struct contract_body *ret_body)
{
	const struct ew_amqp_message *message = contract_message(job);
	const char *path = ew_amqp_header_find(message, "x-ew-body-file");
	int64_t declared = path ? number(job, "x-ew-body-bytes", -1) : (int64_t)message->body_bytes;
	struct contract_body body = { .bytes = (size_t)declared };
	int r = 0;

	if (declared < 0)
		return -EBADMSG;
	body.data = malloc(body.bytes + 1);
	if (!body.data)
		return -ENOMEM;

	EW_GUARD(unwanted, &body, .close = free_body_close, .abort = free_body);

	if (path)
		r = read_file(job, path, &body);
	else
		memcpy(body.data, message->body, body.bytes);
	if (r < 0)
		return r;
	ew_guard_disarm(&unwanted);
	*ret_body = body;
	return 0;
}

int contract_read(struct contract_job *job, const char *format, ...)
{
	struct contract_body body;
	json_error_t error;
	va_list places;
	int r;

	r = contract_body(job, &body);
	if (r < 0)
		return r;
	json_decref(job->json);
	job->json = json_loadb(body.data, body.bytes, 0, &error);
	free(body.data);
	if (!job->json)
		return json_error_code(&error) == json_error_out_of_memory ? -ENOMEM : -EINVAL;
	va_start(places, format);
	r = json_vunpack_ex(job->json, NULL, 0, format, places);
	va_end(places);
	return r < 0 ? -EINVAL : 0;
}

int contract_answer(struct contract_result *ret_result, const char *format, ...)
{
	va_list arguments;
	int length;

	va_start(arguments, format);
	length = vasprintf(&ret_result->body, format, arguments);
	va_end(arguments);
	if (length < 0) {
		ret_result->body = NULL;
		return -ENOMEM;
	}
	ret_result->body_bytes = (size_t)length;
	ret_result->content_type = "application/json";
	return 0;
}

/* Of a @message it takes type, reply_to, content type and body. Persistent: where answers go may be a queue. */
static int say(struct contract_job *job, struct ew_amqp_message message, const char *header,
	       const char *value)
{
	const struct ew_amqp_header headers[] = { { "x-ew-claim", job->token }, { header, value } };
	int r;

	message.routing_key = contract_message(job)->reply_to;
	message.correlation_id = contract_message(job)->correlation_id;
	message.message_id = contract_message(job)->message_id;
	message.headers = headers;
	message.headers_count = header ? 2 : 1;
	message.persistent = true;
	do
		r = ew_amqp_publish(job->session->work, &message, NULL);
	while ((r == -EBUSY || r == -EREMOTEIO) && (r = ew_sleep(SAY_AGAIN)) == 0);
	return r;
}

static int say_word(struct contract_job *job, const char *type)
{
	return say(job, (struct ew_amqp_message){ .type = type }, NULL, NULL);
}

static int say_numbered(struct contract_job *job, const char *type, const void *body, size_t bytes)
{
	char sequence[24];

	snprintf(sequence, sizeof(sequence), "%llu", (unsigned long long)++job->sequence);
	return say(job, (struct ew_amqp_message){ .type = type, .body = body, .body_bytes = bytes },
		   "x-ew-sequence", sequence);
}

bool contract_streams(const struct contract_job *job)
{
	return has(job, "x-ew-stream", "1");
}

int contract_progress(struct contract_job *job, const char *format, ...)
{
	char text[CONTRACT_PROGRESS_BYTES_MAX + 1];
	va_list arguments;
	int length;

	va_start(arguments, format);
	length = vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	if (length < 0 || (size_t)length >= sizeof(text))
		return -EMSGSIZE;
	return say_numbered(job, "progress", text, (size_t)length);
}

int contract_part(struct contract_job *job, const void *body, size_t bytes)
{
	return contract_streams(job) ? say_numbered(job, "part", body, bytes) : -ENOTSUP;
}

static int say_result(struct contract_job *job, const struct contract_result *result)
{
	char status[16];

	snprintf(status, sizeof(status), "%d", result->status ? result->status : 200);
	return say(job,
		   (struct ew_amqp_message){ .type = job->cancelled ? "too-late" : "reply",
					     .content_type = result->content_type,
					     .body = result->body,
					     .body_bytes = result->body_bytes },
		   "x-ew-status", status);
}

static int forget(struct contract_job *job)
{
	return ew_amqp_acknowledge(job->session->work, job->delivery);
}

static bool is_past_deadline(const struct contract_job *job)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000 >
	       number(job, "x-deadline", INT64_MAX);
}

/* ---- running ---- */

static void note(const struct contract_options *options, const char *what, const char *which)
{
	if (options->note)
		options->note(what, which);
}

static void runs_no_more(void *argument)
{
	struct contract_job *job = argument;

	job->running = NULL;
	note(job->session->options, "end", contract_message(job)->message_id);
}

static int runs_no_more_close(void *job)
{
	runs_no_more(job);
	return 0;
}

static int work(struct contract_job *job, struct contract_result *ret_result)
{
	EW_SCOPE(scope);
	EW_GUARD(running, job, .close = runs_no_more_close, .abort = runs_no_more);

	job->running = &scope;
	note(job->session->options, "begin", contract_message(job)->message_id);
	return job->session->options->work(job, ret_result);
}

/* If it is the connection that has ended, nothing can be said, and the calls here say so. */
static int say_end(struct contract_job *job, int r, struct contract_result *result)
{
	if (job->refused)
		return 0;
	if (r == -EOWNERDEAD)
		return say_word(job, "unknown");
	if (job->cancelled && r == -ECANCELED)
		return say_word(job, "stopped");
	if (r < 0) {
		result->status = 500;
		result->content_type = "text/plain";
		result->body = strdup(strerror(-r));
		result->body_bytes = result->body ? strlen(result->body) : 0;
	}
	return say_result(job, result);
}

static void free_result(void *result)
{
	free(((struct contract_result *)result)->body);
}

static int free_result_close(void *result)
{
	free_result(result);
	return 0;
}

static int run(struct contract_job *job)
{
	struct contract_result result = {};
	int r;

	EW_GUARD(body, &result, .close = free_result_close, .abort = free_result);

	r = work(job, &result);
	r = say_end(job, r, &result);
	return r < 0 ? r : forget(job);
}

/* ---- claiming ---- */

static void decide(struct contract_job *job, enum decision decision)
{
	/* What was granted and has not begun need not begin. */
	if (job->decision == NONE || job->decision == GRANT)
		job->decision = decision;
	ew_event_set(&job->decided);
	if (!job->running || decision == GRANT)
		return;
	job->cancelled = true;
	job->refused = job->refused || decision == REFUSE;
	ew_scope_cancel(job->running, EW_REASON_PEER);
}

static void make_token(struct contract_job *job)
{
	uint64_t random[2];

	arc4random_buf(random, sizeof(random));
	snprintf(job->token, sizeof(job->token), "%016llx%016llx", (unsigned long long)random[0],
		 (unsigned long long)random[1]);
}

static int claim(struct contract_job *job)
{
	return say(
		job,
		(struct ew_amqp_message){ .type = "claim", .reply_to = job->session->control_name },
		"x-ew-redelivered", (*job->delivery)->redelivered ? "1" : "0");
}

static int obey(struct contract_job *job)
{
	int r = 0;

	if (job->decision == GRANT)
		return run(job);
	if (job->decision == CANCEL)
		r = say_word(job, "not-started");
	return r < 0 ? r : forget(job);
}

/* One that comes again and again would keep those behind it from their turn. */
static int give_back(struct contract_job *job)
{
	if ((*job->delivery)->redelivered || is_past_deadline(job))
		return forget(job);
	return ew_amqp_reject(job->session->work, job->delivery, true);
}

static int64_t claim_wait(const struct contract_job *job)
{
	int64_t wait_ms = number(job, "x-ew-claim-wait-ms", CLAIM_WAIT_MS);

	if (wait_ms < 0)
		return 0;
	return (wait_ms < CLAIM_WAIT_MAX_MS ? wait_ms : CLAIM_WAIT_MAX_MS) * EW_MILLISECOND;
}

static int claim_and_obey(struct contract_job *job)
{
	int r;

	r = claim(job);
	if (r < 0)
		return r;
	if (has(job, "x-ew-grant", "none"))
		decide(job, job->decision == NONE ? GRANT : job->decision);
	r = ew_event_wait(&job->decided, ew_after(claim_wait(job)));
	if (r == -ETIMEDOUT)
		return give_back(job);
	return r < 0 ? r : obey(job);
}

/* Where jobs are whose tokens begin like this one. */
static struct contract_job **bucket(struct session *session, const char *token)
{
	char digits[3] = { token[0], token[0] ? token[1] : '\0' };

	return &session->jobs[strtoul(digits, NULL, 16) % BUCKETS];
}

static void enter(struct contract_job *job)
{
	struct contract_job **first = bucket(job->session, job->token);

	job->next = *first;
	*first = job;
}

static void leave(void *argument)
{
	struct contract_job *job = argument;
	struct contract_job **link = bucket(job->session, job->token);

	while (*link != job)
		link = &(*link)->next;
	*link = job->next;
	json_decref(job->json);
}

static int leave_close(void *job)
{
	leave(job);
	return 0;
}

/* An error is one of the channel, and ends the session. */
static int handle(void *session, void *delivery)
{
	struct contract_job job = { .session = session, .delivery = delivery };

	make_token(&job);
	enter(&job);

	EW_GUARD(entered, &job, .close = leave_close, .abort = leave);

	return claim_and_obey(&job);
}

/* ---- a session: what a connection lasts for ---- */

static struct contract_job *find(struct session *session, const char *token)
{
	struct contract_job *job = token ? *bucket(session, token) : NULL;

	while (job && strcmp(job->token, token) != 0)
		job = job->next;
	return job;
}

static int hear(void *argument)
{
	static const char *const words[] = {
		[GRANT] = "grant", [REFUSE] = "refuse", [CANCEL] = "cancel"
	};
	struct session *session = argument;
	int r;

	for (;;) {
		EW_OWN(ew_amqp_delivery, delivery);

		r = ew_amqp_receive(session->control, &delivery);
		if (r < 0)
			return r;
		struct contract_job *job =
			find(session, ew_amqp_header_find(&delivery->message, "x-ew-claim"));

		for (int word = GRANT; job && delivery->message.type && word <= CANCEL; word++)
			if (strcmp(delivery->message.type, words[word]) == 0)
				decide(job, word);
	}
}

static bool is_ours(const struct ew_amqp_message *message)
{
	const char *version = ew_amqp_header_find(message, "x-ew-version");

	return message->type && strcmp(message->type, "op") == 0 && message->reply_to &&
	       message->correlation_id && message->message_id && version &&
	       (strcmp(version, "1") == 0 || strcmp(version, "2") == 0);
}

static int take(struct session *session, struct ew_scope *jobs)
{
	int r;

	for (;;) {
		EW_OWN(ew_amqp_delivery, delivery);

		r = ew_amqp_receive(session->work, &delivery);
		if (r < 0)
			return r;
		if (is_ours(&delivery->message) && !delivery->too_large)
			r = ew_spawn_take(jobs, handle, session, &delivery);
		else
			r = ew_amqp_reject(session->work, &delivery, false);
		if (r < 0)
			return r;
	}
}

static int consume(struct session *session)
{
	const struct ew_amqp_queue control = { .exclusive = true };
	int r;

	r = ew_amqp_queue_declare(session->control, &control, session->control_name);
	if (r == 0)
		r = ew_amqp_consume(session->control,
				    &(struct ew_amqp_consumer){ .queue = session->control_name,
								.no_ack = true });
	if (r == 0)
		r = ew_amqp_consume(
			session->work,
			&(struct ew_amqp_consumer){ .queue = session->options->queue,
						    .prefetch_max = session->options->at_once });
	return r;
}

static int serve(const struct contract_options *options, struct ew_amqp_connection *connection)
{
	struct session session = { .options = options };
	int r;

	EW_OWN(ew_amqp_channel, work);
	EW_OWN(ew_amqp_channel, control);
	EW_SCOPE(jobs);

	r = ew_amqp_channel_open(connection, NULL, &work);
	if (r == 0)
		r = ew_amqp_channel_open(connection, NULL, &control);
	session.work = work;
	session.control = control;
	if (r == 0)
		r = consume(&session);
	if (r == 0)
		r = ew_spawn(&jobs, hear, &session);
	if (r == 0)
		r = take(&session, &jobs);
	r = ew_scope_finish(&jobs, r);
	/* The connection is closed next, and it is enough to wait for that answer. */
	ew_abort(&work);
	ew_abort(&control);
	return r;
}

static int connect_and_serve(const struct contract_options *options, struct ew_scope *scope)
{
	struct ew_amqp_error error = {};
	int r;

	EW_OWN(ew_amqp_connection, connection);

	r = ew_amqp_dial(options->dialer, scope, &error, &connection);
	if (r == 0)
		r = serve(options, connection);
	if (r != -ECANCELED)
		note(options, "connection lost:", error.text[0] ? error.text : strerror(-r));
	return r;
}

int contract_serve(const struct contract_options *options)
{
	int r;

	EW_SCOPE(connections);

	do
		r = connect_and_serve(options, &connections);
	while (!ew_cancel_requested());
	return ew_scope_finish(&connections, r);
}

/* ---- a program ---- */

static void print_note(const char *what, const char *which)
{
	printf("%s %s\n", what, which);
}

static void end_signals(sigset_t *ret_set)
{
	sigemptyset(ret_set);
	sigaddset(ret_set, SIGTERM);
	sigaddset(ret_set, SIGINT);
}

static int serve_task(void *options)
{
	return contract_serve(options);
}

/* Until one of them says that the process is to end. */
static int main_task(void *options)
{
	sigset_t set;
	int r;

	EW_OWN(ew_signals, signals);
	EW_SCOPE(serving);

	end_signals(&set);
	r = ew_signals_open(&set, &signals);
	if (r == 0)
		r = ew_spawn(&serving, serve_task, options);
	if (r == 0)
		r = ew_signals_wait(signals);
	return r < 0 ? r : 0;
}

static struct addrinfo *look_up(const char *program, const struct amqp_connection_info *parts)
{
	const struct addrinfo hints = { .ai_socktype = SOCK_STREAM };
	struct addrinfo *found = NULL;
	char port[16];
	int r;

	snprintf(port, sizeof(port), "%d", parts->port);
	r = getaddrinfo(parts->host, port, &hints, &found);
	if (r != 0)
		fprintf(stderr, "%s: %s: %s\n", program, parts->host, gai_strerror(r));
	return found;
}

static int serve_at(const struct amqp_connection_info *parts, const struct addrinfo *host,
		    struct contract_options *contract)
{
	sigset_t signals;
	const struct ew_run_options options = { .workers_count = 1 };
	const struct ew_amqp_endpoint endpoint = { .address = host->ai_addr,
						   .address_bytes = host->ai_addrlen };
	/* Until what runs has stopped, however long that takes. */
	const struct ew_amqp_options broker = { .drain_ns = EW_NEVER,
						.user = parts->user,
						.password = parts->password,
						.virtual_host =
							parts->vhost[0] ? parts->vhost : "/" };
	struct ew_amqp_dialer dialer = { .endpoints = &endpoint,
					 .endpoints_count = 1,
					 .options = &broker };

	/* Also after the run: a second one is not to spoil an orderly end. */
	end_signals(&signals);
	pthread_sigmask(SIG_BLOCK, &signals, NULL);
	contract->dialer = &dialer;
	return ew_run(&options, main_task, contract);
}

int contract_main(int argc, char **argv, contract_work_fn *fn)
{
	struct contract_options contract = { .at_once = 1, .work = fn, .note = print_note };
	struct amqp_connection_info parts;
	struct addrinfo *host;
	int r;

	if (argc < 3 || amqp_parse_url(argv[1], &parts) != 0) {
		fprintf(stderr, "usage: %s amqp://USER:PASSWORD@HOST:PORT/ QUEUE [AT_ONCE]\n",
			argv[0]);
		return 2;
	}
	contract.queue = argv[2];
	if (argc > 3)
		contract.at_once = (unsigned)atoi(argv[3]);
	host = look_up(argv[0], &parts);
	if (!host)
		return 1;
	setvbuf(stdout, NULL, _IOLBF, 0);
	r = serve_at(&parts, host, &contract);
	freeaddrinfo(host);
	return r < 0;
}
