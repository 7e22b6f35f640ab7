/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Whom to trust and what to show. Everything is read here, so that a handshake meets no file; only the system's
 * authorities may be looked up later, one by one, which a handshake's pool thread does.
 */

#include "tls/internal.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAME_BYTES 80

struct ew_tls_context {
	SSL_CTX *ssl;
	bool requires_certificates;
};

int ew__tls_fail(struct ew_tls_error *error, int number, const char *format, ...)
{
	va_list arguments;

	if (error->error)
		return number;
	error->error = number;
	va_start(arguments, format);
	vsnprintf(error->text, sizeof(error->text), format, arguments);
	va_end(arguments);
	return number;
}

/* The first is the cause, those behind it are who passed it on. */
static unsigned long first_error(void)
{
	unsigned long code = ERR_get_error();

	ERR_clear_error();
	return code;
}

static const char *words(unsigned long code)
{
	const char *reason;

	if (ERR_SYSTEM_ERROR(code))
		return strerror(ERR_GET_REASON(code));
	reason = ERR_reason_error_string(code);
	return reason ? reason : "no reason is known";
}

int ew__tls_fail_by_openssl(struct ew_tls_error *error, const char *what)
{
	unsigned long code = first_error();
	int reason = ERR_GET_REASON(code);

	if (reason == ERR_R_MALLOC_FAILURE)
		return ew__tls_fail(error, -ENOMEM, "%s: no memory", what);
	if (ERR_GET_LIB(code) == ERR_LIB_SSL && reason >= SSL_AD_REASON_OFFSET)
		return ew__tls_fail(error, -ECONNREFUSED, "the peer refuses: %s", words(code));
	if (ERR_GET_LIB(code) == ERR_LIB_SSL && reason == SSL_R_WRONG_VERSION_NUMBER)
		return ew__tls_fail(error, -EPROTO, "the peer does not speak TLS: %s", words(code));
	return ew__tls_fail(error, -EPROTO, "%s: %s", what, words(code));
}

/* ---- verification ---- */

static int error_of_verdict(int verdict)
{
	switch (verdict) {
	case X509_V_ERR_OUT_OF_MEM: return -ENOMEM;
	case X509_V_ERR_CERT_NOT_YET_VALID:
	case X509_V_ERR_CERT_HAS_EXPIRED: return -EKEYEXPIRED;
	case X509_V_ERR_CERT_REVOKED: return -EKEYREVOKED;
	default: return -EKEYREJECTED;
	}
}

static bool is_about_the_name(int verdict)
{
	return verdict == X509_V_ERR_HOSTNAME_MISMATCH || verdict == X509_V_ERR_IP_ADDRESS_MISMATCH;
}

/* Called in a handshake, on its pool thread. */
static int judged(int good, X509_STORE_CTX *chain)
{
	SSL *ssl = X509_STORE_CTX_get_ex_data(chain, SSL_get_ex_data_X509_STORE_CTX_idx());
	struct ew_tls *tls = SSL_get_app_data(ssl);
	X509 *certificate = X509_STORE_CTX_get_current_cert(chain);
	int verdict = X509_STORE_CTX_get_error(chain);
	char subject[NAME_BYTES] = "?", issuer[NAME_BYTES] = "?";

	if (good)
		return good;
	if (certificate) {
		X509_NAME_oneline(X509_get_subject_name(certificate), subject, NAME_BYTES);
		X509_NAME_oneline(X509_get_issuer_name(certificate), issuer, NAME_BYTES);
	}
	if (is_about_the_name(verdict))
		ew__tls_fail(&tls->error, error_of_verdict(verdict),
			     "the peer's certificate %s is not for %.80s", subject, tls->name);
	else
		ew__tls_fail(&tls->error, error_of_verdict(verdict),
			     "the peer's certificate %s, issued by %s: %s", subject, issuer,
			     X509_verify_cert_error_string(verdict));
	return good;
}

