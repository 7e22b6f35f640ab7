#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The workers of examples/workers/ keep docs/cancel-contract.md: each row of its table about the worker is a test with each of them.

The gateway is a script here, over direct reply-to on a real RabbitMQ. Whether a worker was silent and has acknowledged is
seen by the next operation: with one at a time its claim is the next thing that is heard, and the first operation's is not.
"""

import contextlib
import functools
import hashlib
import json
import re
import signal
import socket
import tempfile
import time
import uuid

import gateway
import ingest
from gateway import LANGUAGES, broker, fresh, pika
from ingest import check, equal, wait_until

PAGE = ingest.ROOT / "docs" / "cancel-contract.md"
LONG = {"ms": 600000}
MINE = {}


class Script:
    """A gateway that does what the test says; @named: the address of its answers outlives its connection. It is the name of a
    queue that holds one message, while it is not consumed; others are refused, and go to @refused."""

    def __init__(self, queue, named=False):
        self.queue, self.heard = queue, []
        self.refused = fresh("refused")
        self.reply_to = fresh("replies") if named else "amq.rabbitmq.reply-to"
        self.connect()

    def connect(self):
        self.connection = gateway.connect()
        self.channel = self.connection.channel()
        if self.reply_to.startswith("replies"):
            self.channel.queue_declare(self.refused)
            self.channel.queue_declare(self.reply_to, arguments={
                "x-max-length": 1, "x-overflow": "reject-publish-dlx", "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": self.refused})
        self.listen()

    def listen(self):
        self.consumer = self.channel.basic_consume(self.reply_to, self.on_message, auto_ack=True)

    def on_message(self, _channel, _method, properties, body):
        self.heard.append((properties, body))

    def publish(self, body, headers=None, **properties):
        """An operation; its correlation id."""
        correlation = uuid.uuid4().hex
        known = {"type": "op", "message_id": uuid.uuid4().hex, "correlation_id": correlation, "reply_to": self.reply_to}
        self.channel.basic_publish("", self.queue, body if isinstance(body, bytes) else json.dumps(body).encode(),
                                   pika.BasicProperties(**{**known, **properties}, headers={
                                       "x-ew-version": "1", "x-ew-grant": "required", "x-ew-attempt": "1",
                                       "x-deadline": str(int(time.time() * 1000) + 600000), **(headers or {})}))
        return correlation

    def hears(self, kind, correlation):
        """The next message is this one."""

        def something():
            self.connection.process_data_events(0.01)
            return self.heard

        wait_until(something, 60, f"{kind} is heard")
        properties, body = self.heard.pop(0)
        equal((properties.type, properties.correlation_id), (kind, correlation))
        return properties, body

    def says(self, kind, claim, token=None):
        self.channel.basic_publish("", claim.reply_to, b"", pika.BasicProperties(
            type=kind, correlation_id=claim.correlation_id, message_id=claim.message_id,
            headers={"x-ew-claim": token or claim.headers["x-ew-claim"]}))

    def claimed(self, body, headers=None, redelivered=False):
        return self.hears_claim(self.publish(body, headers), redelivered)

    def hears_claim(self, correlation, redelivered=False):
        claim, body = self.hears("claim", correlation)
        equal(body, b"")
        equal(str(claim.headers["x-ew-redelivered"]) in ("1", "True"), redelivered, "x-ew-redelivered")
        check(len(claim.headers["x-ew-claim"]) >= 32, "a token of 122 bits or more")
        return claim

    def hears_end(self, kind, claim, status=None):
        properties, body = self.hears(kind, claim.correlation_id)
        equal(properties.headers["x-ew-claim"], claim.headers["x-ew-claim"])
        equal(properties.message_id, claim.message_id)
        if status:
            equal(int(properties.headers["x-ew-status"]), status)
        return body

    def hears_next(self, kind, claim, sequence):
        """A part or progress, with its number."""
        properties, body = self.hears(kind, claim.correlation_id)
        equal((properties.headers["x-ew-claim"], int(properties.headers["x-ew-sequence"])),
              (claim.headers["x-ew-claim"], sequence))
        return body

    def sees_idle(self):
        """Nothing more is said about what was before, and nothing comes again."""
        claim = self.claimed({"ms": 0})
        self.says("refuse", claim)


class Place:
    """A worker that lasts for all rows, and where its jobs are seen."""

    def __init__(self, language, stack):
        self.dead = fresh("dead")
        self.queue = fresh("work")
        self.declare()
        self.log, self.group = stack.enter_context(gateway.workers(language, self.queue))

    def declare(self):
        connection = gateway.connect()
        channel = connection.channel()
        channel.queue_declare(self.dead)
        channel.queue_declare(self.queue, durable=True, arguments={"x-dead-letter-exchange": "",
                                                                   "x-dead-letter-routing-key": self.dead})
        connection.close()

    def dead_count(self):
        connection = gateway.connect()
        count = connection.channel().queue_declare(self.dead, passive=True).method.message_count
        connection.close()
        return count

    def began(self, claim):
        wait_until(lambda: self.log.count(f"begin {claim.message_id}"), 60, "the job begins")

    def has_ended(self, claim):
        equal(self.log.count(f"end {claim.message_id}"), self.log.count(f"begin {claim.message_id}"), "the job has ended")

    def never_began(self, claim):
        equal(self.log.count(f"begin {claim.message_id}"), 0, "begun")


def place_of(language):
    if language not in MINE:
        MINE[language] = Place(language, STACK)
    return MINE[language]


def running(script, place, body=None, headers=None):
    """One that runs."""
    claim = script.claimed({**LONG, **(body or {})}, headers)
    script.says("grant", claim)
    place.began(claim)
    return claim


# ---- the rows ----

def idle_delivery(script, place):
    claim = script.claimed({"ms": 0})
    check(claim.reply_to, "an address")
    place.never_began(claim)
    script.says("refuse", claim)


def idle_delivery_late(script, _place):
    script.says("refuse", script.claimed({"ms": 0}, {"x-deadline": "1000"}))


def idle_delivery_none(script, place):
    claim = script.claimed({"ms": 20}, {"x-ew-grant": "none"})
    equal(json.loads(script.hears_end("reply", claim, 200)), {"steps": 2})
    claim = script.claimed(LONG, {"x-ew-grant": "none"})
    place.began(claim)
    script.says("cancel", claim)
    script.hears_end("stopped", claim)
    place.has_ended(claim)


def is_rejected(script, place, **wrong):
    before = place.dead_count()
    script.publish({"ms": 0}, **wrong)
    script.sees_idle()
    wait_until(lambda: place.dead_count() == before + 1, 60, f"rejected: {wrong}")


def idle_version(script, place):
    for version in ("3", "a", "1x", None):
        is_rejected(script, place, headers={"x-ew-version": version})


def idle_malformed(script, place):
    is_rejected(script, place, type="job")
    is_rejected(script, place, correlation_id=None)
    is_rejected(script, place, message_id=None)
    is_rejected(script, place, reply_to=None)


def idle_cancel(script, place):
    claim = script.claimed({"ms": 0})
    script.says("grant", claim)
    script.hears_end("reply", claim, 200)
    for kind in ("cancel", "refuse", "grant"):
        script.says(kind, claim)
    claim = script.claimed({"ms": 0})
    place.never_began(claim)
    script.says("refuse", claim)


def claimed_grant(script, _place):
    claim = script.claimed({"ms": 30})
    script.says("grant", claim)
    equal(json.loads(script.hears_end("reply", claim, 200)), {"steps": 3})


def claimed_grant_other(script, place):
    claim = script.claimed({"ms": 0})
    script.says("grant", claim, token="0" * 32)
    script.says("cancel", claim)
    script.hears_end("not-started", claim)
    place.never_began(claim)


def claimed_refuse(script, place):
    claim = script.claimed(LONG)
    script.says("refuse", claim)
    script.sees_idle()
    place.never_began(claim)


def claimed_cancel(script, place):
    claim = script.claimed(LONG)
    script.says("cancel", claim)
    script.hears_end("not-started", claim)
    place.never_began(claim)


def claimed_grant_cancel(script, place):
    claim = script.claimed(LONG)
    script.says("grant", claim)
    script.says("cancel", claim)
    wait_until(lambda: script.connection.process_data_events(0.01) or script.heard, 60, "an answer")
    script.hears_end("stopped" if script.heard[0][0].type == "stopped" else "not-started", claim)
    place.has_ended(claim)


def claimed_silence(script, place):
    correlation = script.publish(LONG, {"x-ew-claim-wait-ms": "50"})
    first = script.hears_claim(correlation)
    second = script.hears_claim(correlation, redelivered=True)
    check(first.headers["x-ew-claim"] != second.headers["x-ew-claim"], "a new token")
    script.says("grant", first)
    script.says("refuse", second)
    place.never_began(first)


def claimed_silence_again(script, place):
    correlation = script.publish(LONG, {"x-ew-claim-wait-ms": "50"})
    claim = script.hears_claim(correlation)
    script.hears_claim(correlation, redelivered=True)
    script.sees_idle()
    place.never_began(claim)


def claimed_silence_late(script, place):
    claim = script.claimed(LONG, {"x-ew-claim-wait-ms": "50", "x-deadline": "1000"})
    script.sees_idle()
    place.never_began(claim)


def claimed_lost(script, place):
    # The cut may take longer than a claim waits if nothing is said, and then the operation is claimed twice.
    claim = script.claimed(LONG, {"x-ew-claim-wait-ms": "600000"})
    cut(script)
    again = script.hears_claim(claim.correlation_id, redelivered=True)
    check(claim.headers["x-ew-claim"] != again.headers["x-ew-claim"], "a new token")
    place.never_began(claim)
    script.says("refuse", again)


def running_end(script, place):
    claim = script.claimed({"ms": 20})
    script.says("grant", claim)
    equal(json.loads(script.hears_end("reply", claim, 200)), {"steps": 2})
    place.has_ended(claim)


def running_failure(script, _place):
    claim = script.claimed(b"no JSON")
    script.says("grant", claim)
    script.hears_end("reply", claim, 500)


def running_lose(script, place):
    claim = script.claimed({"ms": 20, "on_end": "lose"})
    script.says("grant", claim)
    equal(script.hears_end("unknown", claim), b"")
    place.has_ended(claim)


@contextlib.contextmanager
def by_reference(script, body, **wrong):
    """An operation whose body is in a file; the claim."""
    with tempfile.NamedTemporaryFile(prefix="ew-body.") as file:
        file.write(body)
        file.flush()
        claim = script.claimed(b"", {"x-ew-version": "2", "x-ew-body-file": file.name, "x-ew-body-bytes": str(len(body)),
                                     "x-ew-body-sha256": hashlib.sha256(body).hexdigest(), **wrong})
        script.says("grant", claim)
        yield claim


def running_body_file(script, _place):
    with by_reference(script, b" " * (3 << 20) + b'{"ms": 20}') as claim:
        equal(json.loads(script.hears_end("reply", claim, 200)), {"steps": 2})


def running_body_wrong(script, _place):
    for wrong in ({"x-ew-body-sha256": "0" * 64}, {"x-ew-body-bytes": "9"}, {"x-ew-body-file": "/there/is/none"}):
        with by_reference(script, b'{"ms": 20}', **wrong) as claim:
            script.hears_end("reply", claim, 500)


def running_progress(script, _place):
    claim = script.claimed({"ms": 20, "progress": True})
    script.says("grant", claim)
    for steps in (1, 2):
        equal(json.loads(script.hears_next("progress", claim, steps)), {"steps": steps})
    script.hears_end("reply", claim, 200)


def running_part(script, _place):
    for form in ("1", 1, True):
        claim = script.claimed({"ms": 20, "progress": True, "part": "a"}, {"x-ew-stream": form})
        script.says("grant", claim)
        for sequence, kind in enumerate(2 * ("progress", "part"), 1):
            script.hears_next(kind, claim, sequence)
        script.hears_end("reply", claim, 200)


def running_part_none(script, _place):
    claim = script.claimed({"ms": 20, "part": "a"}, {"x-ew-stream": "0"})
    script.says("grant", claim)
    equal(json.loads(script.hears_end("reply", claim, 200)), {"steps": 2})


def running_cancel(script, place):
    claim = running(script, place)
    script.says("cancel", claim)
    equal(script.hears_end("stopped", claim), b"")
    place.has_ended(claim)


def running_cancel_finish(script, place):
    claim = running(script, place, {"on_cancel": "finish", "finish_ms": 300})
    script.says("cancel", claim)
    equal(list(json.loads(script.hears_end("too-late", claim, 200))), ["steps"])
    place.has_ended(claim)


def running_cancel_failure(script, place):
    claim = running(script, place, {"on_cancel": "fail"})
    script.says("cancel", claim)
    script.hears_end("too-late", claim, 500)
    place.has_ended(claim)


def running_cancel_lose(script, place):
    claim = running(script, place, {"on_cancel": "lose"})
    script.says("cancel", claim)
    script.hears_end("unknown", claim)


def running_cancel_twice(script, place):
    claim = running(script, place)
    script.says("cancel", claim)
    script.says("cancel", claim)
    script.hears_end("stopped", claim)


def running_grant_again(script, place):
    # It is cancelled behind the grant, so that it cannot have ended before that, and what would run twice has begun twice.
    claim = running(script, place, {"on_cancel": "finish", "finish_ms": 300})
    script.says("grant", claim)
    script.says("cancel", claim)
    script.hears_end("too-late", claim, 200)
    script.sees_idle()
    equal(place.log.count(f"begin {claim.message_id}"), 1, "how often it began")
    place.has_ended(claim)


def running_refuse(script, place):
    claim = script.claimed(LONG, {"x-ew-grant": "none"})
    place.began(claim)
    script.says("refuse", claim)
    script.sees_idle()
    place.has_ended(claim)


def running_lost(script, place):
    claim = running(script, place)
    cut(script)
    again = script.hears_claim(claim.correlation_id, redelivered=True)
    place.has_ended(claim)
    check(claim.headers["x-ew-claim"] != again.headers["x-ew-claim"], "a new token")
    script.says("refuse", again)


def running_unconsumed(script, place):
    """Of the control queue, by which no cancel would come any more; then of the work queue."""
    claim = running(script, place, headers={"x-ew-claim-wait-ms": "600000"})
    broker().control("delete_queue", claim.reply_to)
    again = script.hears_claim(claim.correlation_id, redelivered=True)
    check(claim.reply_to != again.reply_to, "a new address")
    place.has_ended(claim)
    script.says("grant", again)
    wait_until(lambda: place.log.count(f"begin {claim.message_id}") == 2, 60, "it begins again")
    script.channel.queue_delete(place.queue)
    wait_until(lambda: place.log.count(f"end {claim.message_id}") == 2, 60, "it ends")
    place.declare()


def running_nack(script, place):
    claim = running(script, place, {"ms": 100})
    script.channel.basic_cancel(script.consumer)
    correlation = uuid.uuid4().hex
    script.channel.basic_publish("", script.reply_to, b"", pika.BasicProperties(type="filler", correlation_id=correlation))
    wait_until(lambda: gateway.messages(script.refused) >= 2, 60, "it is said and refused, again")
    script.listen()
    script.hears("filler", correlation)
    script.hears_end("reply", claim, 200)
    place.has_ended(claim)


def cut(script):
    # First, so that it takes nothing from the workers, which may be cut, and back, before it is.
    script.connection.close()
    broker().control("close_all_connections", "for a test")
    script.connect()


def several_claim(script, place):
    claim = running(script, place, {"ms": 100})
    script.hears_end("reply", claim, 200)
    equal(place.log.count(f"begin {claim.message_id}"), 1)


def several_killed(script, place):
    """Whoever runs it; one that came later is left to claim it again."""
    claim = running(script, place)
    with gateway.Worker(place.language, place.queue, place.log):
        gateway.await_consumers(script.queue, len(place.group) + 1)
        for worker in place.group:
            worker.stops()  # all, before the broker gives it to the next
        for worker in place.group:
            worker.kill()
        again = script.hears_claim(claim.correlation_id, redelivered=True)
        script.says("refuse", again)


def several_ending(script, place):
    claim = running(script, place)
    with gateway.Worker(place.language, place.queue, place.log):
        gateway.await_consumers(script.queue, len(place.group) + 1)
        for worker in place.group:
            equal(worker.ends(), 0, "exit status")
            if place.log.count(f"end {claim.message_id}") > 0:
                break
        place.has_ended(claim)
        again = script.hears_claim(claim.correlation_id, redelivered=True)
        script.says("refuse", again)


ROWS = {name.replace("_", ".", 1).replace("_", "-"): function for name, function in list(globals().items())
        if re.match(r"(idle|claimed|running|several)_", name)}


# ---- beside the rows ----

@contextlib.contextmanager
def apart(language, at_once):
    """A worker of the test's own, and its gateway."""
    with contextlib.ExitStack() as stack:
        place = Place.__new__(Place)
        place.language = language
        place.queue = stack.enter_context(gateway.work_queue())
        place.log, (worker,) = stack.enter_context(gateway.workers(language, place.queue, 1, at_once))
        yield Script(place.queue), place, worker


