/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * DNS: the addresses of a name
 * From /etc/hosts and the name servers of /etc/resolv.conf, as the system's own resolver has it, without blocking.
 */

#include <endwell/private.h>
#include <netinet/in.h>

struct ew_socket;

/** struct ew_dns_address - for ew_socket_connect(&address.any, address.bytes, ...) */
struct ew_dns_address {
	union {
		struct sockaddr any;
		struct sockaddr_in v4;
		struct sockaddr_in6 v6;
	};
	socklen_t bytes;
};

/**
 * struct ew_dns_options - zero is the default for each
 * @family:     AF_INET or AF_INET6; 0: both
 * @servers:    to be asked instead of those of /etc/resolv.conf: "192.0.2.53,192.0.2.54:5353,[2001:db8::53]:53"
 * @timeout_ns: how long a server is waited for at first, twice as long with each further round; at most 60 s; 0: 5 s
 * @tries:      rounds, at most 16; 0: 4. The whole time is better bounded by a scope's deadline
 */
struct ew_dns_options {
	int family;
	const char *servers;
	int64_t timeout_ns;
	unsigned tries;
};

/**
 * ew_dns_lookup() - ask for the addresses of a name
 * @name:          a host's name, or a numeric address; looked for in /etc/hosts first
 * @service:       a port, as "443", or its name in /etc/services; NULL: port 0
 * @options:       NULL for defaults
 * @ret_addresses: caller's memory for @addresses_max, in the order in which to try them (RFC 6724)
 *
 * Suspends:     while a thread of ew_offload() reads the files, then until a server has answered. An answer that was
 *               cut is asked for again by TCP.
 * Cancellation: ends the query; an answer that comes later is nobody's.
 * Return:       how many addresses there are, at least 1; of more than @addresses_max the first. Those of one family, if
 *               the question for the other one's was not answered.
 * Errors:       -ENOENT there is no such name, or it has no address of that family; -ETIMEDOUT no server has answered;
 *               -ECONNREFUSED no server is there that will answer this; -EBADMSG an answer is none; -EINVAL @name,
 *               @service or an option cannot be; -ENOSPC the user watches too many descriptors (epoll(7)); -ECANCELED,
 *               -ENOMEM, -EMFILE, -ENFILE, -EIO.
 */
EW_SUSPENDS EW_API int ew_dns_lookup(const char *name, const char *service,
				     const struct ew_dns_options *options,
				     struct ew_dns_address *ret_addresses, unsigned addresses_max);

/**
 * ew_dns_connect() - look a name up, and connect to the first of its addresses that answers
 * @service:    not NULL
 * @ret_socket: an empty place
 *
 * Suspends:     as ew_dns_lookup(), then until a connection is made. Addresses are tried one after the other, their
 *               families in turn; the next one when one has failed, or has not answered in 250 ms, while those before it
 *               go on. The others end when one has succeeded; at most EW_DNS_CONNECT_MAX are tried. On a plain thread
 *               none goes on meanwhile: those that have not answered are tried again, for twice as long each time.
 * Cancellation: connections being made are closed again. One that was made is returned.
 * Errors:       those of ew_dns_lookup(); of connect(2), that of the address that failed first; -EAGAIN no stack for
 *               a task.
 * Source:       RFC 8305, "happy eyeballs", sections 4 and 5.
 */
EW_SUSPENDS EW_API int ew_dns_connect(const char *name, const char *service,
				      const struct ew_dns_options *options,
				      struct ew_socket **ret_socket);

#define EW_DNS_CONNECT_MAX 8

#define ew_dns_connect(...) (ew__here(EW_SITE("ew_dns_connect")), ew_dns_connect(__VA_ARGS__))
