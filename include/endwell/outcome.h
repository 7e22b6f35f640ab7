/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Outcome: what an operation did to the world
 * A primitive call returns -ECANCELED if and only if its outcome is EW_OUTCOME_NONE.
 */

#include <endwell/base.h>

enum ew_outcome {
	EW_OUTCOME_NONE, /* it did not happen */
	EW_OUTCOME_DONE, /* it happened, whole; also an error that the call reports, as -EEXIST */
	EW_OUTCOME_PARTIAL, /* some of the bytes */
	EW_OUTCOME_SPOILED, /* the object is good only for closing, such as a half-made connection */
	EW_OUTCOME_UNKNOWN, /* the kernel will not say (EINTR after the fact on FUSE and NFS) */
};

/** ew_outcome() - of the running task's last operation */
EW_API enum ew_outcome ew_outcome(void);
