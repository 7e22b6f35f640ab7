/* SPDX-License-Identifier: Apache-2.0 */
/*
 * inih tells the number of the first line that was refused, by itself or by us. So lines are counted here too: only if it
 * is ours, the words for it are.
 */
#include "config.h"

#include <errno.h>
#include <ini.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <endwell/base.h>

#include "common/flags.h"
#include "http/head.h"

#define TIME_MAX (24 * 3600 * EW_SECOND)

/* Of a route with bodies that does not say it. */
#define INLINE_BODY_BYTES 65536

struct reading {
	struct config *config;
	struct route_config *route; /* one of these two is NULL: whose section this is */
	struct tenant_config *tenant;
	const char *key;
	FILE *file;
	int line;
	char section[80]; /* the newest one's line, until it has a key */
	int section_line;
	int wrong_line; /* 0: so far none */
	char wrong[256];
};

static int fail(struct reading *reading, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

static int fail(struct reading *reading, const char *format, ...)
{
	va_list arguments;
	int length = 0;

	reading->wrong_line = reading->line;
	if (reading->key)
		length = snprintf(reading->wrong, sizeof(reading->wrong), "%.64s: ", reading->key);
	va_start(arguments, format);
	vsnprintf(reading->wrong + length, sizeof(reading->wrong) - (size_t)length, format,
		  arguments);
	va_end(arguments);
	return -EINVAL;
}

static int read_text(struct reading *reading, const char *value, char *ret_text)
{
	if (strlen(value) >= CONFIG_TEXT_BYTES)
		return fail(reading, "is longer than %d bytes", CONFIG_TEXT_BYTES - 1);
	strcpy(ret_text, value);
	return 0;
}

static int read_number(struct reading *reading, const char *value, uint64_t min, uint64_t max,
		       uint64_t *ret_number)
{
	char wrong[FLAGS_WRONG_BYTES];

	if (flags_parse_number(value, min, max, ret_number, wrong) < 0)
		return fail(reading, "%s", wrong);
	return 0;
}

/* `30s`, `500ms`, `2m`, `1h` */
static int read_time(struct reading *reading, const char *value, int64_t *ret_ns)
{
	static const struct {
		const char *word;
		int64_t ns;
	} units[] = { { "ms", EW_MILLISECOND },
		      { "s", EW_SECOND },
		      { "m", 60 * EW_SECOND },
		      { "h", 3600 * EW_SECOND } };
	unsigned long long number;
	char *end;

	errno = 0;
	number = strtoull(value, &end, 10);
	if (*value < '0' || *value > '9' || errno)
		end = (char *)"";
	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
		if (strcmp(end, units[i].word) != 0)
			continue;
		if (number == 0 || number > (unsigned long long)(TIME_MAX / units[i].ns))
			return fail(reading, "%.64s is outside 1ms to 24h", value);
		*ret_ns = (int64_t)number * units[i].ns;
		return 0;
	}
	return fail(reading, "`%.64s` is not a time such as 500ms, 30s, 2m or 1h", value);
}

static int read_choice(struct reading *reading, const char *value, const char *no, const char *yes,
		       bool *ret_yes)
{
	if (strcmp(value, no) != 0 && strcmp(value, yes) != 0)
		return fail(reading, "`%.64s` is neither %s nor %s", value, no, yes);
	*ret_yes = strcmp(value, yes) == 0;
	return 0;
}

static int read_exchange(struct reading *reading, const char *value)
{
	return read_text(reading, value, reading->route->exchange);
}

static int read_routing_key(struct reading *reading, const char *value)
{
	return *value ? read_text(reading, value, reading->route->routing_key)
		      : fail(reading, "is empty");
}

static int read_timeout(struct reading *reading, const char *value)
{
	return read_time(reading, value, &reading->route->timeout_ns);
}

static int read_cancel_deadline(struct reading *reading, const char *value)
{
	return read_time(reading, value, &reading->route->cancel_deadline_ns);
}

