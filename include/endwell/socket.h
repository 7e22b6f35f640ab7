/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Stream sockets: TCP and unix
 * A socket belongs to the worker that first uses it; one task reads and one writes at a time.
 */

#include <endwell/resource.h>
#include <endwell/scope.h>
#include <sys/socket.h>

struct ew_file;
struct ew_socket;
struct ew_listener;

/**
 * ew_listener_open() - bind and listen on a stream address; does not suspend
 * @address: sockaddr_in, sockaddr_in6 or sockaddr_un
 *
 * TCP listeners are made so that ew_listener_share() can open more of them, one per worker; the
 * address is first proved to be free, so that two programs do not share it by accident.
 * Errors:  those of socket(2), bind(2), listen(2); -EADDRINUSE.
 */
EW_MUST_CHECK EW_API int ew_listener_open(const struct sockaddr *address, socklen_t address_bytes,
					  int backlog, struct ew_listener **ret_listener);

/** ew_listener_share() - one more listener on the same address, for another worker; does not suspend */
EW_MUST_CHECK EW_API int ew_listener_share(struct ew_listener *listener,
					   struct ew_listener **ret_listener);

/**
 * ew_listener_one_by_one() - accept only when a task asks, so that descriptors can be counted
 *
 * At most one connection then waits in the listener. Before the first accept; does not suspend. On a plain thread
 * it is always so. What accepts ahead is its worker's until it is closed, which any worker may do, or
 * until the runtime ends: one that outlives it is the next one's, with the connections accepted so far.
 */
EW_API void ew_listener_one_by_one(struct ew_listener *listener);

/** ew_listener_address() - what it is bound to (the port that the kernel chose) */
EW_API int ew_listener_address(const struct ew_listener *listener,
			       struct sockaddr_storage *ret_address);

/**
 * ew_listener_accept() - the next connection
 *
 * Accepts run ahead of the tasks that ask (multishot): when 256 wait in the listener it stops, by when as many
 * as the backlog may have come, at most 4096. Closing the listener closes them.
 * Errors:  -ECANCELED: no connection was taken; -EMFILE, -ENFILE, -ENOBUFS, -ENOMEM: try again later
 */
EW_SUSPENDS EW_API int ew_listener_accept(struct ew_listener *listener,
					  struct ew_socket **ret_socket);

/** ew_listener_close() - end it by name. Errors: as ew_close() */
EW_SUSPENDS EW_API int ew_listener_close(struct ew_listener **listener);

/**
 * ew_socket_connect() - connect a new stream socket
 * Errors:  those of connect(2); -ECANCELED: a connection being made was closed again
 */
EW_SUSPENDS EW_API int ew_socket_connect(const struct sockaddr *address, socklen_t address_bytes,
					 struct ew_socket **ret_socket);

/** ew_socket_pair() - two sockets that are connected to each other; does not suspend. Errors: those of socketpair(2) */
EW_MUST_CHECK EW_API int ew_socket_pair(struct ew_socket **ret_one, struct ew_socket **ret_other);

/** ew_socket_adopt() - own a connected stream socket from now on; taken on success; does not suspend */
EW_MUST_CHECK EW_API int ew_socket_adopt(int fd, struct ew_socket **ret_socket);

EW_API int ew_socket_fd(const struct ew_socket *socket);

/** ew_socket_recv() - up to @size bytes into own memory; 0: the peer has finished. Errors: of recv(2), -ECANCELED: no byte taken */
EW_SUSPENDS EW_API int ew_socket_recv(struct ew_socket *socket, void *buffer, size_t size);

/**
 * ew_socket_receive() - the next bytes, in a buffer lent by the worker: a waiting socket holds none
 * @ret_data: valid until the next ew_socket_receive(), ew_socket_release() or the socket's end
 *
 * Return:  bytes, at most EW_RECEIVE_MAX; 0: the peer has finished.
 * Errors:  those of recv(2), -ECANCELED: no byte was taken. With all buffers lent it waits in line.
 */
