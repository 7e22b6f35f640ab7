#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Trouble with the disk at every step: the right answer, no name that nobody vouches for, everything given back."""

import collections
import contextlib
import os
import re

import disks
import ingest
import testfs
from ingest import Baseline, Server, check, equal, in_background, wait_until

BODY = os.urandom(300_000)
FAILED = ("reclaim-failed",)  # where a name may have been made, and is looked for


@contextlib.contextmanager
def on_testfs(nameless=True, without=None, **options):
    """A server on a filesystem of ours that has nameless files, or has none, and is without a kind of call."""
    with testfs.Filesystem(nameless=nameless) as filesystem:
        (filesystem.mount / "bucket").mkdir()
        if without:
            filesystem.without(without)
        with Server(bucket=filesystem.mount / "bucket", **options) as server:
            try:
                yield filesystem, server
            finally:
                filesystem.clear()


class Hold:
    """Holds the upload of a name before it gets it, or, with @named, after."""

    def __init__(self, folder, name, named=False):
        suffix = "-named" if named else ""
        self.lever, self.held = folder / f"hold{suffix}.{name}", folder / f"held{suffix}.{name}"
        self.lever.touch()

    def wait(self):
        wait_until(self.held.exists, 20, "the upload is held")

    def release(self):
        self.lever.unlink()


def hooked(place, **options):
    if not ingest.SERVER_WITH_HOOKS.exists():
        raise ingest.Skip("built without tests")
    return Server(binary=ingest.SERVER_WITH_HOOKS, environment={"EW_TEST_HOOKS": str(place)}, **options)


def fill(server, name, megabytes):
    """An upload of unknown length that is more than there is room for; its answer."""
    with server.connect() as connection:
        connection.sendall(ingest.head(name))
        with contextlib.suppress(ConnectionError):
            connection.sendall(b"%x\r\n" % (megabytes << 20) + bytes(megabytes << 20) + b"\r\n0\r\n\r\n")
        return ingest.read_answer(connection)


def wait_received(server, count):
    """Bytes are counted when they are written."""
    wait_until(lambda: server.metric("ingest_received_bytes_total") >= count, 20, "it is written")


def expect_failed(server, name, last=None):
    wait_until(lambda: server.transitions(name)[-1:] == ["FAILED"], 20, f"{name} fails: {server.transitions(name)}")
    if last:
        equal(server.transitions(name)[-2], last, f"{name} failed in")


def expect_unready(server, check_name, words):
    well, reason = server.check(check_name)
    check(not well, f"{check_name} is not well")
    check(re.search(words, reason), reason)
    equal(server.request("GET", "/readyz").status, 503)


def expect_suspect(server):
    """It takes nothing any more, says so, and still answers."""
    expect_unready(server, "bucket", "sync")
    equal(server.metric("ingest_bucket_ready"), 0)
    wait_until(lambda: " event=volume-suspect " in server.log(), 20, "it is logged")
    received = server.metric("ingest_received_bytes_total")
    server.put("later", b"x").problem(500, "storage")
    equal(server.metric("ingest_received_bytes_total"), received, "refused before the body")
    equal(server.request("GET", "/healthz").status, 200)


ERRORS = {"ENOSPC": (507, "no-space"), "EDQUOT": (507, "no-space"), "EROFS": (500, "storage"), "EIO": (500, "storage")}


def steps(make, publish):
    """Call, error, whether half of the body is written before, state that it fails in; of files made and published so."""
    return [("statfs", "EIO", False, None),
            *((make, error, False, "RECEIVING") for error in ERRORS),
            *(("write", error, late, "RECEIVING") for error in ERRORS for late in (False, True)),
            ("open", "EIO", False, "RECEIVING"),
            ("chmod", "EIO", False, "PUBLISHING"),
            *(("fsync", error, False, "PUBLISHING") for error in ERRORS),
            *((publish, error, False, "PUBLISHING") for error in ERRORS)]


