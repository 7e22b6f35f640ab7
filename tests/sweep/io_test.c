/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Sweeps over the I/O: real files, sockets, pipes, processes and signals, ended at each suspension. After each run
 * no descriptor, no operation, no process and no file may be left.
 */

#include "sweep.h"
#include "unit/name_server.h"

#include <dirent.h>
#include <endwell/endwell.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/un.h>

/* ---- files ---- */

static char directory_path[] = "/tmp/endwell-sweep-XXXXXX";

static void make_directory(void)
{
	EXPECT(mkdtemp(directory_path) != NULL);
}

static const char *check_directory(void *argument)
{
	DIR *directory = opendir(directory_path);
	struct dirent *entry;
	static char what[320];

	EXPECT(directory != NULL);
	what[0] = '\0';
	while ((entry = readdir(directory)))
		if (entry->d_name[0] != '.')
			snprintf(what, sizeof(what), "the file %s is left", entry->d_name);
	closedir(directory);
	return what[0] ? what : check_book(argument);
}

/* Files that are there between runs would meet the next one. */
static const struct ew_sweep_options in_directory = { .prepare = open_book,
						      .check = check_directory };

static void expect_sweep_of_files(ew_task_fn *scenario, unsigned points_min)
{
	struct ew_sweep_options options = in_directory;

	make_directory();
	expect_sweep(&options, scenario, points_min);
	options.droppable = true;
	options.modes = MODES_WITHOUT_FAULTS;
	expect_sweep(&options, scenario, points_min);
	EXPECT_EQ(rmdir(directory_path), 0);
}

struct name {
	struct ew_file *directory;
	const char *name;
};

static void unlink_name_now(void *argument)
{
	const struct name *name = argument;

	(void)!unlinkat(ew_file_fd(name->directory), name->name, 0);
}

/* What a filesystem refuses once is tried once more. */
static int unlink_name(void *argument)
{
	const struct name *name = argument;
	int r = ew_file_unlink(name->directory, name->name, 0);

	if (r < 0 && r != -ECANCELED)
		unlink_name_now(argument);
	return r == -ENOENT ? 0 : r;
}

static int call_nothing(void *argument)
{
	(void)argument;
	return 0;
}

static int write_file(struct ew_file *directory)
{
	struct name first = { directory, "first" }, second = { directory, "second" };
	struct statvfs statvfs;
	struct stat stat;
	char bytes[64];
	int r, called;
	EW_OWN(ew_file, file);
	EW_GUARD(undo_first, &first, .close = unlink_name, .abort = unlink_name_now);
	EW_GUARD(undo_second, &second, .close = unlink_name, .abort = unlink_name_now);

	r = ew_file_open(directory, "first", O_CREAT | O_RDWR | O_EXCL, 0600, &file);
	if (r == 0)
		r = ew_file_write(file, "a few bytes", 11, 0);
	if (r == 0)
		r = ew_file_sync(file, true);
	if (r == 0)
		r = ew_file_stat(file, &stat);
	if (r == 0)
		r = ew_file_statvfs(file, &statvfs);
	if (r == 0)
		r = ew_file_chmod(file, 0640);
	if (r == 0)
		r = ew_file_offload(file, call_nothing, NULL, &called);
	if (r == 0)
		r = ew_file_read(file, bytes, sizeof(bytes), 0);
	if (r == 11)
		r = ew_file_truncate(file, 3);
	if (r == 0)
		r = ew_file_link(file, directory, "second");
	if (r == 0)
		r = ew_file_rename(directory, "second", directory, "first", 0);
	if (r < 0)
		return r;
	return ew_file_close(&file);
}

static int files(void *argument)
{
	int r;
	EW_OWN(ew_file, directory);

	(void)argument;
	r = ew_file_open(NULL, directory_path, O_RDONLY | O_DIRECTORY, 0, &directory);
	return r < 0 ? r : write_file(directory);
}

TEST(sweep_files)
{
	expect_sweep_of_files(files, 14);
}

