/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Endings when nothing is to be had: from the moment of the cancel on there is no memory, no descriptor, no thread, no
 * process and no room on the disk, all at once. Every ending still ends, and nothing is left. The tests are an ordinary
 * user, whom the limits bind, on a small filesystem of their own.
 */

#include "sweep.h"
#include "unit/io.h"

#include <endwell/channel.h>
#include <endwell/foreign.h>
#include <sys/mount.h>

#define DISK_OPTIONS "size=128k,mode=777"

/* What the tests have as long as they run. */
static struct {
	struct directory staging; /* the filesystem that gets full */
	struct directory bucket;  /* another */
	int filler;
	struct ew_semaphore *permits;
} world;

/* What endings found when they asked for something, in all runs. */
static struct {
	unsigned memory, descriptors, threads, room;
} refused;

static unsigned messages_sent, messages_disposed, messages_received;

/* False: it takes root. */
static bool make_world(void)
{
	directory_make(&world.staging);
	directory_make(&world.bucket);
	/* It has no type, but Valgrind 3.19 takes NULL for a mistake. */
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", "none", MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mount("staging", world.staging.path, "tmpfs", 0, DISK_OPTIONS) < 0 ||
	    mount("bucket", world.bucket.path, "tmpfs", 0, DISK_OPTIONS) < 0) {
		directory_remove(&world.staging);
		directory_remove(&world.bucket);
		return false;
	}
	become_ordinary();
	close(world.staging.fd);
	world.staging.fd = open(world.staging.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	close(world.bucket.fd);
	world.bucket.fd = open(world.bucket.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	world.filler = openat(world.staging.fd, ".filler", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	EXPECT(world.filler >= 0);
	world.permits = ew_semaphore_new(1, 1);
	EXPECT(world.permits != NULL);
	return true;
}

/* The mounts go with the process; what is below them is not the ordinary user's to remove, and is empty. */
static void end_world(void)
{
	ew_semaphore_free(world.permits);
	close(world.filler);
	close(world.staging.fd);
	close(world.bucket.fd);
}

static void fill_disk(void *argument)
{
	static const char bytes[4096];

	(void)argument;
	while (write(world.filler, bytes, sizeof(bytes)) > 0)
		;
}

static void prepare(void *argument)
{
	open_book(argument);
	messages_sent = messages_disposed = messages_received = 0;
	EXPECT_EQ(ftruncate(world.filler, 0), 0);
	EXPECT_EQ(lseek(world.filler, 0, SEEK_SET), 0);
}

static const char *name_left(const struct directory *directory)
{
	static char what[320];
	int fd = openat(directory->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *listed = fdopendir(fd);
	const struct dirent *entry;

	EXPECT(listed != NULL);
	what[0] = '\0';
	while ((entry = readdir(listed)))
		if (entry->d_name[0] != '.')
			snprintf(what, sizeof(what), "the file %s is left", entry->d_name);
	closedir(listed);
	return what[0] ? what : NULL;
}

static const char *check(void *argument)
{
	struct ew_semaphore_counts counts = ew_semaphore_count(world.permits);
	const char *left = name_left(&world.staging);

	if (!left)
		left = name_left(&world.bucket);
	if (left)
		return left;
	if (counts.free != counts.capacity)
		return "a permit is not back";
	if (messages_sent != messages_received + messages_disposed)
		return "a message is lost";
	return check_book(argument);
}

static void expect_ends(ew_task_fn *scenario, unsigned points_min)
{
	const struct ew_sweep_options options = { .modes = 1u << EW_SWEEP_HARDSHIP,
						  .prepare = prepare,
						  .check = check,
						  .hardship = fill_disk,
						  .lost_blocks_max =
							  1 }; /* a reaper is leaked by name */

	expect_sweep(&options, scenario, points_min);
}

static void *do_nothing(void *argument)
{
	return argument;
}

/* Asks for everything, and gives back what it gets. */
static void ask_for_everything(void *argument)
{
	void *volatile memory = malloc(16); /* or the compiler leaves it out */
	int fd = dup(world.filler);
	char byte = 0;
	pthread_t thread;

	(void)argument;
	refused.memory += !memory;
	refused.descriptors += fd < 0;
	refused.room += write(world.filler, &byte, 1) < 0 && errno == ENOSPC;
	if (pthread_create(&thread, NULL, do_nothing, NULL) == 0)
		pthread_join(thread, NULL);
	else
		refused.threads++;
	if (fd >= 0)
		close(fd);
	free(memory);
}

/* ---- everything at once ---- */

static void dispose_message(void *message)
{
	(void)message;
	messages_disposed++;
}

static int receive_all(void *argument)
{
	int number, r;

	while ((r = ew_channel_receive(argument, EW_NEVER, &number)) > 0) {
		messages_received++;
		r = ew_yield();
		if (r < 0)
			break;
	}
	return r;
}

static int send_messages(struct ew_channel *channel)
{
	int number, r = 0;

	for (number = 1; number <= 3 && r == 0; number++) {
		r = ew_channel_send(channel, EW_NEVER, &number);
		messages_sent += r == 0;
	}
	return r;
}

/* Until the peer has finished. */
static int swallow(void *argument, void *place)
{
	struct ew_socket **socket = place;
	char bytes[16];
	int r;

	(void)argument;
	do
		r = ew_socket_recv(*socket, bytes, sizeof(bytes));
	while (r > 0);
	return r < 0 ? r : ew_socket_close(socket);
}

static int complete(void *argument)
{
	const struct ew_foreign_ticket *ticket = argument;
	int r = ew_sleep(EW_SECOND);

	(void)ew_foreign_complete(*ticket, 0);
	return r;
}

static int wait_for_other_side(struct ew_reaper *reaper)
{
	const struct ew_foreign_options options = { .name = "a transfer" };
	struct ew_foreign_ticket ticket;
	int32_t result;
	int r;
	EW_OWN(ew_foreign, operation);
	EW_SCOPE(scope);

	r = ew_foreign_begin(reaper, &options, &operation);
	if (r < 0)
		return r;
	ticket = ew_foreign_ticket(operation);
	r = ew_spawn(&scope, complete, &ticket);
	if (r == 0)
		r = ew_foreign_wait(operation, EW_NEVER, &result);
	return ew_scope_finish(&scope, r);
}

static int open_files(struct ew_file *staging, struct ew_tempfile **nameless,
		      struct ew_tempfile **named)
{
	int r = ew_tempfile_open(staging, nameless);

	if (r == 0)
		r = ew_tempfile_open_named(staging, "staged", named);
	if (r == 0)
		r = ew_file_write(ew_tempfile_file(*named), "content", 7, 0);
	return r;
}

static int start_sleeper(struct ew_process **ret_process)
{
	char *argv[] = { "/bin/sleep", "1000", NULL };
	const struct ew_process_options options = { .path = argv[0],
						    .argv = argv,
						    .stdin_fd = -1,
						    .stdout_fd = -1,
						    .stderr_fd = -1,
						    .keep_fd = -1 };

	return ew_process_spawn(&options, ret_process);
}

static int close_book(void *argument)
{
	ask_for_everything(argument);
	return ew_sleep(EW_SECOND);
}

static int talk(struct ew_channel *channel, struct ew_socket *here, struct ew_socket **there)
{
	int r;
	EW_SCOPE(scope);

	r = ew_spawn_take(&scope, swallow, NULL, there);
	if (r == 0)
		r = ew_spawn(&scope, receive_all, channel);
	if (r == 0)
		r = ew_socket_send(here, "bytes", 5);
	if (r == 0)
		r = send_messages(channel);
	ew_channel_close(channel);
	if (r == 0)
		r = ew_socket_shutdown(here, SHUT_WR);
	return ew_scope_finish(&scope, r);
}

static int have_everything(void *argument)
{
	static const struct ew_reaper_options reaper_options = { .name = "hardship",
								 .operations_max = 1,
								 .drain_ns = 3 * EW_SECOND };
	int r;
	EW_GUARD(asking, argument, .close = close_book, .abort = ask_for_everything);
	EW_OWN(ew_reaper, reaper);
	EW_OWN(ew_permit, permit);
	EW_OWN(ew_file, staging);
	EW_OWN(ew_tempfile, nameless);
	EW_OWN(ew_tempfile, named);
	EW_OWN(ew_writer, writer);
	EW_OWN(ew_process, process);
	EW_OWN(ew_channel, channel);
	EW_OWN(ew_socket, here);
	EW_OWN(ew_socket, there);

	r = ew_reaper_new(&reaper_options, &reaper);
	if (r == 0)
		r = ew_semaphore_acquire(world.permits, EW_NEVER, &permit);
	if (r == 0)
		r = ew_file_open(NULL, world.staging.path, O_RDONLY | O_DIRECTORY, 0, &staging);
	if (r == 0)
		r = open_files(staging, &nameless, &named);
	if (r == 0)
		r = ew_writer_open_file(ew_tempfile_file(nameless), 0, 8192, &writer);
	if (r == 0)
		r = ew_writer_write(writer, "not written yet", 15);
	if (r == 0)
		r = start_sleeper(&process);
	if (r == 0)
		r = ew_channel_new(1, sizeof(int), dispose_message, &channel);
	if (r == 0)
		r = ew_socket_pair(&here, &there);
	if (r == 0)
		r = talk(channel, here, &there);
	if (r == 0)
		r = wait_for_other_side(reaper);
	return r;
}

TEST(sweep_hardship_everything_still_ends)
{
	if (RUNNING_ON_VALGRIND)
		SKIP("this Valgrind has no pidfd_open");
	if (!make_world())
		SKIP("a filesystem of its own takes root");
	expect_ends(have_everything, 20);
	EXPECT(refused.descriptors > 0 && refused.threads > 0 && refused.room > 0);
	EXPECT(refused.memory > 0 || SANITIZED);
	end_world();
}

/* ---- a filesystem that has no thread yet ---- */

static void unlink_name_now(void *argument)
{
	(void)argument;
	(void)!unlinkat(world.bucket.fd, "published", 0);
}

static int unlink_name(void *argument)
{
	struct ew_file **bucket = argument;

	return ew_file_unlink(*bucket, "published", 0);
}

/* The ending's call is the first for that filesystem, and there is no thread to be had for it. */
static int publish_elsewhere(void *argument)
{
	int fd = openat(world.bucket.fd, "published", O_CREAT | O_WRONLY | O_CLOEXEC, 0600), r;
	EW_OWN(ew_file, bucket);
	EW_GUARD(undo, &bucket, .close = unlink_name, .abort = unlink_name_now);

	(void)argument;
	EXPECT(fd >= 0);
	close(fd);
	r = ew_file_adopt(dup(world.bucket.fd), &bucket);
	return r < 0 ? r : ew_sleep(EW_SECOND);
}

TEST(sweep_hardship_unlinks_although_no_thread_can_be_started)
{
	if (!make_world())
		SKIP("a filesystem of its own takes root");
	expect_ends(publish_elsewhere, 1);
	end_world();
}

TEST_MAIN()
