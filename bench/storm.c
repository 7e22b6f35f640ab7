/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Storm: thousands of uploads in flight, all clients cut at once. How long until everything is gone, and what does
 * a well-behaved client notice? Each upload has 64 KiB written and waits for more; the clients are one process,
 * which is killed. Beside ew-ingest, in the same run, a bare loop that does nothing but the removals (bare_storm.c):
 * told by one byte to do them all, with its files in one folder, as the server has its nameless ones, and in another
 * row in 64; and told by the end of as many connections, cut in the same way as the server's.
 * Two cases: the blocks are still dirty, and the blocks are on disk (after a sync), where freeing them takes an
 * ext4 that is mounted with `discard` more than ten times as long.
 *
 * "Gone" is when all upload slots are free, by the server's own metrics, looked at every millisecond: a slot is
 * free when the file's bytes are. The descriptors are counted then. The time that the kernel takes to end the
 * clients' process, which it shares with the server, is part of it, and is printed.
 *
 * The bystander is a process that answers a probe of its own and has nothing to do with the storm: what its client
 * notices is the kernel's work for ten thousand connections that are cut, on as many processors as there are.
 *
 * Goals: at most 1.2 times (dirty) and 2.5 times (on disk) the bare loop, the probe's p99 at most 2.5 ms.
 */

#include "bare_storm.h"
#include "numbers.h"
#include "probe.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <err.h>
#include <fcntl.h>
#include <ftw.h>
#include <libgen.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define FILE_BYTES   65536
#define UPLOADS_MAX  10000
#define SPARE_FDS    400 /* the server's reserve and waiting room, and a little */
#define ROUNDS_MAX   11
#define FOLDERS_MAX  64
#define QUIET_NS     INT64_C(1000000000)
#define SETTLE_NS    INT64_C(6000000000)
#define PATIENCE_NS  INT64_C(60000000000)
#define HEALTHZ	     "GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
#define HEALTHZ_END  "\r\n\r\nok\n"
#define ECHO_LINE    "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcde\n"
#define SOURCES_EACH 200 /* connections from one source address: one has 28,000 ports */

struct figures {
	double gone_ms;
	double clients_ms; /* the kernel's end of the clients' process */
	struct latency before, during, after, all;
	struct latency bystander, bystander_all;
	int descriptors_left;
};

static const char *server_path;
static char folder[256];
static const char *folders[FOLDERS_MAX]; /* the first is the folder itself, the others are in it */
static unsigned uploads;

static void fill_random(char *bytes, size_t len)
{
	for (size_t i = 0; i < len; i++)
		bytes[i] = (char)(i * 2654435761u >> 13);
}

static int listen_anywhere(unsigned backlog, uint16_t *ret_port)
{
	struct sockaddr_in address = { .sin_family = AF_INET,
				       .sin_addr = { htonl(INADDR_LOOPBACK) } };
	socklen_t len = sizeof(address);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&address, len) < 0 ||
	    listen(fd, (int)backlog) < 0 || getsockname(fd, (struct sockaddr *)&address, &len) < 0)
		err(1, "cannot listen");
	*ret_port = ntohs(address.sin_port);
	return fd;
}

static int connect_from(uint32_t source, uint16_t port)
{
	struct sockaddr_in from = { .sin_family = AF_INET, .sin_addr = { htonl(source) } };
	struct sockaddr_in to = { .sin_family = AF_INET,
				  .sin_port = htons(port),
				  .sin_addr = { htonl(INADDR_LOOPBACK) } };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&from, sizeof(from)) < 0 ||
	    connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0)
		err(1, "cannot connect to port %u", port);
	return fd;
}

static void send_all(int fd, const char *bytes, size_t len)
{
	while (len > 0) {
		ssize_t n = send(fd, bytes, len, MSG_NOSIGNAL);

		if (n <= 0)
			err(1, "cannot send");
		bytes += n;
		len -= (size_t)n;
	}
}

static void send_part(int fd, unsigned number, const char *part)
{
	char head[256];
	int len = snprintf(
		head, sizeof(head),
		"PUT /files/storm%u HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n",
		number, 2 * FILE_BYTES);

	send_all(fd, head, (size_t)len);
	send_all(fd, part, FILE_BYTES);
}

/* Connects all, sends a part of each upload to a server, and waits to be killed. */
static void run_clients(uint16_t port, bool to_server)
{
	static char part[FILE_BYTES];

	fill_random(part, sizeof(part));
	for (unsigned i = 0; i < uploads; i++) {
		int fd = connect_from(INADDR_LOOPBACK + 256 + i / SOURCES_EACH, port);

		if (to_server)
			send_part(fd, i, part);
	}
	for (;;)
		pause();
}

