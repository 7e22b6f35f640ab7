/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Probe: a well-behaved client that asks every millisecond
 * It keeps to its schedule whatever the server does: a latency counts from when the question was due.
 */

#include <stdint.h>
#include <sys/types.h>

#define PROBE_ASKS_MAX 60000 /* a minute */

struct probe_record {
	_Atomic uint32_t count;
	_Atomic uint32_t stop;
	struct {
		int64_t due_ns; /* CLOCK_MONOTONIC */
		int64_t latency_ns;
	} asks[PROBE_ASKS_MAX];
};

struct probe {
	struct probe_record *record; /* shared with the child */
	pid_t child;
};

struct latency {
	double p50_ms;
	double p99_ms;
	double max_ms;
	unsigned count;
};

int64_t now_ns(void);

/* Starts a child that sends @question (@len bytes) to the loopback @port and reads until @answer_end has come. */
void probe_start(struct probe *probe, uint16_t port, const char *question, const char *answer_end);

/* What was due from @from_ns until @until_ns. */
struct latency probe_look(const struct probe *probe, int64_t from_ns, int64_t until_ns);

void probe_stop(struct probe *probe);
