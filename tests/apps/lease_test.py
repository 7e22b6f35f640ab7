#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Staging under names, on a filesystem without nameless files: what is left is swept by lease, and nothing else is."""

import contextlib
import fcntl
import hashlib
import os
import shutil
import socket
import subprocess
import threading
import time

import ingest
from cancel_test import Hold
from ingest import Clamd, Server, check, equal, wait_until
from testfs import Filesystem

SIZE = 300_000

# What the log says of a name that could not be removed.
FAILED = ("reclaim-failed", "failed on the way out")


class Named(Server):
    """A server whose bucket is on the filesystem of the test, and its log is not."""

    def __init__(self, filesystem, *arguments, place=None, name="bucket", **options):
        if place:
            if not ingest.SERVER_WITH_HOOKS.exists():
                raise ingest.Skip("built without tests")
            options.update(binary=ingest.SERVER_WITH_HOOKS, environment={"EW_TEST_HOOKS": str(place)})
        super().__init__(*(arguments or ("none",)), bucket=filesystem.mount / name, **options)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def wait_swept(self, names=None):
        wait_until(lambda: " event=swept " in self.log(), 20, f"swept: {self.log()[-500:]}")
        if names is not None:
            check(f" {names} names" in self.log(), f"{names} names: {self.log()[-800:]}")


def names(state):
    """Staging names. What libfuse or NFS hide because somebody has it open is not ours."""
    return sorted(entry.name for entry in (state / "staging").glob("*/*") if not entry.name.startswith("."))


def leases(state):
    return sorted(entry.name for entry in (state / "leases").iterdir())


def lease_of(server):
    """The lease file that the server has open."""
    for entry in os.listdir(f"/proc/{server.process.pid}/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/{server.process.pid}/fd/{entry}")
            if os.path.dirname(target) == str(server.state / "leases"):
                return os.path.basename(target)
    raise AssertionError("no lease is open")


def no_names(server):
    wait_until(lambda: not names(server.state), 20, f"no staging name: {names(server.state)[:3]}")


def begin(server, name, size=SIZE, sent=-1):
    """All of an upload but its last byte, or only so much; returns the connection and the body."""
    body = os.urandom(size)
    connection = server.connect()
    connection.sendall(ingest.head(name, size) + body[:sent])
    return connection, body


def begin_many(server, prefix, count, size=61_440, sent=-1):
    """So much that they may be silent for a minute."""
    begun = [(f"{prefix}{number}", *begin(server, f"{prefix}{number}", size, sent)) for number in range(count)]
    own = lease_of(server)
    wait_until(lambda: sum(name.startswith(own) for name in names(server.state)) == count, 60, "all have names")
    return begun


@contextlib.contextmanager
def kept_going(begun):
    """Uploads that have sent SIZE bytes send on, or they would be too slow for the server if the test takes long."""
    over, sent = threading.Event(), SIZE

    def send():
        nonlocal sent
        while not over.wait(1):
            for _, connection, body in begun:
                connection.sendall(body[sent:sent + 2048])
            sent += 2048

    thread = ingest.in_background(send)
    try:
        yield
    finally:
        over.set()
        thread.result()
    for _, connection, body in begun:
        connection.sendall(body[sent:-1])


def finish(server, begun):
    for name, connection, body in begun:
        connection.sendall(body[-1:])
        answer = ingest.read_answer(connection)
        equal(answer.status if answer else None, 201, name)
        equal((server.bucket / name).read_bytes(), body, name)
        connection.close()


def test_upload_whole():
    with Filesystem() as filesystem, Named(filesystem) as server:
        check(any("names under a lease" in line and "by a link" in line for line in server.block), server.block)
        server.wait_log("event=staging")
        for size in (0, 1, 65_536, 5_000_003):
            body = os.urandom(size)
            answer = server.put(f"f{size}", body)
            equal(answer.status, 201)
            equal(answer.json["sha256"], hashlib.sha256(body).hexdigest())
            equal((server.bucket / f"f{size}").read_bytes(), body)
            equal((server.bucket / f"f{size}").stat().st_mode & 0o7777, 0o640)
        equal(server.put("f1", b"y").status, 409)
        no_names(server)
        equal(len(leases(server.state)), 1)
        server.wait_idle()
        state = server.state
        equal(ingest.end_process(server.process), 0)
        equal(leases(state), [])