def has_ended_in_order(place, worker):
    equal(worker.process.wait(60 * ingest.SCALE), 0, "exit status")
    equal(place.log.running()[0], 0, f"what runs: {place.log.lines()}")


def takes_nothing_while_it_ends(language):
    """Who has room for more, and still runs something."""
    with apart(language, 3) as (script, place, worker):
        running(script, place, {"on_cancel": "finish", "finish_ms": 2000})
        worker.process.terminate()
        script.publish(LONG, {"x-ew-grant": "none"})
        script.publish(LONG)
        has_ended_in_order(place, worker)


def is_pending(pid, number):
    """Whether the process has been sent the signal and has not taken it."""
    with open(f"/proc/{pid}/status", encoding="utf-8") as status:
        [pending] = [line.split()[1] for line in status if line.startswith("ShdPnd:")]
    return int(pending, 16) >> (number - 1) & 1


def ends_in_order_when_told_twice(language):
    with apart(language, 1) as (script, place, worker):
        claim = running(script, place, {"on_cancel": "finish", "finish_ms": 2000})
        worker.process.terminate()
        wait_until(lambda: not is_pending(worker.process.pid, signal.SIGTERM), 20, "it has heard that")
        worker.process.terminate()
        has_ended_in_order(place, worker)
        place.has_ended(claim)


