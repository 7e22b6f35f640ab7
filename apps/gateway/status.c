/* SPDX-License-Identifier: Apache-2.0 */
/* Who asks by an id need not be who started the operation: an id has 128 random bits, and whoever knows it may. */
#include "status.h"

#include <errno.h>
#include <string.h>

#include "events.h"
#include "routes.h"
#include "submit.h"

#define PREFIX "/ops/"

/* What of an operation is meant. */
enum aspect { ASPECT_STATE, ASPECT_RESULT, ASPECT_EVENTS };

static bool take_suffix(struct http_slice *path, const char *suffix)
{
	size_t bytes = strlen(suffix);

	if (path->len <= bytes || memcmp(path->data + path->len - bytes, suffix, bytes) != 0)
		return false;
	path->len -= bytes;
	return true;
}

static struct record *find(struct gateway *gateway, struct http_slice path, enum aspect *ret_aspect)
{
	path.data += sizeof(PREFIX) - 1;
	path.len -= sizeof(PREFIX) - 1;
	*ret_aspect = ASPECT_STATE;
	if (take_suffix(&path, "/result"))
		*ret_aspect = ASPECT_RESULT;
	else if (take_suffix(&path, "/events"))
		*ret_aspect = ASPECT_EVENTS;
	return record_find(&gateway->records, path.data, path.len);
}

static int say_unknown(struct gateway *gateway, struct http_request *request)
{
	return routes_problem(gateway, request, PROBLEM_NOT_FOUND,
			      "No operation of this id is remembered.", NULL, 0);
}

static int answer_record(struct gateway *gateway, struct http_request *request,
			 struct record *record, enum aspect aspect)
{
	struct answer answer;

	if (aspect == ASPECT_EVENTS)
		return events_get(gateway, request, record);
	if (aspect == ASPECT_RESULT && record->result)
		return submit_say_result(gateway, request, record, record->result, false);
	if (aspect == ASPECT_RESULT)
		return routes_problem(gateway, request, PROBLEM_NOT_FOUND,
				      "This operation has no result, or not yet.", NULL, 0);
	answer_status(&answer, record);
	return routes_answer(gateway, request, &answer);
}

int status_get(struct gateway *gateway, struct http_request *request)
{
	enum aspect aspect;
	struct record *record = find(gateway, request->head->path, &aspect);

	if (!record)
		return say_unknown(gateway, request);

	EW_GUARD(hold, record, .close = record_hold_close, .abort = record_hold_abort);

	return answer_record(gateway, request, record, aspect);
}

int status_delete(struct gateway *gateway, struct http_request *request)
{
	enum aspect aspect;
	struct record *record = find(gateway, request->head->path, &aspect);
	struct answer answer;
	int r;

	if (!record)
		return say_unknown(gateway, request);

	EW_GUARD(hold, record, .close = record_hold_close, .abort = record_hold_abort);

	if (aspect != ASPECT_STATE)
		return routes_method_not_allowed(gateway, request, "GET, HEAD");
	record_cancel(record);
	r = ew_event_wait(&record->ended, EW_NEVER);
	if (r < 0)
		return r;
	answer_receipt(&answer, record);
	return routes_answer(gateway, request, &answer);
}
