/* SPDX-License-Identifier: Apache-2.0 */

#include "text.h"

#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

#define ROOM_FIRST 1024

static bool grow(struct text *text, size_t wanted)
{
	size_t room = text->room ? text->room : ROOM_FIRST;
	char *larger;

	while (room < wanted)
		room *= 2;
	if (room == text->room)
		return true;
	larger = realloc(text->data, room);
	if (!larger)
		return false;
	text->data = larger;
	text->room = room;
	return true;
}

/* What is missing once is not made up for by what comes later. */
static ssize_t append(void *argument, const char *data, size_t bytes)
{
	struct text *text = argument;

	if (text->is_cut || !grow(text, text->bytes + bytes + 1)) {
		text->is_cut = true;
		return 0;
	}
	memcpy(text->data + text->bytes, data, bytes);
	text->bytes += bytes;
	text->data[text->bytes] = '\0';
	return (ssize_t)bytes;
}

bool text_begin(struct text *text)
{
	*text = (struct text){};
	text->file = fopencookie(text, "w", (cookie_io_functions_t){ .write = append });
	return text->file != NULL;
}

char *text_end(struct text *text, size_t *ret_bytes)
{
	if (fclose(text->file) != 0 || text->is_cut || !text->data) {
		free(text->data);
		return NULL;
	}
	*ret_bytes = text->bytes;
	return text->data;
}
