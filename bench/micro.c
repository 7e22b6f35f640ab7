/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What the core costs beside the bare machine, in one run: yield, spawn and join, timers, and the memory of a
 * parked task. The bare side is a switch in assembly with nothing around it, as a function of its own (bare_*.S); the
 * library's own switch, which is inline and saves only what is live, is shown too. Rounds of both sides alternate, so that a
 * busy machine slows both, and most are shorter than a time slice, so that it leaves many alone; the median is printed with
 * the least and the most.
 *
 * Goals: yield at most 2 times bare, spawn and join at most 5 times, one page for a parked task.
 */

#include "numbers.h"
#include "task/switch.h"
#include "time/wheel.h"

#include <endwell/endwell.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define ROUNDS	    201
#define SWITCHES    100000
#define SPAWNS	    20000
#define TIMERS	    100000
#define PARKED	    100000
#define STACK_BYTES 65536

struct figure {
	double ns[ROUNDS];
};

static double print(const char *name, struct figure *figure)
{
	numbers_sort(figure->ns, ROUNDS);
	printf("%-28s %8.2f ns  (%.2f..%.2f)\n", name, figure->ns[ROUNDS / 2], figure->ns[0],
	       figure->ns[ROUNDS - 1]);
	return figure->ns[ROUNDS / 2];
}

/* The bare side: two stacks, and a body that does nothing. */

#if defined(__x86_64__)
#define BARE_FRAME_WORDS 7 /* six registers and the address */
#define BARE_ADDRESS	 6
#else
#define BARE_FRAME_WORDS 20
#define BARE_ADDRESS	 11
#endif

void bare_switch(void **save, void *to);

static void *bare_main, *bare_other;

static void bare_body(void)
{
	for (;;)
		bare_switch(&bare_other, bare_main);
}

static void *bare_stack(char *stack)
{
	void **frame = (void **)(stack + STACK_BYTES - 64) - BARE_FRAME_WORDS;

	frame[BARE_ADDRESS] = (void *)bare_body;
	return frame;
}

static double bare_switch_ns(char *stack)
{
	int64_t start_ns;
	long i;

	bare_other = bare_stack(stack);
	start_ns = ew_now();
	for (i = 0; i < SWITCHES / 2; i++)
		bare_switch(&bare_main, bare_other);
	return (double)(ew_now() - start_ns) / SWITCHES;
}

static double bare_spawn_ns(char *stack)
{
	int64_t start_ns = ew_now();
	long i;

	for (i = 0; i < SPAWNS; i++) {
		bare_other = bare_stack(stack);
		bare_switch(&bare_main, bare_other);
	}
	return (double)(ew_now() - start_ns) / SPAWNS;
}

static void *inline_main, *inline_other;

static void inline_body(void)
{
	for (;;)
		ew__switch(&inline_other, inline_main);
}

static double inline_switch_ns(char *stack)
{
	void **frame = (void **)(stack + STACK_BYTES - 64);
	int64_t start_ns;
	long i;

	/* As ew__switch() leaves a stack: the saved frame pointer and the address. */
#if defined(__x86_64__)
	*--frame = NULL;
	*--frame = (void *)inline_body;
#else
	*--frame = (void *)inline_body;
	*--frame = NULL;
#endif
	inline_other = frame;
	start_ns = ew_now();
	for (i = 0; i < SWITCHES / 2; i++)
		ew__switch(&inline_main, inline_other);
	return (double)(ew_now() - start_ns) / SWITCHES;
}

/* The library's side. */

static int yield_often(void *argument)
{
	long i;
	int r;

	(void)argument;
	for (i = 0; i < SWITCHES / 2; i++) {
		r = ew_yield();
		if (r < 0)
			return r;
	}
	return 0;
}

static int yield_round(double *ret_ns)
{
	int64_t start_ns = ew_now();
	int r;

	EW_SCOPE(scope);
	r = ew_spawn(&scope, yield_often, NULL);
	if (r == 0)
		r = ew_spawn(&scope, yield_often, NULL);
	if (r == 0)
		r = ew_scope_join(&scope);
	*ret_ns = (double)(ew_now() - start_ns) / SWITCHES;
	return r;
}

static int empty(void *argument)
{
	(void)argument;
	return 0;
}

