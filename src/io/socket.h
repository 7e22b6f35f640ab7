/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Sockets, inside
 */

#include <endwell/socket.h>

/* A socket that owns @fd, a connected stream; takes it on success. */
int ew__socket_new(int fd, const struct ew_site *site, struct ew_socket **ret_socket);

/* As ew_socket_send(), but some of the bytes, once: a count; -ECANCELED: none. */
int ew__socket_send_some(struct ew_socket *socket, const void *data, size_t size);