static int read_presumed_hold(struct reading *reading, const char *value)
{
	return read_time(reading, value, &reading->route->presumed_hold_ns);
}

static int read_concurrency(struct reading *reading, const char *value)
{
	return read_number(reading, value, 1, CONFIG_PERMITS_MAX, &reading->route->concurrency);
}

static int read_waiting_room(struct reading *reading, const char *value)
{
	return read_number(reading, value, 0, CONFIG_WAITING_MAX, &reading->route->waiting_room);
}

static int read_tenant_header(struct reading *reading, const char *value)
{
	if (!*value || strlen(value) >= CONFIG_NAME_BYTES)
		return fail(reading, "a header's name has 1 to %d characters",
			    CONFIG_NAME_BYTES - 1);
	for (const char *at = value; *at; at++)
		if (!http_token_char((unsigned char)*at))
			return fail(reading, "`%.64s` is not the name of a header", value);
	strcpy(reading->route->tenant_header, value);
	return 0;
}

static int read_tenant_concurrency(struct reading *reading, const char *value)
{
	return read_number(reading, value, 1, CONFIG_PERMITS_MAX,
			   &reading->route->tenant_concurrency);
}

static int read_tenant_waiting_room(struct reading *reading, const char *value)
{
	return read_number(reading, value, 0, CONFIG_WAITING_MAX,
			   &reading->route->tenant_waiting_room);
}

static int read_events_window(struct reading *reading, const char *value)
{
	return read_number(reading, value, 1, CONFIG_BODY_MAX_MAX,
			   &reading->route->events_window_bytes);
}

static int read_events_keep_alive(struct reading *reading, const char *value)
{
	return read_time(reading, value, &reading->route->events_keep_alive_ns);
}

static int read_body_max(struct reading *reading, const char *value)
{
	return read_number(reading, value, 1, CONFIG_FILE_MAX_MAX, &reading->route->body_max_bytes);
}

static int read_bodies(struct reading *reading, const char *value)
{
	char *bodies = reading->route->bodies;
	int r;

	if (*value != '/')
		return fail(reading, "`%.64s` is not a path from / on", value);
	r = read_text(reading, value, bodies);
	for (size_t end = strlen(bodies); r == 0 && end > 1 && bodies[end - 1] == '/'; end--)
		bodies[end - 1] = '\0';
	return r;
}

static int read_inline_body(struct reading *reading, const char *value)
{
	return read_number(reading, value, 0, CONFIG_BODY_MAX_MAX,
			   &reading->route->inline_body_bytes);
}

static int read_delivery_mode(struct reading *reading, const char *value)
{
	return read_choice(reading, value, "persistent", "transient", &reading->route->transient);
}

static int read_grant(struct reading *reading, const char *value)
{
	return read_choice(reading, value, "required", "none", &reading->route->grant_none);
}

static int read_replies(struct reading *reading, const char *value)
{
	return read_choice(reading, value, "direct", "queue", &reading->route->reply_queue);
}

static int read_half_close(struct reading *reading, const char *value)
{
	return read_choice(reading, value, "cancel", "finish", &reading->route->half_close_finish);
}

static int read_own_concurrency(struct reading *reading, const char *value)
{
	return read_number(reading, value, 1, CONFIG_PERMITS_MAX, &reading->tenant->concurrency);
}

static int read_own_waiting_room(struct reading *reading, const char *value)
{
	return read_number(reading, value, 0, CONFIG_WAITING_MAX, &reading->tenant->waiting_room);
}

struct key {
	const char *word;
	int (*read)(struct reading *reading, const char *value);
};

