/* SPDX-License-Identifier: Apache-2.0 */
/* Who is a tenant, with which limits, and how many there can be. */
#include "../ew_test.h"

#include "gateway/gateway.h"

static struct options options;
static struct gateway gateway = { .options = &options };
static const struct route_config config = {
	.name = "r",
	.concurrency = 10,
	.waiting_room = 8,
	.tenant_header = "X-Tenant",
	.tenant_concurrency = 4,
	.tenant_waiting_room = 3,
};

static struct route begin(void)
{
	struct route route = { .gateway = &gateway, .config = &config };

	options.config.tenants_count = 2;
	options.config.tenants[0] =
		(struct tenant_config){ .name = "large", .concurrency = 99, .waiting_room = 99 };
	options.config.tenants[1] =
		(struct tenant_config){ .name = "slow", .waiting_room = CONFIG_NOT_GIVEN };
	return route;
}

static void expect_limits(struct route *route, const char *name, unsigned int permits,
			  unsigned int waiting_room)
{
	struct tenant *tenant = NULL;

	EXPECT_EQ(tenant_use(route, name, &tenant), 0);
	EXPECT_STR(tenant->name, name);
	EXPECT_EQ(ew_semaphore_count(tenant->permits).capacity, permits);
	EXPECT_EQ(tenant->waiting_room, waiting_room);
	tenant_drop(tenant);
}

TEST(gateway_tenant_has_its_own_limits_or_those_of_everybody)
{
	struct route route = begin();

	EXPECT_EQ(tenants_init(&route), 0);
	expect_limits(&route, "large", 10, 8); /* no more than there is */
	expect_limits(&route, "slow", 4, 3);
	expect_limits(&route, "unknown", 4, 3);
	tenants_deinit(&route);
}

TEST(gateway_tenants_that_no_section_names_are_bounded)
{
	static struct tenant *tenants[TENANTS_UNNAMED_MAX];
	struct tenant *one = NULL;
	struct route route = begin();
	char name[16];

	EXPECT_EQ(tenants_init(&route), 0);
	for (int i = 0; i < TENANTS_UNNAMED_MAX; i++) {
		sprintf(name, "t%d", i);
		EXPECT_EQ(tenant_use(&route, name, &tenants[i]), 0);
	}
	EXPECT_EQ(tenant_use(&route, "more", &one), -EUSERS);
	EXPECT_EQ(tenant_use(&route, "slow", &one), 0);
	tenant_drop(one);
	EXPECT_EQ(tenant_use(&route, "t7", &one), 0);
	EXPECT(one == tenants[7]);
	tenant_drop(one);
	tenants[0]->shed = 5;
	tenant_drop(tenants[0]);
	EXPECT_EQ(route.shed_unnamed, 5);
	EXPECT_EQ(tenant_use(&route, "more", &tenants[0]), 0);
	for (int i = 0; i < TENANTS_UNNAMED_MAX; i++)
		tenant_drop(tenants[i]);
	EXPECT_EQ(gateway.tenants_unnamed, 0);
	tenants_deinit(&route);
	tenant_drop(NULL);
}

TEST_MAIN()