static pid_t start_clients(uint16_t port, bool to_server)
{
	pid_t child = fork();

	if (child < 0)
		err(1, "fork");
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		run_clients(port, to_server);
	}
	return child;
}

static pid_t start_server(uint16_t *ret_port)
{
	char bucket[300], log[300], line[512];
	bool found = false;
	int block[2];
	pid_t child;
	FILE *out;

	snprintf(bucket, sizeof(bucket), "%s/bucket", folder);
	snprintf(log, sizeof(log), "%s/log", folder);
	if (pipe2(block, O_CLOEXEC) < 0)
		err(1, "pipe");
	child = fork();
	if (child < 0)
		err(1, "fork");
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGTERM);
		dup2(block[1], STDOUT_FILENO);
		dup2(open(log, O_WRONLY | O_CREAT | O_TRUNC, 0600), STDERR_FILENO);
		execl(server_path, "ew-ingest", "serve", "--listen", "127.0.0.1:0", "--bucket",
		      bucket, "--scanner", "none", (char *)NULL);
		err(127, "%s", server_path);
	}
	close(block[1]);
	out = fdopen(block[0], "r");
	while (out && fgets(line, sizeof(line), out)) {
		const char *at = strstr(line, "http://127.0.0.1:");

		if (at && !found) {
			*ret_port = (uint16_t)atoi(at + strlen("http://127.0.0.1:"));
			found = true;
		}
		if (strstr(line, "  try "))
			break;
	}
	if (!found)
		errx(1, "the server did not start, see %s", log);
	fclose(out);
	return child;
}

/* A value of /metrics, by a connection that stays. The name begins after a line feed and ends before the value. */
static double metric(int fd, const char *name)
{
	static char page[65536];
	const char *ask = "GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", *at, *body = NULL;
	size_t used = 0, want = sizeof(page) - 1;

	send_all(fd, ask, strlen(ask));
	while (used < want) {
		ssize_t n = read(fd, page + used, sizeof(page) - 1 - used);

		if (n <= 0)
			errx(1, "no metrics");
		used += (size_t)n;
		page[used] = '\0';
		if (!body && (body = strstr(page, "\r\n\r\n")))
			want = (size_t)(body + 4 - page) +
			       (size_t)atol(strcasestr(page, "content-length:") + 15);
	}
	at = strstr(page, name);
	if (!at)
		errx(1, "no metric %s", name + 1);
	return atof(at + strlen(name));
}

static void await_metric(int fd, const char *name, double value)
{
	int64_t end_ns = now_ns() + PATIENCE_NS;

	while (metric(fd, name) != value) {
		if (now_ns() > end_ns)
			errx(1, "%s did not become %.0f", name + 1, value);
		usleep(1000);
	}
}

static int descriptors_of(pid_t process)
{
	char path[64];
	int count = 0;
	DIR *entries;

	snprintf(path, sizeof(path), "/proc/%d/fd", process);
	entries = opendir(path);
	while (entries && readdir(entries))
		count++;
	closedir(entries);
	return count;
}

static void sync_folder(void)
{
	int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0 || syncfs(fd) < 0)
		err(1, "cannot sync %s", folder);
	close(fd);
}

static void pass(int64_t duration_ns)
{
	usleep((useconds_t)(duration_ns / 1000));
}

static void look_at_probe(struct probe *probe, int64_t cut_ns, int64_t gone_ns,
			  struct figures *figures)
{
	figures->before = probe_look(probe, 0, cut_ns);
	figures->during = probe_look(probe, cut_ns, gone_ns);
	figures->after = probe_look(probe, gone_ns, INT64_MAX);
	figures->all = probe_look(probe, 0, INT64_MAX);
	figures->gone_ms = (double)(gone_ns - cut_ns) / 1e6;
}

/* A process with the bare loop, and its clients, if it is to be told by them; the port is its echo's. */
struct bare {
	pid_t child;
	pid_t clients;
	int command;
	uint16_t port;
};

