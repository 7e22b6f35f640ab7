#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""SIGKILL in the middle of a storm of uploads, again and again: nothing is left, nothing acknowledged is lost.

EW_CRASH_ROUNDS=N kills N times instead of 20. EW_CRASH_SEED=N gives the clients the choices of an earlier run; what meets
what in the server is not decided by it.
"""

import collections
import contextlib
import ctypes
import os
import pathlib
import random
import shutil

import crash
import ingest
from ingest import Clamd, Server, check, equal, wait_until

ROUNDS = int(os.environ.get("EW_CRASH_ROUNDS", "20"))
PR_SET_CHILD_SUBREAPER = 36
KEEP_BYTES = 64 << 20
EXEC = "exec:sh -c 'if grep -aq EICAR-STANDARD; then exit 1; fi'"


def strangers(known):
    """What descends from this process, has lost its parent, and is not among the known, since this process adopts it; zombies
    are reaped on the way."""
    left = []
    for pid in ingest.children() - known:
        with contextlib.suppress(OSError):
            if os.waitpid(pid, os.WNOHANG)[0] == pid:
                continue
            left.append(pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode())
    return left


class Crashes:
    """One server on one filesystem, killed and started again.

    A clamd whose client dies just after it has passed a file may keep it open for good (1.4.6: what is received together with
    the end of the connection is forgotten and not closed), and nobody but clamd can give that space back. So what it has open
    is counted off, exactly.
    """

    def __init__(self, mount, clamd, chance, seed):
        self.mount, self.clamd, self.chance, self.seed = mount, clamd, chance, seed
        self.scanners = ["none", EXEC, *([f"clamd:{clamd.socket}"] if clamd else [])]
        self.sent, self.acknowledged = {}, {}
        self.known = ingest.children()
        self.counts = collections.Counter()
        self.server = Server("none", "--scan-limit", "4M", bucket=mount / "bucket")

    def __enter__(self):
        self.empty = crash.nameless_bytes(self.mount)
        self.server.__enter__()
        try:
            self.expect_nothing_left()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *what):
        self.server.__exit__(*what)

    def round(self, number):
        server = self.server
        with crash.Storm(server, self.seed, number) as storm:
            storm.wait(self.chance.randint(1, 40 if server.scanner == "none" else 12))
            self.counts["staged when killed"] += self.staged_now()
            server.process.kill()
            server.process.wait()
            storm.stop()
        self.counts.update(storm.ways)
        self.counts["acknowledged"] += len(storm.acknowledged)
        self.sent.update(storm.sent)
        self.acknowledged.update(storm.acknowledged)

        wait_until(lambda: not strangers(self.known), 20, f"the old server's processes have ended: {strangers(self.known)}")
        server.scanner = self.scanners[(number + 1) % len(self.scanners)]
        server.start()
        self.expect_nothing_left()
        equal(crash.faults(server.bucket, self.sent, self.acknowledged), [], f"after kill {number}")
        if sum(path.stat().st_size for path in server.bucket.iterdir()) > KEEP_BYTES:
            self.clean()

    def staged_now(self):
        """Looked at while the server runs, so that the test knows that there was something to lose."""
        with contextlib.suppress(OSError):
            return self.server.staged()
        return 0

    def expect_nothing_left(self):
        self.server.wait_idle()
        equal(sorted(path.name for path in self.server.state.iterdir()), ["leases", "lock"], "the state folder")
        wait_until(lambda: len(list((self.server.state / "leases").iterdir())) == 1, 20, "the dead server's lease has gone")
        crash.expect_no_space_lost(self.mount, self.empty, holder=self.clamd and self.clamd.process.pid)

    def clean(self):
        for path in self.server.bucket.iterdir():
            path.unlink()
        self.sent, self.acknowledged = {}, {}


def kill_again_and_again(mount, rounds):
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    with contextlib.ExitStack() as stack:
        clamd = stack.enter_context(Clamd()) if shutil.which("clamd", path=ingest.PATH) else None
        seed = stack.enter_context(ingest.seeded("EW_CRASH_SEED"))
        crashes = stack.enter_context(Crashes(mount, clamd, random.Random(seed), seed))
        for number in range(rounds):
            crashes.round(number)
        print(f"{rounds} kills: {dict(crashes.counts)}")
        check(crashes.counts["staged when killed"] > 0, "uploads were in flight when the server was killed")


def test_killed_under_load_keeps_what_it_acknowledged_on_ext4():
    with crash.workplace() as place:
        crash.make_image("ext4", place / "image")
        with crash.mounted_image("ext4", place / "image", place / "mount") as mount:
            kill_again_and_again(mount, (ROUNDS + 1) // 2)


def test_killed_under_load_keeps_what_it_acknowledged_on_tmpfs():
    with crash.workplace() as place:
        with crash.mounted("size=256m", "none", place / "mount", kind="tmpfs") as mount:
            kill_again_and_again(mount, max(1, ROUNDS // 2))


def test_probe_of_a_killed_start_is_removed_by_the_next():
    """A start that is killed between link and unlink of its probe leaves that name; here it is made by hand."""
    with Server() as server:
        (lease,) = (server.state / "leases").iterdir()
        server.process.kill()
        server.process.wait()
        (server.bucket / f".ew-ingest-probe-{lease.name}").write_bytes(b"\0")
        server.start()
        wait_until(lambda: server.published() == [], 20, "the probe has gone")
        wait_until(lambda: not lease.exists(), 20, "and the lease")


def test_check_after_a_kill_sees_what_is_wrong():
    """The checks of this file, on a server that is well and then is not."""
    with crash.workplace() as place, \
            crash.mounted("size=64m", "none", place / "mount", kind="tmpfs") as mount, \
            Server("none", bucket=mount / "bucket") as server:
        with crash.Storm(server, 1, "x", clients=4) as storm:
            storm.wait(20)
        server.wait_idle()
        bucket, sent, acknowledged = server.bucket, storm.sent, storm.acknowledged
        equal(crash.faults(bucket, sent, acknowledged), [])

        name = max(acknowledged, key=lambda name: (bucket / name).stat().st_size)
        body = (bucket / name).read_bytes()
        (bucket / name).write_bytes(body[:-1])
        equal(crash.faults(bucket, sent, acknowledged), [f"torn: {name}"])
        unknown = {other: digest for other, digest in acknowledged.items() if other != name}
        equal(crash.faults(bucket, sent, unknown), [f"half there: {name}"])
        (bucket / name).unlink()
        equal(crash.faults(bucket, sent, acknowledged), [f"lost: {name}"])
        (bucket / name).write_bytes(body)
        (bucket / "foreign").write_bytes(b"")
        equal(crash.faults(bucket, sent, acknowledged), ["half there: foreign"])
        (bucket / "foreign").unlink()

        before = crash.nameless_bytes(mount)
        connection = server.connect()
        connection.sendall(ingest.head("f", 100_000) + bytes(50_000))
        wait_until(lambda: crash.nameless_bytes(mount) >= before + 4096, 20, "a staged file is seen")
        ingest.reset(connection)
        wait_until(lambda: crash.nameless_bytes(mount) == before, 20, "and that it has gone")


if __name__ == "__main__":
    ingest.main(180 + 10 * ROUNDS)
