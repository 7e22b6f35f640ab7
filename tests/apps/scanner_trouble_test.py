#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A thousand troubles with the scanner under load: killed, hung, lying, slow, restarted in the middle, chosen by chance.

Several servers get their share at the same time, each in a process of its own ("arena"), since most of a trouble is waiting:
with a clamd that lies on demand, with the real one, and with a program. A look is taken at the server all the time.

EW_SCANNER_TROUBLES=N makes N troubles. EW_SCANNER_SEED=N chooses the same again; what meets what is not decided by it.
`scanner_trouble_test.py arena NAME SEED COUNT` runs one arena.
"""

import collections
import contextlib
import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import time

import arenas
import crash
import ingest
from fakeclamd import FakeClamd
from ingest import Baseline, Server, Successors, check, equal, wait_until
from watch import Watch

TROUBLES = int(os.environ.get("EW_SCANNER_TROUBLES", "1000"))
PNG = b"\x89PNG\r\n\x1a\n"
LIMIT = "256K"


class Uploads(crash.Storm):
    """Some are infected, some leave while they are scanned; nobody's scanner is there all the time."""

    WAYS = {"plain": 60, "chunked": 10, "cut": 8, "left": 22}
    SIZES = (((0, 4096), 80), ((4097, 60_000), 20))
    INFECTED = 0.3
    REFUSALS = (503,)

    def choose(self, chance, index, number):
        way, name, body = super().choose(chance, index, number)
        return way, name, body if name.startswith("eicar-") else PNG + body


def within(condition, seconds=2):
    """Whether it came true in time; here a trouble need not."""
    with contextlib.suppress(AssertionError):
        return bool(wait_until(condition, seconds, ""))
    return False


class Arena:
    """A server, its scanner, the load, and the troubles: methods with a weight in TROUBLES."""

    TROUBLES = {}
    CLIENTS = 6
    REFUSALS = (503,)

    def __init__(self, place, seed, name):
        self.place, self.seed, self.name = place, seed, name
        self.chance = random.Random(f"{seed} {name} troubles")
        self.numbers = itertools.count()
        self.met, self.made = collections.Counter(), collections.Counter()

    def run(self, scanner, count):
        with Server(scanner, "--scan-slots", "4", "--scan-limit", LIMIT, "--upload-slots", "64",
                    bucket=self.place / "bucket") as self.server:
            baseline = Baseline(self.server)
            self.storm = Uploads(self.server, self.seed, self.name, self.CLIENTS)
            self.storm.REFUSALS = self.REFUSALS
            with Watch(self.server, self.look) as self.watch, self.storm:
                self.storm.wait(10)
                for number in range(count):
                    self.trouble(number)
                self.heal()
                self.storm.wait(10)
            self.expect_well(baseline)

    def trouble(self, number):
        name = self.chance.choices(list(self.TROUBLES), list(self.TROUBLES.values()))[0]
        try:
            self.made[name] += 1
            self.met[name] += bool(getattr(self, name)())
            self.watch.expect_well()
            check(not self.storm.wrong, self.storm.wrong[:3])
        except AssertionError as error:
            raise AssertionError(f"{self.name}, trouble {number}, {name}: {error}") from error

    def look(self):
        """At every moment: nothing that is infected has a name, and whatever has one was sent under it."""
        for name in self.server.published():
            check(not name.startswith("eicar-"), f"{name} is published")
            check(name in self.storm.sent, f"{name} was never sent whole")

    def put(self):
        """An upload of our own, clean, beside the storm."""
        name, body = f"own-{next(self.numbers)}", PNG + self.chance.randbytes(16)
        self.storm.sent[name] = {hashlib.sha256(body).hexdigest()}
        return self.server.put(name, body)

    def expect_well(self, baseline):
        server = self.server
        equal(crash.faults(server.bucket, self.storm.sent, self.storm.acknowledged), [])
        self.expect_scanned()
        check(self.storm.statuses[201] > 0 and self.storm.statuses[422] > 0, self.storm.statuses)
        for path in server.bucket.iterdir():
            path.unlink()
        baseline.restored(slack_bytes=0 if ingest.IS_ROOT else 1 << 20)
        wait_until(lambda: not ingest.children(server.process.pid), 20, "no child is left")
        equal(server.slots("scan", "presumed"), 0)

    def expect_scanned(self):
        """Where it can be told."""

    def goes_on(self):
        """Whether uploads are scanned again."""
        before = self.scanned()
        return within(lambda: self.scanned() > before + 1, 5)

    def scanned(self):
        values = self.server.metrics()
        return values['ingest_scans_total{result="clean"}'] + values['ingest_scans_total{result="infected"}']

    def is_red(self, word=""):
        well, reason = self.server.check("scanner")
        return not well and word in reason

    def wait_red(self, word=""):
        wait_until(lambda: self.is_red(word), 30, f"red because of {word}: {self.server.check('scanner')}")

    def wait_green(self):
        wait_until(lambda: self.server.check("scanner")[0], 30, f"green: {self.server.check('scanner')}")

    def is_settled(self):
        """No upload is on its way from its verdict to its name."""
        values = self.server.metrics()
        inside = {state: values[f'ingest_uploads{{state="{state}"}}'] for state in ("SCANNING", "VERDICT", "PUBLISHING")}
        busy = values['ingest_scan_slots{state="held"}'] + values["ingest_scans_waiting"]
        return inside["VERDICT"] == inside["PUBLISHING"] == 0 and inside["SCANNING"] <= busy

    def expect_nothing_new(self):
        """While nobody is there to scan."""
        for _ in range(5):
            wait_until(self.is_settled, 20, "settled")
        before = self.server.published()
        for _ in range(3):
            self.put().problem(503, "scanner-unavailable")
        equal(self.server.published(), before, "nothing new while no scanner is there")


