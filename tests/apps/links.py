# SPDX-License-Identifier: Apache-2.0
"""Clients on a machine of their own, as far as the server can tell: a network namespace behind a link that dies without a word.

The namespace has no name: it goes, and the link with it, when its descriptor is closed, however this process ends.
"""

import contextlib
import ctypes
import errno
import os
import shutil
import subprocess

import ingest
from ingest import Skip

CLONE_NEWNET = 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)


def call(function, *arguments):
    if function(*arguments) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def open_namespace():
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def ip(words):
    done = subprocess.run(["ip", *words.split()], capture_output=True, check=False,
                          env={**os.environ, "PATH": ingest.PATH})
    ingest.equal(done.returncode, 0, f"ip {words}: {done.stderr.decode(errors='replace').strip()}")


class Link:
    """Two ends with an address each: @near is here, @far in the namespace."""

    def __init__(self):
        number = os.getpid()
        network = f"198.18.{number >> 6 & 255}."
        self.near, self.far = (network + str((number << 2 & 255) + host) for host in (1, 2))
        self.name = f"ew{number}"
        self.home = self.away = None

    def __enter__(self):
        if not ingest.IS_ROOT:
            raise Skip("needs root")
        if not shutil.which("ip", path=ingest.PATH):
            raise Skip("ip is not installed")
        self.home = open_namespace()
        try:
            call(LIBC.unshare, CLONE_NEWNET)
            self.away = open_namespace()
            call(LIBC.setns, self.home, CLONE_NEWNET)
            self.connect()
        except OSError as error:
            self.__exit__()
            if error.errno in (errno.EPERM, errno.EINVAL, errno.ENOSYS):
                raise Skip(f"no network namespace: {error.strerror}") from None
            raise
        except BaseException:
            self.__exit__()
            raise
        return self

    def connect(self):
        try:
            ip(f"link add {self.name} type veth peer name far netns /proc/{os.getpid()}/fd/{self.away}")
        except AssertionError as error:
            raise Skip(f"no link: {error}") from None
        ip(f"address add {self.near}/30 dev {self.name}")
        ip(f"link set {self.name} up")
        with self.there():
            ip(f"address add {self.far}/30 dev far")
            ip("link set far up")

    def __exit__(self, *_):
        # Connections that cannot say goodbye would keep it for minutes.
        with contextlib.suppress(AssertionError):
            ip(f"link delete {self.name}")
        for descriptor in (self.home, self.away):
            if descriptor is not None:
                os.close(descriptor)

    @contextlib.contextmanager
    def there(self):
        """Sockets and processes that are made meanwhile are in the namespace."""
        call(LIBC.setns, self.away, CLONE_NEWNET)
        try:
            yield
        finally:
            call(LIBC.setns, self.home, CLONE_NEWNET)

    def is_cut(self):
        """The cable is out on the other side."""
        with self.there():
            ip("link set far down")

    def is_a_black_hole(self):
        """What comes arrives, and nothing comes back."""
        with self.there():
            ip(f"route add blackhole {self.near}/32")
