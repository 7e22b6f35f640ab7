/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The stories of the latest uploads, by unguessable id, in a ring of bounded size. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "name.h"
#include "state.h"
#include "verdict.h"

#define STORY_ID_BYTES	   16
#define STORY_ID_TEXT	   (2 * STORY_ID_BYTES + 1) /* hex digits and NUL */
#define STORY_NOTE_BYTES   160
#define STORY_CHAPTERS_MAX (STATE_COUNT - 2) /* the longest life passes six states */

struct story_chapter {
	enum state state;
	int64_t entered_ns; /* monotonic */
	char note[STORY_NOTE_BYTES];
};

/* A copy of one story, as it was when it was looked up. */
struct story {
	char id[STORY_ID_TEXT];
	char name[NAME_BYTES_MAX + 1];
	int64_t began_unix_ms;
	uint64_t size_bytes;
	char sha256[65]; /* empty until sealed */
	struct verdict verdict;
	bool has_verdict;
	int chapters_count;
	struct story_chapter chapters[STORY_CHAPTERS_MAX];
};

/* What an upload remembers of its story: the id to give away, and where it was put. */
struct story_ref {
	char id[STORY_ID_TEXT];
	size_t place;
};

struct story_ring;

/* A ring for @stories_max stories; NULL without memory. */
struct story_ring *story_ring_new(size_t stories_max);
struct story_ring *story_ring_free(struct story_ring *ring);

/**
 * story_begin() - open a story under a new random id
 * @ring:    the oldest story in it makes room
 * @name:    of the file
 * @ret_ref: receives the id and the place
 *
 * Return: 0, or -errno when the kernel gives no randomness.
 */
int story_begin(struct story_ring *ring, const char *name, struct story_ref *ret_ref);

/* Adds to a story; without effect when it has left the ring. */
void story_add(struct story_ring *ring, const struct story_ref *ref, enum state state,
	       int64_t entered_ns, const char *note);
void story_add_seal(struct story_ring *ring, const struct story_ref *ref, uint64_t size_bytes,
		    const uint8_t *sha256);
void story_add_verdict(struct story_ring *ring, const struct story_ref *ref,
		       const struct verdict *verdict);

/* Copies the story of @id, @id_bytes long: 0, or -ENOENT. */
int story_find(struct story_ring *ring, const char *id, size_t id_bytes, struct story *ret_story);