static int write_and_read_back(struct ew_file *directory)
{
	struct name name = { directory, "lines" };
	struct ew_reader reader;
	char buffer[16], bytes[8];
	int r;
	EW_OWN(ew_file, file);
	EW_OWN(ew_writer, writer);
	EW_GUARD(undo, &name, .close = unlink_name, .abort = unlink_name_now);

	r = ew_file_open(directory, "lines", O_CREAT | O_RDWR | O_EXCL, 0600, &file);
	if (r == 0)
		r = ew_writer_open_file(file, 0, 16, &writer);
	if (r == 0)
		r = ew_writer_write(writer, "more than fits into 16", 22);
	if (r == 0)
		r = ew_writer_close(&writer);
	if (r < 0)
		return r;
	ew_reader_init_file(&reader, file, 0, buffer, sizeof(buffer));
	do
		r = ew_reader_read_some(&reader, bytes, sizeof(bytes));
	while (r > 0);
	return r;
}

static int lines_of_a_file(void *argument)
{
	int r;
	EW_OWN(ew_file, directory);

	(void)argument;
	r = ew_file_open(NULL, directory_path, O_RDONLY | O_DIRECTORY, 0, &directory);
	return r < 0 ? r : write_and_read_back(directory);
}

TEST(sweep_reader_and_writer_of_a_file)
{
	expect_sweep_of_files(lines_of_a_file, 6);
}

static int publish(struct ew_file *directory)
{
	struct name name = { directory, "published" };
	int r;
	EW_GUARD(undo, &name, .close = unlink_name, .abort = unlink_name_now);
	EW_OWN(ew_tempfile, tempfile);

	r = ew_tempfile_open(directory, &tempfile);
	if (r == 0)
		r = ew_file_write(ew_tempfile_file(tempfile), "content", 7, 0);
	if (r == 0)
		r = ew_tempfile_seal(tempfile);
	if (r == 0)
		r = ew_tempfile_publish(tempfile, directory, "published");
	if (r == 0)
		r = ew_file_sync(directory, false);
	return r < 0 ? r : ew_tempfile_close(&tempfile);
}

static int tempfile(void *argument)
{
	int r;
	EW_OWN(ew_file, directory);

	(void)argument;
	r = ew_file_open(NULL, directory_path, O_RDONLY | O_DIRECTORY, 0, &directory);
	return r < 0 ? r : publish(directory);
}

TEST(sweep_tempfile_published)
{
	expect_sweep_of_files(tempfile, 7);
}

static int discard(void *argument)
{
	int r;
	EW_OWN(ew_file, directory);
	EW_OWN(ew_tempfile, file);

	(void)argument;
	r = ew_file_open(NULL, directory_path, O_RDONLY | O_DIRECTORY, 0, &directory);
	if (r == 0)
		r = ew_tempfile_open(directory, &file);
	if (r == 0)
		r = ew_file_write(ew_tempfile_file(file), "content", 7, 0);
	return r;
}

TEST(sweep_tempfile_discarded)
{
	expect_sweep_of_files(discard, 3);
}

typedef int publish_fn(struct ew_tempfile *tempfile, struct ew_file *dir, const char *name);

static int publish_named(struct ew_file *directory, publish_fn *publish_as)
{
	struct name name = { directory, "published" };
	int r;
	EW_GUARD(undo, &name, .close = unlink_name, .abort = unlink_name_now);
	EW_OWN(ew_tempfile, tempfile);

	r = ew_tempfile_open_named(directory, "staged", &tempfile);
	if (r == 0)
		r = ew_file_write(ew_tempfile_file(tempfile), "content", 7, 0);
	if (r == 0)
		r = ew_tempfile_seal(tempfile);
	if (r == 0)
		r = publish_as(tempfile, directory, "published");
	if (r == 0)
		r = ew_file_sync(directory, false);
	return r < 0 ? r : ew_tempfile_close(&tempfile);
}

static int link_named(void *argument)
{
	int r;
	EW_OWN(ew_file, directory);

	(void)argument;
	r = ew_file_open(NULL, directory_path, O_RDONLY | O_DIRECTORY, 0, &directory);
	return r < 0 ? r : publish_named(directory, ew_tempfile_publish);
}

static int rename_named(void *argument)
{
	int r;
	EW_OWN(ew_file, directory);

	(void)argument;
	r = ew_file_open(NULL, directory_path, O_RDONLY | O_DIRECTORY, 0, &directory);
	return r < 0 ? r : publish_named(directory, ew_tempfile_publish_by_rename);
}

/* Neither name is left, wherever it is ended, although the directory may end before the file. */
TEST(sweep_tempfile_named_published_by_a_link)
{
	expect_sweep_of_files(link_named, 8);
}

