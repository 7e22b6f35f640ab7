/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A fault in a stack's guard is an overflow of the task that lives at the top of that stack. The handler
 * runs on a stack of its own, uses only what is async-signal-safe, says one line, and lets the
 * fault happen again with the default action, so that a core dump shows the place. A signal that was sent
 * (kill(2), raise(3)) would not come again by itself.
 */

#include "run/overflow.h"

#include "task/task.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HANDLER_STACK_BYTES 65536

static __thread void *handler_stack;

static void append(char *line, size_t size, const char *text)
{
	size_t used = strlen(line);

	while (*text && used + 1 < size)
		line[used++] = *text++;
	line[used] = '\0';
}

static void append_number(char *line, size_t size, unsigned long number)
{
	char digits[24];
	size_t at = sizeof(digits) - 1;

	digits[at] = '\0';
	do
		digits[--at] = (char)('0' + number % 10);
	while (number /= 10);
	append(line, size, digits + at);
}

static void handle(int signal_number, siginfo_t *info, void *context)
{
	const struct ew_task *task;
	char line[512] = "";
	char *top;

	(void)context;
	if (info->si_code > 0 && ew__stack_guard_hit(info->si_addr, &top)) {
		task = ew__task_on_stack(top);
		append(line, sizeof(line), "endwell: stack overflow in task ");
		append(line, sizeof(line), task->site->name);
		append(line, sizeof(line), ", spawned at ");
		append(line, sizeof(line), task->site->file);
		append(line, sizeof(line), ":");
		append_number(line, sizeof(line), (unsigned long)task->site->line);
		append(line, sizeof(line), ": more than ");
		append_number(line, sizeof(line), (EW__STACK_BYTES - EW__STACK_GUARD_BYTES) / 1024);
		append(line, sizeof(line), " KiB used\n");
		(void)!write(STDERR_FILENO, line, strlen(line));
	}
	signal(signal_number, SIG_DFL);
	if (info->si_code <= 0)
		raise(signal_number);
}

void ew__overflow_install(void)
{
	struct sigaction action = { .sa_sigaction = handle, .sa_flags = SA_SIGINFO | SA_ONSTACK },
			 before;

	sigaction(SIGSEGV, NULL, &before);
	if (before.sa_handler == SIG_DFL)
		sigaction(SIGSEGV, &action, NULL);
}

void ew__overflow_watch_thread(void)
{
	stack_t stack = { .ss_size = HANDLER_STACK_BYTES }, before;

	sigaltstack(NULL, &before);
	if (!(before.ss_flags & SS_DISABLE))
		return;
	stack.ss_sp = handler_stack = malloc(HANDLER_STACK_BYTES);
	if (handler_stack)
		sigaltstack(&stack, NULL);
}

void ew__overflow_unwatch_thread(void)
{
	stack_t stack = { .ss_flags = SS_DISABLE };

	if (!handler_stack)
		return;
	sigaltstack(&stack, NULL);
	free(handler_stack);
	handler_stack = NULL;
}
