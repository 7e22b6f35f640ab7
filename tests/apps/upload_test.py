#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Uploads that go well, and those that are refused: what clients see, and what is in the bucket afterwards."""

import contextlib
import fcntl
import hashlib
import os
import pathlib
import shutil
import signal
import socket
import stat
import subprocess
import time

import browser
import ingest
from ingest import EICAR, Clamd, Server, check, equal


def curl(*arguments, seconds=60):
    if not shutil.which("curl"):
        raise ingest.Skip("curl is not installed")
    result = subprocess.run(["curl", "-sS", "--noproxy", "*", *map(str, arguments)], capture_output=True,
                            timeout=seconds * ingest.SCALE, check=False)
    equal(result.returncode, 0, f"curl: {result.stderr.decode()}")
    return result.stdout.decode()


def test_real_media_through_curl_and_clamd_are_byte_identical():
    with ingest.folder() as media_folder, Clamd() as clamd, Server(f"clamd:{clamd.socket}") as server:
        files = ingest.media(media_folder)
        for suffix in (".png", ".flac"):
            path = files[suffix]
            out = curl("-D", "-", "-T", path, f"{server.url}/files/{path.name}")
            check(out.startswith("HTTP/1.1 201") or "HTTP/1.1 201" in out, f"201: {out}")
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            check(f'"sha256": "{digest}"' in out, "the digest is in the answer")
            check('"verdict": "clean"' in out and "ClamAV" in out, "verdict and engine are in the answer")
            equal((server.bucket / path.name).read_bytes(), path.read_bytes(), path.name)
        check(files[".flac"].stat().st_size > 1 << 20, "the sound is some MB")


def test_eicar_is_refused_and_never_visible():
    with Clamd() as clamd, Server(f"clamd:{clamd.socket}") as server:
        answer = server.put("eicar.com", EICAR)
        detail = answer.problem(422, "infected")
        check("Eicar-Test-Signature" in detail, f"the signature is named: {detail}")
        equal(server.published(), [])
        story = server.request("GET", answer.json["instance"]).json
        equal(story["state"], "REJECTED")
        equal(story["verdict"], "infected")
        equal([chapter["state"] for chapter in story["story"]],
              ["RECEIVING", "SEALED", "SCANNING", "VERDICT", "REJECTED"])
        server.wait_idle()


def test_answer_and_story_of_a_published_file():
    with Server() as server:
        answer = server.put("a%20file.txt", b"hello")
        equal(answer.status, 201)
        equal(answer.headers["Content-Type"], "application/json")
        body = answer.json
        equal(body["name"], "a file.txt")
        equal(body["size"], 5)
        equal(body["sha256"], hashlib.sha256(b"hello").hexdigest())
        equal(body["verdict"], "unscanned")
        check("warning" in body, "an unscanned file is warned about")
        equal(server.metric('ingest_scans_total{result="unscanned"}'), 1)
        equal(answer.headers["Location"], f"/uploads/{body['id']}")
        check("WARNING" in "\n".join(server.block), "the start block warns too")

        path = server.bucket / "a file.txt"
        equal(path.read_bytes(), b"hello")
        equal(stat.S_IMODE(path.stat().st_mode), 0o640)

        story = server.request("GET", answer.headers["Location"]).json
        equal(story["state"], "PUBLISHED")
        equal([chapter["state"] for chapter in story["story"]],
              ["RECEIVING", "SEALED", "VERDICT", "PUBLISHING", "PUBLISHED"])
        equal(server.request("GET", "/uploads/" + "0" * 32).status, 404)
        equal(server.request("GET", "/uploads/").status, 404)
        ingest.wait_until(lambda: len([line for line in server.log().splitlines() if body["id"] in line]) == 5, 5,
                          "one log line for each of five states")


