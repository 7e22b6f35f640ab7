/* SPDX-License-Identifier: Apache-2.0 */
/* What is remembered of operations: by id and by key, within bounds. */
#include "../ew_test.h"

#include "amqp/delivery.h"
#include "gateway/record.h"

static struct records records;
static char a_route, another_route;
#define ROUTE	((struct route *)&a_route)
#define ANOTHER ((struct route *)&another_route)

static const uint8_t digest[RECORD_DIGEST_BYTES] = { 1 };

static struct record *ended(const char *key, enum outcome outcome)
{
	struct record *record = record_new(&records, ROUTE);
	struct ew_amqp_delivery *none = NULL;

	EXPECT(record != NULL);
	if (key)
		EXPECT_EQ(record_set_key(&records, record, key, digest), 0);
	record_end(&records, record, outcome, 0, &none);
	return record;
}

TEST(gateway_record_is_found_by_its_id_until_it_is_forgotten)
{
	struct record *first = ended(NULL, OUTCOME_STOPPED), *found;
	char id[ID_BYTES];

	strcpy(id, first->id);
	found = record_find(&records, id, strlen(id));
	EXPECT(found == first);
	record_put(found);
	record_put(first);
	EXPECT(record_find(&records, id, strlen(id) - 1) == NULL);
	for (int i = 1; i < RECORDS_MAX; i++)
		record_put(ended(NULL, OUTCOME_STOPPED));
	found = record_find(&records, id, strlen(id));
	EXPECT(found != NULL);
	record_put(ended(NULL, OUTCOME_STOPPED));
	EXPECT(record_find(&records, id, strlen(id)) == NULL);
	/* Whoever holds it still may look at it. */
	EXPECT_STR(found->id, id);
	EXPECT_EQ(found->outcome, OUTCOME_STOPPED);
	record_put(found);
	EXPECT_EQ(records.count, RECORDS_MAX);
	records_deinit(&records);
	EXPECT_EQ(records.count, 0);
}

TEST(gateway_record_that_lives_is_not_forgotten)
{
	struct record *living = record_new(&records, ROUTE), *found;
	struct ew_amqp_delivery *none = NULL;

	for (int i = 0; i < RECORDS_MAX + 1; i++)
		record_put(ended(NULL, OUTCOME_STOPPED));
	found = record_find(&records, living->id, strlen(living->id));
	EXPECT(found == living);
	record_put(found);
	record_end(&records, living, OUTCOME_STOPPED, 0, &none);
	record_put(living);
	records_deinit(&records);
}

TEST(gateway_record_is_found_by_route_and_key)
{
	struct record *first = ended("k", OUTCOME_SILENT), *second, *found;

	EXPECT(record_find_key(&records, ANOTHER, "k") == NULL);
	EXPECT(record_find_key(&records, ROUTE, "j") == NULL);
	found = record_find_key(&records, ROUTE, "k");
	EXPECT(found == first);
	record_put(found);
	/* The next one with the key takes it over. */
	second = ended("k", OUTCOME_SILENT);
	found = record_find_key(&records, ROUTE, "k");
	EXPECT(found == second);
	EXPECT(first->key == NULL);
	record_put(found);
	record_put(first);
	record_put(second);
	records_deinit(&records);
	EXPECT(record_find_key(&records, ROUTE, "k") == NULL);
}

TEST(gateway_record_that_is_forgone_is_nobodys_and_pushes_out_none)
{
	struct record *first = ended("k", OUTCOME_REPLIED), *held, *found;
	char id[ID_BYTES];

	for (int i = 0; i < RECORDS_MAX + 1; i++) {
		struct record *refused = record_new(&records, ROUTE);

		EXPECT_EQ(record_set_key(&records, refused, "j", digest), 0);
		record_forgo(&records, refused);
		EXPECT(record_find_key(&records, ROUTE, "j") == NULL);
		EXPECT(record_find(&records, refused->id, strlen(refused->id)) == NULL);
		record_put(refused);
	}
	found = record_find_key(&records, ROUTE, "k");
	EXPECT(found == first);
	record_put(found);
	record_put(first);
	/* Whoever holds it hears of its end, and who has cancelled it may ask again. */
	held = record_new(&records, ROUTE);
	strcpy(id, held->id);
	record_cancel(held);
	record_forgo(&records, held);
	record_forgo(&records, held);
	EXPECT(ew_event_is_set(&held->ended));
	EXPECT_EQ(held->outcome, OUTCOME_UNSENT);
	record_put(held);
	found = record_find(&records, id, strlen(id));
	EXPECT(found == held);
	record_put(found);
	EXPECT_EQ(records.count, 2);
	records_deinit(&records);
}

