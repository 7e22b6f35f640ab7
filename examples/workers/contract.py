# SPDX-License-Identifier: Apache-2.0
"""The worker's side of docs/cancel-contract.md, on pika: serve(address, queue, work, at_once).

The connection's thread says and hears everything, and answers heartbeats until the last job has ended. Each job has
a thread of its own, which calls work(job); job.cancelled is an Event, which it must look at. It returns a Result, or
raises Stopped if it has stopped without one, or Lost if it cannot tell whether all that it has started is over.
"""

import functools
import hashlib
import signal
import threading
import time
import uuid

import pika
from pika.adapters.utils.connection_workflow import AMQPConnectorException

HEARTBEAT_S = 10
CLAIM_WAIT_MS = 10000
CLAIM_WAIT_MAX_MS = 24 * 3600 * 1000
GOODBYE_S = 5
RECONNECT_S = 1
LOOK_S = 0.1
SAY_AGAIN_S = 0.05
TOO_LATE, STOPPED, LOST = "too-late", "stopped", "unknown"


class Stopped(Exception):
    """The job has stopped, and nothing of it runs."""


class Lost(Exception):
    """Nobody can tell whether everything has stopped."""


class Result:
    def __init__(self, body, content_type="application/json", status=200):
        self.body, self.content_type, self.status = body, content_type, status


class Job:
    """One delivery: claimed, then running, then gone."""

    def __init__(self, worker, method, properties, body):
        self.worker, self.tag, self.properties, self.body = worker, method.delivery_tag, properties, body
        self.is_redelivered = method.redelivered
        self.headers = properties.headers or {}
        self.id = properties.message_id
        self.claim = uuid.uuid4().hex
        self.cancelled = threading.Event()
        self.is_refused = False
        self.unsaid = []  # what the broker has not taken yet
        self.is_waiting = False  # before it is said again
        self.is_over = False  # acknowledged, when all is said
        self.sequence = 0  # of the newest part or progress
        self.streams = self.number("x-ew-stream", 0) == 1  # the client takes the reply in parts
        self.thread = self.timer = None

    def read_body(self):
        """All of the body, also if the message has only its address; ValueError: what is there is another one."""
        path = self.headers.get("x-ew-body-file")
        if path is None:
            return self.body
        with open(path, "rb") as file:
            body = file.read()
        if len(body) != self.number("x-ew-body-bytes", -1):
            raise ValueError(f"{path} has another length than x-ew-body-bytes says")
        if hashlib.sha256(body).hexdigest() != self.headers.get("x-ew-body-sha256"):
            raise ValueError(f"{path} has another digest than x-ew-body-sha256 says")
        return body

    def progress(self, body):
        """Tells a client that takes events how far the job is; it hears of the newest only."""
        self.say_numbered("progress", body)

    def part(self, body):
        """The next part of the reply, of which the result is the last one; only if self.streams."""
        if not self.streams:
            raise ValueError("the client does not take the reply in parts: it belongs into the result")
        self.say_numbered("part", body)

    def say_numbered(self, kind, body):
        self.sequence += 1
        headers = {"x-ew-sequence": self.sequence}
        self.worker.soon(functools.partial(self.worker.say, self, kind, body, headers=headers))

    def number(self, header, default):
        """An integer, or its text; what is neither is not there."""
        try:
            return int(self.headers[header])
        except (KeyError, TypeError, ValueError):
            return default

    def claim_wait(self):
        return min(max(self.number("x-ew-claim-wait-ms", CLAIM_WAIT_MS), 0), CLAIM_WAIT_MAX_MS) / 1000

    def is_past_deadline(self):
        now_ms = time.time() * 1000
        return now_ms > self.number("x-deadline", now_ms)


