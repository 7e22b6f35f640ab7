/* SPDX-License-Identifier: Apache-2.0 */
/* Correlation tokens, the table of operations, and what a worker's word means in each state. */
#include "../ew_test.h"

#include "gateway/answer.h"

TEST(gateway_token_is_read_as_it_was_printed)
{
	const struct token token = { .epoch = 0x7f2e, .slot = 5, .generation = 123456789012 };
	struct token read;
	char text[TOKEN_BYTES];

	token_print(&token, text);
	EXPECT_STR(text, "0000000000007f2e.5.123456789012");
	EXPECT(token_read(text, &read));
	EXPECT_EQ(read.epoch, token.epoch);
	EXPECT_EQ(read.slot, token.slot);
	EXPECT_EQ(read.generation, token.generation);
}

TEST(gateway_token_of_any_other_form_is_none)
{
	static const char *const texts[] = {
		"",
		"x",
		"0000000000007f2e.5",
		"0000000000007f2e.5.1 ",
		" 000000000007f2e.5.1",
		"7f2e.5.1",
		"0000000000007f2e.05.1",
		"0000000000007f2e.-1.1",
		"0000000000007f2e.4294967301.1",
		"0000000000007f2e.5.99999999999999999999",
		"0000000000007F2E.5.1",
		"0000000000007f2e.5.111111111111111111111111111111111111111111111111",
	};
	struct token token;

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
		EXPECT(!token_read(texts[i], &token));
	EXPECT(!token_read(NULL, &token));
}

static struct route_config config = { .name = "a" };
static struct gateway gateway;
static struct route route = { .gateway = &gateway, .config = &config };
static struct table table;

static struct operation *begin(void)
{
	struct operation *operation = NULL;

	EXPECT_EQ(operation_new(&route, &operation), 0);
	table_enter(&table, operation);
	return operation;
}

static void end(struct operation *operation)
{
	table_leave(&table, operation);
	ew_abort(&operation);
}

static enum heard hear_with_id(struct operation *operation, const char *type, const char *claim,
			       const char *redelivered, const char *id)
{
	const struct ew_amqp_header headers[] = { { "x-ew-claim", claim },
						  { "x-ew-redelivered", redelivered } };
	const struct ew_amqp_message message = { .type = type,
						 .message_id = id,
						 .reply_to = "w",
						 .headers = headers,
						 .headers_count = 2 };

	return operation_hear(operation, &message);
}

static enum heard hear(struct operation *operation, const char *type, const char *claim,
		       const char *redelivered)
{
	return hear_with_id(operation, type, claim, redelivered, operation ? operation->id : NULL);
}

/* As the task does that serves it. */
static void grant(struct operation *operation)
{
	EXPECT(operation->claim_due);
	operation->claim_due = false;
	operation->started = true;
}

TEST(gateway_table_forgets_a_token_with_its_operation)
{
	struct operation *first, *second;
	char correlation[TOKEN_BYTES];

	EXPECT_EQ(table_init(&table, 2), 0);
	first = begin();
	second = begin();
	strcpy(correlation, first->correlation);
	EXPECT(table_find(&table, correlation) == first);
	end(first);
	EXPECT(table_find(&table, correlation) == NULL);
	first = begin();
	EXPECT_EQ(first->token.slot, 0);
	EXPECT(table_find(&table, correlation) == NULL);
	EXPECT(table_find(&table, first->correlation) == first);
	EXPECT(table_find(&table, NULL) == NULL);
	end(first);
	end(second);
	table_deinit(&table);
}

TEST(gateway_table_forgets_a_token_of_what_is_entered_again)
{
	struct operation *operation;
	char correlation[TOKEN_BYTES];

	EXPECT_EQ(table_init(&table, 1), 0);
	operation = begin();
	strcpy(correlation, operation->correlation);
	table_enter_again(&table, operation);
	EXPECT(table_find(&table, correlation) == NULL);
	EXPECT(table_find(&table, operation->correlation) == operation);
	end(operation);
	table_deinit(&table);
}

