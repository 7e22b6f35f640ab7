#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Shutdown: within the grace uploads finish, after it they are cut, a second signal does not wait; the exit status tells."""

import signal

import ingest
import testfs
from ingest import Clamd, Server, check, equal, wait_until


def ends(server, status, seconds=30):
    """Within far less than a grace of 600 s."""
    equal(server.process.wait(seconds * ingest.SCALE), status, f"exit status: {server.log()[-800:]}")


def refuses(server):
    try:
        server.connect().close()
        return False
    except OSError:
        return True


def test_idle_server_ends_at_once():
    for number in (signal.SIGTERM, signal.SIGINT):
        with Server("none", "--grace", "600") as server:
            idle = server.connect()
            idle.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            equal(ingest.read_answer(idle).status, 200)
            server.process.send_signal(number)
            ends(server, 0)
            check(idle.recv(1) == b"", "the idle connection was closed")


def test_upload_finishes_within_the_grace():
    with Server("none", "--grace", "20") as server:
        connection = server.begin("f")
        wait_until(lambda: server.slots("upload", "held") == 1, 10, "it is in")
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "event=draining" in server.log(), 10, "draining")
        server.settle()
        ingest.finish(connection)
        answer = ingest.read_answer(connection)
        equal(answer.status, 201)
        equal(answer.headers["Connection"], "close")
        connection.close()
        ends(server, 0)
        equal((server.bucket / "f").read_bytes(), ingest.HELD)


def test_next_upload_is_refused_while_draining():
    with Server("none", "--grace", "20") as server:
        busy = server.begin("busy")
        wait_until(lambda: server.slots("upload", "held") == 1, 10, "it is in")
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "event=draining" in server.log(), 10, "draining")

        wait_until(lambda: refuses(server), 10, "new connections are refused")
        ingest.finish(busy)
        equal(ingest.read_answer(busy).status, 201)
        busy.close()
        ends(server, 0)


def test_upload_that_does_not_finish_is_cut():
    with Server("none", "--grace", "1") as server:
        connection = server.begin("f")
        wait_until(lambda: server.slots("upload", "held") == 1, 10, "it is in")
        server.process.send_signal(signal.SIGTERM)
        answer = ingest.read_answer(connection)
        answer.problem(503, "shutting-down")
        check(int(answer.headers["Retry-After"]) >= 1, "Retry-After")
        ends(server, 3)
        equal(server.transitions("f"), ["RECEIVING", "CANCELLED"])
        check("the server shut down" in server.log(), "the log says why")
        equal(server.published(), [])


def test_upload_that_is_cut_was_not_left_by_who_leaves_after_that():
    """The end of its file takes long, and its client goes away meanwhile."""
    with testfs.Filesystem(nameless=True) as filesystem, \
            Server("none", "--grace", "0", bucket=filesystem.mount / "bucket") as server:
        filesystem.rule("flush", hang=True)
        connection = server.begin("f")
        wait_until(lambda: server.metric("ingest_received_bytes_total") == len(ingest.HELD) - 1, 10, "it is written")
        server.process.send_signal(signal.SIGTERM)
        filesystem.wait_waiting("flush")
        ingest.reset(connection)
        server.settle()
        filesystem.clear()
        ends(server, 3)
        check("the server shut down" in server.log(), "the log says why")


def test_request_in_line_for_a_slot_is_told_when_it_is_cut():
    with Server("none", "--grace", "1", "--upload-slots", "1") as server:
        _holder, waiting = server.begin("holder"), server.connect()
        wait_until(lambda: server.slots("upload", "held") == 1, 10, "it is in")
        waiting.sendall(ingest.head("waiting", 4, "Expect: 100-continue\r\n"))
        server.wait_in_line(1)
        server.process.send_signal(signal.SIGTERM)
        ingest.read_answer(waiting).problem(503, "shutting-down")
        ends(server, 3)
        check(" status=503 target=/files/waiting " in server.log(), "the log says it")
        equal(server.transitions("waiting"), [])


def test_upload_past_its_commit_point_is_told_that_it_was_published():
    """The sync of its name is under way when everything is cut."""
    with testfs.Filesystem(nameless=True) as filesystem, \
            Server("none", "--grace", "0", bucket=filesystem.mount / "bucket") as server:
        filesystem.rule("fsyncdir", hang=True)
        connection = server.connect()
        connection.sendall(ingest.head("f", 2) + b"ab")
        filesystem.wait_waiting("fsyncdir")
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "event=draining" in server.log(), 10, "draining")
        server.settle()
        filesystem.clear()
        equal(ingest.read_answer(connection).status, 201)
        ends(server, 0)
        equal((server.bucket / "f").read_bytes(), b"ab")


def test_second_signal_does_not_wait():
    with Server("none", "--grace", "600") as server:
        connection = server.begin("f")
        wait_until(lambda: server.slots("upload", "held") == 1, 10, "it is in")
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "event=draining" in server.log(), 10, "draining")
        server.process.send_signal(signal.SIGTERM)
        ends(server, 4)
        equal(server.transitions("f"), ["RECEIVING", "CANCELLED"])
        equal(server.published(), [])


def test_second_signal_does_not_wait_for_the_scanner():
    """No upload is left, only a scan slot whose scanner has not stopped; the grace is longer than the test."""
    with Clamd() as clamd, Server(f"clamd:{clamd.socket}", "--grace", "600") as server:
        clamd.stop_answering()
        connection = server.connect()
        connection.sendall(ingest.head("f", 1) + b"x")
        wait_until(lambda: server.slots("scan", "held") == 1, 20, "a scan is on its way")
        ingest.reset(connection)
        wait_until(lambda: server.slots("scan", "cancelling") == 1, 20, "the slot is cancelling")
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: refuses(server), 10, "draining")
        server.process.send_signal(signal.SIGTERM)
        ends(server, 4)
        check("event=scan-slot-presumed" in server.log(), server.log()[-500:])


def test_restart_takes_the_same_bucket():
    with Server() as server:
        equal(server.put("f", b"x").status, 201)
        server.process.send_signal(signal.SIGTERM)
        ends(server, 0)
        server.process.stdout.close()
        server.start()
        equal(server.published(), ["f"])
        server.put("f", b"y").problem(409, "name-taken")


if __name__ == "__main__":
    ingest.main()
