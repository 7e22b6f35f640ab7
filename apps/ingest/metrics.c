/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Counters are single relaxed atomics. A page of metrics is therefore not one moment but a short
 * stretch of time, with one exception that matters: the counts of a kind of slot come from one load
 * and always add up to the capacity (see slots.c).
 */
#include "metrics.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "log.h"

static const struct {
	int64_t bound_ns;
	const char *label;
} buckets[METRICS_BUCKETS] = {
	{ 1000000, "0.001" },	 { 2500000, "0.0025" }, { 5000000, "0.005" },
	{ 10000000, "0.01" },	 { 25000000, "0.025" }, { 50000000, "0.05" },
	{ 100000000, "0.1" },	 { 250000000, "0.25" }, { 1000000000, "1" },
	{ 5000000000, "5" },	 { 30000000000, "30" }, { 120000000000, "120" },
	{ 600000000000, "600" }, { INT64_MAX, "+Inf" },
};

void metrics_init(struct metrics *metrics, uint32_t upload_slots, uint32_t scan_slots)
{
	*metrics = (struct metrics){ 0 };
	slots_init(&metrics->upload_slots, upload_slots);
	slots_init(&metrics->scan_slots, scan_slots);
}

void metrics_state_entered(struct metrics *metrics, enum state state)
{
	atomic_fetch_add_explicit(&metrics->entered[state], 1, memory_order_relaxed);
	if (!state_is_end(state))
		atomic_fetch_add_explicit(&metrics->inside[state], 1, memory_order_relaxed);
}

void metrics_state_left(struct metrics *metrics, enum state state, int64_t duration_ns)
{
	struct histogram *histogram = &metrics->time_in[state];
	int bucket = 0;

	while (duration_ns > buckets[bucket].bound_ns)
		bucket++;
	atomic_fetch_add_explicit(&histogram->buckets[bucket], 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&histogram->sum_ns, (uint64_t)duration_ns, memory_order_relaxed);
	atomic_fetch_sub_explicit(&metrics->inside[state], 1, memory_order_relaxed);
}

void metrics_answered(struct metrics *metrics, int status)
{
	atomic_fetch_add_explicit(&metrics->answers[status / 100 % 6], 1, memory_order_relaxed);
}

static void family(FILE *page, const char *name, const char *type, const char *help)
{
	fprintf(page, "# HELP ingest_%s %s\n# TYPE ingest_%s %s\n", name, help, name, type);
}

static void single(FILE *page, const char *name, const char *type, const char *help, int64_t value)
{
	family(page, name, type, help);
	fprintf(page, "ingest_%s %" PRId64 "\n", name, value);
}

static int64_t look(_Atomic uint64_t *counter)
{
	return (int64_t)atomic_load_explicit(counter, memory_order_relaxed);
}

static void print_states(FILE *page, struct metrics *metrics)
{
	family(page, "upload_transitions_total", "counter", "Transitions of uploads into a state.");
	for (int state = 0; state < STATE_COUNT; state++)
		fprintf(page, "ingest_upload_transitions_total{state=\"%s\"} %" PRId64 "\n",
			state_name((enum state)state), look(&metrics->entered[state]));

	family(page, "uploads", "gauge", "Uploads that are in a state now.");
	for (int state = 0; state < STATE_COUNT; state++)
		if (!state_is_end((enum state)state))
			fprintf(page, "ingest_uploads{state=\"%s\"} %" PRId64 "\n",
				state_name((enum state)state),
				atomic_load_explicit(&metrics->inside[state],
						     memory_order_relaxed));
}

static void print_histogram(FILE *page, struct histogram *histogram, const char *state)
{
	uint64_t sum_ns = atomic_load_explicit(&histogram->sum_ns, memory_order_relaxed);
	int64_t below = 0;

	for (int i = 0; i < METRICS_BUCKETS; i++) {
		below += look(&histogram->buckets[i]);
		fprintf(page,
			"ingest_upload_state_seconds_bucket{state=\"%s\",le=\"%s\"} %" PRId64 "\n",
			state, buckets[i].label, below);
	}
	fprintf(page, "ingest_upload_state_seconds_sum{state=\"%s\"} %" PRIu64 ".%09" PRIu64 "\n",
		state, sum_ns / 1000000000, sum_ns % 1000000000);
	fprintf(page, "ingest_upload_state_seconds_count{state=\"%s\"} %" PRId64 "\n", state,
		below);
}

