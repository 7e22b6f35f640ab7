# SPDX-License-Identifier: Apache-2.0
"""What the tests of ew-ingest share: servers, private clamds, raw clients, waiting with a deadline, and a runner.

A test file defines functions `test_...` and ends in `ingest.main()`. Each prints one line: `ok NAME`, `skip NAME: why` or
`not ok NAME: what`. A name as argument runs that test alone.
"""

import contextlib
import http.client
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BUILD = pathlib.Path(os.environ.get("EW_BUILD", ROOT / "build"))
SERVER = BUILD / "bin" / "ew-ingest"
SERVER_WITH_HOOKS = BUILD / "tests" / "apps" / "ew-ingest-hooks"
SCALE = int(os.environ.get("EW_TEST_SCALE", "1"))
SANITIZED = "ASAN_OPTIONS" in os.environ
IS_ROOT = os.geteuid() == 0
PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"

# In two halves, so that no scanner takes this file for what it describes.
EICAR = b"X5O!P%@AP[4\\PZX54(P^)7CC)7}$" + b"EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"


# A body that has been sent but for its last byte: for so many a client may be silent for 60 s, the most that anybody may.
HELD = b"held " * 12_000


class Skip(Exception):
    """The machine cannot run this test."""


def check(condition, what):
    if not condition:
        raise AssertionError(what)


def equal(a, b, what=""):
    if a != b:
        raise AssertionError(f"{what}: {a!r} != {b!r}" if what else f"{a!r} != {b!r}")


def wait_until(condition, seconds, what):
    """Polls until the condition gives something true, which is returned; a deadline, never a sleep. What is missing at its
    end may be told by a function.
    """
    end = time.monotonic() + seconds * SCALE
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds * SCALE} s: {what() if callable(what) else what}")
        time.sleep(0.005)


def end_process(process, seconds=20):
    """TERM, then KILL, and the exit status."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(seconds * SCALE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    return process.returncode


def command(*words):
    """The exit status of a tool of the system."""
    return subprocess.run(words, capture_output=True, env={**os.environ, "PATH": PATH}, check=False).returncode


def children(pid="self"):
    """The children of a process, those that have ended and are not yet waited for included."""
    found = set()
    tasks = ()
    with contextlib.suppress(OSError):
        tasks = os.listdir(f"/proc/{pid}/task")
    for task in tasks:
        with contextlib.suppress(OSError):
            found.update(map(int, pathlib.Path(f"/proc/{pid}/task/{task}/children").read_text().split()))
    return found


def state_of(pid):
    """The letter that proc(5) has for a process, None if it is gone."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return None


def processes(pattern):
    """The processes, not zombies, whose command line contains the pattern."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if pattern in (entry / "cmdline").read_bytes().decode(errors="replace"):
                found.append(int(entry.name))
        except OSError:
            pass
    return found


@contextlib.contextmanager
def folder(memory=False):
    """A new folder; if @memory, where free space can be measured: in a volume that nobody else writes to, or, for who may
    not mount one, below /dev/shm, which is quiet."""
    base = "/dev/shm" if memory and not IS_ROOT and os.access("/dev/shm", os.W_OK) else None
    path = tempfile.mkdtemp(prefix="ew-ingest-test.", dir=base)
    mounted = memory and IS_ROOT and not command("mount", "-t", "tmpfs", "-o", "size=90%", "tmpfs", path)
    os.chmod(path, 0o755)
    try:
        yield pathlib.Path(path)
    finally:
        if mounted:
            command("umount", "-l", path)
        shutil.rmtree(path, ignore_errors=True)


class Clamd:
    """A clamd of our own. The configuration can be given line by line; EICAR is found at any offset."""

    def __init__(self, lines=()):
        if not shutil.which("clamd", path=PATH):
            raise Skip("clamd is not installed")
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="ewc.", dir="/tmp"))
        for name in ("db", "tmp"):
            (self.folder / name).mkdir()
        (self.folder / "db" / "test.ndb").write_text(f"Eicar-Test-Signature:0:*:{EICAR.hex()}\n")
        self.socket = self.folder / "clamd.sock"
        self.process = None
        self.configure(lines)

    def configure(self, lines):
        # The last word on a setting counts for nothing in clamd.conf: the first one does.
        given = {line.split()[0] for line in lines}
        defaults = [
            "Foreground yes", f"LocalSocket {self.socket}", "LocalSocketMode 666", "FixStaleSocket yes",
            f"DatabaseDirectory {self.folder}/db", f"TemporaryDirectory {self.folder}/tmp", "MaxThreads 8",
            "MaxQueue 100", "MaxFileSize 100M", "MaxScanSize 400M", "AlertExceedsMax yes", "ReadTimeout 30",
            "CommandReadTimeout 10",
        ]
        text = [line for line in defaults if line.split()[0] not in given] + list(lines)
        (self.folder / "clamd.conf").write_text("\n".join(text) + "\n")

    def start(self):
        with open(self.folder / "output", "ab") as output:
            self.process = subprocess.Popen(["clamd", "-c", str(self.folder / "clamd.conf")], stdout=output,
                                            stderr=output, stdin=subprocess.DEVNULL, start_new_session=True,
                                            env={**os.environ, "PATH": PATH})
        wait_until(self.answers, 30, "clamd answers PING: " + (self.folder / "output").read_text()[-500:])
        return self

    def answers(self):
        try:
            return self.command(b"zPING\0") == b"PONG\0"
        except OSError:
            return False

    def command(self, text):
        """The beginning of clamd's answer."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(str(self.socket))
            connection.sendall(text)
            return connection.recv(16)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop_answering(self):
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self):
        self.process.send_signal(signal.SIGCONT)

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


