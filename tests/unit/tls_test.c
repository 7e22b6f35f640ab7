/* SPDX-License-Identifier: Apache-2.0 */

/*
 * TLS over a socket pair: a client and a server, each a task, with certificates of the test's own.
 */

#include "tls.h"

#include "tls/internal.h"

#include <endwell/endwell.h>
#include <openssl/err.h>
#include <pthread.h>

#define LARGE_BYTES (1 << 20)

/* One side of a conversation: which context, what it says to the other, and how it went. */
struct side {
	struct ew_tls_context *context;
	const char *server_name; /* NULL: it is the server */
	int (*talk)(struct ew_tls *tls, struct side *side);
	int result;
	int talked;
	struct ew_tls_error error;
	char buffer[64];
};

static int side_task(void *argument, void *place)
{
	struct side *side = argument;
	struct ew_socket **socket = place;
	int r;

	EW_OWN(ew_tls, tls);

	if (side->server_name)
		r = ew_tls_connect(side->context, socket, side->server_name, &side->error, &tls);
	else
		r = ew_tls_accept(side->context, socket, &side->error, &tls);
	EXPECT(*socket == NULL);
	side->result = r;
	if (r == 0 && side->talk)
		side->talked = side->talk(tls, side);
	if (r == 0 && ew_tls_error(tls))
		side->error = *ew_tls_error(tls);
	return tls ? ew_tls_close(&tls) : 0;
}

static struct side client, server;

static int converse(void *argument)
{
	int r;

	EW_OWN(ew_socket, ours);
	EW_OWN(ew_socket, theirs);
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_socket_pair(&ours, &theirs), 0);
	r = ew_spawn_take(&scope, side_task, &server, &theirs);
	EXPECT_EQ(r, 0);
	r = ew_spawn_take(&scope, side_task, &client, &ours);
	EXPECT_EQ(r, 0);
	return ew_scope_finish(&scope, 0);
}

/* With the sides' contexts, which are freed. */
static void run_sides(void)
{
	EXPECT_EQ(ew_run(NULL, converse, NULL), 0);
	ew_tls_context_free(client.context);
	ew_tls_context_free(server.context);
}

static void prepare(void)
{
	server = (struct side){ .context = tls_server_context() };
	client = (struct side){ .context = tls_client_context(), .server_name = "server.test" };
}

static void expect_error(const struct side *side, int r, const char *words)
{
	EXPECT_EQ(side->error.error, r);
	if (!strstr(side->error.text, words))
		EXPECT_STR(side->error.text, words);
}

static int wait_for_a_word(struct ew_tls *tls, struct side *side)
{
	return ew_tls_recv(tls, side->buffer, sizeof(side->buffer));
}

/* ---- bytes ---- */

static int send_much(void *argument)
{
	static char data[LARGE_BYTES];

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (char)(i * 7 + i / 256);
	return ew_tls_send(argument, data, sizeof(data));
}

static int read_much(struct ew_tls *tls)
{
	char data[3000];
	size_t all = 0;
	int n = 1;

	while (all < LARGE_BYTES && n > 0) {
		n = ew_tls_recv(tls, data, sizeof(data));
		for (int i = 0; i < n; i++, all++)
			EXPECT_EQ(data[i], (char)(all * 7 + all / 256));
	}
	return n < 0 ? n : 0;
}

static int exchange_much(struct ew_tls *tls, struct side *side)
{
	int r;

	EW_SCOPE(writer);

	(void)side;
	EXPECT_EQ(ew_spawn(&writer, send_much, tls), 0);
	r = read_much(tls);
	EXPECT_EQ(r, 0);
	r = ew_scope_join(&writer);
	EXPECT_EQ(r, 0);
	return 0;
}

/* Both at the same time: who reads waits for no writer. */
TEST(tls_carries_large_data_both_ways_at_once)
{
	prepare();
	client.talk = server.talk = exchange_much;
	run_sides();
	EXPECT_EQ(client.result, 0);
	EXPECT_EQ(server.result, 0);
	EXPECT_STR(client.error.text, "");
}

