#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The power is cut: what was acknowledged before is there afterwards, whole, and nothing is there by half.

The bucket is on an image, mounted through a loop device. A cut is a copy of that image, made while it is mounted and
written to (crash.Machine); mounting the copy recovers its journal, as after a power cut. The acknowledgements are counted
before the clone begins, so that each of them had to be on the device by then.

What a cut takes away is all that the filesystem had not yet handed to its device: bytes and names that nobody synced. A
device that forgets writes which were not flushed is not played: flushing is the filesystem's part of a sync.

EW_POWERCUTS=N makes N cuts under load on each filesystem. EW_CRASH_SEED=N gives the clients the choices of an earlier run,
and cuts after as many acknowledgements.
"""

import os
import random
import stat
import time

import crash
import ingest
from ingest import Server, check, equal

CUTS = int(os.environ.get("EW_POWERCUTS", "6"))
CUTS_OF_ONE_MACHINE = 6
ATTEMPTS_SECONDS = 60


class Machine(crash.Machine):
    """It has a bucket."""

    @property
    def bucket(self):
        return self.mount / "bucket"

    def faults(self, copy, sent, acknowledged):
        with self.power_on(copy) as mount:
            return crash.faults(mount / "bucket", sent, acknowledged)

    def expect_well(self, copy, sent, acknowledged):
        """Everything acknowledged is there, nothing by half, no space is lost, and a server goes on with it."""
        with self.power_on(copy) as mount:
            bucket = mount / "bucket"
            equal(crash.faults(bucket, sent, acknowledged), [], copy.name)
            for name in acknowledged:
                equal(stat.S_IMODE((bucket / name).stat().st_mode), 0o640, f"mode of {name}")
            there = len(list(bucket.iterdir()))
            self.expect_no_space_lost(mount, there)
            with Server(bucket=bucket) as server:
                equal(server.put("after-the-cut", b"x").status, 201)
                equal(len(server.published()), there + 1, "names after the next start")
            return there


def cut_under_load(kind, seed, label, count):
    chance = random.Random(f"{seed} {label} cuts")
    with Machine(kind) as machine:
        with Server(bucket=machine.bucket) as server, crash.Storm(server, seed, label) as storm:
            cuts = []
            for _ in range(count):
                storm.wait(chance.randint(1, 100))
                staged = server.staged()
                acknowledged = storm.acknowledged_now()
                cuts.append((machine.cut(), acknowledged, staged))
            storm.stop()
        for copy, acknowledged, staged in cuts:
            there = machine.expect_well(copy, storm.sent, acknowledged)
            print(f"{kind}, {copy.name}: {len(acknowledged)} acknowledged, {there} there, {staged} were staged")
    return sum(staged for _, _, staged in cuts)


def cut_again_and_again(kind):
    staged = 0
    with ingest.seeded("EW_CRASH_SEED") as seed:
        for first in range(0, CUTS, CUTS_OF_ONE_MACHINE):
            staged += cut_under_load(kind, seed, f"{kind}-{first}", min(CUTS_OF_ONE_MACHINE, CUTS - first))
        check(staged > 0, "uploads were in flight at a cut")


def test_power_cut_under_load_keeps_what_was_acknowledged_on_ext4():
    cut_again_and_again("ext4")


def test_power_cut_under_load_keeps_what_was_acknowledged_on_xfs():
    cut_again_and_again("xfs")


class OneByOne:
    """Uploads with a cut after each, by a server that may have a bug.

    Alone, because a sync for one upload also makes durable what others did before it: the journal, or the log, is written as
    a whole. So a name that nobody synced is lost only if no later upload came.
    """

    def __init__(self, machine, bug):
        if not ingest.SERVER_WITH_HOOKS.exists():
            raise ingest.Skip("built without tests")
        self.machine, self.sent, self.acknowledged = machine, {}, {}
        self.server = Server(bucket=machine.bucket, binary=ingest.SERVER_WITH_HOOKS,
                             environment={"EW_SEED_BUG": bug} if bug else {})

    def __enter__(self):
        self.server.__enter__()
        return self

    def __exit__(self, *what):
        self.server.__exit__(*what)

    def upload_and_cut(self):
        """The copy, and the name of the upload that was acknowledged last before it."""
        name = f"f{len(self.sent)}"
        answer = self.server.put(name, os.urandom(5000))
        equal(answer.status, 201)
        self.sent[name] = {answer.json["sha256"]}
        self.acknowledged[name] = answer.json["sha256"]
        return self.machine.cut(), name


def keep_each(kind):
    with Machine(kind) as machine, OneByOne(machine, None) as uploads:
        for _ in range(5):
            copy, _ = uploads.upload_and_cut()
            machine.expect_well(copy, uploads.sent, uploads.acknowledged)


def test_power_cut_after_each_upload_keeps_it_on_ext4():
    keep_each("ext4")


def test_power_cut_after_each_upload_keeps_it_on_xfs():
    keep_each("xfs")


def find(kind, bug, expected):
    """With the bug in the server, a cut shows what is expected.

    Somebody else's sync(2), or the kernel's own writing back after half a minute, may come between upload and cut and
    hide it; then the next upload shows it.
    """
    end = time.monotonic() + ATTEMPTS_SECONDS * ingest.SCALE
    with Machine(kind) as machine, OneByOne(machine, bug) as uploads:
        seen = None
        while time.monotonic() < end:
            copy, name = uploads.upload_and_cut()
            seen = expected(machine, copy, uploads, name)
            if seen is None:
                return
    raise AssertionError(f"the check does not find {bug}: {seen}")


def expect_torn(machine, copy, uploads, name):
    """The name is there and its bytes are not, and that is a fault whether it was acknowledged or not."""
    with machine.power_on(copy) as mount:
        bucket = mount / "bucket"
        acknowledged = crash.faults(bucket, uploads.sent, uploads.acknowledged)
        unknown = crash.faults(bucket, uploads.sent, {})
    is_seen = f"torn: {name}" in acknowledged and f"half there: {name}" in unknown
    return None if is_seen else f"{acknowledged}, {unknown}"


def expect_lost(machine, copy, uploads, name):
    seen = machine.faults(copy, uploads.sent, uploads.acknowledged)
    return None if f"lost: {name}" in seen else seen


def test_power_cut_finds_a_forgotten_file_sync_on_ext4():
    find("ext4", "no-file-sync", expect_torn)


def test_power_cut_finds_a_forgotten_file_sync_on_xfs():
    find("xfs", "no-file-sync", expect_torn)


def test_power_cut_finds_a_forgotten_directory_sync_on_ext4():
    find("ext4", "no-directory-sync", expect_lost)


def test_power_cut_finds_a_forgotten_directory_sync_on_xfs():
    find("xfs", "no-directory-sync", expect_lost)


if __name__ == "__main__":
    ingest.main(180 + 10 * CUTS)