@contextlib.contextmanager
def alarm():
    """The broker reads nothing any more from whoever has published since."""
    broker().control("set_vm_memory_high_watermark", "0")
    try:
        yield
    finally:
        broker().control("set_vm_memory_high_watermark", "absolute", "512MB")


def ends_during_an_alarm(language):
    """One runs and says so, another has ended and waits for the broker's word."""
    with apart(language, 2) as (script, place, worker):
        running(script, place, {"progress": True})
        ends = running(script, place, {"ms": 3000})
        with alarm():
            wait_until(lambda: place.log.count(f"end {ends.message_id}"), 60, "its end")
            worker.process.terminate()
            has_ended_in_order(place, worker)


def hears_while_an_end_is_refused(language):
    with apart(language, 2) as (script, place, _worker):
        other = Script(place.queue, named=True)
        refused = running(other, place, {"ms": 1000})
        claim = running(script, place)
        other.channel.basic_cancel(other.consumer)
        other.channel.basic_publish("", other.reply_to, b"", pika.BasicProperties(type="filler", correlation_id="x"))
        wait_until(lambda: gateway.messages(other.refused) >= 2, 60, "it is said and refused, again")
        script.says("cancel", claim)
        script.hears_end("stopped", claim)
        other.listen()
        other.hears("filler", "x")
        other.hears_end("reply", refused, 200)
        other.connection.close()


