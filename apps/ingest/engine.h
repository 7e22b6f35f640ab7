/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Whoever scans, clamd or a program: who it is, and what it says of a file. */

#include <sys/types.h>

#include <endwell/base.h>

#include "clamd_client.h"
#include "exec.h"
#include "options.h"
#include "verdict.h"

struct engine {
	const struct options *options;
	struct clamd_client clamd;
	struct exec exec;
};

/* Another process, or another text, is somebody else. */
struct engine_identity {
	pid_t pid; /* of the clamd that listens; 0 for a program, or where it cannot be known */
	char text[VERDICT_TEXT_BYTES]; /* scanner, version, signature version */
};

/**
 * engine_init() - before the runtime starts
 * @options: which scanner; borrowed
 *
 * Return: 0 or what exec_init() says.
 */
int engine_init(struct engine *engine, const struct options *options);

/**
 * engine_identify() - who would scan now
 *
 * Errors: those of clamd_client_version().
 */
EW_SUSPENDS int engine_identify(const struct engine *engine, struct engine_identity *ret_identity);

/**
 * engine_scan() - have a file scanned
 * @fd:       readable, of sealed bytes; borrowed, its file offset is moved
 * @expected: who shall scan
 * @verdict:  kind, signature and engine are filled in
 *
 * Return: 0 with a verdict.
 * Errors: -ESTALE it is not the one that is expected; those of clamd_client_scan() and exec_scan().
 */
EW_SUSPENDS int engine_scan(const struct engine *engine, int fd,
			    const struct engine_identity *expected, struct verdict *verdict);
