/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Services and their clients in simulated worlds, with everything that may go wrong, for many seeds. A scenario's last
 * part is calm: there all must go well.
 */

#include "sim.h"

#define CLIENTS	       6
#define BODY_BYTES_MAX 60000

/* ---- echo ---- */

static int echo_session(void *argument, void *place)
{
	struct ew_socket **socket = place;
	const char *data;
	int r;

	(void)argument;
	while ((r = seen(ew_socket_receive(*socket, &data))) > 0) {
		r = seen(ew_socket_send(*socket, data, (size_t)r));
		if (r < 0)
			return r;
	}
	return r;
}

static int serve_echo(void *listener)
{
	return accept_all(listener, echo_session);
}

struct echo_client {
	unsigned number;
	struct ew_socket *socket;
	size_t bytes;
	size_t got;
};

static int speak(void *argument)
{
	struct echo_client *client = argument;
	char part[3000];
	size_t at, size, i;
	int r;

	for (at = 0; at < client->bytes; at += size) {
		size = 1 + ew_sim_random(sizeof(part));
		size = size < client->bytes - at ? size : client->bytes - at;
		for (i = 0; i < size; i++)
			part[i] = pattern(client->number, at + i);
		r = seen(ew_socket_send(client->socket, part, size));
		if (r < 0)
			return r;
	}
	return ew_socket_shutdown(client->socket, SHUT_WR);
}

/* No byte is lost, doubled or out of order, however it ends. */
static int listen_to(struct echo_client *client)
{
	char part[3000];
	int r, i;

	while ((r = seen(ew_socket_recv(client->socket, part, sizeof(part)))) > 0)
		for (i = 0; i < r; i++)
			EXPECT_EQ(part[i], pattern(client->number, client->got++));
	EXPECT(client->got <= client->bytes);
	return r;
}

/* 0: everything came back. */
static int converse(struct echo_client *client)
{
	int r;

	EW_OWN(ew_socket, socket);
	EW_SCOPE(scope);

	r = connect_there(&socket);
	if (r < 0)
		return r;
	client->socket = socket;
	client->got = 0;
	client->bytes = ew_sim_random(BODY_BYTES_MAX);
	r = ew_spawn(&scope, speak, client);
	if (r == 0)
		r = listen_to(client);
	r = ew_scope_finish(&scope, r);
	if (r < 0)
		return r;
	return client->got == client->bytes ? 0 : -ECONNRESET;
}

static int echo_client(void *argument)
{
	struct echo_client *client = argument;
	int64_t patience_ns = ew_sim_random(2) ? EW_SECOND : (int64_t)ew_sim_random(EW_MILLISECOND);

	EW_SCOPE(scope, .deadline_ns = ew_after(patience_ns));

	return ew_scope_finish(&scope, converse(client));
}

/* Nobody accepts them: they are in the listener's hands when it ends. */
static int come_too_late(void)
{
	int r;

	EW_OWN(ew_socket, one);
	EW_OWN(ew_socket, other);

	r = connect_there(&one);
	if (r == 0)
		r = connect_there(&other);
	return r < 0 ? r : ew_sleep(EW_MILLISECOND);
}

static int echo(void *argument)
{
	struct echo_client clients[CLIENTS + 1];
	unsigned i;
	int r;

	EW_OWN(ew_listener, listener);
	EW_SCOPE(server);
	EW_SCOPE(visitors, .policy = EW_POLICY_INDEPENDENT);

	(void)argument;
	r = listen_here(&listener);
	EXPECT_EQ(r, 0);
	r = ew_spawn(&server, serve_echo, listener);
	EXPECT_EQ(r, 0);
	for (i = 0; i <= CLIENTS; i++)
		clients[i].number = i;
	for (i = 0; i < CLIENTS; i++) {
		r = ew_spawn(&visitors, echo_client, &clients[i]);
		EXPECT_EQ(r, 0);
	}
	r = ew_scope_finish(&visitors, 0);
	EXPECT_EQ(r, 0);
	ew_sim_calm();
	r = converse(&clients[CLIENTS]);
	EXPECT_EQ(r, 0);
	ew_scope_cancel(&server, EW_REASON_REQUESTED);
	r = ew_scope_finish(&server, 0);
	EXPECT(r == 0 || r == -ECANCELED);
	return come_too_late();
}

