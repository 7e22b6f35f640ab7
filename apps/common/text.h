/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A text of any length, written by stdio: whole, or not there. The streams of open_memstream(3) are silent about what they had
 * no memory for: neither ferror() nor fclose() says so (glibc 2.36), and something in the middle is missing.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

struct text {
	FILE *file; /* to be written to */
	/* -- private from here -- */
	char *data;
	size_t bytes;
	size_t room;
	bool is_cut;
};

/* False without memory: there is no text then. */
bool text_begin(struct text *text);

/* Heap memory for free(), of *@ret_bytes and a NUL; NULL without memory for all of it. Either way @text has ended. */
char *text_end(struct text *text, size_t *ret_bytes);
