# SPDX-License-Identifier: Apache-2.0
"""What the tests of ew-gateway and of its workers share: workers, gateways, clients that leave, one broker a program."""

import contextlib
import itertools
import os
import pathlib
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading

import ingest
import rabbitmq
from ingest import Skip, equal, wait_until

try:
    import pika
except ImportError:  # the distribution's package, and a python3 that is not the distribution's
    sys.path.append("/usr/lib/python3/dist-packages")
    import pika

WORKERS = ingest.ROOT / "examples" / "workers"
LANGUAGES = ("c", "python", "node")
BROKER = rabbitmq.Broker()
NUMBERS = itertools.count(1)


def broker():
    """The broker, started by the first test that needs it."""
    if not BROKER.server:
        BROKER.start()
    return BROKER


def address():
    return f"amqp://guest:guest@127.0.0.1:{broker().port}/%2F"


def fresh(word):
    """A name that no other test of the program has."""
    return f"{word}-{next(NUMBERS)}"


def connect():
    return pika.BlockingConnection(pika.URLParameters(address()))


@contextlib.contextmanager
def work_queue(arguments=None):
    """A durable queue with a name of its own."""
    name = fresh("work")
    connection = connect()
    connection.channel().queue_declare(name, durable=True, arguments=arguments)
    connection.close()
    yield name


def command_of(language):
    if language == "c":
        return [str(ingest.BUILD / "examples" / "workers" / "worker")]
    if language == "python":
        return ["/usr/bin/python3" if os.access("/usr/bin/python3", os.X_OK) else "python3", str(WORKERS / "worker.py")]
    if not (WORKERS / "node_modules" / "amqplib").exists() or not shutil.which("node"):
        raise Skip("Node or its amqplib is not installed")
    return ["node", str(WORKERS / "worker.mjs")]


class Log:
    """What workers say, a line each, in the order in which they say it."""

    def __init__(self):
        handle, name = tempfile.mkstemp(prefix="ew-workers.")
        os.close(handle)
        self.path = pathlib.Path(name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.path.unlink()

    def lines(self):
        return self.path.read_text(errors="replace").splitlines()

    def count(self, line):
        return self.lines().count(line)

    def running(self):
        """How many jobs run, and how many ran at most at the same time."""
        now = most = 0
        for line in self.lines():
            now += line.startswith("begin ")
            now -= line.startswith("end ")
            most = max(most, now)
        return now, most


class Worker:
    """A process; its jobs begin and end in @log."""

    def __init__(self, language, queue, log, at_once=1):
        command = [*command_of(language), address(), queue, str(at_once)]
        with open(log.path, "ab") as output:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGCONT)
        self.kill()


@contextlib.contextmanager
def workers(language, queue, count=1, at_once=1):
    """So many on a queue, all there: their log and they."""
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(Log())
        group = [stack.enter_context(Worker(language, queue, log, at_once)) for _ in range(count)]
        await_consumers(queue, count)
        yield log, group


def await_consumers(queue, count):
    connection = connect()
    channel = connection.channel()

    def are_there():
        return channel.queue_declare(queue, passive=True).method.consumer_count == count

    wait_until(are_there, 60, f"{count} consumers of {queue}")
    connection.close()
