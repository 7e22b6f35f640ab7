/* SPDX-License-Identifier: Apache-2.0 */

/*
 * OpenSSL turns bytes into records and back, in memory, between two suspensions; the socket is ours. Who reads never
 * sends: what TLS has to say to something that came (a new key, a refusal) goes with what is sent next, as RFC 8446,
 * section 4.6.3 has it. So a reader waits for no writer.
 */

#include "tls/internal.h"

#include <endwell/clock.h>
#include <endwell/task.h>
#include <errno.h>
#include <openssl/err.h>
#include <stdlib.h>

/* Answers to a peer that asks and asks, while nothing is sent with which they could go. */
#define ANSWERS_BYTES_MAX 65536

static void tls_free(struct ew_tls *tls)
{
	if (tls->ssl)
		SSL_free(tls->ssl); /* and its BIOs */
	free(tls);
}

static bool is_whole(const struct ew_tls *tls)
{
	return !tls->cut && !tls->error.error;
}

static int tls_close(void *resource)
{
	struct ew_tls *tls = resource;
	int r = 0;

	if (is_whole(tls)) {
		SSL_shutdown(tls->ssl);
		ERR_clear_error();
	}
	/* After an error of the peer's this has the words that it is told. */
	if (!tls->cut)
		r = ew__tls_flush(tls);
	if (r != -ECANCELED)
		r = ew_socket_close(&tls->socket);
	if (r == -ECANCELED)
		return r;
	ew_resource_deinit(&tls->resource);
	tls_free(tls);
	return r;
}

static void tls_abort(void *resource)
{
	struct ew_tls *tls = resource;

	ew_abort(&tls->socket);
	ew_resource_deinit(&tls->resource);
	tls_free(tls);
}

static const struct ew_resource_type tls_type = {
	.name = "TLS stream",
	.close = tls_close,
	.abort = tls_abort,
	.budget_ns = EW_SECOND,
};

int ew__tls_new(struct ew_tls_context *context, const struct ew_site *site, struct ew_tls **ret_tls)
{
	struct ew_tls *tls = calloc(1, sizeof(*tls));

	if (!tls)
		return -ENOMEM;
	tls->ssl = ew__tls_ssl_new(context);
	tls->received = BIO_new(BIO_s_mem());
	tls->sealed = BIO_new(BIO_s_mem());
	if (!tls->ssl || !tls->received || !tls->sealed) {
		BIO_free(tls->received);
		BIO_free(tls->sealed);
		tls_free(tls);
		ERR_clear_error();
		return -ENOMEM;
	}
	SSL_set_bio(tls->ssl, tls->received, tls->sealed);
	SSL_set_app_data(tls->ssl, (void *)tls);
	ew_resource_init(&tls->resource, &tls_type, site);
	*ret_tls = tls;
	return 0;
}

int ew__tls_flush(struct ew_tls *tls)
{
	int n, r = 0;

	while (r == 0 && (n = BIO_read(tls->sealed, tls->wire, TLS_WIRE_BYTES)) > 0) {
		/* Stays so if the task is ended where it stands. */
		tls->cut = true;
		r = ew_socket_send(tls->socket, tls->wire, (size_t)n);
		if (r == 0)
			tls->cut = false;
	}
	return r;
}

int ew__tls_feed(struct ew_tls *tls)
{
	const char *data;
	int n, kept;

	n = ew_socket_receive(tls->socket, &data);
	if (n < 0)
		return n;
	if (n == 0)
		return ew__tls_fail(&tls->error, -ECONNRESET, "the peer hung up without a goodbye");
	kept = BIO_write(tls->received, data, n);
	ew_socket_release(tls->socket);
	if (kept == n)
		return 0;
	ERR_clear_error();
	return ew__tls_fail(&tls->error, -ENOMEM, "no memory for what the peer says");
}

/* Where nothing may have to be waited for, a cancel is not passed by. */
static int look_for_cancel(void)
{
	return ew_cancel_requested() ? ew_yield() : 0;
}

/* Bytes; 0: the peer has said goodbye; -EAGAIN: there is no whole record. */
static int open_record(struct ew_tls *tls, void *buffer, size_t size)
{
	size_t n;
	int r;

	ERR_clear_error();
	r = SSL_read_ex(tls->ssl, buffer, size < INT_MAX ? size : INT_MAX, &n);
	if (r == 1)
		return (int)n;
	if (BIO_ctrl_pending(tls->sealed) > ANSWERS_BYTES_MAX)
		return ew__tls_fail(&tls->error, -EPROTO, "the peer asks without an end");
	switch (SSL_get_error(tls->ssl, r)) {
	case SSL_ERROR_WANT_READ: return -EAGAIN;
	case SSL_ERROR_ZERO_RETURN: return 0;
	default: return ew__tls_fail_by_openssl(&tls->error, "what the peer says is not valid");
	}
}

int ew_tls_recv(struct ew_tls *tls, void *buffer, size_t size)
{
	int n, r = look_for_cancel();

	/* As recv(2); OpenSSL has no answer to that which is not an error. */
	if (size == 0)
		return r;
	while (r == 0) {
		n = tls->error.error ? tls->error.error : open_record(tls, buffer, size);
		if (n != -EAGAIN)
			return n;
		r = ew__tls_feed(tls);
	}
	return r;
}

static int seal_record(struct ew_tls *tls, const void *data, size_t size)
{
	size_t n;

	ERR_clear_error();
	if (SSL_write_ex(tls->ssl, data, size, &n) == 1)
		return 0;
	return ew__tls_fail_by_openssl(&tls->error, "nothing can be sent");
}

int ew_tls_send(struct ew_tls *tls, const void *data, size_t size)
{
	const char *from = data;
	size_t n;
	int r = look_for_cancel();

	if (r == 0 && !is_whole(tls))
		return tls->error.error ? tls->error.error : -EPIPE;
	while (r == 0 && size > 0) {
		n = size < TLS_RECORD_BYTES ? size : TLS_RECORD_BYTES;
		r = seal_record(tls, from, n);
		if (r == 0)
			r = ew__tls_flush(tls);
		from += n;
		size -= n;
	}
	return r;
}

void ew_tls_cut(struct ew_tls *tls)
{
	tls->cut = true;
	ew_socket_shutdown(tls->socket, SHUT_RDWR);
}

const struct ew_tls_error *ew_tls_error(const struct ew_tls *tls)
{
	return tls->error.error ? &tls->error : NULL;
}

int ew_tls_close(struct ew_tls **tls)
{
	return ew_close(tls);
}
