/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The whole of ew-ingest in a simulated world: the server as it serves, on a simulated disk (server_disk.c), a clamd that
 * reads what it is handed, and clients that upload, as tasks of one run. Who uploaded what is in a book, and so is what
 * the scanner has called clean; the book is held against the bucket: what was answered with 201 is there and whole, and
 * nothing is there that was not called clean.
 *
 * What the server draws by chance is drawn by the world's seed.
 */

#include "server_world.h"

#include "ingest/server.h"

#include <sys/un.h>

#define BUCKET	       "/sim/bucket"
#define STATE	       "/sim/state"
#define SCANNER	       "/clamd"
#define UPLOAD_SLOTS   2
#define SCAN_SLOTS     2
#define WAITING	       2
#define SIZE_MAX_BYTES 65536
#define BODY_BYTES_MAX 12000
#define NOTES_MAX      64
#define PATH_BYTES     128
#define STEP_BYTES     1000
#define WORLD_PATIENCE (EW_NEVER / 2) /* longer than the clock may leap */

/* An upload. Its first byte is its number; every fourth is infected. */
struct note {
	unsigned number;
	char name[16];
	size_t bytes;
	bool called_clean; /* by the scanner, which has read all of it */
	bool answered;	   /* 201 */
	bool promised;	   /* that, before the power was cut */
};

enum mood { MOOD_ANSWER, MOOD_HANG_UP, MOOD_ERROR, MOOD_NONSENSE, MOOD_RESTART };

static struct {
	struct options options;
	struct server *server; /* NULL: none serves */
	bool stopped;	       /* no other is to */
	bool once;	       /* nor if this one fails */
	int served;	       /* the last one's result */
	bool restarted;	       /* after a power cut */
	bool sync_has_failed;  /* maybe, and what it was for was lost */

	struct ew_listener *scanner;
	struct ew_scope *scanning;
	bool clamd_stopped;
	unsigned scanner_version;
	enum mood (*judge)(void); /* NULL: always an answer */
	int64_t (*delays)(void);  /* NULL: at once */

	struct note notes[NOTES_MAX];
	unsigned notes_count;
} world;

static UNUSED void world_prepare(void)
{
	const struct sockaddr_in address = loopback(HTTP_PORT);
	struct options *options = &world.options;

	memset(&world, 0, sizeof(world));
	*options = (struct options){
		.listen.text = "the world",
		.listen.bytes = sizeof(address),
		.bucket = BUCKET,
		.state = (char *)(uintptr_t)STATE,
		.mode = 0640,
		.scanner = "clamd:" SCANNER,
		.scanner_kind = SCANNER_CLAMD,
		.scanner_socket = SCANNER,
		.upload_slots = UPLOAD_SLOTS,
		.scan_slots = SCAN_SLOTS,
		.waiting = WAITING,
		.size_max_bytes = SIZE_MAX_BYTES,
		.grace_ns = 5 * EW_SECOND,
	};
	memcpy(&options->listen.address, &address, sizeof(address));
}

/* ---- the book ---- */

static bool is_infected(const struct note *note)
{
	return note->number % 4 == 0;
}

static struct note *add_note(const char *name, size_t bytes)
{
	struct note *note = &world.notes[world.notes_count++];

	EXPECT(world.notes_count < NOTES_MAX);
	*note = (struct note){ .number = world.notes_count, .bytes = bytes };
	snprintf(note->name, sizeof(note->name), "%s", name);
	return note;
}

static char byte_of(const struct note *note, size_t at)
{
	return at == 0 ? (char)note->number : pattern(note->number, at);
}

static bool says_note(const struct note *note, const char *data)
{
	for (size_t at = 0; at < note->bytes; at++)
		if (data[at] != byte_of(note, at))
			return false;
	return true;
}

/* Whose the file is, from its first byte to its last; NULL: nobody's. */
static int find_note(struct ew_file *file, struct note **ret_note)
{
	char data[BODY_BYTES_MAX + 1];
	struct note *note = NULL;
	int r = ew_file_read(file, data, sizeof(data), 0);

	if (r > 0 && data[0] > 0 && (unsigned)data[0] <= world.notes_count)
		note = &world.notes[data[0] - 1];
	if (note && ((size_t)r != note->bytes || !says_note(note, data)))
		note = NULL;
	*ret_note = note;
	return r < 0 ? r : 0;
}