def each_call_fails_once(filesystem, server, make, publish):
    """Whichever call it is, it is not made again: a second one would have gone well."""
    baseline = Baseline(server)
    for number, (call, error, late, state) in enumerate(steps(make, publish)):
        name = f"{call}-{error}-{number}"
        before = filesystem.counts()
        with server.connect() as connection:
            half = len(BODY) // 2 if late else 0
            written = half + server.metric("ingest_received_bytes_total")
            if late:
                connection.sendall(ingest.head(name, len(BODY)) + BODY[:half])
                wait_received(server, written)
            rule = filesystem.rule(call, error=error, times=1)
            connection.sendall((b"" if late else ingest.head(name, len(BODY))) + BODY[half:])
            ingest.read_answer(connection).problem(*ERRORS[error])
        filesystem.clear(rule)
        counts = {kind: count - before[kind] for kind, count in filesystem.counts().items()}
        equal(counts["fsync"], 1 if call in ("fsync", publish) else 0, f"{name}: syncs of the file")
        equal(counts["fsyncdir"], 0, f"{name}: syncs of the folder")
        check(not (filesystem.backing / "bucket" / name).exists(), f"{name}: no name")
        if state:
            expect_failed(server, name, state)
        baseline.restored()
        staging = filesystem.backing / "bucket.state" / "staging"
        equal([names for _, _, names in os.walk(staging) if names], [], f"{name}: no staging name")
    equal(server.put("last", BODY).status, 201)
    equal((filesystem.backing / "bucket" / "last").read_bytes(), BODY)
    equal(server.published(), ["last"])
    check(server.is_ready(), "ready")


def test_one_call_fails_once():
    with on_testfs() as (filesystem, server):
        each_call_fails_once(filesystem, server, "tmpfile", "link")


def test_one_call_fails_once_where_staged_files_have_names():
    """What may have made a name all the same is looked for until it is gone."""
    with on_testfs(nameless=False, expected=FAILED) as (filesystem, server):
        each_call_fails_once(filesystem, server, "create", "link")


def test_one_call_fails_once_where_names_are_made_by_a_rename():
    with on_testfs(nameless=False, without="link", expected=FAILED) as (filesystem, server):
        each_call_fails_once(filesystem, server, "create", "rename-noreplace")


def sync_of_the_folder_fails(error):
    with on_testfs() as (filesystem, server):
        bucket = filesystem.backing / "bucket"
        equal(server.put("before", BODY).status, 201)
        baseline = Baseline(server)
        before = filesystem.counts()
        filesystem.rule("fsyncdir", error=error, times=1)
        server.put("f", BODY).problem(500, "durability-unknown")
        expect_failed(server, "f", "PUBLISHING")
        equal((bucket / "f").read_bytes(), BODY, "the name stays, and is whole")
        filesystem.clear()
        expect_suspect(server)
        equal(filesystem.counts()["fsyncdir"], before["fsyncdir"] + 1, "one sync")
        baseline.restored()
        equal(server.published(), ["before", "f"])
        equal(ingest.end_process(server.process), 0)
        server.start()
        equal(server.put("again", BODY).status, 201)


def test_failed_sync_of_the_folder():
    for error in ERRORS:
        sync_of_the_folder_fails(error)


def test_failed_sync_of_the_folder_is_not_made_up_for_by_the_next():
    """What had its name, or was about to get it, when the sync failed: a later sync would go well and prove nothing."""
    with ingest.folder() as place, on_testfs(binary=ingest.SERVER_WITH_HOOKS,
                                             environment={"EW_TEST_HOOKS": str(place)}) as (filesystem, server):
        bucket = filesystem.backing / "bucket"
        baseline = Baseline(server)
        holds = {name: Hold(place, name, named=name != "unnamed") for name in ("first", "second", "unnamed")}
        uploads = {name: in_background(server.put, name, BODY) for name in holds}
        for hold in holds.values():
            hold.wait()
        before = filesystem.counts()["fsyncdir"]
        filesystem.rule("fsyncdir", error="EIO", times=1)
        holds["first"].release()
        uploads["first"].result().problem(500, "durability-unknown")
        holds["second"].release()
        uploads["second"].result().problem(500, "durability-unknown")
        holds["unnamed"].release()
        uploads["unnamed"].result().problem(500, "storage")
        for name in ("first", "second"):
            equal((bucket / name).read_bytes(), BODY, "the name stays, and is whole")
        check(not (bucket / "unnamed").exists(), "no new name")
        equal(filesystem.counts()["fsyncdir"], before + 1, "one sync")
        expect_suspect(server)
        baseline.restored()


