/* SPDX-License-Identifier: Apache-2.0 */

#include "page.h"

#include <inttypes.h>

static const struct {
	int64_t bound_ns;
	const char *label;
} buckets[HISTOGRAM_BUCKETS] = {
	{ 1000000, "0.001" },	 { 2500000, "0.0025" }, { 5000000, "0.005" },
	{ 10000000, "0.01" },	 { 25000000, "0.025" }, { 50000000, "0.05" },
	{ 100000000, "0.1" },	 { 250000000, "0.25" }, { 1000000000, "1" },
	{ 5000000000, "5" },	 { 30000000000, "30" }, { 120000000000, "120" },
	{ 600000000000, "600" }, { INT64_MAX, "+Inf" },
};

void histogram_add(struct histogram *histogram, int64_t duration_ns)
{
	int bucket = 0;

	while (duration_ns > buckets[bucket].bound_ns)
		bucket++;
	atomic_fetch_add_explicit(&histogram->buckets[bucket], 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&histogram->sum_ns, (uint64_t)duration_ns, memory_order_relaxed);
}

bool page_begin(struct page *page, const char *prefix)
{
	*page = (struct page){ .prefix = prefix };
	if (!text_begin(&page->text))
		return false;
	page->file = page->text.file;
	return true;
}

void page_family(struct page *page, const char *name, const char *type, const char *help)
{
	fprintf(page->file, "# HELP %s%s %s\n# TYPE %s%s %s\n", page->prefix, name, help,
		page->prefix, name, type);
}

void page_label(struct page *page, const char *value)
{
	for (; *value; value++) {
		if (*value == '"' || *value == '\\')
			fputc('\\', page->file);
		fputc(*value, page->file);
	}
}

void page_single(struct page *page, const char *name, const char *type, const char *help,
		 int64_t value)
{
	page_family(page, name, type, help);
	fprintf(page->file, "%s%s %" PRId64 "\n", page->prefix, name, value);
}

void page_histogram(struct page *page, const char *name, const char *labels,
		    struct histogram *histogram)
{
	uint64_t sum_ns = atomic_load_explicit(&histogram->sum_ns, memory_order_relaxed);
	int64_t below = 0;

	for (int i = 0; i < HISTOGRAM_BUCKETS; i++) {
		below += page_look(&histogram->buckets[i]);
		fprintf(page->file, "%s%s_bucket{%s,le=\"%s\"} %" PRId64 "\n", page->prefix, name,
			labels, buckets[i].label, below);
	}
	fprintf(page->file, "%s%s_sum{%s} %" PRIu64 ".%09" PRIu64 "\n", page->prefix, name, labels,
		sum_ns / 1000000000, sum_ns % 1000000000);
	fprintf(page->file, "%s%s_count{%s} %" PRId64 "\n", page->prefix, name, labels, below);
}

int64_t page_look(_Atomic uint64_t *counter)
{
	return (int64_t)atomic_load_explicit(counter, memory_order_relaxed);
}

char *page_end(struct page *page, size_t *ret_bytes)
{
	return text_end(&page->text, ret_bytes);
}
