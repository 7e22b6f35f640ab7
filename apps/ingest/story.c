/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Everybody who knows an id may read its story, so an id carries 128 bits from the kernel and is
 * compared whole. An upload finds its story by place; only a reader from outside has to search, one
 * id after the other through a dense array, which takes some microseconds for twenty thousand of
 * them.
 *
 * Workers share the ring. The lock is held for a copy, never across a suspension.
 */
#include "story.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "common/hex.h"

struct story_ring {
	pthread_mutex_t lock;
	size_t stories_max;
	size_t next;
	size_t count;
	char (*ids)[STORY_ID_TEXT];
	struct story *stories;
};

struct story_ring *story_ring_new(size_t stories_max)
{
	struct story_ring *ring;

	ring = calloc(1, sizeof(*ring));
	if (!ring)
		return NULL;

	pthread_mutex_init(&ring->lock, NULL);
	ring->stories_max = stories_max;
	ring->ids = calloc(stories_max, sizeof(*ring->ids));
	ring->stories = calloc(stories_max, sizeof(*ring->stories));
	if (!ring->ids || !ring->stories)
		return story_ring_free(ring);
	return ring;
}

struct story_ring *story_ring_free(struct story_ring *ring)
{
	if (!ring)
		return NULL;
	pthread_mutex_destroy(&ring->lock);
	free(ring->ids);
	free(ring->stories);
	free(ring);
	return NULL;
}

static int64_t unix_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

int story_begin(struct story_ring *ring, const char *name, struct story_ref *ret_ref)
{
	uint8_t random[STORY_ID_BYTES];
	char id[STORY_ID_TEXT];
	struct story *story;
	size_t place;

	if (getrandom(random, sizeof(random), 0) != sizeof(random))
		return -EIO;
	hex_print(random, sizeof(random), id);

	pthread_mutex_lock(&ring->lock);
	place = ring->next;
	ring->next = (place + 1) % ring->stories_max;
	memcpy(ring->ids[place], id, sizeof(id));
	story = &ring->stories[place];
	if (ring->count < ring->stories_max)
		ring->count++;

	memset(story, 0, sizeof(*story));
	memcpy(story->id, id, sizeof(id));
	snprintf(story->name, sizeof(story->name), "%s", name);
	story->began_unix_ms = unix_ms();
	pthread_mutex_unlock(&ring->lock);

	memcpy(ret_ref->id, id, sizeof(id));
	ret_ref->place = place;
	return 0;
}

/* The story that is still in its place, under the lock. */
static struct story *look(struct story_ring *ring, const struct story_ref *ref)
{
	if (memcmp(ring->ids[ref->place], ref->id, STORY_ID_TEXT) != 0)
		return NULL;
	return &ring->stories[ref->place];
}

/* The story of an id, under the lock; newest first, because the young are asked for. */
static struct story *find(struct story_ring *ring, const char *id)
{
	size_t at = ring->next;

	for (size_t i = 0; i < ring->count; i++) {
		at = (at > 0 ? at : ring->stories_max) - 1;
		if (memcmp(ring->ids[at], id, STORY_ID_TEXT - 1) == 0)
			return &ring->stories[at];
	}
	return NULL;
}

void story_add(struct story_ring *ring, const struct story_ref *ref, enum state state,
	       int64_t entered_ns, const char *note)
{
	struct story_chapter *chapter;
	struct story *story;

	pthread_mutex_lock(&ring->lock);
	story = look(ring, ref);
	if (story && story->chapters_count < STORY_CHAPTERS_MAX) {
		chapter = &story->chapters[story->chapters_count++];
		chapter->state = state;
		chapter->entered_ns = entered_ns;
		snprintf(chapter->note, sizeof(chapter->note), "%s", note);
	}
	pthread_mutex_unlock(&ring->lock);
}

void story_add_seal(struct story_ring *ring, const struct story_ref *ref, uint64_t size_bytes,
		    const uint8_t *sha256)
{
	struct story *story;

	pthread_mutex_lock(&ring->lock);
	story = look(ring, ref);
	if (story) {
		story->size_bytes = size_bytes;
		hex_print(sha256, 32, story->sha256);
	}
	pthread_mutex_unlock(&ring->lock);
}

void story_add_verdict(struct story_ring *ring, const struct story_ref *ref,
		       const struct verdict *verdict)
{
	struct story *story;

	pthread_mutex_lock(&ring->lock);
	story = look(ring, ref);
	if (story) {
		story->verdict = *verdict;
		story->has_verdict = true;
	}
	pthread_mutex_unlock(&ring->lock);
}

int story_find(struct story_ring *ring, const char *id, size_t id_bytes, struct story *ret_story)
{
	struct story *story;

	if (id_bytes != STORY_ID_TEXT - 1)
		return -ENOENT;

	pthread_mutex_lock(&ring->lock);
	story = find(ring, id);
	if (story)
		*ret_story = *story;
	pthread_mutex_unlock(&ring->lock);
	return story ? 0 : -ENOENT;
}
