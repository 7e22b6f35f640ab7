# SPDX-License-Identifier: Apache-2.0
"""An upload of the shipped server, held in one state of its life.

    with holds.held("syncing", backing) as upload:
        ...                 # something happens
        upload.let_go()     # what the test holds inside the server
        upload.go_on()      # what its client, or the one in front, still had to do
        upload.answer()

The bucket is on testfs, where a call that hangs is a state that lasts; clients stop halfway; the scanner waits.
"""

import contextlib
import os

import ingest
import testfs
from ingest import EICAR, Server, wait_until
from scanner_test import script

NAME = "f"
BUCKET = "/bucket"  # on testfs; the folders of the state are synced, too
PLAIN = b"plain " + os.urandom(50_000)
SLOW = b"slow  " + os.urandom(50_000)

# One that waits for the test if the file says so. It looks at the first bytes only, of EICAR too.
SCANNER = """case $(head -c 6 | tr -d '\\0') in
slow*) while [ -e {lever} ]; do sleep 0.01; done;;
X5O*) echo 'stdin: Eicar FOUND'; exit 1;;
esac
"""


class Held:
    """The upload of NAME, in a server of its own."""

    state = None  # the last that the log has said; None: it is no upload yet
    body = PLAIN
    arguments = ()
    has_left = False

    def __init__(self, place, filesystem, clamd):
        self.lever, self.filesystem, self.clamd = place / "lever", filesystem, clamd
        self.bucket, self.staging = filesystem.backing / "bucket", filesystem.backing / "bucket.state" / "staging"
        self.program = script(place, "scan", SCANNER.format(lever=self.lever))
        self.connection, self.rule, self.others, self.server = None, None, [], None

    def scanner(self):
        """Its word for --scanner, and what goes with it."""
        return [f"clamd:{self.clamd.socket}"] if self.clamd else [f"exec:{self.program}", "--scan-limit", "64K"]

    def enter(self):
        """Until it is there."""
        raise NotImplementedError

    def let_go(self):
        if self.rule is not None:
            self.filesystem.clear(self.rule)
        self.lever.unlink(missing_ok=True)
        if self.clamd and self.clamd.process.poll() is None:
            self.clamd.go_on()

    def go_on(self):
        pass

    def answer(self):
        """What the client, if it is there, gets in the end: None, nothing."""
        return ingest.read_answer(self.connection)

    def leave(self):
        """The client, and those who were there only to be in its way."""
        for connection in (self.connection, *self.others):
            connection.close()

    def send(self, begin=None, end=None):
        if begin is None:
            self.connection = self.server.connect()
        self.connection.sendall((ingest.head(NAME, len(self.body)) + self.body)[begin:end])

    def send_in_front(self, body, end=None):
        """Another upload; returns its connection."""
        connection = self.server.connect()
        connection.sendall((ingest.head("other", len(body)) + body)[:end])
        self.others.append(connection)
        return connection

    def hold(self, call, path=None):
        self.rule = self.filesystem.rule(call, hang=True, path=path)
        self.send()
        self.filesystem.wait_waiting(call)

    def slow_down(self):
        """A scan of SLOW takes until let_go()."""
        self.lever.touch()
        if self.clamd:
            self.clamd.stop_answering()


class Head(Held):
    def enter(self):
        self.send(end=20)
        self.server.settle()

    def go_on(self):
        self.send(begin=20)


class Waiting(Held):
    arguments = ("--upload-slots", "1")

    def enter(self):
        self.in_front = self.send_in_front(ingest.HELD, -1)
        wait_until(lambda: self.server.slots("upload", "held") == 1, 20, "the slot is taken")
        self.send()
        self.server.wait_in_line(1)

    def go_on(self):
        ingest.finish(self.in_front)


class Body(Held):
    state = "RECEIVING"

    def enter(self):
        received = self.server.metric("ingest_received_bytes_total")
        self.send(end=-20_000)
        wait_until(lambda: self.server.metric("ingest_received_bytes_total") > received, 20, "some is written")
        self.server.settle()

    def go_on(self):
        self.send(begin=-20_000)


class Sealing(Held):
    state = "RECEIVING"

    def enter(self):
        self.hold("open")


class Queued(Held):
    state = "SCANNING"
    arguments = ("--scan-slots", "1")

    def enter(self):
        self.slow_down()
        self.send_in_front(SLOW)
        wait_until(lambda: self.server.slots("scan", "held") == 1, 20, "the scan slot is taken")
        self.send()
        wait_until(lambda: self.server.metric("ingest_scans_waiting") == 1, 20, "it waits")


class Scanning(Held):
    state = "SCANNING"
    body = SLOW

    def enter(self):
        self.slow_down()
        self.send()
        wait_until(lambda: self.server.slots("scan", "held") == 1, 20, "it is being scanned")


class Refused(Held):
    state = "VERDICT"
    body = EICAR

    def enter(self):
        self.hold("truncate")


class Syncing(Held):
    state = "PUBLISHING"

    def enter(self):
        self.hold("fsync")


class Linking(Held):
    state = "PUBLISHING"

    def enter(self):
        self.hold("link")


class Named(Held):
    state = "PUBLISHING"

    def enter(self):
        self.hold("fsyncdir", BUCKET)


class Answering(Held):
    """The file's last close, which the answer waits for."""

    state = "PUBLISHED"

    def enter(self):
        self.hold("fsyncdir", BUCKET)
        wait_until(lambda: self.server.slots("scan", "held") == 0, 20, "nobody else closes a file")
        before, self.rule = self.rule, self.filesystem.rule("flush", hang=True)
        self.filesystem.clear(before)
        self.filesystem.wait_waiting("flush")


class Reclaiming(Body):
    """Its client has left, and its space is being given back."""

    has_left = True

    def enter(self):
        super().enter()
        self.rule = self.filesystem.rule("flush", hang=True)
        ingest.reset(self.connection)
        self.filesystem.wait_waiting("flush")

    def go_on(self):
        pass


STATES = {
    "head": Head,
    "waiting": Waiting,
    "body": Body,
    "sealing": Sealing,
    "queued": Queued,
    "scanning": Scanning,
    "refused": Refused,
    "syncing": Syncing,
    "linking": Linking,
    "named": Named,
    "answering": Answering,
    "reclaiming": Reclaiming,
}


@contextlib.contextmanager
def held(state, backing, *arguments, with_names=False, clamd=None):
    """@backing is the folder that all bytes go to; @with_names: a filesystem that has no nameless files."""
    with ingest.folder() as place, testfs.Filesystem(backing=backing, nameless=not with_names) as filesystem:
        upload = STATES[state](place, filesystem, clamd)
        with Server(*upload.scanner(), *upload.arguments, *arguments, bucket=filesystem.mount / "bucket") as server:
            upload.server, upload.baseline = server, ingest.Baseline(server)
            try:
                upload.enter()
                yield upload
            finally:
                filesystem.clear()
                upload.lever.unlink(missing_ok=True)