static int say_hello(struct ew_tls *tls, struct side *side)
{
	int r = ew_tls_send(tls, "hello", 5);

	return r < 0 ? r : ew_tls_recv(tls, side->buffer, sizeof(side->buffer));
}

static int hear_hello(struct ew_tls *tls, struct side *side)
{
	int n = ew_tls_recv(tls, side->buffer, sizeof(side->buffer));

	EXPECT_EQ(n, 5);
	return n;
}

static int hear_nothing_and_hello(struct ew_tls *tls, struct side *side)
{
	/* Before a record is there, and in the middle of one. */
	EXPECT_EQ(ew_tls_recv(tls, side->buffer, 0), 0);
	EXPECT_EQ(ew_tls_recv(tls, side->buffer, 2), 2);
	EXPECT_EQ(ew_tls_recv(tls, side->buffer, 0), 0);
	return ew_tls_recv(tls, side->buffer, sizeof(side->buffer));
}

TEST(tls_read_of_no_bytes_leaves_the_stream_as_it_is)
{
	prepare();
	server.talk = say_hello;
	client.talk = hear_nothing_and_hello;
	run_sides();
	EXPECT_EQ(client.talked, 3);
	EXPECT_EQ(client.error.error, 0);
}

TEST(tls_goodbye_of_the_peer_is_its_end)
{
	prepare();
	client.talk = say_hello;
	server.talk = hear_hello;
	run_sides();
	EXPECT_EQ(client.talked, 0);
	EXPECT_STR(client.error.text, "");
	EXPECT_STR(server.buffer, "hello");
}

static int hear_and_hang_up(struct ew_tls *tls, struct side *side)
{
	int n = hear_hello(tls, side);

	ew_tls_cut(tls);
	return n;
}

TEST(tls_peer_that_hangs_up_without_a_goodbye_is_an_error)
{
	prepare();
	client.talk = say_hello;
	server.talk = hear_and_hang_up;
	run_sides();
	EXPECT_EQ(client.talked, -ECONNRESET);
	expect_error(&client, -ECONNRESET, "without a goodbye");
}

/* The new key is asked for and given behind the next thing that is sent. */
static int hear_with_new_keys(struct ew_tls *tls, struct side *side)
{
	int n;

	EXPECT_EQ(SSL_key_update(tls->ssl, SSL_KEY_UPDATE_REQUESTED), 1);
	n = ew_tls_send(tls, "first", 5);
	EXPECT_EQ(n, 0);
	n = ew_tls_recv(tls, side->buffer, sizeof(side->buffer));
	EXPECT_EQ(n, 6);
	return n;
}

static int say_with_new_keys(struct ew_tls *tls, struct side *side)
{
	int n = ew_tls_recv(tls, side->buffer, sizeof(side->buffer));

	EXPECT_EQ(n, 5);
	n = ew_tls_send(tls, "second", 6);
	EXPECT_EQ(n, 0);
	return 0;
}

TEST(tls_peer_that_asks_for_new_keys_gets_them)
{
	prepare();
	server.talk = hear_with_new_keys;
	client.talk = say_with_new_keys;
	run_sides();
	EXPECT_STR(server.buffer, "second");
	EXPECT_STR(client.buffer, "first");
}

/* With TLS 1.2: to begin anew, which is refused each time. */
static int ask_without_an_end(struct ew_tls *tls, struct side *side)
{
	int r = 0;

	(void)side;
	for (int i = 0; i < 10000 && r == 0; i++) {
		EXPECT_EQ(SSL_renegotiate(tls->ssl), 1);
		SSL_do_handshake(tls->ssl);
		r = ew__tls_flush(tls);
	}
	ERR_clear_error();
	return r;
}

