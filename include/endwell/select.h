/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Select: wait for the first of several things
 *
 *	struct ew_alternative alternatives[] = {
 *		ew_select_receive(jobs, &job),
 *		ew_select_event(&stop),
 *	};
 *	r = ew_select(alternatives, 2, ew_after(EW_SECOND));	// 0, 1, -ETIMEDOUT or -ECANCELED
 *
 * What is offered here can be withdrawn without a trace, since all alternatives but one are. So of a socket it is the
 * wait until it is readable or writable, and not the transfer: one that is cancelled may have taken bytes, which nobody
 * would have. Not offered are conditions, whose wait has given a lock away and must come back with it; mutexes, permits
 * and tokens of a rate, since who is first in line for them holds up those behind him, also if he gets something else in
 * the end; and operations on files, which are waited for and not withdrawn. Each of these can be the work of a child
 * (ew_select_child()), and then its scope says what becomes of the loser.
 */

#include <endwell/private.h>

struct ew_channel;
struct ew_child;
struct ew_event;
struct ew_foreign;
struct ew_listener;
struct ew_scope;
struct ew_socket;
struct ew_subscription;

/** EW_SELECT_MAX - alternatives of one call: its memory is on the caller's stack, 4 KiB for as many as fit */
#define EW_SELECT_MAX 16

/**
 * struct ew_alternative - one of the things waited for, made by the calls below; used again as often as wanted
 *
 * Zeroed it is one that never comes, which keeps the numbers of the others.
 * @result: of the winner, what the call that waits for it alone would have returned
 */
struct ew_alternative {
	int32_t result;
	/* -- private from here -- */
	const struct ew__alternative_type *type;
	void *object;
	void *value;
	uint64_t *number;
};

/** ew_select_receive() - result 1: a message; 0: the channel is closed and empty. As ew_channel_receive() */
EW_API struct ew_alternative ew_select_receive(struct ew_channel *channel, void *ret_message);

/**
 * ew_select_send() - result 0: sent; -EPIPE: the channel is closed
 *
 * As ew_channel_send(): taken if it is sent, and otherwise as it was. A resource stands in one alternative at most, a
 * copied message in as many as wanted.
 */
EW_API struct ew_alternative ew_select_send(struct ew_channel *channel, void *message);

/** ew_select_subscription() - result 1: a message; 0: closed, all received. As ew_subscription_receive() */
EW_API struct ew_alternative ew_select_subscription(struct ew_subscription *subscription,
						    void *ret_message, uint64_t *ret_missed_count);

/** ew_select_event() - result 0: it is set */
EW_API struct ew_alternative ew_select_event(struct ew_event *event);

/**
 * ew_select_child() - result 1: a child has ended, and this call gives it out; 0: all have, and were given out
 *
 * As ew_scope_join_next(), of a scope of the calling task; but a select is refused when it is cancelled, and the join
 * that still comes is not. A scope stands in one alternative at most.
 */
EW_API struct ew_alternative ew_select_child(struct ew_scope *scope, struct ew_child **ret_child);

/** ew_select_foreign() - result 0: it has completed, with *@ret_result. As ew_foreign_wait() */
EW_API struct ew_alternative ew_select_foreign(struct ew_foreign *operation, int32_t *ret_result);

/**
 * ew_select_accept() - result 0: a connection is in *@ret_socket, an empty place; or an error
 *
 * As ew_listener_accept(). A loser has accepted nothing, though one that came may wait in the listener for the next.
 */
EW_API struct ew_alternative ew_select_accept(struct ew_listener *listener,
					      struct ew_socket **ret_socket);

/**
 * ew_select_readable(), ew_select_writable() - result: what poll(2) says of POLLIN or POLLOUT; or an error
 *
 * The next ew_socket_recv() need not wait; of ew_socket_send() only its first bytes need not. A buffer that the socket
 * has lent stays lent. On the socket's worker.
 */
EW_API struct ew_alternative ew_select_readable(struct ew_socket *socket);
EW_API struct ew_alternative ew_select_writable(struct ew_socket *socket);

/**
 * ew_select() - wait until one alternative comes, and do only that
 * @alternatives: of which exactly one has happened if a number is returned, and none otherwise
 * @count:        at most EW_SELECT_MAX; 0: nothing but the deadline or a cancel is waited for
 *
 * The channels, events and scopes that are named must live until it returns; whoever was merely told may not free them.
 *
 * Suspends:     unless one can be had at once. It stands in the line of each alternative, behind those who came before.
 * Cancellation: an alternative that has come while a cancel or the deadline arrives has won: the cancel comes at the
 *               next suspension. One that has not leaves no trace: no message is taken or sent, no turn is used up.
 * Fairness:     of several that can be had at once each wins with a chance of one in @count at least, by a sequence
 *               that is the same in each run. Of those that come later the first one wins.
 * Return:       the winner's index; its .result says more.
 * Errors:       -ETIMEDOUT, -ECANCELED; -EINVAL too many, nothing has happened.
 */
EW_SUSPENDS EW_API int ew_select(struct ew_alternative *alternatives, unsigned count,
				 int64_t deadline_ns);

#define ew_select(...) (ew__here(EW_SITE("ew_select")), ew_select(__VA_ARGS__))
