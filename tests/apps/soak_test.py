#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A long load of all kinds of uploads, with everything going wrong by chance; in the end everything is as it was.

Side by side, each in a process of its own: a server that is never restarted, on a filesystem whose calls fail, are late and
hang, and that runs full, with a clamd that is killed and stopped; and two that are killed and restarted all the time, on ext4
and on a filesystem without nameless files.

EW_SOAK_SECONDS=N takes N seconds instead of 20. EW_SOAK_SEED=N chooses the same again; what meets what is not decided by it.
`soak_test.py arena NAME SEED SECONDS` runs one alone.
"""

import collections
import contextlib
import os
import random
import shutil
import subprocess
import sys
import time

import arenas
import crash
import ingest
import malformed_test
import testfs
from fakeclamd import FakeClamd
from ingest import Baseline, Server, Successors, check, equal, wait_until
from watch import Watch

SECONDS = int(os.environ.get("EW_SOAK_SECONDS", "20"))
UPLOAD_SLOTS = 64
# The server remembers twice as many uploads as it has slots, and 1,024 at least; from then on it should not grow.
WARM_UPLOADS = 1100
# Beside what the allocator's luck is.
GROWTH_MOST_KIB = 1024
KINDS_AND_ERRORS = [(kind, error) for kind, errors in {
    "statfs": ["EIO"], "tmpfile": ["EIO", "ENOSPC"], "create": ["EIO", "ENOSPC"], "write": ["EIO", "ENOSPC", "EDQUOT"],
    "open": ["EIO"], "chmod": ["EIO"], "fsync": ["EIO", "ENOSPC"], "link": ["EIO", "ENOSPC", "EDQUOT"], "truncate": ["EIO"],
    "utimes": ["EIO"]}.items() for error in errors]
# After these a volume is not believed any more, or a name stays until it can be removed.
WORSE = [("fsyncdir", "EIO"), ("unlink", "EIO"), ("unlink", "EBUSY"), ("rename", "EIO")]


# Whole uploads with something malformed behind them.
UPLOADS = ("body-longer-than-declared", "data-behind-the-last-chunk")


def malformed():
    """Requests of the table that hold no upload that would be right."""
    return [data for outcome, name, data in malformed_test.table()
            if outcome.isdigit() and data.count(b"HTTP/1.") == 1 and name not in UPLOADS]


class Load(crash.Storm):
    """Uploads of all kinds; what the troubles make of them is one of these problems."""

    WAYS = {"plain": 40, "slow": 8, "chunked": 16, "cut": 12, "left": 12, "malformed": 12}
    SIZES = (((0, 0), 5), ((1, 4096), 47), ((4097, 100_000), 36), ((100_001, 1_000_000), 11), ((1_000_001, 8_000_000), 1))
    INFECTED = 0.1
    PROBLEMS = ("scanner-unavailable", "busy", "no-space", "storage")
    MALFORMED = malformed()

    def upload(self, chance, way, name, body):
        if way != "malformed":
            super().upload(chance, way, name, body)
            return
        with self.news:
            self.ways[way] += 1
        received = malformed_test.exchange(self.server, chance.choice(self.MALFORMED), False)
        statuses = malformed_test.statuses(received or b"")
        if any(status < 400 for status in statuses):
            self.note_wrong(f"malformed, and {statuses}")

    def is_expected(self, name, answer):
        return super().is_expected(name, answer) or \
            answer.status >= 500 and answer.json["type"].rsplit(":", 1)[1] in self.PROBLEMS


def crowd(port, count):
    """Run in a process of its own, to be killed: opens that many uploads, says so, and waits."""
    import socket  # pylint: disable=import-outside-toplevel

    connections = []
    for number in range(count):
        connection = socket.create_connection(("127.0.0.1", port), timeout=60)
        connection.sendall(ingest.head(f"crowd{number}", 100_000) + os.urandom(60_000))
        connections.append(connection)
    print("all", flush=True)
    time.sleep(600)


def figures(server):
    """What must not grow, of a server that is idle."""
    values = server.metrics()
    with open(f"/proc/{server.process.pid}/status", encoding="utf-8") as status:
        lines = dict(line.split(":", 1) for line in status)
    return {
        "resident size, KiB": int(lines["VmRSS"].split()[0]),
        "descriptors": server.quiet_descriptors(),
        "child processes": len(ingest.children(server.process.pid)),
        "upload slots free": int(values['ingest_upload_slots{state="free"}']),
        "scan slots free": int(values['ingest_scan_slots{state="free"}']),
        "reserved bytes": int(values["ingest_disk_reserved_bytes"]),
        "staged files": server.staged(),
        "free bytes of the volume": server.free_bytes(),
    }


def forget_log(server):
    """An hour's log is too large to read in the end. What it reports is an error now."""
    reports = [line for line in server.log().splitlines() if server.is_report(line)]
    equal(reports[:3], [], "reports of the server")
    os.truncate(server.log_path, 0)


