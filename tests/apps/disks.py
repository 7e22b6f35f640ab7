# SPDX-License-Identifier: Apache-2.0
"""Disks of a test's own, good and bad, each a context manager: what was mounted, attached or started is away after it."""

import contextlib
import errno
import os
import pathlib
import shutil
import subprocess

import ingest
import testfs
from ingest import Skip, wait_until

SMALLEST = {"ext4": 4, "xfs": 300, "btrfs": 128}  # MiB
MKFS = {
    # No lazy work: nothing is written behind a test's back.
    "ext4": ["mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard"],
    "xfs": ["mkfs.xfs", "-q", "-f", "-K"],
    "btrfs": ["mkfs.btrfs", "-q", "-f", "-K"],
}


def run(*command, check=True):
    return subprocess.run([str(word) for word in command], check=check, capture_output=True, text=True,
                          timeout=60 * ingest.SCALE, env={**os.environ, "PATH": ingest.PATH})


def needs(*commands):
    if not ingest.IS_ROOT:
        raise Skip("mounting needs root")
    for command in commands:
        if not shutil.which(command, path=ingest.PATH):
            raise Skip(f"{command} is not installed")


def attempt(*command):
    """Something that a machine may not allow."""
    done = run(*command, check=False)
    if done.returncode:
        raise Skip(f"{command[0]} does not work here: {done.stderr.strip()[-200:]}")
    return done.stdout.strip()


@contextlib.contextmanager
def mounted(*words):
    """mount WORDS FOLDER; the last of @words is the folder."""
    attempt("mount", *words)
    try:
        yield pathlib.Path(words[-1])
    finally:
        if run("umount", words[-1], check=False).returncode:
            run("umount", "-l", words[-1], check=False)


@contextlib.contextmanager
def attached(file):
    """A loop device for a file."""
    device = attempt("losetup", "-f", "--show", file)
    try:
        yield device
    finally:
        run("losetup", "-d", device, check=False)


class Disk:
    """A filesystem that can be mounted again: `device`, `mount`."""

    def __init__(self, place, device, kind, options):
        self.device, self.kind, self.options = device, kind, options
        self.mount = place / "mount"
        self.mount.mkdir()

    def mounted(self):
        return mounted("-o", self.options, self.device, self.mount)


@contextlib.contextmanager
def disk(kind, megabytes=None, format_options=(), options="rw"):
    """A new filesystem on a loop device, not yet mounted."""
    needs(MKFS[kind][0], "losetup")
    with ingest.folder() as place:
        image = place / "image"
        with open(image, "wb") as file:
            file.truncate((megabytes or SMALLEST[kind]) << 20)
        attempt(*MKFS[kind], *format_options, image)
        with attached(image) as device:
            yield Disk(place, device, kind, options)


@contextlib.contextmanager
def memory(megabytes):
    """A small tmpfs; its folder."""
    needs()
    with ingest.folder() as place, mounted("-t", "tmpfs", "-o", f"size={megabytes}M", "tmpfs", place) as mount:
        yield mount


@contextlib.contextmanager
def program(*command):
    """A program that ends with the block."""
    with subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL, env={**os.environ, "PATH": ingest.PATH}) as process:
        try:
            yield process
        finally:
            ingest.end_process(process)


class Faulty(Disk):
    """A disk in memory whose writes fail while `fails` exists."""

    def fail(self):
        self.fails.touch()

    def heal(self):
        self.fails.unlink(missing_ok=True)


class Unflushable(Disk):
    """A disk that takes every write, and fails when it is told to keep them."""

    def fail(self):
        self.filesystem.rule("fsync", error="EIO")

    def heal(self):
        self.filesystem.clear()


@contextlib.contextmanager
def unflushable(kind, megabytes=None, options="rw"):
    """A loop device over a file on our own filesystem: what the disk is told to flush becomes an fsync there."""
    needs(MKFS[kind][0], "losetup")
    with ingest.folder() as place, testfs.Filesystem() as filesystem:
        with open(filesystem.backing / "image", "wb") as file:
            file.truncate((megabytes or SMALLEST[kind]) << 20)
        attempt(*MKFS[kind], filesystem.backing / "image")
        with attached(filesystem.mount / "image") as device:
            bad = Unflushable(place, device, kind, options)
            bad.filesystem = filesystem
            try:
                yield bad
            finally:
                bad.heal()


def quota(mount, megabytes):
    """Limits what a btrfs may hold, and gives a function that says what it does hold."""
    attempt("btrfs", "quota", "enable", mount)
    attempt("btrfs", "qgroup", "limit", f"{megabytes}M", mount)

    def used():
        run("btrfs", "filesystem", "sync", mount)
        (row,) = [line.split() for line in attempt("btrfs", "qgroup", "show", "--raw", mount).splitlines()
                  if line.startswith("0/5")]
        return int(row[1])

    return used


@contextlib.contextmanager
def full(mount):
    """Something takes all that is left, to the block."""
    filler = mount / "filler"
    with open(filler, "wb") as file:
        size, piece = 0, 1 << 26
        while piece >= 512:
            try:
                os.posix_fallocate(file.fileno(), size, piece)
                size += piece
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                piece //= 2
    try:
        yield
    finally:
        filler.unlink()


@contextlib.contextmanager
def faulty(kind, megabytes=None, options="rw", error="EIO"):
    """nbdkit makes the errors, nbdfuse makes it a file, a loop device makes it a disk. The kernel needs no NBD."""
    needs(MKFS[kind][0], "losetup", "nbdkit", "nbdfuse", "fusermount3")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        raise Skip("/dev/fuse cannot be used here")
    size = (megabytes or SMALLEST[kind]) << 20
    with ingest.folder() as place:
        socket, fails, files = place / "socket", place / "fails", place / "files"
        files.mkdir()
        with program("nbdkit", "-f", "--exit-with-parent", "-U", socket, "--filter=error", "memory", size,
                     f"error-file={fails}", f"error-pwrite={error}", "error-pwrite-rate=100%"):
            wait_until(socket.exists, 20, "nbdkit listens")
            with unmounting(files), program("nbdfuse", files / "disk", f"nbd+unix:///?socket={socket}") as fuse:
                wait_until(lambda: (files / "disk").exists() or fuse.poll() is not None, 20, "nbdfuse has mounted")
                if fuse.poll() is not None:
                    raise Skip("nbdfuse does not work here")
                attempt(*MKFS[kind], files / "disk")
                with attached(files / "disk") as device:
                    bad = Faulty(place, device, kind, options)
                    bad.fails = fails
                    try:
                        yield bad
                    finally:
                        bad.heal()


@contextlib.contextmanager
def unmounting(folder):
    """A program inside mounts this; if it does not unmount it itself in the end, we do."""
    try:
        yield
    finally:
        run("fusermount3", "-u", "-z", folder, check=False)
