// What the drivers of the Node.js clients share: jobs in, what the client made of each out. See ../python/driver.py,
// which says what a job and a result are.

import assert from "node:assert/strict";
import readline from "node:readline";

export const PROMPT = "What will the weather be?";
export const MAX_TOKENS = 4000;
export const TIMEOUT_MS = 60_000;

export class Seen {
  constructor(job) {
    this.job = job.id;
    this.text = "";
    this.reasoning = "";
    this.calls = [];
    this.usage = null;
    this.finish = null;
    this.pieces = 0;
    this.left = false;
    this.error = null;
    this.leaveAfter = job.leave_after;
  }

  // A piece of text came. Whether it is time to leave.
  says(text) {
    if (text) {
      this.text += text;
      this.pieces += 1;
    }
    this.left = this.leaveAfter !== null && this.pieces >= this.leaveAfter;
    return this.left;
  }

  // `args` is an object, or its JSON text.
  called(id, name, args) {
    this.calls.push([id, name, typeof args === "string" ? JSON.parse(args) : args]);
  }

  counted(usage, [input, output]) {
    if (usage) this.usage = [usage[input], usage[output]];
  }

  told(kind, message, more = {}) {
    this.error = { class: kind, message, ...more };
  }

  // The text of the pieces so far, for a client that also gives the whole of it: they must be the same.
  whole(text) {
    assert.equal(text, this.text);
  }
}

export function errorOf(exc) {
  const headers = exc.headers ?? exc.responseHeaders;
  return {
    class: exc.constructor === Error ? exc.name : exc.constructor.name,
    message: exc.message,
    status: exc.status ?? exc.statusCode ?? null,
    code: exc.code ?? exc.type ?? null,
    retry_after: headers?.get?.("retry-after") ?? headers?.["retry-after"] ?? null,
  };
}

export async function main(ways) {
  const lines = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();
  const jobs = JSON.parse((await lines.next()).value);
  await Promise.all(
    jobs.map(async (job) => {
      const seen = new Seen(job);
      try {
        await ways[job.way](job, seen);
      } catch (exc) {
        seen.error = errorOf(exc);
      }
      process.stdout.write(JSON.stringify(seen) + "\n");
    }),
  );
  while (!(await lines.next()).done);
  process.exit();
}
