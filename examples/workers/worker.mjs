#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
// A worker that renders: worker.mjs amqp://guest:guest@127.0.0.1:5672/ QUEUE [AT_ONCE]
//
// {"ms": 500} takes half a second, in steps of 10 ms, and is answered with their number. "on_cancel" says how it takes a
// cancel: "stop" (if nothing is said), "finish", or "lose": it does not know what became of its work.

import { setTimeout as sleep } from 'node:timers/promises';
import { Lost, Stopped, serve } from './contract.mjs';

const STEP_MS = 10;

async function render(job) {
  const { ms, on_cancel: onCancel = 'stop', progress = false } = JSON.parse(job.body);
  let steps = 0;
  console.log(`begin ${job.id}`);
  try {
    while (steps * STEP_MS < ms) {
      await sleep(STEP_MS);
      if (job.signal.aborted && onCancel !== 'finish') throw onCancel === 'lose' ? new Lost() : new Stopped();
      steps += 1;
      if (progress) job.progress(JSON.stringify({ steps }));
    }
  } finally {
    console.log(`end ${job.id}`);
  }
  return { body: JSON.stringify({ steps }) };
}

const [, , address, queue, atOnce = '1'] = process.argv;
await serve(address, queue, render, Number(atOnce));
