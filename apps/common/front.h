/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The front of a server: listeners and connections of all workers, and their end.
 *
 * A shutdown goes from the inside out: stop accepting, let sessions finish within the grace, cut what is left. The
 * services that sessions need are the server's, and outlive front_run().
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#include <endwell/event.h>
#include <endwell/semaphore.h>
#include <endwell/signals.h>
#include <endwell/task.h>

#include "http/session.h"

/* What an ending may take once it has been asked for. */
#define FRONT_ENDING_BUDGET (20 * EW_SECOND)

struct front;
struct front_worker;

/**
 * struct front_needed - a task without which the server is not to go on; the caller's, until its scope has ended
 * @name:   for the log
 * @worker: 0: the caller's
 */
struct front_needed {
	const char *name;
	ew_task_fn *run;
	void *argument;
	unsigned int worker;
	struct front *front; /* set by front_spawn_needed() */
};

/**
 * struct front - caller's memory; all before the line is given
 * @program:     for messages on standard error
 * @service:     of each worker; copied
 * @connections: a permit for each connection, acquired before it is taken
 * @grace_ns:    what a shutdown gives connections that are busy
 * @last_ns:     what the server needs after their endings, which have FRONT_ENDING_BUDGET
 */
struct front {
	const char *program;
	const char *listen; /* as it was given */
	struct sockaddr_storage address;
	socklen_t address_bytes;
	struct http_service service;
	struct ew_semaphore *connections;
	int64_t grace_ns;
	int64_t last_ns;
	/* -- read from here -- */
	_Atomic int64_t grace_end_ns; /* set before @draining */
	_Atomic bool draining;
	_Atomic bool forced;
	/* -- private from here -- */
	struct ew_event stopped;  /* front_stop() */
	struct ew_event insisted; /* and again */
	_Atomic bool lost;	  /* a task that is needed */
	_Atomic bool over;	  /* front_run() has its result */
	struct ew_signals *signals;
	struct front_needed heeding;
	struct ew_event drain;
	struct front_worker *workers;
	unsigned int workers_count;
};

/* One listener for each worker. On error, which is said on standard error, nothing is open. */
int front_open(struct front *front);
void front_close(struct front *front);

/* "http://127.0.0.1:8080", the port as the kernel chose it */
void front_address(const struct front *front, char *ret_text, size_t bytes);

/* Is what still runs being cut: the grace is over, or the end was asked for twice. From any thread */
bool front_is_cutting(const struct front *front);

/* Ask for the end, once or twice, before front_run() or while it runs: first to drain, then to cut what is left. */
void front_stop(struct front *front);

/* Ask for the drain alone: nothing, if somebody has asked. For what the server finds out about itself. */
void front_drain(struct front *front);

/* Wait until somebody has. -ETIMEDOUT at the deadline, -ECANCELED */
EW_SUSPENDS int front_await_stop(struct front *front, int64_t deadline_ns);

/*
 * Spawn a task that is needed. When it ends before front_run(), for whatever reason but a cancel, that is logged, and
 * the server drains.
 */
int front_spawn_needed(struct front *front, struct front_needed *needed, struct ew_scope *scope);

/* From now on each of @signals is a front_stop(), by a task of @scope, which is needed. */
int front_heed_signals(struct front *front, struct ew_signals *signals, struct ew_scope *scope);

/**
 * front_run() - serve until front_stop(), then drain
 * @ready:   called when connections are taken, to say so; may wait a while, with front_await_stop()
 * @settle:  called when all connections have ended, to wait for what may still end within the grace
 *
 * Return: 0, also when a second front_stop() has cut everything; -errno, -ENOTRECOVERABLE: a task that is needed was lost.
 */
EW_SUSPENDS int front_run(struct front *front, int (*ready)(void *server),
			  int (*settle)(void *server), void *server);

/* Descriptors that this process may have, raised to as many as it may ask for. */
uint64_t front_raise_descriptors(void);
