#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The filesystem for tests does what its rules say, to whom they say it, and leaves no mount and no process behind."""

import ctypes
import errno
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import ingest
import testfs
from ingest import check, equal, in_background, wait_until

AT_FDCWD = -100
AT_SYMLINK_FOLLOW = 0x400
RENAME_NOREPLACE = 1
LIBC = ctypes.CDLL(None, use_errno=True)


def fails(word, function, *arguments):
    """The call fails with this error."""
    try:
        function(*arguments)
    except OSError as error:
        equal(os.strerror(error.errno), os.strerror(getattr(errno, word)))
        return
    raise AssertionError(f"no {word}")


def rename(source, target, flags=0):
    if LIBC.renameat2(AT_FDCWD, os.fsencode(source), AT_FDCWD, os.fsencode(target), flags) < 0:
        raise OSError(ctypes.get_errno(), "renameat2")


def link(fd, target):
    """The file behind a descriptor gets a name."""
    if LIBC.linkat(AT_FDCWD, b"/proc/self/fd/%d" % fd, AT_FDCWD, os.fsencode(target), AT_SYMLINK_FOLLOW) < 0:
        raise OSError(ctypes.get_errno(), "linkat")


def sync_folder(path):
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def expect_gone(filesystem):
    equal(testfs.mounted_at(filesystem.mount), [], "mounts")
    check(filesystem.process.poll() is not None, "the process has ended")
    check(not filesystem.folder.exists(), "its folder is removed")


def test_without_rules_it_is_the_folder():
    with testfs.Filesystem() as filesystem:
        mount, backing = filesystem.mount, filesystem.backing
        file = mount / "file"
        body = os.urandom(3_000_000)
        file.write_bytes(body)
        equal((backing / "file").read_bytes(), body)
        os.link(file, mount / "second")
        equal(os.stat(file).st_ino, os.stat(mount / "second").st_ino, "one inode")
        equal(os.stat(file).st_nlink, 2)
        fails("EEXIST", os.link, file, mount / "second")
        fails("EEXIST", rename, file, mount / "second", RENAME_NOREPLACE)
        (mount / "folder").mkdir()
        rename(file, mount / "folder" / "third", RENAME_NOREPLACE)
        equal(sorted(os.listdir(mount)), ["folder", "second"])
        os.truncate(mount / "second", 10)
        equal((mount / "folder" / "third").read_bytes(), body[:10], "by either name")
        os.chmod(mount / "second", 0o640)
        os.utime(mount / "second", (1, 2))
        state = os.stat(backing / "second")
        equal((state.st_mode & 0o777, state.st_mtime), (0o640, 2))
        sync_folder(mount)
        equal(os.statvfs(mount).f_blocks, os.statvfs(backing).f_blocks)
        fails("EOPNOTSUPP", os.open, mount, os.O_TMPFILE | os.O_RDWR)
        fails("ENOENT", os.stat, mount / "none")
        os.unlink(mount / "second")
        fails("ENOTEMPTY", os.rmdir, mount / "folder")
        os.unlink(mount / "folder" / "third")
        os.rmdir(mount / "folder")
        equal(os.listdir(backing), [])
    expect_gone(filesystem)


def test_file_without_a_name_goes_on():
    """As the server reclaims one: cut through /proc/self/fd, looked at, closed."""
    with testfs.Filesystem() as filesystem:
        with open(filesystem.mount / "file", "w+b") as file:
            file.write(b"x" * 10_000)
            file.flush()
            os.unlink(filesystem.mount / "file")
            equal(os.listdir(filesystem.mount), [], "not even under another name")
            os.truncate(f"/proc/self/fd/{file.fileno()}", 4000)
            equal(os.fstat(file.fileno()).st_size, 4000)
            equal(os.fstat(file.fileno()).st_nlink, 0)
            with open(f"/proc/self/fd/{file.fileno()}", "rb") as again:
                equal(again.read(), b"x" * 4000)


