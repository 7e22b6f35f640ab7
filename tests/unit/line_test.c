/* SPDX-License-Identifier: Apache-2.0 */
/* How long one waits in a waiting room, as it is told while others come. */
#include "../ew_test.h"

#include <pthread.h>
#include <stdlib.h>

#include <endwell/clock.h>

#include "common/line.h"

#define ROOMS 200000

static struct line *rooms;

/* Nobody has come to them since the machine was started. */
static void *look_into_each(void *longest)
{
	int64_t *longest_ns = longest;

	for (unsigned i = 0; i < ROOMS; i++) {
		int64_t wait_ns;

		while (atomic_load(&rooms[i].waiting) == 0)
			;
		wait_ns = line_wait_ns(&rooms[i]);
		if (wait_ns > *longest_ns)
			*longest_ns = wait_ns;
	}
	return NULL;
}

TEST(line_that_begins_tells_nobody_how_long_it_was_idle)
{
	int64_t longest_ns = 0, began_ns = ew_now();
	pthread_t looker;

	rooms = calloc(ROOMS, sizeof(*rooms));
	EXPECT(rooms);
	EXPECT_EQ(pthread_create(&looker, NULL, look_into_each, &longest_ns), 0);
	for (unsigned i = 0; i < ROOMS; i++)
		(void)line_join(&rooms[i]);
	EXPECT_EQ(pthread_join(looker, NULL), 0);
	EXPECT(longest_ns <= ew_now() - began_ns);
	free(rooms);
}

TEST_MAIN()