TEST(gateway_record_ends_once)
{
	struct record *record = ended(NULL, OUTCOME_STOPPED);
	struct ew_amqp_delivery *none = NULL;

	record_end(&records, record, OUTCOME_UNSENT, 0, &none);
	EXPECT_EQ(record->outcome, OUTCOME_STOPPED);
	EXPECT_EQ(records.count, 1);
	record_prove(&records, record, OUTCOME_REFUSED, NULL);
	EXPECT_EQ(record->outcome, OUTCOME_REFUSED);
	record_put(record);
	records_deinit(&records);
}

/* Somebody looks at one that is forgotten, and then its end is heard: what it has is not counted for ever. */
TEST(gateway_record_that_is_forgotten_keeps_no_result_though_it_is_held)
{
	struct record *record = ended("k", OUTCOME_SILENT), *held;
	const amqp_basic_deliver_t deliver = {};
	struct ew_amqp_delivery *result = NULL;

	held = record_find(&records, record->id, strlen(record->id));
	EXPECT(held == record);
	for (int i = 0; i < RECORDS_MAX; i++)
		record_put(ended(NULL, OUTCOME_STOPPED));
	EXPECT_EQ(ew_amqp_delivery_new(&deliver, true, &result), 0);
	result->message.body_bytes = 1;
	record_prove(&records, record, OUTCOME_REPLIED, &result);
	EXPECT_EQ(records.bytes, 0);
	EXPECT(result != NULL);
	ew_abort(&result);
	record_put(held);
	record_put(record);
	records_deinit(&records);
	EXPECT_EQ(records.bytes, 0);
}

TEST(gateway_record_of_a_reply_that_is_too_large_pushes_out_none)
{
	struct record *first = ended("k", OUTCOME_REPLIED), *second, *found;
	const amqp_basic_deliver_t deliver = {};
	struct ew_amqp_delivery *result = NULL;

	EXPECT_EQ(ew_amqp_delivery_new(&deliver, true, &result), 0);
	result->too_large = true;
	result->message.body_bytes = RECORD_BYTES_MAX + 1;
	second = record_new(&records, ROUTE);
	EXPECT_EQ(record_set_key(&records, second, "j", digest), 0);
	record_end(&records, second, OUTCOME_REPLIED, 0, &result);
	EXPECT(second->result != NULL);
	found = record_find_key(&records, ROUTE, "k");
	EXPECT(found == first);
	record_put(found);
	found = record_find_key(&records, ROUTE, "j");
	EXPECT(found == second);
	record_put(found);
	record_put(first);
	record_put(second);
	records_deinit(&records);
	EXPECT_EQ(records.bytes, 0);
}

/* A late word about one with a key: a result is kept to be replayed, any other word is none. */
TEST(gateway_record_that_is_proved_late_keeps_a_result_and_no_other_word)
{
	const enum outcome words[] = { OUTCOME_STOPPED, OUTCOME_TOO_LATE };
	const amqp_basic_deliver_t deliver = {};

	for (size_t i = 0; i < 2; i++) {
		struct record *record = ended("k", OUTCOME_SILENT);
		struct ew_amqp_delivery *word = NULL;

		EXPECT_EQ(ew_amqp_delivery_new(&deliver, true, &word), 0);
		record_prove(&records, record, words[i], &word);
		EXPECT_EQ(record->outcome, words[i]);
		EXPECT((record->result != NULL) == outcome_has_result(words[i]));
		EXPECT((word == NULL) == outcome_has_result(words[i]));
		ew_abort(&word);
		record_put(record);
	}
	records_deinit(&records);
}

TEST_MAIN()