TEST(tls_peer_that_asks_without_an_end_is_left)
{
	SSL_CTX *ssl_context;
	SSL *ssl;

	prepare();
	ssl = ew__tls_ssl_new(server.context);
	ssl_context = SSL_get_SSL_CTX(ssl);
	SSL_CTX_set_max_proto_version(ssl_context, TLS1_2_VERSION);
	SSL_CTX_clear_options(ssl_context, SSL_OP_NO_RENEGOTIATION);
	SSL_free(ssl);
	server.talk = ask_without_an_end;
	client.talk = wait_for_a_word;
	run_sides();
	EXPECT_EQ(client.talked, -EPROTO);
	expect_error(&client, -EPROTO, "the peer asks without an end");
}

/* ---- who is at the other end ---- */

static void expect_refusal(int r, const char *words)
{
	run_sides();
	EXPECT_EQ(client.result, r);
	expect_error(&client, r, words);
	/* And is told. */
	EXPECT_EQ(server.result, -ECONNREFUSED);
	expect_error(&server, -ECONNREFUSED, "the peer refuses: ");
}

TEST(tls_client_refuses_an_expired_certificate)
{
	char path[TLS_PATH_BYTES];

	prepare();
	ew_tls_context_free(server.context);
	tls_sign("late", "DNS:server.test", -60, path);
	server.context = tls_context(NULL, path);
	expect_refusal(-EKEYEXPIRED, "/CN=late, issued by /CN=authority: certificate has expired");
}

TEST(tls_client_refuses_a_certificate_of_another_authority)
{
	char path[TLS_PATH_BYTES];

	prepare();
	ew_tls_context_free(client.context);
	tls_sign("stranger", "DNS:server.test", TLS_DAY_S, path);
	client.context = tls_context(path, NULL);
	expect_refusal(-EKEYREJECTED, "/CN=server, issued by /CN=authority: unable to get local "
				      "issuer certificate");
}

TEST(tls_client_refuses_another_name)
{
	static const char *const names[] = { "other.test", "127.0.0.2", "::1", "a.b.wild.test",
					     "server.test.example" };

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		prepare();
		client.server_name = names[i];
		expect_refusal(-EKEYREJECTED, "certificate /CN=server is not for ");
	}
}

TEST(tls_client_takes_the_names_and_addresses_of_the_certificate)
{
	static const char *const names[] = { "server.test", "SERVER.test", "any.wild.test",
					     "127.0.0.1" };

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		prepare();
		client.server_name = names[i];
		run_sides();
		EXPECT_EQ(client.result, 0);
		EXPECT_EQ(server.result, 0);
	}
}

TEST(tls_client_without_a_name_to_verify_is_refused)
{
	char name[400];

	memset(name, 'a', sizeof(name));
	name[256] = '\0';
	for (int i = 0; i < 2; i++) {
		prepare();
		client.server_name = i ? name : "";
		run_sides();
		EXPECT_EQ(client.result, -EINVAL);
		expect_error(&client, -EINVAL, "from 1 to 255 bytes");
	}
}

/* With TLS 1.3 the client has begun by the time that the server looks. */
TEST(tls_server_that_requires_a_certificate_refuses_who_has_none)
{
	char path[TLS_PATH_BYTES];

	prepare();
	ew_tls_context_free(server.context);
	tls_sign("strict", "DNS:server.test", TLS_DAY_S, path);
	server.context = tls_context(tls_authority.authority, path);
	client.talk = wait_for_a_word;
	run_sides();
	EXPECT(server.result < 0);
	EXPECT_EQ(client.talked, -ECONNREFUSED);
	expect_error(&client, -ECONNREFUSED, "certificate required");
}

TEST(tls_server_that_requires_a_certificate_takes_one_of_its_authority)
{
	char path[TLS_PATH_BYTES];

	prepare();
	ew_tls_context_free(server.context);
	ew_tls_context_free(client.context);
	tls_sign("strict", "DNS:server.test", TLS_DAY_S, path);
	server.context = tls_context(tls_authority.authority, path);
	tls_sign("known", "DNS:client.test", TLS_DAY_S, path);
	client.context = tls_context(tls_authority.authority, path);
	client.talk = say_hello;
	server.talk = hear_hello;
	run_sides();
	EXPECT_EQ(server.result, 0);
	EXPECT_EQ(client.talked, 0);
}

