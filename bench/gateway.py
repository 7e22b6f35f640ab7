#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""ew-gateway beside a program that talks to the worker itself, and beside a small gateway in Node: bench/gateway.py [SECONDS [ROUNDS]]

One broker, one worker in C that answers at once, messages that are not persistent. Each row is so many calls in flight for SECONDS
(2), ROUNDS (3) times, in turn with all others; medians, and the least and the most in brackets. `none` and `required` are
whether the worker waits to be granted; the others know no grant but the program's `required`.

Then the way of a cancel: operations that run for long, whose clients are all reset at once. `cancel` is what the gateway says of
each, from the notice that its client has left to the worker's proof; the rate is of all of them, until all permits are free.
"""

import collections
import contextlib
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import time
import types

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "apps"))

import gateway  # noqa: E402 pylint: disable=wrong-import-position
import ingest  # noqa: E402 pylint: disable=wrong-import-position

IN_FLIGHT = (1, 32, 1000)
CALLERS = ingest.BUILD / "bench" / "callers"
System = collections.namedtuple("System", "how port where pid", defaults=(None,))  # without a pid the callers themselves
NOWHERE = types.SimpleNamespace(path="/dev/null")


def processor_us(pid):
    """What a process has used so far."""
    words = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(words[11]) + int(words[12])) * 1e6 / os.sysconf("SC_CLK_TCK")


def call(system, in_flight, seconds):
    """Answers a second, p50 and p99 in microseconds, and microseconds of processor for an answer, the system's and the broker's."""
    pids = [pid for pid in (system.pid, gateway.broker().pid()) if pid]
    before = [processor_us(pid) for pid in pids]
    with subprocess.Popen([str(CALLERS), system.how, str(system.port), system.where, str(in_flight), str(seconds)],
                          stdout=subprocess.PIPE) as callers:
        rate, count, p50, p99 = map(float, callers.stdout.read().split())
        _, status, usage = os.wait4(callers.pid, 0)
        callers.returncode = os.waitstatus_to_exitcode(status)
    used = [processor_us(pid) - since for pid, since in zip(pids, before)]
    if not system.pid:
        used.insert(0, (usage.ru_utime + usage.ru_stime) * 1e6)
    return rate, p50, p99, used[0] / count, used[1] / count


@contextlib.contextmanager
def gateway_in_node(queue):
    """Its port and pid; None if it cannot be had."""
    if not shutil.which("node") or not (gateway.WORKERS / "node_modules" / "amqplib").exists():
        yield None
        return
    with subprocess.Popen(["node", str(ROOT / "bench" / "gateway_in_node.mjs"), gateway.address(), queue],
                          stdout=subprocess.PIPE) as process:
        try:
            yield int(process.stdout.readline()), process.pid
        finally:
            process.kill()


def spread(numbers, form):
    """Their median, least and most."""
    return f"{statistics.median(numbers):{form}} ({min(numbers):{form}} to {max(numbers):{form}})"


def compare(systems, seconds, rounds):
    """A table for each number in flight; the first row is what the others are compared with."""
    for in_flight in IN_FLIGHT:
        found = {name: [] for name in systems}
        for _ in range(rounds):
            for name, system in systems.items():
                found[name].append(call(system, in_flight, seconds))
        print(f"{in_flight} in flight")
        base = None
        for name, figures in found.items():
            rates, p50s, p99s, own, brokers = zip(*figures)
            base = base or statistics.median(rates)
            print(f"  {name:24}{spread(rates, ',.0f')} a second, {statistics.median(rates) / base:.2f} of the first; "
                  f"p50 {spread(p50s, ',.0f')} us, p99 {spread(p99s, ',.0f')} us; "
                  f"processor {spread(own, ',.0f')} us, the broker's {spread(brokers, ',.0f')} us", flush=True)
        if in_flight == 1:
            medians = {name: statistics.median(figure[1] for figure in figures) for name, figures in found.items()}
            print(f"  the grant's round trip: {medians['ew-gateway, required'] - medians['ew-gateway, none']:,.0f} us of p50")


def leave_once(server, count):
    """How long each cancel took in us, and how many were over in a second."""
    log_bytes = len(server.log())
    before = server.metric('gateway_grants_total{route="required"}')
    with subprocess.Popen([str(CALLERS), "leave", str(server.port), "required", str(count)], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as clients:
        clients.stdout.readline()
        ingest.wait_until(lambda: server.metric('gateway_grants_total{route="required"}') == before + count, 60, "all run")
        server.settle()
        began = time.monotonic()
        clients.stdin.close()
        server.await_rest("required")
        seconds = time.monotonic() - began

    def times():
        return sorted(float(text) * 1e6 for text in re.findall(r" cancel=([0-9.]+)", server.log()[log_bytes:]))

    ingest.wait_until(lambda: len(times()) == count, 60, "the log has all cancels")
    return times(), count / seconds


def leave(server, rounds):
    for in_flight in IN_FLIGHT:
        found = [leave_once(server, in_flight) for _ in range(rounds if in_flight > 1 else 10 * rounds)]
        p50s, p99s = ([times[at(len(times))] for times, _ in found] for at in (lambda n: n // 2, lambda n: n - 1 - n // 100))
        print(f"{in_flight} leave: cancel p50 {spread(p50s, ',.0f')} us, p99 {spread(p99s, ',.0f')} us; "
              f"{spread([rate for _, rate in found], ',.0f')} a second", flush=True)


def main(seconds=2.0, rounds=3):
    most = max(IN_FLIGHT)
    with gateway.broker(), gateway.work_queue() as queue, gateway.Worker("c", queue, NOWHERE, most):
        gateway.await_consumers(queue, 1)
        keys = {"routing_key": queue, "concurrency": most, "waiting_room": 100, "delivery_mode": "transient", "timeout": "10m"}
        with gateway.Gateway({"required": keys, "none": {**keys, "grant": "none"}}) as server, gateway_in_node(queue) as node:
            broker = gateway.broker().port
            systems = {
                "rabbitmq-c, none": System("amqp", broker, queue),
                "rabbitmq-c, required": System("amqp-granted", broker, queue),
                "ew-gateway, none": System("http", server.port, "none", server.process.pid),
                "ew-gateway, required": System("http", server.port, "required", server.process.pid),
            }
            if node:
                systems["Node, none"] = System("http", node[0], "any", node[1])
            else:
                print("Node or its amqplib is not installed, and so left out")
            compare(systems, seconds, rounds)
            leave(server, rounds)


if __name__ == "__main__":
    try:
        main(*(kind(text) for kind, text in zip((float, int), sys.argv[1:])))
    except ingest.Skip as missing:
        raise SystemExit(f"bench/gateway: {missing}") from None
