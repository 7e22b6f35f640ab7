/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * DNS, inside
 */

#include <endwell/dns.h>

/* The first stays; then, as long as there are both, another family after each. Otherwise their order is kept. */
void ew__dns_alternate_families(struct ew_dns_address *addresses, int count);
