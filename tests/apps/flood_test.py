#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Ten thousand uploads in flight are cut at once: nothing is left, and a probe beside them is answered throughout."""

import os
import resource
import subprocess
import sys
import threading
import time

import ingest
from ingest import Baseline, Clamd, Server, check, equal, wait_until

PIECE = 64 << 10  # bytes of each that are written


def count_that_fits():
    """All upload slots but some for the probe; 9,800 under a hard limit of 20,000 descriptors, less on small machines."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(9_990 if not ingest.SANITIZED else 2_000, (hard - 400) // 2, memory // (512 << 10))


COUNT = count_that_fits()


def raise_limit():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard < COUNT + 200:
        raise ingest.Skip(f"only {hard} descriptors")


def clients(port):
    """Run in a process of its own, to be killed: opens all uploads, says so, and waits."""
    import socket  # pylint: disable=import-outside-toplevel

    raise_limit()
    piece = os.urandom(PIECE)
    connections = []
    for number in range(COUNT):
        connection = socket.create_connection(("127.0.0.1", port), timeout=60)
        connection.sendall(ingest.head(f"flood{number}", PIECE + 1) + piece)
        connections.append(connection)
    print("all", flush=True)
    time.sleep(600)


class Probe(threading.Thread):
    """Uploads one small file after the other and remembers how long each took."""

    def __init__(self, server):
        super().__init__(daemon=True)
        self.server, self.times, self.stopped, self.error = server, [], False, None

    def run(self):
        number = 0
        while not self.stopped and not self.error:
            start = time.monotonic()
            try:
                answer = self.server.put(f"probe{number}", b"x", timeout=30)
                if answer.status != 201:
                    self.error = f"probe {number}: {answer.status} {answer.body[:200]!r}"
            except OSError as error:
                self.error = f"probe {number}: {error}"
            self.times.append(time.monotonic() - start)
            number += 1


def flood(server, cut):
    baseline = Baseline(server)
    child = subprocess.Popen([sys.executable, __file__, "clients", str(server.port)], stdout=subprocess.PIPE)
    try:
        equal(child.stdout.readline(), b"all\n", "the clients")
        wait_until(lambda: server.slots("upload", "held") >= COUNT, 60, "all are in flight")
        # The probe gets the one slot that is left over.
        probe = Probe(server)
        probe.start()
        wait_until(lambda: len(probe.times) >= 3, 30, f"the probe is answered: {probe.error}")
        before = len(probe.times)
        cut(child)
        wait_until(lambda: server.entered("CANCELLED") >= COUNT, 60, "all are cancelled")
        wait_until(lambda: len(probe.times) >= before + 5, 30, f"the probe goes on: {probe.error}")
        probe.stopped = True
        probe.join(60)
        check(probe.error is None, probe.error)
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    # A probe's file takes a page, its name and inode no more than that.
    baseline.restored(seconds=60, slack_bytes=(4 << 20) + 8192 * len(server.published()))
    equal(server.entered("CANCELLED"), COUNT)
    check(all(name.startswith("probe") for name in server.published()), "only probes are published")
    server.wait_log(" to=CANCELLED", COUNT)


def test_ten_thousand_killed_at_once():
    raise_limit()
    with Server(memory=True) as server:
        flood(server, lambda child: child.kill())


def test_ten_thousand_killed_at_once_beside_a_scanner():
    raise_limit()
    with Clamd() as clamd, Server(f"clamd:{clamd.socket}", memory=True) as server:
        flood(server, lambda child: child.kill())


def test_stalled_disk_stalls_nobody_else():
    """More uploads hang in a write than there are buffers to receive into; who needs no disk is answered."""
    if not ingest.IS_ROOT:
        raise ingest.Skip("freezing a filesystem needs root")
    environment = {**os.environ, "PATH": ingest.PATH}
    with ingest.folder() as place:
        image, mount = place / "image", place / "mount"
        mount.mkdir()
        with open(image, "wb") as file:
            file.truncate(256 << 20)
        for step in (["mkfs.ext4", "-q", "-F", image], ["mount", "-o", "loop", image, mount]):
            if subprocess.run(step, capture_output=True, env=environment, check=False).returncode:
                raise ingest.Skip(f"{step[0]} does not work here")
        try:
            with Server(bucket=mount / "bucket") as server:
                uploads = [server.connect() for _ in range(400)]
                for number, connection in enumerate(uploads):
                    connection.sendall(ingest.head(f"f{number}", 2 * PIECE) + bytes(PIECE // 4))
                wait_until(lambda: server.slots("upload", "held") == len(uploads), 30, "all are in")
                subprocess.run(["fsfreeze", "-f", mount], check=True, env=environment)
                try:
                    for connection in uploads:
                        connection.sendall(bytes(PIECE))
                    for _ in range(20):
                        equal(server.request("GET", "/healthz", timeout=10).status, 200)
                        time.sleep(0.05)
                finally:
                    subprocess.run(["fsfreeze", "-u", mount], check=True, env=environment)
                for connection in uploads:
                    connection.close()
                server.wait_idle()
        finally:
            subprocess.run(["umount", mount], check=False)


def test_sixty_uploads_at_once_are_all_published():
    with Clamd() as clamd, Server(f"clamd:{clamd.socket}") as server:
        body = os.urandom(300_000)
        uploads = [ingest.in_background(server.put, f"f{number}", body) for number in range(60)]
        equal([upload.result().status for upload in uploads], [201] * 60)
        check(all((server.bucket / f"f{number}").read_bytes() == body for number in range(60)), "all are whole")
        syncs, links = (server.metric(f"ingest_directory_{what}_total") for what in ("syncs", "synced_links"))
        equal(links, 60)
        check(syncs <= links, f"{syncs} syncs for {links} names")
        server.wait_idle()


if __name__ == "__main__":
    if sys.argv[1:2] == ["clients"]:
        clients(int(sys.argv[2]))
    else:
        ingest.main(300)
