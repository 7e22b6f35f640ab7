/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What calls into the filesystem are to suffer, told while it is mounted, and how often each kind
 * was made.
 */

#include <stdio.h>

enum call {
	CALL_LOOKUP,
	CALL_GETATTR,
	CALL_CHMOD,
	CALL_CHOWN,
	CALL_TRUNCATE,
	CALL_UTIMES,
	CALL_CREATE,
	CALL_TMPFILE,
	CALL_OPEN,
	CALL_READ,
	CALL_WRITE,
	CALL_FLUSH,
	CALL_FSYNC,
	CALL_RELEASE,
	CALL_LINK,
	CALL_LINK_DONE, /* and its reply is still to come */
	CALL_UNLINK,
	CALL_RENAME,
	CALL_RENAME_NOREPLACE,
	CALL_MKDIR,
	CALL_RMDIR,
	CALL_OPENDIR,
	CALL_READDIR,
	CALL_FSYNCDIR,
	CALL_RELEASEDIR,
	CALL_STATFS,
	CALL_COUNT,
};

/**
 * rules_enter() - count a call and let it suffer what the rules say
 * @call: kind
 * @root: of the filesystem; what a rule's pattern sees begins behind it
 * @fd:   of what the call is about, or of the folder that @name is in
 * @name: or NULL
 *
 * Waits for as long as a rule wants it, on the caller's thread.
 * Return: 0 to go on, or the error, positive, that the call is to fail with.
 */
int rules_enter(enum call call, const char *root, int fd, const char *name);

/**
 * rules_command() - do what a line says
 * @line:  without its end; taken to pieces
 * @reply: receives the answer, `ok`, `ok ID`, `error WHY`, or a line for each kind of call
 *
 *     rule KIND [hang] [delay=MS] [error=NAME] [after=N] [times=N] [path=PATTERN]
 *     clear [ID]
 *     counts
 *
 * KIND is a call's name or `every`; an error of `link-done` comes when the link is there, as if its reply were lost. The rule lets the first @after calls pass, and is then for
 * @times calls, or for all. A call first waits, for a time or until the rule is cleared, then fails
 * if there is an error, and else goes on to the next rule. A pattern is a shell's, and `*` takes
 * slashes too.
 * `counts` answers KIND, how many were made, and how many wait at a rule now.
 */
void rules_command(char *line, FILE *reply);
