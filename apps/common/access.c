/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A browser must not be a weapon against a service on loopback. Two ways lead there: a page of a
 * foreign origin sends a request to 127.0.0.1, which browsers announce in Origin and
 * Sec-Fetch-Site; and a foreign name is made to resolve to 127.0.0.1 (DNS rebinding), which makes
 * the foreign page same-origin but shows in Host. Programs such as curl send neither Origin nor
 * Sec-Fetch-Site.
 */
#include "access.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#define HOST_BYTES_MAX	  256
#define HEADER_TEXT_BYTES HTTP_EXTRAS_TEXT_BYTES

/* Cuts `:port` off; false when what is there is no host and port. */
static bool cut_port(const char *host, char *ret_name)
{
	const char *end = host[0] == '[' ? strchr(host, ']') : strchr(host, ':');
	size_t bytes;

	if (end && *end == ']')
		end++;
	bytes = end ? (size_t)(end - host) : strlen(host);
	if (bytes == 0 || bytes >= HOST_BYTES_MAX || (host[0] == '[' && !end))
		return false;
	if (end && *end) {
		if (*end != ':')
			return false;
		if (end[1 + strspn(end + 1, "0123456789")] != '\0')
			return false;
	}
	memcpy(ret_name, host, bytes);
	ret_name[bytes] = '\0';
	return true;
}

static bool is_loopback(char *name)
{
	struct in6_addr six;
	struct in_addr four;
	size_t bytes = strlen(name);

	if (strcasecmp(name, "localhost") == 0)
		return true;
	if (inet_pton(AF_INET, name, &four) == 1)
		return ntohl(four.s_addr) >> 24 == 127;
	if (name[0] != '[' || bytes < 3)
		return false;
	name[bytes - 1] = '\0';
	return inet_pton(AF_INET6, name + 1, &six) == 1 && IN6_IS_ADDR_LOOPBACK(&six);
}

bool access_host_known(const struct access *access, const char *host)
{
	char name[HOST_BYTES_MAX];

	if (!access->hosts_checked)
		return true;
	if (!cut_port(host, name))
		return false;
	for (size_t i = 0; i < access->hosts_count; i++)
		if (strcasecmp(access->hosts[i], name) == 0)
			return true;
	return is_loopback(name);
}

static bool is_own(const char *origin, const char *host)
{
	static const char scheme[] = "http://";

	return strncasecmp(origin, scheme, sizeof(scheme) - 1) == 0 &&
	       strcasecmp(origin + sizeof(scheme) - 1, host) == 0;
}

static bool is_listed(const struct access *access, const char *origin)
{
	for (size_t i = 0; i < access->origins_count; i++)
		if (strcasecmp(access->origins[i], origin) == 0)
			return true;
	return false;
}

bool access_origin_allowed(const struct access *access, const char *host, const char *origin,
			   const char *site)
{
	if (origin)
		return is_own(origin, host) || is_listed(access, origin);
	return !site || strcmp(site, "same-origin") == 0 || strcmp(site, "none") == 0;
}

/* A header field as a string; what does not fit cannot be one that is known. */
static const char *text_of(const struct http_slice *slice, char *buffer)
{
	if (!slice)
		return NULL;
	snprintf(buffer, HEADER_TEXT_BYTES, "%.*s",
		 (int)(slice->len < HEADER_TEXT_BYTES ? slice->len : 0), slice->data);
	return buffer;
}

/* Whether it comes from a page of a foreign origin that is welcome; then that origin, as the browser has written it. */
static bool is_guest(const struct access *access, const struct http_head *head,
		     char ret_origin[HEADER_TEXT_BYTES])
{
	char host_text[HEADER_TEXT_BYTES];
	const char *host = text_of(&head->authority, host_text);
	const char *origin = text_of(http_head_find(head, "Origin"), ret_origin);

	return origin && !is_own(origin, host) && is_listed(access, origin);
}

enum access_verdict access_check(const struct access *access, const struct http_head *head)
{
	char host_text[HEADER_TEXT_BYTES], origin_text[HEADER_TEXT_BYTES],
		site_text[HEADER_TEXT_BYTES];
	const char *host = text_of(&head->authority, host_text);
	const char *origin = text_of(http_head_find(head, "Origin"), origin_text);
	const char *site = text_of(http_head_find(head, "Sec-Fetch-Site"), site_text);

	if (!access_host_known(access, host))
		return ACCESS_UNKNOWN_HOST;
	return access_origin_allowed(access, host, origin, site) ? ACCESS_WELCOME
								 : ACCESS_FOREIGN_ORIGIN;
}

bool access_is_preflight(const struct access *access, const struct http_head *head)
{
	char origin[HEADER_TEXT_BYTES];

	return head->method == HTTP_METHOD_OPTIONS &&
	       http_head_find(head, "Access-Control-Request-Method") &&
	       is_guest(access, head, origin);
}

/* Also the answers to others vary by it, for caches. */
void access_add_fields(const struct access *access, const struct http_head *head,
		       struct http_extras *extras)
{
	struct http_field *field = extras->fields;

	if (access->origins_count == 0)
		return;
	*field++ = (struct http_field){ "Vary", "Origin" };
	if (!is_guest(access, head, extras->text))
		return;
	*field++ = (struct http_field){ "Access-Control-Allow-Origin", extras->text };
	*field = (struct http_field){ "Access-Control-Expose-Headers", access->exposed };
}
