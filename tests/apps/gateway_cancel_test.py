#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A client that leaves cancels its operation at the backend, and its permit is free when that is over and not before.

At every stage of an operation, with each of the example workers, one and several on a queue, and a real RabbitMQ.
"""

import contextlib
import json
import multiprocessing
import os
import pathlib
import resource
import signal
import subprocess
import time

import browser
import gateway
import ingest
import links
from gateway import LANGUAGES, Client, Gateway, broker, messages
from ingest import check, equal, wait_until

LONG = json.dumps({"ms": 600000}).encode()
FINISHES = json.dumps({"ms": 600000, "on_cancel": "finish", "finish_ms": 500}).encode()
PROOFS = {"refused", "not-started", "stopped", "too-late", "replied"}


class Stage:
    """A route, its queue and its workers, which are started when the stage wants them."""

    def __init__(self, language, count, stack, arguments=(), host="127.0.0.1", routes=None, **keys):
        self.language, self.count, self.stack = language, count, stack
        self.queue = stack.enter_context(gateway.work_queue())
        self.log = stack.enter_context(gateway.Log())
        self.group = []
        self.gateway = stack.enter_context(Gateway({"render": {
            "routing_key": self.queue, "concurrency": 2, "waiting_room": 10, "timeout": "10m", "cancel_deadline": "60s", **keys},
            **(routes or {})}, *arguments, host=host))

    def start_workers(self):
        self.group += [self.stack.enter_context(gateway.Worker(self.language, self.queue, self.log))
                       for _ in range(self.count)]
        gateway.await_consumers(self.queue, self.count)

    def publish(self, body=LONG):
        """A client whose operation is in the queue, or further."""
        client = Client(self.gateway, body)
        self.gateway.await_permits(held=1)
        if not self.group:
            wait_until(lambda: messages(self.queue) == 1, 60, "the operation is in the queue")
        return client

    def began(self, count=1):
        wait_until(lambda: sum(line.startswith("begin ") for line in self.log.lines()) == count, 60, "the job runs")

    def run(self, body=LONG):
        """A client whose job runs."""
        if not self.group:
            self.start_workers()
        client = self.publish(body)
        self.began()
        return client

    def claim(self):
        """The claim is with the broker, since the gateway hears nothing."""
        self.start_workers()
        self.workers_stop()
        client = gateway.await_message([worker.process for worker in self.group], lambda: Client(self.gateway, LONG))
        self.gateway.stops()
        gateway.await_message([self.gateway.process], self.workers_go_on)
        return client

    def workers_stop(self):
        for worker in self.group:
            worker.stops()

    def workers_go_on(self):
        for worker in self.group:
            worker.goes_on()

    def is_over(self):
        """Nothing runs, and the workers have nothing to do but what comes next."""
        self.gateway.await_rest()
        equal(self.log.running()[0], 0, "jobs that run")
        if not self.group:
            self.start_workers()
        for _ in range(self.count):
            equal(self.gateway.post(b'{"ms": 10}').json, {"steps": 1})
        equal(messages(self.queue), 0)
        self.gateway.await_rest()

    def ended(self, proofs, began=None, count=1):
        """One cancel, or so many, each with one of these proofs."""
        self.gateway.await_rest()
        outcomes = self.gateway.outcomes()
        check(len(outcomes) == 1 and set(outcomes) <= set(proofs) and sum(outcomes.values()) == count, f"{outcomes}")
        if set(outcomes) != {"replied"}:
            equal(self.gateway.outcomes("cancels"), outcomes, "cancels")
        if began is not None:
            equal(sum(line.startswith("begin ") for line in self.log.lines()), began, "jobs that began")
        self.is_over()


# ---- the stages ----

def in_the_body(stage):
    Client(stage.gateway, b'{"ms"', announced=100).closes()
    stage.is_over()
    equal(stage.gateway.outcomes(), {"replied": stage.count})


def waiting_for_a_permit(stage):
    others = [Client(stage.gateway, LONG) for _ in range(2)]
    stage.gateway.await_permits(held=2)
    client = Client(stage.gateway, LONG)
    wait_until(lambda: stage.gateway.metric('gateway_waiting{route="render"}') == 1, 60, "it waits")
    client.closes()
    wait_until(lambda: stage.gateway.metric('gateway_waiting{route="render"}') == 0, 60, "it does not wait")
    wait_until(lambda: messages(stage.queue) == 2, 60, "of the others, which have permits, the queue has the operations")
    for other in others:
        other.closes()
    stage.gateway.await_permits(cancelling=2)
    stage.start_workers()
    stage.gateway.await_rest()
    equal(stage.gateway.outcomes(), {"refused": 2})
    stage.is_over()


def not_yet_confirmed(stage):
    os.kill(broker().pid(), signal.SIGSTOP)
    try:
        client = Client(stage.gateway, LONG)
        stage.gateway.await_permits(held=1)
        client.closes()
        stage.gateway.await_permits(cancelling=1)
    finally:
        os.kill(broker().pid(), signal.SIGCONT)
    stage.start_workers()
    stage.ended({"refused", "unsent"}, began=0)


def in_the_queue(stage):
    stage.publish().closes()
    stage.gateway.await_permits(cancelling=1)
    stage.start_workers()
    stage.ended({"refused"}, began=0)


def claimed(stage):
    client = stage.claim()
    client.closes()
    stage.gateway.goes_on()
    stage.ended({"refused", "not-started", "stopped"})


def granted(stage):
    client = stage.claim()
    stage.workers_stop()
    stage.gateway.goes_on()
    wait_until(lambda: stage.gateway.metric('gateway_grants_total{route="render"}') == 1, 60, "granted")
    client.closes()
    stage.gateway.await_permits(cancelling=1)
    stage.workers_go_on()
    stage.ended({"not-started", "stopped"})


def running(stage):
    stage.run().closes()
    stage.ended({"stopped"}, began=1)


def running_and_not_to_be_stopped(stage):
    """The permit is not free before the job has ended, however long that takes."""
    client = stage.run(FINISHES)
    stage.workers_stop()
    client.closes()
    stage.gateway.await_permits(cancelling=1, free=1)
    stage.workers_go_on()
    stage.ended({"too-late"}, began=1)


def reply_on_its_way(stage):
    client = stage.run(b'{"ms": 200}')
    stage.gateway.stops()
    wait_until(lambda: stage.log.running() == (0, 1), 60, "the job has ended")
    client.closes()
    stage.gateway.goes_on()
    stage.ended({"replied", "too-late"}, began=1)


STAGES = (in_the_body, waiting_for_a_permit, not_yet_confirmed, in_the_queue, claimed, granted, running,
          running_and_not_to_be_stopped, reply_on_its_way)


def define(stage, language, count):
    def test():
        with contextlib.ExitStack() as stack:
            stage(Stage(language, count, stack))

    globals()[f"test_gateway_client_gone_{stage.__name__}_{language}_{count}"] = test


for one_stage in STAGES:
    for one_language in LANGUAGES:
        for one_count in (1, 5):
            define(one_stage, one_language, one_count)


# ---- ways to leave ----

def leaves(way):
    with contextlib.ExitStack() as stack:
        stage = Stage("c", 1, stack)
        way(stage.run())
        stage.ended({"stopped"}, began=1)


def test_gateway_client_closes():
    leaves(Client.closes)


def test_gateway_client_resets():
    leaves(Client.resets)


def test_gateway_client_half_closes():
    leaves(Client.half_closes)


def test_gateway_client_that_half_closes_and_waits_is_answered_where_the_route_says_so():
    with contextlib.ExitStack() as stack:
        stage = Stage("c", 1, stack, half_close="finish")
        client = stage.run(b'{"ms": 300}')
        client.half_closes()
        equal(client.hears()[0], 200)
        stage.ended({"replied"}, began=1)


def dies(way):
    """Its machine says nothing any more, and another client that is as silent, but there, notices nothing of that."""
    with contextlib.ExitStack() as stack:
        link = stack.enter_context(links.Link())
        stage = Stage("c", 2, stack, arguments=("--public", "--dead-link", "3"), host=link.near)
        there = stage.run(b'{"ms": 600000, "who": "there"}')
        with link.there():
            client = Client(stage.gateway, LONG)
        stage.began(2)
        way(link)
        stage.gateway.await_permits(held=1, free=1)
        equal(stage.gateway.outcomes("cancels"), {"stopped": 1})
        wait_until(lambda: stage.log.running()[0] == 1, 60, "the job has stopped")
        there.closes()
        stage.ended({"stopped"}, began=2, count=2)
        client.closes()


def test_gateway_client_whose_cable_is_cut():
    dies(links.Link.is_cut)


def test_gateway_client_behind_a_black_hole():
    dies(links.Link.is_a_black_hole)


FETCH = """
    window.stop = new AbortController();
    fetch("/ops/render", {method: "POST", body: '{"ms": 600000}', signal: stop.signal}).catch(() => {});