TEST(sweep_tempfile_named_published_by_a_rename)
{
	expect_sweep_of_files(rename_named, 8);
}

static int discard_named(void *argument)
{
	int r;
	EW_OWN(ew_file, directory);
	EW_OWN(ew_tempfile, file);

	(void)argument;
	r = ew_file_open(NULL, directory_path, O_RDONLY | O_DIRECTORY, 0, &directory);
	if (r == 0)
		r = ew_tempfile_open_named(directory, "staged", &file);
	if (r == 0)
		r = ew_file_write(ew_tempfile_file(file), "content", 7, 0);
	return r;
}

TEST(sweep_tempfile_named_discarded)
{
	expect_sweep_of_files(discard_named, 3);
}

/* ---- sockets ---- */

static int open_pair(struct ew_socket **ret_one, struct ew_socket **ret_other)
{
	int fds[2], r;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
		return -errno;
	r = ew_socket_adopt(fds[0], ret_one);
	if (r < 0)
		close(fds[0]);
	else
		r = ew_socket_adopt(fds[1], ret_other);
	if (r < 0)
		close(fds[1]);
	return r;
}

/* Echoes until the peer has finished. */
static int echo(void *argument, void *place)
{
	struct ew_socket **socket = place;
	const char *data;
	int r;

	(void)argument;
	for (;;) {
		r = ew_socket_receive(*socket, &data);
		if (r <= 0)
			break;
		r = ew_socket_send(*socket, data, (size_t)r);
		if (r < 0)
			break;
		ew_socket_release(*socket);
	}
	return r < 0 ? r : ew_socket_close(socket);
}

static int ask(struct ew_socket *socket)
{
	char answer[16];
	int r;

	r = ew_socket_send(socket, "question", 8);
	if (r == 0)
		r = ew_socket_recv(socket, answer, sizeof(answer));
	if (r == 8)
		r = ew_socket_shutdown(socket, SHUT_WR);
	if (r == 0)
		r = ew_socket_recv(socket, answer, sizeof(answer));
	return r > 0 ? -EPROTO : r;
}

static int echoing(void *argument)
{
	int r;
	EW_OWN(ew_socket, client);
	EW_OWN(ew_socket, server);
	EW_SCOPE(scope);

	(void)argument;
	r = open_pair(&client, &server);
	if (r == 0)
		r = ew_spawn_take(&scope, echo, NULL, &server);
	if (r == 0)
		r = ask(client);
	if (r == 0)
		r = ew_socket_close(&client);
	return ew_scope_finish(&scope, r);
}

TEST(sweep_socket_pair)
{
	expect_sweeps(echoing, 6);
}

/* Sends lines back until the peer has finished. */
static int echo_lines(void *argument, void *place)
{
	struct ew_socket **socket = place;
	char buffer[64];
	struct ew_reader reader;
	const char *line;
	int r;
	EW_OWN(ew_writer, writer);

	(void)argument;
	ew_reader_init_socket(&reader, *socket, buffer, sizeof(buffer));
	r = ew_writer_open_socket(*socket, 64, &writer);
	if (r < 0)
		return r;
	while ((r = ew_reader_read_until(&reader, '\n', &line)) > 0) {
		r = ew_writer_write(writer, line, (size_t)r);
		if (r == 0)
			r = ew_writer_flush(writer);
		if (r < 0)
			return r;
	}
	return r < 0 ? r : ew_writer_close(&writer);
}

/* The first line is written by a flush, the second by the writer's ending. */
static int ask_in_lines(struct ew_socket *socket)
{
	struct ew_reader reader;
	char buffer[64], line[8];
	int r;
	EW_OWN(ew_writer, writer);

	ew_reader_init_socket(&reader, socket, buffer, sizeof(buffer));
	r = ew_writer_open_socket(socket, 64, &writer);
	if (r == 0)
		r = ew_writer_write(writer, "line 1\n", 7);
	if (r == 0)
		r = ew_writer_flush(writer);
	if (r == 0)
		r = ew_reader_read(&reader, line, 7);
	if (r == 7)
		r = ew_writer_write(writer, "line 2\n", 7);
	return r;
}

