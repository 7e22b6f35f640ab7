/* SPDX-License-Identifier: Apache-2.0 */
/* The sum of limits, at its corners and in print. */
#include "../ew_test.h"

#include "ingest/capacity.h"

#define GIB (UINT64_C(1) << 30)

TEST(capacity_under_a_hard_limit_of_20000_is_about_9800)
{
	struct capacity capacity = { .descriptors = 20000,
				     .waiting = 100,
				     .memory_bytes = 8 * GIB };
	char error[256], line[256];

	EXPECT_EQ(capacity_compute(&capacity, error, sizeof(error)), 0);
	EXPECT_EQ(capacity.slots, 9822);
	capacity_print(&capacity, line, sizeof(line));
	EXPECT_STR(line,
		   "9822 uploads = min(10000, (20000 descriptors - 256 - 100 waiting) / 2 = 9822, "
		   "8192 MiB / 192 KiB each = 43690)");
}

TEST(capacity_is_the_smallest_of_three)
{
	struct capacity capacity = { .descriptors = 1048576,
				     .waiting = 100,
				     .memory_bytes = 8 * GIB };
	char error[256];

	EXPECT_EQ(capacity_compute(&capacity, error, sizeof(error)), 0);
	EXPECT_EQ(capacity.slots, 10000);
	capacity.memory_bytes = GIB;
	EXPECT_EQ(capacity_compute(&capacity, error, sizeof(error)), 0);
	EXPECT_EQ(capacity.slots, GIB / CAPACITY_UPLOAD_BYTES);
	capacity.descriptors = 1024;
	EXPECT_EQ(capacity_compute(&capacity, error, sizeof(error)), 0);
	EXPECT_EQ(capacity.slots, 334);
}

/* Every descriptor is in the sum once: connections, one file for each upload, and the rest of the reserve. */
TEST(capacity_that_uploads_leave_goes_to_connections)
{
	struct capacity capacity = { .descriptors = 20000,
				     .waiting = 100,
				     .memory_bytes = 8 * GIB };
	char error[256];

	EXPECT_EQ(capacity_compute(&capacity, error, sizeof(error)), 0);
	EXPECT_EQ(capacity.connections, 9822 + 100 + 32);
	capacity.asked_slots = 1;
	EXPECT_EQ(capacity_compute(&capacity, error, sizeof(error)), 0);
	EXPECT_EQ(capacity.connections, 10000 + 100 + 32);
	capacity.descriptors = 1024;
	EXPECT_EQ(capacity_compute(&capacity, error, sizeof(error)), 0);
	EXPECT_EQ(capacity.connections + capacity.slots, 1024 - 256 + 32);
	capacity.memory_bytes = 100 * CAPACITY_UPLOAD_BYTES;
	EXPECT_EQ(capacity_compute(&capacity, error, sizeof(error)), 0);
	EXPECT_EQ(capacity.connections, 100 + 100 + 32);
}

/* Rings, doorbells and listeners of 64 workers would not fit into what is enough for 8. */
TEST(capacity_reserves_what_many_workers_take)
{
	struct capacity capacity = { .descriptors = 20000,
				     .waiting = 100,
				     .memory_bytes = 8 * GIB };
	char error[256], line[256];

	capacity.workers = 8;
	EXPECT_EQ(capacity_compute(&capacity, error, sizeof(error)), 0);
	EXPECT_EQ(capacity.slots, (20000 - 256 - 100) / 2);
	capacity.workers = 64;
	EXPECT_EQ(capacity_compute(&capacity, error, sizeof(error)), 0);
	EXPECT_EQ(capacity.slots, (20000 - 256 - 56 * 3 - 100) / 2);
	capacity_print(&capacity, line, sizeof(line));
	EXPECT(strstr(line, "(20000 descriptors - 424 - 100 waiting)") != NULL);
	capacity.descriptors = 400;
	EXPECT_EQ(capacity_compute(&capacity, error, sizeof(error)), -ERANGE);
	EXPECT(strstr(error, "a reserve of 424 ") != NULL);
}

TEST(capacity_asked_for_is_given_or_refused)
{
	struct capacity capacity = {
		.descriptors = 1024, .waiting = 100, .memory_bytes = GIB, .asked_slots = 10
	};
	char error[256] = "";

	EXPECT_EQ(capacity_compute(&capacity, error, sizeof(error)), 0);
	EXPECT_EQ(capacity.slots, 10);
	capacity.asked_slots = 335;
	EXPECT_EQ(capacity_compute(&capacity, error, sizeof(error)), -ERANGE);
	EXPECT(strstr(error, "descriptors allow 334") != NULL);
}

TEST(capacity_for_not_one_upload_is_refused)
{
	struct capacity capacity = { .descriptors = 256 + 100 + 1,
				     .waiting = 100,
				     .memory_bytes = GIB };
	char error[256] = "";

	EXPECT_EQ(capacity_compute(&capacity, error, sizeof(error)), -ERANGE);
	EXPECT(strstr(error, "357 descriptors") != NULL);
	capacity.descriptors = 10; /* less than the reserve: nothing wraps around */
	EXPECT_EQ(capacity_compute(&capacity, error, sizeof(error)), -ERANGE);
	EXPECT_EQ(capacity.by_descriptors, 0);
}

TEST_MAIN()