static const struct key route_keys[] = {
	{ "exchange", read_exchange },
	{ "routing_key", read_routing_key },
	{ "timeout", read_timeout },
	{ "cancel_deadline", read_cancel_deadline },
	{ "presumed_hold", read_presumed_hold },
	{ "concurrency", read_concurrency },
	{ "waiting_room", read_waiting_room },
	{ "body_max", read_body_max },
	{ "bodies", read_bodies },
	{ "inline_body", read_inline_body },
	{ "delivery_mode", read_delivery_mode },
	{ "grant", read_grant },
	{ "replies", read_replies },
	{ "half_close", read_half_close },
	{ "events_window", read_events_window },
	{ "events_keep_alive", read_events_keep_alive },
	{ "tenant_header", read_tenant_header },
	{ "tenant_concurrency", read_tenant_concurrency },
	{ "tenant_waiting_room", read_tenant_waiting_room },
	{},
};

static const struct key tenant_keys[] = {
	{ "concurrency", read_own_concurrency },
	{ "waiting_room", read_own_waiting_room },
	{},
};

static struct tenant_config *find_tenant(struct config *config, const char *name)
{
	for (size_t i = 0; i < config->tenants_count; i++)
		if (strcmp(config->tenants[i].name, name) == 0)
			return &config->tenants[i];
	return NULL;
}

static struct route_config *find(struct config *config, const char *name)
{
	for (size_t i = 0; i < config->count; i++)
		if (strcmp(config->routes[i].name, name) == 0)
			return &config->routes[i];
	return NULL;
}

bool config_is_name(const char *text, size_t bytes)
{
	static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
				    "-_.";

	if (bytes == 0 || bytes >= CONFIG_NAME_BYTES)
		return false;
	while (bytes > 0 && text[bytes - 1] && strchr(plain, text[bytes - 1]))
		bytes--;
	return bytes == 0;
}

static int begin_tenant(struct reading *reading, const char *name)
{
	struct config *config = reading->config;
	struct tenant_config *tenant;

	if (!config_is_name(name, strlen(name)))
		return fail(reading,
			    "[tenant %.64s]: a tenant's name has 1 to %d letters, digits, - _ .",
			    name, CONFIG_NAME_BYTES - 1);
	if (strcmp(name, TENANT_OTHERS) == 0)
		return fail(reading, "[tenant %s] is the word for those that have no section",
			    name);
	if (config->tenants_count == TENANTS_NAMED_MAX)
		return fail(reading, "more than %d tenants", TENANTS_NAMED_MAX);
	tenant = &config->tenants[config->tenants_count++];
	*tenant = (struct tenant_config){ .waiting_room = CONFIG_NOT_GIVEN };
	strcpy(tenant->name, name);
	reading->tenant = tenant;
	return 0;
}

static int begin_route(struct reading *reading, const char *name)
{
	struct config *config = reading->config;
	struct route_config *route;

	if (!config_is_name(name, strlen(name)))
		return fail(reading,
			    "[route %.64s]: a route's name has 1 to %d letters, digits, - _ .",
			    name, CONFIG_NAME_BYTES - 1);
	if (config->count == ROUTES_MAX)
		return fail(reading, "more than %d routes", ROUTES_MAX);
	route = &config->routes[config->count++];
	*route = (struct route_config){
		.timeout_ns = 30 * EW_SECOND,
		.cancel_deadline_ns = 5 * EW_SECOND,
		.presumed_hold_ns = 60 * EW_SECOND,
		.concurrency = 100,
		.waiting_room = 100,
		.tenant_waiting_room = CONFIG_NOT_GIVEN,
		.events_window_bytes = 1 << 20,
		.events_keep_alive_ns = 15 * EW_SECOND,
		.body_max_bytes = 1 << 20,
		.inline_body_bytes = CONFIG_NOT_GIVEN,
	};
	strcpy(route->name, name);
	reading->route = route;
	return 0;
}