def test_nameless_files():
    with testfs.Filesystem(nameless=True) as filesystem:
        mount = filesystem.mount
        fd = os.open(mount, os.O_TMPFILE | os.O_RDWR, 0o640)
        try:
            os.write(fd, b"abc")
            equal((os.listdir(mount), os.listdir(filesystem.backing)), ([], []))
            equal((os.fstat(fd).st_nlink, os.fstat(fd).st_mode & 0o777, os.fstat(fd).st_size), (0, 0o640, 3))
            fails("EXDEV", link, fd, filesystem.folder / "elsewhere")
            link(fd, mount / "file")
            fails("EEXIST", link, fd, mount / "file")
            equal((filesystem.backing / "file").read_bytes(), b"abc")
            equal(os.fstat(fd).st_ino, os.stat(mount / "file").st_ino)
            equal(filesystem.counts()["tmpfile"], 1)
        finally:
            os.close(fd)
        filesystem.rule("tmpfile", error="ENOSPC")
        fails("ENOSPC", os.open, mount, os.O_TMPFILE | os.O_RDWR)
        filesystem.clear()
        descriptors = pathlib.Path(f"/proc/{filesystem.process.pid}/fd")
        before = len(os.listdir(descriptors))
        for _ in range(100):
            os.close(os.open(mount, os.O_TMPFILE | os.O_RDWR))
        wait_until(lambda: len(os.listdir(descriptors)) <= before, 20, "they are gone")


def test_two_thousand_names_are_listed_and_forgotten():
    with testfs.Filesystem() as filesystem:
        names = {f"a-name-of-some-length-{number}" for number in range(2000)}
        for name in names:
            (filesystem.mount / name).touch()
        equal(set(os.listdir(filesystem.mount)), names)
        for name in names:
            os.unlink(filesystem.mount / name)
        descriptors = pathlib.Path(f"/proc/{filesystem.process.pid}/fd")
        wait_until(lambda: len(os.listdir(descriptors)) < 100, 20, "inodes are forgotten")


def test_errors():
    with testfs.Filesystem() as filesystem:
        path = filesystem.mount / "file"
        path.write_bytes(b"x")
        fd = os.open(path, os.O_RDWR)
        try:
            number = filesystem.rule("fsync", error="EIO")
            fails("EIO", os.fsync, fd)
            fails("EIO", os.fdatasync, fd)
            sync_folder(filesystem.mount)
            filesystem.clear(number)
            os.fsync(fd)
            filesystem.rule("fsyncdir", error="EDQUOT")
            fails("EDQUOT", sync_folder, filesystem.mount)
            os.fsync(fd)
            filesystem.rule("truncate", error="EPERM")
            fails("EPERM", os.ftruncate, fd, 0)
            filesystem.clear()
            os.ftruncate(fd, 0)
            sync_folder(filesystem.mount)
            filesystem.rule("statfs", error="EACCES")
            fails("EACCES", os.statvfs, filesystem.mount)
        finally:
            filesystem.clear()
            os.close(fd)


def test_after_a_number_of_calls():
    with testfs.Filesystem() as filesystem:
        fd = os.open(filesystem.mount / "file", os.O_RDWR | os.O_CREAT)
        try:
            filesystem.rule("write", error="ENOSPC", after=3)
            for number in range(3):
                os.pwrite(fd, b"x", number)
            for _ in range(3):
                fails("ENOSPC", os.pwrite, fd, b"x", 3)
            equal(os.fstat(fd).st_size, 3)
        finally:
            os.close(fd)


def test_a_number_of_times():
    with testfs.Filesystem() as filesystem:
        (filesystem.mount / "file").touch()
        filesystem.rule("link", error="EIO", after=1, times=2)
        os.link(filesystem.mount / "file", filesystem.mount / "a")
        for _ in range(2):
            fails("EIO", os.link, filesystem.mount / "file", filesystem.mount / "b")
        os.link(filesystem.mount / "file", filesystem.mount / "b")
        equal(sorted(os.listdir(filesystem.backing)), ["a", "b", "file"])