"""


def test_gateway_browser_aborts_leaves_the_page_closes_the_tab_and_is_killed():
    with contextlib.ExitStack() as stack:
        chromium = stack.enter_context(browser.Browser())
        stage = Stage("c", 1, stack)
        stage.start_workers()
        ways = (lambda tab: tab.runs("stop.abort()"), lambda tab: tab.goes_to("about:blank"), browser.Tab.closes,
                lambda _tab: chromium.kill())
        for number, way in enumerate(ways, 1):
            tab = chromium.open(f"http://127.0.0.1:{stage.gateway.port}/healthz")
            tab.runs(FETCH + "true")
            stage.began(number)
            way(tab)
            stage.gateway.await_rest()
            equal(stage.log.running()[0], 0, "jobs that run")
            equal(stage.gateway.outcomes("cancels"), {"stopped": number})
        stage.ended({"stopped"}, began=number, count=number)


# ---- without a proof ----

def test_gateway_worker_that_does_not_know_leaves_a_presumed_permit_until_the_hold_time():
    for hold, is_seen in (("10m", True), ("100ms", False)):
        with contextlib.ExitStack() as stack:
            stage = Stage("python", 1, stack, cancel_deadline="300ms", presumed_hold=hold)
            stage.run(b'{"ms": 600000, "on_cancel": "lose"}').closes()
            if is_seen:
                stage.gateway.await_permits(presumed=1, free=1)
                wait_until(lambda: stage.gateway.metric('gateway_heard_total{kind="unknown"}') == 1, 60, "it does not know")
            else:
                stage.gateway.await_rest()
            equal(stage.gateway.metric('gateway_presumed_expired_total{route="render"}'), 0 if is_seen else 1)


def test_gateway_worker_that_loses_its_work_without_a_cancel_leaves_a_permit_that_is_not_free():
    with contextlib.ExitStack() as stack:
        stage = Stage("python", 1, stack, cancel_deadline="300ms", presumed_hold="10m")
        stage.start_workers()
        stage.gateway.post(b'{"ms": 20, "on_end": "lose"}').problem(502, "outcome-unknown")
        stage.gateway.await_permits(presumed=1, free=1)
        equal(stage.gateway.metric('gateway_heard_total{kind="unknown"}'), 1)


def test_gateway_silent_worker_leaves_a_presumed_permit_until_its_late_word():
    with contextlib.ExitStack() as stack:
        stage = Stage("c", 1, stack, cancel_deadline="300ms", presumed_hold="10m")
        client = stage.run()
        stage.workers_stop()
        client.closes()
        stage.gateway.await_permits(presumed=1, free=1)
        stage.workers_go_on()
        stage.gateway.await_rest()
        equal(stage.gateway.metric('gateway_presumed_proved_total{route="render"}'), 1)
        equal(stage.gateway.outcomes(), {"silent": 1})
        stage.is_over()


def test_gateway_presumed_operation_that_needs_no_grant_is_not_free_while_it_runs():
    with contextlib.ExitStack() as stack:
        stage = Stage("c", 1, stack, cancel_deadline="100ms", presumed_hold="10m", grant="none")
        stage.publish(FINISHES).closes()
        stage.gateway.await_permits(presumed=1, free=1)
        # Until it has begun, the gateway does not hear of it, and cannot cancel it.
        stage.gateway.stops()
        stage.start_workers()
        stage.began()
        stage.gateway.goes_on()
        wait_until(lambda: stage.gateway.is_at_rest() or stage.log.running()[0] == 0, 60, "free, or over")
        equal(stage.log.running()[0], 0, "jobs that run")
        stage.is_over()


def test_gateway_deadline_cancels_at_the_backend():
    with contextlib.ExitStack() as stack:
        stage = Stage("c", 1, stack, timeout="700ms")
        stage.start_workers()
        stage.gateway.post(LONG).problem(504, "deadline")
        stage.ended({"refused", "not-started", "stopped"})


# ---- trouble with workers ----

def test_gateway_killed_worker_and_the_operation_runs_at_another():
    with contextlib.ExitStack() as stack:
        stage = Stage("c", 1, stack)
        client = stage.run(b'{"ms": 1500}')
        stage.group[0].kill()
        stage.group.clear()
        other = stack.enter_context(gateway.Worker("python", stage.queue, stage.log))
        equal(client.hears()[0], 200)
        equal(sum(line.startswith("begin ") for line in stage.log.lines()), 2)
        other.kill()
        stage.gateway.await_rest()


def test_gateway_killed_worker_of_a_client_that_has_left_is_proved_over_by_the_next_claim():
    with contextlib.ExitStack() as stack:
        stage = Stage("c", 1, stack)
        client = stage.run()
        stage.workers_stop()
        client.closes()
        stage.gateway.await_permits(cancelling=1)
        stage.group[0].kill()
        stage.group.clear()
        stack.enter_context(gateway.Worker("c", stage.queue, stage.log))
        stage.gateway.await_rest()
        equal(stage.gateway.outcomes("cancels"), {"refused": 1})


# ---- a crowd ----

CROWD = int(os.environ.get("EW_CROWD", "300"))
CROWD_IS_LARGE = CROWD >= 2000
CROWD_ROUNDS = 6 if CROWD_IS_LARGE else 2
CROWD_SECONDS = 60 + CROWD // 20
CROWD_BODIES_BYTES = 24 << 20  # of all together
MEMORY_SLACK_BYTES = 16 << 20


class Others:
    """A process that wants something short of another route all the time; p50, p99 and the longest of each phase."""

    def __init__(self, server):
        self.server, self.phases, self.stopped = server, [], multiprocessing.Event()
        self.mine, theirs = multiprocessing.Pipe()
        self.process = multiprocessing.Process(target=self.work, args=(theirs,), daemon=True)
        self.process.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.join()

    def work(self, end):
        signal.alarm(0)
        found = []
        while not self.stopped.is_set():
            began = time.monotonic()
            try:
                status = self.server.post(b'{"ms": 10}', "other", timeout=CROWD_SECONDS).status
            except OSError as error:
                status = str(error)
            found.append((began, time.monotonic() - began, status))
        end.send(found)

    def phase(self, name):
        self.phases.append((name, time.monotonic()))

    def stop(self):
        """All were answered; the figures, as text."""
        end = time.monotonic()
        self.stopped.set()
        check(self.mine.poll(CROWD_SECONDS * ingest.SCALE), "the others end")
        found = self.mine.recv()
        equal({status for _, _, status in found}, {200}, "what others were answered")
        ends = [began for _, began in self.phases[1:]] + [end]
        return "; ".join(f"{name} ({until - since:.1f} s): " + figures([took for began, took, _ in found if since <= began < until])
                         for (name, since), until in zip(self.phases, ends))


def figures(times):
    times.sort()
    if not times:
        return "none began"
    return (f"{len(times)}, p50 {times[len(times) // 2] * 1000:.0f} ms, p99 {times[len(times) * 99 // 100] * 1000:.0f} ms, "
            f"longest {times[-1] * 1000:.0f} ms")


def resident_bytes(server):
    return int(pathlib.Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]) * resource.getpagesize()


def at_the_broker():
    """Queues, with what is in them, and channels; asking takes a second of processor."""
    if not CROWD_IS_LARGE:
        return set()
    return set(broker().control("list_queues", "name", "messages", "messages_unacknowledged").splitlines()
               + broker().control("list_channels", "pid").splitlines())


def arrive(stage, clients):
    """A tenth of them in line, the others with a permit, and most of those at workers."""
    permits = stage.gateway.permits()["capacity"]
    body = b'{"ms": 600000, "step_ms": 600000, "rest": "%s"}' % (b"x" * (CROWD_BODIES_BYTES // CROWD))
    clients += [Client(stage.gateway, body) for _ in range(CROWD)]
    wait_until(lambda: stage.gateway.are_permits(held=permits, waiting=CROWD - permits), CROWD_SECONDS,
               lambda: f"all are there: {stage.gateway.permits()}")
    wait_until(lambda: stage.log.running()[0] >= permits * 3 // 4, CROWD_SECONDS,
               lambda: f"most run: {stage.log.running()} of {permits}")


def vanish(stage, clients):
    for client in clients:
        client.resets()
    clients.clear()
    wait_until(stage.gateway.is_at_rest, CROWD_SECONDS, lambda: f"all permits are free: {stage.gateway.permits()}")
    wait_until(lambda: stage.log.running()[0] == 0, 60, "nothing runs")


def crowd_is_over(stage, before):
    """Each has ended in exactly one way: with a proof, or still in line, where none was needed. How many ended how so far."""
    permits = stage.gateway.permits()["capacity"]
    now = {"gone": int(stage.gateway.metric('gateway_gone_total{route="render"}')), **stage.gateway.outcomes()}
    outcomes = {name: count - before.get(name, 0) for name, count in now.items()}
    check(set(outcomes) <= PROOFS | {"unsent", "gone"}, f"{outcomes}")
    equal(stage.gateway.outcomes("cancels"), {name: count for name, count in now.items() if name not in ("unsent", "gone")})
    equal(sum(outcomes.values()), CROWD, f"{outcomes}")
    check(outcomes["gone"] <= CROWD - permits, f"{outcomes} of {permits}")
    check(stage.log.running()[1] <= permits, f"{stage.log.running()} of {permits} permits")
    return now


def crowd(stack):
    """A stage for a crowd, and what others want meanwhile."""
    other = stack.enter_context(gateway.work_queue())
    stack.enter_context(gateway.workers("c", other))
    permits = CROWD * 9 // 10
    stage = Stage("c", 1, stack, routes={"other": {"routing_key": other, "concurrency": 1}}, concurrency=permits,
                  waiting_room=CROWD)
    count = permits // 1000 + 2
    stage.group += [stack.enter_context(gateway.Worker("c", stage.queue, stage.log, permits * 9 // 10 // count))
                    for _ in range(count)]
    gateway.await_consumers(stage.queue, count)
    return stage


def test_gateway_crowd_that_vanishes_at_once_and_does_it_again():
    """Never run more jobs than there are permits, and then everything is as before: descriptors, memory, queues, channels."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with contextlib.ExitStack() as stack:
        stage = crowd(stack)
        stage.gateway.settle()
        descriptors, bytes_ = stage.gateway.descriptors(), [resident_bytes(stage.gateway)]
        objects = at_the_broker()
        others = stack.enter_context(Others(stage.gateway))
        outcomes, clients = {}, []
        for _ in range(CROWD_ROUNDS):
            others.phase("arriving")
            arrive(stage, clients)
            others.phase("staying")
            time.sleep(0.5)
            others.phase("vanishing")
            vanish(stage, clients)
            outcomes = crowd_is_over(stage, outcomes)
            bytes_.append(resident_bytes(stage.gateway))
        print(f"# {CROWD} clients, {outcomes}; {bytes_} bytes; others: {others.stop()}", flush=True)
        stage.gateway.settle()
        wait_until(lambda: stage.gateway.descriptors() == descriptors, 60, "descriptors as before")
        # Some may have been those of an earlier test's workers that were going.
        wait_until(lambda: at_the_broker() <= objects, 60, lambda: f"{at_the_broker()}, before {objects}")
        equal(messages(stage.queue), 0)
        # What is freed under a sanitizer stays for a while, to be watched.
        wait_until(lambda: ingest.SANITIZED or resident_bytes(stage.gateway) < bytes_[0] + MEMORY_SLACK_BYTES, 30,
                   lambda: f"memory as before: {resident_bytes(stage.gateway)} bytes, {bytes_}")
        equal(stage.gateway.post(b'{"ms": 10}').json, {"steps": 1})