TEST(sim_echo_service_under_all_faults)
{
	try_seeds(400, echo, NULL, NULL);
}

/* ---- uploads ---- */

#define UPLOADS (CLIENTS + 1)

static struct directory bucket;
static struct ew_file *bucket_dir;
static bool acknowledged[UPLOADS];
static uint32_t upload_bytes[UPLOADS];

struct upload_head {
	uint32_t number, bytes;
};

static int receive_exactly(struct ew_socket *socket, void *buffer, size_t size)
{
	char *at = buffer;
	int r;

	for (; size > 0; at += r, size -= (size_t)r) {
		r = seen(ew_socket_recv(socket, at, size));
		if (r <= 0)
			return r < 0 ? r : -ECONNRESET;
	}
	return 0;
}

static int body_to_file(struct ew_socket *socket, struct ew_file *file, uint32_t bytes)
{
	const char *data;
	int64_t at = 0;
	int r, written;

	while (at < bytes) {
		r = seen(ew_socket_receive(socket, &data));
		if (r <= 0)
			return r < 0 ? r : -ECONNRESET;
		EXPECT(at + r <= bytes);
		written = seen(ew_file_write(file, data, (size_t)r, at));
		if (written < 0)
			return written;
		at += r;
	}
	return 0;
}

/* Without a name, or with one that goes when the file ends. */
static int open_staged(const struct upload_head *head, bool named, struct ew_tempfile **ret_file)
{
	char name[24];

	snprintf(name, sizeof(name), "staged-%u", head->number);
	return seen(named ? ew_tempfile_open_named(bucket_dir, name, ret_file)
			  : ew_tempfile_open(bucket_dir, ret_file));
}

static int store(struct ew_socket *socket, const struct upload_head *head)
{
	bool named = ew_sim_random(2), by_rename = named && ew_sim_random(2);
	char name[16];
	int r;

	EW_OWN(ew_tempfile, file);
	EW_SCOPE(request);

	ew_socket_cancel_on_hangup(socket, &request, false);
	r = open_staged(head, named, &file);
	if (r == 0)
		r = body_to_file(socket, ew_tempfile_file(file), head->bytes);
	if (r == 0)
		r = seen(ew_tempfile_seal(file));
	ew_socket_forget_hangup(socket);
	r = ew_scope_finish(&request, r);
	if (r < 0)
		return r;
	snprintf(name, sizeof(name), "%u", head->number);
	r = seen(by_rename ? ew_tempfile_publish_by_rename(file, bucket_dir, name)
			   : ew_tempfile_publish(file, bucket_dir, name));
	if (r == 0)
		r = seen(ew_tempfile_close(&file));
	return r;
}

static int upload_session(void *argument, void *place)
{
	struct ew_socket **socket = place;
	struct upload_head head;
	int r = receive_exactly(*socket, &head, sizeof(head));

	(void)argument;
	if (r == 0)
		r = store(*socket, &head);
	if (r == 0)
		r = seen(ew_socket_send(*socket, "+", 1));
	return r;
}

static int serve_uploads(void *listener)
{
	return accept_all(listener, upload_session);
}