/* By its correlation it is of this one, and to be granted would start the other one. */
TEST(gateway_claim_with_the_id_of_another_operation_is_refused)
{
	struct operation *operation, *other;

	EXPECT_EQ(table_init(&table, 2), 0);
	operation = begin();
	other = begin();
	EXPECT_EQ(hear_with_id(operation, "claim", "A", "0", other->id), HEARD_REFUSE);
	EXPECT(!operation->claim_due);
	EXPECT_EQ(hear_with_id(operation, "claim", "B", "0", NULL), HEARD_NEWS);
	grant(operation);
	EXPECT_EQ(hear_with_id(operation, "claim", "C", "1", other->id), HEARD_REFUSE);
	EXPECT_STR(operation->claim.token, "B");
	end(operation);
	end(other);
	table_deinit(&table);
}

/* A refusal would stop what runs, and as a proof it would be none. */
TEST(gateway_claim_that_comes_twice_is_known)
{
	struct operation *operation;

	EXPECT_EQ(table_init(&table, 1), 0);
	operation = begin();
	EXPECT_EQ(hear(operation, "claim", "A", "1"), HEARD_NEWS);
	grant(operation);
	EXPECT_EQ(hear(operation, "claim", "A", "1"), HEARD_DUPLICATE);
	EXPECT_EQ(operation->attempt, 1);
	EXPECT_EQ(hear(operation, "claim", "B", "1"), HEARD_NEWS);
	grant(operation);
	EXPECT_EQ(hear(operation, "claim", "A", "1"), HEARD_DUPLICATE);
	EXPECT_EQ(hear(operation, "claim", "B", "1"), HEARD_DUPLICATE);
	EXPECT_STR(operation->claim.token, "B");
	operation->outcome = OUTCOME_SILENT;
	operation->presumed = true;
	EXPECT_EQ(hear(operation, "claim", "B", "1"), HEARD_DUPLICATE);
	EXPECT_EQ(hear(operation, "claim", "C", "1"), HEARD_REFUSE_LAST);
	end(operation);
	table_deinit(&table);
}

/* After a lost connection all come again that were not acknowledged, in their order: the newest stays the newest. */
TEST(gateway_claim_is_known_however_many_came_after_it)
{
	struct operation *operation;
	char token[8];

	EXPECT_EQ(table_init(&table, 1), 0);
	operation = begin();
	for (unsigned i = 0; i < CLAIMS_KNOWN; i++) {
		snprintf(token, sizeof(token), "c%u", i);
		EXPECT_EQ(hear(operation, "claim", token, "1"), HEARD_NEWS);
		grant(operation);
	}
	for (unsigned i = 0; i < CLAIMS_KNOWN; i++) {
		snprintf(token, sizeof(token), "c%u", i);
		EXPECT_EQ(hear(operation, "claim", token, "1"), HEARD_DUPLICATE);
	}
	EXPECT_EQ(operation->attempt, CLAIMS_KNOWN);
	EXPECT(operation->started);
	/* A refusal of one of them would prove nothing. */
	operation->outcome = OUTCOME_SILENT;
	operation->presumed = true;
	EXPECT_EQ(hear(operation, "claim", "c1", "1"), HEARD_DUPLICATE);
	EXPECT_EQ(hear(operation, "reply", token, "0"), HEARD_PROOF);
	end(operation);
	table_deinit(&table);
}

TEST(gateway_table_knows_no_token_of_another_start)
{
	struct operation *operation;
	struct token token;
	char text[TOKEN_BYTES];

	EXPECT_EQ(table_init(&table, 1), 0);
	operation = begin();
	token = operation->token;
	token.epoch ^= 1;
	token_print(&token, text);
	EXPECT(table_find(&table, text) == NULL);
	token = operation->token;
	token.slot = 1;
	token_print(&token, text);
	EXPECT(table_find(&table, text) == NULL);
	end(operation);
	table_deinit(&table);
}