def test_lost_race_for_the_name():
    with ingest.folder() as place, Filesystem() as filesystem, Named(filesystem, place=place) as server:
        hold = Hold(place, "f")
        upload = ingest.in_background(server.put, "f", b"mine")
        hold.wait()
        (server.bucket / "f").write_bytes(b"theirs")
        hold.release()
        upload.result().problem(409, "name-taken")
        equal((server.bucket / "f").read_bytes(), b"theirs")
        no_names(server)
        server.wait_idle()


def test_left_in_each_state():
    """A client that leaves while receiving, scanning and before the commit leaves no name."""
    with ingest.folder() as place, Filesystem() as filesystem, Clamd() as clamd, \
            Named(filesystem, f"clamd:{clamd.socket}", place=place) as server:
        connection, _ = begin(server, "receiving")
        wait_until(lambda: len(names(server.state)) == 1, 20, "it has a name")
        ingest.reset(connection)
        wait_until(lambda: "CANCELLED" in server.transitions("receiving"), 20, "cancelled")
        no_names(server)

        clamd.stop_answering()
        connection, body = begin(server, "scanning")
        connection.sendall(body[-1:])
        wait_until(lambda: server.slots("scan", "held") == 1, 20, "it is being scanned")
        ingest.reset(connection)
        wait_until(lambda: "CANCELLED" in server.transitions("scanning"), 20, "cancelled")
        no_names(server)
        clamd.go_on()

        hold = Hold(place, "publishing")
        connection, body = begin(server, "publishing")
        connection.sendall(body[-1:])
        hold.wait()
        ingest.reset(connection)
        wait_until(lambda: "CANCELLED" in server.transitions("publishing"), 20, "cancelled")
        no_names(server)
        hold.release()
        equal(server.put("eicar", ingest.EICAR).status, 422)
        no_names(server)
        server.wait_idle()
        equal(server.published(), [])


def test_killed_in_the_middle_of_200_uploads():
    with Filesystem() as filesystem, Named(filesystem) as server:
        for number in range(20):
            equal(server.put(f"kept{number}", b"x" * number).status, 201)
        begun = begin_many(server, "f", 200)
        equal(len(names(server.state)), 200)
        dead = leases(server.state)
        server.kill()
        for _, connection, _ in begun:
            connection.close()
        equal(len(names(server.state)), 200)
        equal(leases(server.state), dead)
        server.start()
        server.wait_swept(200)
        equal(names(server.state), [])
        check(leases(server.state) != dead and len(leases(server.state)) == 1, "its lease is gone")
        equal(len(server.published()), 20)
        for number in range(20):
            equal((server.bucket / f"kept{number}").read_bytes(), b"x" * number)
        equal(server.put("next", b"x").status, 201)


def test_killed_between_its_name_and_its_end():
    """Published, and the staging name is still there: the sweep takes the name and not a byte."""
    with Filesystem() as filesystem, Named(filesystem, expected=FAILED) as server:
        rule = filesystem.rule("unlink", error="EIO", path="/bucket.state/staging/*")
        body = os.urandom(SIZE)
        equal(server.put("f", body).status, 201)
        equal(len(names(server.state)), 1)
        server.kill()
        filesystem.clear(rule)
        server.start()
        server.wait_swept(1)
        equal(names(server.state), [])
        equal((server.bucket / "f").read_bytes(), body)


def test_two_servers_share_a_state_folder():
    """One is killed and started again while the other has live uploads: these finish, and the dead ones are swept."""
    with Filesystem() as filesystem, Named(filesystem) as one, Named(filesystem) as other:
        equal(len(leases(one.state)), 2)
        live, dead = begin_many(one, "live", 30, 3 * SIZE, SIZE), begin_many(other, "dead", 30)
        alive = {name for name in names(one.state) if not name.startswith(lease_of(other))}
        equal(len(alive), 30)
        with kept_going(live):
            for _ in range(3):
                other.kill()
                other.log_path.unlink()
                other.start()
                other.wait_swept()
                equal(set(names(one.state)), alive)
        for _, connection, _ in dead:
            connection.close()
        finish(one, live)
        no_names(one)
        equal(len(one.published()), 30)
        equal(other.put("f", b"x").status, 201)


