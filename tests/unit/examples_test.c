/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Documents and examples agree: each block of C in a document stands word for word in an example, each output
 * that a document shows is what the example prints, and the README's first program is examples/first.c whole.
 */

#include "ew_test.h"

#include <arpa/inet.h>
#include <glob.h>
#include <netinet/in.h>
#include <sys/socket.h>

#define TEXT_BYTES_MAX (256 * 1024)

static char *read_text(const char *path)
{
	char *text = calloc(1, TEXT_BYTES_MAX);
	FILE *file = fopen(path, "r");
	size_t bytes;

	if (!text || !file)
		ew_test_fail(__FILE__, __LINE__, "cannot read %s", path);
	bytes = fread(text, 1, TEXT_BYTES_MAX, file);
	EXPECT(bytes < TEXT_BYTES_MAX);
	fclose(file);
	return text;
}

static void find_files(const char *pattern, glob_t *found)
{
	char path[1024];

	snprintf(path, sizeof(path), "%s/%s", SOURCE_ROOT, pattern);
	EXPECT_EQ(glob(path, 0, NULL, found), 0);
}

/* The path of a built example, beside this very program's folder. */
static void example_path(const char *name, char *path, size_t size)
{
	char own[900];
	ssize_t bytes = readlink("/proc/self/exe", own, sizeof(own) - 1);
	int i;

	EXPECT(bytes > 0);
	own[bytes] = '\0';
	for (i = 0; i < 3; i++)
		*strrchr(own, '/') = '\0'; /* build/tests/unit/examples_test */
	snprintf(path, size, "%s/examples/%s", own, name);
}

/* What an example prints on its standard output; it must end with 0. */
static char *run_example(const char *name)
{
	char path[1024], *text = calloc(1, TEXT_BYTES_MAX);
	FILE *output;
	size_t bytes;

	example_path(name, path, sizeof(path));
	EXPECT(text != NULL);
	output = popen(path, "r");
	EXPECT(output != NULL);
	bytes = fread(text, 1, TEXT_BYTES_MAX, output);
	EXPECT(bytes < TEXT_BYTES_MAX);
	EXPECT_EQ(pclose(output), 0);
	return text;
}

/* Calls @check for each fenced block of a document: its language and its text. */
static void each_block(const char *document,
		       void (*check)(const char *where, const char *language, char *text))
{
	char *text = read_text(document), *at = text, language[32], *line_end, *end;

	while ((at = strstr(at, "\n```"))) {
		at += 4;
		line_end = strchr(at, '\n');
		snprintf(language, sizeof(language), "%.*s", (int)(line_end - at), at);
		end = strstr(line_end, "\n```");
		if (!end)
			ew_test_fail(__FILE__, __LINE__, "%s: a block does not end", document);
		*end = '\0';
		check(document, language, line_end + 1);
		at = end + 4;
	}
	free(text);
}

static void each_block_of(const char *pattern,
			  void (*check)(const char *where, const char *language, char *text))
{
	glob_t found;
	size_t i;

	find_files(pattern, &found);
	for (i = 0; i < found.gl_pathc; i++)
		each_block(found.gl_pathv[i], check);
	globfree(&found);
}

static void each_document(void (*check)(const char *where, const char *language, char *text))
{
	each_block_of("docs/*.md", check);
	each_block_of("docs/tutorial/*.md", check);
	each_block(SOURCE_ROOT "/README.md", check);
}

static int blocks_checked;

static void expect_in_an_example(const char *where, const char *language, char *text)
{
	bool stands = false;
	glob_t found;
	char *example;
	size_t i;

	if (strcmp(language, "c") != 0)
		return;
	find_files("examples/*.c", &found);
	for (i = 0; i < found.gl_pathc && !stands; i++) {
		example = read_text(found.gl_pathv[i]);
		stands = strstr(example, text) != NULL;
		free(example);
	}
	globfree(&found);
	if (!stands)
		ew_test_fail(__FILE__, __LINE__, "%s: stands in no example: %.200s", where, text);
	blocks_checked++;
}

TEST(document_blocks_of_c_stand_in_examples)
{
	each_document(expect_in_an_example);
	EXPECT(blocks_checked > 0);
}

static void expect_output(const char *where, const char *language, char *text)
{
	static const char command[] = "$ build/examples/";
	char *line_end = strchr(text, '\n'), *output;

	(void)language;
	if (!line_end || strncmp(text, command, strlen(command)) != 0)
		return;
	*line_end = '\0';
	output = run_example(text + strlen(command));
	output[strlen(output) - 1] = '\0'; /* a block's last line end belongs to its fence */
	if (strcmp(output, line_end + 1) != 0)
		ew_test_fail(__FILE__, __LINE__, "%s: `%s` prints: %.300s", where, text, output);
	free(output);
	blocks_checked++;
}

TEST(document_outputs_are_what_examples_print)
{
	each_document(expect_output);
	EXPECT(blocks_checked > 0);
}

/* A page that the path does not lead to is read by nobody. */
TEST(tutorial_leads_to_each_of_its_pages)
{
	char *path = read_text(SOURCE_ROOT "/docs/tutorial/README.md"), link[128];
	glob_t found;
	size_t i;

	find_files("docs/tutorial/*.md", &found);
	EXPECT(found.gl_pathc > 1);
	for (i = 0; i < found.gl_pathc; i++) {
		snprintf(link, sizeof(link), "](%s)", strrchr(found.gl_pathv[i], '/') + 1);
		if (!strstr(path, link) && strcmp(link, "](README.md)") != 0)
			ew_test_fail(__FILE__, __LINE__, "no way leads to %s", found.gl_pathv[i]);
	}
	globfree(&found);
	free(path);
}