TEST(tls_of_less_than_1_2_is_not_spoken)
{
	struct ew_tls_context *context = tls_client_context();
	SSL *ssl = ew__tls_ssl_new(context);

	EXPECT_EQ(SSL_get_min_proto_version(ssl), TLS1_2_VERSION);
	SSL_free(ssl);
	ew_tls_context_free(context);
}

/* ---- a peer that speaks something else ---- */

static int speak_plainly(void *argument, void *place)
{
	struct ew_socket **socket = place;
	char buffer[2000];
	int r;

	(void)argument;
	r = ew_socket_recv(*socket, buffer, sizeof(buffer));
	EXPECT(r > 0);
	r = ew_socket_send(*socket, "AMQP\0\0\x09\x01", 8);
	EXPECT_EQ(r, 0);
	return ew_socket_close(socket);
}

static int meet_plain_speaker(void *argument)
{
	int r;

	EW_OWN(ew_socket, ours);
	EW_OWN(ew_socket, theirs);
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_socket_pair(&ours, &theirs), 0);
	r = ew_spawn_take(&scope, speak_plainly, NULL, &theirs);
	EXPECT_EQ(r, 0);
	r = ew_spawn_take(&scope, side_task, &client, &ours);
	EXPECT_EQ(r, 0);
	return ew_scope_finish(&scope, 0);
}

TEST(tls_with_a_peer_that_speaks_none_is_told_so)
{
	prepare();
	EXPECT_EQ(ew_run(NULL, meet_plain_speaker, NULL), 0);
	ew_tls_context_free(client.context);
	ew_tls_context_free(server.context);
	EXPECT_EQ(client.result, -EPROTO);
	expect_error(&client, -EPROTO, "the peer does not speak TLS");
}

/* ---- cancels ---- */

static int recv_cancelled(struct ew_tls *tls, struct side *side)
{
	int r;

	EW_SCOPE(scope, .deadline_ns = EW_NOW);

	r = ew_tls_recv(tls, side->buffer, sizeof(side->buffer));
	return ew_scope_finish(&scope, r);
}

static int recv_after_cancel(struct ew_tls *tls, struct side *side)
{
	int r = recv_cancelled(tls, side);

	EXPECT_EQ(r, -ETIMEDOUT);
	r = ew_tls_send(tls, "hello", 5);
	EXPECT_EQ(r, 0);
	r = ew_tls_recv(tls, side->buffer, 2);
	EXPECT_EQ(r, 2);
	/* Also while the rest of the record is there. */
	r = recv_cancelled(tls, side);
	EXPECT_EQ(r, -ETIMEDOUT);
	r = ew_tls_recv(tls, side->buffer + 2, sizeof(side->buffer) - 2);
	EXPECT_EQ(r, 3);
	return ew_tls_recv(tls, side->buffer, sizeof(side->buffer));
}

static int echo(struct ew_tls *tls, struct side *side)
{
	int n = hear_hello(tls, side);

	return ew_tls_send(tls, side->buffer, (size_t)n);
}

TEST(tls_read_that_was_cancelled_has_taken_nothing)
{
	prepare();
	client.talk = recv_after_cancel;
	server.talk = echo;
	run_sides();
	EXPECT_EQ(client.talked, 0);
	EXPECT_STR(client.buffer, "hello");
	EXPECT_STR(client.error.text, "");
}

static struct ew_event cut;

static int send_until_cancelled(struct ew_tls *tls, struct side *side)
{
	static const char data[LARGE_BYTES];
	int r;

	EW_SCOPE(scope, .deadline_ns = ew_after(20 * EW_MILLISECOND));

	(void)side;
	do
		r = ew_tls_send(tls, data, sizeof(data));
	while (r == 0);
	return ew_scope_finish(&scope, r);
}

