/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Stack overflow: reported with the task's name and spawn line, then the process ends by the signal
 */

/* Handles SIGSEGV unless the program, or a sanitizer, already does. */
void ew__overflow_install(void);

/* Gives the calling thread a stack for the handler, and takes it away. */
void ew__overflow_watch_thread(void);
void ew__overflow_unwatch_thread(void);
