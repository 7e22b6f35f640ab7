/* SPDX-License-Identifier: Apache-2.0 */
#include "bare_storm.h"

#include "probe.h"

#include <err.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define BUDGET_NS 200000

static int *stage(const struct bare_storm *storm)
{
	int *files = malloc(sizeof(*files) * storm->count);
	char *bytes = calloc(1, storm->file_bytes);

	if (!files || !bytes)
		err(1, "no memory");
	for (unsigned i = 0; i < storm->count; i++) {
		files[i] = open(storm->folders[i % storm->folders_count],
				O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
		if (files[i] < 0 || write(files[i], bytes, storm->file_bytes) < 0)
			err(1, "cannot stage a file in %s", storm->folders[0]);
	}
	free(bytes);
	return files;
}

static void echo(int fd)
{
	char bytes[256];
	ssize_t n = read(fd, bytes, sizeof(bytes));

	if (n > 0 && write(fd, bytes, (size_t)n) < 0)
		err(1, "the echo failed");
}

/* Closes files from the end until the budget is used up. */
static unsigned remove_some(const int *files, unsigned left)
{
	int64_t end_ns = now_ns() + BUDGET_NS;

	while (left > 0 && now_ns() < end_ns)
		close(files[--left]);
	return left;
}

void bare_storm_run(const struct bare_storm *storm)
{
	int *files = stage(storm);
	unsigned left = storm->count;
	bool removing = false;
	struct pollfd watched[] = {
		{ .fd = storm->command_fd, .events = POLLIN },
		{ .fd = storm->listener_fd, .events = POLLIN },
		{ .fd = -1, .events = POLLIN },
	};
	int64_t gone_ns = 0;
	char command;

	if (write(storm->command_fd, &gone_ns, sizeof(gone_ns)) < 0) /* staged */
		err(1, "cannot report");
	for (;;) {
		poll(watched, 3, removing ? 0 : -1);
		if (watched[2].revents)
			echo(watched[2].fd);
		if (watched[1].revents)
			watched[2].fd = accept4(storm->listener_fd, NULL, NULL, SOCK_CLOEXEC);
		if (watched[0].revents) {
			if (read(storm->command_fd, &command, 1) <= 0)
				break;
			removing = true;
		}
		if (!removing)
			continue;
		left = remove_some(files, left);
		if (left > 0)
			continue;
		removing = false;
		gone_ns = now_ns();
		if (write(storm->command_fd, &gone_ns, sizeof(gone_ns)) < 0)
			err(1, "cannot report");
	}
	free(files);
}
