/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Scopes and shields: who owns tasks, and how cancels reach them
 * A scope cannot be left before every task spawned in it has ended.
 *
 * The block that declares a scope is inside it: a cancel of the scope reaches the block's own
 * suspending calls as well as the children. Cancels are level-triggered: once a scope is cancelled,
 * every later suspending call inside it returns -ECANCELED until it is left.
 */

#include <endwell/private.h>

struct ew__choice;
struct ew_worker;
struct ew__scope_waiter;

/** enum ew_reason - why a scope was cancelled; the first one stays */
enum ew_reason {
	EW_REASON_NONE,
	EW_REASON_REQUESTED, /* somebody called ew_scope_cancel() */
	EW_REASON_DEADLINE,  /* its own deadline passed */
	EW_REASON_CHILD,     /* a child has ended, and the policy cancels the rest */
	EW_REASON_LEFT,	     /* its block was left with children still running */
	EW_REASON_PEER,	     /* the peer that wanted the work has gone */
	EW_REASON_SHUTDOWN,  /* the program ends */
	EW_REASON_BUDGET,    /* an ending has used up its time */
};

/** enum ew_rung - how far a cancel has climbed for the running task */
enum ew_rung {
	EW_RUNG_NONE,
	EW_RUNG_CANCEL,	 /* suspending calls report -ECANCELED */
	EW_RUNG_CLEANUP, /* shielded: a cancel is remembered, endings run under their budgets */
	EW_RUNG_FORCE,	 /* the time is used up: suspending calls are refused also here */
};

/** enum ew_policy - what a child's end means to its siblings */
enum ew_policy {
	EW_POLICY_FIRST_ERROR,	 /* the first error cancels the rest and is the scope's result */
	EW_POLICY_INDEPENDENT,	 /* each end concerns only the child (a server's sessions) */
	EW_POLICY_FIRST_SUCCESS, /* the first success cancels the rest, and the scope's result is 0 */
};

/**
 * struct ew_child - how a task ended that was spawned with `.child = &child`
 *
 * Caller's memory, declared above the scope and zeroed; for one task at a time, until ew_scope_join_next() has given
 * it out or the scope is left. A value that the task leaves has its home there, too. On the scope's worker that is a
 * place, which the task fills; from another worker it comes through a channel of resources with room for each (places
 * are read by their own task's worker, whenever a cancel spreads). Either ends what nobody takes, whoever has won.
 * @result: what its function returned, also after a cancel; -ENOTRECOVERABLE: it was ended where it stood
 */
struct ew_child {
	int32_t result;
	/* -- private from here -- */
	bool in_use;
	struct ew_child *next;
};

/* Who asked for a cancel; written once, by whoever was first. */
struct ew__cancel_origin {
	const struct ew_site *task; /* NULL: none, as with a deadline */
	const struct ew_site *line; /* NULL: inside the library */
	int64_t at_ns;
	_Atomic bool known; /* the fields before it may be read */
};

/**
 * struct ew_scope - caller's memory, lives in the block that declares it
 *
 * Fields before the line are options, set by the declaring macro; all are optional.
 * @deadline_ns: absolute; when it passes, the scope is cancelled with EW_REASON_DEADLINE; 0: none
 * @budget_ns:   time from a cancel of this scope until its tasks are forced; 0: only an ancestor's
 *               budget, or that of the run, bounds it
 * @policy:      what a child's end means to the others
 */
struct ew_scope {
	int64_t deadline_ns;
	int64_t budget_ns;
	enum ew_policy policy;
	/* -- private from here -- */
	struct ew_entry entry;
	struct ew_node node;
	const struct ew_site *site;
	struct ew_task *owner; /* whose block it is; NULL: the run's own scope */
	struct ew_worker *worker;
	struct ew_task *children; /* newest first */
	uint32_t children_count;
	uint32_t children_cut; /* ended with -ECANCELED after the cancel */
	int32_t first_error;
	struct ew_child *ended; /* in order of completion; not given out yet */
	struct ew_child *ended_last;
	bool succeeded;		   /* one did, and that was what it was for */
	bool next_wanted;	   /* one more that has ended is enough for the joiner */
	struct ew__wait *joiner;   /* set while its block waits for children */
	struct ew__choice *choice; /* NULL: the joiner waits for nothing else */
	struct ew__wait join_wait;
	struct ew__scope_waiter *waiters;
	struct ew__timer deadline_timer;
	struct ew__timer force_timer;
	struct ew__message cancel_message;
	struct ew__cancel_origin origin;
	_Atomic bool cancel_posted;
	bool open;
};