class WithClamd(Arena):
    """What can be done to the real one and to the other: `self.clamd` has restart(), kill(), start()."""

    def restarts(self):
        self.clamd.restart()
        return self.goes_on()

    def is_dead(self):
        self.clamd.kill()
        self.wait_red()
        self.expect_nothing_new()
        self.clamd.start()
        self.wait_green()
        return True

    def stops(self):
        self.clamd.stop_answering()
        is_met = within(lambda: self.server.slots("scan", "held") > 0)
        time.sleep(self.chance.uniform(0, 0.1))
        self.clamd.go_on()
        return is_met and self.goes_on()

    def is_killed_while_stopped(self):
        self.clamd.stop_answering()
        is_met = within(lambda: self.server.slots("scan", "held") > 0)
        self.clamd.restart()
        return is_met and self.goes_on()

    def heal(self):
        self.clamd.restart()
        self.wait_green()


class WithLiar(WithClamd):
    """The clamd that lies. Whatever is published was honestly called clean."""

    LIES = ("garbage", "cut", "closes", "leaves", "found", "slow", "trickle")
    REFUSALS = (503, 422)  # 422 for a clean one, too: "found"
    TROUBLES = {"lies": 50, "hangs": 10, "is_killed_while_it_hangs": 4, "has_other_signatures": 6, "forgets_its_version": 6,
                "restarts": 12, "stops": 6, "is_killed_while_stopped": 3, "returns_as_a_liar": 1.5, "goes_blind_with_a_sign": 1,
                "is_dead": 1.5}

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.versions = 0

    def start(self, count):
        with FakeClamd() as self.clamd:
            self.run(f"clamd:{self.clamd.socket}", count)

    def lies(self):
        self.clamd.next(self.chance.choice(self.LIES), self.chance.randint(1, 4))
        return within(lambda: self.clamd.planned() == 0)

    def hangs(self):
        self.clamd.next(self.chance.choice(("hangs", "stays")), self.chance.randint(1, 4))
        is_met = within(lambda: self.clamd.hanging() > 0)
        time.sleep(self.chance.uniform(0, 0.05))
        self.clamd.next("honest", 0)
        self.clamd.release()
        return is_met

    def is_killed_while_it_hangs(self):
        self.clamd.next("hangs", self.chance.randint(1, 4))
        is_met = within(lambda: self.clamd.hanging() > 0)
        self.clamd.restart()
        return is_met and self.goes_on()

    def next_version(self):
        self.versions += 1
        return f"ClamAV 1.4.6/{28000 + self.versions}/Mon Nov 23 08:00:00 2026"

    def has_other_signatures(self):
        version = self.next_version()
        self.clamd.set_version(version)
        self.wait_green()
        return within(lambda: self.engine_of_an_upload() == version)

    def engine_of_an_upload(self):
        return self.put().json.get("engine")

    def forgets_its_version(self):
        self.clamd.bad_versions(1)
        return within(lambda: self.clamd.planned() == 0)

    def returns_as_a_liar(self):
        """The old one lives on beside it for a while, so that no lost connection gives it away."""
        lie = self.chance.choice(("clean", "clean", "clean", "garbage", "cut", "closes", "leaves"))
        self.clamd.start(lie)
        self.wait_red("EICAR test file clean" if lie == "clean" else "fails to scan a test file")
        self.expect_nothing_new()
        self.heal()
        return True

    def goes_blind_with_a_sign(self):
        """It is told to be blind when nobody is asked any more: an upload between its version and its file would be lost."""
        self.clamd.always("garbage")
        self.clamd.set_version(self.next_version())
        self.wait_red()
        self.clamd.always("clean")
        self.wait_red("EICAR test file clean")
        self.clamd.always("honest")
        self.wait_green()
        return True

    def expect_scanned(self):
        cleared = self.clamd.cleared()
        for path in self.server.bucket.iterdir():
            check(hashlib.sha256(path.read_bytes()).hexdigest() in cleared, f"{path.name} was published and not scanned")


