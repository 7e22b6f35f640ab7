/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rules stand in the order of their numbers, which are never used again. A call that waits keeps
 * the number of its rule and nothing else, so a rule may go at any time, and its waiting calls see
 * that it has gone.
 */
#include "rules.h"

#include <errno.h>
#include <fnmatch.h>
#include <limits.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define ERRORS_MAX 200
#define EVERY	   CALL_COUNT

struct rule {
	struct rule *next;
	unsigned long id;
	enum call call; /* or EVERY */
	unsigned long after, times, delay_ms;
	bool hang;
	int error;
	char pattern[256]; /* empty: any path */
};

static const char *const names[] = {
	[CALL_LOOKUP] = "lookup",
	[CALL_GETATTR] = "getattr",
	[CALL_CHMOD] = "chmod",
	[CALL_CHOWN] = "chown",
	[CALL_TRUNCATE] = "truncate",
	[CALL_UTIMES] = "utimes",
	[CALL_CREATE] = "create",
	[CALL_TMPFILE] = "tmpfile",
	[CALL_OPEN] = "open",
	[CALL_READ] = "read",
	[CALL_WRITE] = "write",
	[CALL_FLUSH] = "flush",
	[CALL_FSYNC] = "fsync",
	[CALL_RELEASE] = "release",
	[CALL_LINK] = "link",
	[CALL_LINK_DONE] = "link-done",
	[CALL_UNLINK] = "unlink",
	[CALL_RENAME] = "rename",
	[CALL_RENAME_NOREPLACE] = "rename-noreplace",
	[CALL_MKDIR] = "mkdir",
	[CALL_RMDIR] = "rmdir",
	[CALL_OPENDIR] = "opendir",
	[CALL_READDIR] = "readdir",
	[CALL_FSYNCDIR] = "fsyncdir",
	[CALL_RELEASEDIR] = "releasedir",
	[CALL_STATFS] = "statfs",
	[EVERY] = "every", /* in rules only */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static struct rule *rules;
static unsigned long last_id;
static unsigned long made[CALL_COUNT], waiting[CALL_COUNT];

/* The path as a user of the mount would say it, such as "/bucket/name"; "" if it cannot be told. */
static void path_of(const char *root, int fd, const char *name, char *path, size_t path_bytes)
{
	char link[64], target[PATH_MAX];
	size_t root_bytes = strlen(root);
	ssize_t n;

	path[0] = '\0';
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, target, sizeof(target) - 1);
	if (n < 0)
		return;
	target[n] = '\0';
	if (strncmp(target, root, root_bytes) == 0)
		snprintf(path, path_bytes, "%s%s%s", target + root_bytes, name ? "/" : "",
			 name ? name : "");
}

static struct rule *find(unsigned long id)
{
	struct rule *rule = rules;

	while (rule && rule->id != id)
		rule = rule->next;
	return rule;
}

/* The first rule behind @id that means this call. */
static struct rule *find_next(unsigned long id, enum call call, const char *root, int fd,
			      const char *name)
{
	char path[2 * PATH_MAX];
	bool told = false;

	for (struct rule *rule = rules; rule; rule = rule->next) {
		if (rule->id <= id || (rule->call != call && rule->call != EVERY))
			continue;
		if (!rule->pattern[0])
			return rule;
		if (!told)
			path_of(root, fd, name, path, sizeof(path));
		told = true;
		if (fnmatch(rule->pattern, path, 0) == 0)
			return rule;
	}
	return NULL;
}

static void wait_at(unsigned long id, enum call call)
{
	const struct rule *rule = find(id);
	struct timespec until;
	int r = 0;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += (time_t)(rule->delay_ms / 1000);
	until.tv_nsec += (long)(rule->delay_ms % 1000) * 1000000;
	until.tv_sec += until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;

	waiting[call]++;
	while (rule && r != ETIMEDOUT) {
		if (rule->hang)
			pthread_cond_wait(&changed, &lock);
		else
			r = pthread_cond_clockwait(&changed, &lock, CLOCK_MONOTONIC, &until);
		rule = find(id);
	}
	waiting[call]--;
}

static int apply(struct rule *rule, enum call call)
{
	int error = rule->error;

	if (rule->after > 0) {
		rule->after--;
		return 0;
	}
	if (rule->times == 0)
		return 0;
	if (rule->times != ULONG_MAX)
		rule->times--;
	if (rule->hang || rule->delay_ms > 0)
		wait_at(rule->id, call);
	return error;
}