TEST(gateway_operation_hears_claim_and_reply)
{
	struct operation *operation;

	EXPECT_EQ(table_init(&table, 1), 0);
	operation = begin();
	EXPECT_EQ(hear(operation, "reply", "c", "0"), HEARD_LATE);
	EXPECT_EQ(hear(operation, "claim", "c", "0"), HEARD_NEWS);
	EXPECT_STR(operation->claim.address, "w");
	/* Whoever was not granted has nothing to say. */
	EXPECT_EQ(hear(operation, "reply", "c", "0"), HEARD_LATE);
	grant(operation);
	EXPECT_EQ(hear(operation, "progress", "c", "0"), HEARD_PROGRESS);
	EXPECT_EQ(hear(operation, "unknown", "c", "0"), HEARD_UNKNOWN);
	EXPECT_EQ(hear(operation, "reply", "other", "0"), HEARD_LATE);
	EXPECT_EQ(operation->outcome, OUTCOME_NONE);
	EXPECT_EQ(hear(operation, "reply", "c", "0"), HEARD_RESULT);
	EXPECT_EQ(operation->outcome, OUTCOME_REPLIED);
	EXPECT_EQ(hear(operation, "stopped", "c", "0"), HEARD_LATE);
	EXPECT_EQ(hear(operation, "claim", "d", "1"), HEARD_REFUSE);
	EXPECT_EQ(operation->outcome, OUTCOME_REPLIED);
	end(operation);
	table_deinit(&table);
}

TEST(gateway_operation_second_claim_counts_only_if_redelivered)
{
	struct operation *operation;

	EXPECT_EQ(table_init(&table, 1), 0);
	operation = begin();
	EXPECT_EQ(hear(operation, "claim", "first", "0"), HEARD_NEWS);
	grant(operation);
	EXPECT_EQ(hear(operation, "claim", "twice", "0"), HEARD_REFUSE);
	EXPECT_STR(operation->claim.token, "first");
	EXPECT_EQ(hear(operation, "claim", "second", "1"), HEARD_NEWS);
	EXPECT(!operation->started);
	grant(operation);
	EXPECT_EQ(hear(operation, "reply", "first", "0"), HEARD_LATE);
	EXPECT_EQ(hear(operation, "stopped", "second", "0"), HEARD_NEWS);
	EXPECT_EQ(operation->outcome, OUTCOME_STOPPED);
	end(operation);
	table_deinit(&table);
}

TEST(gateway_operation_without_grant_has_started_with_its_claim)
{
	struct operation *operation;

	EXPECT_EQ(table_init(&table, 1), 0);
	config.grant_none = true;
	operation = begin();
	EXPECT_EQ(hear(operation, "claim", "c", "0"), HEARD_NEWS);
	EXPECT(operation->started);
	EXPECT_EQ(hear(operation, "reply", "c", "0"), HEARD_RESULT);
	end(operation);
	table_deinit(&table);
}

TEST(gateway_operation_that_is_presumed_is_proved_by_its_own_end_only)
{
	struct operation *operation;

	EXPECT_EQ(table_init(&table, 1), 0);
	operation = begin();
	EXPECT_EQ(hear(operation, "claim", "c", "0"), HEARD_NEWS);
	grant(operation);
	operation->outcome = OUTCOME_SILENT;
	operation->presumed = true;
	EXPECT_EQ(hear(operation, "stopped", "other", "0"), HEARD_LATE);
	EXPECT_EQ(hear(operation, "unknown", "c", "0"), HEARD_UNKNOWN);
	/* The same message, published twice: its refusal says nothing of the first one. */
	EXPECT_EQ(hear(operation, "claim", "d", "0"), HEARD_REFUSE);
	EXPECT_EQ(hear(operation, "claim", "d", "1"), HEARD_REFUSE_LAST);
	EXPECT_EQ(hear(operation, "stopped", "c", "0"), HEARD_PROOF);
	EXPECT_EQ(operation->outcome, OUTCOME_STOPPED);
	end(operation);
	table_deinit(&table);
}

TEST(gateway_operation_that_is_presumed_and_was_not_cancelled_is_stopped_by_what_it_says)
{
	struct operation *operation;

	EXPECT_EQ(table_init(&table, 1), 0);
	operation = begin();
	EXPECT_EQ(hear(operation, "claim", "c", "0"), HEARD_NEWS);
	grant(operation);
	operation->outcome = OUTCOME_SILENT;
	EXPECT_EQ(hear(operation, "progress", "c", "0"), HEARD_LATE);
	operation->presumed = true;
	EXPECT_EQ(hear(operation, "progress", "c", "0"), HEARD_LATE);
	operation->claim_due = true;
	EXPECT_EQ(hear(operation, "progress", "other", "0"), HEARD_LATE);
	/* That is an answer to a cancel. */
	EXPECT_EQ(hear(operation, "unknown", "c", "0"), HEARD_UNKNOWN);
	EXPECT_EQ(hear(operation, "progress", "c", "0"), HEARD_STOP);
	EXPECT_EQ(hear(operation, "part", "c", "0"), HEARD_STOP);
	EXPECT_EQ(hear(operation, "stopped", "c", "0"), HEARD_PROOF);
	end(operation);
	table_deinit(&table);
}

