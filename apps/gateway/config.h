/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The configuration file: the routes, and the tenants whose limits are not those of everybody. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ROUTES_MAX	    64
#define TENANTS_NAMED_MAX   64
#define CONFIG_TEXT_BYTES   256 /* of a name in AMQP, NUL included */
#define CONFIG_NAME_BYTES   65
#define CONFIG_ERROR_BYTES  512
#define CONFIG_PERMITS_MAX  10000 /* of all routes */
#define CONFIG_WAITING_MAX  10000
#define CONFIG_BODY_MAX_MAX (UINT64_C(16) << 20) /* in a message */
#define CONFIG_FILE_MAX_MAX (UINT64_C(1) << 40)	 /* in a file */
#define CONFIG_NOT_GIVEN    UINT64_MAX

/* How those that have no section are called together, where they are not to be told apart. */
#define TENANT_OTHERS "others"

/* One [route NAME]; without a tenant_header it has no tenants. */
struct route_config {
	char name[CONFIG_NAME_BYTES];
	char exchange[CONFIG_TEXT_BYTES];
	char routing_key[CONFIG_TEXT_BYTES];
	int64_t timeout_ns;
	int64_t cancel_deadline_ns;
	int64_t presumed_hold_ns;
	uint64_t concurrency;
	uint64_t waiting_room;
	char tenant_header[CONFIG_NAME_BYTES];
	uint64_t tenant_concurrency; /* 0: not given */
	uint64_t tenant_waiting_room;
	uint64_t events_window_bytes;
	int64_t events_keep_alive_ns;
	uint64_t body_max_bytes; /* of a request; and of a reply, up to what a message takes */
	char bodies
		[CONFIG_TEXT_BYTES]; /* a folder for those that are larger than the next; "": none */
	uint64_t inline_body_bytes;  /* CONFIG_NOT_GIVEN: nothing goes there */
	bool transient;
	bool grant_none;
	bool reply_queue;
	bool half_close_finish;
	uint32_t given; /* keys, by their place in the table */
};

/* One [tenant NAME]: what it has in each route that has tenants, instead of what the route gives everybody. */
struct tenant_config {
	char name[CONFIG_NAME_BYTES];
	uint64_t concurrency;  /* 0: as the route says */
	uint64_t waiting_room; /* CONFIG_NOT_GIVEN: as the route says */
	uint32_t given;
};

struct config {
	struct route_config routes[ROUTES_MAX];
	size_t count;
	struct tenant_config tenants[TENANTS_NAMED_MAX];
	size_t tenants_count;
};

/**
 * config_read() - read a file
 * @error: receives one sentence that names file, line and what is wrong; CONFIG_ERROR_BYTES
 *
 * Return: 0 or -EINVAL
 */
int config_read(struct config *config, const char *path, char *error);

/* The same from text; @name stands for it in errors. */
int config_read_text(struct config *config, const char *name, const char *text, char *error);

/* Whether @bytes of @text are a name: 1 to 64 letters, digits, - _ . */
bool config_is_name(const char *text, size_t bytes);
