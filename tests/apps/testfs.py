# SPDX-License-Identifier: Apache-2.0
"""A mounted filesystem whose calls can be delayed, failed and held: tests/fuse/testfs.c, from Python.

    with testfs.Filesystem() as filesystem:
        filesystem.rule("unlink", delay_ms=20)
        filesystem.rule("write", error="ENOSPC", after=100, path="/bucket.state/*")
        filesystem.rule("link", error="EIO", times=1)
        held = filesystem.rule("fsyncdir", hang=True)
        ...
        filesystem.wait_waiting("fsyncdir")
        filesystem.clear(held)

The kinds of calls are the names in tests/fuse/rules.c; `every` means each of them. Whoever hangs in a call cannot even
be killed until the rule is cleared. The kernel locks a folder while it is changed: behind a held `unlink` or `create`
waits whoever looks for a name in the same folder, the test too if it does so through the mount; `backing` is the way
beside it.
"""

import os
import pathlib
import shutil
import socket
import subprocess

import ingest
from ingest import Skip, wait_until

PROGRAM = ingest.BUILD / "tests" / "fuse" / "testfs"


def mounted_at(path):
    """What is mounted at a path, the latest last; asks nothing of the filesystem itself."""
    with open("/proc/self/mountinfo", encoding="utf-8") as mounts:
        return [line.split(" - ")[1].split()[0] for line in mounts if line.split()[4] == str(path)]


class Filesystem:
    """Mounts in a new folder; at the end everything is let go, unmounted and removed, whatever state it is in.

    With @nameless it has files without a name (O_TMPFILE), as local disks do; without, none, as NFS.
    """

    def __init__(self, backing=None, nameless=False):
        if not PROGRAM.exists():
            raise Skip("testfs is not built: libfuse 3.12 was not found")
        if not os.access("/dev/fuse", os.R_OK | os.W_OK):
            raise Skip("/dev/fuse cannot be used here")
        if not shutil.which("fusermount3", path=ingest.PATH):
            raise Skip("fusermount3 is not installed")
        self.given, self.nameless = backing, nameless
        self.process = None

    def __enter__(self):
        self.place = ingest.folder(memory=True)
        self.folder = self.place.__enter__().resolve()
        self.mount, self.socket = self.folder / "mount", self.folder / "socket"
        self.backing = pathlib.Path(self.given or self.folder / "backing")
        self.mount.mkdir()
        self.backing.mkdir(exist_ok=True)
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def start(self):
        """Its standard input is a pipe of ours, so that it ends when we do."""
        with open(self.folder / "errors", "wb") as errors:
            self.process = subprocess.Popen([PROGRAM, self.backing, self.mount, self.socket,
                                             *(["nameless"] if self.nameless else [])], stdin=subprocess.PIPE,
                                            stdout=subprocess.PIPE, stderr=errors)
        if self.process.stdout.readline() != b"mounted\n":
            why = (self.folder / "errors").read_text()[-200:].strip()
            if why.startswith(("fuse: ", "fusermount3: ")):
                raise Skip(why)
            raise AssertionError(f"testfs: {why}")

    def __exit__(self, *_):
        if self.process:
            self.end()
            self.process.stdin.close()
            self.process.stdout.close()
        if mounted_at(self.mount):
            subprocess.run(["umount", "-l", self.mount], check=False)
        self.place.__exit__(None, None, None)

    def end(self):
        """TERM; the exit status. Calls that hang fail."""
        return ingest.end_process(self.process)

    def unmount(self):
        """As an administrator would, which works when nobody uses it; it ends then. The exit status."""
        subprocess.run(["fusermount3", "-u", self.mount], check=True, timeout=20 * ingest.SCALE, capture_output=True,
                       env={**os.environ, "PATH": ingest.PATH})
        return self.process.wait(20 * ingest.SCALE)

    def command(self, line):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(20 * ingest.SCALE)
            connection.connect(str(self.socket))
            connection.sendall(line.encode() + b"\n")
            answer = b""
            while piece := connection.recv(65536):
                answer += piece
        text = answer.decode()
        if not text or text.startswith("error"):
            raise ValueError(f"{line}: {text.strip() or 'no answer'}")
        return text

    def rule(self, kind, *, delay_ms=0, error=None, hang=False, after=0, times=None, path=None):
        """Adds a rule; returns its number. Calls that it means are counted from now on."""
        words = ["rule", kind]
        words += ["hang"] if hang else []
        words += [f"delay={delay_ms}"] if delay_ms else []
        words += [f"error={error}"] if error else []
        words += [f"after={after}"] if after else []
        words += [f"times={times}"] if times is not None else []
        words += [f"path={path}"] if path else []
        return int(self.command(" ".join(words)).split()[1])

    def without(self, kind):
        """A filesystem that lacks `link` or `rename-noreplace`, as its errors say it."""
        return self.rule(kind, error={"link": "EOPNOTSUPP", "rename-noreplace": "EINVAL"}[kind])

    def clear(self, number=None):
        """Removes a rule, or all; what waits at it goes on."""
        self.command("clear" if number is None else f"clear {number}")

    def table(self):
        rows = (line.split() for line in self.command("counts").splitlines())
        return {kind: (int(made), int(waiting)) for kind, made, waiting in rows}

    def counts(self):
        """How often each kind of call was made since the mount."""
        return {kind: made for kind, (made, _) in self.table().items()}

    def waiting(self, kind):
        """How many calls of a kind are at a rule that delays or holds them."""
        return self.table()[kind][1]

    def wait_waiting(self, kind, count=1, seconds=20):
        wait_until(lambda: self.waiting(kind) >= count, seconds, f"{count} {kind} wait")