static void print_histograms(FILE *page, struct metrics *metrics)
{
	family(page, "upload_state_seconds", "histogram", "How long uploads stayed in a state.");
	for (int state = 0; state < STATE_COUNT; state++)
		if (!state_is_end((enum state)state))
			print_histogram(page, &metrics->time_in[state],
					state_name((enum state)state));
}

static void print_slots(FILE *page, const char *name, const char *help, struct slots *slots)
{
	struct slots_view view = slots_look(slots);

	family(page, name, "gauge", help);
	for (int slot = 0; slot < SLOT_COUNT; slot++)
		fprintf(page, "ingest_%s{state=\"%s\"} %" PRIu32 "\n", name,
			slot_name((enum slot)slot), view.count[slot]);
	fprintf(page,
		"# HELP ingest_%s_capacity The sum of all states.\n# TYPE ingest_%s_capacity gauge\n",
		name, name);
	fprintf(page, "ingest_%s_capacity %" PRIu32 "\n", name, view.capacity);
}

static void print_scanner(FILE *page, struct metrics *metrics)
{
	family(page, "scans_total", "counter", "Scans by what came out.");
	for (int kind = 0; kind < VERDICT_COUNT; kind++)
		fprintf(page, "ingest_scans_total{result=\"%s\"} %" PRId64 "\n",
			verdict_name((enum verdict_kind)kind), look(&metrics->scans[kind]));
	fprintf(page, "ingest_scans_total{result=\"failed\"} %" PRId64 "\n",
		look(&metrics->scans_failed));

	family(page, "scanner_tests_total", "counter", "Self-tests of the scanner by outcome.");
	fprintf(page, "ingest_scanner_tests_total{result=\"passed\"} %" PRId64 "\n",
		look(&metrics->tests_passed));
	fprintf(page, "ingest_scanner_tests_total{result=\"failed\"} %" PRId64 "\n",
		look(&metrics->tests_failed));

	single(page, "scans_abandoned_total", "counter",
	       "Scans that nobody waited for any more when they ended.",
	       look(&metrics->scans_abandoned));
	single(page, "scanner_ready", "gauge", "1 when the scanner has passed its last self-test.",
	       atomic_load_explicit(&metrics->scanner_ready, memory_order_relaxed));
}

static void print_answers(FILE *page, struct metrics *metrics)
{
	family(page, "answers_total", "counter", "Answers by class of status code.");
	for (int class = 1; class < 6; class ++)
		fprintf(page, "ingest_answers_total{class=\"%dxx\"} %" PRId64 "\n", class,
			look(&metrics->answers[class]));
}

static void print_rest(FILE *page, struct metrics *metrics)
{
	single(page, "received_bytes_total", "counter", "Bytes of bodies received.",
	       look(&metrics->bytes_received));
	single(page, "uploads_waiting", "gauge", "Requests in the waiting room for an upload slot.",
	       atomic_load_explicit(&metrics->uploads_waiting, memory_order_relaxed));
	single(page, "scans_waiting", "gauge", "Sealed uploads that wait for a scan slot.",
	       atomic_load_explicit(&metrics->scans_waiting, memory_order_relaxed));
	single(page, "bucket_ready", "gauge", "1 when the bucket's volume is trusted.",
	       atomic_load_explicit(&metrics->bucket_ready, memory_order_relaxed));
	single(page, "disk_reserved_bytes", "gauge", "Declared bytes that have not arrived yet.",
	       look(&metrics->disk_reserved_bytes));
	single(page, "directory_syncs_total", "counter", "Syncs of the bucket's directory.",
	       look(&metrics->directory_syncs));
	single(page, "directory_synced_links_total", "counter",
	       "Names made durable by those syncs.", look(&metrics->directory_synced_links));
	single(page, "log_lines_dropped_total", "counter",
	       "Log lines that standard error did not take.", (int64_t)log_dropped());
}

char *metrics_print(struct metrics *metrics, size_t *ret_bytes)
{
	char *text = NULL;
	size_t bytes = 0;
	FILE *page;

	page = open_memstream(&text, &bytes);
	if (!page)
		return NULL;

	print_states(page, metrics);
	print_histograms(page, metrics);
	print_slots(page, "upload_slots", "Upload slots by state.", &metrics->upload_slots);
	print_slots(page, "scan_slots", "Scan slots by state.", &metrics->scan_slots);
	print_scanner(page, metrics);
	print_answers(page, metrics);
	print_rest(page, metrics);

	if (fclose(page) != 0) {
		free(text);
		return NULL;
	}
	*ret_bytes = bytes;
	return text;
}
