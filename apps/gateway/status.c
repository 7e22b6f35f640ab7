/* SPDX-License-Identifier: Apache-2.0 */
/* Who asks by an id need not be who started the operation: an id has 128 random bits, and whoever knows it may. */
#include "status.h"

#include <errno.h>
#include <string.h>

#include "routes.h"
#include "submit.h"

#define PREFIX "/ops/"
#define SUFFIX "/result"

static struct record *find(struct gateway *gateway, struct http_slice path, bool *ret_result)
{
	size_t bytes = sizeof(SUFFIX) - 1;

	path.data += sizeof(PREFIX) - 1;
	path.len -= sizeof(PREFIX) - 1;
	*ret_result = path.len > bytes && memcmp(path.data + path.len - bytes, SUFFIX, bytes) == 0;
	if (*ret_result)
		path.len -= bytes;
	return record_find(&gateway->records, path.data, path.len);
}

static int say_unknown(struct gateway *gateway, struct http_request *request)
{
	return routes_problem(gateway, request, PROBLEM_NOT_FOUND,
			      "No operation of this id is remembered.", NULL, 0);
}

static int answer_record(struct gateway *gateway, struct http_request *request,
			 const struct record *record, bool wants_result)
{
	struct answer answer;

	if (wants_result && record->result)
		return submit_say_result(gateway, request, record->id, record->result, false);
	if (wants_result)
		return routes_problem(gateway, request, PROBLEM_NOT_FOUND,
				      "This operation has no result, or not yet.", NULL, 0);
	answer_status(&answer, record);
	return routes_answer(gateway, request, &answer);
}

int status_get(struct gateway *gateway, struct http_request *request)
{
	bool wants_result;
	struct record *record = find(gateway, request->head->path, &wants_result);

	if (!record)
		return say_unknown(gateway, request);

	EW_GUARD(hold, record, .close = record_hold_close, .abort = record_hold_abort);

	return answer_record(gateway, request, record, wants_result);
}

int status_delete(struct gateway *gateway, struct http_request *request)
{
	bool wants_result;
	struct record *record = find(gateway, request->head->path, &wants_result);
	struct answer answer;
	int r;

	if (!record)
		return say_unknown(gateway, request);

	EW_GUARD(hold, record, .close = record_hold_close, .abort = record_hold_abort);

	if (wants_result)
		return routes_problem(gateway, request, PROBLEM_METHOD, NULL, NULL, 0);
	record_cancel(record);
	r = ew_event_wait(&record->ended, EW_NEVER);
	if (r < 0)
		return r;
	answer_receipt(&answer, record);
	return routes_answer(gateway, request, &answer);
}