def lives_on_with_any_claim_wait(language):
    with apart(language, 1) as (script, _place, _worker):
        for wait in ("9" * 18, "9" * 400, 1 << 62):
            script.says("refuse", script.claimed(LONG, {"x-ew-claim-wait-ms": wait}))
        for wait in ("-1", -1, "-" + "9" * 400):
            correlation = script.publish(LONG, {"x-ew-claim-wait-ms": wait})
            script.hears_claim(correlation)
            script.hears_claim(correlation, redelivered=True)
        script.sees_idle()


def connects_to_a_mute_one(language):
    """Not for ever; and ends while it tries."""
    with socket.create_server(("127.0.0.1", 0)) as listener, gateway.Log() as log, gateway.Worker(
            language, "none", log, amqp="amqp://guest:guest@127.0.0.1:%d/%%2F" % listener.getsockname()[1]) as worker:
        listener.settimeout(60 * ingest.SCALE)
        taken = [listener.accept()[0] for _ in range(2)]
        equal(worker.ends(), 0, "exit status")
        for connection in taken:
            connection.close()


def heard_all(told):
    """Answers the heartbeats, too."""
    for script, *_ in told:
        script.connection.process_data_events(0.01)
    return True


def test_workers_connection_lasts_until_what_runs_has_stopped():
    """That takes longer than a broker waits for heartbeats; for all of them at the same time."""
    with contextlib.ExitStack() as stack:
        told = []
        for language in LANGUAGES:
            script, place, worker = stack.enter_context(apart(language, 1))
            claim = running(script, place, {"on_cancel": "finish", "finish_ms": 40000})
            worker.process.terminate()
            stack.enter_context(gateway.Worker(language, place.queue, place.log))
            told.append((script, place, worker, claim))
        for script, place, worker, claim in told:
            wait_until(lambda: heard_all(told) and script.heard, 120, "it comes to another worker")
            again = script.hears_claim(claim.correlation_id, redelivered=True)
            place.has_ended(claim)
            script.says("refuse", again)
            equal(worker.process.wait(60 * ingest.SCALE), 0, "exit status")