TEST(gateway_operation_that_is_presumed_and_needs_no_grant_is_stopped_by_its_claim)
{
	struct operation *operation;

	EXPECT_EQ(table_init(&table, 1), 0);
	config.grant_none = true;
	operation = begin();
	operation->outcome = OUTCOME_SILENT;
	operation->presumed = true;
	EXPECT_EQ(hear(operation, "claim", "c", "0"), HEARD_STOP);
	EXPECT_EQ(hear(operation, "stopped", "other", "0"), HEARD_LATE);
	EXPECT_EQ(hear(operation, "stopped", "c", "0"), HEARD_PROOF);
	end(operation);
	table_deinit(&table);
}

/* While its client is being told that nobody knows, it is not presumed yet. */
TEST(gateway_operation_that_is_lost_is_proved_before_it_is_presumed)
{
	struct operation *operation;

	EXPECT_EQ(table_init(&table, 1), 0);
	config.grant_none = true;
	operation = begin();
	operation->outcome = OUTCOME_LOST;
	EXPECT_EQ(hear(operation, "claim", "c", "0"), HEARD_STOP);
	EXPECT_EQ(hear(operation, "stopped", "c", "0"), HEARD_NEWS);
	EXPECT_EQ(operation->outcome, OUTCOME_STOPPED);
	EXPECT_EQ(hear(operation, "claim", "d", "1"), HEARD_REFUSE);
	end(operation);
	config.grant_none = false;
	operation = begin();
	operation->outcome = OUTCOME_LOST;
	EXPECT_EQ(hear(operation, "claim", "c", "0"), HEARD_REFUSE_LAST);
	end(operation);
	table_deinit(&table);
}

TEST(gateway_operation_of_nobody)
{
	char longest[CLAIM_BYTES + 1];

	EXPECT_EQ(hear(NULL, "claim", "c", "0"), HEARD_REFUSE);
	EXPECT_EQ(hear(NULL, "reply", "c", "0"), HEARD_LATE);
	EXPECT_EQ(hear(NULL, "nonsense", "c", "0"), HEARD_MALFORMED);
	EXPECT_EQ(hear(NULL, NULL, "c", "0"), HEARD_MALFORMED);
	EXPECT_EQ(hear(NULL, "claim", "", "0"), HEARD_MALFORMED);
	memset(longest, 'c', CLAIM_BYTES);
	longest[CLAIM_BYTES] = '\0';
	EXPECT_EQ(hear(NULL, "claim", longest, "0"), HEARD_MALFORMED);
}

static enum heard hear_numbered(struct operation *operation, const char *type, const char *claim,
				const char *sequence)
{
	const struct ew_amqp_header headers[] = { { "x-ew-claim", claim },
						  { "x-ew-sequence", sequence } };
	const struct ew_amqp_message message = { .type = type,
						 .headers = headers,
						 .headers_count = sequence ? 2 : 1 };

	return operation_hear(operation, &message);
}

