/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A log line must not stop a worker, and standard error may be a pipe that nobody reads. So lines
 * go into a bounded buffer and a thread of its own writes them, from a second buffer that it has in
 * exchange, so that the lock is held for one line at most; when the buffer is full the newest line
 * is dropped and counted, and the next line that fits says how many are missing. The thread lets a
 * millisecond of lines come together: ten thousand in a storm would else wake it three thousand
 * times, and it is the workers who call it.
 *
 * The format is logfmt: key=value, space between, values in double quotes where they need them.
 * Quotes, backslashes and control characters are escaped, so that no file name can forge a line.
 */
#include "log.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define QUEUE_BYTES (1024 * 1024)
#define TOGETHER_NS 1000000

static struct {
	pthread_mutex_t lock;
	pthread_cond_t work;
	pthread_cond_t idle;
	pthread_t thread;
	bool running;
	bool stopping;
	bool busy;    /* the thread is in write(2) with what it took */
	bool waiting; /* the thread, for a line */
	size_t used;
	size_t dropped_unsaid;
	char *queue;
	char buffers[2][QUEUE_BYTES];
} logger = {
	.lock = PTHREAD_MUTEX_INITIALIZER,
	.queue = logger.buffers[0],
};

static _Atomic uint64_t dropped_total;

static void write_all(int fd, const char *text, size_t bytes)
{
	while (bytes > 0) {
		ssize_t n = write(fd, text, bytes);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return;
		text += n;
		bytes -= (size_t)n;
	}
}

/* Less long if it is to stop. */
static void wait_for_more(void)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += TOGETHER_NS;
	until.tv_sec += until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	while (!logger.stopping && pthread_cond_timedwait(&logger.work, &logger.lock, &until) == 0)
		;
}

static void *write_loop(void *unused)
{
	(void)unused;
	pthread_mutex_lock(&logger.lock);
	for (;;) {
		const char *taken = logger.queue;
		size_t bytes;

		logger.waiting = true;
		while (logger.used == 0 && !logger.stopping)
			pthread_cond_wait(&logger.work, &logger.lock);
		logger.waiting = false;
		if (logger.used == 0)
			break;

		wait_for_more();
		bytes = logger.used;
		logger.queue = logger.buffers[taken == logger.buffers[0]];
		logger.used = 0;
		logger.busy = true;
		pthread_mutex_unlock(&logger.lock);
		write_all(STDERR_FILENO, taken, bytes);
		pthread_mutex_lock(&logger.lock);
		logger.busy = false;
		pthread_cond_broadcast(&logger.idle);
	}
	pthread_mutex_unlock(&logger.lock);
	return NULL;
}

int log_start(void)
{
	pthread_condattr_t attributes;
	int r;

	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&logger.work, &attributes);
	pthread_cond_init(&logger.idle, &attributes);
	pthread_condattr_destroy(&attributes);

	logger.stopping = false;
	r = pthread_create(&logger.thread, NULL, write_loop, NULL);
	if (r > 0)
		return -r;

	pthread_setname_np(logger.thread, "log");
	logger.running = true;
	return 0;
}

void log_stop(int64_t deadline_ns)
{
	struct timespec deadline = { .tv_sec = deadline_ns / 1000000000,
				     .tv_nsec = deadline_ns % 1000000000 };
	bool written;
	int r = 0;

	pthread_mutex_lock(&logger.lock);
	if (!logger.running) {
		pthread_mutex_unlock(&logger.lock);
		return;
	}
	while ((logger.used > 0 || logger.busy) && r == 0)
		r = pthread_cond_timedwait(&logger.idle, &logger.lock, &deadline);
	written = logger.used == 0 && !logger.busy;
	logger.running = false;
	logger.stopping = true;
	pthread_cond_signal(&logger.work);
	pthread_mutex_unlock(&logger.lock);

	/* A thread that is stuck in write(2) ends with the process. */
	if (written)
		pthread_join(logger.thread, NULL);
	else
		pthread_detach(logger.thread);
}

uint64_t log_dropped(void)
{
	return atomic_load_explicit(&dropped_total, memory_order_relaxed);
}

static void *write_block(void *text)
{
	write_all(STDOUT_FILENO, text, strlen(text));
	free(text);
	return NULL;
}

void log_block(char *text)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, write_block, text) == 0)
		pthread_detach(thread);
	else
		write_block(text);
}

