/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The supervisor of a scanning program, run as a process of its own by exec.c. */

#define SUPERVISE_VERB "supervise-scanner"

/* What TERM gives a tree before KILL. */
#define SUPERVISE_GRACE_SECONDS 2

/**
 * supervise_main() - run a program and stay until its whole tree is gone
 * @argc: of main()
 * @argv: the verb, user, group ("-" to stay), the program and its arguments
 *
 * Standard input, output and descriptor 3 are inherited by the program. TERM, and the loss of the
 * reader of descriptor 3, end the tree.
 *
 * Return: the program's exit status; more than 1 when it ended in another way or was told to end.
 */
int supervise_main(int argc, char **argv);