def test_empty_file_and_chunked_file():
    with Server() as server:
        equal(server.put("empty", b"", headers={"Content-Length": "0"}).status, 201)
        equal((server.bucket / "empty").read_bytes(), b"")

        body = os.urandom(3_000_000)
        pieces = (body[at:at + 70_001] for at in range(0, len(body), 70_001))
        connection = server.connect()
        connection.sendall(ingest.head("chunked"))
        for piece in pieces:
            connection.sendall(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        connection.sendall(b"0\r\n\r\n")
        equal(ingest.read_answer(connection).status, 201)
        equal((server.bucket / "chunked").read_bytes(), body)


def test_mode_can_be_chosen():
    with Server("none", "--mode", "0604") as server:
        equal(server.put("f", b"x").status, 201)
        equal(stat.S_IMODE((server.bucket / "f").stat().st_mode), 0o604)


def test_names_that_are_refused():
    with Server() as server:
        for name in ("", ".", "..", "%2e%2e", ".hidden", "a%2fb", "a/b", "%2e%2e%2fetc", "a%00b", "a%0ab", "a%1bb",
                     "%c2%9bm", "%ff", "%c0%af", "x" * 256, "a?b", "a?"):
            answer = server.put(name, b"x")
            detail = answer.problem(400, "bad-name")
            check(len(detail) > 40, f"a reason for {name!r}: {detail}")
        for name in ("a%", "a%4", "a%zz"):
            equal(server.put(name, b"x").status, 400, name)
        equal(server.published(), [])
        for name, decoded in (("x" * 255, "x" * 255), ("%c3%a4", "ä"), ("%2541", "%41"), ("a%3Fb", "a?b")):
            equal(server.put(name, b"x").status, 201, name)
            check((server.bucket / decoded).exists(), f"{decoded} exists")


def test_taken_names_are_kept():
    with Server() as server:
        equal(server.put("f", b"first").status, 201)
        server.put("f", b"second").problem(409, "name-taken")
        (server.bucket / "link").symlink_to("/nonexistent")
        server.put("link", b"x").problem(409, "name-taken")
        equal((server.bucket / "f").read_bytes(), b"first")

        # Both have been let in before either is published: one wins, whole.
        first, second = server.connect(), server.connect()
        for connection in (first, second):
            connection.sendall(ingest.head("race", 4) + b"ab")
        ingest.wait_until(lambda: server.slots("upload", "held") == 2, 10, "both are in")
        first.sendall(b"cd")
        equal(ingest.read_answer(first).status, 201)
        second.sendall(b"xy")
        ingest.read_answer(second).problem(409, "name-taken")
        equal((server.bucket / "race").read_bytes(), b"abcd")


def test_methods_and_paths():
    with Server() as server:
        equal(server.put("f", b"x").status, 201)
        for method in ("GET", "HEAD", "POST", "DELETE"):
            answer = server.request(method, "/files/f")
            equal(answer.status, 405, method)
            equal(answer.headers["Allow"], "PUT", method)
        equal(server.request("PUT", "/healthz", b"x").headers["Allow"], "GET, HEAD")
        ingest.wait_until(lambda: server.log().count("event=refused status=405 ") == 5, 5, "one line for each")
        server.request("GET", "/").problem(404, "not-found")
        server.request("GET", "/files").problem(404, "not-found")
        equal(server.request("GET", "/healthz").body, b"ok\n")
        check((server.bucket / "f").exists(), "it is still there")


def test_lengths():
    with Server("none", "--size-max", "1000") as server:
        connection = server.connect()
        connection.sendall(b"PUT /files/f HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        ingest.read_answer(connection).problem(411, "length-required")

        connection = server.connect()
        connection.sendall(ingest.head("f", 1001))
        ingest.read_answer(connection).problem(413, "too-large")
        equal(server.put("fits", b"x" * 1000).status, 201)

        connection = server.connect()
        connection.sendall(ingest.head("f") + b"3e9\r\n" + b"x" * 1001 + b"\r\n0\r\n\r\n")
        ingest.read_answer(connection).problem(413, "too-large")
        equal(server.published(), ["fits"])
        server.wait_idle()
        equal(server.put("f", b"x", headers={"Content-Encoding": "gzip"}).status, 415)
        equal(server.put("f", b"x", headers={"Content-Range": "bytes 0-0/1"}).status, 415)
        connection = server.connect()
        connection.sendall(ingest.head("f", 1, "Content-Encoding: identity\r\nContent-Encoding: gzip\r\n") + b"x")
        ingest.read_answer(connection).problem(415, "content-encoding")
        equal(server.put("identity", b"x", headers={"Content-Encoding": "identity"}).status, 201)


def test_early_refusal_is_seen_while_the_body_is_being_sent():
    """A client that sends on gets the answer, not a reset."""
    with Server("none", "--size-max", "1M") as server:
        with ingest.folder() as source:
            path = source / "large"
            with open(path, "wb") as file:
                file.truncate(30 << 20)
            out = curl("-w", "%{http_code}", "-T", path, f"{server.url}/files/large")
            check(out.endswith("413"), f"413: {out}")
            out = curl("-w", "%{http_code}", "-H", "Expect: 100-continue", "-T", path, f"{server.url}/files/large")
            check(out.endswith("413"), f"413: {out}")


def test_early_refusal_is_seen_by_who_sends_all_before_reading():
    with Server() as server:
        equal(server.put("taken", b"x").status, 201)
        server.put("taken", bytes(150 << 20)).problem(409, "name-taken")
        server.wait_idle()


def test_expect_100_continue_comes_after_the_checks():
    with Server() as server:
        connection = server.connect()
        connection.sendall(ingest.head("f", 5, "Expect: 100-continue\r\n"))
        equal(connection.recv(100), b"HTTP/1.1 100 Continue\r\n\r\n")
        connection.sendall(b"hello")
        equal(ingest.read_answer(connection).status, 201)

        connection = server.connect()
        connection.sendall(ingest.head("f", 5, "Expect: 100-continue\r\n"))
        check(connection.recv(12).endswith(b" 409"), "409 instead of 100")
        connection.close()


def test_pipelined_uploads_are_answered_in_order():
    with Server() as server:
        connection = server.connect()
        wanted = [f"p{number}" for number in range(20)]
        connection.sendall(b"".join(ingest.head(name, 4) + name.encode().ljust(4) for name in wanted))
        equal([ingest.read_answer(connection).json["name"] for _ in wanted], wanted)
        equal(server.published(), sorted(wanted))


def test_foreign_hosts_and_pages_are_refused():
    with Server("none", "--host", "files.home.arpa", "--origin", "https://app.example.org") as server:
        def put(name, **headers):
            return server.put(name, b"x", headers={key.replace("_", "-"): value for key, value in headers.items()})

        put("a", Host="evil.example").problem(421, "unknown-host")
        put("a", Host=f"127.0.0.1:{server.port}", Origin="https://evil.example").problem(403, "foreign-origin")
        put("a", Origin="null").problem(403, "foreign-origin")
        put("a", Sec_Fetch_Site="cross-site").problem(403, "foreign-origin")
        server.request("GET", "/metrics", headers={"Host": "evil.example"}).problem(421, "unknown-host")
        equal(server.published(), [])
        equal(put("b", Host="files.home.arpa").status, 201)
        equal(put("c", Origin="https://app.example.org", Sec_Fetch_Site="cross-site").status, 201)
        equal(put("d", Host=f"localhost:{server.port}", Origin=f"http://localhost:{server.port}").status, 201)


def test_pages_of_an_allowed_origin_are_told_what_they_may():
    origin = "https://app.example.org"

    def told(answer, *problem):
        if problem:
            answer.problem(*problem)
        return {name: value for name, value in answer.headers.items() if name.startswith("Access-Control") or name == "Vary"}

    def ask(server, path, method="PUT", origin=origin):
        return server.request("OPTIONS", path, headers={"Origin": origin, "Access-Control-Request-Method": method,
                                                        "Access-Control-Request-Headers": "content-type"})

    with Server("none", "--origin", origin) as server:
        common = {"Vary": "Origin", "Access-Control-Allow-Origin": origin,
                  "Access-Control-Expose-Headers": "Location, Retry-After, Allow"}
        preflight = common | {"Access-Control-Allow-Headers": "*", "Access-Control-Max-Age": "600"}
        answer = ask(server, "/files/a")
        equal((answer.status, answer.body), (204, b""))
        equal(told(answer), preflight | {"Access-Control-Allow-Methods": "PUT"})
        equal(told(ask(server, "/readyz", "GET")), preflight | {"Access-Control-Allow-Methods": "GET, HEAD"})
        answer = server.put("a", b"x", headers={"Origin": origin})
        equal((answer.status, told(answer)), (201, common))
        equal(told(server.request("GET", answer.headers["Location"], headers={"Origin": origin})), common)
        equal(told(server.put("a", b"x", headers={"Origin": origin}), 409, "name-taken"), common)
        # What HTTP alone refuses.
        chunks = {"Origin": origin, "Transfer-Encoding": "chunked"}
        equal(told(server.request("PUT", "/files/c", b"no number\r\n", headers=chunks), 400, "malformed-request"), common)
        long = {"Origin": origin, "X-Long": "x" * 20000}
        equal(told(server.request("GET", "/healthz", headers=long), 431, "head-too-large"), common)
        equal(told(ask(server, "/nowhere"), 404, "not-found"), common)

        # An OPTIONS that is no preflight, and those who are no page, or none of these.
        equal(told(server.request("OPTIONS", "/files/a", headers={"Origin": origin}), 405, "method-not-allowed"), common)
        only_vary = {"Vary": "Origin"}
        equal(told(ask(server, "/files/a", origin="https://evil.example"), 403, "foreign-origin"), only_vary)
        own = f"http://127.0.0.1:{server.port}"
        equal(told(ask(server, "/files/a", origin=own), 405, "method-not-allowed"), only_vary)
        equal(told(server.put("b", b"x")), only_vary)

    with Server("none") as server:
        equal(told(ask(server, "/files/a"), 403, "foreign-origin"), {})
        equal(told(server.put("b", b"x")), {})


def test_page_of_an_allowed_origin_in_a_browser_uploads_and_reads_the_answer():
    put = """fetch("http://127.0.0.1:%d/files/%s", {method: "PUT", body: "x", headers: {"Content-Type": "text/csv"}})
             .then(async one => [one.status, one.headers.get("Location"), (await one.json()).name], error => error.name)"""
    with browser.origin() as origin, browser.Browser() as chromium, Server("none", "--origin", origin) as server, \
            Server("none") as strict:
        tab = chromium.open(origin + "/")
        status, location, name = tab.runs(put % (server.port, "a.csv"))
        equal((status, name, location[:9]), (201, "a.csv", "/uploads/"))
        equal(tab.runs(put % (strict.port, "a.csv")), "TypeError")
        equal((server.published(), strict.published()), (["a.csv"], []))


def test_waiting_room_is_first_come_first_served_and_bounded():
    with Server("none", "--upload-slots", "1", "--waiting", "2") as server:
        holder = server.begin("holder")
        ingest.wait_until(lambda: server.slots("upload", "held") == 1, 10, "the slot is taken")

        waiting = []
        for number in range(2):
            connection = server.connect()
            connection.sendall(ingest.head(f"w{number}", 1) + b"x")
            waiting.append(connection)
            server.wait_in_line(len(waiting))

        refused = server.put("refused", b"x")
        refused.problem(503, "busy")
        check(int(refused.headers["Retry-After"]) >= 1, "Retry-After")

        ingest.finish(holder)
        equal(ingest.read_answer(holder).status, 201)
        equal([ingest.read_answer(connection).status for connection in waiting], [201, 201])
        times = {name: (server.bucket / name).stat().st_mtime_ns for name in ("holder", "w0", "w1")}
        check(times["w0"] <= times["w1"], "first come, first served")
        server.wait_idle()


def test_refusal_says_how_long_the_first_in_line_waits_already():
    """Nobody has got a slot yet, so there is no mean: a wait of seconds must not be called one second."""
    with Server("none", "--upload-slots", "1", "--waiting", "1") as server:
        holder, first = server.begin("holder"), server.connect()
        ingest.wait_until(lambda: server.slots("upload", "held") == 1, 10, "the slot is taken")
        first.sendall(ingest.head("first", 1) + b"x")
        server.wait_in_line(1)
        time.sleep(3)
        refused = server.put("refused", b"x")
        refused.problem(503, "busy")
        check(int(refused.headers["Retry-After"]) >= 3, refused.headers["Retry-After"])
        ingest.finish(holder)
        equal([ingest.read_answer(connection).status for connection in (holder, first)], [201, 201])
        server.wait_idle()


def test_what_has_changed_while_a_request_waited_is_told_before_its_body():
    """The name has been taken meanwhile, the scanner has been lost; who still may comes after them."""
    with Clamd() as clamd, Server(f"clamd:{clamd.socket}", "--upload-slots", "1") as server:
        def wait_behind(name, count):
            connection = server.connect()
            connection.sendall(ingest.head(name, 1, "Expect: 100-continue\r\n"))
            server.wait_in_line(count)
            return connection

        holder = server.begin("f")
        ingest.wait_until(lambda: server.slots("upload", "held") == 1, 10, "the slot is taken")
        same, other = wait_behind("f", 1), wait_behind("g", 2)
        ingest.finish(holder)
        equal(ingest.read_answer(holder).status, 201)
        ingest.read_answer(same).problem(409, "name-taken")
        equal(other.recv(100), b"HTTP/1.1 100 Continue\r\n\r\n")
        last = wait_behind("h", 1)
        clamd.kill()
        other.sendall(b"x")
        ingest.read_answer(other).problem(503, "scanner-unavailable")
        answer = ingest.read_answer(last)
        answer.problem(503, "scanner-unavailable")
        check(int(answer.headers["Retry-After"]) >= 1, "Retry-After")
        equal(server.metric("ingest_received_bytes_total"), len(ingest.HELD) + 1, "bytes of bodies")
        equal(server.transitions("h"), [])
        for connection in (holder, same, other, last):
            connection.close()
        server.wait_idle()
        equal(server.published(), ["f"])


def test_one_who_leaves_the_waiting_room_makes_room():
    with Server("none", "--upload-slots", "1", "--waiting", "1") as server:
        holder = server.begin("holder")
        ingest.wait_until(lambda: server.slots("upload", "held") == 1, 10, "the slot is taken")
        for number in range(3):
            connection = server.connect()
            connection.sendall(ingest.head(f"w{number}", 1) + b"x")
            server.wait_in_line(1)
            ingest.reset(connection)
            ingest.wait_until(lambda: server.metric("ingest_uploads_waiting") == 0, 10, "it has left")
        ingest.finish(holder)
        equal(ingest.read_answer(holder).status, 201)
        server.wait_idle()
        equal(server.published(), ["holder"])


def test_state_folder_is_private_and_apart():
    with Server() as server:
        equal(stat.S_IMODE(server.state.stat().st_mode), 0o700)
        inside = subprocess.run([ingest.SERVER, "serve", "--listen", "127.0.0.1:0", "--bucket", server.bucket, "--scanner",
                                 "none", "--state", server.bucket / "inside"], capture_output=True, timeout=60, check=False)
        equal(inside.returncode, 1)
        check(b"must not contain each other" in inside.stderr, inside.stderr.decode())
        equal(server.published(), [], "what was made for it is gone again")
        root = subprocess.run([ingest.SERVER, "serve", "--listen", "127.0.0.1:0", "--bucket", "/", "--scanner", "none", "--state",
                               server.folder / "state"], capture_output=True, timeout=60, check=False)
        equal(root.returncode, 1)
        check(b"must not contain each other" in root.stderr, root.stderr.decode())


def test_state_folder_of_somebody_else_is_left_alone():
    """`--state /tmp` by mistake must not shut everybody out of it."""
    with ingest.folder() as place:
        state = place / "state"
        state.mkdir()
        state.chmod(0o755)
        with Server("none", "--state", state, bucket=place / "bucket"):
            equal(stat.S_IMODE(state.stat().st_mode), 0o700, "an empty folder is made private")
        state.chmod(0o755)
        (state / "letter").write_text("private")
        refused = subprocess.run([ingest.SERVER, "serve", "--listen", "127.0.0.1:0", "--bucket", place / "bucket", "--scanner",
                                  "none", "--state", state], capture_output=True, timeout=60, check=False)
        equal(refused.returncode, 1)
        check(b"holds something else (letter)" in refused.stderr, refused.stderr.decode())
        equal(stat.S_IMODE(state.stat().st_mode), 0o755, "nothing has been changed")
        fresh = subprocess.run([*refused.args[:5], place / "fresh", *refused.args[6:]], capture_output=True, timeout=60, check=False)
        equal((fresh.returncode, fresh.stderr), (1, refused.stderr))
        check(not (place / "fresh").exists(), "nor made")


def test_state_folder_with_a_file_where_a_folder_belongs_is_said():
    with ingest.folder() as place:
        state = place / "state"
        state.mkdir(0o700)
        (state / "staging").write_text("no folder")
        refused = subprocess.run([ingest.SERVER, "serve", "--listen", "127.0.0.1:0", "--bucket", place / "bucket", "--scanner",
                                  "none", "--state", state], capture_output=True, timeout=60, check=False)
        equal(refused.returncode, 1)
        check(f"ew-ingest: cannot open the folder staging in {state}: Not a directory\n".encode() in refused.stderr,
              refused.stderr.decode(errors="replace"))


def test_two_servers_share_a_state_folder():
    """Nameless files need no lease to be safe; the second server has one all the same, and the first does not mind."""
    with Server() as server:
        connection = server.begin("first")
        ingest.wait_until(lambda: server.slots("upload", "held") == 1, 10, "it is in")
        with Server(bucket=server.bucket) as other:
            equal(other.put("second", b"x").status, 201)
            other.put("second", b"x").problem(409, "name-taken")
            equal(len(list((server.state / "leases").iterdir())), 2)
            other.process.kill()
            other.process.wait()
            other.start()
            ingest.wait_until(lambda: "event=swept" in other.log(), 10, "the dead lease is swept")
            equal(len(list((server.state / "leases").iterdir())), 2)
        ingest.finish(connection)
        equal(ingest.read_answer(connection).status, 201)
        equal(server.published(), ["first", "second"])


def test_port_in_use_and_bad_options_are_said():
    with Server() as server, ingest.folder() as other:
        result = subprocess.run([ingest.SERVER, "serve", "--listen", f"127.0.0.1:{server.port}", "--bucket", other / "b",
                                 "--scanner", "none"], capture_output=True, timeout=60, check=False)
        equal(result.returncode, 1)
        check(b"Address already in use" in result.stderr, result.stderr.decode())
        result = subprocess.run([ingest.SERVER, "serve", "--listen", "127.0.0.1:0", "--bucket", other / "b"],
                                capture_output=True, timeout=60, check=False)
        equal(result.returncode, 2)
        check(b"--scanner is missing" in result.stderr, result.stderr.decode())


def test_start_block_says_the_sum():
    with Server("none", preexec=lambda: limit_descriptors(4000)) as server:
        block = "\n".join(server.block)
        check("1822 uploads = min(10000, (4000 descriptors - 256 - 100 waiting) / 2 = 1822" in block, block)
        equal(server.metric("ingest_upload_slots_capacity"), 1822)


def limit_descriptors(count):
    import resource  # pylint: disable=import-outside-toplevel
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, count), count))


