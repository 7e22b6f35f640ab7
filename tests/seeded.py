#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Do the tests find bugs? Puts in each bug of docs/seeded-bugs.md, one after the other, and runs the test that is to
find it: tests/seeded.py [WORD...] runs those with one of the words in their names.

The table is the list: a bug in src/ without a row, a row without a bug, and a room that is not the bug's are failures.
Without a bug each of the tests must pass; with it the test must fail, or not come to its end in a time that is many
times what it took.
"""

import ctypes
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "seeded"
TABLE = ROOT / "docs" / "seeded-bugs.md"
JOBS = (os.cpu_count() or 1) + 2  # a test that hangs needs no processor

BUG = re.compile(r'ew__bug\(\s*"([^"]*)"\s*\)')
ROW = re.compile(r"^\| `([a-z0-9-]+)` \| `([a-z_/]+)` \| (.+) \| `([A-Za-z0-9_]+)` in `(tests/[a-z_/]+)\.c` \|$")
HANGS_AFTER_SECONDS = 4
HANGS_AFTER_TIMES = 10
PR_SET_CHILD_SUBREAPER = 36


class Row:
    def __init__(self, match):
        self.bug, self.where, self.what, self.test, self.program = match.groups()

    def driver(self):
        """A bug of a driver is there on that driver only."""
        return {"driver/uring/uring": "uring", "driver/epoll/epoll": "epoll"}.get(self.where)


def rows():
    """The table's, and what is wrong with it."""
    found, wrong = [], []
    for number, line in enumerate(TABLE.read_text().splitlines(), 1):
        if not line.startswith("| `"):
            continue
        match = ROW.match(line)
        if match:
            found.append(Row(match))
        else:
            wrong.append(f"{TABLE.name}:{number}: not a row of bug, place, what it does and test")
    return found, wrong


def bugs():
    """Where each is, as the table says it: a file of src/ without its ending."""
    places = {}
    for source in sorted((ROOT / "src").rglob("*.[ch]")):
        for bug in BUG.findall(source.read_text()):
            places.setdefault(bug, set()).add(source.relative_to(ROOT / "src").with_suffix("").as_posix())
    return places


def check_table(table):
    places, listed, wrong = bugs(), {}, []
    for row in table:
        if row.bug in listed:
            wrong.append(f"{row.bug}: two rows")
        listed[row.bug] = row
        if row.bug not in places:
            wrong.append(f"{row.bug}: a row, and no such bug in src/")
        elif row.where not in places[row.bug]:
            wrong.append(f"{row.bug}: is in {' and '.join(sorted(places[row.bug]))}, not in {row.where}")
        if not re.search(rf"TEST\({re.escape(row.test.removesuffix('_by_epoll'))}\)",
                         (ROOT / f"{row.program}.c").read_text()):
            wrong.append(f"{row.bug}: {row.program}.c has no test {row.test}")
    wrong += [f"{bug}: in src/{min(places[bug])}, and no row" for bug in sorted(places) if bug not in listed]
    return wrong


def run(program, test, environment, seconds):
    """Returns "ok", "skip", "not ok" with what was seen, or None: it hangs."""
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        process = subprocess.Popen([str(BUILD / program), test], stdin=subprocess.DEVNULL, stdout=said,
                                   stderr=subprocess.DEVNULL, env={**os.environ, **environment},
                                   start_new_session=True)
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            # The harness dies first; its test, which has a group of its own, is told so by the kernel.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return None
        said.seek(0)
        output = said.read()
    for line in output.splitlines():
        if re.match(rf"(not ok|skip) {test}\b", line):
            return line
    return "ok" if re.search(rf"^ok {test}$", output, re.MULTILINE) else "not ok: no test of that name"


def pass_without(row):
    """The test with no bug: what it says, and how long that took."""
    start = time.monotonic()
    said = run(row.program, row.test, environment_of(row), 120)
    return said, time.monotonic() - start


def environment_of(row, bug=""):
    driver = row.driver()
    return {"EW_SEED_BUG": bug, **({"EW_DRIVER": driver} if driver else {})}


def catch(row, took):
    seconds = (HANGS_AFTER_SECONDS + HANGS_AFTER_TIMES * took) * int(os.environ.get("EW_TEST_SCALE", "1"))
    said = run(row.program, row.test, environment_of(row, row.bug), seconds)
    return f"hangs in {row.test}" if said is None else said


def end_orphans():
    """What a test that was killed had started comes to us, who asked for that."""
    while pids := [int(pid) for task in pathlib.Path("/proc/self/task").iterdir()
                   for pid in (task / "children").read_text().split()]:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def is_left_out(row):
    """tests/run sets the driver where io_uring is refused."""
    return row.driver() == "uring" and os.environ.get("EW_DRIVER") == "epoll"


def main(words):
    table, wrong = rows()
    wrong += check_table(table)
    for line in wrong:
        print(f"not ok {line}")
    if wrong:
        return 1
    table = [row for row in table if (not words or any(word in row.bug for word in words))]
    programs = sorted({row.program for row in table})
    subprocess.run([ROOT / "tools" / "build", "seeded", *programs], check=True, stdout=subprocess.DEVNULL)
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    caught = skipped = 0
    with ThreadPoolExecutor(JOBS) as pool:
        tests = {(row.program, row.test, row.driver()): row for row in table if not is_left_out(row)}
        before = dict(zip(tests, pool.map(pass_without, tests.values())))

        def one(row):
            if is_left_out(row):
                return f"skip {row.bug}: needs io_uring"
            said, took = before[row.program, row.test, row.driver()]
            if said != "ok":
                return f"skip {row.bug}: {said}" if (said or "").startswith("skip") else f"not ok {row.bug}: without it: {said}"
            said = catch(row, took)
            return f"not ok {row.bug}: {row.test} does not find it" if said == "ok" else f"ok {row.bug}  # {said}"

        for line in pool.map(one, table):
            print(line, flush=True)
            caught += line.startswith("ok ")
            skipped += line.startswith("skip ")
    end_orphans()
    print(f"# {caught} of {len(table) - skipped} caught")
    return 0 if caught + skipped == len(table) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