static void start_bare(struct bare *bare, struct bare_storm storm)
{
	int64_t staged_ns;
	int command[2];

	storm.folders = folders;
	storm.file_bytes = FILE_BYTES;
	storm.listener_fd = listen_anywhere(UPLOADS_MAX, &bare->port);
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, command) < 0)
		err(1, "socketpair");
	bare->child = fork();
	if (bare->child < 0)
		err(1, "fork");
	if (bare->child == 0) {
		close(command[0]);
		storm.command_fd = command[1];
		bare_storm_run(&storm);
		_exit(0);
	}
	close(command[1]);
	close(storm.listener_fd);
	bare->command = command[0];
	if (storm.clients)
		bare->clients = start_clients(bare->port, false);
	if (read(bare->command, &staged_ns, sizeof(staged_ns)) != sizeof(staged_ns))
		errx(1, "the bare loop did not stage its files");
}

static void stop_bare(struct bare *bare)
{
	close(bare->command);
	waitpid(bare->child, NULL, 0);
}

/* How long the kernel takes to end their process, in ms. */
static double cut(pid_t clients)
{
	int64_t cut_ns = now_ns();

	kill(clients, SIGKILL);
	waitpid(clients, NULL, 0);
	return (double)(now_ns() - cut_ns) / 1e6;
}

/*
 * For five seconds ext4 does not use an inode again that was freed, and searches through all of them for each new
 * file: a storm would begin with a processor at what the one before has left.
 */
static void settle(void)
{
	pass(SETTLE_NS);
}

static struct figures storm_server(bool on_disk)
{
	struct figures figures = { 0 };
	int64_t cut_ns, gone_ns;
	struct probe probe, bystander;
	struct bare echo;
	pid_t server, clients;
	int control, before;
	uint16_t port = 0;

	settle();
	server = start_server(&port);
	control = connect_from(INADDR_LOOPBACK, port);
	await_metric(control, "\ningest_upload_slots{state=\"held\"} ", 0);
	before = descriptors_of(server);
	clients = start_clients(port, true);
	await_metric(control, "\ningest_received_bytes_total ", (double)uploads * FILE_BYTES);
	if (on_disk)
		sync_folder();

	start_bare(&echo, (struct bare_storm){ .folders_count = 1 });
	probe_start(&bystander, echo.port, ECHO_LINE, "\n");
	probe_start(&probe, port, HEALTHZ, HEALTHZ_END);
	pass(QUIET_NS);
	cut_ns = now_ns();
	figures.clients_ms = cut(clients);
	await_metric(control, "\ningest_upload_slots{state=\"held\"} ", 0);
	gone_ns = now_ns();
	figures.descriptors_left = descriptors_of(server) - before - 1; /* the probe's */
	pass(QUIET_NS);
	look_at_probe(&probe, cut_ns, gone_ns, &figures);
	figures.bystander = probe_look(&bystander, cut_ns, gone_ns);
	figures.bystander_all = probe_look(&bystander, 0, INT64_MAX);
	probe_stop(&probe);
	probe_stop(&bystander);
	stop_bare(&echo);
	close(control);
	kill(server, SIGTERM);
	waitpid(server, NULL, 0);
	return figures;
}

static struct figures storm_bare(bool on_disk, struct bare_storm storm)
{
	struct figures figures = { 0 };
	int64_t cut_ns, gone_ns;
	struct probe probe;
	struct bare bare;

	settle();
	storm.count = uploads;
	start_bare(&bare, storm);
	if (on_disk)
		sync_folder();
	probe_start(&probe, bare.port, ECHO_LINE, "\n");
	pass(QUIET_NS);
	cut_ns = now_ns();
	if (storm.clients)
		figures.clients_ms = cut(bare.clients);
	else if (write(bare.command, "x", 1) != 1)
		err(1, "the bare loop does not listen");
	if (read(bare.command, &gone_ns, sizeof(gone_ns)) != sizeof(gone_ns))
		errx(1, "the bare loop did not remove its files");
	pass(QUIET_NS);
	look_at_probe(&probe, cut_ns, gone_ns, &figures);
	probe_stop(&probe);
	stop_bare(&bare);
	return figures;
}

struct spread {
	double median, min, max;
};

static struct spread spread_of(const struct figures *figures, unsigned rounds,
			       double (*value)(const struct figures *figures))
{
	double values[ROUNDS_MAX];

	for (unsigned i = 0; i < rounds; i++)
		values[i] = value(&figures[i]);
	numbers_sort(values, rounds);
	return (struct spread){ values[rounds / 2], values[0], values[rounds - 1] };
}

static double gone(const struct figures *figures)
{
	return figures->gone_ms;
}

static double clients_end(const struct figures *figures)
{
	return figures->clients_ms;
}

static double p99_before(const struct figures *figures)
{
	return figures->before.p99_ms;
}

static double p99_during(const struct figures *figures)
{
	return figures->during.p99_ms;
}

