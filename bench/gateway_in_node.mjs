// SPDX-License-Identifier: Apache-2.0
// What one writes in an hour: HTTP in, AMQP out, the reply back. No limit, no deadline, no confirms, and nobody is told when a
// client has left. gateway_in_node.mjs AMQP-URL QUEUE; prints its port.

import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { randomUUID } from 'node:crypto';

const amqp = createRequire(new URL('../examples/workers/worker.mjs', import.meta.url))('amqplib');
const [, , address, queue] = process.argv;
const REPLY_TO = 'amq.rabbitmq.reply-to';

const connection = await amqp.connect(address);
const channel = await connection.createChannel();
const waiting = new Map();

await channel.consume(REPLY_TO, ({ properties, content }) => {
  const response = waiting.get(properties.correlationId);
  if (!response || properties.type !== 'reply') return;
  waiting.delete(properties.correlationId);
  response.statusCode = Number(properties.headers['x-ew-status'] ?? 200);
  response.setHeader('Content-Type', properties.contentType ?? 'application/octet-stream');
  response.end(content);
}, { noAck: true });

const server = createServer((request, response) => {
  const pieces = [];
  request.on('data', (piece) => pieces.push(piece));
  request.on('end', () => {
    const id = randomUUID().replaceAll('-', '');
    waiting.set(id, response);
    response.on('close', () => waiting.delete(id));
    channel.sendToQueue(queue, Buffer.concat(pieces), {
      type: 'op', correlationId: id, messageId: id, replyTo: REPLY_TO, persistent: false,
      contentType: request.headers['content-type'], headers: { 'x-ew-version': 1, 'x-ew-grant': 'none' },
    });
  });
});

server.listen(0, '127.0.0.1', 4096, () => console.log(server.address().port));
