/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The limits are added up before the first client comes, and printed, so that what is refused under
 * load is no surprise. Whoever waits for a slot holds a connection but no file yet, so the waiting
 * room counts one descriptor for each; the reserve is for listeners, rings, scanners, directories
 * and probes.
 *
 * Slots that were not asked for leave their share to connections: a server of one slot must not be
 * out of reach for its health check because a few dozen clients keep a connection open.
 */
#include "capacity.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

static uint64_t smaller(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static uint64_t reserve_for(uint64_t workers)
{
	uint64_t more =
		workers > CAPACITY_WORKERS_RESERVED ? workers - CAPACITY_WORKERS_RESERVED : 0;

	return CAPACITY_DESCRIPTORS_RESERVE + more * CAPACITY_WORKER_DESCRIPTORS;
}

int capacity_compute(struct capacity *capacity, char *error, size_t error_bytes)
{
	uint64_t taken, fit, spare;

	capacity->reserve = reserve_for(capacity->workers);
	taken = capacity->reserve + capacity->waiting;
	capacity->by_descriptors = capacity->descriptors > taken ? (capacity->descriptors - taken) /
									   CAPACITY_DESCRIPTORS_EACH
								 : 0;
	capacity->by_memory = capacity->memory_bytes / CAPACITY_UPLOAD_BYTES;
	fit = smaller(CAPACITY_SLOTS_MAX, smaller(capacity->by_descriptors, capacity->by_memory));

	if (fit == 0) {
		snprintf(error, error_bytes,
			 "not one upload fits: %" PRIu64 " descriptors less a reserve of %" PRIu64
			 " and a waiting room "
			 "of %" PRIu64 ", %" PRIu64
			 " MiB of memory; raise the limit (ulimit -Hn) or "
			 "lower --waiting",
			 capacity->descriptors, capacity->reserve, capacity->waiting,
			 capacity->memory_bytes >> 20);
		return -ERANGE;
	}
	if (capacity->asked_slots > fit) {
		snprintf(error, error_bytes,
			 "--upload-slots %" PRIu64 " is more than fit: descriptors allow %" PRIu64
			 ", memory %" PRIu64 ", the server %d",
			 capacity->asked_slots, capacity->by_descriptors, capacity->by_memory,
			 CAPACITY_SLOTS_MAX);
		return -ERANGE;
	}

	capacity->slots = capacity->asked_slots ? capacity->asked_slots : fit;
	/* Each upload's file is taken off; what is left is at least the uploads' own connections. */
	spare = smaller(capacity->descriptors - taken - capacity->slots, capacity->by_memory);
	capacity->connections =
		smaller(CAPACITY_SLOTS_MAX, spare) + capacity->waiting + CAPACITY_OTHER_CONNECTIONS;
	return 0;
}

void capacity_print(const struct capacity *capacity, char *ret_line, size_t line_bytes)
{
	snprintf(ret_line, line_bytes,
		 "%" PRIu64 " uploads = min(%d, (%" PRIu64 " descriptors - %" PRIu64 " - %" PRIu64
		 " waiting) / %d = %" PRIu64 ", %" PRIu64 " MiB / %d KiB each = %" PRIu64 ")%s",
		 capacity->slots, CAPACITY_SLOTS_MAX, capacity->descriptors, capacity->reserve,
		 capacity->waiting, CAPACITY_DESCRIPTORS_EACH, capacity->by_descriptors,
		 capacity->memory_bytes >> 20, CAPACITY_UPLOAD_BYTES / 1024, capacity->by_memory,
		 capacity->asked_slots ? ", as asked" : "");
}
