/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The HTTP session and its clients in simulated worlds, with everything that may go wrong, for many seeds. Clients send
 * several requests behind each other, in pieces, some of them slowly; each answer that arrives must be that of its request.
 */

#include "http/session.h"
#include "sim.h"

#define CLIENTS	       4
#define REQUESTS       6
#define BODY_BYTES_MAX 6000

static struct http_service service;

/* ---- the server ---- */

/* In one, or in pieces of which nobody has said how many. */
static int answer(struct http_request *request, const char *text, size_t size)
{
	size_t first = ew_sim_random(size + 1);
	int r;

	if (ew_sim_random(2))
		return seen(http_respond(request, 200, "text/plain", NULL, text, size));
	r = seen(http_respond_begin(request, 200, "text/plain", NULL));
	if (r == 0)
		r = seen(http_respond_piece(request, text, first));
	if (r == 0)
		r = seen(http_respond_piece(request, text + first, size - first));
	return r < 0 ? r : seen(http_respond_end(request));
}

/* "number length sum" of what came. */
static int handle(struct http_request *request, void *userdata)
{
	unsigned long long sum = 0;
	const char *data;
	char text[64];
	int n, i;

	(void)userdata;
	while ((n = seen(http_body_read(request, &data))) > 0)
		for (i = 0; i < n; i++)
			sum = sum * 31 + (unsigned char)data[i];
	if (n < 0)
		return n;
	n = snprintf(text, sizeof(text), "%.*s %lld %llu\n", (int)request->head->path.len,
		     request->head->path.data, (long long)request->body_bytes, sum);
	return answer(request, text, (size_t)n);
}

static int session(void *argument, void *place)
{
	(void)argument;
	return seen(http_session_serve(&service, place));
}

static int serve(void *listener)
{
	return accept_all(listener, session);
}

/* ---- clients ---- */

struct client {
	unsigned number;
	struct ew_socket *socket;
	bool slow;
	unsigned begun_count, answered_count; /* requests */
	char expected[REQUESTS][64];
	size_t bytes;
	char input[4096];
	char body[128]; /* of chunks, put together */
};

static int say(struct client *client, const char *data, size_t size)
{
	if (client->slow && ew_sim_random(4) == 0) {
		int r = seen(ew_sleep((int64_t)ew_sim_random(30) * EW_SECOND));

		if (r < 0)
			return r;
	}
	return seen(ew_socket_send(client->socket, data, size));
}

static int say_body(struct client *client, const char *body, size_t size, bool chunked)
{
	char frame[32];
	size_t part;
	int r = 0;

	for (; r == 0 && size > 0; body += part, size -= part) {
		part = 1 + ew_sim_random(size < 5000 ? size : 5000);
		snprintf(frame, sizeof(frame), "%zx\r\n", part);
		if (chunked)
			r = say(client, frame, strlen(frame));
		if (r == 0)
			r = say(client, body, part);
		if (r == 0 && chunked)
			r = say(client, "\r\n", 2);
	}
	return r == 0 && chunked ? say(client, "0\r\n\r\n", 5) : r;
}

static int say_request(struct client *client, unsigned number)
{
	size_t size = ew_sim_random(BODY_BYTES_MAX), i;
	bool chunked = ew_sim_random(2);
	unsigned long long sum = 0;
	char body[BODY_BYTES_MAX], head[128];
	int r;

	for (i = 0; i < size; i++) {
		body[i] = pattern(client->number * REQUESTS + number, i);
		sum = sum * 31 + (unsigned char)body[i];
	}
	snprintf(client->expected[number], sizeof(client->expected[number]), "/%u-%u %zu %llu\n",
		 client->number, number, size, sum);
	client->begun_count++;
	if (chunked)
		snprintf(head, sizeof(head),
			 "PUT /%u-%u HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
			 client->number, number);
	else
		snprintf(head, sizeof(head),
			 "PUT /%u-%u HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n",
			 client->number, number, size);
	r = say(client, head, strlen(head));
	return r < 0 ? r : say_body(client, body, size, chunked);
}

static int say_all(void *argument)
{
	struct client *client = argument;
	unsigned i;
	int r = 0;

	for (i = 0; r == 0 && i < REQUESTS; i++)
		r = say_request(client, i);
	return r;
}

/* The length of all chunks from @at on; 0: the last one is not there. */
static size_t whole_chunks(struct client *client, const char *at, const char **ret_body)
{
	const char *begin = at;
	size_t bytes = 0, chunk;
	char *end;

	while (strstr(at, "\r\n")) {
		chunk = strtoul(at, &end, 16);
		EXPECT(!strncmp(end, "\r\n", 2));
		if (strlen(end) < chunk + 4)
			return 0;
		EXPECT(bytes + chunk < sizeof(client->body));
		memcpy(client->body + bytes, end + 2, chunk);
		bytes += chunk;
		at = end + 2 + chunk + 2;
		if (chunk > 0)
			continue;
		client->body[bytes] = '\0';
		*ret_body = client->body;
		return (size_t)(at - begin);
	}
	return 0;
}