# ---- the benchmark ----

def test_gateway_and_worker_answer_the_callers_of_the_benchmark_who_then_leave():
    with contextlib.ExitStack() as stack:
        stage = Stage("c", 1, stack, concurrency=8)
        stage.group.append(stack.enter_context(gateway.Worker("c", stage.queue, stage.log, 8)))
        gateway.await_consumers(stage.queue, 1)

        def call(how, port, where, *seconds):
            return subprocess.Popen([str(ingest.BUILD / "bench" / "callers"), how, str(port), where, "8", *seconds],
                                    stdin=subprocess.PIPE, stdout=subprocess.PIPE)

        for how, port, where in (("http", stage.gateway.port, "render"), ("amqp", broker().port, stage.queue),
                                 ("amqp-granted", broker().port, stage.queue)):
            with call(how, port, where, "0.1") as callers:
                _rate, count, p50, p99 = map(float, callers.stdout.read().split())
            equal(callers.returncode, 0)
            check(count >= 8 and 0 < p50 <= p99, f"{how}: {count}, {p50}, {p99}")
        with call("leave", stage.gateway.port, "render") as callers:
            callers.stdout.readline()
            wait_until(lambda: stage.log.running()[0] == 8, 60, "all run")
        stage.gateway.await_rest()
        equal(stage.gateway.outcomes("cancels"), {"stopped": 8})


if __name__ == "__main__":
    with broker():
        ingest.main(120 + CROWD_ROUNDS * CROWD_SECONDS)