class WithRealClamd(WithClamd):
    TROUBLES = {"stops": 60, "restarts": 14, "is_killed_while_stopped": 8, "reloads": 10, "is_dead": 4, "returns_blind": 4}

    def start(self, count):
        with Successors() as self.clamd:
            self.run(f"clamd:{self.clamd.socket}", count)

    def reloads(self):
        return self.clamd.current.command(b"zRELOAD\0").startswith(b"RELOADING")

    def returns_blind(self):
        """It is silent about its limits, and below them lies every file."""
        self.clamd.restart(["AlertExceedsMax no", "MaxFileSize 60"])
        self.wait_red("clean")
        self.expect_nothing_new()
        self.heal()
        return True


class WithProgram(Arena):
    """A program; what it does is written in a file that it reads."""

    CLIENTS = 4
    TROUBLES = {"fails": 12, "is_killed": 12, "hangs": 12, "loses_its_supervisor": 8, "leaves_a_grandchild": 14,
                "leaves_a_stubborn_one": 2, "is_loud": 14, "is_slow": 12, "does_not_read": 12, "goes_blind": 2}

    PROGRAM = """#!/bin/sh
read mode <{control}/mode
# What the server tests with has one of these sizes.
case $mode,$(stat -Lc %s /dev/stdin) in
honest,*) ;;
test-*) mode=${{mode#test-}} ;;
*,68 | *,262144) mode=honest ;;
*) echo $mode >>{control}/met ;;
esac
case $mode in
fails) echo no database >&2; exit 2 ;;
killed) kill -9 $$ ;;
hangs) setsid sleep {marker} >/dev/null 2>&1 & exec sleep {marker} ;;
leaves) setsid sleep {marker} >/dev/null 2>&1 & ;;
stubborn) (trap '' TERM; exec setsid sleep {marker}) >/dev/null 2>&1 & ;;
loud) head -c 300000 /dev/zero | tr '\\0' A ;;
slow) sleep 0.1 ;;
deaf) exec <&-; exit 3 ;;
blind) exit 0 ;;
esac
if grep -aqF '{signature}'; then echo 'stdin: Found.EICAR FOUND'; exit 1; fi
exit 0
"""

    def start(self, count):
        self.marker = f"86.{os.getpid()}"
        with ingest.folder() as self.control:
            self.control.chmod(0o777)
            program = self.control / "scan"
            program.write_text(self.PROGRAM.format(control=self.control, marker=self.marker,
                                                   signature=ingest.EICAR[28:].decode()))
            program.chmod(0o755)
            self.heal_mode()
            self.run(f"exec:{program}", count)

    def set_mode(self, mode):
        """In one step; how often a mode was met is counted anew."""
        for name in ("met", "mode"):
            (self.control / f"{name}.new").write_text(f"{mode}\n" if name == "mode" else "")
            (self.control / f"{name}.new").chmod(0o666)
            os.rename(self.control / f"{name}.new", self.control / name)

    def heal_mode(self):
        self.set_mode("honest")

    def is_met(self, count=1):
        return len((self.control / "met").read_text().split()) >= count

    def end_sleepers(self):
        """Until none is left: who came to hang after the mode was changed hangs too."""
        def none_left():
            sleepers = ingest.processes(f"sleep\0{self.marker}")
            for pid in sleepers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return not sleepers
        wait_until(none_left, 20, "nobody sleeps any more")

    def meet(self, mode, count=1):
        self.set_mode(mode)
        is_met = within(lambda: self.is_met(count), 5)
        self.heal_mode()
        return is_met

    def fails(self):
        return self.meet("fails")

    def is_killed(self):
        return self.meet("killed")

    def is_loud(self):
        return self.meet("loud", 2)

    def is_slow(self):
        return self.meet("slow", 2)

    def does_not_read(self):
        return self.meet("deaf")

    def leaves_a_grandchild(self):
        return self.meet("leaves")

    def leaves_a_stubborn_one(self):
        """It does not end by TERM, and its slot is not free before it has."""
        return self.meet("stubborn")

    def hangs(self):
        is_met = self.meet("hangs", 2)
        time.sleep(self.chance.uniform(0, 0.05))
        self.end_sleepers()
        return is_met

    def loses_its_supervisor(self):
        """Whom it had to look after sleeps on, and keeps the slot, until somebody else ends it."""
        is_met = self.meet("hangs")
        supervisors = ingest.processes("supervise-scanner")
        victims = ingest.children(self.server.process.pid).intersection(supervisors)
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.end_sleepers()
        return is_met and bool(victims)

    def goes_blind(self):
        """While nobody trusts it; a program that goes blind while it is trusted is found out by the next look at EICAR."""
        self.set_mode("fails")
        within(lambda: self.is_met(1), 5)
        self.set_mode("test-fails")
        self.wait_red()
        self.set_mode("test-blind")
        self.wait_red("EICAR test file clean")
        self.expect_nothing_new()
        self.heal()
        return True

    def heal(self):
        self.heal_mode()
        self.end_sleepers()
        self.wait_green()