static int enter_section(struct reading *reading, const char *section)
{
	static const char route[] = "route ", tenant[] = "tenant ";
	const char *name = section + sizeof(route) - 1;

	reading->route = NULL;
	reading->tenant = NULL;
	if (strncmp(section, route, sizeof(route) - 1) == 0) {
		reading->route = find(reading->config, name);
		return reading->route ? 0 : begin_route(reading, name);
	}
	if (strncmp(section, tenant, sizeof(tenant) - 1) != 0)
		return fail(reading,
			    "[%.64s] is not a section: there are [route NAME] and [tenant NAME]",
			    section);
	name = section + sizeof(tenant) - 1;
	reading->tenant = find_tenant(reading->config, name);
	return reading->tenant ? 0 : begin_tenant(reading, name);
}

/* inih says nothing of a section without keys. */
static void end_section(struct reading *reading)
{
	if (!*reading->section || reading->wrong_line)
		return;
	snprintf(reading->wrong, sizeof(reading->wrong), "%s has no keys", reading->section);
	reading->wrong_line = reading->section_line;
}

/* What begins like one behind a key, but indented, goes on with its value. */
static void note_section(struct reading *reading, const char *line)
{
	size_t blanks = strspn(line, " \t");

	if (line[blanks] != '[' || (blanks > 0 && !*reading->section))
		return;
	end_section(reading);
	snprintf(reading->section, sizeof(reading->section), "%.*s]",
		 (int)strcspn(line + blanks, "]\r\n"), line + blanks);
	reading->section_line = reading->line;
}

static int read_key(struct reading *reading, const char *value)
{
	const struct key *keys = reading->route ? route_keys : tenant_keys;
	uint32_t *given = reading->route ? &reading->route->given : &reading->tenant->given;
	const char *whose = reading->route ? "route" : "tenant";

	for (uint32_t bit = 1; keys->word; keys++, bit <<= 1) {
		if (strcmp(keys->word, reading->key) != 0)
			continue;
		if (*given & bit)
			return fail(reading, "given twice for this %s", whose);
		*given |= bit;
		return keys->read(reading, value);
	}
	return fail(reading, "is not a key of a %s", whose);
}

static int read_line(struct reading *reading, const char *section, const char *key,
		     const char *value)
{
	int r;

	reading->key = NULL;
	r = enter_section(reading, section);
	reading->key = key;
	return r < 0 ? r : read_key(reading, value);
}

/* 1 and 0 are inih's words for good and bad. */
static int take_line(void *argument, const char *section, const char *key, const char *value)
{
	struct reading *reading = argument;

	*reading->section = '\0';
	if (reading->wrong_line)
		return 1;
	return read_line(reading, section, key, value) == 0;
}