def start_at_once(filesystem, first, alive):
    """Four beside the first; two of them are killed in the middle of an upload and started again."""
    with contextlib.ExitStack() as stack:
        servers = [Named(filesystem) for _ in range(4)]
        starts = [ingest.in_background(stack.enter_context, server) for server in servers]
        for start in starts:
            start.result()
        equal(len(leases(first.state)), 5)
        begun = [begin(server, f"of{number}") for number, server in enumerate(servers)]
        wait_until(lambda: len(names(first.state)) == 9, 20, "all have names")
        for server in servers[:2]:
            server.kill()
        restarts = [ingest.in_background(server.start) for server in servers[:2]]
        for restart in restarts:
            restart.result()
        wait_until(lambda: len(names(first.state)) == 7, 20, "the dead ones are swept")
        # The next round counts them.
        wait_until(lambda: len(leases(first.state)) == 5, 20, "so are their leases")
        equal([name for name in alive if name not in names(first.state)], [])
        for connection, _ in begun:
            connection.close()
    wait_until(lambda: names(first.state) == alive, 20,
               lambda: f"what is alive is there: {alive}, and nothing else: {names(first.state)}")


def test_servers_that_start_at_once():
    """Each sweeps what is dead and none what is alive, whatever the order; slow calls open the windows."""
    with Filesystem() as filesystem, Named(filesystem) as first:
        live = begin_many(first, "live", 5, 3 * SIZE, SIZE)
        alive = names(first.state)
        filesystem.rule("create", delay_ms=20, path="/bucket.state/leases/*")
        filesystem.rule("unlink", delay_ms=20)
        with kept_going(live):
            for _ in range(3):
                start_at_once(filesystem, first, alive)
        finish(first, live)
        equal(leases(first.state), [lease_of(first)])


def test_sweep_beside_a_start_that_is_slow():
    """A lease that has just been made and is not yet locked is not taken for a dead one."""
    with Filesystem() as filesystem, Named(filesystem) as first:
        rule = filesystem.rule("fsync", delay_ms=1500, path="/bucket.state/leases/*", times=1)
        slow, quick = Named(filesystem), Named(filesystem)
        with contextlib.ExitStack() as stack:
            start = ingest.in_background(stack.enter_context, slow)
            filesystem.wait_waiting("fsync")
            stack.enter_context(quick)
            start.result()
            filesystem.clear(rule)
            equal(len(leases(first.state)), 3)
            connection, body = begin(slow, "f")
            wait_until(lambda: len(names(first.state)) == 1, 20, "it has a name")
            quick.kill()
            quick.start()
            quick.wait_swept(0)
            finish(slow, [("f", connection, body)])


def test_without_links_by_rename():
    with ingest.folder() as place, Filesystem() as filesystem:
        filesystem.without("link")
        with Named(filesystem, place=place) as server:
            check(any("by a rename" in line for line in server.block), server.block)
            body = os.urandom(SIZE)
            equal(server.put("f", body).status, 201)
            equal((server.bucket / "f").read_bytes(), body)
            equal(server.put("f", b"y").status, 409)
            hold = Hold(place, "g")
            upload = ingest.in_background(server.put, "g", b"mine")
            hold.wait()
            (server.bucket / "g").write_bytes(b"theirs")
            hold.release()
            upload.result().problem(409, "name-taken")
            equal((server.bucket / "g").read_bytes(), b"theirs")
            no_names(server)
            server.wait_idle()


def refused(filesystem, *arguments):
    result = subprocess.run([ingest.SERVER, "serve", "--listen", "127.0.0.1:0", "--bucket", filesystem.mount / "bucket",
                             "--scanner", "none", *arguments], capture_output=True, timeout=60, check=False)
    equal(result.returncode, 1)
    return result.stderr.decode()


def test_without_links_and_renames_it_refuses_to_start():
    with Filesystem() as filesystem:
        filesystem.without("link")
        filesystem.without("rename-noreplace")
        said = refused(filesystem)
        for word in ("no safe way to publish", "O_TMPFILE", "hard links", "RENAME_NOREPLACE"):
            check(word in said, said)
        state = filesystem.mount / "bucket.state"
        equal((names(state), leases(state), os.listdir(filesystem.mount / "bucket")), ([], [], []))


