// SPDX-License-Identifier: Apache-2.0
// The worker's side of docs/cancel-contract.md, on amqplib: serve(address, queue, work, atOnce).
//
// work(job) is awaited; job.signal is an AbortSignal. It gives {body, contentType, status}, or throws Stopped if it has stopped
// without a result, or Lost if it cannot tell whether all that it has started is over.

import { createHash, randomUUID } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import amqp from 'amqplib';

const HEARTBEAT_S = 10;
const CLAIM_WAIT_MS = 10000;
const CLAIM_WAIT_MAX_MS = 24 * 3600 * 1000;
const CONNECT_MS = 10000;
const GOODBYE_MS = 5000;
const RECONNECT_MS = 1000;
const SAY_AGAIN_MS = 50;

export class Stopped extends Error {}
export class Lost extends Error {}

// One delivery: claimed, then running, then gone.
class Job {
  constructor(worker, delivery) {
    Object.assign(this, { worker, delivery, properties: delivery.properties, body: delivery.content });
    this.headers = this.properties.headers ?? {};
    this.id = this.properties.messageId;
    this.claim = randomUUID();
    this.abort = new AbortController();
    this.signal = this.abort.signal;
    this.isRefused = false;
    this.sequence = 0; // of the newest part or progress
    this.streams = this.number('x-ew-stream', 0) === 1; // the client takes the reply in parts
    this.running = null; // a promise of the work, or of nothing if it will not run
  }

  // All of the body, also if the message has only its address; an error: what is there is another one.
  async readBody() {
    const path = this.headers['x-ew-body-file'];
    if (path === undefined) return this.body;
    const body = await readFile(path);
    if (body.length !== this.number('x-ew-body-bytes', -1)) {
      throw new Error(`${path} has another length than x-ew-body-bytes says`);
    }
    if (createHash('sha256').update(body).digest('hex') !== this.headers['x-ew-body-sha256']) {
      throw new Error(`${path} has another digest than x-ew-body-sha256 says`);
    }
    return body;
  }

  // Tells a client that takes events how far the job is; it hears of the newest only.
  progress(body) {
    this.sayNumbered('progress', body);
  }

  // The next part of the reply, of which the result is the last one; only if this.streams.
  part(body) {
    if (!this.streams) throw new Error('the client does not take the reply in parts: it belongs into the result');
    this.sayNumbered('part', body);
  }

  sayNumbered(type, body) {
    this.sequence += 1;
    this.worker.say(this, type, { body, headers: { 'x-ew-sequence': this.sequence } });
  }

  // An integer, a boolean, or its text; what is none is not there.
  number(header, otherwise) {
    const value = this.headers[header];
    if (typeof value === 'boolean') return Number(value);
    return /^-?\d+$/.test(value) ? Number(value) : otherwise;
  }

  claimWait() {
    return Math.min(Math.max(this.number('x-ew-claim-wait-ms', CLAIM_WAIT_MS), 0), CLAIM_WAIT_MAX_MS);
  }

  isPastDeadline() {
    return Date.now() > this.number('x-deadline', Infinity);
  }
}

// A connection's worth: it is made anew for the next one.
class Worker {
  jobs = new Map();
  isEnding = false;

  constructor(work) {
    this.work = work;
  }

  async connect(address) {
    const parameters = new URL(address);
    parameters.searchParams.set('heartbeat', HEARTBEAT_S);
    this.connection = await amqp.connect(parameters.href, { timeout: CONNECT_MS });
    this.closed = new Promise((resolve) => {
      this.lost = resolve;
      this.connection.on('close', resolve);
    });
    this.connection.on('error', (error) => console.log(`connection lost: ${error.message}`));
  }

  // Until the connection is lost.
  async consume(queue, atOnce) {
    this.channel = await this.connection.createConfirmChannel();
    this.channel.on('close', this.lost);
    this.channel.on('error', (error) => console.log(`channel lost: ${error.message}`));
    await this.channel.prefetch(atOnce);
    this.control = (await this.channel.assertQueue('', { exclusive: true })).queue;
    // Nothing, said once, is the broker's word that a queue has gone: nothing more would come, or no cancel be heard.
    await this.channel.consume(this.control, (message) => (message ? this.hear(message) : this.lost()), { noAck: true });
    await this.channel.consume(queue, (delivery) => (delivery ? this.take(delivery) : this.lost()));
    await this.closed;
  }

  // True, later, if the broker has it, false if it has refused it or is not there any more.
  say(job, type, { body = '', contentType, headers, replyTo } = {}) {
    const { correlationId, replyTo: to } = job.properties;
    let tell;
    const said = new Promise((resolve) => { tell = resolve; });
    this.channel.publish('', to, Buffer.from(body), {
      type, correlationId, messageId: job.id, contentType, replyTo, persistent: true,
      headers: { 'x-ew-claim': job.claim, ...headers },
    }, (refused) => tell(!refused));
    return said;
  }