def test_volume_that_hangs_is_not_ready():
    """One attempt hangs; whoever asks hears of it, and nothing else waits."""
    with on_testfs() as (filesystem, server):
        baseline = Baseline(server)
        filesystem.rule("utimes", hang=True)
        hanging = in_background(server.request, "GET", "/readyz")
        filesystem.wait_waiting("utimes")
        equal(hanging.result().status, 503, "the first to ask")
        expect_unready(server, "disk", "does not answer")
        equal(filesystem.waiting("utimes"), 1, "one attempt")
        equal(server.request("GET", "/healthz").status, 200)
        filesystem.clear()
        wait_until(server.is_ready, 20, "ready again")
        baseline.restored()


def test_all_that_ask_at_once_hear_of_a_look():
    """Who asks while a look begins, or just ends, is not forgotten."""
    with Server() as server:
        def ask(count):
            with server.connect() as connection:
                connection.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n" * count)
                return [ingest.read_answer(connection).status for _ in range(count)]
        for answers in [in_background(ask, 400) for _ in range(16)]:
            equal(collections.Counter(answers.result()), {200: 400})


def full(server, megabytes):
    """Full by a write, full by the floor; then there is room again."""
    equal(server.put("kept", BODY).status, 201)
    baseline = Baseline(server)
    for number in range(3):
        fill(server, f"f{number}", megabytes).problem(507, "no-space")
        expect_failed(server, f"f{number}", "RECEIVING")
        baseline.restored(slack_bytes=0)
    declared = server.connect()
    declared.sendall(ingest.head("declared", megabytes << 20, "Expect: 100-continue\r\n"))
    ingest.read_answer(declared).problem(507, "no-space")
    declared.close()
    baseline.restored(slack_bytes=0)
    check(server.is_ready(), "ready")
    equal(server.put("last", BODY).status, 201)
    equal(server.published(), ["kept", "last"])


def test_small_ext4_is_full():
    with disks.disk("ext4", 12) as disk, disk.mounted() as mount, Server(bucket=mount / "bucket") as server:
        full(server, 14)


def test_small_tmpfs_is_full():
    with disks.memory(12) as mount, Server(bucket=mount / "bucket") as server:
        full(server, 14)


def test_xfs_is_full():
    """The smallest xfs is large, so something else has taken it, down to a little more than the floor."""
    with disks.disk("xfs") as disk, disk.mounted() as mount, Server(bucket=mount / "bucket") as server:
        status = os.statvfs(mount)
        floor = status.f_blocks * status.f_frsize // 20
        check(floor < 16 << 20, "the floor is looked at every 16 MiB, and the disk is full before")
        with open(mount / "taken", "wb") as file:
            os.posix_fallocate(file.fileno(), 0, status.f_bavail * status.f_frsize - floor - (1 << 20))
        full(server, 17)


def test_quota_of_btrfs_is_used_up():
    """The volume has room, and yet nothing more may be put on it."""
    with disks.disk("btrfs") as disk, disk.mounted() as mount:
        disks.needs("btrfs")
        used = disks.quota(mount, 8)
        with Server(bucket=mount / "bucket") as server:
            equal(server.put("kept", BODY).status, 201)
            baseline, before = Baseline(server), used()
            for number in range(3):
                fill(server, f"f{number}", 10).problem(507, "no-space")
                expect_failed(server, f"f{number}", "RECEIVING")
                server.wait_idle()
                wait_until(lambda: used() <= before, 20, f"{before} bytes are used, now {used()}")
            wait_until(lambda: server.descriptors() <= baseline.descriptors, 20, "descriptors")
            check(server.is_ready(), "ready")
            equal(server.put("last", BODY).status, 201)
            equal(server.published(), ["kept", "last"])


def no_room_for_the_name(kind, format_options):
    """All is taken while uploads wait for their names, and their folder would have to grow for that."""
    with disks.disk(kind, format_options=format_options) as disk, disk.mounted() as mount, ingest.folder() as place, \
            hooked(place, bucket=mount / "bucket") as server:
        baseline = Baseline(server)
        names = [f"{number:03}-".ljust(240, "n") for number in range(24)]
        holds = {name: Hold(place, name) for name in names}
        uploads = {name: in_background(server.put, name, b"x") for name in names}
        for hold in holds.values():
            hold.wait()
        with disks.full(mount):
            for hold in holds.values():
                hold.release()
            answers = {name: upload.result() for name, upload in uploads.items()}
            refused = [name for name, answer in answers.items() if answer.status != 201]
            check(refused, "there was room for all")
            for name in refused:
                answers[name].problem(507, "no-space")
                expect_failed(server, name, "PUBLISHING")
            equal(server.published(), sorted(set(names) - set(refused)))
        baseline.restored(slack_bytes=len(names) * 4096)
        check(server.is_ready(), "ready")
        equal(server.put(refused[0], BODY).status, 201)


