#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""ew-sweep finds what a program leaves behind when it is ended halfway, says where, and finds nothing where nothing is."""

import os
import re
import shlex
import subprocess

import ingest
from ingest import Skip, check, equal

SWEEP = ingest.BUILD / "bin" / "ew-sweep"
SWEPT = ingest.BUILD / "tests" / "apps" / "swept"
SOURCE = ingest.ROOT / "tests" / "apps" / "swept.c"
EXAMPLES = ingest.BUILD / "examples"


def sweep(*words):
    done = subprocess.run([str(SWEEP), "--timeout", str(20 * ingest.SCALE), *map(str, words)], cwd=ingest.ROOT,
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=300 * ingest.SCALE)
    equal(done.stderr, "")
    return done.returncode, done.stdout


def line_of(fault):
    """file:line where the program does wrong."""
    for number, line in enumerate(SOURCE.read_text().splitlines(), 1):
        if f"/* fault: {fault} */" in line:
            return f"swept.c:{number} "
    raise AssertionError(f"swept.c has no fault {fault}")


def found(fault, *wanted, options=("--modes", "cancel")):
    """Sweeps the program with one fault: the first violation, and that its command shows the same again."""
    status, output = sweep("--no-heap", *options, SWEPT, fault, "{}")
    equal(status, 1, output)
    for text in wanted:
        check(text in output, f"no {text!r} in {output}")
    return output


def again(output):
    """What the first command says that the report names."""
    command = shlex.split(re.search(r"again: (.+)", output)[1])
    equal(command[0], str(SWEEP))
    return sweep(*command[1:])


def clean(*words):
    status, output = sweep(*words)
    equal(status, 0, output)
    check(", 0 violations" in output, output)
    return output


def test_sweep_of_a_good_program_finds_nothing():
    output = clean(SWEPT, "none", "{}")
    check(re.search(r"^ +\d+ at \S*swept\.c:\d+ publish\(\)$", output, re.MULTILINE), output)
    if ingest.BUILD.name != "cover":  # where a count follows the call, it is not in tail position
        check(" at task say, spawned at tests/apps/swept.c:" in output, output)
    check(re.search(r" [1-9]\d* points, [1-9]\d* runs,", output), output)


def test_sweep_of_examples_finds_nothing():
    for name in ("first", "compensation", "writer", "saga", "witness", "race"):
        clean("--modes", "ended,panic", EXAMPLES / name)


def test_sweep_of_a_server_ends_it_by_the_signal_that_it_waits_for():
    output = clean("--no-heap", "--modes", "ended", EXAMPLES / "echo")
    check(re.search(r"^ +\d+ at examples/echo\.c:\d+ wait_for_signal\(\)$", output, re.MULTILINE), output)
    status, output = sweep("--signal", "none", EXAMPLES / "echo")
    equal(status, 1, output)
    check("nothing can happen any more" in output, output)
    done = subprocess.run([str(SWEEP), "--signal", "TORM", EXAMPLES / "echo"], capture_output=True, text=True, check=False)
    equal(done.returncode, 2)
    check("TORM is no signal's name" in done.stderr, done.stderr)


def test_sweep_of_a_program_with_a_child_plays_it_by_a_script():
    output = clean("--no-heap", "--modes", "force", "--child", "/bin/child=ignore TERM; sleep 2000", SWEPT, "child", "{}")
    check(re.search(r"^ +1 at \S*swept\.c:\d+ wait_for_a_child\(\)$", output, re.MULTILINE), output)
    status, output = sweep("--child", "/bin/child=exit 1", SWEPT, "child", "{}")
    equal(status, 1, output)
    check("undisturbed" in output and "it ended with status 9" in output, output)
    status, output = sweep("--child", "/bin/child=exit", SWEPT, "child", "{}")
    equal(status, 1, output)
    check("EW_SIM_PROGRAMS in the environment has no new PATH=SCRIPT in /bin/child=exit" in output, output)
    done = subprocess.run([str(SWEEP), "--child", "", SWEPT, "child", "{}"], capture_output=True, text=True, check=False)
    equal(done.returncode, 2)
    check("'' is not PATH=SCRIPT" in done.stderr, done.stderr)
    output = found("child", "it ended with status 1", options=("--child", "/bin/child=exit 0", "--modes", "cancel", "--status", "0"))
    check("--child '/bin/child=exit 0'" in output, output)


def test_sweep_finds_a_descriptor_that_is_kept():
    output = found("descriptor", f"{line_of('descriptor')}keep_a_descriptor(): descriptor ", "/dev/null")
    status, output = again(output)
    equal(status, 1, output)
    check("/dev/null" in output, output)


def test_sweep_finds_a_file_that_is_left():
    found("file", f"{line_of('file')}leave_a_file(): file half.")


