/* SPDX-License-Identifier: Apache-2.0 */

#include "amqp/internal.h"

#include <tls/tls.h>

static int socket_recv(struct ew_resource *stream, void *buffer, size_t size)
{
	return ew_socket_recv((struct ew_socket *)stream, buffer, size);
}

static int socket_send(struct ew_resource *stream, const void *data, size_t size)
{
	return ew_socket_send((struct ew_socket *)stream, data, size);
}

static void socket_cut(struct ew_resource *stream)
{
	ew_socket_shutdown((struct ew_socket *)stream, SHUT_RDWR);
}

static const char *socket_words(const struct ew_resource *stream)
{
	(void)stream;
	return NULL;
}

static int tls_recv(struct ew_resource *stream, void *buffer, size_t size)
{
	return ew_tls_recv((struct ew_tls *)stream, buffer, size);
}

static int tls_send(struct ew_resource *stream, const void *data, size_t size)
{
	return ew_tls_send((struct ew_tls *)stream, data, size);
}

static void tls_cut(struct ew_resource *stream)
{
	ew_tls_cut((struct ew_tls *)stream);
}

static const char *tls_words(const struct ew_resource *stream)
{
	const struct ew_tls_error *error = ew_tls_error((const struct ew_tls *)stream);

	return error ? error->text : NULL;
}

static const struct ew_amqp_transport socket_transport = {
	.recv = socket_recv,
	.send = socket_send,
	.cut = socket_cut,
	.words = socket_words,
};

static const struct ew_amqp_transport tls_transport = {
	.recv = tls_recv,
	.send = tls_send,
	.cut = tls_cut,
	.words = tls_words,
};

static int begin_tls(struct ew_socket **socket, const struct ew_amqp_options *options,
		     struct ew_amqp_error *ret_error, struct ew_resource **ret_stream)
{
	struct ew_tls_error error = {};
	int r;

	EW_OWN(ew_tls, tls);

	r = ew_tls_connect(options->tls, socket, options->server_name, &error, &tls);
	if (r < 0) {
		ew_amqp_error_set(ret_error, r, 0, "TLS: %s", error.text);
		return r;
	}
	*ret_stream = (struct ew_resource *)tls;
	tls = NULL;
	return 0;
}

int ew_amqp_transport_begin(struct ew_socket **socket, const struct ew_amqp_options *options,
			    struct ew_amqp_error *ret_error,
			    const struct ew_amqp_transport **ret_transport,
			    struct ew_resource **ret_stream)
{
	if (options->tls) {
		*ret_transport = &tls_transport;
		return begin_tls(socket, options, ret_error, ret_stream);
	}
	*ret_transport = &socket_transport;
	*ret_stream = (struct ew_resource *)*socket;
	*socket = NULL;
	return 0;
}