def test_full_ext4_has_no_room_for_a_name():
    no_room_for_the_name("ext4", ["-b", "1024"])


def test_full_xfs_has_no_room_for_a_name():
    no_room_for_the_name("xfs", [])


def test_full_while_others_receive():
    """Uploads of unknown length share what is left; those that do not fit fail, the others are whole."""
    with disks.disk("ext4", 12) as disk, disk.mounted() as mount, Server(bucket=mount / "bucket") as server:
        baseline = Baseline(server)
        small = [in_background(server.put, f"small{number}", BODY) for number in range(4)]
        large = [in_background(fill, server, f"large{number}", 14) for number in range(4)]
        for one in large:
            one.result().problem(507, "no-space")
        statuses = {f"small{number}": one.result().status for number, one in enumerate(small)}
        check(set(statuses.values()) <= {201, 507}, f"{statuses}")
        acknowledged = sorted(name for name, status in statuses.items() if status == 201)
        equal(server.published(), acknowledged)
        for name in acknowledged:
            equal((server.bucket / name).read_bytes(), BODY)
        baseline.restored(slack_bytes=len(acknowledged) * (len(BODY) + 65536))


def free_of(mount):
    status = os.statvfs(mount)
    return {"blocks": status.f_bfree, "inodes": status.f_ffree}


def test_a_thousand_times_full():
    """The same number of free blocks, to the block."""
    rounds = 1000 if not ingest.SANITIZED else 100
    with disks.disk("ext4", format_options=["-b", "1024", "-J", "size=1"]) as disk, disk.mounted() as mount, \
            Server(bucket=mount / "bucket") as server:
        free = os.statvfs(mount).f_bavail * 1024
        equal(server.put("most", bytes(free - (700 << 10))).status, 201)
        fill(server, "first", 1).problem(507, "no-space")
        baseline = Baseline(server)
        os.sync()
        before = free_of(mount)
        for number in range(rounds):
            answer = fill(server, f"f{number}", 1)
            equal(answer.status if answer else None, 507, f"round {number}")
        baseline.restored(slack_bytes=0)
        # The kernel frees an inode after its blocks, and both after the last close.
        wait_until(lambda: free_of(mount) == before, 20, lambda: f"{before} are free, now {free_of(mount)}")
        equal(server.published(), ["most"])


def test_ext4_that_made_itself_read_only():
    """After an error ext4 refuses all changes and statvfs(2) does not tell; /readyz does."""
    with disks.disk("ext4", 16, options="errors=remount-ro") as disk, disk.mounted() as mount, \
            ingest.folder() as place, hooked(place, bucket=mount / "bucket", disk_is_bad=True) as server:
        equal(server.put("before", BODY).status, 201)
        baseline = Baseline(server)
        receiving = server.connect()
        receiving.sendall(ingest.head("receiving", 2 * len(BODY)) + BODY)
        hold = Hold(place, "held")
        held = in_background(server.put, "held", BODY)
        hold.wait()
        trigger = f"/sys/fs/ext4/{os.path.basename(disk.device)}/trigger_fs_error"
        if not os.access(trigger, os.W_OK):
            raise ingest.Skip(f"no {trigger}")
        with open(trigger, "w", encoding="utf-8") as file:
            file.write("a test\n")
        expect_unready(server, "disk", "read-only|no changes")
        server.put("after", BODY).problem(500, "storage")
        hold.release()
        held.result().problem(500, "storage")
        receiving.sendall(BODY)
        ingest.read_answer(receiving).problem(500, "storage")
        receiving.close()
        equal(server.published(), ["before"])
        server.wait_idle()
        wait_until(lambda: server.descriptors() <= baseline.descriptors, 20, "descriptors")
        ingest.end_process(server.process)


def remounted(disk, server, expected, maybe=()):
    """What was acknowledged is there, whole, and nothing else but what may be."""
    ingest.end_process(server.process)
    disks.run("umount", disk.mount)
    with disk.mounted():
        names = set(server.published())
        check(set(expected) <= names <= set(expected) | set(maybe), f"{names}")
        for name in names:
            equal((server.bucket / name).read_bytes(), BODY, f"{name} is whole")


