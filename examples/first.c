/* SPDX-License-Identifier: Apache-2.0 */
#include <endwell/endwell.h>
#include <stdio.h>

static int say_goodbye(void *name)
{
	printf("goodbye, %s\n", (char *)name);
	return ew_sleep(50 * EW_MILLISECOND); /* the task is cancelled, and its ending may wait */
}

static void hang_up(void *name) /* for the day on which there is no time left to wait */
{
	printf("%s was cut off\n", (char *)name);
}

static int visit(void *name)
{
	EW_GUARD(goodbye, name, .close = say_goodbye, .abort = hang_up);
	printf("hello, %s\n", (char *)name);
	return ew_sleep(3600 * EW_SECOND); /* -ECANCELED, long before that */
}

static int program(void *name)
{
	EW_SCOPE(visits);
	return ew_spawn(&visits, visit, name) ?: ew_sleep(100 * EW_MILLISECOND); /* and leaves */
}

int main(void)
{
	return ew_run(NULL, program, "Ada") < 0;
}
