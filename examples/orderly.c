/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A resource that wants an orderly goodbye, and complains when nobody says it. The ending cannot be forgotten: it runs
 * in any case. But on the way to success a program should close by name and look at the result, so a close
 * that comes by itself names the line that opened what was forgotten.
 */

#include <endwell/endwell.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

struct mailbox {
	struct ew_resource resource;
	bool orderly;
};

static void mailbox_free(struct mailbox *mailbox)
{
	ew_resource_deinit(&mailbox->resource);
	free(mailbox);
}

static int say_goodbye(void *resource)
{
	struct mailbox *mailbox = resource;
	const struct ew_site *site = mailbox->resource.site;
	int r = ew_sleep(20 * EW_MILLISECOND); /* the server confirms */

	if (r < 0)
		return r;
	if (!mailbox->orderly)
		printf("warning: nobody closed the mailbox opened at %s:%d\n", site->file,
		       site->line);
	mailbox_free(mailbox);
	return 0;
}

static void hang_up(void *resource)
{
	mailbox_free(resource);
}

static const struct ew_resource_type mailbox_type = {
	.name = "mailbox",
	.close = say_goodbye,
	.abort = hang_up,
};

static int mailbox_open_at(const struct ew_site *site, struct mailbox **ret_mailbox)
{
	struct mailbox *mailbox = calloc(1, sizeof(*mailbox));

	if (!mailbox)
		return -ENOMEM;
	ew_resource_init(&mailbox->resource, &mailbox_type, site);
	*ret_mailbox = mailbox;
	return 0;
}

#define mailbox_open(ret_mailbox) mailbox_open_at(EW_SITE("mailbox_open"), ret_mailbox)

EW_SUSPENDS static int mailbox_close(struct mailbox **mailbox)
{
	if (*mailbox)
		(*mailbox)->orderly = true;
	return ew_close(mailbox);
}

static int careful(void)
{
	EW_OWN(mailbox, mailbox);
	int r = mailbox_open(&mailbox);

	return r < 0 ? r : mailbox_close(&mailbox);
}

static int forgetful(void)
{
	EW_OWN(mailbox, mailbox);

	return mailbox_open(&mailbox);
}

static int program(void *unused)
{
	int r = careful();

	(void)unused;
	printf("careful: %s\n", r == 0 ? "closed" : "not closed");
	if (r == 0)
		r = forgetful();
	printf("forgetful: all the same it is closed\n");
	return r;
}

int main(void)
{
	return ew_run(NULL, program, NULL) < 0;
}
