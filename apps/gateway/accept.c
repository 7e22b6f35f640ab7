/* SPDX-License-Identifier: Apache-2.0 */

#include "accept.h"

#include <string.h>

#define WEIGHT_MAX  1000 /* in thousandths: a weight has three digits at most */
#define WEIGHT_NONE (-1)

/* What is in front of the next @separator, and not quoted; @rest is behind it. */
static struct http_slice take(struct http_slice *rest, char separator)
{
	struct http_slice part = { rest->data, 0 };
	bool quoted = false;
	size_t i = 0;

	for (; i < rest->len && (quoted || rest->data[i] != separator); i++) {
		if (rest->data[i] == '"')
			quoted = !quoted;
		else if (quoted && rest->data[i] == '\\' && i + 1 < rest->len)
			i++;
	}
	part.len = i;
	i += i < rest->len;
	rest->data += i;
	rest->len -= i;
	return http_slice_trim(part);
}

static int read_weight(struct http_slice text)
{
	int weight = 0, unit = WEIGHT_MAX;

	if (text.len == 0 || text.len > sizeof("1.000") - 1)
		return WEIGHT_NONE;
	for (size_t i = 0; i < text.len; i++) {
		if (i == 1 && text.data[i] == '.')
			continue;
		if (i == 1 || text.data[i] < '0' || text.data[i] > '9')
			return WEIGHT_NONE;
		weight += (text.data[i] - '0') * unit;
		unit /= 10;
	}
	return weight <= WEIGHT_MAX ? weight : WEIGHT_NONE;
}

/* Of a range, which is taken off its parameters. */
static int take_weight(struct http_slice *range)
{
	struct http_slice rest = *range;

	*range = take(&rest, ';');
	while (rest.len > 0) {
		struct http_slice parameter = take(&rest, ';');

		if (parameter.len >= 2 && (parameter.data[0] | 0x20) == 'q' &&
		    parameter.data[1] == '=')
			return read_weight(
				(struct http_slice){ parameter.data + 2, parameter.len - 2 });
	}
	return WEIGHT_MAX;
}

/* Each range of one field raises the weight that is its. */
static void weigh(struct http_slice field, const char *type, int *ret_type, int *ret_others)
{
	while (field.len > 0) {
		struct http_slice range = take(&field, ',');
		int weight = take_weight(&range);
		int *most = http_slice_equal(range, type) ? ret_type : ret_others;

		if (range.len > 0 && weight > *most)
			*most = weight;
	}
}

bool accept_prefers(const struct http_head *head, const char *type)
{
	int mine = 0, others = 0;

	for (size_t i = 0; i < head->headers_count; i++)
		if (http_slice_equal(head->headers[i].name, "Accept"))
			weigh(head->headers[i].value, type, &mine, &others);
	return mine > 0 && mine >= others;
}