class Worker:
    """A connection's worth: it is made anew for the next one."""

    def __init__(self, address, queue, work, at_once):
        self.parameters = pika.URLParameters(address)
        self.parameters.heartbeat = HEARTBEAT_S
        self.queue, self.work, self.at_once = queue, work, at_once
        self.jobs, self.running = {}, set()
        self.connection = self.channel = self.control = None
        self.starting = threading.Lock()
        self.is_ending = False
        self.thread = threading.Thread(target=self.serve, daemon=True)

    def serve(self):
        """In the connection's thread: until it is lost, or nothing runs any more and nothing is to."""
        try:
            self.connection = pika.BlockingConnection(self.parameters)
            self.consume()
            while self.running or not self.is_ending:
                self.connection.process_data_events(LOOK_S)
            self.connection.close()
        except (pika.exceptions.AMQPError, AMQPConnectorException, OSError) as error:
            print(f"connection lost: {error!r}", flush=True)

    def consume(self):
        self.channel = self.connection.channel()
        self.channel.confirm_delivery()
        self.channel.add_on_cancel_callback(self.leave)
        self.channel.basic_qos(prefetch_count=self.at_once)
        self.control = self.channel.queue_declare("", exclusive=True).method.queue
        self.channel.basic_consume(self.control, self.hear, auto_ack=True)
        self.channel.basic_consume(self.queue, self.take)

    def leave(self, _frame):
        """A queue of ours has gone: nothing more would come, or no cancel be heard."""
        self.begin_to_end()

    def soon(self, function):
        """From a job's thread: in the connection's, if that is still there."""
        if self.connection.is_open:
            self.connection.add_callback_threadsafe(function)

    def say(self, job, kind, body=b"", content_type=None, headers=None, reply_to=None):
        properties = pika.BasicProperties(
            type=kind, correlation_id=job.properties.correlation_id, message_id=job.id, content_type=content_type,
            delivery_mode=2, reply_to=reply_to, headers={"x-ew-claim": job.claim, **(headers or {})})
        job.unsaid.append((body, properties))
        self.go_on(job)

    def go_on(self, job):
        """The broker has what was to be said when it is not kept; what it refuses is said again, in its order."""
        if self.is_ending or job.is_waiting or job.claim not in self.jobs:
            return
        try:
            while job.unsaid:
                self.channel.basic_publish("", job.properties.reply_to, *job.unsaid[0])
                del job.unsaid[0]
        except pika.exceptions.NackError:
            job.is_waiting = True
            self.connection.call_later(SAY_AGAIN_S, functools.partial(self.say_again, job))
            return
        if job.is_over:
            self.forget(job)

    def say_again(self, job):
        job.is_waiting = False
        self.go_on(job)

    def finish(self, job, kind=None, *what):
        """It is over: acknowledged, after all that was to be said."""
        job.is_over = True
        if kind:
            self.say(job, kind, *what)
        else:
            self.go_on(job)

    def forget(self, job):
        del self.jobs[job.claim]
        self.channel.basic_ack(job.tag)

    def take(self, _channel, method, properties, body):
        if self.is_ending:
            return  # it is another worker's, when the connection is closed
        job = Job(self, method, properties, body)
        known = properties.type == "op" and properties.reply_to and properties.correlation_id and job.id
        if not known or job.number("x-ew-version", 0) not in (1, 2):
            self.channel.basic_reject(job.tag, requeue=False)
            return
        self.jobs[job.claim] = job
        self.say(job, "claim", reply_to=self.control, headers={"x-ew-redelivered": method.redelivered})
        if job.headers.get("x-ew-grant") == "none":
            self.start(job)
        else:
            job.timer = self.connection.call_later(job.claim_wait(), lambda: self.give_back(job))

    def give_back(self, job):
        """Nobody has answered the claim. One that comes again and again would keep those behind it from their turn."""
        if self.is_ending:
            return
        if job.is_redelivered or job.is_past_deadline():
            self.forget(job)
        else:
            del self.jobs[job.claim]
            self.channel.basic_reject(job.tag, requeue=True)

    def start(self, job):
        with self.starting:
            if not self.is_ending:
                job.thread = threading.Thread(target=self.run, args=(job,))
                self.running.add(job)
                job.thread.start()

    def run(self, job):
        """In the job's thread."""
        print(f"begin {job.id}\n", end="", flush=True)
        try:
            result, answer = self.work(job), TOO_LATE
        except Stopped:
            result, answer = Result(b"", None, 503), STOPPED
        except Lost:
            result, answer = Result(b"", None, 503), LOST
        except Exception as error:  # pylint: disable=broad-except
            result, answer = Result(str(error).encode(), "text/plain", 500), TOO_LATE
        print(f"end {job.id}\n", end="", flush=True)
        self.soon(functools.partial(self.end, job, result, answer))

    def end(self, job, result, answer):
        self.running.discard(job)
        kind = answer if job.cancelled.is_set() or answer == LOST else "reply"
        if job.is_refused:
            self.finish(job)
        elif kind in ("reply", TOO_LATE):
            self.finish(job, kind, result.body, result.content_type, {"x-ew-status": result.status})
        else:
            self.finish(job, kind)

    def hear(self, _channel, _method, properties, _body):
        """grant, refuse or cancel"""
        claim, kind = (properties.headers or {}).get("x-ew-claim"), properties.type
        job = self.jobs.get(claim)
        if not job:
            return
        if job.thread:
            job.is_refused = job.is_refused or kind == "refuse"
            if kind in ("cancel", "refuse"):
                job.cancelled.set()
        elif kind in ("grant", "refuse", "cancel") and not job.is_over:
            self.connection.remove_timeout(job.timer)
            self.decide(job, kind)

    def decide(self, job, kind):
        if kind == "grant":
            self.start(job)
        else:
            self.finish(job, "not-started" if kind == "cancel" else None)

    def begin_to_end(self):
        """Nothing begins any more, nothing is said, and what runs is told to stop."""
        with self.starting:
            self.is_ending = True
        for job in list(self.running):
            job.cancelled.set()

    def stop(self):
        """Nothing runs any more when this returns; only then may the next connection be made. A broker that takes nothing, during
        an alarm, does not answer to the goodbye, and it is not waited for."""
        self.begin_to_end()
        for job in list(self.running):
            job.thread.join()
        if self.connection:
            self.thread.join(GOODBYE_S)


def serve(address, queue, work, at_once=1):
    """Until SIGTERM or SIGINT, which stop what runs: it comes to another worker. So does a lost connection, which is followed by
    another one. Says on standard output which jobs begin and end, and when a connection is lost."""
    told = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: told.append(number))
    while not told:
        worker = Worker(address, queue, work, at_once)
        worker.thread.start()
        while worker.thread.is_alive() and not told:
            worker.thread.join(LOOK_S)
        worker.stop()
        again = time.monotonic() + RECONNECT_S
        while not told and time.monotonic() < again:
            time.sleep(LOOK_S)