static int lines(void *argument)
{
	char line[8];
	int r;
	EW_OWN(ew_socket, client);
	EW_OWN(ew_socket, server);
	EW_SCOPE(scope);

	(void)argument;
	r = open_pair(&client, &server);
	if (r == 0)
		r = ew_spawn_take(&scope, echo_lines, NULL, &server);
	if (r == 0)
		r = ask_in_lines(client);
	if (r == 0)
		r = ew_socket_shutdown(client, SHUT_WR);
	if (r == 0)
		r = ew_socket_recv(client, line, sizeof(line));
	if (r == 7)
		r = ew_socket_close(&client);
	return ew_scope_finish(&scope, r);
}

TEST(sweep_reader_and_writer)
{
	expect_sweeps(lines, 8);
}

/* ---- a socket among alternatives ---- */

static struct ew_event turn;

static void open_turn(void *argument)
{
	open_book(argument);
	memset(&turn, 0, sizeof(turn));
}

static const char *check_turn(void *argument)
{
	return turn.first ? "somebody is still in line for the event" : check_book(argument);
}

/* Readiness loses to the event, and is still there; then it wins. */
static int call_and_answer(void *argument)
{
	int r = ew_yield();

	if (r == 0)
		ew_event_set(&turn);
	if (r == 0)
		r = ew_yield();
	return r == 0 ? ew_socket_send(argument, "x", 1) : r;
}

static int listen_both_ways(struct ew_socket *socket)
{
	struct ew_alternative alternatives[] = {
		ew_select_readable(socket),
		ew_select_event(&turn),
	};
	BOOKED_GUARD(undo, EW_SECOND);
	char byte;
	int r = ew_select(alternatives, 2, EW_NEVER);

	if (r < 0)
		return r;
	if (r == 0)
		return alternatives[0].result < 0 ? alternatives[0].result : -EPROTO;
	ew_event_reset(&turn);
	r = ew_select(alternatives, 2, EW_NEVER);
	if (r < 0)
		return r;
	EXPECT_EQ(r, 0);
	return alternatives[0].result < 0 ? alternatives[0].result
					  : ew_socket_recv(socket, &byte, 1);
}

static int select_a_socket(void *argument)
{
	EW_OWN(ew_socket, here);
	EW_OWN(ew_socket, there);
	EW_SCOPE(scope);
	int r = open_pair(&here, &there);

	(void)argument;
	if (r == 0)
		r = ew_spawn(&scope, call_and_answer, there);
	if (r == 0)
		r = listen_both_ways(here);
	return ew_scope_finish(&scope, r);
}

TEST(sweep_select_with_a_socket)
{
	struct ew_sweep_options options = { .prepare = open_turn, .check = check_turn };

	expect_sweep(&options, select_a_socket, 7);
	options.droppable = true;
	options.modes = MODES_WITHOUT_FAULTS;
	expect_sweep(&options, select_a_socket, 7);
}

