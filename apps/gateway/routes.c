/* SPDX-License-Identifier: Apache-2.0 */
/* A request is checked for who sends it before anybody asks what it wants. Then the path decides, then the method. */
#include "routes.h"

#include <string.h>

#include "broker.h"
#include "metrics.h"
#include "status.h"
#include "submit.h"

/* How soon it is worth asking again while the gateway drains, or has no broker. */
#define RETRY_AFTER_SECONDS 2

static void count(struct gateway *gateway, int status)
{
	atomic_fetch_add(&gateway->answers[status / 100 % 6], 1);
}

int routes_answer(struct gateway *gateway, struct http_request *request, struct answer *answer)
{
	count(gateway, answer->status);
	return answer_send(request, answer);
}

int routes_problem(struct gateway *gateway, struct http_request *request, enum problem problem,
		   const char *detail, const char *id, int retry_after_seconds)
{
	const struct http_field fields[] = { { id ? "X-Operation-Id" : NULL, id }, {} };
	struct answer answer;

	answer_problem(&answer, problem, detail, id);
	answer.retry_after_seconds = retry_after_seconds;
	answer.fields = fields;
	answer_log_refusal(request->head, answer.status, id,
			   detail ? detail : problem_title(problem));
	return routes_answer(gateway, request, &answer);
}

void routes_refused(void *argument, int status, const char *reason)
{
	count(argument, status);
	answer_log_refusal(NULL, status, NULL, reason);
}

void routes_add_fields(void *argument, const struct http_head *head, struct http_extras *extras)
{
	const struct gateway *gateway = argument;

	access_add_fields(&gateway->access, head, extras);
}

static int answer_page(struct gateway *gateway, struct http_request *request, const char *methods)
{
	struct answer answer;

	answer_preflight(&answer, methods);
	return routes_answer(gateway, request, &answer);
}

int routes_method_not_allowed(struct gateway *gateway, struct http_request *request,
			      const char *allow)
{
	struct answer answer;

	answer_problem(&answer, PROBLEM_METHOD, NULL, NULL);
	answer.allow = allow;
	answer_log_refusal(request->head, answer.status, NULL, problem_title(PROBLEM_METHOD));
	return routes_answer(gateway, request, &answer);
}

static int answer_permits_page(struct gateway *gateway, struct http_request *request)
{
	struct answer answer;

	answer_permits(&answer, gateway);
	return routes_answer(gateway, request, &answer);
}

static int answer_healthz(struct gateway *gateway, struct http_request *request)
{
	struct answer answer;

	answer_text(&answer, "ok\n");
	return routes_answer(gateway, request, &answer);
}

static const char *route_trouble(struct route *route)
{
	bool blocked;

	if (route->bucket && !atomic_load(&route->bucket->counts.ready))
		return "the volume of its bodies is not to be trusted since a sync has failed";
	return broker_trouble(route, &blocked);
}

static int answer_readyz(struct gateway *gateway, struct http_request *request)
{
	struct answer_check checks[ROUTES_MAX + 1];
	bool draining = atomic_load(&gateway->front.draining);
	struct answer answer;

	checks[0] = (struct answer_check){ "accepting", !draining,
					   draining ? "the gateway shuts down"
						    : "operations are taken" };
	for (size_t i = 0; i < gateway->routes_count; i++) {
		const char *trouble = route_trouble(&gateway->routes[i]);

		checks[i + 1] =
			(struct answer_check){ gateway->routes[i].config->name, !trouble,
					       trouble ? trouble : "the broker is connected" };
	}
	answer_ready(&answer, checks, gateway->routes_count + 1);
	if (answer.status == 503)
		answer.retry_after_seconds = RETRY_AFTER_SECONDS;
	return routes_answer(gateway, request, &answer);
}

static int answer_metrics_page(struct gateway *gateway, struct http_request *request)
{
	struct answer answer;
	size_t bytes = 0;
	char *text;

	text = metrics_print(gateway, &bytes);
	answer_metrics(&answer, text, bytes);
	return routes_answer(gateway, request, &answer);
}

typedef int handler_fn(struct gateway *gateway, struct http_request *request);

static const struct resource {
	const char *path;
	bool prefix; /* something follows */
	const char *allow;
	handler_fn *get;
	handler_fn *post;
	handler_fn *remove;
} resources[] = {
	{ "/ops/", true, "POST, GET, HEAD, DELETE", status_get, submit, status_delete },
	{ "/permits", false, "GET, HEAD", answer_permits_page, NULL, NULL },
	{ "/healthz", false, "GET, HEAD", answer_healthz, NULL, NULL },
	{ "/readyz", false, "GET, HEAD", answer_readyz, NULL, NULL },
	{ "/metrics", false, "GET, HEAD", answer_metrics_page, NULL, NULL },
};

static const struct resource *find_resource(struct http_slice path)
{
	for (size_t i = 0; i < sizeof(resources) / sizeof(resources[0]); i++) {
		size_t bytes = strlen(resources[i].path);

		if (path.len < bytes || memcmp(path.data, resources[i].path, bytes) != 0)
			continue;
		if (resources[i].prefix || path.len == bytes)
			return &resources[i];
	}
	return NULL;
}

int routes_handle(struct http_request *request, void *argument)
{
	struct gateway *gateway = argument;
	enum http_method method = request->head->method;
	const struct resource *resource = find_resource(request->head->path);

	switch (access_check(&gateway->access, request->head)) {
	case ACCESS_UNKNOWN_HOST:
		return routes_problem(gateway, request, PROBLEM_HOST, NULL, NULL, 0);
	case ACCESS_FOREIGN_ORIGIN:
		return routes_problem(gateway, request, PROBLEM_ORIGIN, NULL, NULL, 0);
	case ACCESS_WELCOME: break;
	}
	if (!resource)
		return routes_problem(gateway, request, PROBLEM_NOT_FOUND, NULL, NULL, 0);
	if (resource->get && (method == HTTP_METHOD_GET || method == HTTP_METHOD_HEAD))
		return resource->get(gateway, request);
	if (resource->post && method == HTTP_METHOD_POST)
		return resource->post(gateway, request);
	if (resource->remove && method == HTTP_METHOD_DELETE)
		return resource->remove(gateway, request);
	if (access_is_preflight(&gateway->access, request->head))
		return answer_page(gateway, request, resource->allow);
	return routes_method_not_allowed(gateway, request, resource->allow);
}
