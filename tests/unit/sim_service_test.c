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

static const char *const folders[] = { "bucket", "staging", NULL };

/* Of a run. */
static struct {
	struct ew_file *bucket, *staging;
	struct ew_mutex syncing;
	bool suspect; /* a sync of the bucket has failed: what later ones say proves nothing */
	bool acknowledged[UPLOADS]; /* before the power was cut */
	uint32_t bytes[UPLOADS];
} service;

static void begin_service(void *argument)
{
	(void)argument;
	memset(&service, 0, sizeof(service));
}

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
	return seen(named ? ew_tempfile_open_named(service.staging, name, ret_file)
			  : ew_tempfile_open(service.staging, ret_file));
}

/* One at a time: a name must not be in a sync that fails for somebody else. */
static int sync_bucket(void)
{
	int r;

	EW_OWN(ew_mutex_hold, hold);

	r = seen(ew_mutex_lock(&service.syncing, EW_NEVER, &hold));
	if (r == 0 && service.suspect)
		r = -EIO;
	if (r == 0) {
		r = seen(ew_file_sync(service.bucket, false));
		service.suspect = r < 0;
	}
	return r;
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
		r = seen(ew_file_sync(ew_tempfile_file(file), true));
	if (r == 0)
		r = seen(ew_tempfile_seal(file));
	ew_socket_forget_hangup(socket);
	r = ew_scope_finish(&request, r);
	if (r < 0)
		return r;
	snprintf(name, sizeof(name), "%u", head->number);
	r = seen(by_rename ? ew_tempfile_publish_by_rename(file, service.bucket, name)
			   : ew_tempfile_publish(file, service.bucket, name));
	if (r == 0)
		r = sync_bucket();
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

	service.bytes[number] = head.bytes;
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
	service.acknowledged[number] = r == 0 && !ew_sim_is_cut();
	return r;
}

static int upload_client(void *argument)
{
	unsigned number = (unsigned)(uintptr_t)argument;
	int64_t patience_ns = ew_sim_random(2) ? EW_SECOND : (int64_t)ew_sim_random(EW_MILLISECOND);

	EW_SCOPE(scope, .deadline_ns = ew_after(patience_ns));

	return ew_scope_finish(&scope, upload(number));
}

static void open_folder(const char *path, struct ew_file **ret_folder)
{
	int r;

	do
		r = seen(ew_file_open(NULL, path, O_RDONLY | O_DIRECTORY, 0, ret_folder));
	while (r < 0);
}

static bool is_there(unsigned number)
{
	static char body[BODY_BYTES_MAX + 1];
	char path[32];
	int r, i;

	EW_OWN(ew_file, file);

	snprintf(path, sizeof(path), "/sim/bucket/%u", number);
	r = ew_file_open(NULL, path, O_RDONLY, 0, &file);
	if (r == -ENOENT)
		return false;
	EXPECT_EQ(r, 0);
	r = ew_file_read(file, body, sizeof(body), 0);
	EXPECT_EQ(r, service.bytes[number]);
	for (i = 0; i < r; i++)
		EXPECT_EQ(body[i], pattern(number, (size_t)i));
	return true;
}

/* What has a name is whole, and what was acknowledged has one. */
static void check_bucket(void)
{
	unsigned found = 0, i;
	bool there;

	for (i = 0; i < UPLOADS; i++) {
		there = is_there(i);
		EXPECT(there || !service.acknowledged[i]);
		found += there;
	}
	EXPECT(!ew_sim_name("/sim/bucket", found));
}

static int uploads(void *argument)
{
	unsigned i;
	int r;

	EW_OWN(ew_file, bucket);
	EW_OWN(ew_file, staging);
	EW_OWN(ew_listener, listener);
	EW_SCOPE(server);
	EW_SCOPE(visitors, .policy = EW_POLICY_INDEPENDENT);

	(void)argument;
	open_folder("/sim/bucket", &bucket);
	open_folder("/sim/staging", &staging);
	service.bucket = bucket;
	service.staging = staging;
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
	EXPECT_EQ(r, service.suspect ? -ECONNRESET : 0);
	ew_scope_cancel(&server, EW_REASON_REQUESTED);
	r = ew_scope_finish(&server, 0);
	check_bucket();
	EXPECT(!ew_sim_name("/sim/staging", 0));
	return r == -ECANCELED ? 0 : r;
}

/* The restart: what is staged is nobody's. */
static int restart(void *argument)
{
	const char *name;

	EW_OWN(ew_file, staging);

	(void)argument;
	open_folder("/sim/staging", &staging);
	while ((name = ew_sim_name("/sim/staging", 0))) {
		char copy[24];

		snprintf(copy, sizeof(copy), "%s", name);
		EXPECT_EQ(ew_file_unlink(staging, copy, 0), 0);
	}
	check_bucket();
	return 0;
}

static void try_uploads(enum ew_sim_durability durability, unsigned seeds)
{
	const struct ew_sim_filesystem_options disk = { .durability = durability,
							.folders = folders };

	try_trial(&(struct ew_sim_trial){ .seeds_count = seeds,
					  .filesystem = &disk,
					  .prepare = begin_service,
					  .recover = restart,
					  .cuts_max = 1 },
		  uploads);
}

TEST(sim_upload_service_under_all_faults)
{
	try_uploads(EW_SIM_STRICT, 200);
}

TEST(sim_upload_service_whose_disk_fails_once)
{
	try_uploads(EW_SIM_FAILING, 60);
}

TEST_MAIN()
