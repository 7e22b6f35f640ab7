#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Replies come to a queue of the gateway's own: whatever happens to connection, broker and gateway, each is heard once by whom
it is for, and none stays in the queue.
"""

import contextlib
import itertools

import gateway
import ingest
from gateway import LANGUAGES, Client, Gateway, broker
from ingest import check, equal, wait_until

NUMBERS = itertools.count(1)


@contextlib.contextmanager
def served(keys=None, language="c"):
    """A worker, a gateway, and the name of its queue."""
    with contextlib.ExitStack() as stack:
        queue = stack.enter_context(gateway.work_queue())
        log, (worker,) = stack.enter_context(gateway.workers(language, queue, 1, at_once=4))
        instance = f"test{next(NUMBERS)}"
        server = stack.enter_context(Gateway({"render": {
            "routing_key": queue, "replies": "queue", "timeout": "10m", "presumed_hold": "10m", **(keys or {})}},
            "--instance", instance))
        yield server, worker, log, f"ew-gateway.{instance}.render"


def await_granted(server, count=1):
    wait_until(lambda: server.metric('gateway_grants_total{route="render"}') == count, 60, f"{count} granted")


def has_result(client, steps):
    client.socket.settimeout(60 * ingest.SCALE)
    answer = ingest.read_answer(client.socket)
    equal((answer.status, answer.json), (200, {"steps": steps}))


def await_confirmed():
    """The broker has written all that it has been given by those who want to know."""
    def counts():
        return set(broker().control("list_channels", "--no-table-headers", "messages_unconfirmed").split())
    wait_until(lambda: counts() == {"0"}, 60, lambda: f"unconfirmed: {counts()}")


def await_written(name):
    """All that is in the queue: what comes behind it, and is nobody's reply, is confirmed."""
    with contextlib.closing(gateway.connect()) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.basic_publish("", name, b"", gateway.pika.BasicProperties(delivery_mode=2))


def await_empty(name):
    """Nothing waits in it, and nothing is unacknowledged."""
    def lines():
        return broker().control("list_queues", "--no-table-headers", "name", "messages").splitlines()
    wait_until(lambda: f"{name}\t0" in lines(), 60, lambda: f"{name} is empty: {lines()}")


def each_worker(test):
    """The test itself is with the worker in C; with each of the others it is one more."""
    for language in LANGUAGES[1:]:
        globals()[f"{test.__name__}_{language}"] = lambda language=language: test(language)
    return test


def messages_ready():
    """Those that nobody has been given."""
    return broker().control("list_queues", "--no-table-headers", "name", "messages_ready").splitlines()


def close_connection():
    """That of the gateway alone: by its name, which the broker is told."""
    for line in broker().control("list_connections", "--no-table-headers", "pid", "client_properties").splitlines():
        pid, properties = line.split("\t", 1)
        if '"ew-gateway"' in properties:
            broker().control("close_connection", pid, "for a test")


def lose_the_connection(server):
    before = server.metric("gateway_connections_total")
    close_connection()
    wait_until(lambda: server.metric("gateway_connections_total") > before, 60, "connected again")


@each_worker
def test_gateway_replies_to_a_queue_survive_a_connection_that_is_closed(language="c"):
    with served(language=language) as (server, worker, log, replies):
        arguments = [line for line in broker().control("list_queues", "--no-table-headers", "name", "durable", "arguments").splitlines()
                     if line.startswith(replies + "\t")]
        check(len(arguments) == 1 and "\ttrue\t" in arguments[0], arguments)
        for word in ("x-expires", "90000000", "x-max-length-bytes", "268435456", "reject-publish"):
            check(word in arguments[0], f"{word} of {arguments}")
        client = Client(server, b'{"ms": 2000}')
        await_granted(server)
        worker.stops()
        lose_the_connection(server)
        wait_until(server.is_ready, 60, "ready")
        worker.goes_on()
        has_result(client, 200)
        equal(server.outcomes(), {"replied": 1})
        equal(log.running(), (0, 1))
        server.await_rest()
        await_empty(replies)


@each_worker
def test_gateway_replies_to_a_queue_that_came_while_nobody_was_connected_are_heard(language="c"):
    with served(language=language) as (server, worker, log, replies):
        client = Client(server, b'{"ms": 2000}')
        await_granted(server)
        wait_until(lambda: log.running()[0] == 1, 60, "it runs")
        server.stops()
        wait_until(lambda: log.running()[0] == 0, 60, "it has ended")
        close_connection()
        server.goes_on()
        has_result(client, 200)
        server.await_rest()
        await_empty(replies)


@each_worker
def test_gateway_replies_to_a_queue_and_a_cancel_goes_out_when_there_is_a_connection_again(language="c"):
    with served({"cancel_deadline": "10m"}, language) as (server, worker, log, replies):
        client = Client(server, b'{"ms": 600000}')
        await_granted(server)
        wait_until(lambda: log.running()[0] == 1, 60, "it runs")
        # The gateway finds both when it goes on.
        server.stops()
        close_connection()
        client.closes()
        server.goes_on()
        wait_until(lambda: log.running()[0] == 0, 60, "it was stopped")
        wait_until(lambda: server.outcomes("cancels") == {"stopped": 1}, 60, lambda: f"the proof: {server.outcomes('cancels')}")
        server.await_rest()
        await_empty(replies)


