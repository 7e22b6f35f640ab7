/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Counters are single relaxed atomics. A page of metrics is therefore not one moment but a short
 * stretch of time, with one exception that matters: the counts of a kind of slot come from one look
 * at its semaphore and always add up to the capacity.
 */
#include "metrics.h"

#include <inttypes.h>
#include <stdio.h>

#include "common/log.h"

void metrics_init(struct metrics *metrics, struct ew_semaphore *upload_slots,
		  struct ew_semaphore *scan_slots)
{
	*metrics = (struct metrics){ .upload_slots = upload_slots, .scan_slots = scan_slots };
}

void metrics_state_entered(struct metrics *metrics, enum state state)
{
	atomic_fetch_add_explicit(&metrics->entered[state], 1, memory_order_relaxed);
	if (!state_is_end(state))
		atomic_fetch_add_explicit(&metrics->inside[state], 1, memory_order_relaxed);
}

void metrics_state_left(struct metrics *metrics, enum state state, int64_t duration_ns)
{
	histogram_add(&metrics->time_in[state], duration_ns);
	atomic_fetch_sub_explicit(&metrics->inside[state], 1, memory_order_relaxed);
}

void metrics_answered(struct metrics *metrics, int status)
{
	atomic_fetch_add_explicit(&metrics->answers[status / 100 % 6], 1, memory_order_relaxed);
}

static void print_states(struct page *page, struct metrics *metrics)
{
	page_family(page, "upload_transitions_total", "counter",
		    "Transitions of uploads into a state.");
	for (int state = 0; state < STATE_COUNT; state++)
		fprintf(page->file, "ingest_upload_transitions_total{state=\"%s\"} %" PRId64 "\n",
			state_name((enum state)state), page_look(&metrics->entered[state]));

	page_family(page, "uploads", "gauge", "Uploads that are in a state now.");
	for (int state = 0; state < STATE_COUNT; state++)
		if (!state_is_end((enum state)state))
			fprintf(page->file, "ingest_uploads{state=\"%s\"} %" PRId64 "\n",
				state_name((enum state)state),
				atomic_load_explicit(&metrics->inside[state],
						     memory_order_relaxed));
}

static void print_histograms(struct page *page, struct metrics *metrics)
{
	char labels[32];

	page_family(page, "upload_state_seconds", "histogram",
		    "How long uploads stayed in a state.");
	for (int state = 0; state < STATE_COUNT; state++)
		if (!state_is_end((enum state)state)) {
			snprintf(labels, sizeof(labels), "state=\"%s\"",
				 state_name((enum state)state));
			page_histogram(page, "upload_state_seconds", labels,
				       &metrics->time_in[state]);
		}
}

static void print_state(struct page *page, const char *name, const char *state, unsigned int count)
{
	fprintf(page->file, "ingest_%s{state=\"%s\"} %u\n", name, state, count);
}

static void print_slots(struct page *page, const char *name, const char *help,
			struct ew_semaphore *slots)
{
	struct ew_semaphore_counts counts = ew_semaphore_count(slots);

	page_family(page, name, "gauge", help);
	print_state(page, name, "free", counts.free);
	print_state(page, name, "held", counts.held);
	print_state(page, name, "cancelling", counts.cancelling);
	print_state(page, name, "presumed", counts.presumed);
	fprintf(page->file,
		"# HELP ingest_%s_capacity The sum of all states.\n# TYPE ingest_%s_capacity gauge\n",
		name, name);
	fprintf(page->file, "ingest_%s_capacity %u\n", name, counts.capacity);
}

static void print_scanner(struct page *page, struct metrics *metrics)
{
	page_family(page, "scans_total", "counter", "Scans by what came out.");
	for (int kind = 0; kind < VERDICT_COUNT; kind++)
		fprintf(page->file, "ingest_scans_total{result=\"%s\"} %" PRId64 "\n",
			verdict_name((enum verdict_kind)kind), page_look(&metrics->scans[kind]));
	fprintf(page->file, "ingest_scans_total{result=\"failed\"} %" PRId64 "\n",
		page_look(&metrics->scans_failed));

	page_family(page, "scanner_tests_total", "counter",
		    "Self-tests of the scanner by outcome.");
	fprintf(page->file, "ingest_scanner_tests_total{result=\"passed\"} %" PRId64 "\n",
		page_look(&metrics->tests_passed));
	fprintf(page->file, "ingest_scanner_tests_total{result=\"failed\"} %" PRId64 "\n",
		page_look(&metrics->tests_failed));

	page_single(page, "scans_abandoned_total", "counter",
		    "Scans that nobody waited for any more when they ended.",
		    page_look(&metrics->scans_abandoned));
	page_single(page, "scanner_ready", "gauge",
		    "1 when the scanner has passed its last self-test.",
		    atomic_load_explicit(&metrics->scanner_ready, memory_order_relaxed));
}

static void print_answers(struct page *page, struct metrics *metrics)
{
	page_family(page, "answers_total", "counter", "Answers by class of status code.");
	for (int class = 1; class < 6; class ++)
		fprintf(page->file, "ingest_answers_total{class=\"%dxx\"} %" PRId64 "\n", class,
			page_look(&metrics->answers[class]));
}

static void print_bucket(struct page *page, struct bucket_counts *bucket)
{
	page_single(page, "bucket_ready", "gauge", "1 when the bucket's volume is trusted.",
		    atomic_load_explicit(&bucket->ready, memory_order_relaxed));
	page_single(page, "disk_reserved_bytes", "gauge",
		    "Declared bytes that have not arrived yet.",
		    page_look(&bucket->reserved_bytes));
	page_single(page, "directory_syncs_total", "counter", "Syncs of the bucket's directory.",
		    page_look(&bucket->syncs));
	page_single(page, "directory_synced_links_total", "counter",
		    "Names made durable by those syncs.", page_look(&bucket->synced_links));
}

static void print_rest(struct page *page, struct metrics *metrics, const struct line *uploads)
{
	page_single(page, "received_bytes_total", "counter", "Bytes of bodies received.",
		    page_look(&metrics->bytes_received));
	page_single(page, "uploads_waiting", "gauge",
		    "Requests in the waiting room for an upload slot.",
		    atomic_load_explicit(&uploads->waiting, memory_order_relaxed));
	page_single(page, "scans_waiting", "gauge", "Sealed uploads that wait for a scan slot.",
		    atomic_load_explicit(&metrics->scans_waiting, memory_order_relaxed));
	page_single(page, "log_lines_dropped_total", "counter",
		    "Log lines that standard error did not take.", (int64_t)log_dropped());
}

char *metrics_print(struct metrics *metrics, struct bucket_counts *bucket,
		    const struct line *uploads, size_t *ret_bytes)
{
	struct page page;

	if (!page_begin(&page, "ingest_"))
		return NULL;

	print_states(&page, metrics);
	print_histograms(&page, metrics);
	print_slots(&page, "upload_slots", "Upload slots by state.", metrics->upload_slots);
	print_slots(&page, "scan_slots", "Scan slots by state.", metrics->scan_slots);
	print_scanner(&page, metrics);
	print_answers(&page, metrics);
	print_rest(&page, metrics, uploads);
	print_bucket(&page, bucket);

	return page_end(&page, ret_bytes);
}
