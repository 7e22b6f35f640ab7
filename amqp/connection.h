/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * amqp/connection.h - AMQP 0-9-1 client: one connection to a broker
 *
 *	EW_SCOPE(broker);				// has the connection's tasks
 *	EW_OWN(ew_amqp_connection, connection);		// says goodbye before they are joined
 *	EW_SCOPE(work);					// has those that use it
 *
 *	r = ew_amqp_connection_open(&broker, address, address_bytes, &options, &error, &connection);
 *
 * A connection belongs to the worker that opened it, and so do its channels: all calls come from tasks of that worker.
 * A cancel of the scope that it was opened in does not take it away from endings that still need it (an order to be
 * cancelled at a backend, an acknowledgement to be awaited): it stays for drain_ns, and then is lost. Declare it inside
 * that scope: an owner above it would be asked only when that time is over.
 *
 * All calls that suspend can be cancelled, and have their deadline from the scope around them.
 */

#include <endwell/resource.h>
#include <endwell/scope.h>
#include <endwell/socket.h>

/** struct ew_amqp_connection - a resource; close says goodbye and waits for the broker's answer, abort does not */
struct ew_amqp_connection;

struct ew_tls_context;

/**
 * struct ew_amqp_error - why a connection or a channel has ended
 * @error: -errno; what the calls that were waiting return
 * @code:  the broker's reply code (AMQP 0-9-1, section 1.2); 0: it is not the broker who says it
 * @text:  one sentence
 *
 * Errors: of the broker's codes 311 is -EMSGSIZE, 320 -ECONNABORTED, 402 and 404 -ENOENT, 403 -EACCES, 405 -EBUSY,
 *         406 -EINVAL, 506 -ENOSPC, 530 -EPERM; all others, and a broker that breaks the protocol, -EPROTO. Of ours:
 *         -ESHUTDOWN it was closed here, -ECONNABORTED aborted here; -ECANCELED its scope was cancelled, and drain_ns is
 *         over; -EPROTONOSUPPORT the broker speaks another protocol; -ECONNRESET it hung up without a word, -ETIMEDOUT it
 *         was silent for two heartbeats, -ENOBUFS it asks and does not read; -ENOMEM, -EAGAIN; those of recv(2), send(2) and
 *         struct ew_tls_error
 */
struct ew_amqp_error {
	int error;
	unsigned code;
	char text[256];
};

/**
 * struct ew_amqp_options - zero or NULL means the default in parentheses; all is copied
 * @user, @password:   for the mechanism PLAIN ("guest"); at most 255 bytes each, as all strings here
 * @virtual_host:      ("/")
 * @name:              by which the broker's tools call the connection (none)
 * @tls:               with which the broker is spoken to in TLS; not copied: used until the connection is there (none)
 * @server_name:       host name or IP address that the broker's certificate must be for; needed with @tls
 * @heartbeat_s:       seconds; the shorter one of this and the broker's counts. We say something each half of it, and a
 *                     broker that is silent twice as long is given up (10)
 * @frame_bytes_max:   4,096 to 1 MiB; the smaller one of this and the broker's counts (131,072)
 * @channels_max:      open at a time, at most 2,047; the smaller one of this and the broker's counts (16)
 * @message_bytes_max: longer bodies are not published, and not kept when they are delivered; at most 1 GiB (1 MiB)
 * @output_bytes_max:  that wait to be sent; who has more waits in line; a message alone may be longer (1 MiB)
 * @drain_ns:          how long endings may use it once its scope is cancelled (30 s)
 */
struct ew_amqp_options {
	const char *user;
	const char *password;
	const char *virtual_host;
	const char *name;
	struct ew_tls_context *tls;
	const char *server_name;
	unsigned heartbeat_s;
	unsigned channels_max;
	size_t frame_bytes_max;
	size_t message_bytes_max;
	size_t output_bytes_max;
	int64_t drain_ns;
};

/**
 * ew_amqp_connection_open() - connect, log in, and open the virtual host
 * @scope:          gets the connection's tasks; open, of the calling task
 * @address:        of the broker
 * @options:        NULL for defaults
 * @ret_error:      why it did not work, in words; NULL if nobody asks
 * @ret_connection: an empty place
 *
 * Suspends:     until the broker has said yes or no. Give the scope around it a deadline: a broker need not answer.
 * Return:       0, and the connection is there.
 * Errors:       those of connect(2), and as ew_amqp_connection_open_on(). Nothing is left open.
 */
EW_SUSPENDS int ew_amqp_connection_open(struct ew_scope *scope, const struct sockaddr *address,
					socklen_t address_bytes,
					const struct ew_amqp_options *options,
					struct ew_amqp_error *ret_error,
					struct ew_amqp_connection **ret_connection);

/**
 * ew_amqp_connection_open_on() - the same, TLS included, on a stream socket that is connected already
 * @socket: taken always
 *
 * Errors:  those of struct ew_amqp_error and of ew_tls_connect(); -EINVAL an option is out of range; -ENOMEM, -EAGAIN;
 *          -ECANCELED. Nothing is left open.
 */
EW_SUSPENDS int ew_amqp_connection_open_on(struct ew_scope *scope, struct ew_socket **socket,
					   const struct ew_amqp_options *options,
					   struct ew_amqp_error *ret_error,
					   struct ew_amqp_connection **ret_connection);

/** ew_amqp_connection_error() - why it has ended; NULL while it is open. The connection's memory */
const struct ew_amqp_error *ew_amqp_connection_error(const struct ew_amqp_connection *connection);

/** ew_amqp_connection_blocked() - why the broker takes no messages now (connection.blocked); NULL: it does */
const char *ew_amqp_connection_blocked(const struct ew_amqp_connection *connection);

/**
 * ew_amqp_connection_wait() - wait until the connection has ended, for who makes the next one
 * Return:  the error of struct ew_amqp_error
 * Errors:  those of struct ew_amqp_error. -ECANCELED, which is also what is said of a connection that was given up when its
 *          scope's time was over
 */
EW_SUSPENDS int ew_amqp_connection_wait(struct ew_amqp_connection *connection);

/**
 * ew_amqp_connection_close() - say goodbye, and wait until the broker has said it too
 *
 * What was queued is sent before. Calls that still wait on it get -ESHUTDOWN.
 * Return:       0: the broker has answered, or the connection had been lost before, which its users were told.
 * Errors:       those of struct ew_amqp_error: it was lost meanwhile; -ECANCELED no time was left: aborted.
 */
EW_SUSPENDS int ew_amqp_connection_close(struct ew_amqp_connection **connection);

#define ew_amqp_connection_open(...)                                                               \
	(ew__here(EW_SITE("ew_amqp_connection_open")), ew_amqp_connection_open(__VA_ARGS__))
#define ew_amqp_connection_open_on(...)                                                            \
	(ew__here(EW_SITE("ew_amqp_connection_open_on")), ew_amqp_connection_open_on(__VA_ARGS__))
