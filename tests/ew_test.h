/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The test harness: one header, one line of output per test.
 *
 *	TEST(scope_close_waits_for_children)
 *	{
 *		EXPECT_EQ(ew_run(...), 0);
 *	}
 *
 *	TEST_MAIN()
 *
 * Each test runs in a forked child with a process group and a deadline of its own, so that a crash, a
 * hang or a leaked child process costs one test. The fork happens before the test starts any runtime.
 * The first expectation that fails ends the child at once, from whatever thread or task stack it is on.
 *
 * A binary prints `ok NAME`, `skip NAME: why` or `not ok NAME: file:line: what`, and exits 1 if any test
 * failed. Its argument selects tests by a part of their names; `--no-fork` stays in one process, for
 * debuggers. EW_TEST_SCALE multiplies the deadline, for Valgrind and sanitizers; EW_TEST_LEAVE_OUT, beginnings of
 * names with blanks between them, skips tests where they cannot work.
 */

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define EW_TEST_DEADLINE_SECONDS 120

enum ew_test_exit {
	EW_TEST_EXIT_FAILED = 101,
	EW_TEST_EXIT_SKIPPED = 102,
};

struct ew_test {
	const char *name;
	void (*run)(void);
	struct ew_test *next;
};

static struct ew_test *ew_test_first, **ew_test_end = &ew_test_first;
static const char *ew_test_name = "";

static inline void ew_test_register(struct ew_test *test)
{
	*ew_test_end = test;
	ew_test_end = &test->next;
}

/* How many times slower than usual this run may be. */
static inline int ew_test_scale(void)
{
	const char *text = getenv("EW_TEST_SCALE");
	int scale = text ? atoi(text) : 1;

	return scale > 0 ? scale : 1;
}

static inline void ew_test_fail(const char *file, int line, const char *format, ...)
	__attribute__((noreturn, format(printf, 3, 4)));

static inline void ew_test_fail(const char *file, int line, const char *format, ...)
{
	char what[512];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(what, sizeof(what), format, arguments);
	va_end(arguments);
	fflush(stdout);
	dprintf(STDOUT_FILENO, "not ok %s: %s:%d: %s\n", ew_test_name, file, line, what);
	_exit(EW_TEST_EXIT_FAILED);
}

__attribute__((noreturn)) static inline void ew_test_skip(const char *why)
{
	fflush(stdout);
	dprintf(STDOUT_FILENO, "skip %s: %s\n", ew_test_name, why);
	_exit(EW_TEST_EXIT_SKIPPED);
}

static inline void ew_test_expect_eq(const char *file, int line, const char *expressions,
				     long long a, long long b)
{
	if (a != b)
		ew_test_fail(file, line, "%s: %lld != %lld", expressions, a, b);
}

static inline void ew_test_expect_str(const char *file, int line, const char *expressions,
				      const char *a, const char *b)
{
	if (a == b || (a && b && !strcmp(a, b)))
		return;
	ew_test_fail(file, line, "%s: \"%.160s\" != \"%.160s\"", expressions, a ? a : "(null)",
		     b ? b : "(null)");
}

/* Does the environment ask for this test to be left out? */
static inline bool ew_test_left_out(const char *name)
{
	const char *word = getenv("EW_TEST_LEAVE_OUT");

	while (word && *(word += strspn(word, " "))) {
		size_t bytes = strcspn(word, " ");

		if (!strncmp(name, word, bytes))
			return true;
		word += bytes;
	}
	return false;
}

/* Waits for @child until the deadline, then kills it. Returns false when it had to. */
static inline bool ew_test_wait(pid_t child, const sigset_t *child_signal, int *ret_status)
{
	struct timespec now, end;

	clock_gettime(CLOCK_MONOTONIC, &end);
	end.tv_sec += (time_t)EW_TEST_DEADLINE_SECONDS * ew_test_scale();
	for (;;) {
		struct timespec pause = { .tv_sec = 1 };

		if (waitpid(child, ret_status, WNOHANG) == child)
			return true;
		clock_gettime(CLOCK_MONOTONIC, &now);
		if (now.tv_sec > end.tv_sec)
			break;
		sigtimedwait(child_signal, NULL, &pause);
	}
	kill(child, SIGKILL);
	waitpid(child, ret_status, 0);
	return false;
}

