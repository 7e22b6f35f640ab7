/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The request parser against the table of requests and against itself: whatever it finds must not
 * depend on how the bytes were cut. Each piece is handed over in a heap block of exactly its size, so
 * that the address sanitizer sees a read beyond it.
 */

#include "ew_test.h"

#include "../apps/malformed/table.h"
#include "parser.h"

struct outcome {
	enum http_event last;
	unsigned int messages;
	uint64_t body_bytes;
	uint64_t digest; /* of all that was reported */
	size_t bad_at;
	bool between;
	int status;
	char reason[144];
};

static void digest(struct outcome *outcome, const void *data, size_t len)
{
	const unsigned char *bytes = data;

	for (size_t i = 0; i < len; i++)
		outcome->digest = (outcome->digest ^ bytes[i]) * 1099511628211u;
}

static void digest_slice(struct outcome *outcome, struct http_slice slice)
{
	digest(outcome, &slice.len, sizeof(slice.len));
	digest(outcome, slice.data, slice.len);
}

static void digest_head(struct outcome *outcome, const struct http_head *head)
{
	digest(outcome, &head->method, sizeof(head->method));
	digest(outcome, &head->body_bytes, sizeof(head->body_bytes));
	digest(outcome, &head->keep_alive, sizeof(head->keep_alive));
	digest(outcome, &head->expect_continue, sizeof(head->expect_continue));
	digest_slice(outcome, head->target);
	digest_slice(outcome, head->authority);
	digest_slice(outcome, head->path);
	digest_slice(outcome, head->query);
	for (size_t i = 0; i < head->headers_count; i++) {
		digest_slice(outcome, head->headers[i].name);
		digest_slice(outcome, head->headers[i].value);
	}
}

/* Feeds one piece until all of it is taken or the parser refuses. */
static void feed(struct http_parser *parser, struct outcome *outcome, const char *bytes, size_t len)
{
	char *piece = malloc(len);
	size_t at = 0, n;

	memcpy(piece, bytes, len);
	do {
		outcome->last = http_parser_feed(parser, piece + at, len - at, &n);
		EXPECT(n <= len - at);
		at += n;
		outcome->bad_at += n;
		if (outcome->last == HTTP_EVENT_HEAD)
			digest_head(outcome, &parser->head);
		if (outcome->last == HTTP_EVENT_BODY) {
			EXPECT(parser->body.data >= piece && parser->body.len > 0);
			EXPECT(parser->body.data + parser->body.len <= piece + at);
			outcome->body_bytes += parser->body.len;
			digest(outcome, parser->body.data, parser->body.len);
		}
		if (outcome->last == HTTP_EVENT_END)
			outcome->messages++;
	} while (outcome->last != HTTP_EVENT_MORE && outcome->last != HTTP_EVENT_BAD);
	if (outcome->last == HTTP_EVENT_MORE)
		EXPECT_EQ(at, len);
	free(piece);
}

/* The whole in pieces: the first of @first bytes, the others of @step. */
static struct outcome parse(const char *bytes, size_t len, size_t first, size_t step)
{
	struct http_parser *parser = malloc(sizeof(*parser));
	struct outcome outcome = { .last = HTTP_EVENT_MORE };
	size_t n;

	http_parser_init(parser);
	for (size_t at = 0; at < len && outcome.last != HTTP_EVENT_BAD; at += n) {
		n = at == 0 && first > 0 ? first : step;
		if (n > len - at)
			n = len - at;
		feed(parser, &outcome, bytes + at, n);
	}
	outcome.between = http_parser_is_between(parser);
	if (outcome.last == HTTP_EVENT_BAD) {
		outcome.status = parser->status;
		strcpy(outcome.reason, parser->reason);
	}
	free(parser);
	return outcome;
}

static bool same(const struct outcome *a, const struct outcome *b)
{
	return a->last == b->last && a->messages == b->messages && a->body_bytes == b->body_bytes &&
	       a->digest == b->digest && a->bad_at == b->bad_at && a->between == b->between &&
	       a->status == b->status && !strcmp(a->reason, b->reason);
}

