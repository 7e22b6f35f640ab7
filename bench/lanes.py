#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""bench/lanes beside a filesystem on which removing a name takes 20 ms, 5 s, and for ever."""

import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "apps"))

import testfs  # noqa: E402 pylint: disable=wrong-import-position

WIDTH = 24  # docs/limits.md


def run(count, patience_ms, **rule):
    """One line; the second is how long so many removals take if as many go at once as a lane is wide."""
    with tempfile.TemporaryDirectory(prefix="lanes.", dir=".") as healthy, testfs.Filesystem() as filesystem:
        with subprocess.Popen([testfs.ingest.BUILD / "bench" / "lanes", healthy, filesystem.mount, str(count),
                               str(patience_ms)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as bench:
            if bench.stdout.readline() != "ready\n":
                raise SystemExit(f"bench/lanes ended with {bench.wait()}")
            filesystem.rule("unlink", **rule)
            bench.stdin.write("\n")
            bench.stdin.flush()
            print("  " + bench.stdout.readline(), end="", flush=True)
            filesystem.clear()
            if bench.wait(60):
                raise SystemExit(f"bench/lanes ended with {bench.returncode}")


def main():
    print("a file made and removed each ms on a healthy filesystem, while on another", flush=True)
    print(f"  1200 names take 20 ms each ({1200 * 20 // WIDTH} ms at {WIDTH} at once)", flush=True)
    run(1200, 60_000, delay_ms=20)
    print(f"  48 names take 5 s each ({48 * 5000 // WIDTH} ms at {WIDTH} at once)", flush=True)
    run(48, 60_000, delay_ms=5000)
    print("  200 names are never removed", flush=True)
    run(200, 1, hang=True)


if __name__ == "__main__":
    main()