def test_connections_do_not_take_the_descriptors_of_uploads():
    """Far more connections than fit: those without a permit wait in the kernel, and every upload has its file."""
    with Clamd() as clamd, Server(f"clamd:{clamd.socket}", preexec=lambda: limit_descriptors(600)) as server:
        slots = int(server.metric("ingest_upload_slots_capacity"))
        uploads = [server.begin(f"f{number}") for number in range(slots)]
        ingest.wait_until(lambda: server.slots("upload", "held") == slots, 20, "all are in")
        idle = [server.connect() for _ in range(700)]
        for connection in uploads:
            ingest.finish(connection)
        equal([ingest.read_answer(connection).status for connection in uploads], [201] * slots)
        for connection in idle + uploads:
            connection.close()
        server.wait_idle()
        check("accept-failed" not in server.log(), "no descriptor was missing")


def test_few_slots_do_not_mean_few_connections():
    with Server("none", "--upload-slots", "1", "--waiting", "0", memory=True) as server:
        idle = [server.connect() for _ in range(200)]
        # Less than the 20 s after which an idle connection makes room.
        equal(server.request("GET", "/healthz", timeout=15 / ingest.SCALE).status, 200)
        equal(server.put("f", b"x", timeout=15 / ingest.SCALE).status, 201)
        for connection in idle:
            connection.close()