  // It is over: acknowledged, when the broker has its last word, if it has one.
  async finish(job, type, what) {
    try {
      while (type && this.jobs.has(job.claim) && !await this.say(job, type, what)) await sleep(SAY_AGAIN_MS);
      if (this.jobs.delete(job.claim)) this.channel.ack(job.delivery);
    } catch {
      this.lost(); // the channel has closed, and its event is still to come
    }
  }

  // What comes while it ends is another worker's, when the connection is closed.
  take(delivery) {
    if (this.isEnding) return;
    const job = new Job(this, delivery);
    const { type, replyTo, correlationId } = job.properties;
    if (type !== 'op' || !replyTo || !correlationId || !job.id || ![1, 2].includes(job.number('x-ew-version', 0))) {
      this.channel.nack(delivery, false, false);
      return;
    }
    this.jobs.set(job.claim, job);
    this.say(job, 'claim', { replyTo: this.control, headers: { 'x-ew-redelivered': delivery.fields.redelivered } });
    if (job.headers['x-ew-grant'] === 'none') this.run(job);
    else job.timer = setTimeout(() => this.giveBack(job), job.claimWait());
  }

  // Nobody has answered the claim. One that comes again and again would keep those behind it from their turn.
  giveBack(job) {
    if (job.delivery.fields.redelivered || job.isPastDeadline()) {
      this.finish(job);
    } else {
      this.jobs.delete(job.claim);
      this.channel.nack(job.delivery, false, true);
    }
  }

  async run(job) {
    job.running = this.attempt(job);
    const { result, answer } = await job.running;
    await this.end(job, result, answer);
  }

  async attempt(job) {
    let answer = 'too-late';
    let result;
    console.log(`begin ${job.id}`);
    try {
      result = await this.work(job);
    } catch (error) {
      const known = error instanceof Stopped || error instanceof Lost;
      if (known) answer = error instanceof Stopped ? 'stopped' : 'unknown';
      result = { body: known ? '' : error.message, contentType: 'text/plain', status: known ? 503 : 500 };
    }
    console.log(`end ${job.id}`);
    return { result, answer };
  }

  end(job, { body, contentType = 'application/json', status = 200 }, answer) {
    const type = job.signal.aborted || answer === 'unknown' ? answer : 'reply';
    const hasResult = type === 'reply' || type === 'too-late';
    const what = hasResult ? { body, contentType, headers: { 'x-ew-status': status } } : {};
    return this.finish(job, job.isRefused ? null : type, what);
  }

  // grant, refuse or cancel
  hear({ properties }) {
    const job = this.jobs.get(properties.headers?.['x-ew-claim']);
    if (!job) return;
    if (job.running) {
      job.isRefused ||= properties.type === 'refuse';
      if (['cancel', 'refuse'].includes(properties.type)) job.abort.abort();
    } else if (['grant', 'refuse', 'cancel'].includes(properties.type)) {
      clearTimeout(job.timer);
      if (properties.type === 'grant') {
        this.run(job);
      } else {
        job.running = Promise.resolve();
        this.finish(job, properties.type === 'cancel' ? 'not-started' : null);
      }
    }
  }

  // Nothing runs any more when this is over; only then may the next connection be made. A broker that takes nothing, during an
  // alarm, does not answer to the goodbye, and it is not waited for.
  async stop() {
    this.isEnding = true;
    const jobs = [...this.jobs.values()];
    this.jobs.clear();
    jobs.forEach((job) => clearTimeout(job.timer));
    jobs.forEach((job) => job.abort.abort());
    await Promise.allSettled(jobs.map((job) => job.running));
    await Promise.race([this.connection?.close().catch(() => {}), sleep(GOODBYE_MS)]);
  }
}

// Until SIGTERM or SIGINT, which stop what runs: it comes to another worker. So does a lost connection, which is followed by
// another one. Says on standard output which jobs begin and end, and when a connection is lost. The process is to be ended
// then by process.exit(): a socket may be left.
export async function serve(address, queue, work, atOnce = 1) {
  const signal = new Promise((resolve) => {
    for (const name of ['SIGTERM', 'SIGINT']) process.on(name, () => resolve('signal'));
  });
  let why;
  while (why !== 'signal') {
    const worker = new Worker(work);
    const serving = worker.connect(address).then(() => worker.consume(queue, atOnce));
    try {
      why = await Promise.race([serving, signal]);
    } catch (error) {
      console.log(`connection lost: ${error.message}`);
    } finally {
      await worker.stop();
    }
    if (why !== 'signal') why = await Promise.race([signal, sleep(RECONNECT_MS)]);
  }
}