EW_SUSPENDS EW_API int ew_socket_receive(struct ew_socket *socket, const char **ret_data);

#define EW_RECEIVE_MAX 65536

/**
 * ew_socket_release() - give the lent buffer back now; whoever is about to wait long does
 *
 * A worker has 128 buffers; bytes still needed are copied out by the caller first.
 */
EW_API void ew_socket_release(struct ew_socket *socket);

/**
 * ew_socket_send() - all of @size bytes
 * Return:  0. Composite: after any error, -ECANCELED too, part may have been sent and the stream is cut.
 * Errors:  those of send(2), -EPIPE without a signal; -ECANCELED
 */
EW_SUSPENDS EW_API int ew_socket_send(struct ew_socket *socket, const void *data, size_t size);

/**
 * ew_socket_send_fd() - unix sockets: @size bytes (at least 1) with a descriptor, which stays the caller's
 * Return:  as ew_socket_send()
 * Errors:  those of sendmsg(2), -EPIPE without a signal; -EINVAL @size is 0; -ECANCELED
 */
EW_SUSPENDS EW_API int ew_socket_send_fd(struct ew_socket *socket, const void *data, size_t size,
					 int fd);

/**
 * ew_socket_recv_fd() - unix sockets: bytes, and the descriptor that came with them, as a file
 * @ret_file: an empty place; stays empty when none came
 * Errors:   those of recvmsg(2); -ECANCELED: nothing was taken. -EMFILE the process has no room for the descriptor, -ENOMEM
 *           none for the file: it is lost, with the bytes, and ew_outcome() is EW_OUTCOME_SPOILED
 */
EW_SUSPENDS EW_API int ew_socket_recv_fd(struct ew_socket *socket, void *buffer, size_t size,
					 struct ew_file **ret_file);

/** ew_socket_shutdown() - SHUT_RD, SHUT_WR or SHUT_RDWR; does not suspend */
EW_API int ew_socket_shutdown(struct ew_socket *socket, int how);

/**
 * ew_socket_cancel_on_hangup() - cancel @scope, with EW_REASON_PEER, when the peer goes away
 * @half_close: a peer that only finished sending (FIN) has gone too; seen behind unread bytes
 *
 * Does not suspend. From then until ew_socket_forget_hangup(), @scope must be open, on the same worker.
 * A peer that has gone already cancels it at once if that is known, else when the watch says so: behind the tasks that
 * are ready then.
 */
EW_API void ew_socket_cancel_on_hangup(struct ew_socket *socket, struct ew_scope *scope,
				       bool half_close);

/** ew_socket_forget_hangup() - the scope is about to be left; does not suspend, idempotent */
EW_API void ew_socket_forget_hangup(struct ew_socket *socket);

/**
 * ew_socket_close() - shut down, let the kernel finish with it, close. abort does the same behind the task's back
 * Errors:  as ew_close()
 */
EW_SUSPENDS EW_API int ew_socket_close(struct ew_socket **socket);

#define ew_listener_open(...) (ew__here(EW_SITE("ew_listener_open")), ew_listener_open(__VA_ARGS__))
#define ew_listener_share(...)                                                                     \
	(ew__here(EW_SITE("ew_listener_share")), ew_listener_share(__VA_ARGS__))
#define ew_listener_accept(...)                                                                    \
	(ew__here(EW_SITE("ew_listener_accept")), ew_listener_accept(__VA_ARGS__))
#define ew_socket_connect(...)                                                                     \
	(ew__here(EW_SITE("ew_socket_connect")), ew_socket_connect(__VA_ARGS__))
#define ew_socket_pair(...)  (ew__here(EW_SITE("ew_socket_pair")), ew_socket_pair(__VA_ARGS__))
#define ew_socket_adopt(...) (ew__here(EW_SITE("ew_socket_adopt")), ew_socket_adopt(__VA_ARGS__))