/* ---- the scanner ---- */

/* The command; with FILDES comes the file, in a byte of its own. */
static int hear_command(struct ew_socket *socket, char command[16], struct ew_file **ret_file)
{
	size_t used = 0;
	int r;

	do {
		r = ew_socket_recv_fd(socket, command + used, 1, ret_file);
		if (r <= 0)
			return r < 0 ? r : -ECONNRESET;
		used += (size_t)r;
	} while (command[used - 1] && used < 15);
	if (strcmp(command, "zFILDES") != 0)
		return 0;
	r = ew_socket_recv_fd(socket, command + used, 1, ret_file);
	return r <= 0 || !*ret_file ? -ECONNRESET : 0;
}

static int64_t size_of(struct ew_file *file)
{
	struct stat stat;
	int r = ew_file_stat(file, &stat);

	return r < 0 ? r : stat.st_size;
}

/* One whose upload has left is emptied while it is read; that it is called clean is in no book. */
static const char *scan(struct ew_file *file)
{
	struct note *note = NULL;
	int64_t size = size_of(file);
	char eicar[4] = "";

	if (size < 0 || ew_file_read(file, eicar, 4, 0) < 0 || find_note(file, &note) < 0)
		return "fd[9]: Can't read file ERROR";
	if (size > SIZE_MAX_BYTES)
		return "fd[9]: Heuristics.Limits.Exceeded.MaxFileSize FOUND";
	if (memcmp(eicar, "X5O!", 4) == 0)
		return "fd[9]: Eicar-Test-Signature FOUND";
	if (note && is_infected(note))
		return "fd[9]: Test.Infected FOUND";
	if (note)
		note->called_clean = true;
	return "fd[9]: OK";
}

static const char *answer_of(const char *command, struct ew_file *file, char version[64])
{
	if (file)
		return scan(file);
	if (strcmp(command, "zVERSION") != 0)
		return "UNKNOWN COMMAND";
	snprintf(version, 64, "ClamAV 1.4.%u/1/Sun Nov 22 08:00:00 2026", world.scanner_version);
	return version;
}

static int answer_command(struct ew_socket *socket, const char *command, struct ew_file *file)
{
	enum mood mood = world.judge ? world.judge() : MOOD_ANSWER;
	char version[64];
	const char *text;

	switch (mood) {
	case MOOD_HANG_UP: return 0;
	case MOOD_RESTART: world.scanner_version++; return 0;
	case MOOD_ERROR: text = "fd[9]: Out of luck ERROR"; break;
	case MOOD_NONSENSE: text = "what?"; break;
	default: text = answer_of(command, file, version); break;
	}
	return ew_socket_send(socket, text, strlen(text) + 1);
}

static int clamd_session(void *unused, void *place)
{
	struct ew_socket **socket = place;
	char command[16] = "";
	int r;

	(void)unused;
	EW_OWN(ew_file, file);

	r = hear_command(*socket, command, &file);
	if (r == 0 && world.delays)
		r = ew_sleep(world.delays());
	if (r == 0)
		r = answer_command(*socket, command, file);
	return r == -ECANCELED ? r : 0;
}

static void forget_scanning(void *unused)
{
	(void)unused;
	world.scanning = NULL;
}

static int forget_scanning_close(void *unused)
{
	forget_scanning(unused);
	return 0;
}

static int clamd_accept(void)
{
	int r;

	EW_SCOPE(scanning, .policy = EW_POLICY_INDEPENDENT);
	EW_GUARD(forget, &world, .close = forget_scanning_close, .abort = forget_scanning);

	world.scanning = &scanning;
	if (world.clamd_stopped)
		ew_scope_cancel(&scanning, EW_REASON_REQUESTED);
	r = accept_all(world.scanner, clamd_session);
	ew_guard_disarm(&forget);
	forget_scanning(NULL);
	return ew_scope_finish(&scanning, r);
}

