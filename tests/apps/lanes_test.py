#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A filesystem on which names are removed slowly, or never: everybody else is served, and the end comes when announced."""

import os
import re
import signal
import threading

import ingest
import testfs
from ingest import Server, check, equal, wait_until

THREADS_MAX = 64  # of the whole process
HALF = 20_000     # bytes, for which a client may be silent for 30 s
LANE_WIDTH = 24   # calls on one filesystem at once: docs/limits.md


class Probe:
    """A client that asks something else, one question after the other; each must be answered."""

    def __init__(self, server):
        self.server, self.stop, self.answers, self.threads_most = server, threading.Event(), 0, 0

    def ask(self):
        while not self.stop.is_set():
            equal(self.server.request("GET", "/healthz", timeout=10).status, 200)
            self.answers += 1
            self.threads_most = max(self.threads_most, len(os.listdir(f"/proc/{self.server.process.pid}/task")))

    def __enter__(self):
        self.thread = ingest.in_background(self.ask)
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            wait_until(lambda: self.answers > 10 or not self.thread.is_alive(), 30, lambda: f"{self.answers} answers")
        self.stop.set()
        self.thread.result()
        check(self.threads_most <= THREADS_MAX, f"{self.threads_most} threads")


def open_uploads(server, count):
    """In flight, each with a file of some bytes under a staging name."""
    connections = [server.connect() for _ in range(count)]
    for number, connection in enumerate(connections):
        connection.sendall(ingest.head(f"f{number}", 2 * HALF) + bytes(HALF))
    wait_until(lambda: server.metric("ingest_received_bytes_total") >= HALF * count, 60, "all bytes are there")
    return connections


def has_exited(pid):
    """Its first thread has; others may be in the kernel, which keeps the process for them."""
    with open(f"/proc/{pid}/task/{pid}/stat", encoding="ascii") as stat:
        return stat.read().rsplit(")", 1)[1].split()[0] == "Z"


def cut(connections):
    for connection in connections:
        ingest.reset(connection)


def expect_nothing_left(server, filesystem):
    server.wait_idle(60)
    equal(os.listdir(filesystem.backing / "bucket"), [])
    staging = filesystem.backing / "bucket.state" / "staging"
    wait_until(lambda: not any(names for _, _, names in os.walk(staging)), 30, "no staging names")
    equal(server.put("after", b"as before").status, 201)
    equal((filesystem.backing / "bucket" / "after").read_bytes(), b"as before")


def removed_slowly(count, delay_ms):
    """As many as the lane is wide are seen at once; then each is slow, these too."""
    with testfs.Filesystem() as filesystem, Server("none", bucket=filesystem.mount / "bucket") as server:
        connections = open_uploads(server, count)
        removed = filesystem.counts()["unlink"]
        held = filesystem.rule("unlink", hang=True)
        with Probe(server):
            cut(connections)
            filesystem.wait_waiting("unlink", LANE_WIDTH // 2, 60)
            rule = filesystem.rule("unlink", delay_ms=delay_ms)
            filesystem.clear(held)
            wait_until(lambda: filesystem.counts()["unlink"] >= removed + count, 120, "all are removed")
            server.wait_idle(60)
        filesystem.clear(rule)
        expect_nothing_left(server, filesystem)


def test_names_removed_in_20_ms_each():
    """The kernel locks a folder for each; the names are spread, and as many go at once as the lane is wide."""
    removed_slowly(600, 20)


def test_names_removed_in_5_seconds_each():
    removed_slowly(LANE_WIDTH, 5000)


def test_names_that_are_never_removed():
    """The end comes when announced, and says what is left. The kernel itself keeps the process until the calls return."""
    with testfs.Filesystem() as filesystem, \
            Server("none", "--grace", "1", bucket=filesystem.mount / "bucket", disk_is_bad=True,
                   expected=("stuck", "did not end")) as server:
        announced = re.search(r"shutdown within (\d+) s", "\n".join(server.block))
        check(announced, "\n".join(server.block))
        connections = open_uploads(server, 100)
        rule = filesystem.rule("unlink", hang=True)
        with Probe(server):
            cut(connections)
            filesystem.wait_waiting("unlink", LANE_WIDTH // 2, 60)
            wait_until(lambda: not server.check("disk")[0], 30, "not ready, since the volume hangs")
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "leaving by _exit()" in server.log(), int(announced.group(1)) + 10, "it says so and leaves")
        wait_until(lambda: "calls on threads" in server.log(), 10, server.log()[-2000:])
        lane = re.search(r"stuck: (\S+) \((\S+)\): (\d+) calls on threads, (\d+) more wait; the oldest, (.*?), for", server.log())
        check(lane, server.log()[-2000:])
        equal(lane.group(1), str(filesystem.mount))
        check(int(lane.group(3)) <= LANE_WIDTH and int(lane.group(3)) + int(lane.group(4)) >= 100, lane.group(0))
        wait_until(lambda: has_exited(server.process.pid), 10, "it leaves")
        filesystem.clear(rule)
        equal(server.process.wait(30 * ingest.SCALE), 70, "exit status")
        server.process.stdout.close()
        server.start()
        expect_nothing_left(server, filesystem)


if __name__ == "__main__":
    ingest.main()
