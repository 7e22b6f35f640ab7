/* SPDX-License-Identifier: Apache-2.0 */

/*
 * c-ares speaks the protocol; waiting is ours. Each lookup has a channel of its own, whose sockets are gathered in an
 * epoll descriptor: so one poll operation waits for all of them, and a cancel has one thing to end. The channel's
 * time-outs are a scope's deadline around that operation.
 *
 * A thread of the pool begins the lookup, since files are read then: the configuration, /etc/hosts, /etc/services.
 * Afterwards none is: hosts come before servers, and are not looked at again. What the thread has begun the task goes on
 * with; never do both hold the channel.
 */

#include "io/op.h"

#include <ares.h>
#include <arpa/inet.h>
#include <endwell/clock.h>
#include <endwell/dns.h>
#include <endwell/offload.h>
#include <endwell/resource.h>
#include <endwell/scope.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define EVENTS_COUNT 8

/* c-ares doubles the one with each of the others, in an int of milliseconds. */
#define TIMEOUT_MAX (60 * EW_SECOND)
#define TRIES_MAX   16

struct query {
	const char *name;
	const char *service;
	const struct ew_dns_options *options;
	struct ew_dns_address *addresses;
	unsigned addresses_max;
	unsigned addresses_count;
	int family;
	ares_channel channel;
	int epoll_fd;
	int result; /* once it is over */
	bool over;
};

static int error_of(int status)
{
	switch (status) {
	case ARES_SUCCESS: return 0;
	case ARES_ENOTFOUND:
	case ARES_ENODATA:
	case ARES_ENONAME: return -ENOENT;
	case ARES_ETIMEOUT: return -ETIMEDOUT;
	/* What the last server said: up to 1.28 it is "refused" for each of these. */
	case ARES_ECONNREFUSED:
	case ARES_EFORMERR:
	case ARES_ESERVFAIL:
	case ARES_ENOTIMP:
	case ARES_EREFUSED: return -ECONNREFUSED;
	case ARES_EBADRESP: return -EBADMSG;
	case ARES_EBADNAME:
	case ARES_EBADSTR:
	case ARES_ESERVICE: return -EINVAL;
	case ARES_ENOMEM: return -ENOMEM;
	default: return -EIO;
	}
}

static void keep(struct query *query, const struct ares_addrinfo_node *node)
{
	struct ew_dns_address *address = &query->addresses[query->addresses_count];

	if (query->addresses_count == query->addresses_max ||
	    node->ai_addrlen > sizeof(address->v6))
		return;
	memcpy(&address->any, node->ai_addr, node->ai_addrlen);
	address->bytes = node->ai_addrlen;
	query->addresses_count++;
}

/* Called in any of c-ares's calls on the channel, ares_destroy() included. */
static void answered(void *argument, int status, int timeouts, struct ares_addrinfo *found)
{
	struct query *query = argument;
	const struct ares_addrinfo_node *node;

	(void)timeouts;
	for (node = found ? found->nodes : NULL; node; node = node->ai_next)
		keep(query, node);
	ares_freeaddrinfo(found);
	query->result = error_of(status);
	/* A success without an address would be c-ares's own affair, as would one of another kind. */
	if (query->result == 0 && query->addresses_count == 0)
		query->result = -ENOENT;
	query->over = true;
}

/* What the channel waits for on one of its sockets; a socket of which it wants nothing is about to be closed. */
static void watch(void *argument, ares_socket_t fd, int readable, int writable)
{
	struct query *query = argument;
	struct epoll_event event = {
		.events = (readable ? EPOLLIN : 0U) | (writable ? EPOLLOUT : 0U),
		.data.fd = fd,
	};
	int r;

	if (!event.events) {
		epoll_ctl(query->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
		return;
	}
	r = epoll_ctl(query->epoll_fd, EPOLL_CTL_MOD, fd, &event);
	if (r < 0 && errno == ENOENT)
		r = epoll_ctl(query->epoll_fd, EPOLL_CTL_ADD, fd, &event);
	if (r < 0 && !query->over) {
		query->result = -errno;
		query->over = true;
	}
}

static void initialize_library(void)
{
	ares_library_init(ARES_LIB_INIT_ALL);
}

static int open_channel(struct query *query)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	static char hosts_then_servers[] = "fb";
	const struct ew_dns_options *options = query->options;
	struct ares_options ares = {
		.lookups = hosts_then_servers,
		.sock_state_cb = watch,
		.sock_state_cb_data = query,
		.timeout = (int)((options->timeout_ns + EW_MILLISECOND - 1) / EW_MILLISECOND),
		.tries = (int)options->tries,
	};
	int mask = ARES_OPT_LOOKUPS | ARES_OPT_SOCK_STATE_CB, status;

	pthread_once(&once, initialize_library);
	if (options->timeout_ns)
		mask |= ARES_OPT_TIMEOUTMS;
	if (options->tries)
		mask |= ARES_OPT_TRIES;
	status = ares_init_options(&query->channel, &ares, mask);
	if (status != ARES_SUCCESS) {
		query->channel = NULL;
		return error_of(status);
	}
	if (options->servers)
		status = ares_set_servers_ports_csv(query->channel, options->servers);
	return error_of(status);
}