static void expect_outcome(const struct malformed_case *one, const struct outcome *outcome)
{
	if (one->status != outcome->status)
		ew_test_fail(__FILE__, __LINE__, "%s: status %d, not %d (%s)", one->name,
			     outcome->status, one->status, outcome->reason);
	if (one->status)
		return;
	if (one->more == outcome->between && one->len > 2)
		ew_test_fail(__FILE__, __LINE__, "%s: between messages: %d", one->name,
			     outcome->between);
	if (!one->more &&
	    (outcome->messages != one->messages || outcome->body_bytes != one->body_bytes))
		ew_test_fail(__FILE__, __LINE__, "%s: %u messages with %lu bytes", one->name,
			     outcome->messages, (unsigned long)outcome->body_bytes);
}

static struct malformed_case *load(size_t *ret_count)
{
	return malformed_load(MALFORMED_TABLE, ret_count);
}

/* Each request of the table as one piece has the outcome that the table says, with a reason that names a place. */
TEST(http_parser_table_whole_has_the_outcome_listed)
{
	size_t count, refused = 0;
	struct malformed_case *cases = load(&count);

	for (size_t i = 0; i < count; i++) {
		struct outcome outcome = parse(cases[i].bytes, cases[i].len, 0, cases[i].len);

		expect_outcome(&cases[i], &outcome);
		if (!cases[i].status)
			continue;
		refused++;
		EXPECT(strstr(outcome.reason, ": ") && strlen(outcome.reason) < 128);
		if (getenv("EW_TEST_VERBOSE"))
			printf("# %d %s: %s\n", outcome.status, cases[i].name, outcome.reason);
	}
	EXPECT(refused >= 150);
}

/* One byte at a time, and in two pieces cut at every byte: the same events, status, reason and place. */
TEST(http_parser_table_cut_anywhere_has_the_same_outcome)
{
	size_t count;
	struct malformed_case *cases = load(&count);

	for (size_t i = 0; i < count; i++) {
		const struct malformed_case *one = &cases[i];
		struct outcome whole = parse(one->bytes, one->len, 0, one->len);
		struct outcome bytes = parse(one->bytes, one->len, 0, 1);
		size_t stride = one->len / 500 + 1;

		if (!same(&whole, &bytes))
			ew_test_fail(__FILE__, __LINE__, "%s: differs byte by byte (%s, %s)",
				     one->name, whole.reason, bytes.reason);
		for (size_t at = 1; at < one->len; at += stride) {
			struct outcome cut = parse(one->bytes, one->len, at, one->len);

			if (!same(&whole, &cut))
				ew_test_fail(__FILE__, __LINE__, "%s: differs when cut at %zu",
					     one->name, at);
		}
	}
}

/* A good request that ends early, at every byte, is neither complete nor wrong, and known to be cut. */
TEST(http_parser_close_at_every_byte_is_seen_as_cut)
{
	size_t count;
	struct malformed_case *cases = load(&count);

	for (size_t i = 0; i < count; i++) {
		const struct malformed_case *one = &cases[i];

		if (one->messages != 1 || one->len > 1000 || !strncmp(one->name, "after-", 6))
			continue;
		for (size_t len = 1; len < one->len; len++) {
			struct outcome cut = parse(one->bytes, len, 0, len);

			if (cut.last != HTTP_EVENT_MORE || cut.messages > 0)
				ew_test_fail(__FILE__, __LINE__, "%s: complete after %zu bytes",
					     one->name, len);
			if (cut.between && !(len == 2 && one->bytes[0] == '\r'))
				ew_test_fail(__FILE__, __LINE__, "%s: cut at %zu unseen", one->name,
					     len);
		}
	}
}

static const struct http_head *parse_head(struct http_parser *parser, const char *text)
{
	size_t n;

	http_parser_init(parser);
	EXPECT_EQ(http_parser_feed(parser, text, strlen(text), &n), HTTP_EVENT_HEAD);
	return &parser->head;
}

static struct http_parser one_parser;

