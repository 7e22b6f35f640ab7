/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What the tests with TLS share: an authority, and certificates that it has signed, in a folder of their own. Their keys
 * are Ed25519, whose signatures are all of one length: so each handshake is as long as the last one, and a simulated
 * world with the same seed is the same.
 */

#include "ew_test.h"

#include "tls/tls.h"

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <unistd.h>

#define UNUSED __attribute__((unused))

#define TLS_PATH_BYTES 128
#define TLS_DAY_S      86400L

static struct {
	char folder[64];
	char authority[TLS_PATH_BYTES]; /* its certificate */
	EVP_PKEY *key;
	X509 *certificate;
} tls_authority;

static void tls_extend(X509 *certificate, int kind, const char *value)
{
	X509V3_CTX context;
	X509_EXTENSION *extension;

	X509V3_set_ctx(&context, tls_authority.certificate, certificate, NULL, NULL, 0);
	extension = X509V3_EXT_conf_nid(NULL, &context, kind, value);
	EXPECT(extension != NULL);
	X509_add_ext(certificate, extension, -1);
	X509_EXTENSION_free(extension);
}

/* From a day ago until @until_s from now. */
static X509 *tls_certificate(const char *name, EVP_PKEY *key, long until_s)
{
	static long serial;
	X509 *certificate = X509_new();

	X509_set_version(certificate, X509_VERSION_3);
	ASN1_INTEGER_set(X509_get_serialNumber(certificate), ++serial);
	X509_gmtime_adj(X509_getm_notBefore(certificate), -TLS_DAY_S);
	X509_gmtime_adj(X509_getm_notAfter(certificate), until_s);
	X509_set_pubkey(certificate, key);
	X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate), "CN", MBSTRING_ASC,
				   (const unsigned char *)name, -1, -1, 0);
	return certificate;
}

static void tls_path(const char *name, char *ret_path)
{
	snprintf(ret_path, TLS_PATH_BYTES, "%s/%s.pem", tls_authority.folder, name);
}

/* Certificate and key in one file. */
static void tls_write(const char *path, X509 *certificate, EVP_PKEY *key)
{
	FILE *file = fopen(path, "w");

	EXPECT(file != NULL);
	EXPECT_EQ(PEM_write_X509(file, certificate), 1);
	if (key)
		EXPECT_EQ(PEM_write_PrivateKey(file, key, NULL, NULL, 0, NULL, NULL), 1);
	EXPECT_EQ(fclose(file), 0);
}

static void tls_remove(void)
{
	char command[TLS_PATH_BYTES];

	snprintf(command, sizeof(command), "rm -r %s", tls_authority.folder);
	EXPECT_EQ(system(command), 0);
	EVP_PKEY_free(tls_authority.key);
	X509_free(tls_authority.certificate);
}

/* Once a program; the folder goes with it. */
static void tls_make_authority(void)
{
	X509 *certificate;

	if (tls_authority.key)
		return;
	strcpy(tls_authority.folder, "/tmp/ew-tls-test.XXXXXX");
	EXPECT(mkdtemp(tls_authority.folder) != NULL);
	tls_authority.key = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
	certificate = tls_certificate("authority", tls_authority.key, TLS_DAY_S);
	tls_authority.certificate = certificate;
	X509_set_issuer_name(certificate, X509_get_subject_name(certificate));
	tls_extend(certificate, NID_basic_constraints, "critical,CA:TRUE");
	X509_sign(certificate, tls_authority.key, NULL);
	tls_path("authority", tls_authority.authority);
	tls_write(tls_authority.authority, certificate, NULL);
	atexit(tls_remove);
}

/* A certificate for @names ("DNS:...,IP:..."), with its key behind it. */
static void tls_sign(const char *name, const char *names, long until_s, char *ret_path)
{
	EVP_PKEY *key;
	X509 *certificate;

	tls_make_authority();
	key = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
	certificate = tls_certificate(name, key, until_s);
	X509_set_issuer_name(certificate, X509_get_subject_name(tls_authority.certificate));
	tls_extend(certificate, NID_subject_alt_name, names);
	X509_sign(certificate, tls_authority.key, NULL);
	tls_path(name, ret_path);
	tls_write(ret_path, certificate, key);
	X509_free(certificate);
	EVP_PKEY_free(key);
}

/* Of files that are as they should be. */
static UNUSED struct ew_tls_context *tls_context(const char *ca_file, const char *certificate_file)
{
	const struct ew_tls_context_options options = { .ca_file = ca_file,
							.certificate_file = certificate_file };
	struct ew_tls_context *context = NULL;
	struct ew_tls_error error = {};

	EXPECT_EQ(ew_tls_context_new(&options, &error, &context), 0);
	EXPECT_STR(error.text, "");
	return context;
}

/* Of a server that is what it should be, and of a client that trusts it. */
static UNUSED struct ew_tls_context *tls_server_context(void)
{
	char path[TLS_PATH_BYTES];

	tls_sign("server", "DNS:server.test,DNS:*.wild.test,IP:127.0.0.1", TLS_DAY_S, path);
	return tls_context(NULL, path);
}

static UNUSED struct ew_tls_context *tls_client_context(void)
{
	tls_make_authority();
	return tls_context(tls_authority.authority, NULL);
}
