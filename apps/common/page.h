/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* A page of metrics for Prometheus, in the text exposition format. Counters may be touched from any thread meanwhile. */

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "text.h"

/**
 * struct page - one that is being written
 * @file:   for the lines of a family
 * @prefix: of all names, such as "ingest_"
 */
struct page {
	FILE *file;
	const char *prefix;
	/* -- private from here -- */
	struct text text;
};

#define HISTOGRAM_BUCKETS 14 /* +Inf included */

struct histogram {
	_Atomic uint64_t buckets[HISTOGRAM_BUCKETS];
	_Atomic uint64_t sum_ns;
};

void histogram_add(struct histogram *histogram, int64_t duration_ns);

/* false without memory: there is no page then */
bool page_begin(struct page *page, const char *prefix);

/* What stands above the lines of a name. */
void page_family(struct page *page, const char *name, const char *type, const char *help);

/* A label's value between its quotes: `"` and `\` are escaped. */
void page_label(struct page *page, const char *value);

/* A family of one line without labels */
void page_single(struct page *page, const char *name, const char *type, const char *help,
		 int64_t value);

/* The lines of one histogram of a family; @labels such as `state="SCANNING"` */
void page_histogram(struct page *page, const char *name, const char *labels,
		    struct histogram *histogram);

int64_t page_look(_Atomic uint64_t *counter);

/* Heap memory for free(), of *@ret_bytes; NULL when there is none. */
char *page_end(struct page *page, size_t *ret_bytes);
