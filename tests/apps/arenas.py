# SPDX-License-Identifier: Apache-2.0
"""Parts of a test that run side by side, each in a process of its own: `SCRIPT arena NAME WORD...`, whose last line is its
report. One can be run alone by the same words.
"""

import contextlib
import json
import signal
import subprocess
import sys

import ingest
from ingest import check

SKIPPED = 77  # exit status: the machine cannot run this one


def run(script, words, seconds):
    """The report of each, once all have ended well; @words has the words for each name."""
    with contextlib.ExitStack() as stack:
        processes = {}
        for name, its_words in words.items():
            processes[name] = subprocess.Popen([sys.executable, script, "arena", name, *map(str, its_words)],
                                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            stack.callback(ingest.end_process, processes[name], 60)
        return {name: report(name, process, seconds) for name, process in processes.items()}


def report(name, process, seconds):
    try:
        output, _ = process.communicate(timeout=seconds * ingest.SCALE)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"{name} does not end") from None
    text = output.decode(errors="replace")
    if process.returncode == SKIPPED:
        raise ingest.Skip(f"{name}: {text.strip()}")
    check(process.returncode == 0, f"{name}: {text[-1500:]}")
    *noise, last = text.splitlines()
    print("\n".join(noise), end="\n" if noise else "", flush=True)
    return json.loads(last)


def main(function):
    """Ends the script if it was started as an arena; @function(name, words...) gives the report."""
    if sys.argv[1:2] != ["arena"]:
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # nothing stays behind
    try:
        print(json.dumps(function(*sys.argv[2:])))
    except AssertionError as what:
        sys.exit(f"failed: {what}")
    except ingest.Skip as why:
        print(why)
        sys.exit(SKIPPED)
    sys.exit(0)
