#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What a client hears of an operation while it runs: progress and the reply in parts, as events.

With each of the example workers, with one that is a script and breaks the contract, and a real RabbitMQ.
"""

import contextlib
import http.client
import json
import signal
import socket

import gateway
import ingest
from gateway import LANGUAGES, Gateway, pika
from ingest import check, equal, wait_until

EVENTS = {"Accept": "text/event-stream"}
ASYNC = {**EVENTS, "Prefer": "respond-async"}


def job(milliseconds, **wishes):
    return json.dumps({"ms": milliseconds, **wishes}).encode()


class Stream:
    """A request whose answer is events; they are read one by one."""

    def __init__(self, server, method, path, body=None, headers=None, receive_buffer=None):
        self.connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60 * ingest.SCALE)
        self.connection.sock = socket.socket()
        self.connection.sock.settimeout(60 * ingest.SCALE)
        if receive_buffer:
            self.connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.connection.sock.connect(("127.0.0.1", server.port))
        self.connection.request(method, path, body=body, headers={**EVENTS, **(headers or {})})
        self.answer = self.connection.getresponse()

    def begins(self):
        equal((self.answer.status, self.answer.headers["Content-Type"]), (200, "text/event-stream"))
        return "/ops/" + self.answer.headers["X-Operation-Id"]

    def next(self):
        """The next event: its name, its data and its id; comments are passed over. None: the answer is whole."""
        fields = {}
        while True:
            line = self.answer.readline().decode()
            if not line:
                equal(fields, {}, "half an event")
                return None
            if line == "\n" and fields:
                return fields["event"], json.loads(fields["data"]), int(fields.get("id", 0))
            name, _, value = line.rstrip("\n").partition(": ")
            if name:
                fields[name] = fields[name] + "\n" + value if name == "data" and name in fields else value

    def rest(self):
        return list(iter(self.next, None))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.connection.close()


@contextlib.contextmanager
def served(queue, *arguments, **keys):
    with Gateway({"render": {"routing_key": queue, "concurrency": 4, "timeout": "10m", "cancel_deadline": "60s", **keys}},
                 *arguments) as server:
        yield server


@contextlib.contextmanager
def running(*arguments, language="c", **keys):
    with gateway.work_queue() as queue, gateway.workers(language, queue, at_once=4), served(queue, *arguments, **keys) as server:
        yield server


def post(server, body, **headers):
    return Stream(server, "POST", "/ops/render", body, headers)


def begin(server, body, **headers):
    """One that runs without its client; its path."""
    answer = server.post(body, headers={**ASYNC, **headers})
    equal((answer.status, answer.json["events"]), (202, answer.headers["Location"] + "/events"))
    return answer.headers["Location"]


class Script:
    """A worker that says what the test tells it to."""

    def __init__(self, queue):
        self.connection = gateway.connect()
        self.channel = self.connection.channel()
        self.control = self.channel.queue_declare("", exclusive=True).method.queue
        self.queue, self.claims = queue, 0

    def get(self, queue):
        found = []

        def something():
            found[:] = self.channel.basic_get(queue)
            return found[0]

        wait_until(something, 60, f"a message in {queue}")
        return found

    def takes(self, grant="grant"):
        """An operation, claimed and granted."""
        self.delivery, self.operation, _ = self.get(self.queue)
        self.claims += 1
        self.token = f"claim-{self.claims}"
        self.says("claim", reply_to=self.control, **{"x-ew-redelivered": str(int(self.delivery.redelivered))})
        equal(self.get(self.control)[1].type, grant)

    def says(self, kind, body=b"", reply_to=None, token=None, operation=None, **headers):
        about = operation or self.operation
        self.channel.basic_publish("", about.reply_to, body, pika.BasicProperties(
            type=kind, correlation_id=about.correlation_id, message_id=about.message_id, reply_to=reply_to,
            headers={"x-ew-claim": token or self.token, **headers}))

    def part(self, number, body, kind="part", **options):
        self.says(kind, body, **options, **({"x-ew-sequence": number} if number else {}))

    def ends(self, body=b"end"):
        self.says("reply", body)
        self.channel.basic_ack(self.delivery.delivery_tag)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.connection.close()


@contextlib.contextmanager
def scripted(**keys):
    with gateway.work_queue() as queue, served(queue, **keys) as server, Script(queue) as worker:
        yield server, worker


def of_language(language):
    def test():
        with running(language=language) as server, post(server, job(30, progress=True, part="a\r\n\u00e9 ")) as client:
            operation = client.begins()
            events = client.rest()
            equal([data["text"] for name, data, _ in events if name == "data"], 3 * ["a\r\n\u00e9 "])
            equal(events[-1][:2], ("result", {"status": 200, "content_type": "application/json", "text": events[-1][1]["text"]}))
            equal(json.loads(events[-1][1]["text"]), {"steps": 3})
            progress = [json.loads(data["text"])["steps"] for name, data, _ in events if name == "progress"]
            check(progress and progress == sorted(set(progress)) and progress[-1] <= 3, progress)
            ids = [number for _, _, number in events]
            equal((ids, ids[0] > 0), (sorted(set(ids)), True))
            equal(server.request("GET", operation).json["outcome"], "replied")
            equal(server.post(job(30, progress=True, part="a")).json, {"steps": 3})
            equal(server.metric('gateway_heard_total{kind="part"}'), 3)
            server.await_rest()

    return test


for LANGUAGE in LANGUAGES:
    globals()[f"test_gateway_events_of_a_worker_in_{LANGUAGE}"] = of_language(LANGUAGE)


def test_gateway_events_a_client_that_leaves_cancels_the_operation():
    with running() as server:
        with post(server, job(600000, part="x")) as client:
            operation = client.begins()
            other = Stream(server, "GET", operation + "/events")
            equal(client.next()[0], "data")
        with other:
            equal(other.rest()[-1][1]["type"], "urn:endwell:problem:cancelled")
        server.await_rest()
        equal(server.outcomes("cancels"), {"stopped": 1})


def test_gateway_events_tell_of_a_cancel_a_deadline_and_a_shutdown():
    with running("--grace", "1", timeout="500ms") as server:
        with post(server, job(600000)) as client:
            equal(client.rest()[-1][1]["type"], "urn:endwell:problem:deadline")
    with running("--grace", "1") as server:
        with post(server, job(600000, part="x")) as client:
            operation = client.begins()
            client.next()
            equal(server.request("DELETE", operation).json["outcome"], "acknowledged")
            equal(client.rest()[-1][1]["type"], "urn:endwell:problem:cancelled")
        with post(server, job(600000, part="x")) as client, \
                Stream(server, "GET", begin(server, job(600000)) + "/events") as other:
            client.next()
            server.process.send_signal(signal.SIGTERM)
            equal(client.rest()[-1][1]["type"], "urn:endwell:problem:shutting-down")
            equal(other.rest()[-1][1]["type"], "urn:endwell:problem:shutting-down")
        equal(server.process.wait(60 * ingest.SCALE), 3)


def test_gateway_events_refusals_before_the_start_are_answers():
    with running(waiting_room=0, concurrency=1) as server:
        operation = begin(server, job(600000))
        refused = server.post(job(10), headers=EVENTS)
        refused.problem(503, "busy")
        plain = server.request("DELETE", operation)
        equal(plain.json["outcome"], "acknowledged")
        plain = server.post(job(10), headers={"Prefer": "respond-async"}).headers["Location"]
        server.request("GET", plain + "/events").problem(404, "not-found")
        server.request("DELETE", operation + "/events").problem(405, "method-not-allowed")


def test_gateway_events_are_read_again_from_where_one_was():
    with scripted() as (server, worker):
        operation = begin(server, b"")
        worker.takes()
        for number in range(1, 4):
            worker.part(number, b"%d" % number)
        with Stream(server, "GET", operation + "/events") as client:
            first = [client.next() for _ in range(3)]
        equal([data["text"] for _, data, _ in first], ["1", "2", "3"])
        equal(server.permits()["held"], 1)
        worker.ends()
        with Stream(server, "GET", operation + "/events", headers={"Last-Event-ID": str(first[1][2])}) as client:
            rest = client.rest()
        equal([(name, data["text"]) for name, data, _ in rest], [("data", "3"), ("result", "end")])
        last = str(rest[-1][2])
        with Stream(server, "GET", operation + "/events", headers={"Last-Event-ID": last}) as client:
            equal(client.rest(), [])
        for wrong in ("x", "99", "", "-1"):
            server.request("GET", operation + "/events", headers={"Last-Event-ID": wrong}).problem(400, "bad-event-id")
        equal(server.request("HEAD", operation + "/events").status, 200)


def test_gateway_events_that_have_left_the_window_are_not_pretended():
    with scripted(events_window=2000) as (server, worker):
        operation = begin(server, b"")
        worker.takes()
        for number in range(1, 11):
            worker.part(number, b"%d" % number + 400 * b"x")
        worker.ends()
        wait_until(lambda: server.request("GET", operation).json["state"] == "ended", 60, "it has ended")
        gone = server.request("GET", operation + "/events")
        gone.problem(410, "events-gone")
        check("The events up to number" in gone.json["detail"], gone.json)
        number = int(gone.json["detail"].split("number ")[1].split()[0])
        with Stream(server, "GET", operation + "/events", headers={"Last-Event-ID": str(number)}) as client:
            equal([data["text"][:len(str(part))] for part, (_, data, _) in enumerate(client.rest()[:-1], number + 1)],
                  [str(part) for part in range(number + 1, 11)])


def test_gateway_events_of_a_client_that_does_not_read_end():
    with scripted(events_window=100000) as (server, worker):
        with Stream(server, "POST", "/ops/render", b"", receive_buffer=65536) as client:
            client.begins()
            worker.takes()
            for number in range(1, 400):
                worker.part(number, 50000 * b"x")
            wait_until(lambda: server.metric('gateway_heard_total{kind="part"}') == 399, 60, "all are heard")
            events = client.rest()
        equal((events[-1][0], events[-1][1]["type"]), ("error", "urn:endwell:problem:slow-reader"))
        check(len(events) < 400, len(events))
        equal(worker.get(worker.control)[1].type, "cancel")
        worker.says("stopped")
        server.await_rest()


def test_gateway_events_of_progress_are_the_newest_only():
    with scripted() as (server, worker):
        operation = begin(server, b"")
        worker.takes()
        for number in range(1, 6):
            worker.part(number, b"%d" % number, kind="progress")
        worker.part(6, b"\xff\x00")
        worker.part(None, b"without a number", kind="progress")
        worker.ends()
        # Whoever reads earlier may hear of progress that is not the newest any more.
        wait_until(lambda: server.request("GET", operation).json["state"] == "ended", 60, "it has ended")
        with Stream(server, "GET", operation + "/events") as client:
            equal([(name, data.get("text", data.get("base64"))) for name, data, _ in client.rest()],
                  [("data", "/wA="), ("progress", "without a number"), ("result", "end")])


def test_gateway_events_are_never_those_of_another():
    with scripted() as (server, worker):
        with post(server, b"") as first, post(server, b"") as second:
            worker.takes()
            one, token, delivery = worker.operation, worker.token, worker.delivery
            worker.takes()
            worker.part(1, b"mine")
            worker.part(1, b"twice")
            worker.part(2, b"of the first's claim", token=token)
            worker.part(2, b"of nobody's claim", token="made up")
            worker.part(2, b"of the second's claim", operation=one)
            worker.part(None, b"without a number")
            worker.says("part", b"", **{"x-ew-sequence": "2x"})
            worker.part(2, b"more")
            worker.ends()
            worker.part(3, b"late")
            worker.part(1, b"first's", operation=one, token=token)
            worker.says("reply", b"end of the first", operation=one, token=token)
            worker.channel.basic_ack(delivery.delivery_tag)
            equal(sorted([[data["text"] for _, data, _ in client.rest()] for client in (first, second)]),
                  [["first's", "end of the first"], ["mine", "more", "end"]])
        heard = {kind: server.metric(f'gateway_heard_total{{kind="{kind}"}}')
                 for kind in ("late", "malformed", "duplicate", "part")}
        equal(heard, {"late": 4, "malformed": 2, "duplicate": 1, "part": 3})


def test_gateway_events_end_when_a_part_is_missing():
    with scripted() as (server, worker), post(server, b"") as client:
        worker.takes()
        worker.part(1, b"1")
        worker.part(3, b"3")
        worker.part(2, b"2")
        (_, first, _), (_, problem, _) = client.rest()
        equal((first["text"], problem["type"]), ("1", "urn:endwell:problem:bad-reply"))
        check("worker: x-ew-sequence is 3 where 2 is next" in problem["detail"], problem)
        equal(worker.get(worker.control)[1].type, "cancel")
        worker.says("stopped")
        server.await_rest()


def test_gateway_events_begin_anew_with_another_worker():
    with scripted() as (server, worker), post(server, b"") as client:
        worker.takes()
        worker.part(1, b"of the first")
        equal(client.next()[:2], ("data", {"text": "of the first"}))
        worker.channel.basic_reject(worker.delivery.delivery_tag, requeue=True)
        worker.takes()
        worker.part(1, b"of the second")
        worker.ends()
        equal([(name, data) for name, data, _ in client.rest()],
              [("restart", {}), ("data", {"text": "of the second"}), ("result", {"status": 200, "text": "end"})])


def test_gateway_worker_that_stops_unasked_is_believed():
    with scripted() as (server, worker):
        answer = ingest.in_background(lambda: server.post(b""))
        worker.takes()
        worker.says("stopped")
        answer.result().problem(502, "stopped")
        server.await_rest()


def test_gateway_worker_that_did_not_know_is_believed_when_it_does():
    with scripted() as (server, worker), post(server, b"") as client:
        worker.takes()
        worker.says("unknown")
        worker.channel.basic_ack(worker.delivery.delivery_tag)
        name, data, _ = client.next()
        equal((name, data["type"]), ("error", "urn:endwell:problem:outcome-unknown"))
        worker.says("stopped")
        server.await_rest()


def test_gateway_events_keep_a_silent_connection_alive():
    with scripted(events_keep_alive="50ms") as (server, worker), post(server, b"") as client:
        worker.takes()
        equal([client.answer.readline() for _ in range(4)], 2 * [b": keep-alive\n", b"\n"])
        worker.ends()
        equal(client.next()[0], "result")


if __name__ == "__main__":
    with gateway.broker():
        ingest.main()