def test_standard_error_that_nobody_reads_ends_nothing():
    with Server() as server:
        for number, redirection in enumerate(("2>&1 >&3 | true", "2>&-", "<&- 2>&-")):
            place = server.folder / f"other{number}"
            command = (f"exec 3>&1; exec {ingest.SERVER} serve --listen 127.0.0.1:0 --bucket {place} --scanner none "
                       f"{redirection}")
            with LoggingNowhere(command) as other:
                for name in ("a", "b", "c"):
                    equal(other.put(name, b"x").status, 201, redirection)
                    time.sleep(0.05)
                equal(sorted(entry.name for entry in place.iterdir()), ["a", "b", "c"])
                for path in (server.folder / f"other{number}.state").rglob("*"):
                    check(path.is_dir() or b"event=" not in path.read_bytes(), f"a log line in {path}")


def full_pipe():
    """Both ends of a pipe that takes nothing more; who writes into it waits."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        while True:
            os.write(writer, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(writer, True)
    return reader, writer


def listening_port(process):
    """Of a server that cannot say it; None: there is none yet."""
    files = pathlib.Path(f"/proc/{process.pid}/fd")
    sockets = set()
    for entry in files.iterdir():
        with contextlib.suppress(OSError):
            sockets.add(os.readlink(entry))
    for line in pathlib.Path(f"/proc/{process.pid}/net/tcp").read_text().splitlines()[1:]:
        _, address, _, state, *_, inode = line.split()[:10]
        if state == "0A" and f"socket:[{inode}]" in sockets:
            return int(address.rsplit(":", 1)[1], 16)
    return None


def test_standard_output_that_nobody_reads_stops_nothing():
    """The start block cannot be written; uploads are taken all the same, and the first signal is heard."""
    reader, writer = full_pipe()
    with ingest.folder() as place, open(place / "log", "wb") as log:
        server = Server()
        process = subprocess.Popen([ingest.SERVER, "serve", "--listen", "127.0.0.1:0", "--bucket", place / "b",
                                    "--scanner", "none"], stdout=writer, stderr=log)
        try:
            server.port = ingest.wait_until(lambda: listening_port(process), 20, "it listens")
            for number in range(10):
                equal(server.put(f"f{number}", b"x", timeout=10).status, 201)
            process.send_signal(signal.SIGTERM)
            equal(process.wait(20 * ingest.SCALE), 0)
        finally:
            ingest.end_process(process, 1)
            os.close(reader)
            os.close(writer)


def test_missing_log_lines_are_said_like_any_other():
    """A pipe of one page that nobody reads: when lines are dropped, the line that says so has its time and level."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    with ingest.folder() as place:
        process = subprocess.Popen([ingest.SERVER, "serve", "--listen", "127.0.0.1:0", "--bucket", place / "b", "--scanner",
                                    "none"], stdout=subprocess.PIPE, stderr=writer)
        os.close(writer)
        try:
            server = Server()
            for line in process.stdout:
                if line.strip().startswith(b"address"):
                    server.port = int(line.rsplit(b":", 1)[1])
                if line.strip().startswith(b"try "):
                    break

            def dropped():
                for _ in range(200):
                    equal(server.request("GET", "/" + "x" * 300).status, 404)
                return server.metric("ingest_log_lines_dropped_total") > 0

            ingest.wait_until(dropped, 60, "lines are dropped")
            process.send_signal(signal.SIGTERM)
            with os.fdopen(reader, errors="replace") as log:
                lines = log.read().splitlines()
            equal(process.wait(20 * ingest.SCALE), 0)
        finally:
            ingest.end_process(process, 1)
            process.stdout.close()
        equal([line[:80] for line in lines if not line.startswith("time=")], [], "every line has its time")
        check(any(" level=warn event=log-dropped lines=" in line for line in lines), lines[-3:])


