# SPDX-License-Identifier: Apache-2.0
"""Looks at a server all the time while something happens to it."""

import threading
import time

import ingest
from ingest import check, equal


class Watch:
    """What must be true at every moment: permits add up, /readyz and /metrics answer and agree with themselves, no child
    that has ended stays a zombie. @look is asked at each look too; it raises what it does not like.
    """

    ZOMBIE_SECONDS = 10  # a child that has ended is one for a moment, until the server has heard of it

    def __init__(self, server, look=None):
        self.server, self.look = server, look
        self.looks, self.error = 0, None
        self.zombies = {}
        self.looking = threading.Lock()
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, kind, *_):
        self.over.set()
        self.thread.join(60 * ingest.SCALE)
        if kind is None:
            self.expect_well()
            check(self.looks > 0, "it has looked")

    def expect_well(self):
        if self.error:
            raise AssertionError(f"look {self.looks}: {self.error}")

    def resting(self):
        """A block in which it does not look, since its connections are descriptors too."""
        return self.looking

    def run(self):
        while not self.over.is_set() and not self.error:
            process = self.server.process
            try:
                with self.looking:
                    self.once(process.pid)
                self.looks += 1
            except Exception as error:  # pylint: disable=broad-except
                # Whom the test itself has ended, or is just starting again, need not answer.
                if process.poll() is None and process is self.server.process and not self.server.is_starting:
                    self.error = f"{type(error).__name__}: {error}"
            self.over.wait(0.02)

    def once(self, pid):
        self.server.metrics()
        answer = self.server.request("GET", "/readyz")
        checks = answer.json["checks"]
        equal(answer.status, 200 if all(entry["ready"] for entry in checks) else 503, f"/readyz says {checks}")
        check(all(entry["reason"] for entry in checks), f"a reason each: {checks}")
        self.look_for_zombies(pid)
        if self.look:
            self.look()

    def look_for_zombies(self, pid):
        now = time.monotonic()
        seen = {child for child in ingest.children(pid) if ingest.state_of(child) == "Z"}
        self.zombies = {child: self.zombies.get(child, now) for child in seen}
        for child, since in self.zombies.items():
            check(now - since < self.ZOMBIE_SECONDS * ingest.SCALE, f"child {child} stays a zombie")
