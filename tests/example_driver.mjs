// Runs examples/browser_fetch.js in Node.js for test_examples.py: a job a line comes in, what becomes of it goes out.
//
//     {job, ask: {url, body, options, leaveAfter}}   -> {job, event} ..., then {job, error: null | {...}}
//     {job, stop: true}                                 aborts its signal
//     {job, parse: [[base64, ...], ...]}             -> {job, parsed: {messages, lastId, retryMs}}: chunks of connections

import { createInterface } from "node:readline";

import { SSEParser, StreamError, stream } from "../examples/browser_fetch.js";

const stops = new Map();
const tell = (told) => process.stdout.write(JSON.stringify(told) + "\n");

async function ask(job, { url, body, options, leaveAfter }) {
  const stop = new AbortController();
  stops.set(job, stop);
  let events = 0;
  let losses = 0;
  try {
    const lost = () => (losses += 1);
    for await (const event of stream(url, body, { ...options, lost, signal: stop.signal })) {
      tell({ job, event });
      events += 1;
      if (events === leaveAfter) break;
    }
    tell({ job, error: null, losses });
  } catch (error) {
    const typed = error instanceof StreamError;
    const { name, message, code, status, refused, retryable, retryAfterMs } = error;
    tell({ job, losses, error: { typed, name, message, code, status, refused, retryable, retryAfterMs } });
  }
}

function parse(job, connections) {
  const parser = new SSEParser();
  const messages = [];
  for (const chunks of connections) {
    parser.connected();
    for (const chunk of chunks) messages.push(...parser.feed(Buffer.from(chunk, "base64")));
  }
  tell({ job, parsed: { messages, lastId: parser.lastId, retryMs: parser.retryMs } });
}

for await (const line of createInterface({ input: process.stdin })) {
  const { job, ...asked } = JSON.parse(line);
  if (asked.ask) ask(job, asked.ask);
  else if (asked.stop) stops.get(job).abort();
  else parse(job, asked.parse);
}
