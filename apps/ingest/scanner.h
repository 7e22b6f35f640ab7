/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The scanner: slots that scan, a queue in front of them, and the test without which nobody trusts
 * it.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <endwell/file.h>
#include <endwell/scope.h>

#include "common/front.h"
#include "common/staging.h"

#include "metrics.h"
#include "options.h"
#include "trial.h"
#include "verdict.h"

#define SCANNER_REASON_BYTES TRIAL_REASON_BYTES

struct scanner;

/**
 * scanner_new() - before the runtime starts
 * @options: which scanner, how many slots; borrowed
 * @metrics: borrowed
 *
 * Return: NULL with a sentence in @error.
 */
struct scanner *scanner_new(const struct options *options, struct metrics *metrics, char *error,
			    size_t error_bytes);
struct scanner *scanner_free(struct scanner *scanner);

/**
 * scanner_start() - spawn the slots, over all workers, and the testers; all are needed
 * @scope:   of the server: it must outlive every upload, because a slot outlives the upload that
 *           left it
 * @staging: where test files are made; borrowed
 *
 * Return: 0 or what ew_spawn() says.
 */
int scanner_start(struct scanner *scanner, struct front *front, struct ew_scope *scope,
		  struct staging *staging);

/**
 * scanner_scan() - have a sealed file scanned, in line
 * @file:       borrowed until return
 * @size_bytes: of the file, for the verdict
 * @sha256:     of the file, for the verdict
 * @verdict:    filled in whole
 *
 * Cancellation: gives the job up; a slot that already has it stays taken until the scanner has
 *               stopped.
 * Errors:       -EHOSTDOWN no scanner that has passed its test, -ETIMEDOUT it takes too long,
 *               -EPROTO it failed, -ECANCELED.
 */
EW_SUSPENDS int scanner_scan(struct scanner *scanner, struct ew_file *file, uint64_t size_bytes,
			     const uint8_t *sha256, struct verdict *verdict);

/* Whether uploads may come; @ret_reason gets a sentence in both cases, SCANNER_REASON_BYTES. */
bool scanner_ready(struct scanner *scanner, char *ret_reason);

/* Engine and signature version as last heard; VERDICT_TEXT_BYTES. */
void scanner_engine(struct scanner *scanner, char *ret_engine);
