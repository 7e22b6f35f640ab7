/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The handshake computes for milliseconds, has frames that are large for a task's stack, and may look for an authority
 * in the system's folder. So each step of it is a pool thread's; between them the task sends and receives.
 */

#include "tls/internal.h"

#include <arpa/inet.h>
#include <endwell/offload.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <string.h>

/* On a pool thread, of which OpenSSL's list of errors is. 1: agreed; 0: the peer's turn. */
static int step(void *argument)
{
	struct ew_tls *tls = argument;
	int r;

	ERR_clear_error();
	r = SSL_do_handshake(tls->ssl);
	if (r == 1)
		return 1;
	if (SSL_get_error(tls->ssl, r) == SSL_ERROR_WANT_READ)
		return 0;
	r = ew__tls_fail_by_openssl(&tls->error, "the handshake failed");
	return tls->error.error ? tls->error.error : r;
}

static int agree(struct ew_tls *tls)
{
	int r = 0, done = 0, sent;

	while (r == 0 && done == 0) {
		r = ew_offload(step, tls, &done);
		if (r < 0)
			return r;
		/* A refusal too, which the peer is told; what counts is the reason for it. */
		sent = ew__tls_flush(tls);
		r = done < 0 ? done : sent;
		if (r == 0 && done == 0)
			r = ew__tls_feed(tls);
	}
	return r;
}

static bool is_address(const char *name)
{
	char bytes[sizeof(struct in6_addr)];

	return inet_pton(AF_INET, name, bytes) == 1 || inet_pton(AF_INET6, name, bytes) == 1;
}

static int expect_name(struct ew_tls *tls, const char *name)
{
	size_t bytes = name ? strlen(name) : 0;
	int done;

	if (bytes == 0 || bytes >= sizeof(tls->name))
		return ew__tls_fail(&tls->error, -EINVAL,
				    "a server's name has from 1 to 255 bytes");
	memcpy(tls->name, name, bytes + 1);
	SSL_set_hostflags(tls->ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
	/* An address is not told (RFC 6066, section 3). */
	done = is_address(name)
		       ? X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(tls->ssl), name)
		       : SSL_set1_host(tls->ssl, name) && SSL_set_tlsext_host_name(tls->ssl, name);
	return done == 1 ? 0 : ew__tls_fail(&tls->error, -ENOMEM, "no memory for TLS");
}

static int begin_client(struct ew_tls *tls, const char *server_name)
{
	SSL_set_connect_state(tls->ssl);
	ew__tls_verify_peer(tls->ssl);
	return expect_name(tls, server_name);
}

static void begin_server(struct ew_tls *tls, struct ew_tls_context *context)
{
	SSL_set_accept_state(tls->ssl);
	if (ew__tls_requires_certificates(context))
		ew__tls_verify_peer(tls->ssl);
}

/* With an error that has no words of its own, those of the system. */
static void tell(struct ew_tls_error *ret_error, int r, const struct ew_tls *tls)
{
	struct ew_tls_error error = {};

	if (tls)
		error = tls->error;
	ew__tls_fail(&error, r, "%s", strerror(-r));
	if (ret_error)
		*ret_error = error;
}

static int begin(struct ew_tls_context *context, struct ew_socket **socket, bool client,
		 const char *server_name, const struct ew_site *site,
		 struct ew_tls_error *ret_error, struct ew_tls **ret_tls)
{
	int r;

	EW_OWN(ew_socket, own);
	EW_OWN(ew_tls, tls);

	own = *socket;
	*socket = NULL;
	r = ew__tls_new(context, site, &tls);
	if (r == 0) {
		tls->socket = own;
		own = NULL;
		if (client)
			r = begin_client(tls, server_name);
		else
			begin_server(tls, context);
	}
	if (r == 0)
		r = agree(tls);
	if (r < 0) {
		tell(ret_error, r, tls);
		ew_abort(&tls);
		return r;
	}
	*ret_tls = tls;
	tls = NULL;
	return 0;
}

int(ew_tls_connect)(struct ew_tls_context *context, struct ew_socket **socket,
		    const char *server_name, struct ew_tls_error *ret_error,
		    struct ew_tls **ret_tls)
{
	return begin(context, socket, true, server_name, ew__made_at, ret_error, ret_tls);
}

int(ew_tls_accept)(struct ew_tls_context *context, struct ew_socket **socket,
		   struct ew_tls_error *ret_error, struct ew_tls **ret_tls)
{
	return begin(context, socket, false, NULL, ew__made_at, ret_error, ret_tls);
}