def test_folder_that_is_removed_during_the_start_is_named():
    for name, what, call, path in (("bucket", "bucket", "create", "/bucket.state/staging/*"),
                                   ("bucket.state", "state folder", "open", "/bucket.state/staging/*")):
        with Filesystem() as filesystem:
            folder = filesystem.mount / name
            held = filesystem.rule(call, hang=True, times=1, path=path)
            with subprocess.Popen([ingest.SERVER, "serve", "--listen", "127.0.0.1:0", "--bucket", filesystem.mount / "bucket",
                                   "--scanner", "none"], stderr=subprocess.PIPE) as server:
                filesystem.wait_waiting(call)
                shutil.rmtree(folder)
                filesystem.clear(held)
                said = server.communicate(timeout=20 * ingest.SCALE)[1].decode()
            equal(server.returncode, 1)
            check(f"the {what} {folder} was removed during the start" in said, said)


def test_start_that_hangs_is_named():
    with Filesystem() as filesystem, Named(filesystem) as server:
        with open(server.state / "lock", "r+b") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            before = time.monotonic()
            check("another server has kept the lock" in refused(filesystem), "the reason")
            check(time.monotonic() - before < 30, "it does not wait for ever")
        equal(server.put("f", b"x").status, 201)


def test_name_that_cannot_be_removed_keeps_its_slot():
    with Filesystem() as filesystem, Named(filesystem, "none", "--upload-slots", "2", expected=FAILED) as server:
        rule = filesystem.rule("unlink", error="EIO", path="/bucket.state/staging/*")
        connection, _ = begin(server, "left")
        wait_until(lambda: server.slots("upload", "held") == 1, 20, "it is in")
        ingest.reset(connection)
        wait_until(lambda: server.slots("upload", "presumed") == 1, 20, "the slot is presumed")
        server.wait_log("event=reclaim-failed")
        [path] = (server.state / "staging").glob("*/*")
        equal(path.stat().st_size, 0, "its space is back")
        # Published, and the slot is kept all the same: the name is there.
        equal(server.put("kept", b"x").status, 201)
        equal(server.slots("upload", "presumed"), 2)
        equal(server.slots("upload", "free"), 0)
        filesystem.clear(rule)
        server.wait_idle()
        equal(names(server.state), [])
        equal((server.bucket / "kept").read_bytes(), b"x")
        server.wait_log("event=reclaimed", 2)
        equal(server.put("next", b"x").status, 201)


def test_end_with_a_name_that_cannot_be_removed_leaves_the_lease():
    with Filesystem() as filesystem, Named(filesystem, expected=FAILED) as server:
        rule = filesystem.rule("unlink", error="EIO", path="/bucket.state/staging/*")
        equal(server.put("f", b"x").status, 201)
        equal(ingest.end_process(server.process), 0)
        equal((len(names(server.state)), len(leases(server.state))), (1, 1))
        # A sweep that fails leaves it too.
        filesystem.clear(rule)
        [dead] = leases(server.state)
        rule = filesystem.rule("unlink", error="EIO", path=f"/bucket.state/staging/*/{dead}-*")
        server.start()
        wait_until(lambda: "event=sweep-failed" in server.log(), 20, "the sweep says so")
        equal((len(names(server.state)), len(leases(server.state))), (1, 2))
        filesystem.clear(rule)
        equal(ingest.end_process(server.process), 0)
        server.start()
        server.wait_swept(1)
        equal((names(server.state), len(leases(server.state))), ([], 1))


def test_end_whose_removals_cannot_be_synced_leaves_the_lease_and_says_so():
    with Filesystem() as filesystem, Named(filesystem) as server:
        equal(server.put("f", b"x").status, 201)
        rule = filesystem.rule("fsyncdir", error="EIO", path="/bucket.state/staging/*")
        equal(ingest.end_process(server.process), 0)
        server.wait_log("event=left-for-the-next-start")
        equal((names(server.state), len(leases(server.state))), ([], 1))
        # So does a sweep.
        server.start()
        server.wait_log("event=sweep-failed")
        equal(len(leases(server.state)), 2)
        filesystem.clear(rule)
        equal(ingest.end_process(server.process), 0)
        server.start()
        server.wait_log("event=swept")
        equal(len(leases(server.state)), 1)


