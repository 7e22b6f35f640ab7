/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* One upload: its state, its story, and the word that decides between published and cancelled. */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "metrics.h"
#include "name.h"
#include "state.h"
#include "story.h"
#include "verdict.h"

struct upload {
	struct metrics *metrics;
	struct story_ring *stories;
	struct story_ref story;
	char name[NAME_BYTES_MAX + 1];

	enum state state;
	int64_t entered_ns;
	_Atomic int word; /* undecided, then for ever committed or cancelled */

	int ending; /* how its file ended, once it was published: 0 or -errno */

	uint64_t size_bytes;
	uint8_t sha256[32];
	struct verdict verdict;
};

/**
 * upload_begin() - start an upload in RECEIVING
 * @upload:  the caller's memory
 * @metrics: borrowed as long as @upload lives
 * @stories: borrowed as long as @upload lives
 * @name:    a name that name_from_target() has let pass
 *
 * Return: 0, or -errno when there is no randomness for its id.
 */
int upload_begin(struct upload *upload, struct metrics *metrics, struct story_ring *stories,
		 const char *name);

/**
 * upload_move() - the one way from state to state
 * @upload: to move
 * @to:     a state that may follow; anything else is a bug and asserts
 * @note:   one remark for log and story; empty for none
 *
 * Writes one log line, counts, times the state that is left, and adds to the story.
 */
void upload_move(struct upload *upload, enum state to, const char *note);

/* Keeps what sealing and scanning found, for the story too. */
void upload_seal(struct upload *upload, uint64_t size_bytes, const uint8_t *sha256);
void upload_judge(struct upload *upload, const struct verdict *verdict);

/**
 * upload_commit() - decide for publication
 *
 * The word is decided once. Whoever is first wins, and everybody later is told who it was: a cancel
 * that came before always wins, a cancel that comes after is always late.
 *
 * Return: whether @upload is committed.
 */
bool upload_commit(struct upload *upload);

/* Decides for the cancel; returns whether @upload is cancelled. From any thread. */
bool upload_cancel(struct upload *upload);
