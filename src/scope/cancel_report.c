/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Who cancelled what, and what is still waited for, in words. Outwards from a scope everything may be read from any
 * thread; inwards, to the tasks, only what belongs to this worker: the state of the others changes meanwhile.
 */

#include "scope/scope.h"

#include <endwell/clock.h>
#include <stdarg.h>
#include <stdio.h>

#define TASKS_NAMED_MAX 32
#define LINE_BYTES	512

static const char *const rung_names[] = {
	[EW_RUNG_NONE] = "none",
	[EW_RUNG_CANCEL] = "cancel",
	[EW_RUNG_CLEANUP] = "cleanup",
	[EW_RUNG_FORCE] = "force",
};

static long long ms_since(int64_t at_ns)
{
	return (long long)((ew_now() - at_ns) / EW_MILLISECOND);
}

/* Appends to a text that stays whole. */
static void append(char *text, size_t text_bytes, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

static void append(char *text, size_t text_bytes, const char *format, ...)
{
	size_t used = __builtin_strlen(text);
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text + used, text_bytes - used, format, arguments);
	va_end(arguments);
}

/* When a task is refused also behind its shields: the earliest end on its way outwards. EW_NEVER: nothing says. */
static int64_t forced_at(const struct ew_task *task)
{
	int64_t at_ns = EW_NEVER, end_ns;
	const struct ew_node *node;

	for (node = task->head.node; node; node = node->parent) {
		end_ns = atomic_load_explicit(&node->end_ns, memory_order_relaxed);
		if (end_ns < at_ns)
			at_ns = end_ns;
		if (node->kind != EW__NODE_SCOPE)
			break; /* a shield, or the task itself: it has what is beyond it in its own end */
	}
	return at_ns;
}

void ew__task_describe(const struct ew_task *task, char *text, size_t text_bytes)
{
	enum ew_rung rung = ew__task_rung(task);
	int64_t at_ns = forced_at(task);

	snprintf(text, text_bytes, "task %s (%s:%d) ", task->site->name, task->site->file,
		 task->site->line);
	if (task == ew__task())
		append(text, text_bytes, "runs");
	else if (!task->wait)
		append(text, text_bytes, "waits for its turn, %lld ms",
		       ms_since(task->waiting_since_ns));
	else if (task->waiting_fd >= 0)
		append(text, text_bytes, "waits for %s on descriptor %d, %lld ms",
		       task->waiting_for, task->waiting_fd, ms_since(task->waiting_since_ns));
	else
		append(text, text_bytes, "waits for %s, %lld ms", task->waiting_for,
		       ms_since(task->waiting_since_ns));
	if (rung != EW_RUNG_NONE)
		append(text, text_bytes, "; rung %s", rung_names[rung]);
	if (rung != EW_RUNG_FORCE && at_ns != EW_NEVER)
		append(text, text_bytes, "; %lld ms until force", -ms_since(at_ns));
}

static void describe_cancel(const struct ew_scope *scope, char *text, size_t text_bytes)
{
	const struct ew__cancel_origin *origin = &scope->origin;

	if (!atomic_load_explicit(&origin->known, memory_order_acquire)) {
		append(text, text_bytes, "is being cancelled");
		return;
	}
	append(text, text_bytes, "cancelled %lld ms ago: %s", ms_since(origin->at_ns),
	       ew_reason_name(ew_scope_reason(scope)));
	if (origin->task)
		append(text, text_bytes, ", by task %s (%s:%d)", origin->task->name,
		       origin->task->file, origin->task->line);
	if (origin->line)
		append(text, text_bytes, ", at %s:%d", origin->line->file, origin->line->line);
	if (atomic_load_explicit(&scope->node.forced, memory_order_relaxed))
		append(text, text_bytes, "; its time is over");
}

void ew__scope_describe(const struct ew_scope *scope, char *text, size_t text_bytes)
{
	if (scope->owner)
		snprintf(text, text_bytes, "scope %s (%s:%d) of task %s: ", scope->site->name,
			 scope->site->file, scope->site->line, scope->owner->site->name);
	else
		snprintf(text, text_bytes, "the run: ");
	if (ew_scope_reason(scope) == EW_REASON_NONE)
		append(text, text_bytes, "not cancelled itself");
	else
		describe_cancel(scope, text, text_bytes);
}