static int spawn_round(double *ret_ns)
{
	int64_t start_ns = ew_now();
	int r = 0;
	long i;

	EW_SCOPE(scope);
	for (i = 0; i < SPAWNS && r == 0; i++) {
		r = ew_spawn(&scope, empty, NULL);
		if (r == 0)
			r = ew_scope_join(&scope);
	}
	*ret_ns = (double)(ew_now() - start_ns) / SPAWNS;
	return r;
}

static void no_expiry(struct ew__timer *timer)
{
	(void)timer;
}

static double timer_ns(struct ew__wheel *wheel, struct ew__timer *timers)
{
	int64_t start_ns = ew_now(), now_ns = start_ns;
	uint32_t random = 1;
	long i;

	for (i = 0; i < TIMERS; i++) {
		random = random * 1664525 + 1013904223;
		timers[i].deadline_ns =
			now_ns + 100 * EW_SECOND + (int64_t)(random % 3600) * EW_SECOND;
		ew__wheel_arm(wheel, &timers[i]);
	}
	for (i = 0; i < TIMERS; i++)
		ew__wheel_cancel(wheel, &timers[i]);
	return (double)(ew_now() - start_ns) / TIMERS;
}

static long resident_bytes(void)
{
	long pages = 0;
	FILE *statm = fopen("/proc/self/statm", "r");

	if (!statm || fscanf(statm, "%*d %ld", &pages) != 1)
		pages = 0;
	if (statm)
		fclose(statm);
	return pages * sysconf(_SC_PAGESIZE);
}

static int park(void *argument)
{
	(void)argument;
	return ew_sleep_until(EW_NEVER);
}

static int parked(double *ret_bytes)
{
	long before, i;
	int r = 0;

	EW_SCOPE(scope);
	before = resident_bytes();
	for (i = 0; i < PARKED && r == 0; i++)
		r = ew_spawn(&scope, park, NULL);
	if (r == 0)
		r = ew_yield();
	*ret_bytes = (double)(resident_bytes() - before) / PARKED;
	ew_scope_cancel(&scope, EW_REASON_REQUESTED);
	return ew_scope_join(&scope) == -ECANCELED ? r : -EIO;
}

static int measure(void *argument)
{
	static struct figure bare_switching, inline_switching, yield, bare_spawn, spawn, timer;
	struct ew__timer *timers = calloc(TIMERS, sizeof(*timers));
	struct ew__wheel *wheel = calloc(1, sizeof(*wheel));
	double parked_bytes = 0, bare;
	char *stack = argument;
	int i, r = 0;

	if (!timers || !wheel)
		return -1;
	ew__wheel_init(wheel, ew_now());
	for (i = 0; i < TIMERS; i++)
		timers[i].expire = no_expiry;
	for (i = 0; i < ROUNDS && r == 0; i++) {
		bare_switching.ns[i] = bare_switch_ns(stack);
		inline_switching.ns[i] = inline_switch_ns(stack);
		r = yield_round(&yield.ns[i]);
		bare_spawn.ns[i] = bare_spawn_ns(stack);
		if (r == 0)
			r = spawn_round(&spawn.ns[i]);
		timer.ns[i] = timer_ns(wheel, timers);
	}
	free(timers);
	free(wheel);
	if (r == 0)
		r = parked(&parked_bytes);
	if (r < 0)
		return r;
	printf("median of %d rounds (least..most); %s\n", ROUNDS, ew_driver_name());
	print("the library's switch", &inline_switching);
	bare = print("bare switch", &bare_switching);
	printf("  -> %.2f times bare (goal 2)\n", print("yield", &yield) / bare);
	bare = print("bare start, run, leave", &bare_spawn);
	printf("  -> %.2f times bare (goal 5)\n", print("spawn + join", &spawn) / bare);
	print("timer arm + cancel", &timer);
	printf("%-28s %8.0f bytes resident each, of %d\n", "parked task", parked_bytes, PARKED);
	return 0;
}

int main(void)
{
	struct ew_run_options options = { .workers_count = 1 };
	void *stack =
		mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int r;

	if (stack == MAP_FAILED)
		return 1;
	r = ew_run(&options, measure, stack);
	if (r < 0)
		fprintf(stderr, "micro: %s\n", strerror(-r));
	return r < 0;
}
