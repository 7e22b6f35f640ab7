#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
// A worker that renders: worker.mjs amqp://guest:guest@127.0.0.1:5672/ QUEUE [AT_ONCE]
//
// {"ms": 500} takes half a second, in steps of 10 ms, or of "step_ms", and is answered with their number. "on_cancel"
// says how it takes a cancel: "stop" (if nothing is said), "finish": it works on for "finish_ms" and has its result
// then, "fail": by an error, or "lose": it does not know what became of its work. With "on_end": "lose" it does not know
// that at its end. With "progress" it tells the number of steps so far, and "part" is a text that it sends with each step
// to a client that takes the reply in parts.

import { setTimeout as sleep } from 'node:timers/promises';
import { Lost, Stopped, serve } from './contract.mjs';

const STEP_MS = 10;

const HOW_IT_ENDS = { stop: Stopped, lose: Lost, fail: Error };

async function render(job) {
  const {
    ms, on_cancel: onCancel = 'stop', on_end: onEnd, finish_ms: finishMs = 0, step_ms: stepMs = STEP_MS, progress = false, part,
  } = JSON.parse(await job.readBody());
  let steps = 0;
  while (steps * Math.max(stepMs, 1) < ms) {
    await sleep(stepMs);
    if (job.signal.aborted) {
      if (onCancel !== 'finish') throw new HOW_IT_ENDS[onCancel]();
      await sleep(finishMs);
      break;
    }
    steps += 1;
    if (progress) job.progress(JSON.stringify({ steps }));
    if (part !== undefined && job.streams) job.part(part);
  }
  if (onEnd === 'lose') throw new Lost();
  return { body: JSON.stringify({ steps }) };
}

const [, , address, queue, atOnce = '1'] = process.argv;
await serve(address, queue, render, Number(atOnce));
process.exit();
