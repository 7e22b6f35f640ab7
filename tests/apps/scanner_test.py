#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The scanner: its test, its absence, its return, its limits, and programs as scanners."""

import contextlib
import os
import pathlib
import re
import signal
import subprocess

import ingest
from fakeclamd import FakeClamd
from ingest import EICAR, Clamd, Server, check, equal, processes, wait_until


def script(folder, name, text):
    path = folder / name
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return path


# A scanner of few lines: EICAR anywhere is found.
FIND = f"if grep -aqF '{EICAR[28:].decode()}'; then echo 'stdin: Found.EICAR FOUND'; exit 1; fi; exit 0\n"


def parent_of(pid):
    try:
        return int(pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return None


def test_scanner_killed_is_503_and_its_return_is_noticed():
    with Clamd() as clamd, Server(f"clamd:{clamd.socket}") as server:
        equal(server.put("before", b"x").status, 201)
        clamd.kill()
        answer = server.put("during", b"x")
        answer.problem(503, "scanner-unavailable")
        check(int(answer.headers["Retry-After"]) >= 1, "Retry-After")
        equal(server.published(), ["before"])
        ready, reason = server.check("scanner")
        check(not ready and reason, "readiness is red and says why")
        server.put("early", b"x").problem(503, "scanner-unavailable")
        equal(server.metric("ingest_scanner_ready"), 0)

        clamd.start()
        wait_until(server.is_ready, 20, "ready again, without restart")
        equal(server.put("after", b"x").status, 201)
        server.put("eicar", EICAR).problem(422, "infected")
        equal(server.published(), ["after", "before"])
        server.wait_idle()


def test_server_starts_before_its_scanner():
    clamd = Clamd()
    with Server(f"clamd:{clamd.socket}", ready=False) as server:
        server.put("f", b"x").problem(503, "scanner-unavailable")
        check("not ready" in "\n".join(server.block), "the start block says so")
        with clamd:
            wait_until(server.is_ready, 20, "ready")
            equal(server.put("f", b"x").status, 201)


def test_scanner_killed_in_the_middle_of_a_scan_is_tried_once_more():
    with Clamd() as clamd, Clamd() as successor, Server(f"clamd:{clamd.socket}") as server:
        clamd.stop_answering()
        upload = ingest.in_background(server.put, "f", b"x")
        wait_until(lambda: server.slots("scan", "held") == 1, 20, "a scan is on its way")
        # It waits 5 s for a scanner, so one that is up already takes the place.
        os.rename(successor.socket, clamd.socket)
        clamd.kill()
        equal(upload.result().status, 201)
        equal(server.published(), ["f"])
        server.wait_idle()


def test_scanner_killed_in_the_middle_of_a_scan_for_good():
    with Clamd() as clamd, Server(f"clamd:{clamd.socket}") as server:
        clamd.stop_answering()
        upload = ingest.in_background(server.put, "f", b"x")
        wait_until(lambda: server.slots("scan", "held") == 1, 20, "a scan is on its way")
        clamd.kill()
        upload.result().problem(503, "scanner-unavailable")
        equal(server.published(), [])
        server.wait_idle()


def test_restarted_scanner_is_tested_before_it_is_trusted():
    """The clamd that comes back calls large files clean; no upload is scanned by it."""
    with Clamd() as clamd, Server(f"clamd:{clamd.socket}", "--size-max", "30M") as server:
        equal(server.put("good", b"x").status, 201)
        clamd.kill()
        clamd.configure(["AlertExceedsMax no", "MaxFileSize 25M"])
        clamd.start()
        server.put("bad", b"x").problem(503, "scanner-unavailable")
        wait_until(lambda: "AlertExceedsMax" in server.check("scanner")[1], 20, "the test finds it")
        check(not server.check("scanner")[0], "red")
        equal(server.published(), ["good"])


def test_silent_limit_is_found_out():
    """A 30 MiB file with EICAR in front is called clean by this clamd."""
    with Clamd(["AlertExceedsMax no", "MaxFileSize 25M"]) as clamd:
        with Server(f"clamd:{clamd.socket}", "--size-max", "30M", ready=False) as server:
            wait_until(lambda: "clean" in server.check("scanner")[1], 20, "the test finds it")
            ready, reason = server.check("scanner")
            check(not ready, "red")
            check("31457280 bytes with EICAR in front clean" in reason and "AlertExceedsMax" in reason, reason)
            equal(server.request("GET", "/readyz").status, 503)
            server.put("f", b"x").problem(503, "scanner-unavailable")
            equal(server.published(), [])
        # With the largest file within its limit the same clamd is fine.
        with Server(f"clamd:{clamd.socket}", "--scan-limit", "20M") as server:
            equal(server.put("f", b"x").status, 201)
            connection = server.connect()
            connection.sendall(ingest.head("g", (20 << 20) + 1))
            ingest.read_answer(connection).problem(413, "too-large")
            connection.close()
            check("warning: it is silent about its limits" in server.check("scanner")[1], "a warning stays")


def test_limit_that_is_announced_makes_unscannable():
    with Clamd(["AlertExceedsMax yes", "MaxFileSize 25M"]) as clamd, \
            Server(f"clamd:{clamd.socket}", "--size-max", "40M") as server:
        body = EICAR + bytes((30 << 20) - len(EICAR))
        answer = server.put("large", body)
        detail = answer.problem(422, "unscannable")
        check("Heuristics.Limits.Exceeded" in detail, detail)
        story = server.request("GET", answer.json["instance"]).json
        equal((story["state"], story["verdict"]), ("REJECTED", "unscannable"))
        equal(server.put("small", b"x").status, 201)
        equal(server.published(), ["small"])


def test_scanner_without_signatures_is_not_trusted():
    clamd = Clamd()
    (clamd.folder / "db" / "test.ndb").write_text(f"Other:0:*:{b'something else'.hex()}\n")
    with clamd, Server(f"clamd:{clamd.socket}", ready=False) as server:
        wait_until(lambda: "EICAR" in server.check("scanner")[1], 20, "the test finds it")
        check("signatures" in server.check("scanner")[1], server.check("scanner")[1])
        server.put("f", b"x").problem(503, "scanner-unavailable")


def test_scanner_with_other_signatures_is_tested_before_it_is_trusted():
    """The same process has loaded others, which its version tells, and now finds nothing; no upload is scanned by it."""
    with FakeClamd() as clamd, Server(f"clamd:{clamd.socket}") as server:
        equal(server.put("good", b"x").status, 201)
        clamd.always("clean")
        clamd.set_version("ClamAV 1.4.6/27001/Mon Nov 23 08:00:00 2026")
        upload = ingest.in_background(server.put, "eicar", EICAR)
        wait_until(lambda: "EICAR test file clean" in server.check("scanner")[1], 20, "the test finds it")
        clamd.always("honest")
        check(upload.result().status in (422, 503), "the upload is not published")
        wait_until(server.is_ready, 20, "ready again, without restart")
        equal(server.put("f", b"x").json["engine"], "ClamAV 1.4.6/27001/Mon Nov 23 08:00:00 2026")
        equal(server.published(), ["f", "good"])
        server.wait_idle()


def test_scanner_that_goes_blind_is_found_out():
    """clamd reloads its signatures, EICAR's is gone, and neither its process nor its version tell."""
    with Clamd() as clamd, Server(f"clamd:{clamd.socket}") as server:
        server.put("eicar", EICAR).problem(422, "infected")
        (clamd.folder / "db" / "test.ndb").write_text(f"Other:0:*:{b'something else'.hex()}\n")
        clamd.command(b"zRELOAD\0")
        published = 0
        while (answer := server.put(f"f{published}", EICAR)).status != 503:
            check(answer.status in (201, 422), answer.body)
            published += answer.status == 201
            check(published < 150, "it is found out after about 100 files")
        check(published > 0, "it was blind")
        wait_until(lambda: "EICAR test file clean" in server.check("scanner")[1], 20, "red, and it says why")


def test_scanner_that_lost_trust_meanwhile_calls_nothing_clean():
    """A scan is on its way while a test finds out that the scanner is blind; its answer comes too late to be believed."""
    with FakeClamd() as clamd, Server(f"clamd:{clamd.socket}") as server:
        clamd.next("hangs", 1)
        upload = ingest.in_background(server.put, "eicar", EICAR + b"x")
        wait_until(lambda: clamd.hanging() == 1, 20, "a scan is on its way")
        clamd.always("clean")
        clamd.next("leaves", 1)
        other = ingest.in_background(server.put, "other", b"x")
        wait_until(lambda: "EICAR test file clean" in server.check("scanner")[1], 20, "the test finds it")
        clamd.release()
        wait_until(lambda: clamd.hanging() == 0, 20, "it is called clean")
        clamd.always("honest")
        check(upload.result().status in (422, 503), "the upload is not published")
        check(other.result().status in (201, 503), "the other one is tried once more")
        check("eicar" not in server.published(), "nothing that was not scanned")
        server.wait_idle()


def test_scan_slots_bound_the_scans():
    with Clamd() as clamd, Server(f"clamd:{clamd.socket}", "--scan-slots", "2") as server:
        clamd.stop_answering()
        uploads = [ingest.in_background(server.put, f"f{number}", b"x") for number in range(5)]
        # A slot whose worker has just begun takes its first from the queue.
        wait_until(lambda: (server.metric("ingest_scans_waiting"), server.slots("scan", "held")) == (3, 2), 20,
                   "two are scanned and three wait")
        clamd.go_on()
        equal([upload.result().status for upload in uploads], [201] * 5)
        server.wait_idle()


def test_cancelled_upload_gives_up_the_job_not_the_slot():
    with Clamd() as clamd, Server(f"clamd:{clamd.socket}", "--scan-slots", "1", memory=True) as server:
        baseline = ingest.Baseline(server)
        clamd.stop_answering()
        connection = server.connect()
        size = 8 << 20
        connection.sendall(ingest.head("f", size) + os.urandom(size))
        wait_until(lambda: server.slots("scan", "held") == 1, 20, "a scan is on its way")
        queued = server.connect()
        queued.sendall(ingest.head("queued", 1) + b"x")
        wait_until(lambda: server.metric("ingest_scans_waiting") == 1, 20, "another waits")

        ingest.reset(connection)
        wait_until(lambda: server.slots("scan", "cancelling") == 1, 20, "the slot is cancelling")
        wait_until(lambda: server.slots("upload", "held") == 1, 20, "the upload is gone")
        wait_until(lambda: server.free_bytes() >= baseline.free_bytes - (1 << 20), 20,
                   "the space is back although clamd still holds the file")
        equal(server.slots("scan", "free"), 0)
        equal(server.metric("ingest_scans_waiting"), 1)

        ingest.reset(queued)
        wait_until(lambda: server.metric("ingest_scans_waiting") == 0, 20, "out of the queue")
        equal(server.slots("scan", "cancelling"), 1)
        clamd.go_on()
        baseline.restored()
        wait_until(lambda: "CANCELLED" in server.transitions("f"), 20, "it is cancelled")
        equal(server.published(), [])
        equal(server.metric("ingest_scans_abandoned_total"), 1)


def test_slot_that_is_not_free_at_the_end_is_presumed():
    with Clamd() as clamd, Server(f"clamd:{clamd.socket}", "--grace", "1") as server:
        clamd.stop_answering()
        connection = server.connect()
        connection.sendall(ingest.head("f", 1) + b"x")
        wait_until(lambda: server.slots("scan", "held") == 1, 20, "a scan is on its way")
        ingest.reset(connection)
        wait_until(lambda: server.slots("scan", "cancelling") == 1, 20, "the slot is cancelling")
        server.process.send_signal(signal.SIGTERM)
        equal(server.process.wait(30 * ingest.SCALE), 0)
        check("event=scan-slot-presumed" in server.log(), server.log()[-500:])



def test_program_as_scanner():
    with ingest.folder() as place:
        path = script(place, "find", FIND)
        with Server(f"exec:{path}", "--scan-limit", "1M") as server:
            equal(server.put("clean", b"x").json["verdict"], "clean")
            detail = server.put("eicar", EICAR).problem(422, "infected")
            check("Found.EICAR" in detail, detail)
            equal(server.published(), ["clean"])
            server.wait_idle()


def test_limit_of_a_program_is_as_the_manual_says():
    manual = (ingest.ROOT / "docs" / "operating-ingest.md").read_text()
    (row,) = [line for line in manual.splitlines() if line.startswith("| `--scan-limit")]
    with ingest.folder() as place:
        path = script(place, "find", f"if head -c 100 | {FIND[3:]}")
        with Server(f"exec:{path}") as server:
            connection = server.connect()
            connection.sendall(ingest.head("f", (100 << 20) + 1))
            ingest.read_answer(connection).problem(413, "too-large")
            check("`exec:` 100M" in row, row)


def test_clamscan_as_scanner():
    clamd = Clamd()
    with clamd:
        clamd.process.kill()
        (clamd.folder).chmod(0o755)
        command = f"exec:clamscan --no-summary --database={clamd.folder}/db --alert-exceeds-max=yes -"
        with Server(command, "--scan-limit", "2M") as server:
            equal(server.put("clean", b"x" * 1000).json["verdict"], "clean")
            detail = server.put("eicar", EICAR).problem(422, "infected")
            check("Eicar-Test-Signature" in detail, detail)
            equal(server.published(), ["clean"])


def test_program_that_fails_is_503():
    with ingest.folder() as place:
        path = script(place, "sometimes", "body=$(cat | tr -d '\\0')\n"
                      "case $body in *broken*) echo 'no database' >&2; exit 2;; *killed*) kill -9 $$;;\n"
                      "*EICAR*) exit 1;; esac\nexit 0\n")
        with Server(f"exec:{path}", "--scan-limit", "1M") as server:
            equal(server.put("good", b"x").status, 201)
            server.put("bad", b"broken").problem(503, "scanner-unavailable")
            wait_until(lambda: "exit status 2: no database" in server.log(), 5, "its words are in the log")
            server.put("bad", b"killed").problem(503, "scanner-unavailable")
            equal(server.published(), ["good"])
            server.wait_idle()


def test_words_of_a_program_are_made_printable():
    """A signature that is not UTF-8 is refused like any other, and no escape sequence reaches the log."""
    with ingest.folder() as place:
        path = script(place, "strange", "if grep -aqE 'EICAR|odd'; then printf 'stdin: \\377\\376\\033[31mOdd FOUND\\n'; exit 1; fi\n")
        with Server(f"exec:{path}", "--scan-limit", "1M") as server:
            answer = server.put("f", b"odd")
            check("???[31mOdd" in answer.problem(422, "infected"), answer.body)
            equal(server.request("GET", answer.json["instance"]).json["signature"], "???[31mOdd")
            equal(server.published(), [])


def test_program_whose_path_is_not_utf8():
    with ingest.folder() as place:
        path = script(place, os.fsdecode(b"f\xefnd"), FIND)
        with Server(f"exec:{path}", "--scan-limit", "1M") as server:
            answer = server.put("f", b"x")
            equal(answer.status, 201)
            check(answer.json["engine"].endswith("f?nd"), answer.body)
            equal(server.request("GET", answer.headers["Location"]).json["engine"], answer.json["engine"])
            check("passed its test" in server.check("scanner")[1], "readiness has its reason")


def test_program_that_is_missing_or_calls_everything_clean_is_not_trusted():
    with Server("exec:/nonexistent/scanner", "--scan-limit", "1M", ready=False) as server:
        wait_until(lambda: "fails to scan" in server.check("scanner")[1], 20, "the test finds it")
        server.put("f", b"x").problem(503, "scanner-unavailable")
    with Server("exec:true", "--scan-limit", "1M", ready=False) as server:
        wait_until(lambda: "EICAR test file clean" in server.check("scanner")[1], 20, "the test finds it")
        server.put("f", b"x").problem(503, "scanner-unavailable")


def test_program_runs_without_privileges_and_environment():
    with ingest.folder() as place:
        place.chmod(0o777)
        path = script(place, "look", f"env > {place}/env.$$; id -u > {place}/uid.$$; ls /proc/self/fd > {place}/fds.$$\n"
                      + FIND)
        environment = {"SECRET": "do-not-tell"}
        with Server(f"exec:{path}", "--scan-limit", "1M", environment=environment) as server:
            equal(server.put("f", b"x").status, 201)
        for file in place.glob("env.*"):
            text = file.read_text()
            check("do-not-tell" not in text, "the environment is clean")
            check("PATH=/" in text, "there is a PATH")
        users = {file.read_text().strip() for file in place.glob("uid.*")}
        equal(users, {str(subprocess.check_output(["id", "-u", "nobody"], text=True).strip() if ingest.IS_ROOT
                          else os.getuid())})
        for file in place.glob("fds.*"):
            # 0 to 2, the liveness pipe, and what ls itself opened
            check(len(file.read_text().split()) <= 5, file.read_text())


def test_grandchild_in_a_session_of_its_own_keeps_the_slot():
    """The program ends at once; what it left behind ignores TERM, and the slot is not free before it is gone."""
    with ingest.folder() as place:
        marker = f"73.{os.getpid()}"
        leave = script(place, "leave", f"trap '' TERM; exec sleep {marker}\n")
        go_on = place / "go-on"
        path = script(place, "scan", "file=$(cat | tr -d '\\0')\n"
                      f"case $file in *leave*) setsid {leave} </dev/null >/dev/null 2>&1 3>&- &\n"
                      f"while [ ! -e {go_on} ]; do sleep 0.01; done;; esac\n"
                      "case $file in *EICAR*) exit 1;; esac\nexit 0\n")
        with Server(f"exec:{path}", "--scan-limit", "1M", "--scan-slots", "1") as server:
            upload = ingest.in_background(server.put, "f", b"leave")
            wait_until(lambda: processes(f"sleep\0{marker}"), 20, "the grandchild lives")
            go_on.touch()
            wait_until(lambda: not processes(f"/bin/sh\0{path}"), 20, "the program itself has ended")
            if processes(f"sleep\0{marker}"):
                # Asked between two looks at the same process, so it was alive when the slot was held.
                held = server.slots("scan", "held")
                if processes(f"sleep\0{marker}"):
                    equal(held, 1, "the slot is held while the grandchild lives")
            equal(upload.result().status, 201)
            equal(processes(f"sleep\0{marker}"), [], "nobody is left when the answer comes")
            server.wait_idle()


def supervisor_of(server):
    (supervisor,) = [pid for pid in processes("supervise-scanner") if parent_of(pid) == server.process.pid]
    return supervisor


def test_killed_supervisor_does_not_free_the_slot_of_what_it_left():
    """Nobody sweeps any more, and the slot is held until the inherited pipe reaches its end."""
    with ingest.folder() as place:
        marker, program = f"76.{os.getpid()}", f"77.{os.getpid()}"
        path = script(place, "scan", "file=$(cat | tr -d '\\0')\n"
                      f"case $file in *slow*) setsid sleep {marker} >/dev/null 2>&1 &\n"
                      f"exec sleep {program};; *EICAR*) exit 1;; esac\nexit 0\n")
        with Server(f"exec:{path}", "--scan-limit", "1M") as server:
            upload = ingest.in_background(server.put, "f", b"slow")
            left = wait_until(lambda: processes(f"sleep\0{marker}"), 20, "the grandchild lives")
            wait_until(lambda: processes(f"sleep\0{program}"), 20, "the program is as far as it goes")
            supervisor = supervisor_of(server)
            os.kill(supervisor, signal.SIGKILL)
            wait_until(lambda: not os.path.exists(f"/proc/{supervisor}"), 20, "the server has seen its end")
            wait_until(lambda: not processes(f"sleep\0{program}"), 20, "the program has gone with its supervisor")
            equal(server.slots("scan", "held"), 1, "the slot is held")
            check(upload.is_alive(), "there is no answer yet")
            equal(processes(f"sleep\0{marker}"), left, "the grandchild outlives them")
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            upload.result().problem(503, "scanner-unavailable")
            server.wait_idle()
            equal(server.published(), [])


def test_cancelled_upload_ends_its_program_and_all_it_left():
    with ingest.folder() as place:
        marker = f"74.{os.getpid()}"
        path = script(place, "scan", "file=$(cat | tr -d '\\0')\n"
                      f"case $file in *slow*) setsid sleep {marker} & sleep {marker};; *EICAR*) exit 1;; esac\nexit 0\n")
        with Server(f"exec:{path}", "--scan-limit", "1M", memory=True) as server:
            baseline = ingest.Baseline(server)
            connection = server.connect()
            connection.sendall(ingest.head("f", 4) + b"slow")
            wait_until(lambda: len(processes(f"sleep\0{marker}")) == 2, 20, "both sleep")
            ingest.reset(connection)
            baseline.restored()
            equal(processes(f"sleep\0{marker}"), [])
            wait_until(lambda: "CANCELLED" in server.transitions("f"), 20, "it is cancelled")


def kill_while_a_program_runs(number, is_stopped):
    with ingest.folder() as place:
        marker = f"{number}.{os.getpid()}"
        path = script(place, "scan", "file=$(cat | tr -d '\\0')\n"
                      f"case $file in *slow*) setsid sleep {marker} & sleep {marker};; *EICAR*) exit 1;; esac\nexit 0\n")
        with Server(f"exec:{path}", "--scan-limit", "1M") as server:
            connection = server.connect()
            connection.sendall(ingest.head("f", 4) + b"slow")
            wait_until(lambda: len(processes(f"sleep\0{marker}")) == 2, 20, "both sleep")
            supervisor = supervisor_of(server)
            if is_stopped:
                os.kill(supervisor, signal.SIGSTOP)
            server.process.kill()
            server.process.wait()
            with contextlib.suppress(ProcessLookupError):
                os.kill(supervisor, signal.SIGCONT)  # the kernel does so only if no relative is left in its session
            wait_until(lambda: not processes(f"sleep\0{marker}"), 20, "all are gone")
            equal(server.published(), [])
            server.start()
            equal(server.put("f", b"x").status, 201)


def test_killed_server_takes_its_programs_with_it():
    kill_while_a_program_runs(75, is_stopped=False)


def test_killed_server_takes_its_programs_with_it_when_their_supervisor_is_stopped():
    """The kernel continues it, and tells it of that by a signal that would end it."""
    kill_while_a_program_runs(78, is_stopped=True)


def test_verdict_names_the_engine_and_story_tells_it():
    with Clamd() as clamd, Server(f"clamd:{clamd.socket}", "--scanner-note", "one signature only") as server:
        body = server.put("f", b"x").json
        check(re.match(r"ClamAV \d", body["engine"]), body["engine"])
        check("one signature only" in "\n".join(server.block), "the note is in the start block")
        story = server.request("GET", f"/uploads/{body['id']}").json
        equal(story["engine"], body["engine"])


if __name__ == "__main__":
    ingest.main()
