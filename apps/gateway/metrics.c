/* SPDX-License-Identifier: Apache-2.0 */

#include "metrics.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

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

struct tenant_counts {
	unsigned int held;
	unsigned int cancelling;
	unsigned int presumed;
	int64_t waiting;
	uint64_t shed;
};

static void add_tenant(struct tenant_counts *sum, struct tenant *tenant)
{
	struct ew_semaphore_counts counts = ew_semaphore_count(tenant->permits);

	sum->held += counts.held;
	sum->cancelling += counts.cancelling;
	sum->presumed += counts.presumed;
	sum->waiting += atomic_load(&tenant->line.waiting);
	sum->shed += tenant->shed;
}

static void print_tenant(FILE *file, const char *route, const char *tenant, const char *family,
			 const struct tenant_counts *counts)
{
	const struct {
		const char *family;
		const char *state;
		uint64_t count;
	} lines[] = {
		{ "permits", ",state=\"held\"", counts->held },
		{ "permits", ",state=\"cancelling\"", counts->cancelling },
		{ "permits", ",state=\"presumed\"", counts->presumed },
		{ "waiting", "", (uint64_t)counts->waiting },
		{ "shed_total", "", counts->shed },
	};

	for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++)
		if (strcmp(family, lines[i].family) == 0)
			fprintf(file,
				"gateway_tenant_%s{route=\"%s\",tenant=\"%s\"%s} %" PRIu64 "\n",
				family, route, tenant, lines[i].state, lines[i].count);
}

/* Those that the configuration names, and the others as one: who sends requests does not choose how many lines there are. */
static void print_tenants_of(FILE *file, struct route *route, const char *family)
{
	struct tenant_counts others = { .shed = route->shed_unnamed };

	for (struct tenant *tenant = route->tenants; tenant; tenant = tenant->next) {
		struct tenant_counts counts = {};

		add_tenant(tenant->named ? &counts : &others, tenant);
		if (tenant->named)
			print_tenant(file, route->config->name, tenant->name, family, &counts);
	}
	print_tenant(file, route->config->name, TENANT_OTHERS, family, &others);
}

