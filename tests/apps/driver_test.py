#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Where io_uring is refused, as container engines do, the server runs on epoll, and says so in one line.

The sysctl kernel.io_uring_disabled answers as the filter does. It is one for the whole machine, so it stays as it is.
"""

import ctypes
import errno
import os
import platform
import struct
import subprocess

import ingest
from ingest import Server, Skip, check, equal

PR_SET_NO_NEW_PRIVS = 38
PR_SET_SECCOMP = 22
SECCOMP_MODE_FILTER = 2
NUMBER_OF_IO_URING_SETUP = 425  # on every architecture


def filter_that_answers(error):
    """BPF: load the number of the call; io_uring_setup(2) fails with the error, all else is allowed."""
    return b"".join(struct.pack("HBBI", *words) for words in (
        (0x20, 0, 0, 0), (0x15, 0, 1, NUMBER_OF_IO_URING_SETUP), (0x06, 0, 0, 0x00050000 | error), (0x06, 0, 0, 0x7fff0000)))


def refuse_io_uring(error):
    """For a process that is about to be executed."""
    instructions = ctypes.create_string_buffer(filter_that_answers(error))
    program = struct.pack("HxxxxxxP", len(instructions) // 8, ctypes.addressof(instructions))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program):
        raise OSError(ctypes.get_errno(), "prctl")


def needs_io_uring():
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(NUMBER_OF_IO_URING_SETUP, 0, None) < 0 and ctypes.get_errno() not in (errno.EFAULT, errno.EINVAL):
        raise Skip("io_uring is refused here")


def driver_of(server):
    return next(line.split()[1] for line in server.block if line.startswith("  driver "))


def uploads_work(server):
    body = os.urandom(3 << 20)
    equal(server.put("whole", body).status, 201)
    equal((server.bucket / "whole").read_bytes(), body)
    connection = server.connect()
    connection.sendall(ingest.head("cut", 1 << 20) + b"some")
    ingest.wait_until(lambda: server.slots("upload", "held") == 1, 10, "it is in")
    connection.close()
    server.wait_idle()
    equal(server.published(), ["whole"])


def runs_where_refused(error, words):
    if platform.machine() not in ("x86_64", "aarch64"):
        raise Skip("the filter is for 64 bits, little end first")
    with Server("none", environment={"EW_DRIVER": ""}, preexec=lambda: refuse_io_uring(error),
                expected=("epoll is used instead",)) as server:
        equal(driver_of(server), "epoll")
        server.wait_log("epoll is used instead")
        [said] = [line for line in server.log().splitlines() if "epoll is used instead" in line]
        check(words in said, said)
        uploads_work(server)


def test_server_where_seccomp_refuses_io_uring_runs_on_epoll():
    runs_where_refused(errno.EPERM, "io_uring is refused here")


def test_server_on_a_kernel_without_io_uring_runs_on_epoll():
    runs_where_refused(errno.ENOSYS, "this kernel has no io_uring")


def runs_on(name, environment):
    with Server("none", environment=environment) as server:
        equal(driver_of(server), name)
        uploads_work(server)


def test_server_asked_for_epoll_runs_on_it():
    runs_on("epoll", {"EW_DRIVER": "epoll"})


def test_server_asked_for_io_uring_or_for_nothing_runs_on_it():
    needs_io_uring()
    runs_on("uring", {"EW_DRIVER": "uring"})
    runs_on("uring", {"EW_DRIVER": ""})


def refuses_to_start(environment, words, preexec=None):
    with ingest.folder() as folder:
        done = subprocess.run([str(ingest.SERVER), "serve", "--listen", "127.0.0.1:0", "--bucket", str(folder / "bucket"),
                               "--scanner", "none"], env={**os.environ, **environment}, preexec_fn=preexec,
                              stdin=subprocess.DEVNULL, capture_output=True, timeout=60 * ingest.SCALE, check=False)
    equal(done.returncode, 1, done.stderr.decode())
    said = done.stderr.decode()
    check(words in said, said)
    check("epoll is used instead" not in said, said)
    equal(done.stdout, b"")


def test_server_asked_for_io_uring_that_is_refused_does_not_start():
    refuses_to_start({"EW_DRIVER": "uring"}, "io_uring is refused here", lambda: refuse_io_uring(errno.EPERM))


def test_server_asked_for_a_driver_that_is_none_does_not_start():
    refuses_to_start({"EW_DRIVER": "kqueue"}, "EW_DRIVER=kqueue")


if __name__ == "__main__":
    ingest.main()
