/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* contract.h - the worker's side of docs/cancel-contract.md, on libendwell-amqp */

#include <amqp/channel.h>
#include <endwell/endwell.h>

/**
 * struct contract_result - of a job that has ended by itself
 * @body: from malloc(); NULL: empty
 */
struct contract_result {
	int status; /* 0: 200 */
	const char *content_type;
	char *body;
	size_t body_bytes;
};

/** struct contract_job - one operation; the message is there while its function runs */
struct contract_job;

const struct ew_amqp_message *contract_message(const struct contract_job *job);

/** struct contract_body - of an operation; @data from malloc(), also of an empty one */
struct contract_body {
	char *data;
	size_t bytes;
};

/**
 * contract_body() - all of the body, also if the message has only its address
 *
 * Ownership: the caller's, to be freed.
 * Errors:    -EBADMSG what is there has another length or digest than the message says; those of files, -ENOMEM,
 *            -ECANCELED
 */
EW_SUSPENDS int contract_body(const struct contract_job *job, struct contract_body *ret_body);

/**
 * contract_read() - what a body in JSON says, by a format of json_unpack()
 *
 * Ownership: texts are the job's, and there until its function returns.
 * Errors:    -EINVAL it is no JSON, or another one; those of contract_body()
 */
EW_SUSPENDS int contract_read(struct contract_job *job, const char *format, ...);

/** contract_answer() - a result in JSON, by a format of printf(); -ENOMEM */
__attribute__((format(printf, 2, 3))) int contract_answer(struct contract_result *ret_result,
							  const char *format, ...);

/** contract_claim() - its x-ew-claim: no other attempt has the same, so it can name the holder of a lock */
const char *contract_claim(const struct contract_job *job);

/** contract_streams() - whether the client takes the reply in parts; if not, all of it belongs into the result */
bool contract_streams(const struct contract_job *job);

#define CONTRACT_PROGRESS_BYTES_MAX 255

/** contract_progress() - tell a client that takes events how far the job is; it hears of the newest only. -EMSGSIZE */
__attribute__((format(printf, 2, 3))) EW_SUSPENDS int contract_progress(struct contract_job *job,
									const char *format, ...);

/** contract_part() - the next part of the reply; the result is the last one. -ENOTSUP: see contract_streams() */
EW_SUSPENDS int contract_part(struct contract_job *job, const void *body, size_t bytes);

/**
 * contract_work_fn - do the job; calls that suspend return -ECANCELED when it is cancelled
 * Return: 0 with a result, also after a cancel; -ECANCELED: stopped without one; -EOWNERDEAD: nobody can tell whether all
 *         that was started is over; other errors are answered with status 500
 */
typedef int contract_work_fn(struct contract_job *job, struct contract_result *ret_result);

/**
 * struct contract_options - a worker
 * @dialer:  whom to connect to; its connections need 2 channels
 * @queue:   work queue
 * @at_once: operations at a time, at most 1,024
 * @note:    is told of each job that it begins and ends, and why a connection was lost, or not made; NULL: nobody is
 */
struct contract_options {
	struct ew_amqp_dialer *dialer;
	const char *queue;
	unsigned at_once;
	contract_work_fn *work;
	void (*note)(const char *what, const char *which);
};

/**
 * contract_serve() - serve a queue until the caller is cancelled
 *
 * A lost connection stops what runs; when it has stopped, the next one is made.
 * Errors: -ECANCELED
 */
EW_SUSPENDS int contract_serve(const struct contract_options *options);

/**
 * contract_main() - what main() does in a worker: PROGRAM amqp://USER:PASSWORD@HOST:PORT/ QUEUE [AT_ONCE]
 *
 * Serves the queue, in a runtime of its own, until SIGTERM or SIGINT: then what runs is stopped, and comes to another worker.
 * Says on standard output which jobs begin and end ("begin ID"), and when a connection is lost.
 * Return: the exit status: 0 after a signal, 2 for arguments that are none, 1 for a host that is not found or a runtime that cannot start
 */
int contract_main(int argc, char **argv, contract_work_fn *fn);