static inline bool ew_test_report(const char *name, bool in_time, int status)
{
	if (!in_time)
		printf("not ok %s: still running after %d seconds\n", name,
		       EW_TEST_DEADLINE_SECONDS * ew_test_scale());
	else if (WIFSIGNALED(status))
		printf("not ok %s: killed by signal %d (%s)\n", name, WTERMSIG(status),
		       strsignal(WTERMSIG(status)));
	else if (WEXITSTATUS(status) == EW_TEST_EXIT_SKIPPED)
		return true;
	else if (WEXITSTATUS(status) == 0)
		printf("ok %s\n", name);
	else if (WEXITSTATUS(status) != EW_TEST_EXIT_FAILED)
		printf("not ok %s: exit status %d\n", name, WEXITSTATUS(status));
	return in_time && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static inline bool ew_test_run_forked(const struct ew_test *test)
{
	sigset_t child_signal, before;
	int status = 0;
	bool in_time;
	pid_t child;

	sigemptyset(&child_signal);
	sigaddset(&child_signal, SIGCHLD);
	sigprocmask(SIG_BLOCK, &child_signal, &before);
	fflush(stdout);
	child = fork();
	if (child < 0) {
		printf("not ok %s: fork: %s\n", test->name, strerror(errno));
		return false;
	}
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		setpgid(0, 0);
		sigprocmask(SIG_SETMASK, &before, NULL);
		test->run();
		exit(0);
	}
	setpgid(child, child);
	in_time = ew_test_wait(child, &child_signal, &status);
	kill(-child, SIGKILL);
	sigprocmask(SIG_SETMASK, &before, NULL);
	return ew_test_report(test->name, in_time, status);
}

static inline int ew_test_main(int argc, char **argv)
{
	bool fork_each = true, passed = true;
	const char *filter = "";
	int count = 0;

	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--no-fork"))
			fork_each = false;
		else
			filter = argv[i];
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	for (const struct ew_test *test = ew_test_first; test; test = test->next) {
		if (!strstr(test->name, filter))
			continue;
		count++;
		ew_test_name = test->name;
		if (ew_test_left_out(test->name)) {
			printf("skip %s: left out by EW_TEST_LEAVE_OUT\n", test->name);
		} else if (fork_each) {
			passed &= ew_test_run_forked(test);
		} else {
			test->run();
			printf("ok %s\n", test->name);
		}
	}
	if (count == 0)
		printf("not ok %s: no test of that name\n", filter);
	return passed && count > 0 ? 0 : 1;
}

#define TEST(id)                                                                                   \
	static void test_##id(void);                                                               \
	__attribute__((constructor)) static void test_register_##id(void)                          \
	{                                                                                          \
		static struct ew_test test = { .name = #id, .run = test_##id };                    \
                                                                                                   \
		ew_test_register(&test);                                                           \
	}                                                                                          \
	static void test_##id(void)

#define TEST_MAIN()                                                                                \
	int main(int argc, char **argv)                                                            \
	{                                                                                          \
		return ew_test_main(argc, argv);                                                   \
	}

#define EXPECT(condition)                                                                          \
	do {                                                                                       \
		if (!(condition))                                                                  \
			ew_test_fail(__FILE__, __LINE__, "%s", #condition);                        \
	} while (0)

#define EXPECT_EQ(a, b)                                                                            \
	ew_test_expect_eq(__FILE__, __LINE__, #a " == " #b, (long long)(a), (long long)(b))
#define EXPECT_STR(a, b) ew_test_expect_str(__FILE__, __LINE__, #a " == " #b, (a), (b))
#define SKIP(why)	 ew_test_skip(why)