EW_API void ew__scope_enter(struct ew_scope *scope);
EW_API void ew__scope_leave(struct ew_scope *scope);

/**
 * EW_SCOPE() - declare a scope and open it
 *
 *	EW_SCOPE(scope, .deadline_ns = ew_after(30 * EW_SECOND));
 *
 * Leaving the block cancels the children that still run and waits for them.
 * Inside a cancelled scope it opens, already cancelled.
 */
#define EW_SCOPE(name_, ...)                                                                       \
	EW__SITE_OF(name_);                                                                        \
	struct ew_scope name_                                                                      \
		__attribute__((cleanup(ew__scope_leave))) = { .site = &ew__site_of_##name_,        \
							      ##__VA_ARGS__ };                     \
	ew__scope_enter(&name_)

/**
 * ew_scope_join() - wait until every child has ended; the scope stays open
 *
 * By the task whose block it is, as ew_scope_finish() and ew_scope_close().
 * Suspends:     until the last child has ended. Never refused: a cancel makes the children end.
 * Return:       0, or the first error of a child in order of completion; 0 whatever the children say with
 *               EW_POLICY_INDEPENDENT, and if one has succeeded with EW_POLICY_FIRST_SUCCESS.
 * Errors:       of children that a cancel cut short: -ETIMEDOUT the scope's own deadline passed, -ECANCELED
 *               otherwise; anything that a child returned. A cancel that came when all had succeeded is not an error
 *               here: the next call says it.
 */
EW_SUSPENDS EW_API int ew_scope_join(struct ew_scope *scope);

/**
 * ew_scope_join_next() - wait until one more child has ended, in order of completion
 * @ret_child: of one that was spawned with .child; each is given out once
 *
 * By the task whose block it is; more may be spawned between two calls.
 * Suspends:     until then; never refused: a cancel makes the children end, with the results that they give it.
 * Return:       1, or 0: every child has ended and was given out. Those without .child are only awaited.
 * Errors:       none
 */
EW_SUSPENDS EW_API int ew_scope_join_next(struct ew_scope *scope, struct ew_child **ret_child);

/**
 * ew_scope_finish() - end the scope with the block's result: `return ew_scope_finish(&scope, r);`
 * @r: the block's result; a negative one cancels the children that still run
 *
 * Suspends:     until the last child has ended; never refused.
 * Return:       @r if it is an error other than -ECANCELED; else what ew_scope_join() says; else @r.
 *               The scope's own deadline comes out as -ETIMEDOUT, never as -ECANCELED, unless a scope around it had
 *               been cancelled before; and -ECANCELED as 0 if a child has succeeded with EW_POLICY_FIRST_SUCCESS.
 * Errors:       anything that @r or a child was
 */
EW_SUSPENDS EW_API int ew_scope_finish(struct ew_scope *scope, int r);

/**
 * ew_scope_close() - let children finish until a deadline, then cancel and await the rest; ends the scope
 * @scope:       scope to end; NULL is a no-op
 * @deadline_ns: EW_NOW cancels at once, EW_NEVER grants all the time
 * @reason:      with which the rest is cancelled
 *
 * Suspends:     until the last child has ended. No child outlives this call.
 * Cancellation: of the caller ends the grace period at once.
 * Return:       0, or the first child's error in completion order, as ew_scope_join().
 * Errors:       as ew_scope_join(); children had to be cancelled: -ETIMEDOUT @deadline_ns, or the scope's own deadline, passed;
 *               -ECANCELED caller cancelled.
 */
EW_SUSPENDS EW_API int ew_scope_close(struct ew_scope *scope, int64_t deadline_ns,
				      enum ew_reason reason);

/**
 * ew_scope_cancel() - ask everything inside the scope to end; returns at once
 *
 * May be called from any task of any worker and from any thread, as long as the scope is open; a call after
 * that ends the process, if it is made on the scope's worker. Later reasons are ignored. The join still comes.
 */
EW_API void ew_scope_cancel(struct ew_scope *scope, enum ew_reason reason);

#define ew_scope_cancel(...) (ew__here(EW_SITE("ew_scope_cancel")), ew_scope_cancel(__VA_ARGS__))

/** ew_scope_reason() - EW_REASON_NONE while this very scope is not cancelled; from any thread */
EW_API enum ew_reason ew_scope_reason(const struct ew_scope *scope);

/** ew_scope_is_cancelled() - this scope or one around it is cancelled; a token to poll, from any thread */
EW_API bool ew_scope_is_cancelled(const struct ew_scope *scope);

/**
 * ew_scope_wait_cancel() - wait until the scope, or one around it, is cancelled: a token to wait on
 * @scope: an open scope of a task of the same worker, which stays open meanwhile
 *
 * Suspends:     until then, or until @deadline_ns.
 * Errors:       -ETIMEDOUT, -ECANCELED the caller itself is cancelled, -EXDEV another worker's scope.
 */
EW_SUSPENDS EW_API int ew_scope_wait_cancel(struct ew_scope *scope, int64_t deadline_ns);

/** ew_scope_children_count() - children that have not ended; from the scope's own worker */
EW_API unsigned ew_scope_children_count(const struct ew_scope *scope);

/**
 * ew_cancel_requested() - for computing loops: should this task end?
 *
 * Never suspends. Sees cancels from other threads and passed deadlines before they are delivered.
 */
EW_API bool ew_cancel_requested(void);

/** ew_cancel_rung() - how far the cancel of the running task has climbed */
EW_API enum ew_rung ew_cancel_rung(void);

/** ew_cancel_reason() - of the innermost cancelled scope around the running task, also behind shields */
EW_API enum ew_reason ew_cancel_reason(void);

/**
 * ew_scope_bound() - how long the end of a scope takes at most, if it is cancelled now
 * @scope: an open one of the calling worker; NULL: that of the whole run, whose cancel is ew_shutdown()
 *
 * The worst case of what is declared now: the budgets of full places and armed guards one after the other in a task,
 * after the children of its scopes; children side by side; shields to their end; and no more than the budgets of the scope and of those around it that
 * are already cancelled. It holds for tasks that return when they are refused and declare nothing more. Each budget
 * counts with a tick of the timing wheel (1.05 ms). Of a scope that is cancelled: what is left.
 *
 * Looks at every task inside; does not suspend.
 * Return: ns, relative; EW_NEVER: nothing bounds it. Of tasks and scopes of another worker, and of tasks more than
 *         128 scopes deep, only the budgets around them are known here.
 */
EW_API int64_t ew_scope_bound(const struct ew_scope *scope);

/**
 * ew_cancel_report() - say who cancelled a scope, through which others it came, and what is still waited for
 * @scope:    an open one; NULL: the innermost around the running task
 * @report:   gets one line at a time; NULL: the function of the run's options
 * @argument: of @report; not used with NULL
 *
 * First the scope and those around it: who asked, at which line, why and when; then each task inside it, with
 * the line that spawned it, what it waits for, on which descriptor and for how long, its rung, and how long until
 * it is forced. At most 32 are named, after a line with what ew_scope_bound() says. Of a task on another worker only name and line are known here. A shutdown
 * that does not end says the same.
 *
 * Does not suspend; a task may ask about its own scope.
 * Errors: -EXDEV another worker's scope: only the first part is said; -ENOTSUP there is none, on a plain thread.
 */
EW_API int ew_cancel_report(const struct ew_scope *scope, ew_report_fn *report, void *argument);

/** ew_reason_name() - "deadline", "peer", ...; never NULL */
EW_API const char *ew_reason_name(enum ew_reason reason);

/**
 * struct ew_shield - a stretch in which cancels of scopes opened outside are remembered, not delivered
 * @budget_ns: relative; then the stretch itself is cancelled, with EW_REASON_BUDGET. Mandatory
 */
struct ew_shield {
	int64_t budget_ns;
	/* -- private from here -- */
	struct ew_entry entry;
	struct ew_node node;
	struct ew_task *owner;
	struct ew__timer timer;
};

EW_API void ew__shield_enter(struct ew_shield *shield);
EW_API void ew__shield_leave(struct ew_shield *shield);

/**
 * EW_SHIELD() - declare a shield: `EW_SHIELD(shield, .budget_ns = EW_SECOND);` until the block's end
 *
 * Scopes opened inside still cancel. Of nested budgets the smallest counts. A later cancel outside
 * shortens the budget to what its ladder has left.
 */
#define EW_SHIELD(name_, ...)                                                                      \
	struct ew_shield name_ __attribute__((cleanup(ew__shield_leave))) = { __VA_ARGS__ };       \
	ew__shield_enter(&name_)