static double max_during(const struct figures *figures)
{
	return figures->during.max_ms;
}

static double p99_after(const struct figures *figures)
{
	return figures->after.p99_ms;
}

static double p99_all(const struct figures *figures)
{
	return figures->all.p99_ms;
}

static double p99_bystander(const struct figures *figures)
{
	return figures->bystander.p99_ms;
}

static double p99_bystander_all(const struct figures *figures)
{
	return figures->bystander_all.p99_ms;
}

static void print_row(const char *name, const struct figures *figures, unsigned rounds)
{
	static const struct {
		const char *name;
		double (*value)(const struct figures *figures);
	} columns[] = {
		{ "all gone", gone },
		{ "probe p99 before", p99_before },
		{ "during", p99_during },
		{ "(max", max_during },
		{ "after", p99_after },
		{ "in all", p99_all },
		{ "bystander during", p99_bystander },
		{ "bystander in all", p99_bystander_all },
		{ "clients' end", clients_end },
	};

	printf("  %-16s", name);
	for (size_t i = 0; i < sizeof(columns) / sizeof(columns[0]); i++) {
		struct spread spread = spread_of(figures, rounds, columns[i].value);

		printf("  %s %.2f (%.2f..%.2f)%s", columns[i].name, spread.median, spread.min,
		       spread.max, columns[i].name[0] == '(' ? ")" : "");
	}
	printf("\n");
}

static void run_case(const char *name, bool on_disk, unsigned rounds)
{
	static struct figures bare[ROUNDS_MAX], spread[ROUNDS_MAX], told[ROUNDS_MAX];
	static struct figures server[ROUNDS_MAX];
	int left = 0;

	for (unsigned i = 0; i < rounds; i++) {
		bare[i] = storm_bare(on_disk, (struct bare_storm){ .folders_count = 1 });
		spread[i] =
			storm_bare(on_disk, (struct bare_storm){ .folders_count = FOLDERS_MAX });
		told[i] = storm_bare(on_disk,
				     (struct bare_storm){ .folders_count = 1, .clients = true });
		server[i] = storm_server(on_disk);
		if (server[i].descriptors_left > left)
			left = server[i].descriptors_left;
	}
	printf("%u uploads of %d KiB, %s, %u rounds; ms\n", uploads, FILE_BYTES / 1024, name,
	       rounds);
	print_row("bare", bare, rounds);
	print_row("bare, 64 folders", spread, rounds);
	print_row("bare, by clients", told, rounds);
	print_row("ew-ingest", server, rounds);
	printf("  all gone %.2f times bare, %.2f times bare by clients; descriptors left: %d\n",
	       spread_of(server, rounds, gone).median / spread_of(bare, rounds, gone).median,
	       spread_of(server, rounds, gone).median / spread_of(told, rounds, gone).median, left);
}

static void prepare(const char *program)
{
	static char path[4096];
	char self[2048];
	struct rlimit limit;

	snprintf(self, sizeof(self), "%s", program);
	snprintf(path, sizeof(path), "%s/../bin/ew-ingest", dirname(self));
	server_path = path;

	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	uploads = (unsigned)(limit.rlim_max - SPARE_FDS) / 2;
	if (uploads > UPLOADS_MAX)
		uploads = UPLOADS_MAX;

	snprintf(folder, sizeof(folder), "./storm.XXXXXX");
	if (!mkdtemp(folder))
		err(1, "cannot make a folder here");
	folders[0] = folder;
	for (unsigned i = 1; i < FOLDERS_MAX; i++) {
		char *name = NULL;

		if (asprintf(&name, "%s/%u", folder, i) < 0 || mkdir(name, 0700) < 0)
			err(1, "cannot make a folder in %s", folder);
		folders[i] = name;
	}
}

static int remove_one(const char *path, const struct stat *state, int kind, struct FTW *place)
{
	(void)state;
	(void)kind;
	(void)place;
	return remove(path);
}

static void clean_up(void)
{
	if (nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS) < 0)
		warn("cannot remove %s", folder);
}

int main(int argc, char **argv)
{
	unsigned rounds = argc > 1 ? (unsigned)atoi(argv[1]) : 3;

	if (rounds < 1 || rounds > ROUNDS_MAX)
		errx(2, "usage: storm [ROUNDS, at most %d; 3]", ROUNDS_MAX);
	prepare(argv[0]);
	atexit(clean_up);
	run_case("still dirty", false, rounds);
	run_case("on disk", true, rounds);
	return 0;
}
