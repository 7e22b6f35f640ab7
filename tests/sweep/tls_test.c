/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Sweeps over a TLS stream: two sides, either of them ended at each suspension, in the handshake, in a talk and in the
 * goodbye. After each run OpenSSL has no more memory than before, and what had to be undone was undone once.
 */

#include "sweep.h"
#include "sweep_tls.h"

#include <endwell/sim.h>

static struct ew_tls_context *server_context, *client_context;

static int hear(struct ew_tls *tls, const char *words)
{
	char text[16];
	int r = ew_tls_recv(tls, text, sizeof(text));

	if (r < 0)
		return r;
	return (size_t)r == strlen(words) && !memcmp(text, words, (size_t)r) ? 0 : -EPROTO;
}

/* To the client's goodbye. */
static int answer(struct ew_tls *tls)
{
	BOOKED_GUARD(undo, 0);
	int r = hear(tls, "question");

	if (r == 0)
		r = ew_tls_send(tls, "answer", 6);
	return r < 0 ? r : hear(tls, "");
}

static int serve(void *argument, void *place)
{
	struct ew_tls_error error;
	int r;
	EW_OWN(ew_tls, tls);

	(void)argument;
	r = ew_tls_accept(server_context, place, &error, &tls);
	if (r == 0)
		r = answer(tls);
	return r < 0 ? r : ew_tls_close(&tls);
}

static int ask(struct ew_socket **socket)
{
	struct ew_tls_error error;
	int r;
	EW_OWN(ew_tls, tls);

	r = ew_tls_connect(client_context, socket, "server.test", &error, &tls);
	if (r == 0)
		r = ew_tls_send(tls, "question", 8);
	if (r == 0)
		r = hear(tls, "answer");
	return r < 0 ? r : ew_tls_close(&tls);
}

static int talk(void *argument)
{
	int r;
	EW_OWN(ew_socket, client);
	EW_OWN(ew_socket, server);
	EW_SCOPE(scope);

	(void)argument;
	r = ew_socket_pair(&client, &server);
	if (r == 0)
		r = ew_spawn_take(&scope, serve, NULL, &server);
	if (r == 0)
		r = ask(&client);
	return ew_scope_finish(&scope, r);
}

static void prepare(void *argument)
{
	open_book(argument);
	tls_blocks_before = tls_blocks;
}

static void sweep_talk(const struct ew_sim_options *world)
{
	const struct ew_sweep_options options = { .prepare = prepare,
						  .check = check_tls,
						  .modes = world ? 0 : MODES_WITH_THREADS,
						  .droppable = !world,
						  .world = world };

	count_tls_blocks();
	server_context = tls_server_context();
	client_context = tls_client_context();
	/* What it makes once and keeps is not a run's. */
	prepare(NULL);
	EXPECT_EQ(ew_run(NULL, talk, NULL), 0);
	expect_sweep(&options, talk, 8);
	ew_tls_context_free(client_context);
	ew_tls_context_free(server_context);
}

TEST(sweep_tls)
{
	sweep_talk(NULL);
}

TEST(sweep_tls_in_a_simulated_world)
{
	sweep_talk(&(struct ew_sim_options){ .seed = 1 });
}

TEST_MAIN()