/* None of those that a cancel of the test concerns. */
static int clamd_task(void *unused)
{
	int r;

	(void)unused;
	EW_SHIELD(shield, .budget_ns = WORLD_PATIENCE);

	r = clamd_accept();
	return r == -ENOTRECOVERABLE ? r : 0;
}

static int start_clamd(struct ew_scope *scope)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX, .sun_path = SCANNER };
	int r;

	do
		r = ew_listener_open((const struct sockaddr *)&address, sizeof(address), 16,
				     &world.scanner);
	while (r == -EMFILE);
	return r < 0 ? r : ew_spawn(scope, clamd_task, NULL);
}

static void close_clamd(void *unused)
{
	(void)unused;
	ew_abort(&world.scanner);
}

static int close_clamd_close(void *unused)
{
	close_clamd(unused);
	return 0;
}

static void stop_clamd(void *unused)
{
	(void)unused;
	world.clamd_stopped = true;
	if (world.scanning)
		ew_scope_cancel(world.scanning, EW_REASON_REQUESTED);
}

static int stop_clamd_close(void *unused)
{
	stop_clamd(unused);
	return 0;
}

/* ---- the server ---- */

static void check_slots(struct ew_semaphore *slots)
{
	struct ew_semaphore_counts counts = ew_semaphore_count(slots);

	EXPECT_EQ(counts.held, 0);
	EXPECT_EQ(counts.cancelling, 0);
}

static void check_semaphore(struct ew_semaphore *semaphore)
{
	struct ew_semaphore_counts counts = ew_semaphore_count(semaphore);

	EXPECT_EQ(counts.free, counts.capacity);
}

/* It has ended: nothing is held, reserved or inside. */
static void check_rest(struct server *server)
{
	check_slots(server->uploads.semaphore);
	check_slots(server->scans);
	check_semaphore(server->connections);
	check_semaphore(server->sealing);
	EXPECT_EQ(atomic_load(&server->metrics.scans_waiting), 0);
	EXPECT_EQ(atomic_load(&server->bucket.counts.reserved_bytes), 0);
	for (unsigned state = 0; state < STATE_COUNT; state++)
		EXPECT_EQ(atomic_load(&server->metrics.inside[state]), 0);
}

static void free_server(void *unused)
{
	struct server *server = world.server;

	(void)unused;
	world.server = NULL;
	if (!server)
		return;
	check_rest(server);
	server_free(server);
}

static int free_server_close(void *unused)
{
	free_server(unused);
	return 0;
}

static void stop_server(void *unused)
{
	(void)unused;
	world.stopped = true;
	if (world.server)
		front_stop(&world.server->front);
}

static int stop_server_close(void *unused)
{
	stop_server(unused);
	return 0;
}

static int serve_once(void)
{
	int r = server_new(&world.options, &world.server);

	if (r < 0)
		return r;

	EW_GUARD(server, &world, .close = free_server_close, .abort = free_server);

	if (world.stopped)
		front_stop(&world.server->front); /* told so while it was made */
	world.served = server_serve(world.server);
	return world.served;
}

/* A world that fails lets it start again. */
static int serve(void *unused)
{
	int r;

	(void)unused;
	do {
		r = serve_once();
		if (r < 0 && r != -ECANCELED)
			r = ew_sleep(EW_SECOND);
	} while (r == 0 && !world.stopped && !world.once);
	return r;
}

/* ---- clients ---- */

static int send_body(struct ew_socket *socket, const struct note *note)
{
	char step[STEP_BYTES];
	size_t at, i;
	int r = 0;

	for (at = 0; r == 0 && at < note->bytes; at += i) {
		for (i = 0; i < sizeof(step) && at + i < note->bytes; i++)
			step[i] = byte_of(note, at + i);
		r = ew_socket_send(socket, step, i);
	}
	return r;
}

static int put(struct ew_socket *socket, const struct note *note, struct exchange *exchange)
{
	int r;

	*exchange = (struct exchange){ 0 };
	snprintf(exchange->request, sizeof(exchange->request),
		 "PUT /files/%s HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n", note->name,
		 note->bytes);
	r = ew_socket_send(socket, exchange->request, strlen(exchange->request));
	if (r == 0)
		r = send_body(socket, note);
	/* Refused before its end, maybe, and then there is an answer. */
	return r == -ECANCELED ? r : hear_answer(exchange, socket);
}