BESIDE = (takes_nothing_while_it_ends, ends_in_order_when_told_twice, ends_during_an_alarm, hears_while_an_end_is_refused,
          lives_on_with_any_claim_wait, connects_to_a_mute_one)


NAMED = ("claimed.lost", "running.lost", "running.nack")


def run_row(row, language):
    with contextlib.ExitStack() as stack:
        place = place_of(language)
        if row.startswith("several"):
            place = Place.__new__(Place)
            place.language = language
            place.queue = stack.enter_context(gateway.work_queue())
            place.log, place.group = stack.enter_context(gateway.workers(language, place.queue, 3))
        script = Script(place.queue, named=row in NAMED)
        stack.callback(lambda: script.connection.close())
        ROWS[row](script, place)
        if not row.startswith("several"):
            script.sees_idle()
        equal(script.heard, [], "heard as well")


def define(row, language):
    def test():
        run_row(row, language)

    globals()[f"test_workers_{row.replace('.', '_').replace('-', '_')}_{language}"] = test


def test_workers_each_row_of_the_contract_is_a_test():
    rows = re.findall(r"^\| `((?:idle|claimed|running|several)\.[a-z-]+)` \|", PAGE.read_text(), re.MULTILINE)
    equal(sorted(rows), sorted(ROWS))


for one_row in ROWS:
    for one_language in LANGUAGES:
        define(one_row, one_language)

for one_function in BESIDE:
    for one_language in LANGUAGES:
        globals()[f"test_workers_{one_function.__name__}_{one_language}"] = functools.partial(one_function, one_language)


if __name__ == "__main__":
    with broker(), contextlib.ExitStack() as STACK:
        ingest.main()