# Shares of a thousand.
ARENAS = {"liar-1": (WithLiar, 190), "liar-2": (WithLiar, 190), "liar-3": (WithLiar, 190), "liar-4": (WithLiar, 190),
          "clamd": (WithRealClamd, 90), "program-1": (WithProgram, 75), "program-2": (WithProgram, 75)}


def run_arena(name, seed, count):
    kind, _ = ARENAS[name]
    with ingest.folder(memory=True) as place:
        arena = kind(place, int(seed), name)
        arena.start(int(count))
    return {"made": arena.made, "met": arena.met, "statuses": arena.storm.statuses, "looks": arena.watch.looks}


def shares():
    """How many each arena makes; without clamd its share goes to the others."""
    names = [name for name in ARENAS if name != "clamd" or shutil.which("clamd", path=ingest.PATH)]
    if TROUBLES < 500:
        names = [name for name in names if not name.endswith(("2", "3", "4"))]
    whole = sum(ARENAS[name][1] for name in names)
    counts = {name: TROUBLES * ARENAS[name][1] // whole for name in names}
    counts["liar-1"] += TROUBLES - sum(counts.values())
    return counts


def report(reports):
    made, met, looks = collections.Counter(), collections.Counter(), 0
    for name, one in reports.items():
        made.update(one["made"])
        met.update(one["met"])
        looks += one["looks"]
        print(f"{name}: {sum(one['made'].values())} troubles {one['made']}, answers {one['statuses']}, {one['looks']} looks")
    print(f"{sum(made.values())} troubles, {sum(met.values())} met an upload, {looks} looks")
    return made, met


def test_a_thousand_troubles_with_the_scanner():
    with ingest.seeded("EW_SCANNER_SEED") as seed:
        words = {name: (seed, count) for name, count in shares().items()}
        made, met = report(arenas.run(__file__, words, 600))
        equal(sum(made.values()), TROUBLES)
        check(sum(met.values()) > 0.8 * TROUBLES, f"most of them met an upload: {met} of {made}")


class Stub:
    """A server for a Watch: a process that is none, and answers that are made up."""

    def __init__(self, process, status=200, checks=()):
        self.process, self.status, self.checks, self.is_starting = process, status, checks, False

    def metrics(self):
        return {}

    def request(self, *_):
        return ingest.Answer(self.status, {}, json.dumps({"checks": self.checks}))


def seen(server, patience=0, look=None):
    """What a Watch says of it."""
    watch = Watch(server, look)
    watch.ZOMBIE_SECONDS = patience
    watch.thread.start()
    wait_until(lambda: watch.error or watch.looks > 3, 20, "it has looked")
    watch.over.set()
    watch.thread.join()
    return watch.error


def test_watch_sees_what_is_wrong():
    with subprocess.Popen(["sh", "-c", "true & exec sleep 600"]) as process:
        try:
            wait_until(lambda: "Z" in map(ingest.state_of, ingest.children(process.pid)), 20, "a zombie")
            check("stays a zombie" in seen(Stub(process)), "a zombie is seen")
            equal(seen(Stub(process), 600), None, "it may be one for a while")
            red = [{"name": "disk", "ready": False, "reason": "full"}]
            check("/readyz says" in seen(Stub(process, 200, red), 600), "a status that is not as the checks say")
            equal(seen(Stub(process, 503, red), 600), None)
            check("ZeroDivisionError" in seen(Stub(process), 600, lambda: 1 / 0), "what the look raises")
        finally:
            process.kill()


if __name__ == "__main__":
    arenas.main(run_arena)
    ingest.main(600)