int rules_enter(enum call call, const char *root, int fd, const char *name)
{
	struct rule *rule;
	unsigned long id;
	int error = 0;

	pthread_mutex_lock(&lock);
	made[call]++;
	rule = find_next(0, call, root, fd, name);
	while (rule && error == 0) {
		id = rule->id;
		error = apply(rule, call);
		rule = find_next(id, call, root, fd, name);
	}
	pthread_mutex_unlock(&lock);
	return error;
}

static bool call_from(const char *name, enum call *ret_call)
{
	for (unsigned int i = 0; name && i <= EVERY; i++)
		if (strcmp(names[i], name) == 0) {
			*ret_call = (enum call)i;
			return true;
		}
	return false;
}

static bool number_from(const char *text, unsigned long *ret_number)
{
	unsigned long number;
	char *end;

	errno = 0;
	number = strtoul(text, &end, 10);
	if (errno != 0 || end == text || *end != '\0')
		return false;
	*ret_number = number;
	return true;
}

static bool error_from(const char *text, int *ret_error)
{
	for (int error = 1; error < ERRORS_MAX; error++) {
		const char *name = strerrorname_np(error);

		if (name && strcmp(name, text) == 0) {
			*ret_error = error;
			return true;
		}
	}
	return false;
}

static bool pattern_from(const char *text, struct rule *rule)
{
	return (size_t)snprintf(rule->pattern, sizeof(rule->pattern), "%s", text) <
	       sizeof(rule->pattern);
}

static bool word_from(char *word, struct rule *rule)
{
	char *value = strchr(word, '=');

	if (!value) {
		rule->hang = strcmp(word, "hang") == 0;
		return rule->hang;
	}
	*value++ = '\0';
	if (strcmp(word, "delay") == 0)
		return number_from(value, &rule->delay_ms);
	if (strcmp(word, "after") == 0)
		return number_from(value, &rule->after);
	if (strcmp(word, "times") == 0)
		return number_from(value, &rule->times);
	if (strcmp(word, "error") == 0)
		return error_from(value, &rule->error);
	return strcmp(word, "path") == 0 && pattern_from(value, rule);
}

static void add(struct rule *rule, FILE *reply)
{
	struct rule **end = &rules;

	while (*end)
		end = &(*end)->next;
	rule->id = ++last_id;
	*end = rule;
	fprintf(reply, "ok %lu\n", rule->id);
}

static void command_rule(char **words, FILE *reply)
{
	struct rule *rule = calloc(1, sizeof(*rule));
	const char *kind = strtok_r(NULL, " ", words);
	char *word;

	if (!rule || !call_from(kind, &rule->call)) {
		fprintf(reply, "error no call %s\n", kind ? kind : "");
		free(rule);
		return;
	}
	rule->times = ULONG_MAX;
	while ((word = strtok_r(NULL, " ", words)))
		if (!word_from(word, rule)) {
			fprintf(reply, "error what is %s?\n", word);
			free(rule);
			return;
		}
	add(rule, reply);
}

static void command_clear(char **words, FILE *reply)
{
	const char *word = strtok_r(NULL, " ", words);
	struct rule **place = &rules, *rule;
	unsigned long id = 0;

	if (word && !number_from(word, &id)) {
		fprintf(reply, "error no rule %s\n", word);
		return;
	}
	while ((rule = *place)) {
		if (word && rule->id != id) {
			place = &rule->next;
			continue;
		}
		*place = rule->next;
		free(rule);
	}
	pthread_cond_broadcast(&changed);
	fprintf(reply, "ok\n");
}

static void command_counts(FILE *reply)
{
	for (unsigned int i = 0; i < CALL_COUNT; i++)
		fprintf(reply, "%s %lu %lu\n", names[i], made[i], waiting[i]);
}

void rules_command(char *line, FILE *reply)
{
	char *words = NULL;
	const char *word = strtok_r(line, " ", &words);

	pthread_mutex_lock(&lock);
	if (word && strcmp(word, "rule") == 0)
		command_rule(&words, reply);
	else if (word && strcmp(word, "clear") == 0)
		command_clear(&words, reply);
	else if (word && strcmp(word, "counts") == 0)
		command_counts(reply);
	else
		fprintf(reply, "error no command %s\n", word ? word : "");
	pthread_mutex_unlock(&lock);
}