struct reporter {
	ew_report_fn *report; /* NULL: the run's */
	void *argument;
	unsigned named;
	unsigned left_out;
};

static void say(struct reporter *reporter, const char *line)
{
	if (reporter->report)
		reporter->report(reporter->argument, line);
	else
		ew__report("%s", line);
}

/* From the scope outwards. */
static void say_where_from(struct reporter *reporter, const struct ew_node *node)
{
	const char *link = "";
	char line[LINE_BYTES], text[LINE_BYTES - 16];

	for (; node; node = node->parent) {
		if (node->kind == EW__NODE_TASK)
			continue;
		if (node->kind == EW__NODE_SHIELD)
			snprintf(text, sizeof(text),
				 "a shield, which remembers what comes from outside");
		else
			ew__scope_describe(ew__container_of(node, const struct ew_scope, node),
					   text, sizeof(text));
		snprintf(line, sizeof(line), "%s%s", link, text);
		say(reporter, line);
		link = "inside ";
	}
}

/* The scope that has children and whose entry is @entry or an older one of the same task; NULL: there is none. */
static const struct ew_scope *scope_with_children(struct ew_entry *entry)
{
	for (; entry; entry = entry->older)
		if (entry->kind == EW__ENTRY_SCOPE && ew__scope_of_entry(entry)->children)
			return ew__scope_of_entry(entry);
	return NULL;
}

/* The next of all tasks inside @root, children before siblings; NULL: that was the last one. */
static const struct ew_task *next_task(const struct ew_scope *root, const struct ew_task *task)
{
	const struct ew_scope *scope = task->remote ? NULL : scope_with_children(task->head.newest);

	if (scope)
		return scope->children;
	while (!task->sibling_next) {
		scope = task->scope;
		if (scope == root)
			return NULL;
		task = scope->owner;
		scope = scope_with_children(scope->entry.older);
		if (scope)
			return scope->children;
	}
	return task->sibling_next;
}

static void say_task(struct reporter *reporter, const struct ew_task *task)
{
	char line[LINE_BYTES];

	if (reporter->named == TASKS_NAMED_MAX) {
		reporter->left_out++;
		return;
	}
	reporter->named++;
	if (task->remote)
		snprintf(line, sizeof(line), "task %s (%s:%d) is on worker %u", task->site->name,
			 task->site->file, task->site->line, task->worker->number);
	else
		ew__task_describe(task, line, sizeof(line));
	say(reporter, line);
}

static void say_bound(struct reporter *reporter, const struct ew_scope *scope)
{
	int64_t bound_ns = ew_scope_bound(scope);
	char line[LINE_BYTES];

	if (bound_ns == EW_NEVER)
		snprintf(line, sizeof(line), "nothing bounds how long its end takes");
	else
		snprintf(line, sizeof(line), "its end takes %lld ms at most, from a cancel now",
			 (long long)(bound_ns / EW_MILLISECOND));
	say(reporter, line);
}

static void say_tasks(struct reporter *reporter, const struct ew_scope *scope)
{
	const struct ew_task *task;
	char line[LINE_BYTES];

	for (task = scope->children; task; task = next_task(scope, task))
		say_task(reporter, task);
	if (!reporter->left_out)
		return;
	snprintf(line, sizeof(line), "%u tasks more", reporter->left_out);
	say(reporter, line);
}

/* NULL: a plain thread that has none open, or has not been a task yet. */
static const struct ew_scope *innermost_scope(const struct ew_task *task)
{
	const struct ew_node *node = task ? task->head.node : NULL;

	while (node && node->kind != EW__NODE_SCOPE)
		node = node->parent;
	return node ? ew__container_of(node, const struct ew_scope, node) : NULL;
}

int ew_cancel_report(const struct ew_scope *scope, ew_report_fn *report, void *argument)
{
	struct reporter reporter = { .report = report, .argument = argument };

	if (!scope)
		scope = innermost_scope(ew__task());
	if (!scope)
		return -ENOTSUP;
	say_where_from(&reporter, &scope->node);
	if (scope->worker != ew__worker)
		return -EXDEV;
	say_bound(&reporter, scope);
	say_tasks(&reporter, scope);
	return 0;
}
