/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Who may talk to this server: the check of Host, Origin and Sec-Fetch-Site. */

#include <stdbool.h>
#include <stddef.h>

#include "http/head.h"

struct access {
	bool hosts_checked;	  /* the listener is on loopback */
	const char *const *hosts; /* names in addition to the loopback ones */
	size_t hosts_count;
	const char *const *origins; /* foreign origins that are welcome */
	size_t origins_count;
};

/* Whether a request with this Host header (not NULL) is meant for this server. */
bool access_host_known(const struct access *access, const char *host);

/**
 * access_origin_allowed() - whether a request may come from the page that sent it
 * @access: the rules
 * @host:   the Host header
 * @origin: the Origin header, NULL if there is none
 * @site:   the Sec-Fetch-Site header, NULL if there is none
 *
 * Programs send neither header and pass. A browser's request passes when its origin is this very
 * server, or is on the list.
 */
bool access_origin_allowed(const struct access *access, const char *host, const char *origin,
			   const char *site);

enum access_verdict {
	ACCESS_WELCOME,
	ACCESS_UNKNOWN_HOST,
	ACCESS_FOREIGN_ORIGIN,
};

#define ACCESS_ORIGIN_BYTES 300

/* Whether it comes from a page of a foreign origin that is welcome; then that origin, as the browser has written it. */
bool access_origin_of_guest(const struct access *access, const struct http_head *head,
			    char ret_origin[ACCESS_ORIGIN_BYTES]);

/* Both checks, of a request's head */
enum access_verdict access_check(const struct access *access, const struct http_head *head);
