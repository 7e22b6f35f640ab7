/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * How many uploads fit: slots = min(10,000, (descriptors - reserve - waiting room) / 2, memory /
 * bytes per upload).
 */

#include <stddef.h>
#include <stdint.h>

#define CAPACITY_SLOTS_MAX	     10000
#define CAPACITY_DESCRIPTORS_RESERVE 256 /* with what this many workers take */
#define CAPACITY_WORKERS_RESERVED    8
#define CAPACITY_WORKER_DESCRIPTORS  3 /* a ring, a doorbell and a listener */
#define CAPACITY_DESCRIPTORS_EACH    2 /* a connection and a file */

/* Connections that are not uploads: health checks, metrics, the idle. From the reserve. */
#define CAPACITY_OTHER_CONNECTIONS 32

/*
 * Two buffers of 64 KiB for the body, 32 KiB of headers and buffered answer, 32 KiB of stack and
 * records.
 */
#define CAPACITY_UPLOAD_BYTES (192 * 1024)

struct capacity {
	/* given */
	uint64_t descriptors;
	uint64_t waiting;
	uint64_t workers;
	uint64_t memory_bytes;
	uint64_t asked_slots; /* 0: as many as fit */

	/* found */
	uint64_t reserve;
	uint64_t by_descriptors;
	uint64_t by_memory;
	uint64_t slots;
	uint64_t connections;
};

/**
 * capacity_compute() - how many upload slots there are, and how many connections
 * @capacity:    the first half is given, the second half is filled in
 * @error:       receives one sentence when it does not work out
 * @error_bytes: room in @error
 *
 * Return: 0, or -ERANGE when not even one upload fits or more were asked for than fit.
 */
int capacity_compute(struct capacity *capacity, char *error, size_t error_bytes);

/* The sum as one line, for the start block. */
void capacity_print(const struct capacity *capacity, char *ret_line, size_t line_bytes);
