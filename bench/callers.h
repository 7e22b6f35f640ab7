/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the two kinds of callers of bench/gateway.py have in common: how long each call took. */

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CALLERS_MAX 10000

struct callers {
	unsigned in_flight;
	int64_t end_ns; /* then no new call is made */
	pthread_mutex_t lock;
	double *took_us;
	size_t count, room;
};

int64_t callers_now(void);
void callers_note(struct callers *callers, int64_t began_ns);

/* Over HTTP, a connection each, from one thread. */
void call_http(struct callers *callers, int port, const char *route);

/* Over AMQP, by rabbitmq-c, from threads with a connection each. */
void call_amqp(struct callers *callers, int port, const char *queue, bool granted);