TEST(http_parser_head_has_target_and_fields_as_sent)
{
	const struct http_head *head = parse_head(
		&one_parser, "PUT /files/a%20b?x=1&y HTTP/1.1\r\nhOST: localhost:8080\r\n"
			     "X-One:  a b \t\r\nx-one: second\r\nEmpty:\r\n"
			     "Content-Length: 12\r\nExpect: 100-continue\r\n\r\n");

	EXPECT_EQ(head->method, HTTP_METHOD_PUT);
	EXPECT(http_slice_equal(head->target, "/files/a%20b?x=1&y"));
	EXPECT(http_slice_equal(head->path, "/files/a%20b"));
	EXPECT(http_slice_equal(head->query, "x=1&y"));
	EXPECT(http_slice_equal(head->authority, "localhost:8080"));
	EXPECT_EQ(head->headers_count, 6);
	EXPECT(http_slice_equal(*http_head_find(head, "X-ONE"), "a b"));
	EXPECT_EQ(http_head_find(head, "empty")->len, 0);
	EXPECT(!http_head_find(head, "X-Two"));
	EXPECT_EQ(head->body_bytes, 12);
	EXPECT(head->expect_continue && head->keep_alive && !head->chunked);
}

TEST(http_parser_absolute_target_is_taken_apart)
{
	const struct http_head *head = parse_head(
		&one_parser, "GET http://LOCALHOST?q HTTP/1.1\r\nHost: localhost\r\n\r\n");

	EXPECT(http_slice_equal(head->path, "/"));
	EXPECT(http_slice_equal(head->query, "q"));
	EXPECT(http_slice_equal(head->authority, "localhost"));
	head = parse_head(&one_parser, "OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n");
	EXPECT(http_slice_equal(head->path, "*"));
	EXPECT(!head->query.data);
}

TEST(http_parser_keep_alive_ends_with_close_and_with_http_1_0)
{
	EXPECT(parse_head(&one_parser, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")->keep_alive);
	EXPECT(!parse_head(&one_parser, "GET / HTTP/1.1\r\nHost: h\r\nConnection: x, CLOSE\r\n\r\n")
			->keep_alive);
	EXPECT(!parse_head(&one_parser, "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
			->keep_alive);
	EXPECT(!parse_head(&one_parser,
			   "PUT / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n")
			->expect_continue);
}

/* A refusal is final: what follows is not looked at, and the answer stays the same. */
TEST(http_parser_after_a_refusal_refuses_for_ever)
{
	static const char good[] = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
	size_t n;

	http_parser_init(&one_parser);
	EXPECT_EQ(http_parser_feed(&one_parser, "GE\x01T", 4, &n), HTTP_EVENT_BAD);
	EXPECT_EQ(n, 3);
	EXPECT_EQ(http_parser_feed(&one_parser, good, sizeof(good) - 1, &n), HTTP_EVENT_BAD);
	EXPECT_EQ(n, 0);
	EXPECT_EQ(one_parser.status, 400);
	EXPECT_STR(one_parser.reason, "request line: control byte 0x01");
}

/* The reasons name the place by its number, counted as a person counts. */
TEST(http_parser_refusals_name_the_place)
{
	static const struct {
		const char *bytes;
		const char *reason;
	} cases[] = {
		{ "GET / HTTP/1.1\r\nHost: h\r\nX: y\n", "header field 2: bare LF" },
		{ "GET / HTTP/1.1\r\nHost: h\r\n folded\r\n",
		  "header field 2: begins with white space (a folded line)" },
		{ "GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n", "header field 2: second Host" },
		{ "GET / HTTP/1.1\r\n\r\n", "request head: no Host" },
		{ "GET /\rX", "request line: bare CR" },
		{ "PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\nz\r\n",
		  "chunk 2: size is not a hexadecimal number" },
		{ "PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: b\r\nHost: x\r\n",
		  "trailer field 2: field is not allowed in a trailer" },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct outcome outcome = parse(cases[i].bytes, strlen(cases[i].bytes), 0, 1);

		EXPECT_STR(outcome.reason, cases[i].reason);
		EXPECT_EQ(outcome.status, 400);
	}
}

/* After the last message of a connection bytes are swallowed; nothing in them becomes a request. */
TEST(http_parser_after_close_swallows_everything)
{
	static const char input[] =
		"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\nGET / HTTP/1.1\r\n\r\n\x01";
	struct outcome outcome = parse(input, sizeof(input) - 1, 0, 1);

	EXPECT_EQ(outcome.last, HTTP_EVENT_MORE);
	EXPECT_EQ(outcome.messages, 1);
	EXPECT(outcome.between);
}

TEST_MAIN()
