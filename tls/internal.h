/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * tls/internal.h - what the files of tls/ know of each other
 */

#include "tls/tls.h"

#include <openssl/ssl.h>

/* A record of the largest size, with all that TLS puts around it (RFC 8446, section 5.2). */
#define TLS_RECORD_BYTES 16384
#define TLS_WIRE_BYTES	 (5 + TLS_RECORD_BYTES + 256)

struct ew_tls {
	struct ew_resource resource;
	struct ew_socket *socket;
	SSL *ssl;
	BIO *received; /* the ssl's: from the peer, not yet decrypted */
	BIO *sealed;   /* the ssl's: encrypted, to be sent */
	bool cut;      /* nothing can be sent any more; also while something is being sent */
	struct ew_tls_error error;
	char name[256];
	char wire[TLS_WIRE_BYTES]; /* being sent */
};

/* The first error stays. Returns @number. */
int ew__tls_fail(struct ew_tls_error *error, int number, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* The same with OpenSSL's words for what it has refused last, on the thread that has called it. */
int ew__tls_fail_by_openssl(struct ew_tls_error *error, const char *what);

/* Of a client, the verification of whoever is at the other end; of a server, if it requires certificates. */
void ew__tls_verify_peer(SSL *ssl);

/* Whether a server requires certificates. */
bool ew__tls_requires_certificates(struct ew_tls_context *context);

SSL *ew__tls_ssl_new(struct ew_tls_context *context);

/* Sends what is sealed, in the order in which it was. Composite: after any error the stream is cut. */
EW_SUSPENDS int ew__tls_flush(struct ew_tls *tls);

/* More from the peer. 0, or an error; -ECANCELED: no byte was taken. */
EW_SUSPENDS int ew__tls_feed(struct ew_tls *tls);

/* Without socket yet. -ENOMEM */
int ew__tls_new(struct ew_tls_context *context, const struct ew_site *site,
		struct ew_tls **ret_tls);
