/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Sockets, inside
 */

#include <endwell/socket.h>

/* A socket that owns @fd, a connected stream; takes it on success. */
int ew__socket_new(int fd, const struct ew_site *site, struct ew_socket **ret_socket);