class LoggingNowhere(Server):
    """A server that a shell starts in a folder of somebody else; only its requests are used."""

    def __init__(self, command):
        super().__init__()
        self.command = command

    def __enter__(self):
        self.process = subprocess.Popen(["sh", "-c", self.command], stdout=subprocess.PIPE, start_new_session=True)
        for line in self.process.stdout:
            if line.strip().startswith(b"address"):
                self.port = int(line.rsplit(b":", 1)[1])
            if line.strip().startswith(b"try "):
                return self
        raise AssertionError("the server did not start")

    def __exit__(self, *_):
        self.process.stdout.close()
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def test_removed_bucket_is_not_ready():
    with Server() as server:
        equal(server.put("f", b"x").status, 201)
        shutil.rmtree(server.bucket)
        server.bucket.mkdir()
        ready, reason = server.check("disk")
        check(not ready and "removed" in reason, reason)
        detail = server.put("g", b"x").problem(500, "storage")
        check(detail.startswith("No such file or directory. "), detail)
        equal(server.published(), [])


def test_full_disk_is_507():
    """A small volume of our own: an upload larger than it is refused before its body, a chunked one when it is full."""
    if not ingest.IS_ROOT:
        raise ingest.Skip("mounting needs root")
    with ingest.folder() as place:
        made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", place], capture_output=True, check=False)
        if made.returncode != 0:
            raise ingest.Skip("mounting is not possible here")
        try:
            small = Server("none")
            small.context = ExistingFolder(place)
            with small as server:
                server.put("large", b"x" * 100, headers={"Content-Length": str(200 << 20)}).problem(507, "no-space")
                connection = server.connect()
                connection.sendall(ingest.head("chunked"))
                piece = b"100000\r\n" + b"x" * (1 << 20) + b"\r\n"
                try:
                    for _ in range(80):
                        connection.sendall(piece)
                except OSError:
                    pass
                answer = ingest.read_answer(connection)
                check(answer is not None, "the answer arrives")
                answer.problem(507, "no-space")
                connection.close()
                server.wait_idle()
                equal(server.published(), [])
                equal(server.put("small", b"x").status, 201)
        finally:
            subprocess.run(["umount", place], check=False)


