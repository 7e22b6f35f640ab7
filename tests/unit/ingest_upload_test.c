/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An upload's transitions, as they show in the story and in the metrics, and its commit word under
 * a race.
 */
#include "../ew_test.h"

#include <pthread.h>

#include "ingest/metrics.h"
#include "ingest/story.h"
#include "ingest/upload.h"

static struct metrics metrics;

static void move_all(struct upload *upload, const enum state *states, size_t count)
{
	for (size_t i = 0; i < count; i++)
		upload_move(upload, states[i], "");
}

TEST(upload_whole_life_is_in_story_and_metrics)
{
	static const enum state life[] = { STATE_SEALED, STATE_SCANNING, STATE_VERDICT,
					   STATE_PUBLISHING, STATE_PUBLISHED };
	struct verdict verdict = { .kind = VERDICT_CLEAN, .engine = "engine", .size_bytes = 5 };
	struct story_ring *ring = story_ring_new(4);
	struct upload upload;
	struct story story;
	uint8_t sha256[32] = { 0xab };

	metrics_init(&metrics, NULL, NULL);
	EXPECT_EQ(upload_begin(&upload, &metrics, ring, "name"), 0);
	upload_seal(&upload, 5, sha256);
	upload_judge(&upload, &verdict);
	move_all(&upload, life, 5);

	EXPECT_EQ(story_find(ring, upload.story.id, strlen(upload.story.id), &story), 0);
	EXPECT_EQ(story.chapters_count, 6);
	EXPECT_EQ(story.chapters[0].state, STATE_RECEIVING);
	EXPECT_EQ(story.chapters[5].state, STATE_PUBLISHED);
	EXPECT_EQ(story.size_bytes, 5);
	EXPECT(strncmp(story.sha256, "ab00", 4) == 0);
	EXPECT_EQ(story.verdict.kind, VERDICT_CLEAN);
	for (int state = 0; state < STATE_COUNT; state++) {
		bool passed = state != STATE_CANCELLED && state != STATE_REJECTED &&
			      state != STATE_FAILED;

		EXPECT_EQ(atomic_load(&metrics.entered[state]), passed);
		EXPECT_EQ(atomic_load(&metrics.inside[state]), 0);
	}
	story_ring_free(ring);
}

/* Only these may follow; SCANNING is skipped by the scanner `none` alone. */
TEST(state_table_has_no_way_around_the_verdict)
{
	EXPECT(!state_may_follow(STATE_RECEIVING, STATE_PUBLISHING));
	EXPECT(!state_may_follow(STATE_RECEIVING, STATE_VERDICT));
	EXPECT(!state_may_follow(STATE_SEALED, STATE_PUBLISHING));
	EXPECT(!state_may_follow(STATE_SCANNING, STATE_PUBLISHING));
	for (int from = 0; from < STATE_COUNT; from++) {
		EXPECT_EQ(state_may_follow((enum state)from, STATE_PUBLISHED),
			  from == STATE_PUBLISHING);
		EXPECT_EQ(state_may_follow((enum state)from, STATE_PUBLISHING),
			  from == STATE_VERDICT);
		EXPECT_EQ(state_may_follow((enum state)from, STATE_CANCELLED),
			  !state_is_end((enum state)from));
		EXPECT_EQ(state_may_follow((enum state)from, STATE_FAILED),
			  !state_is_end((enum state)from));
	}
}

static struct upload contested;
static pthread_barrier_t start;

static void *cancel_side(void *ret)
{
	pthread_barrier_wait(&start);
	*(bool *)ret = upload_cancel(&contested);
	return NULL;
}

/*
 * Two threads, thousands of rounds: each round exactly one wins, and stays the winner when asked
 * again.
 */
