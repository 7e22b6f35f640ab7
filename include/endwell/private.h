/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Building blocks that public structures contain
 * Their layout is needed by the compiler; nothing here is for callers.
 */

#include <endwell/base.h>
#include <stdatomic.h>

struct ew_task;

/* The structure that @pointer is the @member of. */
#define ew__container_of(pointer, type, member)                                                    \
	((type *)((uintptr_t)(pointer)-offsetof(type, member)))

/* A message to a worker: intrusive, cannot fail, run on that worker between tasks. */
struct ew__message {
	struct ew__message *next;
	void (*deliver)(struct ew__message *message);
};

struct ew__timer {
	struct ew__timer *next;
	struct ew__timer **link; /* NULL: not armed */
	int64_t deadline_ns;
	void (*expire)(struct ew__timer *timer);
};

/* What a suspended task waits for; cancel() asks, it does not end the wait by itself. */
struct ew__wait {
	void (*cancel)(struct ew__wait *wait); /* NULL: this wait is never refused */
	struct ew_task *task;
	int32_t result;
	bool asked;
	bool done;
};

enum ew__node_kind { EW__NODE_TASK, EW__NODE_SCOPE, EW__NODE_SHIELD };

/* One link of the chain along which cancels reach a task, innermost first. */
struct ew_node {
	struct ew_node *parent;
	_Atomic int64_t end_ns; /* of the ladder, once cancelled; of a shield's budget */
	_Atomic uint8_t reason; /* enum ew_reason; not 0: cancelled */
	_Atomic bool forced;
	uint8_t kind;
};

enum ew__entry_kind {
	EW__ENTRY_PLACE,
	EW__ENTRY_GUARD,
	EW__ENTRY_SCOPE,
	EW__ENTRY_SHIELD,
	EW__ENTRY_ENDING
};

/* One element of a task's registry. */
struct ew_entry {
	struct ew_entry *older;
	struct ew_entry *newer;
	struct ew__head *head; /* the task's; NULL: not in a registry */
	uint8_t kind;
};

/* The part of a task that inline functions need. */
struct ew__head {
	struct ew_entry *newest;
	struct ew_node *node; /* innermost */
	uint8_t refuse;	      /* not 0: the next suspending call takes the slow path */
	uint8_t refusals;     /* in a row */
	uint8_t leaving; /* cancelled, also behind a shield, and not by a limit of its own: runs behind others */
	/* As many as frames fit on a stack. */
	uint16_t no_drop;
	uint16_t endings; /* closes being run */
};

/* The running task's; NULL outside a runtime and in the scheduler. */
extern EW_API __thread struct ew__head *ew__current;

static inline void ew__entry_enter(struct ew_entry *entry, enum ew__entry_kind kind)
{
	struct ew__head *head = ew__current;

	entry->kind = (uint8_t)kind;
	entry->newer = NULL;
	entry->head = head;
	if (ew__unlikely(!head)) {
		entry->older = NULL;
		return;
	}
	entry->older = head->newest;
	if (entry->older)
		entry->older->newer = entry;
	head->newest = entry;
}

static inline void ew__entry_leave(struct ew_entry *entry)
{
	if (ew__unlikely(!entry->head))
		return;
	if (entry->newer)
		entry->newer->older = entry->older;
	else
		entry->head->newest = entry->older;
	if (entry->older)
		entry->older->newer = entry->newer;
	entry->head = NULL;
}

EW_API extern __thread const struct ew_site *ew__made_at;

/* Remembers the line of the call being made, for the resource that it may make; see ew_resource_init(). */
static inline void ew__here(const struct ew_site *site)
{
	ew__made_at = site;
}
