#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A worker that renders: worker.py amqp://guest:guest@127.0.0.1:5672/ QUEUE [AT_ONCE]

{"ms": 500} takes half a second, in steps of 10 ms, or of "step_ms", and is answered with their number. "on_cancel" says
how it takes a cancel: "stop" (if nothing is said), "finish": it works on for "finish_ms" and has its result then,
"fail": by an error, or "lose": it does not know what became of its work. With "on_end": "lose" it does not know that
at its end. With "progress" it tells the number of steps so far, and "part" is a text that it sends with each step to a
client that takes the reply in parts.
"""

import json
import sys
import time

import contract

STEP_MS = 10
HOW_IT_ENDS = {"lose": contract.Lost, "fail": RuntimeError}


def render(job):
    wish = json.loads(job.read_body())
    on_cancel = wish.get("on_cancel", "stop")
    step_ms = max(wish.get("step_ms", STEP_MS), 1)
    steps = 0
    while steps * step_ms < wish["ms"]:
        if job.cancelled.wait(step_ms / 1000):
            if on_cancel != "finish":
                raise HOW_IT_ENDS.get(on_cancel, contract.Stopped)
            time.sleep(wish.get("finish_ms", 0) / 1000)
            break
        steps += 1
        if wish.get("progress"):
            job.progress(json.dumps({"steps": steps}).encode())
        if "part" in wish and job.streams:
            job.part(wish["part"].encode())
    if wish.get("on_end") == "lose":
        raise contract.Lost
    return contract.Result(json.dumps({"steps": steps}).encode())


if __name__ == "__main__":
    contract.serve(sys.argv[1], sys.argv[2], render, int(sys.argv[3]) if len(sys.argv) > 3 else 1)