void ew__tls_verify_peer(SSL *ssl)
{
	SSL_set_verify(ssl, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, judged);
}

bool ew__tls_requires_certificates(struct ew_tls_context *context)
{
	return context->requires_certificates;
}

SSL *ew__tls_ssl_new(struct ew_tls_context *context)
{
	return SSL_new(context->ssl);
}

/* ---- files ---- */

static int file_failed(struct ew_tls_error *error, const char *what, const char *path)
{
	unsigned long code = first_error();

	if (ERR_GET_REASON(code) == ERR_R_MALLOC_FAILURE)
		return ew__tls_fail(error, -ENOMEM, "%s: no memory", path);
	return ew__tls_fail(error, -EINVAL, "%s is no %s: %s", path, what, words(code));
}

static int trust(SSL_CTX *ssl, const char *ca_file, struct ew_tls_error *error)
{
	ERR_clear_error();
	if (ca_file)
		return SSL_CTX_load_verify_file(ssl, ca_file) == 1
			       ? 0
			       : file_failed(error, "file of authorities in PEM", ca_file);
	return SSL_CTX_set_default_verify_paths(ssl) == 1
		       ? 0
		       : file_failed(error, "place of authorities", X509_get_default_cert_dir());
}

/* Nobody is asked for the words that decrypt a key. */
static int no_words(char *buffer, int size, int writing, void *argument)
{
	(void)buffer;
	(void)size;
	(void)writing;
	(void)argument;
	return -1;
}

static int show(SSL_CTX *ssl, const char *certificate_file, const char *key_file,
		struct ew_tls_error *error)
{
	ERR_clear_error();
	if (SSL_CTX_use_certificate_chain_file(ssl, certificate_file) != 1)
		return file_failed(error, "certificate in PEM", certificate_file);
	/* Also if it is not the certificate's. */
	if (SSL_CTX_use_PrivateKey_file(ssl, key_file, SSL_FILETYPE_PEM) != 1)
		return file_failed(error, "key of the certificate, in PEM and not encrypted",
				   key_file);
	return 0;
}

static int configure(SSL_CTX *ssl, const struct ew_tls_context_options *options,
		     struct ew_tls_error *error)
{
	int r;

	SSL_CTX_set_min_proto_version(ssl, TLS1_2_VERSION);
	/* Sessions are not resumed. */
	SSL_CTX_set_options(ssl, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_TICKET);
	SSL_CTX_set_session_cache_mode(ssl, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_num_tickets(ssl, 0);
	SSL_CTX_set_default_passwd_cb(ssl, no_words);
	/* What is shown is what the file has: nobody looks for more among those who are trusted. */
	SSL_CTX_set_mode(ssl, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_NO_AUTO_CHAIN);
	r = trust(ssl, options->ca_file, error);
	if (r == 0 && options->certificate_file)
		r = show(ssl, options->certificate_file,
			 options->key_file ? options->key_file : options->certificate_file, error);
	return r;
}

int ew_tls_context_new(const struct ew_tls_context_options *options, struct ew_tls_error *ret_error,
		       struct ew_tls_context **ret_context)
{
	static const struct ew_tls_context_options defaults;
	struct ew_tls_context *context = calloc(1, sizeof(*context));
	struct ew_tls_error error = {};
	int r = -ENOMEM;

	options = options ? options : &defaults;
	if (context)
		context->ssl = SSL_CTX_new(TLS_method());
	if (context && context->ssl)
		r = configure(context->ssl, options, &error);
	else
		ew__tls_fail(&error, r, "no memory for TLS");
	if (r == 0) {
		context->requires_certificates = options->ca_file != NULL;
		*ret_context = context;
	} else {
		ew_tls_context_free(context);
	}
	if (r < 0 && ret_error)
		*ret_error = error;
	return r;
}

void ew_tls_context_free(struct ew_tls_context *context)
{
	if (!context)
		return;
	SSL_CTX_free(context->ssl);
	free(context);
}