TEST(gateway_operation_hears_parts_in_their_order_and_once)
{
	static const char *const none[] = {
		"", "0", "-1", "1x", " 1", "1.0", "9999999999999999999"
	};
	struct operation *operation;

	EXPECT_EQ(table_init(&table, 1), 0);
	operation = begin();
	EXPECT_EQ(hear_numbered(operation, "part", "a", "1"), HEARD_LATE);
	EXPECT_EQ(hear(operation, "claim", "a", "0"), HEARD_NEWS);
	EXPECT_EQ(hear_numbered(operation, "part", "a", "1"), HEARD_LATE);
	grant(operation);
	for (size_t i = 0; i < sizeof(none) / sizeof(none[0]); i++)
		EXPECT_EQ(hear_numbered(operation, "part", "a", none[i]), HEARD_MALFORMED);
	EXPECT_EQ(hear_numbered(operation, "part", "a", NULL), HEARD_MALFORMED);
	EXPECT_EQ(hear_numbered(operation, "progress", "a", NULL), HEARD_PROGRESS);
	EXPECT_EQ(hear_numbered(operation, "part", "a", "1"), HEARD_PART);
	EXPECT_EQ(hear_numbered(operation, "part", "a", "1"), HEARD_DUPLICATE);
	EXPECT_EQ(hear_numbered(operation, "progress", "a", "2"), HEARD_PROGRESS);
	EXPECT_EQ(hear_numbered(operation, "part", "a", "4"), HEARD_GAP);
	EXPECT_EQ(hear_numbered(operation, "part", "a", "2"), HEARD_DUPLICATE);
	EXPECT_EQ(hear_numbered(operation, "part", "b", "3"), HEARD_LATE);
	EXPECT_EQ(hear_numbered(operation, "part", "a", "3"), HEARD_PART);
	/* Another claim takes its place, and begins anew. */
	EXPECT_EQ(operation->attempt, 1);
	EXPECT_EQ(hear(operation, "claim", "b", "1"), HEARD_NEWS);
	EXPECT_EQ(operation->attempt, 2);
	grant(operation);
	EXPECT_EQ(hear_numbered(operation, "part", "a", "4"), HEARD_LATE);
	EXPECT_EQ(hear_numbered(operation, "part", "b", "1"), HEARD_PART);
	EXPECT_EQ(hear(operation, "reply", "b", "0"), HEARD_RESULT);
	EXPECT_EQ(hear_numbered(operation, "part", "b", "2"), HEARD_LATE);
	EXPECT_EQ(hear_numbered(NULL, "part", "b", "2"), HEARD_LATE);
	end(operation);
	table_deinit(&table);
}

TEST(gateway_status_of_a_reply_is_three_digits_or_none)
{
	static const char *const good[] = { "200", "204", "404", "599" }, *const bad[] = {
		"",	 "199",	 "600", "-200", "+200",	      " 200", "200 ", "200 OK",
		"0x1f4", "0200", "2e2", "20",	"4294967496", "true", "2001"
	};
	struct ew_amqp_header header = { .name = "x-ew-status" };
	struct ew_amqp_delivery result = { .message = { .headers = &header } };
	char fault[REPLY_FAULT_BYTES], wanted[REPLY_FAULT_BYTES];
	int status;

	EXPECT(answer_reply_check(&route, &result, &status, fault));
	EXPECT_EQ(status, 200);
	result.message.headers_count = 1;
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		header.value = good[i];
		EXPECT(answer_reply_check(&route, &result, &status, fault));
		EXPECT_EQ(status, atoi(good[i]));
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		header.value = bad[i];
		snprintf(wanted, sizeof(wanted),
			 "Of the route a's worker: the header x-ew-status is \"%s\", not a "
			 "number from 200 to 599.",
			 bad[i]);
		EXPECT(!answer_reply_check(&route, &result, &status, fault));
		EXPECT_STR(fault, wanted);
	}
}

/* Whatever a worker says, what is said about it fits. */
TEST(gateway_fault_of_a_reply_names_route_and_what_is_wrong)
{
	struct route_config named = { .name = "render" };
	const struct route of_it = { .config = &named };
	char long_status[300], fault[REPLY_FAULT_BYTES];
	struct ew_amqp_header header = { "x-ew-status", long_status };
	struct ew_amqp_delivery result = { .message = { .body_bytes = 70000 }, .too_large = true };
	int status;

	EXPECT(!answer_reply_check(&of_it, &result, &status, fault));
	EXPECT_STR(fault, "Of the route render's worker: the body has 70000 bytes, more than the "
			  "largest body_max of all routes.");
	result.message.headers = &header;
	result.message.headers_count = 1;
	memset(long_status, '9', sizeof(long_status) - 1);
	long_status[sizeof(long_status) - 1] = '\0';
	memset(named.name, 'r', sizeof(named.name) - 1);
	EXPECT(!answer_reply_check(&of_it, &result, &status, fault));
	EXPECT(strstr(fault, "not a number from 200 to 599."));
}

TEST_MAIN()
