/* SPDX-License-Identifier: Apache-2.0 */

#include "amqp/dialer.h"

#include <endwell/clock.h>
#include <endwell/task.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

static int64_t or_default(int64_t value, int64_t otherwise)
{
	return value ? value : otherwise;
}

static void failed(struct ew_amqp_dialer *dialer)
{
	dialer->failures++;
	dialer->next = (dialer->next + 1) % dialer->endpoints_count;
}

void ew_amqp_dialer_pass(struct ew_amqp_dialer *dialer)
{
	if (dialer->opened_ns != 0)
		failed(dialer);
	dialer->opened_ns = 0;
}

/* What became of the last connection. */
static void judge_last(struct ew_amqp_dialer *dialer)
{
	if (dialer->opened_ns == 0)
		return;
	if (ew_now() - dialer->opened_ns >= or_default(dialer->delay_max_ns, 10 * EW_SECOND)) {
		dialer->failures = 0;
		dialer->delay_ns = 0;
	} else {
		failed(dialer);
	}
	dialer->opened_ns = 0;
}

/* Many who have lost the same broker do not come back all at once. */
static int64_t next_delay(struct ew_amqp_dialer *dialer)
{
	int64_t most = or_default(dialer->delay_max_ns, 10 * EW_SECOND);
	int64_t delay = dialer->delay_ns ? 2 * dialer->delay_ns
					 : or_default(dialer->delay_min_ns, 100 * EW_MILLISECOND);

	dialer->delay_ns = delay < most ? delay : most;
	return dialer->delay_ns - dialer->delay_ns / 2 * arc4random_uniform(1024) / 1024;
}

static int attempt(struct ew_amqp_dialer *dialer, struct ew_scope *scope,
		   const struct ew_site *site, struct ew_amqp_error *ret_error,
		   struct ew_amqp_connection **ret_connection)
{
	const struct ew_amqp_endpoint *endpoint = &dialer->endpoints[dialer->next];
	int64_t timeout_ns = or_default(dialer->attempt_timeout_ns, 10 * EW_SECOND);
	struct ew_amqp_options options = {};
	int r;

	EW_SCOPE(patience, .deadline_ns = ew_after(timeout_ns));

	if (dialer->options)
		options = *dialer->options;
	if (endpoint->server_name)
		options.server_name = endpoint->server_name;
	ew__here(site);
	r = (ew_amqp_connection_open)(scope, endpoint->address, endpoint->address_bytes, &options,
				      ret_error, ret_connection);
	return r < 0 ? ew_scope_finish(&patience, r) : 0;
}

int(ew_amqp_dial)(struct ew_amqp_dialer *dialer, struct ew_scope *scope,
		  struct ew_amqp_error *ret_error, struct ew_amqp_connection **ret_connection)
{
	const struct ew_site *site = ew__made_at;
	int r = 0;

	judge_last(dialer);
	if (dialer->failures > 0 && dialer->failures % dialer->endpoints_count == 0)
		r = ew_sleep(next_delay(dialer));
	if (r < 0)
		return r;
	r = attempt(dialer, scope, site, ret_error, ret_connection);
	if (r == 0)
		dialer->opened_ns = ew_now();
	else if (r != -ECANCELED)
		failed(dialer);
	if (r == -ETIMEDOUT && ret_error) {
		*ret_error = (struct ew_amqp_error){ .error = r };
		snprintf(ret_error->text, sizeof(ret_error->text),
			 "the broker did not answer in time");
	}
	return r;
}
