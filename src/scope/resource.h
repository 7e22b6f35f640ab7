/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Resources, inside
 */

#include <endwell/resource.h>

/* At the end of a runtime, or of a plain thread: reports and aborts what it still has. Returns how many there were. */
unsigned ew__resources_abort_forgotten(const char *what);

/* The newest of those that live; NULL: there is none. */
const struct ew_resource *ew__resources_newest(void);

/* The newest that this runtime, or plain thread, has. */
const struct ew_resource *ew__resources_newest_here(void);

/* From a place into something that owns it beyond this runtime's end, and out of that into one of this thread's. */
void ew__resource_leave_runtime(struct ew_resource *resource);
void ew__resource_enter_runtime(struct ew_resource *resource);

/* In each call that fills a place: one that is full is reported and its resource aborted. */
void ew__place_must_be_empty(void *place, const struct ew_site *site);
