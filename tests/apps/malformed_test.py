#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every request of the table tests/apps/malformed/table against the real server: the right answer, a
closed connection, nothing published that was not acknowledged, and nothing left behind."""

import pathlib
import re
import socket

import ingest
from ingest import Baseline, Server, check, equal

TABLE = pathlib.Path(__file__).resolve().parent / "malformed" / "table"
SIMPLE = {b"r": b"\r", b"n": b"\n", b"t": b"\t", b"\\": b"\\"}


def unescape(text):
    """The bytes that a line of the table stands for."""
    def replace(match):
        if match["count"]:
            return int(match["count"]) * unescape(match["text"])
        if match["hex"]:
            return bytes([int(match["hex"], 16)])
        return SIMPLE[match["one"]]
    return re.sub(rb"\\(?:\{(?P<count>\d+) (?P<text>.*?)\\\}|x(?P<hex>[0-9a-f]{2})|(?P<one>[rnt\\]))",
                  replace, text)


def table():
    for line in TABLE.read_bytes().split(b"\n"):
        if line and not line.startswith(b"#"):
            outcome, name, text = line.split(b" ", 2)
            yield outcome.decode(), name.decode(), unescape(text)


def exchange(server, data, finish):
    """Sends, perhaps says that this was all, and reads to the end; what came, or None after a reset."""
    received = b""
    with server.connect() as connection:
        try:
            connection.sendall(data)
            if finish:
                connection.shutdown(socket.SHUT_WR)
            while piece := connection.recv(65536):
                received += piece
        except (BrokenPipeError, ConnectionResetError):
            return None
    return received


def statuses(received):
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", received)]


def test_malformed_requests_get_their_status_and_a_closed_connection():
    wrong, acknowledged = [], set()
    with Server(memory=True) as server:
        baseline = Baseline(server)
        for outcome, name, data in table():
            if not outcome.isdigit():
                continue
            received = exchange(server, data, False)
            found = statuses(received) if received is not None else None
            if not found or found[-1] != int(outcome):
                wrong.append(f"{name}: {found}, not {outcome}")
            elif b"\r\nConnection: close\r\n" not in received or b"application/problem+json" not in received:
                wrong.append(f"{name}: {received[-300:]!r}")
            if received and 201 in found:  # a whole upload, with the malformed request behind it
                acknowledged.update(re.findall(r'"name": "(.*?)"', received.decode()))
        equal(wrong, [], "answers")
        baseline.restored()
        equal(server.published(), sorted(acknowledged), "published files")


def test_well_formed_requests_of_the_table_are_all_answered():
    wrong = []
    with Server("none", "--client-half-close", "finish", memory=True) as server:
        baseline = Baseline(server)
        for outcome, name, data in table():
            if not outcome.startswith("ok:"):
                continue
            received = exchange(server, data, True)
            found = statuses(received) if received is not None else None
            # Each is answered, in some way that is not about HTTP, unless an early refusal ended the connection.
            if not found or any(status in (400, 414, 431, 500, 501, 505) for status in found):
                wrong.append(f"{name}: {found}")
        equal(wrong, [], "answers")
        baseline.restored()


def test_close_at_every_byte_of_an_upload_publishes_nothing():
    data = (b"PUT /files/cut HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
            b"Connection: close\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
    with Server(memory=True) as server:
        baseline = Baseline(server)
        for end in range(len(data)):
            with server.connect() as connection:
                connection.sendall(data[:end])
                if end % 3 == 0:
                    connection.shutdown(socket.SHUT_WR)
                    check(not statuses(connection.recv(65536)), f"an answer to {end} bytes")
                elif end % 3 == 1:
                    ingest.reset(connection)
        baseline.restored()
        equal(server.published(), [], "published files")
        equal(exchange(server, data, False)[:12], b"HTTP/1.1 201", "the whole of it")


if __name__ == "__main__":
    ingest.main(600)