def test_staging_name_that_was_replaced_is_not_published():
    with ingest.folder() as place, Filesystem() as filesystem, \
            Named(filesystem, place=place, expected=FAILED) as server:
        hold = Hold(place, "f")
        upload = ingest.in_background(server.put, "f", b"mine")
        hold.wait()
        [path] = (server.state / "staging").glob("*/*")
        (server.state / "other").write_bytes(b"theirs")
        os.rename(server.state / "other", path)
        hold.release()
        upload.result().problem(500, "storage")
        equal(server.published(), [])
        equal(path.read_bytes(), b"theirs")
        server.wait_idle()


def test_names_without_a_lease_are_reported_and_left():
    with Filesystem() as filesystem, Named(filesystem) as server:
        connection, body = begin(server, "f")
        wait_until(lambda: len(names(server.state)) == 1, 20, "it has a name")
        (server.state / "leases" / lease_of(server)).unlink()
        with Named(filesystem) as other:
            wait_until(lambda: "event=sweep-orphans" in other.log(), 20, "it is reported")
            check("remove them from the state folder" in other.log(), other.log())
        finish(server, [("f", connection, body)])


def test_names_of_a_lease_that_was_put_back_from_a_copy_are_left():
    with Filesystem() as filesystem, Named(filesystem) as server:
        connection, body = begin(server, "f")
        wait_until(lambda: len(names(server.state)) == 1, 20, "it has a name")
        lease = server.state / "leases" / lease_of(server)
        text = lease.read_text()
        lease.unlink()
        lease.write_text(text)
        lease.with_name("a" * 32).write_text(f"{server.bucket}\n")
        with Named(filesystem) as other:
            other.wait_swept(0)
            check("1 leases of" in other.log() and "sweep" not in other.log(), other.log())
        finish(server, [("f", connection, body)])
        equal(ingest.end_process(server.process), 0)
        equal(leases(server.state), [])


def test_lease_of_a_server_that_locks_nothing_but_its_file_is_left_while_it_lives():
    """An earlier version. Its id may begin as that of a server which lives and locks more."""
    with Filesystem() as filesystem, Named(filesystem) as server:
        old, alike = "a" * 32, lease_of(server)[:15] + "0" * 17
        for lease in (old, alike):
            (server.state / "leases" / lease).write_text(f"{server.bucket}\n")
            (server.state / "staging" / "00" / f"{lease}-{lease}").touch()
        (server.state / "leases" / ("b" * 32)).write_text(f"{server.bucket}\n")
        with open(server.state / "leases" / old, "r+b") as lease:
            fcntl.flock(lease, fcntl.LOCK_EX)
            with Named(filesystem) as other:
                other.wait_swept(0)
                equal((len(names(server.state)), leases(server.state)), (2, sorted([old, alike, lease_of(server), lease_of(other)])))
        # The one that is alike is nobody's, but this is not to be seen as long as the other lives.
        with Named(filesystem) as other:
            other.wait_swept(1)
            equal((names(server.state), leases(server.state)), ([f"{alike}-{alike}"], sorted([alike, lease_of(server), lease_of(other)])))
        equal(ingest.end_process(server.process), 0)
        server.start()
        server.wait_swept(1)
        equal((names(server.state), leases(server.state)), ([], [lease_of(server)]))


def test_lease_with_a_name_that_cannot_be_removed_keeps_no_other():
    with Filesystem() as filesystem, Named(filesystem, expected=FAILED) as server:
        equal(ingest.end_process(server.process), 0)
        stays, goes = "a" * 32, "b" * 32
        for dead in (stays, goes):
            (server.state / "leases" / dead).write_text(f"{server.bucket}\n")
            (server.state / "staging" / "00" / f"{dead}-{dead}").touch()
            (server.bucket / f".ew-ingest-probe-{dead}").touch()
        rule = filesystem.rule("unlink", error="EIO", path=f"/bucket.state/staging/*/{stays}-*")
        server.start()
        server.wait_log("event=sweep-failed")
        check(f"1 leases stay for the next start, 1 names were removed; the first: cannot remove a name of the lease {stays}: Input"
              in server.log(), server.log())
        equal(leases(server.state), sorted([stays, lease_of(server)]))
        equal(server.published(), [f".ew-ingest-probe-{stays}"])
        filesystem.clear(rule)
        equal(ingest.end_process(server.process), 0)
        server.start()
        server.wait_swept(1)
        equal((names(server.state), leases(server.state), server.published()), ([], [lease_of(server)], []))


