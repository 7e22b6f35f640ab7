/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Sweeps over an HTTP session and its client: either of them ended at each suspension, and whatever they ask for refused.
 * After each run the session has left the list of those that are idle, and what its handlers had to undo was undone once.
 */

#include "sweep.h"

#include "http/session.h"

#include <endwell/sim.h>

static struct http_service service;

/* ---- the server ---- */

static int read_body(struct http_request *request)
{
	const char *data;
	int r;

	do
		r = http_body_read(request, &data);
	while (r > 0);
	return r;
}

static int thank(struct http_request *request)
{
	int r = read_body(request);

	return r < 0 ? r : http_respond(request, 200, "text/plain", NULL, "thanks", 6);
}

static int count_to_two(struct http_request *request)
{
	int r = http_respond_begin(request, 200, "text/plain", NULL);

	if (r == 0)
		r = http_respond_piece(request, "one", 3);
	if (r == 0)
		r = http_respond_piece(request, "two", 3);
	return r < 0 ? r : http_respond_end(request);
}

static int handle(struct http_request *request, void *userdata)
{
	static const struct http_problem problem = { .status = 404,
						     .type = "about:blank",
						     .title = "no such thing" };
	BOOKED_GUARD(undo, 0);

	(void)userdata;
	if (http_slice_equal(request->head->path, "/thanks"))
		return thank(request);
	if (http_slice_equal(request->head->path, "/pieces"))
		return count_to_two(request);
	return http_respond_problem(request, &problem);
}

static int session(void *argument, void *place)
{
	(void)argument;
	return http_session_serve(&service, place);
}

/* ---- its client ---- */

struct exchange {
	const char *head;
	const char *body; /* NULL: none */
	const char *end;  /* of the answer */
};

static const struct exchange exchanges[] = {
	{ "POST /thanks HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n",
	  "body", "thanks" },
	{ "GET /pieces HTTP/1.1\r\nHost: x\r\n\r\n", NULL, "\r\n0\r\n\r\n" },
	{ "GET /none HTTP/1.1\r\nHost: x\r\n\r\n", NULL, "}\n" },
};

static int hear(struct ew_socket *socket, const char *end)
{
	char text[1024];
	size_t bytes = 0, end_bytes = strlen(end);
	int r;

	do {
		r = ew_socket_recv(socket, text + bytes, sizeof(text) - bytes);
		if (r <= 0)
			return r < 0 ? r : -ECONNRESET;
		bytes += (size_t)r;
	} while (bytes < end_bytes || memcmp(text + bytes - end_bytes, end, end_bytes) != 0);
	return 0;
}

static int exchange(struct ew_socket *socket, const struct exchange *exchange)
{
	int r = ew_socket_send(socket, exchange->head, strlen(exchange->head));

	if (r == 0 && exchange->body)
		r = hear(socket, "HTTP/1.1 100 Continue\r\n\r\n");
	if (r == 0 && exchange->body)
		r = ew_socket_send(socket, exchange->body, strlen(exchange->body));
	return r < 0 ? r : hear(socket, exchange->end);
}

static int visit(void *argument)
{
	unsigned i;
	int r;
	EW_OWN(ew_socket, client);
	EW_OWN(ew_socket, server);
	EW_SCOPE(scope);

	(void)argument;
	r = ew_socket_pair(&client, &server);
	if (r == 0)
		r = ew_spawn_take(&scope, session, NULL, &server);
	for (i = 0; r == 0 && i < sizeof(exchanges) / sizeof(exchanges[0]); i++)
		r = exchange(client, &exchanges[i]);
	if (r == 0)
		r = ew_socket_close(&client);
	return ew_scope_finish(&scope, r);
}

static void prepare(void *argument)
{
	open_book(argument);
	service = (struct http_service){ .handler = handle };
	http_service_init(&service);
}

static const char *check(void *argument)
{
	return service.idle ? "a session is still in the list" : check_book(argument);
}

TEST(sweep_http_session)
{
	struct ew_sweep_options options = { .prepare = prepare, .check = check };

	expect_sweep(&options, visit, 10);
	options.droppable = true;
	options.modes = MODES_WITHOUT_FAULTS;
	expect_sweep(&options, visit, 10);
}

TEST(sweep_http_session_in_simulated_worlds)
{
	struct ew_sim_options world = { 0 };
	const struct ew_sweep_options options = {
		.prepare = prepare, .check = check, .modes = MODES_WITHOUT_FAULTS, .world = &world
	};

	for (world.seed = 1; world.seed <= 3; world.seed++)
		expect_sweep(&options, visit, 10);
}

TEST_MAIN()
