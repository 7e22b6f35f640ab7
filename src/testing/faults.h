/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Faults: operations of the worker that are counted, fail on demand, and are held to the contract
 * An operation of the driver is one, and so is a call to a filesystem on a thread.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The worker of this thread, until the end; none fails yet. What is in the air when it ends is looked at no more. */
void ew__faults_begin(void);
void ew__faults_end(void);

/*
 * From here on operations are counted from 0, and number @number ends with answer @answer of those that the kernel has
 * for its kind (modulo their count): each error, a count that is short, and what must be hidden from the program.
 */
void ew__faults_make(uint32_t number, uint32_t answer);

/* No operation fails, but they are counted from 0. */
void ew__faults_count(void);

/* So many were counted since then; and of the one that failed how many answers there are, 0: none has failed. */
uint32_t ew__faults_counted(void);
uint32_t ew__faults_answers(void);

/* "receive 3 ended with error 12" */
const char *ew__faults_describe(void);

/* What broke the contract between program and driver since the beginning; NULL: nothing did. */
const char *ew__faults_complaint(void);
