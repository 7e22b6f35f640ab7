/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life of the gateway is nested like its scopes: the broker's connection and the watch over presumed permits outlive
 * the front (apps/common/front.c), because an operation that ends needs them.
 *
 * Such a service ends for no other reason than the end of the gateway. One that does, by a panic or an error, is not begun
 * anew: what it left half done is not known. Without it the gateway would look well and serve nobody, so it drains, says
 * so, and fails, and whoever watches over it starts another one.
 */
#include "server.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <endwell/clock.h>
#include <endwell/run.h>
#include <endwell/task.h>

#include "common/log.h"
#include "common/process.h"
#include "common/text.h"

#include "broker.h"
#include "gateway.h"
#include "permits.h"
#include "routes.h"
#include "submit.h"

/* Health checks, metrics, the idle. */
#define OTHER_CONNECTIONS 64

/* The ring, listener, broker, standard streams, and what libraries open. */
#define DESCRIPTORS_RESERVE 64

/* For the broker to be there before the block is printed. */
#define FIRST_CONNECTION_WAIT (2 * EW_SECOND)
#define LOOK_INTERVAL	      (10 * EW_MILLISECOND)

/* Header fields that pages of other origins may read. */
#define EXPOSED                                                                                    \
	"Location, Retry-After, Allow, X-Operation-Id, Idempotency-Replayed, Preference-Applied"

static void print_block(struct gateway *gateway)
{
	const struct options *options = gateway->options;
	char *whole, address[96];
	struct text text;
	size_t bytes;
	FILE *block;

	if (!text_begin(&text))
		return;
	block = text.file;
	front_address(&gateway->front, address, sizeof(address));
	fprintf(block, "ew-gateway %s\n", EW_GATEWAY_VERSION);
	fprintf(block, "  address  %s%s\n", address,
		options->listen.loopback ? "" : ", open to whoever reaches it (--public)");
	fprintf(block, "  broker   %s%s\n", options->brokers[0].host,
		gateway->connection ? ", connected" : ", not there yet, operations get 503");
	for (size_t i = 0; i < gateway->routes_count; i++) {
		const struct route_config *config = gateway->routes[i].config;

		fprintf(block, "  route    %s -> %s%s%s, %llu at a time, %llu wait\n", config->name,
			config->exchange, config->exchange[0] ? "/" : "", config->routing_key,
			(unsigned long long)config->concurrency,
			(unsigned long long)config->waiting_room);
	}
	fprintf(block, "  driver   %s\n", ew_driver_name());
	fprintf(block, "  limits   %u operations, shutdown within %lld s\n",
		gateway->table.capacity,
		(long long)((options->grace_ns + FRONT_ENDING_BUDGET + gateway->front.last_ns) /
			    EW_SECOND));
	fprintf(block, "  try      curl -d '{}' %s/ops/%s\n", address,
		gateway->routes[0].config->name);
	whole = text_end(&text, &bytes);
	if (whole)
		log_block(whole);
}

static int say_ready(void *argument)
{
	struct gateway *gateway = argument;
	int64_t deadline = ew_after(FIRST_CONNECTION_WAIT);
	int r = -ETIMEDOUT;

	while (r == -ETIMEDOUT && !gateway->connection && ew_now() < deadline)
		r = front_await_stop(&gateway->front, ew_after(LOOK_INTERVAL));
	if (r != -ETIMEDOUT)
		return r;
	print_block(gateway);
	return 0;
}

/* Sessions have ended; operations that run without their clients have what is left of the grace. */
static int settle(void *argument)
{
	struct gateway *gateway = argument;
	int r = 0;

	while (r == 0 && ew_scope_children_count(gateway->detached) > 0 &&
	       !front_is_cutting(&gateway->front))
		r = ew_sleep(LOOK_INTERVAL);
	return r;
}

static int run_front(struct gateway *gateway)
{
	int r, closed;

	EW_SCOPE(detached, .policy = EW_POLICY_INDEPENDENT, .budget_ns = FRONT_ENDING_BUDGET);

	gateway->detached = &detached;
	r = front_run(&gateway->front, say_ready, settle, gateway);
	closed = ew_scope_close(&detached, EW_NOW, EW_REASON_SHUTDOWN);
	return r == 0 && closed < 0 && closed != -ETIMEDOUT && closed != -ECANCELED ? closed : r;
}

