#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""docs/what-happens-when.md is true: each row of its tables is a test, `when.STATE.EVENT`, which expects what the row says.

A cell begins with what is compared, in the few words that the page explains at its head. What follows a semicolon is for
people, but for events of the log and exit statuses, which are looked for.
"""

import contextlib
import functools
import os
import re
import select
import signal

import disks
import holds
import ingest
from crash import Machine
from holds import NAME
from ingest import Clamd, Server, check, equal, wait_until
from lease_test import names
from scanner_test import parent_of, processes

PAGE = ingest.ROOT / "docs" / "what-happens-when.md"
COLUMNS = ["event", "client sees", "what is left", "log says", "test"]
STAGED = " (s)"
TITLES = {
    "client": "client leaves",
    "scanner": "scanner dies",
    "program": "its program dies",
    "disk": "disk full",
    "late": "disk full, said late",
    "lost": "reply lost",
    "unknown": "the same, nobody knows",
    "sigterm": "SIGTERM",
    "cut": "SIGTERM, grace over",
    "busy": "the same, clamd is busy",
    "sigkill": "SIGKILL",
    "power": "power cut",
}
IN_SOME_STATES = {"program": ["scanning"], "busy": ["scanning"], "late": ["sealing", "syncing", "linking", "named"],
                  "lost": ["linking"], "unknown": ["linking"]}
CELLS = [(state, event) for state in holds.STATES for event in TITLES if state in IN_SOME_STATES.get(event, holds.STATES)]

# The call that is the first to say that the disk is full, where writes have not said it.
SAYS_IT_LATE = {"sealing": "flush", "syncing": "fsync", "linking": "link", "named": "fsyncdir"}


class Row:
    """One row of a table: what a test expects."""

    def __init__(self, cells):
        self.title, client, left, log, test = cells
        self.client = client.partition("; ")[0]
        left = left.partition("; ")[0]
        self.is_staged = left.endswith(STAGED)
        self.left = left.removesuffix(STAGED).split(" or ")
        self.log, _, more = log.partition("; ")
        self.events = re.findall(r"`([a-z-]+)`", more)
        self.status = next(map(int, re.findall(r"exit (\d+)", more)), None)
        self.test = test.strip("`")


class Section:
    """What the page says about one state."""

    def __init__(self, text):
        self.state = re.search(r"^In the log: (?:nothing|[^`\n]*`([A-Z]+)`)", text, re.MULTILINE).group(1)
        table = [[cell.strip() for cell in line.strip("|\n").split(" | ")]
                 for line in text.splitlines() if line.startswith("|")]
        equal([cell.strip() for cell in table[0]], COLUMNS, "columns")
        self.rows = [Row(cells) for cells in table[2:]]
        more = re.search(r"^More tests: ([^.]*)\.$", text, re.MULTILINE)
        self.more_tests = re.findall(r"`(\w+)`", more.group(1))


@functools.cache
def page():
    parts = re.split(r"^## `(\w+)`.*$", PAGE.read_text(), flags=re.MULTILINE)
    return {state: Section(text.split("\n## ")[0]) for state, text in zip(parts[1::2], parts[2::2])}


def row_of(state, event):
    found = [row for row in page()[state].rows if row.test == f"when.{state}.{event}"]
    equal(len(found), 1, f"rows of {PAGE.name} with this test")
    return found[0]


def test_when_page_and_tests_agree():
    """No cell without its test, no test without its cell, no name of a test that is not there, no state left out."""
    sections = page()
    equal(list(sections), list(holds.STATES), "sections")
    rows = [row for section in sections.values() for row in section.rows]
    wanted = [f"when.{state}.{event}" for state, event in CELLS]
    equal(sorted(set(wanted) ^ {row.test for row in rows}), [], "tests without a row, rows without a test")
    equal([row.test for row in rows], wanted, "rows")
    for row, (_, event) in zip(rows, CELLS):
        equal(row.title, TITLES[event], row.test)
    for state, section in sections.items():
        equal(section.state, holds.STATES[state].state, f"{state}: what is in the log")
    tests = ingest.ROOT / "tests"
    sources = "".join(path.read_text() for path in (*tests.glob("apps/*_test.py"), *tests.glob("unit/*_test.c")))
    named = [name for section in sections.values() for name in section.more_tests]
    missing = [name for name in named if f"def test_{name}(" not in sources and f"TEST({name})" not in sources]
    equal(missing, [], "tests that do not exist")
    with Server() as server:
        states = re.findall(r'ingest_uploads\{state="(\w+)"\}', "\n".join(server.metrics()))
    check("RECEIVING" in states and all(f"`{state}`" in PAGE.read_text() for state in states), f"{states} are on the page")


def said(server):
    """What the log says about the upload, line by line, in the words of the page."""
    found = []
    for line in server.log().splitlines():
        note = re.search(r' note=(?:"(.*)"|(\S+))$', line)
        note = f" {note.group(1) or note.group(2)}" if note else ""
        if f" target=/files/{NAME} " in line:
            found.append("`refused` " + re.search(r" status=(\d+)", line).group(1) + note)
        elif f" name={NAME} from=" in line:
            found.append("`{} -> {}`".format(*re.search(r" from=(\S+) to=(\S+)", line).groups()) + note)
    return found


def told(answer):
    if answer is None:
        return "no answer"
    if answer.status == 201:
        return "`201`"
    check(answer.status != 503 or int(answer.headers["Retry-After"]) >= 1, "Retry-After")
    return f"`{answer.status} {answer.json['type'].removeprefix('urn:endwell:problem:')}`"


def there(bucket, body):
    """Whether the file is; if so, whole."""
    if not (bucket / NAME).exists():
        return "nothing"
    equal((bucket / NAME).read_bytes(), body, "the file")
    return "the file"


def expect_events(row, server, begin=0):
    for event in row.events:
        wait_until(lambda event=event: f" event={event} " in server.log()[begin:], 20, f"{event} in the log")


class Trial:
    """An upload that is held, and what is seen after something has happened to it."""

    def __init__(self, upload, row):
        self.upload, self.row, self.server = upload, row, upload.server
        state = [upload.state] if upload.state else []
        wait_until(lambda: self.server.transitions(NAME)[-1:] == state, 20, f"{state} in the log")
        self.logged = self.server.log()
        self.said = said(self.server)

    def expect_answer(self):
        seen = "has left" if self.upload.has_left else told(self.upload.answer())
        equal(seen, self.row.client, "client sees")

    def expect_left(self, bucket):
        left = there(bucket, self.upload.body)
        check(left in self.row.left, f"what is left: {left!r} is not {self.row.left}")

    def expect_log(self):
        """The log is written by a thread of its own, so it may come later."""
        with contextlib.suppress(AssertionError):
            wait_until(lambda: self.last_said() == self.row.log, 20, "the log")
        equal(self.last_said(), self.row.log, "log says")
        expect_events(self.row, self.server, len(self.logged))

    def last_said(self):
        more = said(self.server)[len(self.said):]
        return more[-1] if more else "nothing more" if self.upload.state else "nothing"

    def slack_bytes(self):
        """What may have become less in the volume, to which for root nobody else writes."""
        published = sum(path.stat().st_blocks * 512 for path in self.upload.bucket.iterdir())
        return published if ingest.IS_ROOT else published + (1 << 20)

    def is_over(self):
        """The server goes on, and nothing that belonged to the upload is taken any more."""
        self.upload.leave()
        self.expect_log()
        self.upload.baseline.restored(slack_bytes=self.slack_bytes())
        equal(names(self.upload.staging.parent), [], "staging names")
        self.expect_left(self.upload.bucket)

    def ends(self):
        """The server ends by itself."""
        equal(self.server.process.wait(30 * ingest.SCALE), self.row.status, "exit status")
        equal(names(self.upload.staging.parent), [], "staging names")
        equal(list((self.upload.staging.parent / "leases").iterdir()), [], "leases")
        free = self.upload.baseline.free_bytes - self.slack_bytes()
        wait_until(lambda: self.server.free_bytes() >= free, 20, "the space is back")
        self.expect_left(self.upload.bucket)
        self.expect_log()


@contextlib.contextmanager
def trial(state, event, backing, *arguments, **options):
    with holds.held(state, backing, *arguments, **options) as upload:
        yield upload, Trial(upload, row_of(state, event))


def client(state):
    with ingest.folder(memory=True) as place, trial(state, "client", place) as (upload, this):
        if not upload.has_left:
            ingest.reset(upload.connection)
            upload.has_left = True
        this.server.metrics()
        this.server.settle()
        upload.let_go()
        this.expect_answer()
        this.is_over()


def go_on(upload, this):
    """Nothing is held any more, and who is there hears how it ends."""
    upload.let_go()
    upload.go_on()
    this.expect_answer()


def scanner(state):
    with ingest.folder(memory=True) as place, Clamd() as clamd, trial(state, "scanner", place, clamd=clamd) as (upload, this):
        clamd.kill()
        go_on(upload, this)
        this.is_over()


def program(state):
    with ingest.folder(memory=True) as place, trial(state, "program", place) as (upload, this):
        own = wait_until(lambda: processes(f"/bin/sh\0{upload.program}"), 20, "the program runs")
        os.kill(next(pid for pid in own if parent_of(pid) not in own), signal.SIGKILL)
        this.expect_answer()
        this.is_over()


@contextlib.contextmanager
def full(folder):
    """To the last byte, by somebody else."""
    path = folder / "filler"
    try:
        with contextlib.suppress(OSError), open(path, "wb", buffering=0) as file:
            while file.write(bytes(1 << 16)):
                pass
        equal(os.statvfs(folder).f_bfree, 0, "free blocks")
        yield
    finally:
        path.unlink()


def disk(state):
    with disks.memory(8) as place, trial(state, "disk", place) as (upload, this):
        with full(place):
            go_on(upload, this)
        this.is_over()


def late(state):
    with ingest.folder(memory=True) as place, trial(state, "late", place) as (upload, this):
        upload.filesystem.rule(SAYS_IT_LATE[state], error="ENOSPC", times=1)
        go_on(upload, this)
        this.is_over()


def lost(state, *is_unknown):
    for with_names in (False, True):
        with ingest.folder(memory=True) as place, trial(state, "unknown" if is_unknown else "lost", place,
                                                        with_names=with_names) as (upload, this):
            upload.filesystem.rule("link-done", error="EIO", times=1)
            if is_unknown:
                upload.filesystem.rule("lookup", error="EIO", times=1, path=f"/bucket/{NAME}")
            go_on(upload, this)
            this.is_over()


def unknown(state):
    lost(state, True)


def terminate(this):
    this.server.process.send_signal(signal.SIGTERM)
    wait_until(lambda: " event=draining " in this.server.log(), 20, "draining")
    this.server.settle()


def sigterm(state):
    with ingest.folder(memory=True) as place, trial(state, "sigterm", place, "--grace", "600") as (upload, this):
        terminate(this)
        go_on(upload, this)
        upload.leave()
        this.ends()


def cut(state):
    with ingest.folder(memory=True) as place, trial(state, "cut", place, "--grace", "0") as (upload, this):
        terminate(this)
        upload.let_go()
        this.expect_answer()
        upload.leave()
        this.ends()


def busy(state):
    with ingest.folder(memory=True) as place, Clamd() as clamd, \
            trial(state, "busy", place, "--grace", "0", clamd=clamd) as (upload, this):
        terminate(this)
        this.expect_answer()
        upload.leave()
        this.ends()


def staging_names(folder):
    return names(folder.parent) if folder.exists() else []


def expect_staged(upload, row, left, is_certain):
    """The staging name of the upload is there where the page says so; one for each that was in front is too."""
    most = len(upload.others) + row.is_staged
    check(len(left) == most if is_certain else len(left) <= most, f"{len(left)} staging names, not {most}")


def killed(state, with_names):
    with ingest.folder(memory=True) as place, trial(state, "sigkill", place, with_names=with_names) as (upload, this):
        this.server.process.kill()
        upload.let_go()
        this.server.process.wait()
        this.expect_answer()
        upload.leave()
        equal(upload.staging.exists(), with_names, "staged files have names")
        if with_names:
            expect_staged(upload, this.row, staging_names(upload.staging), is_certain=True)
        this.expect_left(upload.bucket)
        equal(this.last_said(), this.row.log, "log says")
        this.server.start()
        wait_until(lambda: " event=swept " in this.server.log(), 20, "the next start has swept")
        upload.baseline.restored(slack_bytes=this.slack_bytes())
        equal(names(upload.staging.parent), [], "staging names")
        this.expect_left(upload.bucket)
        this.expect_log()


def sigkill(state):
    for with_names in (False, True):
        killed(state, with_names)


def cut_off(state, with_names):
    with Machine("ext4") as machine:
        with trial(state, "power", machine.mount, with_names=with_names) as (upload, this):
            is_told = not upload.has_left and select.select([upload.connection], [], [], 0)[0]
            check(not is_told, "nothing has been heard yet")
            equal(this.row.client, "has left" if upload.has_left else "no answer", "client sees")
            equal(this.row.log, this.last_said(), "log says")
            staged = staging_names(upload.staging)
            copy = machine.cut()
            upload.let_go()
            upload.leave()
        with machine.power_on(copy) as mount:
            bucket = mount / "bucket"
            # What had ended just before may be back: nobody waits until a removal is durable.
            after = staging_names(bucket.with_name("bucket.state") / "staging")
            expect_staged(upload, this.row, set(staged) & set(after), is_certain=False)
            this.expect_left(bucket)
            there_before = sorted(path.name for path in bucket.iterdir())
            with Server(bucket=bucket) as server:
                expect_events(this.row, server)
                equal(names(server.state), [], "staging names")
                equal(server.published(), there_before, "names after the next start")
                machine.expect_no_space_lost(mount, len(there_before))


def power(state):
    for with_names in (False, True):
        cut_off(state, with_names)


EVENTS = {"client": client, "scanner": scanner, "program": program, "disk": disk, "late": late, "lost": lost, "unknown": unknown, "sigterm": sigterm, "cut": cut,
          "busy": busy, "sigkill": sigkill, "power": power}

for _state, _event in CELLS:
    globals()[f"test_when.{_state}.{_event}"] = functools.partial(EVENTS[_event], _state)


if __name__ == "__main__":
    ingest.main()