/* On a thread of the pool. */
static int begin(void *argument)
{
	struct query *query = argument;
	struct ares_addrinfo_hints hints = {
		.ai_family = query->family,
		.ai_socktype =
			SOCK_STREAM, /* one address of each, not one for each kind of socket */
	};
	int r;

	query->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (query->epoll_fd < 0)
		return -errno;
	r = open_channel(query);
	if (r == 0)
		ares_getaddrinfo(query->channel, query->name, query->service, &hints, answered,
				 query);
	return r;
}

static void end_query(void *argument)
{
	struct query *query = argument;

	if (query->channel)
		ares_destroy(query->channel);
	query->channel = NULL;
	if (query->epoll_fd >= 0)
		close(query->epoll_fd);
	query->epoll_fd = -1;
}

static int end_query_close(void *argument)
{
	end_query(argument);
	return 0;
}

/* Until a socket is ready, or until the channel wants to be called for a time-out: -ETIMEDOUT. */
static int wait_ready(struct query *query)
{
	struct ew__task_op poll = {
		.op = { .code = EW__OP_POLL, .fd = query->epoll_fd, .flags = POLLIN },
	};
	struct timeval left;
	int64_t deadline_ns = EW_NEVER;
	int r;

	if (ares_timeout(query->channel, NULL, &left))
		deadline_ns = ew_after(left.tv_sec * EW_SECOND + left.tv_usec * EW_MICROSECOND);

	EW_SCOPE(patience, .deadline_ns = deadline_ns);

	r = ew__op_run_polled(&poll, "an answer from a name server");
	return r < 0 ? ew_scope_finish(&patience, r) : 0;
}

static void process(struct query *query)
{
	struct epoll_event events[EVENTS_COUNT];
	int count = epoll_wait(query->epoll_fd, events, EVENTS_COUNT, 0);

	for (int i = 0; i < count; i++) {
		bool readable = events[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP);
		bool writable = events[i].events & (EPOLLOUT | EPOLLERR | EPOLLHUP);

		/* One that an earlier round has closed is unknown to the channel by now, and passed over. */
		ares_process_fd(query->channel, readable ? events[i].data.fd : ARES_SOCKET_BAD,
				writable ? events[i].data.fd : ARES_SOCKET_BAD);
	}
}

static int await_answer(struct query *query)
{
	int r;

	while (!query->over) {
		r = wait_ready(query);
		if (r == -ETIMEDOUT)
			ares_process_fd(query->channel, ARES_SOCKET_BAD, ARES_SOCKET_BAD);
		else if (r < 0)
			return r;
		else
			process(query);
	}
	return query->result < 0 ? query->result : (int)query->addresses_count;
}

/* Of a numeric address; else 0. c-ares would ask servers for one unless it is told which it is. */
static int numeric_family(const char *name)
{
	struct in6_addr address;

	if (inet_pton(AF_INET, name, &address) == 1)
		return AF_INET;
	return inet_pton(AF_INET6, name, &address) == 1 ? AF_INET6 : 0;
}

/* A number that is no port would be cut to one. */
static bool can_be_service(const char *service)
{
	size_t digits = service ? strspn(service, "0123456789") : 0;

	return digits == 0 || service[digits] || (digits <= 5 && atoi(service) <= UINT16_MAX);
}

static bool can_be(const struct query *query)
{
	const struct ew_dns_options *options = query->options;

	return *query->name && can_be_service(query->service) &&
	       (!options->family || options->family == AF_INET || options->family == AF_INET6) &&
	       options->timeout_ns >= 0 && options->timeout_ns <= TIMEOUT_MAX &&
	       options->tries <= TRIES_MAX;
}

int ew_dns_lookup(const char *name, const char *service, const struct ew_dns_options *options,
		  struct ew_dns_address *ret_addresses, unsigned addresses_max)
{
	static const struct ew_dns_options defaults;
	struct query query = {
		.name = name,
		.service = service,
		.options = options ? options : &defaults,
		.addresses = ret_addresses,
		.addresses_max = addresses_max,
		.family = numeric_family(name),
		.epoll_fd = -1,
	};
	int r, begun;

	ew_assert(addresses_max > 0);
	if (!can_be(&query))
		return -EINVAL;
	if (query.family && query.options->family && query.family != query.options->family)
		return -ENOENT;
	if (!query.family)
		query.family = query.options->family;

	EW_GUARD(ending, &query, .close = end_query_close, .abort = end_query);

	r = ew_offload(begin, &query, &begun);
	if (r == 0)
		r = begun;
	return r < 0 ? r : await_answer(&query);
}
