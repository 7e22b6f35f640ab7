/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The words of clamd: what is sent to it, and what its answers mean. No input or output happens
 * here.
 */

#include <stddef.h>

#include "verdict.h"

/* The longest answer that is read; anything longer is not understood. */
#define CLAMD_REPLY_BYTES_MAX 1024

enum clamd_command {
	CLAMD_PING,
	CLAMD_VERSION,
	CLAMD_FILDES, /* followed by one byte that carries the descriptor */
};

enum clamd_reply {
	CLAMD_SCANNED, /* the verdict is filled in */
	CLAMD_PONG,
	CLAMD_TIMED_OUT, /* clamd lost its patience with us */
	CLAMD_ERROR,	 /* clamd says that something went wrong */
	CLAMD_NONSENSE,	 /* not understood, cut short, or empty */
};

/* The bytes of a command in the NUL-terminated form, their number in @ret_bytes. */
const char *clamd_command(enum clamd_command command, size_t *ret_bytes);

/**
 * clamd_parse_scan() - what an answer to FILDES means
 * @reply:       everything clamd sent until it closed the connection
 * @reply_bytes: how much that is
 * @verdict:     kind and signature are filled in when the answer is CLAMD_SCANNED
 *
 * Strict: exactly one NUL-terminated line of a known form. `OK` is clean; `NAME FOUND` is infected,
 * except that the names `Heuristics.Limits.*` are unscannable; all else is an error and never
 * clean.
 */
enum clamd_reply clamd_parse_scan(const char *reply, size_t reply_bytes, struct verdict *verdict);

/* CLAMD_PONG, or what else an answer to PING is. */
enum clamd_reply clamd_parse_ping(const char *reply, size_t reply_bytes);

/**
 * clamd_parse_version() - the engine out of an answer to VERSION
 * @ret_engine: receives text such as `ClamAV 1.4.6/27000/Sun Nov 22 08:00:00 2026`; room for
 *              VERDICT_TEXT_BYTES
 *
 * Return: CLAMD_SCANNED when @ret_engine is filled in, else what went wrong.
 */
enum clamd_reply clamd_parse_version(const char *reply, size_t reply_bytes, char *ret_engine);