static int upload(unsigned number)
{
	struct upload_head head = { number, (uint32_t)ew_sim_random(BODY_BYTES_MAX) };
	char part[2000], answer;
	size_t at, size, i;
	int r;

	EW_OWN(ew_socket, socket);

	upload_bytes[number] = head.bytes;
	r = connect_there(&socket);
	if (r == 0)
		r = seen(ew_socket_send(socket, &head, sizeof(head)));
	for (at = 0; r == 0 && at < head.bytes; at += size) {
		size = sizeof(part) < head.bytes - at ? sizeof(part) : head.bytes - at;
		for (i = 0; i < size; i++)
			part[i] = pattern(number, at + i);
		r = seen(ew_socket_send(socket, part, size));
	}
	if (r == 0)
		r = receive_exactly(socket, &answer, 1);
	acknowledged[number] = r == 0;
	return r;
}

static int upload_client(void *argument)
{
	unsigned number = (unsigned)(uintptr_t)argument;
	int64_t patience_ns = ew_sim_random(2) ? EW_SECOND : (int64_t)ew_sim_random(EW_MILLISECOND);

	EW_SCOPE(scope, .deadline_ns = ew_after(patience_ns));

	return ew_scope_finish(&scope, upload(number));
}

static int uploads(void *argument)
{
	unsigned i;
	int r;

	EW_OWN(ew_file, dir);
	EW_OWN(ew_listener, listener);
	EW_SCOPE(server);
	EW_SCOPE(visitors, .policy = EW_POLICY_INDEPENDENT);

	(void)argument;
	do
		r = seen(ew_file_open(NULL, bucket.path, O_RDONLY | O_DIRECTORY, 0, &dir));
	while (r < 0);
	bucket_dir = dir;
	r = listen_here(&listener);
	EXPECT_EQ(r, 0);
	r = ew_spawn(&server, serve_uploads, listener);
	EXPECT_EQ(r, 0);
	for (i = 0; i < CLIENTS; i++) {
		r = ew_spawn(&visitors, upload_client, (void *)(uintptr_t)i);
		EXPECT_EQ(r, 0);
	}
	r = ew_scope_finish(&visitors, 0);
	EXPECT_EQ(r, 0);
	ew_sim_calm();
	r = upload(CLIENTS);
	EXPECT_EQ(r, 0);
	ew_scope_cancel(&server, EW_REASON_REQUESTED);
	r = ew_scope_finish(&server, 0);
	return r == -ECANCELED ? 0 : r;
}

static bool is_whole(int fd, unsigned number)
{
	static char body[BODY_BYTES_MAX + 1];
	ssize_t bytes = read(fd, body, sizeof(body)), i;

	for (i = 0; i < bytes; i++)
		if (body[i] != pattern(number, (size_t)i))
			return false;
	return bytes == upload_bytes[number];
}

static bool is_empty(void)
{
	DIR *directory = opendir(bucket.path);
	const struct dirent *entry;
	unsigned count = 0;

	EXPECT(directory);
	while ((entry = readdir(directory)))
		count += entry->d_name[0] != '.';
	closedir(directory);
	return count == 0;
}

/* What has a name is whole, what was acknowledged has one, and no staging name is left. */
static const char *check_bucket(void *argument)
{
	const char *complaint = NULL;
	char name[16];
	unsigned i;
	int fd;

	(void)argument;
	for (i = 0; i < UPLOADS; i++) {
		snprintf(name, sizeof(name), "%u", i);
		fd = openat(bucket.fd, name, O_RDONLY | O_CLOEXEC);
		if (fd < 0 && acknowledged[i])
			complaint = "an upload that was acknowledged is not there";
		else if (fd >= 0 && !is_whole(fd, i))
			complaint = "an upload is not whole";
		if (fd >= 0)
			close(fd);
		unlinkat(bucket.fd, name, 0);
		acknowledged[i] = false;
	}
	if (!is_empty() && !complaint)
		complaint = "a staging name is left";
	return complaint;
}

TEST(sim_upload_service_under_all_faults)
{
	directory_make(&bucket);
	try_seeds(400, uploads, NULL, check_bucket);
	directory_remove(&bucket);
}

TEST_MAIN()
