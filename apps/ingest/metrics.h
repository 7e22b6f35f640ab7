/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What is counted, and its text for Prometheus. All of it may be touched from any thread at any
 * time.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <endwell/semaphore.h>

#include "common/bucket.h"
#include "common/line.h"
#include "common/page.h"

#include "state.h"
#include "verdict.h"

struct metrics {
	_Atomic uint64_t entered[STATE_COUNT]; /* transitions into a state */
	_Atomic int64_t inside[STATE_COUNT];   /* uploads that are in it now; ends stay 0 */
	struct histogram time_in[STATE_COUNT]; /* how long a state took, seen when it is left */

	_Atomic uint64_t bytes_received;
	_Atomic uint64_t answers[6]; /* by hundreds of the status code */
	_Atomic uint64_t scans[VERDICT_COUNT];
	_Atomic uint64_t scans_failed;
	_Atomic uint64_t scans_abandoned; /* nobody waited for the verdict any more */
	_Atomic uint64_t tests_passed;	  /* of the scanner */
	_Atomic uint64_t tests_failed;

	struct ew_semaphore *upload_slots; /* borrowed, as the next */
	struct ew_semaphore *scan_slots;
	_Atomic int64_t scans_waiting;
	_Atomic bool scanner_ready;
};

void metrics_init(struct metrics *metrics, struct ew_semaphore *upload_slots,
		  struct ew_semaphore *scan_slots);

void metrics_state_entered(struct metrics *metrics, enum state state);
void metrics_state_left(struct metrics *metrics, enum state state, int64_t duration_ns);
void metrics_answered(struct metrics *metrics, int status);

/**
 * metrics_print() - the text exposition format
 * @bucket:    of the bucket
 * @uploads:   the waiting room
 * @ret_bytes: its length
 *
 * Return: heap memory for free(), or NULL when there is none.
 */
char *metrics_print(struct metrics *metrics, struct bucket_counts *bucket,
		    const struct line *uploads, size_t *ret_bytes);