static bool enqueue(const char *text, size_t bytes)
{
	if (logger.used + bytes > QUEUE_BYTES)
		return false;
	memcpy(logger.queue + logger.used, text, bytes);
	logger.used += bytes;
	return true;
}

/* Under the lock: what is missing here is said as soon as there is room for it. */
static void say_dropped(void)
{
	struct log_line line;

	if (logger.dropped_unsaid == 0)
		return;
	log_begin(&line, "warn", "log-dropped");
	log_number(&line, "lines", (int64_t)logger.dropped_unsaid);
	line.text[line.used++] = '\n';
	if (enqueue(line.text, line.used))
		logger.dropped_unsaid = 0;
}

static void submit(const char *text, size_t bytes)
{
	pthread_mutex_lock(&logger.lock);
	if (!logger.running) {
		pthread_mutex_unlock(&logger.lock);
		write_all(STDERR_FILENO, text, bytes);
		return;
	}
	say_dropped();
	if (!enqueue(text, bytes)) {
		logger.dropped_unsaid++;
		atomic_fetch_add_explicit(&dropped_total, 1, memory_order_relaxed);
	}
	if (logger.waiting)
		pthread_cond_signal(&logger.work);
	pthread_mutex_unlock(&logger.lock);
}

/* Appends as much as fits; one byte is kept for the newline. */
static void append(struct log_line *line, const char *text, size_t bytes)
{
	size_t room = sizeof(line->text) - 1 - line->used;

	if (bytes > room)
		bytes = room;
	memcpy(line->text + line->used, text, bytes);
	line->used += bytes;
}

static void append_key(struct log_line *line, const char *key)
{
	if (line->used > 0)
		append(line, " ", 1);
	append(line, key, strlen(key));
	append(line, "=", 1);
}

static bool is_plain(const char *value)
{
	if (*value == '\0')
		return false;
	for (; *value; value++)
		if ((unsigned char)*value <= ' ' || *value == '"' || *value == '=' ||
		    *value == '\\' || *value == 0x7f)
			return false;
	return true;
}

static void append_quoted(struct log_line *line, const char *value)
{
	append(line, "\"", 1);
	for (; *value; value++) {
		unsigned char c = (unsigned char)*value;
		char escape[8];
		int length;

		if (c == '"' || c == '\\')
			length = snprintf(escape, sizeof(escape), "\\%c", c);
		else if (c < ' ' || c == 0x7f)
			length = snprintf(escape, sizeof(escape), "\\x%02x", c);
		else
			length = snprintf(escape, sizeof(escape), "%c", c);
		append(line, escape, (size_t)length);
	}
	append(line, "\"", 1);
}

void log_begin(struct log_line *line, const char *level, const char *event)
{
	struct timespec now;
	struct tm date;
	char stamp[40];
	size_t length;

	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &date);
	length = strftime(stamp, sizeof(stamp), "%Y-%m-%dT%H:%M:%S", &date);
	snprintf(stamp + length, sizeof(stamp) - length, ".%03ldZ", now.tv_nsec / 1000000);

	line->used = 0;
	log_text(line, "time", stamp);
	log_text(line, "level", level);
	log_text(line, "event", event);
}

void log_text(struct log_line *line, const char *key, const char *value)
{
	append_key(line, key);
	if (is_plain(value))
		append(line, value, strlen(value));
	else
		append_quoted(line, value);
}

void log_number(struct log_line *line, const char *key, int64_t value)
{
	char text[24];
	int length = snprintf(text, sizeof(text), "%" PRId64, value);

	append_key(line, key);
	append(line, text, (size_t)length);
}

void log_seconds(struct log_line *line, const char *key, int64_t duration_ns)
{
	char text[32];
	int length = snprintf(text, sizeof(text), "%" PRId64 ".%06" PRId64,
			      duration_ns / 1000000000, duration_ns % 1000000000 / 1000);

	append_key(line, key);
	append(line, text, (size_t)length);
}

void log_end(struct log_line *line)
{
	line->text[line->used++] = '\n';
	submit(line->text, line->used);
}

void log_note(const char *level, const char *event, const char *format, ...)
{
	struct log_line line;
	char note[512];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(note, sizeof(note), format, arguments);
	va_end(arguments);

	log_begin(&line, level, event);
	log_text(&line, "note", note);
	log_end(&line);
}