def test_paths():
    with testfs.Filesystem() as filesystem:
        for folder in ("bucket", "bucket.state"):
            (filesystem.mount / folder).mkdir()
        filesystem.rule("create", error="EIO", path="/bucket/*")
        fails("EIO", (filesystem.mount / "bucket" / "file").touch)
        file = filesystem.mount / "bucket.state" / "file"
        file.write_bytes(b"x")
        filesystem.rule("write", error="EIO", path="/bucket.state/file")
        fails("EIO", file.write_bytes, b"x")
        (filesystem.mount / "bucket.state" / "other").write_bytes(b"x")
        filesystem.rule("fsyncdir", error="EIO", path="/bucket")
        sync_folder(filesystem.mount / "bucket.state")
        fails("EIO", sync_folder, filesystem.mount / "bucket")


def test_what_can_be_lacking():
    with testfs.Filesystem() as filesystem:
        file, other = filesystem.mount / "file", filesystem.mount / "other"
        file.touch()
        filesystem.without("link")
        fails("EOPNOTSUPP", os.link, file, other)
        filesystem.without("rename-noreplace")
        fails("EINVAL", rename, file, other, RENAME_NOREPLACE)
        rename(file, other)
        filesystem.clear()
        rename(other, file, RENAME_NOREPLACE)
        os.link(file, other)


def test_delays_hold_up_nobody_else():
    """Removals in eight folders are late at the same time, and a delay ends early with its rule."""
    with testfs.Filesystem() as filesystem:
        folders = [filesystem.mount / f"folder{number}" for number in range(8)]
        for folder in folders:
            folder.mkdir()
            (folder / "file").touch()
        filesystem.rule("unlink", delay_ms=600_000)
        removals = [in_background(os.unlink, folder / "file") for folder in folders]
        filesystem.wait_waiting("unlink", len(folders))
        filesystem.clear()
        for removal in removals:
            removal.result(20)
        check(not any(os.listdir(folder) for folder in folders), "all are removed")


def test_delays():
    with testfs.Filesystem() as filesystem:
        filesystem.rule("mkdir", delay_ms=100)
        filesystem.rule("mkdir", delay_ms=150, times=1)
        for least in (0.25, 0.1):
            start = time.monotonic()
            os.mkdir(filesystem.mount / f"folder{least}")
            check(time.monotonic() - start >= least, f"{least} s")


def test_hangs_until_released():
    with testfs.Filesystem() as filesystem:
        for name in ("a", "b", "c"):
            (filesystem.mount / name).touch()
        number = filesystem.rule("unlink", hang=True, times=1)
        removal = in_background(os.unlink, filesystem.mount / "a")
        filesystem.wait_waiting("unlink")
        check((filesystem.backing / "a").exists(), "not removed yet")
        equal(filesystem.waiting("unlink"), 1)
        filesystem.clear(number)
        removal.result(20)
        equal(sorted(os.listdir(filesystem.backing)), ["b", "c"])
        os.unlink(filesystem.mount / "c")
        equal(filesystem.waiting("unlink"), 0)
        filesystem.rule("unlink", hang=True, error="EIO")
        removal = in_background(os.unlink, filesystem.mount / "b")
        filesystem.wait_waiting("unlink")
        filesystem.clear()
        fails("EIO", removal.result, 20)


def test_many_hang_and_others_pass():
    with testfs.Filesystem() as filesystem:
        filesystem.rule("create", hang=True, path="/folder*/file")
        for number in range(100):
            (filesystem.mount / f"folder{number}").mkdir()
        hanging = [in_background((filesystem.mount / f"folder{number}" / "file").touch) for number in range(100)]
        filesystem.wait_waiting("create", 100)
        (filesystem.mount / "passes").touch()
        filesystem.clear()
        for one in hanging:
            one.result()


