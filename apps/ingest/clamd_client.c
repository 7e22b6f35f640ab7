/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One connection per command: clamd closes it after its answer, so the end of the stream is the end
 * of the answer, and a connection that was lost cannot be mistaken for a later one.
 *
 * The credentials of the socket are those of the process that called listen(2). They tell a clamd
 * that was restarted from the one that was tested, before a file is entrusted to it.
 */
#include "clamd_client.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <endwell/clock.h>
#include <endwell/reader.h>
#include <endwell/socket.h>

#include "clamd.h"

#define CONNECT_TIMEOUT (10 * EW_SECOND)

static int dial(const struct clamd_client *client, struct ew_socket **ret_socket)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int r;

	EW_SCOPE(patience, .deadline_ns = ew_after(CONNECT_TIMEOUT));

	strncpy(address.sun_path, client->socket, sizeof(address.sun_path) - 1);
	r = ew_socket_connect((const struct sockaddr *)&address, sizeof(address), ret_socket);
	return ew_scope_finish(&patience, r);
}

static pid_t listener(const struct ew_socket *socket)
{
	struct ucred peer;
	socklen_t bytes = sizeof(peer);

	if (getsockopt(ew_socket_fd(socket), SOL_SOCKET, SO_PEERCRED, &peer, &bytes) < 0)
		return 0;
	return peer.pid;
}

/* What a connection that ends while it is used says about clamd. */
static int lost(int r)
{
	return r == -EPIPE ? -ECONNRESET : r;
}

/* Everything until clamd closes; more than CLAMD_REPLY_BYTES_MAX is no answer of clamd's. */
static int read_reply(struct ew_socket *socket, char *reply)
{
	struct ew_reader reader;
	const char *data;
	int r;

	ew_reader_init_socket(&reader, socket, reply, CLAMD_REPLY_BYTES_MAX);
	r = ew_reader_peek(&reader, CLAMD_REPLY_BYTES_MAX, &data);
	if (r < 0)
		return lost(r);
	if (r == 0)
		return -ECONNRESET;
	return r < CLAMD_REPLY_BYTES_MAX ? r : -EPROTO;
}

static int send_command(struct ew_socket *socket, enum clamd_command command)
{
	const char *text;
	size_t bytes;

	text = clamd_command(command, &bytes);
	return lost(ew_socket_send(socket, text, bytes));
}

static int judge(enum clamd_reply reply)
{
	if (reply == CLAMD_SCANNED)
		return 0;
	return reply == CLAMD_TIMED_OUT ? -ECONNRESET : -EPROTO;
}

int clamd_client_version(const struct clamd_client *client, char *ret_engine, pid_t *ret_pid)
{
	EW_OWN(ew_socket, socket);
	char reply[CLAMD_REPLY_BYTES_MAX];
	int r, bytes;

	r = dial(client, &socket);
	if (r < 0)
		return r;
	r = send_command(socket, CLAMD_VERSION);
	if (r < 0)
		return r;
	bytes = read_reply(socket, reply);
	if (bytes < 0)
		return bytes;
	r = judge(clamd_parse_version(reply, (size_t)bytes, ret_engine));
	if (r == 0)
		*ret_pid = listener(socket);
	return r;
}

int clamd_client_scan(const struct clamd_client *client, pid_t pid, int fd, struct verdict *verdict)
{
	EW_OWN(ew_socket, socket);
	char reply[CLAMD_REPLY_BYTES_MAX];
	int r, bytes;

	r = dial(client, &socket);
	if (r < 0)
		return r;
	if (pid != 0 && listener(socket) != pid)
		return -ESTALE;
	r = send_command(socket, CLAMD_FILDES);
	if (r < 0)
		return r;
	r = lost(ew_socket_send_fd(socket, "", 1, fd));
	if (r < 0)
		return r;
	bytes = read_reply(socket, reply);
	if (bytes < 0)
		return bytes;
	return judge(clamd_parse_scan(reply, (size_t)bytes, verdict));
}
