/* SPDX-License-Identifier: Apache-2.0 */
/*
 * All that is said about an upload is said here: log, metrics and story hear of a transition in one
 * place, so that they cannot disagree.
 */
#include "upload.h"

#include <endwell/clock.h>
#include <stdio.h>
#include <string.h>

#include "common/hex.h"
#include "common/log.h"

enum word {
	WORD_UNDECIDED,
	WORD_COMMITTED,
	WORD_CANCELLED,
};

static const char *level(enum state to)
{
	return to == STATE_FAILED || to == STATE_REJECTED ? "warn" : "info";
}

static void log_move(const struct upload *upload, const char *from, int64_t after_ns,
		     const char *note)
{
	struct log_line line;
	char digest[65];

	log_begin(&line, level(upload->state), "upload");
	log_text(&line, "id", upload->story.id);
	log_text(&line, "name", upload->name);
	if (from)
		log_text(&line, "from", from);
	log_text(&line, "to", state_name(upload->state));
	if (from)
		log_seconds(&line, "after", after_ns);
	if (upload->state == STATE_SEALED || state_is_end(upload->state))
		log_number(&line, "bytes", (int64_t)upload->size_bytes);
	if (upload->state == STATE_SEALED) {
		hex_print(upload->sha256, sizeof(upload->sha256), digest);
		log_text(&line, "sha256", digest);
	}
	if (upload->state == STATE_VERDICT) {
		log_text(&line, "verdict", verdict_name(upload->verdict.kind));
		log_text(&line, "engine", upload->verdict.engine);
	}
	if (*note)
		log_text(&line, "note", note);
	log_end(&line);
}

int upload_begin(struct upload *upload, struct metrics *metrics, struct story_ring *stories,
		 const char *name)
{
	int r;

	*upload = (struct upload){
		.metrics = metrics,
		.stories = stories,
		.state = STATE_RECEIVING,
		.entered_ns = ew_now(),
	};
	atomic_init(&upload->word, WORD_UNDECIDED);
	snprintf(upload->name, sizeof(upload->name), "%s", name);

	r = story_begin(stories, name, &upload->story);
	if (r < 0)
		return r;

	metrics_state_entered(metrics, STATE_RECEIVING);
	story_add(stories, &upload->story, STATE_RECEIVING, upload->entered_ns, "");
	log_move(upload, NULL, 0, "");
	return 0;
}

void upload_move(struct upload *upload, enum state to, const char *note)
{
	enum state from = upload->state;
	int64_t now = ew_now();

	ew_assert(state_may_follow(from, to));
	metrics_state_left(upload->metrics, from, now - upload->entered_ns);
	metrics_state_entered(upload->metrics, to);
	upload->state = to;
	story_add(upload->stories, &upload->story, to, now, note);
	log_move(upload, state_name(from), now - upload->entered_ns, note);
	upload->entered_ns = now;
}

void upload_seal(struct upload *upload, uint64_t size_bytes, const uint8_t *sha256)
{
	upload->size_bytes = size_bytes;
	memcpy(upload->sha256, sha256, sizeof(upload->sha256));
	story_add_seal(upload->stories, &upload->story, size_bytes, sha256);
}

void upload_judge(struct upload *upload, const struct verdict *verdict)
{
	upload->verdict = *verdict;
	story_add_verdict(upload->stories, &upload->story, verdict);
}

static bool decide(struct upload *upload, int word)
{
	int before = WORD_UNDECIDED;

	return atomic_compare_exchange_strong(&upload->word, &before, word) || before == word;
}

bool upload_commit(struct upload *upload)
{
	return decide(upload, WORD_COMMITTED);
}

bool upload_cancel(struct upload *upload)
{
	return decide(upload, WORD_CANCELLED);
}
