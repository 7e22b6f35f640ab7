#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A body that is too large for a message goes into a file; it arrives whole, and nothing of it is left however the operation ends.

A real RabbitMQ, and the workers of examples/workers/. Nothing is left: no file in the bucket, no nameless file that is open, no
lease but those of gateways that live.
"""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess

import crash
import gateway
import ingest
import testfs
from gateway import LANGUAGES, Gateway
from ingest import check, equal, wait_until

SIZE = 3 << 20
HEAD = b"POST /ops/render HTTP/1.1\r\nHost: 127.0.0.1\r\n"


def job(milliseconds, size=SIZE, **wishes):
    """What the job is, is behind the bytes that make the body large: who has not all of it does not know."""
    wish = json.dumps({"ms": milliseconds, **wishes}).encode()
    return b" " * (size - len(wish)) + wish


SHORT, LONG = job(20), job(600000)


class Stage:
    """A bucket, a queue, its workers and gateways."""

    def __init__(self, stack, language="c", bucket=None, expected=(), **keys):
        self.stack, self.language, self.expected = stack, language, expected
        self.queue = stack.enter_context(gateway.work_queue())
        self.log = stack.enter_context(gateway.Log())
        self.bucket = bucket or stack.enter_context(ingest.folder()) / "bodies"
        self.keys = {"routing_key": self.queue, "concurrency": 2, "waiting_room": 5, "timeout": "10m", "cancel_deadline": "60s",
                     "bodies": self.bucket, "inline_body": 1000, "body_max": 8 << 20, **keys}
        self.group = []
        self.gateway = self.start_gateway()

    def start_gateway(self):
        return self.stack.enter_context(Gateway({"render": self.keys}, bucket=self.bucket, expected=self.expected))

    def start_worker(self):
        self.group.append(self.stack.enter_context(gateway.Worker(self.language, self.queue, self.log)))
        gateway.await_consumers(self.queue, 1)

    def begins(self, body=LONG, held=1):
        """A client that waits; its operation has a permit, as so many have now."""
        connection = self.gateway.connect()
        connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        self.gateway.await_permits(held=held)
        return connection

    def queues(self, body=LONG, count=1):
        """The same, and it is in the queue, of which nobody takes."""
        connection = self.begins(body)
        wait_until(lambda: gateway.messages(self.queue) == count, 60, "the operation is in the queue")
        return connection

    def runs(self, count=1):
        wait_until(lambda: sum(line.startswith("begin ") for line in self.log.lines()) == count, 60, "the job runs")

    def bodies(self):
        return sorted(self.bucket.iterdir())

    def await_bodies(self, count):
        wait_until(lambda: len(self.bodies()) == count, 60, lambda: f"{count} bodies of {self.bodies()}")
        return self.bodies()

    def leases(self):
        return len(list((self.bucket.with_name(self.bucket.name + ".state") / "leases").iterdir()))

    def staging_names(self):
        return list(self.bucket.with_name(self.bucket.name + ".state").glob("staging/*/*"))

    def is_clean(self, gateways=1):
        wait_until(lambda: not self.bodies(), 60, lambda: f"no body is left of {self.bodies()}")
        wait_until(lambda: self.gateway.staged() == 0, 60, "no nameless file is left")
        wait_until(lambda: not self.staging_names(), 60, lambda: f"no staging name is left of {self.staging_names()}")
        wait_until(lambda: self.leases() == gateways, 60, "no lease is left")


@contextlib.contextmanager
def stage(*arguments, **options):
    with contextlib.ExitStack() as stack:
        yield Stage(stack, *arguments, **options)


# ---- it arrives ----

def arrives_whole(language):
    with stage(language) as place:
        place.start_worker()
        equal(place.gateway.post(SHORT).json, {"steps": 2})
        equal(place.gateway.post(iter([SHORT[:5], SHORT[5:700], SHORT[700:]])).json, {"steps": 2})
        equal(place.gateway.post(job(20, 1000)).json, {"steps": 2})
        place.is_clean()
        equal(place.gateway.outcomes(), {"replied": 3})


for one_language in LANGUAGES:
    globals()[f"test_gateway_body_in_a_file_arrives_whole_{one_language}"] = lambda language=one_language: arrives_whole(language)


def take(channel, queue):
    """The next message of a queue."""
    return wait_until(lambda: next(iter([found for found in [channel.basic_get(queue, auto_ack=True)] if found[0]]), None), 60,
                      "a message")


def test_gateway_message_says_where_the_body_is():
    with stage() as place, contextlib.closing(gateway.connect()) as connection:
        channel = connection.channel()
        with contextlib.closing(place.begins(SHORT)):
            _, properties, body = take(channel, place.queue)
            equal(body, b"")
            headers = properties.headers
            equal((headers["x-ew-version"], headers["x-ew-body-bytes"]), ("2", str(SIZE)))
            equal(headers["x-ew-body-sha256"], hashlib.sha256(SHORT).hexdigest())
            equal([headers["x-ew-body-file"]], [str(path) for path in place.bodies()])
            check(headers["x-ew-body-file"].endswith(properties.message_id), "the operation's id")
            equal(place.bodies()[0].read_bytes(), SHORT)
            equal(place.bodies()[0].stat().st_mode & 0o777, 0o640)
        # As large as a message takes: no file.
        with contextlib.closing(place.gateway.connect()) as client:
            client.sendall(HEAD + b"Content-Length: 1000\r\n\r\n" + job(20, 1000))
            _, properties, body = take(channel, place.queue)
            equal((properties.headers["x-ew-version"], body), ("1", job(20, 1000)))
            check("x-ew-body-file" not in properties.headers, "no address")


# ---- the client leaves ----

def test_gateway_client_that_leaves_while_uploading_leaves_no_file():
    with stage() as place:
        for head, tail in ((b"Content-Length: %d\r\n\r\n" % SIZE, b""), (b"Transfer-Encoding: chunked\r\n\r\n100000\r\n", b"\r\n")):
            connection = place.gateway.connect()
            connection.sendall(HEAD + head + bytes(1 << 20) + tail)
            wait_until(lambda: place.gateway.staged() == 1, 60, "the body comes")
            connection.close()
            place.is_clean()
        equal(gateway.messages(place.queue), 0)


def test_gateway_client_that_leaves_while_waiting_leaves_no_file():
    with stage(concurrency=1) as place:
        first = place.queues()
        second = place.gateway.connect()
        second.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % SIZE + SHORT)
        wait_until(lambda: place.gateway.metric('gateway_waiting{route="render"}') == 1, 60, "it waits")
        equal(place.gateway.staged(), 1, "its file has no name yet")
        second.close()
        wait_until(lambda: place.gateway.staged() == 0, 60, "it has no file")
        first.close()
        place.start_worker()
        place.is_clean()


def test_gateway_client_that_leaves_in_the_queue_leaves_no_file():
    with stage() as place:
        place.queues().close()
        place.gateway.await_permits(cancelling=1)
        place.await_bodies(1)
        place.start_worker()
        place.gateway.await_rest()
        place.is_clean()
        equal(place.gateway.outcomes(), {"refused": 1})


def leaves_running(language):
    with stage(language) as place:
        place.start_worker()
        client = place.begins()
        place.runs()
        place.await_bodies(1)
        client.close()
        place.gateway.await_rest()
        place.is_clean()
        equal(place.gateway.outcomes(), {"stopped": 1})


for one_language in LANGUAGES:
    globals()[f"test_gateway_client_that_leaves_a_running_job_leaves_no_file_{one_language}"] = (
        lambda language=one_language: leaves_running(language))


def test_gateway_unroutable_operation_leaves_no_file():
    with stage(routing_key="nowhere") as place:
        place.gateway.post(SHORT).problem(502, "unroutable")
        place.is_clean()


# ---- nobody knows ----

def test_gateway_body_of_a_presumed_operation_stays_until_the_proof():
    with stage(cancel_deadline="100ms", presumed_hold="1h") as place:
        place.start_worker()
        client = place.begins(job(600000, on_cancel="lose"))
        place.runs()
        place.group[0].stops()
        client.close()
        place.gateway.await_permits(presumed=1)
        place.await_bodies(1)
        place.group[0].kill()
        place.start_worker()  # it has it again, as redelivered, and is refused
        place.gateway.await_rest()
        place.is_clean()


def test_gateway_body_of_a_presumed_operation_ends_with_its_hold():
    with stage(cancel_deadline="100ms", presumed_hold="200ms") as place:
        place.queues().close()
        wait_until(lambda: place.gateway.metric('gateway_presumed_expired_total{route="render"}') == 1, 60, "its hold is over")
        place.is_clean()


def test_gateway_end_removes_the_body_of_a_presumed_operation():
    with stage(cancel_deadline="100ms", presumed_hold="1h") as place:
        place.queues().close()
        place.gateway.await_permits(presumed=1)
        place.await_bodies(1)
        place.gateway.process.send_signal(signal.SIGTERM)
        wait_until(lambda: place.gateway.process.poll() is not None, 60, "it has ended")
        equal((place.bodies(), place.leases()), ([], 0))


# ---- a gateway is killed ----

def test_gateway_start_removes_the_bodies_of_one_that_was_killed_and_no_others():
    with stage() as place:
        dead, other = place.gateway, place.start_gateway()
        with contextlib.ExitStack() as clients:
            clients.enter_context(contextlib.closing(place.queues()))
            uploading = clients.enter_context(contextlib.closing(dead.connect()))
            uploading.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % SIZE + SHORT[:-1])
            wait_until(lambda: dead.staged() == 1, 60, "another body comes")
            [of_the_dead] = place.bodies()
            place.gateway = other
            clients.enter_context(contextlib.closing(place.queues(count=2)))
            [of_the_living] = set(place.await_bodies(2)) - {of_the_dead}
            dead.process.kill()
            dead.process.wait()
            equal(len(place.bodies()), 2)
            place.start_gateway()
            equal(place.await_bodies(1), [of_the_living])
            wait_until(lambda: place.leases() == 2, 60, "the lease of the dead is gone")
        place.start_worker()
        other.await_rest()
        place.is_clean(2)


def test_gateway_body_without_a_lease_is_reported_and_left():
    with stage() as place, contextlib.closing(place.queues()):
        [found] = place.await_bodies(1)
        (place.bucket.with_name("bodies.state") / "leases" / found.name.split("-")[0]).unlink()
        other = place.start_gateway()
        wait_until(lambda: "event=sweep-orphans" in other.log(), 20, "it is reported")
        check("1 files belong to no lease and are left alone; remove them from the bucket or the state folder" in other.log(), other.log())
        equal(place.bodies(), [found])
        place.start_worker()


# ---- a folder under two paths, or of two servers ----

def refused(bodies):
    """What a gateway says that does not start with these bodies."""
    with ingest.folder() as folder:
        config = folder / "config"
        config.write_text(f"[route render]\nrouting_key = nobody\nbodies = {bodies}\n")
        result = subprocess.run([str(gateway.GATEWAY), "serve", "--listen", "127.0.0.1:0", "--amqp", gateway.address(), "--config",
                                 str(config)], capture_output=True, timeout=20 * ingest.SCALE, check=False)
    equal(result.returncode, 1)
    return result.stderr.decode()


def test_gateway_body_of_another_is_not_swept_by_a_copy_of_its_leases():
    """Nobody locks the copies, so each of them seems to be of one that was killed."""
    with ingest.folder() as folder, stage(bucket=folder / "bodies") as place, contextlib.closing(place.queues()):
        found = place.await_bodies(1)
        alias = folder / "alias"
        alias.symlink_to("bodies")
        shutil.copytree(folder / "bodies.state", folder / "alias.state")
        said = refused(alias)
        check(f"the bucket {alias} is in use by an ew-gateway with another state folder" in said, said)
        equal(place.bodies(), found)
        place.start_worker()


def test_gateway_whose_lease_was_put_back_from_a_copy_lives():
    """Nobody has locked the copy; when the gateway is killed, its body is swept by it all the same."""
    with stage() as place, contextlib.closing(place.queues()):
        found = place.await_bodies(1)
        lease = place.bucket.with_name("bodies.state") / "leases" / found[0].name.split("-")[0]
        shutil.copy(lease, place.bucket.with_name("copy"))
        lease.unlink()
        shutil.copy(place.bucket.with_name("copy"), lease)
        lease.with_name("a" * 32).write_text(f"{place.bucket}\n")
        dead, other = place.gateway, place.start_gateway()
        wait_until(lambda: "event=swept" in other.log(), 60, "it has swept")
        check("1 leases of servers that are gone, 0 names" in other.log() and "sweep" not in other.log(), other.log())
        equal((place.bodies(), place.leases()), (found, 2))
        other.process.send_signal(signal.SIGTERM)
        wait_until(lambda: other.process.poll() is not None, 60, "it has ended")
        dead.process.kill()
        dead.process.wait()
        place.gateway = place.start_gateway()
        place.is_clean()


def test_gateway_folder_that_is_written_in_two_ways_is_one():
    with ingest.folder() as folder, stage(bucket=folder / "bodies") as place, contextlib.closing(place.queues()):
        found = place.await_bodies(1)
        other = Gateway({"render": {**place.keys, "bodies": folder / "bodies.state" / ".." / "bodies"},
                         "again": {**place.keys, "bodies": folder / "bodies"}}, bucket=place.bucket)
        with other:
            wait_until(lambda: place.leases() == 3, 60, "each bucket has its lease")
            other.process.send_signal(signal.SIGTERM)
            wait_until(lambda: other.process.poll() is not None, 60, "it has ended")
            check("event=ended" in other.log() and "sweep" not in other.log() and "swept" not in other.log(), other.log())
        equal(place.bodies(), found)
        place.start_worker()


def test_gateway_and_ingest_keep_out_of_each_others_folders():
    with ingest.folder() as folder, stage(bucket=folder / "bodies") as place:
        def ingest_says(bucket, *arguments):
            result = subprocess.run([str(ingest.SERVER), "serve", "--listen", "127.0.0.1:0", "--scanner", "none", "--bucket",
                                     str(bucket), *arguments], capture_output=True, timeout=20 * ingest.SCALE, check=False)
            equal(result.returncode, 1)
            return result.stderr.decode()

        said = ingest_says(place.bucket, "--state", str(folder / "own.state"))
        check(f"the bucket {place.bucket} is in use by an ew-gateway, and ew-ingest needs one of its own" in said, said)
        said = ingest_says(folder / "own", "--state", f"{place.bucket}.state")
        check(f"the state folder {place.bucket}.state is in use by an ew-gateway, and ew-ingest needs one of its own" in said, said)
        # What was made for a start that failed is gone again.
        equal(sorted(one.name for one in folder.iterdir()), ["bodies", "bodies.state"])
        with ingest.Server("none", bucket=folder / "files") as server:
            said = refused(server.bucket)
            check(f"the bucket {server.bucket} is in use by an ew-ingest, and ew-gateway needs one of its own" in said, said)


def test_gateway_bodies_of_one_that_was_killed_are_not_forgotten_by_an_ingest():
    """Which may come into the folders when no gateway lives; the lease stays for the next gateway."""
    with ingest.folder() as folder, stage(bucket=folder / "bodies") as place:
        with contextlib.closing(place.queues()):
            found = place.await_bodies(1)
            place.gateway.process.kill()
            place.gateway.process.wait()
        with ingest.Server("none", bucket=place.bucket) as server:
            server.wait_log("event=sweep-failed")
            check(f"the lease {found[0].name.split('-')[0]} is of an ew-gateway" in server.log(), server.log())
            equal((place.bodies(), place.leases()), (found, 2))
            equal(server.put("f", b"x").status, 201)
        (place.bucket / "f").unlink()
        place.gateway = place.start_gateway()
        place.is_clean()


def test_gateway_folder_stays_when_who_made_it_is_refused():
    """An ew-ingest makes the folders, and the gateway is there before it has locked them."""
    with testfs.Filesystem(nameless=True) as filesystem:
        held = filesystem.rule("opendir", hang=True, times=1, path="/bodies")
        with subprocess.Popen([str(ingest.SERVER), "serve", "--listen", "127.0.0.1:0", "--scanner", "none", "--bucket",
                               str(filesystem.mount / "bodies")], stderr=subprocess.PIPE) as maker:
            filesystem.wait_waiting("opendir")
            with stage(bucket=filesystem.mount / "bodies") as place:
                filesystem.clear(held)
                check(b"is in use by an ew-gateway" in maker.communicate(timeout=20 * ingest.SCALE)[1], "it is refused")
                place.start_worker()
                equal(place.gateway.post(SHORT).json, {"steps": 2})
                place.is_clean()


# ---- what is counted ----

def counted(server, bucket, *names):
    values = server.metrics()
    label = str(bucket).replace("\\", "\\\\").replace('"', '\\"')
    return [values[f'gateway_{name}{{bodies="{label}"}}'] for name in names]


def test_gateway_counts_bodies_from_their_first_byte_to_the_end_of_the_operation():
    with ingest.folder() as folder, stage(bucket=folder / 'a "b\\') as place:
        def await_counts(server, *wanted):
            wait_until(lambda: counted(server, place.bucket, "bodies", "bodies_bytes", "bodies_reserved_bytes", "bodies_names",
                                       "bodies_published_total") == list(wanted), 60, lambda: f"{wanted} of {server.metrics()}")

        await_counts(place.gateway, 0, 0, 0, 0, 0)
        uploading = place.gateway.connect()
        uploading.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % SIZE + SHORT[:-1])
        await_counts(place.gateway, 1, SIZE - 1, 1, 0, 0)
        client = place.begins()
        await_counts(place.gateway, 2, 2 * SIZE - 1, 1, 1, 1)
        uploading.close()
        await_counts(place.gateway, 1, SIZE, 0, 1, 1)
        equal(place.gateway.metric('gateway_bodies_unstored_total{route="render"}'), 0)

        # Of one that is killed nothing is left but a name.
        place.gateway.process.kill()
        place.gateway.process.wait()
        client.close()
        place.gateway = place.start_gateway()
        wait_until(lambda: counted(place.gateway, place.bucket, "bodies_swept_total") == [1], 60, "its name is swept")
        await_counts(place.gateway, 0, 0, 0, 0, 0)
        place.is_clean()


# ---- the power is cut ----

CUTS = 3


def expect_there(bodies, said):
    """Whatever a message has named is whole."""
    for headers in said:
        body = (bodies / headers["x-ew-body-file"].rsplit("/", 1)[1]).read_bytes()
        equal((str(len(body)), hashlib.sha256(body).hexdigest()), (headers["x-ew-body-bytes"], headers["x-ew-body-sha256"]))


def expect_swept(place, bodies):
    """The next gateway has removed all of it; when that has ended, too, nothing is left."""
    with Gateway({"render": {**place.keys, "bodies": bodies}}, bucket=bodies) as after:
        wait_until(lambda: not list(bodies.iterdir()), 60, "no body is left")
        wait_until(lambda: len(list((bodies.with_name("bodies.state") / "leases").iterdir())) == 1, 60, "no other lease is left")
        wait_until(lambda: after.staged() == 0, 60, "nothing is staged")
    equal(list((bodies.with_name("bodies.state") / "leases").iterdir()), [], "leases")


def power_cuts_keep_bodies(kind):
    with crash.Machine(kind) as machine, contextlib.ExitStack() as clients, stage(
            bucket=machine.mount / "bodies", concurrency=CUTS + 1) as place:
        coming = clients.enter_context(contextlib.closing(place.gateway.connect()))
        coming.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % SIZE + SHORT[:-1])
        wait_until(lambda: place.gateway.staged() == 1, 60, "another body comes")
        said, copies = [], []
        for number in range(1, CUTS + 1):
            clients.enter_context(contextlib.closing(place.begins(job(600000, SIZE + number), held=number)))
            # A connection that nobody reads from for minutes would miss its heartbeats.
            with contextlib.closing(gateway.connect()) as connection:
                said.append(take(connection.channel(), place.queue)[1].headers)
            copies.append((machine.cut(), list(said)))
        for copy, named in copies:
            with machine.power_on(copy) as mount:
                expect_there(mount / "bodies", named)
                expect_swept(place, mount / "bodies")
                machine.expect_no_space_lost(mount, CUTS)


def test_gateway_bodies_that_messages_name_survive_a_power_cut_on_ext4():
    power_cuts_keep_bodies("ext4")


def test_gateway_bodies_that_messages_name_survive_a_power_cut_on_xfs():
    power_cuts_keep_bodies("xfs")


# ---- no room ----

def test_gateway_body_over_the_routes_limit_is_refused_before_it_comes():
    with stage() as place, contextlib.closing(place.gateway.connect()) as connection:
        connection.sendall(HEAD + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % (9 << 20))
        equal(ingest.read_answer(connection).status, 413)
        equal(place.gateway.post(iter(9 * [bytes(1 << 20)])).status, 413)
        place.is_clean()


STEPS = [("statfs", "EIO", 500, "storage"), ("tmpfile", "ENOSPC", 507, "no-space"), ("write", "ENOSPC", 507, "no-space"),
         ("write", "EDQUOT", 507, "no-space"), ("write", "EIO", 500, "storage"), ("fsync", "ENOSPC", 507, "no-space"),
         ("link", "ENOSPC", 507, "no-space"), ("link", "EIO", 500, "storage"),
         # A disk's own timeout is not the operation's.
         ("write", "ETIMEDOUT", 500, "storage"), ("fsync", "ETIMEDOUT", 500, "storage"), ("link", "ETIMEDOUT", 500, "storage")]


def test_gateway_body_that_finds_no_room_starts_nothing():
    with testfs.Filesystem(nameless=True) as filesystem, stage(bucket=filesystem.mount / "bodies") as place:
        try:
            for call, error, status, word in STEPS:
                filesystem.rule(call, error=error, times=1)
                place.gateway.post(SHORT).problem(status, word)
                filesystem.clear()
                place.is_clean()
                place.gateway.await_rest()
            equal(gateway.messages(place.queue), 0)
            equal(place.gateway.metric('gateway_bodies_unstored_total{route="render"}'), len(STEPS))
            place.start_worker()
            equal(place.gateway.post(SHORT).json, {"steps": 2})
            place.is_clean()
        finally:
            filesystem.clear()


def test_gateway_body_whose_name_lost_its_reply_arrives():
    with testfs.Filesystem(nameless=True) as filesystem, stage(bucket=filesystem.mount / "bodies") as place:
        try:
            place.start_worker()
            filesystem.rule("link-done", error="EIO", times=1)
            equal(place.gateway.post(SHORT).json, {"steps": 2})
            place.is_clean()
            # Nor can it be looked at: nothing is started, and the name is removed.
            links = filesystem.counts()["link"]
            held = filesystem.rule("link-done", hang=True)
            filesystem.rule("link-done", error="EIO", times=1)
            waiting = ingest.in_background(lambda: place.gateway.post(SHORT))
            filesystem.wait_waiting("link-done")
            filesystem.rule("lookup", error="EIO", times=1, path="/bodies/*")
            filesystem.clear(held)
            waiting.result().problem(500, "storage")
            equal(filesystem.counts()["link"], links + 1)
            place.is_clean()
            equal(place.gateway.outcomes(), {"replied": 1})
        finally:
            filesystem.clear()


def test_gateway_with_a_volume_that_is_suspect_takes_what_goes_into_messages():
    with testfs.Filesystem(nameless=True) as filesystem, stage(bucket=filesystem.mount / "bodies") as place:
        try:
            place.start_worker()
            filesystem.rule("fsyncdir", error="EIO", times=1)
            for _ in range(2):
                place.gateway.post(SHORT).problem(500, "storage")
            place.is_clean()
            answer = place.gateway.request("GET", "/readyz")
            equal(answer.status, 503)
            equal(counted(place.gateway, place.bucket, "bodies_ready"), [0])
            check(b"volume of its bodies" in answer.body, f"the reason: {answer.body}")
            equal(place.gateway.post(job(20, 1000)).json, {"steps": 2})
        finally:
            filesystem.clear()


def test_gateway_body_that_cannot_be_removed_is_removed_later():
    with testfs.Filesystem(nameless=True) as filesystem, stage(bucket=filesystem.mount / "bodies",
                                                              expected=["reclaim-failed"]) as place:
        try:
            place.start_worker()
            filesystem.rule("unlink", error="EIO", times=2)
            equal(place.gateway.post(SHORT).json, {"steps": 2})
            place.is_clean()
            place.gateway.wait_log("event=reclaimed")  # by the task for it
        finally:
            filesystem.clear()


LEFT_MAX = 16


def too_many_bodies_stay(nameless):
    with testfs.Filesystem(nameless=nameless) as filesystem, stage(bucket=filesystem.mount / "bodies",
                                                                  expected=["reclaim-failed"]) as place:
        try:
            place.start_worker()
            filesystem.rule("unlink", error="EIO", path="/bodies/*")
            for _ in range(LEFT_MAX):
                equal(place.gateway.post(SHORT).json, {"steps": 2})
            place.gateway.await_rest()
            # Where a client has left before its body's removal had begun, that is for whoever tries again and again.
            tried = filesystem.counts()["unlink"]
            wait_until(lambda: filesystem.counts()["unlink"] >= tried + 2 * LEFT_MAX, 60, "each has been tried")
            place.gateway.post(SHORT).problem(500, "storage")
            equal(len(place.bodies()), LEFT_MAX)
            equal(place.gateway.post(job(20, 1000)).json, {"steps": 2})
            filesystem.clear()
            place.is_clean()
            equal(place.gateway.post(SHORT).json, {"steps": 2})
            place.is_clean()
        finally:
            filesystem.clear()


def test_gateway_takes_no_more_bodies_while_too_many_cannot_be_removed():
    too_many_bodies_stay(True)


def test_gateway_takes_no_more_bodies_while_too_many_cannot_be_removed_where_no_file_is_nameless():
    too_many_bodies_stay(False)


def test_gateway_bodies_where_no_file_is_nameless():
    with testfs.Filesystem() as filesystem, stage(bucket=filesystem.mount / "bodies") as place:
        connection = place.gateway.connect()
        connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % SIZE + bytes(1 << 20))
        wait_until(place.staging_names, 60, "the body comes")
        connection.close()
        place.is_clean()
        place.start_worker()
        equal(place.gateway.post(SHORT).json, {"steps": 2})
        place.is_clean()
        dead = place.gateway
        with contextlib.closing(dead.connect()) as uploading:
            uploading.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % SIZE + SHORT[:-1])
            wait_until(place.staging_names, 60, "another body comes")
            dead.process.kill()
            dead.process.wait()
        place.gateway = place.start_gateway()
        place.is_clean()


# ---- together with the rest ----

def test_gateway_key_compares_bodies_in_files():
    with stage() as place:
        place.start_worker()
        key = {"Idempotency-Key": "one"}
        equal(place.gateway.post(SHORT, headers=key).json, {"steps": 2})
        equal(place.gateway.post(SHORT, headers=key).headers["Idempotency-Replayed"], "true")
        place.gateway.post(job(30), headers=key).problem(422, "key-reused")
        place.gateway.post(job(20, 900), headers=key).problem(422, "key-reused")
        place.is_clean()
        equal(place.gateway.outcomes()["replied"], 1)


def test_gateway_key_of_a_body_that_was_not_stored_is_free_with_the_answer():
    with testfs.Filesystem(nameless=True) as filesystem, stage(bucket=filesystem.mount / "bodies") as place:
        try:
            place.start_worker()
            key = {"Idempotency-Key": "one"}
            filesystem.rule("link", error="ENOSPC", times=1)
            # What there is of the first body is not gone when the second one comes.
            held = filesystem.rule("flush", hang=True, times=1)
            place.gateway.post(SHORT, headers=key).problem(507, "no-space")
            filesystem.wait_waiting("flush")
            equal(place.gateway.post(SHORT, headers=key).json, {"steps": 2})
            filesystem.clear(held)
            place.is_clean()
        finally:
            filesystem.clear()


def test_gateway_cancel_of_one_whose_body_is_being_stored_comes_before_its_name():
    with testfs.Filesystem(nameless=True) as filesystem, stage(bucket=filesystem.mount / "bodies") as place:
        try:
            key = {"Idempotency-Key": "one"}
            held = filesystem.rule("fsync", hang=True)
            waiting = ingest.in_background(lambda: place.gateway.post(SHORT, headers=key))
            filesystem.wait_waiting("fsync")
            links = filesystem.counts()["link"]
            operation = "/ops/" + place.gateway.post(SHORT, headers=key).headers["X-Operation-Id"]
            receipt = ingest.in_background(lambda: place.gateway.request("DELETE", operation))
            wait_until(lambda: place.gateway.request("GET", operation).json["state"] == "cancelling", 60, "it is cancelled")
            filesystem.clear(held)
            waiting.result().problem(409, "cancelled")
            equal(receipt.result().json["answer"], "unsent")
            place.is_clean()
            equal(filesystem.counts()["link"], links)
            equal(gateway.messages(place.queue), 0)
        finally:
            filesystem.clear()


def test_gateway_deadline_of_one_whose_body_is_being_stored_comes_before_its_name():
    with testfs.Filesystem(nameless=True) as filesystem, stage(bucket=filesystem.mount / "bodies", timeout="5s") as place:
        try:
            held = filesystem.rule("fsync", hang=True)
            waiting = ingest.in_background(lambda: place.gateway.post(job(20, 2000)))
            filesystem.wait_waiting("fsync")
            links = filesystem.counts()["link"]
            # One that came later has had its time: so has that one, whose call to the disk goes on.
            place.gateway.post(job(20, 1000)).problem(504, "deadline")
            equal(filesystem.waiting("fsync"), 1)
            check(waiting.is_alive(), "it waits for the disk")
            place.gateway.await_permits(held=1, cancelling=1)
            filesystem.clear(held)
            waiting.result().problem(504, "deadline")
            place.is_clean()
            equal(filesystem.counts()["link"], links)
            place.gateway.await_permits(free=1, cancelling=1)
            equal(place.gateway.metric('gateway_bodies_unstored_total{route="render"}'), 1)
        finally:
            filesystem.clear()


def test_gateway_body_of_an_operation_without_its_client_stays_as_long_as_it():
    with stage() as place:
        answer = place.gateway.post(SHORT, headers={"Prefer": "respond-async"})
        equal(answer.status, 202)
        [body] = place.bodies()
        equal(body.read_bytes(), SHORT)
        place.start_worker()
        place.gateway.await_rest()
        place.is_clean()
        equal(place.gateway.request("GET", answer.headers["Location"] + "/result").json, {"steps": 2})


def test_gateway_operation_that_is_published_again_has_the_same_body():
    with stage() as place:
        broker = gateway.broker()
        broker.settle()
        os.kill(broker.pid(), signal.SIGSTOP)  # so it confirms nothing
        try:
            client = place.begins(SHORT)
            bodies = place.await_bodies(1)
        finally:
            broker.kill()
            broker.restart()
        wait_until(lambda: place.gateway.metric('gateway_republished_total{route="render"}') == 1, 60, "published again")
        equal(place.bodies(), bodies)
        place.start_worker()
        equal(ingest.read_answer(client).json, {"steps": 2})
        place.gateway.await_rest()
        place.is_clean()


if __name__ == "__main__":
    with gateway.broker():
        ingest.main()
