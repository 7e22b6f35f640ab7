/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The program does not run under the server itself but under a supervisor, which is this binary
 * again (supervise.c): it is the subreaper of the tree, so that a grandchild that leaves group and
 * session still ends up with it, and it does not leave before all are gone. A pipe that the whole
 * tree inherits proves it from outside, even if the supervisor is killed: its end is reached when
 * the last process has gone.
 */
#include "exec.h"

#include <errno.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <endwell/pipe.h>
#include <endwell/process.h>
#include <endwell/scope.h>

#include "supervise.h"

#define OUTPUT_BYTES 2048

/*
 * The supervisor needs SUPERVISE_GRACE to end its tree; it is killed itself only when that did not
 * work.
 */
#define CLOSE_GRACE ((SUPERVISE_GRACE_SECONDS + 8) * EW_SECOND)

/* Waiting for the end of a tree that was told to end is bounded only by a shutdown. */
#define GONE_BUDGET (24 * 3600 * EW_SECOND)

int exec_init(struct exec *exec, char *const *arguments)
{
	struct passwd *nobody;
	size_t count = 0;

	strcpy(exec->unprivileged[0], "-");
	strcpy(exec->unprivileged[1], "-");
	if (geteuid() == 0) {
		nobody = getpwnam("nobody");
		if (!nobody)
			return -ENOENT;
		snprintf(exec->unprivileged[0], EXEC_ID_BYTES, "%u", nobody->pw_uid);
		snprintf(exec->unprivileged[1], EXEC_ID_BYTES, "%u", nobody->pw_gid);
	}

	exec->arguments[count++] = (char *)"ew-ingest";
	exec->arguments[count++] = (char *)SUPERVISE_VERB;
	exec->arguments[count++] = exec->unprivileged[0];
	exec->arguments[count++] = exec->unprivileged[1];
	while (*arguments)
		exec->arguments[count++] = *arguments++;
	exec->arguments[count] = NULL;
	return 0;
}

/* Reads to the end and keeps the first OUTPUT_BYTES - 1 bytes, as a string. */
static int read_output(struct ew_pipe *pipe, char *ret_text)
{
	char rest[256];
	size_t used = 0;
	int r;

	for (;;) {
		bool keep = used < OUTPUT_BYTES - 1;

		r = ew_pipe_read(pipe, keep ? ret_text + used : rest,
				 keep ? OUTPUT_BYTES - 1 - used : sizeof(rest));
		if (r <= 0)
			break;
		used += keep ? (size_t)r : 0;
	}
	ret_text[used] = '\0';
	return r;
}

/* Runs supervisor and program to their end. */
static int run(const struct exec *exec, int fd, struct ew_pipe **alive_inside, char *ret_output,
	       int *ret_status)
{
	EW_OWN(ew_pipe, output);
	EW_OWN(ew_pipe, output_inside);
	EW_OWN(ew_process, supervisor);
	struct ew_process_options options;
	int r;

	r = ew_pipe_open(&output, &output_inside);
	if (r < 0)
		return r;
	options = (struct ew_process_options){
		.path = "/proc/self/exe",
		.argv = exec->arguments,
		.stdin_fd = fd,
		.stdout_fd = ew_pipe_fd(output_inside),
		.stderr_fd = ew_pipe_fd(output_inside),
		.keep_fd = ew_pipe_fd(*alive_inside),
		.grace_ns = CLOSE_GRACE,
	};
	r = ew_process_spawn(&options, &supervisor);
	if (r < 0)
		return r;

	/* From here the tree alone holds the far ends. */
	r = ew_pipe_close(&output_inside);
	if (r == 0)
		r = ew_pipe_close(alive_inside);
	if (r == 0)
		r = read_output(output, ret_output);
	if (r == 0)
		r = ew_process_wait(supervisor, EW_NEVER, ret_status);
	if (r < 0)
		return r;
	return ew_process_close(&supervisor);
}

/* The pipe's end is the proof that nobody is left. */
static int wait_gone(struct ew_pipe *alive)
{
	char byte;
	int r;

	EW_SHIELD(shield, .budget_ns = GONE_BUDGET);

	do
		r = ew_pipe_read(alive, &byte, 1);
	while (r > 0);
	return r == -ECANCELED ? -ETIME : r;
}

/* What a program says ends up in logs and JSON, so it is made fit for both. */
static char printable(char byte)
{
	return byte < ' ' || byte > '~' ? '?' : byte;
}

/* The name in a line `stdin: NAME FOUND`, as clamscan and clamdscan print it. */
static void find_signature(const char *output, char *ret_signature)
{
	const char *found = strstr(output, " FOUND"), *name = found;

	while (name && name > output && name[-1] != ' ' && name[-1] != '\n')
		name--;
	if (found && found > name)
		snprintf(ret_signature, VERDICT_TEXT_BYTES, "%.*s", (int)(found - name), name);
	else
		snprintf(ret_signature, VERDICT_TEXT_BYTES, "exit status 1");
	for (; *ret_signature; ret_signature++)
		*ret_signature = printable(*ret_signature);
}

/* The program's words on one line, for people. */
static void note_failure(int status, const char *output, char *ret_note)
{
	int length;

	if (WIFEXITED(status))
		length = snprintf(ret_note, EXEC_NOTE_BYTES,
				  "exit status %d: ", WEXITSTATUS(status));
	else
		length = snprintf(ret_note, EXEC_NOTE_BYTES,
				  "killed by signal %d: ", WTERMSIG(status));
	for (; *output && length < EXEC_NOTE_BYTES - 1; output++)
		ret_note[length++] = *output == '\n' ? ' ' : printable(*output);
	while (ret_note[length - 1] == ' ' || ret_note[length - 1] == ':')
		length--;
	ret_note[length] = '\0';
}

static int judge(int status, const char *output, struct verdict *verdict, char *ret_note)
{
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
		verdict->kind = VERDICT_CLEAN;
		verdict->signature[0] = '\0';
		return 0;
	}
	if (WIFEXITED(status) && WEXITSTATUS(status) == 1) {
		verdict->kind = VERDICT_INFECTED;
		find_signature(output, verdict->signature);
		return 0;
	}
	note_failure(status, output, ret_note);
	return -EPROTO;
}

int exec_scan(const struct exec *exec, int fd, struct verdict *verdict, char *ret_note)
{
	EW_OWN(ew_pipe, alive);
	EW_OWN(ew_pipe, alive_inside);
	char output[OUTPUT_BYTES] = "";
	int r, gone, status = 0;

	ret_note[0] = '\0';
	if (lseek(fd, 0, SEEK_SET) < 0)
		return -errno;
	r = ew_pipe_open(&alive, &alive_inside);
	if (r < 0)
		return r;
	r = run(exec, fd, &alive_inside, output, &status);
	ew_abort(&alive_inside); /* still ours if the spawn failed: then the end is there at once */
	gone = wait_gone(alive);
	if (gone < 0)
		return gone;
	if (r < 0)
		return r;
	return judge(status, output, verdict, ret_note);
}