static int send_after_cancel(struct ew_tls *tls, struct side *side)
{
	int r = send_until_cancelled(tls, side);

	EXPECT_EQ(r, -ETIMEDOUT);
	r = ew_tls_send(tls, "hello", 5);
	EXPECT_EQ(r, -EPIPE);
	ew_event_set(&cut);
	return 0;
}

/* Whole records until there is no more, and then no goodbye: what was lost is not taken for an end. */
static int read_what_was_cut(struct ew_tls *tls, struct side *side)
{
	char data[3000];
	int n;

	(void)side;
	n = ew_event_wait(&cut, EW_NEVER);
	EXPECT_EQ(n, 0);
	do
		n = ew_tls_recv(tls, data, sizeof(data));
	while (n > 0);
	return n;
}

TEST(tls_write_that_was_cancelled_cuts_the_stream)
{
	ew_event_reset(&cut);
	prepare();
	client.talk = send_after_cancel;
	server.talk = read_what_was_cut;
	run_sides();
	EXPECT_EQ(server.talked, -ECONNRESET);
}

static int send_refused(struct ew_tls *tls, struct side *side)
{
	int r;

	EW_SCOPE(scope);

	(void)side;
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	r = ew_tls_send(tls, "nothing", 7);
	EXPECT_EQ(r, -ECANCELED);
	r = ew_tls_send(tls, "nothing", 7);
	EXPECT_EQ(r, -ECANCELED);
	return 0;
}

static int send_after_refusal(struct ew_tls *tls, struct side *side)
{
	int r = send_refused(tls, side);

	EXPECT_EQ(r, 0);
	return say_hello(tls, side);
}

TEST(tls_write_that_was_refused_has_sent_nothing)
{
	prepare();
	client.talk = send_after_refusal;
	server.talk = hear_hello;
	run_sides();
	EXPECT_EQ(client.talked, 0);
	EXPECT_STR(server.buffer, "hello");
}

/* ---- a close that nobody takes ---- */

static int fill_the_pipe(struct ew_tls *tls, struct side *side)
{
	static const char data[LARGE_BYTES];
	ssize_t n;

	(void)side;
	/* What the peer makes of it does not matter: it reads nothing. */
	do
		n = send(ew_socket_fd(tls->socket), data, sizeof(data), MSG_DONTWAIT);
	while (n > 0);
	return 0;
}

static int close_behind_full_pipe(void *argument, void *place)
{
	struct ew_socket **socket = place;
	int r;

	EW_OWN(ew_tls, tls);

	(void)argument;
	r = ew_tls_connect(client.context, socket, "server.test", NULL, &tls);
	EXPECT_EQ(r, 0);
	fill_the_pipe(tls, NULL);
	r = ew_tls_close(&tls);
	EXPECT_EQ(r, -ECANCELED);
	EXPECT(tls == NULL);
	ew_event_set(&cut);
	return 0;
}

static int wait_until_cut(struct ew_tls *tls, struct side *side)
{
	(void)tls;
	(void)side;
	return ew_event_wait(&cut, EW_NEVER);
}

static int meet_silent_reader(void *argument)
{
	int r;

	EW_OWN(ew_socket, ours);
	EW_OWN(ew_socket, theirs);
	EW_SCOPE(scope);

	(void)argument;
	EXPECT_EQ(ew_socket_pair(&ours, &theirs), 0);
	r = ew_spawn_take(&scope, side_task, &server, &theirs);
	EXPECT_EQ(r, 0);
	r = ew_spawn_take(&scope, close_behind_full_pipe, NULL, &ours);
	EXPECT_EQ(r, 0);
	return ew_scope_finish(&scope, 0);
}