TEST(readme_quotes_its_first_program_whole)
{
	char *readme = read_text(SOURCE_ROOT "/README.md");
	char *program = read_text(SOURCE_ROOT "/examples/first.c");
	char *quoted = strstr(readme, program);

	EXPECT(quoted != NULL);
	EXPECT(strncmp(quoted + strlen(program), "```\n", 4) == 0);
	free(readme);
	free(program);
}

TEST(example_compensation_gives_the_seat_back)
{
	char *output = run_example("compensation");

	EXPECT_STR(output, "Ada: booked\nGrace: the seat was given back\n");
	free(output);
}

TEST(example_deadline_stops_the_slow_one)
{
	char *output = run_example("deadline");

	EXPECT(strstr(output, "two: all done\n") != NULL);
	EXPECT(strstr(output, "gold: stopped\nthree: out of time\n") != NULL);
	free(output);
}

/* Whether a test of this name is in one of the files. */
static bool test_is_in(const char *pattern, const char *form, const char *name)
{
	char wanted[256], *text;
	bool found_it = false;
	glob_t found;
	size_t i;

	snprintf(wanted, sizeof(wanted), form, name);
	find_files(pattern, &found);
	for (i = 0; i < found.gl_pathc && !found_it; i++) {
		text = read_text(found.gl_pathv[i]);
		found_it = strstr(text, wanted) != NULL;
		free(text);
	}
	globfree(&found);
	return found_it;
}

/* Words in backticks with three underscores or more are names of tests, unless they belong to an interface. */
static bool is_name_of_a_test(const char *word)
{
	unsigned underscores = 0;
	const char *at;

	for (at = word; *at; at++) {
		if (*at == '_')
			underscores++;
		else if (!((*at >= 'a' && *at <= 'z') || (*at >= 'A' && *at <= 'Z') ||
			   (*at >= '0' && *at <= '9')))
			return false;
	}
	return underscores >= 3 && strncmp(word, "ew_", 3) != 0 && strncmp(word, "EW_", 3) != 0;
}

static int expect_named_tests_exist(const char *document)
{
	char *text = read_text(document), *at, *word, *rest = NULL;
	int count = 0;

	for (at = strtok_r(text, "`", &rest); at; at = strtok_r(NULL, "`", &rest)) {
		word = at;
		if (!is_name_of_a_test(word))
			continue;
		if (!test_is_in("tests/unit/*_test.c", "TEST(%s)", word) &&
		    !test_is_in("tests/sweep/*_test.c", "TEST(%s)", word) &&
		    !test_is_in("tests/apps/*_test.py", "def test_%s(", word))
			ew_test_fail(__FILE__, __LINE__, "%s: there is no test %s", document, word);
		count++;
	}
	free(text);
	return count;
}

TEST(document_names_of_tests_are_names_of_tests)
{
	EXPECT(expect_named_tests_exist(SOURCE_ROOT "/docs/cancellation.md") > 0);
	EXPECT(expect_named_tests_exist(SOURCE_ROOT "/docs/promises.md") > 0);
}

static pid_t start_echo(FILE **ret_output, int *ret_port)
{
	char path[1024];
	int pipe_fd[2];
	pid_t child;

	example_path("echo", path, sizeof(path));
	EXPECT_EQ(pipe(pipe_fd), 0);
	child = fork();
	EXPECT(child >= 0);
	if (child == 0) {
		dup2(pipe_fd[1], STDOUT_FILENO);
		execl(path, path, (char *)NULL);
		_exit(127);
	}
	close(pipe_fd[1]);
	*ret_output = fdopen(pipe_fd[0], "r");
	EXPECT(*ret_output != NULL);
	EXPECT_EQ(fscanf(*ret_output, "127.0.0.1:%d", ret_port), 1);
	return child;
}

static int dial(int port)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	EXPECT_EQ(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	return fd;
}

/* One client leaves by itself, one stays until it is cut; both have heard their echo. */
TEST(example_echo_answers_and_ends_what_is_open)
{
	char text[6] = "";
	FILE *output;
	int port, leaving, staying, status;
	unsigned cut;
	pid_t child = start_echo(&output, &port);

	leaving = dial(port);
	EXPECT_EQ(write(leaving, "hello", 5), 5);
	EXPECT_EQ(recv(leaving, text, 5, MSG_WAITALL), 5);
	EXPECT_STR(text, "hello");
	close(leaving);
	staying = dial(port);
	EXPECT_EQ(write(staying, "there", 5), 5);
	EXPECT_EQ(recv(staying, text, 5, MSG_WAITALL), 5);
	EXPECT_STR(text, "there");

	EXPECT_EQ(kill(child, SIGTERM), 0);
	EXPECT_EQ(recv(staying, text, 5, 0), 0);
	EXPECT_EQ(fscanf(output, " %u connections cut", &cut), 1);
	EXPECT_EQ(cut, 1);
	EXPECT_EQ(waitpid(child, &status, 0), child);
	EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	fclose(output);
	close(staying);
}

TEST_MAIN()
