/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The timing wheel against what it promises: never early, at most one tick late when it is turned each tick,
 * and next_ns never after the first deadline. The clock is a number here.
 */

#include "core.h"
#include "time/wheel.h"

#define TICK_NS ((int64_t)1 << EW__WHEEL_TICK_SHIFT)

static struct ew__wheel wheel;
static int64_t now_ns;

struct alarm {
	struct ew__timer timer;
	int64_t expired_ns; /* 0: not yet */
	unsigned expired_count;
	struct ew__timer *cancels;
	struct ew__timer *arms;
	int64_t arms_in_ns;
};

static void expire(struct ew__timer *timer)
{
	struct alarm *alarm = (struct alarm *)timer;

	alarm->expired_ns = now_ns;
	alarm->expired_count++;
	if (alarm->cancels)
		ew__wheel_cancel(&wheel, alarm->cancels);
	if (alarm->arms) {
		alarm->arms->deadline_ns = now_ns + alarm->arms_in_ns;
		ew__wheel_arm(&wheel, alarm->arms);
	}
}

static void arm(struct alarm *alarm, int64_t deadline_ns)
{
	alarm->timer.expire = expire;
	alarm->timer.deadline_ns = deadline_ns;
	alarm->expired_ns = 0;
	ew__wheel_arm(&wheel, &alarm->timer);
}

static void turn_to(int64_t to_ns)
{
	now_ns = to_ns;
	ew__wheel_advance(&wheel, now_ns);
}

static void start(int64_t at_ns)
{
	now_ns = at_ns;
	ew__wheel_init(&wheel, at_ns);
}

TEST(timer_expires_at_its_tick_and_not_before)
{
	struct alarm alarm = { 0 };

	start(EW_SECOND);
	arm(&alarm, EW_SECOND + 10 * TICK_NS + 1);
	turn_to(EW_SECOND + 10 * TICK_NS);
	EXPECT_EQ(alarm.expired_count, 0);
	turn_to(EW_SECOND + 12 * TICK_NS);
	EXPECT_EQ(alarm.expired_count, 1);
	EXPECT_EQ(wheel.armed_count, 0);
	EXPECT(!ew__timer_is_armed(&alarm.timer));
}

TEST(timer_due_already_expires_at_the_next_tick)
{
	struct alarm alarm = { 0 };

	start(EW_SECOND);
	arm(&alarm, 1);
	EXPECT_EQ(alarm.expired_count, 0);
	turn_to(EW_SECOND + TICK_NS);
	EXPECT_EQ(alarm.expired_count, 1);
}

/* Distances around every boundary of the levels, turned tick by tick near the deadline. */
TEST(timer_of_every_level_expires_in_its_tick)
{
	static const int64_t ticks[] = { 1,	 2,	   255,	     256,      257,
					 511,	 512,	   65535,    65536,    65537,
					 131072, 16777215, 16777216, 16777217, 33554432 };
	struct alarm alarm = { 0 };
	int64_t deadline_ns, base_ns;
	size_t i, start_tick;

	for (start_tick = 0; start_tick < 3; start_tick++) {
		for (i = 0; i < sizeof(ticks) / sizeof(ticks[0]); i++) {
			base_ns = TICK_NS * (int64_t)(1000 + start_tick * 255);
			start(base_ns);
			deadline_ns = base_ns + ticks[i] * TICK_NS;
			arm(&alarm, deadline_ns);
			turn_to(deadline_ns - 1);
			EXPECT_EQ(alarm.expired_ns, 0);
			turn_to(deadline_ns);
			EXPECT_EQ(alarm.expired_ns, deadline_ns);
		}
	}
}

/* 2^32 ticks are 52 days: such a timer is parked and dealt out again. */
TEST(timer_beyond_the_last_level_expires_in_its_tick)
{
	struct alarm alarm = { 0 };
	int64_t deadline_ns = EW_SECOND * 86400 * 200 / TICK_NS * TICK_NS;

	start(TICK_NS);
	arm(&alarm, deadline_ns);
	while (ew__wheel_next_ns(&wheel) < deadline_ns)
		turn_to(ew__wheel_next_ns(&wheel));
	EXPECT_EQ(alarm.expired_count, 0);
	turn_to(deadline_ns);
	EXPECT_EQ(alarm.expired_count, 1);
}

TEST(timer_cancelled_does_not_expire_and_cancel_is_idempotent)
{
	struct alarm alarms[3] = { 0 };
	unsigned i;

	start(EW_SECOND);
	for (i = 0; i < 3; i++)
		arm(&alarms[i], EW_SECOND + 5 * TICK_NS);
	ew__wheel_cancel(&wheel, &alarms[1].timer);
	ew__wheel_cancel(&wheel, &alarms[1].timer);
	EXPECT_EQ(wheel.armed_count, 2);
	turn_to(2 * EW_SECOND);
	EXPECT_EQ(alarms[0].expired_count, 1);
	EXPECT_EQ(alarms[1].expired_count, 0);
	EXPECT_EQ(alarms[2].expired_count, 1);
	ew__wheel_cancel(&wheel, &alarms[0].timer);
	EXPECT_EQ(wheel.armed_count, 0);
}

