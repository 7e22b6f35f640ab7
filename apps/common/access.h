/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Who may talk to this server: the check of Host, Origin and Sec-Fetch-Site; and what a browser is told, so that a page
 * that may can (the Fetch standard, "CORS protocol").
 */

#include <stdbool.h>
#include <stddef.h>

#include "http/session.h"

struct access {
	bool hosts_checked;	  /* the listener is on loopback */
	const char *const *hosts; /* names in addition to the loopback ones */
	size_t hosts_count;
	const char *const *origins; /* foreign origins that are welcome */
	size_t origins_count;
	const char *exposed; /* names of header fields that their pages may read, with commas */
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

/* Both checks, of a request's head */
enum access_verdict access_check(const struct access *access, const struct http_head *head);

/* Is it what a browser asks before a request that a form could not send: whether a page of a welcome origin may? */
bool access_is_preflight(const struct access *access, const struct http_head *head);

/* What a browser must read in an answer before it shows it to such a page; for http_service.extras. */
void access_add_fields(const struct access *access, const struct http_head *head,
		       struct http_extras *extras);