/* Takes what another task has filled the socket with, so that it becomes writable. */
static int empty_socket(void *argument)
{
	char bytes[4096];
	int r = ew_yield();

	while (r == 0 && recv(ew_socket_fd(argument), bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
		;
	return r;
}

static int await_room(struct ew_socket *socket)
{
	struct ew_alternative alternatives[] = {
		ew_select_event(&turn),
		ew_select_writable(socket),
	};
	static const char bytes[4096];
	BOOKED_GUARD(undo, EW_SECOND);
	int r;

	while (send(ew_socket_fd(socket), bytes, sizeof(bytes), MSG_DONTWAIT | MSG_NOSIGNAL) > 0)
		;
	r = ew_select(alternatives, 2, EW_NEVER);
	if (r < 0)
		return r;
	return alternatives[1].result < 0 ? alternatives[1].result : ew_socket_send(socket, "x", 1);
}

static int select_room(void *argument)
{
	EW_OWN(ew_socket, here);
	EW_OWN(ew_socket, there);
	EW_SCOPE(scope);
	int r = open_pair(&here, &there);

	(void)argument;
	if (r == 0)
		r = ew_spawn(&scope, empty_socket, there);
	if (r == 0)
		r = await_room(here);
	return ew_scope_finish(&scope, r);
}

TEST(sweep_select_with_a_socket_that_is_full)
{
	struct ew_sweep_options options = { .prepare = open_turn, .check = check_turn };

	expect_sweep(&options, select_room, 4);
	options.droppable = true;
	options.modes = MODES_WITHOUT_FAULTS;
	expect_sweep(&options, select_room, 4);
}

/* ---- listeners ---- */

static int connect_in_turn(void *argument)
{
	const struct sockaddr *address = argument;
	EW_OWN(ew_socket, socket);
	int r = ew_yield();

	if (r == 0)
		ew_event_set(&turn);
	if (r == 0)
		r = ew_yield();
	if (r == 0)
		r = ew_socket_connect(address, sizeof(struct sockaddr_in), &socket);
	return r;
}

/* The connection loses to the event, and comes then. */
static int await_connection(struct ew_listener *listener)
{
	EW_OWN(ew_socket, socket);
	struct ew_alternative alternatives[] = {
		ew_select_accept(listener, &socket),
		ew_select_event(&turn),
	};
	BOOKED_GUARD(undo,
		     0); /* a listener accepts ahead, and virtual time stands still for that */
	int r = ew_select(alternatives, 2, EW_NEVER);

	if (r < 0)
		return r;
	if (r == 0)
		return alternatives[0].result < 0 ? alternatives[0].result : -EPROTO;
	ew_event_reset(&turn);
	r = ew_select(alternatives, 2, EW_NEVER);
	return r == 0 ? alternatives[0].result : r;
}

static int select_a_connection(void *argument)
{
	struct sockaddr_in address = { .sin_family = AF_INET,
				       .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct sockaddr_storage bound;
	int r;
	EW_OWN(ew_listener, listener);
	EW_SCOPE(scope);

	(void)argument;
	r = ew_listener_open((const struct sockaddr *)&address, sizeof(address), 16, &listener);
	if (r == 0)
		r = ew_listener_address(listener, &bound);
	if (r == 0)
		r = ew_spawn(&scope, connect_in_turn, &bound);
	if (r == 0)
		r = await_connection(listener);
	return ew_scope_finish(&scope, r);
}

TEST(sweep_select_with_a_listener)
{
	struct ew_sweep_options options = { .prepare = open_turn, .check = check_turn };

	expect_sweep(&options, select_a_connection, 5);
	options.droppable = true;
	options.modes = MODES_WITHOUT_FAULTS;
	expect_sweep(&options, select_a_connection, 5);
}

static int serve(void *argument)
{
	struct ew_listener *listener = argument;
	int r;
	EW_OWN(ew_socket, socket);
	EW_SCOPE(scope, .policy = EW_POLICY_INDEPENDENT);

	r = ew_listener_accept(listener, &socket);
	if (r == 0)
		r = ew_spawn_take(&scope, echo, NULL, &socket);
	return ew_scope_finish(&scope, r);
}

static int connect_to(const struct sockaddr *address, socklen_t address_bytes)
{
	int r;
	EW_OWN(ew_socket, socket);

	r = ew_socket_connect(address, address_bytes, &socket);
	return r < 0 ? r : ask(socket);
}

static int listening(const struct sockaddr *address, socklen_t address_bytes)
{
	struct sockaddr_storage bound;
	int r;
	EW_OWN(ew_listener, listener);
	EW_SCOPE(scope);

	r = ew_listener_open(address, address_bytes, 16, &listener);
	if (r == 0)
		r = ew_listener_address(listener, &bound);
	if (r == 0)
		r = ew_spawn(&scope, serve, listener);
	if (r == 0)
		r = connect_to((const struct sockaddr *)&bound, address_bytes);
	r = ew_scope_finish(&scope, r);
	return r < 0 ? r : ew_listener_close(&listener);
}

static int tcp(void *argument)
{
	struct sockaddr_in address = { .sin_family = AF_INET,
				       .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };

	(void)argument;
	return listening((const struct sockaddr *)&address, sizeof(address));
}

TEST(sweep_listener_and_connect)
{
	expect_sweeps(tcp, 8);
}

/* A connection that nobody takes is the listener's to close. */
static int not_accepted(void *argument)
{
	struct sockaddr_in address = { .sin_family = AF_INET,
				       .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct sockaddr_storage bound;
	int r;
	EW_OWN(ew_listener, listener);
	EW_OWN(ew_socket, first);
	EW_OWN(ew_socket, second);
	EW_OWN(ew_socket, accepted);

	(void)argument;
	r = ew_listener_open((const struct sockaddr *)&address, sizeof(address), 16, &listener);
	if (r == 0)
		r = ew_listener_address(listener, &bound);
	if (r == 0)
		r = ew_socket_connect((const struct sockaddr *)&bound, sizeof(address), &first);
	if (r == 0)
		r = ew_socket_connect((const struct sockaddr *)&bound, sizeof(address), &second);
	if (r == 0)
		r = ew_listener_accept(listener, &accepted);
	return r < 0 ? r : ew_yield();
}

TEST(sweep_listener_with_a_connection_not_taken)
{
	expect_sweeps(not_accepted, 4);
}

static int receive_descriptor(void *argument, void *place)
{
	struct ew_socket **socket = place;
	char byte, bytes[4];
	int r;
	EW_OWN(ew_file, file);

	(void)argument;
	r = ew_socket_recv_fd(*socket, &byte, 1, &file);
	if (r == 1 && !file)
		return -EPROTO;
	if (r == 1)
		r = ew_file_read(file, bytes, sizeof(bytes), 0);
	return r < 0 ? r : ew_file_close(&file);
}

static int passing(void *argument)
{
	int r;
	EW_OWN(ew_file, file);
	EW_OWN(ew_socket, one);
	EW_OWN(ew_socket, other);
	EW_SCOPE(scope);

	(void)argument;
	r = ew_file_open(NULL, "/proc/self/status", O_RDONLY, 0, &file);
	if (r == 0)
		r = open_pair(&one, &other);
	if (r == 0)
		r = ew_spawn_take(&scope, receive_descriptor, NULL, &other);
	if (r == 0)
		r = ew_socket_send_fd(one, "x", 1, ew_file_fd(file));
	return ew_scope_finish(&scope, r);
}

TEST(sweep_descriptor_passed)
{
	expect_sweeps(passing, 4);
}

static int forget_hangup(void *argument)
{
	ew_socket_forget_hangup(argument);
	return 0;
}

static void forget_hangup_now(void *argument)
{
	ew_socket_forget_hangup(argument);
}

static int serve_until_hangup(void *argument, void *place)
{
	struct ew_socket **socket = place;
	struct ew_event never = { 0 };
	int r;
	EW_SCOPE(request, .budget_ns = EW_SECOND);
	EW_GUARD(hangup, *socket, .close = forget_hangup, .abort = forget_hangup_now);

	(void)argument;
	ew_socket_cancel_on_hangup(*socket, &request, true);
	r = ew_event_wait(&never, EW_NEVER);
	if (r == -ECANCELED && ew_scope_reason(&request) == EW_REASON_PEER)
		r = 0;
	return r;
}

static int hangup(void *argument)
{
	int r;
	EW_OWN(ew_socket, client);
	EW_OWN(ew_socket, server);
	EW_SCOPE(scope);

	(void)argument;
	r = open_pair(&client, &server);
	if (r == 0)
		r = ew_spawn_take(&scope, serve_until_hangup, NULL, &server);
	if (r == 0)
		r = ew_yield();
	if (r == 0)
		r = ew_socket_close(&client);
	return ew_scope_finish(&scope, r);
}

TEST(sweep_hangup)
{
	expect_sweeps(hangup, 2);
}

/* ---- names ---- */

static struct name_server name_server;

/* One question, so that its answer is one event. */
static int look_up(void *argument)
{
	const struct ew_dns_options options = { .family = AF_INET, .servers = name_server.address };
	struct ew_dns_address addresses[4];
	int r = ew_dns_lookup("good.test", "443", &options, addresses, 4);

	(void)argument;
	return r < 0 || r == 2 ? r : -EPROTO;
}

/*
 * c-ares, without memory to compare an answer's question with its own, passes the answer over, and asks again when its time
 * is out, which virtual time does not reach while a socket is waited for. So each answer is said twice; and memory that
 * is gone for good is left out.
 */
#define MODES_BUT_MEMORY_GONE (((1u << EW_SWEEP_MODES) - 1) & ~(1u << EW_SWEEP_MEMORY_GONE))

TEST(sweep_dns_lookup)
{
	struct ew_sweep_options options = {
		.modes = MODES_BUT_MEMORY_GONE,
		.prepare = open_book,
		.check = check_book,
	};

	name_server_start(&name_server);
	atomic_store(&name_server.twice, true);
	expect_sweep(&options, look_up, 2);
	options.droppable = true;
	options.modes &= MODES_WITHOUT_FAULTS;
	expect_sweep(&options, look_up, 2);
	name_server_stop(&name_server);
}

/* The first address is refused, so that both attempts are made. */
static int connect_by_name(void *argument)
{
	const struct ew_dns_options options = { .family = AF_INET, .servers = name_server.address };
	char service[8];
	int r;
	EW_OWN(ew_socket, socket);

	snprintf(service, sizeof(service), "%d", ntohs(*(in_port_t *)argument));
	r = ew_dns_connect("here.test", service, &options, &socket);
	return r < 0 ? r : ew_socket_close(&socket);
}

TEST(sweep_dns_connect)
{
	struct ew_sweep_options options = { .modes = MODES_BUT_MEMORY_GONE };
	struct sockaddr_in address;
	int listener = plain_listener(&address);
	struct ew_sweep_result result;

	name_server_start(&name_server);
	atomic_store(&name_server.twice, true);
	name_server_add_host(&name_server, htonl(0x7f7f0001));
	name_server_add_host(&name_server, address.sin_addr.s_addr);
	result = ew_sweep(&options, connect_by_name, &address.sin_port);
	if (result.failed)
		ew_test_fail(__FILE__, __LINE__, "%s at point %u/%u, %s: %.150s",
			     ew_sweep_mode_name(result.mode), result.index, result.second,
			     result.site, result.what);
	printf("# %u points, %u runs, %u pairs of %u, %u failed operations, %u allocations\n",
	       result.points, result.runs, result.pairs, result.pairs_there_are,
	       result.failed_operations, result.allocations);
	EXPECT(result.points >= 5);
	name_server_stop(&name_server);
	close(listener);
}

/* ---- pipes, processes, signals ---- */

static int pour(void *argument, void *place)
{
	static const char bytes[100000];
	int r = ew_pipe_write(*(struct ew_pipe **)place, bytes, sizeof(bytes));

	(void)argument;
	return r < 0 ? r : ew_pipe_close(place);
}

static int drain(struct ew_pipe *pipe)
{
	static char bytes[65536];
	int r;

	do
		r = ew_pipe_read(pipe, bytes, sizeof(bytes));
	while (r > 0);
	return r;
}

static int pipes(void *argument)
{
	int r;
	EW_OWN(ew_pipe, read_end);
	EW_OWN(ew_pipe, write_end);
	EW_SCOPE(scope);

	(void)argument;
	r = ew_pipe_open(&read_end, &write_end);
	if (r == 0)
		r = ew_spawn_take(&scope, pour, NULL, &write_end);
	if (r == 0)
		r = drain(read_end);
	return ew_scope_finish(&scope, r);
}

TEST(sweep_pipe)
{
	expect_sweeps(pipes, 4);
}

static int write_heading(void *argument, void *place)
{
	int r;
	EW_OWN(ew_writer, writer);

	(void)argument;
	r = ew_writer_open_pipe(*(struct ew_pipe **)place, 64, &writer);
	if (r == 0)
		r = ew_writer_write(writer, "heading: text", 13);
	return r < 0 ? r : ew_writer_close(&writer);
}

static int read_heading(struct ew_pipe *pipe)
{
	struct ew_reader reader;
	char buffer[16], text[8];
	const char *heading;
	int r;

	ew_reader_init_pipe(&reader, pipe, buffer, sizeof(buffer));
	r = ew_reader_peek(&reader, 9, &heading);
	if (r < 9)
		return r;
	ew_reader_skip(&reader, 9);
	do
		r = ew_reader_read_some(&reader, text, sizeof(text));
	while (r > 0);
	return r;
}

static int piped_heading(void *argument)
{
	int r;
	EW_OWN(ew_pipe, read_end);
	EW_OWN(ew_pipe, write_end);
	EW_SCOPE(scope);

	(void)argument;
	r = ew_pipe_open(&read_end, &write_end);
	if (r == 0)
		r = ew_spawn_take(&scope, write_heading, NULL, &write_end);
	if (r == 0)
		r = read_heading(read_end);
	return ew_scope_finish(&scope, r);
}

TEST(sweep_reader_and_writer_of_a_pipe)
{
	expect_sweeps(piped_heading, 4);
}

static int start_program(char *const *argv, int stdin_fd, struct ew_process **ret_process)
{
	const struct ew_process_options options = { .path = argv[0],
						    .argv = argv,
						    .stdin_fd = stdin_fd,
						    .stdout_fd = -1,
						    .stderr_fd = -1,
						    .keep_fd = -1 };

	return ew_process_spawn(&options, ret_process);
}

/* A sweep wants the same calls to wait in each run, so when a program ends is not left to the machine. */
static void await_zombie(const struct ew_process *process)
{
	siginfo_t info;

	EXPECT_EQ(waitid(P_PID, (id_t)ew_process_pid(process), &info, WEXITED | WNOWAIT), 0);
}

static int ended_process(void *argument)
{
	char *argv[] = { "/bin/true", NULL };
	int status, r;
	EW_OWN(ew_process, process);

	(void)argument;
	r = start_program(argv, -1, &process);
	if (r == 0) {
		await_zombie(process);
		r = ew_process_wait(process, EW_NEVER, &status);
	}
	return r < 0 ? r : ew_process_close(&process);
}

TEST(sweep_process_that_has_ended)
{
	if (RUNNING_ON_VALGRIND)
		SKIP("this Valgrind has no pidfd_open");
	expect_sweeps(ended_process, 2);
}

struct told {
	struct ew_process *process;
	int fd;
};

static int tell_to_end(void *argument)
{
	const struct told *told = argument;

	EXPECT_EQ(write(told->fd, "\n", 1), 1);
	await_zombie(told->process);
	return 0;
}

static int ending_process(void *argument)
{
	char *argv[] = { "/bin/sh", "-c", "read -r line", NULL };
	struct told told;
	int status, r;
	EW_OWN(ew_pipe, inside);
	EW_OWN(ew_pipe, outside);
	EW_OWN(ew_process, process);
	EW_SCOPE(scope);

	(void)argument;
	r = ew_pipe_open(&inside, &outside);
	if (r == 0)
		r = start_program(argv, ew_pipe_fd(inside), &process);
	if (r == 0) {
		told = (struct told){ .process = process, .fd = ew_pipe_fd(outside) };
		r = ew_spawn(&scope, tell_to_end, &told);
	}
	if (r == 0)
		r = ew_process_wait(process, EW_NEVER, &status);
	r = ew_scope_finish(&scope, r);
	return r < 0 ? r : ew_process_close(&process);
}

/* It runs as long as nobody waits for it. */
TEST(sweep_process_that_ends)
{
	if (RUNNING_ON_VALGRIND)
		SKIP("this Valgrind has no pidfd_open");
	expect_sweeps(ending_process, 3);
}

static int long_process(void *argument)
{
	char *argv[] = { "/bin/sleep", "1000", NULL };
	int r;
	EW_OWN(ew_process, process);

	(void)argument;
	r = start_program(argv, -1, &process);
	return r < 0 ? r : ew_process_close(&process);
}

TEST(sweep_process_that_is_terminated)
{
	if (RUNNING_ON_VALGRIND)
		SKIP("this Valgrind has no pidfd_open");
	expect_sweeps(long_process, 2);
}

static void drain_signals(void *argument)
{
	const struct timespec at_once = { 0 };
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	while (sigtimedwait(&set, NULL, &at_once) == SIGUSR1)
		;
	open_book(argument);
}

static int raise_later(void *argument)
{
	int r = ew_yield();

	(void)argument;
	if (r == 0)
		kill(getpid(), SIGUSR1);
	return r;
}

static int signals(void *argument)
{
	sigset_t set;
	int r;
	EW_OWN(ew_signals, signals);
	EW_SCOPE(scope);

	(void)argument;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	r = ew_signals_open(&set, &signals);
	if (r == 0)
		r = ew_spawn(&scope, raise_later, NULL);
	if (r == 0)
		r = ew_signals_wait(signals);
	if (r == SIGUSR1)
		r = ew_signals_close(&signals);
	return ew_scope_finish(&scope, r);
}

TEST(sweep_signals)
{
	struct ew_sweep_options options = { .prepare = drain_signals, .check = check_book };
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigprocmask(SIG_BLOCK, &set, NULL);
	expect_sweep(&options, signals, 2);
	options.droppable = true;
	options.modes = MODES_WITHOUT_FAULTS;
	expect_sweep(&options, signals, 2);
}

TEST_MAIN()
