/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A writer that is flushed although its task panics half way. The lines are in its buffer when the panic comes; its
 * ending writes them, and only then does the pipe end, which was there first.
 */

#include <endwell/endwell.h>
#include <stdio.h>
#include <string.h>

static int say(struct ew_writer *log, const char *line)
{
	return ew_writer_write(log, line, strlen(line));
}

/* The pipe is in a place of this task. It is older than the writer, so it ends after it. */
static int keep_log(void *unused, void *place)
{
	struct ew_pipe **to = place;
	EW_OWN(ew_writer, log);
	int r = ew_writer_open_pipe(*to, 4096, &log);

	(void)unused;
	if (r == 0)
		r = say(log, "begun\n");
	if (r == 0)
		r = say(log, "half way\n");
	if (r < 0)
		return r;
	printf("%zu bytes wait to be written\n", ew_writer_pending(log));
	ew_panic("something that cannot be");
}

static int print_lines(struct ew_pipe *from)
{
	struct ew_reader reader;
	char buffer[64];
	const char *line;
	int r;

	ew_reader_init_pipe(&reader, from, buffer, sizeof(buffer));
	while ((r = ew_reader_read_until(&reader, '\n', &line)) > 0)
		printf("read: %.*s", r, line);
	return r;
}

static int program(void *unused)
{
	EW_OWN(ew_pipe, from);
	EW_OWN(ew_pipe, to);
	EW_SCOPE(scope, .policy = EW_POLICY_INDEPENDENT);
	int r = ew_pipe_open(&from, &to);

	(void)unused;
	if (r == 0)
		r = ew_spawn_take(&scope, keep_log, NULL, &to);
	return r < 0 ? r : print_lines(from);
}

int main(void)
{
	return ew_run(NULL, program, NULL) < 0;
}
