/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Hardship: the process gets no more descriptors, and no more threads and processes
 * The limits are the process's, soft ones. That of threads and processes does not bind root.
 */

/* From a task. */
void ew__hardship_begin(void);

/* Idempotent. */
void ew__hardship_end(void);
