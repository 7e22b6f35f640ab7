# SPDX-License-Identifier: Apache-2.0
"""A real Chromium without a screen, spoken to by the DevTools protocol over its pipe: two descriptors, JSON, a NUL behind each."""

import contextlib
import http.server
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import threading
import time

import ingest
from ingest import Skip

PROGRAMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
         "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--remote-debugging-pipe")


class Page(http.server.BaseHTTPRequestHandler):
    """An empty one."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def origin():
    """One that has that page, and an address of its own."""
    pages = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=pages.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{pages.server_port}"
    finally:
        pages.shutdown()
        pages.server_close()


class Browser:
    """One, with a profile of its own, and its tabs."""

    def __enter__(self):
        program = next(filter(None, map(shutil.which, PROGRAMS)), None)
        if not program:
            raise Skip("Chromium is not installed")
        self.profile = tempfile.mkdtemp(prefix="ew-browser.", dir="/tmp")
        hears, self.to = os.pipe()
        self.of, says = os.pipe()
        self.said, self.number = b"", 0

        def at_3_and_4():
            # Above what is to be replaced first.
            high = [os.dup(os.dup(os.dup(one))) for one in (hears, says)]
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)

        with open(os.path.join(self.profile, "output"), "wb") as output:
            self.process = subprocess.Popen([program, *FLAGS, f"--user-data-dir={self.profile}", "about:blank"],
                                            stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                            preexec_fn=at_3_and_4, pass_fds=(3, 4), start_new_session=True)
        os.close(hears)
        os.close(says)
        return self

    def __exit__(self, *_):
        self.kill()
        os.close(self.to)
        os.close(self.of)
        shutil.rmtree(self.profile, ignore_errors=True)

    def kill(self):
        """All of its processes."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def hear(self, end):
        """The next message."""
        while b"\0" not in self.said:
            ready, _, _ = select.select([self.of], [], [], max(end - time.monotonic(), 0))
            piece = os.read(self.of, 65536) if ready else b""
            if not piece:
                raise AssertionError(f"the browser says nothing: {self.output()}")
            self.said += piece
        text, self.said = self.said.split(b"\0", 1)
        return json.loads(text)

    def output(self):
        with open(os.path.join(self.profile, "output"), "rb") as output:
            return output.read()[-500:].decode(errors="replace")

    def ask(self, method, session=None, **parameters):
        """Its answer to a command; events are passed over."""
        self.number += 1
        command = {"id": self.number, "method": method, "params": parameters}
        if session:
            command["sessionId"] = session
        os.write(self.to, json.dumps(command).encode() + b"\0")
        end = time.monotonic() + 60 * ingest.SCALE
        while (said := self.hear(end)).get("id") != self.number:
            pass
        if "error" in said:
            raise AssertionError(f"{method}: {said['error']}")
        return said["result"]

    def open(self, url):
        return Tab(self, url)


class Tab:
    """A page that has been loaded."""

    def __init__(self, browser, url):
        self.browser = browser
        self.target = browser.ask("Target.createTarget", url=url)["targetId"]
        self.session = browser.ask("Target.attachToTarget", targetId=self.target, flatten=True)["sessionId"]
        ingest.wait_until(lambda: self.runs("location.href + document.readyState") == url + "complete", 60, f"{url} is loaded")

    def runs(self, script):
        """The value of an expression."""
        answer = self.browser.ask("Runtime.evaluate", self.session, expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise AssertionError(f"{script}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def goes_to(self, url):
        self.browser.ask("Page.navigate", self.session, url=url)

    def closes(self):
        self.browser.ask("Target.closeTarget", targetId=self.target)