class Successors:
    """A clamd at a time; a successor takes the name of its socket over in one step."""

    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="ewr.", dir="/tmp"))
        self.folder.chmod(0o755)
        self.socket = self.folder / "clamd.sock"
        self.current = None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.kill()
        shutil.rmtree(self.folder)

    def start(self, lines=()):
        successor = Clamd(lines)
        try:
            successor.start()
            os.rename(successor.socket, self.socket)
            successor.socket = self.socket
        except BaseException:
            successor.__exit__()
            raise
        before, self.current = self.current, successor
        if before:
            before.__exit__()

    restart = start

    def kill(self):
        if self.current:
            self.current.__exit__()
            self.current = None

    def stop_answering(self):
        self.current.stop_answering()

    def go_on(self):
        self.current.go_on()


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        return json.loads(self.body)

    def problem(self, status, word):
        """This is a problem of this status and type; its detail is returned."""
        equal(self.status, status, f"status ({self.body[:300]!r})")
        equal(self.headers.get("Content-Type"), "application/problem+json", "content type")
        equal(self.json["type"], f"urn:endwell:problem:{word}", "type")
        equal(self.json["status"], status, "status in the body")
        return self.json["detail"]


class Server:
    """A server in a folder of its own, with everything that can be asked about it; @host: where it listens."""

    def __init__(self, scanner="none", *arguments, binary=SERVER, memory=False, environment=None, preexec=None,
                 ready=True, bucket=None, disk_is_bad=False, expected=(), host="127.0.0.1"):
        self.arguments = [str(argument) for argument in arguments]
        self.scanner, self.binary = scanner, binary
        self.environment = {**os.environ, **(environment or {})}
        self.preexec = preexec
        self.wait_ready = ready
        self.bucket = bucket
        self.host = host
        self.disk_is_bad = disk_is_bad
        self.expected = expected  # words of reports that the test provokes
        self.context = folder(memory)
        self.process = None
        self.is_starting = False

    def __enter__(self):
        self.folder = self.context.__enter__()
        self.bucket = self.bucket or self.folder / "bucket"
        self.state = self.bucket.with_name(self.bucket.name + ".state")
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def start(self):
        self.is_starting = True
        self.log_path = self.folder / "log"
        command = [str(self.binary), "serve", "--listen", f"{self.host}:0", "--bucket", str(self.bucket), "--scanner",
                   self.scanner, *self.arguments]
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
                                            env=self.environment, preexec_fn=self.preexec)
        self.block = []
        for line in self.process.stdout:
            self.block.append(line.decode(errors="replace").rstrip())
            if self.block[-1].strip().startswith("try "):
                break
        else:
            raise AssertionError(f"the server did not start: {self.log()[-2000:]}")
        self.port = int(re.search(rf"http://{re.escape(self.host)}:(\d+)", "\n".join(self.block)).group(1))
        self.url = f"http://{self.host}:{self.port}"
        self.is_starting = False
        if self.wait_ready:
            wait_until(self.is_ready, 30, f"ready: {self.log()[-500:]}")

    def __exit__(self, *_):
        if self.process:
            self.process.stdout.close()
            status = end_process(self.process)
            reports = [line for line in self.log().splitlines() if self.is_report(line)]
            if reports or status not in (0, 3, 4, -signal.SIGKILL):
                print(self.log()[-3000:], file=sys.stderr)
                self.context.__exit__(None, None, None)
                raise AssertionError(f"the server ended with {status} and reported: {reports[:3]}")
        self.context.__exit__(None, None, None)

    def is_report(self, line):
        """Whether a line of the log says that something is wrong with the server, or the library."""
        return (" event=runtime " in line or line.startswith("endwell:")
                or ("reclaim-failed" in line and not self.disk_is_bad)) \
            and not any(word in line for word in self.expected)

    def log(self):
        """All whole lines: the last one may just be being written."""
        text = self.log_path.read_text(errors="replace") if self.log_path.exists() else ""
        return text[:text.rfind("\n") + 1]

    def request(self, method, path, body=None, headers=None, timeout=60):
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout * SCALE)
        try:
            connection.request(method, path, body=body, headers=headers or {})
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())
        finally:
            connection.close()

    def put(self, name, body, **options):
        return self.request("PUT", f"/files/{name}", body, **options)

    def connect(self, receive_buffer=None):
        connection = socket.socket()
        connection.settimeout(30 * SCALE)
        connection.connect((self.host, self.port))
        return connection

    def begin(self, name):
        """The connection of an upload that lacks only the last byte of HELD."""
        connection = self.connect()
        connection.sendall(head(name, len(HELD)) + HELD[:-1])
        return connection

    def is_ready(self):
        try:
            return self.request("GET", "/readyz").status == 200
        except OSError:
            return False

    def check(self, name):
        """One entry of /readyz: whether it is well, and the reason."""
        for entry in self.request("GET", "/readyz").json["checks"]:
            if entry["name"] == name:
                return entry["ready"], entry["reason"]
        raise AssertionError(f"no check {name}")

    def metric(self, name):
        """One value, such as `ingest_upload_slots{state="free"}`."""
        return self.metrics()[name]

    def metrics(self):
        values = {}
        for line in self.request("GET", "/metrics").body.decode().splitlines():
            if line and not line.startswith("#"):
                key, value = line.rsplit(" ", 1)
                values[key] = float(value)
        for kind in ("upload", "scan"):
            total = sum(values[f'ingest_{kind}_slots{{state="{state}"}}']
                        for state in ("free", "held", "cancelling", "presumed"))
            equal(total, values[f"ingest_{kind}_slots_capacity"], f"sum of {kind} slots")
        return values

    def slots(self, kind, state):
        return self.metric(f'ingest_{kind}_slots{{state="{state}"}}')

    def entered(self, state):
        return self.metric(f'ingest_upload_transitions_total{{state="{state}"}}')

    def published(self):
        return sorted(entry.name for entry in self.bucket.iterdir())

    def wait_log(self, text, count=1):
        """The log is written by a thread of its own, so a line may come later than what it tells of."""
        wait_until(lambda: self.log().count(text) >= count, 20, lambda: f"{count} times {text!r}: {self.log()[-800:]}")
        equal(self.log().count(text), count, text)

    def transitions(self, name):
        """The states that the log says the upload of a name went through, one line each."""
        found = []
        for line in self.log().splitlines():
            if " event=upload " in line and f" name={name} " in line:
                found.append(re.search(r" to=(\S+)", line).group(1))
        return found

    def look_at_threads(self):
        """For each thread its state and how often it has run."""
        found = {}
        for thread in pathlib.Path(f"/proc/{self.process.pid}/task").iterdir():
            with contextlib.suppress(OSError):
                lines = (thread / "status").read_text().splitlines()
                found[thread.name] = [line for line in lines if line.startswith("State:") or "ctxt_switches" in line]
        return found

    def is_settled(self):
        before = self.look_at_threads()
        time.sleep(0.02)
        has_work = "(running)" in str(before) or "(stopped)" in str(before)
        return not has_work and self.look_at_threads() == before

    def settle(self):
        """Until the server has done all that it can do for now: none of its threads runs, or is about to.

        The time between two looks is that of many ticks of its timers, so a deadline that is passing is over, too.
        """
        wait_until(self.is_settled, 20, "the server has nothing to do")

    def wait_in_line(self, count):
        """Until that many requests wait for an upload slot. They are counted just before they have their places, so it settles,
        or one that comes now could be in front of them.
        """
        wait_until(lambda: self.metric("ingest_uploads_waiting") == count, 20, f"{count} in line")
        self.settle()

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def quiet_descriptors(self):
        """When nothing comes and goes any more."""
        def quiet():
            count = self.descriptors()
            time.sleep(0.05)
            return count if self.descriptors() == count else None
        return wait_until(quiet, 10, "a quiet server")

    def staged(self):
        """Nameless files that the server holds open."""
        count = 0
        for entry in pathlib.Path(f"/proc/{self.process.pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                target = os.readlink(entry)
                count += target.startswith(str(self.state)) and target.endswith("(deleted)")
        return count

    def free_bytes(self):
        status = os.statvfs(self.bucket)
        return status.f_bfree * status.f_frsize

    def is_idle(self):
        """Every permit is back and no staged file is left."""
        values = self.metrics()
        return (values['ingest_upload_slots{state="free"}'] == values["ingest_upload_slots_capacity"]
                and values['ingest_scan_slots{state="free"}'] == values["ingest_scan_slots_capacity"]
                and values["ingest_disk_reserved_bytes"] == 0 and values["ingest_uploads_waiting"] == 0
                and self.staged() == 0)

    def wait_idle(self, seconds=20):
        try:
            wait_until(self.is_idle, seconds, "idle")
        except AssertionError:
            values = {key: value for key, value in self.metrics().items() if "slots" in key or "wait" in key}
            raise AssertionError(f"not idle: {values}, {self.staged()} staged files") from None


class Baseline:
    """Descriptors, permits and space before something; the same must be there after it."""

    def __init__(self, server):
        server.wait_idle()
        self.server = server
        # A first request makes what is made once.
        server.request("GET", "/healthz")
        self.descriptors = server.quiet_descriptors()
        self.free_bytes = server.free_bytes()

    def restored(self, slack_bytes=1 << 20, seconds=20):
        self.server.wait_idle(seconds)
        wait_until(lambda: self.server.descriptors() <= self.descriptors, seconds,
                   lambda: f"descriptors back at {self.descriptors}, now {self.server.descriptors()}")
        wait_until(lambda: self.server.free_bytes() >= self.free_bytes - slack_bytes, seconds,
                   lambda: f"space back: {self.free_bytes - self.server.free_bytes()} bytes are missing")


def reset(connection):
    """Closes with a TCP reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def head(name, length=None, extra=""):
    framing = f"Content-Length: {length}\r\n" if length is not None else "Transfer-Encoding: chunked\r\n"
    return f"PUT /files/{name} HTTP/1.1\r\nHost: 127.0.0.1\r\n{framing}{extra}\r\n".encode()


class Exactly:
    """Lets a response take no byte of the next one, which may have come with it."""

    def __init__(self, connection):
        self.connection = connection

    def makefile(self, mode):
        return self.connection.makefile(mode, 1)


def finish(connection):
    """What Server.begin() has begun."""
    connection.sendall(HELD[-1:])


def read_answer(connection):
    """One whole answer from a raw connection; None when it was closed instead."""
    answer = http.client.HTTPResponse(Exactly(connection))
    try:
        answer.begin()
        return Answer(answer.status, answer.headers, answer.read())
    except (http.client.HTTPException, OSError):
        return None


def media(directory):
    """Real media files, made by a tool of the distribution."""
    tool = ROOT / "tools" / "media"
    if not shutil.which("sox"):
        raise Skip("sox is not installed")
    subprocess.run([str(tool), str(directory)], check=True, timeout=120, stdout=subprocess.DEVNULL)
    return {path.suffix: path for path in pathlib.Path(directory).iterdir()}


@contextlib.contextmanager
def seeded(variable):
    """A seed for all that a test chooses by chance: printed, named in a failure, and taken from the variable if it is set."""
    value = int(os.environ.get(variable, random.randrange(1 << 32)))
    print(f"{variable}={value}", flush=True)
    try:
        yield value
    except AssertionError as error:
        raise AssertionError(f"{variable}={value}: {error}") from error


def in_background(function, *arguments):
    """Runs in a thread; join() gives the result or raises."""
    class Background(threading.Thread):
        def run(self):
            try:
                self.value, self.error = function(*arguments), None
            except Exception as error:  # pylint: disable=broad-except
                self.value, self.error = None, error

        def result(self, seconds=60):
            self.join(seconds * SCALE)
            if self.is_alive():
                raise AssertionError("still running")
            if self.error:
                raise self.error
            return self.value

    thread = Background(daemon=True)
    thread.start()
    return thread


def out_of_time(*_):
    raise AssertionError("out of time")


def main(seconds=180):
    """Runs every test of the calling file in the order of definition."""
    module = sys.modules["__main__"]
    tests = [(name, value) for name, value in vars(module).items() if name.startswith("test_") and callable(value)]
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    failed = False
    signal.signal(signal.SIGALRM, out_of_time)
    for name, function in tests:
        if wanted not in name:
            continue
        signal.alarm(seconds * SCALE)
        try:
            function()
            print(f"ok {name[5:]}", flush=True)
        except Skip as why:
            print(f"skip {name[5:]}: {why}", flush=True)
        except Exception as error:  # pylint: disable=broad-except
            failed = True
            what = " ".join(str(error).split()) or type(error).__name__
            place = traceback.extract_tb(error.__traceback__)
            own = [frame for frame in place if frame.filename == module.__file__] or place
            print(f"not ok {name[5:]}: line {own[-1].lineno}: {what[:600]}", flush=True)
        finally:
            signal.alarm(0)
    sys.exit(1 if failed else 0)
