/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Each attempt is a task, in a scope that the first success cancels. The one that connects puts its socket into the
 * caller's place if that is still empty; a second one that was as quick closes its own.
 *
 * A plain thread has no tasks. There the attempts follow one another, each for a while, and those that time has cut are
 * made again, for longer.
 */

#include "io/dns.h"

#include "scope/resource.h"
#include "scope/thread.h"

#include <endwell/clock.h>
#include <endwell/event.h>
#include <endwell/socket.h>
#include <endwell/task.h>
#include <errno.h>
#include <string.h>

#define ATTEMPT_DELAY (250 * EW_MILLISECOND) /* RFC 8305 section 8 */

struct race {
	struct ew_socket **ret_socket;
	const struct ew_site *site;
	struct ew_event failed; /* one attempt has, since the last one was begun */
};

struct attempt {
	struct race *race;
	const struct ew_dns_address *address;
};

static int attempt_run(void *argument)
{
	const struct attempt *attempt = argument;
	struct race *race = attempt->race;
	EW_OWN(ew_socket, socket);
	int r;

	ew__made_at = race->site;
	r = (ew_socket_connect)(&attempt->address->any, attempt->address->bytes, &socket);
	if (r < 0) {
		ew_event_set(&race->failed);
		return r;
	}
	if (!*race->ret_socket) {
		*race->ret_socket = socket;
		socket = NULL;
	}
	return 0;
}

static int race_run(struct race *race, const struct ew_dns_address *addresses, int count)
{
	struct attempt attempts[EW_DNS_CONNECT_MAX];
	int r = 0;

	EW_SCOPE(scope, .policy = EW_POLICY_FIRST_SUCCESS);

	for (int i = 0; i < count && r == 0; i++) {
		attempts[i] = (struct attempt){ race, &addresses[i] };
		ew_event_reset(&race->failed);
		r = ew_spawn(&scope, attempt_run, &attempts[i]);
		if (r == 0)
			r = ew_event_wait(&race->failed, ew_after(ATTEMPT_DELAY));
		if (r == -ETIMEDOUT)
			r = 0;
	}
	return ew_scope_finish(&scope, r);
}

/* -ETIMEDOUT with *@ret_cut: it might have answered later. */
static int attempt_for(const struct attempt *attempt, int64_t patience_ns, bool *ret_cut)
{
	EW_SCOPE(patience, .deadline_ns = ew_after(patience_ns));
	int r = ew_scope_finish(&patience, attempt_run((void *)(uintptr_t)attempt));

	*ret_cut = r == -ETIMEDOUT && ew_scope_reason(&patience) == EW_REASON_DEADLINE;
	return r;
}

static int take_turns(struct race *race, const struct ew_dns_address *addresses, int count)
{
	const struct ew_dns_address *left[EW_DNS_CONNECT_MAX];
	int64_t patience_ns = ATTEMPT_DELAY;
	int r, error = 0, cut_count, i;
	bool cut;

	for (i = 0; i < count; i++)
		left[i] = &addresses[i];
	for (; count > 0; count = cut_count, patience_ns *= 2) {
		for (i = cut_count = 0; i < count; i++) {
			r = attempt_for(&(struct attempt){ race, left[i] }, patience_ns, &cut);
			if (r == 0 || r == -ECANCELED)
				return r;
			if (cut)
				left[cut_count++] = left[i];
			else if (!error)
				error = r;
		}
	}
	return error;
}

void ew__dns_alternate_families(struct ew_dns_address *addresses, int count)
{
	struct ew_dns_address chosen;
	int i, j;

	for (i = 1; i < count; i++) {
		for (j = i; j < count; j++)
			if (addresses[j].any.sa_family != addresses[i - 1].any.sa_family)
				break;
		if (j == count)
			break;
		chosen = addresses[j];
		memmove(&addresses[i + 1], &addresses[i], (size_t)(j - i) * sizeof(chosen));
		addresses[i] = chosen;
	}
}

int(ew_dns_connect)(const char *name, const char *service, const struct ew_dns_options *options,
		    struct ew_socket **ret_socket)
{
	struct race race = { .ret_socket = ret_socket, .site = ew__made_at };
	struct ew_dns_address addresses[EW_DNS_CONNECT_MAX];
	int r;

	ew_assert(service);
	ew__place_must_be_empty(ret_socket, race.site);
	r = ew_dns_lookup(name, service, options, addresses, EW_DNS_CONNECT_MAX);
	if (r < 0)
		return r;
	ew__dns_alternate_families(addresses, r);
	return ew__thread_is_plain() ? take_turns(&race, addresses, r)
				     : race_run(&race, addresses, r);
}