static int fail_whole(char *error, const char *name, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* What is wrong with the file, and with no line of it. */
static int fail_whole(char *error, const char *name, const char *format, ...)
{
	va_list arguments;
	int length = snprintf(error, CONFIG_ERROR_BYTES, "%s: ", name);

	va_start(arguments, format);
	vsnprintf(error + length, CONFIG_ERROR_BYTES - (size_t)length, format, arguments);
	va_end(arguments);
	return -EINVAL;
}

/* What a route does not say of its tenants: each may have half of it. */
static int complete_tenants(struct route_config *route, const char *name, char *error)
{
	if (!route->tenant_header[0] &&
	    (route->tenant_concurrency > 0 || route->tenant_waiting_room != CONFIG_NOT_GIVEN))
		return fail_whole(error, name,
				  "[route %s] has limits for tenants and no tenant_header",
				  route->name);
	if (route->tenant_concurrency > route->concurrency)
		return fail_whole(error, name,
				  "[route %s]: tenant_concurrency is larger than concurrency",
				  route->name);
	if (route->tenant_concurrency == 0)
		route->tenant_concurrency = (route->concurrency + 1) / 2;
	if (route->tenant_waiting_room == CONFIG_NOT_GIVEN)
		route->tenant_waiting_room = route->waiting_room / 2;
	if (route->tenant_waiting_room > route->waiting_room)
		return fail_whole(error, name,
				  "[route %s]: tenant_waiting_room is larger than waiting_room",
				  route->name);
	return 0;
}

static bool has_tenants(const struct config *config)
{
	for (size_t i = 0; i < config->count; i++)
		if (config->routes[i].tenant_header[0])
			return true;
	return false;
}

static int complete_bodies(struct route_config *route, const char *name, char *error)
{
	if (!route->bodies[0] && route->inline_body_bytes != CONFIG_NOT_GIVEN)
		return fail_whole(error, name, "[route %s] has inline_body, and no bodies",
				  route->name);
	if (!route->bodies[0] && route->body_max_bytes > CONFIG_BODY_MAX_MAX)
		return fail_whole(error, name,
				  "[route %s]: a body_max of more than %" PRIu64
				  " needs bodies, a folder for them",
				  route->name, CONFIG_BODY_MAX_MAX);
	if (route->bodies[0] && route->inline_body_bytes == CONFIG_NOT_GIVEN)
		route->inline_body_bytes = INLINE_BODY_BYTES;
	return 0;
}

static int complete(struct config *config, const char *name, char *error)
{
	uint64_t permits = 0;
	int r = 0;

	if (config->count == 0)
		return fail_whole(error, name, "there is no [route NAME]");
	if (config->tenants_count > 0 && !has_tenants(config))
		return fail_whole(error, name,
				  "there is [tenant %s], and no route has a tenant_header",
				  config->tenants[0].name);
	for (size_t i = 0; i < config->count && r == 0; i++) {
		permits += config->routes[i].concurrency;
		r = complete_tenants(&config->routes[i], name, error);
		if (r == 0)
			r = complete_bodies(&config->routes[i], name, error);
		if (r == 0 && !config->routes[i].routing_key[0])
			r = fail_whole(
				error, name,
				"[route %s] needs a routing_key; with no exchange it is a queue's name",
				config->routes[i].name);
	}
	if (r == 0 && permits > CONFIG_PERMITS_MAX)
		r = fail_whole(error, name,
			       "concurrency of all routes is %" PRIu64 ", more than %d", permits,
			       CONFIG_PERMITS_MAX);
	return r;
}

static int conclude(struct reading *reading, const char *name, int r, char *error)
{
	if (r == 0)
		end_section(reading);
	if (reading->wrong_line && (r == 0 || reading->wrong_line <= r)) {
		snprintf(error, CONFIG_ERROR_BYTES, "%s:%d: %s", name, reading->wrong_line,
			 reading->wrong);
		return -EINVAL;
	}
	if (r > 0) {
		snprintf(error, CONFIG_ERROR_BYTES,
			 "%s:%d: is neither [route NAME], [tenant NAME] nor KEY = VALUE", name, r);
		return -EINVAL;
	}
	if (r < 0) {
		snprintf(error, CONFIG_ERROR_BYTES, "%s: cannot be read", name);
		return -EINVAL;
	}
	return complete(reading->config, name, error);
}

static char *next_line(char *buffer, int bytes, void *argument)
{
	struct reading *reading = argument;

	reading->line++;
	if (!fgets(buffer, bytes, reading->file))
		return NULL;
	note_section(reading, buffer);
	return buffer;
}

static int read_file(struct config *config, const char *name, FILE *file, char *error)
{
	struct reading reading = { .config = config, .file = file };
	int r;

	config->count = 0;
	config->tenants_count = 0;
	r = ini_parse_stream(next_line, &reading, take_line, &reading);
	if (ferror(file))
		r = -EIO;
	fclose(file);
	return conclude(&reading, name, r, error);
}

static int no_file(const char *name, char *error)
{
	snprintf(error, CONFIG_ERROR_BYTES, "%s: %s", name, strerror(errno));
	return -EINVAL;
}

int config_read(struct config *config, const char *path, char *error)
{
	FILE *file = fopen(path, "re");

	return file ? read_file(config, path, file, error) : no_file(path, error);
}

int config_read_text(struct config *config, const char *name, const char *text, char *error)
{
	FILE *file = fmemopen((char *)text, strlen(text), "r");

	return file ? read_file(config, name, file, error) : no_file(name, error);
}
