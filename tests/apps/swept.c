/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A program for ew-sweep: swept FAULT FOLDER. It writes a file, publishes it under a name, and passes words through a pipe.
 * With FAULT it does one thing wrong when it is cancelled, which ew-sweep must find; with `none` it does all of it well, and
 * with `child`, too, and waits for a child process.
 */

#include <endwell/endwell.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *fault, *folder;
static int status;

static bool has(const char *what)
{
	return !strcmp(fault, what);
}

static int keep_a_descriptor(void)
{
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	int r = ew_sleep(EW_SECOND); /* fault: descriptor */

	if (r < 0)
		return r;
	close(fd);
	return 0;
}

static int leave_a_file(void)
{
	char path[1024];
	int fd, r;

	snprintf(path, sizeof(path), "%s/half.XXXXXX", folder);
	fd = mkstemp(path);
	if (fd < 0)
		return -errno;
	close(fd);
	r = ew_sleep(EW_SECOND); /* fault: file */
	if (r < 0)
		return r;
	unlink(path);
	return 0;
}

static int lose_memory(void)
{
	char *block = malloc(100); /* fault: memory */
	int r;

	if (!block)
		return -ENOMEM;
	snprintf(block, 100, "%s", folder);
	r = ew_sleep(EW_SECOND);
	if (r < 0)
		return r;
	free(block);
	return 0;
}

static int forget_a_pipe(void)
{
	struct ew_pipe *from = NULL, *to = NULL;
	int r = ew_pipe_open(&from, &to); /* fault: resource */

	if (r == 0)
		r = ew_sleep(EW_SECOND);
	if (r < 0)
		return r;
	ew_abort(&from);
	ew_abort(&to);
	return 0;
}

static int hang(void)
{
	if (ew_sleep(EW_SECOND) == -ECANCELED) /* fault: hang */
		for (;;)
			usleep(1000);
	return 0;
}

static int crash(void)
{
	if (ew_sleep(EW_SECOND) == -ECANCELED) /* fault: crash */
		abort();
	return 0;
}

static int answer_oddly(void)
{
	int r = ew_sleep(EW_SECOND);

	if (r < 0)
		status = 9;
	return r;
}

static int leave_early(void)
{
	if (ew_sleep(EW_SECOND) == -ECANCELED)
		_exit(0);
	return 0;
}

static int wait_for_a_child(void)
{
	char *const argv[] = { "child", NULL };
	const struct ew_process_options options = { .path = "/bin/child",
						    .argv = argv,
						    .stdin_fd = -1,
						    .stdout_fd = -1,
						    .stderr_fd = -1,
						    .keep_fd = -1 };
	EW_OWN(ew_process, child);
	int r = ew_process_spawn(&options, &child), wait_status;

	if (r == 0)
		r = ew_process_wait(child, EW_NEVER, &wait_status);
	if (r == 0 && wait_status)
		status = 9;
	return r < 0 ? r : ew_process_close(&child);
}

/* The run that counts has one point more than the others. */
static int be_unsteady(void)
{
	const char *at = getenv("EW_SWEEP_AT");

	return at && !strcmp(at, "none") ? ew_sleep(EW_SECOND) : 0;
}

static const struct {
	const char *name;
	int (*commit)(void);
} faults[] = {
	{ "descriptor", keep_a_descriptor },
	{ "file", leave_a_file },
	{ "memory", lose_memory },
	{ "resource", forget_a_pipe },
	{ "hang", hang },
	{ "crash", crash },
	{ "status", answer_oddly },
	{ "unsteady", be_unsteady },
	{ "early", leave_early },
	{ "child", wait_for_a_child },
};

static int publish(void)
{
	EW_OWN(ew_file, directory);
	EW_OWN(ew_tempfile, file);
	int r = ew_file_open(NULL, folder, O_RDONLY | O_DIRECTORY, 0, &directory);

	if (r == 0)
		r = ew_tempfile_open(directory, &file);
	if (r == 0)
		r = ew_tempfile_publish(file, directory, "published");
	return r;
}

static int say(void *unused, void *place)
{
	struct ew_pipe **to = place;

	(void)unused;
	return ew_pipe_write(*to, "words", 5);
}

static int talk(void)
{
	EW_OWN(ew_pipe, from);
	EW_OWN(ew_pipe, to);
	EW_SCOPE(scope);
	char words[8];
	int r = ew_pipe_open(&from, &to);

	if (r == 0)
		r = ew_spawn_take(&scope, say, NULL, &to);
	while (r == 0 && (r = ew_pipe_read(from, words, sizeof(words))) > 0)
		r = 0;
	return ew_scope_finish(&scope, r);
}

static int program(void *unused)
{
	int r = publish();

	(void)unused;
	if (r == 0)
		r = talk();
	for (size_t i = 0; i < sizeof(faults) / sizeof(faults[0]) && r == 0; i++)
		if (has(faults[i].name))
			r = faults[i].commit();
	return r;
}

int main(int argc, char **argv)
{
	EW_OWN(ew_channel,
	       outside); /* made before the run, and there after it: nothing that the run has left */

	if (argc != 3) {
		fprintf(stderr, "usage: swept FAULT FOLDER\n");
		return 2;
	}
	fault = argv[1];
	folder = argv[2];
	if (ew_channel_new(1, 1, NULL, &outside) < 0)
		return 1;
	if (ew_run(&(struct ew_run_options){ .workers_count = 1 }, program, NULL) < 0 && !status)
		status = 1;
	return status;
}