class ExistingFolder:
    """A folder that somebody else makes and removes."""

    def __init__(self, path):
        self.path = path / "server"

    def __enter__(self):
        self.path.mkdir()
        return self.path

    def __exit__(self, *_):
        shutil.rmtree(self.path, ignore_errors=True)


def test_other_mount_is_refused_at_start():
    if not ingest.IS_ROOT:
        raise ingest.Skip("mounting needs root")
    with ingest.folder() as place:
        (place / "state").mkdir()
        made = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place / "state"], capture_output=True, check=False)
        if made.returncode != 0:
            raise ingest.Skip("mounting is not possible here")
        try:
            result = subprocess.run([ingest.SERVER, "serve", "--listen", "127.0.0.1:0", "--bucket", place / "b", "--state",
                                     place / "state", "--scanner", "none"], capture_output=True, timeout=60, check=False)
            equal(result.returncode, 1)
            check(b"not on the same mount" in result.stderr, result.stderr.decode())
            equal(list((place / "b").iterdir()), [])
        finally:
            subprocess.run(["umount", place / "state"], check=False)


def test_half_close_finish_waits_for_its_answer():
    with Server("none", "--client-half-close", "finish") as server:
        connection = server.connect()
        connection.sendall(ingest.head("f", 1) + b"x")
        connection.shutdown(socket.SHUT_WR)
        equal(ingest.read_answer(connection).status, 201)


if __name__ == "__main__":
    ingest.main()