TEST(upload_word_is_decided_once)
{
	struct story_ring *ring = story_ring_new(2);

	metrics_init(&metrics, NULL, NULL);
	close(STDERR_FILENO);
	pthread_barrier_init(&start, NULL, 2);
	for (int round = 0; round < 2000; round++) {
		bool committed, cancelled = false;
		pthread_t thread;

		EXPECT_EQ(upload_begin(&contested, &metrics, ring, "n"), 0);
		EXPECT_EQ(pthread_create(&thread, NULL, cancel_side, &cancelled), 0);
		pthread_barrier_wait(&start);
		committed = upload_commit(&contested);
		pthread_join(thread, NULL);
		EXPECT_EQ(committed + cancelled, 1);
		EXPECT_EQ(upload_commit(&contested), committed);
		EXPECT_EQ(upload_cancel(&contested), cancelled);
	}
	story_ring_free(ring);
}

TEST(story_ring_forgets_the_oldest)
{
	struct story_ring *ring = story_ring_new(2);
	struct story_ref refs[3];
	struct story story;

	for (int i = 0; i < 3; i++)
		EXPECT_EQ(story_begin(ring, "n", &refs[i]), 0);
	EXPECT(strcmp(refs[0].id, refs[2].id) != 0);
	EXPECT_EQ(strlen(refs[0].id), 32);
	EXPECT_EQ(story_find(ring, refs[0].id, 32, &story), -ENOENT);
	EXPECT_EQ(story_find(ring, refs[1].id, 32, &story), 0);
	EXPECT_EQ(story_find(ring, refs[2].id, 32, &story), 0);
	EXPECT_EQ(story_find(ring, refs[2].id, 31, &story), -ENOENT);

	/* Its place has a new tenant, who does not get its chapters. */
	story_add(ring, &refs[0], STATE_CANCELLED, 1, "");
	EXPECT_EQ(story_find(ring, refs[2].id, 32, &story), 0);
	EXPECT_EQ(story.chapters_count, 0);
	story_ring_free(ring);
}

TEST(metrics_page_has_cumulative_buckets)
{
	struct ew_semaphore *uploads = ew_semaphore_new(3, 0), *scans = ew_semaphore_new(2, 0);
	struct ew_permit *permit = NULL;
	size_t bytes;
	char *page;

	EXPECT_EQ(ew_semaphore_try_acquire(uploads, &permit), 0);
	ew_permit_presume(&permit);
	metrics_init(&metrics, uploads, scans);
	metrics_state_entered(&metrics, STATE_RECEIVING);
	metrics_state_entered(&metrics, STATE_RECEIVING);
	metrics_state_left(&metrics, STATE_RECEIVING, 2000000);
	metrics_state_left(&metrics, STATE_RECEIVING, 700000000000);
	page = metrics_print(&metrics, &(struct bucket_counts){}, &(struct line){}, &bytes);
	EXPECT(page != NULL);
	EXPECT_EQ(strlen(page), bytes);
	EXPECT(strstr(page,
		      "ingest_upload_state_seconds_bucket{state=\"RECEIVING\",le=\"0.001\"} 0\n"));
	EXPECT(strstr(page,
		      "ingest_upload_state_seconds_bucket{state=\"RECEIVING\",le=\"0.0025\"} 1\n"));
	EXPECT(strstr(page,
		      "ingest_upload_state_seconds_bucket{state=\"RECEIVING\",le=\"600\"} 1\n"));
	EXPECT(strstr(page,
		      "ingest_upload_state_seconds_bucket{state=\"RECEIVING\",le=\"+Inf\"} 2\n"));
	EXPECT(strstr(page,
		      "ingest_upload_state_seconds_sum{state=\"RECEIVING\"} 700.002000000\n"));
	EXPECT(strstr(page, "ingest_upload_slots{state=\"free\"} 2\n"
			    "ingest_upload_slots{state=\"held\"} 0\n"
			    "ingest_upload_slots{state=\"cancelling\"} 0\n"
			    "ingest_upload_slots{state=\"presumed\"} 1\n"));
	EXPECT(strstr(page, "ingest_upload_slots_capacity 3\n"));
	free(page);
	ew_semaphore_free(uploads);
	ew_semaphore_free(scans);
}

TEST_MAIN()
