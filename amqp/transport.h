/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * amqp/transport.h - what carries a connection's bytes: a socket, or TLS over one
 */

#include "amqp/connection.h"

/**
 * struct ew_amqp_transport - a kind of stream, which is a resource; one task reads and one writes at a time
 * @recv:   bytes; 0: the peer has finished. Errors: -ECANCELED: no byte was taken
 * @send:   all bytes; after any error part may have been sent, and the stream is to be cut
 * @cut:    whoever reads or writes comes back; does not suspend
 * @words:  for the stream's first error; NULL: those of the system
 */
struct ew_amqp_transport {
	int (*recv)(struct ew_resource *stream, void *buffer, size_t size);
	int (*send)(struct ew_resource *stream, const void *data, size_t size);
	void (*cut)(struct ew_resource *stream);
	const char *(*words)(const struct ew_resource *stream);
};

/**
 * ew_amqp_transport_begin() - TLS as a client if the options say so, else the socket as it is
 * @socket:     taken always
 * @ret_stream: an empty place
 */
EW_SUSPENDS int ew_amqp_transport_begin(struct ew_socket **socket,
					const struct ew_amqp_options *options,
					struct ew_amqp_error *ret_error,
					const struct ew_amqp_transport **ret_transport,
					struct ew_resource **ret_stream);