def test_leases_that_are_no_files_are_named_and_led_nowhere():
    with Server("none") as server:
        equal(ingest.end_process(server.process), 0)
        folder, others = server.state / "leases", server.folder / "others"
        others.write_text(f"{server.bucket}\n")
        (folder / ("1" * 32)).mkdir()
        (folder / ("2" * 32)).symlink_to(others)
        os.mkfifo(folder / ("3" * 32))
        (folder / ("4" * 32)).write_bytes(bytes(range(256)) * 100)
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(folder / ("5" * 32)))
        odd = ["A" * 32, "0" * 31, "0" * 33, ".." + "0" * 30, "0" * 31 + "\n"]
        for name in (*odd, "6" * 32, "f" * 32):
            (folder / name).touch()
        (folder / ("f" * 32)).write_text(f"{server.bucket}\n")
        server.start()
        server.wait_log("event=sweep-failed")
        check("4 leases stay" in server.log(), server.log())
        equal(leases(server.state), sorted([*odd, *(digit * 32 for digit in "1235"), lease_of(server)]))
        equal((others.read_text(), server.published()), (f"{server.bucket}\n", []))
        equal(server.put("f", b"x").status, 201)


def test_test_file_in_a_bucket_with_an_odd_name_is_removed():
    with ingest.folder() as place, Server("none", bucket=place / "a\nb \\\xc3") as server:
        equal(ingest.end_process(server.process), 0)
        dead = "a" * 32
        (server.state / "leases" / dead).write_text(f"{server.bucket}\n")
        (server.bucket / f".ew-ingest-probe-{dead}").touch()
        server.start()
        server.wait_log("event=swept")
        equal((server.published(), leases(server.state)), ([], [lease_of(server)]))


def test_test_file_in_a_bucket_that_was_moved_is_removed():
    """With its state folder, or mounted elsewhere; another bucket may have its place now."""
    with ingest.folder() as place, Server("none", bucket=place / "bucket") as server:
        equal(ingest.end_process(server.process), 0)
        for dead, path in (("a" * 32, place / "nowhere"), ("b" * 32, place)):
            (server.state / "leases" / dead).write_text(f"{path}\n")
            (server.bucket / f".ew-ingest-probe-{dead}").touch()
        server.start()
        server.wait_log("event=swept")
        equal((server.published(), leases(server.state)), ([], [lease_of(server)]))


def test_lease_whose_bucket_cannot_be_opened_stays_and_is_named():
    with Server("none") as server:
        server.process.terminate()
        server.process.wait()
        away, stays, goes = server.state.parent / "away", "a" * 32, "b" * 32
        away.symlink_to(away)
        (server.state / "leases" / stays).write_text(f"{away}\n")
        (server.state / "leases" / goes).write_text(f"{server.bucket}\n")
        for start in range(2):
            server.start()
            server.wait_log("event=sweep-failed", start + 1)
            line = [line for line in server.log().splitlines() if "event=sweep-failed" in line][-1]
            check("1 leases stay" in line and str(away) in line and "symbolic links" in line, line)
            equal(ingest.end_process(server.process), 0)
            equal(leases(server.state), [stays])
        away.unlink()
        away.mkdir()
        (away / f".ew-ingest-probe-{stays}").touch()
        server.start()
        server.wait_log("event=swept")
        equal((list(away.iterdir()), leases(server.state)), ([], [lease_of(server)]))


def test_write_that_is_reported_by_close():
    """A network filesystem says it last: the bytes are not acknowledged."""
    with Filesystem() as filesystem, Named(filesystem) as server:
        filesystem.rule("flush", error="ENOSPC", path="/bucket.state/staging/*", times=1)
        server.put("f", b"x" * 1000).problem(507, "no-space")
        no_names(server)
        equal(server.published(), [])
        equal(server.put("f", b"x").status, 201)


def test_probe_that_could_not_be_removed_is_swept():
    with Filesystem() as filesystem, Named(filesystem) as server:
        filesystem.rule("unlink", error="EIO", path="/bucket/.ew-ingest-probe-*", times=1)
        check("Input/output error" in refused(filesystem), "the reason")
        equal((len(server.published()), len(leases(server.state))), (1, 2))
        with Named(filesystem) as other:
            other.wait_swept(0)
            equal((server.published(), len(leases(server.state))), ([], 2))


if __name__ == "__main__":
    ingest.main(240)