static int run_services(struct gateway *gateway)
{
	struct front_needed all[] = {
		{ .name = "the connection to the broker", .run = broker_run, .argument = gateway },
		{ .name = "the watch over presumed permits",
		  .run = permits_run,
		  .argument = gateway },
		{ .name = "the watch over waiting rooms",
		  .run = submit_watch,
		  .argument = gateway },
	};
	int r, closed;

	EW_SCOPE(services, .policy = EW_POLICY_INDEPENDENT, .budget_ns = FRONT_ENDING_BUDGET);

	r = buckets_start(&gateway->buckets, &gateway->front, &services);
	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]) && r == 0; i++)
		r = front_spawn_needed(&gateway->front, &all[i], &services);
	if (r == 0)
		r = run_front(gateway);
	closed = ew_scope_close(&services, EW_NOW, EW_REASON_SHUTDOWN);
	return r == 0 && closed < 0 && closed != -ETIMEDOUT && closed != -ECANCELED ? closed : r;
}

static void forget_all(void *argument)
{
	struct gateway *gateway = argument;

	permits_forget(gateway);
	records_deinit(&gateway->records);
	front_close(&gateway->front);
}

static int forget_all_close(void *gateway)
{
	forget_all(gateway);
	return 0;
}

static int serve_front(struct gateway *gateway)
{
	int r;

	r = front_open(&gateway->front);
	if (r < 0)
		return r;

	EW_GUARD(forget, gateway, .close = forget_all_close, .abort = forget_all);

	return run_services(gateway);
}

static int close_buckets(void *buckets)
{
	return buckets_close(buckets);
}

static void abort_buckets(void *buckets)
{
	buckets_abort(buckets);
}

int server_serve(void *argument)
{
	struct gateway *gateway = argument;
	int r, closed;

	EW_GUARD(buckets, &gateway->buckets, .close = close_buckets, .abort = abort_buckets,
		 .budget_ns = buckets_last_ns(&gateway->buckets));

	r = buckets_open(&gateway->buckets);
	if (r == 0)
		r = serve_front(gateway);
	closed = bucket_end(&buckets);
	return r < 0 ? r : closed;
}

static int serve(void *argument)
{
	struct gateway *gateway = argument;
	int r;

	EW_OWN(ew_signals, signals);
	EW_SCOPE(watching, .policy = EW_POLICY_INDEPENDENT);

	r = process_signals(&signals);
	if (r == 0)
		r = front_heed_signals(&gateway->front, signals, &watching);
	return r < 0 ? r : server_serve(gateway);
}

static int prepare_route(struct gateway *gateway, const struct route_config *config,
			 struct route *route)
{
	*route = (struct route){
		.gateway = gateway,
		.config = config,
		.permits = ew_semaphore_new((unsigned int)config->concurrency,
					    (unsigned int)config->waiting_room),
		.reason = "the route's channel is being opened",
	};
	route->line.semaphore = route->permits;
	if (config->reply_queue)
		snprintf(route->reply_to, sizeof(route->reply_to), "ew-gateway.%s.%s",
			 gateway->options->instance, config->name);
	else
		snprintf(route->reply_to, sizeof(route->reply_to), "%s", EW_AMQP_REPLY_TO);
	return route->permits ? tenants_init(route) : -ENOMEM;
}

static int prepare_routes(struct gateway *gateway, uint64_t *ret_permits, uint64_t *ret_connections,
			  uint64_t *ret_files)
{
	const struct config *config = &gateway->options->config;
	int r = 0;

	*ret_permits = 0;
	*ret_connections = OTHER_CONNECTIONS;
	*ret_files = 0;
	gateway->routes = calloc(config->count, sizeof(*gateway->routes));
	if (!gateway->routes)
		return -ENOMEM;
	for (size_t i = 0; i < config->count && r == 0; i++) {
		const struct route_config *route = &config->routes[i];

		*ret_permits += route->concurrency;
		*ret_connections += route->concurrency + route->waiting_room;
		r = prepare_route(gateway, route, &gateway->routes[i]);
		gateway->routes_count++;
		if (r == 0 && route->bodies[0])
			r = buckets_prepare(&gateway->buckets, route->bodies,
					    &gateway->routes[i].bucket);
	}
	/* A body comes before its permit, and from any connection. */
	if (gateway->buckets.count > 0)
		*ret_files = *ret_connections + gateway->buckets.count * BUCKETS_DESCRIPTORS;
	return r;
}

