/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * tls/tls.h - TLS over a stream socket, by OpenSSL
 *
 *	EW_OWN(ew_tls, tls);
 *
 *	r = ew_tls_connect(context, &socket, "broker.example", &error, &tls);
 *	if (r == 0)
 *		r = ew_tls_send(tls, data, size);	// nobody but broker.example reads it
 *
 * TLS 1.2 and 1.3; the peer of a client is always verified, its name too. A stream belongs to the worker that uses its
 * socket, and to the runtime in which it began; one task reads and one writes at a time.
 */

#include <endwell/resource.h>
#include <endwell/socket.h>

/** struct ew_tls_context - whom to trust and what to show; used by any number of streams, of any worker */
struct ew_tls_context;

/** struct ew_tls - a resource; close says goodbye (close_notify) and then closes the socket, abort only does the latter */
struct ew_tls;

/**
 * struct ew_tls_error - why it did not work
 * @error: -errno
 * @text:  one sentence; with a refused certificate, which one and why
 *
 * Errors: -EKEYEXPIRED, -EKEYREVOKED, -EKEYREJECTED the peer's certificate does not count; -ECONNREFUSED the peer refuses, by
 *         an alert; -EPROTO what it says is no TLS, or not valid; -ECONNRESET it hung up without a goodbye; -ENOMEM
 */
struct ew_tls_error {
	int error;
	char text[256];
};

/**
 * struct ew_tls_context_options - PEM files; NULL is the default in parentheses
 * @ca_file:          authorities to trust (for a client, those of the system; a server asks for no certificate then, and
 *                    otherwise requires one)
 * @certificate_file: what to show, with those that lead to an authority behind it (none)
 * @key_file:         its key, not encrypted (in certificate_file)
 */
struct ew_tls_context_options {
	const char *ca_file;
	const char *certificate_file;
	const char *key_file;
};

/**
 * ew_tls_context_new() - read the files
 * @options:     NULL for defaults
 * @ret_error:   what is wrong with which file; NULL if nobody asks
 *
 * Blocks while it reads: call it before the runtime is started, or in ew_offload(). A file that changes later is not
 * read again.
 * Errors:  -EINVAL a file cannot be read, or is not what it is to be; -ENOMEM
 */
EW_MUST_CHECK int ew_tls_context_new(const struct ew_tls_context_options *options,
				     struct ew_tls_error *ret_error,
				     struct ew_tls_context **ret_context);

/** ew_tls_context_free() - NULL is a no-op; streams made with it go on */
void ew_tls_context_free(struct ew_tls_context *context);

/**
 * ew_tls_connect() - begin TLS as a client
 * @context:     borrows until return
 * @socket:      a connected one; taken always
 * @server_name: host name or IP address that the peer's certificate must be for; a name is also told to the peer (SNI)
 * @ret_error:   why it did not work; NULL if nobody asks
 * @ret_tls:     an empty place
 *
 * Suspends:     until both sides agree; the computing is done on pool threads. Give the scope around it a deadline: a peer
 *               need not answer.
 * Cancellation: the socket is closed.
 * Return:       0. With TLS 1.3 a server looks at a client's certificate later: ew_tls_recv() has its refusal then.
 * Errors:       those of struct ew_tls_error, of recv(2) and send(2); -EINVAL @server_name is empty or too long; -ECANCELED
 */
EW_SUSPENDS int ew_tls_connect(struct ew_tls_context *context, struct ew_socket **socket,
			       const char *server_name, struct ew_tls_error *ret_error,
			       struct ew_tls **ret_tls);

/**
 * ew_tls_accept() - begin TLS as a server, with a context that has a certificate; otherwise as ew_tls_connect()
 * Errors:  those of struct ew_tls_error, of recv(2) and send(2); -ECANCELED
 */
EW_SUSPENDS int ew_tls_accept(struct ew_tls_context *context, struct ew_socket **socket,
			      struct ew_tls_error *ret_error, struct ew_tls **ret_tls);

/**
 * ew_tls_recv() - up to @size bytes into own memory
 *
 * Cancellation: no byte was taken, and the stream is as it was.
 * Return:       bytes; 0: the peer has said goodbye.
 * Errors:       those of struct ew_tls_error and of recv(2); -ECANCELED
 */
EW_SUSPENDS int ew_tls_recv(struct ew_tls *tls, void *buffer, size_t size);

/**
 * ew_tls_send() - all of @size bytes
 *
 * Cancellation: refused at once, nothing was sent. Later, part of a record may be out, which nothing can follow: the
 *               stream is cut for sending, and its close is an abort.
 * Return:       0. Composite: after any error part may have been sent.
 * Errors:       those of struct ew_tls_error and of send(2); -EPIPE the stream is cut; -ECANCELED
 */
EW_SUSPENDS int ew_tls_send(struct ew_tls *tls, const void *data, size_t size);

/** ew_tls_cut() - whoever reads or writes comes back, and nothing is said any more; does not suspend, idempotent */
void ew_tls_cut(struct ew_tls *tls);

/** ew_tls_error() - the words for the first error of this stream; NULL: none, or the socket's. The stream's memory */
const struct ew_tls_error *ew_tls_error(const struct ew_tls *tls);

/**
 * ew_tls_close() - say goodbye if the stream is whole, and close the socket; does not wait for the peer's goodbye
 *
 * Return:  0, also if it had gone before.
 * Errors:  -ECANCELED the peer did not take it in time (1 s): aborted
 */
EW_SUSPENDS int ew_tls_close(struct ew_tls **tls);

#define ew_tls_connect(...) (ew__here(EW_SITE("ew_tls_connect")), ew_tls_connect(__VA_ARGS__))
#define ew_tls_accept(...)  (ew__here(EW_SITE("ew_tls_accept")), ew_tls_accept(__VA_ARGS__))