static void print_tenants(struct page *page, struct gateway *gateway)
{
	static const struct {
		const char *family;
		const char *name;
		const char *type;
		const char *help;
	} families[] = {
		{ "permits", "tenant_permits", "gauge", "Permits of a tenant by state." },
		{ "waiting", "tenant_waiting", "gauge",
		  "Requests of a tenant in the waiting room." },
		{ "shed_total", "tenant_shed_total", "counter",
		  "Requests of a tenant that were not started." },
	};

	for (size_t at = 0; at < sizeof(families) / sizeof(families[0]); at++) {
		page_family(page, families[at].name, families[at].type, families[at].help);
		for (size_t i = 0; i < gateway->routes_count; i++)
			if (gateway->routes[i].config->tenant_header[0])
				print_tenants_of(page->file, &gateway->routes[i],
						 families[at].family);
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

static int64_t unstored(struct route *route)
{
	return (int64_t)route->unstored;
}

static int64_t gone(struct route *route)
{
	return (int64_t)route->gone;
}

static int64_t republished(struct route *route)
{
	return (int64_t)route->republished;
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
	page_family(page, "heard_total", "counter", "Messages of workers that decide nothing.");
	fprintf(page->file, "gateway_heard_total{kind=\"late\"} %" PRIu64 "\n",
		gateway->heard_late);
	fprintf(page->file, "gateway_heard_total{kind=\"malformed\"} %" PRIu64 "\n",
		gateway->heard_malformed);
	fprintf(page->file, "gateway_heard_total{kind=\"progress\"} %" PRIu64 "\n",
		gateway->heard_progress);
	fprintf(page->file, "gateway_heard_total{kind=\"part\"} %" PRIu64 "\n",
		gateway->heard_parts);
	fprintf(page->file, "gateway_heard_total{kind=\"duplicate\"} %" PRIu64 "\n",
		gateway->heard_duplicate);
	fprintf(page->file, "gateway_heard_total{kind=\"unknown\"} %" PRIu64 "\n",
		gateway->heard_unknown);
	page_single(page, "claims_refused_total", "counter",
		    "Claims of operations that nobody waits for any more.",
		    (int64_t)gateway->refused);
	page_single(page, "refusals_dropped_total", "counter",
		    "Refusals that were not said, because too many waited.",
		    (int64_t)gateway->refusals_dropped);
}

static int64_t bucket_ready(struct bucket *bucket)
{
	return atomic_load(&bucket->counts.ready);
}

static int64_t bucket_reserved(struct bucket *bucket)
{
	return page_look(&bucket->counts.reserved_bytes);
}

static int64_t bucket_bodies(struct bucket *bucket)
{
	return page_look(&bucket->counts.spools);
}

static int64_t bucket_bytes(struct bucket *bucket)
{
	return page_look(&bucket->counts.spooled_bytes);
}

static int64_t bucket_names(struct bucket *bucket)
{
	return atomic_load(&bucket->staging.lease.names);
}

static int64_t bucket_published(struct bucket *bucket)
{
	return page_look(&bucket->counts.leased);
}

static int64_t bucket_swept(struct bucket *bucket)
{
	return page_look(&bucket->staging.swept);
}

static void print_buckets(struct page *page, struct gateway *gateway)
{
	static const struct {
		const char *name;
		const char *type;
		const char *help;
		int64_t (*value)(struct bucket *bucket);
	} families[] = {
		{ "bodies_ready", "gauge", "1 when the volume of the bodies is trusted.",
		  bucket_ready },
		{ "bodies", "gauge", "Bodies in files, those that are still coming included.",
		  bucket_bodies },
		{ "bodies_bytes", "gauge", "Bytes of those that have come.", bucket_bytes },
		{ "bodies_reserved_bytes", "gauge", "Declared bytes that have not come yet.",
		  bucket_reserved },
		{ "bodies_names", "gauge", "Names of files that are there, or may be.",
		  bucket_names },
		{ "bodies_published_total", "counter", "Bodies that got a name for workers.",
		  bucket_published },
		{ "bodies_swept_total", "counter", "Names removed that gateways had left.",
		  bucket_swept },
	};
	const char *path;

	for (size_t at = 0; at < sizeof(families) / sizeof(families[0]); at++) {
		page_family(page, families[at].name, families[at].type, families[at].help);
		for (size_t i = 0; i < gateway->buckets.count; i++) {
			struct bucket *bucket = buckets_at(&gateway->buckets, i, &path);

			fprintf(page->file, "gateway_%s{bodies=\"", families[at].name);
			page_label(page, path);
			fprintf(page->file, "\"} %" PRId64 "\n", families[at].value(bucket));
		}
	}
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
	print_each(&page, gateway, "bodies_unstored_total", "counter",
		   "Of those, whose bodies could not be stored.", unstored);
	print_each(&page, gateway, "gone_total", "counter",
		   "Requests that were cancelled before their operation began.", gone);
	print_each(&page, gateway, "republished_total", "counter",
		   "Operations published again, because the broker was lost before it confirmed.",
		   republished);
	print_each(&page, gateway, "grants_total", "counter", "Claims that were granted.", granted);
	print_each(&page, gateway, "presumed_proved_total", "counter",
		   "Presumed permits that a late word has freed.", proved);
	print_each(&page, gateway, "presumed_expired_total", "counter",
		   "Presumed permits whose hold time has passed.", expired);
	print_tenants(&page, gateway);
	print_outcomes(&page, gateway);
	print_histograms(&page, gateway);
	print_messages(&page, gateway);
	print_buckets(&page, gateway);
	print_answers(&page, gateway);
	page_single(&page, "connected", "gauge", "1 while the broker is connected.",
		    gateway->connection != NULL);
	page_single(&page, "connections_total", "counter", "Connections made to the broker.",
		    (int64_t)gateway->connected);
	page_single(&page, "log_lines_dropped_total", "counter",
		    "Log lines that standard error did not take.", (int64_t)log_dropped());
	return page_end(&page, ret_bytes);
}