static void prepare_front(struct gateway *gateway)
{
	const struct options *options = gateway->options;

	gateway->access = (struct access){
		.hosts_checked = options->listen.loopback,
		.hosts = options->hosts.items,
		.hosts_count = options->hosts.count,
		.origins = options->origins.items,
		.origins_count = options->origins.count,
		.exposed = EXPOSED,
	};
	gateway->front = (struct front){
		.program = "ew-gateway",
		.listen = options->listen.text,
		.address = options->listen.address,
		.address_bytes = options->listen.bytes,
		.service = { .handler = routes_handle,
			     .refused = routes_refused,
			     .extras = routes_add_fields,
			     .userdata = gateway,
			     .dead_link_ns = options->dead_link_ns,
			     /* A route that means something else says so. */
			     .half_close_finish = true },
		.grace_ns = options->grace_ns,
	};
}

static int prepare(struct gateway *gateway)
{
	uint64_t permits, connections, files, descriptors = front_raise_descriptors();
	int r;

	gateway->presumed_end = &gateway->presumed;
	prepare_front(gateway);
	r = prepare_routes(gateway, &permits, &connections, &files);
	gateway->front.last_ns = buckets_last_ns(&gateway->buckets);
	if (r == 0)
		r = table_init(&gateway->table, (uint32_t)permits);
	if (r < 0)
		return r;
	if (connections + files + DESCRIPTORS_RESERVE > descriptors) {
		fprintf(stderr,
			"ew-gateway: %llu connections (concurrency and waiting rooms of all routes, and %d), %llu files of "
			"bodies and a reserve of %d do not fit into %llu descriptors; raise the limit (ulimit -Hn) or "
			"lower them\n",
			(unsigned long long)connections, OTHER_CONNECTIONS,
			(unsigned long long)files, DESCRIPTORS_RESERVE,
			(unsigned long long)descriptors);
		return -ERANGE;
	}
	gateway->front.connections = ew_semaphore_new((unsigned int)connections, EW_WORKERS_MAX);
	return gateway->front.connections ? 0 : -ENOMEM;
}

void server_free(struct gateway *gateway)
{
	for (size_t i = 0; i < gateway->routes_count; i++) {
		tenants_deinit(&gateway->routes[i]);
		ew_semaphore_free(gateway->routes[i].permits);
	}
	free(gateway->routes);
	buckets_release(&gateway->buckets);
	if (gateway->table.slots)
		table_deinit(&gateway->table);
	ew_semaphore_free(gateway->front.connections);
	free(gateway);
}

int server_new(const struct options *options, struct gateway **ret_gateway)
{
	struct gateway *gateway = calloc(1, sizeof(*gateway));
	int r;

	if (!gateway)
		return -ENOMEM;
	gateway->options = options;
	r = prepare(gateway);
	if (r < 0)
		server_free(gateway);
	else
		*ret_gateway = gateway;
	return r;
}

static void say_end(void *argument, int r)
{
	struct gateway *gateway = argument;

	if (r < 0)
		log_note("error", "ended", "%s", strerror(-r));
	else
		log_note("info", "ended", "%llu operations were cut",
			 (unsigned long long)gateway->cut);
}

static int exit_status(const struct gateway *gateway, int r)
{
	if (r < 0)
		return SERVER_FAILED;
	if (atomic_load(&gateway->front.forced))
		return SERVER_FORCED;
	return gateway->cut > 0 ? SERVER_CUT : SERVER_DRAINED;
}

int server_run(const struct options *options)
{
	struct gateway *gateway;
	int r, status;

	r = server_new(options, &gateway);
	if (r == -ENOMEM)
		fprintf(stderr, "ew-gateway: out of memory\n");
	if (r < 0)
		return SERVER_FAILED;
	r = process_run(serve, gateway, 1, FRONT_ENDING_BUDGET + gateway->front.last_ns, say_end);
	status = exit_status(gateway, r);
	server_free(gateway);
	return status;
}