def test_every_call_hangs():
    with testfs.Filesystem() as filesystem:
        filesystem.rule("every", hang=True)
        looking = in_background(os.listdir, filesystem.mount)
        wait_until(lambda: sum(waiting for _, waiting in filesystem.table().values()), 20, "it hangs")
        filesystem.clear()
        equal(looking.result(20), [])
        filesystem.rule("every", error="ESTALE")
        fails("ESTALE", os.listdir, filesystem.mount)
        filesystem.clear()


def test_counts():
    with testfs.Filesystem() as filesystem:
        before = filesystem.counts()
        equal(before["write"] + before["fsync"] + before["unlink"], 0)
        fd = os.open(filesystem.mount / "file", os.O_RDWR | os.O_CREAT)
        for number in range(5):
            os.pwrite(fd, b"x", number)
        os.fsync(fd)
        os.close(fd)
        sync_folder(filesystem.mount)
        filesystem.rule("unlink", error="EIO")
        fails("EIO", os.unlink, filesystem.mount / "file")
        counts = filesystem.counts()
        for kind, count in (("create", 1), ("write", 5), ("fsync", 1), ("fsyncdir", 1), ("unlink", 1), ("link", 0)):
            equal(counts[kind], count, kind)


def test_mistakes_are_told():
    with testfs.Filesystem() as filesystem:
        for line in ("rule", "rule none", "rule write error=ENONE", "rule write delay=x", "rule write wait", "clear x",
                     "none", "", "rule write path=" + "x" * 300):
            try:
                filesystem.command(line)
            except ValueError:
                continue
            raise AssertionError(f"taken: {line}")
        (filesystem.mount / "file").write_bytes(b"x")


def test_unmounted_by_an_administrator():
    with testfs.Filesystem() as filesystem:
        (filesystem.mount / "file").touch()
        equal(filesystem.unmount(), 0)
        equal(testfs.mounted_at(filesystem.mount), [])
        equal(os.listdir(filesystem.mount), [], "the folder below it is as before")
        check(not filesystem.socket.exists(), "the socket is removed")
    expect_gone(filesystem)


def test_ended_while_calls_hang():
    for number in (signal.SIGTERM, signal.SIGINT):
        with testfs.Filesystem() as filesystem:
            filesystem.rule("create", hang=True)
            making = in_background((filesystem.mount / "file").touch)
            filesystem.wait_waiting("create")
            filesystem.process.send_signal(number)
            equal(filesystem.process.wait(20), 0)
            fails("ECONNABORTED", making.result, 20)
        expect_gone(filesystem)


def test_ended_with_an_open_file():
    with testfs.Filesystem() as filesystem:
        fd = os.open(filesystem.mount / "file", os.O_RDWR | os.O_CREAT)
        equal(filesystem.end(), 0)
        fails("ENOTCONN", os.write, fd, b"x")
        fails("ENOTCONN", os.close, fd)
    expect_gone(filesystem)


def test_ends_when_its_test_is_killed():
    script = ("import testfs, time\n"
              "filesystem = testfs.Filesystem().__enter__()\n"
              "print(filesystem.process.pid, filesystem.folder, flush=True)\n"
              "time.sleep(600)\n")
    with testfs.Filesystem():
        pass  # it works here, so what the child prints is no reason to skip
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=pathlib.Path(__file__).parent)
    try:
        pid, folder = child.stdout.readline().decode().split()
        check(testfs.mounted_at(f"{folder}/mount"), "it is mounted")
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    wait_until(lambda: not testfs.mounted_at(f"{folder}/mount"), 20, "it is unmounted")
    wait_until(lambda: not is_running(pid), 20, "it has ended")
    for name in ("mount", "backing"):
        os.rmdir(f"{folder}/{name}")
    if testfs.mounted_at(folder):
        subprocess.run(["umount", "-l", folder], check=True)
    shutil.rmtree(folder)


def is_running(pid):
    """Who is to take its status is not ours to know: one that has ended is not running."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


if __name__ == "__main__":
    ingest.main()
