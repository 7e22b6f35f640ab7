#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""SIGKILL in the middle of a storm of uploads, again and again: nothing is left, nothing acknowledged is lost.

EW_CRASH_ROUNDS=N kills N times instead of 20. EW_CRASH_SEED=N gives the clients the choices of an earlier run; what meets
what in the server is not decided by it.
"""

import contextlib
import os
import random
import shutil

import crash
import ingest
from ingest import Clamd, Server, check, equal, wait_until

ROUNDS = int(os.environ.get("EW_CRASH_ROUNDS", "20"))


def kill_again_and_again(mount, rounds):
    crash.adopt_orphans()
    with contextlib.ExitStack() as stack:
        clamd = stack.enter_context(Clamd()) if shutil.which("clamd", path=ingest.PATH) else None
        seed = stack.enter_context(ingest.seeded("EW_CRASH_SEED"))
        crashes = stack.enter_context(crash.Crashes(mount, clamd, random.Random(seed), seed))
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
