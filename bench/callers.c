/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Callers: so many calls in flight for so long, over HTTP or AMQP. Prints how many were answered in a second, how many in all,
 * and p50 and p99 in microseconds. `leave` has so many in flight, says so, and when it is told resets all connections at once.
 */

#include "callers.h"

#include "numbers.h"

#include <arpa/inet.h>
#include <err.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define ANSWER_BYTES_MAX 4096
#define EVENTS_MAX	 256

struct connection {
	int fd;
	int64_t began_ns;
	size_t bytes;
	char answer[ANSWER_BYTES_MAX + 1];
};

int64_t callers_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

void callers_note(struct callers *callers, int64_t began_ns)
{
	double took_us = (double)(callers_now() - began_ns) / 1000;

	pthread_mutex_lock(&callers->lock);
	if (callers->count == callers->room) {
		callers->room = 2 * callers->room + 4096;
		callers->took_us =
			realloc(callers->took_us, callers->room * sizeof(*callers->took_us));
		if (!callers->took_us)
			errx(1, "out of memory");
	}
	callers->took_us[callers->count++] = took_us;
	pthread_mutex_unlock(&callers->lock);
}

static int connect_to(int port)
{
	const struct sockaddr_in address = { .sin_family = AF_INET,
					     .sin_port = htons((uint16_t)port),
					     .sin_addr = { htonl(INADDR_LOOPBACK) } };
	int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0)
		err(1, "port %d", port);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return fd;
}

static void ask(int fd, const char *route, const char *body)
{
	char text[512];
	int bytes = snprintf(
		text, sizeof(text),
		"POST /ops/%s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %zu\r\n\r\n%s", route,
		strlen(body), body);

	if (send(fd, text, (size_t)bytes, MSG_NOSIGNAL) != bytes)
		err(1, "send");
}

/* True when the whole answer is there; anything but 200 with a length ends it all. */
static bool is_answered(const struct connection *connection)
{
	const char *body = strstr(connection->answer, "\r\n\r\n");
	const char *length = strcasestr(connection->answer, "content-length:");

	if (!body)
		return false;
	if (strncmp(connection->answer, "HTTP/1.1 200 ", 13) != 0 || !length)
		errx(1, "answered: %s", connection->answer);
	return connection->bytes >= (size_t)(body + 4 - connection->answer) +
					    strtoul(length + strlen("content-length:"), NULL, 10);
}

static void hear(struct connection *connection)
{
	ssize_t n = recv(connection->fd, connection->answer + connection->bytes,
			 ANSWER_BYTES_MAX - connection->bytes, 0);

	if (n <= 0)
		errx(1, "the server has closed a connection, or answered too much");
	connection->bytes += (size_t)n;
	connection->answer[connection->bytes] = '\0';
}

static void begin(struct connection *connection, const char *route)
{
	connection->bytes = 0;
	connection->began_ns = callers_now();
	ask(connection->fd, route, "{\"ms\": 0}");
}

void call_http(struct callers *callers, int port, const char *route)
{
	struct connection *connections = calloc(callers->in_flight, sizeof(*connections));
	struct epoll_event events[EVENTS_MAX];
	int poll = epoll_create1(EPOLL_CLOEXEC);
	unsigned left = callers->in_flight;

	for (unsigned i = 0; i < callers->in_flight; i++) {
		struct epoll_event event = { .events = EPOLLIN,
					     .data = { .ptr = &connections[i] } };

		connections[i].fd = connect_to(port);
		epoll_ctl(poll, EPOLL_CTL_ADD, connections[i].fd, &event);
		begin(&connections[i], route);
	}
	while (left > 0) {
		int count = epoll_wait(poll, events, EVENTS_MAX, -1);

		for (int i = 0; i < count; i++) {
			struct connection *connection = events[i].data.ptr;

			hear(connection);
			if (!is_answered(connection))
				continue;
			callers_note(callers, connection->began_ns);
			if (callers_now() < callers->end_ns)
				begin(connection, route);
			else
				left--;
		}
	}
	free(connections);
}

/* Exits without a close of its own, and so by resets: the kernel is quicker than a loop. */
static void leave(unsigned count, int port, const char *route)
{
	const struct linger reset = { .l_onoff = 1 };

	for (unsigned i = 0; i < count; i++) {
		int fd = connect_to(port);

		setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
		ask(fd, route, "{\"ms\": 600000, \"step_ms\": 600000}");
	}
	puts("there");
	fflush(stdout);
	(void)getchar();
}

static void print(struct callers *callers, int64_t began_ns)
{
	double seconds = (double)(callers_now() - began_ns) / 1e9;

	if (callers->count == 0)
		errx(1, "nothing was answered");
	numbers_sort(callers->took_us, callers->count);
	printf("%.1f %zu %.1f %.1f\n", (double)callers->count / seconds, callers->count,
	       callers->took_us[callers->count / 2], numbers_p99(callers->took_us, callers->count));
}

int main(int argc, char **argv)
{
	struct callers callers = { .lock = PTHREAD_MUTEX_INITIALIZER };
	struct rlimit limit;
	int64_t began_ns = callers_now();

	if (argc < 5 || argc > 6)
		errx(2,
		     "usage: callers http|amqp|amqp-granted|leave PORT ROUTE|QUEUE IN_FLIGHT [SECONDS]");
	callers.in_flight = (unsigned)strtoul(argv[4], NULL, 10);
	if (callers.in_flight == 0 || callers.in_flight > CALLERS_MAX)
		errx(2, "IN_FLIGHT is from 1 to %d", CALLERS_MAX);
	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	if (strcmp(argv[1], "leave") == 0) {
		leave(callers.in_flight, atoi(argv[2]), argv[3]);
		return 0;
	}
	callers.end_ns = began_ns + (int64_t)(strtod(argc > 5 ? argv[5] : "1", NULL) * 1e9);
	if (strcmp(argv[1], "http") == 0)
		call_http(&callers, atoi(argv[2]), argv[3]);
	else
		call_amqp(&callers, atoi(argv[2]), argv[3], strcmp(argv[1], "amqp-granted") == 0);
	print(&callers, began_ns);
	free(callers.took_us);
	return 0;
}
