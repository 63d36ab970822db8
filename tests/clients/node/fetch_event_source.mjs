// @microsoft/fetch-event-source: `POST /v1/streams`, every event with its number.

import assert from "node:assert/strict";

// What it looks for in a browser.
globalThis.window = globalThis;
globalThis.document = { hidden: false, addEventListener() {}, removeEventListener() {} };
const { fetchEventSource } = await import("@microsoft/fetch-event-source");

import { main, PROMPT } from "./driver.mjs";
import { refused, take } from "./native.mjs";

class Refused extends Error {}

async function streams(job, seen) {
  const controller = new AbortController();
  let number = 0;
  let ended = false;
  const asked = fetchEventSource(`${job.url}/v1/streams`, {
    method: "POST",
    headers: { "Content-Type": "application/json", Authorization: `Bearer ${job.key}` },
    body: JSON.stringify({ model: job.model, prompt: PROMPT }),
    signal: controller.signal,
    async onopen(response) {
      if (response.ok) return;
      await refused(response, seen);
      throw new Refused();
    },
    onmessage({ data, event, id }) {
      assert.ok(!ended, `after the end: ${data}`);
      ended = data === "[DONE]";
      if (ended) return;
      number += 1;
      assert.equal(id, String(number));
      const said = JSON.parse(data);
      assert.equal(event, said.type === "error" ? "error" : "");
      if (take(said, seen)) controller.abort();
    },
    onerror(exc) {
      throw exc; // without this it asks again for ever
    },
  });
  await asked.catch((exc) => {
    if (!(exc instanceof Refused)) throw exc;
  });
  assert.ok(ended || seen.left || seen.error);
}

await main({ streams });
