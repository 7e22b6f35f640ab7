#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Clients that leave: in every state and in every way. Space, descriptors and permits come back, one line says it."""

import itertools
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import threading

import ingest
import links
from ingest import Baseline, Clamd, Server, check, equal, wait_until

SIZE = 6 << 20


def close(connection):
    connection.close()


def half_close(connection):
    connection.shutdown(socket.SHUT_WR)


WAYS = {"reset": ingest.reset, "close": close, "half-close": half_close}


def expect_cancelled(server, baseline, name):
    wait_until(lambda: "CANCELLED" in server.transitions(name), 20, f"{name} is cancelled: {server.log()[-800:]}")
    baseline.restored()
    equal(server.transitions(name).count("CANCELLED"), 1, "one line")
    check(name not in server.published(), "nothing is published")


def test_left_while_receiving():
    with Server(memory=True) as server:
        baseline = Baseline(server)
        for way, leave in WAYS.items():
            connection = server.connect()
            connection.sendall(ingest.head(way, 2 * SIZE) + os.urandom(SIZE))
            wait_until(lambda: server.metric("ingest_received_bytes_total") > 0 and
                       server.free_bytes() < baseline.free_bytes - SIZE // 2, 20, "it is on the disk")
            leave(connection)
            expect_cancelled(server, baseline, way)
            connection.close()


def test_left_while_receiving_chunks():
    with Server(memory=True) as server:
        baseline = Baseline(server)
        for way, leave in WAYS.items():
            connection = server.connect()
            connection.sendall(ingest.head(way) + b"100000\r\n" + bytes(1 << 20) + b"\r\n8\r\nabc")
            wait_until(lambda: server.slots("upload", "held") == 1, 20, "it is in")
            leave(connection)
            expect_cancelled(server, baseline, way)
            connection.close()


def test_left_while_scanning():
    with Clamd() as clamd, Server(f"clamd:{clamd.socket}", memory=True) as server:
        baseline = Baseline(server)
        for way, leave in WAYS.items():
            clamd.stop_answering()
            connection = server.connect()
            connection.sendall(ingest.head(way, SIZE) + os.urandom(SIZE))
            wait_until(lambda: server.slots("scan", "held") == 1, 20, "it is being scanned")
            leave(connection)
            wait_until(lambda: server.slots("scan", "cancelling") == 1, 20, "the slot stays taken")
            clamd.go_on()
            expect_cancelled(server, baseline, way)
            equal(server.transitions(way), ["RECEIVING", "SEALED", "SCANNING", "CANCELLED"])
            connection.close()


def test_left_while_scanning_behind_pipelined_bytes():
    """The end of the stream is seen although bytes of a next request are in front of it."""
    with Clamd() as clamd, Server(f"clamd:{clamd.socket}", memory=True) as server:
        baseline = Baseline(server)
        clamd.stop_answering()
        connection = server.connect()
        connection.sendall(ingest.head("f", 1) + b"x" + ingest.head("g", 1) + b"x")
        wait_until(lambda: server.slots("scan", "held") == 1, 20, "it is being scanned")
        connection.shutdown(socket.SHUT_WR)
        wait_until(lambda: "CANCELLED" in server.transitions("f"), 20, "it is cancelled")
        clamd.go_on()
        baseline.restored()
        equal(server.published(), [])


def test_left_by_a_dead_link_while_scanning():
    """Nothing that the client does or says tells it."""
    with links.Link() as link, Clamd() as clamd, Server(f"clamd:{clamd.socket}", "--public", "--dead-link", 3, memory=True,
                                                        host=link.near) as server:
        baseline = Baseline(server)
        clamd.stop_answering()
        with link.there():
            connection = server.connect()
        connection.sendall(ingest.head("dead", 1) + b"x")
        wait_until(lambda: server.slots("scan", "held") == 1, 20, "it is being scanned")
        link.is_a_black_hole()
        wait_until(lambda: "CANCELLED" in server.transitions("dead"), 30, "it is cancelled")
        clamd.go_on()
        expect_cancelled(server, baseline, "dead")
        connection.close()


def test_killed_curl():
    if not shutil.which("curl"):
        raise ingest.Skip("curl is not installed")
    with ingest.folder() as source, Clamd() as clamd, Server(f"clamd:{clamd.socket}", memory=True) as server:
        baseline = Baseline(server)
        path = source / "file"
        path.write_bytes(os.urandom(SIZE))
        for name, options in (("receiving", ["--limit-rate", "1M"]), ("scanning", [])):
            clamd.stop_answering()
            curl = subprocess.Popen(["curl", "-sS", "--noproxy", "*", *options, "-T", path, f"{server.url}/files/{name}"],
                                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            if name == "scanning":
                wait_until(lambda: server.slots("scan", "held") == 1, 20, "it is being scanned")
            else:
                wait_until(lambda: server.free_bytes() < baseline.free_bytes - 100000, 20, "it is being received")
            curl.kill()
            curl.wait()
            wait_until(lambda name=name: "CANCELLED" in server.transitions(name), 20, "it is cancelled")
            clamd.go_on()
            expect_cancelled(server, baseline, name)


def test_client_of_another_network_that_falls_silent():
    """Less than the minimum rate is silence; the session's deadlines are 60 s by default, so this looks at the rate."""
    with Server(memory=True) as server:
        baseline = Baseline(server)
        connection = server.connect()
        connection.sendall(ingest.head("silent", SIZE) + b"x" * 100)
        wait_until(lambda: server.slots("upload", "held") == 1, 20, "it is in")
        wait_until(lambda: "CANCELLED" in server.transitions("silent"), 40, "it is cancelled")
        answer = ingest.read_answer(connection)
        equal(answer.status if answer else None, 408)
        connection.close()
        baseline.restored()
        wait_until(lambda: "too slow" in server.log(), 20, "the log says why")


class Hold:
    """Holds the upload of a name between verdict and commit point."""

    def __init__(self, folder, name):
        self.lever, self.held = folder / f"hold.{name}", folder / f"held.{name}"
        self.lever.touch()

    def wait(self):
        wait_until(self.held.exists, 20, "the upload is held")

    def release(self):
        self.lever.unlink()


def hooked(place, *arguments, **options):
    if not ingest.SERVER_WITH_HOOKS.exists():
        raise ingest.Skip("built without tests")
    return Server(*arguments, binary=ingest.SERVER_WITH_HOOKS, environment={"EW_TEST_HOOKS": str(place)}, **options)


def test_left_between_verdict_and_publication():
    with ingest.folder() as place, hooked(place, memory=True) as server:
        baseline = Baseline(server)
        for way, leave in WAYS.items():
            hold = Hold(place, way)
            connection = server.connect()
            connection.sendall(ingest.head(way, SIZE) + os.urandom(SIZE))
            hold.wait()
            leave(connection)
            expect_cancelled(server, baseline, way)
            equal(server.transitions(way), ["RECEIVING", "SEALED", "VERDICT", "PUBLISHING", "CANCELLED"])
            connection.close()
            hold.release()


def all_ends(server, count):
    """How each upload has ended, once that many have."""
    ends = re.findall(r" event=upload .* name=(\S+) .* to=(PUBLISHED|CANCELLED)", server.log())
    equal(len(dict(ends)), len(ends), "one end for each")
    return dict(ends) if len(ends) == count else None


def test_cancel_and_publication_a_thousand_times():
    """Both at the same moment: each upload is published whole or leaves nothing, both happen, and never a third thing."""
    rounds = 1000 if not ingest.SANITIZED else 200
    published = cancelled = 0
    chance = random.Random(7)
    body = os.urandom(20_000)
    with ingest.folder() as place, hooked(place, memory=True) as server:
        baseline = Baseline(server)
        for number in range(rounds):
            name = f"r{number}"
            hold = Hold(place, name)
            connection = server.connect()
            connection.sendall(ingest.head(name, len(body)) + body)
            hold.wait()
            leave = chance.choice((ingest.reset, close, half_close))
            # The hook looks every millisecond: leaving somewhere in that millisecond hits both sides of the commit.
            thread = threading.Thread(target=hold.release)
            pause = chance.random() * 0.0025
            thread.start()
            if pause > 0.0005:
                threading.Event().wait(pause - 0.0005)
            leave(connection)
            thread.join()

        server.wait_idle()
        wait_until(lambda: server.entered("PUBLISHED") + server.entered("CANCELLED") == rounds, 30, "all have ended")
        connection.close()
        # The log is written by a thread of its own, so it may come later.
        ends = wait_until(lambda: all_ends(server, rounds), 30, "the log says so of each")
        for name, state in ends.items():
            path = server.bucket / name
            if state == "PUBLISHED":
                published += 1
                equal(path.read_bytes(), body, f"{name} is whole")
            else:
                cancelled += 1
                check(not path.exists(), f"{name} was cancelled and does not exist")
        check(published > 20 and cancelled > 20, f"both happen: {published} published, {cancelled} cancelled")
        baseline.restored(slack_bytes=rounds * 24_576 + (1 << 20))


def test_left_just_after_the_commit_is_late():
    """With the lever gone the commit comes within milliseconds; leaving after the name exists changes nothing."""
    with ingest.folder() as place, hooked(place) as server:
        hold = Hold(place, "f")
        connection = server.connect()
        connection.sendall(ingest.head("f", 3) + b"abc")
        hold.wait()
        hold.release()
        wait_until((server.bucket / "f").exists, 10, "the name exists")
        ingest.reset(connection)
        wait_until(lambda: "PUBLISHED" in server.transitions("f"), 10, "it is published")
        equal((server.bucket / "f").read_bytes(), b"abc")
        server.wait_idle()


def test_killed_server_leaves_nothing():
    """SIGKILL in each state: no file of an upload that was not acknowledged whole is in bucket or state folder."""
    with ingest.folder() as place, hooked(place, memory=True) as server:
        free = server.free_bytes()
        hold = Hold(place, "held")
        receiving, held = server.connect(), server.connect()
        receiving.sendall(ingest.head("receiving", 2 * SIZE) + os.urandom(SIZE))
        held.sendall(ingest.head("held", SIZE) + os.urandom(SIZE))
        hold.wait()
        equal(server.put("kept", b"x").status, 201)
        server.process.kill()
        server.process.wait()
        equal(server.published(), ["kept"])
        equal(sorted(entry.name for entry in server.state.iterdir()), ["leases", "lock"])
        equal(len(list((server.state / "leases").iterdir())), 1)
        wait_until(lambda: server.free_bytes() >= free - (1 << 20), 10, "the space is back")
        server.start()
        equal(server.put("next", b"x").status, 201)
        wait_until(lambda: len(list((server.state / "leases").iterdir())) == 1, 10, "the dead lease is swept")


def test_slow_sync_holds_the_window_open():
    """Leaving while the kernel syncs: the sync is waited for, then the cancel wins, in the shipped binary."""
    if not ingest.IS_ROOT:
        raise ingest.Skip("freezing a filesystem needs root")
    with ingest.folder() as place:
        image, mount = place / "image", place / "mount"
        mount.mkdir()
        with open(image, "wb") as file:
            file.truncate(64 << 20)
        steps = (["mkfs.ext4", "-q", "-F", str(image)], ["mount", "-o", "loop", str(image), str(mount)])
        for step in steps:
            if subprocess.run(step, capture_output=True, env={**os.environ, "PATH": ingest.PATH}, check=False).returncode:
                raise ingest.Skip(f"{step[0]} does not work here")
        try:
            server = Server()
            server.context = OnMount(mount)
            with server:
                for way, leave in itertools.islice(WAYS.items(), 2):
                    connection = server.connect()
                    connection.sendall(ingest.head(way, 100_000) + os.urandom(99_999))
                    wait_until(lambda: server.metric("ingest_received_bytes_total") >= 99_999, 10, "received")
                    subprocess.run(["fsfreeze", "-f", str(mount)], check=True, env={**os.environ, "PATH": ingest.PATH})
                    try:
                        connection.sendall(b"x")
                        leave(connection)
                        server.settle()
                    finally:
                        subprocess.run(["fsfreeze", "-u", str(mount)], check=True, env={**os.environ, "PATH": ingest.PATH})
                    wait_until(lambda way=way: "CANCELLED" in server.transitions(way), 20, "it is cancelled")
                    server.wait_idle()
                    connection.close()
                equal(server.published(), [])
        finally:
            subprocess.run(["umount", str(mount)], check=False)


class OnMount:
    """A folder on a filesystem that somebody else mounts and unmounts."""

    def __init__(self, path):
        self.path = path / "server"

    def __enter__(self):
        self.path.mkdir()
        return self.path

    def __exit__(self, *_):
        shutil.rmtree(self.path, ignore_errors=True)


def test_signal_constants_are_not_inherited():
    """A server whose parent ignores SIGPIPE and SIGCHLD works all the same."""
    def ignore():
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)

    with Server("exec:sh -c 'if grep -aq EICAR; then exit 1; fi'", "--scan-limit", "1M", preexec=ignore) as server:
        equal(server.put("f", b"x").status, 201)


if __name__ == "__main__":
    ingest.main(300)