def has_given_up(mount):
    """Whether a filesystem refuses every change. It may at any time, when it writes something of its own to its bad disk."""
    try:
        os.utime(mount)
    except OSError:
        return True
    return False


def writes_fail(disk, status=500, word="storage", begun=3):
    """Of three uploads @begun are begun; the others are refused by a filesystem that has given up."""
    with disk as disk, disk.mounted() as mount:
        with Server(bucket=mount / "bucket", disk_is_bad=True) as server:
            equal(server.put("before", BODY).status, 201)
            baseline = Baseline(server)
            disk.fail()
            for number in range(3):
                answer = server.put(f"f{number}", BODY)
                is_begun = "instance" in answer.json
                if (answer.status == status and (is_begun or number >= begun)) or not has_given_up(mount):
                    answer.problem(status, word)
                    check(is_begun or number >= begun, f"f{number} is begun")
                else:
                    answer.problem(500, "storage")
                if is_begun:
                    expect_failed(server, f"f{number}")
            equal(server.request("GET", "/healthz").status, 200)
            server.wait_idle()
            wait_until(lambda: server.descriptors() <= baseline.descriptors, 20, "descriptors")
            disk.heal()
            # The filesystem may have given up meanwhile.
            answer = server.put("after", BODY)
            acknowledged = ["before"]
            if answer.status == 201:
                acknowledged.append("after")
            else:
                answer.problem(500, "storage")
                expect_unready(server, "disk", "no changes|read-only")
            remounted(disk, server, acknowledged)


def test_writes_of_ext4_fail():
    writes_fail(disks.faulty("ext4", 16))


def test_writes_of_xfs_fail():
    writes_fail(disks.faulty("xfs"))


def test_ext4_on_a_thin_disk_that_is_full():
    """The filesystem has room and its disk has none: the write goes well, and the sync tells."""
    writes_fail(disks.faulty("ext4", 16, error="ENOSPC"), 507, "no-space")


def test_xfs_on_a_thin_disk_that_is_full():
    writes_fail(disks.faulty("xfs", error="ENOSPC"), 507, "no-space")


def test_disk_of_ext4_does_not_keep_what_it_is_given():
    writes_fail(disks.unflushable("ext4", 16))


def test_disk_of_xfs_does_not_keep_what_it_is_given():
    writes_fail(disks.unflushable("xfs"), begun=1)


def shut_down(kind, megabytes, named, flag):
    with disks.disk(kind, megabytes) as disk, disk.mounted() as mount, ingest.folder() as place, \
            hooked(place, bucket=mount / "bucket", disk_is_bad=True) as server:
        disks.needs("xfs_io")
        equal(server.put("before", BODY).status, 201)
        baseline = Baseline(server)
        hold = Hold(place, "f", named)
        upload = in_background(server.put, "f", BODY)
        hold.wait()
        disks.run("xfs_io", "-x", "-c", f"shutdown {flag}", mount)
        hold.release()
        # An xfs does not even say who has the name then.
        upload.result().problem(500, "durability-unknown" if named or kind == "xfs" else "storage")
        expect_failed(server, "f", "PUBLISHING")
        if named:
            expect_suspect(server)
        else:
            server.put("later", BODY).problem(500, "storage")
        expect_unready(server, "disk", "no changes|read-only")
        server.wait_idle()
        wait_until(lambda: server.descriptors() <= baseline.descriptors, 20, "descriptors")
        # With its log flushed, the name is there after the restart: nobody has taken it back.
        kept = ["before", "f"] if named and flag else ["before"]
        remounted(disk, server, kept, ["f"] if named else [])


def test_xfs_is_shut_down_before_the_name():
    shut_down("xfs", 300, False, "")


def test_xfs_is_shut_down_between_name_and_sync():
    shut_down("xfs", 300, True, "")


def test_xfs_is_shut_down_between_name_and_sync_with_its_log():
    shut_down("xfs", 300, True, "-f")


def test_ext4_is_shut_down_before_the_name():
    shut_down("ext4", 16, False, "")


def test_ext4_is_shut_down_between_name_and_sync():
    shut_down("ext4", 16, True, "")


if __name__ == "__main__":
    ingest.main()
