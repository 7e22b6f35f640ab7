#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Trouble with the broker while operations run: none is lost behind a success, what is not known is said to be unknown, and the
gateway recovers without a restart.
"""

import contextlib
import re
import threading
import time

import gateway
import ingest
from gateway import Client, Gateway, broker
from ingest import check, equal, wait_until

CLIENTS = 12


class Load:
    """Clients that ask one after the other until they are told to leave off; what they were answered."""

    def __init__(self, server):
        self.server, self.answers, self.is_over, self.lost = server, [], threading.Event(), []
        self.threads = [threading.Thread(target=self.ask) for _ in range(CLIENTS)]

    def ask(self):
        while not self.is_over.is_set():
            try:
                answer = self.server.post(b'{"ms": 30}')
                self.answers.append(answer)
                if answer.status != 200:
                    time.sleep(0.05)
            except Exception as error:  # pylint: disable=broad-except
                self.lost.append(error)

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        self.goes_well()
        return self

    def __exit__(self, *_):
        self.is_over.set()
        for thread in self.threads:
            thread.join()

    def count(self, status, word=None):
        return sum(answer.status == status and (not word or answer.json["type"].endswith(":" + word))
                   for answer in list(self.answers))

    def goes_well(self):
        before = self.count(200)
        wait_until(lambda: self.count(200) >= before + CLIENTS, 120, lambda: f"answers: {self.kinds()}")

    def kinds(self):
        return {(answer.status, "" if answer.status == 200 else answer.json["type"]) for answer in list(self.answers)}


@contextlib.contextmanager
def under_load():
    with contextlib.ExitStack() as stack:
        queue = stack.enter_context(gateway.work_queue())
        log, _ = stack.enter_context(gateway.workers("c", queue, 1, at_once=8))
        route = {"routing_key": queue, "concurrency": 8, "waiting_room": 100, "presumed_hold": "2s", "timeout": "60s"}
        server = stack.enter_context(Gateway({"render": route, "other": route}))
        with Load(server) as load:
            yield server, load
            load.goes_well()
        equal(load.lost, [], "clients without an answer")
        lines = set(log.lines())
        for answer in load.answers:
            identity = answer.headers.get("X-Operation-Id")
            if answer.status == 200:
                check(f"end {identity}" in lines, f"{identity}: 200, and it has not run")
            elif answer.status == 503:
                check(f"begin {identity}" not in lines, f"{identity}: 503, and it has run")
        unexpected = load.kinds() - {(200, "")} - {
            (502, "urn:endwell:problem:outcome-unknown"), (503, "urn:endwell:problem:broker-unavailable"),
            (503, "urn:endwell:problem:broker-blocked")}
        equal(unexpected, set(), "answers")
        server.await_rest()
        equal(gateway.messages(queue), 0)
        # Whatever was said again was said of the same operation.
        jobs = {line.split()[1] for line in lines if line.startswith("begin ")}
        wait_until(lambda: jobs <= set(operations(server)), 20, lambda: f"jobs of no operation: {jobs - set(operations(server))}")
        ids = operations(server)
        equal(len(set(ids)), len(ids), "ids of operations, each once")


def operations(server):
    """The ids of those that the log says have ended."""
    return re.findall(r" event=operation id=([0-9a-f]{32}) ", server.log())


def test_gateway_broker_closes_its_connections_and_nothing_is_lost_behind_a_success():
    with under_load() as (server, _):
        # Those of the load may all have been answered just now.
        client = Client(server, b'{"ms": 600000}', route="other")
        wait_until(lambda: server.metric('gateway_grants_total{route="other"}') == 1, 60, "granted")
        broker().control("close_all_connections", "for a test")
        wait_until(lambda: server.metric("gateway_connections_total") == 2, 60, "connected again")
        ingest.read_answer(client.socket).problem(502, "outcome-unknown")


def test_gateway_broker_raises_an_alarm_and_requests_are_shed_until_it_ends():
    with under_load() as (server, load):
        # Granted before the alarm, it goes on; its reply may have to wait for the end of it.
        client = Client(server, b'{"ms": 500}', route="other")
        wait_until(lambda: server.metric('gateway_grants_total{route="other"}') == 1, 60, "granted")
        broker().control("set_vm_memory_high_watermark", "0.000001")
        wait_until(lambda: not server.is_ready(), 60, lambda: f"the gateway knows: {load.kinds()}")
        answer = server.post(b"{}")
        answer.problem(503, "broker-blocked")
        check(int(answer.headers["Retry-After"]) > 0, "Retry-After")
        broker().control("set_vm_memory_high_watermark", "absolute", "512MB")
        equal(client.hears()[0], 200)
    equal(load.count(502), 0, "unknown")


def test_gateway_broker_raises_an_alarm_and_who_waits_for_a_permit_is_sent_away():
    """All permits are held, so that no request is published by which the gateway could hear of the alarm."""
    with gateway.work_queue() as queue, Gateway({"render": {
            "routing_key": queue, "concurrency": 1, "timeout": "10m", "cancel_deadline": "100ms"}}) as server:
        holder = Client(server, b"{}")
        server.await_permits(held=1)
        waiting = [ingest.in_background(lambda: server.post(b"{}")) for _ in range(3)]
        wait_until(lambda: server.metric('gateway_waiting{route="render"}') == 3, 60, "three wait")
        broker().control("set_vm_memory_high_watermark", "0.000001")
        try:
            wait_until(lambda: server.metric('gateway_waiting{route="render"}') == 0, 60, "nobody waits")
            for answer in waiting:
                answer.result().problem(503, "broker-blocked")
            check(not server.is_ready(), "not ready")
            server.await_permits(held=1)
        finally:
            broker().control("set_vm_memory_high_watermark", "absolute", "512MB")
        wait_until(server.is_ready, 60, "ready")
        wait_until(lambda: gateway.messages(queue) == 1, 60, "the one that has a permit is in the queue")
        holder.closes()


def test_gateway_worker_that_an_alarm_kept_from_its_cancel_is_cancelled_when_that_is_over():
    with gateway.work_queue() as queue, gateway.workers("c", queue, 1) as (log, _), Gateway({"render": {
            "routing_key": queue, "concurrency": 1, "timeout": "10m", "cancel_deadline": "100ms",
            "presumed_hold": "1h"}}) as server:
        client = Client(server, b'{"ms": 600000}')
        wait_until(lambda: log.running() == (1, 1), 60, "it runs")
        broker().control("set_vm_memory_high_watermark", "0.000001")
        try:
            wait_until(lambda: not server.is_ready(), 60, "the gateway knows of the alarm")
            client.closes()
            server.await_permits(presumed=1)
            equal(log.running(), (1, 1), "jobs that run, and ran")
        finally:
            broker().control("set_vm_memory_high_watermark", "absolute", "512MB")
        server.await_rest()
        equal(log.running(), (0, 1), "jobs that run, and ran")
        equal(server.metric('gateway_presumed_proved_total{route="render"}'), 1)


def test_gateway_broker_closes_its_connections_and_who_waits_for_a_permit_is_sent_away():
    with gateway.work_queue() as queue, Gateway({"render": {
            "routing_key": queue, "concurrency": 1, "timeout": "10m", "presumed_hold": "10m"}}) as server:
        holder = Client(server, b"{}")
        wait_until(lambda: gateway.messages(queue) == 1, 60, "it is in the queue")
        waiting = ingest.in_background(lambda: server.post(b"{}"))
        wait_until(lambda: server.metric('gateway_waiting{route="render"}') == 1, 60, "one waits")
        broker().control("close_all_connections", "for a test")
        equal(holder.hears()[0], 502)
        waiting.result().problem(503, "broker-unavailable")
        server.await_permits(presumed=1)


def test_gateway_broker_nacks_what_another_queue_has_and_the_permit_is_not_free_while_it_runs():
    """Of two queues one is full: the broker says no, and the worker that needs no grant has begun."""
    with gateway.work_queue() as queue, gateway.work_queue({"x-max-length": 1, "x-overflow": "reject-publish"}) as full:
        connection = gateway.connect()
        channel = connection.channel()
        exchange = gateway.fresh("fanout")
        channel.exchange_declare(exchange, "fanout", durable=True)
        for name in (queue, full):
            channel.queue_bind(name, exchange, "k")
        channel.basic_publish("", full, b"")
        connection.close()
        with gateway.workers("c", queue, 1) as (log, (worker,)), Gateway({"render": {
                "exchange": exchange, "routing_key": "k", "concurrency": 1, "grant": "none", "cancel_deadline": "10m"}}) as server:
            # Neither ends before the gateway has heard the no, nor is cancelled before it has begun.
            worker.stops()
            server.post(b'{"ms": 600000, "on_cancel": "finish", "finish_ms": 500}').problem(502, "outcome-unknown")
            server.stops()
            worker.goes_on()
            wait_until(lambda: log.running() == (1, 1), 60, "it runs")
            server.goes_on()
            wait_until(lambda: server.is_at_rest() or log.running() == (0, 1), 60, "free, or over")
            equal(log.running(), (0, 1), "jobs that run, and ran")
            server.await_rest()
            equal(server.outcomes(), {"too-late": 1})


def test_gateway_broker_is_killed_and_restarted_and_nothing_is_lost_behind_a_success():
    with under_load() as (server, load):
        broker().settle()
        broker().kill()
        wait_until(lambda: load.count(503, "broker-unavailable"), 60, "refused while there is no broker")
        check(not server.is_ready(), "not ready")
        equal(server.request("GET", "/healthz").status, 200)
        broker().restart()
        wait_until(server.is_ready, 60, "ready")


if __name__ == "__main__":
    with broker():
        ingest.main()
