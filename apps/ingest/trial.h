/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The test without which nobody trusts a scanner. */

#include <stdint.h>

#include "common/staging.h"

#include "engine.h"

#define TRIAL_REASON_BYTES 512

struct trial {
	const struct engine *engine;
	struct staging *staging; /* where test files are made */
	uint64_t largest_bytes;	 /* of a file that could be handed over */
};

/**
 * trial_run() - the whole test
 * @ret_identity: who was tested, as far as it was found out
 * @ret_reason:   a sentence in both cases, room for TRIAL_REASON_BYTES
 *
 * Return: 0 when the scanner can be trusted.
 * Errors: -EPERM it does not do what it is for; those of engine_scan().
 */
EW_SUSPENDS int trial_run(const struct trial *trial, struct engine_identity *ret_identity,
			  char *ret_reason);

/**
 * trial_spot_check() - whether one that has passed still finds EICAR
 * @identity:   who has passed
 * @ret_reason: a sentence if it does not, or nobody knows; room for TRIAL_REASON_BYTES
 *
 * Return: 0 when it does.
 * Errors: -EPERM it does not; those of engine_scan(), and nobody knows.
 */
EW_SUSPENDS int trial_spot_check(const struct trial *trial, const struct engine_identity *identity,
				 char *ret_reason);
