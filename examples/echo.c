/* SPDX-License-Identifier: Apache-2.0 */

/*
 * An echo server on 127.0.0.1. Each connection is handed to a task of its own, which owns the socket before its
 * first instruction. On SIGINT or SIGTERM it accepts no more, gives the open connections two seconds, cuts those that
 * are still there, and says how many that were.
 */

#include <arpa/inet.h>
#include <endwell/endwell.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

struct server {
	struct ew_listener *listener;
	struct ew_scope *sessions;
	unsigned cut_count;
};

/* The socket is in a place of this task: it is shut down and closed whichever way this function ends. */
static int echo(void *argument, void *place)
{
	struct ew_socket **socket = place;
	struct server *server = argument;
	const char *data;
	int r;

	while ((r = ew_socket_receive(*socket, &data)) > 0) {
		r = ew_socket_send(*socket, data, (size_t)r);
		if (r < 0)
			break;
	}
	if (r == -ECANCELED)
		server->cut_count++;
	return r;
}

static int accept_loop(void *argument)
{
	struct server *server = argument;
	int r;

	for (;;) {
		EW_OWN(ew_socket, socket);

		r = ew_listener_accept(server->listener, &socket);
		if (r < 0)
			return r;
		r = ew_spawn_take(server->sessions, echo, server, &socket);
		if (r < 0)
			return r; /* nothing was taken: the socket is closed here */
	}
}

static int wait_for_signal(const sigset_t *set)
{
	EW_OWN(ew_signals, signals);
	int r = ew_signals_open(set, &signals);

	return r < 0 ? r : ew_signals_wait(signals);
}

static int serve(struct server *server, const sigset_t *set)
{
	EW_SCOPE(sessions, .policy = EW_POLICY_INDEPENDENT);
	EW_SCOPE(accepting);
	int r;

	server->sessions = &sessions;
	r = ew_spawn(&accepting, accept_loop, server);
	if (r == 0)
		r = wait_for_signal(set);
	if (r < 0)
		return r; /* both blocks are left: everything is cancelled and awaited */

	r = ew_scope_close(&accepting, EW_NOW, EW_REASON_SHUTDOWN);
	if (r < 0 && r != -ETIMEDOUT)
		return r;
	r = ew_scope_close(&sessions, ew_after(2 * EW_SECOND), EW_REASON_SHUTDOWN);
	printf("%u connections cut\n", server->cut_count);
	return r == -ETIMEDOUT ? 0 : r;
}

static int program(void *argument)
{
	struct sockaddr_in address = { .sin_family = AF_INET };
	struct server server = { 0 };
	EW_OWN(ew_listener, listener);
	struct sockaddr_storage bound;
	int r;

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	r = ew_listener_open((struct sockaddr *)&address, sizeof(address), 128, &listener);
	if (r == 0)
		r = ew_listener_address(listener, &bound);
	if (r < 0)
		return r;
	server.listener = listener;
	printf("127.0.0.1:%d\n", ntohs(((struct sockaddr_in *)&bound)->sin_port));
	fflush(stdout);
	return serve(&server, argument);
}

int main(void)
{
	struct ew_run_options options = { .workers_count = 1 };
	sigset_t set;
	int r;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	options.signals = &set;
	r = ew_run(&options, program, &set);
	return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
