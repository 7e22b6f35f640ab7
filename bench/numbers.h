/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Numbers: figures in order, from which medians and percentiles are taken
 */

#include <stdlib.h>

static inline int numbers_compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static inline void numbers_sort(double *numbers, size_t count)
{
	qsort(numbers, count, sizeof(*numbers), numbers_compare);
}

/* Of @count sorted numbers, at least one. */
static inline double numbers_p99(const double *sorted, size_t count)
{
	return sorted[count - 1 - count / 100];
}