/* The one cancelled is in the list of those that are expiring right now. */
TEST(timer_cancelled_by_one_of_the_same_tick_does_not_expire)
{
	struct alarm alarms[3] = { 0 };
	unsigned i, expired = 0;

	for (i = 0; i < 3; i++) {
		unsigned j;

		start(EW_SECOND);
		memset(alarms, 0, sizeof(alarms));
		for (j = 0; j < 3; j++)
			arm(&alarms[j], EW_SECOND + 5 * TICK_NS);
		/* Newest first: 2 expires before 1 and 0. */
		alarms[2].cancels = &alarms[i].timer;
		turn_to(2 * EW_SECOND);
		expired =
			alarms[0].expired_count + alarms[1].expired_count + alarms[2].expired_count;
		EXPECT_EQ(expired, i == 2 ? 3 : 2);
		EXPECT_EQ(wheel.armed_count, 0);
	}
}

TEST(timer_armed_again_while_expiring_expires_again)
{
	struct alarm alarm = { 0 };

	start(EW_SECOND);
	alarm.arms = &alarm.timer;
	alarm.arms_in_ns = 300 * TICK_NS;
	arm(&alarm, EW_SECOND + TICK_NS);
	turn_to(EW_SECOND + 2 * TICK_NS);
	EXPECT_EQ(alarm.expired_count, 1);
	EXPECT(ew__timer_is_armed(&alarm.timer));
	alarm.arms = NULL;
	turn_to(EW_SECOND + 303 * TICK_NS);
	EXPECT_EQ(alarm.expired_count, 2);
}

/* Only jumping to what next_ns says, every timer expires in its own tick. */
TEST(wheel_next_ns_never_passes_the_first_deadline)
{
	enum { COUNT = 500 };
	static struct alarm alarms[COUNT];
	uint64_t seed = 42;
	int64_t first_ns;
	unsigned i;

	start(EW_SECOND);
	for (i = 0; i < COUNT; i++) {
		seed = seed * 6364136223846793005u + 1442695040888963407u;
		arm(&alarms[i], EW_SECOND + (int64_t)(seed >> (20 + seed % 30)));
	}
	while (wheel.armed_count) {
		first_ns = EW_NEVER;
		for (i = 0; i < COUNT; i++)
			if (ew__timer_is_armed(&alarms[i].timer) &&
			    alarms[i].timer.deadline_ns < first_ns)
				first_ns = alarms[i].timer.deadline_ns;
		EXPECT(ew__wheel_next_ns(&wheel) <= (first_ns / TICK_NS + 1) * TICK_NS);
		EXPECT(ew__wheel_next_ns(&wheel) > now_ns);
		turn_to(ew__wheel_next_ns(&wheel));
	}
	for (i = 0; i < COUNT; i++) {
		EXPECT_EQ(alarms[i].expired_count, 1);
		EXPECT(alarms[i].expired_ns >= alarms[i].timer.deadline_ns);
		EXPECT(alarms[i].expired_ns <= alarms[i].timer.deadline_ns + 2 * TICK_NS);
	}
	EXPECT_EQ(ew__wheel_next_ns(&wheel), EW_NEVER);
}

static uint64_t next_random(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

/* Arms, cancels and turns by chance, and compares with a list that is searched whole. */
TEST(wheel_agrees_with_a_list)
{
	enum { COUNT = 64, STEPS = 200000 };
	static struct alarm alarms[COUNT];
	uint64_t seed = 0x9e3779b97f4a7c15u;
	unsigned step, i, armed;
	bool due;

	start(7 * EW_SECOND + 12345);
	for (step = 0; step < STEPS; step++) {
		struct alarm *alarm = &alarms[next_random(&seed) % COUNT];
		uint64_t what = next_random(&seed) % 8;

		if (what < 4) {
			ew__wheel_cancel(&wheel, &alarm->timer);
			arm(alarm, now_ns + (int64_t)(next_random(&seed) >>
						      (24 + next_random(&seed) % 24)));
		} else if (what < 6) {
			ew__wheel_cancel(&wheel, &alarm->timer);
			alarm->expired_ns = 1;
		} else {
			turn_to(now_ns +
				(int64_t)(next_random(&seed) >> (30 + next_random(&seed) % 24)));
			for (i = 0; i < COUNT; i++) {
				due = alarms[i].timer.deadline_ns + 2 * TICK_NS <= now_ns;
				EXPECT(!due || !ew__timer_is_armed(&alarms[i].timer));
				if (alarms[i].expired_ns == now_ns)
					EXPECT(alarms[i].timer.deadline_ns <= now_ns);
			}
		}
		for (i = armed = 0; i < COUNT; i++)
			armed += ew__timer_is_armed(&alarms[i].timer);
		EXPECT_EQ(armed, wheel.armed_count);
	}
}

TEST_MAIN()
