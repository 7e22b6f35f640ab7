/* SPDX-License-Identifier: Apache-2.0 */
#include "probe.h"

#include "numbers.h"

#include <arpa/inet.h>
#include <err.h>
#include <netinet/tcp.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define INTERVAL_NS 1000000

int64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static void sleep_until(int64_t due_ns)
{
	struct timespec due = { .tv_sec = due_ns / 1000000000, .tv_nsec = due_ns % 1000000000 };

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL))
		;
}

static int connect_to(uint16_t port)
{
	struct sockaddr_in address = {
		.sin_family = AF_INET,
		.sin_port = htons(port),
		.sin_addr = { htonl(INADDR_LOOPBACK) },
	};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;

	if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		err(1, "the probe cannot connect to port %u", port);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return fd;
}

static void ask(int fd, const char *question, const char *answer_end)
{
	char answer[2048];
	size_t used = 0;
	ssize_t n;

	if (write(fd, question, strlen(question)) < 0)
		err(1, "the probe cannot ask");
	do {
		n = read(fd, answer + used, sizeof(answer) - 1 - used);
		if (n <= 0)
			errx(1, "the probe got no answer");
		used += (size_t)n;
		answer[used] = '\0';
	} while (!strstr(answer, answer_end));
}

static void run(struct probe_record *record, uint16_t port, const char *question,
		const char *answer_end)
{
	int fd = connect_to(port);
	int64_t due_ns = now_ns();
	uint32_t count = 0;

	while (!atomic_load(&record->stop) && count < PROBE_ASKS_MAX) {
		due_ns += INTERVAL_NS;
		sleep_until(due_ns);
		ask(fd, question, answer_end);
		record->asks[count].due_ns = due_ns;
		record->asks[count].latency_ns = now_ns() - due_ns;
		atomic_store(&record->count, ++count);
	}
	_exit(0);
}

void probe_start(struct probe *probe, uint16_t port, const char *question, const char *answer_end)
{
	probe->record = mmap(NULL, sizeof(*probe->record), PROT_READ | PROT_WRITE,
			     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (probe->record == MAP_FAILED)
		err(1, "no memory for the probe");
	probe->child = fork();
	if (probe->child < 0)
		err(1, "fork");
	if (probe->child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		run(probe->record, port, question, answer_end);
	}
}

struct latency probe_look(const struct probe *probe, int64_t from_ns, int64_t until_ns)
{
	const struct probe_record *record = probe->record;
	uint32_t all = atomic_load(&record->count), n = 0;
	double *ms = malloc(sizeof(*ms) * (all + 1));
	struct latency latency = { 0 };

	if (!ms)
		err(1, "no memory");
	for (uint32_t i = 0; i < all; i++)
		if (record->asks[i].due_ns >= from_ns && record->asks[i].due_ns < until_ns)
			ms[n++] = (double)record->asks[i].latency_ns / 1e6;
	numbers_sort(ms, n);
	if (n > 0)
		latency = (struct latency){ ms[n / 2], numbers_p99(ms, n), ms[n - 1], n };
	free(ms);
	return latency;
}

void probe_stop(struct probe *probe)
{
	int status;

	atomic_store(&probe->record->stop, 1);
	if (waitpid(probe->child, &status, 0) < 0 || status != 0)
		errx(1, "the probe failed");
	munmap(probe->record, sizeof(*probe->record));
}
