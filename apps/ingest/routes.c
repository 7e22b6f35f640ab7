/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A request is checked for who sends it before anybody asks what it wants, so that a foreign page
 * learns nothing, not even which paths exist. Then the path decides, then the method.
 */
#include "routes.h"

#include <errno.h>
#include <string.h>

#include "receive.h"

/* How soon it is worth asking again while the server drains or starts. */
#define RETRY_AFTER_SECONDS 5

int routes_answer(struct server *server, struct http_request *request, struct answer *answer)
{
	metrics_answered(&server->metrics, answer->status);
	return answer_send(request, answer);
}

int routes_problem(struct server *server, struct http_request *request, enum problem problem,
		   const char *detail, int retry_after_seconds)
{
	struct answer answer;

	answer_problem(&answer, problem, detail, NULL);
	answer.retry_after_seconds = retry_after_seconds;
	answer_log_refusal(request->head, answer.status, NULL,
			   detail ? detail : problem_title(problem));
	return routes_answer(server, request, &answer);
}

void routes_refused(void *argument, int status, const char *reason)
{
	struct server *server = argument;

	metrics_answered(&server->metrics, status);
	answer_log_refusal(NULL, status, NULL, reason);
}

void routes_add_fields(void *argument, const struct http_head *head, struct http_extras *extras)
{
	const struct server *server = argument;

	access_add_fields(&server->access, head, extras);
}

static int method_not_allowed(struct server *server, struct http_request *request,
			      const char *allow)
{
	struct answer answer;

	answer_problem(&answer, PROBLEM_METHOD, NULL, NULL);
	answer.allow = allow;
	answer_log_refusal(request->head, answer.status, NULL, problem_title(PROBLEM_METHOD));
	return routes_answer(server, request, &answer);
}

static int answer_upload(struct server *server, struct http_request *request)
{
	struct http_slice id = request->head->path;
	struct answer answer;
	struct story story;

	id.data += strlen("/uploads/");
	id.len -= strlen("/uploads/");
	if (story_find(server->stories, id.data, id.len, &story) < 0)
		return routes_problem(server, request, PROBLEM_NOT_FOUND, NULL, 0);
	answer_story(&answer, &story);
	return routes_answer(server, request, &answer);
}

static const char *disk_reason(int r)
{
	if (r == -ENOSPC)
		return "less than 5 % of the volume is free";
	if (r == -ENOENT)
		return "the bucket's folder or the state folder was removed: make it anew, then restart";
	if (r == -EROFS)
		return "the volume is read-only: check it and the kernel's log";
	if (r == -EIO)
		return "the volume takes no changes: check it and the kernel's log";
	if (r == -ETIMEDOUT)
		return "the volume does not answer";
	return r < 0 ? strerror(-r) : "there is room";
}

static const char *bucket_reason(bool well)
{
	return well ? "the bucket's folder is in order"
		    : "a sync of the bucket's folder has failed: check the volume, then restart";
}

static int answer_readyz(struct server *server, struct http_request *request)
{
	char scanner_reason[SCANNER_REASON_BYTES];
	bool scanner_well = scanner_ready(server->scanner, scanner_reason);
	bool bucket_well = !atomic_load(&server->bucket.suspect);
	bool draining = atomic_load(&server->front.draining);
	int disk = volume_look(&server->volume);
	const struct answer_check checks[] = {
		{ "scanner", scanner_well, scanner_reason },
		{ "bucket", bucket_well, bucket_reason(bucket_well) },
		{ "disk", disk == 0, disk_reason(disk) },
		{ "accepting", !draining,
		  draining ? "the server shuts down" : "uploads are taken" },
	};
	struct answer answer;

	if (disk == -ECANCELED)
		return disk;
	answer_ready(&answer, checks, sizeof(checks) / sizeof(checks[0]));
	if (answer.status == 503)
		answer.retry_after_seconds = RETRY_AFTER_SECONDS;
	return routes_answer(server, request, &answer);
}

static int answer_healthz(struct server *server, struct http_request *request)
{
	struct answer answer;

	answer_text(&answer, "ok\n");
	return routes_answer(server, request, &answer);
}

static int answer_metrics_page(struct server *server, struct http_request *request)
{
	struct answer answer;
	size_t bytes = 0;
	char *text;

	text = metrics_print(&server->metrics, &server->bucket.counts, &server->uploads, &bytes);
	answer_metrics(&answer, text, bytes);
	return routes_answer(server, request, &answer);
}

static const struct route {
	const char *path;
	bool prefix; /* something follows */
	const char *allow;
	int (*get)(struct server *server, struct http_request *request);
	int (*put)(struct server *server, struct http_request *request);
} routes[] = {
	{ "/files/", true, "PUT", NULL, receive_file },
	{ "/uploads/", true, "GET, HEAD", answer_upload, NULL },
	{ "/healthz", false, "GET, HEAD", answer_healthz, NULL },
	{ "/readyz", false, "GET, HEAD", answer_readyz, NULL },
	{ "/metrics", false, "GET, HEAD", answer_metrics_page, NULL },
};

static const struct route *find_route(struct http_slice path)
{
	for (size_t i = 0; i < sizeof(routes) / sizeof(routes[0]); i++) {
		size_t bytes = strlen(routes[i].path);

		if (path.len < bytes || memcmp(path.data, routes[i].path, bytes) != 0)
			continue;
		if (routes[i].prefix || path.len == bytes)
			return &routes[i];
	}
	return NULL;
}

/* True, or the answer has been given and its result is in @ret_r. */
static bool is_welcome(struct server *server, struct http_request *request, int *ret_r)
{
	switch (access_check(&server->access, request->head)) {
	case ACCESS_UNKNOWN_HOST:
		*ret_r = routes_problem(server, request, PROBLEM_HOST, NULL, 0);
		return false;
	case ACCESS_FOREIGN_ORIGIN:
		*ret_r = routes_problem(server, request, PROBLEM_ORIGIN, NULL, 0);
		return false;
	default: return true;
	}
}

static int answer_page(struct server *server, struct http_request *request, const char *methods)
{
	struct answer answer;

	answer_preflight(&answer, methods);
	return routes_answer(server, request, &answer);
}

int routes_handle(struct http_request *request, void *argument)
{
	struct server *server = argument;
	enum http_method method = request->head->method;
	const struct route *route;
	int r;

	if (!is_welcome(server, request, &r))
		return r;
	route = find_route(request->head->path);
	if (!route)
		return routes_problem(server, request, PROBLEM_NOT_FOUND, NULL, 0);
	if (route->get && (method == HTTP_METHOD_GET || method == HTTP_METHOD_HEAD))
		return route->get(server, request);
	if (route->put && method == HTTP_METHOD_PUT)
		return route->put(server, request);
	if (access_is_preflight(&server->access, request->head))
		return answer_page(server, request, route->allow);
	return method_not_allowed(server, request, route->allow);
}
