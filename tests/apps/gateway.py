# SPDX-License-Identifier: Apache-2.0
"""What the tests of ew-gateway and of its workers share: workers, gateways, clients that leave, one broker a program."""

import contextlib
import itertools
import os
import pathlib
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile

import ingest
import rabbitmq
from ingest import Skip, equal, wait_until

try:
    import pika
except ImportError:  # the distribution's package, and a python3 that is not the distribution's
    sys.path.append("/usr/lib/python3/dist-packages")
    import pika

GATEWAY = ingest.BUILD / "bin" / "ew-gateway"
WORKERS = ingest.ROOT / "examples" / "workers"
LANGUAGES = ("own",) if "EW_WORKER" in os.environ else ("c", "python", "node")
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
    if language == "own":
        return shlex.split(os.environ["EW_WORKER"])
    if language == "c":
        return [str(ingest.BUILD / "examples" / "workers" / "worker")]
    if language == "python":
        return ["/usr/bin/python3" if os.access("/usr/bin/python3", os.X_OK) else "python3", str(WORKERS / "worker.py")]
    if not (WORKERS / "node_modules" / "amqplib").exists() or not shutil.which("node"):
        raise Skip("Node or its amqplib is not installed")
    return ["node", str(WORKERS / "worker.mjs")]


def stop(process):
    """It does nothing more, until it goes on."""
    process.send_signal(signal.SIGSTOP)
    wait_until(lambda: ingest.state_of(process.pid) == "T", 20, "it has stopped")


def unread_bytes(processes):
    """What lies in their sockets."""
    theirs = {os.readlink(entry) for process in processes for entry in pathlib.Path(f"/proc/{process.pid}/fd").iterdir()}
    sockets = [line.split() for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(int(fields[4].split(":")[1], 16) for fields in sockets if f"socket:[{fields[9]}]" in theirs)


def await_message(processes, do):
    """One message comes to processes that have stopped, when something is done; what that returns. The broker's confirms and
    heartbeats have not so many bytes; an operation and a claim have ids, a token and an address.
    """
    before = unread_bytes(processes)
    done = do()
    wait_until(lambda: unread_bytes(processes) >= before + 200, 60, "a message that nobody reads")
    return done


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
    """A process; its jobs begin and end in @log. @amqp: whom it connects to, if not to the broker."""

    def __init__(self, language, queue, log, at_once=1, amqp=None):
        command = [*command_of(language), amqp or address(), queue, str(at_once)]
        with open(log.path, "ab") as output:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})

    def stops(self):
        stop(self.process)

    def goes_on(self):
        self.process.send_signal(signal.SIGCONT)

    def ends(self):
        """It is told to; its exit status."""
        self.process.terminate()
        return self.process.wait(60)

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


def messages(queue):
    """How many wait in a queue."""
    connection = connect()
    count = connection.channel().queue_declare(queue, passive=True).method.message_count
    connection.close()
    return count


class Client:
    """A request for an operation that is on its way; how it leaves is up to the test."""

    def __init__(self, server, body, route="render", announced=None):
        self.socket = server.connect()
        self.socket.sendall(b"POST /ops/%s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n" % (
            route.encode(), announced or len(body)) + body)

    def closes(self):
        self.socket.close()

    def resets(self):
        ingest.reset(self.socket)

    def half_closes(self):
        self.socket.shutdown(socket.SHUT_WR)

    def hears(self):
        """Everything until the gateway closes or has said enough: status and what follows."""
        self.socket.settimeout(60 * ingest.SCALE)
        text = self.socket.recv(65536)
        return int(text.split()[1]) if text else 0, text


class Gateway(ingest.Server):
    """A gateway with routes, and tenants: a dictionary of the keys of each; @amqp: of which broker, if not as everybody reaches
    it.
    """

    def __init__(self, routes, *arguments, tenants=None, amqp=None, **options):
        super().__init__("none", *arguments, binary=GATEWAY, **options)
        self.sections = {**{f"route {name}": keys for name, keys in routes.items()},
                         **{f"tenant {name}": keys for name, keys in (tenants or {}).items()}}
        self.amqp = amqp

    def start(self):
        self.is_starting = True
        self.log_path = self.folder / "log"
        config = self.folder / "config"
        config.write_text("".join(f"[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in keys.items())
                                  for name, keys in self.sections.items()))
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen([str(self.binary), "serve", "--listen", f"{self.host}:0", "--amqp",
                                             self.amqp or address(),
                                             "--config", str(config), *self.arguments], stdin=subprocess.DEVNULL,
                                            stdout=subprocess.PIPE, stderr=log, env=self.environment)
        block = ""
        for line in self.process.stdout:
            block += line.decode(errors="replace")
            if line.strip().startswith(b"try "):
                break
        else:
            raise AssertionError(f"the gateway did not start: {self.log()[-2000:]}")
        self.port = int(re.search(rf"http://{re.escape(self.host)}:(\d+)", block).group(1))
        self.is_starting = False
        if self.wait_ready:
            wait_until(self.is_ready, 30, lambda: f"ready: {self.log()[-500:]}")

    def __exit__(self, *_):
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGCONT)
        super().__exit__(*_)

    def stops(self):
        stop(self.process)

    def goes_on(self):
        self.process.send_signal(signal.SIGCONT)

    def post(self, body, route="render", **options):
        return self.request("POST", f"/ops/{route}", body, **options)

    def metrics(self):
        values = {}
        for line in self.request("GET", "/metrics").body.decode().splitlines():
            if line and not line.startswith("#"):
                key, value = line.rsplit(" ", 1)
                values[key] = float(value)
        return values

    def permits(self, route="render"):
        """The states of a route's permits, which add up."""
        states = self.request("GET", "/permits").json["routes"][route]
        equal(sum(states[state] for state in ("free", "held", "cancelling", "presumed")), states["capacity"], "sum of permits")
        return states

    def are_permits(self, route="render", **wanted):
        states = self.permits(route)
        return all(states[state] == count for state, count in wanted.items())

    def await_permits(self, route="render", **wanted):
        wait_until(lambda: self.are_permits(route, **wanted), 60, lambda: f"{wanted} of {self.permits(route)}")

    def is_at_rest(self, route="render"):
        states = self.permits(route)
        return states["free"] == states["capacity"]

    def await_rest(self, route="render"):
        wait_until(lambda: self.is_at_rest(route), 60, lambda: f"all permits are free: {self.permits(route)}")

    def outcomes(self, kind="operations", route="render"):
        """How many ended how."""
        found = {}
        for key, value in self.metrics().items():
            match = re.fullmatch(rf'gateway_{kind}_total{{route="{route}",outcome="(.*)"}}', key)
            if match and value:
                found[match.group(1)] = int(value)
        return found
