/* SPDX-License-Identifier: Apache-2.0 */

#include "metrics.h"

#include <inttypes.h>
#include <stdio.h>

#include "common/log.h"

static void print_permits(struct page *page, struct gateway *gateway)
{
	page_family(page, "permits", "gauge", "Permits of a route by state.");
	for (size_t i = 0; i < gateway->routes_count; i++) {
		struct route *route = &gateway->routes[i];
		struct ew_semaphore_counts counts = ew_semaphore_count(route->permits);
		const struct {
			const char *state;
			unsigned int count;
		} states[] = { { "free", counts.free },
			       { "held", counts.held },
			       { "cancelling", counts.cancelling },
			       { "presumed", counts.presumed } };

		for (size_t at = 0; at < 4; at++)
			fprintf(page->file, "gateway_permits{route=\"%s\",state=\"%s\"} %u\n",
				route->config->name, states[at].state, states[at].count);
	}
}

/* One number of each route. */
static void print_each(struct page *page, struct gateway *gateway, const char *name,
		       const char *type, const char *help, int64_t (*value)(struct route *route))
{
	page_family(page, name, type, help);
	for (size_t i = 0; i < gateway->routes_count; i++)
		fprintf(page->file, "gateway_%s{route=\"%s\"} %" PRId64 "\n", name,
			gateway->routes[i].config->name, value(&gateway->routes[i]));
}

static int64_t capacity(struct route *route)
{
	return (int64_t)route->config->concurrency;
}

static int64_t waiting(struct route *route)
{
	return atomic_load(&route->line.waiting);
}

static int64_t shed(struct route *route)
{
	return (int64_t)route->shed;
}

static int64_t granted(struct route *route)
{
	return (int64_t)route->granted;
}

static int64_t proved(struct route *route)
{
	return (int64_t)route->presumed_proved;
}

static int64_t expired(struct route *route)
{
	return (int64_t)route->presumed_expired;
}

static void print_outcomes(struct page *page, struct gateway *gateway)
{
	page_family(page, "operations_total", "counter", "Operations by what became of them.");
	for (size_t i = 0; i < gateway->routes_count; i++)
		for (int outcome = OUTCOME_NONE + 1; outcome < OUTCOME_COUNT; outcome++)
			fprintf(page->file,
				"gateway_operations_total{route=\"%s\",outcome=\"%s\"} %" PRIu64
				"\n",
				gateway->routes[i].config->name,
				outcome_name((enum outcome)outcome),
				gateway->routes[i].ended[outcome]);
	page_family(page, "cancels_total", "counter",
		    "Operations that were cancelled, by what became of them.");
	for (size_t i = 0; i < gateway->routes_count; i++)
		for (int outcome = OUTCOME_NONE + 1; outcome < OUTCOME_COUNT; outcome++)
			fprintf(page->file,
				"gateway_cancels_total{route=\"%s\",outcome=\"%s\"} %" PRIu64 "\n",
				gateway->routes[i].config->name,
				outcome_name((enum outcome)outcome),
				gateway->routes[i].cancelled[outcome]);
}

static void print_histograms(struct page *page, struct gateway *gateway)
{
	char labels[CONFIG_NAME_BYTES + 16];

	page_family(page, "operation_seconds", "histogram", "From request to outcome.");
	for (size_t i = 0; i < gateway->routes_count; i++) {
		snprintf(labels, sizeof(labels), "route=\"%s\"", gateway->routes[i].config->name);
		page_histogram(page, "operation_seconds", labels, &gateway->routes[i].seconds);
	}
	page_family(page, "cancel_seconds", "histogram",
		    "From the client's leaving to the proof, or to the end of waiting for it.");
	for (size_t i = 0; i < gateway->routes_count; i++) {
		snprintf(labels, sizeof(labels), "route=\"%s\"", gateway->routes[i].config->name);
		page_histogram(page, "cancel_seconds", labels, &gateway->routes[i].cancel_seconds);
	}
}

static void print_answers(struct page *page, struct gateway *gateway)
{
	page_family(page, "answers_total", "counter", "Answers by class of status code.");
	for (int class = 2; class < 6; class ++)
		fprintf(page->file, "gateway_answers_total{class=\"%dxx\"} %" PRId64 "\n", class,
			page_look(&gateway->answers[class]));
}

static void print_messages(struct page *page, const struct gateway *gateway)
{
	page_family(page, "heard_total", "counter", "Messages of workers that changed nothing.");
	fprintf(page->file, "gateway_heard_total{kind=\"late\"} %" PRIu64 "\n",
		gateway->heard_late);
	fprintf(page->file, "gateway_heard_total{kind=\"malformed\"} %" PRIu64 "\n",
		gateway->heard_malformed);
	fprintf(page->file, "gateway_heard_total{kind=\"progress\"} %" PRIu64 "\n",
		gateway->heard_progress);
	fprintf(page->file, "gateway_heard_total{kind=\"unknown\"} %" PRIu64 "\n",
		gateway->heard_unknown);
	page_single(page, "claims_refused_total", "counter",
		    "Claims of operations that nobody waits for any more.",
		    (int64_t)gateway->refused);
	page_single(page, "refusals_dropped_total", "counter",
		    "Refusals that were not said, because too many waited.",
		    (int64_t)gateway->refusals_dropped);
}

char *metrics_print(struct gateway *gateway, size_t *ret_bytes)
{
	struct page page;

	if (!page_begin(&page, "gateway_"))
		return NULL;
	print_permits(&page, gateway);
	print_each(&page, gateway, "permits_capacity", "gauge", "The sum of all states.", capacity);
	print_each(&page, gateway, "waiting", "gauge", "Requests in the waiting room.", waiting);
	print_each(&page, gateway, "shed_total", "counter", "Requests that were not started.",
		   shed);
	print_each(&page, gateway, "grants_total", "counter", "Claims that were granted.", granted);
	print_each(&page, gateway, "presumed_proved_total", "counter",
		   "Presumed permits that a late word has freed.", proved);
	print_each(&page, gateway, "presumed_expired_total", "counter",
		   "Presumed permits whose hold time has passed.", expired);
	print_outcomes(&page, gateway);
	print_histograms(&page, gateway);
	print_messages(&page, gateway);
	print_answers(&page, gateway);
	page_single(&page, "connected", "gauge", "1 while the broker is connected.",
		    gateway->connection != NULL);
	page_single(&page, "connections_total", "counter", "Connections made to the broker.",
		    (int64_t)gateway->connected);
	page_single(&page, "log_lines_dropped_total", "counter",
		    "Log lines that standard error did not take.", (int64_t)log_dropped());
	return page_end(&page, ret_bytes);
}
