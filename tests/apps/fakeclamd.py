# SPDX-License-Identifier: Apache-2.0
"""A clamd that lies on demand. It speaks the protocol (zVERSION, zFILDES) and knows one signature, EICAR's.

    with fakeclamd.FakeClamd() as clamd, Server(f"clamd:{clamd.socket}") as server:
        clamd.next("garbage", 3)     the next three uploads get nonsense for an answer; the server's tests do not
        clamd.always("clean")        from now on every file is called clean
        clamd.restart("clean")       another process takes its place, at once, and lies from the start
        clamd.kill()                 nobody is there

Each life is a process of its own, since the server looks at who listens. Lives are forked by a process that does nothing
else: it has no threads, and a fork is quick. What a life has honestly called clean is in `cleared`.
"""

import array
import contextlib
import hashlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

import ingest

VERSION = "ClamAV 1.4.6/27000/Sun Nov 22 08:00:00 2026"
CLEAN = b"fd[12]: OK\0"
READ_MAX = 8 << 20  # the server's largest test file is 2 GiB of nothing behind EICAR

# Answers that are none, or not to this question.
GARBAGE = [b"\0", b"OK\0", b"fd[12]: OK", b"fd[12]: OK\n", b"fd[12]: OK\0fd[12]: OK\0", b"fd[12]: \xff OK\0", b"fd[]: OK\0",
           b"fd[12]: Two Words FOUND\0", b"fd[12]: Can't open file or directory ERROR\0", b"UNKNOWN COMMAND\0",
           b"fd[12]: OK\0" * 200, b"fd[12]: ", b"COMMAND READ TIMED OUT\n", b"HTTP/1.1 400 Bad Request\r\n\r\n",
           b"/elsewhere/file: OK\0", b"stream: OK\0", b"1: fd[12]: OK\0", b"fd[12345678901]: OK\0", b"PONG\0"]


class Life:
    """The process that listens."""

    def __init__(self, path, place, version, lie):
        self.lock = threading.Lock()
        self.version, self.lie = version, lie
        self.planned, self.bad_versions, self.garbage = [], 0, 0
        self.held = threading.Event()
        self.hanging = 0
        self.cleared = os.open(place / "cleared", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self.listeners = [(self.listen(f"{path}.control"), self.obey), (self.listen(path), self.answer)]

    @staticmethod
    def listen(path):
        """Takes the name over in one step, so that there is always somebody."""
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(f"{path}.{os.getpid()}")
        listener.listen(128)
        os.chmod(f"{path}.{os.getpid()}", 0o666)
        os.rename(f"{path}.{os.getpid()}", path)
        return listener

    def run(self):
        for listener, function in self.listeners:
            threading.Thread(target=self.accept, args=(listener, function)).start()

    def accept(self, listener, function):
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=self.serve, args=(connection, function), daemon=True).start()

    @staticmethod
    def serve(connection, function):
        with connection, contextlib.suppress(OSError):
            function(connection)

    def obey(self, connection):
        words = connection.recv(4096).decode().split(" ", 2)
        with self.lock:
            if words[0] == "next":
                self.planned = [words[1]] * int(words[2])
            elif words[0] == "always":
                self.lie = words[1]
            elif words[0] == "bad-versions":
                self.bad_versions = int(words[1])
            elif words[0] == "version":
                self.version = " ".join(words[1:])
            elif words[0] == "release":
                self.held.set()
                self.held = threading.Event()
        connection.sendall(f"{len(self.planned) + self.bad_versions} {self.hanging}".encode())

    def answer(self, connection):
        data = b""
        while not data.endswith(b"\0") and (byte := connection.recv(1)):  # and nothing of what follows
            data += byte
        if data == b"zVERSION\0":
            self.tell_version(connection)
        elif data == b"zFILDES\0":
            self.scan(connection)
        else:
            connection.sendall(b"PONG\0" if data == b"zPING\0" else b"UNKNOWN COMMAND\0")

    def tell_version(self, connection):
        with self.lock:
            is_bad = self.bad_versions > 0
            self.bad_versions -= is_bad
        connection.sendall(b"ClamAV \0" if is_bad else self.version.encode() + b"\0")

    def plan(self, file):
        """What is planned is for uploads; who is always asked alike lies to all."""
        beginning = os.pread(file, 4096, 0)
        is_test = beginning.startswith(ingest.EICAR) and not beginning[len(ingest.EICAR):].strip(b"\0")
        with self.lock:
            return self.planned.pop() if self.planned and not is_test else self.lie

    def scan(self, connection):
        """The descriptor comes with a byte of its own, which is left unread by who leaves: the other side sees a reset."""
        _, ancillary, _, _ = connection.recvmsg(1, socket.CMSG_SPACE(4), socket.MSG_PEEK)
        if not ancillary:
            return
        (file,) = array.array("i", ancillary[0][2])
        try:
            lie = self.plan(file)
            if lie != "leaves":
                connection.recv(1)
                self.judge(connection, file, lie)
        finally:
            os.close(file)

    def judge(self, connection, file, lie):
        if lie == "stays":
            connection.sendall(self.look(file))
            self.hold()
            return
        if lie == "hangs":
            lie = self.hold()
        if lie == "slow":
            time.sleep(0.05)
        if lie == "garbage":
            self.garbage += 1
            connection.sendall(GARBAGE[self.garbage % len(GARBAGE)])
        elif lie == "cut":
            connection.sendall(CLEAN[:7])
        elif lie == "trickle":
            for byte in self.look(file):
                connection.sendall(bytes([byte]))
                time.sleep(0.001)
        elif lie in ("clean", "found"):
            connection.sendall(CLEAN if lie == "clean" else b"fd[12]: Everything FOUND\0")
        elif lie != "closes":
            connection.sendall(self.look(file))

    def hold(self):
        """Until it is released; what is to be said then is decided before nobody hangs any more."""
        with self.lock:
            self.hanging += 1
            held = self.held
        held.wait()
        with self.lock:
            self.hanging -= 1
            return self.lie

    def look(self, file):
        """The truth, for once."""
        body, at = b"", 0
        while at < READ_MAX and (piece := os.pread(file, 1 << 20, at)):
            body, at = body + piece, at + len(piece)
        if ingest.EICAR in body:
            return b"fd[12]: Eicar-Test-Signature FOUND\0"
        os.write(self.cleared, f"{hashlib.sha256(body).hexdigest()}\n".encode())
        return CLEAN