static void note_answer(struct note *note, const struct exchange *exchange)
{
	if (exchange->status != 201)
		return;
	EXPECT(note->called_clean);
	note->answered = true;
	note->promised = !ew_sim_is_cut();
}

static int upload(struct note *note, struct exchange *exchange)
{
	const struct sockaddr_in address = loopback(HTTP_PORT);
	int r;

	EW_OWN(ew_socket, socket);

	exchange->status = 0;
	r = ew_socket_connect((const struct sockaddr *)&address, sizeof(address), &socket);
	if (r == 0)
		r = put(socket, note, exchange);
	if (r == 0)
		note_answer(note, exchange);
	return r;
}

/* ---- what is on the disk ---- */

static void check_file(struct ew_file *bucket, const char *name)
{
	struct note *note = NULL;

	EW_OWN(ew_file, file);

	EXPECT_EQ(ew_file_open(bucket, name, O_RDONLY, 0, &file), 0);
	EXPECT_EQ(find_note(file, &note), 0);
	/* A failed sync may have lost that the test's name was removed, and no later one would tell. */
	if (world.sync_has_failed && strncmp(name, ".ew-ingest-probe-", 17) == 0)
		return;
	if (!note)
		ew_test_fail(__FILE__, __LINE__, "%s is no upload, or not whole", name);
	EXPECT_STR(note->name, name);
	EXPECT(note->called_clean);
	EXPECT(!is_infected(note));
}

static void check_promise(struct ew_file *bucket, const struct note *promised)
{
	struct note *note = NULL;
	int r;

	EW_OWN(ew_file, file);

	r = ew_file_open(bucket, promised->name, O_RDONLY, 0, &file);
	if (r < 0)
		ew_test_fail(__FILE__, __LINE__, "%s was promised, and is not there: error %d",
			     promised->name, -r);
	EXPECT_EQ(find_note(file, &note), 0);
	EXPECT(note == promised);
}

static void check_bucket(void)
{
	const char *name;

	EW_OWN(ew_file, bucket);

	EXPECT_EQ(ew_file_open(NULL, BUCKET, O_RDONLY | O_DIRECTORY, 0, &bucket), 0);
	for (unsigned i = 0; (name = ew_sim_name(BUCKET, i)); i++)
		check_file(bucket, name);
	for (unsigned i = 0; i < world.notes_count; i++)
		if (world.restarted ? world.notes[i].promised : world.notes[i].answered)
			check_promise(bucket, &world.notes[i]);
}

static void check_empty(const char *folder)
{
	const char *name = ew_sim_name(folder, 0);

	if (name)
		ew_test_fail(__FILE__, __LINE__, "%s/%s is left", folder, name);
}

static uint64_t blocks_of(const char *folder)
{
	uint64_t blocks = 0;
	struct stat stat;
	char path[PATH_BYTES];
	const char *name;

	for (unsigned i = 0; (name = ew_sim_name(folder, i)); i++) {
		EW_OWN(ew_file, file);

		snprintf(path, sizeof(path), "%s/%.100s", folder, name);
		EXPECT_EQ(ew_file_open(NULL, path, O_RDONLY, 0, &file), 0);
		EXPECT_EQ(ew_file_stat(file, &stat), 0);
		blocks += (uint64_t)stat.st_blocks / 8;
	}
	return blocks;
}

/* Nobody serves: the state folder is empty but for folders and the lock, and all that is used is in the bucket. */
static void check_disk(void)
{
	struct statvfs disk;
	char path[PATH_BYTES];

	EW_OWN(ew_file, bucket);

	check_empty(STATE "/leases");
	for (unsigned i = 0; i < STAGING_FOLDERS; i++) {
		snprintf(path, sizeof(path), STATE "/staging/%02x", i);
		check_empty(path);
	}
	EXPECT_EQ(ew_file_open(NULL, BUCKET, O_RDONLY | O_DIRECTORY, 0, &bucket), 0);
	EXPECT_EQ(ew_file_statvfs(bucket, &disk), 0);
	EXPECT_EQ(disk.f_blocks - disk.f_bfree, blocks_of(BUCKET));
}