def chapter_seconds(seconds):
    return min(20, max(2, seconds / 8))


class Steady:
    """The server that lives all the time."""

    TROUBLES = {"is_left_alone": 10, "loses_a_crowd": 15, "has_its_scanner_killed": 8, "has_its_scanner_stopped": 15,
                "has_its_scanner_restarted": 8, "has_a_filesystem_that_fails": 25, "has_a_filesystem_that_is_slow": 12,
                "has_a_filesystem_that_hangs": 8, "has_a_full_disk": 10}

    def __init__(self, seed, seconds, place):
        self.seed, self.place = seed, place
        self.end, self.chapter = time.monotonic() + seconds, chapter_seconds(seconds)
        self.chance = random.Random(f"{seed} steady")
        self.counts = collections.Counter()
        self.rows = []

    @contextlib.contextmanager
    def scanner(self):
        with Successors() if shutil.which("clamd", path=ingest.PATH) else FakeClamd() as clamd:
            yield clamd

    def run(self):
        with contextlib.ExitStack() as stack:
            self.backing = stack.enter_context(volume(self.place, 256))
            self.filesystem = stack.enter_context(testfs.Filesystem(self.backing, nameless=True))
            self.clamd = stack.enter_context(self.scanner())
            (self.filesystem.mount / "bucket").mkdir()
            self.server = stack.enter_context(Server(f"clamd:{self.clamd.socket}", "--scan-limit", "16M", "--upload-slots",
                                                     UPLOAD_SLOTS, bucket=self.filesystem.mount / "bucket", disk_is_bad=True))
            stack.callback(self.filesystem.clear)
            baseline = Baseline(self.server)
            self.watch = stack.enter_context(Watch(self.server))
            self.warm_up()
            while time.monotonic() < self.end or len(self.rows) < 2:
                self.one_chapter(len(self.rows))
                self.watch.expect_well()
            baseline.restored(slack_bytes=0 if ingest.IS_ROOT else 1 << 20)
            self.counts["looks"] = self.watch.looks
        return {"counts": self.counts, "rows": self.rows}

    def warm_up(self):
        """Whatever is made once, or as often as it is needed at the same time, is made."""
        body = os.urandom(60_000)
        while self.server.entered("RECEIVING") < WARM_UPLOADS:
            connections = [self.server.connect() for _ in range(UPLOAD_SLOTS)]
            for number, connection in enumerate(connections):
                connection.sendall(ingest.head(f"warm-{number}", 100_000) + body)
            wait_until(lambda: self.server.slots("upload", "held") == UPLOAD_SLOTS, 20, "all slots are taken")
            for connection in connections:
                ingest.reset(connection)
            self.server.wait_idle()

    def one_chapter(self, number):
        end = time.monotonic() + self.chapter
        with Load(self.server, self.seed, f"steady-{number}", clients=8) as storm:
            while time.monotonic() < end:
                trouble = self.chance.choices(list(self.TROUBLES), list(self.TROUBLES.values()))[0]
                self.counts[trouble] += 1
                getattr(self, trouble)()
            self.heal()
            storm.stop()
        for status, count in storm.statuses.items():
            self.counts[str(status)] += count
        self.counts.update(storm.ways)
        self.server.wait_idle(60)
        equal(crash.faults(self.server.bucket, storm.sent, storm.acknowledged), [], f"after chapter {number}")
        for path in self.server.bucket.iterdir():
            path.unlink()
        forget_log(self.server)
        with self.watch.resting():
            self.rows.append(figures(self.server))

    def pause(self, most=0.5):
        time.sleep(self.chance.uniform(0.05, most))

    def heal(self):
        self.filesystem.clear()
        self.clamd.restart()
        wait_until(self.server.is_ready, 30, f"ready: {self.server.request('GET', '/readyz').body}")

    def is_left_alone(self):
        self.pause()

    def loses_a_crowd(self):
        count = self.chance.randint(1, UPLOAD_SLOTS)
        with subprocess.Popen([sys.executable, __file__, "crowd", str(self.server.port), str(count)],
                              stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            process.kill()

    def has_its_scanner_killed(self):
        self.clamd.kill()
        self.pause()
        self.clamd.start()

    def has_its_scanner_stopped(self):
        self.clamd.stop_answering()
        self.pause()
        self.clamd.go_on()

    def has_its_scanner_restarted(self):
        self.clamd.restart()

    def has_a_filesystem_that_fails(self):
        for _ in range(self.chance.randint(1, 3)):
            kind, error = self.chance.choice(KINDS_AND_ERRORS)
            self.filesystem.rule(kind, error=error, after=self.chance.randint(0, 5), times=self.chance.randint(1, 20))
        self.pause()
        self.filesystem.clear()

    def has_a_filesystem_that_is_slow(self):
        kind, _ = self.chance.choice(KINDS_AND_ERRORS)
        self.filesystem.rule(kind, delay_ms=self.chance.randint(1, 50))
        self.pause(1)
        self.filesystem.clear()

    def has_a_filesystem_that_hangs(self):
        kind, _ = self.chance.choice(KINDS_AND_ERRORS)
        self.filesystem.rule(kind, hang=True)
        self.pause()
        self.filesystem.clear()

    def has_a_full_disk(self):
        """Something else has taken what there was. Without a volume of its own the filesystem says so."""
        if not ingest.IS_ROOT:
            self.filesystem.rule("write", error="ENOSPC")
            self.pause()
            self.filesystem.clear()
            return
        filler = self.backing / "filler"
        status = os.statvfs(self.backing)
        take = status.f_bavail * status.f_frsize - self.chance.randint(0, 16 << 20)
        with contextlib.suppress(OSError), open(filler, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(take, 1))
        self.pause()
        filler.unlink()


class Mortal(crash.Crashes):
    """A server that is killed, drained and cut, and started again; what is left is looked for each time."""

    KEEP_BYTES = 24 << 20
    WAYS_TO_END = {"killed": 60, "drained": 25, "forced": 15}

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.server.arguments = ["--scan-limit", "16M", "--grace", "1"]

    def storm(self, number):
        storm = Load(self.server, self.seed, number, clients=8)
        if self.server.scanner == "none":
            storm.INFECTED = 0
        storm.PROBLEMS += ("shutting-down",)
        return storm

    def meanwhile(self, storm):
        time.sleep(self.chance.uniform(0.1, 1))

    def end(self, storm):
        """As it comes; it may be in the middle of whatever."""
        way = self.chance.choices(list(self.WAYS_TO_END), list(self.WAYS_TO_END.values()))[0]
        self.counts[way] += 1
        process = self.server.process
        if way == "killed":
            super().end(storm)
            return
        process.terminate()
        if way == "forced":
            time.sleep(self.chance.uniform(0, 0.3))
            process.terminate()
        status = process.wait(60 * ingest.SCALE)
        check(status in (0, 3, 4), f"{way}: exit status {status}: {self.server.log()[-500:]}")
        self.expect_clean_end(way)

    def expect_clean_end(self, way):
        equal(self.in_state(), ["lock"], f"{way}: left in the state folder")

    def run(self, seconds):
        end = time.monotonic() + seconds
        number = 0
        while time.monotonic() < end or number < 2:
            self.round(number)
            forget_log(self.server)
            number += 1
        self.clean()
        self.counts["rounds"] = number
        return {"counts": self.counts}


class MortalWithFaults(Mortal):
    """On a filesystem that fails too, also at what a server cannot go on after."""

    def __init__(self, filesystem, *arguments):
        super().__init__(filesystem.mount, *arguments)
        self.filesystem = filesystem
        self.server.disk_is_bad = True
        self.server.expected = ("failed on the way out",)

    def storm(self, number):
        storm = super().storm(number)
        storm.PROBLEMS += ("durability-unknown",)
        return storm

    def meanwhile(self, storm):
        super().meanwhile(storm)
        for _ in range(self.chance.randint(0, 3)):
            kind, error = self.chance.choice(KINDS_AND_ERRORS + WORSE)
            self.filesystem.rule(kind, error=error, times=self.chance.randint(1, 20))
        super().meanwhile(storm)

    def end(self, storm):
        if self.chance.random() < 0.5:
            self.filesystem.clear()
        super().end(storm)
        self.filesystem.clear()

    def expect_clean_end(self, way):
        """What could not be removed is left to the next start, with its lease."""
        left = self.in_state()
        leases = {name for name in left if "-" not in name and name != "lock"}
        check(len(leases) <= 1 and all(name[:32] in leases for name in left if name != "lock"), f"{way}: {left}")


@contextlib.contextmanager
def volume(place, megabytes):
    """A folder on a volume of its own where that can be made."""
    if not ingest.IS_ROOT:
        (place / "volume").mkdir()
        yield place / "volume"
        return
    with crash.mounted(f"size={megabytes}m,mode=755", "none", place / "volume", kind="tmpfs") as mount:
        yield mount


def run_steady(seed, seconds):
    with ingest.folder() as place:
        return Steady(seed, seconds, place).run()


def run_mortal_on_ext4(seed, seconds):
    with crash.workplace() as place:
        crash.make_image("ext4", place / "image")
        with crash.mounted_image("ext4", place / "image", place / "mount") as mount:
            return run_mortal(Mortal, mount, seed, seconds, "ext4")


def run_mortal_on_testfs(seed, seconds):
    with crash.workplace() as place, volume(place, 256) as backing, testfs.Filesystem(backing) as filesystem:
        return run_mortal(MortalWithFaults, filesystem, seed, seconds, "testfs")


def run_mortal(kind, where, seed, seconds, label):
    crash.adopt_orphans()
    with contextlib.ExitStack() as stack:
        has_clamd = shutil.which("clamd", path=ingest.PATH)
        clamd = stack.enter_context(ingest.Clamd()) if has_clamd else None
        return stack.enter_context(kind(where, clamd, random.Random(f"{seed} {label}"), seed)).run(seconds)


ARENAS = {"steady": run_steady, "mortal-ext4": run_mortal_on_ext4, "mortal-testfs": run_mortal_on_testfs}


def run_arena(name, seed, seconds):
    return ARENAS[name](int(seed), float(seconds))


def print_table(rows):
    """Not each chapter of an hour."""
    chosen = sorted({len(rows) * part // 8 for part in range(8)} | {len(rows) - 1})
    print(f"{'after chapter':26}" + "".join(f"{number + 1:>13}" for number in chosen))
    for what in rows[0]:
        print(f"{what:26}" + "".join(f"{rows[number][what]:>13,}" for number in chosen))


def expect_flat(rows):
    warm, end = rows[0], rows[-1]
    for what, before in warm.items():
        if what == "resident size, KiB":
            # What is freed under a sanitizer stays for a while, to be watched.
            check(ingest.SANITIZED or end[what] <= before + GROWTH_MOST_KIB, f"{what}: {before}, and {end[what]} in the end")
        elif what != "free bytes of the volume" or ingest.IS_ROOT:
            equal(end[what], before, what)


def test_soak():
    with ingest.seeded("EW_SOAK_SEED") as seed:
        names = [name for name in ARENAS if ingest.IS_ROOT or name == "steady"]
        reports = arenas.run(__file__, {name: (seed, SECONDS) for name in names}, SECONDS + 300)
        for name, report in reports.items():
            print(f"{name}: {report['counts']}")
        print_table(reports["steady"]["rows"])
        expect_flat(reports["steady"]["rows"])


if __name__ == "__main__":
    if sys.argv[1:2] == ["crowd"]:
        crowd(int(sys.argv[2]), int(sys.argv[3]))
    arenas.main(run_arena)
    ingest.main(SECONDS + 600)