def test_sweep_finds_a_file_that_is_left_in_a_folder_that_stays():
    with ingest.folder() as folder:
        status, output = sweep("--no-heap", "--modes", "cancel", "--watch", folder, SWEPT, "file", folder)
        equal(status, 1, output)
        check("file half." in output and f"is left in {folder}" in output, output)
        equal(os.listdir(folder), [])
        clean("--no-heap", "--modes", "cancel", "--watch", folder, SWEPT, "none", folder)


def test_sweep_finds_memory_that_is_lost():
    status, output = sweep("--modes", "cancel", SWEPT, "memory", "{}")
    if "heap: not looked at" in output or "liblsan cannot work here" in output:
        raise Skip("no liblsan here, or it may not look")
    equal(status, 1, output)
    check(f"memory is lost that was asked for at tests/apps/{line_of('memory')}lose_memory()" in output, output)


def test_sweep_finds_a_resource_that_nobody_owns():
    found("resource", f"pipe made at tests/apps/{line_of('resource').strip()} is left")


def test_sweep_finds_a_crash_a_status_and_a_hang():
    found("crash", f"{line_of('crash')}crash(): it was killed by SIGABRT")
    output = found("status", "it ended with status 9")
    clean("--no-heap", "--modes", "cancel", "--status", "0,1,9", SWEPT, "status", "{}")
    found("early", "it left before the end of ew_run()")
    found("hang", f"{line_of('hang')}hang(): it did not end within 2 s",
          options=("--modes", "cancel", "--timeout", "2"))
    check(f"again: {SWEEP} --at cancel:" in output, output)


def test_sweep_of_a_program_with_other_points_each_time_fails():
    found("unsteady", "not deterministic: point 6 was not reached")


def test_sweep_forces_at_each_point_after_the_cancel():
    output = clean("--modes", "cancel-force", EXAMPLES / "protect")
    points, runs = map(int, re.search(r"(\d+) points, (\d+) runs", output).groups())
    check(runs > points, output)


def test_sweep_of_some_points_makes_only_those():
    output = clean("--no-heap", "--modes", "cancel", "--points", "1-2", SWEPT, "none", "{}")
    check("points, 2 runs," in output, output)
    status, output = sweep("--points", "900-901", SWEPT, "none", "{}")
    equal(status, 1)
    check("--points 900-901: the program has" in output, output)


def test_sweep_of_too_many_points_makes_as_many_runs_of_each_kind_and_says_of_how_many():
    words = ("--no-heap", "--runs", "8", "--modes", "cancel,force", "--status", "5", EXAMPLES / "thousand")
    kind = re.compile(r"^(\w+):\d+, at \S*thousand\.c:\d+ (\w+)\(\): it ended with status", re.MULTILINE)
    status, output = sweep(*words)
    equal(status, 1, output)
    equal(sorted(kind.findall(output)), sorted(2 * [(mode, place) for mode in ("cancel", "force") for place in ("work", "end_well")]))
    check(" 2000 points, 8 runs of 4000, chosen by seed 1, 8 violations" in output, output)
    equal(sweep(*words)[1], output)
    output = clean("--no-heap", "--runs", "3", "--modes", "cancel-force", SWEPT, "none", "{}")
    check(re.search(r" points, \d+ runs of more than \d+, chosen by seed 1, ", output), output)


def test_sweep_of_what_is_wrong_undisturbed_says_so():
    status, output = sweep("/bin/true")
    equal(status, 1)
    check("undisturbed, /bin/true is wrong already: it made no run" in output, output)
    status, output = sweep("/bin/false")
    equal(status, 1)
    check("it ended with status 1" in output, output)
    status, output = sweep("/no/such")
    equal((status, output), (1, "/no/such: no such program\n"))
    done = subprocess.run([str(SWEEP), "--at", "sideways:1", "/bin/true"], capture_output=True, text=True, check=False)
    equal(done.returncode, 2)
    check("sideways:1 is not MODE:INDEX" in done.stderr, done.stderr)


def test_sweep_in_the_environment_that_names_no_point_is_refused():
    done = subprocess.run([str(EXAMPLES / "first")], capture_output=True, text=True, check=False,
                          env={**os.environ, "EW_DRIVER": "sim", "EW_SWEEP_AT": "cancel:x"})
    equal(done.returncode, 1)
    check("EW_SWEEP_AT=cancel:x in the environment names no point" in done.stderr, done.stderr)
    equal(done.stdout, "")


def test_sweep_in_the_environment_without_the_simulated_world_is_nothing():
    with ingest.folder() as folder:
        done = subprocess.run([str(EXAMPLES / "first")], capture_output=True, text=True, check=False,
                              env={**os.environ, "EW_DRIVER": "", "EW_SWEEP_AT": "cancel:0",
                                   "EW_SWEEP_REPORT": str(folder / "report")})
        equal((done.returncode, done.stdout), (0, "hello, Ada\ngoodbye, Ada\n"))
        equal(os.listdir(folder), [])


if __name__ == "__main__":
    ingest.main()
