/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The log: one logfmt line per event on standard error, written by a thread of its own. */

#include <stddef.h>
#include <stdint.h>

#define LOG_LINE_BYTES 2048

struct log_line {
	size_t used;
	char text[LOG_LINE_BYTES];
};

/* Starts the writing thread; without it lines are written where they are made. 0 or -errno. */
int log_start(void);

/* Writes what is queued, waiting at most until @deadline_ns (monotonic), and ends the thread. */
void log_stop(int64_t deadline_ns);

/* Lines that were thrown away because standard error does not take them. */
uint64_t log_dropped(void);

/*
 * A text for standard output, which need not have a reader either: a thread for it alone writes it.
 * Takes @text, from malloc(), always.
 */
void log_block(char *text);

/* A line: begin, any number of pairs, end. Values are quoted and escaped where they need it. */
void log_begin(struct log_line *line, const char *level, const char *event);
void log_text(struct log_line *line, const char *key, const char *value);
void log_number(struct log_line *line, const char *key, int64_t value);
void log_seconds(struct log_line *line, const char *key, int64_t duration_ns);
void log_end(struct log_line *line);

/* The common case: an event with one remark, printf style. */
void log_note(const char *level, const char *event, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