def breed():
    """Forks a life for each line of standard input, and says its number when it listens."""
    lives = set()

    def bury(*_):
        """Nobody whom we have waited for is killed in the end: the number may be another's by then."""
        with contextlib.suppress(ChildProcessError):
            while pid := os.waitpid(-1, os.WNOHANG)[0]:
                lives.discard(pid)

    signal.signal(signal.SIGCHLD, bury)
    for line in sys.stdin:
        path, place, lie, version = line.rstrip("\n").split(" ", 3)
        ready, told = os.pipe()
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
            os.close(ready)
            life = Life(path, pathlib.Path(place), version, lie)
            os.close(told)
            life.run()
            signal.pause()
        lives.add(pid)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
        os.close(told)
        os.read(ready, 1)
        os.close(ready)
        print(pid, flush=True)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    for pid in lives:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


class FakeClamd:
    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="ewf.", dir="/tmp"))
        self.folder.chmod(0o755)
        self.socket = self.folder / "clamd.sock"
        self.lives = []  # the last one listens
        self.breeder = None

    def __enter__(self):
        self.breeder = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        start_new_session=True)
        self.start()
        return self

    def __exit__(self, *_):
        self.breeder.stdin.close()
        self.breeder.wait()
        self.breeder.stdout.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, lie="honest", version=VERSION):
        """Takes the name of the socket; who had it before lives on, and nobody comes to it any more."""
        self.breeder.stdin.write(f"{self.socket} {self.folder} {lie} {version}\n".encode())
        self.breeder.stdin.flush()
        self.lives.append(int(self.breeder.stdout.readline()))

    def signal(self, number, lives):
        for pid in lives:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self):
        self.signal(signal.SIGKILL, self.lives)
        self.lives = []

    def restart(self, lie="honest", version=VERSION):
        """The next one listens before this one has gone."""
        self.start(lie, version)
        self.signal(signal.SIGKILL, self.lives[:-1])
        del self.lives[:-1]

    def stop_answering(self):
        self.signal(signal.SIGSTOP, self.lives[-1:])

    def go_on(self):
        self.signal(signal.SIGCONT, self.lives)

    def command(self, text):
        """How many planned lies nobody has heard yet, and how many scans hang."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(20 * ingest.SCALE)
            connection.connect(f"{self.socket}.control")
            connection.sendall(text.encode())
            return tuple(map(int, connection.recv(64).split()))

    def next(self, lie, count):
        self.command(f"next {lie} {count}")

    def always(self, lie):
        self.command(f"always {lie}")

    def bad_versions(self, count):
        self.command(f"bad-versions {count}")

    def set_version(self, version):
        self.command(f"version {version}")

    def release(self):
        self.command("release")

    def planned(self):
        return self.command("look")[0]

    def hanging(self):
        return self.command("look")[1]

    def cleared(self):
        """Digests of the files that were looked at and called clean."""
        return set((self.folder / "cleared").read_text().split())


if __name__ == "__main__":
    breed()
