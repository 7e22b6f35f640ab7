/* SPDX-License-Identifier: Apache-2.0 */

/*
 * For `ew-sweep`, which starts the program once for each point and way to end there. If a process has several runs, one
 * after the other, their points are counted on, and the run that has the chosen one is the one that is cancelled.
 *
 * The report's file is opened for each line, so that the process has the same descriptors as without it.
 */

#include "sweep/environment.h"

#include "sweep/census.h"
#include "sweep/plan.h"
#include "task/backtrace.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <link.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct ew__sweep_run {
	struct ew__sweep_plan plan;
	struct ew__census before;
};

static const char *const words[] = {
	[EW_SWEEP_NONE] = "none",
	[EW_SWEEP_CANCEL] = "cancel",
	[EW_SWEEP_CANCEL_WAITING] = "waiting",
	[EW_SWEEP_CANCEL_ENDED] = "ended",
	[EW_SWEEP_FORCE] = "force",
	[EW_SWEEP_PANIC] = "panic",
	[EW_SWEEP_CANCEL_FORCE] = "cancel-force",
};

static atomic_bool taken;
static unsigned points_before;

/* Not on a stack, which may be a task's. Whoever has the run has these. */
static char line[8192];
static char own_path[PATH_MAX];

static void append(const char *format, ...) __attribute__((format(printf, 1, 2)));

static void append(const char *format, ...)
{
	size_t used = strlen(line);
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(line + used, sizeof(line) - 1 - used, format, arguments);
	va_end(arguments);
}

static void write_line(void)
{
	const char *path = secure_getenv("EW_SWEEP_REPORT");
	int fd = path ? open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666)
		      : dup(STDERR_FILENO);
	size_t length;

	length = strlen(line);
	line[length++] = '\n';
	if (fd < 0 || write(fd, line, length) != (ssize_t)length)
		ew__report("EW_SWEEP_REPORT=%s: it cannot be written (%s)", path ? path : "",
			   strerror(errno));
	if (fd >= 0)
		close(fd);
	memset(line, 0, length);
}

/* As addr2line has it: where the object is loaded is taken off, and the call stands before what it returns to. */
static void append_frame(void *frame)
{
	struct link_map *map = NULL;
	Dl_info info;

	if (!dladdr1(frame, &info, (void **)&map, RTLD_DL_LINKMAP) || !map)
		return;
	append("\t%s+%#zx", map->l_name[0] ? map->l_name : own_path,
	       (size_t)((char *)frame - (char *)map->l_addr - 1));
}

static void note(struct ew__sweep_plan *plan, const struct ew_task *task, unsigned index,
		 bool chosen)
{
	struct ew__backtrace calls;
	unsigned i;

	if (!chosen && plan->mode != EW_SWEEP_NONE)
		return;
	ew__backtrace_take(&calls);
	append("point %u\t%s:%d:%s", index, task->site->file, task->site->line, task->site->name);
	for (i = 0; i < calls.count; i++)
		append_frame(calls.frames[i]);
	write_line();
}

/* ":7", or with @count 2 ":7:9", to the end of the text. */
static bool parse_indices(const char *text, unsigned *indices, unsigned count)
{
	char *end;

	for (; count; count--, text = end) {
		if (text[0] != ':' || text[1] < '0' || text[1] > '9')
			return false;
		errno = 0;
		*indices++ = (unsigned)strtoul(text + 1, &end, 10);
		if (errno)
			return false;
	}
	return !*text;
}

static bool parse(const char *text, struct ew__sweep_plan *plan)
{
	size_t length = strcspn(text, ":");
	unsigned indices[2] = { EW__SWEEP_NO_POINT, EW__SWEEP_NO_POINT }, count;
	enum ew_sweep_mode mode;

	for (mode = EW_SWEEP_NONE; mode <= EW_SWEEP_CANCEL_FORCE; mode++)
		if (strlen(words[mode]) == length && !strncmp(words[mode], text, length))
			break;
	if (mode > EW_SWEEP_CANCEL_FORCE)
		return false;
	count = mode == EW_SWEEP_NONE ? 0 : mode == EW_SWEEP_CANCEL_FORCE ? 2 : 1;
	if (!parse_indices(text + length, indices, count))
		return false;
	*plan = (struct ew__sweep_plan){
		.mode = mode,
		.index = indices[0],
		.second = indices[1],
		.reason = EW_REASON_SHUTDOWN,
		.note = note,
	};
	return true;
}

int ew__sweep_run_new(struct ew__sweep_run **ret_run, char *why, size_t why_bytes)
{
	const char *text = secure_getenv("EW_SWEEP_AT");
	struct ew__sweep_plan plan;
	struct ew__sweep_run *run;

	if (!text ||
	    ew__sweep_point) /* a sweep that the program makes itself has plans of its own */
		return 0;
	if (!parse(text, &plan)) {
		snprintf(
			why, why_bytes,
			"EW_SWEEP_AT=%.64s in the environment names no point: none, MODE:INDEX with "
			"cancel, waiting, ended, force or panic, or cancel-force:INDEX:INDEX",
			text);
		return -EINVAL;
	}
	if (atomic_exchange(&taken, true))
		return 0;
	run = malloc(sizeof(*run));
	if (!run) {
		atomic_store(&taken, false);
		return -ENOMEM;
	}
	if (readlink("/proc/self/exe", own_path, sizeof(own_path) - 1) < 0)
		own_path[0] = '\0';
	run->plan = plan;
	run->plan.points = points_before;
	ew__census_take(&run->before);
	ew__sweep_begin(&run->plan);
	*ret_run = run;
	return 1;
}

static void say_left(const char *what)
{
	append("left %s", what);
	write_line();
}

int ew__sweep_run_main(struct ew__sweep_run *run, ew_task_fn *fn, void *argument, int64_t budget_ns)
{
	char what[256];
	int r;

	run->plan.budget_ns = budget_ns;
	r = ew__sweep_call(&run->plan, fn, argument, EW_SITE("main task"));
	if (!ew__census_of_run(true, what, sizeof(what)))
		say_left(what);
	return r < 0 && run->plan.result >= 0 ? r : run->plan.result;
}

void ew__sweep_run_free(struct ew__sweep_run *run)
{
	char what[256];

	if (!run)
		return;
	ew__sweep_end();
	if (!ew__census_compare(&run->before, what, sizeof(what)))
		say_left(what);
	points_before = run->plan.points;
	append("ended %u", points_before);
	write_line();
	free(run);
	atomic_store(&taken, false);
}