/* The length of the response at the start of the input; 0: it is not whole. */
static size_t whole_response(struct client *client, const char **ret_body)
{
	const char *end, *length;
	size_t head_bytes, body_bytes;

	client->input[client->bytes] = '\0';
	end = strstr(client->input, "\r\n\r\n");
	if (!end)
		return 0;
	head_bytes = (size_t)(end - client->input) + 4;
	if (memmem(client->input, head_bytes, "\r\nTransfer-Encoding: chunked\r\n", 30)) {
		body_bytes = whole_chunks(client, end + 4, ret_body);
		return body_bytes > 0 ? head_bytes + body_bytes : 0;
	}
	length = strstr(client->input, "\r\nContent-Length: ");
	EXPECT(length && length < end);
	body_bytes = strtoul(length + 18, NULL, 10);
	*ret_body = client->input + head_bytes;
	return client->bytes >= head_bytes + body_bytes ? head_bytes + body_bytes : 0;
}

/* A request that was too slow, or for which the server had no memory, is answered so; after that comes nothing. */
static int check_response(struct client *client, const char *body)
{
	const char *expected = client->expected[client->answered_count];
	int status = atoi(client->input + 9);

	EXPECT(!strncmp(client->input, "HTTP/1.1 ", 9));
	if (status != 200) {
		EXPECT(status == 408 || status >= 500);
		return -ECONNRESET;
	}
	EXPECT(client->answered_count < client->begun_count);
	EXPECT(!strncmp(body, expected, strlen(expected)));
	client->answered_count++;
	return 0;
}

static int hear_one(struct client *client)
{
	const char *body;
	size_t bytes;
	int r;

	while ((bytes = whole_response(client, &body)) == 0) {
		EXPECT(client->bytes + 1 < sizeof(client->input));
		r = seen(ew_socket_recv(client->socket, client->input + client->bytes,
					sizeof(client->input) - 1 - client->bytes));
		if (r <= 0)
			return r < 0 ? r : -ECONNRESET;
		client->bytes += (size_t)r;
	}
	r = check_response(client, body);
	client->bytes -= bytes;
	memmove(client->input, client->input + bytes, client->bytes);
	return r;
}

/* 0: each request was answered. */
static int converse(struct client *client)
{
	int r;

	EW_OWN(ew_socket, socket);
	EW_SCOPE(scope);

	r = connect_there(&socket);
	if (r < 0)
		return r;
	client->socket = socket;
	r = ew_spawn(&scope, say_all, client);
	while (r == 0 && client->answered_count < REQUESTS)
		r = hear_one(client);
	return ew_scope_finish(&scope, r);
}

static int visit(void *argument)
{
	int64_t patience_ns =
		ew_sim_random(2) ? 1000 * EW_SECOND : (int64_t)ew_sim_random(3 * EW_MILLISECOND);

	EW_SCOPE(scope, .deadline_ns = ew_after(patience_ns));

	return ew_scope_finish(&scope, converse(argument));
}

static int scenario(void *argument)
{
	static struct client clients[CLIENTS + 1];
	unsigned i;
	int r;

	EW_OWN(ew_listener, listener);
	EW_SCOPE(server);
	EW_SCOPE(visitors, .policy = EW_POLICY_INDEPENDENT);

	(void)argument;
	memset(clients, 0, sizeof(clients));
	service = (struct http_service){ .handler = handle };
	http_service_init(&service);
	r = listen_here(&listener);
	EXPECT_EQ(r, 0);
	r = ew_spawn(&server, serve, listener);
	EXPECT_EQ(r, 0);
	for (i = 0; i < CLIENTS; i++) {
		clients[i].number = i;
		clients[i].slow = ew_sim_random(3) == 0;
		r = ew_spawn(&visitors, visit, &clients[i]);
		EXPECT_EQ(r, 0);
	}
	r = ew_scope_finish(&visitors, 0);
	EXPECT_EQ(r, 0);
	ew_sim_calm();
	clients[CLIENTS].number = CLIENTS;
	r = converse(&clients[CLIENTS]);
	EXPECT_EQ(r, 0);
	ew_scope_cancel(&server, EW_REASON_REQUESTED);
	r = ew_scope_finish(&server, 0);
	EXPECT(!service.idle);
	return r == -ECANCELED ? 0 : r;
}

TEST(http_session_under_all_faults)
{
	try_seeds(400, scenario, NULL, NULL);
}

TEST_MAIN()