TEST(tls_goodbye_that_nobody_takes_is_given_up)
{
	ew_event_reset(&cut);
	prepare();
	server.talk = wait_until_cut;
	EXPECT_EQ(ew_run(NULL, meet_silent_reader, NULL), 0);
	ew_tls_context_free(client.context);
	ew_tls_context_free(server.context);
}

/* ---- on plain threads ---- */

static void *serve_plainly(void *argument)
{
	int r;

	EW_OWN(ew_tls, tls);

	r = ew_tls_accept(server.context, argument, &server.error, &tls);
	EXPECT_EQ(r, 0);
	r = ew_tls_recv(tls, server.buffer, sizeof(server.buffer));
	EXPECT_EQ(r, 5);
	r = ew_tls_close(&tls);
	EXPECT_EQ(r, 0);
	return NULL;
}

TEST(tls_works_on_plain_threads)
{
	pthread_t thread;
	char buffer[8];
	int r;

	EW_OWN(ew_socket, ours);
	EW_OWN(ew_tls, tls);
	struct ew_socket *theirs = NULL;

	prepare();
	EXPECT_EQ(ew_socket_pair(&ours, &theirs), 0);
	EXPECT_EQ(pthread_create(&thread, NULL, serve_plainly, &theirs), 0);
	r = ew_tls_connect(client.context, &ours, "server.test", NULL, &tls);
	EXPECT_EQ(r, 0);
	r = ew_tls_send(tls, "hello", 5);
	EXPECT_EQ(r, 0);
	r = ew_tls_recv(tls, buffer, sizeof(buffer));
	EXPECT_EQ(r, 0);
	r = ew_tls_close(&tls);
	EXPECT_EQ(r, 0);
	pthread_join(thread, NULL);
	EXPECT_STR(server.buffer, "hello");
	ew_tls_context_free(client.context);
	ew_tls_context_free(server.context);
}

/* ---- files ---- */

static void expect_bad_files(const struct ew_tls_context_options *options, const char *words)
{
	struct ew_tls_context *context = NULL;
	struct ew_tls_error error = {};

	EXPECT_EQ(ew_tls_context_new(options, &error, &context), -EINVAL);
	EXPECT(context == NULL);
	EXPECT_EQ(error.error, -EINVAL);
	if (!strstr(error.text, words))
		EXPECT_STR(error.text, words);
}

static void encrypt_key(const char *path)
{
	FILE *file = fopen(path, "w");

	EXPECT(file != NULL);
	EXPECT_EQ(PEM_write_PrivateKey(file, tls_authority.key, EVP_aes_128_cbc(), NULL, 0, NULL,
				       (void *)(uintptr_t) "secret"),
		  1);
	EXPECT_EQ(fclose(file), 0);
}

TEST(tls_files_that_are_wrong_are_named)
{
	char good[TLS_PATH_BYTES], other[TLS_PATH_BYTES], locked[TLS_PATH_BYTES];

	tls_sign("good", "DNS:server.test", TLS_DAY_S, good);
	tls_sign("other", "DNS:server.test", TLS_DAY_S, other);
	tls_path("locked", locked);
	encrypt_key(locked);
	expect_bad_files(&(struct ew_tls_context_options){ .ca_file = "/nowhere/ca" },
			 "/nowhere/ca is no file of authorities in PEM: No such file");
	expect_bad_files(&(struct ew_tls_context_options){ .ca_file = "/dev/null" },
			 "/dev/null is no file of authorities in PEM: ");
	expect_bad_files(&(struct ew_tls_context_options){ .certificate_file = locked },
			 "locked.pem is no certificate in PEM: no start line");
	expect_bad_files(
		&(struct ew_tls_context_options){ .certificate_file = good, .key_file = other },
		"other.pem is no key of the certificate, in PEM and not encrypted: key "
		"values mismatch");
	expect_bad_files(
		&(struct ew_tls_context_options){ .certificate_file = good, .key_file = locked },
		"locked.pem is no key of the certificate, in PEM and not encrypted: ");
}

TEST_MAIN()