@each_worker
def test_gateway_replies_to_a_queue_survive_a_broker_that_is_killed(language="c"):
    """The worker stops when it is lost; what was in its hands comes again, is granted again, and runs to its end."""
    with served(language=language) as (server, _, log, replies):
        client = Client(server, b'{"ms": 3000}')
        await_granted(server)
        wait_until(lambda: log.running()[0] == 1, 60, "it runs")
        await_confirmed()
        broker().kill()
        broker().restart()
        has_result(client, 300)
        equal(server.outcomes(), {"replied": 1})
        server.await_rest()
        await_empty(replies)


@each_worker
def test_gateway_replies_to_a_queue_are_kept_by_a_broker_that_is_killed(language="c"):
    with served(language=language) as (server, worker, log, replies):
        client = Client(server, b'{"ms": 2000}')
        await_granted(server)
        wait_until(lambda: log.running()[0] == 1, 60, "it runs")
        worker.stops()
        server.stops()
        close_connection()
        worker.goes_on()
        wait_until(lambda: f"{replies}\t1" in messages_ready(), 60, lambda: f"it waits: {messages_ready()}")
        await_written(replies)
        broker().kill()
        broker().restart()
        server.goes_on()
        has_result(client, 200)
        server.await_rest()
        await_empty(replies)
        equal(sum(line.startswith("begin ") for line in log.lines()), 1, "how often it ran")


@each_worker
def test_gateway_replies_to_a_queue_of_an_earlier_life_are_late_and_go(language="c"):
    with served(language=language) as (server, worker, log, replies):
        client = Client(server, b'{"ms": 2000}')
        await_granted(server)
        wait_until(lambda: log.running()[0] == 1, 60, "it runs")
        worker.stops()
        server.process.kill()
        server.process.wait()
        server.process.stdout.close()
        server.start()
        worker.goes_on()
        wait_until(lambda: server.metric('gateway_heard_total{kind="late"}') >= 1, 60, "heard late")
        equal(server.outcomes(), {})
        server.await_rest()
        await_empty(replies)
        client.closes()
        equal(server.post(b'{"ms": 10}').status, 200)


AT_ONCE = 64
MORE = 136


def late(server):
    return server.metric('gateway_heard_total{kind="late"}')


def test_gateway_replies_to_a_queue_that_an_alarm_meets_there_are_heard_up_to_64_and_the_rest_afterwards():
    """Nobody can publish then; but what was rejected elsewhere goes where a queue says, here to that of the replies."""
    with served() as (server, _, __, replies), gateway.work_queue({
            "x-dead-letter-exchange": "", "x-dead-letter-routing-key": replies}) as elsewhere, contextlib.closing(
                gateway.connect()) as connection:
        with contextlib.closing(gateway.connect()) as publisher:
            publishing = publisher.channel()
            for _ in range(AT_ONCE + MORE):
                publishing.basic_publish("", elsewhere, b"", gateway.pika.BasicProperties(
                    type="progress", correlation_id="of nobody", headers={"x-ew-claim": "c"}))
        wait_until(lambda: gateway.messages(elsewhere) == AT_ONCE + MORE, 60, "all are there")
        channel = connection.channel()
        broker().control("set_vm_memory_high_watermark", "0.000001")
        try:
            wait_until(lambda: not server.is_ready(), 60, "the gateway knows of the alarm")
            for _ in range(AT_ONCE + MORE):
                channel.basic_reject(channel.basic_get(elsewhere)[0].delivery_tag, requeue=False)
            wait_until(lambda: f"{replies}\t{MORE}" in messages_ready(), 60, lambda: f"the rest waits: {messages_ready()}")
            wait_until(lambda: late(server) == AT_ONCE, 60, lambda: f"heard: {late(server)}")
        finally:
            broker().control("set_vm_memory_high_watermark", "absolute", "512MB")
        wait_until(lambda: late(server) == AT_ONCE + MORE, 60, lambda: f"heard: {late(server)}")
        await_empty(replies)
        equal(server.post(b'{"ms": 10}').status, 200)


def test_gateway_replies_to_a_queue_are_of_one_gateway_alone():
    with served() as (server, _, __, replies):
        instance = replies.split(".")[1]
        with Gateway({"render": {"routing_key": "nowhere", "replies": "queue"}}, "--instance", instance,
                     ready=False) as second:
            wait_until(lambda: b"exclusive" in second.request("GET", "/readyz").body.lower(), 60,
                       lambda: f"the second says why: {second.request('GET', '/readyz').body}")
            equal(server.post(b'{"ms": 10}').status, 200)


if __name__ == "__main__":
    with broker():
        ingest.main()
