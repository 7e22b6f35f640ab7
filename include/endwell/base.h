/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Endwell: words that every header uses
 * Suspension marks, units of time, assertions, and the site of a call.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** EW_API - exported by the library. */
#define EW_API __attribute__((visibility("default")))

/**
 * EW_SUSPENDS - the call may let other tasks run, and its result must be looked at
 *
 * Between two such calls no task of the same worker runs and no cancel is delivered. Every such call
 * checks for a cancel, also when it need not wait; only joins and endings are never refused. On a plain
 * thread it blocks the thread instead; the first one there may also return what its driver cannot be made for
 * (-EMFILE, -ENOMEM ...), with a report, and nothing has happened. Not for signal handlers.
 */
#define EW_SUSPENDS __attribute__((warn_unused_result))

/** EW_MUST_CHECK - does not suspend, and its result must be looked at */
#define EW_MUST_CHECK __attribute__((warn_unused_result))

#define EW_NANOSECOND  ((int64_t)1)
#define EW_MICROSECOND (1000 * EW_NANOSECOND)
#define EW_MILLISECOND (1000 * EW_MICROSECOND)
#define EW_SECOND      (1000 * EW_MILLISECOND)

/** EW_NOW, EW_NEVER - deadlines that have always and never passed. 0 is neither: as an option it is the default. */
#define EW_NOW	 ((int64_t)1)
#define EW_NEVER INT64_MAX

/** struct ew_site - where in the program something was made */
struct ew_site {
	const char *name; /* the function or variable, as written */
	const char *file;
	int line;
};

/** EW_SITE() - a pointer to this line's site, valid for ever */
#define EW_SITE(what)                                                                              \
	(__extension__({                                                                           \
		static const struct ew_site ew__site = { what, __FILE__, __LINE__ };               \
		&ew__site;                                                                         \
	}))

/* The site of a declaration. Clang 14 forgets what a static holds that is declared inside an initializer list. */
#define EW__SITE_OF(name_)                                                                         \
	static const struct ew_site ew__site_of_##name_ = { #name_, __FILE__, __LINE__ }

/** ew_report_fn - gets one line, without newline, about something that the program should hear of */
typedef void ew_report_fn(void *argument, const char *line);

#define ew__likely(x)	__builtin_expect(!!(x), 1)
#define ew__unlikely(x) __builtin_expect(!!(x), 0)

EW_API _Noreturn void ew__assert_failed(const char *condition, const char *file, int line);

/** ew_assert() - an own bug, not an error value: ends the process with a line on stderr; on in release */
#define ew_assert(condition)                                                                       \
	((void)(ew__likely(condition) || (ew__assert_failed(#condition, __FILE__, __LINE__), 0)))
